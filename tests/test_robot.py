"""A bundle drives an FR3 that speaks the robot's own protocol; what it may not do is refused before."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import franky_sim
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from typer.testing import CliRunner

from export.bundle import write_bundle
from export.controller import CommandLimiter
from pipelines.cli import app
from pipelines.progress import Display
from pipelines.robot.driving import _for_tool, drive, goals_of
from pipelines.robot.franka import Franka, require_drivable
from pipelines.robot.separation import separation_of
from pipelines.robot.simulated import States, simulated_robot, velocity_range, violations
from teacher.errors import FathomError, UsageError
from teacher.tasks import make_task
from teacher.tasks.fr3_arm import (
    HOME,
    JOINTS,
    LOWER,
    UPPER,
    Fr3Reach,
    flange_position,
    joint_frames,
    joint_spec,
    tool_position,
)
from teacher.tasks.validation import require_sound

TASK = make_task("fr3_reach")
SPEC = TASK.spec
RECORD = SPEC.for_robot()
GAIN = 16.0  # 1/(s m^2)
ANYWHERE = SPEC.model_copy(update={"joints": joint_spec()})  # in the arm's own limits
FIGURES = "goals reached worst_distance_m limit_violations missed_deadlines latency_us_p50 latency_us_p99"
NO_VIOLATIONS = {"position": 0, "velocity": 0, "acceleration": 0}


def servo(obs, goal):
    """Velocities along the transposed Jacobian of the flange, [B, 7]: reaches without being trained."""
    places, turns = joint_frames(obs[:, :7])
    axes, arms = turns[:, :7, :, 2], places[:, 7:] - places[:, :7]
    return jnp.clip(GAIN * jnp.einsum("bji,bi->bj", jnp.cross(axes, arms), goal - places[:, 7]), -1, 1)


def write_servo(directory, spec=SPEC, **options):
    """Writes the bundle of that policy."""
    random = np.random.default_rng(0)
    q = random.uniform(SPEC.joints.lower, SPEC.joints.upper, (1000, 7))
    obs = np.concatenate([q, random.normal(size=(1000, 7)), flange_position(q)], axis=1)
    arrays = (obs, flange_position(random.permutation(q)), random.uniform(-1, 1, (1000, 7)))
    facts = {"provenance": {"student": "servo"}, "evaluate": lambda _: {"success": 1.0}}
    write_bundle(
        directory, spec, servo, None, *(each.astype(np.float32) for each in arrays), **facts, **options
    )
    return directory


@pytest.fixture(scope="module")
def servo_bundle(tmp_path_factory):
    return write_servo(tmp_path_factory.mktemp("servo") / "servo")


def control(*words):
    return CliRunner().invoke(app, ["control", *map(str, words)])


def states(count=100, **columns):
    still = {
        "position": np.tile(HOME, (count, 1)),
        "velocity": np.zeros((count, 7)),
        "desired": np.zeros((count, 7)),
        "moving": np.ones(count, bool),
        "answered": np.arange(count),
    }
    return States(**(still | columns))


@pytest.mark.alone
def test_a_bundle_moves_the_robot_from_goal_to_goal_within_its_limits(servo_bundle, tmp_path):
    log = tmp_path / "steps.npz"
    done = control(servo_bundle, "--robot", "fr3-sim", "--goals", 2, "--seconds", 4, "--log", log, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= set(FIGURES.split())
    assert (found["goals"], found["reached"], found["limit_violations"]) == (2, 2, 0)
    assert max(found["distances_m"]) == found["worst_distance_m"] < 0.05
    assert found["violations"] == NO_VIOLATIONS
    assert found["slowed_by_separation"] == 0
    assert 0.01 < found["least_separation_m"] < 0.03  # forearm and wrist, as at home
    assert 5 < found["largest_acceleration"] <= 10
    # One a millisecond of the simulator's own time, 50 a step where it keeps up with ours.
    assert found["states"] > 10 * found["steps"]
    assert 0 < found["latency_us_p50"] <= found["latency_us_p99"]
    with np.load(log) as steps:
        reading = steps["reading"]
        assert reading.shape == (found["steps"], 17)
        # The simulated arm is the one that the policy was made for.
        np.testing.assert_allclose(reading[:, 14:], flange_position(reading[:, :7]), atol=1e-5)
        assert len(np.unique(steps["goal"], axis=0)) == 2


@pytest.mark.alone
def test_it_starts_beside_joint_limits_and_keeps_them(servo_bundle):
    beside = np.where(np.arange(7) % 2, np.array(UPPER) - 0.01, np.array(LOWER) + 0.01)
    options = {"robot": "fr3-sim", "goals": "0.4,0.1,0.5", "seconds": 8.0}
    found = drive(servo_bundle, Display(), start=",".join(map(str, beside)), **options)
    assert (found["reached"], found["violations"]) == (1, NO_VIOLATIONS)


@pytest.fixture
def driven(servo_bundle, tmp_path, monkeypatch):
    """Drives the robot, acts after 15 commands, and returns exit code and errors; the log has to be there."""

    def drive(act):
        count, write = iter(range(10**6)), Franka.write

        def counted(robot, command):
            write(robot, command)
            if next(count) == 15:
                act()

        monkeypatch.setattr(Franka, "write", counted)
        log = tmp_path / "steps.npz"
        done = control(
            servo_bundle, "--robot", "fr3-sim", "--goals", 30, "--seconds", 1, "--log", log, "--json"
        )
        assert done.stdout == ""
        with np.load(log) as steps:
            assert 10 < len(steps["seconds"]) < 600
        return done.exit_code, done.stderr

    return drive


@pytest.mark.alone
@pytest.mark.parametrize(
    ("number", "before"), [(signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.SIG_IGN)]
)
def test_interrupted_it_stops_the_robot_and_keeps_the_log(driven, number, before):
    usual = signal.signal(number, before)  # a shell's background jobs ignore SIGINT
    try:
        code, errors = driven(lambda: signal.raise_signal(number))
    finally:
        signal.signal(number, usual)
    assert code == 130, errors
    assert "the robot was stopped" in errors


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_connection_is_one_sentence_and_the_log_is_kept(driven, number):
    def act():
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (simulator,) = (int(c) for c in children if b"simulated" in Path(f"/proc/{c}/cmdline").read_bytes())
        os.kill(simulator, number)
        threading.Timer(3, os.kill, (simulator, signal.SIGCONT)).start()

    code, errors = driven(act)
    assert code == 1, errors
    assert re.search(r"^error: robot 127\.0\.0\.1: the connection is lost .*\n\Z", errors, re.MULTILINE)


BROKEN = """
import sys
from pathlib import Path
from franky_sim import franka_robot_server as server
from pipelines.robot.simulated import serve
usual = server.FrankaRobotServer.robot_state
server.FrankaRobotServer.robot_state = property(
    lambda self: usual.fget(self).replace(robot_mode=server.RobotMode.kReflex, errors=[True] + [False] * 40)
)
serve("127.0.0.1", Path(sys.argv[1]), [0.0, -0.8, 0.0, -2.4, 0.0, 1.6, 0.8])
"""


@pytest.mark.alone
def test_a_robot_that_is_not_there_in_error_or_there_twice_is_named_and_ends_with_who_started_it(
    servo_bundle, tmp_path
):
    done = control(servo_bundle, "--robot", "fr3", "--host", "127.0.0.1", "--goals", 1)
    assert done.exit_code == 1 and "robot 127.0.0.1: not reachable" in done.stderr
    words, pipe, log = [sys.executable, "-c", BROKEN], subprocess.PIPE, tmp_path / "figures.json"
    with subprocess.Popen([*words, log], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(FathomError, match=r"robot 127\.0\.0\.1: in an error state .*position"):
            Franka("127.0.0.1", RECORD)
        another = simulated_robot(tmp_path / "another.json", HOME)
        with pytest.raises(FathomError, match=r"did not start.*another one running"), another:
            pass
        process.stdin.close()
        process.wait(timeout=30)
    assert log.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--robot fr4", "unknown --robot 'fr4'; did you mean 'fr3'"),
        ("--robot fr3", "needs --host"),
        ("--robot fr3-sim --host 10.0.0.1", "takes no --host"),
        ("--robot fr3 --host a --start 0,0,0,0,0,0,0", "--start places a simulated robot"),
        ("--robot fr3-sim --start 0,0,0", "--start: 0,0,0, allowed: 7 joint positions in rad"),
        ("--robot fr3-sim --start 9,0,0,-1,0,1,0", "[-2.7437, 2.7437]"),
        ("--robot fr3-sim --goals 0", "--goals: 0, allowed: a number from 1"),
        ("--robot fr3-sim --goals 0.1,0.2,nan", "nan"),
        ("--robot fr3-sim --goals 0.1,0.2,3.0", "z = 3 m, trained in [0.261, 1.056]"),
        ("--robot fr3-sim --goals nowhere.txt", "'nowhere.txt', allowed: "),
        ("--robot fr3-sim --log steps.csv", "allowed: a file that ends in .npz"),
        ("--robot fr3-sim --tool 0,0,nan", "--tool: 0,0,nan, allowed"),
        ("--tool 0,0,0.1", "--tool: only with --robot"),
        ("--robot fr3-sim --engine mujoco", "--engine: not with --robot"),
        ("--goals 3 --allow-far-goals", "--goals, --allow-far-goals: only with --robot"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_starts(bundle, words, message):
    done = control(bundle, *words.split())
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""


TOOL = (0.02, -0.05, 0.1034)


@pytest.mark.parametrize("task", [TASK, Fr3Reach(tool=(0.0, 0.0, 0.1034))], ids=["flange", "tool"])
def test_goals_for_a_tool_bring_the_tool_to_them(task):
    own, act = task.spec.goal.tool or (0.0, 0.0, 0.0), jax.jit(servo)
    arm, carried = SimpleNamespace(latest=np.array(HOME, np.float32)), np.array(TOOL) - own
    place = tool_position(arm.latest, TOOL) + np.array([0.05, 0.1, -0.1])
    goal = _for_tool(lambda now: place, arm, carried, task.spec, False)
    for step in range(200):
        # The point that the policy moves goes straight to where it is told to.
        flange = flange_position(arm.latest)
        found = np.concatenate([arm.latest, np.zeros(7), flange])[None].astype(np.float32)
        error = goal(step * 0.05) - tool_position(arm.latest, own)
        arm.latest += 0.05 * np.asarray(act(found, (flange + error)[None]))[0]
    assert np.linalg.norm(tool_position(arm.latest, TOOL) - place) < 0.003
    assert np.linalg.norm(flange_position(arm.latest) - place) > 0.1
    # At home the hand points straight down: the fingertips are below the flange.
    home = np.array(HOME)
    np.testing.assert_allclose(
        tool_position(home, (0, 0, 0.1)) - flange_position(home), [0, 0, -0.1], atol=1e-6
    )


def test_a_policy_is_not_asked_beyond_its_range_for_a_tool():
    low, down = np.array([0.3, 0.0, SPEC.goal.low[2] - 0.08]), np.array([0, 0, 0.1])
    text = ",".join(map(str, low))
    with pytest.raises(UsageError, match="trained in"):
        goals_of(text, TASK, print, seed=0, far=False)
    found = goals_of(text, TASK, print, seed=0, far=False, tool=down)
    np.testing.assert_allclose(found, [low], rtol=1e-6)
    arm = SimpleNamespace(latest=np.array(HOME))
    asked, far = (_for_tool(lambda now: low, arm, -down, SPEC, far)(0.0)[2] for far in (False, True))
    assert asked == pytest.approx(SPEC.goal.low[2]) and far < asked


def test_a_task_may_state_its_tool():
    task = Fr3Reach(sensed=True, tool=TOOL)
    require_sound(task, "fr3_tool")
    assert task.spec.goal.tool == TOOL
    assert task.spec.goal.name == task.spec.sensed_goal.name == "tool_position"
    draw = jax.jit(jax.vmap(lambda key: task.start(key, "all").goal))
    goals, given = draw(jax.random.split(jax.random.key(0), 500)), task.spec.goal
    assert ((goals >= np.array(given.low)) & (goals <= np.array(given.high))).all()
    require_drivable(Fr3Reach(tool=TOOL).spec.for_robot())


def test_goals_come_from_a_file_and_far_ones_with_a_warning(tmp_path):
    file = tmp_path / "goals.txt"
    warnings = []
    goals = partial(goals_of, str(file), TASK, warnings.append, seed=0, far=False)
    file.write_text("0.4, 0.1, 0.5\n\n0.3 -0.2 1.5\n")
    with pytest.raises(UsageError, match=r"goals\.txt line 3: z = 1\.5 m, .*--allow-far-goals"):
        goals()
    np.testing.assert_allclose(goals(far=True), [[0.4, 0.1, 0.5], [0.3, -0.2, 1.5]], rtol=1e-6)
    assert len(warnings) == 1
    file.write_bytes(b"\xef\xbb\xbf# above the table\r\n0.4, 0.1, 0.5  # first\r\n")  # as Windows writes it
    np.testing.assert_allclose(goals(), [[0.4, 0.1, 0.5]], rtol=1e-6)
    for content, message in ((b"# nothing yet\n", "is empty"), (b"\xff\xfe0", "cannot be read")):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            goals()


def test_drawn_goals_lie_in_the_training_range_and_follow_the_seed():
    draw, tool = partial(goals_of, "500", TASK, print, far=False), np.array([0, 0, 0.1])
    goals = draw(seed=1)
    assert (goals >= SPEC.goal.low).all() and (goals <= SPEC.goal.high).all()
    assert np.abs(goals - draw(seed=2)).max() > 0.1
    np.testing.assert_allclose(draw(seed=1, tool=tool), goals - tool, atol=1e-6)  # the hand points down


def test_a_policy_of_another_robot_is_refused():
    action = RECORD["action"]
    for spec, message in (
        (make_task("fr3_push_easy").spec.for_robot(), r"reads .*cube.*; an FR3 gives"),
        (RECORD | {"action": action | {"joints": action["joints"][::-1]}}, r"joints .*fr3_joint7.*in order"),
        (RECORD | {"action": action | {"kind": "joint_torque"}}, "joint_torque"),
    ):
        with pytest.raises(UsageError, match=message):
            require_drivable(spec)


def test_each_kind_of_violation_is_counted_where_it_is():
    assert violations(states())["limit_violations"] == 0
    beyond, fast, slow_near_limit, leap, late = (states() for _ in range(5))
    beyond.position[10:13, 3] = UPPER[3] + 0.01
    fast.velocity[20:24, 0] = 2.7
    slow_near_limit.position[:, 0] = UPPER[0]
    slow_near_limit.desired[10:, 0] = 0.0099 * np.arange(90)
    leap.desired[50:, 6] = 0.011
    for found, kind, least, most in (
        (beyond, "position", 3, 3),
        (fast, "velocity", 4, 4),
        (slow_near_limit, "velocity", 10, 30),
        (leap, "acceleration", 1, 1),
    ):
        counted = violations(found)
        assert least <= counted["violations"][kind] == counted["limit_violations"] <= most
    late.desired[53:, 6], late.answered[50:53] = 0.032, 49
    found = violations(late)
    assert (found["limit_violations"], found["late_packets"]) == (0, 3)
    assert found["largest_acceleration"] == pytest.approx(8)
    # Without a motion nothing is desired: the robot then reports what it measures.
    leap.moving[:] = False
    assert violations(leap)["limit_violations"] == 0


def test_limits_are_the_published_ones():
    fastest, (low, high) = np.array(SPEC.joints.velocity), velocity_range(np.array([LOWER, UPPER]))
    np.testing.assert_allclose([-low[1], high[0]], [fastest] * 2, atol=1e-6)
    assert (-low[0] < 0.3 * fastest).all() and (high[1] < 0.3 * fastest).all()
    assert (velocity_range(np.array(UPPER) + 0.5)[1] == 0).all()
    assert SPEC.joints.acceleration == (10.0,) * len(JOINTS)


@pytest.fixture(scope="module")
def least():
    """Distance of the nearest two links, but for neighbours, by the shapes of the installed description."""
    folder = Path(franky_sim.__file__).with_name("assets")
    parts = mujoco.MjSpec.from_file(str(folder / "fr3.xml"))
    parts.meshdir = str(folder / "meshes")
    model = parts.compile()
    data, meshes = mujoco.MjData(model), mujoco.mjtGeom.mjGEOM_MESH
    shapes = [i for i in range(model.ngeom) if model.geom_contype[i] and model.geom_type[i] == meshes]
    places = [range(model.nbody)[model.geom_bodyid[i]] for i in shapes]
    pairs = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(zip(shapes, places, strict=True), 2)
        if a not in (model.body_parentid[b], b) and model.body_parentid[a] != model.body_parentid[b]
    ]

    def distance(q):
        found = []
        for finger in (0, 0.02, 0.04):
            data.qpos[:] = [*q, finger, finger]
            mujoco.mj_kinematics(model, data)
            found += [mujoco.mj_geomDistance(model, data, *pair, 0.1, None) for pair in pairs]
        return min(found)

    return distance


def chase(places, share, late, seldom, old, steps=100, frozen=(), held=()):
    """Goes from home to postures in turn, straight and as fast as is allowed: positions [T, 7], commands.

    What is read is `old` periods old, and another thing each `seldom`, but not in `frozen` steps.
    The robot is held in some steps, as for want of a reading."""
    limiter, q, before = CommandLimiter(ANYWHERE.for_robot(), share=share), np.array(HOME), np.zeros(7)
    limiter.start()
    way, commands = [q], []
    for step, place in enumerate(place for place in places for _ in range(steps)):
        if step % seldom == 0 and step not in frozen:
            seen = way[max(0, step - old)]
            reading = np.concatenate([seen, before, flange_position(seen)]).astype(np.float32)
        action = None if step in held else np.clip(2 * (place - reading[:7]), -1, 1)
        command = limiter(action, reading).copy()
        q = q + SPEC.control_dt * (before if late else command)
        before = command
        way.append(q)
        commands.append(command)
    return np.array(way), np.array(commands)


@pytest.mark.parametrize(("late", "seldom", "old"), [(False, 1, 0), (True, 2, 1), (True, 1, 2)])
def test_links_stay_apart_whatever_is_asked_and_part_again(least, late, seldom, old):
    random = np.random.default_rng(0)
    drawn = (random.uniform(np.array(LOWER) + 0.1, np.array(UPPER) - 0.1) for _ in range(1000))
    folded = list(itertools.islice((q for q in drawn if least(q) < -0.02), 3))
    places = [each for place in folded for each in (place, np.array(HOME))]
    assert min(map(least, chase(places, None, late, seldom, old)[0])) < -0.02
    share = separation_of(TASK, ANYWHERE.for_robot(), print)
    way, commands = chase(places, share, late, seldom, old)
    distances = list(map(least, way))
    assert 0.0099 < min(distances) < 0.015
    found = share.figures()
    assert found["least_separation_m"] == pytest.approx(min(distances), abs=1e-3)
    assert 0 < found["slowed_by_separation"] < len(commands)
    assert np.abs(np.diff(commands, axis=0, prepend=0)).max() <= 0.5 * 10 * SPEC.control_dt + 1e-9
    np.testing.assert_allclose(way[200::200], np.tile(HOME, (3, 1)), atol=0.01)


@pytest.mark.parametrize(
    ("late", "old", "held"),
    [(False, 0, ()), (True, 2, ()), (True, 2, range(24, 27)), (True, 2, range(26, 32))],
)
def test_links_stay_apart_while_sensors_are_frozen_and_move_on_after(least, late, old, held):
    """Their time stamps are fresh, so nothing else tells; and a hold moves the arm unasked."""
    random = np.random.default_rng(0)
    drawn = (random.uniform(np.array(LOWER) + 0.1, np.array(UPPER) - 0.1) for _ in range(1000))
    for folded in itertools.islice((q for q in drawn if least(q) < -0.02), 3):
        share = separation_of(TASK, ANYWHERE.for_robot(), print)
        way, _ = chase([folded, np.array(HOME)], share, late, 1, old, frozen=range(20, 100), held=held)
        assert least(way[20]) > 0.02
        assert min(map(least, way)) > 0.0099
        np.testing.assert_allclose(way[-1], HOME, atol=0.01)


def test_links_that_are_too_near_already_may_only_part(least):
    """The wrist is folded, and the hand turns towards the forearm."""
    share = separation_of(TASK, ANYWHERE.for_robot(), print)
    q, turning, still = np.array(HOME), 0.1 * np.eye(7)[6], np.zeros(7)
    q[5:] = 0.6, 0.1
    while least(q) > 0.004:
        q[6] -= 0.01
    assert share(q, still, -turning) == 0
    assert share(q, still, turning) == share(q, still, turning[::-1]) == 1  # the latter turns the whole arm


CONTACT = "trained without contact"


@pytest.mark.parametrize(
    ("task", "missing", "said"),
    [
        ("quad_reach", None, ["links are not kept apart"]),  # its feet are on the ground
        ("fr3_reach", "franky_sim", [CONTACT, "links are not kept apart"]),
        ("fr3_reach", None, [CONTACT, "a table, tools, cables"]),
    ],
)
def test_it_is_said_what_was_not_simulated_and_what_is_not_kept_apart(task, missing, said, monkeypatch):
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    told, task = [], make_task(task)
    separation = separation_of(task, task.spec.for_robot(), told.append)
    assert (separation is None) == ("not kept" in told[-1])
    assert all(words in sentence for words, sentence in zip(said, told, strict=True))
