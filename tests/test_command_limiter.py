"""What a robot is commanded, whatever a policy answers and whatever is read, as motion of simulated joints.

`sequences` are made once, with the guard in Python; the one in C++ has to answer them likewise (test_cpp).
`broken` judges both by the robot's limits alone. For 100,000 of them: FATHOM_ROUNDS=80 pytest ...
"""

import copy
import functools
import os
from typing import NamedTuple, get_args

import numpy as np
import pytest

from export.controller import JOINT_KINDS, KINDS, CommandLimiter, ControllerError
from teacher.spec import ActionKind, ActionSpec, GoalSpec, JointSpec, ObservationTerm, TaskSpec
from teacher.tasks import make_task

ROUNDS = range(int(os.environ.get("FATHOM_ROUNDS", 1)))
NEAR = 1e-6  # of float32
ACT, HOLD, START = 0.0, 1.0, 2.0
SHARE = 0.5  # of the acceleration limit, as docs/robots.md states it


def bench(*, known):
    """A robot with commands of every kind, whose acceleration is known or not."""
    joints = tuple(f"{name}_{way}" for name in ("turn", "short", "slow") for way in ("velocity", "position"))
    kinds = (*(f"joint_{joint.split('_')[1]}" for joint in joints), *KINDS[2:])
    one, radii = {"unit": "rad", "frame": "joint"}, ("success_radius", "strict_radius", "easy_radius")
    place = {"name": "place", "entries": ("turn",), "observation_indices": (0,), "low": (-1,), "high": (1,)}
    action = ActionSpec(
        kind=kinds,
        joints=(*joints, "motor", "wheels", "fingers", "lamp"),
        unit="mixed",
        scale=(3, 2, 1, 1, 2, 0.7, 5, 1, 0.03, 2),
        offset=(0.5, 0.2, 0, 0.1, 0, 0, 1, 0.5, 0.05, 1),
    )
    limits = JointSpec(
        names=joints,
        unit="rad",
        default=(0,) * 6,
        lower=(-1, -1, -0.2, -0.1, -0.5, -0.5),
        upper=(1, 1, 0.3, 0.3, 0.5, 0.5),
        velocity=(2, 2, 1, 1, 3, 3),
        slowdown=6 if known else 0,
        margin=0.02 if known else 0,
        return_speed=0.5 if known else None,
        acceleration=(12, 12, 3, 3, 1, 1) if known else None,
    )
    return TaskSpec(
        name=f"bench_{'known' if known else 'unknown'}",
        version=1,
        control_dt=0.05,
        episode_length=10,
        observation=(ObservationTerm(name="joint_position", start=0, entries=joints, **one),),
        goal=GoalSpec(**place, **dict.fromkeys(radii, 0.1), **one),
        action=action,
        joints=limits,
    )


TASKS = {
    "bench_known": bench(known=True),
    "bench_unknown": bench(known=False),
    **{name: make_task(name).spec for name in ("fr3_reach", "quad_reach", "fr3_pick_place")},
}


class Sequences(NamedTuple):
    """Rows of all sequences, one after the other; K rows, A entries of a command, M of a reading."""

    rows: np.ndarray  # [K, 1 + A + M] float32: what to do (START begins a sequence), action, reading
    commands: np.ndarray  # [K, A]: what the guard in Python answered, NaN where it refused
    measured: np.ndarray  # [K, A]: where the reading says that the joints are
    places: np.ndarray  # [K, A]: where they were
    ends: np.ndarray  # [K, A]: and where they came to within the period
    honest: np.ndarray  # [K] bool: readings are of places, older ones maybe, and not invented


