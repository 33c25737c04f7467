"""Episodes of a policy to look at: GIF, MP4, a page, or a window."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from pipelines import closed_loop, graphics, render
from pipelines.config import ControlConfig
from pipelines.progress import Display
from pipelines.report import write_watch_page
from pipelines.rundir import Run
from pipelines.stages import stand_for, trusted_run
from pipelines.train_students import teacher_of
from teacher.config import TeacherConfig
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.evaluate import evaluation_layout, evaluation_noise_key, evaluation_starts
from teacher.memory import require_episodes_fit
from teacher.rollout import SensingPolicy, all_seeing, on_robot, simulation
from teacher.tasks import MujocoTask, make_task

SUFFIXES = (".gif", ".mp4", ".html")


class Subject(NamedTuple):
    """Whom to watch."""

    label: str
    policy: SensingPolicy
    config: TeacherConfig
    settings: ControlConfig
    folder: Path  # where films go


def watch(
    subject: Subject,
    display: Display,
    *,
    engine: str | None = None,
    episodes: int = 3,
    seed: int | None = None,
    out: Path | None = None,
    live: bool = False,
) -> list[Path]:
    """Runs held-out episodes and writes them, to `out` or as GIF and page, or shows them in a window.

    Returns: what was written.
    Raises: NoGraphics where nothing can be drawn. UsageError for a task without a model, and as
    `require_possible`."""
    require_possible(out, live)  # MuJoCo's viewer would end the process
    task = make_task(subject.config.task.name)
    if not isinstance(task, MujocoTask):
        raise UsageError(f"task {task.spec.name!r} has no MuJoCo model: there is nothing to draw")
    require_episodes_fit("--episodes", episodes, task.spec)
    robot = simulation(subject.config.task.name, engine or closed_loop.control_engine(task, subject.settings))
    display.say(f"{episodes} episode{'s' if episodes > 1 else ''} of {subject.label} in {robot.engine_name}")
    starts = evaluation_starts(robot, episodes, evaluation_layout(subject.config), seed)
    with closed_loop.controller_errors():
        noise_key = evaluation_noise_key(seed)
        trajectories = robot.rollout(subject.policy, starts, noise_key=noise_key)
    recording = render.record(task, trajectories, starts.goal, episodes)
    assert recording is not None, "a task with a model can be drawn"
    if live:
        render.show_live(recording)
        return []
    files = [out] if out else [subject.folder / f"{subject.label}{suffix}" for suffix in (".gif", ".html")]
    for file in files:
        display.say(f"drawing {file}")
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".html":
            pictures = render.moving_pictures(recording)
            write_watch_page(file, task.spec.name, subject.label, recording.figures(), pictures)
        else:
            (render.write_gif if file.suffix == ".gif" else render.write_mp4)(file, recording)
    return files


def chosen(
    name: str | None, policy: str | None = None, task: str | None = None, trust: bool = False
) -> Subject:
    """Of a bundle, by its path, or of a run; `task` and `trust` as for `stand_for`.

    Raises: UsageError for a policy of a bundle."""
    if name is not None and (Path(name) / "spec.json").is_file():
        if policy is not None:
            raise UsageError(f"--policy is for runs, and {name} is a bundle")
        if trust:
            stand_for(closed_loop.runs_of(Path(name)), task, trust)
        return of_bundle(Path(name), task)
    return of_run(trusted_run(name, task, trust), policy)


def of_run(run: Run, policy: str | None) -> Subject:
    """The run's `teacher`, its selected `student`, or the student of a size; the best that there is."""
    exported = sorted(run.summary.get("export", {}))
    if policy is None:
        policy = "student" if run.summary.get("selected") else "teacher"
    if policy == "teacher":
        seeing = all_seeing(teacher_of(run).policy())
        return Subject("teacher", seeing, run.config.teacher, run.config.control, run.path / "watch")
    if policy not in ("student", *exported):
        raise unknown_name(f"policy of {run.path}", policy, ["teacher", "student", *exported])
    bundle = closed_loop.selected_bundle(run) if policy == "student" else run.bundles / policy
    return of_bundle(bundle)._replace(folder=run.path / "watch")


def of_bundle(bundle: Path, task: str | None = None) -> Subject:
    """The policy of a bundle; `task` as for `closed_loop.control`."""
    with closed_loop.controller_errors():
        controller, run, config, settings = closed_loop.opened(bundle, task)
    folder = run.path / "watch" if run else Path()
    return Subject(bundle.resolve().name, on_robot(closed_loop.batched(controller)), config, settings, folder)


def require_possible(out: Path | None, live: bool = False) -> None:
    """Raises: UsageError for a film of a kind that is not known, that needs what is not installed, or beside
    a window; FathomError for a window without a display."""
    if out is not None and out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: found suffix {out.suffix!r}, allowed: {', '.join(SUFFIXES)}")
    if out is not None and live:
        raise UsageError("--live shows a window and --out writes a file: leave out one of them")
    if out is not None and out.suffix == ".mp4" and importlib.util.find_spec("av") is None:
        raise UsageError("MP4 needs PyAV: pip install 'fathom-rl[video]', or take a .gif or .html")
    if live and not graphics.has_display():
        raise FathomError(
            "--live opens a window, and there is no display here: leave it out for a film and a page"
        )
