"""When a stage saves, and how long it has taken."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


class Clock:
    """Seconds that a stage has taken, over all its resumptions."""

    def __init__(self, lines: list[dict[str, Any]]):
        """`lines`: of the stage's metrics before it was taken up again."""
        self.last = self._before = lines[-1]["wall_s"] if lines else 0.0
        """what was read last"""
        self._begun = time.monotonic()

    def read(self) -> float:
        self.last = self._before + time.monotonic() - self._begun
        return self.last
