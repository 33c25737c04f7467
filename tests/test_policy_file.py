"""A teacher that is an ONNX file from elsewhere: what of it is taken, what is refused, what comes of it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.controller import ControllerError, load
from teacher.config import TeacherConfig
from teacher.errors import UsageError
from teacher.policy_file import PolicyFile, read_graph
from teacher.spec import TaskSpec
from teacher.tasks import achieved_goal, make_task

CONFIG = TeacherConfig.model_validate({"task": {"name": "reacher"}})
SPEC: TaskSpec = make_task("reacher").spec
OBSERVATION, ACTION, GOAL = SPEC.sizes
SETTINGS = ("student.sizes=2x16", "student.envs=16", "student.episodes=16", "export.observations=1000")


def graph(inputs: dict[str, int], rows: int | str = 1, kind: int = TensorProto.FLOAT, outputs: int = ACTION):
    """A policy that is a linear map of its inputs side by side, whose answers go beyond 1."""
    size = sum(inputs.values())
    weights = np.random.default_rng(0).standard_normal((size, outputs))
    array = weights.astype(helper.tensor_dtype_to_np_dtype(kind))
    made = helper.make_graph(
        [
            helper.make_node("Concat", list(inputs), ["all"], axis=1),
            helper.make_node("MatMul", ["all", "weights"], ["anything"]),
        ],
        "policy",
        [helper.make_tensor_value_info(name, kind, [rows, width]) for name, width in inputs.items()],
        [helper.make_tensor_value_info("anything", kind, [rows, outputs])],
        [numpy_helper.from_array(array, "weights")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, weights


def questions(count: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(1)
    return tuple(drawn.standard_normal((count, n)).astype(np.float32) for n in (OBSERVATION, GOAL))


FORMS = {
    "flat": ({"input": OBSERVATION + GOAL}, lambda o, g: [o, g]),
    "named": ({"obs": OBSERVATION, "goal": GOAL}, lambda o, g: [o, g]),
    "the other way around": ({"command": GOAL, "state": OBSERVATION}, lambda o, g: [g, o]),
    "as GoalEnv has it": (
        {"achieved_goal": GOAL, "desired_goal": GOAL, "observation": OBSERVATION},
        lambda o, g: [achieved_goal(SPEC, o), g, o],
    ),
    "without a goal": ({"obs": OBSERVATION}, lambda o, g: [o]),
}


@pytest.mark.parametrize(("rows", "kind"), [(1, TensorProto.FLOAT), ("batch", TensorProto.DOUBLE)])
@pytest.mark.parametrize("form", FORMS)
def test_answers_are_those_of_the_graph_clipped(form, rows, kind):
    inputs, given = FORMS[form]
    model, weights = graph(inputs, rows, kind)
    observation, goal = questions(6)
    expected = np.clip(np.hstack(given(observation, goal)).astype(float) @ weights, -1, 1)
    policy = PolicyFile.of(model.SerializeToString(), CONFIG, "policy.onnx")
    found = policy.answer(observation, goal)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(policy.act((), observation, goal), expected, atol=1e-4)
    assert policy.actor_parameters == weights.size


FLAT = {"input": OBSERVATION + GOAL}


def without_numbers():
    model, weights = graph(FLAT)
    nan = np.full(weights.shape, np.nan, np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(nan, "weights"))
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (graph({"obs": 3})[0], rf"input 'obs' has 3 entries.*\[{OBSERVATION}\].*\[{OBSERVATION + GOAL}\]"),
        (graph({"obs": OBSERVATION, "goal": GOAL + 1})[0], rf"input 'goal' has {GOAL + 1} entries"),
        (graph({"obs": OBSERVATION, "h_in": 8})[0], "input 'h_in' is not known.*keeps a state"),
        (graph(FLAT, rows=4)[0], r"tensor\(float\)\[4, "),
        (graph(FLAT, kind=TensorProto.FLOAT16)[0], r"tensor\(float16\)"),
        (graph(FLAT, outputs=ACTION + 1)[0], rf"output 'anything' is \[{ACTION + 1}\].*actions \[{ACTION}\]"),
        (without_numbers(), r"answers an observation of zeros with .*nan"),
    ],
)
def test_a_policy_of_another_task_or_form_is_refused(model, says):
    with pytest.raises(UsageError, match=says):
        PolicyFile.of(model.SerializeToString(), CONFIG, "policy.onnx")


def test_weights_beside_the_file_are_kept_with_it(tmp_path):
    model, weights = graph({"input": OBSERVATION + GOAL})
    file = tmp_path / "policy.onnx"
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    kept = read_graph(file)
    (tmp_path / "weights.bin").unlink()
    assert PolicyFile.of(kept, CONFIG, "kept").actor_parameters == weights.size
    with pytest.raises(UsageError, match="not an ONNX file"):
        read_graph(file)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, pipeline) -> Path:
    """A folder in which the command line made a policy in a file the teacher of a run."""
    folder = tmp_path_factory.mktemp("elsewhere")
    onnx.save(graph({"obs": OBSERVATION, "goal": GOAL}, "batch")[0], folder / "policy.onnx")
    settings = [word for each in SETTINGS for word in ("--set", each)]
    taken = ("--teacher", "policy.onnx", "--task", "reacher", "--run", "taken")
    done = pipeline("run", "--preset", "debug", *taken, *settings, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed.json").write_text(done.stdout)
    return folder


def test_students_of_a_policy_file_go_the_whole_way_to_a_bundle_without_a_critic(outcome):
    printed = json.loads((outcome / "printed.json").read_text())
    student = printed["students"]["2x16"]
    assert "depth" not in printed["teacher"]
    assert student["teacher_time_at_goal"] >= 0
    assert "critic" not in student and "calibration" not in student
    assert printed["control"]["2x16"]["episodes"] == 16
    assert "not trained here" in (outcome / "runs/taken/report.html").read_text()
    bundle = outcome / "runs/taken/export/2x16"
    controller = load(bundle)
    assert not controller.has_critic and not (bundle / "critic.onnx").exists()
    observation, goal = (values[0] for values in questions(1))
    with pytest.raises(ControllerError, match="had no critic"):
        controller.distance(observation, controller.step(observation, goal), goal)


def test_later_commands_take_it_as_they_take_a_trained_teacher(outcome, pipeline):
    again = pipeline("evaluate", "taken", "--json", cwd=outcome)
    score = json.loads((outcome / "printed.json").read_text())["teacher"]["time_at_goal"]
    assert json.loads(again.stdout)["time_at_goal"] == pytest.approx(score, abs=1e-6)
    resumed = pipeline("run", "--resume", "--run", "taken", "--json", cwd=outcome)
    assert resumed.returncode == 0, resumed.stderr
    baselines = pipeline("distill", "taken", "--resume", "--baselines", "direct", cwd=outcome)
    assert baselines.returncode == 2
    assert "was not trained here" in baselines.stderr


def test_a_policy_of_another_task_is_named_before_students_are_trained(outcome, pipeline):
    words = ("--teacher", "policy.onnx", "--task", "reacher", "--run", "other")
    done = pipeline("run", "--preset", "debug", *words, "--set", "student.min_retention=0.9", cwd=outcome)
    assert done.returncode == 1
    assert "has not learned the task" in done.stderr and "in another order than here" in done.stderr
    assert not (outcome / "runs/other/students").exists()


def test_what_does_not_fit_is_refused_before_anything_is_made(outcome, pipeline):
    (outcome / "text.onnx").write_text("no graph")
    for words, says in (
        (("--teacher", "text.onnx", "--task", "reacher"), "text.onnx: not an ONNX file"),
        (("--teacher", "missing.onnx", "--task", "reacher"), "missing.onnx"),
        (("--teacher", "policy.onnx", "--task", "fr3_reach"), "fr3_reach"),
    ):
        done = pipeline("run", *words, "--run", "refused", cwd=outcome)
        assert done.returncode == 2
        assert says in done.stderr
        assert not (outcome / "runs/refused").exists()
    swept = ("--teacher", "policy.onnx", "--task", "reacher", "--seeds", "0,1", "--run", "s")
    assert pipeline("teacher", *swept, cwd=outcome).returncode == 2 and not (outcome / "runs/s").exists()
