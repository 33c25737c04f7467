"""A small two-wheeled robot in a large maze: a long horizon at hardly any cost of simulation.

By default the task integrates itself: a unicycle with lag that walls stop, axis by axis. The MuJoCo
model is the same robot with forces and contacts, for `mjx` and the C engine.
"""

from functools import cached_property

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.spec import ActionSpec, JointSpec, TaskSpec
from teacher.tasks.base import AnalyticTask, Array, MujocoTask, Start, State, goal_of, observation_terms
from teacher.tasks.mazes import HARDEST, LABYRINTH, Maze

CELL = 0.25  # m
RADIUS = 0.0375  # m
SPEED, TURN = 0.375, 4.0  # m/s and rad/s at full action
CONTROL_DT = 0.1  # s
RADII = (0.05, 0.1, 0.25)  # m: strict, success and easy
KEPT = 0.7  # share of a velocity error that is left after a control period
START_SPREAD = 0.05  # m around the start cell's centre
NEAR = 5  # cells to walk, at most, from start to goal in the layout `near`
ARRIVED = 0.03  # m from its goal at which the reference policy stops
JOINTS = ("x", "y", "heading")

LAG = -np.log(KEPT) / CONTROL_DT  # 1/s
MASS, INERTIA = 1.0, 1e-3  # kg, kg m^2
GRIP = 50.0  # 1/s at which the wheels stop sideways motion
MJCF = f"""
<mujoco>
  <option timestep="0.01" integrator="implicitfast"/>
  <default> <geom contype="0" conaffinity="0"/> <velocity ctrllimited="true"/> </default>
  <worldbody>
    <geom type="plane" size="5 5 0.1" rgba="0.9 0.9 0.88 1"/>
    <body name="base" pos="0 0 {RADIUS}">
      <inertial mass="{MASS}" pos="0 0 {RADIUS}" diaginertia="{INERTIA} {INERTIA} {INERTIA}"/>
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <joint name="heading" type="hinge" axis="0 0 1"/>
      <site name="base"/>
      <geom type="sphere" size="{RADIUS}" contype="1" condim="1" rgba="0.9 0.5 0.2 1"/>
      <geom type="cylinder" fromto="0 {-0.7 * RADIUS} 0 0 {-RADIUS} 0" size="{RADIUS}" rgba="0.2 0.2 0.22 1"/>
      <geom type="cylinder" fromto="0 {0.7 * RADIUS} 0 0 {RADIUS} 0" size="{RADIUS}" rgba="0.2 0.2 0.22 1"/>
    </body>
  </worldbody>
  <actuator>
    <velocity name="forward" site="base" gear="1 0 0 0 0 0" kv="{MASS * LAG}" ctrlrange="{-SPEED} {SPEED}"/>
    <velocity name="turn" site="base" gear="0 0 0 0 0 1" kv="{INERTIA * LAG}" ctrlrange="{-TURN} {TURN}"/>
    <velocity name="sideways" site="base" gear="0 1 0 0 0 0" kv="{MASS * GRIP}" ctrlrange="-0.001 0.001"/>
  </actuator>
</mujoco>"""


