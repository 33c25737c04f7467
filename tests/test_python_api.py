"""From Python as from the command line: public names, what importing costs, stages without a display."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines import new_run, preset
from teacher import UsageError

ROOT = Path(__file__).parent.parent
PACKAGES = ("teacher", "student", "export", "pipelines")


def declared(package: str) -> dict[str, str]:
    """Public names and their modules, as type checkers read them."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    lines = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.asname: line.module for line in lines for alias in line.names if alias.asname}


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_those_that_type_checkers_see(package):
    module = importlib.import_module(package)
    names = declared(package)
    assert dir(module) == sorted(names)
    for name, home in names.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Tacher'"):
        _ = module.Tacher


def test_asking_for_every_name_starts_no_device():
    code = (
        "import importlib\n"
        f"for package in {PACKAGES}:\n"
        "    module = importlib.import_module(package)\n"
        "    for name in dir(module): getattr(module, name)\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_package_is_typed_and_what_it_offers_is_checked_strictly():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert "py.typed" in project["setuptools"]["package-data"]["*"]
    strict = next(each for each in project["mypy"]["overrides"] if each.get("warn_return_any"))
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
        assert {package, *declared(package).values()} <= set(strict["module"])


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_lists_the_public_names(package):
    listed = re.findall(
        r"^::: ([\w.]+)$", (ROOT / "docs" / "api" / f"{package}.md").read_text(), re.MULTILINE
    )
    assert set(listed) >= {f"{home}.{name}" for name, home in declared(package).items()}


def test_a_new_run_is_refused_before_anything_is_written(tmp_path):
    config = preset("debug")
    wrong = config.teacher.model_copy(update={"task": config.teacher.task.model_copy(update={"engine": "x"})})
    with pytest.raises(UsageError, match=r"task\.engine"):
        new_run(tmp_path / "run", config.model_copy(update={"teacher": wrong}))
    assert not list(tmp_path.iterdir())
    run = new_run(tmp_path / "run", config, seed=3)
    assert (run.seed, run.config) == (3, config)
    with pytest.raises(UsageError, match="is never overwritten"):
        new_run(tmp_path / "run", config)
