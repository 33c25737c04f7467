"""Franka arms and their cubes: what pushing, grasping and reaching for goals come to in both engines."""

import jax
import mujoco
import numpy as np
import pytest

import teacher.rollout
from teacher.rollout import simulation
from teacher.tasks import State, goal_distance, make_task
from teacher.tasks.cubes import DRIVEN, HALF
from teacher.tasks.fr3_arm import HOME, JOINTS, SIDE, TIP, flange_pose, joint_frames, reach_down

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


@pytest.mark.parametrize("name", ["fr3_push_easy", "fr3_pick_place"])
def test_random_play_leaves_the_cube_on_the_table(name):
    on_engine, rng = simulation(name, "mujoco"), np.random.default_rng(0)
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


# The published tasks: figures as in github.com/wang-kevin3290/scaling-crl, envs/manipulation

ASKED = np.array([[0.3491, 0.0, -3.0718, 2.3562], [2.7925, 1.48353, -0.0698, 3.7525]])  # rad, at -1 and 1
# Where servos rest whose gains for the command and for the angle differ; joint 4 is stopped by its limit.
REST = np.minimum(ASKED * [1, 1, 4 / 7, 1 / 2], [np.inf, np.inf, -0.0698, np.inf])
MOVED = [0, 1, 3, 5]


def carrier(task, height):
    """Comes down around the cube, closes, and brings it to the goal through a height (m) above the table."""
    low, high = REST
    grid = [np.linspace(low[i], high[i], count) for i, count in ((1, 150), (2, 150), (3, 8))]
    elbow = np.stack(np.meshgrid(*grid), -1).reshape(-1, 3)
    qpos = np.zeros((len(elbow), 7))
    qpos[:, MOVED[1:]], qpos[:, 6] = elbow, 1.4487 / 2
    positions, rotations = joint_frames(qpos)
    lowest, middle = (positions[:, -1] + way * rotations[:, -1, :, 2] for way in (0.1334, 0.12))
    allowed = (lowest[:, 2] > 0.005) & (middle[:, 2] < 0.3) & (middle[:, 0] > 0.3)
    elbow, middle = elbow[allowed], middle[allowed][:, [0, 2]]
    tilt = elbow @ [1, -1, -1]
    at, last, step = None, np.array([0.742, -1.571, 1.87]), iter(range(task.spec.episode_length))

    def act(point, before, closed):
        away = ((middle - [np.hypot(*point[:2]), point[2]]) ** 2).sum(-1)
        best = (away + 1e-4 * tilt**2 + 1e-4 * ((elbow - before) ** 2).sum(-1)).argmin()
        angles = np.append(np.arctan2(point[1], point[0]), elbow[best])
        return np.append(2 * (angles - low) / (high - low) - 1, CLOSED if closed else OPEN), elbow[best]

    def policy(observation, goal):
        nonlocal at, last
        cube, number = part(task.spec, observation, "cube_position"), next(step)
        above, carried, lifted = (
            point * [1, 1, 0] + np.array([0, 0, height]) for point in (cube, goal, cube if at is None else at)
        )
        if at is None:
            at, last = above + np.array([0, 0, 0.1]), np.tile(last, (len(cube), 1))
        down = cube * [1, 1, 0] + np.array([0, 0, HALF])
        stages = ((70, down), (90, at), (110, lifted), (200, carried), (np.inf, goal))
        way = next(point for until, point in stages if number < until) - at
        far = np.linalg.norm(way, axis=-1, keepdims=True)
        at = at + way * np.minimum(1, 0.01 / np.maximum(far, 1e-9))
        acted = [act(*each, number >= 70) for each in zip(at, last, strict=True)]
        last = np.stack([pose for _, pose in acted])
        return np.stack([action for action, _ in acted])

    return policy


def within_reach(start, count):
    """The first starts whose cube and goal lie where the arm can grasp from above."""
    reach = np.hypot(*np.stack([start.qpos[:, 9:11], start.goal[:, :2]]).transpose(2, 0, 1))
    chosen = np.flatnonzero(((reach > 0.5) & (reach < 0.72)).all(0))[:count]
    return jax.tree.map(lambda leaf: leaf[chosen], start)


@pytest.mark.parametrize(
    ("name", "cube", "goal", "spread"),
    [
        ("arm_push_easy", (-0.1, 0.6), (0.1, 0.6), 0.1),
        ("arm_push_hard", (-0.25, 0.65), (0.25, 0.65), 0.25),
        ("arm_binpick_hard", (-0.3, 0.6), (0.3, 0.6), 0.15),
    ],
)
def test_published_episodes_begin_and_are_asked_as_published(name, cube, goal, spread):
    task, count = make_task(name), 4000
    start = simulation(name, "mujoco").starts(jax.random.key(0), count)
    for drawn, middle in ((start.qpos[:, 9:11], cube), (start.goal[:, :2], goal)):
        for axis in range(2):
            inside = np.histogram(drawn[:, axis], 10, (middle[axis] - spread, middle[axis] + spread))[0]
            assert inside.sum() >= count - 1  # rounding may take one over the edge
            assert (np.abs(inside - count / 10) < 4 * (count / 10) ** 0.5).all()
    assert np.abs(np.corrcoef([*start.qpos[:, 9:11].T, *start.goal[:, :2].T]) - np.eye(4)).max() < 0.06
    pose = [1.571, 0.742, 0, -1.571, 0, 3.054, 1.449, 0.04, 0.04]
    np.testing.assert_allclose(start.qpos[:, :9], np.tile(pose, (count, 1)), atol=1e-6)
    np.testing.assert_allclose(start.qpos[:, 11:], np.tile([0.07, 1, 0, 0, 0], (count, 1)), atol=1e-6)
    np.testing.assert_allclose(start.goal[:, 2], 0.03, atol=1e-6)
    spec = task.spec
    assert spec.sizes == (17, 5, 3) and spec.goal.observation_indices == (0, 1, 2)
    assert (spec.control_dt, spec.episode_length, spec.goal.success_radius) == (0.05, 1000, 0.1)


