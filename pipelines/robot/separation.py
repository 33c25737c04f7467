"""Distances between an arm's links, by MuJoCo, and how much of a command they leave room for."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from export.controller import CommandLimiter
from teacher.tasks import MujocoTask, Task
from teacher.tasks.arm import ArmReach
from teacher.tasks.chain import compiled, parsed
from teacher.tasks.fr3_arm import JOINTS

MARGIN = 0.01  # m, below which no link comes near to another
SEEN = 0.05  # m: distances above it are not computed
BETWEEN = 0.05  # rad, or m of a slide: from one posture that is tried to the next
SHARES = (1.0, 0.75, 0.5, 0.25)
LATE = 3  # periods until a command shows: a robot follows a period late, and readings may be two old
NOISE = 1e-7  # m
FINGER = 0.04  # m, by which each of the hand's opens
Pairs = dict[tuple[int, int], float]


def arm_model(task: Task) -> mujoco.MjModel | None:
    """Compiles the shapes of a task's arm that can collide; None where nothing installed describes them.

    Of an arm from a model file they are that file's, with what stands around it; of an FR3, those of the
    simulator's package, with Franka's hand."""
    if isinstance(task, ArmReach):
        spec = parsed(file := task.file)
    elif task.spec.action.joints == JOINTS:
        try:
            import franky_sim
        except ImportError:
            return None
        spec = parsed(file := Path(franky_sim.__file__).with_name("assets") / "fr3.xml")
        spec.meshdir = str(file.with_name("meshes"))
        fingers = "left_finger", "right_finger"
        for finger in fingers:  # which are open there, and may be closed
            shut = {"type": mujoco.mjtGeom.mjGEOM_MESH, "meshname": "finger_0", "pos": (0, -FINGER, 0)}
            spec.body(finger).add_geom(**shut)
        spec.add_exclude(bodyname1=fingers[0], bodyname2=fingers[1])
    else:
        return None
    spec.compiler.discardvisual = True
    return compiled(spec, file)


class Separation:
    """Says what share of a command is followed, for `CommandLimiter(share=...)`, so that links stay apart.

    At any moment a hold brings the arm to rest with MARGIN between any two links, or what else its model
    holds: of the next velocities the largest share is taken after which that still is so. Where two are
    nearer already, commands may only lead them apart. Neighbours may touch, and what is that near at home."""

    def __init__(self, model: mujoco.MjModel, spec: dict[str, Any]) -> None:
        """Takes a model that has all commanded joints, and `Controller.spec`."""
        self._model, self._data = model, mujoco.MjData(model)
        model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_OVERRIDE  # o_margin is every shape's
        if model.nkey:
            key = max(0, mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_KEY, "home"))
            mujoco.mj_resetDataKeyframe(model, self._data, key)
        self._entries = [model.joint(name).qposadr[0] for name in spec["action"]["joints"]]
        self._change = np.array(CommandLimiter(spec).limits()["change"])
        self._dt = spec["control_dt"]
        home = dict(zip(spec["joints"]["names"], spec["joints"]["default"], strict=True))
        self._may_touch = {*zip(model.body_parentid.tolist(), range(model.nbody), strict=True)}
        self._may_touch |= self._near([home[name] for name in spec["action"]["joints"]], MARGIN).keys()
        self._least, self._slowed, self._nearest = SEEN, 0, (0, 0)
        still = np.zeros(len(self._entries))
        # How far each joint was commanded since the beginning, now and LATE periods back; and from where.
        self._gone, self._from = [still] * (LATE + 1), still
        self._next, self._seen = still, still

    def __call__(self, q: Sequence[float], last: Sequence[float], following: Sequence[float]) -> float:
        now = self._near(q, SEEN)
        pair = min(now, key=now.__getitem__, default=None)
        if pair is not None and now[pair] < self._least:
            self._least, self._nearest = now[pair], pair
        measured, before, asked = np.array(q), np.array(last), np.array(following)
        first = self._place(measured, before)
        for pair, distance in self._near(first, MARGIN).items():
            now[pair] = min(distance, now.get(pair, MARGIN))
        held = self._after_a_hold(before)
        for share in (*SHARES, 0.0):
            self._next = held + share * (asked - held)
            if share == 0 or all(self._leads_apart(each, now) for each in self._way(first, self._next)):
                break
        self._slowed += share < 1
        return share

    def figures(self) -> dict[str, Any]:
        """Returns figures of the summary; the distance is absent if links were never as near as SEEN."""
        names = [self._model.body(body).name or "world" for body in self._nearest]
        near = {"least_separation_m": self._least, "nearest_links": names} if self._least < SEEN else {}
        return {"slowed_by_separation": self._slowed, **near}

    def _place(self, measured: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Returns where each joint is when all is done that was commanded [A].

        A reading shows what was commanded up to LATE periods ago, so at most the rest is to come. One that
        is as before may be frozen: the joint is as far from where it began as it was commanded to go."""
        for velocity in self._commanded(last):
            self._gone = [self._gone[0] + self._dt * velocity, *self._gone[:-1]]
        began = measured - np.array(self._gone)  # by how late the reading may be [LATE + 1, A]
        alive = measured != self._seen
        self._from = np.where(alive, self._from.clip(began.min(0), began.max(0)), self._from)
        self._seen = measured
        return np.asarray(self._gone[0] + np.where(alive, began[-1], self._from))

    def _commanded(self, last: np.ndarray) -> Iterator[np.ndarray]:
        """Finds what was commanded since the last answer: its velocities, and those of holds after it."""
        velocity = self._next
        yield velocity
        while np.abs(velocity - last).max() > 1e-9 and velocity.any():
            velocity = self._after_a_hold(velocity)
            yield velocity

    def _after_a_hold(self, velocity: np.ndarray) -> np.ndarray:
        return np.asarray(velocity - velocity.clip(-self._change, self._change))

    def _way(self, first: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Returns postures [K, A] on the way of a command and a hold after it, the last first.

        They lie where the limiter leads, period by period: joints that braked evenly would go another way."""
        periods = np.arange(math.ceil((np.abs(velocity) / self._change).max()) + 1)[:, None]
        slower = self._change * periods
        steps = self._dt * (velocity - velocity.clip(-slower, slower))
        ends = first + np.cumsum(np.concatenate([0 * steps[:1], steps]), axis=0)
        far = np.cumsum([0, *np.abs(steps).max(1)])
        at = np.linspace(far[-1], 0, max(1, math.ceil(far[-1] / BETWEEN)), endpoint=False)
        period = np.searchsorted(far, at) - 1
        share = (at - far[period]) / (far[period + 1] - far[period]) if far[-1] else 0 * at
        return np.asarray(ends[period] + share[:, None] * (ends[period + 1] - ends[period]))

    def _leads_apart(self, posture: np.ndarray, now: Pairs) -> bool:
        """Tells whether no pair is nearer there than MARGIN and than now."""
        there = self._near(posture, MARGIN)
        return all(distance > min(MARGIN, now.get(pair, MARGIN)) - NOISE for pair, distance in there.items())

    def _near(self, posture: Sequence[float] | np.ndarray, most: float) -> Pairs:
        """Returns distances in m, below `most`, between bodies that should not touch; overlap is negative."""
        model, data = self._model, self._data
        data.qpos[self._entries] = posture
        model.opt.o_margin = most
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        found = Pairs()
        if data.ncon:
            bodies = np.sort(model.geom_bodyid[data.contact.geom], axis=1).tolist()
            for (one, other), distance in zip(bodies, data.contact.dist.tolist(), strict=True):
                if (one, other) not in self._may_touch:
                    found[one, other] = min(distance, found.get((one, other), most))
        return found


def separation_of(task: Task, spec: dict[str, Any], warn: Callable[[str], None]) -> Separation | None:
    """Returns what keeps the links of a task's arm apart; None where it has no model.

    Warns of what training did not simulate, and of what is not kept apart."""
    if isinstance(task, MujocoTask) and not _may_collide(task.model(task.engines[0])):
        warn("the policy was trained without contact and self-collision: it does not avoid any")
    model = arm_model(task)
    if model is None or not _may_collide(model):
        warn(
            "links are not kept apart: no model of this arm is here with shapes that can collide (an FR3's "
            "comes with franky-sim)"
        )
        return None
    warn(
        "commands are slowed so that the arm's links stay 1 cm apart; a table, tools, cables and people are "
        "not known to this check, unless the arm's model contains them"
    )
    return Separation(model, spec)


def _may_collide(model: mujoco.MjModel) -> bool:
    return bool(model.npair or (model.geom_contype[:, None] & model.geom_conaffinity).any())
