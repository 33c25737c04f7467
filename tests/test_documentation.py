"""README.md and docs/ are true: their commands are accepted and run, their snippets run, their names exist.

Snippets run as a reader copies them: nothing is put in, nothing is replaced. documented.py says which command
runs, in small, and which is only read."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from documented import FENCE, ROOT, SMALL, Block, blocks, commands, in_small
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
IN_SMALL = sorted({in_small(command.words) for command in COMMANDS if command.runs})
PIPELINE = [command for command in COMMANDS if command.words[0] == "pipeline"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SPEC = make_task("fr3_reach").spec
N, A, G = SPEC.sensed_sizes


def named(values):
    return {"argvalues": values, "ids": [str(value) for value in values]}


def of_kind(kind: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind == kind]


def snippet(page: str, number: int, kind: str = "python") -> str:
    return [block.text for block in of_kind(kind) if block.page == page][number]


# Commands


def test_every_block_has_a_kind_and_every_command_a_class():
    assert not [block.place for block in BLOCKS if block.kind == "unknown"]
    assert any(command.runs for command in COMMANDS)  # raises for one without a class
    used = {command.stage for command in PIPELINE if command.fenced}
    # Anybody's first questions have their command in a block.
    assert used >= {"run", "teacher", "distill", "export", "control", "inspect", "watch", "report", "tasks"}


@pytest.mark.parametrize("command", **named(PIPELINE))
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


@pytest.mark.parametrize(
    "command", **named([c for c in COMMANDS if c.words[0] in ("pip", "pytest", "mkdocs", "python")])
)
def test_other_commands_name_what_there_is(command):
    program, *words = command.words
    if program == "pip" and "-e" in words:
        asked = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", words[words.index("-e") + 1])[1]
        assert {*asked.split(",")} <= PROJECT["project"]["optional-dependencies"].keys() if asked else True
        assert "-c" not in words or (ROOT / words[words.index("-c") + 1]).is_file()
    elif program == "pip":
        assert words[1].partition("[")[0] in ("jax", "playground", "tensorboard", "mujoco-menagerie"), command
    elif program in ("pytest", "mkdocs"):  # what CI types, or a marker
        markers = PROJECT["tool"]["pytest"]["ini_options"]["markers"]
        known = {marker.partition(":")[0] for marker in markers}
        assert " ".join(command.words) in (ROOT / ".ci" / "run").read_text() or words[-1] in known
    elif words[0].startswith("benchmarks/"):
        text = (ROOT / words[0]).read_text() + (ROOT / "benchmarks" / "measuring.py").read_text()
        assert all(f'"{word}"' in text for word in words if word.startswith("--"))
    else:
        assert words[0] == "-c" or words[0].endswith("controller.py")


@pytest.mark.parametrize("words", IN_SMALL, ids=shlex.join)
def test_commands_run(words, debug_run, tmp_path, monkeypatch):
    if words == ("run", "--preset", "debug"):
        return  # the fixture is what it wrote
    stage = words[0]
    if stage not in ("run", "teacher"):
        shutil.copytree(debug_run.path, tmp_path / "runs" / "debug")
        if stage == "compare":
            shutil.copytree(debug_run.path, tmp_path / "runs" / "other")
        for part in SMALL[stage]:
            shutil.rmtree(tmp_path / "runs" / "debug" / part)
    (tmp_path / "my_robot.py").write_text(snippet("docs/own-task.md", 0))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stdout


@pytest.mark.alone
@pytest.mark.parametrize("command", **named([c for c in PIPELINE if c.fenced and "fr3-sim" in c.words]))
def test_commands_for_a_robot_run(command, arm, monkeypatch):
    monkeypatch.chdir(arm.parents[3])
    words = {"quickstart": str(arm), "10": "1"}
    done = CliRunner().invoke(app, [words.get(word, word) for word in command.words[1:]])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "distances_m" in done.stdout


def test_the_first_command_writes_the_documented_files(debug_run):
    listing = next(block for block in of_kind("listing") if block.text.startswith("runs/quickstart/"))
    for line in listing.text.splitlines()[1:]:
        name = line.split()[0].replace("2x32", "2x16")
        assert (debug_run.path / name).exists(), name


def test_the_layout_of_the_code_is_as_described():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    [listing] = [found[2] for found in FENCE.finditer(text) if found[2].startswith("teacher/")]
    for folder, text in re.findall(r"^(\w+)/ +(.*(?:\n .*)*)", listing, re.MULTILINE):
        assert (ROOT / folder).is_dir()
        for name in re.findall(r"[\w-]+\.(?:py|md)|\b\w+(?=/)", text):
            assert (ROOT / folder / name).exists(), f"{folder}/{name}"


def test_comments_in_commands_have_lines_of_their_own():
    """Behind a command zsh takes them for arguments, unless it is told otherwise."""
    for block in of_kind("commands"):
        assert not re.search(r"\S[ \t]+#", block.text), block.place


def test_the_readme_is_short_and_its_pictures_are_small():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 120
    pictures = [ROOT / name for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)]
    assert {file.name for file in pictures} == {"arm.gif", "report.png"}
    assert sum(file.stat().st_size for file in pictures) < 1_000_000


def test_the_answer_at_the_top_of_the_results_is_what_the_rows_say():
    script = ROOT / "benchmarks" / "answer.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=ROOT)
    page = (ROOT / "docs" / "results.md").read_text()
    tables = done.stdout.strip().split("\n\n")
    assert len(tables) == 4
    for table in tables:
        assert table in page, f"python benchmarks/answer.py prints:\n{table}"


# Snippets


@pytest.fixture(scope="module")
def arm(tmp_path_factory) -> Path:
    """A bundle of the quickstart's task, with the files for C99, where the quickstart puts its own."""
    random, size = np.random.default_rng(0), Size(2, 16)
    student = init_student(jax.random.key(0), size, size, SPEC.sensed_sizes, 8)
    shapes = ((-1, 1, N), (SPEC.goal.low, SPEC.goal.high, G), (-1, 1, A))
    arrays = (random.uniform(low, high, (1000, width)).astype(np.float32) for low, high, width in shapes)
    folder = tmp_path_factory.mktemp("arm") / "runs" / "quickstart" / "export" / "2x64"
    write_bundle(
        folder,
        SPEC,
        lambda obs, goal: act(student, obs, goal),
        lambda obs, action, goal: critic_distance(student, obs, action, goal),
        *arrays,
        provenance={},
        evaluate=lambda _: {"success": 1.0},
        targets=("c99",),
    )
    shutil.copytree(folder, folder.with_name("2x32"))
    return folder


