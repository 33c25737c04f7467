"""An arm as a chain of joints: found in a model file, where it brings its tip, and the task of doing so."""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.errors import UsageError, unknown_name
from teacher.tasks.base import Array, MujocoTask, Start, State, rotation_matrix, slowed

HINGE, SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)
ON_JOINT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
SETTLING = 0.02  # s: time constant of the servo that follows a velocity
TIME_STEP = 0.01  # s


class Chain:
    """Joints and bodies from the base to a tip, and where they bring it."""

    def __init__(self, model: mujoco.MjModel, tip: str):
        site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, tip)
        body = int(model.site_bodyid[site]) if site >= 0 else model.body(tip).id
        self._offset = model.site_pos[site].copy() if site >= 0 else np.zeros(3)
        self._turn = rotation_matrix(model.site_quat[site]) if site >= 0 else np.eye(3)
        path = [0, *_way(model, body)]
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


def parsed(file: Path) -> mujoco.MjSpec:
    if not file.is_file():
        raise UsageError(f"there is no model {file}")
    try:
        spec = mujoco.MjSpec.from_file(str(file))
        if file.suffix == ".urdf":  # links without joints, its flange or tool, would go otherwise
            spec.compiler.fusestatic = spec.compiler.discardvisual = False
        return spec
    except ValueError as error:
        raise UsageError(f"{file}: MuJoCo cannot read it: {_first_line(error)}") from error


