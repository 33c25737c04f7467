import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from export.bundle import write_bundle
from export.controller import ControllerError, load, with_content_hash
from teacher.tasks import make_task

SPEC = make_task("fr3_reach").spec
N, G, A = SPEC.observation_size, SPEC.goal_size, SPEC.action_size
PROVENANCE = {"observation_seed": 3, "teacher": {"depth": 16}}

WITHOUT_THE_PROJECT = """
import sys
BLOCKED = {"jax", "jaxlib", "flax", "onnx", "pydantic", "teacher", "student", "export", "pipelines"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
import numpy as np
import controller
loaded = controller.load(sys.argv[1])
golden = np.load(sys.argv[1] + "/golden.npz")
for obs, goal, expected in zip(golden["obs"], golden["goal"], golden["actions"]):
    assert np.abs(loaded.step(obs, goal) - expected).max() <= 1e-5
assert loaded.distance(golden["obs"][0], golden["actions"][0], golden["goal"][0]) > 0
assert not BLOCKED & set(sys.modules)
print(controller.__file__)
"""


FIRST, LAST = (
    jax.random.normal(jax.random.key(seed), shape) / 4 for seed, shape in enumerate([(N + G, 16), (16, A)])
)


def policy(obs, goal):
    return jnp.tanh(jax.nn.swish(jnp.concatenate([obs, goal], axis=-1) @ FIRST) @ LAST)


def critic(obs, action, goal):
    reached = obs[:, jnp.array(SPEC.goal.observation_indices)]
    return jnp.sqrt(jnp.sum((reached - goal) ** 2, axis=-1) + 0.01 * jnp.sum(action**2, axis=-1))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    random = np.random.default_rng(0)
    obs, actions = random.normal(size=(1000, N)), random.uniform(-1, 1, (1000, A))
    goals = random.uniform(SPEC.goal.low, SPEC.goal.high, (1000, G))
    arrays = (values.astype(np.float32) for values in (obs, goals, actions))
    directory = tmp_path_factory.mktemp("controller") / "small"
    write_bundle(
        directory, SPEC, policy, critic, *arrays, provenance=PROVENANCE, judge=lambda _: {"success": 0.99}
    )
    return directory


@pytest.fixture(scope="session")
def controller(bundle):
    return load(bundle)


@pytest.fixture
def copy(bundle, tmp_path):
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture
def obs():
    return np.linspace(-1, 1, N, dtype=np.float32)


@pytest.fixture
def goal():
    return np.array([0.3, 0.1, 0.5], np.float32)


def rewrite(directory, change, rehash=()):
    """Edits spec.json, as somebody would who also fits the hashes of the files named in `rehash`."""
    record = json.loads((directory / "spec.json").read_text())
    change(record)
    for name in rehash:
        record["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    del record["sha256"]
    (directory / "spec.json").write_bytes(with_content_hash(json.dumps(record)))


def test_controller_holds_the_specification_and_provenance(controller):
    assert controller.spec == SPEC.for_robot()
    assert controller.provenance == PROVENANCE


def test_bundle_carries_the_controller_itself(bundle):
    assert (bundle / "controller.py").read_bytes() == Path(inspect.getfile(ControllerError)).read_bytes()


def test_step_and_distance_answer_what_jax_answers(controller, obs, goal):
    action = controller.step(obs, goal).copy()
    assert action.dtype == np.float32
    np.testing.assert_allclose(action, policy(obs[None], goal[None])[0], atol=1e-5)
    expected = critic(obs[None], action[None], goal[None])[0]
    assert controller.distance(obs, action, goal) == pytest.approx(float(expected), abs=1e-5)
    np.testing.assert_array_equal(controller.step(obs, goal), action)


def test_step_answers_in_a_new_array_or_in_the_one_given(controller, obs, goal):
    first, out = controller.step(obs, goal), np.empty(7, np.float32)
    second = controller.step(-obs, goal, out)
    assert second is out
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, controller.step(obs, goal))


@pytest.mark.parametrize("out", [np.empty(7), np.empty(6, np.float32), np.empty((1, 7), np.float32)])
def test_step_refuses_to_write_into_another_type_or_shape(controller, obs, goal, out):
    with pytest.raises(ControllerError, match=r"out: float(32|64)\[.*\], allowed: float32\[7\]"):
        controller.step(obs, goal, out)


