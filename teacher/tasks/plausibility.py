"""What in a task looks like a slip, found by trying it for a second or two in a cheap engine.

`teacher.tasks.validation` refuses what cannot work; what is found here may be meant so."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import jax
import mujoco
import numpy as np

from teacher.errors import FathomError
from teacher.spec import POSITION_TERMS
from teacher.tasks.base import AnalyticTask, MujocoTask, State, Task, achieved_goal, goal_distance
from teacher.tasks.chain import HINGE, ON_JOINT, SLIDE
from teacher.tasks.engines import AnalyticEngine, Engine, MujocoEngine
from teacher.tasks.validation import DRAWN, drawn_starts

TRIED = 8  # starts from which actions are tried
STEPS = 100  # random actions at most
RESPONSE_S = 0.5  # for which one entry of an action is held: a servo at its largest torque may take as long
POSES = 512  # random ones in which an arm is looked at
NEAREST = 8  # of these, that stand for those which bring it to a goal
FEW = 0.05  # share of goals that may seem out of reach for want of poses
SLACK = 0.04  # share of a joint's range, or rad or m, by which it may be beyond a limit
MOVED = 0.01  # share of the success radius: less, and a goal is of a thing that the robot does not touch
NO_EFFECT = 1e-6  # rad or m
SAME = 0.999  # correlation of one joint's position with what is seen of it
LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
FACTORS = {"degrees": 180 / np.pi, "millimetres": 1000.0, "centimetres": 100.0}
SERVOS = {"joint_position": 1, "joint_velocity": 2}  # entry of biasprm by which an actuator follows a command


class Trial:
    """A task in the C engine, or in its own arithmetic, and what was seen of it under random actions."""

    def __init__(self, task: Task):
        self.task, self.spec = task, task.spec
        self.model: Any = None  # of MuJoCo, where there is one
        if isinstance(task, MujocoTask):
            # Another engine's model, if the task does not run in this one.
            self.model = task.model("mujoco" if "mujoco" in task.engines else task.engines[0])
            self.engine: Engine = MujocoEngine(task, self.model)
        else:
            assert isinstance(task, AnalyticTask), f"{task.spec.name} runs nowhere"
            self.engine = AnalyticEngine(task)
        # Those of the specification that turn or slide in the model: entry of qpos, and the tighter of their
        # limits and the model's.
        self.joints: dict[str, tuple[int, float, float]] = {}
        for joint in (self.model.joint(i) for i in range(self.model.njnt)) if self.model else ():
            if joint.name in self.spec.joints.names and joint.type[0] in (HINGE, SLIDE):
                low, high = self.spec.joints.range_of(joint.name)
                least, most = joint.range if self.model.jnt_limited[joint.id] else (-np.inf, np.inf)
                self.joints[joint.name] = int(joint.qposadr[0]), max(low, least), min(high, most)
        self.start = drawn_starts(task, task.layouts[0])  # [DRAWN, ...]
        begun = self.run(self.start.qpos, self.start.qvel)
        self.begun = np.asarray(task.observe(begun))[0]  # [DRAWN, N]
        shape = min(STEPS, self.spec.episode_length), TRIED, self.spec.action_size
        actions = [*np.random.default_rng(0).uniform(-1, 1, shape)]
        self.random = self.run(self.start.qpos[:TRIED], self.start.qvel[:TRIED], actions)  # [T + 1, E, ...]
        self.observation = np.asarray(task.observe(self.random))  # [T + 1, E, N]

    def run(self, qpos: np.ndarray, qvel: np.ndarray, actions: Sequence[np.ndarray] = ()) -> State:
        """Takes actions [T, E, A] from states of E environments: -> [T + 1, E, ...]."""
        state = self.engine.init(qpos, qvel, ())
        seen = [self.engine.read(state)]
        for action in actions:
            state = self.engine.step(state, np.asarray(self.task.control(seen[-1], action)), ())
            seen.append(self.engine.read(state))
        whole: State = jax.tree.map(lambda *each: np.stack(each), *seen)
        return whole


def doubts(task: Task) -> list[str]:
    """Returns a sentence for each thing that looks like a slip: where, what was found, what is likely."""
    try:
        trial = Trial(task)
        return list(dict.fromkeys(chain.from_iterable(check(trial) for check in CHECKS)))
    except FathomError as error:
        return [f"under random actions, {error}"]


def _meant(factor: float) -> str:
    unit = next((name for name, known in FACTORS.items() if 0.9 < factor / known < 1.1), "")
    return f": {unit}?" if unit else ""


def _limits(trial: Trial) -> Iterator[str]:
    """Of limits that the model does not have."""
    spec = trial.spec.joints
    for name, (_, least, most) in trial.joints.items():
        low, high = spec.range_of(name)
        slack = SLACK * min(most - least, 1.0)
        if low < least - slack or high > most + slack:
            yield (
                f"spec.joints: {name!r} may go from {low:g} to {high:g} {spec.unit}, "
                f"in the model only from {least:.4g} to {most:.4g}"
            )


def _starts(trial: Trial) -> Iterator[str]:
    """Of starts beyond limits, or at their goals."""
    spec, layout = trial.spec, trial.task.layouts[0]
    for name, (entry, low, high) in trial.joints.items():
        at, slack = trial.start.qpos[:, entry], SLACK * min(high - low, 1.0)
        if many := int(((at < low - slack) | (at > high + slack)).sum()):
            yield (
                f"start(key, {layout!r}): joint {name!r} begins at {at.min():.4g} to {at.max():.4g} "
                f"{spec.joints.unit}, beyond [{low:.4g}, {high:.4g}] in {many} of {DRAWN} starts"
            )
    share = (goal_distance(spec, trial.begun, trial.start.goal) <= spec.goal.success_radius).mean()
    if share > 0.5:
        yield (
            f"spec.goal.success_radius: {spec.goal.success_radius:g} {spec.goal.unit} is so large that "
            f"{share:.0%} of episodes begin at their goals"
        )


def _observation(trial: Trial) -> Iterator[str]:
    """Of what is always the same, or is another joint's position, turned around or in another unit."""
    goal, qpos = trial.spec.goal, trial.random.qpos
    positions = {name: at for name, (i, *_) in trial.joints.items() if np.std(at := qpos[..., i].ravel())}
    for term in trial.spec.observation:
        for i, entry in enumerate(term.entries, term.start):
            seen, what = trial.observation[..., i].ravel(), f"{term.name}.{entry}"
            if i in goal.observation_indices and term.unit != goal.unit:
                named = goal.entries[goal.observation_indices.index(i)]
                yield (
                    f"spec.goal.observation_indices: goal entry {named!r} is in {goal.unit}, "
                    f"observation entry {i}, {what}, in {term.unit}"
                )
            if np.ptp(seen) == 0:  # a mass may be, but not where something is
                if term.unit in ("m", "rad") or i in goal.observation_indices:
                    yield f"observe(state): {what} is always {seen[0]:.4g}, wherever the robot moves"
            elif term.name in POSITION_TERMS and entry in positions:
                alike = {name: np.corrcoef(seen, at)[0, 1] for name, at in positions.items()}
                most = max(alike, key=lambda name: abs(alike[name]))
                factor = np.polyfit(positions[entry], seen, 1)[0]
                if abs(alike[entry]) < SAME:
                    other = f": it is that of {most!r}" if abs(alike[most]) > SAME else ""
                    yield f"observe(state): {what} is not the position of {entry!r}{other}"
                elif abs(factor - 1) > 0.01:
                    yield (
                        f"observe(state): {what} is {factor:.4g} times the position of {entry!r}"
                        f"{_meant(abs(factor))}"
                    )


