"""Brax's packaged ant and humanoid, sent to points on the floor or through mazes.

After the published tasks: github.com/wang-kevin3290/scaling-crl, envs/ant.py, ant_maze.py, humanoid.py,
humanoid_maze.py and the models beside them. Mazes, goals, radii, time steps, gears, healthy heights, starts,
states and what collides are theirs; several wall cells make one box here.
"""

import abc
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from importlib.metadata import distribution

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.spec import ActionSpec, Floats, TaskSpec
from teacher.tasks.base import (
    Array,
    MujocoTask,
    Part,
    Start,
    State,
    goal_of,
    hinge_spec,
    observation_terms,
    rotation_matrix,
)
from teacher.tasks.mazes import (
    BIG,
    BIG_HUMANOID,
    HARDEST,
    U4,
    U5,
    Course,
    Maze,
    MazeCourse,
    OpenFloor,
    U,
)

AXES, QUATERNION = ("x", "y", "z"), ("w", "x", "y", "z")
EPISODE = 1000  # control steps
FLOOR = 100.0  # m: half size of the floor that is drawn; the floor itself is endless
MAX_CONTACTS = 12  # the deepest ones, in MJX and brax; pushing into a corner a robot on its feet has fewer

ANT_POSE = (0.0, 0.0, 0.55, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0)  # m, rad
ANT_NOISE = 0.1  # of a start: m, rad, 1 for the quaternion; m/s, rad/s
HUMANOID_STANDING = 1.25  # m: height of a goal
HUMANOID_CONTROL = 0.4  # at full action, a fraction of an actuator's gear
HUMANOID_SPRING_GEAR = (350.0,) * 11 + (100.0,) * 6  # N m at a control of 1


class Walker(MujocoTask):
    """A robot of brax's whose torso goes from the start of a course to goals on it."""

    engines = ("mjx", "brax", "mujoco")
    pushed = (0, 1)
    healthy: tuple[float, float]  # m: heights of the torso at which an episode goes on
    goal_height: Floats = ()  # m: above the floor, if goals have any
    scale: float  # of controls at full action
    control_dt: float
    pose: Floats

    def __init__(self, name: str, course: Course):
        self._name, self._course = name, course
        self.layouts, self.maze = course.layouts, course.maze

    @cached_property
    def spec(self) -> TaskSpec:
        model = self.model("mjx")
        joints = hinge_spec(model, self.pose)
        observation = observation_terms(*self._parts(joints.names))
        low, high = (edge + self.goal_height for edge in self._course.goal_range)
        names = tuple(model.joint(i).name for i in model.actuator_trnid[:, 0])
        return TaskSpec(
            name=self._name,
            version=2,
            observation=observation,
            goal=goal_of(observation, "torso_position", low, high, radii=(0.25, 0.5, 2.0)),
            action=ActionSpec(
                kind="joint_torque",
                joints=names,
                unit="fraction",
                scale=(self.scale,) * len(names),
                offset=(0.0,) * len(names),
            ),
            joints=joints,
            control_dt=self.control_dt,
            episode_length=EPISODE,
        )

    @abc.abstractmethod
    def _parts(self, joints: tuple[str, ...]) -> Iterable[Part]:
        """Of the observation."""

    def ended(self, state: State) -> Array:
        """Whether the torso is too low or too high."""
        height = state.qpos[..., 2]
        return (height < self.healthy[0]) | (height > self.healthy[1])


