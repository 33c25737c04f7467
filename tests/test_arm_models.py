"""Any arm from its model file: MuJoCo's kinematics, ranges in which nothing touches, clear refusals."""

import re
import tomllib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from export.controller import CommandLimiter, Controller, ControllerError
from pipelines import stages
from pipelines.catalogue import model_file, task_of_arm
from pipelines.cli import app
from pipelines.config import preset, with_values
from pipelines.render import record
from pipelines.robot.separation import separation_of
from pipelines.rundir import Run
from student.labels import draw_goals_beyond
from student.robustness import goals_beyond
from teacher.errors import UsageError
from teacher.evaluate import episode_metrics
from teacher.rollout import Trajectories, simulation
from teacher.tasks import State, goal_distance, make_task, task_files
from teacher.tasks.arm import arm_task, as_toml, describe
from teacher.tasks.chain import Chain
from teacher.tasks.plausibility import doubts

MOTORS = "".join(f'<motor joint="{j}" gear="2" ctrllimited="true" ctrlrange="-40 40"/>' for j in "abcd")
# A shoulder that turns and leans, an elbow that folds back onto the upper arm, a hand that slides.
ARM = f"""<mujoco model="Bench Arm">
  <compiler angle="radian" autolimits="true"/>
  <worldbody>
    <geom type="plane" size="2 2 .1"/>
    <body name="base" pos="0.1 0 0.1"><geom type="cylinder" size=".06 .06"/>
      <body name="shoulder" pos="0 0 .1" quat="0.96 0.1 0.2 0.1">
        <joint name="a" axis="0 0 1" range="-3 3"/><geom size=".03" mass="1"/>
        <body name="upper" pos="0 0 .05">
          <joint name="b" axis="0.1 1 0" pos="0 0 .02" range="-1.5 1.5" ref="0.3"/>
          <geom type="capsule" fromto="0 0 .08 0 0 .3" size=".04" mass="1"/>
          <body name="fore" pos="0 0 .36">
            <joint name="c" axis="0 1 0" range="-3.1 3.1"/>
            <geom type="capsule" fromto="0 0 .05 0 0 .3" size=".04" mass="1"/>
            <body name="hand" pos="0 0 .32"><joint name="d" type="slide" axis="0 0 1" range="0 .1"/>
              <geom size=".03" mass=".2"/><site name="tool" pos="0.02 0 .05"/>
              <body name="finger"><joint name="f" axis="1 0 0"/>
                <geom size=".01" mass=".01" contype="0"/></body>
            </body>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>{MOTORS}</actuator>
</mujoco>"""
URDF = """<robot name="two"><link name="world_link"/><link name="one"><inertial><mass value="1"/>
  <inertia ixx=".1" iyy=".1" izz=".1" ixy="0" ixz="0" iyz="0"/></inertial></link><link name="two"><inertial>
  <mass value="1"/><inertia ixx=".1" iyy=".1" izz=".1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <link name="flange"/>
  <joint name="p" type="revolute"><parent link="world_link"/><child link="one"/><axis xyz="0 0 1"/>
    <limit lower="-2" upper="2" velocity="0.4" effort="20"/></joint>
  <joint name="q" type="revolute"><parent link="one"/><child link="two"/><origin xyz=".4 0 0"/>
    <axis xyz="0 1 0"/>    <limit lower="-2" upper="2" velocity="3" effort="20"/></joint>
  <joint name="end" type="fixed"><parent link="two"/><child link="flange"/><origin xyz=".3 0 0"/></joint>
</robot>"""


