import inspect
from functools import cache

import jax
import mujoco
import numpy as np
import pytest
from sled import FORCE_LIMIT, FRICTION, GAIN, MASS, PERIOD, STEPS, Sled, Slide

import teacher.rollout
from pipelines.config import Config, with_values
from teacher.compilation import jit_once
from teacher.config import (
    CollectConfig,
    NetworkConfig,
    RandomiseConfig,
    TaskConfig,
    TeacherConfig,
    UpdateConfig,
)
from teacher.errors import UsageError
from teacher.learner import Learner
from teacher.randomization import DomainRandomization, PhysicsParams, draw, pushes
from teacher.rollout import NOTHING_RANDOM, Simulation, randomised, require_randomisable
from teacher.tasks import Start, make_task
from teacher.tasks.engines import make_engine

GRAVITY = 9.81  # m/s^2
PUSH, PUSH_INTERVAL = 0.5, 0.5  # m/s, s
ENVS = 8

SLED, SLED_FILE = Sled(), inspect.getfile(Sled)
EVERYTHING = DomainRandomization(
    friction=0.5, mass=0.5, strength=0.5, latency=2, push=PUSH, push_interval_s=PUSH_INTERVAL
)


@pytest.fixture(autouse=True, scope="module")
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (ENVS,))
        yield


@pytest.fixture(scope="module")
def sleds():
    return {engine: Simulation(SLED, engine, EVERYTHING) for engine in SLED.engines}


@pytest.fixture(params=SLED.engines)
def sled(request, sleds):
    return sleds[request.param]


def constant(action):
    return lambda observation, goal: np.full((len(goal), 1), action, np.float32)


def in_the_air(start):
    """So high that the floor is not reached within an episode."""
    return start._replace(qpos=start.qpos + np.float32([0.0, 5.0]))


def pushes_of(seeds):
    """[K] -> the changes of velocity [K, STEPS] in the episodes with these seeds."""
    seeds, steps = np.repeat(np.uint32(seeds), STEPS), np.tile(np.arange(STEPS), len(seeds))
    conditions = PhysicsParams(None, None, None, None, seeds)
    changes = jax.jit(lambda: pushes(EVERYTHING, conditions, steps, PERIOD, 1))()
    return np.asarray(changes).reshape(-1, STEPS)


@cache
def calm_seed():
    """A seed with which an episode is never pushed."""
    return np.flatnonzero((pushes_of(np.arange(100)) == 0).all(1))[0]


def start_with(**conditions):
    """ENVS starts on the floor; conditions not given are the model's, those given are repeated."""
    values = {"friction": 1.0, "mass": 1.0, "strength": 1.0, "delay": 0, "seed": calm_seed()} | conditions
    dtypes = PhysicsParams(np.float32, np.float32, np.float32, np.int32, np.uint32)
    drawn = PhysicsParams(
        *(np.resize(values[name], ENVS).astype(getattr(dtypes, name)) for name in PhysicsParams._fields)
    )
    resting = np.zeros((ENVS, 2), np.float32)
    return Start(resting, resting, np.zeros((ENVS, 1), np.float32), drawn)


def velocity(trajectories):
    return trajectories.observation[..., 1]


# What each setting does, on both engines


def test_what_is_heavier_gains_speed_more_slowly(sled):
    ran = sled.rollout(constant(0.5), in_the_air(start_with(mass=[1.0, 2.0, 0.5])))
    expected = 0.5 * GAIN / (MASS * np.array([1.0, 2.0, 0.5])) * STEPS * PERIOD
    np.testing.assert_allclose(velocity(ran)[-1, :3], expected, rtol=1e-3)


def test_what_rubs_less_slides_further(sled):
    friction = np.array([1.0, 0.5, 1.5])
    ran = sled.rollout(constant(0.5), start_with(friction=friction))
    speed = velocity(ran)[:, :3]
    gained = (0.5 * GAIN / MASS - friction * FRICTION * GRAVITY) * 20 * PERIOD
    np.testing.assert_allclose(speed[-1] - speed[10], gained, rtol=0.05)  # after the landing
    assert ran.qpos[-1, 1, 0] > ran.qpos[-1, 0, 0] > ran.qpos[-1, 2, 0]


