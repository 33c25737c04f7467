"""Files for controllers that exist, read back as each of them reads them."""

import json
import math

import jax
import numpy as np
import onnx
import pytest
import yaml

from export.controller import open_session
from export.graph import flat_policy_graph, policy_graph
from export.profiles import PROFILES, profile_files, require_profiles
from student.config import Size
from student.networks import act, init_student
from teacher.errors import UsageError
from teacher.tasks import make_task

SPEC = make_task("quad_reach").spec
SIZE = sum(SPEC.sensed_sizes[::2])


@pytest.fixture(scope="module")
def files():
    size = Size(width=16, layers=2, activation="swish")
    student = init_student(jax.random.key(0), size, size, SPEC.sensed_sizes, 8)

    def policy(obs, goal):
        return act(student, obs, goal)

    draw = np.random.default_rng(2)
    sizes = zip(("obs", "actions", "goal"), SPEC.sensed_sizes, strict=True)
    golden = {name: draw.normal(size=(4, size)).astype(np.float32) for name, size in sizes}
    graphs = {"policy": policy_graph(policy, SPEC), "policy_flat": flat_policy_graph(policy, SPEC)}
    return graphs, profile_files(PROFILES, SPEC, graphs, golden)


def metadata(content):
    return {each.key: each.value for each in onnx.load_from_string(content).metadata_props}


def answers(content, name):
    draw = np.random.default_rng(1).normal(size=(1, SIZE)).astype(np.float32)
    return open_session(content).run(None, {name: draw})[0]


def test_mjlab_reads_its_metadata_as_comma_separated_numbers_in_full(files):
    found = metadata(files[1]["deploy/mjlab/policy.onnx"])
    assert found["joint_names"].split(",") == list(SPEC.action.joints)
    for key, expected in {
        "joint_stiffness": SPEC.action.stiffness,
        "joint_damping": SPEC.action.damping,
        "default_joint_pos": SPEC.joints.default,
        "action_scale": SPEC.action.scale,
    }.items():
        np.testing.assert_array_equal(np.float32(found[key].split(",")), np.float32(expected))
        assert " " not in found[key]
    assert len(found["observation_names"].split(",")) == len(SPEC.sensed_observation) + 1
    assert found["observation_names"].endswith("," + found["command_names"])


def test_holosoma_reads_every_value_as_json_and_its_own_names(files):
    content = files[1]["deploy/holosoma/policy.onnx"]
    found = {key: json.loads(value) for key, value in metadata(content).items()}
    assert found["dof_names"] == list(SPEC.action.joints)
    assert len(found["kp"]) == len(found["kd"]) == len(SPEC.action.joints)
    session = open_session(content)
    assert [i.name for i in session.get_inputs()] == ["actor_obs"]
    assert [o.name for o in session.get_outputs()] == ["action"]


def test_unitree_reads_its_yaml_beside_a_static_graph_of_one_input(files):
    side = yaml.safe_load(files[1]["deploy/unitree/params/deploy.yaml"])
    assert side["step_dt"] == SPEC.control_dt
    assert [SPEC.joints.names[i] for i in side["joint_ids_map"]] == list(SPEC.action.joints)
    assert side["stiffness"] == list(SPEC.action.stiffness)
    assert side["actions"]["JointPositionAction"]["offset"] == list(SPEC.joints.default)
    entries = sum(len(term["scale"]) for term in side["observations"].values())
    session = open_session(files[1]["deploy/unitree/exported/policy.onnx"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("obs", [1, SIZE])]
    assert entries == SIZE and math.prod(session.get_outputs()[0].shape) == len(SPEC.action.joints)


def test_every_graph_answers_as_the_flat_policy_does(files):
    graphs, written = files
    expected = answers(graphs["policy_flat"].SerializeToString(), "obs")
    for path, name in (
        ("mjlab/policy", "obs"),
        ("holosoma/policy", "actor_obs"),
        ("unitree/exported/policy", "obs"),
    ):
        np.testing.assert_array_equal(answers(written[f"deploy/{path}.onnx"], name), expected)


def test_a_task_without_what_a_controller_needs_is_refused_by_field():
    spec = make_task("fr3_reach").spec
    require_profiles(["c99"], spec)
    with pytest.raises(UsageError, match=r"profile mjlab: action.kind of fr3_reach is joint_velocity"):
        require_profiles(["c99", "mjlab"], spec)
    for field, change in {
        "action.stiffness": {"stiffness": None},
        "action.offset": {"offset": (0.1,) * 12},
        "action.joints": {"joints": SPEC.action.joints[::-1]},
    }.items():
        changed = SPEC.model_copy(update={"action": SPEC.action.model_copy(update=change)})
        with pytest.raises(UsageError, match=rf"profile unitree: .*{field}"):
            require_profiles(["unitree"], changed)


def test_an_unknown_profile_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'holosoma'"):
        require_profiles(["holosma"], SPEC)