@pytest.fixture
def arm(tmp_path, monkeypatch):
    """Writes a model, in the folder in which commands run."""
    monkeypatch.chdir(tmp_path)

    def write(text=ARM, name="arm.xml"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """What is decided of ARM, and as the lines of its file."""
    file = tmp_path_factory.mktemp("decided") / "arm.xml"
    file.write_text(ARM)
    found = describe(file)
    return found, as_toml(found, file.parent).splitlines()


@pytest.fixture
def bench(arm, decided, tmp_path):
    """Writes bench_arm.toml beside its model, with other values of these fields."""
    arm()

    def write(**values):
        lines = [line for line in decided[1] if line.partition(" =")[0] not in values]
        file = tmp_path / "bench_arm.toml"
        file.write_text("\n".join([*lines, *(f"{field} = {value}" for field, value in values.items())]))
        return file

    return write


def tool(model, pose):
    """Where MuJoCo has the arm's tool in a pose: its position and its rotation matrix."""
    data = mujoco.MjData(model)
    data.qpos[:4] = pose
    mujoco.mj_kinematics(model, data)
    return data.site("tool").xpos, data.site("tool").xmat.reshape(3, 3)


def test_kinematics_are_mujocos(arm):
    model = mujoco.MjModel.from_xml_path(str(arm()))
    chain, poses = Chain(model, "tool"), np.random.default_rng(0).uniform(-1, 1, (20, 4))
    expected = [tool(model, pose)[0] for pose in poses]
    np.testing.assert_allclose(chain.tip(poses), expected, atol=1e-12)
    np.testing.assert_allclose(chain.tip(jnp.array(poses, jnp.float32)), expected, atol=1e-6)


def test_in_the_range_that_is_decided_nothing_touches_and_goals_can_be_met(decided):
    found = decided[0]
    assert (found.joints, found.tip) == (("a", "b", "c", "d"), "tool")
    model = mujoco.MjModel.from_xml_string(ARM)
    data, random = mujoco.MjData(model), np.random.default_rng(7)

    def touching(low, high):
        count = 0
        for data.qpos[:4] in random.uniform(low, high, (1000, 4)):
            mujoco.mj_forward(model, data)
            count += bool((data.contact.dist < 0).any())
        return count

    assert touching(*model.jnt_range[:4].T) > 100
    assert touching(found.lower, found.upper) <= 2
    low, high = model.jnt_range[:4].T
    assert (np.array(found.lower) >= low - 1e-9).all() and (np.array(found.upper) <= high + 1e-9).all()
    assert found.goal_low[2] >= 0.1 - 1e-9  # not below its base
    assert (np.subtract(found.goal_high, found.goal_low) > 0.2).all()


def test_its_servos_follow_velocities_under_gravity_with_the_motors_forces(bench):
    task = make_task(str(bench()))
    assert doubts(task) == []
    model = task.model("mujoco")
    assert model.nq == 4  # the finger is fixed
    np.testing.assert_array_equal(model.actuator_forcerange, [[-80, 80]] * 4)
    data = mujoco.MjData(model)
    data.qpos[:] = task.spec.joints.default
    data.ctrl[:] = command = np.array([0.5, -0.3, 0.4, 0.01])
    mujoco.mj_step(model, data, 20)
    np.testing.assert_allclose(data.qvel, command, atol=0.02)
    data.ctrl[:] = 0
    mujoco.mj_step(model, data, 20)
    before = data.qpos.copy()
    mujoco.mj_step(model, data, 200)
    np.testing.assert_allclose(data.qpos, before, atol=1e-3)  # it carries its weight


def test_a_description_can_be_edited_and_is_taken_as_it_stands(arm, tmp_path):
    file, said = arm(), []
    assert task_of_arm(str(file), None, said.append) == "bench_arm.toml"
    assert "tool" in "".join(said)
    written = tmp_path / "bench_arm.toml"
    described = tomllib.loads(written.read_text())
    assert described["model"] == "arm.xml"
    written.write_text(written.read_text().replace(f"radius = {described['radius']}", "radius = 0.033"))
    task = make_task(task_of_arm(str(file), None, said.append))
    assert task.spec.goal.success_radius == pytest.approx(0.033)
    assert set(task_files(str(written))) == {"bench_arm.toml", "arm.xml"}
    with pytest.raises(UsageError, match="of another arm or tip"):
        task_of_arm(str(file), "hand", said.append)


def test_poses_are_as_far_apart_as_they_are_and_turn(bench):
    task = make_task(str(bench(goal='"pose"', angle=0.3)))
    goal, model = task.spec.goal, task.model("mujoco")
    # A turn by the angle alone, and the radius alone, are at the edge of success.
    assert 2 * goal.lever * np.sin(0.3 / 2) == pytest.approx(goal.success_radius)
    one, other = np.random.default_rng(0).uniform(-1, 1, (2, 50, 4))
    tools = [[tool(model, pose) for pose in poses] for poses in (one, other)]
    places = [np.array([place for place, _ in found]) for found in tools]
    turns = [Rotation.from_matrix([turn for _, turn in found]) for found in tools]
    angle = (turns[0].inv() * turns[1]).magnitude()
    expected = ((places[0] - places[1]) ** 2).sum(-1) + (2 * goal.lever * np.sin(angle / 2)) ** 2
    observed = [task.observe(State(poses, 0 * poses, 0 * poses)) for poses in (one, other)]
    np.testing.assert_allclose(
        goal_distance(task.spec, observed[0], task.tip(other)) ** 2, expected, atol=1e-9
    )
    ended = Trajectories(np.stack([one] * 2), np.stack([observed[0]] * 2), None, np.ones((1, 50), bool))
    (drawn,) = record(task, ended, task.tip(other), 1).episodes
    of_goal, reached, _ = drawn.turns
    np.testing.assert_allclose(reached, turns[0].as_matrix()[0], atol=1e-9)
    np.testing.assert_allclose(of_goal, turns[1].as_matrix()[0], atol=1e-9)
    np.testing.assert_allclose(
        episode_metrics(task.spec, ended, task.tip(other)).final_angle, angle, atol=1e-6
    )


def test_goals_of_poses_are_poses(bench):
    name = str(bench(goal='"pose"', angle=0.3))
    task = make_task(name)
    goal = task.spec.goal
    starts = simulation(name, "mujoco").starts(jax.random.key(0), 64, "all")
    beyond = goals_beyond(task.spec, starts.goal)
    drawn = draw_goals_beyond(jax.random.key(1), task.spec, jnp.asarray(starts.goal)[None])[0]
    for each in (starts.goal, beyond, np.asarray(drawn)):
        matrix = each[:, 3:].reshape(-1, 3, 3) * 2**0.5 / goal.lever
        np.testing.assert_allclose(matrix @ matrix.mT, np.broadcast_to(np.eye(3), matrix.shape), atol=1e-5)
        np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-5)
    for outside in (beyond, np.asarray(drawn)):
        assert ((outside < np.float32(goal.low)) | (outside > np.float32(goal.high)))[:, :3].any(1).all()
    assert not doubts(task)


