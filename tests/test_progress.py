"""What a user sees while a stage runs fits the terminal, and leaves it as it was."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.progress import KEPT, LEVELS, Bar, Display, Terminal, sparkline

SCORE = {
    "success_final": 0.98,
    "success_final_interval": [0.96, 0.99],
    "time_at_goal": 0.91,
    "time_at_goal_interval": [0.9, 0.92],
}
GROUPS = {"critic": ("critic_loss", "critic_accuracy"), "gradient_norm": ("actor_gradient_norm",)}
METRICS = {"critic_loss": 3.2123, "critic_accuracy": 0.45, "actor_gradient_norm": 0.2, "entropy": 1.0}


def bar_on(console: Terminal, done: int = 0) -> Bar:
    return Bar(console, "teacher", 10, done, unit="steps", each=1000, groups=GROUPS)


def drawn(width: int, height: int = 30) -> list[str]:
    """After 4 of 10 iterations of 1000 steps: 50 s for the first, which compiled, and 10 s for each other."""
    file = io.StringIO()
    options = {"color_system": None, "force_terminal": True, "get_time": lambda: time.monotonic()}
    console = Terminal(width=width, height=height, file=file, **options)
    begun = bar_on(console).line.replace(KEPT, " ")  # before there is anything to say nothing is invented
    assert begun == "teacher: 0 of 10,000 steps, time left unknown"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: 0.0)
        bar = bar_on(console)
        bar.about = "runs/arm: reacher, preset debug"
        bar.note = "2x64-relu under harder conditions than these"
        for done, now in enumerate((50.0, 60.0, 70.0, 80.0), 1):
            patch.setattr(time, "monotonic", lambda now=now: now)
            bar.show(done, METRICS, SCORE if done == 2 else None)
        bar.note = "compiling"
        lines = console.render_lines(bar.live.get_renderable(), pad=False)
        line = bar.line.replace(KEPT, " ")
        assert "400" not in line and line.startswith("teacher: 4,000 of 10,000 steps, 60 s left")
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def test_the_panel_says_how_far_how_fast_and_how_well():
    text = "\n".join(drawn(90))
    for words in (
        r"teacher: compiling",
        r"steps +4,000 of 10,000  100 steps/s",  # 3000 steps in 30 s
        r"40% .*0:01:00",
        r"success +0\.980 \(0\.960 to 0\.990\)",
        r"at goal +0\.910 \(0\.900 to 0\.920\)  ▇",
        r"critic +loss 3\.21  accuracy 0\.45",
        r"gradient norm +actor 0\.2",
        r"memory +\d+\.\d GB peak",
        r"runs/arm: reacher, preset debug",
    ):
        assert re.search(words, text), words
    assert "entropy" not in text


@pytest.mark.parametrize("width", [8, 39, 200])
def test_at_any_width_lines_fit(width):
    assert all(len(line) <= width for line in drawn(width))


def test_a_sparkline_is_of_the_last_scores_from_nought_to_one():
    assert sparkline([0, 0.5, 1]) == LEVELS[0] + LEVELS[4] + LEVELS[7]
    assert sparkline([0.0] * 100 + [2.0]).endswith(LEVELS[0] + LEVELS[7])
    assert len(sparkline([0.0] * 100)) < 40


def test_lines_are_printed_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as many CI services do
    monkeypatch.setenv("NO_COLOR", "1")
    with Display().bar("teacher", 4, unit="steps", each=1000, groups=GROUPS) as bar:
        bar.show(1, METRICS)
        bar.show(2, METRICS)  # soon after the first: no line
        bar.show(3, METRICS, SCORE)
        bar.show(4, METRICS)
    first, scored, last = capsys.readouterr().err.splitlines()
    assert first.startswith("teacher: 1,000 of 4,000 steps, time left unknown")
    assert (
        "success 0.980 (0.960 to 0.990)  at goal 0.910 (0.900 to 0.920)  critic loss 3.21  accuracy 0.45"
        in scored
    )
    assert last.startswith("teacher: 4,000 steps in 0 s")


STAGE = """
import sys, time
from pipelines.runtime import Interrupted, deferred_interrupt
from pipelines.progress import Display
display = Display()
with deferred_interrupt() as interruption, display.bar("teacher", 1000, unit="iterations") as bar:
    for done in range(1, 1000):
        time.sleep(0.02)
        bar.show(done, {})
        if done == 20:
            display.say("ready")
        if interruption.requested:
            sys.exit("stopped and saved")
"""


def test_ctrl_c_leaves_the_terminal_clean():
    here, there = pty.openpty()
    settings = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", STAGE],
        stdin=there,
        stdout=there,
        stderr=there,
        env=settings | {"COLUMNS": "80", "NO_COLOR": "1"},
    ) as process:
        os.close(there)
        content, stopped = b"", False
        while True:
            try:
                piece = os.read(here, 65536)
            except OSError:  # what Linux says when the other end is closed
                break
            if not piece:
                break
            content += piece
            if b"ready" in content and not stopped:
                process.send_signal(signal.SIGINT)
                stopped = True
    os.close(here)
    written = content.decode()
    assert "╭" in written and "\x1b[3" not in written.replace("\x1b[39m", "")
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor is back
    end = written.rpartition("\x1b[2K")[2]  # what follows the last line that was erased
    assert re.search(r"teacher: \d+ of 1,000 iterations, .* left, .*\r\nstopped and saved\r\n$", end)
    assert "╭" not in end
