"""Imports go one way, pipelines -> export -> student -> teacher, and the controller stands alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("teacher", "student", "export", "pipelines")


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", ORDER)
def test_no_package_imports_one_above_it(package):
    above = set(ORDER[ORDER.index(package) + 1 :])
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not imported(file) & above, file


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