def test_goals_may_be_positions_of_joints(arm):
    arm(URDF, "two.urdf")
    task = make_task(task_of_arm("two.urdf", None, lambda _: None, "joints"))
    spec, name = task.spec, "two_joints.toml"
    starts = simulation(name, "mujoco").starts(jax.random.key(0), 16, "all")
    pose = np.array([0.3, -0.5])
    observed = task.observe(State(pose, 0 * pose, 0 * pose))
    assert (spec.goal.entries, spec.goal.unit, starts.goal.shape) == (("p", "q"), "rad", (16, 2))
    np.testing.assert_allclose(goal_distance(spec, observed, pose + np.array([0.03, 0.04])), 0.05, atol=1e-12)
    np.testing.assert_allclose(task.marker(pose), Chain(task.model("mujoco"), "flange").tip(pose), atol=1e-12)
    assert not doubts(task)
    with pytest.raises(UsageError, match="no unit in common"):
        make_task(task_of_arm(str(arm()), None, lambda _: None, "joints"))


def test_the_robot_says_a_pose_as_a_point_and_a_quaternion(bench):
    task = make_task(str(bench(goal='"pose"', angle=0.3)))
    pose = np.array([0.3, -0.2, 0.7, 0.05])
    place, turn = tool(task.model("mujoco"), pose)
    quaternion = Rotation.from_matrix(turn).as_quat(scalar_first=True)
    robot = SimpleNamespace(spec=task.spec.for_robot())
    for length in (1, -3):  # both name the same turn
        found = Controller.pose(robot, place, length * quaternion)
        np.testing.assert_allclose(found, task.tip(pose), atol=1e-6)
    for wrong in ([0, 0, 0, 0], [1, 0, 0], [np.nan, 0, 0, 1]):
        with pytest.raises(ControllerError, match="3 and 4 numbers"):
            Controller.pose(robot, [0, 0, 1], wrong)
    with pytest.raises(ControllerError, match="not to poses"):
        Controller.pose(SimpleNamespace(spec=make_task("reacher").spec.for_robot()), [0, 0, 1], [1, 0, 0, 0])


