"""What in a task looks like a slip: it is tried for a second or two in a cheap engine, and nothing is refused.

`teacher.tasks.validation` refuses what cannot work; what is found here may be meant so."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import jax
import mujoco
import numpy as np

from teacher.compilation import jit_once
from teacher.errors import FathomError
from teacher.spec import POSITION_TERMS
from teacher.tasks.base import MujocoTask, Start, State, Task, achieved_goal, goal_distance
from teacher.tasks.engines import AnalyticEngine, Engine, MujocoEngine, control_substeps, seen_of
from teacher.tasks.validation import DRAWN

POSES = 512  # random configurations in which an arm is looked at
TRIED = 8  # starts from which actions are tried
FEW = 0.05  # of goals, at the edge of what few poses show
NEAREST = 8  # poses
STEPS = 100  # random actions at most
RESPONSE_S = 0.1  # for which one entry of an action is held
SLACK = 0.04  # share of a joint's range, or rad or m, by which it may be beyond a limit
MOVED = 0.01  # of the success radius, under random actions
NO_EFFECT = 1e-6  # rad or m
FACTORS = ((180 / np.pi, "degrees"), (1000.0, "millimetres"), (100.0, "centimetres"))
LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
SERVOS = {"joint_position": 1, "joint_velocity": 2}  # entry of an actuator's biasprm that is not 0


class Trial(NamedTuple):
    """A task in the engine in which it is tried."""

    task: Task
    engine: Engine
    model: mujoco.MjModel | None
    start: Start  # [DRAWN], of the layout that trains
    begun: np.ndarray  # [DRAWN, N]: what is seen there
    run: "Run"  # under random actions


class Run(NamedTuple):
    """T control periods of E environments."""

    state: State  # [T + 1, E, ...]
    observation: np.ndarray  # [T + 1, E, N]


def doubts(task: Task) -> list[str]:
    """Returns a sentence about each thing that looks like a slip: where, what was found, what is likely."""
    draw = jit_once(jax.vmap(partial(task.start, layout=task.layouts[0])))
    start = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), DRAWN)))
    engine, model = _cheapest(task)
    shape = min(STEPS, task.spec.episode_length), TRIED, task.spec.action_size
    actions = np.random.default_rng(0).uniform(-1, 1, shape)
    try:
        run = _run(task, engine, start.qpos[:TRIED], start.qvel[:TRIED], actions)
        trial = Trial(task, engine, model, start, _seen(task, engine, start.qpos, start.qvel), run)
        return list(dict.fromkeys(chain.from_iterable(check(trial) for check in CHECKS)))
    except FathomError as error:
        return [f"random actions: {error}"]


def _cheapest(task: Task) -> tuple[Engine, mujoco.MjModel | None]:
    """The C engine, also over the model of another one; a task's own arithmetic where there is no model."""
    if not isinstance(task, MujocoTask):
        return AnalyticEngine(task), None
    name = next(name for name in ("mujoco", *task.engines) if name in task.engines and name != "analytic")
    model = task.model(name)
    return MujocoEngine(model, control_substeps(task, model), seen_of(task, model)), model


def _begin(engine: Engine, qpos: np.ndarray, qvel: np.ndarray) -> Any:
    state = engine.init(qpos, qvel, ())
    return jax.tree.map(np.asarray, state) if isinstance(engine, AnalyticEngine) else state


