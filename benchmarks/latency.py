"""Latency of exported policies: students beside deep teachers of the same task; prints JSON.

    python benchmarks/latency.py --depths 16 1024 --students 2x64 4x256

Weights are fresh: latency does not depend on what they have learned. Students are exported as the
pipeline does it. A teacher is written layer by layer with ONNX's own LayerNormalization (opset 17),
the fastest form that ONNX Runtime has for it, and compared with JAX first.
"""

import argparse
import json
import platform
import time

import jax
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.controller import open_session
from export.graph import policy_graph
from student.config import parse_size
from student.networks import act, init_student
from teacher.config import BLOCK_DEPTH, NetworkConfig
from teacher.networks import NORM_EPSILON, Networks, Params, deterministic_action, init_params, make_networks
from teacher.spec import TaskSpec
from teacher.tasks import make_task


class _Writer:
    """Appends nodes to a graph; values are known by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: float) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def layer(
        self, x: str, kernel: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray
    ) -> str:
        """Dense, LayerNorm, swish."""
        dense = self.node("Gemm", x, self.weight(kernel), self.weight(bias))
        parameters = self.weight(scale), self.weight(shift)
        normal = self.node("LayerNormalization", dense, *parameters, axis=-1, epsilon=NORM_EPSILON)
        return self.node("Mul", normal, self.node("Sigmoid", normal))


def teacher_graph(spec: TaskSpec, networks: Networks, params: Params) -> onnx.ModelProto:
    """The teacher's actor: obs [1, N], goal [1, G] -> actions [1, A]."""
    tree, writer = params.actor["params"], _Writer()
    kernel, bias, scale, shift = (
        np.asarray(tree[name]) for name in ("kernel", "bias", "norm_scale", "norm_bias")
    )
    first, norm, last = tree["input"], tree["input_norm"], tree["output"]
    x = writer.node("Concat", "obs", "goal", axis=1)
    x = writer.layer(x, first["kernel"], first["bias"], norm["scale"], norm["bias"])
    fraction = writer.weight(np.float32(networks.actor.settings.branch_scale))
    for block in range(len(kernel)):
        branch = x
        for i in range(BLOCK_DEPTH):
            branch = writer.layer(branch, kernel[block, i], bias[block, i], scale[block, i], shift[block, i])
        x = writer.node("Add", x, writer.node("Mul", branch, fraction))
    size = spec.action_size  # the mean comes first, the spread is not asked for
    head = writer.weight(last["kernel"][:, :size]), writer.weight(last["bias"][:size])
    writer.nodes.append(helper.make_node("Tanh", [writer.node("Gemm", x, *head)], ["actions"]))
    shapes = {"obs": spec.observation_size, "goal": spec.goal_size, "actions": size}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in shapes.items()}
    inputs, outputs = [values["obs"], values["goal"]], [values["actions"]]
    graph = helper.make_graph(writer.nodes, "teacher", inputs, outputs, writer.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def policies(spec: TaskSpec, students: list[str], depths: list[int], width: int) -> dict[str, tuple]:
    """By name: the exported graph, and the JAX function that it must equal."""
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
    """Microseconds of each of `runs` answers."""
    seconds = np.empty(runs)
    for i in range(runs):
        begun = time.perf_counter()
        session.run(["actions"], feeds[i % len(feeds)])
        seconds[i] = time.perf_counter() - begun
    return seconds * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
    rows = []
    for name, rounds in measured.items():
        medians = [float(np.median(values)) for values in rounds]
        p99 = float(np.median([np.percentile(values, 99) for values in rounds]))
        rows.append(
            {
                "policy": name,
                "latency_us_p50": float(np.median(medians)),
                "latency_us_p50_spread": [min(medians), max(medians)],
                "latency_us_p99": p99,
                "max_error": errors[name],
            }
        )
    print(json.dumps({"task": arguments.task, "machine": platform.machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
