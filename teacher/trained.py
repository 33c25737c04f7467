"""A teacher as others use it: its policy and its critic, read from a checkpoint."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from teacher import checkpoint
from teacher.config import STORED, TeacherConfig
from teacher.errors import FathomError
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
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
from teacher.simulation import Policy, simulation
from teacher.spec import TaskSpec
from teacher.tasks import make_task
from teacher.tasks.requirements import require_same

Array = jax.Array

# A score re-evaluated elsewhere may leave the stored interval by rounding; by more, it is another policy.
SCORE_SLACK = 0.02


class Teacher(NamedTuple):
    """A trained teacher. All methods take batches and are pure in JAX."""

    config: TeacherConfig
    spec: TaskSpec
    networks: Networks
    params: Params
    iteration: int
    evaluation: dict[str, Any] | None  # of exactly these parameters
    source: str  # fingerprint of the checkpoint

    def act(self, params: Params, observation: Array, goal: Array) -> Array:
        """[B, S], [B, G] -> deterministic action [B, A]."""
        return deterministic_action(self.networks, params.actor, observation, goal)

    def policy(self) -> Policy:
        """The deterministic policy, compiled."""
        return partial(jax.jit(self.act), self.params)

    def embed_state_action(self, params: Params, observation: Array, action: Array) -> Array:
        return embed_state_action(self.networks, params.state_action, observation, action)

    def embed_goal(self, params: Params, goal: Array) -> Array:
        return embed_goal(self.networks, params.goal, goal)

    def distance(self, params: Params, observation: Array, action: Array, goal: Array) -> Array:
        """[B, S], [B, A], [B, G] -> the critic's distance [B] to the goal; smaller is sooner."""
        return distance(self.embed_state_action(params, observation, action), self.embed_goal(params, goal))


def load_teacher(directory: Path) -> Teacher:
    """Reads the newest checkpoint in `directory`.

    Raises: FathomError if there is none, it is damaged, or its task is not the one known here."""
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
    sizes = spec.sizes
    template = jax.eval_shape(lambda: init_params(networks, jax.random.key(0), sizes))
    prefix = ".params"
    leaves = {
        path.removeprefix(prefix): leaf for path, leaf in saved.leaves.items() if path.startswith(prefix)
    }
    params = checkpoint.fill(template, leaves, what)
    return Teacher(config, spec, networks, params, saved.step, evaluation, saved.fingerprint)


def reevaluate(
    teacher: Teacher, episodes: int | None = None, engine: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """The teacher's score on held-out episodes, by default those on which its own run measured it."""
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
