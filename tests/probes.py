"""Probes: tiny tasks, each of which a learner with one certain fault cannot solve.

Idea: the probe environments of Rejax and of A. Jones, "Debugging RL, without the agonizing pain".
All have the same sizes, so that one compiled update serves them all.
"""

from functools import cached_property

import jax
import jax.numpy as jnp

from teacher.spec import ActionSpec, GoalSpec, JointSpec, ObservationTerm, TaskSpec
from teacher.tasks import AnalyticTask, Start, State
from teacher.tasks.base import Array

AXES = ("x", "y")


class Probe(AnalyticTask):
    """A point in the plane [x, y] with two more observed entries."""

    engines = ("analytic",)
    length: int  # control steps
    low, high = (-1.0, -1.0), (1.0, 1.0)  # of goals
    radius: float

    @cached_property
    def spec(self) -> TaskSpec:
        return TaskSpec(
            name=type(self).__name__.lower(),
            version=1,
            observation=(
                ObservationTerm(name="position", start=0, entries=AXES, unit="1", frame="world"),
                ObservationTerm(name="more", start=2, entries=("u", "v"), unit="1", frame="world"),
            ),
            goal=GoalSpec(
                name="position",
                entries=AXES,
                unit="1",
                frame="world",
                observation_indices=(0, 1),
                low=self.low,
                high=self.high,
                success_radius=self.radius,
                strict_radius=self.radius / 2,
                easy_radius=self.radius * 2,
            ),
            action=ActionSpec(kind="move", joints=AXES, unit="1", scale=(1.0, 1.0), offset=(0.0, 0.0)),
            joints=JointSpec(
                names=AXES,
                unit="1",
                default=(0.0, 0.0),
                lower=(-10.0, -10.0),
                upper=(10.0, 10.0),
                velocity=(1.0, 1.0),
                slowdown=0.0,
                margin=0.0,
            ),
            control_dt=1.0,
            episode_length=self.length,
        )

    def observe(self, state: State) -> Array:
        return state.qpos

    def control(self, state: State, action: Array) -> Array:
        return action.__array_namespace__().clip(action, -1, 1)

    def start(self, key: Array, layout: str) -> Start:
        position, more, goal = self.begin(key)
        qpos = jnp.concatenate([position, more])
        return Start(qpos, jnp.zeros_like(qpos), goal)

    def advance(self, state: State, control: Array) -> State:
        xp = control.__array_namespace__()
        position, more = state.qpos[..., :2], state.qpos[..., 2:]
        position = self.move(position, more, control)
        return state._replace(qpos=xp.concatenate([position, more], axis=-1))


def uniform(key, number, low, high):
    return jax.random.uniform(jax.random.fold_in(key, number), (2,), minval=low, maxval=high)


class Aim(Probe):
    length, radius = 8, 0.3

    def begin(self, key):
        return uniform(key, 0, -0.1, 0.1), jnp.zeros(2), uniform(key, 1, -1.0, 1.0)

    def move(self, position, more, control):
        return position + 0.25 * control


class Ratchet(Probe):
    length, radius = 8, 0.25
    low, high = (0.2, 0.2), (1.4, 1.4)

    def begin(self, key):
        return uniform(key, 0, 0.0, 0.1), jnp.zeros(2), uniform(key, 1, 0.2, 1.4)

    def move(self, position, more, control):
        xp = control.__array_namespace__()
        return position + 0.3 * xp.maximum(control, 0)


class Rooms(Probe):
    length, radius = 4, 0.2
    low, high = (-1.5, -1.5), (1.5, 1.5)

    def begin(self, key):
        start = uniform(key, 0, -1.0, 1.0)
        return start, jnp.zeros(2), start + uniform(key, 1, -0.5, 0.5)

    def move(self, position, more, control):
        return position + 0.2 * control


class Moment(Probe):
    length, radius = 4, 0.2

    def begin(self, key):
        more = uniform(key, 0, -0.5, 0.5)
        return uniform(key, 1, -1, 1), more, more + uniform(key, 2, -0.4, 0.4)

    def move(self, position, more, control):
        return more + 0.5 * control


