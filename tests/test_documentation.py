"""README.md and docs/ are true: their commands are accepted and run, their snippets run, their names exist.

documented.py says which command runs, in small, and which is only read."""

import json
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
from documented import ROOT, SMALL, Block, blocks, commands, in_small
from typer.main import get_command
from typer.testing import CliRunner

from export.bundle import write_bundle
from pipelines import preset, with_values
from pipelines.cli import app
from pipelines.config import requested
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
GOAL = np.array([0.4, 0.1, 0.5], np.float32)
MY_ROBOT = """
struct MyRobot {
    fathom::Clock::time_point read(fathom::Reading &reading) {
        for (std::size_t i = 0; i < reading.size(); i++) reading[i] = HOME[i];
        return fathom::Clock::now();
    }
    void write(const fathom::Command &) {}
    void stop() {}
};
"""


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
        assert words[1].partition("[")[0] in ("jax", "playground", "tensorboard", "fathom-rl"), command
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
    listing = next(block for block in of_kind("listing") if block.text.startswith("teacher/"))
    for folder, text in re.findall(r"^(\w+)/ +(.*(?:\n .*)*)", listing.text, re.MULTILINE):
        assert (ROOT / folder).is_dir()
        for name in re.findall(r"[\w-]+\.(?:py|md)|\b\w+(?=/)", text):
            assert (ROOT / folder / name).exists(), f"{folder}/{name}"


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
        judge=lambda _: {"success": 1.0},
        targets=("c99",),
    )
    shutil.copytree(folder, folder.with_name("2x32"))
    return folder


def executed(text: str, *, given=None, **replaced: str) -> dict:
    """The snippet's names after it has run; each `replaced` text must stand in it."""
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    names = dict(given or {})
    exec(compile(text, "snippet", "exec"), names)
    return names


def test_snippets_ask_a_bundle(arm, monkeypatch):
    monkeypatch.chdir(arm.parents[3])
    monkeypatch.syspath_prepend(arm)  # `controller` lies in the bundle
    found = executed(snippet("README.md", 0), given={"obs": np.zeros(N, np.float32), "goal": GOAL})
    assert found["action"].shape == (A,)
    assert found["controller"].spec["name"] == "fr3_reach"
    asked = executed(snippet("docs/tutorial.md", 0))
    assert asked["obs"].shape == (N,)
    monkeypatch.chdir(arm)
    executed(snippet("docs/robots.md", 0), **{"10.0": "0.3"})
    assert (arm / "steps.npz").exists()
    (arm / "steps.npz").unlink()
    del sys.modules["controller"]


def test_the_readme_trains_distils_exports_and_controls_and_nothing_prints(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    given = {"obs": np.zeros(8, np.float32), "goal": np.zeros(2, np.float32)}
    given["obs"] = np.zeros(make_task("reacher").spec.observation_size, np.float32)
    small = {"quickstart": "debug", "network.depth=16": "network.depth=4", "2x32,2x64": "2x16,3x16"}
    found = executed(snippet("README.md", 1), given=given, **small)
    said = capfd.readouterr()
    assert len(said.out.splitlines()) == 2  # what the snippet itself prints
    assert said.err == ""
    assert found["figures"] == found["run"].summary["control"][found["exported"]["selected"]]
    assert found["bundle"] == Path("runs/arm/export/2x16")


def test_the_pages_on_python_and_tracking_go_on_with_a_run(debug_run, tmp_path, monkeypatch, capsys):
    for name in ("arm", "quickstart"):
        shutil.copytree(debug_run.path, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    executed(snippet("docs/tracking.md", 0))
    assert 0 <= float(capsys.readouterr().out) <= 1
    assert executed(snippet("docs/python.md", 2))["outcomes"].success_final.shape == (16,)
    trained = executed(snippet("docs/python.md", 1), quickstart="debug")
    assert int(trained["state"].iteration) == preset("debug").teacher.collect.iterations
    others = executed(snippet("docs/python.md", 3), **{"fr3_reach": "reacher", "2x32": "2x16"})
    assert others["truncated"] and np.isfinite(others["info"]["distance"])
    distilled = executed(snippet("docs/python.md", 4))
    assert np.isfinite(float(distilled["metrics"]["2x16/action_error"]))


def test_the_page_on_python_goes_through_all_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"quickstart": "debug", "network.depth=16": "network.depth=4", "2x32,2x64": "2x16"}
    assert executed(snippet("docs/python.md", 0), **small)["exported"]["selected"] == "2x16"


def test_no_python_snippet_is_left_out():
    pages = [block.page for block in of_kind("python")]
    run = {
        "README.md": 2,
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
    program = snippet("docs/robots.md", 0, "cpp")
    include, _, rest = program.partition("\n")
    home = ", ".join(map(str, json.loads((arm / "spec.json").read_text())["task"]["joints"]["default"]))
    robot = f"static const float HOME[{N}] = {{{home}}};\n{MY_ROBOT}"
    assert "10.0" in rest
    (folder / "main.cpp").write_text(f"{include}\n{robot}{rest.replace('10.0', '0.2')}")
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
