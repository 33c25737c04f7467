"""Imports go one way, pipelines -> export -> student -> teacher, and the controller stands alone."""

import ast
import subprocess
import sys
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
STAGES = {"all_stages", "export_students", "run_sweep", "stages", "train_students", "train_teacher"}


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


def test_help_loads_nothing_heavy():
    heavy = "{'jax', 'mujoco', 'onnx', 'matplotlib', 'numpy', 'pydantic'}"
    code = f"import pipelines.cli, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_loads_nothing_that_computes():
    heavy = "{'jax', 'mujoco', 'scipy', 'teacher.learner', 'teacher.rollout'}"
    code = f"import pipelines.report, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
