"""The directory that goes to the robot: graphs, specification, golden vectors, controller, model card."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import onnx

from export import controller
from export.graph import (
    Critic,
    Policy,
    check_safe,
    content_hash,
    critic_graph,
    excess,
    flat_policy_graph,
    graph_sha256,
    hold_action,
    policy_graph,
    ranges,
    safe_policy_graph,
)
from export.targets import require_targets, target_files
from export.verify import ACTION_TOLERANCE, DISTANCE_TOLERANCE, Verification, reference, verify
from teacher.errors import FathomError, UsageError
from teacher.spec import TaskSpec

MIN_OBSERVATIONS = 1000
GOLDEN_VECTORS = 64
GITATTRIBUTES = b"* -text\n"  # git leaves line ends as they are, of which hashes are taken
RUNTIMES = ("jax", "jax2onnx", "onnx", "onnxruntime")


def write_bundle(
    directory: Path,
    spec: TaskSpec,
    policy: Policy,
    critic: Critic | None,
    observations: np.ndarray,
    goals: np.ndarray,
    actions: np.ndarray,
    *,
    provenance: Mapping[str, Any],
    evaluate: Callable[[controller.Controller], Mapping[str, Any]],
    targets: Sequence[str] = (),
) -> dict[str, Verification]:
    """Verifies policy and critic in ONNX Runtime, then writes the bundle; a second export is identical.

    Args:
      directory: the bundle; replaced if it is one already. Parents are created.
      policy: (obs [1, N], goal [1, G]) -> actions [1, A], deterministic.
      critic: (obs [1, N], action [1, A], goal [1, G]) -> distance [1]; None leaves critic.onnx out.
      observations, goals, actions: [K, N], [K, G], [K, A] float32 from real rollouts, K >= 1000, as a
        policy on the robot is given them; the critic is asked about those actions.
      provenance: JSON values, written as they are; `observation_seed` and `checkpoint_sha256` enter the
        certificates.
      evaluate: is given the controller with the verified graphs, before anything is written, and answers
        how good it is: facts for the model card, by the name to print.
      targets: names of TARGETS whose files are added under `deploy/`.
    Returns: by graph (`policy`, `policy_flat`, `policy_safe`, `critic`), its error and latency here.
    Raises FathomError, and writes nothing, if the arrays do not fit, if ONNX Runtime and JAX disagree, or if
    `directory` holds something else than a bundle."""
    _check_replaceable(directory)
    require_targets(targets, spec)
    inputs = {"obs": observations, "action": actions, "goal": goals}
    _check_inputs(spec, inputs)
    expected = reference(policy, (observations, goals))
    graphs, verifications = _verified_graphs(spec, policy, critic, inputs, expected)
    golden = _golden_vectors(spec, critic, observations, goals, expected)
    task = spec.for_robot()
    record = {"format_version": controller.FORMAT_VERSION, "task": task, "provenance": dict(provenance)}
    # Nothing below is measured on a clock: the bytes depend on what is exported alone.
    verified = _annotated(graphs, task, provenance, verifications, {})
    facts = evaluate(controller.Controller(record, verified["policy.onnx"], verified.get("critic.onnx")))
    files = _annotated(graphs, task, provenance, verifications, facts) | _golden_files(golden)
    files |= target_files(targets, spec, {graph.graph.name: graph for graph in graphs}, golden)
    files["controller.py"] = Path(controller.__file__).read_bytes()
    files["README.md"] = model_card(spec, provenance, facts).encode()
    record["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    files[".gitattributes"] = GITATTRIBUTES  # not listed: a copy of a bundle may lack hidden files
    files["spec.json"] = controller.with_content_hash(json.dumps(record, indent=2, allow_nan=False) + "\n")
    _write(directory, files)
    return verifications


def model_card(spec: TaskSpec, provenance: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Returns what a robotics engineer has to know before the policy moves anything, as Markdown.

    Args:
      provenance: where the policy is from; nested values stay in spec.json, the others are listed.
      facts: how good it is, by the name to print, e.g. {"success": 0.99}."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("export", ""),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=lambda value: value if isinstance(value, str) else json.dumps(value, default=str),
    )
    flat = {key: value for key, value in provenance.items() if not isinstance(value, (Mapping, list, tuple))}
    trained = {"task": f"{spec.name}, episodes of {spec.episode_length} steps", **flat}
    hold = hold_action(spec).tolist()
    return environment.get_template("model_card.md.j2").render(
        spec=spec, trained=trained, facts=facts, hold=hold
    )


def signing_key(path: Path) -> Any:
    """Reads a private key of ed25519 (PEM, without a password); UsageError for anything else."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = load_pem_private_key(path.read_bytes(), password=None)
    except ImportError as error:
        need = 'a bundle is signed with cryptography: pip install "fathom-rl[sign]"'
        raise UsageError(f"--sign: {need}") from error
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"--sign: {path}: no private key can be read from it: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"--sign: {path}: {type(key).__name__}, allowed: a private key of ed25519")
    return key


def sign(directory: Path, key: Any) -> None:
    """Signs a bundle's spec.json, and with it every file that it lists, into a file beside it."""
    signature: bytes = key.sign((directory / "spec.json").read_bytes())
    (directory / controller.SIGNATURE).write_bytes(signature)


