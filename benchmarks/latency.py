"""Latency of exported policies: students beside deep teachers of the same task.

    python benchmarks/latency.py --depths 16 1024 --students 2x64 4x256

Weights are fresh: latency does not depend on what they have learned. Students are exported as the
pipeline does it. A teacher is written layer by layer with ONNX's own LayerNormalization (opset 17),
the fastest form that ONNX Runtime has for it, and compared with JAX first.
"""

import platform
import time

import jax
import numpy as np
import onnx
from measuring import Row, parser_of, show
from onnx import TensorProto, helper, numpy_helper

from export.controller import open_session
from export.graph import policy_graph
from student.config import parse_size
from student.networks import act, init_student
from teacher.config import NetworkConfig
from teacher.networks import NORM_EPSILON, Networks, Params, deterministic_action, init_params, make_networks
from teacher.spec import TaskSpec
from teacher.tasks import make_task


def teacher_graph(spec: TaskSpec, networks: Networks, params: Params) -> onnx.ModelProto:
    """Writes the teacher's actor: obs [1, N], goal [1, G] -> actions [1, A]."""
    tree, nodes, weights = params.actor["params"], [], []

    def weight(value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, np.float32), f"w{len(weights)}"))
        return weights[-1].name

    def node(operator: str, *inputs: str, **attributes: float) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [f"v{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def layer(x: str, *parameters: np.ndarray) -> str:
        """Dense, LayerNorm, swish."""
        kernel, bias, scale, shift = map(weight, parameters)
        dense = node("Gemm", x, kernel, bias)
        normal = node("LayerNormalization", dense, scale, shift, axis=-1, epsilon=NORM_EPSILON)
        return node("Mul", normal, node("Sigmoid", normal))

    stacked = [np.asarray(tree[name]) for name in ("kernel", "bias", "norm_scale", "norm_bias")]
    first, norm, last = tree["input"], tree["input_norm"], tree["output"]
    x = layer(
        node("Concat", "obs", "goal", axis=1), first["kernel"], first["bias"], norm["scale"], norm["bias"]
    )
    fraction = weight(np.float32(networks.actor.settings.residual_scale))
    for block in zip(*stacked, strict=True):
        branch = x
        for parameters in zip(*block, strict=True):
            branch = layer(branch, *parameters)
        x = node("Add", x, node("Mul", branch, fraction))
    size = spec.action_size  # the mean comes first, the spread is not asked for
    head = weight(last["kernel"][:, :size]), weight(last["bias"][:size])
    nodes.append(helper.make_node("Tanh", [node("Gemm", x, *head)], ["actions"]))
    shapes = {"obs": spec.observation_size, "goal": spec.goal_size, "actions": size}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in shapes.items()}
    inputs, outputs = [values["obs"], values["goal"]], [values["actions"]]
    graph = helper.make_graph(nodes, "teacher", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def policies(spec: TaskSpec, students: list[str], depths: list[int], width: int) -> dict[str, tuple]:
    """Returns by name the exported graph, and the JAX function that it must equal."""
    sizes = spec.sizes
    made = {}
    for name in students:
        size = parse_size(name)
        student = init_student(jax.random.key(0), size, size, sizes, representation=64)
        function = jax.tree_util.Partial(act, student)
        made[name] = policy_graph(function, spec), function
    for depth in depths:
        networks = make_networks(NetworkConfig(depth=depth, width=width), spec.action_size)
        params = init_params(networks, jax.random.key(0), sizes)

        def teacher(obs, goal, networks=networks, params=params):
            return deterministic_action(networks, params.actor, obs, goal)

        made[f"teacher {depth}x{width}"] = teacher_graph(spec, networks, params), teacher
    return made


def time_runs(session, feeds: list[dict[str, np.ndarray]], runs: int) -> np.ndarray:
    """Returns the microseconds of each of `runs` answers."""
    seconds = np.empty(runs)
    for i in range(runs):
        begun = time.perf_counter()
        session.run(["actions"], feeds[i % len(feeds)])
        seconds[i] = time.perf_counter() - begun
    return seconds * 1e6


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--task", default="fr3_reach")
    parser.add_argument("--depths", type=int, nargs="*", default=[16, 1024], help="of the teachers")
    parser.add_argument("--width", type=int, default=64, help="of the teachers")
    parser.add_argument("--students", nargs="*", default=["2x32", "2x64", "3x64", "4x256"])
    parser.add_argument("--runs", type=int, default=2000, help="answers per round; a tenth for teachers")
    parser.add_argument("--rounds", type=int, default=5, help="all policies in turn, this often")
    arguments = parser.parse_args()
    spec, rng = make_task(arguments.task).spec, np.random.default_rng(0)
    feeds = [
        {
            "obs": rng.normal(size=(1, spec.observation_size)).astype(np.float32),
            "goal": rng.normal(size=(1, spec.goal_size)).astype(np.float32),
        }
        for _ in range(64)
    ]
    sessions, errors = {}, {}
    made = policies(spec, arguments.students, arguments.depths, arguments.width)
    for name, (graph, function) in made.items():
        sessions[name] = open_session(graph.SerializeToString())
        found = sessions[name].run(["actions"], feeds[0])[0]
        errors[name] = float(np.abs(found - np.asarray(function(*feeds[0].values()))).max())
        time_runs(sessions[name], feeds, 50)
    measured: dict[str, list[np.ndarray]] = {name: [] for name in sessions}
    for _ in range(arguments.rounds):
        for name, session in sessions.items():
            runs = arguments.runs if name in arguments.students else arguments.runs // 10
            measured[name].append(time_runs(session, feeds, runs))
    rows: list[Row] = []
    for name, rounds in measured.items():
        medians = [float(np.median(values)) for values in rounds]
        row: Row = {"machine": platform.machine(), "task": arguments.task, "policy": name}
        row |= {"latency_us_p50": float(np.median(medians)), "spread": [min(medians), max(medians)]}
        row |= {"latency_us_p99": float(np.median([np.percentile(values, 99) for values in rounds]))}
        rows.append(row | {"max_error": errors[name]})
    show(rows, arguments.json, settings=("task", "machine"))


if __name__ == "__main__":
    main()
