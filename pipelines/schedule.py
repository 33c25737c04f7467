"""When a stage saves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# A save may cost this share of the time, whatever interval is asked for.
SAVING_SHARE = 0.02


class SaveTimer:
    """Every `interval_s`, or less often where saving takes long; 0 saves at every chance."""

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
        wait = max(self._interval_s, cost / SAVING_SHARE) if self._interval_s else 0.0
        self._next = time.monotonic() + wait