def _verified_graphs(
    spec: TaskSpec,
    policy: Policy,
    critic: Critic | None,
    inputs: Mapping[str, np.ndarray],
    expected: np.ndarray,
) -> tuple[list[onnx.ModelProto], dict[str, Verification]]:
    """Returns the graphs, each compared with JAX on every observation, and what was found."""
    obs, action, goal = inputs.values()
    graphs = [policy_graph(policy, spec), flat_policy_graph(policy, spec)]
    graphs.append(safe_policy_graph(graphs[0], spec, ranges(spec, obs, goal)))
    check_safe(graphs[2], obs, goal)
    questions = {"obs": obs, "goal": goal}
    verifications = [
        verify(graphs[0], questions, expected, ACTION_TOLERANCE),
        verify(graphs[1], {"obs": np.hstack([obs, goal])}, expected, ACTION_TOLERANCE),
        verify(graphs[2], questions, np.clip(expected, -1, 1), ACTION_TOLERANCE),
    ]
    if critic is not None:
        graphs.append(critic_graph(critic, spec))
        distances = reference(critic, (obs, action, goal))
        verifications.append(verify(graphs[3], inputs, distances, DISTANCE_TOLERANCE))
    return graphs, {each.graph: each for each in verifications}


def _check_inputs(spec: TaskSpec, inputs: Mapping[str, np.ndarray]) -> None:
    count = len(inputs["obs"])
    if count < MIN_OBSERVATIONS:
        raise FathomError(f"{count} observations to verify with, at least {MIN_OBSERVATIONS} are needed")
    for (name, values), size in zip(inputs.items(), spec.sensed_sizes, strict=True):
        found, needed = f"{values.dtype}{list(values.shape)}", f"float32{[count, size]}"
        if found != needed:
            raise FathomError(f"{name} to verify with: {found}, the task needs {needed}")
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise FathomError(f"{name} to verify with: row {row} is not finite: {values[row]}")


def _annotated(
    graphs: Sequence[onnx.ModelProto],
    task: Mapping[str, Any],
    provenance: Mapping[str, Any],
    verifications: Mapping[str, Verification],
    judged: Mapping[str, Any],
) -> dict[str, bytes]:
    """Returns the graphs' files, each saying what it is, its parity with JAX and how good it is.

    All values are JSON, as some readers assume."""
    named = ("observation_seed", "checkpoint_sha256")
    files = {}
    for graph in graphs:
        name = graph.graph.name
        absolute, relative = DISTANCE_TOLERANCE if name == "critic" else ACTION_TOLERANCE
        certificate = {
            "graph_sha256": graph_sha256(graph),
            "max_abs_error": verifications[name].max_abs_error,
            "tolerance": {"absolute": absolute, "relative": relative},
            "observations": len(verifications[name].errors),
            "versions": {package: version(package) for package in RUNTIMES},
            **{key: provenance[key] for key in named if key in provenance},
        }
        own = {
            "fathom.format_version": controller.FORMAT_VERSION,
            "fathom.spec": task,
            "fathom.certificate": certificate,
            "fathom.judged": dict(judged),
        }
        properties = {key: json.dumps(value, allow_nan=False) for key, value in own.items()}
        onnx.helper.set_model_props(graph, properties)
        properties[controller.CONTENT_HASH] = json.dumps(content_hash(graph))
        onnx.helper.set_model_props(graph, properties)
        files[f"{name}.onnx"] = graph.SerializeToString(deterministic=True)
    return files


def _golden_vectors(
    spec: TaskSpec, critic: Critic | None, observations: np.ndarray, goals: np.ndarray, actions: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns rows of what was verified; the critic's `distance` [K], if there is one, from acting so to the
    goal; and the same questions stretched to three times their distance from the middle of their ranges, with
    `outside` [K, 2] of them."""
    rows = np.linspace(0, len(observations) - 1, GOLDEN_VECTORS).round().astype(int)
    asked, action = {"obs": observations[rows], "goal": goals[rows]}, actions[rows]
    answers = (asked["obs"], action, asked["goal"])
    arrays = {} if critic is None else {"distance": reference(critic, answers).reshape(-1)}
    arrays |= asked | {"actions": action}
    outside = []
    for name, (low, high) in ranges(spec, observations, goals).items():
        arrays[f"far_{name}"] = 3 * asked[name] - (low + high)
        outside.append(excess(arrays[f"far_{name}"], (low, high)))
    return arrays | {"outside": np.stack(outside, axis=1)}


def _golden_files(values: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Returns the golden vectors for the controller, and the first of them as ONNX's own tools expect it."""
    target = io.BytesIO()
    np.savez(target, **values)  # type: ignore[arg-type]
    files = {"golden.npz": target.getvalue()}
    for file, name in (("input_0", "obs"), ("input_1", "goal"), ("output_0", "actions")):
        tensor = onnx.numpy_helper.from_array(values[name][:1], name)
        files[f"test_data_set_0/{file}.pb"] = tensor.SerializeToString(deterministic=True)
    return files


def _check_replaceable(directory: Path) -> None:
    if not directory.exists() or any((directory / name).exists() for name in ("spec.json", "policy.onnx")):
        return  # of a damaged bundle, one of them may be gone
    if not directory.is_dir() or any(directory.iterdir()):
        raise UsageError(
            f"{directory} exists and is no bundle (it has no spec.json); choose another directory"
        )


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes next to `directory`, opens the result as the robot will, then gives it its name."""
    partial = directory.with_name(f".{directory.name}.partial")
    replaced = directory.with_name(f".{directory.name}.replaced")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        controller.load(partial)
        if directory.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            directory.rename(replaced)
        try:
            partial.rename(directory)
        except OSError:
            if replaced.exists():
                replaced.rename(directory)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, controller.ControllerError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FathomError(f"cannot write bundle {directory}: {reason}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
