"""Arms that are all of their model: against their own kinematics, and the FR3 against its maker's URDF."""

import xml.etree.ElementTree as ElementTree
from importlib.resources import files

import jax
import mujoco
import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from teacher.rollout import simulation
from teacher.tasks import State, achieved_goal, make_task
from teacher.tasks.fr3_arm import flange_position, joint_frames


@pytest.fixture(params=["fr3_reach", "reacher"])
def task(request):
    return make_task(request.param)


@pytest.fixture(scope="module")
def fr3():
    return make_task("fr3_reach")


def at_rest(qpos):
    return State(qpos, np.zeros_like(qpos), np.zeros_like(qpos))


def test_goals_can_be_met_within_joint_limits(task):
    spec = task.spec
    low, high = np.array([spec.joints.range_of(name) for name in spec.joints.names]).T
    low, high = low + spec.joints.margin, high - spec.joints.margin
    bent = np.array(spec.joints.default) + 0.1  # off the singularity of a straight arm

    goals = simulation(spec.name, "mujoco").starts(jax.random.key(0), 8).goal
    for goal in goals.astype(np.float64):

        def miss(qpos, goal=goal):
            return achieved_goal(spec, task.observe(at_rest(qpos))) - goal

        found = least_squares(miss, bent, bounds=(low, high), xtol=1e-10)
        assert np.linalg.norm(found.fun) < spec.goal.strict_radius / 2


# FR3 against what its maker publishes


@pytest.fixture(scope="module")
def urdf():
    text = (files("franky_sim") / "assets" / "fr3.urdf").read_text()
    root = ElementTree.fromstring(text)
    return {(part.tag, part.get("name")): part for part in root if part.tag in ("joint", "link")}


def numbers(element, attribute):
    return np.array([float(number) for number in element.get(attribute).split()])


def transform(origin):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", numbers(origin, "rpy")).as_matrix()
    matrix[:3, 3] = numbers(origin, "xyz")
    return matrix


def urdf_frames(urdf, qpos):
    """Frames [8, 4, 4] of joints 1 to 7 and of the flange, fr3_joint8, in the robot's base."""
    frames, frame = [], np.eye(4)
    for i in range(1, 9):
        joint = urdf["joint", f"fr3_joint{i}"]
        frame = frame @ transform(joint.find("origin"))
        if joint.get("type") == "revolute":
            turn = np.eye(4)
            turn[:3, :3] = Rotation.from_rotvec(numbers(joint.find("axis"), "xyz") * qpos[i - 1]).as_matrix()
            frame = frame @ turn
        frames.append(frame)
    return np.stack(frames)


def random_configurations(spec, count):
    return np.random.default_rng(4).uniform(spec.joints.lower, spec.joints.upper, (count, 7))


def test_fr3_kinematics_are_those_of_the_urdf(fr3, urdf):
    qpos = random_configurations(fr3.spec, 50)
    expected = np.stack([urdf_frames(urdf, q) for q in qpos])
    positions, rotations = joint_frames(qpos)
    assert positions.dtype == np.float64
    np.testing.assert_allclose(positions, expected[..., :3, 3], atol=1e-6)
    np.testing.assert_allclose(rotations, expected[..., :3, :3], atol=1e-6)
    np.testing.assert_allclose(flange_position(qpos), expected[:, -1, :3, 3], atol=1e-6)


def test_fr3_kinematics_are_those_of_its_mujoco_model(fr3):
    model = fr3.model("mjx")
    data = mujoco.MjData(model)
    for qpos in random_configurations(fr3.spec, 20):
        data.qpos = qpos
        mujoco.mj_kinematics(model, data)
        expected = [*(data.body(f"fr3_link{i}").xpos for i in range(1, 8)), data.site("flange").xpos]
        np.testing.assert_allclose(joint_frames(qpos)[0], expected, atol=1e-6)


