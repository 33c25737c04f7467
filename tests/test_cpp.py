"""The policy in C and the controller in C++: compiled with warnings as errors, and equal to Python's."""

import ctypes
import re
import shutil
import subprocess
from functools import cache, partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from bundles import SPEC, ran, untrained
from test_command_limiter import ROUNDS, TASKS, broken, sequences

from export.c import controller_cpp, policy_c
from export.controller import open_session
from export.graph import graph_sha256, policy_graph
from student.config import Size
from student.networks import act
from teacher.errors import FathomError, UsageError

FLAGS = [("-O2",), ("-Ofast",), ("-O2", "-m32")]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
C = [shutil.which("gcc") or "gcc", "-std=c99"]
CPP = [shutil.which("g++") or "g++", "-std=c++17"]

PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include <limits>
#include "controller.hpp"

using namespace fathom;

struct Arm {
    char mode;
    int written = 0, stopped = 0;
    Clock::time_point read(Reading &reading) {
        reading.fill(0.1f);
        if (mode == 'n' && written == 3) reading[1] = std::numeric_limits<float>::quiet_NaN();
        return Clock::now() + std::chrono::seconds(mode == 's' ? -10 : mode == 'f' ? 10 : 0);
    }
    void write(const Command &) {
        written++;
        const std::chrono::duration<double> late(mode == 'l' && written == 3 ? 2.5 * spec::control_dt : 0.0);
        std::this_thread::sleep_for(late);
    }
    void stop() { stopped++; }
};

template <class Values> bool next(Values &values) {
    return std::fread(values.data(), sizeof(values[0]), values.size(), stdin) == values.size();
}

int main(int, char **words) {
    Controller controller;
    CommandLimiter limiter(words[1][1] ? std::atof(words[1] + 1) : 0.5);
    if (words[1][0] == 'g') {  // what to do, action, reading -> whether that was refused, command
        std::array<float, 1> what;
        Action action;
        Reading reading;
        Command command{};
        while (next(what) && next(action) && next(reading)) {
            double refused = 0.0;
            try {
                if (what[0] == 2.0f) throw Error((limiter.start(), "nothing is commanded yet"));
                command = limiter(what[0] == 1.0f ? nullptr : &action, reading);
            } catch (const Error &) {
                refused = 1.0;
            }
            std::fwrite(&refused, sizeof refused, 1, stdout);
            std::fwrite(command.data(), sizeof(double), command.size(), stdout);
        }
        return 0;
    }
    if (words[1][0] == 'h') {  // reading -> observation
        Reading reading;
        while (next(reading)) {
            const Observation &seen = controller.observe(reading);
            std::fwrite(seen.data(), sizeof(float), seen.size(), stdout);
        }
        return 0;
    }
    Arm arm{words[1][0]};
    Goal goal{};
    try {
        const LoopStats found = run(controller, limiter, arm, goal, 10 * spec::control_dt);
        std::printf("%d %d %d %d\n", static_cast<int>(found.steps), static_cast<int>(found.held),
                    static_cast<int>(found.missed_deadlines), found.longest_s > 0);
    } catch (const Error &error) {
        std::printf("%s\n", error.what());
    }
    std::printf("stopped %d after %d\n", arm.stopped, arm.written);
    return 0;
}
"""


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)


def graph(spec, activation="swish"):
    student = untrained(Size(width=24, layers=2, activation=activation), spec.sensed_sizes)
    return policy_graph(partial(act, student), spec)


def sources(spec):
    """The sources of a program of the task's controller."""
    draw, model = np.random.default_rng(0), graph(spec)
    session = open_session(model.SerializeToString())
    obs, goals = (draw.normal(size=(16, width)).astype(np.float32) for width in spec.sensed_sizes[::2])
    answers = [
        session.run(None, {"obs": o[None], "goal": g[None]})[0] for o, g in zip(obs, goals, strict=True)
    ]
    golden = {"obs": obs, "goal": goals, "actions": np.concatenate(answers)}
    return policy_c(model, spec) | controller_cpp(spec, golden) | {"main.cpp": PROGRAM}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A function of a task's name and the compiler's options: a program of its controller."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")

    @cache
    def written(name):
        folder = tmp_path_factory.mktemp(name)
        write(folder, sources(TASKS[name]))
        return folder

    return cache(lambda name, *options: compiled(written(name), *options))


