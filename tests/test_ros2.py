"""A bundle drives an arm over DDS as ROS 2 speaks it; what is late, missing or no number does not move it."""

import json
import os
import runpy
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import mujoco
import numpy as np
import pytest
from test_arm_models import URDF
from test_robot import RECORD, write_servo
from typer.testing import CliRunner

import pipelines.robot
from export.controller import CommandLimiter, Controller
from export.ros2_node import JointRobot, unsupported
from pipelines.catalogue import task_of_arm
from pipelines.cli import app
from teacher.tasks import make_task
from teacher.tasks.fr3_arm import HOME, JOINTS, flange_position

DT = 0.02
QUICK = f"""
from teacher.tasks.fr3_arm import Fr3Reach

class Quick(Fr3Reach):
    @property
    def spec(self):
        return super().spec.model_copy(update={{"control_dt": {DT}}})
"""
# Nothing here may reach a robot that happens to be in the same network.
LOOPBACK = (
    "<CycloneDDS><Domain><General><Interfaces><NetworkInterface name='lo' multicast='true'/></Interfaces>"
    "</General></Domain></CycloneDDS>"
)
PLACE = (0.4, 0.1, 0.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ros2")
    (folder / "quick.py").write_text(QUICK)
    spec = make_task(f"{folder / 'quick.py'}:Quick").spec
    return write_servo(folder / "servo", spec, targets=["ros2"])


# Messages, one by one


def message(stamp=0.0, frame="base_link", **fields):
    """A message with a header, as rclpy hands it over."""
    stamp = SimpleNamespace(sec=int(stamp), nanosec=round(stamp % 1 * 1e9))
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id=frame), **fields)


def point_at(place):
    return SimpleNamespace(**dict(zip("xyz", place, strict=True)))


class Desk:
    """A robot with a clock that is turned by hand."""

    def __init__(self, spec=RECORD, **options):
        self.now, self.sent, self.said, self.limiter = 100.0, [], [], CommandLimiter(spec)
        controller = SimpleNamespace(spec=spec)
        controller.pose = lambda *pose: Controller.pose(controller, *pose)
        how = {"clock": lambda: self.now, "say": self.said.append} | options
        self.robot = JointRobot(controller, self.limiter, flange_position, self.sent.append, **how)

    def joints(self, stamp, names=JOINTS, q=HOME, dq=(0.0,) * 7):
        self.robot.hear_joints(message(stamp, name=names, position=q, velocity=dq))

    def goal(self, *place, frame="base_link"):
        self.robot.hear_goal(message(frame=frame, point=point_at(place)))

    def age(self):
        return self.now - self.robot.read()[0]


def test_joints_are_told_by_name_and_the_flange_follows_from_them():
    desk, order = Desk(), [3, 0, 6, 1, 5, 2, 4]
    q = np.array(HOME) + 0.1 * np.arange(7)
    names = ["finger", *(JOINTS[i] for i in order)]
    desk.joints(7.0, names, [0.04, *q[order]], [0.0, *np.arange(7.0)[order]])
    _, reading = desk.robot.read()
    np.testing.assert_allclose(reading, [*q, *range(7), *flange_position(q)], atol=1e-6)


def test_messages_that_come_late_twice_or_out_of_order_count_as_what_they_are():
    desk = Desk()
    for step in range(5):
        desk.now = 100 + step * DT
        desk.joints(7 + step * DT)
    assert desk.age() == pytest.approx(0, abs=1e-6)
    desk.now += 0.2  # the next one was on its way all that time, but for a period
    desk.joints(7 + 5 * DT)
    assert desk.age() == pytest.approx(0.2 - DT, abs=1e-3)
    for stamp in (7 + 4 * DT, 7 + 5 * DT, 0.0):
        desk.now += 0.1
        desk.joints(stamp, q=np.zeros(7))
        assert (desk.robot.read()[1][:7] == np.float32(HOME)).all()
    assert desk.age() == pytest.approx(0.5 - DT, abs=1e-3)
    desk.now += 2
    with pytest.raises(ConnectionError, match="no news of the joints for 2 s"):
        desk.robot.read()


