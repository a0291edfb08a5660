"""The command `hiercnn compare` as a script: python tools/compare.py RECIPE… [--seeds N] [--out DIR]."""

import sys

from hiercnn.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "compare")
    main()
