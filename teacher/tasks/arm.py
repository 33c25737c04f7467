"""Any arm that MuJoCo compiles, from its model file alone: joint velocities bring its tip to a point.

What the file does not say is decided in `describe` and can be read, edited and given back as TOML.
"""

import logging
import os
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Literal

import mujoco
import numpy as np
import tomlkit
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from teacher.errors import UsageError
from teacher.spec import ActionSpec, Floats, JointSpec, Names, TaskSpec
from teacher.tasks.base import Array, State, goal_of, observation_terms
from teacher.tasks.chain import (
    HINGE,
    Chain,
    TipReach,
    checked_chain,
    compiled,
    decided_tip,
    driven_joints,
    parsed,
    servo_model,
)
from teacher.tasks.validation import own_code

JOINT_RADIUS = 0.1  # rad, or m of slides: of goals that are joints
RANGE = 1.0  # rad around home in which joints move: nothing rewards one of the poses that reach a point
GOALS = 0.8  # share of that range from which goals are drawn
HINGE_SPEED, SLIDE_SPEED = 1.0, 0.25  # rad/s, and 1/s: of a slide's range
MARGIN = 0.05  # of the narrowest range: kept from its limits
SLOWDOWN = 5.0  # 1/s
AXES = ("x", "y", "z")
# After the position comes the rotation matrix, row by row, times a length.
POSE = (*AXES, *(f"r{row}{column}" for row in "123" for column in "123"))
ArmGoal = Literal["point", "pose", "joints"]
RADII = (0.024, 0.06, 0.12)  # strict, success and easy radius, as shares of the arm's reach
SAMPLED, CUT = 1000, 0.08  # poses; share of a joint's range
HOMES = 16  # poses of which one becomes home
TOUCHING = 0.01  # of a range's poses: no warning below, as those that are decided may have a few