def executed(text: str) -> dict:
    """Returns the snippet's names after it has run as it stands."""
    names: dict = {"__name__": "snippet"}
    exec(compile(text, "snippet", "exec"), names)
    return names


def test_snippets_ask_a_bundle(arm, monkeypatch):
    monkeypatch.chdir(arm.parents[3])
    for page in ("README.md", "docs/tutorial.md"):
        asked = executed(snippet(page, 0))
        assert (asked["obs"].shape, asked["goal"].shape, asked["action"].shape) == ((N,), (G,), (A,))
        assert asked["controller"].spec["name"] == "fr3_reach"


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


def test_snippets_for_the_robots_computer_run_in_the_bundle(arm, monkeypatch):
    monkeypatch.chdir(arm)
    monkeypatch.syspath_prepend(arm)  # as Python does for a program that lies there
    try:
        executed(snippet("docs/robots.md", 0))
        assert (arm / "steps.npz").exists()
        (arm / "steps.npz").unlink()
        card = (arm / "README.md").read_text()
        [use] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert executed(use)["command"].shape == (A,)
    finally:
        sys.modules.pop("controller", None)


def test_the_page_on_python_goes_through_all_stages_and_nothing_else_prints(
    arm, debug_run, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    found = executed(snippet("docs/python.md", 0))
    said = capfd.readouterr()
    assert len(said.out.splitlines()) == 1  # what the snippet itself prints
    assert said.err == ""
    assert found["figures"] == found["run"].summary["control"][found["exported"]["selected"]]
    trained = executed(snippet("docs/python.md", 1))
    assert int(trained["state"].iteration) == preset("debug").teacher.collect.iterations
    assert executed(snippet("docs/python.md", 2))["metrics"].success_final.shape == (16,)
    distilled = executed(snippet("docs/python.md", 4))
    assert np.isfinite(float(distilled["metrics"]["2x16/action_error"]))
    shutil.copytree(arm.parents[1], tmp_path / "runs" / "quickstart")
    others = executed(snippet("docs/python.md", 3))
    assert others["truncated"] and np.isfinite(others["info"]["distance"])


def test_the_page_on_tracking_reads_a_run(debug_run, tmp_path, monkeypatch, capsys):
    shutil.copytree(debug_run.path, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    executed(snippet("docs/tracking.md", 0))
    assert 0 <= float(capsys.readouterr().out) <= 1


def test_the_notebook_goes_from_a_preset_to_a_controller(tmp_path, monkeypatch, capsys):
    file = ROOT / "docs" / "notebook.ipynb"
    cells = [cell for cell in json.loads(file.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert file.stat().st_size < 300_000
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert text.count('PRESET = "quickstart"') == 1
    found = executed(text.replace('PRESET = "quickstart"', 'PRESET = "debug"'))
    assert "<Controller of reacher" in capsys.readouterr().out
    assert found["action"].shape == (2,)


def test_no_python_snippet_is_left_out():
    pages = [block.page for block in of_kind("python")]
    run = {
        "README.md": 1,
        "docs/python.md": 5,
        "docs/tutorial.md": 1,
        "docs/robots.md": 1,
        "docs/tracking.md": 1,
    }
    assert Counter(pages) == run | {"docs/own-task.md": 4}  # of which tests/test_own_task.py makes files


def test_the_c_and_cpp_blocks_compile_and_run(arm, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    folder = shutil.copytree(arm / "deploy" / "c99", tmp_path / "c99")
    (folder / "main.cpp").write_text(snippet("docs/robots.md", 0, "cpp"))
    for command in (c for c in COMMANDS if c.words[0] in ("gcc", "g++")):
        subprocess.run(command.words, cwd=folder, check=True)
    subprocess.run(["./a.out"], cwd=folder, check=True)


def test_settings_of_other_programs_are_as_they_read_them():
    entry_points = tomllib.loads(snippet("docs/own-task.md", 0, "toml"))["project"]["entry-points"]
    assert list(entry_points) == [GROUP]
    [job] = of_kind("yaml")
    container = yaml.safe_load(job.text)["spec"]["template"]["spec"]["containers"][0]
    program, stage, *words = container["command"]
    assert program == "pipeline"
    get_command(app).commands[stage].make_context(stage, words)


def test_the_settings_file_is_read_as_described(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(snippet("docs/configuration.md", 0, "toml"))
    found = requested(None, file, None)
    assert found.base == "quickstart"
    assert found.config.teacher.network.depth == 64
    assert found.config.student.select is None


def test_the_page_of_all_settings_says_what_the_settings_say():
    command = "python -c 'from pipelines.config import document; print(document())' prints what belongs there"
    assert document() in (ROOT / "docs" / "settings.md").read_text(), command


# Names and keys


def test_every_metric_of_a_run_is_explained(debug_run):
    """Figures of a summary are those of the schema, whose text is the page: tests/test_summary.py."""
    explained = set(re.findall(r"`([^`]+)`", (ROOT / "docs" / "summary.md").read_text()))
    for stage in ("teacher", "students"):
        for line in (debug_run.path / stage / "metrics.jsonl").read_text().splitlines():
            assert {re.sub(r"^\d+x\d+\b", "SIZE", key) for key in json.loads(line)} <= explained


def test_functions_that_the_method_names_exist():
    text = (ROOT / "docs" / "method.md").read_text()
    for file, name in re.findall(r"`((?:teacher|student)/\w+\.py): (\w+)`", text):
        assert re.search(rf"^(def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE), name
    for file in re.findall(r"`((?:teacher|student|export|pipelines|tests|benchmarks)/[\w/]+\.py)\b", text):
        assert (ROOT / file).is_file(), file
