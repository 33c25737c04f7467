"""`pipeline control --robot ros2`: a bundle's controller as a node of ROS 2, which need not be installed."""

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from export.controller import CommandLimiter, run
from export.ros2_node import QUEUE, JointRobot, unsupported
from export.targets import ros2_controller
from pipelines.closed_loop import controller_errors
from pipelines.progress import Display
from pipelines.robot.driving import following, goals_of, logged, prepare
from pipelines.robot.separation import separation_of
from pipelines.runtime import Interrupted, Interruption, deferred_interrupt
from teacher.errors import FathomError, UsageError
from teacher.tasks import MujocoTask, Task
from teacher.tasks.base import State, achieved_goal

try:
    from cyclonedds.core import DDSException
    from cyclonedds.domain import DomainParticipant
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
    from cyclonedds.util import duration

    from pipelines.robot import messages
    from pipelines.robot.messages import Float64MultiArray, MultiArrayLayout
except ImportError as missing:
    raise UsageError(f"--robot ros2 needs cyclonedds: pip install 'fathom-rl[ros2]' ({missing})") from missing

JSON = dict[str, Any]
LONGEST_S = 1e9  # where goals come as messages
LOGGED_S = 3600.0  # of which the log holds the last steps


def drive(
    bundle: Path,
    display: Display,
    goals: str | None = None,
    seconds: float | None = None,
    *,
    remap: Sequence[str] | None = None,
    base_frame: str | None = None,
    far: bool = False,
    seed: int = 0,
    log: Path | None = None,
    task: str | None = None,
) -> JSON:
    """Moves a robot to goals that arrive as messages, for `seconds` or until it is interrupted; or to those
    of `goals`, `seconds` each.

    Args: as the command line has them. Returns: figures of the summary.
    Raises UsageError or FathomError before anything moves, for what is said to be refused."""
    with controller_errors():
        ready = prepare(bundle, task, log)
        controller, spec = ready.controller, ready.controller.spec
        point, topics = _point(ready.task, spec), _topics(spec, remap or ())
        separation = separation_of(ready.task, spec, display.warn)
        places: Sequence[np.ndarray] = ()
        if goals is not None:
            places = list(goals_of(goals, ready.task, display.warn, seed=seed, far=far))
            seconds = seconds or 5.0
        whole = (seconds or LONGEST_S) * (len(places) or 1)
        ends: list[list[np.ndarray]] = []  # each goal, and the joints when it was last pursued
        try:
            with deferred_interrupt() as signals, _node(topics, spec, signals) as (receive, commands):
                limiter = CommandLimiter(spec, share=separation)
                robot = JointRobot(
                    controller,
                    limiter,
                    point,
                    lambda command: commands.write(Float64MultiArray(MultiArrayLayout([], 0), command)),
                    receive=lambda: receive(robot),
                    base_frame=base_frame or "base_link",
                    far=far,
                    say=display.warn,
                )

                def noted(now: float) -> np.ndarray:
                    wanted: np.ndarray = goal(now)
                    assert robot.newest is not None
                    if ends and ends[-1][0] is wanted:
                        ends.pop()
                    ends.append([wanted, robot.newest.q])
                    return wanted

                robot.wait(topics["joint_states"], topics["commands"], commands.get_matched_subscriptions)
                with (
                    logged(spec, min(whole, LOGGED_S), ready.log) as steps,
                    _goals(places, seconds or 0, robot, topics["goal"], display, signals) as goal,
                ):
                    counted = run(controller, robot, noted, whole, limiter=limiter, log=steps)
        except ConnectionError as error:
            raise FathomError(str(error)) from error
    distances = np.array([np.linalg.norm(point(q) - wanted) for wanted, q in ends])
    return ready.figures("ros2", distances, counted | (separation.figures() if separation else {}))


@contextmanager
def _goals(
    places: Sequence[np.ndarray],
    seconds: float,
    robot: JointRobot,
    topic: str,
    display: Display,
    signals: Interruption,
) -> Iterator[Callable[[float], Any]]:
    """Yields the goal of the moment: of those given, or the newest that arrived, once there is one."""
    if places:
        with display.bar("robot", len(places), unit="goals") as bar:
            yield following(places, seconds, bar, signals)
        return
    display.say(f"waiting for a goal on {topic}")
    while robot.goal is None:
        robot.pause()
    yield lambda now: robot.goal


def _point(task: Task, spec: JSON) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from joint positions [J] to what goals mean, as the task observes it.

    UsageError if JointState and a controller's commands are not all that the task needs."""
    if why := unsupported(spec):
        raise UsageError(f"{spec['name']}: {why}")
    model = task.model(task.engines[0]) if isinstance(task, MujocoTask) else None
    names = [model.joint(i).name for i in range(model.njnt)] if model else []
    if model is None or names != spec["joints"]["names"] or model.nq != len(names):
        raise UsageError(f"{spec['name']}: has more than joints that a JointState tells: {', '.join(names)}")

    def point(q: np.ndarray) -> np.ndarray:
        state = State(q, np.zeros(len(q)), np.zeros(model.nu))
        return np.asarray(achieved_goal(task.spec, task.observe(state)))

    return point


def _topics(spec: JSON, remap: Sequence[str]) -> dict[str, str]:
    """Returns names of topics, ROS 2's own where nothing else is said (`FROM:=TO`)."""
    topics = {
        "joint_states": "/joint_states",
        "goal": "/goal",
        "commands": f"/{ros2_controller(spec)}/commands",
    }
    for said in remap:
        name, _, topic = said.partition(":=")
        if name.lstrip("/") not in topics or not re.fullmatch(
            r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", topic, re.ASCII
        ):
            raise UsageError(f"--remap {said}, allowed: NAME:=TOPIC, with NAME one of {', '.join(topics)}")
        topics[name.lstrip("/")] = "/" + topic.lstrip("/")
    return topics


@contextmanager
def _node(
    topics: dict[str, str], spec: JSON, signals: Interruption
) -> Iterator[tuple[Callable[[JointRobot], None], Any]]:
    """Yields what lets a robot hear its messages, and the writer of commands, in the domain of ROS_DOMAIN_ID.

    Raises Interrupted, and so ends the loop, once that is asked for."""
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not domain.isdecimal() or int(domain) > 232:
        raise UsageError(f"ROS_DOMAIN_ID is {domain!r}, allowed: a number from 0 to 232")
    try:
        participant = DomainParticipant(int(domain))
        of_goal = messages.PointStamped if spec["goal"].get("lever") is None else messages.PoseStamped
        kinds = zip(topics.values(), (messages.JointState, of_goal, Float64MultiArray), strict=True)
        joints, goal, commands = (Topic(participant, f"rt{topic}", kind) for topic, kind in kinds)
        readers = (
            DataReader(participant, joints, messages.NEWEST),
            DataReader(participant, goal, messages.RELIABLE),
        )
        writer = DataWriter(participant, commands, messages.RELIABLE)
    except DDSException as error:
        raise FathomError(f"ROS 2: no way into domain {domain}: {error}") from error

    def receive(robot: JointRobot) -> None:
        if signals.requested:
            raise Interrupted("interrupted: the robot was stopped")
        try:
            for reader, hear in zip(readers, (robot.hear_joints, robot.hear_goal), strict=True):
                for message in reader.take(QUEUE):
                    if message.sample_info.valid_data:
                        hear(message)
        except (DDSException, ValueError, struct.error) as error:
            raise FathomError(f"ROS 2: a message cannot be read: {error}") from error

    try:
        yield receive, writer
    finally:
        writer.wait_for_acks(duration(seconds=1))  # the last command has to arrive too
