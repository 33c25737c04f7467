"""Probes: tiny tasks, each of which a learner with one certain fault cannot solve.

All have the same sizes, so that one compiled update serves them all. Idea: one property of the
algorithm per environment, as in "Debugging RL, Without the Agonizing Pain" (andyljones.com).
"""

from functools import cached_property

import jax
import jax.numpy as jnp
from sled import toy_spec

from teacher.spec import TaskSpec
from teacher.tasks import AnalyticTask, Start, State
from teacher.tasks.base import Array

AXES = ("x", "y")


class Probe(AnalyticTask):
    """A position [2], in which goals lie, and two further entries `more` [2]; no units, no time.

    Subclasses say where episodes begin (`draw`) and what an action does (`move`)."""

    engines = ("analytic",)
    length: int  # control steps
    radius: float  # of success
    reach = 1.0  # of goals, around zero

    def draw(self, key, layout):
        """-> position, more, goal; [2] each."""
        raise NotImplementedError

    def move(self, position, more, control):
        """Position, more and control, [..., 2] each -> position and more afterwards."""
        raise NotImplementedError

    @cached_property
    def spec(self) -> TaskSpec:
        terms = (("position", AXES, "1", "world"), ("more", ("u", "v"), "1", "world"))
        how = {"limit": 20.0, "dt": 1.0, "length": self.length}
        return toy_spec(name_of(type(self)), terms, self.reach, self.radius, **how)

    def start(self, key: Array, layout: str) -> Start:
        position, more, goal = self.draw(key, layout)
        qpos = jnp.concatenate([position, more])
        return Start(qpos, jnp.zeros_like(qpos), goal)

    def observe(self, state):
        return state.qpos

    def control(self, state, action):
        return action.__array_namespace__().clip(action, -1, 1)

    def advance(self, state: State, control: Array) -> State:
        xp = control.__array_namespace__()
        moved = self.move(state.qpos[..., :2], state.qpos[..., 2:], control)
        return state._replace(qpos=xp.concatenate(moved, axis=-1))


class Aim(Probe):
    """Goals lie everywhere around the start: whoever does not look at them hits one in fourteen."""

    length, radius = 8, 0.3

    def draw(self, key, layout):
        return uniform(key, 0, 0.1), jnp.zeros(2), uniform(key, 1, 1.0)

    def move(self, position, more, control):
        return position + 0.25 * control, more


class Backswing(Probe):
    """An action first moves the point the wrong way and, a step later, further the right way.

    Only goals from further ahead tell which way that is; the action itself and the past tell the
    opposite, and other episodes nothing."""

    length, radius = 8, 0.3

    def draw(self, key, layout):
        return uniform(key, 0, 0.1), jnp.zeros(2), uniform(key, 1, 0.8)

    def move(self, position, more, control):
        return position - 0.15 * control + 0.4 * more, control


class Home(Probe):
    """A circle with a gap, in which episodes end; home is not far from it, evaluation begins beyond it.

    The way home leads around the circle. A learner that goes on through the gap, or that takes the next
    episode's start for what follows a fall, finds the way through the gap shorter. Angles are in half
    turns; the gap is where they turn from 1 to -1."""

    length, radius = 12, 0.4
    layouts = ("home", "across")
    EDGE, HOME, ACROSS, STEP = 0.85, 0.6, -0.78, 0.2

    def draw(self, key, layout):
        home = self.HOME + uniform(key, 0, 0.1)
        if layout == "across":
            angle = self.ACROSS + uniform(key, 1, 0.05)[0]
        else:
            at_home = jax.random.bernoulli(jax.random.fold_in(key, 2))
            angle = jnp.where(at_home, home[0], uniform(key, 1, self.EDGE)[0])
        return angle * jnp.array([1.0, 0.0]), jnp.zeros(2), self._on_circle(home[1])

    def move(self, position, more, control):
        xp = control.__array_namespace__()
        return position + self.STEP * control * xp.asarray([1, 0], dtype=control.dtype), more

    def observe(self, state):
        xp = state.qpos.__array_namespace__()
        return xp.concatenate([self._on_circle(state.qpos[..., 0]), state.qpos[..., 2:]], axis=-1)

    def ended(self, state):
        return abs(state.qpos[..., 0]) > self.EDGE

    @staticmethod
    def _on_circle(angle: Array) -> Array:
        xp = angle.__array_namespace__()
        return xp.stack([xp.cos(xp.pi * angle), xp.sin(xp.pi * angle)], axis=-1)


class Throw(Probe):
    """The first step takes the point to a gate, whatever the action; the second one throws it, in a wind.

    All that can be learned is in one row: the last action, what was seen before it and came after it."""

    length, radius = 2, 0.2
    AWAY, GATE = -2.0, 2.0

    def draw(self, key, layout):
        wind = uniform(key, 0, 0.5)
        return jnp.full(2, self.AWAY), wind, wind + uniform(key, 1, 0.4)

    def move(self, position, more, control):
        xp = control.__array_namespace__()
        gate = xp.full_like(position, self.GATE)
        return xp.where(position == gate, more + 0.5 * control, gate), more


class Heavy(Probe):
    """Only actions close to their limits move the point, and a fresh actor's never are."""

    length, radius = 8, 0.35
    LEAST = 0.93

    def draw(self, key, layout):
        return uniform(key, 0, 0.1), jnp.zeros(2), uniform(key, 1, 0.8)

    def move(self, position, more, control):
        return position + 0.25 * control * (abs(control) > self.LEAST), more


class Balance(Probe):
    """A point that falls away from the middle unless it is held there, in a wind seen far from zero.

    Whoever does not know the way yet falls: what it sees then is unlike all that a good policy sees."""

    length, radius = 12, 0.15
    reach = 0.3
    GROWTH, STEP, WIND = 1.6, 0.4, 0.1
    SCALE, OFFSET = (50.0, 1e-3), (1e3, 0.0)

    def draw(self, key, layout):
        return uniform(key, 0, 0.2), uniform(key, 1, 1.0), uniform(key, 2, 0.3)

    def move(self, position, more, control):
        xp = control.__array_namespace__()
        return xp.clip(self.GROWTH * position + self.STEP * control + self.WIND * more, -20, 20), more

    def observe(self, state):
        xp, dtype = state.qpos.__array_namespace__(), state.qpos.dtype
        offset = xp.asarray((0, 0, *self.OFFSET), dtype=dtype)
        return state.qpos * xp.asarray((1, 1, *self.SCALE), dtype=dtype) + offset

    def outcome(self, observation: Array, action: Array) -> Array:
        """[..., 4], [..., 2] -> the next position, while it is less than 20 away."""
        wind = (observation[..., 2:] - jnp.array(self.OFFSET)) / jnp.array(self.SCALE)
        return self.GROWTH * observation[..., :2] + self.STEP * action + self.WIND * wind


def name_of(probe: type[Probe]) -> str:
    return f"probe_{probe.__name__.lower()}"


def uniform(key: Array, number: int, reach: float) -> Array:
    return jax.random.uniform(jax.random.fold_in(key, number), (2,), minval=-reach, maxval=reach)
