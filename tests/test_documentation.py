"""README.md and docs/ are true: their commands are accepted and run, their snippets run, their names exist.

Snippets run as a reader copies them: nothing is put in, nothing is replaced. Every command is read by its own
parser; that each of them runs is tested where it is of."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from documented import FENCE, PAGES, ROOT, Block, blocks, commands
from typer.main import get_command
from typer.testing import CliRunner

from export.bundle import write_bundle
from pipelines import preset, with_values
from pipelines.cli import app
from pipelines.config import document, requested
from student import act, critic_distance
from student.config import Size
from student.networks import init_student
from teacher.tasks import GROUP, make_task

BLOCKS, COMMANDS = blocks(), commands()
PIPELINE = [command for command in COMMANDS if command.words[0] == "pipeline"]
OTHERS = [
    command
    for command in COMMANDS
    if command.words[0] in ("pytest", "mkdocs") or "-e" in command.words or "benchmarks/" in str(command)
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SPEC = make_task("fr3_reach").spec
N, A, G = SPEC.sensed_sizes


def of_kind(kind: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind == kind]


def snippets(page: str, kind: str = "python") -> list[str]:
    return [block.text for block in of_kind(kind) if block.page == page]


# Commands


@pytest.mark.parametrize("command", PIPELINE, ids=str)
def test_commands_are_accepted(command):
    words = [re.sub(r"^(N|\d+\|.*)$", "0", word.replace("RUN...", "RUN")) for word in command.words[2:]]
    if command.stage.startswith("--"):
        assert any(command.stage in option.opts for option in get_command(app).params)
        return
    parser = get_command(app).commands[command.stage]
    if not command.fenced and (not words or words == ["--robot"]):  # named, not to be typed
        return
    found = parser.make_context(command.stage, words).params
    values = [value for value in found.get("set_") or [] if "..." not in value]
    with_values(preset(found.get("preset") or "quickstart"), values)


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_other_commands_name_what_there_is(command):
    program, *words = command.words
    if program == "pip" and "-e" in words:
        extras = re.findall(r"\w+", words[words.index("-e") + 1])
        assert {*extras} <= PROJECT["project"]["optional-dependencies"].keys()
        assert "-c" not in words or (ROOT / words[words.index("-c") + 1]).is_file()
    elif program in ("pytest", "mkdocs"):  # what CI types, or a marker
        markers = " ".join(PROJECT["tool"]["pytest"]["ini_options"]["markers"])
        assert " ".join(command.words) in (ROOT / ".ci" / "run").read_text() or f"{words[-1]}:" in markers
    elif words[0].startswith("benchmarks/"):
        text = (ROOT / words[0]).read_text() + (ROOT / "benchmarks" / "measuring.py").read_text()
        assert all(f'"{word}"' in text for word in words if word.startswith("--"))


@pytest.mark.alone
def test_the_command_for_a_simulated_robot_runs(arm, monkeypatch):
    [command] = (each for each in PIPELINE if each.fenced and "fr3-sim" in each.words)
    monkeypatch.chdir(arm)
    in_small = {"10": "1", "quickstart": "runs/quickstart/export/2x64"}
    words = [in_small.get(word, word) for word in command.words[1:]]
    done = CliRunner().invoke(app, [*words, "--seconds", "0.5"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "distances_m" in done.stdout


def test_the_first_command_writes_the_documented_files(debug_run):
    listing = next(block for block in of_kind("listing") if block.text.startswith("runs/quickstart/"))
    for line in listing.text.splitlines()[1:]:
        name = line.split()[0].replace("2x32", "2x16")
        assert (debug_run.path / name).exists(), name


def test_the_answer_at_the_top_of_the_results_is_what_the_rows_say(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["answer.py"])
    runpy.run_path(str(ROOT / "benchmarks" / "answer.py"), run_name="__main__")
    printed, page = capsys.readouterr().out, (ROOT / "docs" / "results.md").read_text()
    assert "|" in printed
    for table in printed.strip().split("\n\n"):
        assert table in page, f"python benchmarks/answer.py prints:\n{table}"


# Snippets


@pytest.fixture(scope="module")
def arm(tmp_path_factory) -> Path:
    """A folder in which runs/quickstart holds bundles of the quickstart's task, with the files for C99."""
    random, size = np.random.default_rng(0), Size(2, 16)
    student = init_student(jax.random.key(0), size, size, SPEC.sensed_sizes, 8)
    shapes = ((-1, 1, N), (SPEC.goal.low, SPEC.goal.high, G), (-1, 1, A))
    arrays = (random.uniform(low, high, (1000, width)).astype(np.float32) for low, high, width in shapes)
    folder = tmp_path_factory.mktemp("arm")
    bundle = folder / "runs" / "quickstart" / "export" / "2x64"
    write_bundle(
        bundle,
        SPEC,
        lambda obs, goal: act(student, obs, goal),
        lambda obs, action, goal: critic_distance(student, obs, action, goal),
        *arrays,
        provenance={},
        evaluate=lambda _: {"success": 1.0},
        targets=("c99",),
    )
    shutil.copytree(bundle, bundle.with_name("2x32"))
    return folder


