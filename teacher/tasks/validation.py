"""What a task must satisfy before anything is built on it, each with a sentence for whoever broke it."""

import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from pydantic import ValidationError

from teacher.compilation import jit_once
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.spec import TaskSpec
from teacher.tasks.base import AnalyticTask, Frames, MujocoTask, Start, State, Task
from teacher.tasks.chain import HINGE, ON_JOINT
from teacher.tasks.engines import ENGINES, AnalyticEngine, control_substeps, make_engine, seen_of
from teacher.tasks.mazes import Maze

BATCH = (2, 3)  # leading axes with which the methods are tried
DRAWN = 256  # starts of each layout that are looked at
EDGE = 1e-5  # share of a goal's range by which rounding may take it outside
Call = Callable[..., Any]  # (what, function, *arguments) -> the function's answer


def require_sound(task: Task, name: str) -> None:
    """Raises UsageError with what is wrong with a task, `name` being what it was asked for by.

    Draws starts and builds the engines, which takes a second or two."""

    def refuse(problems: Iterable[str]) -> None:
        if found := dict.fromkeys(problems):
            raise UsageError("\n".join(f"task {name!r}: {problem}" for problem in found))

    def call(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        with own_code(f"task {name!r}: {what} failed", task, UsageError):
            return function(*arguments)

    refuse(_description_problems(task, call("spec", lambda: task.spec)))
    models: list[mujoco.MjModel] = []
    for engine in task.engines:
        if isinstance(task, MujocoTask) and ENGINES[engine] is not AnalyticEngine:
            models.append(call(f"model({engine!r})", task.model, engine))
            refuse(_model_problems(task, engine, models[-1]))
    for layout in task.layouts:
        what = f"start(key, {layout!r})"
        start = call(what, drawn_starts, task, layout)
        refuse(_start_problems(task, what, start, models))
    refuse(_method_problems(task, call, start, models))
    for engine in task.engines:
        make_engine(task, engine)


@cache
def drawn_starts(task: Task, layout: str) -> Start:
    """Draws DRAWN starts [DRAWN, ...], in NumPy."""
    draw = jit_once(jax.vmap(partial(task.start, layout=layout)))
    drawn: Start = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), DRAWN)))
    return drawn


def require_same(what: str, stored: Mapping[str, Any], spec: TaskSpec) -> None:
    """Raises FathomError naming the first field in which `what` was made for another task than `spec`.

    `stored` is the specification in JSON's types, as artifacts hold it."""
    for field, there, here in _differences("", stored, spec.model_dump(mode="json")):
        raise FathomError(
            f"{what} was made for another task than {spec.name!r} is now: "
            f"{field} is {there!r} there and {here!r} here"
        )


