"""`pipeline control --robot`: a bundle's controller moves an FR3 to a series of goals."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from export.controller import CommandLimiter, Controller, Log, run
from pipelines.closed_loop import controller_errors, opened
from pipelines.files import read_json, writing
from pipelines.progress import Bar, Display
from pipelines.robot.franka import FLANGE, Franka, require_drivable
from pipelines.robot.separation import separation_of
from pipelines.robot.simulated import simulated_robot
from pipelines.rundir import ROBOT_LOG, Run
from pipelines.runtime import Interrupted, Interruption, deferred_interrupt
from teacher.errors import UsageError, unknown_name
from teacher.spec import TaskSpec
from teacher.tasks import Task, make_task
from teacher.tasks.fr3_arm import HOME, LOWER, UPPER, flange_position, tool_position

JSON = dict[str, Any]
ROBOTS = ("fr3", "fr3-sim")
REACH = (-0.5,) * 3, (0.5,) * 3  # m: of a tool
MOST = 10_000  # goals


def drive(
    bundle: Path,
    display: Display,
    robot: str,
    *,
    host: str | None = None,
    goals: str = "10",
    seconds: float = 5.0,
    far: bool = False,
    tool: str | None = None,
    start: str | None = None,
    seed: int = 0,
    log: Path | None = None,
    task: str | None = None,
) -> JSON:
    """Moves the robot to one goal after another, some seconds each and without a stop between them.

    Args: as the command line has them: `fr3`, at `host`, or `fr3-sim`, which is started here and begins at
      `start`; tool: `X,Y,Z`, the point that goals mean, in the flange's frame (m); log: where every step is
      written (.npz), in place of the run's control/SIZE/robot.npz.
    Returns: figures of the summary; `limit_violations` is None on the real robot, which keeps no log.
    Raises UsageError or FathomError before anything moves, for what is said to be refused."""
    _require_consistent(robot, host, start)
    pose = np.array(HOME)
    if start is not None:
        pose = _numbers("--start", start, LOWER, UPPER, "joint positions in rad")
    point = None if tool is None else _numbers("--tool", tool, *REACH, "coordinates from the flange in m")
    with controller_errors():
        ready = prepare(bundle, task, log)
        controller, spec = ready.controller, ready.controller.spec
        require_drivable(spec)
        moved = np.array(spec["goal"].get("tool") or FLANGE)  # the point that the policy moves
        carried = None if point is None else point - moved
        places = goals_of(goals, ready.task, display.warn, seed=seed, far=far, tool=carried)
        duration = len(places) * seconds
        separation = separation_of(ready.task, spec, display.warn)
        # From here on, so that a signal while the robot is found is no motion that nobody wants any more.
        with deferred_interrupt() as signals, _robot(host, controller, pose) as (arm, limits):
            bar = display.bar("robot", len(places), unit="goals")
            with logged(spec, duration, ready.log) as steps, bar as shown:
                goal = following(places, seconds, shown, signals)
                if carried is not None:
                    goal = _for_tool(goal, arm, carried, ready.task.spec, far)
                limiter = CommandLimiter(spec, share=separation)
                counted = run(controller, arm, goal, duration, limiter=limiter, log=steps)
            arm.read()
            ends = _ends(spec, steps, arm.latest, len(places), seconds)
    distances = np.linalg.norm(tool_position(ends, moved if point is None else point) - places, axis=-1)
    of_tool = {} if point is None else {"tool_m": point.tolist()}
    apart = separation.figures() if separation else {}
    return ready.figures(robot, distances, of_tool | limits | counted | apart)


class Ready(NamedTuple):
    """A checked bundle with its task, and where the log of its steps goes."""

    bundle: Path
    controller: Controller
    run: Run | None  # in which the bundle lies
    task: Task
    log: Path | None

    def figures(self, robot: str, distances: np.ndarray, others: JSON) -> JSON:
        """Returns figures of the summary, which are also written to the run.

        Args: distances: [K] m, at the end of each goal's time."""
        found = {
            "robot": robot,
            "goals": len(distances),
            "reached": int((distances <= self.controller.spec["goal"]["success_radius"]).sum()),
            "worst_distance_m": float(distances.max()),
            "mean_distance_m": float(distances.mean()),
            "distances_m": distances.tolist(),
            **others,
            "student_sha256": self.controller.provenance.get("checkpoint_sha256"),
        }
        if self.run:
            self.run.update_summary({"robot": {self.bundle.name: found}})
        return found


