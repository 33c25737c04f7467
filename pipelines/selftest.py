"""Every part of the program once, on a small task: physics, learning, export, control.

Each part imports what it needs itself: that it can be imported is part of what is tried."""

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

PRESET = "debug"
ENVS = 256
OBSERVATIONS = 1000  # the fewest on which an export is proved
CONTROL_STEPS = 1000


class Trial(NamedTuple):
    """How one part went."""

    part: str
    passed: bool
    seconds: float
    found: str  # a figure, or why it failed


def trials(folder: Path) -> Iterator[Trial]:
    """Tries one part after another, each as it is asked for; what is exported is written to `folder`."""
    parts: dict[str, Callable[[], str]] = {
        "libraries": _load,
        "physics": _step_physics,
        "learning": _learn,
        "export": lambda: _export(folder / "bundle"),
        "controller": lambda: _control(folder / "bundle"),
    }
    for part, attempt in parts.items():
        begun = time.perf_counter()
        try:
            passed, found = True, attempt()
        except Exception as error:  # whatever is broken here is what was looked for
            passed, found = False, f"{type(error).__name__}: {error}"
        yield Trial(part, passed, time.perf_counter() - begun, found)


def _load() -> str:
    from teacher.tasks import task_names

    import_module("pipelines.stages")  # which imports all that computes
    return f"{len(task_names())} tasks"


def _step_physics() -> str:
    from pipelines import throughput
    from pipelines.presets import preset
    from teacher.tasks import make_task
    from teacher.tasks.engines import engines_of

    task = preset(PRESET).teacher.task.name
    engine = engines_of(make_task(task))[0]
    figures = throughput.measure(task, engine, ENVS)
    return f"{figures['steps_per_s']:,.0f} control steps/s of {task} in {engine}, {ENVS} environments"


def _learn() -> str:
    import jax

    from pipelines.presets import preset
    from teacher.learner import Learner
    from teacher.train import train

    learner = Learner(preset(PRESET).teacher)
    iterations = train(learner, learner.init(jax.random.key(0)))
    for _, metrics in iterations:
        return f"critic loss {metrics['critic_loss']:.3f} after {learner.config.collect.updates} updates"
    raise AssertionError("the preset has an iteration")


def _export(bundle: Path) -> str:
    import jax
    import numpy as np

    from export.bundle import write_bundle
    from pipelines.presets import preset
    from student.config import parse_size
    from student.networks import act, critic_distance, init_student
    from teacher.tasks import make_task

    config, key = preset(PRESET), jax.random.key(0)
    spec, size = make_task(config.teacher.task.name).spec, parse_size(config.student.critic)
    student = init_student(key, size, size, spec.sensed_sizes, config.teacher.network.representation)
    random = np.random.default_rng(0)
    observations, actions, goals = (
        random.standard_normal((OBSERVATIONS, entries), np.float32) for entries in spec.sensed_sizes
    )
    found = write_bundle(
        bundle,
        spec,
        lambda observation, goal: act(student, observation, goal),
        lambda observation, action, goal: critic_distance(student, observation, action, goal),
        observations,
        goals,
        np.tanh(actions),
        provenance={},
        judge=lambda _: {},
    )
    worst = max(each.max_abs_error for each in found.values())
    return f"ONNX agrees with JAX to {worst:.1e} on {OBSERVATIONS:,} observations"


def _control(bundle: Path) -> str:
    import numpy as np

    from export.controller import load

    controller = load(bundle)
    with np.load(bundle / "golden.npz") as recorded:
        observation, goal = recorded["obs"][0], recorded["goal"][0]
    seconds = []
    for _ in range(CONTROL_STEPS):
        begun = time.perf_counter()
        controller.step(observation, goal)
        seconds.append(time.perf_counter() - begun)
    return f"{np.median(seconds) * 1e6:.0f} µs a step (median of {CONTROL_STEPS:,})"
