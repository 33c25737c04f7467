"""Settings go out as TOML and come back the same, from preset, file and --set in this order."""

import json
import re
import shlex
import subprocess
import sys

import jax.numpy as jnp
import pytest
import typer
from recovery import pipeline_here
from typer.testing import CliRunner

from export.targets import TARGETS
from pipelines import options
from pipelines.cli import app
from pipelines.config import (
    Config,
    as_toml,
    fields,
    groups,
    preset,
    requested,
    with_values,
)
from pipelines.files import write_json
from pipelines.presets import PRESETS
from pipelines.rundir import create_run, open_run
from pipelines.stages import changed, resumed_run
from teacher import memory
from teacher.errors import UsageError
from teacher.replay import future_offset
from teacher.rollout import Simulation
from teacher.tasks import TASKS
from teacher.tasks.engines import ENGINES

EDITED = [*("network.actor_width=32", "task.engine=brax"), "student.sizes=3x16-relu"]


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "settings.toml"
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_from_its_own_toml(name, file):
    shown = pipeline_here("presets", "show", name, "--toml")
    assert shown.exit_code == 0
    asked = requested(None, file(shown.stdout), None)
    assert (asked.base, asked.config) == (name, preset(name))


def test_set_comes_over_the_file_and_the_file_over_the_preset(file):
    path = file('preset = "reacher"\n[network]\ndepth = 16\nwidth = 32\n[task]\nengine = "none"')
    config = requested(None, path, ["network.width=48"]).config
    values = ["network.depth=16", "network.width=48", "task.engine=none"]
    assert config == with_values(preset("reacher"), values) and config.teacher.task.engine is None
    config = with_values(preset("reacher"), EDITED)
    assert requested(None, file(as_toml(config, "quickstart", "any")), None).config == config
    with pytest.raises(UsageError, match="two presets are named"):
        requested("debug", path, None)
    # Rules between fields hold for what all places say together.
    path = file("[collect]\nprefill = 2000")
    assert requested(None, path, ["collect.buffer_rows=3000"]).config.teacher.collect.prefill == 2000
    with pytest.raises(UsageError, match=r"collect\.prefill is 2000"):
        _ = requested(None, path, None).config


def test_a_setting_may_be_called_by_its_old_name(file, caplog):
    asked = requested("debug", file("[collect]\nreplay = 3000"), ["update.batch=16", "student.retention=0.9"])
    collect, update = asked.config.teacher.collect, asked.config.teacher.update
    assert (collect.buffer_rows, update.batch_size, asked.config.student.min_retention) == (3000, 16, 0.9)
    assert "update.batch is called update.batch_size now" in caplog.text
    for twice in (["update.batch=16", "update.batch_size=32"], ["update.batch=16", "update.batch=16"]):
        with pytest.raises(UsageError, match=r"update\.batch_size is given twice"):
            _ = requested("debug", None, twice).config


def test_a_run_from_before_there_were_these_names_and_groups_opens(tmp_path):
    run = create_run(tmp_path / "run", preset("debug"), "debug", 5)
    stored = run.settings
    stored["config"]["teacher"]["update"]["batch"] = stored["config"]["teacher"]["update"].pop("batch_size")
    del stored["config"]["track"]
    write_json(run.path / "config.json", stored)
    assert open_run(str(run.path)).config == preset("debug")


def test_a_whole_file_serves_other_stages_as_long_as_the_teacher_is_the_same(tmp_path, file):
    run = create_run(tmp_path / "run", preset("debug"), "debug", 0)
    config = with_values(preset("debug"), ["student.envs=32"])
    assert changed(run, requested(None, file(as_toml(config, "debug", "any")), None)).config == config
    with pytest.raises(UsageError, match=r"network\.depth: the teacher is trained"):
        changed(run, requested(None, file("[network]\ndepth = 8"), None))
    same = requested(None, file("[network]\ndepth = 4"), None)
    assert resumed_run(run.path, same, None).config == run.config
    with pytest.raises(UsageError, match=r"network\.depth is 4 there, not 8; resume without"):
        resumed_run(run.path, requested(None, file("[network]\ndepth = 8"), None), None)


