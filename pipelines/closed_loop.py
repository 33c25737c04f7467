"""An exported controller in closed loop: as a policy among others, and alone against the clock."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from export.controller import Controller, ControllerError, load
from pipelines.config import ControlConfig
from pipelines.files import require_own_files
from pipelines.progress import QUIET, Display
from pipelines.render import Recording, keep, record
from pipelines.rundir import Run, require_run
from teacher.config import TaskConfig, TeacherConfig
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.evaluate import (
    episode_metrics,
    evaluation_layout,
    evaluation_noise_key,
    evaluation_starts,
    summarise,
)
from teacher.memory import require_episodes_fit
from teacher.rollout import Policy, Simulation, on_robot, simulation
from teacher.tasks import Task, make_task, task_names
from teacher.tasks.engines import engines_of
from teacher.tasks.validation import require_same

JSON = dict[str, Any]
RECORDED_EPISODES = 4
ROBOTS = 256  # side by side; what compiled engines step at once


def control(
    bundle: Path | str,
    display: Display = QUIET,
    *,
    task: str | None = None,
    engine: str | None = None,
    episodes: int | None = None,
    seed: int | None = None,
) -> JSON:
    """Runs a bundle's controller in closed loop; returns its figures.

    As the run of the bundle sets it, if it lies in one and nothing else is asked for; figures and a
    recording of the first episodes are then kept there. `task` is needed for a bundle outside a run
    whose task is not one of `task_names`."""
    if not isinstance(bundle, str | Path) or (Path(bundle) / "config.json").is_file():
        raise UsageError(
            f"control takes the directory of a bundle, found {bundle!s}: "
            "that of a run's selected student is selected_bundle(run)"
        )
    bundle = Path(bundle).resolve()
    with controller_errors():
        controller, run, config, settings = opened(bundle, task)
        made = make_task(config.task.name)
        if episodes is not None:
            require_episodes_fit("--episodes", episodes, made.spec)
        usual = (control_engine(made, settings), settings.episodes, None)
        asked = (engine or usual[0], episodes or usual[1], seed)
        if asked[0] not in engines_of(made):
            raise unknown_name(f"engine for task {made.spec.name!r}", asked[0], engines_of(made))
        display.say(f"{asked[1]} episodes of {bundle.name} in {asked[0]}")
        robot, layout = simulation(config.task.name, asked[0]), evaluation_layout(config)
        figures, recording = run_controller(controller, robot, layout, asked[1], seed)
    if run and asked == usual:
        folder = run.path / "control" / bundle.name
        folder.mkdir(parents=True, exist_ok=True)
        shown = run.summary.get("selected") in (None, bundle.name)  # in the report
        keep(folder, recording, display.say, drawn=shown)
        run.update_summary({"control": {bundle.name: figures}})
    return figures


def run_controller(
    controller: Controller, robot: Simulation, layout: str, episodes: int, seed: int | None = None
) -> tuple[JSON, Recording | None]:
    """Runs held-out episodes of the controller, a robot each, every answer timed by itself.

    Each robot's controller is given readings of its sensors and keeps their history. A deadline is missed
    when an answer takes longer than the control period.
    Returns: figures for the summary; the first episodes to look at, if the task can be drawn."""
    starts, noise_key = evaluation_starts(robot, episodes, layout, seed), evaluation_noise_key(seed)
    spec = robot.task.spec
    entries = spec.deployed.reading_size if spec.deployed else spec.observation_size
    seconds: list[float] = []

    def timed(observation: np.ndarray, goal: np.ndarray, controllers: list[Controller]) -> np.ndarray:
        readings, goals = observation[:, :entries].astype(np.float32), goal.astype(np.float32)
        actions = []
        for own, reading, g in zip(controllers, readings, goals, strict=False):  # the other rows are padding
            begun = time.perf_counter()
            actions.append(own.step(own.observe(reading), g))
            seconds.append(time.perf_counter() - begun)
        return np.stack([*actions, *[actions[-1]] * (len(goal) - len(actions))])

    runs = []
    for first in range(0, episodes, ROBOTS):
        some = jax.tree.map(lambda leaf, first=first: leaf[first : first + ROBOTS], starts)
        policy = partial(timed, controllers=[controller.twin() for _ in some.goal])
        runs.append(robot.rollout(on_robot(policy), some, noise_key=jax.random.fold_in(noise_key, first)))
    trajectories = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *runs)
    latency = np.array(seconds) * 1e6
    figures = {
        "engine": robot.engine_name,
        **summarise(episode_metrics(spec, trajectories, starts.goal), layout),
        "latency_us_p50": float(np.percentile(latency, 50)),
        "latency_us_p99": float(np.percentile(latency, 99)),
        "latency_us_max": float(latency.max()),
        "steps": len(seconds),
        "missed_deadlines": int((np.array(seconds) > spec.control_dt).sum()),
        "student_sha256": controller.provenance.get("checkpoint_sha256"),
    }
    return figures, record(robot.task, trajectories, starts.goal, RECORDED_EPISODES)


def batched(controller: Controller) -> Policy:
    """Returns a policy over a batch that steps the controller row by row, as a robot does."""

    def policy(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        observation, goal = observation.astype(np.float32), goal.astype(np.float32)
        return np.stack([controller.step(o, g) for o, g in zip(observation, goal, strict=True)])

    return policy


@contextmanager
def controller_errors() -> Iterator[None]:
    """Turns a controller's errors into this program's own."""
    try:
        yield
    except ControllerError as error:
        raise FathomError(str(error)) from error


def opened(
    bundle: Path, task: str | None = None
) -> tuple[Controller, Run | None, TeacherConfig, ControlConfig]:
    """Loads and checks a bundle; FathomError if it, or its task, is not sound.

    Args: task: needed as for `control`.
    Returns: the controller; the run that the bundle lies in; the settings that it is run by."""
    bundle = bundle.resolve()
    run = next(iter(runs_of(bundle)), None)
    if run:
        require_own_files(run.path)
    try:
        controller = load(bundle)
    except ControllerError as error:
        remedy = f"; pipeline export {run.path} --resume writes it again" if run else ""
        raise FathomError(f"{bundle}: {error}{remedy}") from error
    config, settings = (run.config.teacher, run.config.control) if run else (TeacherConfig(), ControlConfig())
    if task or not run:
        name = task or controller.spec["name"]
        if task is None and name not in task_names():
            raise UsageError(
                f"{bundle} is for task {name!r}, which is not installed: "
                "say in which file it is with --task path/to/file.py:NAME"
            )
        config = config.model_copy(update={"task": TaskConfig(name=name)})
    task_spec = {key: value for key, value in controller.spec.items() if key != "inputs"}  # made of the rest
    require_same(str(bundle), task_spec, make_task(config.task.name).spec)
    return controller, run, config, settings


def runs_of(bundle: Path) -> list[Run]:
    """Returns the run that a bundle lies in, if it does."""
    bundle = bundle.resolve()
    run = Run(bundle.parent.parent)
    return [run] if bundle == run.bundles / bundle.name and (run.path / "config.json").is_file() else []


def control_engine(task: Task, settings: ControlConfig) -> str:
    """Returns the simulator that stands in for the robot: as set, or the C engine if the task runs there."""
    return settings.engine or ("mujoco" if "mujoco" in task.engines else task.engines[-1])


def selected_bundle(run: Run, student: str | None = None) -> Path:
    """Returns the bundle of this student, or of the one that export marked; UsageError if it is not there."""
    require_run(run, "selected_bundle")
    selected: str | None = run.summary.get("selected")
    if selected is None:
        raise UsageError(f"{run.path} holds no exported student yet: first comes pipeline export {run.path}")
    exported = run.summary.get("export", {})
    if student is not None and student not in exported:
        raise unknown_name("exported student", student, exported)
    return run.bundles / (student or selected)