def compiled(folder, *options):
    file = folder / "-".join(("program", *options))
    c = [*C, *options, *WARNINGS, "-c", "policy.c", "-o", "policy.o"]
    both = [*CPP, *options, *WARNINGS, "main.cpp", "policy.o", "-o", file, "-lm"]
    for command in (c, both):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode and "-m32" in options:
            pytest.skip(f"this compiler makes no 32-bit programs: {done.stderr[-200:]}")
        assert not done.returncode, done.stderr
    return file


@pytest.mark.parametrize(
    ("name", "options"),
    [("fr3_reach", FLAGS[0]), ("quad_reach", FLAGS[0]), *(("bench_known", each) for each in FLAGS)],
    ids=str,
)
@pytest.mark.parametrize("seed", ROUNDS)
def test_commands_are_those_of_python_and_break_no_limit(program, name, options, seed):
    spec, wanted = TASKS[name], sequences(name, seed)
    words = [program(name, *options), "g0.1"]
    done = subprocess.run(words, input=wanted.rows.tobytes(), capture_output=True, check=True)
    answers = np.frombuffer(done.stdout).reshape(len(wanted.rows), 1 + spec.action_size)
    commands = np.where(answers[:, :1] == 1, np.nan, answers[:, 1:])
    assert not broken(spec, wanted, commands)
    np.testing.assert_allclose(commands, wanted.commands, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["fr3_reach", "quad_reach"])
def test_observations_are_those_of_python(program, name):
    spec = TASKS[name]
    size = spec.sensed_sizes[0] // spec.history
    readings = np.random.default_rng(1).normal(size=(50, size)).astype(np.float32)
    words = [program(name, *FLAGS[0]), "h"]
    done = subprocess.run(words, input=readings.tobytes(), capture_output=True, check=True)
    seen = np.frombuffer(done.stdout, np.float32).reshape(len(readings), spec.history, size)
    for age in range(spec.history):
        earlier = readings[np.maximum(np.arange(len(readings)) - age, 0)]
        np.testing.assert_array_equal(seen[:, age], earlier)


@pytest.mark.parametrize(("name", "options"), [("fr3_reach", FLAGS[0]), ("bench_known", FLAGS[1])])
def test_the_loop_keeps_its_periods_holds_and_stops(program, name, options):
    def loop(mode):
        return ran(program(name, *options), mode).stdout.splitlines()

    figures, stopped = loop("0")
    steps, held, missed, latency = map(int, figures.split())
    assert 1 <= steps <= 10 <= steps + missed
    assert (held, latency, stopped) == (0, 1, f"stopped 1 after {steps}")
    # Two periods and a half are slept through: at least two deadlines, of which one is that step's own.
    steps, _, missed, _ = map(int, loop("l")[0].split())
    assert missed >= 2 and steps + missed >= 11
    assert loop("n") == [
        "reading: entry 1 is not a finite number; allowed: finite numbers",
        "stopped 1 after 3",
    ]
    message, stopped = loop("f")
    assert re.match(r"reading: its time lies (9\.\d+|10\.0+) s in the future; .*steady_clock", message)
    assert stopped == "stopped 1 after 0"
    figures, stopped = loop("s")
    steps, held, *_ = map(int, figures.split())
    assert steps == held
    # Velocities are held at 0; positions that nobody has read are not commanded.
    assert stopped == f"stopped 1 after {steps if name == 'fr3_reach' else 0}"


def test_a_policy_that_does_not_reproduce_its_answers_does_not_start(program, tmp_path):
    folder = Path(shutil.copytree(program("fr3_reach", *FLAGS[0]).parent, tmp_path / "spoiled"))
    whole = (folder / "specification.hpp").read_text()
    spoiled = re.sub(r"(golden_actions\{\{\s*\S+ \d+>\{)", r"\g<1>0.001f + ", whole)
    assert spoiled != whole
    (folder / "specification.hpp").write_text(spoiled)
    done = subprocess.run([compiled(folder, "-O0"), "0"], capture_output=True, text=True, check=False)
    assert done.returncode and "recorded answers are not reproduced" in done.stderr


# The policy in C


@pytest.fixture(scope="module")
def model():
    return graph(SPEC)


@pytest.mark.parametrize("activation", ["swish", "relu"])
def test_c_answers_as_onnx_runtime_does_and_names_its_graph(activation, tmp_path):
    model = graph(SPEC, activation)
    write(tmp_path, policy_c(model, SPEC))
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
        write(tmp_path, files)
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
    write(tmp_path, policy_c(model, named))
    ran(*C, *WARNINGS, "-c", "policy.c", "-o", "policy.o", cwd=tmp_path)
