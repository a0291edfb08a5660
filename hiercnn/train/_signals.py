"""Ctrl-C and SIGTERM as a wish that the loop grants at its next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """`signal` is None until somebody asks to stop, then the number of the signal."""

    signal: int | None = None


@contextmanager
def stop_on_signals(patient: bool = False) -> Iterator[StopRequest]:
    """Catch the first SIGINT or SIGTERM; a second one acts as usual. Does nothing outside the main thread.

    Args:
        patient: Later ones are caught too: torchrun passes on what its processes have got already.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: object) -> None:
        request.signal = number
        if not patient:
            signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
