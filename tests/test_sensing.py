"""Policies that see what a robot's sensors say: in rollouts, in the exported file, in closed loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from export.bundle import write_bundle
from export.controller import ControllerError, load
from pipelines import closed_loop
from teacher.evaluate import evaluation_noise_key, evaluation_starts, run_episodes
from teacher.rollout import all_seeing, on_robot, simulation
from teacher.tasks import make_task
from teacher.tasks.fr3_arm import ENCODER_NOISE, JOINTS

EPISODES, STEPS = 6, 40
KEY = jax.random.key(5)
SPEC = make_task("fr3_reach_sensed").spec
OBSERVATION, ACTION, GOAL = SPEC.sensed_sizes
READING = SPEC.deployed.reading_size
WEIGHTS = jax.random.normal(jax.random.key(1), (OBSERVATION + GOAL, ACTION))


def policy(obs, goal):
    return jnp.tanh(jnp.concatenate([obs, goal], axis=-1) @ WEIGHTS / 4)


def critic(obs, action, goal):
    return jnp.sqrt((obs[:, :GOAL] - goal) ** 2 @ jnp.ones(GOAL) + (action**2).sum(-1))


@pytest.fixture(scope="module")
def robot():
    return simulation("fr3_reach_sensed", "mujoco")


@pytest.fixture(scope="module")
def start(robot):
    return robot.starts(jax.random.key(0), EPISODES)


@pytest.fixture(scope="module")
def lived(robot, start):
    return robot.rollout(on_robot(policy), start, STEPS, KEY)


def test_where_nothing_is_deployed_robots_see_the_observation():
    plain = simulation("fr3_reach", "mujoco")
    start = plain.starts(jax.random.key(0), 3)
    shown = []

    def acts(observation, goal, sensed):
        shown.append((observation, goal, *sensed))
        return np.zeros((3, ACTION), np.float32)

    lived = plain.rollout(acts, start, 5, KEY)
    for observation, goal, seen, asked in shown:
        assert observation is seen
        assert goal is asked
    np.testing.assert_array_equal(lived.sensed.observation, lived.observation)
    assert (lived.sensed.goal == start.goal).all()
    assert plain.task.spec.sensed_sizes == plain.task.spec.sizes


def test_a_robot_is_shown_noisy_readings_the_newest_first(lived):
    readings = lived.sensed.observation.reshape(STEPS + 1, EPISODES, SPEC.deployed.history, READING)
    np.testing.assert_array_equal(readings[1:, :, 1], readings[:-1, :, 0])
    np.testing.assert_array_equal(readings[2:, :, 2], readings[:-2, :, 0])
    assert (readings[0] == readings[0][:, :1]).all()  # an episode's first reading stands for earlier ones
    errors = readings[:, :, 0] - lived.qpos[..., :READING]
    assert errors.std() == pytest.approx(ENCODER_NOISE, rel=0.05)
    assert abs(errors.mean()) < ENCODER_NOISE / 10
    assert len(np.unique(errors)) == errors.size
    names = [term.name for term in SPEC.sensed_observation]
    assert names == ["joint_position", "joint_position_t-1", "joint_position_t-2"]
    assert SPEC.sensed_observation[-1].stop == OBSERVATION


def test_noise_pairs_policies_and_does_not_depend_on_other_episodes(robot, start):
    def alone(obs, goal):  # a product of matrices may differ in its last bit with the number of rows
        return np.concatenate([policy(*row) for row in zip(obs[:, None], goal[:, None], strict=True)])

    first = jax.tree.map(lambda leaf: leaf[:2], start)
    lived = robot.rollout(on_robot(alone), start, 10, KEY)
    again = robot.rollout(on_robot(alone), first, 10, KEY)
    np.testing.assert_array_equal(again.sensed.observation, lived.sensed.observation[:, :2])
    other = robot.rollout(on_robot(alone), first, 1, jax.random.key(6))
    assert (other.sensed.observation[0] != again.sensed.observation[0]).all()


def test_policies_that_see_all_are_shown_no_noise(robot, start):
    def acts(observation, goal):
        assert observation.shape[-1] == SPEC.observation_size
        return np.zeros((len(goal), ACTION), np.float32)

    lived = robot.rollout(all_seeing(acts), start, 3, KEY)
    without = robot.rollout(acts, start, 3)
    np.testing.assert_array_equal(lived.observation, without.observation)
    assert without.sensed is None


def test_compiled_and_c_engine_sense_alike(start):
    compiled = simulation("fr3_reach_sensed", "mjx")
    still = all_seeing(lambda observation, goal: np.zeros((len(goal), ACTION), np.float32))
    lived = compiled.rollout(still, start, 2, KEY)
    expected = simulation("fr3_reach_sensed", "mujoco").rollout(still, start, 2, KEY)
    np.testing.assert_allclose(lived.sensed.observation, expected.sensed.observation, atol=1e-4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, robot):
    start = robot.starts(jax.random.key(2), 10)
    lived = robot.rollout(on_robot(policy), start, noise_key=KEY)
    rows = [values.reshape(-1, values.shape[-1])[:1000] for values in (*lived.sensed_steps(), lived.action)]
    directory = tmp_path_factory.mktemp("sensed") / "small"
    arrays = (values.astype(np.float32) for values in rows)
    write_bundle(directory, SPEC, policy, critic, *arrays, provenance={}, evaluate=lambda _: {"success": 0.5})
    return directory


@pytest.fixture
def controller(bundle):
    return load(bundle)


def test_the_controller_keeps_the_history_that_rollouts_show(controller, lived):
    for episode in range(2):
        controller.reset()
        for seen in lived.sensed.observation[:, episode].astype(np.float32):
            observed = controller.observe(seen[:READING])
            np.testing.assert_array_equal(observed, seen)
    assert controller.observe(seen[:READING]) is observed  # nothing is allocated


def test_the_controller_in_closed_loop_is_the_policy_on_its_sensors(controller, robot):
    figures, _ = closed_loop.run_controller(controller, robot, robot.task.layouts[-1], episodes=3)
    starts = evaluation_starts(robot, 3, robot.task.layouts[-1])
    key = jax.random.fold_in(evaluation_noise_key(), 0)
    found, _ = run_episodes(robot, on_robot(policy), starts, key)
    assert figures["final_distance"] == pytest.approx(np.mean(found.final_distance), abs=1e-4)
    assert figures["steps"] == 3 * SPEC.episode_length


def test_a_reading_that_is_not_finite_is_named_and_leaves_the_history(controller):
    good = np.linspace(-1, 1, READING, dtype=np.float32)
    before = controller.observe(good).copy()
    bad = good.copy()
    bad[2] = np.nan
    with pytest.raises(ControllerError, match=rf"reading: joint_position\.{JOINTS[2]} = nan \(rad"):
        controller.observe(bad)
    with pytest.raises(ControllerError, match=rf"reading: float32\[{READING - 1}\], .* \[{READING}\]"):
        controller.observe(good[1:])
    np.testing.assert_array_equal(controller.observe(good), before)