def prepare(bundle: Path, task: str | None, log: Path | None) -> Ready:
    """Opens and checks a bundle; UsageError or FathomError for one that is not sound."""
    if log is not None and log.suffix != ".npz":
        raise UsageError(f"--log: {log}, allowed: a file that ends in .npz")
    bundle = bundle.resolve()
    controller, run, config, _ = opened(bundle, task)
    if log is None and run is not None:
        log = run.path / "control" / bundle.name / ROBOT_LOG
    return Ready(bundle, controller, run, make_task(config.task.name), log)


def goals_of(
    text: str,
    task: Task,
    warn: Callable[[str], None],
    *,
    seed: int,
    far: bool,
    tool: np.ndarray | None = None,
) -> np.ndarray:
    """Returns goals [K, G], in the unit and frame of the task's goal.

    Args:
      text: how many to draw, one goal (`0.4,0.1,0.5`), or a file with one on each line; what follows a #
        is a remark.
      far: take goals outside the training range too, with a warning for each.
      tool: [3] m, in the flange's frame, from the point that the policy moves to the one that goals mean.
        The range is then wider by its length, and drawn goals are where it comes with the hand as at home.
    Raises UsageError for what is none of these, and for goals outside the range unless `far`."""
    goal, given = task.spec.goal, task.spec.sensed_goal
    if (given.entries, given.frame) != (goal.entries, goal.frame):
        raise UsageError(
            f"{task.spec.name}: its goal on the robot is in frame {given.frame}, not {goal.frame}"
        )
    allowed = f"a number from 1 to {MOST:,}, {','.join(goal.entries)} in {goal.unit}, or a file of such lines"
    if text.isdecimal():
        if not 1 <= int(text) <= MOST:
            raise UsageError(f"--goals: {text}, allowed: {allowed}")
        home = np.array(HOME)
        moved = 0.0 if tool is None else tool_position(home, tool) - flange_position(home)
        keys = jax.random.split(jax.random.key(seed), int(text))
        drawn = jax.vmap(lambda key: task.start(key, task.layouts[0]).goal)(keys)  # as episodes have them
        return np.array(drawn, np.float32) + moved
    lines = [("--goals", text)]
    if Path(text).is_file():
        try:
            stated = Path(text).read_text("utf-8-sig").splitlines()  # Windows writes a byte-order mark
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--goals: {text} cannot be read: {error}") from error
        parts = [(f"{text} line {i}", line.partition("#")[0]) for i, line in enumerate(stated, 1)]
        lines = [(where, line) for where, line in parts if line.strip()]
    for where, line in lines:
        values = numbers(line)
        if len(values) != len(goal.entries) or not np.isfinite(values).all():
            raise UsageError(f"{where}: {line.strip()!r}, allowed: {allowed}")
    if not lines:
        raise UsageError(f"--goals: {text} is empty, allowed: {allowed}")
    goals = np.array([numbers(line) for _, line in lines], np.float32)
    reach = 0.0 if tool is None else float(np.linalg.norm(tool))
    outside = [
        f"{where}: {name} = {value:g} {goal.unit}, trained in [{low:g}, {high:g}]"
        for (where, _), values in zip(lines, goals, strict=True)
        for name, value, low, high in zip(goal.entries, values, goal.low, goal.high, strict=True)
        if not low - reach <= value <= high + reach
    ]
    if outside and not far:
        raise UsageError(f"{'; '.join(outside)}; to go there all the same: --allow-far-goals")
    for each in outside:
        warn(f"far goal: {each}")
    return goals


