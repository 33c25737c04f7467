"""Public names of a package that are imported when they are first asked for.

So importing a package is fast and starts no device, and the command line answers --help at once.
"""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazily(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns `__getattr__`, `__dir__` (PEP 562) and `__all__` of the package whose `__init__.py` is `file`.

    Its names are those that the file imports as themselves, for type checkers: `from a.b import C as C`."""
    lines = [node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.ImportFrom)]
    homes = {name.asname: line.module for line in lines for name in line.names if name.asname}

    def get(name: str) -> Any:
        if home := homes.get(name):
            return getattr(import_module(home), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    public = sorted(name for name in homes if not name.startswith("_"))
    return get, lambda: sorted(homes), public