class Robot:
    """Joints that do what they are commanded, at once or a period late."""

    def __init__(self, spec, chance):
        self.spec, self.chance = spec, chance
        action, joints = spec.action, spec.joints
        self.size = sum(len(term.entries) for term in spec.reading)
        home = dict(zip(joints.names, joints.default, strict=True))
        self.index, self.base = np.full(spec.action_size, -1), np.zeros(spec.action_size)
        for term in spec.reading:
            for i, entry in enumerate(term.entries):
                if term.name.startswith("joint_position") and entry in action.joints:
                    at = action.joints.index(entry)
                    self.index[at] = term.start + i
                    self.base[at] = home[entry] if term.name.endswith("from_default") else 0
        self.moving = np.array([kind.startswith("joint_v") for kind in action.kinds])
        self.placed = np.array([kind.startswith("joint_p") for kind in action.kinds])
        self.seen = self.index >= 0
        limits = joint_limits(spec)
        self.lower, self.upper = np.zeros(spec.action_size), np.zeros(spec.action_size)
        self.lower[self.seen], self.upper[self.seen] = limits.lower, limits.upper

    def start(self):
        chance, width = self.chance, self.upper - self.lower
        style = chance.integers(4, size=len(width))
        inside = self.lower + chance.random(len(width)) * width
        edge = np.where(chance.random(len(width)) < 0.5, self.lower, self.upper)
        outside = edge + np.sign(edge - self.lower - width / 2) * chance.uniform(0, 1, len(width))
        self.q = np.choose(style, [inside, inside, edge, outside]) * self.seen
        self.late = chance.random() < 0.5
        self.before, self.still, self.off = None, 2, True

    def reading(self, q):
        found = np.zeros(self.size, np.float32)
        found[self.index[self.seen]] = (q - self.base)[self.seen]
        return found

    def push(self):
        """Somebody moves it while its motors are off; they are on again with the next action."""
        self.q = self.q + self.chance.uniform(-0.6, 0.6, len(self.q)) * self.seen
        self.before, self.off = None, True

    def move(self, command, holds):
        self.off &= holds
        if self.off:
            return
        now = np.where(self.moving, command, np.where(self.placed, command, 0))
        before = np.where(self.placed, self.q, 0) if self.before is None else self.before
        at_rest = (now[self.moving] == 0).all() and (now[self.placed] == before[self.placed]).all()
        self.still = self.still + 1 if at_rest else 0
        done = before if self.late else now
        self.q = np.where(self.placed, done, self.q + done * self.spec.control_dt * self.moving)
        self.before = now


class Limits(NamedTuple):
    """Of the joints among a task's commands, [J] each, as the specification states them for the robot."""

    columns: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    return_speed: np.ndarray
    change: np.ndarray


def joint_limits(spec):
    joints = spec.joints
    columns = np.array([i for i, kind in enumerate(spec.action.kinds) if kind in JOINT_KINDS])
    rows = [joints.names.index(spec.action.joints[i]) for i in columns]
    lower, upper, velocity = (np.array(each)[rows] for each in (joints.lower, joints.upper, joints.velocity))
    back = np.minimum(joints.return_speed or np.inf, velocity)
    acceleration = np.array(joints.acceleration or [np.inf] * len(joints.names))[rows]
    return Limits(columns, lower, upper, velocity, back, SHARE * acceleration * spec.control_dt)


def actions_of(chance, size, count):
    """A policy's answers [count, size] of one style: pushing, changing its mind, senseless, or drawn."""
    signs = chance.choice([-1.0, 1.0], size)
    style = chance.integers(5)
    if style == 0:
        actions = np.tile(signs, (count, 1))
    elif style == 1:
        actions = chance.choice([-1.0, 1.0], (count, size))
    elif style == 2:
        actions = np.tile(signs * 10.0 ** chance.integers(0, 30), (count, 1))
    else:
        actions = chance.uniform(-1, 1, (count, size)) * (1 if style == 3 else 0.05)
    return actions.astype(np.float32)


@functools.lru_cache(maxsize=2 * len(TASKS))
def sequences(name, seed, count=250, share=None):
    spec = TASKS[name]
    chance = np.random.default_rng(seed)
    guard, robot = CommandLimiter(spec.for_robot(), ramp_s=0.1, share=share), Robot(spec, chance)
    size, found = spec.action_size, []

    def add(what, action, reading, honest):
        place, row = robot.q, np.concatenate([[what], action, reading]).astype(np.float32)
        try:
            commanded = (
                guard.start if what == START else lambda: guard(action if what == ACT else None, reading)
            )
            answer = copy.copy(commanded())
        except ControllerError:
            answer = None
        if answer is not None:
            robot.move(answer, what == HOLD)
        measured = np.where(robot.seen, reading[robot.index].astype(np.float64) + robot.base, 0)
        nothing = np.full(size, np.nan)
        found.append((row, nothing if answer is None else answer, measured, place, robot.q, honest))

    for _ in range(count):
        robot.start()
        reading, honest = robot.reading(robot.q), chance.random() < 0.8
        add(START, np.zeros(size), reading, honest)
        for _ in range(chance.integers(2, 9)):
            event = chance.choice(5, p=[0.55, 0.2, 0.15, 0.05, 0.05])
            steps = int(chance.integers(1, 13))
            for action in actions_of(chance, size, steps):
                if event == 1:  # readings are stale, or never came
                    add(HOLD, np.zeros(size), reading, honest)
                    continue
                if event == 3:  # something is no number
                    senseless = reading.copy()
                    values = action if chance.random() < 0.5 else senseless
                    values[chance.integers(len(values))] = chance.choice([np.nan, np.inf, -np.inf])
                    add(ACT, action, senseless, honest)
                    break
                if not honest:
                    reading = robot.reading(chance.normal(size=size) * 10.0 ** chance.integers(-2, 4))
                elif event != 2:  # else the sensor froze
                    reading = robot.reading(robot.q)
                add(ACT, action, reading, honest)
            if event == 1 and honest and robot.still > 2 and chance.random() < 0.5:
                robot.push()
                reading = robot.reading(robot.q)
    return Sequences(*(np.array(each) for each in zip(*found, strict=True)))