def test_the_robot_says_a_planar_pose_as_a_point_and_an_angle():
    task, stands = make_task("wheel_park"), np.array([1.0, 0.5, 2.0])
    robot = SimpleNamespace(spec=task.spec.for_robot())
    seen = task.observe(State(stands, 0 * stands, 0 * stands))
    for yaw in (2.0, 2.0 - 2 * np.pi):
        goal = Controller.pose(robot, stands[:2], yaw)
        assert goal_distance(task.spec, seen, goal) == pytest.approx(0, abs=1e-6)
    for wrong in (([1, 0.5, 0], 2), ([1, 0.5], [1, 0, 0, 0]), ([1, 0.5], np.nan)):
        with pytest.raises(ControllerError, match="2 numbers and an angle"):
            Controller.pose(robot, *wrong)


def test_a_range_in_which_the_arm_touches_itself_is_warned_of(bench, caplog):
    arm_task(bench())
    assert not caplog.records
    arm_task(bench(home=[0, 0.3, 0, 0.05], lower=[-3, -1.5, -3.1, 0], upper=[3, 1.5, 3.1, 0.1]))
    assert re.search(r"bench_arm.toml: in \d\d % of its range the arm touches itself", caplog.text)


def test_a_wrong_setting_or_a_broken_file_writes_nothing(arm, tmp_path):
    file = arm()
    done = CliRunner().invoke(app, ["run", "--arm", str(file), "--set", "network.depth=5"])
    assert done.exit_code == 2 and [each.name for each in tmp_path.iterdir()] == ["arm.xml"]
    (tmp_path / "bench_arm.toml").write_text("tip = ")
    done = CliRunner().invoke(app, ["run", "--arm", str(file)])
    assert done.exit_code == 2 and "bench_arm.toml" in done.stderr
    assert (tmp_path / "bench_arm.toml").read_text() == "tip = "


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("lower", "[-9, -1, -1, 0]", r"joint 'a': found \[-9, .* beyond the model's limits \[-3, 3\]"),
        ("joints", '["b", "a", "c", "d"]', "joints are b, a, c, d, but on the way to the tip a, b, c, d"),
        ("home", "[0, 0]", "home: 2 entries, allowed: 4"),
        ("radius", "0", "radius: .* greater than 0"),
        ("tip", '"tol"', "unknown site or body 'tol'; did you mean 'tool'"),
        ("model", '"other.xml"', "there is no model"),
        ("speed", "1", "speed: Extra inputs"),
        ("goal", '"line"', "goal: Input should be 'point', 'pose' or 'joints'"),
        ("goal_low", "[0, 0, 0, 0]", "goal_low: 4 entries, allowed: 3"),
    ],
)
def test_a_wrong_description_is_refused_by_the_field(bench, field, value, told):
    with pytest.raises(UsageError, match=told):
        arm_task(bench(**{field: value}))