def _seen(task: Task, engine: Engine, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """Observations [E, N] of states."""
    return np.asarray(task.observe(engine.read(_begin(engine, qpos, qvel))))


def _run(task: Task, engine: Engine, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray) -> Run:
    """Takes actions [T, E, A]."""
    state = _begin(engine, qpos, qvel)
    seen = [engine.read(state)]
    for action in actions:
        state = engine.step(state, np.asarray(task.control(seen[-1], action)), ())
        seen.append(engine.read(state))
    whole = jax.tree.map(lambda *each: np.stack(each), *seen)
    return Run(whole, np.asarray(task.observe(whole)))


def _scalar_joints(trial: Trial) -> dict[str, int]:
    """Joints of the specification that turn or slide in the model, by number."""
    if trial.model is None:
        return {}
    scalar = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
    names = {
        trial.model.joint(i).name: i for i in range(trial.model.njnt) if trial.model.jnt_type[i] in scalar
    }
    return {name: names[name] for name in trial.task.spec.joints.names if name in names}


def _limits(trial: Trial, name: str, joint: int) -> tuple[float, float]:
    low, high = trial.task.spec.joints.range_of(name)
    if trial.model.jnt_limited[joint]:
        low, high = max(low, trial.model.jnt_range[joint, 0]), min(high, trial.model.jnt_range[joint, 1])
    return low, high


def _joint_limits(trial: Trial) -> Iterator[str]:
    unit = trial.task.spec.joints.unit
    for name, joint in _scalar_joints(trial).items():
        stated, (low, high) = trial.task.spec.joints.range_of(name), trial.model.jnt_range[joint]
        slack = SLACK * min(high - low, 1.0)
        if trial.model.jnt_limited[joint] and (stated[0] < low - slack or stated[1] > high + slack):
            yield (
                f"spec.joints: {name!r} may go from {stated[0]:g} to {stated[1]:g} {unit}, "
                f"but in the model only from {low:.4g} to {high:.4g}"
            )


def _starts(trial: Trial) -> Iterator[str]:
    spec, layout = trial.task.spec, trial.task.layouts[0]
    for name, joint in _scalar_joints(trial).items():
        (low, high), at = _limits(trial, name, joint), trial.start.qpos[:, trial.model.jnt_qposadr[joint]]
        slack = SLACK * min(high - low, 1.0)
        if many := int(((at < low - slack) | (at > high + slack)).sum()):
            yield (
                f"start(key, {layout!r}): joint {name!r} begins between {at.min():.4g} and {at.max():.4g} "
                f"{spec.joints.unit}, beyond its limits [{low:.4g}, {high:.4g}] in {many} of {DRAWN} starts"
            )
    near = goal_distance(spec, trial.begun, trial.start.goal)
    if (share := (near <= spec.goal.success_radius).mean()) > 0.5:
        yield (
            f"spec.goal.success_radius: {spec.goal.success_radius:g} {spec.goal.unit} is so large that "
            f"{share:.0%} of starts are at their goals already"
        )


def _goal_entries(trial: Trial) -> Iterator[str]:
    goal = trial.task.spec.goal
    known = [(term, entry) for term in trial.task.spec.observation for entry in term.entries]
    for entry, i in zip(goal.entries, goal.observation_indices, strict=True):
        term, named = known[i]
        if term.unit != goal.unit:
            yield (
                f"spec.goal.observation_indices: goal entry {entry!r}, in {goal.unit}, is observation entry {i}: "
                f"{term.name}.{named}, in {term.unit}"
            )


def _unmoving(trial: Trial) -> Iterator[str]:
    """Of what is always the same, in all starts and whatever is done."""
    for term in trial.task.spec.observation:
        for i, entry in enumerate(term.entries, term.start):
            always = np.ptp(trial.run.observation[..., i]) == 0
            if always and (term.unit in ("m", "rad") or i in trial.task.spec.goal.observation_indices):
                value = trial.run.observation[0, 0, i]
                yield f"observe(state): {term.name}.{entry} is always {value:.4g}, wherever the robot moves"


def _observed_joints(trial: Trial) -> Iterator[str]:
    """Of positions of joints that are another joint's, turned around or in another unit."""
    spec, joints = trial.task.spec, _scalar_joints(trial)
    qpos = {name: trial.run.state.qpos[..., trial.model.jnt_qposadr[i]].ravel() for name, i in joints.items()}
    for term in spec.observation:
        for i, entry in enumerate(term.entries, term.start):
            if term.name not in POSITION_TERMS or entry not in qpos:
                continue
            seen, what = trial.run.observation[..., i].ravel(), f"observe(state): {term.name}.{entry}"
            alike = {
                name: np.corrcoef(seen, at)[0, 1] for name, at in qpos.items() if at.std() and seen.std()
            }
            if not alike or abs(alike.get(entry, 0)) < 0.999:
                other = next((name for name, r in alike.items() if abs(r) > 0.999), None)
                yield f"{what} is " + (
                    f"the position of {other!r}" if other else f"not the position of {entry!r}"
                )
                continue
            factor = np.polyfit(qpos[entry], seen, 1)[0]
            if abs(factor - 1) > 0.01:
                yield f"{what} is {factor:.4g} times the position of {entry!r}{_meant(abs(factor))}"


def _meant(factor: float) -> str:
    unit = next((name for known, name in FACTORS if 0.9 < factor / known < 1.1), "")
    return f": in {unit}?" if unit else ""


def _actions(trial: Trial) -> Iterator[str]:
    """Of entries of an action that do nothing, that move another joint, or the other way than they say."""
    task, action, engine = trial.task, trial.task.spec.action, trial.engine
    many = action.joints
    # Of each entry, all of what it may be and all of the opposite, from the same starts: [A, TRIED, A].
    held = np.eye(len(many))[:, None].repeat(TRIED, 1).reshape(-1, len(many))
    qpos, qvel = (np.tile(part[:TRIED], (len(many), 1)) for part in trial.start[:2])
    steps = max(2, round(RESPONSE_S / task.spec.control_dt))
    up, down = (_run(task, engine, qpos, qvel, np.tile(sign * held, (steps, 1, 1))) for sign in (1, -1))

    def change(part: str, step: int) -> np.ndarray:
        difference = getattr(up.state, part)[step] - getattr(down.state, part)[step]
        return difference.reshape(len(many), TRIED, -1) / 2

    moved, commanded = np.abs(change("qpos", -1)).max(1), change("control", 1)
    # Near a limit a task may command less.
    commanded = np.take_along_axis(commanded, np.abs(commanded).argmax(1, keepdims=True), 1)[:, 0]
    for i, name in enumerate(many):
        what = f"action entry {i}, {name!r}"
        if not commanded[i].any():
            yield f"control(state, action): {what}, changes no control"
        elif moved[i].max() < NO_EFFECT:
            yield f"{what}, moves nothing in {steps * task.spec.control_dt:g} s: is its actuator dead?"
        elif trial.model is not None:
            yield from _driven(trial, what, i, commanded[i])


def _driven(trial: Trial, what: str, entry: int, commanded: np.ndarray) -> Iterator[str]:
    """Of the actuators [U] to which an entry of an action of 1 gives these controls."""
    model, action = trial.model, trial.task.spec.action
    name, kind, scale = action.joints[entry], action.kinds[entry], action.scale[entry]
    assert model is not None
    on_joint = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
    driven = np.flatnonzero(commanded)
    joints = {
        u: model.joint(model.actuator_trnid[u, 0]).name
        for u in driven
        if model.actuator_trntype[u] in on_joint
    }
    if len(joints) < len(driven):
        return  # tendons and the like move several
    if name not in (*joints.values(), *(model.actuator(u).name for u in joints)):
        yield f"control(state, action): {what}, drives {', '.join(map(repr, joints.values()))}"
        return
    (u,) = [u for u in driven if name in (joints[u], model.actuator(u).name)][:1]
    force = commanded[u] * model.actuator_gear[u, 0] * model.actuator_gainprm[u, 0]
    if force < 0 and kind in ("joint_velocity", "joint_position", "joint_torque"):
        yield f"control(state, action): {what}, moves it the other way: what is positive goes down"
    elif kind in SERVOS and model.actuator_biasprm[u, SERVOS[kind]] and model.actuator_gear[u, 0] == 1:
        ratio = scale / abs(commanded[u])
        if abs(ratio - 1) > 0.01:
            yield (
                f"spec.action.scale: {scale:g} for {name!r}, but an action of 1 commands "
                f"{abs(commanded[u]):.4g} {action.unit}{_meant(ratio)}"
            )
        low, high = model.actuator_ctrlrange[u]
        if model.actuator_ctrllimited[u] and abs(commanded[u]) > 1.01 * (high - low) / 2:
            yield (
                f"control(state, action): {what}, commands up to {abs(commanded[u]):.4g} {action.unit}, "
                f"the actuator takes [{low:.4g}, {high:.4g}]{_meant(abs(commanded[u]) / high)}"
            )


def _reach(trial: Trial) -> Iterator[str]:
    """Of goals that an arm reaches in no pose, or not within an episode at the speed at which it moved."""
    task, spec, joints = trial.task, trial.task.spec, _scalar_joints(trial)
    seconds = spec.control_dt * spec.episode_length
    goal, began = trial.start.goal, achieved_goal(spec, trial.begun)
    limits = np.array([_limits(trial, name, joint) for name, joint in joints.items()])
    if trial.model is None or trial.model.nq != len(joints) or not np.isfinite(limits).all():
        ways = np.linalg.norm(goal - began, axis=-1)
        achieved = achieved_goal(spec, trial.run.observation)
        moved = np.linalg.norm(achieved - achieved[0], axis=-1).max(0)
        if moved.min() < MOVED * spec.goal.success_radius:
            return  # a thing that is touched by chance
        fastest = np.linalg.norm(np.diff(achieved, axis=0), axis=-1).max() / spec.control_dt
        needed = ways / fastest
    else:
        adr = trial.model.jnt_qposadr[list(joints.values())]
        qpos = np.empty((POSES, trial.model.nq))
        qpos[:, adr] = np.random.default_rng(0).uniform(*limits.T, (POSES, len(adr)))
        poses = achieved_goal(spec, _seen(task, trial.engine, qpos, np.zeros((POSES, trial.model.nv))))
        between = np.linalg.norm(goal[:, None] - poses, axis=-1)  # [DRAWN, POSES]
        apart = np.partition(np.linalg.norm(poses[:DRAWN, None] - poses, axis=-1), NEAREST, 1)[:, NEAREST]
        far = between.min(1) > spec.goal.easy_radius + 2 * np.median(apart)
        if far.mean() > FEW:
            ranges = ", ".join(
                f"{entry} {low:.3g} to {high:.3g}"
                for entry, low, high in zip(spec.goal.entries, poses.min(0), poses.max(0), strict=True)
            )
            yield (
                f"start(key, {task.layouts[0]!r}): {far.mean():.0%} of goals are out of reach: the nearest of "
                f"{POSES} poses within the limits is {between.min(1)[far].mean():.3g} {spec.goal.unit} away on average; poses reach {ranges}"
            )
            return
        near = np.argsort(between, 1)[:, :NEAREST]  # poses that bring it to the goal
        fastest = np.abs(np.diff(trial.run.state.qpos, axis=0)).max((0, 1)) / spec.control_dt
        ways = np.abs(qpos[near] - trial.start.qpos[:, None]) / np.maximum(fastest, NO_EFFECT)
        needed = ways.max(-1).min(-1)
    if np.median(needed) > seconds / 2:
        yield (
            f"spec.control_dt, spec.episode_length: an episode of {spec.episode_length} steps of {spec.control_dt:g} s lasts "
            f"{seconds:.3g} s, but the way to the goal takes {np.median(needed):.2g} s at full speed"
        )


def _marker(trial: Trial) -> Iterator[str]:
    """Of what was reached, shown where no body of the model carries a point."""
    task, goal, model = trial.task, trial.task.spec.goal, trial.model
    if model is None or goal.unit not in LENGTHS:
        return
    shown = np.asarray(task.marker(achieved_goal(task.spec, trial.run.observation[::10]))).reshape(-1, 3)
    data, position, turn = mujoco.MjData(model), [], []
    for data.qpos in trial.run.state.qpos[::10].reshape(-1, model.nq):
        mujoco.mj_kinematics(model, data)
        position.append(data.xpos.copy())
        turn.append(data.xmat.reshape(-1, 3, 3).copy())
    axes, off = np.ptp(shown, axis=0) > NO_EFFECT, []
    for x, rotation in zip(np.stack(position, 1)[1:], np.stack(turn, 1)[1:], strict=True):
        way, axis = (shown - x)[:, axes].ravel(), rotation[:, axes].reshape(-1, 3)
        off.append(np.abs(way - axis @ np.linalg.lstsq(axis, way)[0]).max(initial=0))
    if min(off) > goal.success_radius * LENGTHS[goal.unit]:
        yield (
            f"marker(goal): what was reached is shown up to {min(off):.2g} m away from any point that moves "
            "with a body: is an axis, a sign or a unit wrong in observe(state) or marker(goal)?"
        )


CHECKS: tuple[Callable[[Trial], Iterator[str]], ...] = (
    _joint_limits,
    _starts,
    _goal_entries,
    _unmoving,
    _observed_joints,
    _actions,
    _reach,
    _marker,
)
