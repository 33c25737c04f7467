"""Slips in a task of one's own are named before it is trained, and after; sound tasks are not suspected."""

import html
import re
from pathlib import Path

import pytest
from test_own_task import PUCK, WHEELS, written

from pipelines.diagnosis import likely_causes, require_learned
from pipelines.formats import NARROW
from pipelines.report import verdict
from pipelines.rundir import Run
from teacher.tasks import TASKS, make_task
from teacher.tasks.plausibility import doubts

SCARA = Path(__file__).with_name("scara.py").read_text()
GOAL = SCARA[SCARA.index("goal=GoalSpec(") : SCARA.index("action=ActionSpec(")]
FAR = GOAL.replace("low=(0.25,", "low=(0.6,").replace("high=(0.45,", "high=(0.8,")
IN_MM = re.sub(r"0\.\d+", lambda found: f"{1000 * float(found[0]):g}", GOAL).replace('"m"', '"mm"')
SLIPS = {  # what was meant, what was written, what is said of it
    "radians": (
        '<compiler angle="radian"/>',
        "",
        "spec.joints: 'shoulder' goes from -2 to 2 rad, in the model from -0.03491.*: one is in degrees",
    ),
    "limits": (
        "lower=(-2, -2.4)",
        "lower=(-3, -2.4)",
        "spec.joints: 'shoulder' may go from -3 to 2 rad, in the model only from -2",
    ),
    "start out of range": (
        "[0.0, 1.0]",
        "[0.0, 3.0]",
        r"start\(key, 'all'\): joint 'elbow' begins at 2\.5.* beyond \[-2\.4, 2\.4\] in 256 of 256",
    ),
    "goal out of reach": (GOAL, FAR, "% of goals are out of reach, .* these reach x -0.37 to 0.548"),
    "wrong index": (
        "observation_indices=(2, 3)",
        "observation_indices=(0, 1)",
        "goal entry 'x' is in m, observation entry 0, joint_position.shoulder, in rad",
    ),
    "wrong index of an axis": ("0, :2]", "0, ::2]", r"tip\.y is always 0\.2, wherever the robot moves"),
    "dead actuator": (
        '"elbow"/> </act',
        '"elbow" gear="0"/> </act',
        "action entry 1, 'elbow', moves nothing in 0.1 s: a dead actuator",
    ),
    "one joint driven twice": (
        '"elbow"/> </act',
        '"shoulder"/> </act',
        "action entry 1, 'elbow', drives 'shoulder'",
    ),
    "too short a period": (
        "control_dt=0.05",
        "control_dt=0.005",
        "spec.control_dt.* lasts 0.5 s, too short: .* the way to a goal takes 0.7",
    ),
    "joint order": (
        'joints=JOINTS, unit="rad/s"',
        'joints=JOINTS[::-1], unit="rad/s"',
        "action entry 0, 'elbow', drives 'shoulder'",
    ),
    "joint order seen": (
        "start=0, entries=JOINTS",
        "start=0, entries=JOINTS[::-1]",
        "joint_position.elbow is not the position of 'elbow': it is that of 'shoulder'",
    ),
    "sign of an axis": (
        "return SPEED *",
        "return -SPEED *",
        "'shoulder', moves it the other way: a positive action goes down",
    ),
    "sign of an axis seen": (
        "0, :2]",
        "0, :2] * xp.asarray([1, -1])",
        r"marker\(goal\): .* m from where any body carries a point: an axis, a sign",
    ),
    "unit": (GOAL, IN_MM, "goal entry 'x' is in mm, observation entry 2, tip.x, in m"),
    "unit of a radius": (
        GOAL,
        GOAL.replace("s=0.02", "s=20").replace("s=0.04", "s=40"),
        "success_radius: 20 m is so large that 100% of episodes begin at their goals",
    ),
    "unit of commands": (
        '("x", "y"), 2.0',
        '("x", "y"), 115.0',
        r"commands up to 115 rad/s, its actuator takes \[-2, 2\]: degrees\?",
    ),
    "unit of what is seen": (
        "[state.qpos,",
        "[57.3 * state.qpos,",
        r"joint_position.shoulder is 57.3 times the position of 'shoulder': degrees\?",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named_before_anything_is_trained(slip, tmp_path, pipeline):
    meant, wrote, told = SLIPS[slip]
    assert SCARA.count(meant) == 1
    task = written(tmp_path, SCARA.replace(meant, wrote), "Scara")
    done = pipeline("tasks", task, cwd=tmp_path)
    assert done.returncode == (2 if slip == "radians" else 0)
    assert re.search(told, done.stderr)


@pytest.mark.parametrize("text", [SCARA, WHEELS, PUCK], ids=["Scara", "TwoWheels", "Puck"])
def test_sound_tasks_of_ones_own_are_not_suspected(text, request, tmp_path, pipeline):
    done = pipeline("tasks", written(tmp_path, text, request.node.callspec.id), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", TASKS)
def test_this_programs_tasks_are_not_suspected(name):
    assert doubts(make_task(name)) == []


def test_a_run_warns_before_it_trains_and_ends_after_a_teacher_that_learned_nothing(tmp_path, pipeline):
    meant, wrote, _ = SLIPS["goal out of reach"]
    task = written(tmp_path, SCARA.replace(meant, wrote), "Scara")
    asked = ("--preset", "debug", "--task", task, "--run", "failed", "--set", "student.min_retention=0.9")
    done = pipeline("run", *asked, cwd=tmp_path)
    run = Run(tmp_path / "runs" / "failed")
    said = done.stderr.splitlines()
    assert done.returncode == 1 and not run.students.exists()
    assert "out of reach" in said[0] and "out of reach" in done.stderr.partition("error: ")[2]
    verdict = "has not learned the task: it is at its goals 0.0"
    assert verdict in done.stderr and "pipeline distill runs/failed" in done.stderr
    page = (run.path / "report.html").read_text()
    assert verdict in page and "out of reach" in page

    # To go on regardless.
    assert pipeline("distill", "failed", "--task", task, cwd=tmp_path).returncode == 0
    require_learned(run)


def test_a_teacher_of_too_few_steps_is_told_so(debug_run):
    (cause,) = likely_causes(Run(debug_run.path))
    assert cause == (
        "collect.total_steps: 1,280 steps were 20 updates, too few; presets that learn make 6,000"
    )


def test_the_terminal_ends_with_the_sentence_at_the_top_of_the_report(debug_run):
    last, following = debug_run.errors.splitlines()[-2:]
    assert last == verdict(Run(debug_run.path))
    assert following.startswith("next: pipeline ")
    assert html.escape(verdict(Run(debug_run.path)), quote=False) in (
        (debug_run.path / "report.html").read_text().replace(NARROW, " ")
    )
