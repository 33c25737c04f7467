"""What a teacher's run takes of its device's memory, estimated from shapes before anything is compiled.

An update holds the most in its backward pass (`teacher.blocks`), with all that the forward passes kept.
The factors were fitted to XLA's own account of compiled updates, depth 4 to 1024.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

from teacher import replay
from teacher.blocks import BLOCKS_AT_ONCE
from teacher.config import BLOCK_DEPTH, TeacherConfig
from teacher.errors import UsageError
from teacher.learner import make_optimiser
from teacher.networks import init_params, is_batched, make_networks
from teacher.spec import TaskSpec

FLOAT = 4  # bytes
# Arrays that an update holds at its peak beside those with a name: of logits; of rows of a layer's width,
# of rows of the representation's; and of each layer whose weight gradient is computed together with others.
LOGITS, LAYER_ROWS, FEATURE_ROWS, TOGETHER = 4, 24, 16, 5.3
BLOCK_GRADIENTS = 4  # two networks' gradients of one block, layer by layer and stacked
POLICY_ROWS, SIMULATOR = 8, 64  # of a stepped environment: rows of a policy, numbers an observation's entry
SAVED_COPIES = 2  # of what is learned, in the host's memory while a checkpoint is written
TRAJECTORY_COPIES = 3  # step by step, stacked, and joined
PROGRAM = 700 * 2**20  # what the program itself grows by, nearly all of it the compiler


class Needs(NamedTuple):
    """Bytes on each device."""

    parameters: int
    gradients: int
    optimiser: int
    activations: int
    replay: int
    environments: int
    saving: int
    """what copies of a save need beyond the gradients and activations that are gone by then"""


def estimate(config: TeacherConfig, spec: TaskSpec, batched: bool | None = None, devices: int = 1) -> Needs:
    """Estimates what one device must hold; nothing is computed or allocated.

    Batch, environments, replay and optimiser are divided over `devices`; parameters and gradients are
    not. Physics' own state is small and counted with the environments."""
    batched = is_batched() if batched is None else batched
    collect, sizes = config.collect, spec.sizes
    networks = make_networks(config.network, spec.action_size)
    params = jax.eval_shape(lambda: init_params(networks, jax.random.key(0), sizes))
    batch, environments = -(-config.update.batch_size // devices), -(-collect.envs // devices)
    kept, collected = (
        jax.eval_shape(lambda rows=rows: replay.empty(rows, environments, *sizes))
        for rows in (collect.buffer_rows, collect.unroll_length)
    )
    stepped = POLICY_ROWS * config.network.widths[0] + SIMULATOR * spec.observation_size
    parameters = 2 * _bytes(params)  # and their average
    moments = -(-_bytes(jax.eval_shape(make_optimiser(config).init, params)) // devices)
    activations = _activations(config, batched, batch)
    copies = SAVED_COPIES * (parameters + moments) if jax.default_backend() == "cpu" else 0
    return Needs(
        parameters=parameters,
        gradients=_bytes(params),
        optimiser=moments,
        activations=activations,
        replay=_bytes(kept),
        environments=_bytes(collected.rows) + environments * stepped * FLOAT,
        saving=max(0, copies - _bytes(params) - activations),
    )


def _activations(config: TeacherConfig, batched: bool, batch: int) -> int:
    """Estimates what an update holds beside parameters, gradients and moments, for `batch` rows."""
    network = config.network
    width = max(network.widths)
    actor, encoder = network.depths
    # A batch's rows pass the state-action encoder twice and teach it once.
    layers, weights = actor + 3 * encoder, actor + 2 * encoder
    # Of each block the forward passes keep what its layers and it itself were given.
    passed = layers * (BLOCK_DEPTH + 1) // BLOCK_DEPTH
    if network.fused:
        # What each layer gave before LayerNorm, and was given by rows that it learns from.
        held = (layers + weights) * batch * width * FLOAT // 2
    elif batched:
        # The first backward pass adds its cotangents to what both forward passes kept; some blocks' weight
        # gradients are computed together.
        rounded = FLOAT // 2 if network.precision == "bfloat16" else FLOAT
        held = (passed + encoder) * batch * width * rounded
        held += weights * width**2 * (FLOAT - rounded)
        deepest, most = max(actor, encoder), BLOCKS_AT_ONCE * BLOCK_DEPTH
        held += int(TOGETHER * (most if deepest > most else deepest / 2) * batch * width * FLOAT)
    else:
        # XLA widens what was kept in bfloat16, as a whole, where it sums over it: it is not counted as less.
        held = passed * batch * width * FLOAT
        held += (actor + 3 * encoder) * batch * FLOAT  # inv_std
        if network.precision == "bfloat16":
            held += weights * width**2 * FLOAT
    held += BLOCK_GRADIENTS * BLOCK_DEPTH * width**2 * FLOAT
    rows = LOGITS * config.update.batch_size + LAYER_ROWS * width + FEATURE_ROWS * network.repr_dim
    return held + batch * rows * FLOAT


def require_fit(config: TeacherConfig, spec: TaskSpec, devices: int = 1) -> None:
    """Refuses a run that does not fit on one of its devices, where their memory is known; see `estimate`.

    Raises: UsageError that names the parts and the largest depth that fits, or what else to lower."""
    free, needs = available(), estimate(config, spec, devices=devices)
    if free is None or sum(needs) <= free:
        return

    def deeper_than(depth: int) -> dict[str, int]:
        names = ("depth", "actor_depth", "critic_depth")
        return {name: depth for name in names if (getattr(config.network, name) or 0) > depth}

    def at_most(depth: int) -> int:
        network = config.network.model_copy(update=deeper_than(depth))
        return sum(estimate(config.model_copy(update={"network": network}), spec, devices=devices))

    # Nothing shrinks with depth and some needs do not grow: a layer's share only falls, and what fits is
    # no deeper than in proportion.
    depths = range(BLOCK_DEPTH, max(config.network.depths) * free // sum(needs) + 1, BLOCK_DEPTH)
    if fitting := bisect_right(depths, free, key=at_most):
        lower = " ".join(f"network.{name}={at}" for name, at in deeper_than(depths[fitting - 1]).items())
        advice = f"the deepest that fits with all else as it is: {lower}"
    else:
        advice = f"depth {BLOCK_DEPTH} needs {_size(at_most(BLOCK_DEPTH))} still: "
        advice += "lower network.width, update.batch_size, collect.envs or collect.buffer_rows"
    parts = ", ".join(f"{part} {_size(size)}" for part, size in needs._asdict().items())
    raise UsageError(
        f"this teacher needs {_size(sum(needs))} of memory, and {jax.local_devices()[0].device_kind} has "
        f"{_size(free)} for it ({parts}); {advice}"
    )


def require_episodes_fit(setting: str, episodes: int, spec: TaskSpec) -> None:
    """Refuses episodes whose trajectories (`Simulation.rollout`) do not fit in the machine's memory."""
    entries = 2 * sum(spec.sizes) + sum(spec.sensed_sizes)  # positions are about as many as observations
    steps = (spec.episode_length + 1) * episodes
    require_host_memory(setting, episodes, TRAJECTORY_COPIES * steps * entries * FLOAT)


def require_host_memory(setting: str, value: int, needed: int) -> None:
    """Raises UsageError if the machine has fewer bytes of memory, where that is known, than are needed."""
    free = host_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"{setting} = {value:,} needs {_size(needed)} of memory, and there are {_size(free)}: lower it"
        )


def available(root: Path = Path("/")) -> int | None:
    """Returns the bytes that a run can have on each device; None where that is unknown.

    A GPU's are those that JAX may take of it; a CPU's are the host's, shared by the devices that JAX sees.

    Args: root: where the file system with /proc and /sys begins."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    free = host_memory(root)
    return None if free is None else free // jax.local_device_count()


def host_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes that a run can have: the machine's free memory, or what the limit of a control group
    (a container, a batch job) leaves if that is less, without the program itself; None where unknown."""
    with suppress(OSError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return max(0, min([machine, *_left_by_groups(root)]) - PROGRAM)
    return None


def _left_by_groups(root: Path) -> Iterator[int]:
    """Yields the bytes that each control group (version 1 or 2) above this process leaves of its limit."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                top, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
            elif "memory" in controllers.split(","):
                top = root / "sys/fs/cgroup/memory"
                limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            # Inside a container its path is the host's, and only the top is there; "max" is no limit.
            group = top / path.lstrip("/")
            for folder in (each for each in (group, *group.parents) if each.is_relative_to(top)):
                with suppress(OSError, ValueError):
                    left = int((folder / limit).read_text()) - int((folder / used).read_text())
                    lines = (folder / "memory.stat").read_text().splitlines()
                    stat = {name: int(value) for name, value in (entry.split() for entry in lines)}
                    yield left + stat.get("total_inactive_file", stat.get("inactive_file", 0))


def _size(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