def broken(spec, made, commands):
    """Which limits of the robot these answers to the sequences break, by how much; empty if none.

    Args: commands: [K, A], NaN where an answer was refused."""
    dt, limits = spec.control_dt, joint_limits(spec)
    what, first = made.rows[:, 0], np.cumsum(made.rows[:, 0] == START)
    given = ~np.isnan(commands).any(axis=1)
    kept = np.flatnonzero(given)
    same = np.concatenate([[False], first[kept][1:] == first[kept][:-1]])
    before = np.where(same, np.roll(kept, 1), -1)  # the row of the command before
    holds = what[kept] == HOLD
    answered, earlier = commands[kept], commands[before]
    found = {}

    def judge(name, excess):
        worst = float(np.max(excess, initial=-np.inf))
        if not worst <= NEAR:
            found[name] = worst

    by_velocity = np.array(spec.action.kinds)[limits.columns] == "joint_velocity"
    known = np.where(made.honest[:, None], made.places, made.measured)[kept]
    now, then, at = (each[:, limits.columns] for each in (answered, earlier, known))
    speed, last = np.zeros_like(now), np.zeros(len(limits.columns))
    for k in range(len(kept)):
        if not same[k]:
            last = np.zeros(len(limits.columns))
        # A position goes on from the one before, or, first and after a rest, from where the joint is.
        rested = (last == 0) & (holds[k - 1] & ~holds[k])
        if not made.honest[kept[k]]:  # by chance an invented reading is the one before, as of a frozen sensor
            rested &= at[k] != at[k - 1]
        place = np.where(rested | ~same[k], at[k], then[k])
        last = np.where(by_velocity, now[k], (now[k] - place) / dt)
        last[np.abs(last) < 1e-9] = 0  # a sum's rounding
        speed[k] = last
    slower = np.where(same[:, None], np.roll(speed, 1, axis=0), 0)
    judge("velocity", (np.abs(speed) - limits.velocity) * dt)
    judge("acceleration", (np.abs(speed - slower) - limits.change) * dt)
    judge("hold", ((np.abs(speed) - np.maximum(np.abs(slower) - limits.change, 0)) * dt)[holds])

    moved = given & made.honest
    start, end = (each[moved][:, limits.columns] for each in (made.places, made.ends))
    outside, left = (np.maximum(np.maximum(q - limits.upper, limits.lower - q), 0) for q in (start, end))
    judge("position", left - outside)
    judge("motion", np.abs(end - start) - limits.velocity * dt)
    judge("return", (np.abs(end - start) - limits.return_speed * dt)[outside > NEAR])

    for i, kind in enumerate(spec.action.kinds):
        scale, offset, values = spec.action.scale[i], spec.action.offset[i], answered[:, i]
        if i not in limits.columns:
            judge(f"{kind} range", (np.abs(values - offset) - abs(scale))[~holds])
            held = earlier[:, i] if kind == "gripper_width" else offset if kind == "other" else 0
            judge(f"{kind} hold", np.abs(values - held)[holds])
    return found


@pytest.mark.parametrize("seed", ROUNDS)
@pytest.mark.parametrize("name", TASKS)
def test_no_limit_is_broken_in_any_sequence(name, seed):
    made = sequences(name, seed)
    assert not broken(TASKS[name], made, made.commands)
    refused = np.isnan(made.commands).any(axis=1)
    senseless = ~np.isfinite(made.rows).all(axis=1)
    assert refused[senseless].mean() > 0.1
    assert not (made.rows[refused & ~senseless & (made.rows[:, 0] != START)][:, 0] == ACT).any()


