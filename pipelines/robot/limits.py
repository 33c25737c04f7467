"""What the FR3 allows, and where a record of its states breaks it."""

import xml.etree.ElementTree as ElementTree
from typing import Any, NamedTuple

import numpy as np

from teacher.tasks.fr3_arm import ACCELERATION, JOINTS, LOWER, UPPER

PERIOD = 0.001  # s, between two states of the robot
LOST = 20  # commands in a row, after which the robot ends the motion
SLACK = 1e-3  # rad/s, of a joint that rests beside its limit
KEYS = ("lower", "upper", "velocity", "deceleration_limit", "velocity_offset")


class States(NamedTuple):
    """Of a robot, one a millisecond: [T, 7], rad and rad/s."""

    position: np.ndarray
    velocity: np.ndarray
    desired: np.ndarray
    """velocity that the robot was told"""
    moving: np.ndarray
    """[T] bool: whether a motion was in progress"""
    answered: np.ndarray
    """[T] int: number of the state to which the newest command is the answer; unchanged while none arrives"""


class VelocityLimits(NamedTuple):
    """Of joints whose velocity limit falls towards their position limits; [A] each.

    A joint may move towards `upper` by at most -offset + sqrt(2 * deceleration * (upper - q)), towards
    `lower` likewise, and never faster than `velocity` (libfranka, "Limits for Franka Research 3")."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    deceleration: np.ndarray
    offset: np.ndarray

    def at(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the least and greatest velocity [..., A] at positions [..., A], rad/s."""

        def towards(edge: np.ndarray) -> np.ndarray:
            braking = np.sqrt(np.maximum(2 * self.deceleration * edge, 0)) - self.offset
            return np.minimum(self.velocity, np.maximum(braking, 0))

        return -towards(q - self.lower), towards(self.upper - q)


def velocity_limits() -> VelocityLimits:
    """Reads the FR3's, as the URDF that comes with the simulator states them."""
    from franky_sim.urdf import FR3_URDF

    root, rows = ElementTree.fromstring(FR3_URDF), []
    for joint in JOINTS:
        parts = root.findall(f".//joint[@name='{joint.removeprefix('fr3_')}']/*")
        stated = {key: value for part in parts for key, value in part.attrib.items()}
        rows.append([float(stated[key]) for key in KEYS])
    return VelocityLimits(*np.array(rows).T)


def violations(states: States, limits: VelocityLimits) -> dict[str, Any]:
    """Counts where a robot's states break its limits of position, velocity or acceleration.

    Positions are held against the published limits, which are tighter than the URDF's mechanical ones.
    Velocities are the measured and the desired ones; accelerations those of the desired velocities within a
    motion, which is what the robot refuses: measured ones are its servo's, and without a motion nothing is
    desired. They lie between one command and the next, over the time between the states that the two answer:
    a packet that the network brings a millisecond late is counted as that.
    Returns: `limit_violations`, states in which a joint breaks a limit, and for each kind how many; `states`;
    `late_packets`, states of a motion without a new command; the largest acceleration in rad/s^2, and the
    largest as delivered, late packets and all, from one state to the next; the largest share of a velocity
    limit."""
    low, high = limits.at(states.position)
    desired = np.where(states.moving[:, None], states.desired, 0)
    fast = [(v > high + SLACK) | (v < low - SLACK) for v in (states.velocity, desired)]
    fresh = np.diff(states.answered, prepend=-1) != 0
    change, delivered = _accelerations(states, fresh)
    broken = {
        "position": ((states.position < LOWER) | (states.position > UPPER)).any(axis=1),
        "velocity": (fast[0] | fast[1]).any(axis=1),
        "acceleration": (change > ACCELERATION).any(axis=1),
    }
    return {
        "limit_violations": int(np.any(list(broken.values()), axis=0).sum()),
        "violations": {kind: int(found.sum()) for kind, found in broken.items()},
        "states": len(change),
        "late_packets": int((states.moving & ~fresh).sum()),
        "largest_acceleration": float(change.max(initial=0)),
        "largest_acceleration_delivered": float(delivered.max(initial=0)),
        "largest_velocity_share": float((np.abs(states.velocity) / limits.velocity).max(initial=0)),
    }


def _accelerations(states: States, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes [T, 7] rad/s^2 where a new command arrived, from the one before in the same motion; else 0.

    Returns: as commanded, and as delivered."""
    commanded, delivered = np.zeros_like(states.desired), np.zeros_like(states.desired)
    arrivals = np.flatnonzero(states.moving & fresh)
    motion = np.cumsum(~states.moving)[arrivals]
    same = motion[1:] == motion[:-1]
    before, after = arrivals[:-1][same], arrivals[1:][same]
    change = np.abs(states.desired[after] - states.desired[before])
    for found, passed in ((commanded, states.answered[after] - states.answered[before]), (delivered, 1)):
        found[after] = change / (np.clip(passed, 1, LOST) * PERIOD)[..., None]
    return commanded, delivered
