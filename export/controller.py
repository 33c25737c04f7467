"""Runs an exported policy on a robot, after proving that it is the policy that was exported.

    controller = load("path/to/bundle")
    action = controller.step(obs, goal)     # float32 arrays [N], [G] -> [A]

Where an observation holds older readings of the sensors too, the controller keeps them:

    controller.reset()                      # where an episode begins
    action = controller.step(controller.observe(reading), goal)

`run` is the whole loop at the right rate, `Guard` keeps its commands within the robot's limits.

`python controller.py [bundle]` checks a bundle and prints what it expects. Needs Python 3.8 or later,
numpy and onnxruntime, nothing else. A controller belongs to one thread.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import numbers
import signal
import sys
import threading
import time
from os import PathLike
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnxruntime

FORMAT_VERSION = 2
GOLDEN_TOLERANCE = 1e-5
EARLY = 2e-4  # s, by which a sleep may end late without a period beginning late
NEEDED_FILES = ("policy.onnx", "critic.onnx", "golden.npz")
JOINT_KINDS = ("joint_velocity", "joint_position")
KINDS = (*JOINT_KINDS, "joint_torque", "base_twist", "gripper_width", "other")
REST = 1e-9  # rad/s, below which a joint stands: what is left of sums
UNLIMITED = 1e12  # stands for the position limit of a joint without one
AHEAD_S = 5e-3  # by which a time stamp may lie in the future


class ControllerError(Exception):
    """The bundle or an input cannot be trusted: what was found, what is allowed."""


def load(path: str | PathLike[str]) -> Controller:
    """A controller whose files, shapes and answers have been checked.

    Raises ControllerError if a file is missing or altered, if graph and specification differ, or if the
    policy does not reproduce the actions that were recorded when it was exported."""
    directory = Path(path)
    try:
        content = _read(directory, "spec.json")
        record = json.loads(content)
        if record["format_version"] != FORMAT_VERSION:
            raise ControllerError(
                f"spec.json: bundle format {record['format_version']}, this controller reads format "
                f"{FORMAT_VERSION}; use the controller.py that lies in the bundle"
            )
        _check_seal(content)
        contents = _read_checked(directory, record["files"])
        controller = Controller(record, contents["policy.onnx"], contents["critic.onnx"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ControllerError(f"spec.json: not a description of a bundle: {error!r}") from error
    # Also the warm-up: the first runs of a session allocate.
    controller.check(contents["golden.npz"])
    return controller


def sealed(text: str) -> bytes:
    """A JSON object's text with its own SHA-256 as the first key, taken with zeros in place of the hash."""
    body = text.replace("{", '{"sha256": "%s",' % ("0" * 64), 1).encode()
    return body.replace(b"0" * 64, hashlib.sha256(body).hexdigest().encode(), 1)


def _check_seal(content: bytes) -> None:
    start = len(b'{"sha256": "')
    stated, blank = content[start : start + 64], content[:start] + b"0" * 64 + content[start + 64 :]
    found = hashlib.sha256(blank).hexdigest()
    if content[:start] != b'{"sha256": "' or stated != found.encode():
        raise ControllerError(
            f"spec.json: SHA-256 is {found}, it states {stated.decode(errors='replace')}: "
            "the file was altered"
        )


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime as a control loop wants it: on its own thread alone, none of them spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _finite(value: np.ndarray, found: np.ndarray) -> bool:
    """Whether all entries are numbers; `found` [as value] bool is where it is noted.

    Looked for in the bytes: `all` takes longer than the rest together, three times a step."""
    np.isfinite(value, out=found)
    return b"\0" not in found.tobytes()


class _Vector:
    """One input: the buffer that ONNX Runtime reads and the names of its entries."""

    def __init__(self, name: str, entries: list[str], unit: list[str]) -> None:
        self.name = name
        self.entries = entries
        self.unit = unit
        self.batch = np.zeros((1, len(entries)), np.float32)
        self._row = self.batch[0]
        self._found = np.empty(len(entries), np.bool_)

    def fill(self, value: np.ndarray) -> None:
        if not isinstance(value, np.ndarray):
            raise ControllerError(
                f"{self.name}: {type(value).__name__}, allowed: a float32 array {self._allowed}"
            )
        if value.dtype != np.float32:
            raise ControllerError(f"{self.name}: dtype {value.dtype}, allowed: float32")
        if value.shape != self._row.shape:
            raise ControllerError(f"{self.name}: shape {list(value.shape)}, allowed: {self._allowed}")
        if not _finite(value, self._found):
            raise ControllerError(f"{self.name}: {self._describe(value)}; allowed: finite numbers")
        self._row[:] = value

    @property
    def size(self) -> int:
        return len(self.entries)

    @property
    def _allowed(self) -> str:
        return f"[{len(self.entries)}]"

    def _describe(self, value: np.ndarray) -> str:
        wrong = np.flatnonzero(~self._found)
        named = [f"{self.entries[i]} = {value[i]} (entry {i}, {self.unit[i]})" for i in wrong[:4]]
        return ", ".join(named) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")


