"""Motion of a robot's links from its joints: forward kinematics for NumPy and JAX alike.

Links are taken side by side, joint by joint within a link and level by level down the tree: written
link after link, the same takes XLA a hundred times longer to compile.
"""

import mujoco
import numpy as np

from teacher.tasks.base import Array, Links

FREE, HINGE, SLIDE = (int(getattr(mujoco.mjtJoint, f"mjJNT_{kind}")) for kind in ("FREE", "HINGE", "SLIDE"))


class Tree:
    """The L moving bodies of a MuJoCo model: a free base, and others on up to K hinges and slides each.

    Raises: ValueError for a model of another kind."""

    def __init__(self, model: mujoco.MjModel):
        kinds = model.jnt_type
        if kinds[0] != FREE or model.jnt_bodyid[0] != 1 or not np.isin(kinds[1:], (HINGE, SLIDE)).all():
            raise ValueError("the first body must be free, all others on hinges and slides")
        self.names = tuple(model.body(i).name for i in range(1, model.nbody))
        self.mass = model.body_mass[1:].copy()  # [L] kg
        self._centre = model.body_ipos[1:].copy()
        self._parent = model.body_parentid[1:] - 1  # [L], -1: the world
        self._position = model.body_pos[1:].copy()
        self._position[0] = 0  # a free body's place is in qpos
        self._rotation = np.stack([rotation_matrix(quaternion) for quaternion in model.body_quat[1:]])

        slots = np.arange(model.body_jntnum[2:].max(initial=0))
        used = slots < model.body_jntnum[1:, None]
        used[0] = False  # the free joint is apart
        joint = np.where(used, model.body_jntadr[1:, None] + slots, 0)  # [L, K]
        self._hinge, self._slide = used & (kinds[joint] == HINGE), used & (kinds[joint] == SLIDE)
        self._q, self._v = model.jnt_qposadr[joint], model.jnt_dofadr[joint]
        self._axis, self._anchor = model.jnt_axis[joint], model.jnt_pos[joint]  # [L, K, 3]

        self._moved_by = np.eye(len(self._parent))  # [L, L]: 1 where a body moves with another
        depth = np.zeros(len(self._parent), int)
        for i, parent in enumerate(self._parent):
            if parent >= 0:
                self._moved_by[i] += self._moved_by[parent]
                depth[i] = depth[parent] + 1
        self._levels = [np.flatnonzero(depth == level) for level in range(depth.max() + 1)]

    def links(self, qpos: Array, qvel: Array) -> Links:
        """Joint state [..., nq], [..., nv], velocities as MuJoCo means them -> links [..., L]."""
        xp, dtype = qpos.__array_namespace__(), qpos.dtype
        position, rotation, anchor, axis = self._in_parent(qpos)
        parent_position, parent_rotation = self._parents(qpos, position, rotation)

        # In axes of the world, from the base: float32 has few digits left far from the origin.
        centre = position + rotate(rotation, xp.asarray(self._centre, dtype=dtype))
        centre = parent_position + rotate(parent_rotation, centre)
        axis = rotate(parent_rotation[..., None, :, :], axis)
        anchor = parent_position[..., None, :] + rotate(parent_rotation[..., None, :, :], anchor)

        # What a link's own joints add to the motion of all links that it carries: a turn, and the
        # velocity of the point of them that is at the base.
        turning = axis * (qvel[..., self._v] * self._hinge.astype(dtype))[..., None]
        shift = axis * (qvel[..., self._v] * self._slide.astype(dtype))[..., None] + xp.cross(anchor, turning)
        base_turning = rotate(rotation[..., 0, :, :], qvel[..., 3:6])
        turning, shift = (
            xp.concatenate([first[..., None, :], joints[..., 1:, :, :].sum(-2)], axis=-2)
            for first, joints in ((base_turning, turning), (qvel[..., :3], shift))
        )
        moved_by = xp.asarray(self._moved_by, dtype=dtype)
        turning, shift = moved_by @ turning, moved_by @ shift
        return Links(centre + qpos[..., None, :3], shift + xp.cross(turning, centre), turning)

    def _in_parent(self, qpos: Array) -> tuple[Array, Array, Array, Array]:
        """Frames of the links, position [..., L, 3] and rotation [..., L, 3, 3], and anchors and axes
        [..., L, K, 3] of their joints; each in its parent's frame, the base from itself."""
        xp, dtype = qpos.__array_namespace__(), qpos.dtype
        base = rotation_matrix(qpos[..., 3:7])[..., None, :, :]
        rest = xp.asarray(self._rotation[1:], dtype=dtype)
        rotation = xp.concatenate([base, xp.broadcast_to(rest, (*base.shape[:-3], *rest.shape))], axis=-3)
        position = xp.zeros_like(rotation[..., 0]) + xp.asarray(self._position, dtype=dtype)
        angle = qpos[..., self._q] * self._hinge.astype(dtype)
        way = qpos[..., self._q] * self._slide.astype(dtype)
        anchors, axes = [], []
        for k in range(self._axis.shape[1]):
            fixed = xp.asarray(self._anchor[:, k], dtype=dtype)
            axes.append(rotate(rotation, xp.asarray(self._axis[:, k], dtype=dtype)))
            anchors.append(position + rotate(rotation, fixed) + axes[-1] * way[..., k, None])
            rotation = _compose(rotation, _about(self._axis[:, k], angle[..., k]))
            position = anchors[-1] - rotate(rotation, fixed)
        return position, rotation, xp.stack(anchors, axis=-2), xp.stack(axes, axis=-2)

    def _parents(self, qpos: Array, position: Array, rotation: Array) -> tuple[Array, Array]:
        """Frames of the links' parents in the world, from the base: [..., L, 3], [..., L, 3, 3]."""
        xp = qpos.__array_namespace__()
        from_base = [xp.zeros_like(qpos[..., :3]) if i == 0 else -qpos[..., :3] for i in self._levels[0]]
        world = xp.zeros_like(rotation[..., self._levels[0], :, :]) + xp.eye(3, dtype=qpos.dtype)
        positions, rotations = [xp.stack(from_base, axis=-2)], [world]
        for above, level in zip(self._levels, self._levels[1:], strict=False):
            within = np.searchsorted(above, self._parent[level])
            own_position, own_rotation = position[..., above, :], rotation[..., above, :, :]
            own_position = positions[-1] + rotate(rotations[-1], own_position)
            own_rotation = _compose(rotations[-1], own_rotation)
            positions.append(own_position[..., within, :])
            rotations.append(own_rotation[..., within, :, :])
        order = np.argsort(np.concatenate(self._levels))
        return (
            xp.concatenate(positions, axis=-2)[..., order, :],
            xp.concatenate(rotations, axis=-3)[..., order, :, :],
        )


