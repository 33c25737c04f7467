"""Ctrl-C and SIGTERM, taken where nothing is lost: after the iteration that is running."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from teacher.errors import FathomError


class Interrupted(FathomError):
    """The user asked to stop; everything is saved."""

    exit_code = 130


class Interruption:
    requested = False


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Within, the first Ctrl-C or SIGTERM only sets `requested`; a second one acts at once."""
    interruption = Interruption()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def request(number: int, _: FrameType | None) -> None:
        interruption.requested = True
        signal.signal(number, before[signal.Signals(number)])

    for number in signals:
        signal.signal(number, request)
    try:
        yield interruption
    finally:
        for number in signals:
            signal.signal(number, before[number])