def compiled(spec: mujoco.MjSpec, file: Path) -> mujoco.MjModel:
    try:
        return spec.compile()
    except ValueError as error:
        raise UsageError(f"{file}: MuJoCo cannot compile it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _way(model: mujoco.MjModel, body: int) -> list[int]:
    """Bodies from the one that stands in the world to this one."""
    return [*_way(model, int(model.body_parentid[body])), body] if body else []


def driven_joints(model: mujoco.MjModel, file: Path) -> list[str]:
    """Names of joints that an actuator of their own drives; of a URDF, which has no actuators, all."""
    if file.suffix == ".urdf":
        return [model.joint(i).name for i in range(model.njnt)]
    of_joint = np.isin(model.actuator_trntype, ON_JOINT)
    found = [model.joint(joint).name for joint in model.actuator_trnid[of_joint, 0]]
    if not found:
        raise UsageError(
            f"{file}: no joint has an actuator: add them to the model, one for each of the arm's joints"
        )
    return found


def decided_tip(model: mujoco.MjModel, file: Path, driven: Sequence[str]) -> str:
    """The last site of the body that the driven joints end at, or its last part without joints."""
    ways = [_way(model, int(model.jnt_bodyid[model.joint(name).id])) for name in driven]
    ends = [each for each in ways if not any(each != other and other[: len(each)] == each for other in ways)]
    common = [bodies[0] for bodies in zip(*ends, strict=False) if len(set(bodies)) == 1]
    if not any(model.body_jntnum[body] for body in common):
        raise UsageError(f"{file}: several arms: say which tip with --tip, one of {', '.join(_tips(model))}")
    parts = [common[-1]]
    for body in range(common[-1] + 1, model.nbody):
        if model.body_parentid[body] in parts and not model.body_jntnum[body]:
            parts.append(body)
    sites = [i for i in range(model.nsite) if model.site_bodyid[i] in parts and model.site(i).name]
    return str(model.site(sites[-1]).name if sites else model.body(parts[-1]).name)


def _tips(model: mujoco.MjModel) -> list[str]:
    sites = [model.site(i).name for i in range(model.nsite)]
    return list(filter(None, [*sites, *(model.body(i).name for i in range(1, model.nbody))]))


def checked_chain(model: mujoco.MjModel, file: Path, tip: str, driven: Sequence[str]) -> Chain:
    if tip not in _tips(model):
        raise UsageError(f"{file}: {unknown_name('site or body', tip, _tips(model))}")
    chain = Chain(model, tip)
    for joint in chain.joints:
        name = model.joint(joint).name
        if model.jnt_type[joint] not in (HINGE, SLIDE):
            what = "an arm stands on a fixed base and has hinges and slides"
            raise UsageError(f"{file}: joint {name!r} is free, or a ball: {what}")
        if not name:
            body = model.body(model.jnt_bodyid[joint]).name
            raise UsageError(f"{file}: the joint of body {body!r} has no name: give it one in the model")
        if name not in driven:
            raise UsageError(f"{file}: joint {name!r}, on the way to {tip!r}, has no actuator")
    if not chain.joints:
        others = ", ".join(_tips(model))
        raise UsageError(f"{file}: no joint moves {tip!r}: name another --tip, one of {others}")
    loops = (mujoco.mjtEq.mjEQ_CONNECT, mujoco.mjtEq.mjEQ_WELD)
    of_body = model.eq_objtype == int(mujoco.mjtObj.mjOBJ_BODY)
    for i in range(model.neq):
        ends = {int(model.eq_obj1id[i]), int(model.eq_obj2id[i])}
        if model.eq_type[i] in map(int, loops) and of_body[i] and ends & set(chain.bodies[1:]):
            where = model.body(max(ends)).name
            raise UsageError(
                f"{file}: a closed loop of links (an equality at {where!r}): an arm is an open chain"
            )
        if model.eq_type[i] == int(mujoco.mjtEq.mjEQ_JOINT) and (coupled := ends & set(chain.joints)):
            name = model.joint(min(coupled)).name
            raise UsageError(
                f"{file}: an equality couples joint {name!r} to another: an arm's joints are free"
            )
    return chain


def servo_model(
    file: Path, joints: Sequence[str], home: Sequence[float], velocity: Sequence[float], control_dt: float
) -> mujoco.MjModel:
    """The arm alone, other joints fixed, nothing that collides, each joint under a servo of its own.

    Whatever drives the joints in the file, position, velocity or torque: an arm's own controller compensates
    gravity and friction and follows joint velocities, as far as the actuators' forces go."""
    spec = parsed(file)
    whole = compiled(spec, file)
    data = mujoco.MjData(whole)
    for name, value in zip(joints, home, strict=True):
        data.joint(name).qpos[0] = value
    mujoco.mj_forward(whole, data)
    unused = ("keys", "sensors", "tendons", "equalities", "actuators", "pairs", "excludes")
    fixed = [joint for joint in spec.joints if joint.name not in joints]
    for each in [*fixed, *(each for part in unused for each in getattr(spec, part))]:
        spec.delete(each)
    for joint in spec.joints:
        joint.limited = mujoco.mjtLimited.mjLIMITED_FALSE  # commands are kept from the limits
        joint.frictionloss, joint.stiffness, joint.damping = 0, 0 * joint.stiffness, 0 * joint.damping
    for body in spec.bodies[1:]:
        body.gravcomp = 1
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0
    for name, speed in zip(joints, velocity, strict=True):
        dof, product = whole.joint(name).dofadr[0], np.zeros(whole.nv)
        mujoco.mj_mulM(whole, data, product, np.eye(whole.nv)[dof])
        servo = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        servo.set_to_velocity(kv=product[dof] / SETTLING)
        servo.ctrllimited, servo.ctrlrange = mujoco.mjtLimited.mjLIMITED_TRUE, [-speed, speed]
        if (force := _force_limit(whole, whole.joint(name).id)) is not None:
            servo.forcelimited, servo.forcerange = mujoco.mjtLimited.mjLIMITED_TRUE, force
    spec.option.timestep = control_dt / max(1, round(control_dt / TIME_STEP))
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return compiled(spec, file)


def _force_limit(model: mujoco.MjModel, joint: int) -> list[float] | None:
    """What the actuator of a joint can exert, N m or N; None without one, or without limits."""
    for i in np.flatnonzero(model.actuator_trnid[:, 0] == joint):
        if model.actuator_trntype[i] not in ON_JOINT:
            continue
        gear = model.actuator_gear[i, 0]
        if model.actuator_forcelimited[i]:
            return sorted((gear * model.actuator_forcerange[i]).tolist())
        if model.actuator_ctrllimited[i] and model.actuator_biastype[i] == int(mujoco.mjtBias.mjBIAS_NONE):
            return sorted((gear * model.actuator_gainprm[i, 0] * model.actuator_ctrlrange[i]).tolist())
    return None
