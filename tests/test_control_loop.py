"""The loop on the robot: its clock, what it holds for, and how it ends."""

import gc
import math
import signal
import sys
import time
import tracemalloc

import numpy as np
import pytest
from bundles import SPEC, A, N, ran
from test_command_limiter import record

from export.controller import ControllerError, Log, run
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
    """Stands where it is told; `busy` seconds pass whenever it is written to, `at_write` says what else."""

    def __init__(self, clock, busy=(), at_write=lambda robot: None):
        self.clock, self.busy, self.at_write = clock, list(busy), at_write
        self.written, self.times, self.stopped, self.age = [], [], 0, 0.0

    def read(self):
        return self.clock() - self.age, HOME

    def write(self, command):
        self.written.append(command.copy())
        self.times.append(self.clock())
        self.at_write(self)
        self.clock.now += self.busy.pop(0) if self.busy else 0.0

    def stop(self):
        self.stopped += 1


@pytest.fixture
def clock():
    return Clock()


def drive(controller, robot, seconds, goal=GOAL, **options):
    clock = robot.clock
    found = run(controller, robot, goal, seconds, clock=clock, sleep=clock.sleep, **options)
    assert robot.stopped == 1
    return found


def test_steps_come_at_the_control_period_without_drift(controller, clock):
    robot = Robot(clock, busy=[0.3 * DT] * 200)
    found = drive(controller, robot, 200 * DT)
    np.testing.assert_allclose(robot.times, 100 + DT * np.arange(200), atol=1e-9)
    assert (found["steps"], found["missed_deadlines"], found["held"]) == (200, 0, 0)


def test_every_period_that_is_over_too_late_is_counted_and_skipped(controller, clock):
    robot = Robot(clock, busy=[0, 2.5 * DT, 0, 1.5 * DT, 0])
    found = drive(controller, robot, 20 * DT)
    assert found["missed_deadlines"] == 2 + 1
    # A late period is its own step, so of those over only the ones after it got none.
    assert found["steps"] == 20 - (2 - 1) - (1 - 1)
    begun = (np.array(robot.times) - 100) / DT
    np.testing.assert_allclose(begun[:6], [0, 1, 3.5, 4, 5.5, 6], atol=1e-6)


def test_a_stale_reading_holds_the_robot_until_a_fresh_one(controller, clock):
    stale, fresh = Robot(clock), Robot(clock)
    stale.age = 3 * DT
    found = drive(controller, stale, 10 * DT)
    assert found["held"] == found["steps"] == 10
    np.testing.assert_array_equal(stale.written, np.zeros((10, A)))
    assert drive(controller, fresh, 10 * DT)["held"] == 0
    assert np.abs(fresh.written[-1]).max() > 0


@pytest.mark.parametrize("failure", [RuntimeError("cable"), KeyboardInterrupt()])
def test_whatever_happens_the_robot_is_stopped(controller, clock, failure):
    def fail(robot):
        if len(robot.written) == 3:
            raise failure

    robot = Robot(clock, at_write=fail)
    with pytest.raises(type(failure)):
        drive(controller, robot, 1.0)
    assert (robot.stopped, len(robot.written)) == (1, 3)


@pytest.mark.parametrize("age", [0, 10 * DT])
def test_a_reading_that_is_not_a_number_stops_it_by_name_stale_or_not(controller, clock, age):
    robot = Robot(clock)
    reading = HOME.copy()
    reading[2] = np.nan
    robot.read = lambda: (clock() - age, reading if robot.written else HOME)
    with pytest.raises(ControllerError, match=r"joint_position\.fr3_joint3 = nan"):
        drive(controller, robot, 1.0)
    assert (robot.stopped, len(robot.written)) == (1, 1)


