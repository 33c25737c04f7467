"""What a student's critic is good for on the robot, measured; what holds goes into its bundle."""

import json
from functools import partial
from typing import Any

import jax
import numpy as np

from export.bundle import add_reachability
from pipelines.rundir import Run
from student.networks import Student, act, critic_distance
from student.reachability import Questions, foretold, questions, stretched
from student.saved import TrainedStudent
from teacher.simulation import Simulation, simulation_of

JSON = dict[str, Any]
STREAM = 3  # of the run's seed: stages draw from 1 and 2
STRETCH = 1.5  # of every other goal: beyond the training range there are failures to foretell


def critic_uses(run: Run, student: TrainedStudent) -> JSON:
    """Measures whether the critic foretells arrival in time, on the student's own episodes.

    What it finds is added to the summary as `reachability`; if it holds, coefficients also go into the
    student's bundle, which must exist. What stands there for this very student is kept."""
    bundle = run.bundles / student.name
    before = run.summary.get("students", {}).get(student.name, {}).get("reachability", {})
    carried = json.loads((bundle / "spec.json").read_text()).get("reachability")
    if before.get("student_sha256") == student.source and carried == before.get("coefficients"):
        return before
    config = run.config
    key = jax.random.fold_in(jax.random.key(run.seed), STREAM)
    figures = reachability(simulation_of(config.teacher.task), student.params, key, config.student.episodes)
    figures |= {"student_sha256": student.source}
    if "coefficients" in figures:
        add_reachability(bundle, figures["coefficients"])
    run.update_summary({"students": {student.name: {"reachability": figures}}})
    return figures


def reachability(simulation: Simulation, student: Student, key: jax.Array, episodes: int) -> JSON:
    """As `student.reachability.foretold`, from this many episodes to fit on and as many others."""
    policy, distance = partial(jax.jit(act), student), partial(jax.jit(critic_distance), student)
    spec = simulation.task.spec

    def ask(number: int) -> Questions:
        start = simulation.starts(jax.random.fold_in(key, number), episodes)
        every_other = (np.arange(episodes) % 2 == 1)[:, None]
        goal = np.where(every_other, stretched(spec, start.goal, STRETCH), start.goal)
        return questions(spec, simulation.rollout(policy, start._replace(goal=goal)), goal, number)

    fitted, held_out = ask(0), ask(1)
    distances = [
        np.asarray(distance(asked.observation, asked.action, asked.goal)) for asked in (fitted, held_out)
    ]
    return foretold(spec, fitted, held_out, (distances[0], distances[1]))
