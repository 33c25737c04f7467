"""The loop on the robot: its clock, its limits, and how it ends."""

import math
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from test_command_limiter import record
from test_controller import SPEC, A, N, bundle, controller  # noqa: F401

from export.controller import CommandLimiter, ControllerError, Latencies, Log, run
from teacher.tasks import make_task

DT = SPEC.control_dt
RECORD = SPEC.for_robot()
HOME = np.array([*SPEC.joints.default, *[0.0] * (N - A)], np.float32)
GOAL = np.array([0.3, 0.1, 0.5], np.float32)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Robot:
    """Stands where it is told; `busy` seconds pass whenever it is written to."""

    def __init__(self, clock, busy=()):
        self.clock, self.busy = clock, list(busy)
        self.written, self.times, self.stopped, self.age = [], [], 0, 0.0

    def read(self):
        return self.clock() - self.age, HOME

    def write(self, command):
        self.written.append(command.copy())
        self.times.append(self.clock())
        self.clock.now += self.busy.pop(0) if self.busy else 0.0

    def stop(self):
        self.stopped += 1


@pytest.fixture
def clock():
    return Clock()


def drive(controller, robot, seconds, **options):  # noqa: F811
    return run(controller, robot, GOAL, seconds, clock=robot.clock, sleep=robot.clock.sleep, **options)


def test_steps_come_at_the_control_period_without_drift(controller, clock):  # noqa: F811
    robot = Robot(clock, busy=[0.3 * DT] * 200)
    found = drive(controller, robot, 200 * DT)
    np.testing.assert_allclose(robot.times, 100 + DT * np.arange(200), atol=1e-9)
    assert (found["steps"], found["missed_deadlines"], found["held"]) == (200, 0, 0)
    assert robot.stopped == 1


def test_every_period_that_is_over_too_late_is_counted_and_skipped(controller, clock):  # noqa: F811
    robot = Robot(clock, busy=[0, 2.5 * DT, 0, 1.5 * DT, 0])
    found = drive(controller, robot, 20 * DT)
    assert found["missed_deadlines"] == 2 + 1
    # A late period is its own step, so of those over only the ones after it got none.
    assert found["steps"] == 20 - (2 - 1) - (1 - 1)
    begun = (np.array(robot.times) - 100) / DT
    np.testing.assert_allclose(begun[:6], [0, 1, 3.5, 4, 5.5, 6], atol=1e-6)


def test_a_stale_reading_holds_the_robot_until_a_fresh_one(controller, clock):  # noqa: F811
    robot = Robot(clock)
    robot.age = 3 * DT
    found = drive(controller, robot, 10 * DT)
    assert found["held"] == found["steps"] == 10
    np.testing.assert_array_equal(robot.written, np.zeros((10, A)))
    robot.age = 0.0
    assert drive(controller, robot, 10 * DT)["held"] == 0
    assert np.abs(robot.written[-1]).max() > 0


@pytest.mark.parametrize("failure", [RuntimeError("cable"), KeyboardInterrupt()])
def test_whatever_happens_the_robot_is_stopped(controller, clock, failure):  # noqa: F811
    class Failing(Robot):
        def write(self, command):
            super().write(command)
            if len(self.written) == 3:
                raise failure

    robot = Failing(clock)
    with pytest.raises(type(failure)):
        drive(controller, robot, 1.0)
    assert robot.stopped == 1
    assert len(robot.written) == 3


def test_a_reading_that_is_not_a_number_stops_it_by_name(controller, clock):  # noqa: F811
    class Blind(Robot):
        def read(self):
            reading = HOME.copy()
            reading[2] = np.nan if self.written else 0.0
            return self.clock(), reading

    robot = Blind(clock)
    with pytest.raises(ControllerError, match=r"joint_position\.fr3_joint3 = nan"):
        drive(controller, robot, 1.0)
    assert robot.stopped == 1


def test_a_reading_that_is_stale_and_not_a_number_stops_it_too(controller, clock):  # noqa: F811
    class Blind(Robot):
        def read(self):
            reading = HOME.copy()
            reading[2] = np.nan if self.written else 0.0
            return self.clock() - 10 * DT, reading

    robot = Blind(clock)
    with pytest.raises(ControllerError, match=r"joint_position\.fr3_joint3 = nan"):
        drive(controller, robot, 1.0)
    assert robot.stopped == 1


