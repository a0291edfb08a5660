"""The command line: thin commands over the library. Our errors are one message and exit code 2."""

import os
import sys


def main() -> None:
    """Entry point of `hiercnn`.

    Exit codes: 0 done, 2 an error of the caller's, 130 Ctrl-C, 143 SIGTERM; `--debug` (anywhere) shows tracebacks.
    """
    number = os.environ.get("RANK", "0")  # of torchrun
    try:
        from hiercnn.cli._app import app
        from hiercnn.errors import HierCNNError, Interrupted
    except KeyboardInterrupt:
        if number == "0":
            print("hiercnn: stopped before it began", file=sys.stderr)
        sys.exit(130)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments)
    except HierCNNError as error:
        if debug:
            raise
        if number == "0" or not isinstance(error, Interrupted):
            print(f"hiercnn{'' if number == '0' else f' (process {number})'}: {error}", file=sys.stderr)
        sys.exit(128 + error.signal if isinstance(error, Interrupted) else 2)
