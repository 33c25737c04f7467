"""The teacher's run: a generator of (state, metrics), what of it is saved, and the teacher that it leaves."""

from collections.abc import Iterator
from functools import partial
from math import isfinite, log
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from teacher import checkpoint, replay
from teacher.config import STORED, TeacherConfig
from teacher.errors import Diverged, FathomError, UsageError
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.learner import Learner, TeacherState
from teacher.losses import distance
from teacher.networks import (
    Networks,
    Params,
    deterministic_action,
    embed_goal,
    embed_state_action,
    has_fused_kernels,
    init_params,
    make_networks,
)
from teacher.rollout import Policy, simulation
from teacher.spec import TaskSpec
from teacher.tasks import make_task
from teacher.tasks.validation import require_same

if TYPE_CHECKING:
    from teacher.policy_file import AnyTeacher

Array = jax.Array

DIVERGED = 10.0  # times the critic loss of blind guessing
SETTLING = 1000  # updates in which a critic may come down from a worse start
UNSTABLE = 0.1  # share of an iteration's control steps
SHOWN_ENTRIES = 4  # of an observation in a message
# Settings that may differ from a save's: a task's specification is compared, and its file may have moved.
FREE = ("task.name", "collect.total_steps", "checkpoint.interval_s", "checkpoint.keep")
# A score re-evaluated elsewhere may leave the stored interval by rounding; by more, it is another policy.
SCORE_SLACK = 0.02


def train(learner: Learner, state: TeacherState) -> Iterator[tuple[TeacherState, dict[str, float]]]:
    """Trains from `state` to the configured end.

    Yields: the state after an iteration and that iteration's metrics. The yielded state is used
    up by the next iteration: save or copy it before.
    Raises: Diverged, naming the quantity; FathomError, naming simulator and state, if too many steps were
    unstable."""
    while int(state.iteration) < learner.config.collect.iterations:
        state, device_metrics = learner.iterate(state)
        metrics = {key: float(value) for key, value in device_metrics.items()}
        require_sound(metrics, int(state.iteration), learner.config)
        require_stable(learner, state, int(metrics["unstable_steps"]))
        yield state, metrics


def require_sound(metrics: dict[str, float], iteration: int, config: TeacherConfig) -> None:
    """Raises Diverged if a metric is not finite, or the critic is far worse than blind guessing.

    An iteration that begins within the first SETTLING updates may have any finite loss: in a published
    network of a thousand layers the squared log-partition begins at ten thousand, and comes down within
    some 50 updates. Only the iteration's number counts, so a resumed run ends where it would have ended.

    Args: metrics of iteration `iteration`, counted from 1."""
    require_finite(metrics, f"iteration {iteration}")
    if (iteration - 1) * config.collect.updates < SETTLING:
        return
    blind = (
        log(config.update.batch_size) + config.update.logsumexp_penalty * log(config.update.batch_size) ** 2
    )
    if metrics["critic_loss"] > DIVERGED * blind:
        raise Diverged(
            f"critic_loss reached {metrics['critic_loss']:.3g} in iteration {iteration}, "
            f"more than {DIVERGED:g} times that of blind guessing ({blind:.3g})"
        )


def require_stable(learner: Learner, state: TeacherState, unstable: int) -> None:
    """Raises FathomError if more than UNSTABLE of an iteration's control steps were, of all environments.

    Fewer are left out of the learning. All processes of a run must call it."""
    collect, spec = learner.config.collect, learner.spec
    steps = collect.envs * collect.unroll_length
    if unstable <= UNSTABLE * steps:
        return
    held = learner.devices.fetch(state.replay)
    unknown = np.asarray(replay.unknown_goals(held, collect.unroll_length))[::-1]
    row, environment = np.argwhere(unknown)[0]
    slot = (int(held.written) - collect.unroll_length + row) % collect.buffer_rows
    seen = np.asarray(held.rows.observation[slot, environment])
    names = [f"{term.name}.{entry}" for term in spec.observation for entry in term.entries]
    largest = np.argsort(-np.nan_to_num(np.abs(seen), nan=np.inf), kind="stable")[:SHOWN_ENTRIES]
    raise FathomError(
        f"the simulation of task {spec.name!r} on engine {learner.simulation.engine_name!r} became unstable: "
        f"{unstable} of the {steps} control steps of iteration {int(state.iteration)}, first in environment "
        f"{environment} where it saw {', '.join(f'{names[i]} = {seen[i]:.4g}' for i in largest)}; "
        "a smaller time step, weaker gains or tighter limits of controls help, no setting of the learner does"
    )


