"""Files for controllers that exist, each carried through that controller's own arithmetic to targets."""

import json
from collections import deque
from functools import partial

import numpy as np
import onnx
import pytest
import yaml
from bundles import untrained

from export.controller import open_session
from export.graph import flat_policy_graph, policy_graph
from export.targets import MOTORS, require_targets, target_files
from student.config import Size
from student.networks import act
from teacher.errors import UsageError
from teacher.tasks import make_task

QUAD = make_task("quad_reach").spec
GO2 = [f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")]
# As another simulator orders them: by part, the left legs first.
BY_PART = [f"{leg}_{part}_joint" for part in ("hip", "thigh", "calf") for leg in ("FL", "FR", "RL", "RR")]


def changed(spec, **parts):
    """The specification with some fields of these parts changed."""
    found = {name: getattr(spec, name).model_copy(update=update) for name, update in parts.items()}
    return spec.model_copy(update=found)


def with_joints(spec, names, action, joints):
    """The same with other names of joints in each term of a reading."""
    terms = [
        t.model_copy(update={"entries": names} if t.frame == "joint" else {}) for t in spec.deployed.reading
    ]
    return changed(spec, action=action, joints=joints, deployed={"reading": tuple(terms)})


def in_order(spec, joints):
    """The task with its joints in another order everywhere."""
    places = [spec.joints.names.index(joint) for joint in joints]

    def by_joint(part, fields):
        found = ((field, getattr(part, field)) for field in fields.split())
        return {field: tuple(values[i] for i in places) for field, values in found if values}

    action = by_joint(spec.action, "joints scale offset stiffness damping")
    return with_joints(
        spec, tuple(joints), action, by_joint(spec.joints, "names default lower upper velocity")
    )


def without_history(spec):
    return changed(spec, deployed={"history": 1})


def with_absolute_positions(spec):
    reading = (
        t.model_copy(update={"name": t.name.removesuffix("_from_default")}) for t in spec.deployed.reading
    )
    return changed(spec, deployed={"reading": tuple(reading)})


# One stiffness and one scale for each joint, so that no two can be taken for one another.
OF_EACH = {"stiffness": (20.0, 1.0), "damping": (0.5, 0.1), "scale": (0.2, 0.02)}
SPEC = changed(QUAD, action={k: tuple(a + b * i for i in range(12)) for k, (a, b) in OF_EACH.items()})
TASKS = {
    "by part": in_order(SPEC, BY_PART),
    "one reading": without_history(in_order(SPEC, BY_PART)),
    "absolute positions": with_absolute_positions(without_history(SPEC)),
}


class Made:
    """A policy of a task, its recorded answers and its files."""

    def __init__(self, spec, names):
        student = untrained(Size(width=16, layers=2, activation="swish"), spec.sensed_sizes)
        draw = np.random.default_rng(2)
        observation, _, goal = spec.sensed_sizes
        obs, goals = (draw.uniform(-1, 1, (16, size)).astype(np.float32) for size in (observation, goal))
        self.spec, policy = spec, partial(act, student)
        self.golden = {"obs": obs, "goal": goals, "actions": np.asarray(policy(obs, goals))}
        graphs = {"policy": policy_graph(policy, spec), "policy_flat": flat_policy_graph(policy, spec)}
        self.files = target_files(names, spec, graphs, self.golden)
        self.gains = dict(zip(spec.action.joints, spec.action.stiffness, strict=True))

    def rows(self):
        """The robot's states at each reading of a recorded observation, oldest first, by what was measured;
        the goal; and where our own controller sends each joint, rad."""
        action, deployed = self.spec.action, self.spec.deployed
        home = dict(zip(self.spec.joints.names, self.spec.joints.default, strict=True))
        for obs, goal, answer in zip(*self.golden.values(), strict=True):
            states = []
            for values in obs.reshape(deployed.history, -1)[::-1]:
                state = {}
                for term in deployed.reading:
                    found = dict(zip(term.entries, values[term.start : term.stop], strict=True))
                    if term.name == "joint_position_from_default":
                        found = {joint: home[joint] + value for joint, value in found.items()}
                    state[term.name.removesuffix("_from_default")] = found
                states.append(state)
            targets = np.array(action.offset) + np.array(action.scale) * answer
            yield states, goal, dict(zip(action.joints, targets, strict=True))


@pytest.fixture(scope="module", params=TASKS)
def made(request):
    spec = TASKS[request.param]
    short = spec.deployed.history == 1
    return Made(spec, ["mjlab", "unitree", "c99", "c99:left", *(["holosoma"] if short else [])])


def test_policies_in_c_lie_side_by_side(made):
    files = {path.removeprefix("deploy/c99/") for path in made.files if path.startswith("deploy/c99/")}
    assert files == {"policy.c", "policy.h", "left.c", "left.h", "controller.hpp", "specification.hpp"}


def metadata(content):
    return {each.key: each.value for each in onnx.load_from_string(content).metadata_props}


def array(values, order=None):
    return np.array([values[key] for key in order or values], np.float32)


def require_same(found, expected):
    for joint, target in found.items():
        assert target == pytest.approx(expected[joint], abs=1e-5)
    assert found.keys() == expected.keys()


def test_unitree_runner_sends_our_targets_to_the_motors(made):
    """Its deploy folder: terms by name, each with its history, oldest first; then JointPositionAction."""
    side = yaml.safe_load(made.files["deploy/unitree/params/deploy.yaml"])
    session = open_session(made.files["deploy/unitree/exported/policy.onnx"])
    places, home = np.array(side["joint_ids_map"]), np.float32(side["default_joint_pos"])
    ranges = side["commands"]["base_velocity"]["ranges"]
    axes, term = ("lin_vel_x", "lin_vel_y", "ang_vel_z"), side["actions"]["JointPositionAction"]
    assert term["clip"] is None and all(each["clip"] is None for each in side["observations"].values())
    for states, goal, expected in made.rows():
        stick = [*goal, 0.7]  # a thumb on the turning stick, which the goal has no use for
        buffers = {name: deque(maxlen=each["history_length"]) for name, each in side["observations"].items()}
        for state in states:
            registered = {
                "base_ang_vel": array(state["base_angular_velocity"]),
                "projected_gravity": array(state["gravity_direction"]),
                "joint_pos_rel": array(state["joint_position"], GO2)[places] - home,
                "joint_vel_rel": array(state["joint_velocity"], GO2)[places],
                "last_action": array(state["last_action"]),
                "velocity_commands": [np.clip(v, *ranges[n]) for v, n in zip(stick, axes, strict=True)],
            }
            for name, each in side["observations"].items():
                buffers[name].append(np.array(registered[name]) * each["scale"])
        obs = np.concatenate([value for buffer in buffers.values() for value in buffer]).astype(np.float32)
        action = session.run(["actions"], {"obs": obs[None]})[0][0]
        processed = action * np.float32(term["scale"]) + np.float32(term["offset"])
        require_same({GO2[i]: value for i, value in zip(places, processed, strict=True)}, expected)
    assert side["stiffness"] == [made.gains[joint] for joint in GO2]
    assert side["step_dt"] == made.spec.control_dt


def test_mjlab_readers_come_to_our_targets(made):
    """Metadata split at commas: terms by name, flattened with their history, oldest first; scale, pose."""
    content = made.files["deploy/mjlab/policy.onnx"]
    said, session = metadata(content), open_session(content)
    found = {key: value.split(",") for key, value in said.items()}
    joints = found["joint_names"]
    home, scale = (np.array(found[key], float) for key in ("default_joint_pos", "action_scale"))
    lengths = [max(1, int(part)) for part in found["observation_terms_history_length"]]
    assert lengths == list(map(int, found["observation_history_lengths"]))
    assert set(found["observation_terms_scale"]) == {"1"}
    for states, goal, expected in made.rows():
        buffers = [deque(maxlen=length) for length in lengths]
        for state in states:
            terms = {
                "base_ang_vel": array(state["base_angular_velocity"]),
                "projected_gravity": array(state["gravity_direction"]),
                "joint_pos": array(state["joint_position"], joints) - home,
                "joint_vel": array(state["joint_velocity"], joints),
                "actions": array(state["last_action"], joints),
                "command": np.array([*goal, 0.3]),
            }
            for name, buffer in zip(found["observation_names"], buffers, strict=True):
                buffer.append(terms[name])
        obs = np.concatenate([value for buffer in buffers for value in buffer]).astype(np.float32)
        action = session.run(["actions"], {"obs": obs[None]})[0][0]
        require_same(dict(zip(joints, home + scale * action, strict=True)), expected)
    assert list(map(float, found["joint_stiffness"])) == [made.gains[joint] for joint in joints]
    assert " " not in "".join(said.values())


def test_holosoma_comes_to_our_targets_with_its_own_scale_and_pose(made):
    """Its base policy sorts terms, multiplies actions by policy_action_scale and adds its settings' pose."""
    if made.spec.deployed.history > 1:
        with pytest.raises(UsageError, match=r"profile holosoma: .*deployed\.history is 5, allowed: 1"):
            require_targets(["holosoma"], made.spec)
        return
    content = made.files["deploy/holosoma/policy.onnx"]
    settings = json.loads(made.files["deploy/holosoma/settings.json"])
    said, session = metadata(content), open_session(content)
    joints, home = settings["robot"]["dof_names"], np.array(settings["robot"]["default_dof_angles"])
    scale = settings["task"]["policy_action_scale"]
    assert scale == 0.25  # what its settings say if nobody changes them
    assert settings["task"]["rl_rate"] * made.spec.control_dt == 1
    assert dict(zip(joints, json.loads(said["kp"]), strict=True)) == made.gains
    for (state,), goal, expected in made.rows():
        before = array(state["last_action"], joints)  # of ours, which it never sees
        terms = {
            "base_ang_vel": array(state["base_angular_velocity"]),
            "projected_gravity": array(state["gravity_direction"]),
            "dof_pos": array(state["joint_position"], joints) - home,
            "dof_vel": array(state["joint_velocity"], joints),
            "actions": before * np.array(made.spec.action.scale) / scale,
            "command_lin_vel": goal,
        }
        scales = settings["observation"]["obs_scales"]
        names = sorted(settings["observation"]["obs_dict"]["actor_obs"])
        obs = np.concatenate([terms[name] * scales[name] for name in names]).astype(np.float32)
        action = np.clip(session.run(["action"], {"actor_obs": obs[None]})[0][0], -100, 100)
        require_same(dict(zip(joints, action * scale + home, strict=True)), expected)


def test_ros2_parameters_name_a_current_controller_and_the_commands_joints():
    spec = make_task("fr3_reach").spec
    files = target_files(["ros2"], spec, {}, {})
    parameters = yaml.safe_load(files["deploy/ros2/controllers.yaml"])
    mapping = json.loads(files["deploy/ros2/mapping.json"])
    ((name, kind),) = parameters["controller_manager"]["ros__parameters"].items()
    assert kind == {"type": "forward_command_controller/ForwardCommandController"}
    joints = list(spec.action.joints)
    assert parameters[name]["ros__parameters"] == {"joints": joints, "interface_name": "velocity"}
    command = mapping["command"]
    assert (command["topic"], command["joints"]) == (f"/{name}/commands", joints)
    assert (command["scale"], command["unit"]) == (list(spec.action.scale), "rad/s")
    messages = {term["name"]: term["message"] for term in mapping["reading"]}
    assert messages["joint_velocity"] == "sensor_msgs/msg/JointState.velocity"
    assert messages["flange_position"] is None  # nobody publishes it: computed from the joints
    with pytest.raises(UsageError, match=r"profile ros2: reacher: action\.kind is joint_torque"):
        require_targets(["ros2"], make_task("reacher").spec)


def with_term(**update):
    reading = QUAD.deployed.reading
    return changed(QUAD, deployed={"reading": (reading[0].model_copy(update=update), *reading[1:])})


@pytest.mark.parametrize("profile", ["mjlab", "holosoma", "unitree"])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (make_task("fr3_reach").spec, r"fr3_reach: action\.kind is joint_velocity"),
        (changed(QUAD, action={"stiffness": None}), r"states no action\.stiffness"),
        (changed(QUAD, action={"offset": (0.1,) * 12}), r"action\.offset"),
        (changed(QUAD, action={"joints": tuple(BY_PART)}), r"action\.offset|entries"),
        (with_term(name="trunk_tilt"), "has no term for trunk_tilt"),
        (with_term(name="joint_position"), "joint_position"),
        (with_term(frame="world"), "quad_reach: gravity_direction is in 1, world frame"),
        (with_term(entries=("z", "y", "x")), "entries z, y, x"),
    ],
)
def test_a_task_that_a_controller_would_read_wrongly_is_refused_by_field(profile, spec, message):
    if profile == "holosoma" and spec.deployed:
        spec = without_history(spec)
    with pytest.raises(UsageError, match=f"profile {profile}: .*({message})"):
        require_targets([profile], spec)


def test_motors_of_an_unknown_robot_are_not_guessed():
    names = tuple(f"m{i}" for i in range(12))
    spec = with_joints(in_order(QUAD, GO2), names, {"joints": names}, {"names": names})
    require_targets(["mjlab"], spec)
    with pytest.raises(UsageError, match=r"profile unitree: .*action\.joints are m0, .*Go2"):
        require_targets(["unitree"], spec)
    assert MOTORS["Go2"] == GO2


def test_an_unknown_profile_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'holosoma'"):
        require_targets(["holosma"], QUAD)