def numbers(text: str) -> np.ndarray:
    """Reads numbers with commas or spaces between; none where the text is something else."""
    try:
        return np.array([float(part) for part in text.replace(",", " ").split()])
    except ValueError:
        return np.array([])


def _require_consistent(robot: str, host: str | None, start: str | None) -> None:
    if robot not in ROBOTS:
        raise unknown_name("--robot", robot, (*ROBOTS, "ros2"))
    if robot == "fr3" and not host:
        raise UsageError("--robot fr3 needs --host: the address of the robot's control")
    if robot == "fr3-sim" and host:
        raise UsageError("--robot fr3-sim is started here, it takes no --host")
    if robot == "fr3" and start:
        raise UsageError("--start places a simulated robot; a real one begins where it stands")


def _numbers(option: str, text: str, low: Sequence[float], high: Sequence[float], what: str) -> np.ndarray:
    """Reads numbers within limits, separated by commas."""
    found = numbers(text)
    if len(found) != len(low) or not ((found >= low) & (found <= high)).all():
        limits = ", ".join(f"[{least:g}, {most:g}]" for least, most in zip(low, high, strict=True))
        raise UsageError(f"{option}: {text}, allowed: {len(low)} {what} within {limits}")
    return found


def _for_tool(
    goal: Callable[[float], np.ndarray], arm: Franka, carried: np.ndarray, spec: TaskSpec, far: bool
) -> Callable[[float], np.ndarray]:
    """Returns the policy's goal by which a carried point comes to its own, as the hand is turned just now.

    Kept within the training range unless `far`."""
    low, high = (np.array(edge) if not far else None for edge in (spec.goal.low, spec.goal.high))

    def asked(now: float) -> np.ndarray:
        offset = tool_position(arm.latest, carried) - flange_position(arm.latest)
        return np.clip(goal(now) - offset, low, high).astype(np.float32)

    return asked


@contextmanager
def _robot(host: str | None, controller: Controller, pose: np.ndarray) -> Iterator[tuple[Franka, JSON]]:
    """Yields the robot at `host`, or a simulated one, and figures that say, once it is gone, whether it kept
    its limits."""
    figures: JSON = {"limit_violations": None}
    if host is not None:
        yield Franka(host, controller.spec), figures
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        with simulated_robot(file, pose.tolist()) as address:
            yield Franka(address, controller.spec), figures
        figures |= read_json(file, "the simulated robot did not end in order", dict)


def following(
    places: Sequence[np.ndarray] | np.ndarray, seconds: float, bar: Bar, signals: Interruption
) -> Callable[[float], np.ndarray]:
    """Returns a function that gives the goal of the moment, and raises Interrupted once that is asked for."""

    def goal(now: float) -> np.ndarray:
        if signals.requested:
            raise Interrupted("interrupted: the robot was stopped")
        if (current := min(int(now / seconds), len(places) - 1)) != bar.done:
            bar.show(current, {})
        return places[current]

    return goal


def _ends(spec: JSON, log: Log, final: np.ndarray, count: int, seconds: float) -> np.ndarray:
    """Returns joint positions [K, 7] at the end of each goal's time: what the next goal found, or `final`."""
    columns = log.columns()
    firsts = np.searchsorted(columns["seconds"], seconds * np.arange(1, count) - 1e-9)
    first = next(term["start"] for term in spec["inputs"]["reading"] if term["name"] == "joint_position")
    return np.concatenate([columns["reading"][firsts, first : first + 7], final[None]]).astype(np.float64)


@contextmanager
def logged(spec: JSON, seconds: float, file: Path | None) -> Iterator[Log]:
    """Yields a log of the whole way, which is written to `file` however it ends.

    Raises FathomError before anything moves if the file could not be written then."""
    log = Log(spec, round(seconds / spec["control_dt"]))
    if file is None:
        yield log
        return
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    try:
        yield log
    finally:
        log.save(file)
