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
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Fault(NamedTuple):
    name: str
    file: str
    line: str  # as it stands, once or more often in the file; the first one is changed
    planted: str
    tests: str  # files that should notice, separated by spaces


FAULTS = [
    Fault(
        "penalty of the log-partition with the wrong sign",
        "teacher/losses.py",
        "+ penalty * log_partition**2",
        "- penalty * log_partition**2",
        "test_losses",
    ),
    Fault(
        "correction of tanh with the wrong sign inside",
        "teacher/losses.py",
        "jax.nn.softplus(-2 * before)",
        "jax.nn.softplus(2 * before)",
        "test_losses",
    ),
    Fault(
        "entropy punished, not rewarded",
        "teacher/losses.py",
        "return goal_distance + ",
        "return goal_distance - ",
        "test_losses",
    ),
    Fault(
        "temperature moves away from its target",
        "teacher/losses.py",
        "(-log_probability - target_entropy)",
        "(log_probability + target_entropy)",
        "test_losses",
    ),
    Fault(
        "accuracy counts the worst goal",
        "teacher/losses.py",
        "logits.argmax(axis=1)",
        "logits.argmin(axis=1)",
        "test_losses",
    ),
    Fault(
        "goals up to one row past the newest",
        "teacher/replay.py",
        "- row\n",
        "- row + 1\n",
        "test_replay",
    ),
    Fault(
        "geometric distribution cut one row early",
        "teacher/replay.py",
        "(remaining + 1) * log_discount",
        "remaining * log_discount",
        "test_replay",
    ),
    Fault(
        "every iteration draws the same batches",
        "teacher/learner.py",
        "jax.random.fold_in(jax.random.fold_in(state.key, state.iteration), 1)",
        "jax.random.fold_in(state.key, 1)",
        "test_learner test_update",
    ),
    Fault(
        "episodes one step too long",
        "teacher/learner.py",
        "(step + 1 >= self.spec.episode_length)",
        "(step >= self.spec.episode_length)",
        "test_learner",
    ),
    Fault(
        "critic trained at the actor's rate",
        "teacher/learner.py",
        "optax.adam(rates.critic_lr)",
        "optax.adam(rates.actor_lr)",
        "test_learner test_update",
    ),
    Fault(
        "branches scaled from one block on",
        "teacher/networks.py",
        "BASE_BLOCKS = 4",
        "BASE_BLOCKS = 1",
        "test_networks",
    ),
    Fault(
        "variance without its epsilon",
        "teacher/blocks.py",
        "NORM_EPSILON = 1e-6",
        "NORM_EPSILON = 1e-2",
        "test_residual test_networks",
    ),
    Fault(
        "another interval than Wilson's",
        "teacher/evaluate.py",
        'method="wilson"',
        'method="exact"',
        "test_evaluate",
    ),
    Fault(
        "success judged at the easy radius",
        "teacher/evaluate.py",
        "<= spec.goal.success_radius",
        "<= spec.goal.easy_radius",
        "test_evaluate",
    ),
    Fault(
        "retention with student and teacher exchanged",
        "student/evaluate.py",
        'paired_ratio("retention", student.time_at_goal, teacher.time_at_goal)',
        'paired_ratio("retention", teacher.time_at_goal, student.time_at_goal)',
        "test_retention",
    ),
    Fault(
        "selection by the mean, not by the lower bound",
        "student/selection.py",
        'a.get("retention_interval", (0.0,))[0]',
        'a.get("retention", 0.0)',
        "test_retention",
    ),
    Fault(
        "normalisation folded with the wrong sign",
        "student/networks.py",
        '["bias"] - mean @ kernel',
        '["bias"] + mean @ kernel',
        "test_student test_export",
    ),
    Fault(
        "policy loss by the mean over joints",
        "student/losses.py",
        "optax.huber_loss(action, label).sum(-1).mean()",
        "optax.huber_loss(action, label).mean()",
        "test_student test_labels",
    ),
    Fault(
        "hindsight goals of students at the wrong discount",
        "student/labels.py",
        "/ jnp.log(discount))",
        "/ jnp.log(discount**2))",
        "test_labels",
    ),
    Fault(
        "velocity limit half as wide again",
        "export/controller.py",
        'self.velocity = float(joints["velocity"][row])',
        'self.velocity = 1.5 * float(joints["velocity"][row])',
        "test_command_limiter",
    ),
    Fault(
        "all of the acceleration limit used",
        "export/controller.py",
        "SPARE = 0.5",
        "SPARE = 1.0",
        "test_command_limiter test_controller",
    ),
    Fault(
        "position limits dropped for position commands",
        "export/controller.py",
        "_clipped(wanted, self.lower, self.upper) - q",
        "wanted - q",
        "test_command_limiter",
    ),
    Fault(
        "one second old is fresh",
        "export/controller.py",
        "> stale_s",
        "> stale_s + 1.0",
        "test_control_loop",
    ),
    Fault(
        "hash of a bundle's files not compared",
        "export/controller.py",
        "if found != stated:",
        "if False:",
        "test_strangers test_malformed test_export",
    ),
    Fault(
        "history of readings with the oldest first",
        "teacher/sensing.py",
        "xp.concatenate([reading[:, None], history[:, :-1]], axis=1)",
        "xp.concatenate([history[:, 1:], reading[:, None]], axis=1)",
        "test_sensing",
    ),
    Fault(
        "safe policy clips but does not hold",
        "export/safe_policy.py",
        '"Where", ["safe.sound", "safe.clipped", "safe.hold"]',
        '"Where", ["safe.sound", "safe.clipped", "safe.clipped"]',
        "test_safe_policy",
    ),
    Fault(
        "parity judged a thousand times as mildly",
        "export/verify.py",
        "if not excess[worst] <= absolute",
        "if not excess[worst] <= 1000 * absolute",
        "test_export",
    ),
    Fault(
        "C++ guard with a third more acceleration",
        "export/controller.hpp",
        "clipped(wanted, last_ - spec::change[j_], last_ + spec::change[j_])",
        "clipped(wanted, last_ - 1.3 * spec::change[j_], last_ + 1.3 * spec::change[j_])",
        "test_cpp",
    ),
    Fault(
        "friction randomised one way only",
        "teacher/randomization.py",
        "minval=1 - share",
        "minval=1.0",
        "test_randomise",
    ),
    Fault(
        "content hash of a checkpoint not compared",
        "teacher/checkpoint.py",
        "if _sha256(file) != expected:",
        "if False:",
        "test_checkpoint",
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="faults whose name or file has this in it")
    only = parser.parse_args().only
    faults = [fault for fault in FAULTS if only in fault.name + fault.file]
    for fault in faults:
        if fault.line not in (ROOT / fault.file).read_text():
            sys.exit(f"{fault.name}: {fault.file} has no {fault.line!r}")
    found: dict[str, dict[str, float]] = {"caught": {}, "missed": {}}
    with tempfile.TemporaryDirectory() as copy:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
        for name in listed.stdout.split("\n")[:-1]:
            Path(copy, name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, Path(copy, name))
        for fault in faults:
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