@pytest.mark.parametrize("name", TASKS)
def test_nor_where_a_share_of_the_commands_is_taken(name):
    chance = np.random.default_rng(1)
    made = sequences(name, 0, 100, lambda *_: chance.choice([0.0, chance.random(), 1.0]))
    assert not broken(TASKS[name], made, made.commands)


def record(**joints):
    """Of a robot with one joint of each kind, whose limits may differ from bench's in these."""
    whole = TASKS["bench_known"].for_robot()
    action = {key: value[:2] for key, value in whole["action"].items() if isinstance(value, list)}
    alike = {"velocity", "acceleration"}
    joints = {key: [value] * 6 if key in alike and value else value for key, value in joints.items()}
    return whole | {"action": whole["action"] | action, "joints": whole["joints"] | joints}


def limiter(spec=None, ramp_s=0.0, **options):
    guard = CommandLimiter(record() if spec is None else spec, ramp_s=ramp_s, **options)
    guard.start()
    return guard


def placed(q):
    """A reading of a robot whose first two joints are here."""
    return np.array([*np.broadcast_to(q, 2), 0, 0, 0, 0], np.float32)


FULL = np.array([1, 1], np.float32)


def moved(guard, q, action, count, *, late=False, dt=0.05):
    """Where two joints [count + 1, 2] are that a policy drives on with this action."""
    places, before = [np.array([q, q])], np.array([0, q])
    for _ in range(count):
        now = guard(action, placed(places[-1])).copy()
        done = before if late else now
        places.append(np.array([places[-1][0] + done[0] * dt, done[1]]))
        before = now
    return np.array(places)


@pytest.mark.parametrize("late", [False, True])
def test_every_limit_can_be_braked_for_in_whole_periods(late):
    chance = np.random.default_rng(0)
    for _ in range(100):
        velocity, acceleration, dt = 10 ** chance.uniform(-1, 1), 10 ** chance.uniform(-1, 2), 0.05
        limits = record(velocity=velocity, acceleration=acceleration, slowdown=0, margin=0)
        limits["action"] |= {"scale": [20, 20], "offset": [0, 0]}
        needed = 2 / velocity + 2 * velocity / (SHARE * acceleration)
        places = moved(limiter(limits), chance.uniform(-1, 1), FULL, int(needed / dt) + 100, late=late)
        speeds = np.diff(places, axis=0, prepend=places[:1]) / dt
        assert places.max() <= 1 + NEAR
        np.testing.assert_allclose(places[-1], 1, atol=SHARE * acceleration * dt**2 + NEAR)
        assert np.abs(speeds).max() <= velocity + 1e-4
        assert np.abs(np.diff(speeds, axis=0)).max() <= SHARE * acceleration * dt + 1e-4