def test_step_neither_keeps_nor_changes_what_it_is_given(controller, obs, goal):
    given = obs.copy(), goal.copy()
    action = controller.step(*given).copy()
    np.testing.assert_array_equal(given[0], obs)
    np.testing.assert_array_equal(given[1], goal)
    given[0][:] = 7.0
    np.testing.assert_array_equal(controller.step(obs, goal), action)


def test_step_takes_views_that_are_not_contiguous(controller, obs, goal):
    expected = controller.step(obs, goal).copy()
    np.testing.assert_array_equal(controller.step(np.repeat(obs, 2)[::2], goal), expected)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda o, g: (o[:-1], g), rf"obs: shape \[{N - 1}\], allowed: \[{N}\]"),
        (lambda o, g: (o[None], g), rf"obs: shape \[1, {N}\], allowed: \[{N}\]"),
        (lambda o, g: (o, np.append(g, g)), rf"goal: shape \[6\], allowed: \[{G}\]"),
        (lambda o, g: (o.astype(np.float64), g), "obs: dtype float64, allowed: float32"),
        (lambda o, g: (o, g.astype(np.int32)), "goal: dtype int32, allowed: float32"),
        (lambda o, g: (list(o), g), "obs: list, allowed: a float32 array"),
        (
            lambda o, g: (np.where(np.arange(N) == 9, np.float32(np.nan), o), g),
            r"obs: joint_velocity\.fr3_joint3 = nan",
        ),
        (
            lambda o, g: (np.where(np.arange(N) == 14, np.float32(np.inf), o), g),
            r"obs: flange_position\.x = inf .*m, base",
        ),
        (
            lambda o, g: (o, np.array([0, -np.inf, np.nan], np.float32)),
            r"goal: flange_position\.y = -inf .*\.z = nan",
        ),
        (
            lambda o, g: (np.full(N, np.nan, np.float32), g),
            "joint4 = nan .* and 13 more; allowed: finite numbers",
        ),
    ],
)
def test_step_refuses_naming_input_and_entries(controller, obs, goal, damage, message):
    last = controller.step(obs, goal).copy()
    with pytest.raises(ControllerError, match=message):
        controller.step(*damage(obs, goal))
    np.testing.assert_array_equal(controller.step(obs, goal), last)


def test_answer_that_overflowed_is_refused(controller, obs, goal):
    with pytest.raises(ControllerError, match=r"actions: .*not finite"):
        controller.step(np.where(np.arange(N) % 2, 3e38, -3e38).astype(np.float32), goal)


def test_distance_refuses_a_wrong_action(controller, obs, goal):
    with pytest.raises(ControllerError, match=r"action: shape \[3\], allowed: \[7\]"):
        controller.distance(obs, goal, goal)


def flipped(content, at, bit):
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


def test_one_flipped_bit_of_any_byte_of_the_description_is_refused(copy):
    spec = copy / "spec.json"
    content = spec.read_bytes()
    for at in range(len(content)):
        spec.write_bytes(flipped(content, at, at % 8))
        with pytest.raises(ControllerError, match=r"^spec\.json: "):
            load(copy)


def test_one_flipped_bit_of_any_other_file_is_refused_by_its_name(copy):
    random = np.random.default_rng(0)
    free = ("spec.json", "README.md", ".gitattributes")
    files = [path for path in copy.rglob("*") if path.is_file() and path.name not in free]
    assert len(files) == 9
    for path in files:
        content = path.read_bytes()
        for at in {0, len(content) - 1, *random.integers(len(content), size=20).tolist()}:
            path.write_bytes(flipped(content, at, int(random.integers(8))))
            with pytest.raises(ControllerError, match=f"^{path.relative_to(copy)}: SHA-256"):
                load(copy)
        path.write_bytes(content)
    load(copy)


def test_the_model_card_altered_or_missing_is_a_warning(copy):
    (copy / "README.md").write_text("better than it is")
    with pytest.warns(UserWarning, match=r"README\.md: SHA-256"):
        load(copy)
    (copy / "README.md").unlink()
    with pytest.warns(UserWarning, match=r"README\.md: cannot be read"):
        load(copy)


@pytest.mark.parametrize("file", ["policy.onnx", "policy_flat.onnx", "critic.onnx", "golden.npz"])
def test_altered_or_missing_file_is_refused_by_name(copy, file):
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(ControllerError, match=f"^{file}: SHA-256 is"):
        load(copy)
    (copy / file).unlink()
    with pytest.raises(ControllerError, match=f"^{file}: cannot be read"):
        load(copy)


