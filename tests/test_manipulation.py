"""The FR3 and its cube: what pushing, grasping and reaching for goals come to in both engines."""

import mujoco
import numpy as np
import pytest

from teacher.tasks.fr3_cube import DRIVEN, GOALS, fr3_pick_place, fr3_push_easy, fr3_push_hard
from teacher.tasks.fr3_hand import TIP

MAKERS = (fr3_push_easy, fr3_push_hard, fr3_pick_place)
VARIANTS = [pytest.param(maker, goal, id=f"{maker.args[0]}-{goal}") for maker in MAKERS for goal in GOALS]
OPEN, CLOSED = 1.0, -1.0


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


def pusher(task):
    """Goes behind the cube, as seen from the goal, and on through it."""
    model, spec = task.model("mujoco"), task.spec

    def act(observation, goal):
        cube = part(spec, observation, "cube_position")
        tip = part(spec, observation, "flange_pose")[3:6]
        if np.linalg.norm(goal - cube) < 0.02:
            return np.zeros(4)
        way = (goal - cube) / np.linalg.norm(goal - cube)
        behind = cube - 0.05 * way
        aligned = np.linalg.norm((tip - behind) - way * ((tip - behind) @ way)) < 0.015
        return towards(model, observation[:7], behind + 0.05 * way * aligned, speed=0.2)

    return lambda observation, goal: np.stack(list(map(act, observation, goal)))


def gripper(task):
    """Over the cube, down, closed, and to the goal; by the number of the step."""
    model, spec = task.model("mujoco"), task.spec
    step = iter(range(spec.episode_length))

    def act(observation, goal, number):
        cube = part(spec, observation, "cube_position")
        point = goal if number >= 60 else cube + np.array([0, 0, 0.08]) if number < 20 else cube
        return np.append(towards(model, observation[:7], point), OPEN if number < 45 else CLOSED)

    def policy(observation, goal):
        number = next(step)
        return np.stack([act(o, g, number) for o, g in zip(observation, goal, strict=True)])

    return policy