def _differences(path: str, there: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    """Paths of fields that differ and their two values; None and no field mean the same."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in {**here, **there}:
            yield from _differences(f"{path}.{key}", there.get(key), here.get(key))
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for i, both in enumerate(zip(there, here, strict=True)):
            yield from _differences(f"{path}[{i}]", *both)
    elif there != here:
        yield path.removeprefix("."), there, here


@contextmanager
def own_code(what: str, source: Any = None, kind: type[FathomError] = FathomError) -> Iterator[None]:
    """Whatever a task's own code raises as one message of this kind, UsageError for a specification's fault.

    It names the last line that was reached in the module of `source`: a module, or what one defines."""
    try:
        yield
    except FathomError:
        raise
    except (Exception, SystemExit) as error:
        file = getattr(sys.modules.get(getattr(source, "__module__", ""), source), "__file__", None)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        where = f" (line {lines[-1]} of {file})" if lines else ""
        kind = UsageError if isinstance(error, ValidationError) else kind
        raise kind(f"{what}: {_reason(error)}{where}") from error


def _reason(error: BaseException) -> str:
    if not isinstance(error, ValidationError):
        first, *_ = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {first}"
    told = []
    for part in error.errors():
        own = part["type"] == "value_error"
        text = part["msg"].removeprefix("Value error, ") + ("" if own else f", found {part['input']!r}")
        told.append(": ".join(filter(None, (".".join(map(str, part["loc"])), text))))
    return f"{error.title}: {'; '.join(told)}"


def _description_problems(task: Task, spec: Any) -> Iterator[str]:
    """Of what a task says about itself."""
    if not isinstance(spec, TaskSpec):
        yield f"spec is a {type(spec).__name__}, not a TaskSpec"
        return
    if spec.episode_length < 2:
        yield f"episode_length is {spec.episode_length}, but goals are taken from later steps of an episode"
    if not isinstance(task.maze, Maze | None):
        yield f"maze is a {type(task.maze).__name__}, not a teacher.tasks.mazes.Maze"
    if task.maze is not None and (len(spec.goal.entries) < 2 or spec.goal.unit != "m"):
        found = f"{', '.join(spec.goal.entries)} in {spec.goal.unit}"
        yield f"maze: the first two entries of a goal must be x and y in it, in m; spec.goal has {found}"
    for what in ("layouts", "engines"):
        names = getattr(task, what)
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            yield f"{what} must be a tuple of names, found {names!r}"
            return
        if not names:
            yield f"{what} is empty: name at least one"
        yield from (f"{what} names {name!r} twice" for name in names if names.count(name) > 1)
    if task.layouts and task.evaluation_layout not in task.layouts:
        known = ", ".join(task.layouts)
        yield f"evaluation_layout is {task.evaluation_layout!r}, not one of layouts: {known}"
    for name in task.engines:
        if name not in ENGINES:
            yield str(unknown_name("engine", name, ENGINES))
        elif ENGINES[name] is AnalyticEngine and not isinstance(task, AnalyticTask):
            yield f"engine {name!r} needs an AnalyticTask, which has advance(state, control)"
        elif ENGINES[name] is not AnalyticEngine and not isinstance(task, MujocoTask):
            yield f"engine {name!r} needs a MujocoTask, which has model(engine)"
    if task.engines and not getattr(ENGINES.get(task.engines[0]), "compiled", True):
        compiled = ", ".join(name for name, engine in ENGINES.items() if engine.compiled)
        yield f"its first engine is {task.engines[0]!r}, but teachers are trained in {compiled}"
    if isinstance(task, MujocoTask) and spec.goal.unit != "m" and type(task).marker is MujocoTask.marker:
        yield f"marker(goal): goals in {spec.goal.unit} need one of their own, which gives a point in m"


def _model_problems(task: MujocoTask, engine: str, model: Any) -> Iterator[str]:
    """Of the MuJoCo model against the specification."""
    if not isinstance(model, mujoco.MjModel):
        yield f"model({engine!r}) returns a {type(model).__name__}, not a mujoco.MjModel"
        return
    joints = [model.joint(i).name for i in range(model.njnt)]
    actuators = [model.actuator(i).name for i in range(model.nu)]
    for field, names, known in (
        ("spec.joints", task.spec.joints.names, joints),
        ("spec.action.joints", task.spec.action.joints, [*joints, *actuators]),
    ):
        for name in names:
            if name not in known:
                yield f"{field}: {unknown_name('joint of the model', name, filter(None, known))}"
    for i, name in enumerate(actuators):
        if not (model.actuator_ctrllimited[i] or model.actuator_forcelimited[i] or _target_limited(model, i)):
            yield f"actuator {name or i!r} has no limits: give it a ctrlrange or a forcerange in the model"
    for name in (name for name in task.spec.joints.names if name in joints):
        joint, (low, high) = model.joint(name), task.spec.joints.range_of(name)
        if joint.type[0] != HINGE or not model.jnt_limited[joint.id]:
            continue
        least, most = joint.range
        if any(b and abs(a / np.degrees(b) - 1) < 0.01 for a, b in ((low, least), (high, most))):
            yield (
                f"spec.joints: {name!r} goes from {low:g} to {high:g} rad, in the model from {least:.4g} to "
                f'{most:.4g}: one is in degrees, as MJCF is read without <compiler angle="radian"/>'
            )
    if outside := [i for i in task.pushed if not 0 <= i < model.nv]:
        yield f"pushed: entries {outside} lie outside qvel [0, {model.nv})"
    try:
        control_substeps(task, model)
        seen_of(task, model)
    except FathomError as error:
        yield str(error).removeprefix(f"task {task.spec.name!r}: ")


def _target_limited(model: mujoco.MjModel, actuator: int) -> bool:
    """Whether forces on the actuator's joint or tendon are limited, whatever drives it."""
    kind, target = model.actuator_trntype[actuator], model.actuator_trnid[actuator, 0]
    if kind == mujoco.mjtTrn.mjTRN_TENDON:
        return bool(model.tendon_actfrclimited[target])
    return bool(kind in ON_JOINT and model.jnt_actfrclimited[target])


def _start_problems(task: Task, what: str, start: Any, models: list[mujoco.MjModel]) -> Iterator[str]:
    """Of DRAWN starts."""
    if not isinstance(start, Start):
        yield f"{what} returns a {type(start).__name__}, not a Start"
        return
    for field in ("qpos", "qvel", "goal"):
        array = getattr(start, field)
        found = jax.typeof(array[0]) if isinstance(array, np.ndarray) else type(array).__name__
        if getattr(array, "dtype", None) != np.float32 or array.ndim != 2:
            yield f"{what}: {field} must be a float32 vector, found {found}"
            return
        if (wrong := ~np.isfinite(array)).any():
            entries, many = np.flatnonzero(wrong.any(0)).tolist(), wrong.any(-1).sum()
            yield f"{what}: {field} is not finite in {many} of {DRAWN} starts, entries {entries}"
    nq, nv, goal_size = (part.shape[1] for part in (start.qpos, start.qvel, start.goal))
    for model in models:
        if (nq, nv) != (model.nq, model.nv):
            found = f"qpos has {nq} entries and qvel {nv}"
            yield f"{what}: {found}, the model has nq {model.nq} and nv {model.nv}"
    goal = task.spec.goal
    if goal_size != task.spec.goal_size:
        yield f"{what}: goal has {goal_size} entries, spec.goal has {task.spec.goal_size}"
        return
    for drawn, entry, low, high in zip(start.goal.T, goal.entries, goal.low, goal.high, strict=True):
        slack = EDGE * max(1.0, abs(low), abs(high))
        outside = drawn[(drawn < low - slack) | (drawn > high + slack)]
        if len(outside):
            yield (
                f"{what}: goal entry {entry!r} is {outside[0]:g}, outside [{low:g}, {high:g}] of spec.goal "
                f"({len(outside)} of {DRAWN} starts)"
            )


def _method_problems(task: Task, call: Call, start: Start, models: list[mujoco.MjModel]) -> Iterator[str]:
    """Of the shapes in which the methods answer to arrays of JAX and of NumPy with leading axes."""
    spec, nq, nv = task.spec, start.qpos.shape[1], start.qvel.shape[1]

    def ones(*sizes: int) -> np.ndarray:
        return np.ones((*BATCH, *sizes), np.float32)

    action, goal, observation = ones(spec.action_size), ones(spec.goal_size), ones(spec.observation_size)
    state = State(ones(nq), ones(nv), action)
    if isinstance(task, MujocoTask) and models:
        sites, bodies = (
            Frames(*(ones(len(names), size) for size in (3, 4, 3, 3))) if names else None
            for names in (task.sites, task.bodies)
        )
        sensors = ones(len(seen_of(task, models[0]).sensors)) if task.sensors else None
        state = State(state.qpos, state.qvel, ones(models[0].nu), sites, bodies, sensors)
    else:
        held = call("control(state, action)", jax.eval_shape, task.control, state, action)
        state = state._replace(control=ones((getattr(held, "shape", None) or (0,))[-1]))
    controls = state.control.shape[-1]
    expected: list[tuple[str, Any, tuple[Any, ...], int | None, str]] = [
        ("control(state, action)", task.control, (state, action), controls, "the model has actuators:"),
        ("observe(state)", task.observe, (state,), spec.observation_size, "spec.observation has"),
        ("ended(state)", task.ended, (state,), None, ""),
    ]
    if known := task.reference_policy:
        what = "reference_policy(observation, goal)"
        expected.append((what, known, (observation, goal), spec.action_size, "spec.action has"))
    if isinstance(task, MujocoTask):
        expected.append(("marker(goal)", task.marker, (goal,), 3, "a point has"))
    if isinstance(task, AnalyticTask):
        for part, entries in (("qpos", nq), ("qvel", nv)):

            def advanced(state: State, part: str = part) -> Any:
                return getattr(task.advance(state, state.control), part)

            expected.append((f"advance(state, control).{part}", advanced, (state,), entries, "the state has"))
    if deployed := spec.deployed:
        goal_size = len(deployed.goal.entries)
        expected += [
            ("reading(state, action)", task.reading, (state, action), deployed.reading_size, "spec has"),
            ("deployed_goal(qpos, goal)", task.deployed_goal, (state.qpos, goal), goal_size, "spec has"),
        ]
    for what, method, arguments, size, by in expected:
        yield from _answer_problems(what, call(what, jax.eval_shape, method, *arguments), jnp, size, by)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these states mean nothing
            answer = call(f"{what} of NumPy arrays", method, *arguments)
        yield from _answer_problems(what, answer, np, size, by)


def _answer_problems(what: str, answer: Any, xp: Any, size: int | None, by: str) -> Iterator[str]:
    """Of one answer: `size` entries are expected, or with None a truth value for each state."""
    shape = getattr(answer, "shape", None)
    expected = BATCH if size is None else (*BATCH, size)
    if shape is None or (xp is np and not isinstance(answer, np.ndarray)):
        kind = "NumPy's" if xp is np else "JAX's"
        yield (
            f"{what} answers {kind} arrays with a {type(answer).__name__}: "
            "compute with what __array_namespace__() of an argument gives, in place of numpy or jax.numpy"
        )
    elif size is not None and len(shape) == len(expected) and shape[:-1] == BATCH and shape[-1] != size:
        yield f"{what} has {shape[-1]} entries, {by} {size}"
    elif shape != expected:
        yield f"{what} has shape {[*shape]} for states {[*BATCH]}, expected {[*expected]}"
    elif size is None and answer.dtype != bool:
        yield f"{what} has numbers of {answer.dtype}, expected bool"
