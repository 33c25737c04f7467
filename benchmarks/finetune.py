"""Does a student that goes on learning by itself gain from the critic that was distilled with it?

    python benchmarks/finetune.py RUN --size 2x32 --out benchmarks/results/finetune.json

Contrastive updates (teacher/losses.py) begin at a distilled policy, without its teacher: collect with the
policy and Gaussian noise, update critic and policy, both plain networks. Nothing rewards entropy, for the
policy is deterministic. The arms differ in the critic they begin with: the distilled one, or a fresh one of
the same size, which is what a policy without a critic has. In arms that wait, the policy does not move until
the critic has had so many updates. Each learns in the world that the robot is in now, and is judged there:

    same   as trained
    late   all actions come two control steps late
    worn   actions do 0.6 of what they did, and the last is off by 0.2
    far    another layout of starts and goals, where the task has it; write the layout's name

Rows hold the time at goal on held-out episodes as a function of updates, and of the last policy
in the world as it was (`time_at_goal_before`). The arm `none` is the distilled policy as it is.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import Results, Row, parser_of, say, show

from student import networks
from student.checkpoint import TrainedStudent, load_student
from student.config import parse_size
from student.networks import Normaliser, Student, act
from teacher import checkpoint, losses, replay
from teacher.config import UpdateConfig
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.learner import Environments
from teacher.randomization import DomainRandomization
from teacher.replay import Batch, Replay, Rows
from teacher.rollout import NOTHING_RANDOM, choose, simulation
from teacher.sharding import Devices
from teacher.tasks import Start, achieved_goal
from teacher.train import Teacher, load_teacher, require_finite

Array = jax.Array

STEPS, UPDATES = 25, 50  # control steps of each environment and updates in an iteration
HELD = 1000  # control steps that each environment's replay keeps
CURVE = (0, 250, 500, 1000, 2000, 4000)  # updates after which policies are judged
SHOWN = ("change", "arm", "seed", *(f"after_{updates}" for updates in CURVE), "time_at_goal_before")


class World(NamedTuple):
    """What is different from training."""

    layout: str | None = None  # of starts and goals; None: the teacher's
    delay: int = 0  # control steps
    gain: float = 1.0  # of actions
    offset: float = 0.0  # of the last action


class Arm(NamedTuple):
    """How fine-tuning begins."""

    distilled: bool = True  # the critic; otherwise a fresh one
    wait: int = 0  # updates before the policy moves
    updates: int = CURVE[-1]


CHANGES = {"same": World(), "late": World(delay=2), "worn": World(gain=0.6, offset=0.2)}
NO_ARM = "none"
ARMS = {
    NO_ARM: Arm(updates=0),
    "distilled": Arm(),
    "fresh": Arm(distilled=False),
    "distilled-waits": Arm(wait=1000),
    "fresh-waits": Arm(distilled=False, wait=1000),
}


class Tuning(NamedTuple):
    """All that moves while a student learns."""

    student: Student
    optimiser: Any
    environments: Environments
    replay: Replay
    updates: Array  # scalar int32


class Tuner:
    """The functions of one student in one world."""

    def __init__(self, teacher: Teacher, student: TrainedStudent, world: World, options: argparse.Namespace):
        self.student, self.world, self.envs, self.noise = student, world, options.envs, options.noise
        self.spec, self.settings = student.spec, teacher.config.update
        self.representation = teacher.config.network.representation
        record = checkpoint.load(options.run / "students" / options.size).record
        self.sizes = parse_size(options.size), parse_size(record["critic"])
        self.devices = Devices(jax.devices()[:1])
        task, late = teacher.config.task, DomainRandomization(latency=world.delay)
        self.simulation = simulation(task.name, task.engine, late if world.delay else NOTHING_RANDOM)
        self.layouts = (
            world.layout or task.layout or self.simulation.task.layouts[0],
            world.layout or evaluation_layout(teacher.config),
        )
        self.held_out = self._changed(
            evaluation_starts(self.simulation, options.episodes, self.layouts[1]), np
        )
        critic, policy = optax.adam(options.critic_rate), optax.adam(options.actor_rate)
        self.optimiser = optax.multi_transform(
            {"critic": critic, "policy": policy}, Student("policy", "critic", "critic")
        )
        self.collect = jax.jit(self._collect, donate_argnums=0)
        self.update = jax.jit(self._update, donate_argnums=0)
        self.act = jax.jit(self._act)

    def _changed(self, start: Start, xp: Any) -> Start:
        """Starts whose actions all come equally late."""
        if not self.world.delay:
            return start
        delay = xp.full(len(start.goal), self.world.delay, xp.int32)
        changed: Start = start._replace(conditions=start.conditions._replace(delay=delay))
        return changed

    def _act(self, student: Student, observation: Array, goal: Array) -> Array:
        return self._carried_out(act(student, observation, goal))

    def _carried_out(self, action: Array) -> Array:
        """What the world makes of actions [E, A]."""
        return jnp.clip((self.world.gain * action).at[:, -1].add(self.world.offset), -1, 1)

    def time_at_goal(self, student: Student) -> Row:
        """On the held-out episodes, in this world; the policy alone, without noise."""
        outcomes, _ = run_episodes(self.simulation, partial(self.act, student), self.held_out)
        found = summarise(outcomes, self.layouts[1])
        return {key: found[key] for key in ("time_at_goal", "time_at_goal_interval")}

    def begin(self, arm: Arm, key: Array) -> Tuning:
        """The distilled policy with one episode of experience in every environment, and the arm's critic."""
        start_key, step_key, collect_key, critic_key = jax.random.split(key, 4)
        start = self._starts(start_key)
        step = jax.random.randint(step_key, (self.envs,), 0, self.spec.episode_length)
        environments = Environments(self.simulation.reset(start), start.goal, step, jnp.zeros_like(step))
        # Copies, for the first update reuses the buffers.
        student = jax.tree.map(jnp.array, self.student.params)
        empty = replay.empty(HELD, self.envs, *self.spec.sizes)
        state = Tuning(student, self.optimiser.init(student), environments, empty, jnp.zeros((), jnp.int32))
        while int(state.replay.written) < self.spec.episode_length:
            state = self.collect(state, jax.random.fold_in(collect_key, state.replay.written))
        if arm.distilled:
            return state
        fresh = networks.init_student(critic_key, *self.sizes, self.spec.sizes, self.representation)
        fresh = networks.fold(fresh, self._measured(state.replay))
        return state._replace(student=fresh._replace(policy=state.student.policy))

    def _measured(self, held: Replay) -> Normaliser:
        """Mean and standard deviation of what was collected, by which fresh critics are normalised."""
        rows = jax.tree.map(lambda leaf: leaf[: int(held.written)], held.rows)
        return Normaliser(
            *(
                (x.mean((0, 1)), x.std((0, 1)) + 1e-6)
                for x in (rows.observation, rows.action, rows.achieved_goal)
            )
        )

    def _starts(self, key: Array) -> Start:
        start = self.simulation.draw(key, jnp.arange(self.envs), self.layouts[0])
        return self._changed(start, jnp)

    def _collect(self, state: Tuning, key: Array) -> Tuning:
        """STEPS control steps in every environment, written to the replay."""
        step = partial(self._step, state.student)
        environments, rows = jax.lax.scan(step, state.environments, jax.random.split(key, STEPS))
        return state._replace(environments=environments, replay=replay.insert(state.replay, rows))

    def _step(self, student: Student, environments: Environments, key: Array) -> tuple[Environments, Rows]:
        noise_key, start_key = jax.random.split(key)
        physics, goal, step, episode = environments
        observation = self.simulation.observe(physics)
        action = act(student, observation, goal)
        action = jnp.clip(action + self.noise * jax.random.normal(noise_key, action.shape), -1, 1)
        physics = self.simulation.step(physics, self._carried_out(action))
        outcome = achieved_goal(self.spec, self.simulation.observe(physics))
        rows = Rows(observation, action, outcome, episode)
        done = (step + 1 >= self.spec.episode_length) | self.simulation.ended(physics)
        start = self._starts(start_key)
        physics, goal = choose(done, (self.simulation.reset(start), start.goal), (physics, goal))
        return Environments(physics, goal, jnp.where(done, 0, step + 1), episode + done), rows

    def _update(self, state: Tuning, wait: Array, key: Array) -> tuple[Tuning, Row]:
        """UPDATES updates of critic and, after `wait` of them, policy; metrics are their means."""

        def body(carry: tuple[Student, Any, Array], key: Array) -> tuple[tuple[Student, Any, Array], Row]:
            student, optimiser, updates = carry
            batch = replay.sample(
                state.replay, key, self.settings.batch, self.settings.discount, self.devices
            )
            slope, metrics = jax.grad(joint_loss, has_aux=True)(student, batch, self.settings)
            change, optimiser = self.optimiser.update(slope, optimiser, student)
            # Adam's moments are warm when the policy starts to move, so that its first steps are no larger.
            moves = updates >= wait
            change = change._replace(policy=jax.tree.map(lambda leaf: leaf * moves, change.policy))
            return (optax.apply_updates(student, change), optimiser, updates + 1), metrics

        carry = (state.student, state.optimiser, state.updates)
        carry, metrics = jax.lax.scan(body, carry, jax.random.split(key, UPDATES))
        student, optimiser, updates = carry
        state = state._replace(student=student, optimiser=optimiser, updates=updates)
        return state, jax.tree.map(jnp.mean, metrics)