def test_the_goal_may_move_and_a_log_keeps_the_newest_steps(controller, clock, tmp_path):
    robot, asked = Robot(clock), []

    def goal(now):
        asked.append(now)
        return GOAL if now < 15 * DT else GOAL + np.float32(0.1)

    log = Log(RECORD, 8)
    drive(controller, robot, 20 * DT, goal, log=log)
    np.testing.assert_allclose(asked, DT * np.arange(20), atol=1e-9)
    log.save(tmp_path / "log.npz")
    with np.load(tmp_path / "log.npz") as found:
        np.testing.assert_allclose(found["seconds"], asked[12:])
        np.testing.assert_allclose(found["goal"][:, 0] - GOAL[0], [0] * 3 + [0.1] * 5, atol=1e-6)
        np.testing.assert_array_equal(found["command"], robot.written[12:])
        np.testing.assert_array_equal(found["reading"], [HOME] * 8)
        assert not found["held"].any()


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


def test_the_loop_tells_a_policy_its_last_action(clock):
    spec = make_task("quad_reach").spec.for_robot()
    place, _ = spec["inputs"]["last_action"]
    last = spec["inputs"]["reading"][-1]
    policy, robot = Pushing(spec, 0.25), Robot(clock)
    robot.read = lambda: (clock(), np.zeros(last["start"] + len(last["entries"]), np.float32))
    drive(policy, robot, 10 * spec["control_dt"])
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

    robot = Slide(clock, take, start)
    assert drive(Pushing(record(), answer), robot, 200 * DT)["held"] >= 200 - 8 - 2
    places = np.array(robot.places)
    np.testing.assert_array_equal(places[30:], np.broadcast_to(places[30], places[30:].shape))
    assert np.abs(places[30] - places[10]).max() <= 2**2 / (2 * 0.5 * 12) + 2 * DT
    assert (np.array(robot.written)[30:, 1] == 0).all()


def test_nothing_is_commanded_for_positions_before_a_fresh_reading(clock):
    robot = Slide(clock, lambda period, q: (0.0, 0.0) if period < 4 else (clock(), q), 0.45)
    assert drive(Pushing(record()), robot, 8 * DT)["held"] == 4
    assert robot.written[0][0] == 4
    assert abs(robot.written[0][2] - 0.45) <= 2 * DT


def test_what_follows_a_hold_is_a_new_episode_from_where_the_robot_was_moved_to(clock):
    def take(period, q):
        if period == 20:
            robot.q[:] = -0.4
        return (clock(), robot.q) if not 6 <= period < 20 else (clock() - 9, q)

    robot, policy, log = Slide(clock, take, 0.3), Pushing(record()), Log(record(), 30)
    drive(policy, robot, 30 * DT, GOAL[:1], log=log)
    assert policy.episodes == 1 + 14
    assert abs(log.columns()["command"][20, 1] + 0.4) <= 0.5 * 12 * DT**2 + 1e-6
    assert (log.columns()["action"][6:20] == 0).all()


@pytest.mark.parametrize("stamp", [math.nan, -math.inf, None, "now", 1.79e9, 100.02, [100.0]])
def test_a_time_that_the_clock_has_not_had_stops_the_robot_and_names_the_clock(clock, stamp):
    robot = Slide(clock, lambda period, q: (stamp, q))
    with pytest.raises(ControllerError, match=r"its time is .*clock says 100\.000; .*time\.monotonic"):
        drive(Pushing(record()), robot, 1.0)
    assert (robot.stopped, robot.written) == (1, [])


def test_a_reading_that_was_long_on_its_way_is_stale(clock):
    def take(period, q):
        taken = clock()
        clock.now += 3 * DT
        return taken, q

    found = drive(Pushing(record()), Slide(clock, take), 40 * DT)
    assert found["held"] == found["steps"] > 5


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_second_signal_does_not_keep_the_robot_from_being_stopped(clock, number, raised):
    class Interrupted(Robot):
        sent = False

        def stop(self):
            for _ in range(3):
                signal.raise_signal(number)
            time.sleep(0.01)
            self.sent = True
            super().stop()

    def handlers():
        return [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    found, robot = handlers(), Interrupted(clock, at_write=lambda robot: signal.raise_signal(number))
    # A job in the background ignores the one, and by default the other ends a process, also after the stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    before = handlers()
    try:
        with pytest.raises(raised):
            drive(Pushing(RECORD, 0.0), robot, 1.0)
        assert handlers() == before
    finally:
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), found, strict=True):
            signal.signal(each, handler)
    assert (robot.sent, robot.stopped, len(robot.written)) == (True, 1, 1)


