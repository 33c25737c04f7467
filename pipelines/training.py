"""What the stages that train have around their loops: metrics, trackers, progress, saves, interruptions.

Metrics go to the stage's metrics.jsonl, and where else `track` says; nothing leaves the machine unless
`track.wandb` is set."""

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax

from pipelines.config import TrackConfig
from pipelines.files import JSON, read_json, write_json
from pipelines.progress import Bar, Display
from pipelines.rundir import Run
from pipelines.runtime import Interrupted, Interruption, SaveTimer, deferred_interrupt
from teacher.errors import UsageError

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # by field of `track`, which is also the extra


class Training:
    """A stage while it trains; `wall_s` are its seconds so far, over all resumptions."""

    def __init__(
        self, wall_s: float, record: Callable[[JSON], None], bar: Bar, timer: SaveTimer, signals: Interruption
    ):
        self.wall_s, self.bar, self.timer, self.signals = wall_s, bar, timer, signals
        self._record, self._begun = record, time.monotonic() - wall_s

    def record(
        self, done: int, line: JSON, metrics: dict[str, float], evaluation: JSON | None = None
    ) -> None:
        """Writes and shows what came of an iteration, after which so many are done."""
        self.wall_s = time.monotonic() - self._begun
        scored = {"evaluation": evaluation} if evaluation else {}
        self._record({**line, "wall_s": self.wall_s, **metrics, **scored})
        self.bar.show(done, metrics, evaluation)

    def save(self, write: Callable[[], None], when: str, *, due: bool, stop: bool) -> None:
        """Saves where that is due or the user asked to stop; then raises Interrupted."""
        if due or stop:
            with self.timer.saving():
                write()
        if stop:
            raise Interrupted(f"stopped and saved after {when}; go on with --resume")


@contextmanager
def training(
    run: Run, stage: str, display: Display, done: int, total: int, interval_s: float, **shown: Any
) -> Iterator[Training]:
    """Goes on with a stage of which `done` iterations of `total` are saved.

    Args: interval_s: between saves. shown: as `Display.bar` shows it."""
    run.rewind_metrics(stage, done, display.warn)
    lines, devices = run.metrics(stage), jax.local_devices()
    count = f"{len(devices)} x " * (len(devices) > 1)
    about = f"{run.title}, {count}{devices[0].device_kind}"
    with (
        deferred_interrupt(display.say) as signals,
        recorded(run, stage, display.warn) as record,
        display.bar(stage, total, done, about=about, **shown) as bar,
    ):
        bar.note = "compiling"
        for line in lines:
            if "evaluation" in line:
                bar.scored(line["evaluation"])
        yield Training(lines[-1]["wall_s"] if lines else 0.0, record, bar, SaveTimer(interval_s), signals)


def require_trackers(track: TrackConfig) -> None:
    """Raises UsageError naming the extra to install for what is asked for and not there."""
    for name, package in PACKAGES.items():
        if getattr(track, name) and importlib.util.find_spec(package) is None:
            raise UsageError(
                f"track.{name}: the package {package} is not installed; pip install 'fathom-rl[{name}]'"
            )


@contextmanager
def recorded(run: Run, stage: str, say: Callable[[str], None]) -> Iterator[Callable[[JSON], None]]:
    """Gives a function that takes the stage's metrics, line by line.

    Trackers first get what metrics.jsonl holds already, of before the stage was taken up again. One that
    fails is named to the user and gets no more; the stage goes on."""
    trackers: dict[str, TensorBoard | WandB] = {}
    history = run.metrics(stage)

    def attempt(name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever its library raises
            trackers.pop(name, None)
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            say(f"track.{name} failed and is off: {reason}; metrics.jsonl has it all")

    def begin(name: str) -> None:
        trackers[name] = TensorBoard(run, stage) if name == "tensorboard" else WandB(run, stage)
        for line in history:
            trackers[name].log(line)

    def record(line: JSON) -> None:
        run.append_metrics(stage, line)
        for name, tracker in [*trackers.items()]:
            attempt(name, partial(tracker.log, line))

    for name in PACKAGES:
        if getattr(run.config.track, name):
            attempt(name, partial(begin, name))
    try:
        yield record
    finally:
        for name, tracker in [*trackers.items()]:
            attempt(name, tracker.close)


def scalars(line: Mapping[str, Any], group: str = "") -> dict[str, float]:
    """Returns the numbers of a line: `{"score": {"key_interval": [0, 1]}}` -> `{"score/key_low": 0, ...}`."""
    found: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{group}{key}/")
        elif key.endswith("_interval"):
            base = f"{group}{key.removesuffix('_interval')}"
            found[f"{base}_low"], found[f"{base}_high"] = value
        elif isinstance(value, int | float):
            found[f"{group}{key}"] = float(value)
    return found


class TensorBoard:
    """Event files in STAGE/tensorboard, written anew when a stage is taken up again."""

    def __init__(self, run: Run, stage: str):
        # The writer around this one has a thread and a queue: on a full disk, adding would wait for ever.
        from tensorboardX.event_file_writer import EventsWriter

        folder, lines = run.path / stage / "tensorboard", run.metrics(stage)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._events = EventsWriter(str(folder / "events"))
        self._begun = time.time() - (lines[-1]["wall_s"] if lines else 0.0)
        self.close = self._events.close

    def log(self, line: JSON) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=key, simple_value=value) for key, value in scalars(line).items()]
        now = self._begun + line["wall_s"]
        self._events.write_event(Event(wall_time=now, step=line["env_steps"], summary=Summary(value=values)))
        self._events.flush()


class WandB:
    """A run in the project `track.wandb`, one for each stage, grouped; gone on with when the stage is."""

    def __init__(self, run: Run, stage: str):
        import wandb

        file = run.path / stage / "wandb.json"
        known: str | None = read_json(file)["id"] if file.exists() else None
        left_out: JSON = {"save_code": False, "x_disable_meta": True, "x_disable_stats": True}
        left_out |= {"console": "off", "disable_git": True, "x_save_requirements": False}
        self._run = wandb.init(
            project=run.config.track.wandb,
            group=run.path.name,
            name=f"{run.path.name}/{stage}",
            id=known,
            resume="allow",
            config=run.settings,
            dir=str(run.path / stage),
            settings=wandb.Settings(silent=True, **left_out),  # silent: it also asks for nothing
        )
        write_json(file, {"id": self._run.id})
        self._logged = self._run.step if known else 0  # up to which steps it has been told
        self.close = self._run.finish

    def log(self, line: JSON) -> None:
        if line["env_steps"] > self._logged:
            self._logged = line["env_steps"]
            self._run.log(scalars(line), step=self._logged)
