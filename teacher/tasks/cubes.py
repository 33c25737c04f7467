"""Franka arms that push a cube over a table, or grasp it and put it elsewhere, in `models/fr3_cube.xml`.

`PandaCube` is published: github.com/wang-kevin3290/scaling-crl, envs/manipulation. What is observed,
commanded and asked, servos, cube, hand, fingers, bins, time step and solver are theirs, so that scores can be
compared. The arm is that of `models/fr3.xml`: its kinematics are the Panda's, its links' masses and its
joints' names the FR3's. Published, an action above 0 closes the gripper, here one below; hand and fingers
meet the walls of bins, which fast ones pass, here only the cube does.

`Fr3Cube` is our own: joint velocities in place of angles, a gripper of any width, 150 steps, cube and goal
spread by 0.1 m, no bins. The table is a plane without edges that the arm could push the cube over; cube,
fingers and table are all that collides.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.spec import ActionKind, ActionSpec, Floats, TaskSpec
from teacher.tasks.base import (
    Array,
    MujocoTask,
    Start,
    State,
    goal_of,
    hinge_spec,
    observation_terms,
    slowed,
)
from teacher.tasks.fr3_arm import (
    HOME,
    JOINTS,
    MODELS,
    POSE_ENTRIES,
    WIDTH,
    flange_pose,
    joint_spec,
    reach_down,
)

AXES = ("x", "y", "z")
DRIVEN = (0, 1, 3, 5)  # joints; the others are held, so the fingers stay in a vertical plane
SPEED = 1.0  # rad/s at full action
VELOCITIES: tuple[ActionKind, ...] = tuple("joint_velocity" for _ in DRIVEN)
HOLD = 10.0  # 1/s: how fast the other joints return
# Driven joints are soft, so that what the hand meets is not flung away: at full action they exert at most
# so many N m (kg m^2/s^2) as this, and twice that where they brake. A limit of the servos' torques would be
# integrated differently by MJX and the C engine.
GAIN = (20.0, 20.0, 150.0, 20.0, 60.0, 12.0, 40.0)  # N m s/rad
SPREAD = 0.1  # m: cube and goal begin this far from their regions' centres, at most, in x and in y
HEIGHT, HEIGHT_SPREAD = 0.2, 0.1  # m: of goals in the air
WIDTH_OFFSET, WIDTH_SCALE = 0.05, 0.03  # m: at rest open around a cube of 4 cm, at full action closed on it

SETTLED = 1e-5  # m: how far the cube sinks in at rest; where it only touches, rounding decides on contact


class Fr3Cube(MujocoTask):
    """Velocities of four joints, and with `grips` the gripper's width, move a cube.

    Args:
      start: box (m) from which the hand's tip begins: x and y from the cube, z from the table.
      cube, target: centres (m) of the regions in which the cube begins and in which it is wanted.
      half: half the cube's edge, m.
      radii: strict, success and easy radius of the goal, m.
      grips: whether the fingers open; half of the goals then lie in the air."""

    engines = ("mjx", "mujoco")
    pushed = tuple(range(7))

    def __init__(
        self,
        name: str,
        *,
        start: tuple[Floats, Floats],
        cube: Floats,
        target: Floats,
        half: float,
        radii: Floats,
        grips: bool = False,
    ):
        self._name, self._start, self._cube, self._target = name, start, cube, target
        self._half, self._radii, self._grips = half, radii, grips
        self.layouts = ("all", "air") if grips else ("all",)

    @cached_property
    def spec(self) -> TaskSpec:
        terms = observation_terms(
            ("joint_position", JOINTS, "rad", "joint"),
            ("joint_velocity", JOINTS, "rad/s", "joint"),
            ("flange_pose", POSE_ENTRIES, "m", "base"),
            ("cube_position", AXES, "m", "base"),
            *([("gripper_width", ("width",), "m", "hand")] if self._grips else []),
        )
        grips, top = self._grips, HEIGHT + HEIGHT_SPREAD if self._grips else self._half
        low, high = np.add(self._target, [[-SPREAD], [SPREAD]]).round(3).tolist()
        goal = goal_of(terms, "cube_position", (*low, self._half), (*high, round(top, 3)), self._radii)
        joints = tuple(JOINTS[i] for i in DRIVEN)
        return TaskSpec(
            name=self._name,
            version=3 if grips else 2,
            observation=terms,
            goal=goal.model_copy(update={"entries": tuple(f"cube_{axis}" for axis in AXES)}),
            action=ActionSpec(
                kind=(*VELOCITIES, "gripper_width") if grips else "joint_velocity",
                joints=(*joints, WIDTH) if grips else joints,
                unit="rad/s, m" if grips else "rad/s",
                scale=(SPEED,) * 4 + (WIDTH_SCALE,) * grips,
                offset=(0.0,) * 4 + (WIDTH_OFFSET,) * grips,
            ),
            joints=joint_spec(),
            control_dt=0.05,
            episode_length=150,
        )

    def model(self, engine: str) -> mujoco.MjModel:
        spec = mujoco.MjSpec.from_file(str(MODELS / "fr3_cube.xml"))
        spec.modelname = self._name
        for joint, gain in zip(JOINTS, GAIN, strict=True):
            spec.actuator(joint).set_to_velocity(gain)
        if not self._grips:  # the column stands for fingers that are closed
            for finger in ("fr3_finger1", "fr3_finger2"):
                spec.delete(spec.body(finger))
            spec.geom("column").contype, spec.geom("column").group = 2, 0
        spec.body("cube").pos = [*self._cube, self._half]
        spec.geom("cube").size = [self._half] * 3
        return spec.compile()

    def start(self, key: Array, layout: str) -> Start:
        tip_key, cube_key, goal_key = jax.random.split(key, 3)
        cube = self._on_table(cube_key, self._cube)
        low, high = (jnp.array(corner) for corner in self._start)
        tip = jax.random.uniform(tip_key, (3,), minval=low, maxval=high) + cube.at[2].set(0)
        fingers = jnp.full(2 * self._grips, WIDTH_OFFSET / 2)
        upright = jnp.array([1.0, 0.0, 0.0, 0.0])
        resting = cube.at[2].add(-SETTLED)
        qpos = jnp.concatenate([reach_down(tip), fingers, resting, upright])
        place_key, table_key, air_key = jax.random.split(goal_key, 3)
        goal = self._on_table(table_key, self._target)
        if self._grips:
            offset = jax.random.uniform(place_key, (4,), minval=-1, maxval=1)[:3]
            spread = jnp.array((SPREAD, SPREAD, HEIGHT_SPREAD))
            in_air = (layout == "air") | jax.random.bernoulli(air_key)
            goal = jnp.where(in_air, jnp.array((*self._target, HEIGHT)) + spread * offset, goal)
        return Start(qpos, jnp.zeros(qpos.size - 1), goal)

    def _on_table(self, key: Array, centre: Floats) -> Array:
        offset = jax.random.uniform(key, (2,), minval=-SPREAD, maxval=SPREAD)
        return jnp.append(jnp.array(centre) + offset, self._half)

    def observe(self, state: State) -> Array:
        qpos, xp = state.qpos, state.qpos.__array_namespace__()
        arm, cube = qpos[..., :7], qpos[..., -7:-4]
        parts = [arm, state.qvel[..., :7], flange_pose(arm), cube]
        if self._grips:
            parts.append(qpos[..., 7:8] + qpos[..., 8:9])
        return xp.concatenate(parts, axis=-1)

    def control(self, state: State, action: Array) -> Array:
        """Joint velocities in rad/s, cut so that joints slow down and stop before their limits, and the
        gripper's width in m; joints that are not driven return to where they are held."""
        arm, xp = state.qpos[..., :7], state.qpos.__array_namespace__()
        action = xp.clip(action, -1, 1)
        velocity = [
            SPEED * action[..., DRIVEN.index(i)] if i in DRIVEN else HOLD * (HOME[i] - arm[..., i])
            for i in range(7)
        ]
        command = slowed(xp.stack(velocity, axis=-1), arm, self.spec.joints)
        if self._grips:
            command = xp.concatenate([command, WIDTH_OFFSET + WIDTH_SCALE * action[..., 4:]], axis=-1)
        return command


