"""What can go wrong on a user's side, so that every command reports it in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class FathomError(Exception):
    """A failure that the user can act on: what was found, what is allowed, nothing lost."""

    exit_code = 1


class UsageError(FathomError):
    """The request itself is wrong (an unknown name, a bad value); nothing was started."""

    exit_code = 2


class Diverged(FathomError):
    """A quantity left the numbers; the last save is from before."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """Makes an error that lists the known names and suggests the nearest one."""
    known = sorted(known)
    near = get_close_matches(given, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"unknown {kind} {given!r}{hint} (known: {', '.join(known)})")
