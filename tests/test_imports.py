"""Imports go one way, pipelines -> export -> student -> teacher, and the controller stands alone."""

import ast
import os
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("teacher", "student", "export", "pipelines")


MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in ORDER
    for file in (ROOT / package).rglob("*.py")
}
STAGES = {
    *("all_stages", "closed_loop", "export_students", "run_sweep", "stages"),
    *("train_students", "train_teacher", "training"),
}


@cache
def names(file: Path) -> set[str]:
    """All that a file imports, at its top and in its functions, but not for type checkers alone."""
    found, nodes = set(), [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & MODULES.keys()) or {node.module}
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            nodes += ast.iter_child_nodes(node)
    return found


def imported(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in names(file)}


@pytest.mark.parametrize("package", ORDER)
def test_no_package_imports_one_above_it(package):
    above = set(ORDER[ORDER.index(package) + 1 :])
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not imported(file) & above, file


@pytest.mark.parametrize("package", ORDER)
def test_no_imports_run_in_a_circle(package):
    inside = {name: file for name, file in MODULES.items() if name.partition(".")[0] == package}
    graph = {name: names(file) & inside.keys() for name, file in inside.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(inside)  # CycleError names the circle


def test_a_report_computes_nothing_and_no_stage_writes_one():
    stages = {f"pipelines.{name}" for name in STAGES}
    assert stages <= MODULES.keys()
    for name, file in MODULES.items():
        if name.startswith("pipelines.report"):
            assert not names(file) & stages, name
        if name in stages - {"pipelines.all_stages"}:
            assert not any(other.startswith("pipelines.report") for other in names(file)), name


def test_controller_imports_the_standard_library_numpy_and_onnxruntime_alone():
    allowed = sys.stdlib_module_names | {"numpy", "onnxruntime"}
    allowed |= {"cryptography"}  # of load(trusted=...) alone, which says so where it is missing
    assert imported(ROOT / "export" / "controller.py") <= allowed


COMPUTES = {"jax", "mujoco", "scipy", "teacher.learner", "teacher.rollout"}
HEAVY = {"jax", "mujoco", "onnx", "onnxruntime", "matplotlib", "numpy", "pydantic"}
COMPLETE = {
    "_PIPELINE_COMPLETE": "complete_bash",
    "COMP_WORDS": "pipeline run --set network.d",
    "COMP_CWORD": "3",
}


@pytest.mark.parametrize(
    ("code", "settings", "heavy", "printed"),
    [
        (f"import {', '.join(ORDER)}", {}, HEAVY, []),
        ("import pipelines.cli", {}, HEAVY, []),
        ("import pipelines.report", {}, COMPUTES, []),
        ("from pipelines.cli import main; main()", COMPLETE, HEAVY - {"pydantic"}, ["network.depth="]),
    ],
    ids=["packages", "command", "report", "completion"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code, settings, heavy, printed):
    program = f"import sys; sys.argv[0] = 'pipeline'\ntry: {code}\nfinally: print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [*printed, "set()"], done.stderr
