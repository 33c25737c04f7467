"""Plants small faults, one at a time, in a copy of the tree, and tells which of them the tests miss.

    python benchmarks/mutations.py [--only WORD]

Prints a JSON object: `caught`, `missed`, and the seconds of each. A fault whose line is not in the tree any
more ends the program: the list has to keep up with the code."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Fault(NamedTuple):
    name: str
    file: str
    line: str  # as it stands, once or more often in the file; the first one is changed
    planted: str
    tests: str  # files that should notice, separated by spaces


# A file and the tests that should notice; of each fault its name, a part of a line, and what is put there.
FAULTS = r"""
teacher/losses.py: test_losses
  penalty of the log-partition with the wrong sign
    < + penalty * log_partition**2
    > - penalty * log_partition**2
  correction of tanh with the wrong sign inside
    < jax.nn.softplus(-2 * before)
    > jax.nn.softplus(2 * before)
  entropy punished, not rewarded
    < return goal_distance + temperature
    > return goal_distance - temperature
  temperature moves away from its target
    < (-log_probability - target_entropy)
    > (log_probability + target_entropy)
  accuracy counts the worst goal
    < logits.argmax(axis=1)
    > logits.argmin(axis=1)
teacher/replay.py: test_replay
  goals up to one row past the newest
    < newest - row, discount
    > newest - row + 1, discount
  geometric distribution cut one row early
    < (remaining + 1) * log_discount
    > remaining * log_discount
teacher/replay.py: test_probes
  goals from the past
    < (row + ahead) % capacity
    > (row - ahead) % capacity
  goals of other environments
    < % capacity, environment],
    > % capacity, environment[::-1]],
teacher/learner.py: test_learner test_update
  every iteration draws the same batches
    < key = jax.random.fold_in(state.key, state.iteration)
    > key = state.key
teacher/learner.py: test_learner
  episodes one step too long
    < (step + 1 >= self.spec.episode_length)
    > (step >= self.spec.episode_length)
teacher/learner.py: test_learner test_probes
  goals from before the action
    < achieved_goal(self.spec, self.simulation.observe(physics))
    > achieved_goal(self.spec, observation)
teacher/learner.py: test_learner test_update
  critic trained at the actor's rate
    < optax.adam(rates.critic_lr)
    > optax.adam(rates.actor_lr)
teacher/networks.py: test_networks
  branches scaled from one block on
    < BASE_BLOCKS = 4
    > BASE_BLOCKS = 1
teacher/blocks.py: test_residual test_networks
  a network's gradients from its neighbour's activations
    < zip(cotangents, *of_block, strict=True)
    > zip(cotangents, of_block[0], of_block[1][::-1], strict=True)
  variance without its epsilon
    < NORM_EPSILON = 1e-6
    > NORM_EPSILON = 1e-2
teacher/evaluate.py: test_evaluate
  another interval than Wilson's
    < method="wilson"
    > method="exact"
  success judged at the easy radius
    < <= spec.goal.success_radius
    > <= spec.goal.easy_radius
student/evaluate.py: test_retention
  retention with student and teacher exchanged
    < paired_ratio("retention", student.time_at_goal, teacher.time_at_goal)
    > paired_ratio("retention", teacher.time_at_goal, student.time_at_goal)
  selection by the mean, not by the lower bound
    < a.get("retention_interval", (0.0,))[0]
    > a.get("retention", 0.0)
student/networks.py: test_student test_export
  normalisation folded with the wrong sign
    < ["bias"] - mean @ kernel
    > ["bias"] + mean @ kernel
student/losses.py: test_student test_labels
  policy loss by the mean over joints
    < optax.huber_loss(action, label).sum(-1).mean()
    > optax.huber_loss(action, label).mean()
student/labels.py: test_labels
  hindsight goals of students at the wrong discount
    < / jnp.log(discount))
    > / jnp.log(discount**2))