@pytest.mark.parametrize("fails", [False, True])
def test_a_stop_is_repeated_until_it_returned_or_failed_by_name(clock, fails):
    class Stubborn(Robot):
        tries = 0

        def stop(self):
            self.tries += 1
            if self.tries < 3:
                raise KeyboardInterrupt
            self.stopped = 1
            if fails:
                raise ControllerError("robot: the brakes do not answer")

    robot = Stubborn(clock)
    if fails:
        with pytest.raises(ControllerError, match="the brakes do not answer"):
            drive(Pushing(RECORD, 0.0), robot, 5 * DT)
    else:
        drive(Pushing(RECORD, 0.0), robot, 5 * DT)
    assert robot.tries == 3


ENDED = """
import os, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from controller import load, run

class Robot:
    read = lambda self: (time.monotonic(), np.zeros(17, np.float32))
    write = lambda self, command: os.kill(os.getpid(), 15)
    stop = lambda self: print("stopped", flush=True)

run(load(sys.argv[1]), Robot(), np.float32([0.3, 0.1, 0.5]), 5.0)
"""


def test_sigterm_stops_the_robot_before_it_ends_the_process(bundle):
    assert ran(sys.executable, "-c", ENDED, bundle, code=128 + signal.SIGTERM).stdout == "stopped\n"


@pytest.mark.parametrize("own", [False, True])
def test_what_a_program_holds_is_not_searched_for_garbage_during_the_loop(controller, clock, own):
    held, searched = [[i] for i in range(1000)], []
    if own:  # as programs do that care for it themselves
        gc.freeze()
    try:
        robot = Robot(clock, at_write=lambda _: searched.append(len(gc.get_objects())))
        drive(controller, robot, 2 * DT)
        assert max(searched) < len(held)
        assert (gc.get_freeze_count() > 0) == own
    finally:
        gc.unfreeze()


def test_percentiles_are_of_the_newest_steps_and_the_longest_of_all(clock, monkeypatch):
    monkeypatch.setattr("export.controller.MOST_LATENCIES", 4)
    found = drive(
        Pushing(RECORD, 0.0), Robot(clock, busy=[0.9 * DT, *[0.1 * DT] * 3, *[0.2 * DT] * 2]), 6 * DT
    )
    expected = 1e6 * DT * np.array([0.15, 0.2, 0.9])
    np.testing.assert_allclose([found[f"latency_us_{key}"] for key in ("p50", "p99", "max")], expected)
    assert math.isnan(drive(Pushing(RECORD), Robot(clock), 0.0)["latency_us_p50"])


def test_many_steps_neither_drift_nor_grow(controller, clock):
    def steps(count):
        robot = Robot(clock)
        robot.write = lambda command: None
        return drive(controller, robot, count * DT)

    steps(1000)
    first = controller.step(HOME, GOAL)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    found = steps(8000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert (found["steps"], found["missed_deadlines"]) == (8000, 0)
    assert grown < 8000
    np.testing.assert_array_equal(controller.step(HOME, GOAL), first)


def test_real_time_is_kept_by_the_real_clock(controller):
    robot, times = Robot(time.monotonic), []
    robot.write = lambda command: times.append(time.monotonic())
    found = run(controller, robot, GOAL, 20 * DT)
    assert 0 < found["latency_us_p50"] <= found["latency_us_p99"] <= found["latency_us_max"]
    assert found["steps"] + found["missed_deadlines"] >= 20
    assert times[-1] - times[0] == pytest.approx(19 * DT, abs=5 * DT)
