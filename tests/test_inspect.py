"""pipeline inspect: files that say what they are, and notice when they are not."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import SPEC, export, policy

from pipelines.inspection import comparison, description, differences, inspect
from pipelines.progress import Terminal
from teacher.errors import FathomError


@pytest.fixture
def bundle(exported, tmp_path):
    return Path(shutil.copytree(exported[0], tmp_path / "copy"))


def text(group):
    console = Terminal(width=200)
    with console.capture() as capture:
        console.print(group)
    return capture.get()


def changed(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def test_a_bundle_says_what_it_expects_answers_and_is_worth(bundle):
    found = inspect(bundle)
    assert found["inputs"]["goal"] == {"type": "float32", "shape": [1, 3]}
    assert found["spec"] == SPEC.for_robot()
    assert found["certificate"]["observations"] == 1000
    assert found["judged"] == {"success": 0.9917}
    assert set(found["graphs"]) == {"policy.onnx", "policy_flat.onnx", "policy_safe.onnx", "critic.onnx"}
    printed = text(description(found))
    for part in ("success: 0.9917", "flange", "fr3_joint7", "rad/s", "parity: within", "recorded answers"):
        assert part in printed
    alone = inspect(shutil.copy(bundle / "policy.onnx", bundle.with_name("robot.onnx")))
    assert alone["judged"] == {"success": 0.9917} and "fr3_joint7" in text(description(alone))


def described(model, key, change):
    entry = next(each for each in model.metadata_props if each.key == f"fathom.{key}")
    entry.value = json.dumps(json.loads(entry.value) | change)


def one_weight(model):
    first = model.graph.initializer[0]
    weights = onnx.numpy_helper.to_array(first).copy()
    weights.flat[3] += 1e-7
    first.CopyFrom(onnx.numpy_helper.from_array(weights, first.name))


@pytest.mark.parametrize(
    "change",
    [
        one_weight,
        lambda model: described(model, "spec", {"control_dt": 0.02}),
        lambda model: described(model, "judged", {"success": 1.0}),
    ],
    ids=["weight", "description", "score"],
)
def test_a_file_that_was_altered_is_refused_and_others_annotations_are_not(bundle, change):
    changed(bundle / "policy.onnx", lambda model: model.metadata_props.add(key="arm", value="left"))
    assert inspect(bundle / "policy.onnx")["metadata"] == {"arm": "left"}
    changed(bundle / "policy.onnx", change)
    with pytest.raises(FathomError, match=r"policy\.onnx: .* altered"):
        inspect(bundle / "policy.onnx")
    with pytest.raises(FathomError, match=r"policy\.onnx: SHA-256 .* altered"):
        inspect(bundle)


def test_a_graph_of_other_origin_is_described_as_far_as_it_goes(tmp_path):
    make = onnx.helper
    value = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = make.make_graph([make.make_node("Tanh", ["x"], ["y"])], "other", value[:1], value[1:])
    onnx.save(make.make_model(graph), tmp_path / "other.onnx")
    found = inspect(tmp_path / "other.onnx")
    assert found["inputs"] == {"x": {"type": "float32", "shape": ["batch", 4]}}
    assert "it says nothing of itself" in text(description(found))


def test_two_bundles_are_compared_field_by_field_and_by_their_actions(bundle, rollouts, tmp_path):
    other = tmp_path / "other"
    export(other, rollouts, policy=lambda obs, goal: 0.5 * policy(obs, goal))
    found = differences(bundle, other)
    assert "graph_sha256" in found["fields"]
    assert not any(name.startswith("spec.") for name in found["fields"])
    with np.load(bundle / "golden.npz") as golden:
        assert found["max_action_difference"] == pytest.approx(np.abs(golden["actions"]).max() / 2, abs=1e-5)
    assert "graph_sha256" in text(comparison(found))
    same = differences(bundle, bundle)
    assert same["fields"] == {}
    assert same["max_action_difference"] == 0