def test_published_observations_are_those_of_the_model():
    on_mujoco, moment = simulation("arm_push_easy", "mujoco"), 1e-6
    spec, model = on_mujoco.task.spec, on_mujoco.task.model("mujoco")
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    qpos = on_mujoco.starts(jax.random.key(1), 3).qpos.astype(float)
    qpos[:, :9] += rng.uniform(-0.03, 0.03, (3, 9))
    qvel = rng.normal(size=(3, model.nv))
    seen = on_mujoco.task.observe(on_mujoco.engine.read(on_mujoco.engine.init(qpos, qvel, ())))
    for i in range(3):
        data.qpos = qpos[i]
        mujoco.mj_kinematics(model, data)
        joint, fingers = (
            data.body("fr3_link7").xpos.copy(),
            [data.body(f"fr3_finger{n}").xpos for n in (1, 2)],
        )
        expected = [data.body("cube").xpos, qpos[i, :7], joint, [np.linalg.norm(np.subtract(*fingers))]]
        velocity = part(spec, seen[i], "joint_7_velocity")
        np.testing.assert_allclose(np.delete(seen[i], range(13, 16)), np.concatenate(expected), atol=1e-9)
        mujoco.mj_integratePos(model, data.qpos, qvel[i], moment)
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(velocity, (data.body("fr3_link7").xpos - joint) / moment, atol=1e-4)


def test_the_arm_comes_to_rest_at_the_angles_that_are_commanded():
    on_mujoco, rng = simulation("arm_push_easy", "mujoco"), np.random.default_rng(0)
    spec = on_mujoco.task.spec
    np.testing.assert_allclose(np.subtract(spec.action.offset, spec.action.scale)[:4], REST[0])
    np.testing.assert_allclose(np.add(spec.action.offset, spec.action.scale)[:4], REST[1])
    action = rng.uniform(-1, 1, (EPISODES, 5))
    action[:, 1:3] = rng.uniform([-1, 0], [-0.2, 1], (EPISODES, 2))  # the hand stays above the cube
    action[::2, 4], action[1::2, 4] = 0.01, -0.01
    played = on_mujoco.rollout(lambda *_: action, on_mujoco.starts(jax.random.key(0), EPISODES), 60)
    asked = np.array(spec.action.offset) + np.array(spec.action.scale) * action
    np.testing.assert_allclose(played.qpos[-1][:, MOVED], asked[:, :4], atol=0.03)
    np.testing.assert_allclose(played.qpos[-1][:, [2, 4, 6]], [[0, 0, 1.4487 / 2]] * EPISODES, atol=0.01)
    width = part(spec, played.observation[-1], "gripper_width")[:, 0]
    np.testing.assert_allclose(width, np.tile([0.16, 0], EPISODES // 2), atol=1e-3)


def test_the_published_arm_can_bring_the_cube_over_the_walls_to_its_goal():
    on_mujoco, height = simulation("arm_binpick_hard", "mujoco"), 0.15
    spec = on_mujoco.task.spec
    start = within_reach(on_mujoco.starts(jax.random.key(0), 40), 3)
    observation = on_mujoco.rollout(carrier(on_mujoco.task, height), start, 260).observation
    distance = goal_distance(spec, observation, start.goal)
    assert (distance[60] > 0.9 * distance[5]).all()
    assert (distance[-1] < spec.goal.success_radius / 2).all()
    cube = part(spec, observation, "cube_position")
    assert (np.abs(cube[120:190, :, 2] - height) < 0.03).all()
    width = part(spec, observation, "gripper_width")
    assert (width[65] > 0.15).all()
    # The cube is between the fingers, by its faces or its edges.
    assert (width[95:] > 0.055).all() and (width[95:] < 0.06 * 2**0.5).all()


def test_the_cube_does_not_leave_its_bin_by_itself():
    on_mujoco = simulation("arm_binpick_hard", "mujoco")
    start = on_mujoco.starts(jax.random.key(0), 4)
    qvel = np.zeros_like(start.qvel)
    qvel[:, 9:11] = [[2, 0], [-2, 0], [0, 2], [0, -2]]
    end = on_mujoco.rollout(
        lambda *_: np.tile([0, -1, 0.5, 0, 1], (4, 1)), start._replace(qvel=qvel), 60
    ).qpos[-1]
    away = np.abs(end[:, 9:11] - [-0.3, 0.6])
    assert (away < 0.185).all() and (away.max(-1) > 0.14).all()
