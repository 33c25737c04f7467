import jax
import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import teacher.rollout
from teacher.rollout import simulation
from teacher.sensing import sense
from teacher.tasks import State, make_task
from teacher.tasks.quadruped import JOINTS, LEGS, STANDING, QuadReach, knee_height

ENVS, STEPS = 4, 350
STILL = slice(0, 2)  # environments without action; the others act at random


@pytest.fixture(scope="module")
def quad():
    return make_task("quad_reach")


@pytest.fixture(scope="module")
def model(quad):
    return quad.model("mujoco")


@pytest.fixture(scope="module")
def ran():
    """Half of the environments stand, half move at random: by engine."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (ENVS,))
        for engine in QuadReach.engines:
            rng = np.random.default_rng(0)

            def policy(observation, goal, rng=rng):
                action = rng.uniform(-1, 1, (ENVS, 12)).astype(np.float32)
                action[STILL] = 0
                return action

            robot = simulation("quad_reach", engine)  # with as many environments as test_tasks, compiled once
            found[engine] = robot.rollout(policy, robot.starts(jax.random.key(0), ENVS), STEPS)
    return found


def standing(position=(0.0, 0.0, 0.3), turn=None, control=None):
    qpos = np.zeros(19)
    qpos[:3] = position
    qpos[3:7] = (turn or Rotation.identity()).as_quat(scalar_first=True)
    qpos[7:] = STANDING
    return State(qpos, np.zeros(18), control)


def tumbling(count):
    """States of all kinds."""
    rng = np.random.default_rng(1)
    qpos = rng.normal(size=(count, 19))
    qpos[:, 3:7] = Rotation.random(count, rng=rng).as_quat(scalar_first=True)
    return State(qpos, rng.normal(size=(count, 18)), None)


# The robot


def test_dimensions_and_limits_are_the_published_ones(model):
    assert model.body_mass.sum() == pytest.approx(15.017, abs=1e-3)  # kg
    assert JOINTS[:4] == ("FR_hip_joint", "FR_thigh_joint", "FR_calf_joint", "FL_hip_joint")
    assert JOINTS[6::3] == ("RR_hip_joint", "RL_hip_joint")
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)  # all joints at zero: legs straight down
    trunk = data.body("trunk").xpos
    feet = np.stack([data.geom(f"{leg}_foot").xpos - trunk for leg in LEGS])
    np.testing.assert_allclose(np.abs(feet), np.tile([0.1934, 0.0465 + 0.0955, 0.213 * 2], (4, 1)), atol=1e-9)
    np.testing.assert_array_equal(np.sign(feet[:, 0]), [1, 1, -1, -1])
    np.testing.assert_array_equal(np.sign(feet[:, 1]), [-1, 1, -1, 1])
    np.testing.assert_allclose(model.actuator_forcerange[:, 1], [23.7, 23.7, 45.43] * 4)
    for part in ("hip", "thigh", "calf"):
        right, left = model.body(f"FR_{part}"), model.body(f"FL_{part}")
        np.testing.assert_allclose(left.ipos, right.ipos * [1, -1, 1], atol=1e-12)
        np.testing.assert_allclose(left.inertia, right.inertia, atol=1e-12)


def test_gains_and_default_pose_of_the_spec_are_the_models(quad, model):
    action = quad.spec.action
    np.testing.assert_array_equal(model.actuator_gainprm[:, 0], action.stiffness)
    np.testing.assert_array_equal(model.actuator_biasprm[:, 1], np.negative(action.stiffness))
    np.testing.assert_array_equal(model.actuator_biasprm[:, 2], np.negative(action.damping))
    np.testing.assert_array_equal(quad.control(standing(), np.zeros(12)), quad.spec.joints.default)
    for extreme in (-np.ones(12), np.ones(12)):
        command = quad.control(standing(), extreme)
        assert (command > quad.spec.joints.lower).all()
        assert (command < quad.spec.joints.upper).all()


@pytest.mark.parametrize("engine", QuadReach.engines)
def test_the_robot_stands_still_under_zero_action(quad, ran, engine):
    qpos = ran[engine].qpos[:, STILL].astype(np.float64)
    observation, late = ran[engine].observation[:, STILL], qpos[250:]
    assert not quad.ended(State(qpos, None, None)).any()
    assert np.ptp(late[..., :3], axis=0).max() < 0.01  # m
    assert ((late[..., 2] > 0.25) & (late[..., 2] < 0.32)).all()
    assert (observation[250:, :, 8] > 0.99).all()  # upright
    assert np.abs(observation[-1, :, 9:15]).max() < 0.02


# What the teacher sees


def test_observation_is_what_mujoco_says_of_the_trunk(quad, model):
    states = tumbling(5)
    observation = quad.observe(states)
    data = mujoco.MjData(model)
    for i in range(5):
        data.qpos, data.qvel = states.qpos[i], states.qvel[i]
        mujoco.mj_forward(model, data)
        trunk = data.body("trunk")
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, trunk.id, velocity, 0)
        axes = trunk.xmat.reshape(3, 3)
        expected = [trunk.xpos, axes[:, 0], axes[:, 2], velocity[3:], velocity[:3]]
        np.testing.assert_allclose(observation[i, :15], np.concatenate(expected), atol=1e-9)
        np.testing.assert_array_equal(observation[i, 15:27], data.qpos[7:])
        np.testing.assert_array_equal(observation[i, 27:], data.qvel[6:])
        calves = [data.body(f"{leg}_calf").xpos[2] for leg in LEGS]
        np.testing.assert_allclose(knee_height(states.qpos[i]), calves, atol=1e-9)


def test_an_episode_ends_when_the_robot_has_fallen(quad):
    kneeling = standing((0, 0, 0.2))
    kneeling.qpos[7:] = np.tile([0.0, 0.0, -2.5], 4)
    for ends, state in (
        (False, standing()),
        (False, standing(turn=Rotation.from_euler("xyz", [40, 0, 170], degrees=True))),
        (True, standing((0, 0, 0.14))),
        (True, standing((0, 0, 0.6), Rotation.from_euler("x", 65, degrees=True))),
        (True, standing((0, 0, 0.6), Rotation.from_euler("y", -65, degrees=True))),
        (True, kneeling),
    ):
        assert bool(quad.ended(state)) == ends


# What the robot sees


@pytest.mark.parametrize(
    ("axes", "degrees", "gravity", "goal"),
    [
        ("z", 0, [0, 0, -1], [2, 1]),
        ("z", 90, [0, 0, -1], [1, -2]),
        ("z", 180, [0, 0, -1], [-2, -1]),
        ("x", 30, [0, -0.5, -(0.75**0.5)], [2, 1]),  # right side down; it heads the same way
        ("y", 90, [1, 0, 0], None),  # nose down
    ],
)
def test_gravity_points_down_and_a_goal_lies_ahead_and_to_the_left(quad, axes, degrees, gravity, goal):
    state = standing((5, 5, 0.3), Rotation.from_euler(axes, degrees, degrees=True))
    np.testing.assert_allclose(quad.reading(state, np.zeros(12))[:3], gravity, atol=1e-12)
    if goal:
        np.testing.assert_allclose(quad.deployed_goal(state.qpos, np.array([7.0, 6.0])), goal, atol=1e-12)


def test_a_reading_has_the_terms_of_the_spec(quad):
    deployed, state = quad.spec.deployed, tumbling(3)
    action = np.random.default_rng(3).uniform(-1, 1, (3, 12))
    reading = quad.reading(state, action)
    assert reading.shape == (3, deployed.reading_size)
    term = {term.name: reading[:, term.start : term.stop] for term in deployed.reading}
    np.testing.assert_array_equal(term["base_angular_velocity"], state.qvel[:, 3:6])
    np.testing.assert_allclose(term["joint_position_from_default"], state.qpos[:, 7:] - STANDING)
    np.testing.assert_array_equal(term["joint_velocity"], state.qvel[:, 6:])
    np.testing.assert_array_equal(term["last_action"], action)
    assert quad.deployed_goal(state.qpos, np.zeros((3, 2))).shape == (3, len(deployed.goal.entries))


def test_each_term_has_the_noise_that_the_spec_says(quad):
    state, action = tumbling(5000), np.zeros((5000, 12))
    keys = jax.random.split(jax.random.key(0), 5000)
    error = sense(quad, state, action, keys, 0.5) - quad.reading(state, action)
    expected = [0.5 * term.noise for term in quad.spec.deployed.reading for _ in term.entries]
    np.testing.assert_allclose(error.std(0), expected, rtol=0.05)
