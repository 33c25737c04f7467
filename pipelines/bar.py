"""How far a stage is, how fast, and its latest figures: as a line of text, or as what a panel shows."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.panel import View, memory, sparkline

RECENT = 20  # updates over which the rate is taken
ON_A_LINE = 2  # metrics of each group

Groups = Mapping[str, Sequence[str]]
"""Metrics to show, by what they are of: `{"critic": ["critic_loss", ...]}`."""


class Bar:
    """Progress of one stage, in pieces (iterations, rounds, students) of so many units (steps, labels)."""

    def __init__(self, stage: str, total: int, done: int, piece: str, each: int, unit: str, groups: Groups):
        self.note = ""
        """what is being done, shown until the next update"""
        self._stage, self._total, self._done, self._first = stage, total, done, done
        self._piece, self._each, self._unit, self._groups = piece, each, unit, groups
        self._begun = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)
        self._metrics: Mapping[str, float] = {}
        self._score: dict[str, Any] = {}
        self._trend: list[float] = []

    def update(self, done: int, metrics: Mapping[str, float], score: dict[str, Any] | None = None) -> None:
        """`metrics` may be any; those of the groups are shown. `score` is shown until the next one."""
        self._done, self._metrics, self.note = done, metrics, ""
        self._recent.append((time.monotonic(), done))
        if score:
            self.scored(score)

    def scored(self, score: dict[str, Any]) -> None:
        """A score alone, as of before the stage was taken up again."""
        self._score = score
        self._trend.append(score["time_at_goal"])

    @property
    def finished(self) -> bool:
        return self._done >= self._total

    @property
    def advanced(self) -> bool:
        return self._done > self._first

    @property
    def line(self) -> str:
        """`teacher: 640 of 1,280 steps, 33 s left, 19 steps/s  success ...  critic loss ...`."""
        if self.finished:
            steps = (self._total - self._first) * self._each
            text = f"{self._stage}: {steps:,} {self._unit} in {describe_duration(self._elapsed)}"
        else:
            text = f"{self._stage}: {self._so_far(self._each)} {self._unit}, {self._time_left}"
        parts = [f"{text}, {_number(self._recent_rate or self._mean_rate)} {self._unit}/s"]
        if score := self._score:
            parts.append(f"success {_interval(score, 'success_final')}  at goal {score['time_at_goal']:.3f}")
        for group, values in self._shown.items():
            parts += [f"{group} {label} {value:.3g}" for label, value in [*values.items()][:ON_A_LINE]]
        return "  ".join(parts)

    @property
    def view(self) -> View:
        title = f"{self._stage}: {self.note}" if self.note else self._stage
        rows = [(self._piece, [self._so_far(1)])]
        if self._unit != self._piece:
            rows.append((self._unit, [self._so_far(self._each)]))
        if rate := self._recent_rate:
            average = f"{_number(self._mean_rate)} on average"
            rows.append(("rate", [f"{_number(rate)} {self._unit}/s", average]))
        if score := self._score:
            rows.append(("success", [_interval(score, "success_final")]))
            rows.append(("at goal", [_interval(score, "time_at_goal"), sparkline(self._trend)]))
        for group, values in self._shown.items():
            rows.append((group, [f"{label} {value:.3g}" for label, value in values.items()]))
        rows.append(("memory", memory()))
        spent = f"{describe_duration(self._elapsed)}, {self._time_left}"
        return View(title, self._done / max(self._total, 1), spent, rows)

    def _so_far(self, each: int) -> str:
        return f"{self._done * each:,} of {self._total * each:,}"

    @property
    def _shown(self) -> dict[str, dict[str, float]]:
        """The groups' metrics that there are, by label."""
        metrics = self._metrics
        found = {
            group.replace("_", " "): {_label(group, key): metrics[key] for key in keys if key in metrics}
            for group, keys in self._groups.items()
        }
        return {group: values for group, values in found.items() if values}

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    @property
    def _recent_rate(self) -> float | None:
        """Units per second of late; the first update mostly waited for compilation, and is left out."""
        if len(self._recent) < 2:
            return None
        (begun, first), (now, done) = self._recent[0], self._recent[-1]
        return (done - first) * self._each / max(now - begun, 1e-9)

    @property
    def _mean_rate(self) -> float:
        return (self._done - self._first) * self._each / max(self._elapsed, 1e-9)

    @property
    def _time_left(self) -> str:
        rate = self._recent_rate
        if not rate:
            return "time left unknown"
        waited = time.monotonic() - self._recent[-1][0]
        left = (self._total - self._done) * self._each / rate - waited
        return f"{describe_duration(max(left, 0.0))} left"


def describe_duration(seconds: float) -> str:
    """`90 s`, `12 min`, `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _label(group: str, key: str) -> str:
    """What is left of a metric's name within its group."""
    for joint in "_/":
        key = key.removeprefix(f"{group}{joint}").removesuffix(f"{joint}{group}")
    return key.replace("_", " ")


def _interval(score: dict[str, Any], key: str) -> str:
    """`0.980 (0.960 to 0.990)`."""
    low, high = score[f"{key}_interval"]
    return f"{score[key]:.3f} ({low:.3f} to {high:.3f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