def test_swapped_graph_is_refused_even_with_a_fitting_hash(copy):
    shutil.copy(copy / "policy_flat.onnx", copy / "policy.onnx")
    rewrite(copy, lambda record: None, rehash=["policy.onnx"])
    with pytest.raises(ControllerError, match=r"policy\.onnx: inputs and outputs are .*spec\.json says"):
        load(copy)


def test_edited_specification_is_refused(copy):
    rewrite(copy, lambda record: record["task"]["action"]["scale"].__setitem__(0, 2.0))
    with pytest.raises(ControllerError, match="another task specification"):
        load(copy)


def test_policy_that_does_not_reproduce_the_golden_vectors_is_refused(copy):
    golden = dict(np.load(copy / "golden.npz"))
    golden["actions"][11, 3] += 1e-3
    np.savez(copy / "golden.npz", **golden)
    rewrite(copy, lambda record: None, rehash=["golden.npz"])
    with pytest.raises(ControllerError, match=r"golden\.npz: vector 11 of 64 is not reproduced"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda record: record.update(format_version=2),
            "bundle format 2, .*reads format 3; .*pipeline export RUN --resume",
        ),
        (lambda record: record["files"].pop("golden.npz"), r"lists no SHA-256 of golden\.npz"),
        (lambda record: record.pop("task"), "not a description of a bundle: KeyError"),
    ],
)
def test_record_that_cannot_be_trusted_is_refused(copy, change, message):
    rewrite(copy, change)
    with pytest.raises(ControllerError, match=f"spec.json: .*{message}"):
        load(copy)


def test_directory_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(ControllerError, match=r"^spec\.json: cannot be read"):
        load(tmp_path)
    (tmp_path / "spec.json").write_text("{")
    with pytest.raises(ControllerError, match=r"^spec\.json: not a description"):
        load(tmp_path)


def test_bundle_runs_where_jax_and_the_project_cannot_be_imported(bundle):
    assert run(sys.executable, "-c", WITHOUT_THE_PROJECT, bundle) == f"{bundle / 'controller.py'}\n"


def test_controller_prints_what_the_policy_expects(bundle):
    printed = run(sys.executable, bundle / "controller.py")
    for text in (
        f"fr3_reach version {SPEC.version}",
        "obs [17]",
        "flange_position [m, base frame]",
        "0.615",
        "golden",
        "p99",
    ):
        assert text in printed


def test_controller_refuses_an_altered_bundle_with_an_exit_code(copy):
    (copy / "golden.npz").write_bytes(b"")
    result = subprocess.run(
        [sys.executable, copy / "controller.py", copy], capture_output=True, text=True, cwd=copy, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("refused: golden.npz: SHA-256")


@pytest.mark.interpreters
@pytest.mark.parametrize(
    ("version", "runtime"),
    [
        ("3.8", ["onnxruntime==1.15.0"]),  # the oldest of which a wheel is still offered
        ("3.8", ["onnxruntime"]),
        ("3.10", ["onnxruntime"]),
        ("3.11", ["onnxruntime==1.15.0", "numpy<2"]),
        ("3.11", ["onnxruntime"]),
    ],
)
def test_bundle_runs_on_the_interpreters_and_runtimes_of_robots(bundle, tmp_path_factory, version, runtime):
    python = find_interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    venv = tmp_path_factory.mktemp(f"python{version}")
    run(python, "-m", "venv", "--without-pip", venv)  # its own pip would take longer than all the rest
    installed = subprocess.run(
        [python, "-m", "pip", "--python", venv / "bin/python", "install", "-q", "numpy", *runtime],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"{runtime} cannot be installed for Python {version}: {installed.stderr[-300:]}")
    run(venv / "bin/python", "-c", WITHOUT_THE_PROJECT, bundle)
    assert "golden vectors reproduced" in run(venv / "bin/python", bundle / "controller.py")


def find_interpreter(version):
    """A Python that really starts: a name on PATH may be a shim that refuses."""
    on_path = shutil.which(f"python{version}")
    installed = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    for candidate in [Path(on_path)] * bool(on_path) + installed:
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def run(*command):
    """What the command prints, away from the checkout and its import path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=gettempdir(),
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