LOOP = '<equality><connect body1="hand" body2="base" anchor="0 0 0"/></equality>'
ARMS = """<mujoco><worldbody>
  <body name="l"><joint name="x" axis="0 0 1"/><geom size=".1"/></body>
  <body name="r"><joint name="y" axis="0 0 1"/><geom size=".1"/></body></worldbody>
  <actuator><motor joint="x"/><motor joint="y"/></actuator></mujoco>"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ARM.replace(MOTORS, ""), "no joint has an actuator"),
        (ARM.replace('size=".06 .06"/>', 'size=".06 .06"/><freejoint/>'), "is free, or a ball"),
        (ARM.replace("</worldbody>", f"</worldbody>{LOOP}"), "a closed loop of links"),
        (ARM.replace(' range="0 .1"', ""), "joint 'd' slides without limits"),
        (ARM.replace('size=".03" mass=".2"', 'type="mesh" mesh="m"'), "MuJoCo cannot (read|compile) it"),
        (
            ARM.replace('<motor joint="b"', '<motor joint="f"', 1),
            "joint 'b', on the way to .*, has no actuator",
        ),
        (ARMS, "several arms: say which tip with --tip, one of l, r"),
        ("<mujoco", "MuJoCo cannot read it"),
    ],
)
def test_what_is_no_arm_is_refused_in_one_sentence_before_anything_starts(arm, tmp_path, text, told):
    file = arm(text)
    with pytest.raises(UsageError, match=told) as refusal:
        task_of_arm(str(file), None, lambda line: None)
    assert str(file) in str(refusal.value)
    assert [each.name for each in tmp_path.iterdir()] == ["arm.xml"]


def test_a_run_keeps_its_arm(bench, tmp_path):
    settings = with_values(preset("debug"), [f"task.name={bench()}"])
    stages.new_run(tmp_path / "run", settings, "debug")
    kept = {each.name for each in (tmp_path / "run" / "task").iterdir()}
    assert {"bench_arm.toml", "arm.xml"} <= kept
    (tmp_path / "arm.xml").unlink()
    with pytest.raises(UsageError, match="there is no model"):
        arm_task(tmp_path / "bench_arm.toml")
    assert make_task(Run(tmp_path / "run").kept_task()).spec.name == "bench_arm_reach"


def test_a_joint_without_limits_turns_about_home(arm):
    found = describe(arm(ARM.replace('axis="0 0 1" range="-3 3"', 'axis="0 0 1"')))
    assert 0 < found.upper[0] - found.lower[0] <= 2.0


def test_a_urdfs_fixed_links_and_velocity_limits_are_kept_and_nothing_looks_like_a_slip(arm):
    task = make_task(task_of_arm(str(arm(URDF, "two.urdf")), None, lambda line: None))
    found = task.description
    assert (found.tip, found.joints, found.velocity) == ("flange", ("p", "q"), (0.4, 1.0))
    assert doubts(task) == []


def test_arms_of_the_menagerie_go_by_name(arm, tmp_path, monkeypatch):
    pytest.importorskip("mujoco_menagerie")
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    folder = tmp_path / "universal_robots_ur5e"
    folder.mkdir()
    (folder / "ur5e.xml").write_text(ARM)
    assert model_file("menagerie:universal_robots_ur5e") == folder / "ur5e.xml"
    with pytest.raises(UsageError, match="did you mean 'universal_robots_ur5e'"):
        model_file("menagerie:universal_robots_ur5")


@pytest.mark.parametrize(("lean", "other"), [(0.0, "shoulder"), (1.4, "world")])
def test_an_arm_keeps_from_itself_and_the_floor_where_its_range_does_not(bench, lean, other):
    limits = {"lower": [-3.0, -1.5, -3.1, 0.0], "upper": [3.0, 1.5, 3.1, 0.1], "home": [0.0, lean, 0.0, 0.05]}
    task = arm_task(bench(**limits))
    spec, model = task.spec.for_robot(), mujoco.MjModel.from_xml_path(str(task.file))
    data = mujoco.MjData(model)
    pair = [model.body(name).geomadr[0] for name in (other, "hand")]

    def folded(share):
        """Distances while the elbow folds, and later unfolds."""
        limiter, q, found = CommandLimiter(spec, share=share), np.array(task.description.home), []
        limiter.start()
        for step in range(200):
            reading = np.concatenate([q, np.zeros(4), task.tip(q)]).astype(np.float32)
            action = np.array([0.0, 0.0, 1.0 if step < 100 else -1.0, 0.0])
            q = q + spec["control_dt"] * limiter(action, reading)
            data.qpos[:4] = q
            mujoco.mj_kinematics(model, data)
            found.append(mujoco.mj_geomDistance(model, data, *pair, 1.0, None))
        return found

    share = separation_of(task, spec, print)
    kept = folded(share)
    assert min(folded(None)) < 0 < 0.0099 < min(kept) < 0.03 < kept[-1]
    assert share.figures()["nearest_links"] == [other, "hand"]


def test_an_arm_of_which_no_shapes_collide_is_said_not_to_be_kept_apart(arm, bench):
    task, told = arm_task(bench()), []
    arm(ARM.replace("<geom ", '<geom conaffinity="0" '))
    assert separation_of(task, task.spec.for_robot(), told.append) is None
    assert "links are not kept apart" in told[-1]
