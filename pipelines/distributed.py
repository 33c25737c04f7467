"""Several processes that train one teacher together: how they meet and what they agree on.

The first process writes, evaluates and reports; the others compute with it and follow its
decisions. Alone, a process is the first. JAX is imported when asked for, so that --help is fast.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

from pipelines.progress import printable
from pipelines.runtime import Interrupted
from teacher.errors import Diverged, FathomError, UsageError

T = TypeVar("T")
LONGEST_WAIT_S = 30 * 24 * 3600


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Meets the run's other processes, before anything else asks for a device.

    As the flags say, or else as the environment of Slurm, Open MPI or an indexed Kubernetes job
    does; JAX knows how to read those. Raises: UsageError for half of the flags."""
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in flags.items() if value is None]
    if missing and len(missing) < len(flags):
        raise UsageError(
            f"{', '.join(missing)} missing: --coordinator, --processes and --process go together"
        )
    if processes is not None and process is not None and process >= processes:
        raise UsageError(f"--process: found {process}, of {processes} processes the last is {processes - 1}")
    known, tasks = os.environ, os.environ.get("SLURM_STEP_NUM_TASKS")
    # Whether a launcher started this process as one of several; a lone step of a job is not.
    several = int(tasks or "1") > 1 or int(known.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    several |= {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= known.keys()
    if missing and not several:
        return
    # Alone on its host, a process has all of its devices; JAX would give it one.
    alone = tasks is not None and tasks == known.get("SLURM_STEP_NUM_NODES")
    alone |= known.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    import jax

    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            local_device_ids=[] if alone else None,
            # Later stages run in the first process alone, while the others wait for it to end.
            shutdown_timeout_seconds=LONGEST_WAIT_S,
        )
    except (RuntimeError, ValueError) as error:
        raise FathomError(f"cannot meet the run's other processes: {error}") from error
    agreed()  # connects them while all are here: the first exchange waits for seconds only


def is_first() -> bool:
    import jax

    return jax.process_index() == 0


def agreed(*flags: bool) -> tuple[bool, ...]:
    """Says for each flag whether any process raised it; every process must ask."""
    import jax

    if jax.process_count() == 1:
        return flags
    import numpy as np
    from jax.experimental import multihost_utils

    return tuple(multihost_utils.process_allgather(np.array([*flags, True])).any(0)[:-1].tolist())


@contextmanager
def failing_together() -> Iterator[None]:
    """Ends this process at once if what is within fails here alone, and the others with it.

    They may be waiting for it in an exchange, and would for ever. What all of them know of,
    that a run was stopped or diverged, is raised as it is."""
    try:
        yield
    except (Interrupted, Diverged):
        raise
    except BaseException as error:
        jax = sys.modules.get("jax")
        if jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        if isinstance(error, FathomError):
            print(printable(f"error: {error}"), file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1))


@contextmanager
def led(context: AbstractContextManager[T]) -> Iterator[T | None]:
    """Enters the context in the first process; the others wait until it is entered, and get None.

    Raises: what entering raises; FathomError in the others if it did."""
    with ExitStack() as entered:
        found = None
        if is_first():
            try:
                found = entered.enter_context(context)
            except BaseException:
                agreed(False)
                raise
        if not agreed(True)[0]:
            raise FathomError("the first process stopped; its message says why")
        yield found
