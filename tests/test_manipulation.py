"""The FR3 and its cube: what pushing, grasping and reaching for goals come to in both engines."""

import jax
import mujoco
import numpy as np
import pytest

import teacher.rollout
from teacher.rollout import simulation
from teacher.tasks import State, goal_distance, make_task
from teacher.tasks.fr3_arm import HOME, JOINTS, SIDE, TIP, flange_pose, reach_down
from teacher.tasks.fr3_cube import DRIVEN

OPEN, CLOSED = 1.0, -1.0
EPISODES = 8


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (EPISODES,))
        yield


def part(spec, observation, name):
    term = next(term for term in spec.observation if term.name == name)
    return observation[..., term.start : term.stop]


def towards(model, qpos, point, speed=0.3):
    """Action [4] that brings the tip of an upright hand to a point, by damped least squares."""
    data = mujoco.MjData(model)
    data.qpos[:7] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    hand = data.body("fr3_hand")
    tip = hand.xpos + TIP * hand.xmat.reshape(3, 3)[:, 2]
    jacobian, tilt = np.zeros((3, model.nv)), np.zeros((1, model.nv))
    mujoco.mj_jac(model, data, jacobian, None, tip, model.body("fr3_hand").id)
    tilt[0, [1, 3, 5]] = -1, 1, 1
    wanted = 4 * (point - tip)
    wanted *= min(1, speed / np.linalg.norm(wanted))
    rows = np.concatenate([jacobian, tilt])[:, list(DRIVEN)]
    error = np.append(wanted, 4 * (qpos[1] - qpos[3] - qpos[5]))
    return np.clip(np.linalg.solve(rows.T @ rows + 1e-4 * np.eye(4), rows.T @ error), -1, 1)


def pusher(task, through=0.05):
    """Goes behind the cube, as seen from the goal, and on, aiming so far (m) from there."""
    model, spec = task.model("mujoco"), task.spec

    def act(observation, goal):
        cube = part(spec, observation, "cube_position")
        tip = part(spec, observation, "flange_pose")[3:6]
        if np.linalg.norm(goal - cube) < 0.02:
            return np.zeros(4)
        way = (goal - cube) / np.linalg.norm(goal - cube)
        behind = cube - 0.05 * way
        aligned = np.linalg.norm((tip - behind) - way * ((tip - behind) @ way)) < 0.015
        return towards(model, observation[:7], behind + through * way * aligned, speed=0.3)

    return lambda observation, goal: np.stack(list(map(act, observation, goal)))


def gripper(task):
    """Over the cube, down, closed, and to the goal; by the number of the step."""
    model, spec = task.model("mujoco"), task.spec
    step = iter(range(spec.episode_length))

    def act(observation, goal, number):
        cube = part(spec, observation, "cube_position")
        point = goal[-3:] if number >= 60 else cube + np.array([0, 0, 0.08]) if number < 20 else cube
        return np.append(towards(model, observation[:7], point), OPEN if number < 45 else CLOSED)

    def policy(observation, goal):
        number = next(step)
        return np.stack([act(o, g, number) for o, g in zip(observation, goal, strict=True)])

    return policy


# What a state means


@pytest.mark.parametrize("name", ["fr3_push_easy", "fr3_pick_place"])
def test_observations_are_those_of_the_model(name):
    task = make_task(name)
    model, spec, rng = task.model("mujoco"), task.spec, np.random.default_rng(0)
    data = mujoco.MjData(model)
    for start in simulation(spec.name, "mujoco").starts(jax.random.key(1), 5).qpos:
        data.qpos = start
        data.qpos[:7] += rng.uniform(-0.3, 0.3, 7)
        data.qvel = rng.normal(size=model.nv)
        mujoco.mj_forward(model, data)
        observation = task.observe(State(data.qpos.copy(), data.qvel.copy(), np.zeros(model.nu)))
        np.testing.assert_array_equal(part(spec, observation, "cube_position"), data.body("cube").xpos)
        np.testing.assert_array_equal(part(spec, observation, "joint_position"), data.qpos[:7])
        np.testing.assert_array_equal(part(spec, observation, "joint_velocity"), data.qvel[:7])
        flange, tip, side = part(spec, observation, "flange_pose").reshape(3, 3)
        hand = data.body("fr3_hand").xmat.reshape(3, 3)
        np.testing.assert_allclose(flange, data.site("flange").xpos, atol=1e-9)
        np.testing.assert_allclose(tip - flange, TIP * hand[:, 2], atol=1e-9)
        np.testing.assert_allclose(side - flange, SIDE * hand[:, 1], atol=1e-9)
        if task.layouts == ("all", "air"):
            apart = np.linalg.norm(data.body("fr3_finger1").xpos - data.body("fr3_finger2").xpos)
            np.testing.assert_allclose(part(spec, observation, "gripper_width"), apart, atol=1e-9)


def test_the_hand_is_brought_down_to_a_point():
    points = np.random.default_rng(2).uniform([0.35, -0.3, 0.02], [0.6, 0.3, 0.3], (100, 3))
    flange, tip, _ = np.split(flange_pose(reach_down(points)), 3, axis=-1)
    np.testing.assert_allclose(tip, points, atol=1e-9)
    np.testing.assert_allclose(flange - points, np.broadcast_to([0, 0, TIP], points.shape), atol=1e-9)


# What a goal means


