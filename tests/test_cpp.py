"""The controller in C++: compiled with warnings as errors, and equal to the one in Python."""

import shutil
import subprocess

import jax
import numpy as np
import pytest
from test_c99 import CPP, WARNINGS, C

from export.c99 import c99
from export.controller import Guard, open_session
from export.cpp import cpp
from export.graph import graph_sha256, policy_graph
from student.config import Size
from student.networks import act, init_student
from teacher.errors import FathomError
from teacher.tasks import make_task

PROGRAM = r"""
#include <cstdio>
#include <vector>
#include "controller.hpp"

using namespace fathom;

struct Arm {
    int mode, written = 0, stopped = 0;
    Clock::time_point read(Reading &reading) {
        reading.fill(0.1f);
        if (mode == 1 && written == 3) reading[1] = std::numeric_limits<float>::quiet_NaN();
        return Clock::now() - std::chrono::seconds(mode == 2 ? 10 : 0);
    }
    void write(const Command &) { written++; }
    void stop() { stopped++; }
};

template <class Values> bool next(Values &values) {
    return std::fread(values.data(), sizeof(values[0]), values.size(), stdin) == values.size();
}

int main(int, char **words) {
    Controller controller;
    const char mode = words[1][0];
    if (mode == 'g') {  // actions and readings in, commands and observations out
        Guard guard;
        Action action;
        Reading reading;
        bool first = true;
        while (next(action) && next(reading)) {
            if (first) guard.start(reading);
            first = false;
            const Command command = guard(action[0] > 90.0f ? nullptr : &action, reading);
            std::fwrite(command.data(), sizeof(double), command.size(), stdout);
            const Observation &seen = controller.observe(reading);
            std::fwrite(seen.data(), sizeof(float), seen.size(), stdout);
        }
        return 0;
    }
    Arm arm{mode - '0'};
    Guard guard;
    Goal goal{};
    try {
        const Outcome found = run(controller, guard, arm, goal, 10 * specification::control_dt);
        const double p50 = found.latencies.percentile(50), longest = found.latencies.longest();
        std::printf("%d %d %d %d\n", static_cast<int>(found.steps), static_cast<int>(found.held),
                    static_cast<int>(found.steps + found.missed_deadlines >= 10), p50 > 0 && p50 <= longest);
    } catch (const Error &error) {
        std::printf("%s\n", error.what());
    }
    std::printf("stopped %d after %d\n", arm.stopped, arm.written);
    return 0;
}
"""


def build(folder, name, spoil=False):
    """A program of the task's controller, and the task's specification."""
    spec = make_task(name).spec
    size = Size(width=24, layers=2)
    student = init_student(jax.random.key(3), size, size, spec.sensed_sizes, 8)
    model = policy_graph(lambda obs, goal: act(student, obs, goal), spec)
    session = open_session(model.SerializeToString())
    draw = np.random.default_rng(0)
    observation, _, goal = spec.sensed_sizes
    obs, goals = (draw.normal(size=(16, width)).astype(np.float32) for width in (observation, goal))
    rows = zip(obs, goals, strict=True)
    actions = np.concatenate([session.run(None, {"obs": o[None], "goal": g[None]})[0] for o, g in rows])
    golden = {"obs": obs, "goal": goals, "actions": actions + np.float32(1e-3 if spoil else 0)}
    texts = c99(model, spec, graph_sha256(model)) | cpp(spec, golden) | {"main.cpp": PROGRAM}
    for file, text in texts.items():
        (folder / file).write_text(text)
    subprocess.run([*C, "-O2", *WARNINGS, "-c", "policy.c", "-o", "policy.o"], check=True, cwd=folder)
    subprocess.run(
        [*CPP[:1], "-std=c++17", "-O2", *WARNINGS, "main.cpp", "policy.o", "-o", "program", "-lm"],
        check=True,
        cwd=folder,
    )
    return folder / "program", spec


@pytest.fixture(scope="module", params=["fr3_reach", "fr3_reach_sensed", "quad_reach", "ant"])
def built(request, tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    return build(tmp_path_factory.mktemp(request.param), request.param)


def test_commands_and_observations_are_those_of_python(built):
    program, spec = built
    record = spec.model_dump(mode="json")
    size = spec.deployed.reading_size if spec.deployed else spec.observation_size
    history = spec.deployed.history if spec.deployed else 1
    draw = np.random.default_rng(1)
    count = 300
    # Readings wander across the limits; now and then there is no action, which is told by a number.
    readings = np.cumsum(draw.normal(scale=0.2, size=(count, size)), axis=0).astype(np.float32)
    actions = draw.uniform(-1, 1, (count, spec.action_size)).astype(np.float32)
    actions[draw.random(count) < 0.1] = 99.0
    both = np.concatenate([actions, readings], axis=1)
    done = subprocess.run([program, "g"], input=both.tobytes(), capture_output=True, check=True)
    width = 8 * spec.action_size + 4 * size * history
    rows = np.frombuffer(done.stdout, np.uint8).reshape(count, width)
    commands = rows[:, : 8 * spec.action_size].copy().view(np.float64)
    seen = rows[:, 8 * spec.action_size :].copy().view(np.float32)
    guard = Guard(record)
    guard.start(readings[0])
    expected = [
        guard(None if action[0] > 90 else action, reading).copy()
        for action, reading in zip(actions, readings, strict=True)
    ]
    np.testing.assert_allclose(commands, expected, rtol=0, atol=1e-6)
    for age in range(history):
        earlier = readings[np.maximum(np.arange(count) - age, 0)]
        np.testing.assert_array_equal(seen[:, age * size : (age + 1) * size], earlier)


def test_the_loop_keeps_its_periods_holds_and_stops(built):
    program, _ = built

    def ran(mode):
        done = subprocess.run([program, mode], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    figures, stopped = ran("0")
    steps, held, whole, latency = map(int, figures.split())
    assert 1 <= steps <= 10
    assert (held, whole, latency) == (0, 1, 1)
    assert stopped == f"stopped 1 after {steps}"
    message, stopped = ran("1")
    assert message == "reading: entry 1 is nan; allowed: finite numbers"
    assert stopped == "stopped 1 after 3"
    steps, held, *_ = map(int, ran("2")[0].split())
    assert steps == held


def test_a_policy_that_does_not_reproduce_its_answers_does_not_start(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    program, _ = build(tmp_path, "fr3_reach", spoil=True)
    done = subprocess.run([program, "0"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "recorded answers are not reproduced" in done.stderr


def test_a_task_whose_limits_cannot_be_kept_is_named():
    spec = make_task("fr3_reach").spec
    blind = spec.model_copy(update={"observation": spec.observation[1:]})
    with pytest.raises(FathomError, match=r"fr3_reach in C\+\+: reading: no term joint_position"):
        cpp(blind, {})
