"""The command line: thin commands over the library. Our errors are one message and exit code 2."""

import sys


def main() -> None:
    """Entry point of `hiercnn`.

    Exit codes: 0 done, 2 an error of the caller's, 130 Ctrl-C, 143 SIGTERM; `--debug` (anywhere) shows tracebacks.
    """
    from hiercnn.cli._app import app
    from hiercnn.errors import HierCNNError, Interrupted

    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments)
    except HierCNNError as error:
        if debug:
            raise
        print(f"hiercnn: {error}", file=sys.stderr)
        sys.exit(128 + error.signal if isinstance(error, Interrupted) else 2)