def test_the_goal_may_move(controller, clock):  # noqa: F811
    robot, asked = Robot(clock), []

    def goal(now):
        asked.append(now)
        return GOAL if now < 5 * DT else GOAL + np.float32(0.1)

    log = Log(RECORD, 20)
    run(controller, robot, goal, 10 * DT, log=log, clock=clock, sleep=clock.sleep)
    np.testing.assert_allclose(asked, DT * np.arange(10), atol=1e-9)
    found = log.columns()
    np.testing.assert_allclose(found["seconds"], asked)
    np.testing.assert_allclose(found["goal"][:, 0] - GOAL[0], [0] * 5 + [0.1] * 5, atol=1e-6)
    np.testing.assert_array_equal(found["command"], robot.written)
    assert not found["held"].any()


def test_a_log_that_is_full_keeps_the_newest_steps(controller, clock, tmp_path):  # noqa: F811
    log = Log(RECORD, 8)
    drive(controller, Robot(clock), 20 * DT, log=log)
    log.save(tmp_path / "log.npz")
    with np.load(tmp_path / "log.npz") as found:
        np.testing.assert_allclose(found["seconds"], DT * np.arange(12, 20), atol=1e-9)
        assert found["reading"].shape == (8, N)


class Pushing:
    """A controller whose policy always answers the same; it notes what it observes."""

    def __init__(self, spec, answer=1.0):
        self.spec, self.answer, self.seen, self.episodes = spec, answer, [], 0

    def reset(self):
        self.episodes += 1

    def require_reading(self, reading):
        pass

    def observe(self, reading):
        self.seen.append(reading.copy())
        return reading

    def step(self, obs, goal, out):
        out[:] = self.answer
        return out


class Slide:
    """Two joints of tests/test_command_limiter.py, by velocity and by position, that do what they are told.

    `take(period, q)` says when a reading was taken and where it says that both joints are."""

    def __init__(self, clock, take, start=0.0):
        self.clock, self.take, self.q = clock, take, np.array([start, start])
        self.period, self.written, self.places, self.stopped = -1, [], [], 0

    def read(self):
        self.period += 1
        self.places.append(self.q.copy())
        taken, q = self.take(self.period, self.q)
        return taken, np.concatenate([np.broadcast_to(q, 2), np.zeros(4)]).astype(np.float32)

    def write(self, command):
        self.written.append((self.period, *command))
        self.q = np.array([self.q[0] + command[0] * DT, command[1]])

    def stop(self):
        self.stopped += 1


def slide(clock, take, periods, start=0.0, answer=1.0):
    robot, policy = Slide(clock, take, start), Pushing(record(), answer)
    found = run(policy, robot, GOAL, periods * DT, clock=clock, sleep=clock.sleep)
    assert robot.stopped == 1
    return robot, found, policy


def test_the_loop_tells_a_policy_its_last_action(clock):
    spec = make_task("quad_reach").spec.for_robot()
    place = next(term["start"] for term in spec["deployed"]["reading"] if term["name"] == "last_action")
    width = spec["inputs"]["reading"][-1]["start"] + len(spec["inputs"]["reading"][-1]["entries"])
    policy = Pushing(spec, 0.25)
    robot = Robot(clock)
    robot.read = lambda: (clock(), np.zeros(width, np.float32))
    run(policy, robot, GOAL, 10 * spec["control_dt"], clock=clock, sleep=clock.sleep)
    np.testing.assert_allclose([seen[place] for seen in policy.seen], [0] + [0.25] * 9)


@pytest.mark.parametrize("answer", [1, -1])
@pytest.mark.parametrize("start", [0.0, 0.99, 1.0, 1.2])
def test_a_robot_whose_readings_stop_comes_to_rest_and_stays(clock, start, answer):
    # After eight periods the link is dead: what it said last is read for ever, with the time of then.
    last = [clock(), start]

    def take(period, q):
        if period < 8:
            last[:] = clock(), q.copy()
        return last

    robot, found, _ = slide(clock, take, 200, start, answer)
    assert found["held"] >= 200 - 8 - 2
    places = np.array(robot.places)
    np.testing.assert_array_equal(places[30:], np.broadcast_to(places[30], places[30:].shape))
    assert np.abs(places[30] - places[10]).max() <= 2**2 / (2 * 0.5 * 12) + 2 * DT
    assert (np.array(robot.written)[30:, 1] == 0).all()


def test_nothing_is_commanded_for_positions_before_a_fresh_reading(clock):
    def take(period, q):
        return (0.0, 0.0) if period < 4 else (clock(), q)

    robot, found, _ = slide(clock, take, 8, start=0.45)
    assert found["held"] == 4
    assert robot.written[0][0] == 4
    assert abs(robot.written[0][2] - 0.45) <= 2 * DT