def test_clocks_may_drift_for_hours():
    desk = Desk()
    for hour in range(1, 8):
        desk.now = 100 + hour * 3600 * (1 + 5e-5)
        desk.joints(7 + hour * 3600)
    assert desk.age() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"names": JOINTS[:-1], "q": HOME[:-1]}, "no position of fr3_joint7 among fr3_joint1,"),
        ({"names": (), "q": ()}, "among none"),
        ({"q": HOME[:3]}, "no position of fr3_joint4, fr3_joint5"),
        ({"dq": ()}, "no velocities"),
        ({"stamp": 0.0}, "no header.stamp"),
    ],
)
def test_a_message_that_lacks_something_is_passed_over_by_name(said, why):
    desk = Desk()
    desk.joints(**({"stamp": 7.0} | said))
    assert desk.robot.newest is None
    desk.robot.pause = lambda: setattr(desk, "now", desk.now + 1)
    with pytest.raises(ConnectionError, match=why):
        desk.robot.wait("/joint_states", "/commands", lambda: 1)
    desk.joints(8.0)
    with pytest.raises(ConnectionError, match="no controller listens to /commands"):
        desk.robot.wait("/joint_states", "/commands", lambda: 0)


def test_goals_in_another_frame_far_ones_and_no_numbers_leave_the_goal_as_it_is():
    desk = Desk()
    desk.goal(*PLACE)
    kept = desk.robot.goal
    desk.goal(*PLACE)
    desk.goal(0.4, 0.1, 0.6, frame="camera")
    desk.goal(0.4, 0.1, float("nan"))
    desk.goal(0.4, 0.1, 3.0)
    assert desk.robot.goal is kept
    assert [text.partition(":")[0] for text in desk.said] == ["goal passed over"] * 3
    far_desk = Desk(far=True)
    far_desk.goal(0.4, 0.1, 3.0)
    far_desk.goal(0.4, 0.1, float("inf"))
    np.testing.assert_allclose(far_desk.robot.goal, [0.4, 0.1, 3.0])


def test_a_pose_is_heard_as_a_point_and_a_quaternion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.urdf").write_text(URDF)
    task = make_task(task_of_arm("two.urdf", None, lambda _: None, "pose"))
    spec, data = task.spec.for_robot(), mujoco.MjData(task.model("mujoco"))
    desk = Desk(spec)
    data.qpos[:] = task.description.home
    mujoco.mj_kinematics(task.model("mujoco"), data)
    w, x, y, z = data.body("flange").xquat

    def hear(**turn):
        place = SimpleNamespace(**dict(zip("xyz", data.body("flange").xpos, strict=True)))
        pose = SimpleNamespace(position=place, orientation=SimpleNamespace(**turn))
        desk.robot.hear_goal(SimpleNamespace(header=SimpleNamespace(frame_id="base_link"), pose=pose))

    for nothing in (0.0, np.nan, np.inf):  # zeros are in a message that nobody filled in
        hear(w=nothing, x=0.0, y=0.0, z=0.0)
        assert desk.robot.goal is None and "goal passed over" in desk.said.pop()
    hear(w=w, x=x, y=y, z=z)
    np.testing.assert_allclose(desk.robot.goal, task.tip(data.qpos), atol=1e-6)
    hear(w=1.0, x=0.0, y=0.0, z=0.0)  # whose entries are as large as any can be
    assert not desk.said


