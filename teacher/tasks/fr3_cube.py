"""A Franka Research 3 that pushes a cube over a table, or grasps it and puts it elsewhere.

Our own tasks beside the published ones (`panda_cube.py`): joint velocities in place of angles, a gripper of
any width, 150 steps, cube and goal spread by 0.1 m, no bins. The table is a plane without edges that the arm
could push the cube over; cube, fingers and table are all that collides.
"""

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.spec import ActionKind, ActionSpec, Floats, TaskSpec
from teacher.tasks.base import Array, MujocoTask, Start, State, goal_of, observation_terms, slowed
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
DRIVEN = (0, 1, 3, 5)  # joints; the control law holds the others, so the fingers stay in a vertical plane
SPEED = 1.0  # rad/s at full action
KINDS: tuple[ActionKind, ...] = tuple("joint_velocity" for _ in DRIVEN)
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
                kind=(*KINDS, "gripper_width") if grips else "joint_velocity",
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
        return Start(qpos, jnp.zeros(qpos.size - 1), self._draw_goal(goal_key, layout))

    def _on_table(self, key: Array, centre: Floats) -> Array:
        offset = jax.random.uniform(key, (2,), minval=-SPREAD, maxval=SPREAD)
        return jnp.append(jnp.array(centre) + offset, self._half)

    def _draw_goal(self, key: Array, layout: str) -> Array:
        place_key, table_key, air_key = jax.random.split(key, 3)
        cube = self._on_table(table_key, self._target)
        if not self._grips:
            return cube
        offset = jax.random.uniform(place_key, (4,), minval=-1, maxval=1)[:3]
        spread = jnp.array((SPREAD, SPREAD, HEIGHT_SPREAD))
        in_air = (layout == "air") | jax.random.bernoulli(air_key)
        return jnp.where(in_air, jnp.array((*self._target, HEIGHT)) + spread * offset, cube)

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


# The hand begins low and beside the cube, which lies between it and the target.
fr3_push_easy = partial(
    Fr3Cube,
    "fr3_push_easy",
    start=((-0.03, -0.1, 0.015), (0.03, -0.05, 0.05)),
    cube=(0.5, -0.1),
    target=(0.5, 0.1),
    half=0.025,
    radii=(0.03, 0.1, 0.3),
)
fr3_push_hard = partial(
    Fr3Cube,
    "fr3_push_hard",
    start=((-0.03, -0.1, 0.015), (0.03, -0.05, 0.05)),
    cube=(0.45, -0.25),
    target=(0.45, 0.25),
    half=0.025,
    radii=(0.03, 0.1, 0.3),
)
fr3_pick_place = partial(
    Fr3Cube,
    "fr3_pick_place",
    start=((-0.03, -0.03, 0.06), (0.03, 0.03, 0.12)),
    cube=(0.5, -0.1),
    target=(0.5, 0.1),
    half=0.02,
    radii=(0.02, 0.05, 0.1),
    grips=True,
)