def executed(text: str) -> dict:
    """Returns the snippet's names after it has run as it stands."""
    names: dict = {"__name__": "snippet"}
    exec(compile(text, "snippet", "exec"), names)
    return names


# Those of the first are files, which tests/test_own_task.py makes; those of the others follow.
OTHER_PAGES = {"docs/own-task.md", "docs/python.md", "docs/robots.md"}


@pytest.mark.parametrize(
    "page",
    sorted({block.page for block in of_kind("python")} - OTHER_PAGES),
)
def test_snippets_run_beside_the_quickstart(page, arm, debug_run, monkeypatch, capsys):
    shutil.copytree(debug_run.path / "teacher", arm / "runs" / "quickstart" / "teacher", dirs_exist_ok=True)
    monkeypatch.chdir(arm)
    for text in snippets(page):
        found = executed(text)
        assert capsys.readouterr().out
        if "action" in found:
            assert (found["obs"].shape, found["goal"].shape, found["action"].shape) == ((N,), (G,), (A,))


def test_snippets_for_the_robots_computer_run_in_the_bundle(arm, monkeypatch):
    bundle = arm / "runs" / "quickstart" / "export" / "2x64"
    monkeypatch.chdir(bundle)
    monkeypatch.syspath_prepend(bundle)  # as Python does for a program that lies there
    try:
        for text in snippets("docs/robots.md"):
            executed(text)
        (bundle / "steps.npz").unlink()
        [use] = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)
        assert executed(use)["command"].shape == (A,)
    finally:
        sys.modules.pop("controller", None)