def joint_loss(student: Student, batch: Batch, settings: UpdateConfig) -> tuple[Array, Row]:
    """The critic's InfoNCE loss and the critic's distance after the policy's action, added up.

    The critic is a constant to the policy's part, so that each has the gradient of its own loss alone."""
    pairs = networks.embed_state_action(student, batch.observation, batch.action)
    logits = -losses.pairwise_distance(pairs, networks.embed_goal(student, batch.goal))
    critic = losses.infonce(logits, settings.penalty).mean()
    judge = jax.lax.stop_gradient(student)
    action = act(student, batch.observation, batch.goal)
    policy = networks.critic_distance(judge, batch.observation, action, batch.goal).mean()
    accuracy = losses.retrieval_accuracy(logits)
    return critic + policy, {"critic_loss": critic, "critic_accuracy": accuracy, "policy_loss": policy}


def tuned(tuner: Tuner, before: Tuner, arm: Arm, seed: int) -> Row:
    """One fine-tuning: its curve, and what its last policy does where it came from."""
    begun, key, metrics = time.perf_counter(), jax.random.key(seed), {}
    state = tuner.begin(arm, jax.random.fold_in(key, 0))
    curve: list[Row] = []
    for iteration in range(arm.updates // UPDATES + 1):
        if iteration:
            collect_key, update_key = jax.random.split(jax.random.fold_in(key, iteration))
            state, made = tuner.update(tuner.collect(state, collect_key), arm.wait, update_key)
            metrics = {name: float(value) for name, value in made.items()}
            require_finite(metrics, f"update {iteration * UPDATES}")
        if iteration * UPDATES in CURVE:
            curve.append({"updates": iteration * UPDATES, **tuner.time_at_goal(state.student), **metrics})
            say(f"  {iteration * UPDATES} updates: {curve[-1]['time_at_goal']:.3f}")
    return {
        **{f"after_{point['updates']}": point["time_at_goal"] for point in curve},
        "time_at_goal_before": before.time_at_goal(state.student)["time_at_goal"],
        "curve": curve,
        "wall_s": time.perf_counter() - begun,
    }


def world_of(change: str, teacher: Teacher) -> World:
    """Raises: UsageError if neither a change nor a layout of the teacher's task has that name."""
    layouts = simulation(teacher.config.task.name, teacher.config.task.engine).task.layouts
    if change not in (*CHANGES, *layouts):
        raise unknown_name("change", change, (*CHANGES, *layouts))
    return CHANGES.get(change) or World(layout=change)


def measure(options: argparse.Namespace) -> list[Row]:
    """Returns one row for each change, arm and seed."""
    teacher = load_teacher(options.run / "teacher" / "checkpoints")
    student = load_student(options.run / "students" / options.size)
    if teacher.spec.deployed is not None:
        raise UsageError(f"task {teacher.spec.name!r}: its students see sensors, whose noise this leaves out")
    worlds = {change: world_of(change, teacher) for change in options.changes}
    before = Tuner(teacher, student, World(), options)
    results = Results(options.out)
    for change, world in worlds.items():
        tuner = Tuner(teacher, student, world, options)
        for arm in dict.fromkeys((NO_ARM, *options.arms)):
            for seed in options.seeds if arm != NO_ARM else options.seeds[:1]:
                basis = {"task": teacher.spec.name, "student": student.source, "size": options.size}
                basis |= {"change": change, "arm": arm, "seed": seed, "envs": options.envs}
                basis |= {"noise": options.noise, "rates": [options.actor_rate, options.critic_rate]}
                basis |= {"episodes": options.episodes}
                say(f"{change}, {arm}, seed {seed}")
                results.add(basis, partial(tuned, tuner, before, ARMS[arm], seed))
    return results.rows


def main() -> None:
    parser = parser_of(__doc__, out=True)
    parser.add_argument("run", type=Path, help="a run with students")
    parser.add_argument("--size", default="2x32", help="the student (default %(default)s)")
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), metavar="CHANGE")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--envs", type=int, default=64, help="that collect (default %(default)s)")
    parser.add_argument("--noise", type=float, default=0.2, help="standard deviation, of actions in [-1, 1]")
    parser.add_argument("--actor-rate", type=float, default=3e-4)
    parser.add_argument("--critic-rate", type=float, default=3e-4)
    parser.add_argument("--episodes", type=int, default=256, help="held out (default %(default)s)")
    options = parser.parse_args()
    try:
        rows = measure(options)
    except FathomError as error:
        sys.exit(f"refused: {error}")
    show([{key: row[key] for key in row if options.json or key in SHOWN} for row in rows], options.json)


if __name__ == "__main__":
    main()