def _actions(trial: Trial) -> Iterator[str]:
    """Of entries of an action that do nothing, that move another joint, or the other way than they say."""
    task, names = trial.task, trial.spec.action.joints
    # All of one entry, and all of its opposite, from the same starts.
    held = np.eye(len(names)).repeat(TRIED, 0)
    qpos, qvel = (np.tile(part[:TRIED], (len(names), 1)) for part in trial.start[:2])
    steps = max(2, round(RESPONSE_S / task.spec.control_dt))
    up, down = (trial.run(qpos, qvel, [sign * held] * steps) for sign in (1, -1))
    moved = np.abs(up.qpos[-1] - down.qpos[-1]).reshape(len(names), TRIED, -1).max(1)
    changed = ((up.control[1] - down.control[1]) / 2).reshape(len(names), TRIED, -1)
    # The most, since near a limit a task may command less.
    most = np.take_along_axis(changed, np.abs(changed).argmax(1, keepdims=True), 1)[:, 0]
    for i, name in enumerate(names):
        what = f"action entry {i}, {name!r}"
        own = [trial.joints[name][0]] if name in trial.joints else slice(None)
        wrong = list(_driven(trial, i, most[i])) if trial.model is not None else []
        if not most[i].any():
            yield f"control(state, action): {what}, changes no actuator's control"
        elif wrong:
            yield from wrong
        elif moved[i, own].max() < NO_EFFECT:
            seconds = steps * task.spec.control_dt
            yield f"{what}, moves nothing in {seconds:g} s: a dead actuator, a stuck joint?"


