"""Ctrl-C, SIGTERM and SIGHUP, taken where nothing is lost: after the iteration that is running, or at once.

A stage that computes for long saves first. Elsewhere all raise KeyboardInterrupt: what was finished
until then is on disk."""

import _thread
import errno
import os
import signal
import sys
import termios
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


def _ending() -> list[signal.Signals]:
    """Signals that end a process without a word; SIGHUP unless it is ignored, as under nohup."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, *hung_up]


def _leave_lost_terminal() -> None:
    """Where the terminal is gone, sends what is printed nowhere: printing would fail before the save."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _leave_lost_terminal()
    signal.default_int_handler(number, frame)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise KeyboardInterrupt too.

    Where Python drops an exception, in a callback of its import system for one, either comes again."""
    before = {number: signal.signal(number, _interrupt) for number in _ending()}
    unraisable = sys.unraisablehook

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
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_interrupt(say: Callable[[str], None] | None = None) -> Iterator[Interruption]:
    """Within, the first of the signals only sets `requested`, and says so; a second one acts at once.

    Raises: KeyboardInterrupt at the end if one came that nobody asked for any more."""
    interruption = Interruption()
    signals = (signal.SIGINT, *_ending())
    before = {number: signal.getsignal(number) for number in signals}

    def request(number: int, _: FrameType | None) -> None:
        interruption.requested = True
        _leave_lost_terminal()
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
