"""The learner solves every probe, and with the fault that a probe is made for it does not.

Most faults are built in by rewriting the replay as the faulty code would have left it, because that
compiles nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Aim, Backswing, Balance, Heavy, Home, Probe, Throw, name_of

from student.config import StudentConfig
from student.distill import Distiller
from student.networks import act, fold
from teacher import replay
from teacher.compilation import jit_once
from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes
from teacher.learner import Learner
from teacher.rollout import simulation_of
from teacher.tasks import TASKS, make_task

ITERATIONS = {Aim: 10, Backswing: 10, Home: 20, Throw: 10, Heavy: 20}
EPISODES = 64
# Shares of final success. Over six seeds and more, solved probes reach 0.93 to 1, others 0 to 0.52.
SOLVED, UNSOLVED = 0.8, 0.65

jit_insert = jax.jit(replay.insert)


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


class Learners(dict):
    """One learner a probe, made when asked for. They share what does not depend on the task."""

    def __missing__(self, probe):
        self[probe] = made = self.new(probe)
        return made

    def new(self, probe):
        made = Learner(config_of(probe))
        made._collect = jit_once(made.collect, donate_argnums=0)  # soon compiled, and it runs rarely
        for other in self.values():
            made._update, made._act = other._update, other._act
        return made


@pytest.fixture(scope="module")
def learners():
    return Learners()


def trained(learner, probe, seed=0):
    """Parameters after the probe's iterations."""
    state = learner.init(jax.random.key(seed))
    for _ in range(ITERATIONS[probe]):
        state, _ = learner.iterate(state)
    return state.params


def final_success(config, policy):
    where = simulation_of(config.task)
    start = evaluation_starts(where, EPISODES, evaluation_layout(config))
    return run_episodes(where, policy, start)[0].success_final.mean()


def score(learner, params):
    return final_success(learner.config, learner.policy(params))


# The learner


@pytest.mark.parametrize("probe", ITERATIONS)
def test_the_learner_solves(probe, learners):
    assert score(learners[probe], trained(learners[probe], probe)) > SOLVED


def goals_from_the_past(rows):
    backwards = jax.tree.map(lambda leaf: leaf[::-1], rows)
    return backwards._replace(episode=rows.episode.max() - backwards.episode)


def goals_from_beyond_a_fall(rows):
    fell = rows.achieved_goal[..., 0] < np.cos(np.pi * Home.EDGE)
    begins = np.diff(rows.episode, axis=0, prepend=rows.episode[:1]) > 0
    return rows._replace(episode=np.cumsum(begins & ~np.roll(fell, 1, axis=0), axis=0, dtype=np.int32))


def changed(**how):
    """A fault that rewrites one field of the rows."""
    return lambda rows: rows._replace(**{field: change(rows) for field, change in how.items()})


def shuffled(rows):
    return np.random.default_rng(0).permutation(rows.achieved_goal, axis=1)


FAULTS = {
    "goals of other rows": (Aim, changed(achieved_goal=shuffled)),
    "goals from the past": (Backswing, goals_from_the_past),
    "goals from beyond a fall": (Home, goals_from_beyond_a_fall),
    "goals from before the action": (Throw, changed(achieved_goal=lambda rows: rows.observation[..., :2])),
    "actions a step late": (Throw, changed(action=lambda rows: np.roll(rows.action, 1, axis=0))),
}


def in_order(ring: replay.Replay) -> replay.Rows:
    """A full ring's rows [T, N], the oldest first, in NumPy."""
    capacity = len(ring.newest)
    slots = (int(ring.written) + np.arange(capacity)) % capacity
    return jax.tree.map(lambda leaf: np.asarray(leaf)[slots], ring.rows)


def rewrite(monkeypatch, learner, fault):
    """From now on the learner's updates see the replay's rows as the fault leaves them."""
    update, sizes = learner._update, learner.spec.sizes

    def update_on_rewritten(state):
        kept = state.replay
        empty = replay.empty(*kept.newest.shape, *sizes)
        state, metrics = update(state._replace(replay=jit_insert(empty, fault(in_order(kept)))))
        return state._replace(replay=kept), metrics

    monkeypatch.setattr(learner, "_update", update_on_rewritten)


@pytest.mark.parametrize(("probe", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_fault_in_what_is_learned_from_shows(probe, fault, learners, monkeypatch):
    learner = learners[probe]
    rewrite(monkeypatch, learner, fault)
    assert score(learner, trained(learner, probe)) < UNSOLVED


def test_collecting_with_parameters_of_another_time_shows(learners, monkeypatch):
    learner = learners[Heavy]
    collect, first = learner._collect, learner.init(jax.random.key(0)).params

    def collect_as_at_first(state):
        used = jax.tree.map(jnp.copy, first)
        return collect(state._replace(params=used))._replace(params=state.params)

    monkeypatch.setattr(learner, "_collect", collect_as_at_first)
    assert score(learner, trained(learner, Heavy)) < UNSOLVED


# The students


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


@pytest.fixture(scope="module")
def distiller():
    """Few updates a round, so that the first students fall."""
    few = StudentConfig(
        sizes=("2x32",),
        critic="2x32",
        envs=64,
        rounds=8,
        teacher_rounds=1,
        mixed_rounds=0,
        noise=0.05,
        updates=10,
        batch_size=256,
        lr=5e-3,
    )
    return Distiller(few, Knowing())


def student_score(distiller, seed=0):
    """Final success of the student, and how far from the middle was the farthest that it fell."""
    state = distiller.init(jax.random.key(seed))
    for _ in range(distiller.config.rounds):
        state, _ = distiller.iterate(state)
    student = jax.tree.map(lambda leaf: leaf[0], state.ensemble.student(0))
    folded = fold(student, state.normaliser)
    farthest = np.abs(state.labels.observation[..., :2]).max()
    return final_success(distiller.teacher.config, jax.jit(partial(act, folded))), farthest


def test_a_student_learns_though_what_it_sees_changes(distiller):
    success, farthest = student_score(distiller)
    assert farthest > 2  # the teacher's own rounds stay within 0.5
    assert success > SOLVED


def test_a_student_without_statistics_shows(distiller, monkeypatch):
    label = distiller._label

    def unmeasured(state, *visited):
        before = jax.tree.map(jnp.copy, state.normaliser)
        return label(state, *visited)._replace(normaliser=before)

    monkeypatch.setattr(distiller, "_label", unmeasured)
    assert student_score(distiller)[0] < UNSOLVED