class ArmDescription(BaseModel):
    """An arm's task, as a TOML file states it and `describe` decides it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(description="MJCF or URDF, seen from this file")
    tip: str = Field(description="site or body that goals mean")
    joints: Names = Field(description="from the base to the tip")
    home: Floats = Field(description="rad, or m of a slide")
    lower: Floats = Field(description="that the task keeps to; never beyond the model's own limits")
    upper: Floats
    velocity: tuple[PositiveFloat, ...] = Field(description="of a command of 1; rad/s, or m/s")
    goal_low: Floats = Field(description="m, x, y and z in the world; of joints as home")
    goal_high: Floats
    goal: ArmGoal = Field(
        default="point", description="of the tip: point, or pose; or joints, their positions"
    )
    radius: PositiveFloat = Field(description="m, of joints rad or m: at the goal")
    angle: PositiveFloat = Field(
        default=0.25, le=np.pi, description="rad, of poses: a turn by this counts as much as radius"
    )
    control_dt: PositiveFloat = 0.05
    episode_length: PositiveInt = 100

    @property
    def lever(self) -> float | None:
        """Of poses: how far from the tip, in m, a point moves by `radius` as the tip turns by `angle`."""
        return self.radius / (2 * float(np.sin(self.angle / 2))) if self.goal == "pose" else None


class ArmReach(TipReach):
    """Joint velocities bring an arm's tip to a reachable point or pose, or its joints to their positions."""

    def __init__(self, name: str, folder: Path, described: ArmDescription):
        self._name, self.description = name, described
        self.file = folder / described.model
        self._model = servo_model(
            self.file, described.joints, described.home, described.velocity, described.control_dt
        )
        self._chain = Chain(self._model, described.tip)
        self.pushed = tuple(range(len(described.joints)))

    @cached_property
    def spec(self) -> TaskSpec:
        arm, units = self.description, self._units
        unit = units[0] if len(set(units)) == 1 else "rad or m"
        of_tip = {"point": ("tip_position", AXES, "m", "world"), "pose": ("tip_pose", POSE, "m", "world")}
        terms = observation_terms(
            ("joint_position", arm.joints, unit, "joint"),
            ("joint_velocity", arm.joints, f"{unit}/s", "joint"),
            *([of_tip[arm.goal]] if arm.goal in of_tip else []),
        )
        zeros = (0.0,) * len(arm.joints)
        named = "joint_position" if arm.goal == "joints" else terms[-1].name
        # Entries are as large as these at the most, but for their rounding.
        turns = () if arm.lever is None else (arm.lever / 2**0.5 * (1 + 1e-6),) * 9
        low, high = (*arm.goal_low, *(-each for each in turns)), (*arm.goal_high, *turns)
        radii = tuple(arm.radius * share / RADII[1] for share in RADII)
        return TaskSpec(
            name=f"{self._name}_reach",
            version=1,
            observation=terms,
            goal=goal_of(terms, named, low, high, radii, lever=arm.lever),
            action=ActionSpec(
                kind="joint_velocity", joints=arm.joints, unit=f"{unit}/s", scale=arm.velocity, offset=zeros
            ),
            joints=JointSpec(
                names=arm.joints,
                unit=unit,
                default=arm.home,
                lower=arm.lower,
                upper=arm.upper,
                velocity=arm.velocity,
                slowdown=SLOWDOWN,
                margin=self._margin,
                return_speed=min(arm.velocity),
            ),
            control_dt=arm.control_dt,
            episode_length=arm.episode_length,
        )

    @property
    def _units(self) -> list[str]:
        kinds = (self._model.joint(name).type[0] for name in self.description.joints)
        return ["rad" if kind == HINGE else "m" for kind in kinds]

    @property
    def _margin(self) -> float:
        return MARGIN * float(np.min(np.subtract(self.description.upper, self.description.lower)))

    def model(self, engine: str) -> mujoco.MjModel:
        return self._model

    def tip(self, qpos: Array) -> Array:
        lever = self.description.lever
        if self.description.goal == "joints":
            return qpos
        return self._chain.tip(qpos) if lever is None else self._chain.pose(qpos, lever)

    def observe(self, state: State) -> Array:
        xp = state.qpos.__array_namespace__()
        if self.description.goal == "joints":
            return xp.concatenate([state.qpos, state.qvel], axis=-1)
        return super().observe(state)

    def marker(self, goal: Array) -> Array:
        return self._chain.tip(goal) if self.description.goal == "joints" else super().marker(goal)

    def ranges(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        arm, margin = self.description, self._margin
        home, lower, upper = (np.array(each) for each in (arm.home, arm.lower, arm.upper))
        return (lower + margin, upper - margin), _goal_range(home, lower, upper)


def _goal_range(home: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """GOALS of the range, about home."""
    return home + GOALS * (lower - home), home + GOALS * (upper - home)


def arm_task(file: Path) -> ArmReach:
    """Makes the task of a description in TOML; UsageError with what is wrong with it or with its model."""
    with own_code(str(file), kind=UsageError):
        described = ArmDescription(**tomllib.loads(file.read_text("utf-8-sig")))
    model_file = file.parent / described.model
    model = compiled(parsed(model_file), model_file)
    chain = checked_chain(model, model_file, described.tip, described.joints)
    names = tuple(model.joint(joint).name for joint in chain.joints)
    if names != described.joints:
        raise UsageError(
            f"{file}: joints are {', '.join(described.joints)}, but on the way to the tip {', '.join(names)}"
        )
    of_goal = len(names) if described.goal == "joints" else len(AXES)
    sizes = dict.fromkeys(("home", "lower", "upper", "velocity"), len(names))
    for field, size in (sizes | {"goal_low": of_goal, "goal_high": of_goal}).items():
        if (length := len(getattr(described, field))) != size:
            raise UsageError(f"{file}: {field}: {length} entries, allowed: {size}")
    kinds = {int(model.jnt_type[joint]) for joint in chain.joints}
    if described.goal == "joints" and len(kinds) > 1:
        raise UsageError(f"{file}: goal: joints, but hinges and slides have no unit in common")
    for joint, low, high in zip(chain.joints, described.lower, described.upper, strict=True):
        least, most = model.jnt_range[joint]
        if model.jnt_limited[joint] and not (least - 1e-3 <= low and high <= most + 1e-3):
            found = f"[{low:g}, {high:g}], beyond the model's limits [{least:g}, {most:g}]"
            raise UsageError(f"{file}: joint {model.joint(joint).name!r}: found {found}")
    stands = map(np.array, (described.home, described.lower, described.upper))
    share = _Poses(model, chain).share_touching(*stands)
    if share > TOUCHING:
        what = "the arm touches itself, what stands around it, or the floor, which training does not feel"
        logging.getLogger(__name__).warning("%s: in %.0f %% of its range %s", file, 100 * share, what)
    return ArmReach(file.stem, file.parent, described)


def as_toml(described: ArmDescription, folder: Path) -> str:
    """Returns the description as a file in `folder` that can be edited and given as a task."""
    document = tomlkit.document()
    document.add(tomlkit.comment("An arm's task: edit it and give it as --task FILE.toml"))
    model = os.path.relpath(described.model, folder)
    for field, value in (described.model_dump(mode="json") | {"model": model}).items():
        if text := ArmDescription.model_fields[field].description:
            document.add(tomlkit.comment(text))
        document.add(field, value)
    return tomlkit.dumps(document)


def describe(file: Path, tip: str = "", goal: ArmGoal = "point") -> ArmDescription:
    """Decides what an arm's task needs beyond its model file.

    Joints are those on the way to the tip, each driven by an actuator (all, in a URDF, which has none); home
    is the keyframe `home`, the first, or of poses that touch nothing the one that moves the tip best; each
    joint's range is home +- RANGE within its limits, cut until no pose in it touches itself, what stands
    around the arm, or the floor; goals are where poses in GOALS of that range bring the tip.

    Raises: UsageError with what the file lacks, or has that no arm of this kind has."""
    model = compiled(parsed(file), file)
    driven = driven_joints(model, file)
    tip = tip or decided_tip(model, file, driven)
    chain = checked_chain(model, file, tip, driven)
    poses = _Poses(model, chain)
    home, lower, upper = _decided_range(file, model, poses)
    hinge = model.jnt_type[chain.joints] == HINGE
    names = tuple(model.joint(joint).name for joint in chain.joints)
    lower, upper = np.array(_rounded(lower, np.ceil)), np.array(_rounded(upper, np.floor))
    home = np.clip(_rounded(home), lower, upper)
    speed = np.where(hinge, HINGE_SPEED, SLIDE_SPEED * (upper - lower))
    low, high = _goal_range(home, lower, upper)
    radius = JOINT_RADIUS if goal == "joints" else round(RADII[1] * chain.reach, 3)
    if goal == "joints":
        goal_low, goal_high = _rounded(low), _rounded(high)
    else:
        drawn = np.random.default_rng(0).uniform(low, high, (10 * SAMPLED, len(names)))
        tips, edge = chain.tip(drawn), radius / 5
        goal_low = _rounded(np.maximum(tips.min(0) - edge, [-np.inf, -np.inf, poses.floor]), np.floor)
        goal_high = _rounded(tips.max(0) + edge, np.ceil)
    return ArmDescription(
        model=str(file),
        tip=tip,
        joints=names,
        home=tuple(home.tolist()),
        lower=tuple(lower.tolist()),
        upper=tuple(upper.tolist()),
        velocity=_rounded(np.minimum(speed, _velocity_limits(file, names))),
        goal_low=goal_low,
        goal_high=goal_high,
        goal=goal,
        radius=radius,
    )


def _decided_range(file: Path, model: mujoco.MjModel, poses: "_Poses") -> tuple[np.ndarray, ...]:
    """Decides home and the lower and upper ends of the range [n] of a chain's joints."""
    joints = poses.chain.joints
    hinge = model.jnt_type[joints] == HINGE
    limited = model.jnt_limited[joints].astype(bool)
    low, high = np.where(limited, model.jnt_range[joints].T, [[-np.pi], [np.pi]])
    if (hinge | limited).min() == 0:
        free = model.joint(joints[int(np.argmin(hinge | limited))]).name
        raise UsageError(f"{file}: joint {free!r} slides without limits: give it a range in the model")
    home = poses.keyframe
    if home is None:
        home = poses.best(np.maximum(low, -np.pi), np.minimum(high, np.pi))
    elif ((home < low) | (home > high))[limited].any():
        name = model.joint(joints[int(np.argmax(limited & ((home < low) | (home > high))))]).name
        raise UsageError(f"{file}: its keyframe has joint {name!r} beyond its limits")
    near = np.where(hinge, RANGE, np.inf)
    lower = np.where(limited, np.maximum(low, home - near), home - near)
    upper = np.where(limited, np.minimum(high, home + near), home + near)
    return home, *poses.kept_apart(home, lower, upper)


def _velocity_limits(file: Path, joints: tuple[str, ...]) -> list[float]:
    """Of a URDF, rad/s or m/s; MJCF states none."""
    if file.suffix != ".urdf":
        return [np.inf] * len(joints)
    limits = {
        each.get("name"): each.find("limit") for each in ElementTree.parse(file).getroot().iter("joint")
    }
    stated = (limits[name] for name in joints)
    return [np.inf if limit is None else float(limit.get("velocity") or np.inf) for limit in stated]


class _Poses:
    """Poses of a chain in its whole model: which of them touch something, and where the chain stands."""

    def __init__(self, model: mujoco.MjModel, chain: Chain):
        self._model, self.chain, self._data = model, chain, mujoco.MjData(model)
        self._entries = model.jnt_qposadr[chain.joints]
        self._random = np.random.default_rng(0)
        self.keyframe: np.ndarray | None = None
        if model.nkey:
            key = max(0, mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_KEY, "home"))
            mujoco.mj_resetDataKeyframe(model, self._data, key)
            self.keyframe = self._data.qpos[self._entries].copy()
        mujoco.mj_kinematics(model, self._data)
        self._allowed, self._may_be_below = set[tuple[int, int]](), False
        # An arm that stands does not reach below its base; one that hangs does.
        base = self._data.xpos[chain.bodies[1], 2]
        poses = self._random.uniform(-np.pi, np.pi, (SAMPLED, len(chain.joints)))
        self.floor = base if np.median(chain.tip(poses)[:, 2]) > base else -np.inf

    def best(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Of the poses within limits that move the tip best (manipulability, Yoshikawa 1985) the one about
        which fewest touch anything."""
        drawn = self._random.uniform(low, high, (SAMPLED, len(low)))
        free = drawn[~self._touch(drawn)]
        free = free if len(free) else drawn
        step = 1e-4 * np.eye(len(low))
        moved = [self.chain.tip(free + each) - self.chain.tip(free - each) for each in step]
        jacobian = np.stack(moved, axis=-1)  # [P, 3, n]
        candidates = free[np.argsort(np.linalg.det(jacobian @ jacobian.mT))[-HOMES:]]
        about = self._random.uniform(-RANGE, RANGE, (SAMPLED // HOMES, len(low)))
        return min(candidates, key=lambda home: self._touch(np.clip(home + about, low, high)).sum())

    def kept_apart(
        self, home: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cuts the range, each time where most of what goes touches, until none of SAMPLED poses does."""
        self._stand_at(home)
        bounds = np.stack([lower, upper])
        cuts = np.array([[CUT], [-CUT]]) * (upper - lower)
        while True:
            poses = self._random.uniform(bounds[0], bounds[1], (SAMPLED, len(home)))
            touch = self._touch(poses)
            inner = bounds + cuts
            slabs = np.stack([poses < inner[0, None], poses > inner[1, None]])  # [2, P, n]
            density = (slabs & touch[:, None]).sum(1) / np.maximum(1, slabs.sum(1))
            density[(home - inner) / cuts < 1] = 0  # home stays inside
            if not density.any():
                return bounds[0], bounds[1]
            side, joint = np.unravel_index(np.argmax(density), density.shape)
            bounds[side, joint] = inner[side, joint]

    def share_touching(self, home: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
        """Returns the share of poses between two that touch anything."""
        self._stand_at(home)
        return float(self._touch(self._random.uniform(lower, upper, (SAMPLED, len(home)))).mean())

    def _stand_at(self, home: np.ndarray) -> None:
        """Shapes that overlap at home, as those of neighbours may, are allowed to from here on."""
        self._allowed, self._may_be_below = self._touching(home), bool(self._below(home))

    def _touch(self, poses: np.ndarray) -> np.ndarray:
        """[P]: whether anything touches that does not at home, or the tip is below the floor."""
        touch = np.array([bool(self._touching(pose) - self._allowed) for pose in poses])
        return touch if self._may_be_below else touch | self._below(poses)

    def _below(self, poses: np.ndarray) -> np.ndarray:
        return self.chain.tip(poses)[..., 2] < self.floor

    def _touching(self, pose: np.ndarray) -> set[tuple[int, int]]:
        """Pairs of bodies that touch."""
        model, data = self._model, self._data
        data.qpos[self._entries] = pose
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        geoms = data.contact.geom[data.contact.dist < 0]
        return {(int(min(pair)), int(max(pair))) for pair in model.geom_bodyid[geoms]}


def _rounded(values: np.ndarray, how: Callable[[np.ndarray], np.ndarray] = np.round) -> Floats:
    """To a thousandth."""
    return tuple((how(1e3 * np.asarray(values)) / 1e3 + 0.0).tolist())