def test_stronger_actuators_pull_harder_and_up_to_a_higher_limit(sled):
    strength = np.array([1.0, 0.5, 1.5])
    for action, force in ((0.5, 0.5 * GAIN), (1.0, FORCE_LIMIT)):
        ran = sled.rollout(constant(action), in_the_air(start_with(strength=strength)))
        np.testing.assert_allclose(velocity(ran)[-1, :3], strength * force / MASS * STEPS * PERIOD, rtol=1e-3)


def test_an_action_arrives_exactly_its_delay_later(sled):
    calls = iter(range(STEPS))

    def kick_first(observation, goal):
        return constant(1.0 if next(calls) == 0 else 0.0)(observation, goal)

    ran = sled.rollout(kick_first, in_the_air(start_with(delay=[0, 1, 2])))
    moves = np.diff(velocity(ran)[:, :3], axis=0) > 1e-3
    np.testing.assert_array_equal([np.flatnonzero(column).tolist() for column in moves.T], [[0], [1], [2]])


def test_a_push_changes_the_velocity_at_once(sled):
    seeds = np.arange(ENVS)
    ran = sled.rollout(constant(0.0), in_the_air(start_with(seed=seeds)))
    expected = pushes_of(seeds).T
    assert (expected != 0).sum() > 3
    np.testing.assert_allclose(np.diff(velocity(ran), axis=0), expected, atol=1e-6)


def test_pushes_come_at_their_rate_and_fill_their_size():
    changes = pushes_of(np.arange(1000))
    came = np.abs(changes[changes != 0])
    chance = PERIOD / PUSH_INTERVAL
    assert abs(len(came) - changes.size * chance) < 4 * (changes.size * chance * (1 - chance)) ** 0.5
    assert 0.98 * PUSH < came.max() <= PUSH
    assert came.mean() == pytest.approx(PUSH / 2, rel=0.1)
    assert np.mean(changes > 0) == pytest.approx(np.mean(changes < 0), rel=0.2)


def test_a_mass_changed_for_one_episode_is_that_of_a_heavier_model():
    task = make_task("fr3_reach")
    home = np.array([task.spec.joints.default])
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 1, 7))
    engine = make_engine(task, "mujoco")
    untouched = engine._model.body_mass.copy()
    one = np.ones(1)
    state = engine.init(home, np.zeros((1, 7)), PhysicsParams(one, 1.5 * one, one, one, one))
    for action in actions:
        engine.step(state, action, ())

    model = task.model("mujoco")
    model.body_mass *= 1.5
    model.body_inertia *= 1.5
    data = mujoco.MjData(model)
    mujoco.mj_setConst(model, data)
    mujoco.mj_resetData(model, data)
    data.qpos = home[0]
    for action in actions:
        data.ctrl = action[0]
        mujoco.mj_step(model, data, 5)
    np.testing.assert_allclose(engine.read(state).qpos[0], data.qpos, atol=1e-12)
    np.testing.assert_allclose(state[0].subtree_com, data.subtree_com, atol=1e-12)
    np.testing.assert_array_equal(engine._model.body_mass, untouched)


@pytest.mark.parametrize("engine", ["mjx", "mujoco"])
def test_a_body_that_nothing_bears_is_heavier_too(engine):
    """MuJoCo keeps the inertia of such simple bodies, and does not compute it again from their masses."""
    cart = Slide(
        """<mujoco><option timestep="0.05" gravity="0 0 0"/><worldbody><body><geom size="0.1" mass="1"/>
        <joint name="slide" type="slide" axis="1 0 0" armature="0.5"/></body></worldbody>
        <actuator><motor joint="slide" ctrlrange="-9 9"/></actuator></mujoco>"""
    )
    simulator, zero, one = make_engine(cart, engine), np.zeros((2, 1), np.float32), np.ones(2, np.float32)
    conditions = PhysicsParams(one, np.float32([1, 3]), one, one, one)
    state = simulator.step(simulator.init(zero, zero, conditions), zero + 6, conditions)
    np.testing.assert_allclose(
        simulator.read(state, conditions).qvel[:, 0], 6 * 0.05 / np.array([1.5, 3.5]), rtol=1e-5
    )


# What is drawn