def test_goals_in_the_air_are_laid_out_apart():
    robot = simulation("fr3_pick_place", "mujoco")
    heights = (robot.starts(jax.random.key(0), 400, layout).goal[:, 2] for layout in ("all", "air"))
    mixed, in_air = (np.isclose(height, 0.02).mean() for height in heights)
    assert 0.4 < mixed < 0.6
    assert in_air == 0


# What the arm does to the cube


@pytest.mark.parametrize("name", ["fr3_push_easy", "fr3_push_hard"])
def test_the_arm_can_push_the_cube_to_its_goal(name):
    on_mujoco = simulation(name, "mujoco")
    spec = on_mujoco.task.spec
    start = on_mujoco.starts(jax.random.key(0), 2)
    qpos, observation, *_ = on_mujoco.rollout(pusher(on_mujoco.task, through=0.07), start)
    distance = goal_distance(spec, observation, start.goal)
    assert (distance[0] > 0.15).all()
    assert (distance[-1] < spec.goal.strict_radius).all()
    cube = qpos[..., -7:-4]
    np.testing.assert_array_equal(part(spec, observation, "cube_position"), cube)
    np.testing.assert_allclose(distance, np.linalg.norm(cube - start.goal, axis=-1))
    np.testing.assert_allclose(cube[..., 2], 0.025, atol=0.01)  # it stays on the table


def test_the_gripper_can_lift_the_cube_and_hold_it_where_it_should_be():
    on_mujoco = simulation("fr3_pick_place", "mujoco")
    spec = on_mujoco.task.spec
    start = on_mujoco.starts(jax.random.key(0), 2, "air")
    observation = on_mujoco.rollout(gripper(on_mujoco.task), start).observation
    assert (goal_distance(spec, observation[:50], start.goal) > spec.goal.success_radius).all()
    assert (goal_distance(spec, observation[100:], start.goal) < spec.goal.strict_radius).all()
    width = part(spec, observation, "gripper_width")
    assert (width[40] > 0.07).all()
    assert (np.abs(width[100:] - 0.04) < 0.005).all()  # the cube is between the fingers


# What random play does


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("fr3_push_easy", "mujoco"),
        ("fr3_pick_place", "mujoco"),
        ("fr3_push_easy", "mjx"),
        pytest.param("fr3_pick_place", "mjx", marks=pytest.mark.slow),
    ],
)
def test_random_play_leaves_the_cube_on_the_table(name, engine):
    on_engine, rng = simulation(name, engine), np.random.default_rng(0)
    size = on_engine.task.spec.action_size
    played = on_engine.rollout(
        lambda observation, goal: rng.uniform(-1, 1, (EPISODES, size)).astype(np.float32),
        on_engine.starts(jax.random.key(4), EPISODES),
    )
    assert np.isfinite(played.observation).all()
    x, y, z = np.moveaxis(played.qpos[..., -7:-4], -1, 0)
    assert (np.hypot(x, y) < 1).all()
    assert (z > 0.01).all() and (z < 0.1).all()
    assert (np.ptp(x, axis=0) > 0.002).any()  # it was met
    tip = flange_pose(played.qpos[..., :7])[..., 5]
    assert (tip > 0).all() and (tip < 0.02).any()  # the hand stays over the table, and touches it
    held = [i for i in range(len(JOINTS)) if i not in DRIVEN]
    assert (np.abs(played.qpos[..., held] - np.array(HOME)[held]) < 0.05).all()


# MJX against the C engine


def one_step(name, start, action):
    return [
        simulation(name, engine).rollout(lambda observation, goal: action, start, 1).qpos[-1]
        for engine in ("mjx", "mujoco")
    ]


def test_engines_agree_on_a_step_without_contact_and_on_one_with_it():
    on_mujoco = simulation("fr3_push_easy", "mujoco")
    spec = on_mujoco.task.spec
    start = on_mujoco.starts(jax.random.key(0), EPISODES)
    action = np.random.default_rng(5).uniform(-1, 1, (EPISODES, spec.action_size)).astype(np.float32)
    free = start._replace(
        qpos=start.qpos + np.eye(start.qpos.shape[1], dtype=np.float32)[9] * 0.3
    )  # it falls
    np.testing.assert_allclose(*one_step("fr3_push_easy", free, action), atol=1e-4)

    pushed = on_mujoco.rollout(pusher(on_mujoco.task), start, 25)
    qpos = pushed.qpos[-1].astype(np.float32)
    observation = pushed.observation[-1].astype(np.float32)
    qvel = np.zeros_like(start.qvel)
    qvel[:, :7] = part(spec, observation, "joint_velocity")
    action = pusher(on_mujoco.task)(observation, start.goal).astype(np.float32)
    mjx, exact = one_step("fr3_push_easy", start._replace(qpos=qpos, qvel=qvel), action)
    assert (np.linalg.norm(exact - qpos, axis=-1) > 0.002).all()
    np.testing.assert_allclose(mjx[:, :7], exact[:, :7], atol=1e-4)
    # MJX finds contacts of a box in its own way, so a cube may be tilted a little differently.
    np.testing.assert_allclose(mjx[:, 7:10], exact[:, 7:10], atol=2e-3)
    tilt = 2 * np.arccos(np.minimum(1, np.abs((mjx[:, 10:] * exact[:, 10:]).sum(-1))))
    assert tilt.max() < 0.05  # rad: 2 mm at a corner
