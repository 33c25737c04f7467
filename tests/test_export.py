import hashlib
import json
import shutil
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from export.bundle import sign, signing_key, write_bundle
from export.controller import ControllerError, load, open_session, with_content_hash
from export.graph import critic_graph, flat_policy_graph, graph_sha256, policy_graph
from export.verify import ACTION_TOLERANCE, DISTANCE_TOLERANCE, reference, verify
from teacher.errors import FathomError, UsageError
from teacher.tasks import make_task

SPEC = make_task("fr3_reach").spec
N, G, A = SPEC.observation_size, SPEC.goal_size, SPEC.action_size
COUNT = 1000
STUDENT_OPERATORS = {"Concat", "Gemm", "Add", "Sigmoid", "Mul", "Tanh"}


def layers(seed, sizes):
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    pairs = pairwise(sizes)
    return [
        (jax.random.normal(key, pair) / np.sqrt(pair[0]), 0.1 * jnp.ones(pair[1]))
        for key, pair in zip(keys, pairs, strict=True)
    ]


def apply(parameters, x):
    for weight, bias in parameters[:-1]:
        x = x @ weight + bias
        x = x * jax.nn.sigmoid(x)
    weight, bias = parameters[-1]
    return x @ weight + bias


POLICY, STATE_ACTION, GOAL = layers(0, (N + G, 64, 64, A)), layers(1, (N + A, 64, 32)), layers(2, (G, 64, 32))


def policy(obs, goal):
    return jnp.tanh(apply(POLICY, jnp.concatenate([obs, goal], axis=-1)))


def critic(obs, action, goal):
    difference = apply(STATE_ACTION, jnp.concatenate([obs, action], axis=-1)) - apply(GOAL, goal)
    return jnp.sqrt(jnp.sum(difference**2, axis=-1) + 1e-6)


class LinenPolicy(nn.Module):
    @nn.compact
    def __call__(self, obs, goal):
        x = jnp.concatenate([obs, goal], axis=-1)
        for _ in range(2):
            x = nn.swish(nn.Dense(64)(x))
        return jnp.tanh(nn.Dense(A)(x))


@pytest.fixture(scope="session")
def rollouts():
    random = np.random.default_rng(0)
    obs, actions = random.normal(size=(COUNT, N)), random.uniform(-1, 1, (COUNT, A))
    goals = random.uniform(SPEC.goal.low, SPEC.goal.high, (COUNT, G))
    return tuple(values.astype(np.float32) for values in (obs, goals, actions))


@pytest.fixture(scope="session")
def exported(tmp_path_factory, rollouts):
    directory = tmp_path_factory.mktemp("export") / "small"
    return directory, export(directory, rollouts)


def export(directory, rollouts, policy=policy, critic=critic):
    provenance = {"observation_seed": 3, "checkpoint_sha256": "ab" * 32, "teacher": {"depth": 16}}
    facts = {"success": 0.9917}
    return write_bundle(
        directory, SPEC, policy, critic, *rollouts, provenance=provenance, judge=lambda _: facts
    )


def contents(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def signature(graph):
    def describe(values):
        return [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [d.dim_value for d in value.type.tensor_type.shape.dim],
            )
            for value in values
        ]

    return describe(graph.graph.input), describe(graph.graph.output)


FLOAT = onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    ("file", "inputs", "output"),
    [
        ("policy.onnx", [("obs", FLOAT, [1, N]), ("goal", FLOAT, [1, G])], ("actions", FLOAT, [1, A])),
        ("policy_flat.onnx", [("obs", FLOAT, [1, N + G])], ("actions", FLOAT, [1, A])),
        (
            "critic.onnx",
            [("obs", FLOAT, [1, N]), ("action", FLOAT, [1, A]), ("goal", FLOAT, [1, G])],
            ("distance", FLOAT, [1]),
        ),
    ],
)
def test_files_have_the_promised_names_shapes_types_and_versions(exported, file, inputs, output):
    graph = onnx.load(exported[0] / file)
    assert signature(graph) == (inputs, [output])
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 13)]
    assert graph.ir_version == 7
    onnx.checker.check_model(graph, full_check=True)


def test_student_graph_holds_only_what_the_student_computes():
    plain = policy_graph(policy, SPEC)
    assert {node.op_type for node in plain.graph.node} == STUDENT_OPERATORS
    module = LinenPolicy()
    parameters = module.init(jax.random.key(0), jnp.zeros((1, N)), jnp.zeros((1, G)))
    linen = policy_graph(lambda obs, goal: module.apply(parameters, obs, goal), SPEC)
    assert Counter(node.op_type for node in linen.graph.node) == Counter(
        Concat=1, Gemm=3, Sigmoid=2, Mul=2, Tanh=1
    )
    flat = flat_policy_graph(policy, SPEC)
    assert {node.op_type for node in flat.graph.node} == STUDENT_OPERATORS | {"Slice"}
    distance = critic_graph(critic, SPEC)
    allowed = (STUDENT_OPERATORS - {"Tanh"}) | {"Sub", "ReduceSumSquare", "Sqrt"}
    assert {node.op_type for node in distance.graph.node} == allowed


