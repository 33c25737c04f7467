"""What an export writes, and what it proves before."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from bundles import COUNT, POLICY, PROVENANCE, SPEC, A, G, N, critic, export, policy, ran, rewrite

from export.bundle import sign, signing_key
from export.controller import ControllerError, load, open_session
from export.graph import critic_graph, flat_policy_graph, graph_sha256, policy_graph
from export.verify import ACTION_TOLERANCE, DISTANCE_TOLERANCE, reference, verify
from pipelines import export_students
from teacher.errors import FathomError, UsageError

STUDENT_OPERATORS = {"Concat", "Gemm", "Add", "Sigmoid", "Mul", "Tanh"}


def contents(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("file", "inputs", "output"),
    [
        ("policy", {"obs": [1, N], "goal": [1, G]}, {"actions": [1, A]}),
        ("policy_flat", {"obs": [1, N + G]}, {"actions": [1, A]}),
        ("policy_safe", {"obs": [1, N], "goal": [1, G]}, {"actions": [1, A], "outside": [1, 2]}),
        ("critic", {"obs": [1, N], "action": [1, A], "goal": [1, G]}, {"distance": [1]}),
    ],
)
def test_each_graph_has_the_promised_shapes_and_versions_and_says_what_was_proved(
    exported, file, inputs, output
):
    graph, verification = onnx.load(exported[0] / f"{file}.onnx"), exported[1][file]
    for values, promised in ((graph.graph.input, inputs), (graph.graph.output, output)):
        assert promised == {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        assert {v.type.tensor_type.elem_type for v in values} == {onnx.TensorProto.FLOAT}
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 13)]
    assert graph.ir_version == 7
    onnx.checker.check_model(graph, full_check=True)
    said = {each.key: json.loads(each.value) for each in graph.metadata_props}
    assert (said["fathom.format_version"], said["fathom.spec"]) == (3, SPEC.for_robot())
    assert said["fathom.judged"] == {"success": 0.9917}
    certificate = said["fathom.certificate"]
    assert certificate["graph_sha256"] == graph_sha256(graph)
    assert certificate["max_abs_error"] == verification.max_abs_error < 1e-5
    assert certificate["observations"] == len(verification.errors) == COUNT
    assert (certificate["observation_seed"], certificate["checkpoint_sha256"]) == (3, "ab" * 32)
    assert certificate["versions"].keys() == {"jax", "jax2onnx", "onnx", "onnxruntime"}
    assert 0 < verification.latency_us(50) <= verification.latency_us(99)


def operators(graph):
    return Counter(node.op_type for node in graph.graph.node)


def test_student_graph_holds_only_what_the_student_computes():
    assert operators(policy_graph(policy, SPEC)).keys() == STUDENT_OPERATORS
    assert policy_graph(jax.jit(policy), SPEC) == policy_graph(policy, SPEC)
    assert operators(flat_policy_graph(policy, SPEC)).keys() <= STUDENT_OPERATORS | {"Slice"}
    distance = operators(critic_graph(critic, SPEC)).keys()
    assert distance <= STUDENT_OPERATORS | {"Sub", "ReduceSumSquare", "Sqrt"}


def test_stacked_layers_become_layers_without_a_loop():
    weights = jnp.stack([POLICY[1][0]] * 3)

    def scanned(obs, goal):
        x = jnp.concatenate([obs, goal], axis=-1) @ POLICY[0][0]
        x, _ = jax.lax.scan(lambda x, weight: (jax.nn.swish(x @ weight), None), x, weights)
        return jnp.tanh(x @ POLICY[2][0])

    found = operators(policy_graph(scanned, SPEC))
    assert "Loop" not in found and found["Gemm"] == 5


def test_a_policy_of_a_wrong_size_or_that_draws_its_actions_is_refused():
    with pytest.raises(FathomError, match=r"policy: actions would be float32\[1, 6\].*float32\[1, 7\]"):
        policy_graph(lambda obs, goal: policy(obs, goal)[:, :6], SPEC)
    with pytest.raises(FathomError, match="policy: draws random numbers"):
        policy_graph(lambda o, g: policy(o, g) + 1e-9 * jax.random.normal(jax.random.key(0), (1, A)), SPEC)


def test_bundle_holds_exactly_the_promised_files_and_is_replaced_by_the_same(exported, copy):
    files = contents(exported[0])
    (copy / "policy.onnx").write_bytes(b"damaged")
    (copy / "of_another_export").touch()
    export(copy)
    assert contents(copy.parent) == {f"{copy.name}/{name}": content for name, content in files.items()}
    graphs = {"policy.onnx", "policy_flat.onnx", "policy_safe.onnx", "critic.onnx"}
    recorded = {"golden.npz", *(f"test_data_set_0/{n}.pb" for n in ("input_0", "input_1", "output_0"))}
    assert files.keys() == graphs | recorded | {"spec.json", "controller.py", "README.md", ".gitattributes"}
    for name, content in files.items():
        assert not any(str(path).encode() in content for path in (Path.home(), Path(__file__).parents[1])), (
            name
        )
    record = json.loads(files.pop("spec.json"))
    del files[".gitattributes"]
    assert record["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert (record["task"], record["provenance"]) == (SPEC.for_robot(), PROVENANCE)
    card = files["README.md"].decode()
    for text in ("success: 0.9917", "0.615", "rad/s", "out-of-scope use", "fr3_joint7", "0.05 s"):
        assert text in card


def test_golden_vectors_are_spread_over_the_rollouts_and_answered_alike_by_jax_and_every_graph(
    exported, rollouts
):
    golden = np.load(exported[0] / "golden.npz")
    assert (golden["obs"].shape, golden["goal"].shape) == ((64, N), (64, G))
    for name, values in zip(("obs", "goal"), rollouts, strict=False):
        np.testing.assert_array_equal(golden[name][[0, -1]], values[[0, -1]])
    np.testing.assert_allclose(golden["actions"], policy(golden["obs"], golden["goal"]), atol=1e-6)
    two, flat, safe, distance = (
        open_session((exported[0] / f"{name}.onnx").read_bytes())
        for name in ("policy", "policy_flat", "policy_safe", "critic")
    )
    for i in range(0, 64, 4):
        obs, goal, action, far_obs, far_goal = (
            golden[name][i : i + 1] for name in ("obs", "goal", "actions", "far_obs", "far_goal")
        )
        (answer,) = two.run(None, {"obs": obs, "goal": goal})
        np.testing.assert_allclose(answer, action, atol=1e-5)
        (of_one_input,) = flat.run(None, {"obs": np.concatenate([obs, goal], axis=1)})
        np.testing.assert_allclose(of_one_input, answer, atol=1e-6)
        found = distance.run(None, {"obs": obs, "action": action, "goal": goal})[0][0]
        assert found == pytest.approx(golden["distance"][i], rel=1e-5, abs=1e-5)
        assert found == pytest.approx(float(critic(obs, action, goal)[0]), rel=1e-5, abs=1e-5)
        outside = safe.run(["outside"], {"obs": far_obs, "goal": far_goal})[0][0]
        np.testing.assert_allclose(outside, golden["outside"][i], rtol=1e-4, atol=1e-5)
    assert (golden["outside"] > 0.1).mean() > 0.5


def test_parity_is_of_the_largest_error_and_of_the_stated_tolerance(rollouts):
    """One entry of one observation is enough; distances may differ by 1e-5 and 1e-5 of themselves."""
    obs, goals, actions = (values[:200] for values in rollouts)
    expected = reference(critic, (obs, actions, goals))
    inputs, graph = {"obs": obs, "action": actions, "goal": goals}, critic_graph(critic, SPEC)
    allowed = 1e-5 + 1e-5 * np.abs(expected)
    off = np.where(np.arange(200) == 7, allowed, 0)
    verification = verify(graph, inputs, expected + 0.5 * off, DISTANCE_TOLERANCE)
    assert verification.max_abs_error >= 0.3 * allowed[7]
    with pytest.raises(FathomError, match="observation 7 of 200"):
        verify(graph, inputs, expected + 2.5 * off, DISTANCE_TOLERANCE)
    graph, answers = policy_graph(policy, SPEC), reference(policy, (obs, goals))
    for wrong in (2.5e-5, np.nan):  # in one of 1400 entries; the mean would not notice
        spoiled = answers.copy()
        spoiled[3, 5] += wrong
        spoiled[12, 0] += 1.1e-5
        with pytest.raises(FathomError, match=r"policy: .* observation 3 of 200: expected .* obs .* goal"):
            verify(graph, {"obs": obs, "goal": goals}, spoiled, ACTION_TOLERANCE)


def test_a_bundle_survives_git_that_converts_line_ends(exported, tmp_path):
    """As on Windows: into a repository and out of it again."""

    def git(*words, cwd):
        options = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.autocrlf=true")
        ran("git", *options, *words, cwd=cwd)

    repository = tmp_path / "repository"
    shutil.copytree(exported[0], repository / "robot" / "small")
    for words in (["init"], ["add", "."], ["commit", "-m", "bundle"]):
        git(*words, cwd=repository)
    git("clone", repository, tmp_path / "clone", cwd=tmp_path)
    assert contents(tmp_path / "clone" / "robot" / "small") == contents(exported[0])


def key_pair(folder, name):
    """As somebody makes one: with OpenSSL."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    ran("openssl", "genpkey", "-algorithm", "ed25519", "-out", private)
    ran("openssl", "pkey", "-in", private, "-pubout", "-out", public)
    return private, public


