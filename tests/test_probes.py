"""The learner solves every probe, and students the one that is made for them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Aim, Backswing, Balance, Heavy, Home, Probe, Throw, name_of

from student.config import StudentConfig
from student.distill import Distiller
from student.networks import act, fold
from teacher.compilation import jit_once
from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes
from teacher.learner import Learner
from teacher.rollout import simulation_of
from teacher.tasks import TASKS, make_task

ITERATIONS = {Aim: 10, Backswing: 10, Home: 20, Throw: 10, Heavy: 20}
EPISODES = 64
# Share of final success. Over six seeds and more, solved probes reach 0.93 to 1; with the fault that a probe
# is made for (goals of other rows, from the past, from beyond a fall or from before the action, actions a
# step late, a policy of another time, students without statistics) 0 to 0.52.
SOLVED = 0.8


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        for probe in (*ITERATIONS, Balance):
            patch.setitem(TASKS, name_of(probe), probe)
        yield


def config_of(probe: type[Probe]) -> TeacherConfig:
    return TeacherConfig(
        task=TaskConfig(name=name_of(probe)),
        network=NetworkConfig(depth=4, width=32, repr_dim=8),
        update=UpdateConfig(actor_lr=3e-3, critic_lr=3e-3, temperature_lr=3e-3, batch_size=128),
        collect=CollectConfig(envs=64, unroll_length=16, updates=50, buffer_rows=64, prefill=64),
    )


def final_success(config, policy):
    where = simulation_of(config.task)
    start = evaluation_starts(where, EPISODES, evaluation_layout(config))
    return run_episodes(where, policy, start)[0].success_final.mean()


@pytest.fixture(scope="module")
def shared():
    """What of a learner does not depend on the task: compiled once for all probes."""
    return {}


@pytest.mark.parametrize("probe", ITERATIONS)
def test_the_learner_solves(probe, shared):
    learner = Learner(config_of(probe))
    for name, function in (("_collect", learner.collect), ("_update", learner.update_many)):
        setattr(learner, name, jit_once(function, donate_argnums=0))  # sooner compiled
    for name in ("_update", "_act"):
        setattr(learner, name, shared.setdefault(name, getattr(learner, name)))
    state = learner.init(jax.random.key(0))
    for _ in range(ITERATIONS[probe]):
        state, _ = learner.iterate(state)
    assert final_success(learner.config, learner.policy(state.params)) > SOLVED


class Knowing:
    """A teacher that computes what Balance asks for; its embeddings are the positions themselves."""

    params, source, recurrent = (), "by hand", False

    def __init__(self):
        self.config, self.task = config_of(Balance), make_task(name_of(Balance))
        self.spec = self.task.spec
        self.representation = self.config.network.repr_dim
        self.copies = self.representation // self.spec.goal_size

    def act(self, params, observation, goal):
        left_alone = self.task.outcome(observation, jnp.zeros_like(goal))
        return jnp.clip((goal - left_alone) / self.task.STEP, -1, 1)

    def embed_state_action(self, params, observation, action):
        return jnp.tile(jnp.clip(self.task.outcome(observation, action), -2, 2), self.copies)

    def embed_goal(self, params, goal):
        return jnp.tile(goal, self.copies)


def test_a_student_learns_though_what_it_sees_changes():
    """Few updates a round, so that the first students fall."""
    few = {"rounds": 8, "teacher_rounds": 1, "mixed_rounds": 0, "updates": 10, "batch_size": 256, "lr": 5e-3}
    settings = StudentConfig(sizes=("2x32",), critic="2x32", envs=64, noise=0.05, **few)
    distiller = Distiller(settings, Knowing())
    state = distiller.init(jax.random.key(0))
    for _ in range(settings.rounds):
        state, _ = distiller.iterate(state)
    # The teacher's own rounds stay within 0.5.
    assert np.abs(state.labels.observation[..., :2]).max() > 2
    student = jax.tree.map(lambda leaf: leaf[0], state.ensemble.student(0))
    policy = jax.jit(partial(act, fold(student, state.normaliser)))
    assert final_success(distiller.teacher.config, policy) > SOLVED