export/controller.py: test_command_limiter
  velocity limit half as wide again
    < self.velocity = float(joints["velocity"][row])
    > self.velocity = 1.5 * float(joints["velocity"][row])
export/controller.py: test_command_limiter test_controller
  all of the acceleration limit used
    < SPARE = 0.5
    > SPARE = 1.0
export/controller.py: test_command_limiter
  position limits dropped for position commands
    < _clipped(wanted, self.lower, self.upper) - q
    > wanted - q
pipelines/robot/separation.py: test_robot
  links watched as if the arm stopped at once
    < (np.abs(velocity) / self._change).max()) + 1)
    > 0.0) + 1)
  links watched as if the arm were where its sensors saw it
    < first = self._place(measured, before)
    > first = measured
  links watched as if nothing were commanded in a hold
    < > 1e-9 and velocity.any()
    > > 1e-9 and False
  links watched as if a frozen sensor saw the arm
    < np.where(alive, began[-1], self._from))
    > began[-1])
export/controller.py: test_control_loop
  one second old is fresh
    < > stale_s
    > > stale_s + 1.0
export/controller.py: test_strangers test_malformed test_export
  hash of a bundle's files not compared
    < if found != stated:
    > if False:
teacher/sensing.py: test_sensing
  history of readings with the oldest first
    < xp.concatenate([reading[:, None], history[:, :-1]], axis=1)
    > xp.concatenate([history[:, 1:], reading[:, None]], axis=1)
export/graph.py: test_safe_policy
  safe policy clips but does not hold
    < "Where", ["safe.sound", "safe.clipped", "safe.hold"]
    > "Where", ["safe.sound", "safe.clipped", "safe.clipped"]
export/verify.py: test_export
  parity judged a thousand times as mildly
    < if not excess[worst] <= absolute
    > if not excess[worst] <= 1000 * absolute
export/controller.hpp: test_cpp
  C++ guard with a third more acceleration
    < clipped(wanted, last_ - spec::change[j_], last_ + spec::change[j_])
    > clipped(wanted, last_ - 1.3 * spec::change[j_], last_ + 1.3 * spec::change[j_])
teacher/randomization.py: test_randomise
  friction randomised one way only
    < minval=1 - share
    > minval=1.0
teacher/checkpoint.py: test_checkpoint
  content hash of a checkpoint not compared
    < if _sha256(file) != expected:
    > if False:
"""


def faults(text: str) -> Iterator[Fault]:
    lines = iter(text.strip().splitlines())
    for line in lines:
        if not line.startswith(" "):
            file, _, tests = line.partition(": ")
            continue
        old, new = (next(lines).removeprefix(f"    {sign} ") for sign in "<>")
        yield Fault(line.strip(), file, old, new, tests)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="faults whose name or file has this in it")
    only = parser.parse_args().only
    chosen = [fault for fault in faults(FAULTS) if only in fault.name + fault.file]
    for fault in chosen:
        if fault.line not in (ROOT / fault.file).read_text():
            sys.exit(f"{fault.name}: {fault.file} has no {fault.line!r}")
    found: dict[str, dict[str, float]] = {"caught": {}, "missed": {}}
    with tempfile.TemporaryDirectory() as copy:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
        for name in listed.stdout.split("\n")[:-1]:
            Path(copy, name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, Path(copy, name))
        for fault in chosen:
            began = time.monotonic()
            outcome = "caught" if notices(Path(copy), fault) else "missed"
            found[outcome][fault.name] = round(time.monotonic() - began, 1)
            print(f"{outcome}: {fault.name}", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))


def notices(copy: Path, fault: Fault) -> bool:
    """Whether a test fails while the fault is in the copy."""
    file = copy / fault.file
    whole = file.read_text()
    file.write_text(whole.replace(fault.line, fault.planted, 1))
    tests = [f"tests/{name}.py" for name in fault.tests.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    file.write_text(whole)
    if run.returncode not in (0, 1):
        sys.exit(f"{fault.name}: the tests did not run\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return run.returncode == 1


if __name__ == "__main__":
    main()
