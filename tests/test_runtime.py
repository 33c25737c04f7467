"""Only our own words reach the user, and whatever is wrong; saves keep to their share of the time."""

import logging
import re
import subprocess
import sys
import warnings

import pytest
import scipy

from pipelines import runtime
from pipelines.runtime import SaveTimer, quiet

OURS = r"(teacher|students|export|control|selected|report|next|exported \S+|teacher confirmed): \S.*"
OURS += r"|\d+ episodes of \S+ in \w+|The depth-4 teacher .*\."  # the report's verdict


def test_every_line_of_a_run_is_ours(debug_run):
    lines = debug_run.errors.splitlines()
    assert len(lines) > 5
    assert [line for line in lines if not re.fullmatch(OURS, line)] == []


def warn_from(file: str, category: type[Warning]) -> None:
    warnings.warn_explicit("said", category, file, 1)


def log_from(file: str, level: int) -> None:
    log = logging.getLogger("somebody")
    log.handle(log.makeRecord(log.name, level, file, 1, "said", (), None))


@pytest.fixture
def shown(capsys):
    """What is shown within `quiet`; pytest keeps warnings to itself, so they are as Python has them."""

    def find(act, *arguments, everything=False) -> str:
        with warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
            with quiet(everything):
                act(*arguments)
        return capsys.readouterr().err

    return find


@pytest.mark.parametrize(
    ("act", "file", "what", "told"),
    [
        (warn_from, scipy.__file__, UserWarning, ""),
        (warn_from, subprocess.__file__, UserWarning, ""),
        (log_from, scipy.__file__, logging.WARNING, ""),
        (log_from, scipy.__file__, logging.ERROR, "error: said\n"),
        (warn_from, "my_robot.py", FutureWarning, "said\n"),
        (log_from, "my_robot.py", logging.WARNING, "warning: said\n"),
        (warn_from, runtime.__file__, RuntimeWarning, "said\n"),
        (warn_from, runtime.__file__, FutureWarning, ""),  # what we use that is outdated
        (log_from, runtime.__file__, logging.WARNING, "warning: said\n"),
    ],
)
def test_a_librarys_warnings_are_hidden_and_errors_and_anybody_elses_are_shown(shown, act, file, what, told):
    before = warnings.showwarning, list(logging.root.handlers)
    assert shown(act, file, what) == told
    assert shown(warn_from, scipy.__file__, UserWarning, everything=True) == "said\n"
    assert (warnings.showwarning, logging.root.handlers) == before


def test_a_librarys_error_is_shown_with_its_cause_and_without_a_traceback(shown):
    def fail() -> None:
        try:
            raise RuntimeError("no driver")
        except RuntimeError:
            logging.getLogger("somebody").exception("said")

    assert shown(fail) == "error: said: no driver\n"
    assert "error: said" not in shown(fail, everything=True)  # left to what was set up outside


class Stopped:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Stopped:
    clock = Stopped()
    monkeypatch.setattr(runtime, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("interval", "cost", "wait"),
    [(60.0, 0.5, 60.0), (60.0, 3.0, 150.0), (0.0, 5.0, 0.0)],  # as asked for; as the share demands; always
)
def test_the_wait_is_the_interval_or_what_the_share_demands(clock, interval, cost, wait):
    timer = SaveTimer(interval)
    for seconds in (interval, wait):
        if seconds:
            clock.now += seconds - 1
            assert not timer.due()
            clock.now += 1
        assert timer.due()
        with timer.saving():
            clock.now += cost