class Controller:
    """A policy, checked. `spec` is the task specification, `provenance` says where the policy is from."""

    def __init__(self, record: dict[str, Any], policy: bytes, critic: bytes) -> None:
        self.spec: dict[str, Any] = record["task"]
        self.provenance: dict[str, Any] = record["provenance"]
        self.max_golden_error = 0.0
        terms, goal = inputs(self.spec)
        action, deployed = self.spec["action"], self.spec.get("deployed")
        self._obs = _terms("obs", terms)
        self._reading = _terms("reading", readings(self.spec))
        self._history = np.zeros((deployed["history"] if deployed else 1, self._reading.size), np.float32)
        self._seen = self._history.reshape(-1)
        self.reset()
        self._goal = _Vector(
            "goal",
            [f"{goal['name']}.{entry}" for entry in goal["entries"]],
            [f"{goal['unit']}, {goal['frame']} frame"] * len(goal["entries"]),
        )
        size = len(action["joints"])
        self._asked = _Vector(
            "action", [f"action.{joint}" for joint in action["joints"]], ["in [-1, 1]"] * size
        )
        self._answer = np.zeros((1, size), np.float32)
        self._action: np.ndarray = self._answer[0]
        self._found = np.empty(size, np.bool_)
        self._session = self._open("policy.onnx", policy, (self._obs, self._goal), ("actions", [1, size]))
        self._binding = self._bind()
        self._critic_graph = critic
        self._critic: onnxruntime.InferenceSession | None = None

    def reset(self) -> None:
        """Forgets all readings: the next one begins an episode, and stands for those before it."""
        self._begun = False

    def require_reading(self, reading: np.ndarray) -> None:
        """ControllerError for a reading of wrong shape or type, or with NaN or infinity, naming the entry."""
        self._reading.fill(reading)

    def observe(self, reading: np.ndarray) -> np.ndarray:
        """What `step` is asked with after this reading of the sensors; call it once each control period.

        Args: reading: [M] float32, entries and units as `spec["deployed"]["reading"]` lists them, or as
          `spec["observation"]` where nothing is deployed.
        Returns: [N] float32, the newest reading first; the same array each time, rewritten by the next call.
        Raises ControllerError for a wrong shape or type, NaN or infinity; the history is left as it was."""
        self._reading.fill(reading)
        newest = self._reading.batch[0]
        if self._begun:
            for age in range(len(self._history) - 1, 0, -1):
                self._history[age] = self._history[age - 1]
            self._history[0] = newest
        else:
            self._history[:] = newest
            self._begun = True
        return self._seen

    def step(self, obs: np.ndarray, goal: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The action for one control period.

        Args:
          obs: [N] float32, entries and units as `inputs(spec)` lists them; see `observe`.
          goal: [G] float32, likewise; trained between `low` and `high` of `spec["goal"]`.
          out: [A] float32 to write the action to, for loops that must not allocate.
        Returns: [A] float32 in [-1, 1]; the command is offset + scale * action, see `spec["action"]`.
          `out` if it was given, else a new array: everything in between lives in fixed buffers.
        Raises ControllerError for a wrong shape or type, NaN or infinity; the last action stands."""
        self._obs.fill(obs)
        self._goal.fill(goal)
        self._session.run_with_iobinding(self._binding)
        if not _finite(self._action, self._found):
            raise ControllerError(
                f"actions: {self._action} are not finite; the observation is far from any trained"
            )
        if out is None:
            return self._action.copy()
        out[:] = self._action
        return out

    def distance(self, obs: np.ndarray, action: np.ndarray, goal: np.ndarray) -> float:
        """The critic's distance from acting so, here, to the goal: smaller is nearer, no unit.

        Args: obs [N], action [A], goal [G], float32. Raises ControllerError as `step` does."""
        if self._critic is None:
            vectors = (self._obs, self._asked, self._goal)
            self._critic = self._open("critic.onnx", self._critic_graph, vectors, ("distance", [1]))
        self._obs.fill(obs)
        self._asked.fill(action)
        self._goal.fill(goal)
        feed = {vector.name: vector.batch for vector in (self._obs, self._asked, self._goal)}
        return float(self._critic.run(["distance"], feed)[0][0])

    def check(self, golden: bytes) -> None:
        """Replays the recorded observations (an .npz); raises ControllerError if an action differs."""
        with np.load(io.BytesIO(golden)) as arrays:
            obs, goal, actions = arrays["obs"], arrays["goal"], arrays["actions"]
        for i in range(len(obs)):
            error = float(np.abs(self.step(obs[i], goal[i]) - actions[i]).max())
            if not error <= GOLDEN_TOLERANCE:
                raise ControllerError(
                    f"golden.npz: vector {i} of {len(obs)} is not reproduced: expected {actions[i]}, found "
                    f"{self._action}, allowed difference {GOLDEN_TOLERANCE:g}"
                )
            self.max_golden_error = max(self.max_golden_error, error)

    def _open(
        self, file: str, graph: bytes, vectors: tuple[_Vector, ...], output: tuple[str, list[int]]
    ) -> onnxruntime.InferenceSession:
        try:
            session = open_session(graph)
        except Exception as error:  # ONNX Runtime's own exceptions share no other base
            raise ControllerError(
                f"{file}: ONNX Runtime {onnxruntime.__version__} refuses it: {error}"
            ) from error
        found = [(part.name, part.shape, part.type) for part in session.get_inputs() + session.get_outputs()]
        expected = [(vector.name, list(vector.batch.shape), "tensor(float)") for vector in vectors]
        expected.append((*output, "tensor(float)"))
        if found != expected:
            raise ControllerError(f"{file}: inputs and outputs are {found}, spec.json says {expected}")
        # A specification that was changed and sealed again still is not the one inside the graph.
        inside = session.get_modelmeta().custom_metadata_map.get("fathom.spec", "null")
        if json.loads(inside) != self.spec:
            raise ControllerError(f"{file}: was exported for another task specification than spec.json holds")
        return session

    def _bind(self) -> Any:
        """Binds fixed buffers: a step then allocates none, and is a third faster than `run`."""
        binding = self._session.io_binding()
        for vector in (self._obs, self._goal):
            array = vector.batch
            binding.bind_input(vector.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        answer = self._answer
        binding.bind_output("actions", "cpu", 0, np.float32, answer.shape, answer.ctypes.data)
        return binding


class _Joint:
    """A joint's commands: velocities, or positions that change with velocities of the same limits."""

    def __init__(self, kind: str, joints: dict[str, Any], row: int, dt: float, acceleration: float | None):
        def limit(key: str, unlimited: float) -> float:
            value = joints[key][row]
            return unlimited if value is None or math.isinf(value) else float(value)

        self.by_position, self.dt = kind == "joint_position", dt
        self.lower, self.upper = limit("lower", -UNLIMITED), limit("upper", UNLIMITED)
        margin, slowdown = (0.0, 0.0) if self.by_position else (joints["margin"], joints["slowdown"])
        self.nearest, self.farthest = self.lower + margin, self.upper - margin
        self.slowdown: float = min(slowdown or math.inf, 1 / dt)
        self.velocity = float(joints["velocity"][row])
        speed = joints.get("return_speed")
        self.return_speed = self.velocity if speed is None else min(float(speed), self.velocity)
        # From one limit to the other, so any velocity may follow any other, where acceleration is not known.
        self.change = 2 * self.velocity
        if acceleration is not None:
            self.change = min(acceleration * dt, self.change)
        # From farther away than this `_towards` is above `velocity`.
        self.far = self.velocity * max(1 / self.slowdown, self.velocity / (2 * self.change / dt) + dt)
        self.is_measured = self.by_position or self.lower > -UNLIMITED or self.upper < UNLIMITED
        self.start()

    def start(self) -> None:
        self.last = self.up = self.down = 0.0
        self.seen = math.nan
        self.command: float | None = None if self.by_position else 0.0

    def begin(self, q: float) -> None:
        """Goes on from where the joint is measured, if its command is at rest and the sensor alive."""
        if self.by_position and abs(self.last) < REST and (self.command is None or q != self.seen):
            self.command = q

    def next(self, wanted: float, q: float, ramp: float) -> float:
        """The next command: `wanted`, or what of it is allowed to a joint that is measured at `q`."""
        if self.by_position:
            assert self.command is not None
            self.seen, q = q, self.command
            wanted = self._towards(_clipped(wanted, self.lower, self.upper) - q)
        else:
            low, high = self._places(q)
            # Inside at most what stops before a limit; beyond one at least what brings the joint back.
            to_lower = _clipped(0.0, self.nearest - high, self.nearest - low)
            to_upper = _clipped(0.0, self.farthest - high, self.farthest - low)
            wanted = _clipped(wanted * ramp, self._towards(to_lower), self._towards(to_upper))
        speed = self.velocity if self.lower <= q <= self.upper else self.return_speed
        return self._move(_clipped(wanted, -speed, speed))

    def hold(self) -> float:
        """The next command of a joint that comes to rest and stays there, wherever it is."""
        self.up += self.last * self.dt
        self.down += self.last * self.dt
        return self._move(0.0)

    def _move(self, wanted: float) -> float:
        self.last = _clipped(wanted, self.last - self.change, self.last + self.change)
        if self.by_position:
            assert self.command is not None
            self.command += self.last * self.dt
        else:
            self.command = self.last
        return self.command

    def _places(self, q: float) -> tuple[float, float]:
        """The lowest and highest place where a joint measured at `q` can be when the next command acts.

        Robots follow at once or a period late, and a sensor may have frozen: while it reads the same, all
        that was commanded since may have been done, or nothing."""
        moved = self.last * self.dt
        if q == self.seen:
            self.up += moved
            self.down += moved
        else:
            self.seen = q
            self.down, self.up = (moved, 0.0) if moved < 0 else (0.0, moved)
        return q + (self.down if self.down < 0 else 0.0), q + (self.up if self.up > 0 else 0.0)

    def _towards(self, gap: float) -> float:
        """The highest velocity, with the sign of `gap`, that can still be braked to rest within it.

        v, v - change, ... cover ((n + 1) v - n (n + 1) / 2 change) dt, n = floor(v / change), until none
        is left. After the first period the others still fit the gap: braking never has to be harder."""
        if abs(gap) > self.far:
            return math.copysign(self.velocity, gap)
        steps = abs(gap) / (self.change * self.dt)
        n = math.floor(math.sqrt(2 * steps + 0.25) - 0.5)
        return math.copysign(min(self.change * (steps / (n + 1) + n / 2), self.slowdown * abs(gap)), gap)


class _Setting:
    """A command that keeps to the range of its scale alone: a torque, a base's twist, a gripper's width."""

    is_measured = False

    def __init__(self, rest: float | None) -> None:
        self.rest = rest
        self.start()

    def start(self) -> None:
        self.command = self.rest

    def begin(self, q: float) -> None:
        pass

    def next(self, wanted: float, q: float, ramp: float) -> float:
        self.command = wanted
        return wanted

    def hold(self) -> float:
        """`rest`, or without one the last command."""
        if self.rest is not None:
            self.command = self.rest
        assert self.command is not None
        return self.command


class Guard:
    """Commands that a robot can follow, from a policy's actions: what needs memory and so is in no graph.

    Actions are clipped to [-1, 1]. Joints obey one rule, by velocity or by position: the next velocity is the
    one asked for, at most `velocity` (outside the limits of position `return_speed`), at most what still
    stops before the limits of position, and above all no more than `acceleration` times the period from the
    last. Beyond a limit a joint comes back so too. Velocities also start with a ramp, and slow down before
    limits as they did in training. Other commands keep to the range of their scale.

    A hold (no action) brings joints to rest within their acceleration, wherever they are, and keeps them
    there: velocity 0, or the position where the command came to rest. It keeps a gripper's width, commands 0
    for torques and twists, and `offset` for others. What follows it begins from the measured positions."""

    SPARE = 0.5
    """Share of the robot's acceleration limit that is used: it follows a change of command with ramps, which
    are steeper at their middle than on average, and has to arrive before the next command."""

    def __init__(
        self, spec: dict[str, Any], *, ramp_s: float = 0.5, acceleration: list[float] | None = None
    ) -> None:
        """Args: ramp_s: seconds from standing to full velocity; acceleration: [A], rad/s^2; None: SPARE of
        the specification's, if it has one.

        Raises ControllerError for an unknown kind of command, for a joint that the robot lacks, or if joint
        positions are not observed."""
        action, joints, dt = spec["action"], spec["joints"], spec["control_dt"]
        names, rest = action["joints"], at_rest(action)
        if acceleration is not None and (len(acceleration) != len(names) or not min(acceleration) > 0):
            raise ControllerError(f"acceleration: {acceleration}, allowed: {len(names)} positive numbers")
        driven = [name for name, kind in zip(names, kinds(action)) if kind in JOINT_KINDS]
        if missing := [name for name in driven if name not in joints["names"]]:
            raise ControllerError(f"action: joints {missing}, the robot has {joints['names']}")
        self._entries: list[_Joint | _Setting] = []
        for i, (name, kind) in enumerate(zip(names, kinds(action))):
            if kind in JOINT_KINDS:
                row = joints["names"].index(name)
                limit = None if acceleration is None else acceleration[i]
                if acceleration is None and joints.get("acceleration"):
                    limit = self.SPARE * joints["acceleration"][row]
                self._entries.append(_Joint(kind, joints, row, dt, limit))
            else:
                self._entries.append(_Setting(None if kind == "gripper_width" else rest[i]))
        measured = [name for name, entry in zip(names, self._entries) if entry.is_measured]
        places = _positions_in(spec, measured)
        self._places = [places.get(name, (-1, 0.0)) for name in names]
        self._names = names
        self._scale, self._offset = action["scale"], action["offset"]
        self._ramp_steps = max(1, round(ramp_s / dt))
        self._command = np.zeros(len(names))
        self.start()

    def limits(self) -> dict[str, list[float]]:
        """What commands are kept within, by entry of the action: for a guard in another language.

        Zeros where commands are scaled only; `position_index` in a reading is -1 where it is not needed."""
        limits = {
            name: [float(getattr(entry, name, 0.0)) for entry in self._entries]
            for name in (
                "lower",
                "upper",
                "nearest",
                "farthest",
                "slowdown",
                "velocity",
                "return_speed",
                "change",
            )
        }
        limits["rest"] = [getattr(entry, "rest", None) or 0.0 for entry in self._entries]
        limits["scale"], limits["offset"] = self._scale, self._offset
        limits["position_index"], limits["position_base"] = (list(each) for each in zip(*self._places))
        return limits

    def start(self, reading: np.ndarray | None = None) -> None:
        """Stands: where this reading [M] says, or else the one that comes with the next action."""
        self._steps, self._held = 0, True
        for entry in self._entries:
            entry.start()
        if reading is not None:
            self._begin(self._positions(reading))

    @property
    def can_hold(self) -> bool:
        """Whether a hold has a command: positions have none before one was read."""
        return all(entry.command is not None for entry in self._entries)

    def __call__(self, action: np.ndarray | None, reading: np.ndarray) -> np.ndarray:
        """The command [A], in the specification's unit; the same array each time. Call it once a period.

        Args: action: [A], or None to hold, as for want of a fresh reading; reading: [M], ignored in a hold.
        Raises ControllerError for what is no number, and for a hold while there is nothing to hold; the last
        command stands."""
        command = self._command
        if action is None:
            if not self.can_hold:
                raise ControllerError("hold: no position is known yet that could be held")
            self._steps, self._held = 0, True
            for i, entry in enumerate(self._entries):
                command[i] = entry.hold()
            return command
        asked = action.tolist()
        if len(asked) != len(command) or not all(map(math.isfinite, asked)):
            raise ControllerError(f"action: {action}, allowed: {len(command)} finite numbers")
        positions = self._positions(reading)
        if self._held:
            self._begin(positions)
        self._steps = min(self._steps + 1, self._ramp_steps)
        ramp = self._steps / self._ramp_steps
        for i, entry in enumerate(self._entries):
            wanted = self._offset[i] + self._scale[i] * _clipped(asked[i], -1.0, 1.0)
            command[i] = entry.next(wanted, positions[i], ramp)
        return command

    def _begin(self, positions: list[float]) -> None:
        self._held = False
        for entry, q in zip(self._entries, positions):
            entry.begin(q)

    def _positions(self, reading: np.ndarray) -> list[float]:
        """Where the reading says that the joints are; 0 for those of which that is not needed."""
        found = [reading.item(index) + base if index >= 0 else 0.0 for index, base in self._places]
        for name, q in zip(self._names, found):
            if not math.isfinite(q):
                raise ControllerError(f"reading: {name} is at {q}, allowed: finite numbers")
        return found


def _clipped(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value  # a tenth of the time of min and max


def kinds(action: dict[str, Any]) -> list[str]:
    """What each entry of an action commands; ControllerError for a kind that is not one of KINDS."""
    kind = action["kind"]
    found = [kind] * len(action["joints"]) if isinstance(kind, str) else list(kind)
    if unknown := sorted({str(each) for each in found if each not in KINDS}):
        raise ControllerError(f"action: kind {', '.join(unknown)}, allowed: {', '.join(KINDS)}")
    return found


def at_rest(action: dict[str, Any]) -> list[float]:
    """The command [A] that asks for no motion, where nothing is known but the specification.

    0 for velocities, torques and twists; of a gripper the narrowest width, which keeps what it holds; of
    joint positions and others `offset`."""
    rest = []
    for kind, scale, offset in zip(kinds(action), action["scale"], action["offset"]):
        if kind in ("joint_position", "other"):
            rest.append(offset)
        else:
            rest.append(offset - abs(scale) if kind == "gripper_width" else 0.0)
    return rest


def _positions_in(spec: dict[str, Any], wanted: list[str]) -> dict[str, tuple[int, float]]:
    """Where a reading holds these joints' positions, and what is to be added to each."""
    home = dict(zip(spec["joints"]["names"], spec["joints"]["default"]))
    found = {}
    for term in readings(spec):
        if term["name"] in ("joint_position", "joint_position_from_default"):
            for i, joint in enumerate(term["entries"]):
                base = 0.0 if term["name"] == "joint_position" else home.get(joint, 0.0)
                found[joint] = term["start"] + i, base
    if missing := [joint for joint in wanted if joint not in found]:
        raise ControllerError(f"reading: no term joint_position with {missing}: limits cannot be kept")
    return {joint: found[joint] for joint in wanted}


class Latencies:
    """A histogram of seconds in constant memory: eight bins to an octave, from 0.1 us on."""

    FIRST, PER_OCTAVE = 1e-7, 8

    def __init__(self) -> None:
        self.counts = np.zeros(256, np.int64)
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        octave = math.log2(max(seconds, self.FIRST) / self.FIRST)
        self.counts[min(int(octave * self.PER_OCTAVE), len(self.counts) - 1)] += 1
        self.longest = max(self.longest, seconds)

    def percentile(self, share: float) -> float:
        """Seconds, too large by at most a bin's width, 9 %; NaN before anything was added."""
        total = int(self.counts.sum())
        if not total:
            return math.nan
        place = int(np.searchsorted(np.cumsum(self.counts), share / 100 * total))
        return float(min(self.FIRST * 2 ** ((place + 1) / self.PER_OCTAVE), self.longest))


class Log:
    """What the loop did in its last `capacity` steps, in memory that is taken once.

    Columns: `seconds` since the loop began, when the step did; `reading` [M]; `goal` [G]; `action` [A];
    `command` [A], NaN where none was written; `latency_us` from reading to writing; `held`, for want of a
    fresh reading."""

    def __init__(self, spec: dict[str, Any], capacity: int) -> None:
        terms, goal = readings(spec), inputs(spec)[1]
        size = len(spec["action"]["joints"])
        self.steps = 0
        self._capacity = capacity
        self._columns: dict[str, np.ndarray] = {
            "seconds": np.zeros(capacity),
            "reading": np.zeros((capacity, sum(len(term["entries"]) for term in terms)), np.float32),
            "goal": np.zeros((capacity, len(goal["entries"])), np.float32),
            "action": np.zeros((capacity, size), np.float32),
            "command": np.zeros((capacity, size)),
            "latency_us": np.zeros(capacity),
            "held": np.zeros(capacity, np.bool_),
        }

    def add(self, **values: Any) -> None:
        row = self.steps % self._capacity
        for name, value in values.items():
            self._columns[name][row] = value
        self.steps += 1

    def columns(self) -> dict[str, np.ndarray]:
        """Each column by its name, oldest step first."""
        if self.steps <= self._capacity:
            return {name: column[: self.steps] for name, column in self._columns.items()}
        return {name: np.roll(column, -self.steps, axis=0) for name, column in self._columns.items()}

    def save(self, file: str | PathLike[str]) -> None:
        """Writes the columns as an .npz."""
        np.savez_compressed(file, **self.columns())  # type: ignore[arg-type]


def punctual(seconds: float) -> None:
    """Sleeps, but for the last EARLY seconds, which it waits awake: sleep alone ends late."""
    end = time.monotonic() + seconds
    if seconds > EARLY:
        time.sleep(seconds - EARLY)
    while time.monotonic() < end:
        pass


class _Stop:
    """Stops a robot, whatever interrupts: signals that come meanwhile act once it returned or failed."""

    def __init__(self, robot: Any) -> None:
        self._robot, self._done = robot, False
        self._handlers: dict[signal.Signals, Any] = {}
        self._is_main = threading.current_thread() is threading.main_thread()  # others are not interrupted
        if self._is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _exit)  # by default it ends a process on the spot

    def __call__(self) -> None:
        """May be interrupted before it begins, and then has to be called again."""
        came: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM) if self._is_main and not self._done else ():
            if (handler := signal.getsignal(number)) is not None:
                self._handlers.setdefault(number, handler)
                signal.signal(number, lambda late, _: came.append(late))
        try:
            while not self._done:
                try:
                    self._robot.stop()
                    self._done = True
                except KeyboardInterrupt:
                    continue
                except BaseException:
                    self._done = True
                    raise
        finally:
            while self._handlers:
                number, handler = self._handlers.popitem()
                signal.signal(number, signal.SIG_DFL if handler is _exit else handler)
        for late in came[:1]:
            signal.raise_signal(late)