def _driven(trial: Trial, entry: int, change: np.ndarray) -> Iterator[str]:
    """Of the actuators [U] whose controls an entry of an action of 1 changes so much."""
    model, action = trial.model, trial.spec.action
    name, kind, scale = action.joints[entry], action.kinds[entry], action.scale[entry]
    what, driven = f"control(state, action): action entry {entry}, {name!r},", np.flatnonzero(change)
    if not all(model.actuator_trntype[u] in ON_JOINT for u in driven):
        return  # a tendon moves several
    joints = [model.joint(model.actuator_trnid[u, 0]).name for u in driven]
    own = [u for u, joint in zip(driven, joints, strict=True) if name in (joint, model.actuator(u).name)]
    if not own:
        yield from [f"{what} drives {' and '.join(map(repr, joints))}"] * bool(joints)
        return
    u, size = own[0], abs(change[own[0]])
    force = change[u] * model.actuator_gear[u, 0] * model.actuator_gainprm[u, 0]
    if force < 0 and kind in (*SERVOS, "joint_torque"):
        yield f"{what} moves it the other way: a positive action goes down"
    if kind in SERVOS and model.actuator_biasprm[u, SERVOS[kind]] and model.actuator_gear[u, 0] == 1:
        low, high = model.actuator_ctrlrange[u]
        if abs(scale / size - 1) > 0.01:
            yield (
                f"spec.action.scale: {scale:g} {action.unit} for {name!r}, "
                f"but an action of 1 commands {size:.4g}{_meant(scale / size)}"
            )
        if model.actuator_ctrllimited[u] and size > 1.01 * (high - low) / 2:
            yield (
                f"{what} commands up to {size:.4g} {action.unit}, its actuator takes [{low:.4g}, {high:.4g}]"
                f"{_meant(2 * size / (high - low))}"
            )


def _reach(trial: Trial) -> Iterator[str]:
    """Of goals that no pose of an arm reaches, and of ways that are longer than an episode."""
    spec, goal, dt = trial.spec, trial.start.goal, trial.spec.control_dt
    entries, low, high = np.array([*trial.joints.values()], float).reshape(-1, 3).T
    if trial.model is not None and trial.model.nq == len(entries) and np.isfinite([low, high]).all():
        qpos = np.empty((POSES, len(entries)))
        qpos[:, entries.astype(int)] = np.random.default_rng(0).uniform(low, high, (POSES, len(entries)))
        seen = trial.run(qpos, np.zeros((POSES, trial.model.nv)))
        poses = achieved_goal(spec, np.asarray(trial.task.observe(seen))[0])
        away = np.linalg.norm(goal[:, None] - poses, axis=-1)
        apart = np.partition(np.linalg.norm(poses[:DRAWN, None] - poses, axis=-1), NEAREST, 1)[:, NEAREST]
        beyond = away.min(1) > spec.goal.easy_radius + 2 * np.median(apart)
        if beyond.mean() > FEW:
            reached = zip(spec.goal.entries, poses.min(0), poses.max(0), strict=True)
            yield (
                f"start(key, {trial.task.layouts[0]!r}): {beyond.mean():.0%} of goals are out of reach, "
                f"{away.min(1)[beyond].mean():.3g} {spec.goal.unit} from the nearest of {POSES} poses on "
                f"average; these reach {', '.join(f'{name} {a:.3g} to {b:.3g}' for name, a, b in reached)}"
            )
            return
        speed = np.abs(np.diff(trial.random.qpos, axis=0)).max((0, 1)) / dt
        ways = np.abs(qpos[np.argsort(away, 1)[:, :NEAREST]] - trial.start.qpos[:, None])
        needed = (ways / np.maximum(speed, NO_EFFECT)).max(-1).min(-1)
    else:
        achieved = achieved_goal(spec, trial.observation)
        if np.linalg.norm(achieved - achieved[0], axis=-1).max(0).min() < MOVED * spec.goal.success_radius:
            return
        speed = np.linalg.norm(np.diff(achieved, axis=0), axis=-1).max() / dt
        needed = np.linalg.norm(goal - achieved_goal(spec, trial.begun), axis=-1) / speed
    if np.median(needed) > dt * spec.episode_length / 2:
        yield (
            f"spec.control_dt, spec.episode_length: an episode of {spec.episode_length} steps of {dt:g} s "
            f"lasts {dt * spec.episode_length:.3g} s, too short: at the highest speed that random actions "
            f"reach, the way to a goal takes {np.median(needed):.2g} s"
        )


def _marker(trial: Trial) -> Iterator[str]:
    """Of what was reached, shown where no body of the model carries a point."""
    task, goal, model = trial.task, trial.spec.goal, trial.model
    if not isinstance(task, MujocoTask) or goal.unit not in LENGTHS:
        return
    shown = np.asarray(task.marker(achieved_goal(task.spec, trial.observation[::10]))).reshape(-1, 3)
    data, frames = mujoco.MjData(model), []
    for data.qpos in trial.random.qpos[::10].reshape(-1, model.nq):
        mujoco.mj_kinematics(model, data)
        frames.append((data.xpos.copy(), data.xmat.reshape(-1, 3, 3).copy()))
    position, turn = (np.stack(part, 1)[1:] for part in zip(*frames, strict=True))
    axes, off = np.ptp(shown, axis=0) > NO_EFFECT, []
    for origin, rotation in zip(position, turn, strict=True):
        way, axis = (shown - origin)[:, axes].ravel(), rotation[:, axes].reshape(-1, 3)
        off.append(np.abs(way - axis @ np.linalg.lstsq(axis, way)[0]).max(initial=0))
    if min(off) > goal.success_radius * LENGTHS[goal.unit]:
        yield (
            f"marker(goal): what was reached is shown up to {min(off):.2g} m from where any body carries a "
            "point: an axis, a sign or a unit is wrong in observe(state) or marker(goal)"
        )


CHECKS = (_limits, _starts, _observation, _actions, _reach, _marker)