class Ant(Walker):
    """Eight joint torques at 20 Hz walk an ant's torso to a point.

    The observation is the joint state, the torso's place in the world first. Its feet meet the floor; in
    mazes they also meet torso, upper legs and each other, and all of these meet walls."""

    healthy, scale, control_dt = (0.2, 1.0), 1.0, 0.05
    pose, marker_height = ANT_POSE, ANT_POSE[2]

    def _parts(self, joints: tuple[str, ...]) -> Iterable[Part]:
        return _joint_state(joints)

    def model(self, engine: str) -> mujoco.MjModel:
        spec = _packaged("ant")
        if self._course.maze:
            for geom in spec.geoms:
                if geom.name.startswith(("torso", "aux")) or geom.name.endswith("foot_geom"):
                    geom.conaffinity = 1
            self._course.maze.build(spec, contype=1, conaffinity=1)
        # MJX takes the k-th number of all for the k-th numeric, which must therefore be single numbers.
        spec.delete(spec.numeric("init_qpos"))
        spec.option.timestep = 0.005 if engine == "brax" else 0.01
        return spec.compile()

    def start(self, key: Array, layout: str) -> Start:
        pose_key, velocity_key, goal_key = jax.random.split(key, 3)
        noise = jax.random.uniform(pose_key, (len(ANT_POSE),), minval=-ANT_NOISE, maxval=ANT_NOISE)
        qpos = jnp.asarray(ANT_POSE) + noise
        qpos = qpos.at[3:7].divide(jnp.linalg.norm(qpos[3:7]))
        qpos = qpos.at[:2].add(jnp.asarray(self._course.start))
        qvel = ANT_NOISE * jax.random.normal(velocity_key, (len(ANT_POSE) - 1,))
        return Start(qpos, qvel, self._course.goal(goal_key, layout))

    def observe(self, state: State) -> Array:
        return state.qpos.__array_namespace__().concatenate([state.qpos, state.qvel], axis=-1)


class Humanoid(Walker):
    """Seventeen joint torques at 67 Hz walk a torso to a point at its standing height.

    All its geoms meet floor and walls, and none another.
    The observation is that of brax's humanoid on its spring engine, whatever the engine: each link
    turns as if its moment of inertia were 1 kg m^2, and actuator forces are those of the spring
    engine's gears, while MuJoCo's engines apply those of the packaged model.
    A body that shows the goal is part of model and observation, as published: the commanded goal stands in
    the state that a critic is given."""

    healthy, goal_height, scale, control_dt = (1.0, 2.0), (HUMANOID_STANDING,), HUMANOID_CONTROL, 0.015

    def __init__(self, name: str, course: Course):
        super().__init__(name, course)
        self.bodies = tuple(self._model.body(i).name for i in range(1, self._model.nbody))
        self.pose = tuple(self._model.qpos0.tolist())

    def _parts(self, joints: tuple[str, ...]) -> Iterable[Part]:
        goal = AXES[:2]
        yield from _joint_state(joints, goal)
        matrix = tuple(f"{row}{column}" for row in AXES for column in AXES)
        for link in self.bodies:
            yield f"link_{link}_inertia", matrix, "kg m^2", "world"
            yield f"link_{link}_mass", ("mass",), "kg", "world"
        for link in self.bodies:
            yield f"link_{link}_velocity_share", AXES, "m/s", "world"
            yield f"link_{link}_angular_velocity", AXES, "rad/s", "world"
        yield "torso_actuator_force", AXES, "N", "world"
        yield "torso_actuator_torque", AXES, "N m", "torso"
        yield "actuator_torque", joints, "N m", "joint"
        yield "goal_actuator_force", goal, "N", "world"

    @cached_property
    def _model(self) -> mujoco.MjModel:
        return self.model("mjx")

    @cached_property
    def _torque(self) -> np.ndarray:
        """[U, nv] N m: what the spring engine applies to each entry of qvel at a control of 1."""
        model = self._model
        torque = np.zeros((model.nu, model.nv))
        torque[range(model.nu), model.jnt_dofadr[model.actuator_trnid[:, 0]]] = HUMANOID_SPRING_GEAR
        return torque

    def model(self, engine: str) -> mujoco.MjModel:
        spec = _packaged("humanoid")
        for geom in spec.geoms:
            geom.contype = 1
        if self._course.maze:
            self._course.maze.build(spec, contype=1, conaffinity=1)
        if engine == "brax":
            spec.option.timestep = 0.0015
            for actuator, gear in zip(spec.actuators, HUMANOID_SPRING_GEAR, strict=True):
                actuator.gear = [gear, 0, 0, 0, 0, 0]
        else:
            spec.option.timestep = 0.003
        # A ball that slides along the floor at a goal's height and touches nothing.
        body = spec.worldbody.add_body(name="goal", pos=[0, 0, HUMANOID_STANDING])
        sphere, slide = mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtJoint.mjJNT_SLIDE
        body.add_geom(type=sphere, size=[0.5, 0, 0], mass=1, contype=0, conaffinity=0)
        for name, axis in (("goal_x", [1, 0, 0]), ("goal_y", [0, 1, 0])):
            body.add_joint(name=name, type=slide, axis=axis, armature=0, damping=0, limited=False)
        return spec.compile()

    def start(self, key: Array, layout: str) -> Start:
        goal = self._course.goal(key, layout)
        qpos = jnp.asarray(self._model.qpos0, dtype=jnp.float32)
        qpos = qpos.at[:2].set(jnp.asarray(self._course.start)).at[-2:].set(goal)
        return Start(qpos, jnp.zeros(self._model.nv), jnp.append(goal, HUMANOID_STANDING))

    def with_goal(self, start: Start, goal: Array) -> Start:
        xp = start.qpos.__array_namespace__()
        qpos = xp.concatenate([start.qpos[..., :-2], goal[..., :2]], axis=-1)
        return start._replace(qpos=qpos, goal=goal)

    def observe(self, state: State) -> Array:
        xp, dtype = state.qpos.__array_namespace__(), state.qpos.dtype
        links = state.bodies
        assert links is not None, "an engine gives the bodies that a task names"
        own_centre = xp.asarray(self._model.body_ipos[1:], dtype=dtype)
        from_origin = (rotation_matrix(links.orientation) * own_centre[..., None, :]).sum(-1)
        velocity = links.velocity + xp.cross(links.angular_velocity, from_origin)
        mass = xp.asarray(self._model.body_mass[1:, None], dtype=dtype)
        share, centre = mass / mass.sum(), links.position + from_origin
        away = centre - (share * centre).sum(-2, keepdims=True)
        one = xp.eye(3, dtype=dtype)
        across = (away**2).sum(-1)[..., None, None] * one - away[..., :, None] * away[..., None, :]
        inertia = (one + mass[..., None] * across).reshape(*away.shape[:-1], 9)
        inertia = xp.concatenate([inertia, mass + xp.zeros_like(away[..., :1])], axis=-1)
        motion = xp.concatenate([share * velocity, links.angular_velocity], axis=-1)
        per_link = [part.reshape(*part.shape[:-2], -1) for part in (inertia, motion)]
        torque = state.control @ xp.asarray(self._torque, dtype=dtype)
        return xp.concatenate([state.qpos, state.qvel, *per_link, torque], axis=-1)