def _exit(number: int, _: Any) -> None:
    sys.exit(128 + number)


def run(
    controller: Controller,
    robot: Any,
    goal: np.ndarray | Callable[[float], np.ndarray],
    seconds: float,
    *,
    guard: Guard | None = None,
    log: Log | None = None,
    stale_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = punctual,
) -> dict[str, Any]:
    """Controls a robot at the specification's rate; whatever happens, it is told to stop at the end.

    Args:
      robot: has `read() -> (time of `clock`, reading [M] float32)`, `write(command [A])` and `stop()`. What
        the specification calls `last_action` in a reading, the loop fills in.
      goal: [G] float32, or a function of the seconds since the beginning that answers one.
      seconds: how long.
      log: takes every step.
      stale_s: a reading older than this when it arrives holds the robot until a newer one does, with which
        an episode begins anew; None: two periods. Positions are first commanded once a fresh one arrived.
    Returns: `steps`, `held` of them for want of a fresh reading, `missed_deadlines` (periods that were over
      before their command was written), `latency_us_p50`, `_p99` and `_max` from reading to writing.
    Raises: what robot and controller raise, and ControllerError for a reading's time that is no number or
      that `clock` has not reached, after the robot was stopped. Signals that come meanwhile act after it."""
    dt = controller.spec["control_dt"]
    guard = guard or Guard(controller.spec)
    stale_s = 2 * dt if stale_s is None else stale_s
    action = np.zeros(len(controller.spec["action"]["joints"]), np.float32)
    reading = np.zeros(controller._reading.size, np.float32)
    acted = last_action(controller.spec)
    latencies, periods = Latencies(), round(seconds / dt)
    steps = held = missed = period = 0
    stop = _Stop(robot)
    try:
        try:
            controller.reset()
            guard.start()
            start = clock()
            while period < periods:
                wait = start + period * dt - clock()
                if wait > 0:
                    sleep(wait)
                begun = clock()
                wanted = goal(begun - start) if callable(goal) else goal
                taken, found = robot.read()
                stale = _age(taken, clock()) > stale_s
                controller.require_reading(found)
                if stale:
                    held += 1
                    controller.reset()
                    action[:] = 0
                    command = guard(None, found) if guard.can_hold else None
                else:
                    if acted is not None:
                        reading[:] = found
                        reading[acted] = action
                        found = reading
                    controller.step(controller.observe(found), wanted, out=action)
                    command = guard(action, found)
                if command is not None:
                    robot.write(command)
                ended = clock()
                latencies.add(ended - begun)
                if log is not None:
                    log.add(
                        seconds=begun - start,
                        reading=found,
                        goal=wanted,
                        action=action,
                        command=math.nan if command is None else command,
                        latency_us=(ended - begun) * 1e6,
                        held=stale,
                    )
                steps += 1
                over = max(0, int((ended - start) / dt) - period)
                missed += over
                period += max(over, 1)
        finally:
            stop()
    finally:
        stop()  # an interruption may come between the end of the loop and the stop
    return {
        "steps": steps,
        "held": held,
        "missed_deadlines": missed,
        "latency_us_p50": latencies.percentile(50) * 1e6,
        "latency_us_p99": latencies.percentile(99) * 1e6,
        "latency_us_max": latencies.longest * 1e6,
    }


