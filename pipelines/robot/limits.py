"""What the FR3 allows, and where a record of its states breaks it."""

import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import numpy as np

ACCELERATION = 10.0  # rad/s^2, of every joint of the FR3
PERIOD = 0.001  # s, between two states of the robot
SLACK = 1e-3  # rad/s, of a joint that rests beside its limit
SOFT = ("deceleration_limit", "velocity_offset")


class VelocityLimits(NamedTuple):
    """Of joints whose velocity limit falls towards their position limits; [A] each.

    A joint may move towards `upper` by at most -offset + sqrt(2 * deceleration * (upper - q)), towards
    `lower` likewise, and never faster than `velocity` (libfranka, "Limits for Franka Research 3")."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    deceleration: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, urdf: str, joints: tuple[str, ...]) -> "VelocityLimits":
        """As a robot's URDF states them; KeyError for a joint without them."""
        root = ElementTree.fromstring(urdf)
        rows = []
        for name in joints:
            limit = root.find(f".//joint[@name='{name}']/limit")
            soft = root.find(f".//joint[@name='{name}']/position_based_velocity_limits")
            if limit is None or soft is None:
                raise KeyError(f"{name}: the URDF states no position-dependent velocity limits")
            edges = [float(limit.attrib[key]) for key in ("lower", "upper", "velocity")]
            rows.append([*edges, *(float(soft.attrib[key]) for key in SOFT)])
        return cls(*np.array(rows).T)

    def at(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest velocity [..., A] at positions [..., A], rad/s."""

        def towards(edge: np.ndarray) -> np.ndarray:
            braking = np.sqrt(np.maximum(2 * self.deceleration * edge, 0)) - self.offset
            return np.minimum(self.velocity, np.maximum(braking, 0))

        return -towards(q - self.lower), towards(self.upper - q)


SOFT = ("deceleration_limit", "velocity_offset")


def violations(q: np.ndarray, dq: np.ndarray, dq_d: np.ndarray, limits: VelocityLimits) -> dict[str, float]:
    """Of a robot's states, one a millisecond: positions, velocities, desired velocities, [T, A] each.

    Accelerations are those of the desired velocities, which is what the robot refuses: measured ones are
    dominated by the servo. Returns: `limit_violations`, states in which a joint breaks a limit of position,
    velocity or acceleration; the largest acceleration in rad/s^2; the largest share of a velocity limit."""
    low, high = limits.at(q)
    fast = (dq > high + SLACK) | (dq < low - SLACK) | (dq_d > high + SLACK) | (dq_d < low - SLACK)
    beyond = (q < limits.lower) | (q > limits.upper)
    change = np.abs(np.diff(dq_d, axis=0)) / PERIOD
    broken = (fast | beyond).any(axis=1)
    broken[1:] |= (change > ACCELERATION).any(axis=1)
    return {
        "limit_violations": int(broken.sum()),
        "states": len(q),
        "largest_acceleration": float(change.max()),
        "largest_velocity_share": float((np.abs(dq) / limits.velocity).max()),
    }
