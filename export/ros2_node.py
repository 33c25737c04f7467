"""Runs the policy of a bundle as a ROS 2 node; it lies in the bundle as deploy/ros2/node.py.

    python3 node.py --ros-args -p base_frame:=base -p tip_frame:=fr3_link8 -r joint_states:=arm/joint_states

Reads sensor_msgs/JointState from `joint_states` and goals from `goal` (geometry_msgs/PointStamped, or
PoseStamped for a policy that goes to poses), writes std_msgs/Float64MultiArray to the forward command
controller of controllers.yaml. Needs rclpy, tf2_ros, numpy and onnxruntime, on Python 3.8 or later.
`JointRobot` knows no middleware: `pipeline control --robot ros2` runs it too.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

POINTS = ("flange_position", "tool_position", "tip_position", "tip_pose")
"""Terms of a reading that follow from the joints: where an arm's frame is, in that of its base."""
READABLE = ("joint_position", "joint_position_from_default", "joint_velocity", "last_action", *POINTS)
START_S = 10.0  # for which joints and a controller are waited for
LOST_S = 2.0  # without news of the joints, after which the robot is given up
DRIFT = 1e-4  # s/s, by which two computers' clocks drift apart at the most
QUEUE = 8  # messages: other nodes may publish other joints on the same topic


def unsupported(spec: dict[str, Any]) -> str:
    """Returns why a task cannot be driven by these messages; empty if it can."""
    action, goal = spec["action"], spec["inputs"]["goal"]
    unknown = [term["name"] for term in spec["inputs"]["reading"] if term["name"] not in READABLE]
    if unknown:
        return f"it reads {', '.join(unknown)}; known through ROS 2: {', '.join(READABLE)}"
    if action["kind"] not in ("joint_velocity", "joint_position"):
        return f"it commands {action['kind']}; through ROS 2: joint_velocity or joint_position, of all joints"
    same = all(goal[key] == spec["goal"][key] for key in ("name", "entries", "unit", "frame"))
    is_pose = spec["goal"].get("lever") is not None and len(goal["entries"]) == 12
    if goal["unit"] != "m" or not ({*goal["entries"]} <= {*"xyz"} or is_pose) or not same:
        what = f"{goal['name']} ({', '.join(goal['entries'])}) in {goal['unit']}, {goal['frame']} frame"
        return f"its goal is {what}; messages hold a point in m or an arm's pose, in the frame of training"
    return ""


class Joints(NamedTuple):
    taken: float  # s of our clock
    stamp: float  # s of the robot's
    q: np.ndarray
    dq: np.ndarray


def _numbers(message: Any) -> list[float]:
    """Returns a Point or Vector3 as x, y, z, a Quaternion as w, x, y, z."""
    return [getattr(message, name) for name in "wxyz" if hasattr(message, name)]


