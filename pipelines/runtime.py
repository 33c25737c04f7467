"""What surrounds a command and a stage: signals, warnings of dependencies, the clock by which stages save.

Ctrl-C, SIGTERM and SIGHUP are taken where nothing is lost: after the iteration that is running, or at
once. A stage that computes for long saves first. Elsewhere all raise KeyboardInterrupt: what was finished
until then is on disk."""

import _thread
import errno
import logging
import math
import os
import signal
import socket
import sys
import sysconfig
import termios
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines.progress import printable
from teacher.errors import FathomError

AGAIN_S = 0.05  # after which a signal that was dropped comes again
UNHEARD_S = 0.5  # after which a signal has met a library that computes, and hears nothing until it is done
COMPILING = "stopping when what is being compiled is done; the same again stops at once, without a save"
SHOW_CURSOR = b"\x1b[?25h\n"
SAVING = "stopping when this iteration is done and saved; the same again stops at once"
SAVING_SHARE = 0.02  # of the time that a save may cost, whatever interval is asked for
_ROOT = Path(__file__).resolve().parents[1]
_OWN = [_ROOT / name for name in ("teacher", "student", "export", "pipelines")]
_LIBRARIES = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")}


class Interrupted(FathomError):
    """The user asked to stop; everything is saved."""

    exit_code = 130


class Interruption:
    requested = False


def _ending(*also: signal.Signals) -> dict[int, Any]:
    """Returns signals that end a process without a word, SIGHUP unless it is ignored (`nohup`), and what
    handles them."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return {number: signal.getsignal(number) for number in (signal.SIGTERM, *hung_up, *also)}


@contextmanager
def _handling(before: dict[int, Any], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


class _Heard:
    """When Python last carried out a handler of ours."""

    at = -math.inf


def _hear() -> None:
    _Heard.at = time.monotonic()
    _leave_lost_terminal()


@contextmanager
def _answering() -> Iterator[None]:
    """Says so when a signal comes while a library keeps Python from its handlers; at a second one, exits.

    Every save is whole at any moment, so that nothing is lost but what came after the last one."""
    here, there = socket.socketpair()
    there.setblocking(False)

    def answer() -> None:
        unheard = False
        while numbers := here.recv(64):
            if not {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} & set(numbers):
                continue
            came, again = time.monotonic(), unheard
            time.sleep(UNHEARD_S)
            # A handler may have come before this thread, which may have been asleep for another signal.
            unheard = _Heard.at < came - 2 * UNHEARD_S
            if unheard and again:
                if sys.stderr.isatty():
                    os.write(2, SHOW_CURSOR)
                os._exit(Interrupted.exit_code)
            if unheard:
                with suppress(OSError):
                    print(COMPILING, file=sys.stderr)

    before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=answer, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        there.close()


def _leave_lost_terminal() -> None:
    """Where the terminal is gone, sends what is printed nowhere: printing would fail before the save."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP raise KeyboardInterrupt too, and answers all while a library compiles.

    Where Python drops an exception, in a callback of its import system for one, either comes again."""
    unraisable = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        _hear()
        signal.default_int_handler(number, frame)

    def again(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            # Later, for here it would be dropped too; as SIGTERM, for SIGINT is ignored in the background.
            threading.Timer(AGAIN_S, _thread.interrupt_main, (signal.SIGTERM,)).start()
        else:
            unraisable(dropped)

    in_front = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    with _answering(), _handling(_ending(*([signal.SIGINT] if in_front else [])), interrupt):
        sys.unraisablehook = again
        try:
            yield
        finally:
            sys.unraisablehook = unraisable


@contextmanager
def deferred_interrupt(say: Callable[[str], None] | None = None) -> Iterator[Interruption]:
    """Lets the first of the signals only set `requested`, and say so; a second one acts at once.

    Raises: KeyboardInterrupt at the end if one came that nobody asked for any more."""
    interruption, before = Interruption(), _ending(signal.SIGINT)

    def request(number: int, _: FrameType | None) -> None:
        interruption.requested = True
        _hear()
        signal.signal(number, before[number])
        if say is not None:
            # From a thread: the signal may have come in the middle of a line.
            threading.Thread(target=say, args=(SAVING,)).start()

    with _handling(before, request):
        yield interruption
    if interruption.requested:
        raise KeyboardInterrupt


@contextmanager
def quiet(everything: bool = False) -> Iterator[None]:
    """Lets dependencies show errors and no warnings, in Python as in XLA.

    To be entered before JAX is imported, for XLA asks once how much it may say. What was asked for
    from outside (`python -W`, PYTHONWARNINGS, TF_CPP_MIN_LOG_LEVEL) is shown, and so is `everything`."""
    if everything:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    handler = _ToUser()
    logging.root.addHandler(handler)
    show: Any = warnings.showwarning

    def showwarning(message: Any, category: Any, filename: str, *rest: Any, **named: Any) -> None:
        if not _is_hidden(filename, issubclass(category, DeprecationWarning | FutureWarning)):
            show(message, category, filename, *rest, **named)

    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.showwarning = showwarning
            yield
    finally:
        logging.root.removeHandler(handler)


class _ToUser(logging.Handler):
    """Anybody's errors, and warnings of ours or of a user's task file."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or not _is_hidden(record.pathname):
            cause = (record.exc_info or ())[1:2]  # its traceback is for --debug
            parts = record.levelname.lower(), record.getMessage(), *map(str, cause)
            print(printable(": ".join(parts)), file=sys.stderr)


def _is_hidden(filename: str, outdated: bool = False) -> bool:
    """Says whether a warning is of a library, or of how this program uses one."""
    file = Path(filename).resolve()
    if any(file.is_relative_to(folder) for folder in _OWN):
        return outdated
    return any(file.is_relative_to(folder) for folder in _LIBRARIES)


class SaveTimer:
    """Every `interval_s`, or less often where saving takes long; 0 saves at every chance."""

    def __init__(self, interval_s: float):
        self._interval_s = interval_s
        self._next = time.monotonic() + interval_s

    def due(self) -> bool:
        return time.monotonic() >= self._next

    @contextmanager
    def saving(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        cost = time.monotonic() - begun
        wait = max(self._interval_s, cost / SAVING_SHARE) if self._interval_s else 0.0
        self._next = time.monotonic() + wait
