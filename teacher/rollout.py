"""A task on an engine: batched episodes of any policy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.compilation import jit_once, jit_physics
from teacher.config import TaskConfig, TeacherConfig
from teacher.errors import UsageError, unknown_name
from teacher.randomization import ALTER_MODEL, DomainRandomization, PhysicsParams, draw, pushes
from teacher.sensing import Sensed, extend_history, fold_each, sense
from teacher.tasks import Start, Task, make_task
from teacher.tasks.engines import ENGINES, engines_of, make_engine

Array = jax.Array
# (observation [E, N], goal [E, G]) -> action [E, A]
Policy = Callable[[Any, Any], Any]
# (observation, goal, sensed) -> action [E, A], of policies that see as a robot does, or both ways
SensingPolicy = Callable[[Any, Any, Sensed], Any]

# Episodes run in batches of these sizes alone, so that a simulator is not compiled for each number.
# They are small enough that the usual evaluation has two at least: the device steps one while the host asks
# the policy for the other.
ROLLOUT_BATCHES = (64, 128)
NOTHING_RANDOM = DomainRandomization()
# Folded into a start's key. Not a small number: `fold_in(key, 1)` is the second key of `split(key)`, which
# tasks draw their goals from.
CONDITIONS = 2_100_000_002


class Trajectories(NamedTuple):
    """L steps of E episodes; NumPy arrays. An episode that has ended stands still.

    One whose physics become unstable ends before that step."""

    qpos: np.ndarray  # [L + 1, E, nq]
    observation: np.ndarray  # [L + 1, E, N]: the first before, each other after an action
    action: np.ndarray  # [L, E, A]
    active: np.ndarray  # [L, E]: whether the episode had not ended when the action was taken
    sensed: Sensed | None = None  # [L + 1, E, ...], where the rollout was given a key for its noise

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns observation before, action and observation after of L steps of each episode, [L, E, ...].

        An episode that ended early has fewer: its own steps are repeated."""
        before, after = self.before_steps(self.observation), self.before_steps(self.observation[1:])
        return before, self.before_steps(self.action), after

    def before_steps(self, values: np.ndarray) -> np.ndarray:
        """Returns what of values [L or more, E, ...] was there before each of the `steps`, [L, E, ...]."""
        length, episodes = self.active.shape
        row = np.arange(length)[:, None] % np.maximum(self.active.sum(0), 1)
        before: np.ndarray = values[row, np.arange(episodes)]
        return before

    def sensed_steps(self) -> Sensed:
        """Returns what policies on the robots saw before each of the `steps`, [L, E, ...]."""
        assert self.sensed is not None, "the rollout was given no noise_key"
        return Sensed(*map(self.before_steps, self.sensed))


class Running(NamedTuple):
    """E environments between two control steps."""

    physics: Any  # the engine's own
    conditions: Any  # PhysicsParams [E]; () where nothing is random
    step: Any  # [E] int32: control steps since the episode began
    waiting: Any  # [E, D, A]: the newest D actions, the newest first; () where none comes late


class _Senses(NamedTuple):
    """What sensing on E robots needs to go on."""

    keys: Any  # [E]: of each episode's noise
    goal: Any  # [E, G]: as it was asked for
    history: Any  # [E, H, M]: the newest reading first


