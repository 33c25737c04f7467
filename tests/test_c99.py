"""The C version of a policy: compiled with warnings as errors, and equal to the graph it was made from."""

import ctypes
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from export.c import policy_c
from export.controller import open_session
from export.graph import graph_sha256, policy_graph
from student.config import Size
from student.networks import act, init_student
from teacher.errors import FathomError, UsageError
from teacher.tasks import make_task

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
C = [shutil.which("gcc") or "gcc", "-std=c99"]
CPP = [shutil.which("g++") or "g++", "-std=c++11"]


def compiled(folder, model, spec):
    """The policy as a function of obs and goal."""
    for name, text in policy_c(model, spec).items():
        (folder / name).write_text(text)
    library = folder / "policy.so"
    subprocess.run(
        [*C, "-O2", *WARNINGS, "-shared", "-fPIC", folder / "policy.c", "-o", library, "-lm"], check=True
    )
    loaded = ctypes.CDLL(str(library))

    def policy(obs, goal):
        actions = np.empty(spec.action_size, np.float32)
        loaded.policy_step(*(array.ctypes.data_as(ctypes.c_void_p) for array in (obs, goal, actions)))
        return actions

    policy.library = loaded
    return policy


@pytest.fixture(scope="module", params=["swish", "relu"])
def exported(request):
    spec = make_task("fr3_reach").spec
    size = Size(width=24, layers=2, activation=request.param)
    student = init_student(jax.random.key(3), size, size, spec.sizes, 8)
    return policy_graph(lambda obs, goal: act(student, obs, goal), spec), spec


def test_c_answers_as_onnx_runtime_does(exported, tmp_path):
    model, spec = exported
    policy, session = compiled(tmp_path, model, spec), open_session(model.SerializeToString())
    draw = np.random.default_rng(0)
    for scale in (0.0, 1.0, 1e3):
        for _ in range(50):
            obs, goal = (
                (scale * draw.normal(size=size)).astype(np.float32)
                for size in (spec.observation_size, spec.goal_size)
            )
            expected = session.run(None, {"obs": obs[None], "goal": goal[None]})[0][0]
            np.testing.assert_allclose(policy(obs, goal), expected, atol=1e-5)


def test_c_names_the_graph_it_was_made_from(exported, tmp_path):
    model, spec = exported
    library = compiled(tmp_path, model, spec).library
    stated = (ctypes.c_char * 65).in_dll(library, "policy_graph_sha256").value.decode()
    assert stated == graph_sha256(model)


def test_header_serves_cpp_and_the_source_needs_expf_and_tanhf_alone(exported, tmp_path):
    model, spec = exported
    compiled(tmp_path, model, spec)
    (tmp_path / "main.cpp").write_text(
        '#include "policy.h"\nint main() { float o[POLICY_OBS_SIZE] = {}, g[POLICY_GOAL_SIZE] = {}, '
        "a[POLICY_ACTION_SIZE]; policy_step(o, g, a); return a[0] >= -1.0f && a[0] <= 1.0f ? 0 : 1; }\n"
    )
    subprocess.run([*C, "-O2", *WARNINGS, "-c", "policy.c", "-o", "policy.o"], cwd=tmp_path, check=True)
    subprocess.run([*CPP, *WARNINGS, "main.cpp", "policy.o", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "main"], check=True)
    undefined = subprocess.run(
        ["nm", "-u", tmp_path / "policy.o"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {name for name in undefined if len(name) > 1} <= {
        "expf",
        "tanhf",
        "memcpy",
        "_GLOBAL_OFFSET_TABLE_",
    }


def test_operators_without_c_version_are_named():
    spec = make_task("fr3_reach").spec
    model = policy_graph(lambda obs, goal: jnp.tanh(jnp.sin(obs[:, :7]) + goal[:, :1]), spec)
    with pytest.raises(FathomError, match=r"operator (Slice|Sin|Gather)"):
        policy_c(model, spec)
    assert isinstance(model, onnx.ModelProto)


def test_two_policies_live_in_one_program_by_their_prefixes(exported, tmp_path):
    model, spec = exported
    for prefix in ("left", "right"):
        files = policy_c(model, spec, prefix)
        assert set(files) == {f"{prefix}.h", f"{prefix}.c"}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
    (tmp_path / "main.c").write_text(
        '#include "left.h"\n#include "right.h"\nint main(void) { float o[LEFT_OBS_SIZE] = {0}, '
        "g[RIGHT_GOAL_SIZE] = {0}, a[LEFT_ACTION_SIZE], b[RIGHT_ACTION_SIZE]; left_step(o, g, a); "
        "right_step(o, g, b); return !(a[0] == b[0] && left_graph_sha256[0] == right_graph_sha256[0]); }\n"
    )
    command = [*C, *WARNINGS, "main.c", "left.c", "right.c", "-o", "main", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "main"], check=True)


@pytest.mark.parametrize("prefix", ["", "Left", "9lives", "a-b", "a*/b"])
def test_a_prefix_that_is_no_name_in_c_is_refused(exported, prefix):
    with pytest.raises(UsageError, match="c99: prefix"):
        policy_c(*exported, prefix)


def test_a_name_cannot_end_the_comment_that_it_stands_in(exported, tmp_path):
    model, spec = exported
    named = spec.model_copy(update={"name": 'arm */ #error "out" /* \\\n??/'})
    assert "*/ #error" not in policy_c(model, named)["policy.h"]
    compiled(tmp_path, model, named)