class WheelMaze(MujocoTask, AnalyticTask):
    """Forward speed and turning rate at 10 Hz drive a two-wheeled robot through a maze to a cell."""

    engines = ("analytic", "mjx", "mujoco")
    layouts = ("all", "near", "far")
    evaluation_layout = "all"
    pushed = (0, 1)
    marker_height = RADIUS
    maze = Maze(HARDEST, CELL)

    def __init__(self, name: str = "wheel_maze", maze: Maze = maze):
        self.name, self.maze = name, maze

    @cached_property
    def spec(self) -> TaskSpec:
        cells = self.maze.centres("SG")
        terms = observation_terms(
            ("position", ("x", "y"), "m", "maze"),
            ("heading", ("cos", "sin"), "1", "maze"),
            ("speed", ("forward",), "m/s", "base"),
            ("turning_rate", ("turn",), "rad/s", "base"),
        )
        return TaskSpec(
            name=self.name,
            version=1,
            observation=terms,
            goal=goal_of(
                terms, "position", tuple(cells.min(0).tolist()), tuple(cells.max(0).tolist()), RADII
            ),
            action=ActionSpec(
                kind="base_twist",
                joints=("forward", "turn"),
                unit="m/s, rad/s",
                scale=(SPEED, TURN),
                offset=(0.0, 0.0),
            ),
            joints=JointSpec(
                names=JOINTS,
                unit="m, m, rad",
                default=(*self.maze.centres("S")[0].tolist(), 0.0),
                lower=(0.5 * CELL, 0.5 * CELL, None),  # the heading turns freely
                upper=(*self.maze.extent, None),
                velocity=(SPEED, SPEED, TURN),
                slowdown=0.0,
                margin=0.0,
            ),
            control_dt=CONTROL_DT,
            episode_length=250,
        )

    def start(self, key: Array, layout: str) -> Start:
        """Draws where an episode begins and its goal.

        `all`: from the start cell to any cell. `far`: to those more than NEAR cells away. `near`: from any
        cell to one at most NEAR away, so that every piece of the ways to far goals is trained."""
        place_key, heading_key, goal_key = jax.random.split(key, 3)
        cell, goal = self._ends(goal_key, layout)
        place = cell + jax.random.uniform(place_key, (2,), minval=-START_SPREAD, maxval=START_SPREAD)
        heading = jax.random.uniform(heading_key, (1,), minval=-jnp.pi, maxval=jnp.pi)
        return Start(jnp.concatenate([place, heading]), jnp.zeros(3), goal)

    def _ends(self, key: Array, layout: str) -> tuple[Array, Array]:
        """Centres [2] of the cells where an episode begins and where its goal is."""
        routes, first, cells = self.maze.routes, self.maze.centres("S")[0], self.maze.centres("SG")
        if layout == "near":
            start_key, goal_key = jax.random.split(key)
            start = jax.random.randint(start_key, (), 0, len(routes.centres))
            near = jnp.asarray(routes.steps <= NEAR)[start]
            goal = jax.random.categorical(goal_key, jnp.where(near, 0.0, -jnp.inf))
            return jnp.asarray(routes.centres)[start], jnp.asarray(routes.centres)[goal]
        steps = routes.steps[self.maze.cell_number(first), self.maze.cell_number(cells)]
        return first, jax.random.choice(key, jnp.asarray(cells[steps > NEAR] if layout == "far" else cells))

    def observe(self, state: State) -> Array:
        xp = state.qpos.__array_namespace__()
        heading, turn = state.qpos[..., 2:], state.qvel[..., 2:]
        direction = xp.concatenate([xp.cos(heading), xp.sin(heading)], axis=-1)
        forward = (state.qvel[..., :2] * direction).sum(-1, keepdims=True)
        return xp.concatenate([state.qpos[..., :2], direction, forward, turn], axis=-1)

    def control(self, state: State, action: Array) -> Array:
        """Forward speed (m/s), turning rate (rad/s), and a sideways speed of nothing."""
        xp = action.__array_namespace__()
        twist = xp.clip(action, -1, 1) * xp.asarray([SPEED, TURN], dtype=action.dtype)
        return xp.concatenate([twist, xp.zeros_like(twist[..., :1])], axis=-1)

    def reference_policy(self, observation: Array, goal: Array) -> Array:
        """Follows the shortest way from cell to cell: turns to the next one, and drives where it is ahead."""
        xp = observation.__array_namespace__()
        routes, position = self.maze.routes, observation[..., :2]
        here, there = self.maze.cell_number(position), self.maze.cell_number(goal)
        target = xp.asarray(routes.centres)[xp.asarray(routes.next)[here, there]]
        target = xp.where((here == there)[..., None], goal, target)
        gap = target - position
        turn = xp.arctan2(gap[..., 1], gap[..., 0]) - xp.arctan2(observation[..., 3], observation[..., 2])
        turn = (turn + xp.pi) % (2 * xp.pi) - xp.pi
        arrived = (here == there) & ((gap**2).sum(-1) < ARRIVED**2)
        forward = xp.where(arrived, 0, xp.clip(xp.cos(turn), 0, 1) ** 4)
        return xp.stack([forward, xp.clip(2 * turn, -1, 1)], axis=-1)

    def advance(self, state: State, control: Array) -> State:
        """Walls stop each axis on its own, RADIUS before them."""
        xp = state.qpos.__array_namespace__()
        x, y, heading = (state.qpos[..., i] for i in range(3))
        forward, turn = self.observe(state)[..., 4], state.qvel[..., 2]
        forward = KEPT * forward + (1 - KEPT) * control[..., 0]
        turn = KEPT * turn + (1 - KEPT) * control[..., 1]
        heading = heading + CONTROL_DT * turn
        vx, vy = forward * xp.cos(heading), forward * xp.sin(heading)
        vx = xp.where(self.maze.is_wall(x + CONTROL_DT * vx + RADIUS * xp.sign(vx), y), 0, vx)
        x = x + CONTROL_DT * vx
        vy = xp.where(self.maze.is_wall(x, y + CONTROL_DT * vy + RADIUS * xp.sign(vy)), 0, vy)
        y = y + CONTROL_DT * vy
        qpos, qvel = xp.stack([x, y, heading], axis=-1), xp.stack([vx, vy, turn], axis=-1)
        return State(qpos, qvel, control)

    def model(self, engine: str) -> mujoco.MjModel:
        spec = mujoco.MjSpec.from_string(MJCF)
        spec.modelname = self.name
        spec.worldbody.add_light(pos=[*(value / 2 for value in self.maze.extent), 4])
        self.maze.build(spec, contype=0, conaffinity=1, condim=1)
        return spec.compile()


def wheel_labyrinth() -> WheelMaze:
    """Makes the task of wheel_maze in a maze with narrower, longer ways."""
    return WheelMaze("wheel_labyrinth", Maze(LABYRINTH, CELL))