class Simulation:
    """Environments of one task; the C engine changes their states in place."""

    def __init__(self, task: Task, engine: str, randomise: DomainRandomization = NOTHING_RANDOM):
        self.task, self.engine_name, self.randomise = task, engine, randomise
        self.engine = make_engine(task, engine)
        require_randomisable(task, engine, randomise)
        jit = jit_physics if self.engine.compiled else lambda function: function
        self._begin, self._advance = jit(self._first), jit(self._next)
        self._draw_pushes = self._pushes if self.engine.compiled else jit_once(self._pushes)

    def reset(self, start: Start) -> Running:
        physics = self.engine.init(start.qpos, start.qvel, start.conditions)
        environments, latency = len(start.goal), self.randomise.latency
        shape = (environments, latency, self.task.spec.action_size)
        waiting = np.zeros(shape, np.float32) if latency else ()
        return Running(physics, start.conditions, np.zeros(environments, np.int32), waiting)

    def observe(self, state: Running) -> Any:
        with jax.default_matmul_precision("highest"):  # TF32 would move a flange by a millimetre
            return self.task.observe(self.engine.read(state.physics, state.conditions))

    def ended(self, state: Running) -> Any:
        """Tells whether the task ends an episode here, [E]."""
        return self.task.ended(self.engine.read(state.physics, state.conditions))

    def is_stable(self, state: Running) -> Any:
        """Tells whether positions and velocities are, [E]; compiled engines go on with those that are not."""
        seen = self.engine.read(state.physics, state.conditions)
        return is_stable(seen.qpos) & is_stable(seen.qvel)

    def step(self, state: Running, action: Any) -> Running:
        xp = action.__array_namespace__()
        physics, waiting = state.physics, state.waiting
        if self.randomise.latency:
            sent = xp.concatenate([action[:, None], waiting], axis=1)
            action, waiting = sent[xp.arange(len(sent)), state.conditions.delay], sent[:, :-1]
        if self.randomise.push:
            physics = self.engine.push(physics, self._draw_pushes(state.conditions, state.step))
        control = self.task.control(self.engine.read(physics, state.conditions), action)
        physics = self.engine.step(physics, control, state.conditions)
        return Running(physics, state.conditions, state.step + 1, waiting)

    def _pushes(self, conditions: PhysicsParams, step: Array) -> Array:
        """Draws changes of velocity [E, nv]."""
        task = self.task
        pushed = list(task.pushed)
        drawn = pushes(self.randomise, conditions, step, task.spec.control_dt, len(pushed))
        size = jax.eval_shape(partial(task.start, layout=task.layouts[0]), jax.random.key(0)).qvel.size
        return jnp.zeros((len(drawn), size)).at[:, pushed].set(drawn)

    def draw(self, key: Array, numbers: Array, layout: str | None = None) -> Start:
        """Draws independent starts with these numbers [E]; pure. A number's start depends on the key alone.

        The goals are laid out as for training if no layout is named."""
        return _draw(self.task, self.randomise, layout or self.task.layouts[0], key, numbers)

    def starts(self, key: Array, episodes: int, layout: str | None = None) -> Start:
        """Draws the starts with numbers 0 to episodes - 1, in NumPy."""
        layout = layout or self.task.layouts[0]
        drawn = _compiled_draw(self.task, self.randomise, layout, key, np.arange(episodes))
        return jax.tree.map(np.asarray, drawn)

    def prepare(self, start: Start) -> None:
        """Compiles what a rollout from these starts needs; may run beside other work."""
        action = np.zeros((self._batch(len(start.goal)), self.task.spec.action_size), np.float32)
        self.rollout(lambda *_: action, start, steps=1)

    def rollout(
        self,
        policy: Callable[..., Any],
        start: Start,
        steps: int | None = None,
        noise_key: Array | None = None,
    ) -> Trajectories:
        """Runs one episode of any policy from each start (NumPy), or its first steps, from the host.

        Args:
          policy: a SensingPolicy if there is a `noise_key`, else a Policy; asked with NumPy batches, all of
            them in one step before the first again in the next. Their last rows may be padding. One with a
            method `begin(episodes)` is asked for a policy of each batch's own, which may keep a state.
          noise_key: of the robots' sensors. The noise of an episode depends on it and on the episode's
            number here, so that the same key pairs two policies."""
        episodes = len(start.goal)
        batch, numbered = self._batch(episodes), (start, self._noise_keys(noise_key, start))
        parts = [
            self._rollout(policy, *_rows(numbered, first, batch), steps, noise_key is not None)
            for first in range(0, episodes, batch)
        ]
        # In turn, so that the policy is asked for one part while the device steps the others.
        *_, whole = zip(*parts, strict=True)
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *whole)
        return jax.tree.map(lambda leaf: leaf[:, :episodes], joined)

    def _noise_keys(self, noise_key: Array | None, start: Start) -> Any:
        """Makes keys [E]; () where nothing is sensed. Without a key there is noise too: it compiles once."""
        if self.task.spec.deployed is None:
            return ()
        key = jax.random.key(0) if noise_key is None else noise_key
        return fold_each(key, np.arange(len(start.goal)))

    def _batch(self, episodes: int) -> int:
        fitting = [size for size in ROLLOUT_BATCHES if size >= episodes] or ROLLOUT_BATCHES[-1:]
        return fitting[0] if self.engine.compiled else episodes

    def _rollout(
        self, policy: Callable[..., Any], start: Start, keys: Any, steps: int | None, sensing: bool
    ) -> Iterator[Trajectories | None]:
        """Yields None after each step that it has asked the device for, at the end what came of them."""
        policy = begin(policy, len(start.goal))
        state, senses, seen = self._begin(start, keys)
        frames, actions = [jax.tree.map(np.asarray, seen)], []
        active: list[np.ndarray] = []
        for _ in range(self.task.spec.episode_length if steps is None else steps):
            active.append(~frames[-1].ended & (active[-1] if active else True))
            sensed = [frames[-1].sensed or Sensed(frames[-1].observation, start.goal)] * sensing
            actions.append(np.asarray(policy(frames[-1].observation, start.goal, *sensed)))
            state, senses, seen = self._advance(state, senses, actions[-1], active[-1])
            yield None
            frames.append(jax.tree.map(np.asarray, seen))
            active[-1] = active[-1] & ~frames[-1].broken
        whole = jax.tree.map(lambda *leaves: np.stack(leaves), *frames)
        trajectories = Trajectories(whole.qpos, whole.observation, np.stack(actions), np.stack(active))
        if sensing:
            goal = np.broadcast_to(start.goal, (len(frames), *start.goal.shape))
            sensed_frames = whole.sensed or Sensed(whole.observation, goal)
            trajectories = trajectories._replace(sensed=sensed_frames)
        yield trajectories

    def _first(self, start: Start, keys: Any) -> tuple[Running, _Senses | None, "_Frame"]:
        state, senses = self.reset(start), None
        if deployed := self.task.spec.deployed:
            xp = start.goal.__array_namespace__()
            action = xp.zeros((len(start.goal), self.task.spec.action_size), dtype=xp.float32)
            reading = self._reading(state, action, keys)  # the first one stands for earlier ones
            senses = _Senses(keys, start.goal, xp.repeat(reading[:, None], deployed.history, axis=1))
        return state, senses, self._frame(state, senses)

    def _next(
        self, state: Running, senses: _Senses | None, action: Any, active: Any
    ) -> tuple[Running, _Senses | None, "_Frame"]:
        """Steps the environments [E] that are still active once; the others stay as they are."""
        broken: Any = False  # the C engine stops by itself
        if self.engine.compiled:
            moved = self.step(state, action)
            broken = active & ~self.is_stable(moved)
            active &= ~broken
            state = choose(active, moved, state)
        elif len(rows := np.flatnonzero(active)):
            self._step_some(state, action, rows)
        if senses:
            history = extend_history(senses.history, self._reading(state, action, senses.keys))
            xp = history.__array_namespace__()
            senses = senses._replace(history=xp.where(active[:, None, None], history, senses.history))
        return state, senses, self._frame(state, senses, broken)

    def _step_some(self, state: Running, action: np.ndarray, rows: np.ndarray) -> None:
        """Steps these environments of the C engine, in place."""
        some = Running([state.physics[i] for i in rows], *jax.tree.map(lambda leaf: leaf[rows], state[1:]))
        moved = self.step(some, action[rows])
        for own, new in zip(jax.tree.leaves(state[2:]), jax.tree.leaves(moved[2:]), strict=True):
            own[rows] = new

    def _reading(self, state: Running, action: Any, keys: Array) -> Any:
        """Reads the sensors [E, M] with noise, after the last `action` [E, A]; `keys` [E] of the episodes."""
        with jax.default_matmul_precision("highest"):
            physical = self.engine.read(state.physics, state.conditions)
            now = fold_each(keys, state.step)
            return sense(self.task, physical, action, now, self.randomise.noise)

    def _frame(self, state: Running, senses: _Senses | None, broken: Any = False) -> "_Frame":
        with jax.default_matmul_precision("highest"):
            physical, sensed = self.engine.read(state.physics, state.conditions), None
            if senses:
                goal = self.task.deployed_goal(physical.qpos, senses.goal)
                sensed = Sensed(senses.history.reshape(len(goal), -1), goal)
            observation = self.task.observe(physical)
        ended = self.task.ended(physical)
        return _Frame(physical.qpos, observation, ended, ended & False | broken, sensed)


