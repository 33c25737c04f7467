"""The controller in C++: compiled with warnings as errors, and equal to the one in Python."""

import re
import shutil
import subprocess
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from bundles import ran, untrained
from test_c99 import CPP, WARNINGS, C
from test_command_limiter import ROUNDS, TASKS, broken, sequences

from export.c import controller_cpp, policy_c
from export.controller import open_session
from export.graph import policy_graph
from student.config import Size
from student.networks import act

FLAGS = [("-O2",), ("-Ofast",), ("-O3", "-ffinite-math-only"), ("-O2", "-m32")]

PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
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
        const double p50 = found.latencies.percentile(50), longest = found.latencies.longest();
        std::printf("%d %d %d %d\n", static_cast<int>(found.steps), static_cast<int>(found.held),
                    static_cast<int>(found.missed_deadlines), p50 > 0 && p50 <= longest);
    } catch (const Error &error) {
        std::printf("%s\n", error.what());
    }
    std::printf("stopped %d after %d\n", arm.stopped, arm.written);
    return 0;
}
"""


def write(folder, spec):
    """Writes the sources of a program of the task's controller."""
    draw = np.random.default_rng(0)
    model = policy_graph(partial(act, untrained(Size(width=24, layers=2), spec.sensed_sizes)), spec)
    session = open_session(model.SerializeToString())
    obs, goals = (draw.normal(size=(16, width)).astype(np.float32) for width in spec.sensed_sizes[::2])
    answers = [
        session.run(None, {"obs": o[None], "goal": g[None]})[0] for o, g in zip(obs, goals, strict=True)
    ]
    golden = {"obs": obs, "goal": goals, "actions": np.concatenate(answers)}
    for file, text in (policy_c(model, spec) | controller_cpp(spec, golden) | {"main.cpp": PROGRAM}).items():
        (folder / file).write_text(text)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A function of a task's name and the compiler's options: a program of its controller."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")

    @cache
    def sources(name):
        folder = tmp_path_factory.mktemp(name)
        write(folder, TASKS[name])
        return folder

    return cache(lambda name, *options: compiled(sources(name), *options))


def compiled(folder, *options):
    file = folder / "-".join(("program", *options))
    c = [*C, *options, *WARNINGS, "-c", "policy.c", "-o", "policy.o"]
    both = [CPP[0], "-std=c++17", *options, *WARNINGS, "main.cpp", "policy.o", "-o", file, "-lm"]
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