class JointRobot:
    """A robot whose joints are told and commanded by messages, as `controller.run` asks for one.

    Messages are ordered by `header.stamp`, when they were measured by another computer's clock: one that is
    not newer than all before is passed over, and its age counts from the quickest message's delay."""

    def __init__(
        self,
        controller: Any,
        limiter: Any,
        point: Callable[[np.ndarray], Sequence[float] | np.ndarray],
        send: Callable[[list[float]], None],
        *,
        receive: Callable[[], None] = lambda: None,
        base_frame: str = "base_link",
        far: bool = False,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes a Controller; ValueError if it is of a task that these messages cannot drive.

        Args: limiter: the loop's own, which brings the joints to rest at the end too; point: from positions
        [J] to that of POINTS; send: writes a command; receive: lets messages that have come be heard;
        base_frame: what goals must be given in; far: take goals outside the training range too."""
        spec = controller.spec
        if why := unsupported(spec):
            raise ValueError(f"{spec['name']}: {why}")
        self._terms, self._joints = spec["inputs"]["reading"], spec["joints"]
        self._goal, self._dt, self._far = spec["goal"], spec["control_dt"], far
        self._limiter, self._point, self._send, self._receive = limiter, point, send, receive
        self._base_frame, self._say, self._clock, self._pose = base_frame, say, clock, controller.pose
        self._stamp, self._ahead, self._heard = 0.0, math.inf, clock()
        self.newest: Joints | None = None
        self.needs_point = any(term["name"] in POINTS for term in self._terms)
        self._last: list[float] | None = None  # command
        self._acted = np.zeros(len(spec["action"]["joints"]))  # in whose place the loop writes
        self._missing = "nothing arrived"
        self.goal: np.ndarray | None = None

    def hear_joints(self, message: Any) -> None:
        """Takes a sensor_msgs/JointState that has all joints, by name, and is newer than all before."""
        stamp = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        if stamp <= self._stamp:
            self._missing = self._missing if stamp else "messages hold no header.stamp"
            return
        rows = {name: row for row, name in enumerate(message.name)}
        names, moves = self._joints["names"], any(term["name"] == "joint_velocity" for term in self._terms)
        if absent := [name for name in names if rows.get(name, math.inf) >= len(message.position)]:
            self._missing = f"no position of {', '.join(absent)} among {', '.join(message.name) or 'none'}"
        elif moves and len(message.velocity) < len(message.name):
            self._missing = "messages hold no velocities, which the policy reads"
        else:
            places, now = [rows[name] for name in names], self._clock()
            self._ahead = min(self._ahead + DRIFT * (now - self._heard), now - stamp)
            self._stamp, self._heard = stamp, now
            q = np.array([message.position[place] for place in places])
            dq = np.array([message.velocity[place] for place in places]) if moves else np.zeros(len(q))
            # At once: it may be read in another thread.
            self.newest = Joints(stamp + self._ahead, stamp, q, dq)

    def hear_goal(self, message: Any) -> None:
        """Takes a geometry_msgs/PointStamped, or a PoseStamped for poses, as the goal; or says why not and
        keeps the one before."""
        if self._goal.get("lever") is None:
            found = np.array([getattr(message.point, entry) for entry in self._goal["entries"]], np.float32)
        else:
            place, turn = _numbers(message.pose.position), _numbers(message.pose.orientation)
            is_turn = 0 < math.hypot(*turn) < math.inf
            found = self._pose(place, turn) if is_turn else np.full(12, np.nan, np.float32)
        low, high = self._goal["low"], self._goal["high"]
        if message.header.frame_id != self._base_frame:
            self._say(f"goal passed over: in frame {message.header.frame_id!r}, not {self._base_frame!r}")
        elif not np.isfinite(found).all() or not (self._far or ((low <= found) & (found <= high)).all()):
            self._say(f"goal passed over: {found.tolist()}, trained between {low} and {high}")
        elif not np.array_equal(self.goal, found):  # type: ignore[arg-type]
            self.goal = found

    def wait(self, joints: str, commands: str, listeners: Callable[[], int]) -> None:
        """Returns once the joints are known and a controller listens; ConnectionError if that does not come.

        Args: joints, commands: names of these topics, to say which is silent."""
        until = self._clock() + START_S
        while self.newest is None or not listeners():
            if self._clock() > until:
                what = f"no joints from {joints} ({self._missing})"
                what = what if self.newest is None else f"no controller listens to {commands}"
                raise ConnectionError(f"ROS 2: {what} within {START_S:g} s; is ROS_DOMAIN_ID the robot's?")
            self.pause()

    def pause(self) -> None:
        """Hears what comes within a millisecond."""
        self._receive()
        time.sleep(1e-3)

    def read(self) -> tuple[float, np.ndarray]:
        self._receive()
        assert self.newest is not None, "wait comes first"
        taken, _, q, dq = self.newest
        if self._clock() - taken > LOST_S:
            raise ConnectionError(f"ROS 2: no news of the joints for {LOST_S:g} s: the robot was stopped")
        values = {"joint_position": q, "joint_velocity": dq, "last_action": self._acted}
        values["joint_position_from_default"] = q - self._joints["default"]
        if self.needs_point:
            values.update(dict.fromkeys(POINTS, np.array(self._point(q))))
        return taken, np.concatenate([values[term["name"]] for term in self._terms]).astype(np.float32)

    def write(self, command: np.ndarray) -> None:
        self._last = command.tolist()
        self._send(self._last)

    def stop(self) -> None:
        """Returns when the commands are at rest: a forward command controller goes on with its last one."""
        before = None
        while self._last is not None and self._last != before:
            before = self._last
            self.write(self._limiter(None, np.zeros(0)))
            time.sleep(self._dt)


def main() -> None:
    import rclpy
    from geometry_msgs.msg import PointStamped, PoseStamped
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions
    from rclpy.time import Time
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Float64MultiArray
    from tf2_ros import Buffer, TransformListener

    here = Path(__file__).resolve().parent
    sys.path.insert(0, str(here.parents[1]))
    from controller import CommandLimiter, load, run  # type: ignore[import-not-found]  # the bundle's

    controller = load(here.parents[1])
    spec, limiter = controller.spec, CommandLimiter(controller.spec)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # else nothing could be sent after Ctrl-C
    node = rclpy.create_node("fathom")
    base = node.declare_parameter("base_frame", "base_link").value
    tip = node.declare_parameter("tip_frame", "tool0").value
    far = node.declare_parameter("allow_far_goals", False).value
    commands = json.loads((here / "mapping.json").read_text())["command"]["topic"]
    publisher = node.create_publisher(Float64MultiArray, commands, 1)
    frames = Buffer()
    TransformListener(frames, node)

    kind = PointStamped if spec["goal"].get("lever") is None else PoseStamped

    def point(_: np.ndarray) -> Sequence[float] | np.ndarray:
        found = frames.lookup_transform(base, tip, Time())
        stamp, place = found.header.stamp, _numbers(found.transform.translation)
        assert robot.newest is not None
        late = robot.newest.stamp - (stamp.sec + 1e-9 * stamp.nanosec) > 2 * spec["control_dt"]
        place = [math.nan] * 3 if late else place  # a reading with NaN stops the robot
        return place if kind is PointStamped else controller.pose(place, _numbers(found.transform.rotation))

    robot = JointRobot(
        controller,
        limiter,
        point,
        lambda command: publisher.publish(Float64MultiArray(data=command)),
        base_frame=base,
        far=far,
        say=node.get_logger().warning,
    )
    node.create_subscription(JointState, "joint_states", robot.hear_joints, qos_profile_sensor_data)
    node.create_subscription(kind, "goal", robot.hear_goal, 1)
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
    try:
        robot.wait("joint_states", commands, publisher.get_subscription_count)
        while robot.goal is None or (robot.needs_point and not frames.can_transform(base, tip, Time())):
            robot.pause()
        run(controller, robot, lambda _: robot.goal, 1e9, limiter=limiter)
    except ConnectionError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
