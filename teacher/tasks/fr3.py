"""A Franka Research 3 that brings its flange to a point."""

from functools import cached_property

import mujoco
import numpy as np

from teacher.spec import ActionSpec, DeployedGoal, DeployedSpec, Floats, TaskSpec
from teacher.tasks.base import Array, State, goal_of, observation_terms, sensor_terms
from teacher.tasks.chain import TipReach
from teacher.tasks.fr3_arm import (
    HOME,
    JOINTS,
    LIMIT_MARGIN,
    LOWER,
    MODELS,
    UPPER,
    flange_position,
    joint_spec,
    tool_position,
)

SPREAD = 0.8  # rad around home: of the poses from which goals are drawn
# rad around home in which joints move. Seven joints reach a point in many ways, and nothing rewards one
# of them: without this, pose after pose strays from what was seen in training, goal after goal.
RANGE = 1.0
# rad: of the elbow (joint 4). Folded to -2.58 the hand can touch links 1 and 2, which this model would not
# feel; within these ranges the robot's own meshes, its hand on and open, keep 7 mm apart at the least.
FOLDED = -2.5
# Bounding box of the flange over all those configurations, rounded outwards to the millimetre (m).
GOAL_LOW, GOAL_HIGH = (-0.597, -0.614, 0.261), (0.615, 0.614, 1.056)
WORKING_RANGE = tuple(
    tuple(side.tolist())
    for side in np.clip(np.add(HOME, [[-RANGE], [RANGE]]), (*LOWER[:3], FOLDED, *LOWER[4:]), UPPER)
)
AXES = ("x", "y", "z")
# Chosen: eight times what moves the outstretched flange (0.855 m) by the arm's repeatability, 0.1 mm.
ENCODER_NOISE = 1e-3  # rad


class Fr3Reach(TipReach):
    """Seven joint velocities at 20 Hz move the flange to a reachable point.

    Its students see as much as their teacher, or the joint encoders alone (`sensed`). With a `tool`, a point
    in the flange's frame (m), that point is moved."""

    pushed = tuple(range(7))

    def __init__(self, *, sensed: bool = False, tool: Floats | None = None):
        self._sensed, self._tool = sensed, tool

    @cached_property
    def spec(self) -> TaskSpec:
        point = "flange_position" if self._tool is None else "tool_position"
        reach = 0.0 if self._tool is None else float(np.linalg.norm(self._tool))  # m beyond the flange
        terms = observation_terms(
            ("joint_position", JOINTS, "rad", "joint"),
            ("joint_velocity", JOINTS, "rad/s", "joint"),
            (point, AXES, "m", "base"),
        )
        low, high = (edge - reach for edge in GOAL_LOW), (edge + reach for edge in GOAL_HIGH)
        encoders = DeployedSpec(
            reading=sensor_terms(("joint_position", JOINTS, "rad", "joint", ENCODER_NOISE)),
            history=3,
            goal=DeployedGoal(name=point, entries=AXES, unit="m", frame="base"),
        )
        return TaskSpec(
            name="fr3_reach_sensed" if self._sensed else "fr3_reach",
            version=4,
            observation=terms,
            goal=goal_of(terms, point, tuple(low), tuple(high), (0.02, 0.05, 0.1), self._tool),
            action=ActionSpec(
                kind="joint_velocity", joints=JOINTS, unit="rad/s", scale=(1.0,) * 7, offset=(0.0,) * 7
            ),
            joints=joint_spec(*WORKING_RANGE),
            control_dt=0.05,
            episode_length=100,
            deployed=encoders if self._sensed else None,
        )

    def tip(self, qpos: Array) -> Array:
        return flange_position(qpos) if self._tool is None else tool_position(qpos, self._tool)

    def ranges(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        return _within(RANGE), _within(SPREAD)

    def model(self, engine: str) -> mujoco.MjModel:
        spec = mujoco.MjSpec.from_file(str(MODELS / "fr3.xml"))
        spec.delete(spec.body("fr3_hand"))
        return spec.compile()

    def reading(self, state: State, action: Array) -> Array:
        return state.qpos

    def deployed_goal(self, qpos: Array, goal: Array) -> Array:
        return goal


def _within(spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Box of configurations within `spread` of home and inside the limits that control keeps."""
    lower, upper = np.add(WORKING_RANGE[0], LIMIT_MARGIN), np.subtract(WORKING_RANGE[1], LIMIT_MARGIN)
    low, high = np.clip(np.add(HOME, [[-spread], [spread]]), lower, upper)
    return low, high