def test_what_follows_a_hold_is_a_new_episode_from_where_the_robot_was_moved_to(clock):
    def take(period, q):
        if period == 20:
            robots[0].q[:] = -0.4
        return (clock(), robots[0].q) if not 6 <= period < 20 else (clock() - 9, q)

    robots, policy = [Slide(clock, take)], Pushing(record())
    robots[0].q[:] = 0.3
    log = Log(record(), 30)
    run(policy, robots[0], GOAL[:1], 30 * DT, log=log, clock=clock, sleep=clock.sleep)
    assert policy.episodes == 1 + 14
    command = log.columns()["command"][20, 1]
    assert abs(command + 0.4) <= 0.5 * 12 * DT**2 + 1e-6
    assert (log.columns()["action"][6:20] == 0).all()


@pytest.mark.parametrize(
    "stamp", [math.nan, math.inf, -math.inf, None, "now", 1.79e9, 100.02, np.float64(1e14), [100.0]]
)
def test_a_time_that_the_clock_has_not_had_stops_the_robot_and_names_the_clock(clock, stamp):
    robot, policy = Slide(clock, lambda period, q: (stamp, q)), Pushing(record())
    with pytest.raises(
        ControllerError, match=r"reading: its time is .*clock says 100\.000; .*time\.monotonic"
    ):
        run(policy, robot, GOAL, 1.0, clock=clock, sleep=clock.sleep)
    assert (robot.stopped, robot.written) == (1, [])


def test_a_reading_that_was_long_on_its_way_is_stale(clock):
    def take(period, q):
        taken = clock()
        clock.now += 3 * DT
        return taken, q

    _, found, _ = slide(clock, take, 40)
    assert found["held"] == found["steps"] > 5


class Interrupted(Robot):
    """Somebody presses Ctrl-C while it is written to, and again while it is being stopped."""

    def __init__(self, clock, number=signal.SIGINT):
        super().__init__(clock)
        self.number, self.sent = number, False

    def write(self, command):
        super().write(command)
        signal.raise_signal(self.number)

    def stop(self):
        for _ in range(3):
            signal.raise_signal(self.number)
        time.sleep(0.01)
        self.sent = True
        super().stop()


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_second_signal_does_not_keep_the_robot_from_being_stopped(clock, number, raised):
    found = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    robot = Interrupted(clock, number)
    # A job in the background ignores the one, and by default the other ends a process, also after the stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(raised):
            run(Pushing(RECORD, 0.0), robot, GOAL, 1.0, clock=clock, sleep=clock.sleep)
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    finally:
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), found, strict=True):
            signal.signal(each, handler)
    assert (robot.sent, robot.stopped, len(robot.written)) == (True, 1, 1)


def test_a_stop_is_repeated_until_it_returned_or_failed_by_name(clock):
    class Stubborn(Robot):
        def stop(self):
            super().stop()
            if self.stopped < 3:
                raise KeyboardInterrupt
            if self.fails:
                raise ControllerError("robot: the brakes do not answer")

    for fails in (False, True):
        robot, policy = Stubborn(clock), Pushing(RECORD, 0.0)
        robot.fails = fails
        if fails:
            with pytest.raises(ControllerError, match="the brakes do not answer"):
                run(policy, robot, GOAL, 5 * DT, clock=clock, sleep=clock.sleep)
        else:
            run(policy, robot, GOAL, 5 * DT, clock=clock, sleep=clock.sleep)
        assert robot.stopped == 3


ENDED = """
import os, signal, sys, time
import numpy as np
sys.path[:0] = sys.argv[1:]
from test_control_loop import GOAL, RECORD, Pushing, Robot, run

class Ended(Robot):
    def write(self, command):
        os.kill(os.getpid(), signal.SIGTERM)
    def stop(self):
        print("stopped", flush=True)

run(Pushing(RECORD, 0.0), Ended(time.monotonic), GOAL, 5.0)
"""


def test_sigterm_stops_the_robot_before_it_ends_the_process():
    words = [sys.executable, "-c", ENDED, str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "stopped\n"), done.stderr


def test_a_command_that_is_no_number_is_never_given():
    guard = CommandLimiter(RECORD, ramp_s=0.0)
    guard.start(HOME)
    before = guard(np.ones(A, np.float32), HOME).copy()
    blind = HOME.copy()
    blind[1] = np.nan
    for action, reading in ((np.full(A, np.nan, np.float32), HOME), (np.ones(A, np.float32), blind)):
        with pytest.raises(
            ControllerError, match=r"(action: .*|fr3_joint2 is at nan, allowed: )finite numbers"
        ):
            guard(action, reading)
    change = CommandLimiter.SPARE * np.array(SPEC.joints.acceleration) * DT
    np.testing.assert_allclose(guard(np.ones(A, np.float32), HOME), np.minimum(before + change, 1))


