"""The Franka Research 3 and its hand, in `models/fr3.xml`: kinematics, limits, the flange's task."""

import math
from functools import cached_property
from pathlib import Path

import mujoco
import numpy as np

from teacher.spec import ActionSpec, DeployedGoal, DeployedSpec, Floats, JointSpec, TaskSpec
from teacher.tasks.base import Array, State, goal_of, observation_terms, sensor_terms
from teacher.tasks.chain import Chain, TipReach

MODELS = Path(__file__).with_name("models")
_MODEL = mujoco.MjModel.from_xml_path(str(MODELS / "fr3.xml"))
JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
_CHAIN = Chain(_MODEL, "flange")
# Angles [..., 7] -> positions [..., 8, 3] (m) and rotations [..., 8, 3, 3] in the robot's base frame, of
# joints 1 to 7 and of the flange; the flange's position alone, [..., 3].
joint_frames, flange_position = _CHAIN.frames, _CHAIN.tip
ORIGINS, FLANGE = _MODEL.body_pos[1:8].tolist(), _MODEL.site("flange").pos.tolist()  # m: in their parents
LOWER, UPPER = (tuple(side) for side in _MODEL.jnt_range[:7].T.tolist())
VELOCITY = tuple(_MODEL.actuator_ctrlrange[:7, 1].tolist())
ACCELERATION = (10.0,) * 7  # rad/s^2
HOME = (0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4)
LIMIT_MARGIN = 0.05  # rad
SLOWDOWN = 5.0  # 1/s
RETURN_SPEED = 1.0  # rad/s
# The hand on the flange.
TURN = -np.pi / 4  # rad: about the flange's z axis
TIP = 0.1034  # m: from the flange to the point between the fingertips
SIDE = 0.1  # m: from the flange to the pose's third point, in the direction in which the fingers open
WIDTH = "fr3_gripper_width"
POSE_ENTRIES = tuple(f"{point}_{axis}" for point in ("flange", "tip", "side") for axis in "xyz")
# The task.
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


def joint_spec(lower: Floats = LOWER, upper: Floats = UPPER) -> JointSpec:
    """The arm's joints; limits may be tighter than its own."""
    return JointSpec(
        names=JOINTS,
        unit="rad",
        default=HOME,
        lower=lower,
        upper=upper,
        velocity=VELOCITY,
        slowdown=SLOWDOWN,
        margin=LIMIT_MARGIN,
        return_speed=RETURN_SPEED,
        acceleration=ACCELERATION,
    )


def tool_position(qpos: Array, tool: Floats | np.ndarray) -> Array:
    """Angles [..., 7] -> position [..., 3] in metres, in the base frame, of a point that the flange carries.

    Args: tool: the point in the flange's frame, m."""
    positions, rotations = joint_frames(qpos)
    offset = qpos.__array_namespace__().asarray(tool, dtype=qpos.dtype)
    return positions[..., -1, :] + rotations[..., -1, :, :] @ offset


def flange_pose(qpos: Array) -> Array:
    """Angles [..., 7] -> the flange's pose as three points [..., 9] in metres, in the base frame.

    The points are the flange, the tip between the fingers and one to the side: distances between
    poses then are in metres, turned or moved."""
    xp = qpos.__array_namespace__()
    positions, rotations = joint_frames(qpos)
    flange, rotation = positions[..., -1, :], rotations[..., -1, :, :]
    offsets = ((0.0, 0.0, TIP), (-SIDE * np.sin(TURN), SIDE * np.cos(TURN), 0.0))
    others = [flange + rotation @ xp.asarray(offset, dtype=qpos.dtype) for offset in offsets]
    return xp.concatenate([flange, *others], axis=-1)


def reach_down(tip: Array) -> Array:
    """Where the tip should be, [..., 3] m and within reach -> angles [..., 7] of an arm that brings it there
    with the hand pointing straight down; joints 3, 5 and 7 are as in the home pose."""
    xp = tip.__array_namespace__()
    x, y, z = tip[..., 0], tip[..., 1], tip[..., 2]
    # A triangle of shoulder, elbow and wrist, in the vertical plane of the base and the tip.
    elbow, wrist, upper_arm, forearm = ORIGINS[3][0], ORIGINS[6][0], -ORIGINS[2][1], ORIGINS[4][1]
    first, second = math.hypot(upper_arm, elbow), math.hypot(forearm, elbow)
    out, up = xp.hypot(x, y) - wrist, z + TIP + FLANGE[2] - ORIGINS[0][2]
    third = xp.hypot(out, up)
    at_elbow = xp.arccos((first**2 + second**2 - third**2) / (2 * first * second))
    at_shoulder = xp.arccos((first**2 + third**2 - second**2) / (2 * first * third))
    q2 = xp.arctan2(out, up) - at_shoulder - math.atan(elbow / upper_arm)
    q4 = at_elbow - math.pi - math.atan(elbow / upper_arm) - math.atan(elbow / forearm)
    zero = xp.zeros_like(x)
    return xp.stack([xp.arctan2(y, x), q2, zero, q4, zero, q2 - q4, zero + HOME[6]], axis=-1)


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