def _age(taken: Any, now: float) -> float:
    """Seconds since a reading was taken; ControllerError if that is not a time that the loop's clock had."""
    age = now - float(taken) if isinstance(taken, numbers.Real) else math.nan
    if not -AHEAD_S <= age < math.inf:
        raise ControllerError(
            f"reading: its time is {taken}, the loop's clock says {now:.3f}; allowed: when it was measured, "
            "in seconds of that clock (time.monotonic, unless another one was given)"
        )
    return age


def readings(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Terms of one reading of the robot's sensors, as `Controller.observe` takes it."""
    deployed = spec.get("deployed")
    terms: list[dict[str, Any]] = deployed["reading"] if deployed else spec["observation"]
    return terms


def last_action(spec: dict[str, Any]) -> slice | None:
    """Where a reading holds the action before it."""
    for term in readings(spec):
        if term["name"] == "last_action":
            return slice(term["start"], term["start"] + len(term["entries"]))
    return None


def inputs(spec: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Terms of the observation, and the goal, that a policy on the robot is given.

    Those of the task, unless it says what of them a robot can see: then readings of its sensors, older ones
    as terms of their own, and the goal in a frame that the robot knows."""
    deployed = spec.get("deployed")
    if not deployed:
        return spec["observation"], spec["goal"]
    size = sum(len(term["entries"]) for term in deployed["reading"])
    terms = [
        {
            **term,
            "name": f"{term['name']}_t-{age}" if age else term["name"],
            "start": age * size + term["start"],
        }
        for age in range(deployed["history"])
        for term in deployed["reading"]
    ]
    return terms, deployed["goal"]


def _terms(name: str, terms: list[dict[str, Any]]) -> _Vector:
    return _Vector(
        name,
        [f"{term['name']}.{entry}" for term in terms for entry in term["entries"]],
        [f"{term['unit']}, {term['frame']} frame" for term in terms for _ in term["entries"]],
    )


def _read(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise ControllerError(
            f"{name}: cannot be read from the bundle {directory}: {error.strerror}"
        ) from error


def _read_checked(directory: Path, hashes: dict[str, str]) -> dict[str, bytes]:
    """Every listed file; what is run later are these bytes, not the file as it may be by then."""
    unlisted = [name for name in NEEDED_FILES if name not in hashes]
    if unlisted:
        raise ControllerError(f"spec.json: lists no SHA-256 of {', '.join(unlisted)}")
    contents = {name: _read(directory, name) for name in hashes}
    for name, content in contents.items():
        found = hashlib.sha256(content).hexdigest()
        if found != hashes[name]:
            raise ControllerError(
                f"{name}: SHA-256 is {found}, spec.json lists {hashes[name]}: the file was altered"
            )
    return contents


def describe(controller: Controller, steps: int = 2000) -> str:
    """What the policy expects, and how long a step takes on this machine."""
    spec = controller.spec
    (terms, goal), action = inputs(spec), spec["action"]
    size = sum(len(term["entries"]) for term in terms)
    lines = [
        f"{spec['name']} version {spec['version']}, one step every {spec['control_dt']} s",
        f"obs [{size}]",
    ]
    for term in terms:
        span = f"{term['start']}:{term['start'] + len(term['entries'])}"
        names = ", ".join(term["entries"])
        lines.append(f"  {span:>7} {term['name']} [{term['unit']}, {term['frame']} frame]: {names}")
    lines.append(f"goal [{len(goal['entries'])}] {goal['name']} [{goal['unit']}, {goal['frame']} frame]")
    for i, entry in enumerate(goal["entries"]):
        trained = f" trained in [{goal['low'][i]}, {goal['high'][i]}]" if "low" in goal else ""
        lines.append(f"  {entry}{trained}")
    lines.append(f"actions [{len(action['joints'])}] [{action['unit']}] = offset + scale * action")
    for joint, kind, scale, offset in zip(action["joints"], kinds(action), action["scale"], action["offset"]):
        lines.append(f"  {joint} {kind} scale {scale} offset {offset}")
    obs = controller._obs.batch[0].copy()
    wanted = controller._goal.batch[0].copy()
    seconds = np.empty(steps)
    for i in range(steps):
        start = time.perf_counter()
        controller.step(obs, wanted)
        seconds[i] = time.perf_counter() - start
    p50, p99, worst = np.percentile(seconds, [50, 99, 100]) * 1e6
    lines.append(f"golden vectors reproduced, largest error {controller.max_golden_error:.1e}")
    lines.append(f"step p50 {p50:.1f} us, p99 {p99:.1f} us, longest {worst:.1f} us of {steps}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    try:
        print(describe(load(arguments[0] if arguments else Path(__file__).parent)))
    except ControllerError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