def test_the_page_on_python_goes_through_all_stages_and_nothing_else_prints(
    arm, tmp_path, monkeypatch, capfd
):
    shutil.copytree(arm / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    stages, *others = snippets("docs/python.md")
    found = executed(stages)
    said = capfd.readouterr()
    assert len(said.out.splitlines()) == 1 and said.err == ""  # what the snippet itself prints
    assert found["figures"] == found["run"].summary["control"][found["exported"]["selected"]]
    names = {name: value for text in others for name, value in executed(text).items()}
    assert names["truncated"] and np.isfinite(names["info"]["distance"])
    assert np.isfinite(float(names["metrics"]["2x16/action_error"]))


def test_the_notebook_goes_from_a_preset_to_a_controller(debug_run, tmp_path, monkeypatch, capsys):
    """On a finished run, which its stages keep as it is."""
    file = ROOT / "docs" / "notebook.ipynb"
    cells = [cell for cell in json.loads(file.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    shutil.copytree(debug_run.path, tmp_path / "runs" / "notebook-debug")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert text.count('PRESET = "quickstart"') == 1
    found = executed(text.replace('PRESET = "quickstart"', 'PRESET = "debug"'))
    assert "<Controller of reacher" in capsys.readouterr().out
    assert found["action"].shape == (2,)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_readme_works_as_it_is_copied(tmp_path):
    """All blocks but the one for tests, in order, in an empty folder; what pip installs is installed here."""
    program = f'{sys.executable} -c "from pipelines.cli import main; main()"'
    shell = f'pip() {{ :; }}\npipeline() {{ {program} "$@"; }}\n'
    for block in (block for block in BLOCKS if block.page == "README.md" and "pytest" not in block.text):
        programs = {
            "commands": ["bash", "-euc", shell + block.text],
            "python": [sys.executable, "-c", block.text],
        }
        if block.kind in programs:
            own = os.environ | {"PYTHONPATH": str(ROOT)}
            subprocess.run(programs[block.kind], cwd=tmp_path, env=own, check=True)


def test_the_c_and_cpp_blocks_compile_and_run(arm, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    bundle = arm / "runs" / "quickstart" / "export" / "2x64"
    folder = shutil.copytree(bundle / "deploy" / "c99", tmp_path / "c99")
    [text] = snippets("docs/robots.md", "cpp")
    (folder / "main.cpp").write_text(text)
    for command in (c for c in COMMANDS if c.words[0] in ("gcc", "g++")):
        subprocess.run(command.words, cwd=folder, check=True)
    subprocess.run(["./a.out"], cwd=folder, check=True)


def test_files_for_other_programs_are_as_they_read_them(tmp_path):
    [packaging] = snippets("docs/own-task.md", "toml")
    assert list(tomllib.loads(packaging)["project"]["entry-points"]) == [GROUP]
    [job] = of_kind("yaml")
    container = yaml.safe_load(job.text)["spec"]["template"]["spec"]["containers"][0]
    program, stage, *words = container["command"]
    assert program == "pipeline"
    get_command(app).commands[stage].make_context(stage, words)
    [settings] = snippets("docs/configuration.md", "toml")
    (tmp_path / "mine.toml").write_text(settings)
    found = requested(None, tmp_path / "mine.toml", None)
    assert found.base == "quickstart" and found.config.student.select is None
    assert found.config.teacher.network.depth == 64


# Names and keys


def test_the_page_of_all_settings_says_what_the_settings_say():
    command = "python -c 'from pipelines.config import document; print(document())' prints what belongs there"
    assert document() in (ROOT / "docs" / "settings.md").read_text(), command


def test_every_metric_of_a_run_is_explained(debug_run):
    """Figures of a summary are those of the schema, whose text is the page: tests/test_summary.py."""
    explained = set(re.findall(r"`([^`]+)`", (ROOT / "docs" / "summary.md").read_text()))
    for stage in ("teacher", "students"):
        for line in (debug_run.path / stage / "metrics.jsonl").read_text().splitlines():
            assert {re.sub(r"^\d+x\d+\b", "SIZE", key) for key in json.loads(line)} <= explained


def test_files_and_functions_that_pages_name_exist():
    text = (ROOT / "docs" / "method.md").read_text()
    for file, name in re.findall(r"`((?:teacher|student)/\w+\.py): (\w+)`", text):
        assert re.search(rf"^(def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE), name
    for page in PAGES:
        for file in re.findall(
            r"`((?:teacher|student|export|pipelines|tests|benchmarks)/[\w/]+\.py)\b", page.read_text()
        ):
            assert (ROOT / file).is_file(), f"{page}: {file}"
    layout = next(FENCE.finditer((ROOT / "CONTRIBUTING.md").read_text()))[2]
    assert layout.startswith("teacher/")
    for folder, text in re.findall(r"^(\w+)/ +(.*(?:\n .*)*)", layout, re.MULTILINE):
        for name in re.findall(r"[\w-]+\.(?:py|md)|\b\w+(?=/)", text):
            assert (ROOT / folder / name).exists(), f"{folder}/{name}"
