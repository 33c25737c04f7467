"""An arm's model file: what no arm may have, and a servo for each joint."""

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from teacher.errors import UsageError, unknown_name
from teacher.tasks.chain import HINGE, ON_JOINT, SLIDE, Chain

SETTLING = 0.02  # s: time constant of the servo that follows a velocity
TIME_STEP = 0.01  # s


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

    def way(body: int) -> list[int]:
        return [*way(int(model.body_parentid[body])), body] if body else []

    ways = [way(int(model.jnt_bodyid[model.joint(name).id])) for name in driven]
    ends = [each for each in ways if not any(each != other and other[: len(each)] == each for other in ways)]
    common = [bodies[0] for bodies in zip(*ends, strict=False) if len(set(bodies)) == 1]
    if not any(model.body_jntnum[body] for body in common):
        raise UsageError(f"{file}: several arms: say which tip with --tip, one of {_tips(model)}")
    parts = [common[-1]]
    for body in range(common[-1] + 1, model.nbody):
        if model.body_parentid[body] in parts and not model.body_jntnum[body]:
            parts.append(body)
    sites = [i for i in range(model.nsite) if model.site_bodyid[i] in parts and model.site(i).name]
    return str(model.site(sites[-1]).name if sites else model.body(parts[-1]).name)


def _tips(model: mujoco.MjModel) -> str:
    sites = [model.site(i).name for i in range(model.nsite)]
    return ", ".join(filter(None, [*sites, *(model.body(i).name for i in range(1, model.nbody))]))


def checked_chain(model: mujoco.MjModel, file: Path, tip: str, driven: Sequence[str]) -> Chain:
    sites = {model.site(i).name for i in range(model.nsite)}
    bodies = {model.body(i).name for i in range(1, model.nbody)}
    if tip not in sites | bodies:
        raise UsageError(f"{file}: {unknown_name('site or body', tip, sorted(filter(None, sites | bodies)))}")
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
        raise UsageError(f"{file}: no joint moves {tip!r}: name another --tip, one of {_tips(model)}")
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
    unused = (
        spec.keys,
        spec.sensors,
        spec.tendons,
        spec.equalities,
        spec.actuators,
        spec.pairs,
        spec.excludes,
    )
    fixed = [joint for joint in spec.joints if joint.name not in joints]
    for each in [*fixed, *(each for part in unused for each in part)]:
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
