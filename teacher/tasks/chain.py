"""A chain of joints from a base to a tip: where it brings the tip, and the task of bringing it to a point."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.tasks.base import Array, MujocoTask, Start, State, rotation_matrix, slowed

HINGE, SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)
ON_JOINT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))


class Chain:
    """Joints and bodies from the base to a tip, and where they bring it."""

    def __init__(self, model: mujoco.MjModel, tip: str):
        site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, tip)
        body = int(model.site_bodyid[site]) if site >= 0 else model.body(tip).id
        self._offset = model.site_pos[site].copy() if site >= 0 else np.zeros(3)
        self._turn = rotation_matrix(model.site_quat[site]) if site >= 0 else np.eye(3)
        path = [body]
        while path[0]:
            path.insert(0, int(model.body_parentid[path[0]]))
        self.bodies, self.joints = tuple(path), list[int]()
        self._steps: list[tuple[Any, ...]] = []
        for each in path:
            # Of a body at right angles to its parent the entries are 0 and 1, to the last bit.
            turn = rotation_matrix(model.body_quat[each]).round(15) + 0.0
            self._steps.append((model.body_pos[each], turn, None))
            for joint in range(model.body_jntadr[each], model.body_jntadr[each] + model.body_jntnum[each]):
                hinge = model.jnt_type[joint] == HINGE
                start = model.qpos0[model.jnt_qposadr[joint]]
                self._steps.append((model.jnt_pos[joint], model.jnt_axis[joint], (hinge, start)))
                self.joints.append(joint)

    @property
    def reach(self) -> float:
        """Metres from the first joint to the tip, along the links."""
        first = next(i for i, step in enumerate(self._steps) if step[2] is not None)
        links = [step[0] for step in self._steps[first + 1 :] if step[2] is None]
        return float(sum(map(np.linalg.norm, [*links, self._offset])))

    def frames(self, qpos: Array) -> tuple[Array, Array]:
        """Forward kinematics: [..., n], the chain's joints in order -> positions [..., n + 1, 3] (m) and
        rotations [..., n + 1, 3, 3] in the world, of each joint's body as it leaves it and of the tip."""
        xp, dtype = qpos.__array_namespace__(), qpos.dtype

        def constant(value: Any) -> Array:
            return xp.asarray(value, dtype=dtype)

        position = xp.zeros((*qpos.shape[:-1], 3), dtype)
        rotation = xp.broadcast_to(xp.eye(3, dtype=dtype), (*qpos.shape[:-1], 3, 3))
        found: list[tuple[Array, Array]] = []
        for place, turn, moved in self._steps:
            if moved is None:
                position = position + rotation @ constant(place)
                rotation = rotation @ constant(turn)
                continue
            hinge, start = moved
            by = qpos[..., len(found), None] - constant(start)
            if hinge:
                sin, cos = xp.sin(by)[..., None], xp.cos(by)[..., None]
                along, across = np.outer(turn, turn), np.cross(np.eye(3), turn)
                turned = rotation @ (
                    constant(along) + cos * constant(np.eye(3) - along) + sin * constant(across)
                )
                if place.any():
                    position = position + (rotation - turned) @ constant(place)
                rotation = turned
            else:
                position = position + by * (rotation @ constant(turn))
            found.append((position, rotation))
        found.append((position + rotation @ constant(self._offset), rotation))
        positions, rotations = zip(*found, strict=True)
        return xp.stack(positions, axis=-2), xp.stack(rotations, axis=-3)

    def tip(self, qpos: Array) -> Array:
        """[..., n] -> position [..., 3] of the tip in the world, m."""
        return self.frames(qpos)[0][..., -1, :]

    def pose(self, qpos: Array, lever: float) -> Array:
        """[..., n] -> the tip's position and, row by row, its rotation matrix times lever/√2, [..., 12] in m.

        Poses d m and a turn by θ rad apart then are √(d² + (2 · lever · sin(θ/2))²) apart: a matrix is one
        orientation, of which a quaternion and its negative are two names."""
        xp = qpos.__array_namespace__()
        positions, rotations = self.frames(qpos)
        turned = rotations[..., -1, :, :] @ xp.asarray(lever / 2**0.5 * self._turn, dtype=qpos.dtype)
        return xp.concatenate([positions[..., -1, :], turned.reshape(*qpos.shape[:-1], 9)], axis=-1)


class TipReach(MujocoTask):
    """Joint velocities bring an arm's tip to a reachable point, or pose."""

    engines = ("mjx", "mujoco")

    @abc.abstractmethod
    def tip(self, qpos: Array) -> Array:
        """Joint positions [..., n] -> what goals mean [..., G], as the tip's point [..., 3] in m."""

    @abc.abstractmethod
    def ranges(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Lower and upper joint positions [n] of starts, and of the poses that goals are drawn from."""

    def start(self, key: Array, layout: str) -> Start:
        start_key, goal_key = jax.random.split(key)
        # Anywhere in the range: on the robot an episode begins where the one before it ended.
        (low, high), (goal_low, goal_high) = (np.asarray(sides, np.float32) for sides in self.ranges())
        qpos = jax.random.uniform(start_key, low.shape, minval=low, maxval=high)
        goal = self.tip(jax.random.uniform(goal_key, low.shape, minval=goal_low, maxval=goal_high))
        stated = self.spec.goal
        return Start(
            qpos, jnp.zeros(low.shape), jnp.clip(goal, jnp.array(stated.low), jnp.array(stated.high))
        )

    def observe(self, state: State) -> Array:
        xp = state.qpos.__array_namespace__()
        return xp.concatenate([state.qpos, state.qvel, self.tip(state.qpos)], axis=-1)

    def control(self, state: State, action: Array) -> Array:
        """Joint velocities, cut so that joints slow down and stop before their limits."""
        return slowed(super().control(state, action), state.qpos, self.spec.joints)