def test_velocity_starts_with_a_ramp_and_changes_within_its_acceleration():
    guard = CommandLimiter(RECORD, ramp_s=0.5, acceleration=[1000.0] * A)
    guard.start(HOME)
    commands = np.array([guard(np.ones(A, np.float32), HOME).copy() for _ in range(20)])
    np.testing.assert_allclose(commands[:10, 0], np.arange(1, 11) / 10)
    np.testing.assert_allclose(commands[10:, 0], 1)
    guard = CommandLimiter(RECORD, ramp_s=0.0, acceleration=[6.0] * A)
    guard.start(HOME)
    actions = np.random.default_rng(0).uniform(-1, 1, (200, A)).astype(np.float32)
    commands = np.array([np.zeros(A), *(guard(action, HOME).copy() for action in actions)])
    assert np.abs(np.diff(commands, axis=0)).max() == pytest.approx(6 * DT)


def test_joints_far_beyond_a_limit_come_back_gently():
    guard = CommandLimiter(RECORD, ramp_s=0.0, acceleration=[8.0] * A)
    reading = HOME.copy()
    reading[:A] = np.array(SPEC.joints.upper) + 1.0
    guard.start(reading)
    commands = np.array([np.zeros(A), *(guard(np.ones(A, np.float32), reading).copy() for _ in range(10))])
    assert np.abs(np.diff(commands, axis=0)).max() <= 8 * DT + 1e-9
    np.testing.assert_allclose(commands[-1], -SPEC.joints.return_speed)


def test_joints_slow_down_and_stop_before_their_limits():
    guard = CommandLimiter(RECORD, ramp_s=0.0)
    upper, margin = np.array(SPEC.joints.upper), SPEC.joints.margin
    reading = HOME.copy()
    reading[:A] = np.array(SPEC.joints.default)
    guard.start(reading)
    for _ in range(400):
        command = guard(np.ones(A, np.float32), reading)
        reading[:A] += DT * command
        assert (reading[:A] <= upper - margin + 1e-5).all()
    np.testing.assert_allclose(reading[:A], upper - margin, atol=1e-3)
    beyond = reading.copy()
    beyond[:A] = upper
    assert (guard(np.ones(A, np.float32), beyond) < 0).all()


def test_a_joint_that_the_robot_lacks_is_named():
    record = {**RECORD, "action": {**RECORD["action"], "joints": [*RECORD["action"]["joints"][:6], "wrist"]}}
    with pytest.raises(ControllerError, match=r"wrist.*fr3_joint7"):
        CommandLimiter(record)
    unseen = {**RECORD, "inputs": {**RECORD["inputs"], "reading": RECORD["inputs"]["reading"][1:]}}
    with pytest.raises(ControllerError, match=r"joint_position.*fr3_joint1"):
        CommandLimiter(unseen)
    with pytest.raises(ControllerError, match=r"acceleration: .* 7 positive numbers"):
        CommandLimiter(RECORD, acceleration=[1.0] * 6)


def test_histogram_answers_percentiles_within_a_bin():
    latencies = Latencies()
    assert math.isnan(latencies.percentile(50))
    seconds = np.random.default_rng(0).lognormal(-11, 0.5, 20_000)
    for value in seconds:
        latencies.add(float(value))
    for share in (1, 50, 99, 99.9):
        assert 1 <= latencies.percentile(share) / np.percentile(seconds, share) <= 1.1
    assert latencies.longest == seconds.max()


def test_an_hour_of_steps_neither_drifts_nor_grows(controller, clock):  # noqa: F811
    robot = Robot(clock)
    robot.write = lambda command: None
    drive(controller, robot, 60)
    first = controller.step(HOME, GOAL)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    found = drive(controller, robot, 3600)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert found["steps"] == 3600 / DT
    assert found["missed_deadlines"] == 0
    assert grown < 16_384
    np.testing.assert_array_equal(controller.step(HOME, GOAL), first)


def test_real_time_is_kept_by_the_real_clock(controller):  # noqa: F811
    class Still(Robot):
        def write(self, command):
            self.times.append(time.monotonic())

    robot = Still(time.monotonic)
    found = run(controller, robot, GOAL, 20 * DT)
    assert 0 < found["latency_us_p50"] <= found["latency_us_p99"] <= found["latency_us_max"]
    assert found["steps"] + found["missed_deadlines"] >= 20
    assert robot.times[-1] - robot.times[0] == pytest.approx(19 * DT, abs=5 * DT)
