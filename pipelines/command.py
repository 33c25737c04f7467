"""How every command answers: figures as a table or as JSON, errors as one message and an exit code."""

import inspect
import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Group
from rich.text import Text
from typer.core import TyperCommand

from pipelines import distributed
from pipelines.progress import Terminal, printable
from pipelines.runtime import quiet, sigterm_as_ctrl_c
from teacher.errors import FathomError, UsageError

Answer = tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]
"""Figures, and the function that makes a table or a text for people of them."""

KEYWORD = inspect.Parameter.KEYWORD_ONLY
JSON = typer.Option(False, "--json", help="print one JSON object for programs")
DEBUG = typer.Option(False, "--debug", help="show tracebacks of errors and warnings of dependencies")


class Command(TyperCommand):
    """A command that refuses an option's second value, beside which the first would not count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        order: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        for param, count in Counter(order).items():
            takes_one = not (getattr(param, "multiple", False) or getattr(param, "is_flag", False))
            if count > 1 and takes_one and not ctx.resilient_parsing:
                raise typer.BadParameter("it is given twice: leave out one of them", ctx=ctx, param=param)
        return super().parse_args(ctx, args)


def command(register: Callable[[Any], Any]) -> Callable[[Callable[..., Iterable[Answer | str]]], Any]:
    """Makes a function a command of an app: adds --json and --debug, prints what it yields.

    A parameter whose type is a NamedTuple stands for an option for each of its fields.
    Figures go to standard output, progress and errors to standard error."""

    def decorate(function: Callable[..., Iterable[Answer | str]]) -> Any:
        own = inspect.signature(function, eval_str=True).parameters
        groups = {name: each.annotation for name, each in own.items() if hasattr(each.annotation, "_fields")}
        options: dict[str, inspect.Parameter] = {}
        for name, each in own.items():
            options |= inspect.signature(groups[name]).parameters if name in groups else {name: each}
        for name, default in (("as_json", JSON), ("debug", DEBUG)):
            options[name] = inspect.Parameter(name, KEYWORD, default=default, annotation=bool)

        def run(**given: Any) -> None:
            with reported(given["debug"]):
                if groups and sys.stderr.isatty():  # for what they are of takes seconds to import
                    print(f"pipeline {function.__name__}: loading", file=sys.stderr)
                for name, group in groups.items():
                    given[name] = group(*(given[field] for field in group._fields))
                for answer in function(**{name: given[name] for name in own}):
                    _print(answer, given["as_json"])
                sys.stdout.flush()  # here, where a reader that is gone is met

        run.__name__, run.__doc__, run.__annotations__ = function.__name__, function.__doc__, {}
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # typer reads it
            [each.replace(kind=KEYWORD) for each in options.values()]
        )
        return register(run)

    return decorate


def _print(answer: Answer | str, as_json: bool) -> None:
    if isinstance(answer, str):
        print(answer, end="")
        return
    figures, table = answer
    shown = json.dumps(figures) if as_json else table(figures)
    if isinstance(shown, str):
        print(shown if as_json else printable(shown))
    else:
        for part in shown.renderables if isinstance(shown, Group) else [shown]:
            Terminal().print(part, soft_wrap=isinstance(part, str | Text))  # a path is not broken


def refuse(why: str, options: dict[str, Any]) -> None:
    """Raises UsageError that names those of the options that were given."""
    if given := [name for name, value in options.items() if value is not None and value is not False]:
        raise UsageError(f"{', '.join(given)}: {why}")


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Prints errors as one message; exits with 2 for a wrong request, 1 for a failure, 130 if interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what an output in ASCII lacks is written out
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with quiet(everything=debug), sigterm_as_ctrl_c(), distributed.failing_together():
            yield
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and stages go on with --resume", file=sys.stderr)
        raise typer.Exit(130) from None
    except BrokenPipeError:  # as by `| head`: what reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        raise typer.Exit(128 + signal.SIGPIPE) from None
    except (FathomError, OSError) as error:
        if debug:
            raise
        print(printable(f"error: {error}"), file=sys.stderr)
        raise typer.Exit(getattr(error, "exit_code", 1)) from None
