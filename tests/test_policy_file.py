"""A teacher that is an ONNX file from elsewhere: what of it is taken, what is refused, what comes of it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import teacher.rollout
from export.controller import ControllerError, load
from student.config import StudentConfig
from student.distill import Distiller
from student.evaluate import ReferenceEpisodes
from teacher.config import TeacherConfig
from teacher.errors import UsageError
from teacher.policy_file import PolicyFile, read_graph
from teacher.rollout import simulation
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
    found = policy(observation, goal)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(policy.act((), observation, goal), expected, atol=1e-4)
    assert policy.actor_parameters == weights.size


def recurrent(kind: str, spec: TaskSpec, told="obs", answered="actions", hidden: int | str = 8, copies=1):
    """A policy as rsl_rl exports its recurrent ones, of which the observation has the goal behind it."""
    drawn, size, gates = (
        np.random.default_rng(2),
        spec.observation_size + spec.goal_size,
        {"GRU": 3, "LSTM": 4},
    )
    shapes = {"W": (1, gates[kind] * 8, size), "R": (1, gates[kind] * 8, 8), "head": (8, spec.action_size)}
    weights = {name: drawn.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}
    weights["first"] = np.array([0])
    inputs = {told: [1, size]} | {f"{name}_in": [1, 1, hidden] for name in "hc"[: gates[kind] - 2]}
    outputs = [answered, "h_out", "c_out"][: len(inputs)]
    made = helper.make_graph(
        [
            helper.make_node("Unsqueeze", [told, "first"], ["sequence"]),
            helper.make_node(
                kind,
                ["sequence", "W", "R", "", "", *list(inputs)[1:]],
                ["", "hidden", *outputs[2:]],
                hidden_size=8,
            ),
            helper.make_node("Concat", ["hidden"] * copies, ["h_out"], axis=2),
            helper.make_node("Squeeze", ["hidden", "first"], ["last"]),
            helper.make_node("MatMul", ["last", "head"], [answered]),
        ],
        "policy",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def by_hand(model, observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Runs one episode [T, S], [G] through ONNX's own evaluator, step after step; returns actions [T, A]."""
    run, names = ReferenceEvaluator(model), [each.name for each in model.graph.input]
    states, actions = {name: np.zeros((1, 1, 8), np.float32) for name in names[1:]}, []
    for seen in observation:
        action, *after = run.run(None, {"obs": np.float32([[*seen, *goal]]), **states})
        states = dict(zip(states, after, strict=True))
        actions.append(np.clip(action[0], -1, 1))
    return np.stack(actions)


MAZE = TeacherConfig.model_validate({"task": {"name": "wheel_maze"}})


@pytest.fixture
def with_state():
    """An LSTM's, which has two states; GRUs are opened below."""
    model = recurrent("LSTM", make_task("wheel_maze").spec)
    return model, PolicyFile.of(model.SerializeToString(), MAZE, "policy.onnx")


def test_a_recurrent_policy_carries_its_state_through_each_episode_and_begins_the_next_anew(
    with_state, monkeypatch
):
    monkeypatch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (2,))  # three episodes are two batches, in turn
    model, policy = with_state
    maze = simulation("wheel_maze")
    starts = maze.starts(jax.random.key(0), 3)
    lived, again = (maze.rollout(policy.policy(), starts, 12) for _ in range(2))
    for i, goal in enumerate(starts.goal):
        expected = by_hand(model, lived.observation[:-1, i], goal)
        np.testing.assert_allclose(lived.action[:, i], expected, atol=1e-5)
        forgetful = policy(lived.observation[:-1, i], np.tile(goal, (12, 1)))
        assert np.abs(forgetful - expected).max() > 0.05  # the state counts
    np.testing.assert_array_equal(lived.action, again.action)


def test_labels_of_a_recurrent_teacher_follow_each_episode_whoever_acts(with_state, monkeypatch):
    monkeypatch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (2,))
    model, policy = with_state
    settings = {"sizes": ("1x8",), "envs": 4, "rounds": 2, "teacher_rounds": 1, "noise": 0}
    distiller = Distiller(StudentConfig(**settings), policy)
    state, length = distiller.init(jax.random.key(0)), distiller.spec.episode_length
    for led in (1, 0.5):
        visited = distiller._visit(state)
        first = int(state.round) * length
        labels = distiller._label(state, (), visited).labels
        action, given = (np.asarray(leaf[first : first + length]) for leaf in (labels.action, labels.goal))
        for i, goal in enumerate(visited.goal):
            np.testing.assert_allclose(action[:, i], by_hand(model, visited.before[:, i], goal), atol=1e-4)
            np.testing.assert_array_equal(given[:, i], np.tile(goal, (length, 1)))
        assert (visited.action == action).all(-1).mean() == led  # of steps, by the teacher
        state = distiller.init(jax.random.key(1))._replace(round=jnp.asarray(1))


def test_a_student_that_is_its_recurrent_teacher_differs_from_it_nowhere(with_state):
    reference = ReferenceEpisodes.of(with_state[1], 4)
    found = reference.evaluate(with_state[1].policy(), None)
    assert found["policy_error"]["own_states"] == 0


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
        (graph({"obs": OBSERVATION, "speed": 1})[0], "input 'speed' is not known.*state NAME_in.* NAME_out"),
        (graph({"obs": OBSERVATION, "h_in": 8})[0], "input 'h_in' is a state without an output 'h_out'"),
        (recurrent("GRU", SPEC, hidden="hidden"), r"state 'h_in' is .*'hidden'\], allowed: .*fixed sizes"),
        (recurrent("GRU", SPEC, copies=2), r"answers no observation of zeros: .* h_in .*\n.* 16 Expected: 8"),
        (recurrent("GRU", SPEC, "a_in", "a_out"), r"all of its inputs .* are states \(a_in, h_in\)"),
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
