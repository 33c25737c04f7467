"""Files for controllers that exist, each carried through that controller's own arithmetic to targets."""

import json
from collections import deque

import jax
import numpy as np
import onnx
import pytest
import yaml

from export.controller import open_session
from export.graph import flat_policy_graph, policy_graph
from export.targets import MOTORS, TARGETS, require_targets, target_files
from student.config import Size
from student.networks import act, init_student
from teacher.errors import UsageError
from teacher.tasks import make_task

QUAD = make_task("quad_reach").spec
GO2 = [f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")]
# As another simulator orders them: by part, the left legs first.
BY_PART = [f"{leg}_{part}_joint" for part in ("hip", "thigh", "calf") for leg in ("FL", "FR", "RL", "RR")]


def in_order(spec, joints):
    """The task with its joints in another order everywhere."""
    places = [spec.joints.names.index(joint) for joint in joints]

    def by_joint(part, *fields):
        return {
            field: tuple(getattr(part, field)[i] for i in places) for field in fields if getattr(part, field)
        }

    reading = tuple(
        term.model_copy(update={"entries": tuple(joints)}) if term.frame == "joint" else term
        for term in spec.deployed.reading
    )
    return spec.model_copy(
        update={
            "action": spec.action.model_copy(
                update=by_joint(spec.action, "joints", "scale", "offset", "stiffness", "damping")
            ),
            "joints": spec.joints.model_copy(
                update=by_joint(spec.joints, "names", "default", "lower", "upper", "velocity")
            ),
            "deployed": spec.deployed.model_copy(update={"reading": reading}),
        }
    )


def without_history(spec):
    return spec.model_copy(update={"deployed": spec.deployed.model_copy(update={"history": 1})})


def with_absolute_positions(spec):
    reading = tuple(
        term.model_copy(update={"name": term.name.removesuffix("_from_default")})
        for term in spec.deployed.reading
    )
    return spec.model_copy(update={"deployed": spec.deployed.model_copy(update={"reading": reading})})


# One stiffness and one scale for each joint, so that no two can be taken for one another.
SPEC = QUAD.model_copy(
    update={
        "action": QUAD.action.model_copy(
            update={
                "stiffness": tuple(20.0 + i for i in range(12)),
                "damping": tuple(0.5 + i / 10 for i in range(12)),
                "scale": tuple(0.2 + i / 50 for i in range(12)),
            }
        )
    }
)
TASKS = {
    "as the motors": SPEC,
    "by part": in_order(SPEC, BY_PART),
    "one reading": without_history(in_order(SPEC, BY_PART)),
    "absolute positions": with_absolute_positions(without_history(SPEC)),
}


class Made:
    """A policy of a task, its recorded answers and its files."""

    def __init__(self, spec, names):
        size = Size(width=16, layers=2, activation="swish")
        student = init_student(jax.random.key(0), size, size, spec.sensed_sizes, 8)
        draw = np.random.default_rng(2)

        def policy(obs, goal):
            return act(student, obs, goal)

        self.spec = spec
        sizes = spec.sensed_sizes
        obs, goal = (draw.uniform(-1, 1, (16, size)).astype(np.float32) for size in (sizes[0], sizes[2]))
        actions = np.asarray(policy(obs, goal))
        self.golden = {"obs": obs, "goal": goal, "actions": actions}
        graphs = {"policy": policy_graph(policy, spec), "policy_flat": flat_policy_graph(policy, spec)}
        self.files = target_files(names, spec, graphs, self.golden)

    def targets(self, row):
        """Where our own controller sends each joint, rad."""
        action = self.spec.action
        found = np.array(action.offset) + np.array(action.scale) * self.golden["actions"][row]
        return dict(zip(action.joints, found, strict=True))

    def readings(self, row):
        """The robot's state at each reading of a recorded observation, oldest first, by what was measured."""
        deployed, home = (
            self.spec.deployed,
            dict(zip(self.spec.joints.names, self.spec.joints.default, strict=True)),
        )
        states = []
        for values in self.golden["obs"][row].reshape(deployed.history, -1)[::-1]:
            state = {}
            for term in deployed.reading:
                found = dict(zip(term.entries, values[term.start : term.stop], strict=True))
                if term.name == "joint_position_from_default":
                    found = {joint: home[joint] + value for joint, value in found.items()}
                state[term.name.removesuffix("_from_default")] = found
            states.append(state)
        return states


@pytest.fixture(scope="module", params=TASKS)
def made(request):
    spec = TASKS[request.param]
    short = spec.deployed.history == 1
    return Made(spec, ["mjlab", "unitree", *(["holosoma"] if short else [])])


def metadata(content):
    return {each.key: each.value for each in onnx.load_from_string(content).metadata_props}


def array(values):
    return np.array(list(values.values()), np.float32)


def test_unitree_runner_sends_our_targets_to_the_motors(made):
    """Its deploy folder: terms by name, each with its history, oldest first; then JointPositionAction."""
    side = yaml.safe_load(made.files["deploy/unitree/params/deploy.yaml"])
    session = open_session(made.files["deploy/unitree/exported/policy.onnx"])
    places, home = np.array(side["joint_ids_map"]), np.float32(side["default_joint_pos"])
    ranges = side["commands"]["base_velocity"]["ranges"]
    for row in range(16):
        goal = made.golden["goal"][row]
        stick = [*goal, 0.7]  # a thumb on the turning stick, which the goal has no use for
        buffers = {name: deque(maxlen=term["history_length"]) for name, term in side["observations"].items()}
        for state in made.readings(row):
            motors = {
                kind: np.array([state[kind][joint] for joint in GO2])
                for kind in state
                if len(state[kind]) == 12
            }
            registered = {
                "base_ang_vel": array(state["base_angular_velocity"]),
                "projected_gravity": array(state["gravity_direction"]),
                "joint_pos_rel": motors["joint_position"][places] - home,
                "joint_vel_rel": motors["joint_velocity"][places],
                "last_action": array(state["last_action"]),
                "velocity_commands": [
                    np.clip(value, *ranges[name])
                    for value, name in zip(stick, ("lin_vel_x", "lin_vel_y", "ang_vel_z"), strict=True)
                ],
            }
            for name, term in side["observations"].items():
                assert term["clip"] is None
                buffers[name].append(np.array(registered[name]) * term["scale"])
        obs = np.concatenate([value for buffer in buffers.values() for value in buffer]).astype(np.float32)
        (shape,) = [part.shape for part in session.get_inputs()]
        action = session.run(["actions"], {"obs": obs.reshape(shape)})[0][0]
        term = side["actions"]["JointPositionAction"]
        processed = action * np.float32(term["scale"]) + np.float32(term["offset"])
        if term["clip"] is not None:
            processed = np.clip(processed, *np.array(term["clip"]).T)
        motor_commands = dict(zip(places.tolist(), processed, strict=True))
        expected = made.targets(row)
        for motor, joint in enumerate(GO2):
            assert motor_commands[motor] == pytest.approx(expected[joint], abs=1e-5)
    gains = dict(zip(made.spec.action.joints, made.spec.action.stiffness, strict=True))
    assert side["stiffness"] == [gains[joint] for joint in GO2]
    assert side["step_dt"] == made.spec.control_dt


def test_mjlab_readers_come_to_our_targets(made):
    """Metadata split at commas: terms by name, flattened with their history, oldest first; scale, pose."""
    content = made.files["deploy/mjlab/policy.onnx"]
    found, session = metadata(content), open_session(content)
    joints = found["joint_names"].split(",")
    home, scale, stiffness = (
        np.array([float(part) for part in found[key].split(",")])
        for key in ("default_joint_pos", "action_scale", "joint_stiffness")
    )
    names = found["observation_names"].split(",")
    lengths = [max(1, int(float(part))) for part in found["observation_terms_history_length"].split(",")]
    assert lengths == [int(part) for part in found["observation_history_lengths"].split(",")]
    assert set(found["observation_terms_scale"].split(",")) == {"1"}
    for row in range(16):
        buffers = [deque(maxlen=length) for length in lengths]
        for state in made.readings(row):
            terms = {
                "base_ang_vel": array(state["base_angular_velocity"]),
                "projected_gravity": array(state["gravity_direction"]),
                "joint_pos": np.array([state["joint_position"][joint] for joint in joints]) - home,
                "joint_vel": np.array([state["joint_velocity"][joint] for joint in joints]),
                "actions": np.array([state["last_action"][joint] for joint in joints]),
                "command": np.array([*made.golden["goal"][row], 0.3]),
            }
            for name, buffer in zip(names, buffers, strict=True):
                buffer.append(terms[name])
        obs = np.concatenate([value for buffer in buffers for value in buffer]).astype(np.float32)
        action = session.run(["actions"], {"obs": obs[None]})[0][0]
        expected = made.targets(row)
        for joint, target in zip(joints, home + scale * action, strict=True):
            assert target == pytest.approx(expected[joint], abs=1e-5)
    gains = dict(zip(made.spec.action.joints, made.spec.action.stiffness, strict=True))
    assert stiffness.tolist() == [gains[joint] for joint in joints]
    assert all(" " not in value for value in found.values())


def test_holosoma_comes_to_our_targets_with_its_own_scale_and_pose(made):
    """Its base policy sorts terms, multiplies actions by policy_action_scale and adds its settings' pose."""
    if "deploy/holosoma/policy.onnx" not in made.files:
        with pytest.raises(
            UsageError, match=r"profile holosoma: deployed\.history of quad_reach is 5, allowed: 1"
        ):
            require_targets(["holosoma"], made.spec)
        return
    content = made.files["deploy/holosoma/policy.onnx"]
    settings = json.loads(made.files["deploy/holosoma/settings.json"])
    found = {key: json.loads(value) for key, value in metadata(content).items()}
    session = open_session(content)
    assert [part.name for part in session.get_outputs()] == ["action"]
    joints, home = settings["robot"]["dof_names"], np.array(settings["robot"]["default_dof_angles"])
    scale = settings["task"]["policy_action_scale"]
    assert scale == 0.25  # what its settings say if nobody changes them
    assert settings["task"]["rl_rate"] * made.spec.control_dt == 1
    assert dict(zip(joints, found["kp"], strict=True)) == dict(
        zip(made.spec.action.joints, made.spec.action.stiffness, strict=True)
    )
    for row in range(16):
        (state,) = made.readings(row)
        before = np.array([state["last_action"][joint] for joint in joints])  # of ours, which it never sees
        own = before * np.array(made.spec.action.scale) / scale
        terms = {
            "base_ang_vel": array(state["base_angular_velocity"]),
            "projected_gravity": array(state["gravity_direction"]),
            "dof_pos": np.array([state["joint_position"][joint] for joint in joints]) - home,
            "dof_vel": np.array([state["joint_velocity"][joint] for joint in joints]),
            "actions": own,
            "command_lin_vel": made.golden["goal"][row],
        }
        scales = settings["observation"]["obs_scales"]
        names = sorted(settings["observation"]["obs_dict"]["actor_obs"])
        obs = np.concatenate([terms[name] * scales[name] for name in names]).astype(np.float32)
        action = np.clip(session.run(None, {"actor_obs": obs[None]})[0][0], -100, 100)
        expected = made.targets(row)
        for joint, target in zip(joints, action * scale + home, strict=True):
            assert target == pytest.approx(expected[joint], abs=1e-5)


def test_ros2_parameters_name_a_current_controller_and_the_commands_joints():
    spec = make_task("fr3_reach").spec
    files = target_files(["ros2"], spec, {}, {})
    parameters = yaml.safe_load(files["deploy/ros2/controllers.yaml"])
    mapping = json.loads(files["deploy/ros2/mapping.json"])
    ((name, kind),) = parameters["controller_manager"]["ros__parameters"].items()
    assert kind == {"type": "forward_command_controller/ForwardCommandController"}
    assert parameters[name]["ros__parameters"] == {
        "joints": list(spec.action.joints),
        "interface_name": "velocity",
    }
    command = mapping["command"]
    assert command["topic"] == f"/{name}/commands"
    assert command["joints"] == parameters[name]["ros__parameters"]["joints"]
    assert (command["scale"], command["unit"]) == (list(spec.action.scale), "rad/s")
    messages = {term["name"]: term["message"] for term in mapping["reading"]}
    assert messages["joint_velocity"] == "sensor_msgs/msg/JointState.velocity"
    assert messages["flange_position"] is None  # nobody publishes it: computed from the joints
    with pytest.raises(UsageError, match=r"profile ros2: action\.kind of reacher is joint_torque"):
        require_targets(["ros2"], make_task("reacher").spec)


def changed(part, **update):
    return QUAD.model_copy(update={part: getattr(QUAD, part).model_copy(update=update)})


def with_term(**update):
    reading = QUAD.deployed.reading
    return changed("deployed", reading=(reading[0].model_copy(update=update), *reading[1:]))


@pytest.mark.parametrize("profile", ["mjlab", "holosoma", "unitree"])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (make_task("fr3_reach").spec, r"action\.kind of fr3_reach is joint_velocity"),
        (changed("action", stiffness=None), r"states no action\.stiffness"),
        (changed("action", offset=(0.1,) * 12), r"action\.offset"),
        (changed("action", joints=tuple(BY_PART)), r"action\.offset|entries"),
        (with_term(name="trunk_tilt"), "has no term for trunk_tilt"),
        (with_term(frame="world"), "gravity_direction of quad_reach is in 1, world frame"),
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
    spec = in_order(QUAD, GO2)
    reading = tuple(
        term.model_copy(update={"entries": names}) if term.frame == "joint" else term
        for term in spec.deployed.reading
    )
    spec = spec.model_copy(
        update={
            "action": spec.action.model_copy(update={"joints": names}),
            "joints": spec.joints.model_copy(update={"names": names}),
            "deployed": spec.deployed.model_copy(update={"reading": reading}),
        }
    )
    require_targets(["mjlab"], spec)
    with pytest.raises(UsageError, match=r"profile unitree: action\.joints of quad_reach are m0, .*Go2"):
        require_targets(["unitree"], spec)
    assert MOTORS["Go2"] == GO2


def test_an_unknown_profile_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'holosoma'"):
        require_targets(["holosma"], QUAD)
    assert set(TARGETS) == {"c99", "mjlab", "holosoma", "unitree", "ros2"}
