"""Slips in a task of one's own are named before it is trained, and after; sound tasks are not suspected."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
from test_own_task import PUCK, WHEELS, written

from pipelines.diagnosis import likely_causes, require_learned, still_rising
from pipelines.report import verdict
from pipelines.rundir import Run
from teacher.tasks import TASKS, make_task
from teacher.tasks.plausibility import doubts
from teacher.tasks.validation import require_sound

SCARA = Path(__file__).with_name("scara.py").read_text()
GOAL = SCARA[SCARA.index("goal=GoalSpec(") : SCARA.index("action=ActionSpec(")]
FAR = GOAL.replace("low=(0.25,", "low=(0.6,").replace("high=(0.45,", "high=(0.8,")
WIDE = GOAL.replace("s=0.02", "s=20").replace("s=0.04", "s=40")
IN_MM = re.sub(r"0\.\d+", lambda found: f"{1000 * float(found[0]):g}", GOAL).replace('"m"', '"mm"')
SLIPS = {  # what was meant, what was written, what is said of it
    "radians": ('<compiler angle="radian"/>', "", "'shoulder' goes from -2 to 2 rad, .* -0.03491"),
    "limits": ("lower=(-2, -2.4)", "lower=(-3, -2.4)", "'shoulder' may go from -3 .* only from -2"),
    "start out of range": ("[0.0, 1.0]", "[0.0, 3.0]", r"'elbow' begins at 2\.5.* beyond \[-2\.4, 2\.4\]"),
    "goal out of reach": (GOAL, FAR, "% of goals are out of reach, .* these reach x -0.37 to 0.548"),
    "wrong index": ("indices=(2, 3)", "indices=(0, 1)", "entry 0, joint_position.shoulder, in rad"),
    "wrong index of an axis": ("0, :2]", "0, ::2]", r"tip\.y is always 0\.2, wherever the robot moves"),
    "dead actuator": ('"elbow"/> </act', '"elbow" gear="0"/> </act', "1, 'elbow', moves nothing"),
    "one joint driven twice": ('"elbow"/> </act', '"shoulder"/> </act', "1, 'elbow', drives"),
    "too short a period": ("control_dt=0.05", "control_dt=0.005", "spec.control_dt.* lasts 0.5 s, too short"),
    "joint order": ('joints=JOINTS, unit="rad/s"', 'joints=JOINTS[::-1], unit="rad/s"', "0, 'elbow', drives"),
    "joint order seen": ("start=0, entries=JOINTS", "start=0, entries=JOINTS[::-1]", "that of 'shoulder'"),
    "sign of an axis": ("return SPEED *", "return -SPEED *", "'shoulder', moves it the other way"),
    "sign of an axis seen": ("0, :2]", "0, :2] * xp.asarray([1, -1])", r"marker\(goal\): .* an axis, a sign"),
    "unit": (GOAL, IN_MM, "goal entry 'x' is in mm, observation entry 2, tip.x, in m"),
    "unit of a radius": (GOAL, WIDE, "success_radius: 20 m is so large that 100% of episodes"),
    "unit of commands": ('("x", "y"), 2.0', '("x", "y"), 115.0', r"commands up to 115 rad/s, .* degrees\?"),
    "unit of what is seen": ("[state.qpos,", "[57.3 * state.qpos,", r"shoulder is 57.3 .* degrees\?"),
}


def scara(slip):
    """The class of a SCARA with that slip."""
    meant, wrote, _ = SLIPS[slip]
    assert SCARA.count(meant) == 1
    names: dict = {}
    exec(SCARA.replace(meant, wrote), names)
    return names["Scara"]


@pytest.mark.parametrize("slip", [slip for slip in SLIPS if slip != "radians"])
def test_a_slip_is_named_before_anything_is_trained(slip):
    assert re.search(SLIPS[slip][2], "\n".join(doubts(scara(slip)())))


def test_what_the_check_finds_is_printed_and_what_cannot_work_is_refused(tmp_path, pipeline):
    for slip, code in (("limits", 0), ("radians", 2)):
        meant, wrote, told = SLIPS[slip]
        (tmp_path / slip).mkdir()
        done = pipeline("tasks", written(tmp_path / slip, SCARA.replace(meant, wrote), "Scara"), cwd=tmp_path)
        assert done.returncode == code
        assert re.search(told, done.stderr)


@pytest.mark.parametrize("text", [SCARA, WHEELS, PUCK], ids=["Scara", "TwoWheels", "Puck"])
def test_sound_tasks_of_ones_own_are_not_suspected(text, request, tmp_path, pipeline):
    task = written(tmp_path, text, request.node.callspec.id)
    done = pipeline("tasks", task, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, f"{task}: checked, and nothing looks wrong\n")


# The others are these in other mazes.
TRIED = {
    "fr3_pick_place",
    "fr3_push_easy",
    "fr3_reach",
    "quad_reach",
    "reacher",
    "wheel_maze",
    "ant",
    "humanoid",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in TRIED)) for name in TASKS]
)
def test_this_programs_tasks_are_sound_and_not_suspected(name):
    require_sound(make_task(name), name)
    assert doubts(make_task(name)) == []


def test_a_run_warns_before_it_trains_and_ends_after_a_teacher_that_learned_nothing(tmp_path, pipeline):
    task = written(tmp_path, PUCK.replace("episode_length=50", "episode_length=5"), "Puck")
    small = ("--set", "student.min_retention=0.9", "--set", "student.sizes=2x16")
    done = pipeline("run", "--preset", "debug", "--task", task, "--run", "failed", *small, cwd=tmp_path)
    run = Run(tmp_path / "runs" / "failed")
    said = done.stderr.splitlines()
    assert done.returncode == 1 and not run.students.exists()
    assert "too short" in said[0] and "too short" in done.stderr.partition("error: ")[2]
    verdict = "has not learned the task: it is at its goals 0.0"
    assert verdict in done.stderr and "pipeline distill runs/failed" in done.stderr
    page = (run.path / "report.html").read_text()
    assert verdict in page and "too short" in page

    (run.students / "checkpoints").mkdir(parents=True)  # as `distill` begins, to go on regardless
    require_learned(run)


def test_a_teacher_of_too_few_steps_is_told_so_in_one_sentence_on_terminal_and_report(debug_run):
    run = Run(debug_run.path)
    (cause,) = likely_causes(run)
    assert cause.startswith("collect.total_steps: 1,280 steps were 20 updates, too few")
    last, following = debug_run.errors.splitlines()[-2:]
    assert last == verdict(run)
    assert following.startswith("next: pipeline ")
    report = (run.path / "report.html").read_text().replace("\u202f", " ")
    assert html.escape(last, quote=False) in report


@pytest.mark.parametrize(
    ("scores", "rises"), [((0.2, 0.4, 0.6), True), ((0.2, 0.58, 0.6), False), ((0.6,), False)]
)
def test_a_teacher_that_still_improves_at_its_end_is_told_so(debug_run, tmp_path, scores, rises):
    """Intervals are 0.05 wide to either side: 0.58 and 0.6 cannot be told apart."""
    run = Run(Path(shutil.copytree(debug_run.path, tmp_path / "run")))
    lines = [
        {
            "env_steps": 400 * (i + 1),
            "evaluation": {"time_at_goal": at, "time_at_goal_interval": [at - 0.05, at + 0.05]},
        }
        for i, at in enumerate(scores)
    ]
    (run.path / "teacher" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = still_rising(run)
    assert bool(said) == rises and (not rises or "collect.total_steps=2560" in said)
