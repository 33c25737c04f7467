"""The C version of a policy: compiled with warnings as errors, and equal to the graph it was made from."""

import ctypes
import shutil
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from bundles import SPEC, ran, untrained

from export.c import policy_c
from export.controller import open_session
from export.graph import graph_sha256, policy_graph
from student.config import Size
from student.networks import act
from teacher.errors import FathomError, UsageError

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
C = [shutil.which("gcc") or "gcc", "-std=c99"]
CPP = [shutil.which("g++") or "g++", "-std=c++11"]


def write(folder, **files):
    for name, text in files.items():
        (folder / name).write_text(text)


def graph(activation):
    student = untrained(Size(width=24, layers=2, activation=activation), SPEC.sizes)
    return policy_graph(partial(act, student), SPEC)


@pytest.fixture(scope="module")
def model():
    return graph("swish")


@pytest.mark.parametrize("activation", ["swish", "relu"])
def test_c_answers_as_onnx_runtime_does_and_names_its_graph(activation, tmp_path):
    model = graph(activation)
    write(tmp_path, **policy_c(model, SPEC))
    ran(*C, "-O2", *WARNINGS, "-shared", "-fPIC", "policy.c", "-o", "policy.so", "-lm", cwd=tmp_path)
    library, session = ctypes.CDLL(str(tmp_path / "policy.so")), open_session(model.SerializeToString())
    draw, found = np.random.default_rng(0), np.empty(SPEC.action_size, np.float32)
    for scale in np.repeat([0.0, 1.0, 1e3], 50):
        obs, goal = ((scale * draw.normal(size=size)).astype(np.float32) for size in SPEC.sizes[::2])
        library.policy_step(*(array.ctypes.data_as(ctypes.c_void_p) for array in (obs, goal, found)))
        expected = session.run(None, {"obs": obs[None], "goal": goal[None]})[0][0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    stated = (ctypes.c_char * 65).in_dll(library, "policy_graph_sha256").value.decode()
    assert stated == graph_sha256(model)


def test_headers_serve_cpp_and_two_policies_with_expf_and_tanhf_alone(model, tmp_path):
    for prefix in ("left", "right"):
        files = policy_c(model, SPEC, prefix)
        assert set(files) == {f"{prefix}.h", f"{prefix}.c"}
        write(tmp_path, **files)
        ran(*C, "-O2", *WARNINGS, "-c", f"{prefix}.c", "-o", f"{prefix}.o", cwd=tmp_path)
    (tmp_path / "main.cpp").write_text(
        '#include "left.h"\n#include "right.h"\nint main() { float o[LEFT_OBS_SIZE] = {}, '
        "g[RIGHT_GOAL_SIZE] = {}, a[LEFT_ACTION_SIZE], b[RIGHT_ACTION_SIZE]; left_step(o, g, a); "
        "right_step(o, g, b); return !(a[0] == b[0] && left_graph_sha256[0] == right_graph_sha256[0]); }\n"
    )
    ran(*CPP, *WARNINGS, "main.cpp", "left.o", "right.o", "-o", "main", "-lm", cwd=tmp_path)
    ran(tmp_path / "main")
    undefined = {name for name in ran("nm", "-u", tmp_path / "left.o").stdout.split() if len(name) > 1}
    assert undefined <= {"expf", "tanhf", "memcpy", "_GLOBAL_OFFSET_TABLE_"}


def test_what_has_no_c_version_is_named():
    model = policy_graph(lambda obs, goal: jnp.tanh(jnp.sin(obs[:, :7]) + goal[:, :1]), SPEC)
    with pytest.raises(FathomError, match=r"operator (Slice|Sin|Gather)"):
        policy_c(model, SPEC)
    for prefix in ("", "Left", "9lives", "a-b", "a*/b"):
        with pytest.raises(UsageError, match="c99: prefix"):
            policy_c(model, SPEC, prefix)


def test_a_name_cannot_end_the_comment_that_it_stands_in(model, tmp_path):
    named = SPEC.model_copy(update={"name": 'arm */ #error "out" /* \\\n??/'})
    write(tmp_path, **policy_c(model, named))
    ran(*C, *WARNINGS, "-c", "policy.c", "-o", "policy.o", cwd=tmp_path)