class Throw(Probe):
    length, radius = 2, 0.2

    def begin(self, key):
        wind = uniform(key, 0, -0.5, 0.5)
        return jnp.full(2, -2.0), wind, wind + uniform(key, 2, -0.4, 0.4)

    def move(self, position, more, control):
        xp = control.__array_namespace__()
        return xp.where(position > 1.5, more + 0.5 * control, 2.0).astype(control.dtype)


class Signs(Probe):
    length, radius = 4, 0.15
    def begin(self, key):
        size = jnp.array([0.8, 0.2])
        corner = jnp.sign(uniform(key, 0, -1, 1)) * size
        return corner, jnp.zeros(2), jnp.sign(uniform(key, 1, -1, 1)) * size

    def move(self, position, more, control):
        xp = control.__array_namespace__()
        side = xp.where(control > 0, 1.0, -1.0).astype(control.dtype)
        return side * xp.asarray([0.8, -0.2], dtype=control.dtype)


class Heavy(Probe):
    length, radius = 8, 0.3
    LEAST = .75

    def begin(self, key):
        return uniform(key, 0, -0.1, 0.1), jnp.zeros(2), uniform(key, 1, -.8, .8)

    def move(self, position, more, control):
        return position + .25 * control * (abs(control) > self.LEAST)


class Backswing(Probe):
    """u, v: the last action"""
    length, radius = 8, 0.3

    def begin(self, key):
        return uniform(key, 0, -0.1, 0.1), jnp.zeros(2), uniform(key, 1, -0.8, 0.8)

    def advance(self, state, control):
        xp = control.__array_namespace__()
        position, last = state.qpos[..., :2], state.qpos[..., 2:]
        position = position - 0.15 * control + 0.4 * last
        return state._replace(qpos=xp.concatenate([position, control], axis=-1))


class Cut(Probe):
    """qpos[0] is the angle in half turns"""
    length, radius = 12, 0.4
    layouts = ("anywhere", "across")
    EDGE, STEP, START, SPREAD, HOME = 0.85, 0.2, .7, .1, .5   # of half a turn

    def start(self, key, layout):
        near = self.START + uniform(key, 0, -self.SPREAD, self.SPREAD)
        anywhere = uniform(key, 1, -self.EDGE, self.EDGE)
        if layout == "across":
            angle, goal = -near[0], near[1]
        else:
            home = jax.random.bernoulli(jax.random.fold_in(key, 2), self.HOME)
            angle, goal = jnp.where(home, near[0], anywhere[0]), near[1]
        qpos = angle * jnp.array([1., 0, 0, 0])
        return Start(qpos, jnp.zeros_like(qpos), self._on_circle(goal))

    def _on_circle(self, angle):
        xp = angle.__array_namespace__()
        return xp.stack([xp.cos(xp.pi*angle), xp.sin(xp.pi*angle)], axis=-1)

    def observe(self, state):
        xp = state.qpos.__array_namespace__()
        return xp.concatenate([self._on_circle(state.qpos[..., 0]), state.qpos[..., 2:]], axis=-1)

    def advance(self, state, control):
        xp = control.__array_namespace__()
        return state._replace(qpos=state.qpos + self.STEP * control[..., :1] * xp.asarray([1, 0, 0, 0], dtype=control.dtype))

    def ended(self, state):
        return abs(state.qpos[..., 0]) > self.EDGE


class Uncut(Cut):
    def ended(self, state):
        return abs(state.qpos[..., 0]) > 100

class Scaled(Moment):
    offset, scale, goal_offset, goal_scale = (0.,0.), (1.,1.), (0.,0.),(1.,1.)

    def start(self, key, layout):
        s = super().start(key, layout)
        return s._replace(goal=s.goal*jnp.array(self.goal_scale)+jnp.array(self.goal_offset))

    def observe(self, state):
        xp = state.qpos.__array_namespace__()
        return state.qpos * xp.asarray(self.goal_scale+self.scale, dtype=state.qpos.dtype) + xp.asarray(self.goal_offset+self.offset, dtype=state.qpos.dtype)

PROBES = {probe.__name__.lower(): probe for probe in (Aim, Rooms, Heavy,  Throw, Signs, Backswing, Cut, Uncut)}