def _packaged(robot: str) -> mujoco.MjSpec:
    """Brax's packaged robot, with the settings that brax's environments give MJX. Its feet meet the floor."""
    # Found, not imported: importing brax takes a second and prints.
    spec = mujoco.MjSpec.from_file(str(distribution("brax").locate_file(f"brax/envs/assets/{robot}.xml")))
    spec.compiler.fusestatic = True  # brax knows no body without a joint
    option = spec.option
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations, option.ls_iterations = 1, 4
    option.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    spec.geom("floor").size = [FLOOR, FLOOR, 1]
    spec.add_numeric(name="max_contact_points", data=[MAX_CONTACTS], size=1)
    return spec


def _joint_state(joints: tuple[str, ...], goal: tuple[str, ...] = ()) -> Iterable[Part]:
    """The parts of qpos and qvel."""
    yield "torso_position", AXES, "m", "world"
    yield "torso_orientation", QUATERNION, "1", "world"
    yield "joint_position", joints, "rad", "joint"
    if goal:
        yield "goal_position", goal, "m", "world"
    yield "torso_velocity", AXES, "m/s", "world"
    yield "torso_angular_velocity", AXES, "rad/s", "torso"
    yield "joint_velocity", joints, "rad/s", "joint"
    if goal:
        yield "goal_velocity", goal, "m/s", "world"


LOCOMOTION: dict[str, Callable[[], MujocoTask]] = {
    name: partial(robot, name, course)
    for name, robot, course in (
        ("ant", Ant, OpenFloor("circle", 10.0, 10.0)),
        ("ant_u4_maze", Ant, MazeCourse(Maze(U4, 4.0))),
        ("ant_u5_maze", Ant, MazeCourse(Maze(U5, 4.0))),
        ("ant_big_maze", Ant, MazeCourse(Maze(BIG, 4.0))),
        ("ant_hardest_maze", Ant, MazeCourse(Maze(HARDEST, 4.0))),
        ("humanoid", Humanoid, OpenFloor("annulus", 1.0, 5.0)),
        ("humanoid_u_maze", Humanoid, MazeCourse(Maze(U, 2.0))),
        ("humanoid_big_maze", Humanoid, MazeCourse(Maze(BIG_HUMANOID, 2.0))),
    )
}
