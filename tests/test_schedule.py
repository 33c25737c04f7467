"""Saves come at their interval, and never cost more than their share of the time."""

import pytest

from pipelines import schedule
from pipelines.schedule import SaveTimer


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(schedule, "time", clock)
    return clock


def save(timer: SaveTimer, clock: Clock, cost: float) -> None:
    with timer.saving():
        clock.now += cost


@pytest.mark.parametrize(("cost", "wait"), [(0.5, 60.0), (3.0, 150.0)])
def test_the_wait_is_the_interval_or_what_the_share_demands(clock, cost, wait):
    timer = SaveTimer(60.0)
    clock.now += 59
    assert not timer.due()
    clock.now += 1
    assert timer.due()
    save(timer, clock, cost)
    clock.now += wait - 1
    assert not timer.due()
    clock.now += 1
    assert timer.due()


def test_no_interval_saves_at_every_chance(clock):
    timer = SaveTimer(0.0)
    assert timer.due()
    save(timer, clock, 5.0)
    assert timer.due()