def rotate(rotation: Array, vector: Array) -> Array:
    """[..., 3, 3] times [..., 3] -> [..., 3]"""
    return (rotation * vector[..., None, :]).sum(-1)


def _compose(outer: Array, inner: Array) -> Array:
    """[..., 3, 3] times [..., 3, 3]; as `@`, XLA cannot compile it for a CPU with two leading axes."""
    return (outer[..., None] * inner[..., None, :, :]).sum(-2)


def rotation_matrix(quaternion: Array) -> Array:
    """[..., 4] w x y z of any length -> rotation [..., 3, 3]."""
    xp = quaternion.__array_namespace__()
    unit = quaternion / (quaternion**2).sum(-1, keepdims=True) ** 0.5
    w, x, y, z = (unit[..., i] for i in range(4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def _about(axis: np.ndarray, angle: Array) -> Array:
    """Rotations [..., L, 3, 3] about unit axes [L, 3] by angles [..., L] in rad."""
    xp, dtype = angle.__array_namespace__(), angle.dtype
    cross = np.cross(np.eye(3), axis[:, None, :])  # rows; times a vector: axis x vector
    along = axis[:, :, None] * axis[:, None, :]
    cos, sin = xp.cos(angle)[..., None, None], xp.sin(angle)[..., None, None]
    across = xp.asarray(np.eye(3) - along, dtype=dtype)
    return xp.asarray(along, dtype=dtype) + cos * across + sin * xp.asarray(cross, dtype=dtype)