def is_stable(values: Any) -> Any:
    """Tells, [..., K] -> [...], whether all are numbers that MuJoCo's C engine would go on with."""
    return (abs(values) < mujoco.mjMAXVAL).all(-1)


class _Frame(NamedTuple):
    """What a rollout keeps of a step; [E, ...]."""

    qpos: Any
    observation: Any
    ended: Any
    broken: Any  # whether physics became unstable in this step; the state is then the one before
    sensed: Any  # Sensed; None where the task describes no sensors


def begin(policy: Callable[..., Any], episodes: int) -> Callable[..., Any]:
    """Returns what answers a batch of episodes from the first step on: the policy, if it keeps no state."""
    begun: Callable[..., Any] = policy.begin(episodes) if hasattr(policy, "begin") else policy
    return begun


@dataclass(frozen=True)
class Told:
    """A policy that is told something else than it is given, and keeps a state if that does."""

    policy: Callable[..., Any]
    tell: Callable[..., Any]  # what is given -> what the policy is told

    def begin(self, episodes: int) -> Self:
        return replace(self, policy=begin(self.policy, episodes))

    def __call__(self, *given: Any) -> Any:
        return self.policy(*self.tell(*given))


def on_robot(policy: Policy) -> SensingPolicy:
    """Wraps a policy as it runs on a robot: all that it is given is sensed."""
    return Told(policy, lambda observation, goal, sensed: sensed)