def test_at_the_end_joints_come_to_rest_within_their_acceleration(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    desk = Desk()
    desk.robot.stop()
    assert desk.sent == []  # a robot that was not moved is not told to stop
    reading = np.array([*HOME, *np.zeros(7), *flange_position(np.array(HOME))], np.float32)
    for _ in range(20):
        desk.robot.write(desk.limiter(np.ones(7, np.float32), reading))
    moving = len(desk.sent)
    desk.robot.stop()
    steps = np.abs(np.diff(desk.sent, axis=0)[moving - 1 :])
    assert desk.sent[-1] == [0.0] * 7 and np.abs(desk.sent[moving - 1]).max() > 0.5
    assert steps.max() <= 0.5 * 10 * RECORD["control_dt"] + 1e-9


def test_tasks_that_joints_and_points_do_not_tell_are_refused_by_name():
    assert unsupported(RECORD) == unsupported(make_task("fr3_reach_sensed").spec.for_robot()) == ""
    torque = RECORD | {"action": RECORD["action"] | {"kind": "joint_torque"}}
    assert "it commands joint_torque" in unsupported(torque)
    assert "it reads flange_pose, cube_position;" in unsupported(make_task("fr3_push_easy").spec.for_robot())


class Node:
    """Stands in for rclpy: a node whose messages come from a thread, and end near the goal."""

    def __init__(self, monkeypatch):
        self.sent, self.heard, self.q, self.now = [], {}, np.array(HOME), None
        frames = SimpleNamespace(lookup_transform=self.lookup, can_transform=lambda *_: self.now is not None)
        known = {
            "rclpy": {"create_node": lambda name: self, "spin": self.spin},
            "tf2_ros": {"Buffer": lambda: frames},
            "std_msgs.msg": {"Float64MultiArray": SimpleNamespace},
        }
        packages = [
            f"{name}{part}" for name in ("std_msgs", "geometry_msgs", "sensor_msgs") for part in ("", ".msg")
        ]
        for name in ("rclpy", "rclpy.qos", "rclpy.signals", "rclpy.time", "tf2_ros", *packages):
            monkeypatch.setitem(sys.modules, name, MagicMock(**known.get(name, {})))

    def spin(self, node):
        for _ in range(500):
            if np.linalg.norm(flange_position(self.q) - PLACE) < 0.1:
                return
            self.now, velocity = time.monotonic(), self.sent[-1] if self.sent else [0.0] * 7
            self.q = self.q + DT * np.array(velocity)
            self.heard["joint_states"](message(self.now, name=JOINTS, position=self.q, velocity=velocity))
            self.heard["goal"](message(point=point_at(PLACE)))
            time.sleep(DT)

    def lookup(self, base, tip, when):
        return message(self.now, transform=SimpleNamespace(translation=point_at(flange_position(self.q))))

    def declare_parameter(self, name, default):
        return SimpleNamespace(value=default)

    def get_logger(self):
        return MagicMock()

    def create_publisher(self, kind, topic, depth):
        assert topic == "/fr3_reach_velocity/commands"
        return MagicMock(publish=lambda told: self.sent.append(told.data), get_subscription_count=lambda: 1)

    def create_subscription(self, kind, topic, heard, quality):
        self.heard[topic] = heard


def test_the_bundles_own_node_drives_an_arm_and_stops_it(bundle, monkeypatch):
    node = Node(monkeypatch)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit, match="no news of the joints for 2 s"):
        runpy.run_path(str(bundle / "deploy" / "ros2" / "node.py"), run_name="__main__")
    sys.modules.pop("controller")
    assert np.linalg.norm(flange_position(node.q) - PLACE) < 0.1
    assert node.sent[-1] == [0.0] * 7


# On the wire


@pytest.fixture
def loopback(monkeypatch):
    pytest.importorskip("cyclonedds", reason="pip install 'fathom-rl[ros2]'")
    domain = 100 + os.getpid() % 100
    monkeypatch.setenv("CYCLONEDDS_URI", LOOPBACK)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    return domain


@pytest.fixture
def peer(loopback):
    with ExitStack() as started:

        def start(**options):
            options = {"domain": loopback, "names": JOINTS, "q": HOME} | options
            words = [sys.executable, Path(__file__).with_name("ros2_peer.py"), json.dumps(options)]
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
            pipe = subprocess.PIPE
            process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment)
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


def control(bundle, *words):
    words = ["control", bundle, "--task", f"{bundle.parent / 'quick.py'}:Quick", "--robot", "ros2", *words]
    return CliRunner().invoke(app, list(map(str, words)))