# The published tasks

LOWER = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)  # rad
UPPER = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
VELOCITY = (2.175,) * 4 + (2.61,) * 3  # rad/s: of the robot; nothing holds the simulated servos to it
START = (1.571, 0.742, 0.0, -1.571, 0.0, 3.054, 1.449)  # rad
ANGLES: tuple[ActionKind, ...] = tuple("joint_position" for _ in DRIVEN)
# Published servos of joints 3 to 7 pull towards a command times `COMMAND_GAIN` and back from the angle times
# `STIFFNESS`, so they come to rest at that fraction of the command. A command here is where they do: at an
# action of -1 or 1, where joint 4 is stopped by its limit.
COMMAND_GAIN = (4500.0, 4500.0, 2000.0, 2000.0, 1000.0, 1000.0, 1000.0)  # N m/rad
STIFFNESS = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)  # N m/rad
TORQUE = (87.0,) * 4 + (12.0,) * 3  # N m
_ASKED = [[0.3491, 0, 0, -3.0718, 0, 2.3562, 1.4487], [2.7925, 1.48353, 0, -0.0698, 0, 3.7525, 1.4487]]
LOWEST, HIGHEST = np.minimum(np.multiply(_ASKED, np.divide(COMMAND_GAIN, STIFFNESS)), UPPER).tolist()  # rad
OPENING = 0.16  # m: of the fingers, at most
HALF = 0.03  # m: half the cube's edge
DROP = 0.07  # m: height at which the cube's centre begins, above the table
BIN, THICK, WALL = 0.19, 0.005, 0.033  # m: from a bin's middle to its walls; half their thickness and height
MAX_CONTACTS = 24  # the deepest ones, in MJX, where there are bins
BOX = mujoco.mjtGeom.mjGEOM_BOX