def all_seeing(policy: Policy) -> SensingPolicy:
    """Wraps a policy as a teacher's: it ignores what robots sense."""
    return Told(policy, lambda observation, goal, sensed: (observation, goal))


def choose(condition: Array, yes: Any, no: Any) -> Any:
    """Rows of `yes` where the condition [E] holds, of `no` elsewhere; trees of arrays [E, ...]."""
    return jax.tree.map(
        lambda a, b: jnp.where(jnp.reshape(condition, (-1, *[1] * (jnp.ndim(b) - 1))), a, b), yes, no
    )


def require_randomisable(task: Task, engine: str, randomise: DomainRandomization) -> None:
    """Raises UsageError for randomisation that the task or the engine cannot do."""
    where = f"task {task.spec.name!r} on engine {engine!r}"
    known = [name for name in engines_of(task) if ENGINES[name].alters_model]
    altered = [f"randomise.{name}" for name in ALTER_MODEL if getattr(randomise, name)]
    if altered and engine not in known:
        raise UsageError(
            f"{', '.join(altered)}: {where} cannot change its model; "
            f"engines that can: {', '.join(known) or 'none'}"
        )
    if not randomise.push:
        return
    if not (ENGINES[engine].takes_pushes and task.pushed):
        raise UsageError(f"randomise.push: {where} takes no pushes")
    if randomise.push_interval_s < task.spec.control_dt:
        raise UsageError(
            f"randomise.push_interval_s is {randomise.push_interval_s:g}, but {where} is pushed at most "
            f"once in a control period of {task.spec.control_dt:g} s"
        )


def _rows(starts: tuple[Start, Any], first: int, count: int) -> tuple[Start, Any]:
    """Takes `count` starts and their keys from number `first` on, the last one repeatedly at the end."""
    rows = np.minimum(np.arange(first, first + count), len(starts[0].goal) - 1)
    rowed: tuple[Start, Any] = jax.tree.map(lambda leaf: leaf[rows], starts)
    return rowed


def _draw(task: Task, randomise: DomainRandomization, layout: str, key: Array, numbers: Array) -> Start:
    if layout not in task.layouts:
        raise unknown_name("goal layout", layout, task.layouts)

    def one(number: Array) -> Start:
        own_key = jax.random.fold_in(key, number)
        start = task.start(own_key, layout)
        if randomise.alters_anything:
            conditions_key = jax.random.fold_in(own_key, CONDITIONS)
            start = start._replace(conditions=draw(randomise, conditions_key))
        return start

    with jax.default_matmul_precision("highest"):
        return jax.vmap(one)(numbers)


_compiled_draw = jit_once(_draw, static_argnums=(0, 1, 2))  # one for all engines of a task


def simulation(
    task: str, engine: str | None = None, randomise: DomainRandomization = NOTHING_RANDOM
) -> Simulation:
    """Returns the named task on the named engine, by default its first; one for all stages of a process."""
    made = make_task(task)
    return _simulation(made, engine or made.engines[0], randomise)


@cache
def _simulation(task: Task, engine: str, randomise: DomainRandomization) -> Simulation:
    return Simulation(task, engine, randomise)


def simulation_of(config: TaskConfig) -> Simulation:
    """Returns where policies are evaluated: nothing is random but starts and goals."""
    return simulation(config.name, config.engine)


def training_simulation_of(config: TeacherConfig) -> Simulation:
    """Returns where experience is gathered: physics differ between episodes as settings and task say."""
    return simulation(config.task.name, config.task.engine, randomised(config))


def randomised(config: TeacherConfig) -> DomainRandomization:
    """Returns how far physics differ between episodes of training."""
    own = make_task(config.task.name).randomise
    found = own._replace(**config.randomise.model_dump(exclude_none=True))
    return found if found.alters_anything else NOTHING_RANDOM._replace(noise=found.noise)
