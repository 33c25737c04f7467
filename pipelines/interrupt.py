"""Ctrl-C and SIGTERM, taken where nothing is lost: after the iteration that is running."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from teacher.errors import FathomError

# A save may cost this share of the time, whatever interval is asked for.
SAVING_SHARE = 0.02


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


class SaveTimer:
    """When to save: every `interval_s`, or less often where saving takes long."""

    def __init__(self, interval_s: float):
        self._interval_s = interval_s
        self._next = time.monotonic() + interval_s

    def due(self) -> bool:
        return time.monotonic() >= self._next

    @contextmanager
    def saving(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        cost = time.monotonic() - begun
        wait = self._interval_s and max(self._interval_s, cost / SAVING_SHARE)
        self._next = time.monotonic() + wait