class PandaCube(MujocoTask):
    """Angles of four joints, and a gripper that is open or closed, bring a cube to a point on the table.

    Args:
      cube, target: centres (m) of the squares in which the cube begins and in which it is wanted.
      spread: half the edge of these squares, m.
      bins: whether each of them lies in a bin."""

    engines = ("mjx", "mujoco")
    pushed = tuple(range(7))
    bodies = ("fr3_link7",)

    def __init__(self, name: str, *, cube: Floats, target: Floats, spread: float, bins: bool = False):
        self._name, self._cube, self._target, self._spread, self._bins = name, cube, target, spread, bins

    @cached_property
    def spec(self) -> TaskSpec:
        terms = observation_terms(
            ("cube_position", AXES, "m", "base"),
            ("joint_position", JOINTS, "rad", "joint"),
            ("joint_7_position", AXES, "m", "base"),
            ("joint_7_velocity", AXES, "m/s", "base"),
            ("gripper_width", ("width",), "m", "hand"),
        )
        low, high = np.add(self._target, [[-self._spread], [self._spread]]).round(3).tolist()
        middle, reach = np.add(HIGHEST, LOWEST) / 2, np.subtract(HIGHEST, LOWEST) / 2
        return TaskSpec(
            name=self._name,
            version=1,
            observation=terms,
            goal=goal_of(terms, "cube_position", (*low, HALF), (*high, HALF), (0.03, 0.1, 0.3)),
            action=ActionSpec(
                kind=(*ANGLES, "gripper_width"),
                joints=(*(JOINTS[i] for i in DRIVEN), WIDTH),
                unit="rad, m",
                scale=(*reach[list(DRIVEN)].tolist(), OPENING / 2),
                offset=(*middle[list(DRIVEN)].tolist(), OPENING / 2),
            ),
            joints=hinge_spec(self.model("mjx"), START, VELOCITY),
            control_dt=0.05,
            episode_length=1000,
        )

    def model(self, engine: str) -> mujoco.MjModel:
        spec = mujoco.MjSpec.from_file(str(MODELS / "fr3_cube.xml"))
        spec.modelname, option = self._name, spec.option
        option.timestep, option.iterations, option.ls_iterations = 0.002, 6, 12
        option.integrator = mujoco.mjtIntegrator.mjINT_EULER
        for body in spec.bodies:
            body.gravcomp = 0
        for i, name in enumerate(JOINTS):
            joint, servo = spec.joint(name), spec.actuator(name)
            damping = STIFFNESS[i] / 10
            # Published, MJX integrates a servo's damping implicitly even at its largest torque: as if there
            # were this much more inertia. The C engine does not; an armature means the same to both.
            joint.armature, joint.damping = 0.1 + option.timestep * damping, [5, 0, 0]
            joint.range = servo.ctrlrange = [LOWER[i], UPPER[i]]
            servo.set_to_position(kp=STIFFNESS[i], kv=damping)
            servo.forcelimited, servo.forcerange = True, [-TORQUE[i], TORQUE[i]]
        # What the gripper follows is twice a finger's way; published, each finger has twice these gains.
        spec.actuator(WIDTH).set_to_position(kp=250, kv=25)
        spec.actuator(WIDTH).ctrlrange, spec.actuator(WIDTH).forcelimited = [0, OPENING], False
        spec.delete(spec.geom("column"))
        hand, cube = spec.body("fr3_hand").geoms[0], spec.geom("cube")
        hand.fromto, hand.size = [0, -0.06, 0.035, 0, 0.06, 0.035], [0.04, 0, 0]
        fingers = [spec.body(f"fr3_finger{i}").geoms[0] for i in (1, 2)]
        for i, finger in enumerate(fingers):
            joint = spec.joint(f"fr3_finger_joint{i + 1}")
            joint.armature, joint.damping, joint.range = 0.2, [5, 0, 0], [0, OPENING / 2]
            finger.type, finger.fromto[:], finger.size = BOX, np.nan, [0.015, 0.005, 0.04]
            finger.pos = [0, 0.0055 - 0.011 * i, 0.035]
        cube.size, cube.density, spec.body("cube").pos = [HALF] * 3, 1000, [*self._cube, DROP]
        for geom in (hand, *fingers):
            geom.contype, geom.conaffinity = 2, 1
        for geom in (hand, *fingers, cube, spec.geom("table")):
            geom.condim, geom.friction[0] = 3, 1
        if self._bins:
            option.impratio, cube.conaffinity = 10, 7
            spec.add_numeric(name="max_contact_points", data=[MAX_CONTACTS], size=1)
            for x, y in (self._cube, self._target):
                for side in (-BIN, BIN):
                    _add_wall(spec, (x, y + side), (BIN + THICK, THICK))
                    _add_wall(spec, (x + side, y), (THICK, BIN - THICK))
        return spec.compile()

    def start(self, key: Array, layout: str) -> Start:
        cube_key, goal_key = jax.random.split(key)
        cube, goal = (
            jnp.array(middle) + jax.random.uniform(each, (2,), minval=-self._spread, maxval=self._spread)
            for each, middle in ((cube_key, self._cube), (goal_key, self._target))
        )
        resting = jnp.array((*START, OPENING / 4, OPENING / 4))
        qpos = jnp.concatenate([resting, cube, jnp.array((DROP, 1.0, 0.0, 0.0, 0.0))])
        return Start(qpos, jnp.zeros(qpos.size - 1), jnp.append(goal, HALF))

    def observe(self, state: State) -> Array:
        qpos, xp, link = state.qpos, state.qpos.__array_namespace__(), state.bodies
        assert link is not None, "an engine gives the bodies that a task names"
        parts = [qpos[..., 9:12], qpos[..., :7], link.position[..., 0, :], link.velocity[..., 0, :]]
        return xp.concatenate([*parts, qpos[..., 7:8] + qpos[..., 8:9]], axis=-1)

    def control(self, state: State, action: Array) -> Array:
        """Angles of all joints, rad, and the gripper's width, m: open above an action of 0, else closed."""
        command, xp = super().control(state, action), state.qpos.__array_namespace__()
        zero = xp.zeros_like(command[..., 0])
        angles = [command[..., DRIVEN.index(i)] if i in DRIVEN else zero + LOWEST[i] for i in range(7)]
        return xp.stack([*angles, xp.where(action[..., 4] > 0, zero + OPENING, zero)], axis=-1)


