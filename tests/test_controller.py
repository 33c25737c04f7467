"""The controller that a bundle carries: what it answers, and what it refuses."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
from bundles import PROVENANCE, SPEC, A, G, N, critic, policy, ran, rewrite

from export.controller import ControllerError, load

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


@pytest.fixture
def obs():
    return np.linspace(-1, 1, N, dtype=np.float32)


@pytest.fixture
def goal():
    return np.array([0.3, 0.1, 0.5], np.float32)


def test_step_and_distance_answer_what_jax_answers(controller, obs, goal):
    action = controller.step(obs, goal)
    assert action.dtype == np.float32
    np.testing.assert_allclose(action, policy(obs[None], goal[None])[0], atol=1e-5)
    expected = float(critic(obs[None], action[None], goal[None])[0])
    assert controller.distance(obs, action, goal) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    np.testing.assert_array_equal(controller.step(np.repeat(obs, 2)[::2], goal), action)  # not contiguous
    assert controller.spec == SPEC.for_robot() and controller.provenance == PROVENANCE


def test_step_answers_in_a_new_array_or_in_the_one_given_and_keeps_nothing(controller, obs, goal):
    given, out = (obs.copy(), goal.copy()), np.empty(A, np.float32)
    first = controller.step(*given)
    assert controller.step(-obs, goal, out) is out
    assert not np.array_equal(first, out)
    np.testing.assert_array_equal(given[0], obs)
    np.testing.assert_array_equal(given[1], goal)
    given[0][:] = 7.0
    np.testing.assert_array_equal(controller.step(obs, goal), first)


@pytest.mark.parametrize("out", [np.empty(A), np.empty(A - 1, np.float32), np.empty((1, A), np.float32)])
def test_step_refuses_to_write_into_another_type_or_shape(controller, obs, goal, out):
    with pytest.raises(ControllerError, match=r"out: float(32|64)\[.*\], allowed: a float32 array"):
        controller.step(obs, goal, out)


def at(entry, value):
    return lambda o, g: (np.where(np.arange(N) == entry, np.float32(value), o), g)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda o, g: (o[:-1], g), rf"obs: float32\[{N - 1}\], allowed: a float32 array \[{N}\]"),
        (lambda o, g: (o, np.append(g, g)), rf"goal: float32\[6\], allowed: a float32 array \[{G}\]"),
        (lambda o, g: (o.astype(np.float64), g), "obs: float64"),
        (lambda o, g: (list(o), g), "obs: list, allowed: a float32 array"),
        (at(9, np.nan), r"obs: joint_velocity\.fr3_joint3 = nan"),
        (at(14, np.inf), r"obs: flange_position\.x = inf .*m, base"),
        (lambda o, g: (o, np.float32([0, -np.inf, np.nan])), r"goal: flange_position\.y = -inf .*\.z = nan"),
        (
            lambda o, g: (np.full(N, np.nan, np.float32), g),
            "joint4 = nan .* and 13 more; allowed: finite numbers",
        ),
        # Finite, and yet the answer overflows.
        (lambda o, g: (np.where(np.arange(N) % 2, 3e38, -3e38).astype(np.float32), g), r"actions: .*finite"),
    ],
)
def test_step_refuses_naming_input_and_entries(controller, obs, goal, damage, message):
    last = controller.step(obs, goal)
    with pytest.raises(ControllerError, match=message):
        controller.step(*damage(obs, goal))
    np.testing.assert_array_equal(controller.step(obs, goal), last)
    with pytest.raises(ControllerError, match=r"action: float32\[3\], allowed: a float32 array \[7\]"):
        controller.distance(obs, goal, goal)


def test_a_file_with_a_fitting_hash_is_refused_all_the_same(copy):
    policy, golden = (copy / "policy.onnx").read_bytes(), dict(np.load(copy / "golden.npz"))
    shutil.copy(copy / "policy_flat.onnx", copy / "policy.onnx")
    rewrite(copy, rehash=["policy.onnx"])
    with pytest.raises(ControllerError, match=r"policy\.onnx: inputs and outputs are .*spec\.json says"):
        load(copy)
    (copy / "policy.onnx").write_bytes(policy)
    golden["actions"][11, 3] += 1e-3
    np.savez(copy / "golden.npz", **golden)
    rewrite(copy, rehash=["golden.npz", "policy.onnx"])
    with pytest.raises(ControllerError, match=r"golden\.npz: vector 11 of 64 is not reproduced"):
        load(copy)


def away(*command, **environment):
    """What the command prints, away from the checkout and its import path."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return ran(*command, env=own | environment, cwd=gettempdir()).stdout


def test_bundle_runs_where_jax_and_the_project_cannot_be_imported(bundle):
    assert away(sys.executable, "-c", WITHOUT_THE_PROJECT, bundle) == f"{bundle / 'controller.py'}\n"
    assert (bundle / "controller.py").read_bytes() == Path(inspect.getfile(ControllerError)).read_bytes()


def test_controller_prints_what_the_policy_expects_or_refuses_with_an_exit_code(bundle, copy):
    printed = away(sys.executable, bundle / "controller.py")
    for text in (f"fr3_reach version {SPEC.version}", "obs [17]", "[m, base frame]", "golden", "p99"):
        assert text in printed
    (copy / "golden.npz").write_bytes(b"")
    done = ran(sys.executable, copy / "controller.py", copy, code=1)
    assert done.stderr.startswith("refused: golden.npz: SHA-256")


OLDEST = "onnxruntime==1.15.0"  # of which a wheel is still offered


@pytest.mark.interpreters
@pytest.mark.parametrize(
    ("version", "runtime"),
    [
        ("3.8", OLDEST),
        *(pytest.param(each, "onnxruntime", marks=pytest.mark.slow) for each in ("3.8", "3.10", "3.11")),
    ],
)
def test_bundle_runs_on_the_interpreters_and_runtimes_of_robots(bundle, tmp_path, version, runtime):
    python = find_interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    words = [python, "-m", "pip", "install", "-q", "--no-compile", "--target", tmp_path, "numpy", runtime]
    installed = subprocess.run(words, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"{runtime} cannot be installed for Python {version}: {installed.stderr[-300:]}")
    away(python, "-c", WITHOUT_THE_PROJECT, bundle, PYTHONPATH=str(tmp_path))
    printed = away(python, bundle / "controller.py", PYTHONPATH=str(tmp_path))
    assert "golden vectors reproduced" in printed


def find_interpreter(version):
    """A Python that really starts: a name on PATH may be a shim that refuses."""
    on_path = shutil.which(f"python{version}")
    installed = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    for candidate in [Path(on_path)] * bool(on_path) + installed:
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None
