"""What a student's critic is good for on the robot, measured; what holds goes into its bundle."""

from functools import partial
from typing import Any

import jax
import numpy as np

from export.bundle import add_reachability
from pipelines.progress import Display
from pipelines.rundir import Run
from student.networks import Student, act, critic_distance
from student.reachability import Questions, foretold, questions, stretched
from student.saved import TrainedStudent
from teacher.simulation import Simulation, on_robot, simulation_of

JSON = dict[str, Any]
STREAM = 3  # of the run's seed: stages draw from 1 and 2
STRETCH = 1.5  # of every other goal: beyond the training range there are failures to foretell


def critic_uses(run: Run, student: TrainedStudent, display: Display) -> JSON:
    """Measures whether the critic foretells arrival in time, on the student's own episodes.

    What it finds is added to the summary as `reachability`, unless that stands there for this very
    student; if it holds, coefficients go into the student's bundle, which must exist."""
    config, bundle = run.config, run.bundles / student.name
    basis = {"student_sha256": student.source, "episodes": config.student.episodes, "stretch": STRETCH}
    found: JSON = run.summary.get("students", {}).get(student.name, {}).get("reachability", {})
    if not found.items() >= basis.items():
        key = jax.random.fold_in(jax.random.key(run.seed), STREAM)
        simulation = simulation_of(config.teacher.task)
        found = basis | reachability(simulation, student.params, key, config.student.episodes)
        run.update_summary({"students": {student.name: {"reachability": found}}})
    add_reachability(bundle, found["coefficients"])
    holds = "foretells" if found["coefficients"] else "does not foretell"
    display.say(f"critic of {student.name}: {holds} arrival in time better than the distance to the goal")
    return found


def reachability(simulation: Simulation, student: Student, key: jax.Array, episodes: int) -> JSON:
    """As `student.reachability.foretold`, from this many episodes to fit on and as many others."""
    policy, distance = partial(jax.jit(act), student), partial(jax.jit(critic_distance), student)
    spec = simulation.task.spec

    def ask(number: int) -> Questions:
        start_key, noise_key = jax.random.split(jax.random.fold_in(key, number))
        start = simulation.starts(start_key, episodes)
        every_other = (np.arange(episodes) % 2 == 1)[:, None]
        goal = np.where(every_other, stretched(spec, start.goal, STRETCH), start.goal)
        lived = simulation.rollout(on_robot(policy), start._replace(goal=goal), noise_key=noise_key)
        return questions(spec, lived, goal, number)

    fitted, held_out = ask(0), ask(1)
    distances = [
        np.asarray(distance(asked.observation, asked.action, asked.goal)) for asked in (fitted, held_out)
    ]
    return foretold(fitted, held_out, (distances[0], distances[1]))