def _add_wall(spec: mujoco.MjSpec, middle: Floats, half: Floats) -> None:
    """A wall of a bin, of the given half edges in x and y (m); only the cube meets it."""
    place, size = [*middle, WALL], [*half, WALL]
    spec.worldbody.add_geom(type=BOX, pos=place, size=size, contype=4, conaffinity=0, condim=3)


# The hand begins low and beside the cube, which lies between it and the target; or above it.
PUSH: dict[str, Any] = {
    "start": ((-0.03, -0.1, 0.015), (0.03, -0.05, 0.05)),
    "half": 0.025,
    "radii": (0.03, 0.1, 0.3),
}
PICK: dict[str, Any] = {
    "start": ((-0.03, -0.03, 0.06), (0.03, 0.03, 0.12)),
    "half": 0.02,
    "radii": (0.02, 0.05, 0.1),
    "grips": True,
}
CUBES: dict[str, Callable[[], MujocoTask]] = {
    name: partial(robot, name, cube=cube, target=target, **how)
    for name, robot, cube, target, how in (
        ("arm_binpick_hard", PandaCube, (-0.3, 0.6), (0.3, 0.6), {"spread": 0.15, "bins": True}),
        ("arm_push_easy", PandaCube, (-0.1, 0.6), (0.1, 0.6), {"spread": 0.1}),
        ("arm_push_hard", PandaCube, (-0.25, 0.65), (0.25, 0.65), {"spread": 0.25}),
        ("fr3_pick_place", Fr3Cube, (0.5, -0.1), (0.5, 0.1), PICK),
        ("fr3_push_easy", Fr3Cube, (0.5, -0.1), (0.5, 0.1), PUSH),
        ("fr3_push_hard", Fr3Cube, (0.45, -0.25), (0.45, 0.25), PUSH),
    )
}
