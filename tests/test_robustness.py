"""A student beside its teacher in the same episodes, as they are and under harder conditions."""

from functools import cached_property
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from probes import Aim
from sled import Sled

from student.config import NOMINAL
from student.evaluate import ReferenceEpisodes, SampledStates
from student.robustness import PUSH, conditions, goals_beyond, robustness
from teacher.evaluate import evaluation_noise_key, evaluation_starts, run_episodes
from teacher.randomization import UNPUSHED, DomainRandomization
from teacher.rollout import Simulation
from teacher.tasks import TASKS, Start, make_task

EPISODES = 10


class LongSled(Sled):
    """A sled with the time to come to rest at its goal."""

    @cached_property
    def spec(self):
        return super().spec.model_copy(update={"episode_length": 80})


def policy(gain):
    """Towards the goal, slowing down on the way."""

    def act(observation, goal):
        return np.clip(gain * (goal - observation[:, :1]) - 0.3 * gain * observation[:, 1:], -1, 1)

    return act


@pytest.fixture(scope="module")
def reference():
    """The episodes of a policy that steers sleds in the C engine, where nothing has to be compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "sled", LongSled)
        simulation = Simulation(LongSled(), "mujoco")
        starts = evaluation_starts(simulation, EPISODES, "all")
        teacher = SimpleNamespace(
            policy=lambda: policy(20.0),
            actor_parameters=7,
            recurrent=False,
            config=SimpleNamespace(task=SimpleNamespace(name="sled")),
        )
        outcomes, trajectories = run_episodes(
            simulation, lambda *seen: policy(20.0)(*seen[:2]), starts, evaluation_noise_key()
        )
        states = SampledStates.of(trajectories, starts.goal, 100)
        yield ReferenceEpisodes(teacher, simulation, "all", starts, outcomes, states, None, None)


def distance(observation, action, goal):
    return float(abs(observation[0] - goal[0]))


def test_a_copy_of_its_teacher_keeps_everything(reference):
    found = reference.evaluate(policy(20.0), distance)
    assert found["retention"] == found["success_retention"] == 1
    assert max(found["policy_error"].values()) < 1e-4
    assert found["teacher_parameters"] == 7


def test_errors_on_states_that_the_teacher_never_sees_are_told_apart(reference):
    """Right wherever the teacher goes, but whoever is as fast as the teacher ever was never brakes again."""

    def hasty(observation, goal):
        return np.where(abs(observation[:, 1:]) < fastest, policy(20.0)(observation, goal), 1.0)

    fastest = 0.999 * abs(reference.states.observation[:, 1]).max()
    found = reference.evaluate(hasty, distance)
    assert found["policy_error"]["own_states"] > 2 * found["policy_error"]["teacher_states"]
    assert found["final_distance_change"] > 0


def test_a_copy_of_its_teacher_bears_everything_as_its_teacher_does_and_feels_each_condition(reference):
    of_a_copy = robustness(reference, policy(20.0), EPISODES)
    usual = of_a_copy[NOMINAL]["teacher"]
    assert usual == pytest.approx(reference.outcomes.time_at_goal.mean(), abs=1e-6)
    for name, found in of_a_copy.items():
        assert found["student"] == found["teacher"], name
        assert found["excess_drop_interval"] == [0.0, 0.0], name
        assert (found["teacher"] != usual) == (name != NOMINAL), name


def test_what_a_student_loses_beyond_its_teacher_is_told(reference):
    """A policy that does not look where it is at goals that it has not been trained for."""
    clumsy = robustness(reference, lambda o, g: policy(20.0)(o, g) * (np.abs(g) <= 1), EPISODES)
    assert clumsy[NOMINAL]["excess_drop"] == 0
    assert clumsy["goals_beyond"]["excess_drop"] > 0
    assert clumsy["mass_more"]["excess_drop"] == 0


def test_each_condition_changes_one_thing():
    randomise = DomainRandomization(friction=0.2, mass=0.2, latency=3, push=PUSH)
    start = Start(np.zeros((4, 2)), np.zeros((4, 2)), np.full((4, 1), 0.5))
    found = conditions(Simulation(LongSled(), "mujoco", randomise), start)
    usual = found.pop(NOMINAL)
    assert set(usual.conditions.seed) == {UNPUSHED}
    for name, changed in found.items():
        parts = ((usual, changed), (usual.conditions, changed.conditions))
        fields = [(a, b, field) for a, b in parts for field in a._fields if field != "conditions"]
        different = [f for a, b, f in fields if not np.array_equal(getattr(a, f), getattr(b, f))]
        assert len(different) == (name != "noise"), name
    np.testing.assert_allclose(found["mass_less"].conditions.mass, 0.8)
    np.testing.assert_array_equal(found["delay_2"].conditions.delay, 2)


def test_an_engine_without_a_model_is_asked_for_what_it_can_do():
    start = Start(np.zeros((4, 4)), np.zeros((4, 4)), np.full((4, 2), 0.5))
    found = conditions(Simulation(Aim(), "analytic", DomainRandomization(latency=3)), start)
    assert set(found) == {NOMINAL, "noise", "delay_1", "delay_2", "delay_3", "goals_beyond"}


def test_goals_beyond_the_range_lie_just_outside_of_it_in_their_old_direction():
    goal = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    spec = SimpleNamespace(goal=SimpleNamespace(low=(-2.0, -1.0, 0.0), high=(2.0, 1.0, 0.0), movable=3))
    moved = goals_beyond(spec, goal)
    reach = np.abs(moved[:, :2] / [2.0, 1.0]).max(1)
    assert (reach > 1).all() and (reach <= 1.2501).all()
    np.testing.assert_allclose(moved[:, 1] / moved[:, 0], goal[:, 1] / goal[:, 0])
    np.testing.assert_array_equal(moved[:, 2], goal[:, 2])


def test_goals_beyond_the_range_are_moved_where_a_model_holds_them_too():
    task = make_task("humanoid")
    starts = jax.vmap(lambda key: task.start(key, task.layouts[0]))(jax.random.split(jax.random.key(0), 3))
    moved = task.with_goal(starts, starts.goal + 2.0)
    np.testing.assert_allclose(moved.qpos[:, -2:], starts.goal[:, :2] + 2.0)  # shown by the body
    np.testing.assert_array_equal(moved.qpos[:, :-2], starts.qpos[:, :-2])
    np.testing.assert_array_equal(moved.goal, starts.goal + 2.0)
