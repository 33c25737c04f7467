"""A small two-wheeled robot in a large maze, a long horizon at hardly any cost of simulation; and in a yard.

By default a task integrates itself: a unicycle with lag that walls stop, axis by axis. The MuJoCo
model is the same robot with forces and contacts, for `mjx` and the C engine.
"""

from functools import cached_property

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.spec import ActionSpec, JointSpec, TaskSpec
from teacher.tasks.base import AnalyticTask, Array, MujocoTask, Part, Start, State, goal_of, observation_terms
from teacher.tasks.mazes import HARDEST, YARD, Maze

CELL = 0.25  # m
RADIUS = 0.0375  # m
SPEED, TURN = 0.375, 4.0  # m/s and rad/s at full action
CONTROL_DT = 0.1  # s
RADII = (0.05, 0.1, 0.25)  # m: strict, success and easy
# m, of poses: a turn by 0.25 rad (14°) alone is as far as the success radius.
LEVER = RADII[1] / (2 * np.sin(0.25 / 2)).item()
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
    layouts: tuple[str, ...] = ("all", "near", "far")
    evaluation_layout = "all"
    pushed = (0, 1)
    marker_height = RADIUS
    place: tuple[Part, ...] = (
        ("position", ("x", "y"), "m", "maze"),
        ("heading", ("cos", "sin"), "1", "maze"),
    )
    lever: float | None = None  # of goals that are poses
    steps = 250  # of an episode

    def __init__(self, name: str = "wheel_maze", walls: str = HARDEST):
        self.name, self._ground = name, Maze(walls, CELL)
        self.maze = self._ground

    @cached_property
    def spec(self) -> TaskSpec:
        cells, turn = self._ground.centres("SG"), () if self.lever is None else (self.lever,) * 2
        low, high = (*cells.min(0).tolist(), *(-each for each in turn)), (*cells.max(0).tolist(), *turn)
        terms = observation_terms(
            *self.place,
            ("speed", ("forward",), "m/s", "base"),
            ("turning_rate", ("turn",), "rad/s", "base"),
        )
        return TaskSpec(
            name=self.name,
            version=1,
            observation=terms,
            goal=goal_of(terms, terms[0].name, low, high, RADII, lever=self.lever),
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
                default=(*self._ground.centres("S")[0].tolist(), 0.0),
                lower=(0.5 * CELL, 0.5 * CELL, None),  # the heading turns freely
                upper=(*self._ground.extent, None),
                velocity=(SPEED, SPEED, TURN),
                slowdown=0.0,
                margin=0.0,
            ),
            control_dt=CONTROL_DT,
            episode_length=self.steps,
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
        ground = self._ground
        routes, first, cells = ground.routes, ground.centres("S")[0], ground.centres("SG")
        if layout == "near":
            start_key, goal_key = jax.random.split(key)
            start = jax.random.randint(start_key, (), 0, len(routes.centres))
            near = jnp.asarray(routes.steps <= NEAR)[start]
            goal = jax.random.categorical(goal_key, jnp.where(near, 0.0, -jnp.inf))
            return jnp.asarray(routes.centres)[start], jnp.asarray(routes.centres)[goal]
        steps = routes.steps[ground.cell_number(first), ground.cell_number(cells)]
        return first, jax.random.choice(key, jnp.asarray(cells[steps > NEAR] if layout == "far" else cells))

    def observe(self, state: State) -> Array:
        xp = state.qpos.__array_namespace__()
        heading, turn = state.qpos[..., 2:], state.qvel[..., 2:]
        direction = xp.concatenate([xp.cos(heading), xp.sin(heading)], axis=-1)
        forward = (state.qvel[..., :2] * direction).sum(-1, keepdims=True)
        return xp.concatenate([state.qpos[..., :2], (self.lever or 1) * direction, forward, turn], axis=-1)

    def control(self, state: State, action: Array) -> Array:
        """Forward speed (m/s), turning rate (rad/s), and a sideways speed of nothing."""
        xp = action.__array_namespace__()
        twist = super().control(state, action)
        return xp.concatenate([twist, xp.zeros_like(twist[..., :1])], axis=-1)

    def reference_policy(self, observation: Array, goal: Array) -> Array:
        """Follows the shortest way from cell to cell: turns to the next one, and drives where it is ahead."""
        xp = observation.__array_namespace__()
        ground, position = self._ground, observation[..., :2]
        here, there = ground.cell_number(position), ground.cell_number(goal)
        target = xp.asarray(ground.routes.centres)[xp.asarray(ground.routes.next)[here, there]]
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
        vx = xp.where(self._ground.is_wall(x + CONTROL_DT * vx + RADIUS * xp.sign(vx), y), 0, vx)
        x = x + CONTROL_DT * vx
        vy = xp.where(self._ground.is_wall(x, y + CONTROL_DT * vy + RADIUS * xp.sign(vy)), 0, vy)
        y = y + CONTROL_DT * vy
        qpos, qvel = xp.stack([x, y, heading], axis=-1), xp.stack([vx, vy, turn], axis=-1)
        return State(qpos, qvel, control)

    def model(self, engine: str) -> mujoco.MjModel:
        spec = mujoco.MjSpec.from_string(MJCF)
        spec.modelname = self.name
        spec.worldbody.add_light(pos=[*(value / 2 for value in self._ground.extent), 4])
        self._ground.build(spec, contype=0, conaffinity=1, condim=1)
        return spec.compile()


class WheelPark(WheelMaze):
    """The same robot parks: it comes to a place of a yard and to a heading.

    It cannot move sideways, but turns where it stands: every pose is within reach."""

    layouts = ("all",)
    place = (("pose", ("x", "y", "cos", "sin"), "m", "yard"),)
    lever = LEVER
    steps = 100

    def __init__(self) -> None:
        super().__init__("wheel_park", YARD)
        self.maze = None  # all ways are straight

    def start(self, key: Array, layout: str) -> Start:
        """Draws two poses between the centres of the yard's cells: of the robot at rest, and its goal."""
        goal = self.spec.goal
        low, high = jnp.array([*goal.low[:2], -np.pi]), jnp.array([*goal.high[:2], np.pi])
        qpos, asked = jax.random.uniform(key, (2, 3), minval=low, maxval=high)
        return Start(qpos, jnp.zeros(3), self.observe(State(asked, jnp.zeros(3), jnp.zeros(3)))[:4])

    def reference_policy(self, observation: Array, goal: Array) -> Array:
        """Turns to the place, or its back to it, drives there, and turns to the heading."""
        xp = observation.__array_namespace__()
        gap, pose = (goal - observation[..., :4])[..., :2], observation[..., 2:4]
        along, across = (gap * pose).sum(-1), gap[..., 1] * pose[..., 0] - gap[..., 0] * pose[..., 1]
        to_place = xp.arctan(across / xp.where(along == 0, 1e-9, along))
        to_heading = xp.arctan2(goal[..., 3], goal[..., 2]) - xp.arctan2(pose[..., 1], pose[..., 0])
        to_heading = (to_heading + xp.pi) % (2 * xp.pi) - xp.pi
        turn = xp.where((gap**2).sum(-1) < RADII[0] ** 2, to_heading, to_place)
        return xp.clip(xp.stack([4 * along / LEVER * xp.cos(to_place) ** 2, turn], axis=-1), -1, 1)