def test_a_signed_bundle_is_loaded_by_those_who_trust_its_owner(copy, tmp_path):
    pytest.importorskip("cryptography")
    (private, public), (_, other) = (key_pair(tmp_path, name) for name in ("mine", "other"))
    with pytest.raises(ControllerError, match=r"spec\.json\.sig: cannot be read"):
        load(copy, trusted=public)
    sign(copy, signing_key(private))
    load(copy, trusted=public)
    load(copy)
    with pytest.raises(ControllerError, match=r"was not signed by the owner of .*other"):
        load(copy, trusted=other)
    with pytest.raises(ControllerError, match=r"mine\.pem: no public key can be read"):
        load(copy, trusted=private)
    checked = ["-rawin", "-in", copy / "spec.json", "-sigfile", copy / "spec.json.sig"]
    ran("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, *checked)
    (copy / "README.md").write_text("better than it is")  # what is signed is not a matter of warnings
    with pytest.raises(ControllerError, match=r"README\.md: SHA-256"):
        load(copy, trusted=public)
    rewrite(copy, rehash=["README.md"])
    load(copy)
    with pytest.raises(ControllerError, match=r"spec\.json was not signed"):
        load(copy, trusted=public)
    ran("openssl", "genpkey", "-algorithm", "rsa", "-out", tmp_path / "rsa.pem")
    for key, message in (("rsa.pem", "RSA.*, allowed: a private key of ed25519"), ("none", "no private key")):
        with pytest.raises(UsageError, match=rf"--sign: .*{key}: .*{message}"):
            signing_key(tmp_path / key)


def test_the_command_signs_and_a_second_profile_keeps_the_first(pipeline, debug_run, tmp_path, monkeypatch):
    pytest.importorskip("cryptography")
    run = Path(shutil.copytree(debug_run.path, tmp_path / "runs" / "debug"))
    private, public = key_pair(tmp_path, "mine")
    refused = pipeline("export", run, "--sign", public, cwd=tmp_path)
    assert refused.returncode == 2 and "--sign" in refused.stderr
    done = pipeline("export", run, "--resume", "--sign", private, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for bundle in filter(Path.is_dir, (run / "export").iterdir()):
        load(bundle, trusted=public)
    settings, found = json.loads((run / "config.json").read_text()), []
    settings["config"]["export"]["profiles"] = ["c99"]  # as after an export that asked for it
    (run / "config.json").write_text(json.dumps(settings))

    def noted(run, *_, **__):
        found.extend(run.config.export.profiles)
        return run.summary

    monkeypatch.setattr(export_students, "export", noted)
    done = pipeline("export", run, "--resume", "--profile", "c99:left", cwd=tmp_path)
    assert (done.returncode, found) == (0, ["c99", "c99:left"]), done.stderr


def test_graph_that_disagrees_with_jax_leaves_everything_as_it_was(rollouts, copy):
    def two_faced(obs, goal):
        """Graphs are made without jit, answers with it."""
        return policy(obs, goal) + 1e-4 * obs[:, :1] ** 2 * jax.config.jax_disable_jit

    before, worst = contents(copy.parent), int(np.argmax(rollouts[0][:, 0] ** 2))
    for directory in (copy, copy.with_name("new")):
        with pytest.raises(FathomError, match=f"policy: .* worst at observation {worst} of 1000"):
            export(directory, policy=two_faced)
        assert contents(copy.parent) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda o, g, a: (o[:999], g[:999], a[:999]), "at least 1000"),
        (lambda o, g, a: (o, g[:, :2], a), r"goal to verify with: float32\[1000, 2\].*float32\[1000, 3\]"),
        (lambda o, g, a: (o.astype(np.float64), g, a), r"obs to verify with: float64"),
        (lambda o, g, a: (o, g, np.full_like(a, np.nan)), "action to verify with: row 0 is not finite"),
    ],
)
def test_observations_that_do_not_fit_are_refused(rollouts, tmp_path, damage, message):
    with pytest.raises(FathomError, match=message):
        export(tmp_path / "small", damage(*rollouts))
    assert not list(tmp_path.iterdir())


def test_directory_that_is_no_bundle_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no bundle"):
        export(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}
