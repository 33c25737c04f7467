"""What dependencies say about themselves stays off the user's screen; our own words and errors do not."""

import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.progress import printable

_HERE = Path(__file__).resolve().parents[1]
_OWN = [_HERE / name for name in ("teacher", "student", "export", "pipelines")]
_LIBRARIES = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")}


@contextmanager
def quiet(everything: bool = False) -> Iterator[None]:
    """Within, a dependency shows errors and no warnings, in Python as in XLA.

    To be entered before JAX is imported, for XLA asks once how much it may say. What was asked for
    from outside (`python -W`, PYTHONWARNINGS, TF_CPP_MIN_LOG_LEVEL) is shown, and so is `everything`."""
    if everything:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    handler = _ToUser()
    logging.root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.showwarning = _without_libraries(warnings.showwarning)
            yield
    finally:
        logging.root.removeHandler(handler)


class _ToUser(logging.Handler):
    """Anybody's errors, and warnings of ours or of a user's task file."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or not _is_library(record.pathname):
            print(printable(f"{record.levelname.lower()}: {self.format(record)}"), file=sys.stderr)


def _without_libraries(show: Any) -> Any:
    """`warnings.showwarning`, silent about libraries and about how this program uses them."""

    def showwarning(message: Any, category: Any, filename: str, *rest: Any, **named: Any) -> None:
        outdated = issubclass(category, DeprecationWarning | FutureWarning)
        if not (_is_library(filename) or (outdated and _is_own(Path(filename).resolve()))):
            show(message, category, filename, *rest, **named)

    return showwarning


def _is_library(filename: str) -> bool:
    file = Path(filename).resolve()
    return not _is_own(file) and any(file.is_relative_to(folder) for folder in _LIBRARIES)


def _is_own(file: Path) -> bool:
    return any(file.is_relative_to(folder) for folder in _OWN)