@pytest.mark.parametrize("beyond", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("wish", [-1, 0, 1])
def test_a_joint_outside_its_limits_comes_back_no_faster_than_it_may(beyond, wish):
    places = moved(limiter(record(margin=0)), 1 + beyond, FULL * wish, 300)
    speeds, outside = np.diff(places, axis=0) / 0.05, places[:-1] > 1 + NEAR
    assert (speeds[outside] <= NEAR).all() and (np.abs(speeds[outside]) <= 0.5 + 1e-4).all()
    assert (places[-1] <= 1 + NEAR).all()


def test_joints_slow_down_and_stop_at_the_margin_before_their_limits():
    spec = TASKS["fr3_reach"]
    guard, edge = limiter(spec.for_robot()), np.array(spec.joints.upper) - spec.joints.margin
    reading = np.zeros(spec.observation_size, np.float32)
    reading[:7] = spec.joints.default
    for _ in range(400):
        reading[:7] += spec.control_dt * guard(np.ones(7, np.float32), reading)
        assert (reading[:7] <= edge + 1e-5).all()
    np.testing.assert_allclose(reading[:7], edge, atol=1e-3)


def test_limits_hold_while_a_sensor_that_seems_alive_reads_the_same_for_ever():
    for start, wish in ((0.2, 1), (0.9, 1), (1.3, 0), (1.3, -1)):
        guard, q = limiter(), start
        for _ in range(400):
            q += guard(FULL * wish, placed(start))[0] * 0.05
            assert -1 <= q <= max(start, 1)
        assert q <= 1


def test_velocities_start_with_a_ramp_and_change_within_the_acceleration_that_is_given():
    free = record(acceleration=1000, velocity=3, slowdown=0, upper=[100] * 6)
    free["action"] |= {"scale": [2, 2], "offset": [0, 0]}
    guard = limiter(free, ramp_s=0.5)
    found = [guard(FULL, placed(0.0))[0] for _ in range(20)]
    np.testing.assert_allclose(found, [*(0.2 * np.arange(1, 11)), *[2.0] * 10])
    gentle = moved(limiter(acceleration=[0.1, 0.1]), 0.0, FULL, 50)
    assert np.abs(np.diff(gentle, 2, axis=0)).max() <= 0.1 * 0.05**2 + 1e-9


@pytest.mark.parametrize("unlimited", [None, np.inf])
def test_a_joint_without_position_limits_needs_no_position(unlimited):
    blind = record(upper=[unlimited] * 6, lower=[unlimited and -unlimited] * 6)
    blind["inputs"] = blind["inputs"] | {"reading": []}
    action = blind["action"].items()
    blind["action"] = {key: value[:1] if isinstance(value, list) else value for key, value in action}
    guard = limiter(blind)
    commands = [guard(FULL[:1], np.zeros(0, np.float32))[0] for _ in range(50)]
    np.testing.assert_allclose(commands[-1], 2)
    assert np.abs(np.diff(commands)).max() <= 0.3 + 1e-9


def test_what_cannot_be_kept_within_limits_is_refused_by_name():
    assert set(KINDS) == set(get_args(ActionKind)) == set(TASKS["bench_known"].action.kinds)
    whole = record()
    for change, message in (
        ({"action": whole["action"] | {"kind": "joint_velocty"}}, "kind joint_velocty, allowed: joint_velo"),
        ({"action": whole["action"] | {"joints": ["turn_velocity", "wrist"]}}, "wrist.*turn_position"),
        ({"inputs": whole["inputs"] | {"reading": []}}, r"joint_position.*turn_velocity"),
    ):
        with pytest.raises(ControllerError, match=message):
            CommandLimiter(whole | change)
    for wrong in ([1.0], [1.0, 0.0]):
        with pytest.raises(ControllerError, match=r"acceleration: .* 2 positive numbers"):
            CommandLimiter(whole, acceleration=wrong)


def test_a_command_that_is_no_number_is_never_given():
    guard, twin = limiter(), limiter()
    for each in (guard, twin):
        each(FULL, placed(0.0))
    for action, reading in ((FULL * np.nan, placed(0.0)), (FULL, placed([0.0, np.inf]))):
        with pytest.raises(ControllerError, match=r"(action: .*|turn_position is at inf, allowed: )finite"):
            guard(action, reading)
    np.testing.assert_array_equal(guard(FULL, placed(0.1)), twin(FULL, placed(0.1)))


def test_a_robot_may_write_into_the_command_that_it_is_given():
    guard, twin = limiter(), limiter()
    for action in (FULL, FULL, None, None, -FULL):
        command, expected = guard(action, placed(0.0)), twin(action, placed(0.0)).copy()
        np.testing.assert_array_equal(command, expected)
        command *= 1000  # as of a robot that takes millimetres


def test_a_share_is_told_where_commands_lead_however_far_a_robot_by_position_lags():
    told = []
    guard = limiter(share=lambda *given: told.append(given) or 1.0)
    commands = [guard(FULL, placed(0.0)).tolist() for _ in range(8)]
    for (_, before), (q, last, _) in zip(commands, told[1:], strict=False):
        assert q[0] == 0
        assert q[1] + 0.05 * last[1] == pytest.approx(before)


@pytest.mark.parametrize("answer", [float("nan"), -0.1, 1.1, None])
def test_after_a_share_that_is_none_joints_come_to_rest_from_the_last_command(answer):
    shares = iter([1.0] * 9 + [answer])
    guard = limiter(share=lambda *_: next(shares))
    commands = [guard(FULL, placed(0.0)).copy() for _ in range(9)]
    with pytest.raises((ControllerError, TypeError)):
        guard(FULL, placed(0.0))
    commands += [guard(None, placed(0.0)).copy() for _ in range(20)]
    velocities = (
        np.array([[v, 0] for v, _ in commands])
        + np.diff(np.array([[0, q] for _, q in commands]), axis=0, prepend=0) / 0.05
    )
    change = 0.05 * CommandLimiter.SPARE * record()["joints"]["acceleration"][0]
    assert np.abs(np.diff(velocities, axis=0)).max() <= change + 1e-9
    assert (velocities[8] > 0).all()
    assert not velocities[-1].any()