@pytest.fixture(scope="module")
def drawn():
    keys = jax.random.split(jax.random.key(0), 4000)
    spread = DomainRandomization(friction=0.5, mass=0.25, strength=0.125, latency=3)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: draw(spread, key)))(keys))


def test_factors_and_delays_fill_their_range_independently(drawn):
    for name, share in (("friction", 0.5), ("mass", 0.25), ("strength", 0.125)):
        factor = getattr(drawn, name)
        assert 1 - share <= factor.min() < 1 - 0.99 * share
        assert 1 + 0.99 * share < factor.max() <= 1 + share
        assert factor.mean() == pytest.approx(1, abs=0.05 * share)
    np.testing.assert_allclose(np.bincount(drawn.delay, minlength=4) / 4000, 0.25, atol=0.03)
    factors = np.stack([drawn.friction, drawn.mass, drawn.strength, drawn.delay])
    np.testing.assert_allclose(np.corrcoef(factors), np.eye(4), atol=0.08)
    assert len(np.unique(drawn.seed)) > 3990


def test_starts_and_goals_are_the_same_with_and_without_conditions(sleds):
    key = jax.random.key(4)
    varied = sleds["mujoco"].starts(key, ENVS)
    plain = Simulation(SLED, "mujoco").starts(key, ENVS)
    assert plain.conditions == ()
    jax.tree.map(np.testing.assert_array_equal, plain[:3], varied[:3])


# Settings


def config_of(task, *assignments):
    return with_values(Config(), [f"task.name={task}", *assignments]).teacher


def test_settings_override_the_tasks_own_and_leave_the_rest():
    own = make_task("quad_reach").randomise
    assert randomised(config_of("quad_reach")) == own
    changes = [f"randomise.{text}" for text in ("friction=0.3", "push=0", "noise=2")]
    changed = own._replace(friction=0.3, push=0.0, noise=2.0)
    assert randomised(config_of("quad_reach", *changes)) == changed
    # Where nothing is random it is one simulation, whatever else is set.
    assert randomised(config_of("reacher", "randomise.push_interval_s=1")) == NOTHING_RANDOM
    assert randomised(config_of("reacher", "randomise.noise=0.5")) == NOTHING_RANDOM._replace(noise=0.5)


@pytest.mark.parametrize(
    ("task", "engine", "spread", "message"),
    [
        (
            "reacher",
            "brax",
            {"mass": 0.1, "friction": 0.1},
            r"randomise\.friction, randomise\.mass: .*'brax'.*mjx",
        ),
        ("reacher", "brax", {"push": 0.1}, r"randomise\.push: task 'reacher' on engine 'brax'"),
        ("reacher", "mjx", {"push": 0.1, "push_interval_s": 0.01}, r"randomise\.push_interval_s is 0\.01"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_name(task, engine, spread, message):
    with pytest.raises(UsageError, match=message):
        require_randomisable(make_task(task), engine, DomainRandomization(**spread))


# Learning


@pytest.fixture(scope="module")
def collected():
    """What a learner collects in 20 control steps, in which most of the episodes of 30 end."""
    learner = Learner(
        TeacherConfig(
            task=TaskConfig(name=f"{SLED_FILE}:Sled"),
            randomise=RandomiseConfig(mass=0.3, strength=0.3, latency=2, push=0.1),
            network=NetworkConfig(depth=4, width=8, repr_dim=4),
            update=UpdateConfig(batch_size=8),
            collect=CollectConfig(envs=ENVS, unroll_length=20, updates=1, buffer_rows=40, prefill=20),
        )
    )
    state = learner.init(jax.random.key(0))
    before = jax.tree.map(np.array, state.environments.physics.conditions)
    state = jit_once(learner.collect)(state)
    assert np.isfinite(state.replay.rows.observation[:20]).all()
    return before, jax.tree.map(np.array, state.environments.physics.conditions), state.environments.episode


def test_an_environment_has_its_own_conditions_which_change_with_its_episode(collected):
    first, second, episode = collected
    for values in (*first[:3], first.seed):
        assert len(np.unique(values)) == ENVS
    ended = np.array(episode) > 0
    assert 0 < ended.sum() < ENVS
    for before, after in zip(first[:3], second[:3], strict=True):
        np.testing.assert_array_equal(before != after, ended)