def test_messages_are_plain_cdr_under_the_names_of_ros_2(loopback):
    from pipelines.robot.messages import Header, JointState, Time

    told = JointState(Header(Time(1, 2), "base"), ["a", "bb"], [0.5, -2.0], [], [3.0])
    # Four bytes of encapsulation; strings end with a zero; doubles begin at multiples of eight.
    text = struct.pack("<iII5s3x", 1, 2, 5, b"base\0") + struct.pack("<II2s2xI3s", 2, 2, b"a\0", 3, b"bb\0")
    text = text.ljust(40, b"\0") + struct.pack("<I4x2dII", 2, 0.5, -2.0, 0, 1)
    assert told.serialize()[4:][: len(text)] == text
    assert told.serialize()[:2] == b"\0\1"
    assert JointState.__idl__.idl_transformed_typename == "sensor_msgs::msg::dds_::JointState_"


@pytest.mark.alone
def test_an_arm_reaches_a_goal_though_messages_are_lost_late_doubled_or_of_other_joints(
    bundle, peer, tmp_path
):
    arm = peer(goal=PLACE, faults=["lost", "late", "twice", "missing"])
    done = control(bundle, "--seconds", 4, "--log", tmp_path / "steps.npz", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["goals"], found["reached"], found["steps"]) == (1, 1, 4 / DT)
    assert 0 < found["held"] < found["steps"] / 2
    assert found["slowed_by_separation"] == 0 < found["least_separation_m"]
    q = json.loads(arm.communicate(timeout=10)[0])
    assert np.linalg.norm(flange_position(np.array(q)) - PLACE) < 0.05
    with np.load(tmp_path / "steps.npz") as steps:
        change = np.abs(np.diff(steps["command"], axis=0)).max()
    assert change <= 0.5 * 10 * DT + 1e-9  # holds and what follows them too


@pytest.mark.alone
def test_a_joint_that_is_no_number_stops_the_robot_by_name(bundle, peer):
    peer(faults=["nan"])
    done = control(bundle, "--goals", 1)
    assert done.exit_code == 1
    assert "joint_position.fr3_joint1 = nan" in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--remap states:=/a", "--remap states:=/a, allowed: NAME:=TOPIC, with NAME one of joint_states"),
        ("--remap goal:=a//b", "--remap goal:=a//b, allowed"),
        ("--host 10.0.0.1 --tool 0,0,0.1", "--host, --tool: not with --robot ros2"),
        ("--goals 0.1,0.2,3.0", "z = 3 m, trained in"),
        ("--log steps.csv", "allowed: a file that ends in .npz"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_starts(bundle, loopback, words, why):
    done = control(bundle, *words.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr


def test_without_its_package_the_command_says_what_to_install(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclonedds.core", None)
    monkeypatch.delitem(sys.modules, "pipelines.robot.ros2", raising=False)
    monkeypatch.delattr(pipelines.robot, "ros2", raising=False)
    done = control(bundle)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--robot ros2 needs cyclonedds: pip install 'fathom-rl[ros2]'" in done.stderr


@pytest.mark.alone
def test_an_arm_that_died_is_commanded_by_the_policy_for_two_more_periods(
    bundle, peer, tmp_path, monkeypatch
):
    arm, log, write, sent = peer(), tmp_path / "steps.npz", JointRobot.write, []

    def counted(robot, command):
        write(robot, command)
        sent.append(command)
        if len(sent) == 30:
            arm.kill()

    monkeypatch.setattr(JointRobot, "write", counted)
    done = control(bundle, "--goals", "0.4,0.1,0.5", "--seconds", 60, "--log", log)
    assert done.exit_code == 1
    assert done.stderr.endswith("no news of the joints for 2 s: the robot was stopped\n")
    with np.load(log) as steps:
        assert not steps["held"][29] and steps["held"][33:].all()
        assert np.abs(steps["command"][29]).max() > 0.1 and not steps["command"][-1].any()
