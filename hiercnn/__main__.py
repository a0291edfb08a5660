"""`python -m hiercnn` is the same as `hiercnn`."""

from hiercnn.cli import main

main()