def test_fr3_limits_lie_inside_those_of_the_urdf(fr3, urdf):
    joints = fr3.spec.joints
    for name, lower, upper, velocity in zip(
        joints.names, joints.lower, joints.upper, joints.velocity, strict=True
    ):
        limit = urdf["joint", name].find("limit")
        assert float(limit.get("lower")) <= lower < upper <= float(limit.get("upper"))
        assert velocity <= float(limit.get("velocity"))
    assert (np.abs(fr3.spec.action.scale) <= np.array(joints.velocity)).all()


def test_fr3_masses_and_inertias_are_those_of_the_urdf(fr3, urdf):
    model = fr3.model("mjx")
    for i in range(1, 8):
        body = model.body(f"fr3_link{i}")
        inertial = urdf["link", f"fr3_link{i}"].find("inertial")
        assert body.mass[0] == pytest.approx(float(inertial.find("mass").get("value")), rel=1e-3)
        np.testing.assert_allclose(body.ipos, numbers(inertial.find("origin"), "xyz"), atol=1e-5)
        xx, yy, zz, xy, xz, yz = (
            float(inertial.find("inertia").get(f"i{axes}")) for axes in ("xx", "yy", "zz", "xy", "xz", "yz")
        )
        axes = Rotation.from_quat(body.iquat, scalar_first=True).as_matrix()
        found = axes @ np.diag(body.inertia) @ axes.T
        np.testing.assert_allclose(
            found, [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], atol=2e-3 * np.abs(found).max()
        )


def test_fr3_slows_down_before_its_limits_and_never_crosses_them(fr3):
    joints = fr3.spec.joints
    corners = np.random.default_rng(5).choice([-1.0, 1.0], (8, 7))
    drive = np.concatenate([np.eye(7), -np.eye(7), np.ones((1, 7)), -np.ones((1, 7)), corners])
    start = simulation("fr3_reach", "mujoco").starts(jax.random.key(0), len(drive))
    trajectories = simulation("fr3_reach", "mujoco").rollout(lambda observation, goal: drive, start)
    qpos, qvel = trajectories.qpos, trajectories.observation[..., 7:14]
    lower, upper = np.array(joints.lower), np.array(joints.upper)
    assert (qpos > lower).all()
    assert (qpos < upper).all()

    towards = np.where(drive > 0, upper - qpos, qpos - lower)  # [T, E, 7] way left
    pushed = np.broadcast_to(drive != 0, towards.shape)
    speed = qvel * np.sign(drive)
    far = (drive != 0) & (towards[0] > 0.6)
    assert far.sum() > 40
    assert (speed[:10].max(0)[far] > 0.9).all()  # full action is full speed while the limit is far
    near = pushed & (towards < joints.margin + 0.1)
    assert near.any(axis=0)[drive != 0].all()  # every driven joint came near its limit
    assert (speed[near] < 0.7).all()
    assert (np.abs(qvel[-1]) < 0.02).all()
    np.testing.assert_allclose(towards[-1][drive != 0], joints.margin, atol=0.01)


def test_fr3_turns_back_from_beyond_the_margin(fr3):
    joints = fr3.spec.joints
    back = joints.slowdown * joints.margin
    for limit, side in ((joints.upper, 1), (joints.lower, -1)):
        control = fr3.control(at_rest(np.array(limit)), np.full(7, side))
        np.testing.assert_allclose(control, -side * back, atol=1e-12)


def test_within_its_working_range_the_robots_own_meshes_never_touch(fr3):
    assets = files("franky_sim") / "assets"
    robot = mujoco.MjSpec.from_file(str(assets / "fr3.xml"))
    robot.meshdir = str(assets / "meshes")
    model = robot.compile()
    data = mujoco.MjData(model)
    folded = fr3.spec.joints.lower[3]

    def touch(qpos):
        data.qpos[:7], data.qpos[7:] = qpos, 0.04  # fingers open
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        return data.ncon > 0

    configurations = random_configurations(fr3.spec, 2000)
    configurations[::2, 3] = folded
    assert not any(touch(qpos) for qpos in configurations)
    configurations[:, 3] = folded - 0.3
    assert any(touch(qpos) for qpos in configurations)  # these meshes are felt