def require_finite(metrics: dict[str, float], when: str) -> None:
    """Raises Diverged naming the first metric that is not finite."""
    for key, value in metrics.items():
        if not isfinite(value):
            raise Diverged(f"{key} became {value} in {when}")


def save_state(
    directory: Path, learner: Learner, state: TeacherState, evaluation: dict[str, Any] | None
) -> None:
    """Saves everything; `evaluation` is that of exactly these parameters, if there is one.

    All processes of a run must call it; the first one writes."""
    record = {
        "config": learner.config.model_dump(mode="json"),
        "spec": learner.spec.model_dump(mode="json"),
        "evaluation": evaluation,
    }
    state = learner.devices.fetch(state)
    if jax.process_index():
        return
    checkpoint.save(
        directory,
        int(state.iteration),
        _without_rows(state),
        rows=state.replay.rows,
        written=int(state.replay.written),
        record=record,
        keep=learner.config.checkpoint.keep,
    )


def restore_state(directory: Path, learner: Learner) -> tuple[TeacherState, dict[str, Any] | None]:
    """Returns the newest saved state and its evaluation, if any; all processes of a run must call it.

    Raises: FathomError if it belongs to another task or configuration."""
    # The first process's choice is every process's: a shared directory may look older from elsewhere.
    newest = checkpoint.load(directory) if jax.process_index() == 0 else None
    step = learner.devices.of_first(newest.step if newest else 0)
    saved = newest or checkpoint.load(directory, step=step)
    what = f"checkpoint {directory / str(saved.step)}"
    require_same(what, saved.record.get("spec") or {}, learner.spec)
    require_same_settings(what, saved.record.get("config"), learner.config)
    template = jax.eval_shape(learner.init, jax.random.key(0))
    state = checkpoint.fill(_without_rows(template), saved.leaves, what)
    rows = checkpoint.fill(template.replay.rows, saved.rows, f"{what}, replay")
    learner.devices.of_first(0)  # all have read it
    if jax.process_index() == 0:
        checkpoint.rewind(directory, saved.step)
    state = state._replace(replay=state.replay._replace(rows=rows))
    return learner.devices.place(state, learner.division), saved.record["evaluation"]


def require_same_settings(what: str, stored: Any, config: TeacherConfig) -> None:
    """Raises FathomError naming the settings in which `config` differs from a save's, except for FREE."""
    try:
        before = TeacherConfig.model_validate(stored, context=STORED)
    except ValueError as error:
        raise FathomError(f"{what} holds no settings that this program knows: {error}") from error
    told = [
        f"{name}.{field} is {there!r} there and {here!r} here"
        for name, group in before
        for field, there in group
        if (here := getattr(getattr(config, name), field)) != there and f"{name}.{field}" not in FREE
    ]
    if told:
        raise FathomError(f"{what} was saved with other settings than config.json holds: {', '.join(told)}")


def _without_rows(state: TeacherState) -> TeacherState:
    nothing: Any = None
    return state._replace(replay=state.replay._replace(rows=nothing))