def test_a_runs_settings_are_shown_and_come_back(tmp_path, file):
    config = with_values(preset("debug"), ["network.width=24"])
    run = create_run(tmp_path / "run", config, "debug", 5)
    assert requested(None, file(pipeline_here("config", run.path, "--toml").stdout), None).config == config
    entry = json.loads(pipeline_here("config", run.path, "--json").stdout)["settings"]["network"]["width"]
    assert entry == {"value": 24, "default": 64, "description": "units in each hidden layer"}
    page = pipeline_here("config", run.path).stdout
    for name, group in groups(config).items():
        assert all(f"{name}.{field}" in page and told for field, _, told in fields(group))


def test_names_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = create_run(tmp_path / "runs" / "mine", preset("debug"), "debug", 0)
    assert options.complete_run("m") == ["mine"]
    assert [name for name, _ in options.complete_preset("de")] == ["debug", "deep-smoke"]
    assert options.complete_field("network.de") == [
        ("network.depth=", "hidden layers of actor and encoders, in residual blocks of four")
    ]
    listed = dict(options.complete_task(""))
    assert set(TASKS) <= set(listed)
    assert sorted(options.TASKS) == sorted(TASKS) and len(set(options.TASKS.values())) == len(TASKS)
    assert sorted(options.ENGINES) == sorted(ENGINES)
    assert sorted(options.PROFILES) == sorted(TARGETS)
    assert options.complete_student("2x6") == ["2x64"]  # by default
    (mine.bundles / "2x48").mkdir(parents=True)
    (mine.bundles / "2x48" / "spec.json").touch()
    assert options.complete_policy("") == ["teacher", "student", "2x48"]


COMMANDS = typer.main.get_command(app)


@pytest.mark.parametrize("name", COMMANDS.commands)
def test_every_command_helps_with_an_example_that_it_takes(name):
    found = CliRunner().invoke(app, [name, "-h"], env={"COLUMNS": "80"})
    examples = re.findall("Example: pipeline (.*)", found.stdout)
    assert examples, found.output
    for words in map(shlex.split, examples):
        assert words[0] == name
        COMMANDS.commands[name].make_context(name, words[1:], parent=COMMANDS.make_context("pipeline", words))


def test_a_closed_pipe_ends_a_command_quietly_and_the_version_is_a_number():
    code = "from pipelines.cli import main; main()"
    command = [sys.executable, "-c", code, "presets", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert re.fullmatch(r"pipeline \d+\.\d+\.\d+\n", CliRunner().invoke(app, ["--version"]).stdout)


def numbers(node, path=""):
    """Path and schema of each number in a JSON schema."""
    if isinstance(node, list):
        for part in node:
            yield from numbers(part, path)
    elif isinstance(node, dict):
        if node.get("type") in ("number", "integer"):
            yield path, node
        for key, part in node.items():
            yield from numbers(part, path if key in ("anyOf", "properties", "items") else f"{path}.{key}")


def test_every_number_has_an_upper_and_a_lower_bound():
    found = dict(numbers(Config.model_json_schema()))
    assert len(found) > 40
    for path, node in found.items():
        if "GoalShares" in path:
            continue  # which sum to 1
        assert {"maximum", "exclusiveMaximum"} & node.keys(), path
        assert {"minimum", "exclusiveMinimum"} & node.keys(), path


@pytest.mark.parametrize("command", ["control", "evaluate", "watch"])
def test_episodes_beyond_memory_are_refused_before_one_is_drawn(debug_run, command, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda *root: 16 * 2**30)
    monkeypatch.setattr(Simulation, "starts", lambda *_: pytest.fail("episodes were drawn"))
    done = pipeline_here(command, debug_run.path, "--episodes", 900_000)
    assert done.exit_code == 2, done.output
    assert re.search(r"--episodes.*needs .* GB of memory", done.stderr), done.stderr


def test_the_largest_discount_looks_as_far_ahead_as_it_says():
    offset = future_offset(jnp.linspace(0, 1, 20_000, endpoint=False), jnp.full(20_000, 99), 0.999999)
    assert offset.mean() == pytest.approx(49.5, abs=0.5)