def test_jit_around_a_policy_does_not_change_its_graph():
    assert policy_graph(jax.jit(policy), SPEC) == policy_graph(policy, SPEC)


def test_stacked_layers_become_layers_without_a_loop():
    weights = jnp.stack([POLICY[1][0]] * 3)

    def scanned(obs, goal):
        x = jnp.concatenate([obs, goal], axis=-1) @ POLICY[0][0]
        x, _ = jax.lax.scan(lambda x, weight: (nn.swish(x @ weight), None), x, weights)
        return jnp.tanh(x @ POLICY[2][0])

    operators = Counter(node.op_type for node in policy_graph(scanned, SPEC).graph.node)
    assert "Loop" not in operators
    assert operators["Gemm"] == 5


def test_answer_of_a_wrong_size_is_refused_naming_both_sizes():
    with pytest.raises(FathomError, match=r"policy: actions would be float32\[1, 6\].*float32\[1, 7\]"):
        policy_graph(lambda obs, goal: policy(obs, goal)[:, :6], SPEC)


def test_policy_that_draws_its_actions_is_refused():
    def sampled(obs, goal):
        return policy(obs, goal) + 1e-9 * jax.random.normal(jax.random.key(0), (1, A))

    with pytest.raises(FathomError, match="policy: draws random numbers"):
        policy_graph(sampled, SPEC)


def test_exporting_twice_gives_an_identical_directory(exported, rollouts, tmp_path):
    export(tmp_path / "again", rollouts)
    assert contents(tmp_path / "again") == contents(exported[0])