class Teacher(NamedTuple):
    """A trained teacher; its methods take batches and are pure in JAX."""

    config: TeacherConfig
    spec: TaskSpec
    networks: Networks
    params: Params
    iteration: int
    evaluation: dict[str, Any] | None  # of exactly these parameters
    source: str  # fingerprint of the checkpoint

    def __repr__(self) -> str:
        """Tells which teacher it is, without its parameters."""
        score = (self.evaluation or {}).get("time_at_goal")
        return (
            f"<Teacher of {self.spec.name}: depth {self.config.network.depths[0]}, "
            f"{self.actor_parameters:,} parameters in its actor, iteration {self.iteration}"
            + ("" if score is None else f", {score:.3f} of its time at the goal")
            + ">"
        )

    @property
    def representation(self) -> int:
        """Returns R, how many entries its critic's features have."""
        return self.config.network.repr_dim

    @property
    def recurrent(self) -> bool:
        """Tells whether its answers depend on earlier observations: never."""
        return False

    @property
    def actor_parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.params.actor))

    def act(self, params: Params, observation: Array, goal: Array) -> Array:
        """Computes the deterministic action, [B, S], [B, G] -> [B, A]."""
        return deterministic_action(self.networks, params.actor, observation, goal)

    def policy(self) -> Policy:
        """Returns the deterministic policy, compiled."""
        return partial(jax.jit(self.act), self.params)

    def embed_state_action(self, params: Params, observation: Array, action: Array) -> Array:
        return embed_state_action(self.networks, params.state_action, observation, action)

    def embed_goal(self, params: Params, goal: Array) -> Array:
        return embed_goal(self.networks, params.goal, goal)

    def distance(self, params: Params, observation: Array, action: Array, goal: Array) -> Array:
        """Computes the critic's distance to the goal, [B, S], [B, A], [B, G] -> [B]; smaller is sooner."""
        return distance(self.embed_state_action(params, observation, action), self.embed_goal(params, goal))


def load_teacher(directory: Path | str) -> Teacher:
    """Reads the newest checkpoint in `directory`, of a run `run.checkpoints`.

    Raises: FathomError if there is none, it is damaged, or its task is not the one known here."""
    if not isinstance(directory, str | Path) or (Path(directory) / "teacher" / "checkpoints").is_dir():
        raise UsageError(
            f"load_teacher takes a directory of checkpoints, found {directory!s}: "
            "that of a run is run.checkpoints"
        )
    directory = Path(directory)
    saved = checkpoint.load(directory, rows=False)
    what = f"checkpoint {directory / str(saved.step)}"
    try:
        config = TeacherConfig.model_validate(saved.record["config"], context=STORED)
        spec = TaskSpec.model_validate(saved.record["spec"])
        evaluation = saved.record["evaluation"]
    except (ValueError, KeyError, TypeError) as error:
        raise FathomError(f"{what} holds no teacher that this program knows: {error}") from error
    require_same(what, saved.record["spec"], make_task(config.task.name).spec)
    network = config.network
    if not has_fused_kernels(jax.local_devices()):
        network = network.model_copy(update={"fused": False})  # the same results, up to rounding
    networks = make_networks(network, spec.action_size)
    template = jax.eval_shape(lambda: init_params(networks, jax.random.key(0), spec.sizes))
    prefix = ".average"
    stored = {
        path.removeprefix(prefix): leaf for path, leaf in saved.leaves.items() if path.startswith(prefix)
    }
    params = checkpoint.fill(template, stored, what)
    return Teacher(config, spec, networks, params, saved.step, evaluation, saved.fingerprint)


def reevaluate(
    teacher: "AnyTeacher", episodes: int | None = None, engine: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Evaluates the teacher on held-out episodes, by default those on which its own run measured it."""
    task = teacher.config.task
    where, layout = simulation(task.name, engine or task.engine), evaluation_layout(teacher.config)
    starts = evaluation_starts(where, episodes or teacher.config.evaluate.episodes, layout, seed)
    return summarise(run_episodes(where, teacher.policy(), starts)[0], layout)


def confirm(teacher: Teacher) -> dict[str, Any]:
    """Re-evaluates a loaded teacher and returns its score.

    Raises: FathomError if its run is unfinished, or if the score is not the one stored with it."""
    stored = teacher.evaluation
    iterations, has_reached = teacher.config.collect.iterations, teacher.config.evaluate.reached
    if stored is None or not (teacher.iteration >= iterations or has_reached(stored)):
        raise FathomError(
            f"the teacher's run is not finished ({teacher.iteration} of {iterations} iterations): "
            "go on with it first (--resume)"
        )
    score = reevaluate(teacher)
    low, high = stored["time_at_goal_interval"]
    if not low - SCORE_SLACK <= score["time_at_goal"] <= high + SCORE_SLACK:
        raise FathomError(
            f"the loaded teacher spends {score['time_at_goal']:.3f} of its time at the goal, but "
            f"{low:.3f} to {high:.3f} is stored in its checkpoint: this is not the policy that was trained"
        )
    return score
