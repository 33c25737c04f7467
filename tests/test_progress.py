"""What a user sees while a stage runs fits the terminal, and leaves it as it was."""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.progress import LEVELS, Bar, Display, View, panel, sparkline

SCORE = {
    "success_final": 0.98,
    "success_final_interval": [0.96, 0.99],
    "time_at_goal": 0.91,
    "time_at_goal_interval": [0.9, 0.92],
}
GROUPS = {"critic": ("critic_loss", "critic_accuracy"), "gradient_norm": ("actor_gradient_norm",)}
METRICS = {"critic_loss": 3.2123, "critic_accuracy": 0.45, "actor_gradient_norm": 0.2, "entropy": 1.0}


@pytest.fixture
def bar(monkeypatch) -> Bar:
    """After 4 of 10 iterations of 1000 steps: 50 s for the first, which compiled, and 10 s for each other."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    bar = Bar("teacher", 10, 0, "iterations", 1000, "steps", GROUPS)
    for done, now in enumerate((50.0, 60.0, 70.0, 80.0), 1):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        bar.update(done, METRICS, SCORE if done == 2 else None)
    return bar


def drawn(view: View, width: int, height: int = 30) -> list[str]:
    console = Console(width=width, height=height, color_system=None, file=io.StringIO())
    lines = console.render_lines(panel(view, width, height), pad=False)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def test_the_panel_says_how_far_how_fast_and_how_well(bar):
    text = "\n".join(drawn(bar.view, 80))
    for words in (
        r"iterations +4 of 10",
        r"steps +4,000 of 10,000",
        r"rate +100 steps/s  50 on average",  # 3000 steps in 30 s; 4000 in 80 s
        r"40 %  80 s, 60 s left",
        r"success +0\.980 \(0\.960 to 0\.990\)",
        r"at goal +0\.910 \(0\.900 to 0\.920\)  ▇",
        r"critic +loss 3\.21  accuracy 0\.45",
        r"gradient norm +actor 0\.2",
        r"memory +\d+\.\d GB at most",
    ):
        assert re.search(words, text), words
    assert "entropy" not in text


def test_time_left_is_counted_down_between_updates(bar, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 95.0)
    assert bar.view.time == "95 s, 45 s left"
    monkeypatch.setattr(time, "monotonic", lambda: 500.0)
    assert bar.view.time.endswith(" 0 s left")


def test_before_there_is_anything_to_say_nothing_is_invented():
    assert Bar("control", 0, 0, "students", 1, "students", {}).view.share == 0
    view = Bar("teacher", 10, 0, "iterations", 1000, "steps", GROUPS).view
    assert view.time.endswith("time left unknown")
    assert [label for label, _ in view.rows] == ["iterations", "steps", "memory"]


@pytest.mark.parametrize("width", [1, 8, 20, 39, 40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("height", [1, 5, 12, 13, 30])
def test_at_any_size_lines_and_columns_fit(bar, width, height):
    bar.note = "2x64-relu under harder conditions than these"
    lines = drawn(bar.view, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)


def test_no_number_is_cut_in_two():
    values = [f"size{number} 0.123" for number in range(9)]
    for width in range(40, 110):
        (row,) = (
            line for line in drawn(View("stage", 0.5, "1 s", [("errors", values)]), width) if "errors" in line
        )
        shown = row.strip("│ ").removeprefix("errors").removesuffix("…").split("  ")
        assert {value.strip() for value in shown} <= {"", *values}


def test_a_sparkline_is_of_the_last_scores_from_nought_to_one():
    assert sparkline([0, 0.5, 1]) == LEVELS[0] + LEVELS[4] + LEVELS[7]
    assert sparkline([0.0] * 100 + [2.0]).endswith(LEVELS[0] + LEVELS[7])
    assert len(sparkline([0.0] * 100)) < 40


def test_lines_are_printed_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as many CI services do
    monkeypatch.setenv("NO_COLOR", "1")
    with Display().bar("teacher", 4, piece="iterations", each=1000, unit="steps", groups=GROUPS) as bar:
        bar.update(1, METRICS)
        bar.update(2, METRICS)  # soon after the first: no line
        bar.update(3, METRICS, SCORE)
        bar.update(4, METRICS)
    first, scored, last = capsys.readouterr().err.splitlines()
    assert first.startswith("teacher: 1,000 of 4,000 steps, time left unknown")
    assert "success 0.980 (0.960 to 0.990)  at goal 0.910  critic loss 3.21  critic accuracy 0.45" in scored
    assert last.startswith("teacher: 4,000 steps in 0 s")


STAGE = """
import sys, time
from pipelines.runtime import Interrupted, deferred_interrupt
from pipelines.progress import Display
display = Display()
with deferred_interrupt() as interruption, display.bar("teacher", 1000, piece="iterations") as bar:
    for done in range(1, 1000):
        time.sleep(0.02)
        bar.update(done, {})
        if done == 20:
            display.say("ready")
        if interruption.requested:
            sys.exit("stopped and saved")
"""


def in_terminal(columns: int, *steps, **environment: str) -> str:
    """What the stage writes to a terminal of that many columns.

    Args: steps: pairs of functions; each one's `act(process, terminal)` happens when `due(written)` is true
      of what was written so far, one step after the other."""
    here, there = pty.openpty()
    settings = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[1])}
    resize(there, columns)
    settings = {key: value for key, value in settings.items() if key not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", STAGE], stdin=there, stdout=there, stderr=there, env=settings | environment
    ) as process:
        os.close(there)
        written, left = b"", [*steps]
        while True:
            try:
                piece = os.read(here, 65536)
            except OSError:  # what Linux says when the other end is closed
                break
            if not piece:
                break
            written += piece
            if left and left[0][0](written.decode(errors="ignore")):
                left.pop(0)[1](process, here)
    os.close(here)
    return written.decode()


def resize(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def ready(written: str) -> bool:
    return "ready" in written


def interrupt(process: subprocess.Popen, _) -> None:
    process.send_signal(signal.SIGINT)


def test_ctrl_c_leaves_the_terminal_clean():
    written = in_terminal(80, (ready, interrupt))
    assert "╭" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor is back
    end = written.rpartition("\x1b[2K")[2]  # what follows the last line that was erased
    assert re.search(r"teacher: \d+ of 1,000 iterations, .* left, .*\r\nstopped and saved\r\n$", end)
    assert "╭" not in end


def test_a_terminal_may_become_narrow_while_the_stage_runs_and_have_no_colours():
    def narrow(written):
        after = written.partition("ready")[2].rpartition("╯")[2]
        return re.search(r"\d+ %  \d+ s, \d+ s left", after)

    written = in_terminal(
        80, (ready, lambda _, terminal: resize(terminal, 30)), (narrow, interrupt), NO_COLOR="1"
    )
    assert "\x1b[3" not in written.replace("\x1b[39m", "")
    assert narrow(written)
    assert "stopped and saved" in written
