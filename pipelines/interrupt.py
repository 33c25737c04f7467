"""Ctrl-C and SIGTERM, taken where nothing is lost: after the iteration that is running, or at once.

A stage that computes for long saves first. Elsewhere both raise KeyboardInterrupt: what was finished
until then is on disk."""

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from teacher.errors import FathomError

AGAIN_S = 0.05  # after which a signal that was dropped comes again
SAVING = "stopping when this iteration is done and saved; the same again stops at once"


class Interrupted(FathomError):
    """The user asked to stop; everything is saved."""

    exit_code = 130


class Interruption:
    requested = False


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt too; by default it ends a process without a word.

    Where Python drops an exception, in a callback of its import system for one, either comes again."""
    before, unraisable = signal.signal(signal.SIGTERM, signal.default_int_handler), sys.unraisablehook

    def again(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            # Later, for here it would be dropped too; as SIGTERM, for SIGINT is ignored in the background.
            threading.Timer(AGAIN_S, _thread.interrupt_main, (signal.SIGTERM,)).start()
        else:
            unraisable(dropped)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGTERM, before)


@contextmanager
def deferred_interrupt(say: Callable[[str], None] | None = None) -> Iterator[Interruption]:
    """Within, the first Ctrl-C or SIGTERM only sets `requested`, and says so; a second one acts at once.

    Raises: KeyboardInterrupt at the end if one came that nobody asked for any more."""
    interruption = Interruption()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def request(number: int, _: FrameType | None) -> None:
        interruption.requested = True
        signal.signal(number, before[signal.Signals(number)])
        if say is not None:
            # From a thread: the signal may have come in the middle of a line.
            threading.Thread(target=say, args=(SAVING,)).start()

    for number in signals:
        signal.signal(number, request)
    try:
        yield interruption
    finally:
        for number in signals:
            signal.signal(number, before[number])
    if interruption.requested:
        raise KeyboardInterrupt
