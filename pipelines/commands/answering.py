"""How every command answers: figures on standard output, progress and errors on standard error."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pipelines.progress import Display


def refuse(why: str, options: dict[str, Any]) -> None:
    from teacher.errors import UsageError

    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(f"{', '.join(given)}: {why}")


def display() -> "Display":
    from pipelines.progress import Display

    return Display()


def print_figures(figures: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], Any]) -> None:
    if as_json:
        print(json.dumps(figures))
        return
    from pipelines.progress import Terminal

    Terminal().print(table(figures))


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Errors as one message: exit code 2 for a wrong request, 1 for a failure, 130 for an interruption."""
    from pipelines import cluster
    from pipelines.interrupt import sigterm_as_ctrl_c
    from pipelines.progress import printable
    from pipelines.quiet import quiet
    from teacher.errors import FathomError

    if isinstance(sys.stdout, io.TextIOWrapper):  # what an output in ASCII lacks is written out
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with quiet(everything=debug), sigterm_as_ctrl_c(), cluster.failing_together():
            yield
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and stages go on with --resume", file=sys.stderr)
        raise typer.Exit(130) from None
    except (FathomError, OSError) as error:
        if debug:
            raise
        print(printable(f"error: {error}"), file=sys.stderr)
        raise typer.Exit(getattr(error, "exit_code", 1)) from None