def test_bundle_holds_exactly_the_promised_files_and_their_hashes(exported):
    files = contents(exported[0])
    graphs = {"policy.onnx", "policy_flat.onnx", "policy_safe.onnx", "critic.onnx"}
    recorded = {"golden.npz", *(f"test_data_set_0/{n}.pb" for n in ("input_0", "input_1", "output_0"))}
    assert files.keys() == graphs | recorded | {"spec.json", "controller.py", "README.md", ".gitattributes"}
    record = json.loads(files.pop("spec.json"))
    del files[".gitattributes"]
    assert record["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert record["task"] == SPEC.for_robot()
    assert record["provenance"]["teacher"] == {"depth": 16}
    assert [path.name for path in exported[0].parent.iterdir()] == [exported[0].name]


def test_certificate_inside_each_graph_says_what_was_proved(exported):
    directory, verifications = exported
    for name, verification in verifications.items():
        properties = {
            p.key: json.loads(p.value) for p in onnx.load(directory / f"{name}.onnx").metadata_props
        }
        assert properties["fathom.format_version"] == 3
        assert properties["fathom.spec"] == SPEC.for_robot()
        assert properties["fathom.judged"] == {"success": 0.9917}
        certificate = properties["fathom.certificate"]
        assert certificate["graph_sha256"] == graph_sha256(onnx.load(directory / f"{name}.onnx"))
        assert certificate["max_abs_error"] == verification.max_abs_error
        assert certificate["observations"] == verification.observations == COUNT
        assert certificate["observation_seed"] == 3
        assert certificate["checkpoint_sha256"] == "ab" * 32
        assert certificate["versions"].keys() == {"jax", "jax2onnx", "onnx", "onnxruntime"}


def test_golden_vectors_are_spread_over_the_rollouts_and_answered_by_jax(exported, rollouts):
    golden = np.load(exported[0] / "golden.npz")
    obs, goals, _ = rollouts
    assert golden["obs"].shape == (64, N)
    assert golden["goal"].shape == (64, G)
    np.testing.assert_array_equal(golden["obs"][[0, -1]], obs[[0, -1]])
    np.testing.assert_array_equal(golden["goal"][[0, -1]], goals[[0, -1]])
    np.testing.assert_allclose(golden["actions"], policy(golden["obs"], golden["goal"]), atol=1e-6)


def test_golden_vectors_of_critic_and_safe_policy_are_answered_by_their_graphs(exported):
    golden = np.load(exported[0] / "golden.npz")
    distance = open_session((exported[0] / "critic.onnx").read_bytes())
    safe = open_session((exported[0] / "policy_safe.onnx").read_bytes())
    for i in range(len(golden["obs"])):
        obs, goal, action, far_obs, far_goal = (
            golden[name][i : i + 1] for name in ("obs", "goal", "actions", "far_obs", "far_goal")
        )
        found = distance.run(None, {"obs": obs, "action": action, "goal": goal})[0][0]
        assert found == pytest.approx(golden["distance"][i], rel=1e-5, abs=1e-5)
        assert found == pytest.approx(float(critic(obs, action, goal)[0]), rel=1e-5, abs=1e-5)
        outside = safe.run(["outside"], {"obs": far_obs, "goal": far_goal})[0][0]
        np.testing.assert_allclose(outside, golden["outside"][i], rtol=1e-4, atol=1e-5)
    assert (golden["outside"] > 0.1).mean() > 0.5


def test_parity_is_of_the_largest_error_and_of_the_stated_tolerance(rollouts):
    """One entry of one observation is enough; distances may differ by 1e-5 and 1e-5 of themselves."""
    obs, goals, actions = (values[:200] for values in rollouts)
    expected = reference(critic, (obs, actions, goals)).copy()
    inputs, graph = {"obs": obs, "action": actions, "goal": goals}, critic_graph(critic, SPEC)
    allowed = 1e-5 + 1e-5 * np.abs(expected)
    close, wrong = expected.copy(), expected.copy()
    close[7] += 0.5 * allowed[7]
    _, verification = verify(graph, inputs, close, DISTANCE_TOLERANCE)
    assert verification.max_abs_error >= 0.3 * allowed[7]
    wrong[7] += 2.5 * allowed[7]
    with pytest.raises(FathomError, match="observation 7 of 200"):
        verify(graph, inputs, wrong, DISTANCE_TOLERANCE)
    answers = reference(policy, (obs, goals)).copy()
    answers[3, 5] += 2.5e-5  # of 1400 entries; the mean would not notice
    with pytest.raises(FathomError, match="observation 3 of 200"):
        verify(policy_graph(policy, SPEC), {"obs": obs, "goal": goals}, answers, ACTION_TOLERANCE)


def git(*arguments, cwd):
    options = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.autocrlf=true")
    subprocess.run(["git", *options, *map(str, arguments)], cwd=cwd, check=True, capture_output=True)


def test_a_bundle_survives_git_that_converts_line_ends(exported, tmp_path):
    """As on Windows: into a repository and out of it again."""
    repository = tmp_path / "repository"
    shutil.copytree(exported[0], repository / "robot" / "small")
    git("init", cwd=repository)
    git("add", ".", cwd=repository)
    git("commit", "-m", "bundle", cwd=repository)
    git("clone", repository, tmp_path / "clone", cwd=tmp_path)
    assert contents(tmp_path / "clone" / "robot" / "small") == contents(exported[0])
    load(tmp_path / "clone" / "robot" / "small")


def key_pair(folder, name):
    """As somebody makes one: with OpenSSL."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def test_a_signed_bundle_is_loaded_by_those_who_trust_its_owner(exported, tmp_path):
    pytest.importorskip("cryptography")
    bundle = Path(shutil.copytree(exported[0], tmp_path / "small"))
    (private, public), (_, other) = (key_pair(tmp_path, name) for name in ("mine", "other"))
    with pytest.raises(ControllerError, match=r"spec\.json\.sig: cannot be read"):
        load(bundle, trusted=public)
    sign(bundle, signing_key(private))
    load(bundle, trusted=public)
    load(bundle)
    with pytest.raises(ControllerError, match=r"was not signed by the owner of .*other"):
        load(bundle, trusted=other)
    checked = ["-rawin", "-in", bundle / "spec.json", "-sigfile", bundle / "spec.json.sig"]
    subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, *checked], check=True)
    (bundle / "README.md").write_text("better than it is")  # what is signed is not a matter of warnings
    with pytest.raises(ControllerError, match=r"README\.md: SHA-256"):
        load(bundle, trusted=public)
    record = json.loads((bundle / "spec.json").read_text())
    record["files"]["README.md"] = hashlib.sha256((bundle / "README.md").read_bytes()).hexdigest()
    del record["sha256"]
    (bundle / "spec.json").write_bytes(with_content_hash(json.dumps(record)))
    load(bundle)
    with pytest.raises(ControllerError, match=r"spec\.json was not signed"):
        load(bundle, trusted=public)


def test_the_command_signs_and_a_second_profile_keeps_the_first(pipeline, debug_run, tmp_path):
    pytest.importorskip("cryptography")
    run = Path(shutil.copytree(debug_run.path, tmp_path / "runs" / "debug"))
    private, public = key_pair(tmp_path, "mine")
    refused = pipeline("export", run, "--sign", public, cwd=tmp_path)
    assert refused.returncode == 2
    assert "--sign" in refused.stderr
    for profile in ("c99", "c99:left"):
        done = pipeline("export", run, "--resume", "--profile", profile, "--sign", private, cwd=tmp_path)
        assert "Traceback" not in done.stderr
    for bundle in (run / "export").iterdir():
        if bundle.is_dir():
            load(bundle, trusted=public)
            assert {"policy.c", "left.c", "left.h"} <= {
                path.name for path in (bundle / "deploy/c99").iterdir()
            }


def test_keys_of_other_kinds_are_refused_by_name(tmp_path):
    pytest.importorskip("cryptography")
    private = tmp_path / "rsa.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "rsa", "-out", private], check=True, capture_output=True
    )
    with pytest.raises(UsageError, match=r"--sign: .*rsa\.pem: .*RSA.*, allowed: a private key of ed25519"):
        signing_key(private)
    for content in (None, b"no key"):
        if content:
            private.write_bytes(content)
        else:
            private.unlink()
        with pytest.raises(UsageError, match=r"--sign: .*rsa\.pem: no private key"):
            signing_key(private)


def test_verification_reports_error_and_latency(exported):
    for verification in exported[1].values():
        assert 0 <= verification.max_abs_error < 1e-5
        assert 0 < verification.latency_p50_us <= verification.latency_p99_us


def test_card_carries_facts_ranges_units_and_warnings(exported):
    card = (exported[0] / "README.md").read_text()
    for text in (
        "success: 0.9917",
        "0.615",
        "rad/s",
        "out-of-scope use",
        'load(".")',
        "fr3_joint7",
        "0.05 s",
    ):
        assert text in card


def test_flat_graph_equals_the_two_input_graph(exported, rollouts):
    obs, goals, _ = rollouts
    two = open_session((exported[0] / "policy.onnx").read_bytes())
    flat = open_session((exported[0] / "policy_flat.onnx").read_bytes())
    for i in range(0, COUNT, 50):
        o, g = obs[i : i + 1], goals[i : i + 1]
        both = flat.run(None, {"obs": np.concatenate([o, g], axis=1)})[0]
        np.testing.assert_array_equal(both, two.run(None, {"obs": o, "goal": g})[0])


def test_disagreement_names_graph_worst_observation_and_values(rollouts):
    obs, goals, _ = rollouts
    expected = reference(policy, (obs, goals)).copy()
    expected[417, 2] += 1e-3
    expected[12, 0] += 1e-4
    with pytest.raises(
        FathomError, match=r"policy: .* observation 417 of 1000: expected .* found .* obs .* goal"
    ):
        verify(policy_graph(policy, SPEC), {"obs": obs, "goal": goals}, expected, ACTION_TOLERANCE)


def test_answer_that_is_not_a_number_never_passes(rollouts):
    obs, goals, _ = rollouts
    expected = reference(policy, (obs, goals)).copy()
    expected[5, 1] = np.nan
    with pytest.raises(FathomError, match="observation 5 of 1000"):
        verify(policy_graph(policy, SPEC), {"obs": obs, "goal": goals}, expected, ACTION_TOLERANCE)


@pytest.mark.parametrize("existing", [False, True])
def test_graph_that_disagrees_with_jax_leaves_everything_as_it_was(rollouts, tmp_path, existing):
    def two_faced(obs, goal):
        """Graphs are made without jit, answers with it."""
        return policy(obs, goal) + 1e-4 * obs[:, :1] ** 2 * jax.config.jax_disable_jit

    directory = tmp_path / "small"
    if existing:
        export(directory, rollouts)
    before = contents(tmp_path / "small") if existing else None
    worst = int(np.argmax(rollouts[0][:, 0] ** 2))
    with pytest.raises(FathomError, match=f"policy: .* worst at observation {worst} of 1000"):
        export(directory, rollouts, policy=two_faced)
    assert [path.name for path in tmp_path.iterdir()] == ["small"] * existing
    assert (contents(directory) if existing else None) == before


def test_new_bundle_replaces_the_old_one(rollouts, tmp_path):
    directory = tmp_path / "small"
    export(directory, rollouts)
    before = contents(directory)
    export(directory, rollouts, policy=lambda obs, goal: -policy(obs, goal))
    assert contents(directory)["policy.onnx"] != before["policy.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_directory_that_is_no_bundle_is_never_replaced(rollouts, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no bundle"):
        export(tmp_path, rollouts)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


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


def test_exported_files_name_no_directory_of_this_machine(exported):
    for name, content in contents(exported[0]).items():
        assert str(Path.home()).encode() not in content, name
        assert str(Path(__file__).parent.parent).encode() not in content, name
