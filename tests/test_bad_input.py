"""Whatever is wrong is said in one message with the right exit code, and nothing is lost."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import preset, with_values
from pipelines.files import write_json
from pipelines.rundir import Run, create_run, open_run
from pipelines.stages import new_run
from pipelines.train_teacher import teach
from teacher import checkpoint
from teacher.errors import FathomError, UsageError


def assert_refused(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("name", "task", "architecture"),
    [
        ("ant-big-maze", "ant_big_maze", "published"),
        ("humanoid", "humanoid", "published"),
        ("humanoid-u-maze", "humanoid_u_maze", "published"),
        ("rl1000", "humanoid_u_maze", "scaled"),
    ],
)
def test_presets_of_published_tasks_have_the_published_settings(name, task, architecture):
    """arXiv:2503.14858, table 7; depth is what the paper varies."""
    found = preset(name).teacher.model_dump()
    published = {
        "task": {"name": task, "engine": "brax"},
        "network": {"architecture": architecture, "width": 256, "repr_dim": 64},
        "update": dict.fromkeys(["actor_lr", "critic_lr", "temperature_lr"], 3e-4)
        | {"batch_size": 512, "discount": 0.99, "logsumexp_penalty": 0.1, "target_entropy": -0.5},
        "collect": {"envs": 512, "unroll_length": 62, "updates": 800, "buffer_rows": 10_000, "prefill": 1000}
        | {"starts": "repeated", "sampling": "windows"}
        | {"total_steps": 400_000_000 if name == "humanoid-u-maze" else 100_000_000},
        "evaluate": {"episodes": 128},
    }
    assert all(found[group].items() >= fields.items() for group, fields in published.items())


def test_resuming_with_other_settings_is_refused(tmp_path, pipeline):
    create_run(tmp_path / "runs" / "debug", preset("debug"), "debug", 0)
    for words, told in (
        ("--set network.width=8", "network.width is 16 there, not 8"),
        ("--seed 3", "seed 0"),
    ):
        done = pipeline("teacher", "--run", "debug", "--resume", *words.split(), cwd=tmp_path)
        assert_refused(done, 2, told, "resume without")


def test_without_a_name_the_only_run_is_meant_and_several_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create_run(tmp_path / "runs" / "one", preset("debug"), "debug", 0)
    assert open_run(None).path.name == "one"
    create_run(tmp_path / "runs" / "two", preset("debug"), "debug", 0)
    with pytest.raises(UsageError, match=r"name a run:\n  runs/one\n  runs/two"):
        open_run(None)


def test_students_need_a_finished_teacher(tmp_path, pipeline):
    create_run(tmp_path / "run", preset("debug"), "debug", 0)
    for stage in ("distill", "export"):
        assert_refused(pipeline(stage, "run", cwd=tmp_path), 1, "no checkpoint in", "pipeline teacher")


def test_what_is_done_is_not_done_again_nor_its_settings_changed(debug_run, tmp_path, pipeline):
    run = Run(debug_run.path)
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*.*") if file.name != ".lock"}
    for words, *told in (
        (["distill"], "holds students already"),
        (["distill", "--set", "student.rounds=9"], "student.rounds", "holds students already"),
        (["export", "--set", "student.rounds=9"], "student.rounds", "holds students already"),
        (["export", "--set", "network.depth=8"], "network.depth", "the teacher is trained"),
        (["evaluate", "--task", "fr3_reach"], "--task fr3_reach", "is of the task reacher"),
    ):
        assert_refused(pipeline(*words, run.path, cwd=tmp_path), 2, *told)
    with pytest.raises(UsageError, match="holds a teacher already"):
        teach(run)
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_a_directory_that_is_no_run_or_cannot_be_one_is_refused(debug_run, tmp_path, pipeline):
    assert_refused(pipeline("distill", debug_run.path / "teacher", cwd=tmp_path), 2, "is part of")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    assert_refused(pipeline("report", "foreign", cwd=tmp_path), 1, "foreign/config.json is no file of a run")
    with pytest.raises(FathomError, match="cannot create run"):
        create_run(tmp_path / "foreign" / "config.json" / "run", preset("debug"), "debug", 0)


def test_settings_edited_by_hand_since_a_save_are_refused_by_name(debug_run, tmp_path, pipeline):
    run = create_run(tmp_path / "run", with_values(preset("debug"), ["update.discount=0.5"]), "debug", 0)
    shutil.copytree(debug_run.path / "teacher" / "checkpoints", run.checkpoints)
    done = pipeline("teacher", "--run", "run", "--resume", cwd=tmp_path)
    assert_refused(done, 1, "config.json", "update.discount is", "0.5 here")


# Runs of others

EVERY_STAGE = [
    *(["run", "--resume", "--run"], ["teacher", "--resume", "--run"], ["distill", "--resume"]),
    *(["distill", "--baselines", "cloning"], ["export", "--resume"], ["control", "--episodes", "2"]),
    *(["evaluate", "--episodes", "2"], ["watch", "--episodes", "1"], ["report"], ["config"]),
]
CODE = """
from pathlib import Path
import BESIDE as beside
from teacher.tasks.reacher import Reacher
with Path(beside.TRACE).open("a") as trace:
    trace.write(__file__ + "\\n")
class Arm(Reacher):
    pass
"""


@pytest.fixture
def gift(debug_run, tmp_path, monkeypatch) -> Path:
    """Somebody's run, whose settings and checkpoints say that its task is code in a file: in its own copy."""
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(debug_run.path, tmp_path / "runs" / "gift", symlinks=True))
    beside = f"beside_{tmp_path.name}"  # of no other test: a process imports a name once
    texts = {
        "arm.py": CODE.replace("BESIDE", beside),
        f"{beside}.py": f"TRACE = {str(tmp_path / 'executed')!r}",
    }
    for folder in (tmp_path / "theirs", run / "task"):
        folder.mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text)
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    write_json(run / "task" / "files.json", hashes)
    planted = f"{run / 'task' / 'arm.py'}:Arm"
    settings = Run(run).settings
    settings["config"]["teacher"]["task"]["name"] = planted
    write_json(run / "config.json", settings)
    for manifest in (run / "teacher" / "checkpoints").glob("*/manifest.json"):
        saved = json.loads(manifest.read_text())
        saved["record"]["config"]["task"]["name"] = planted
        checkpoint.write_manifest(manifest.parent, saved)
    return run


def executed() -> set[str]:
    trace = Path("executed")
    return set(trace.read_text().split()) if trace.exists() else set()


def test_no_stage_executes_what_a_run_names(gift):
    for words in EVERY_STAGE:
        done = CliRunner().invoke(app, [*words, "gift"])
        assert not executed(), words
        if words[0] not in ("report", "config"):
            assert done.exit_code == 2, (words, done.output)
            assert str(gift / "task" / "arm.py") in done.stderr
            assert "--trust" in done.stderr
    Path("mine.toml").write_text(f'[task]\nname = "{gift}/task/arm.py:Arm"\n')
    done = CliRunner().invoke(app, ["run", "--config", "mine.toml"])
    assert done.exit_code == 2
    assert not executed()


def test_a_run_that_is_trusted_runs_by_its_own_copy_and_a_file_that_is_named_in_its_place(gift, tmp_path):
    moved = gift.rename(tmp_path / "runs" / "moved")  # to where its settings' path is nobody's
    theirs = f"{tmp_path / 'theirs' / 'arm.py'}:Arm"
    done = CliRunner().invoke(app, ["evaluate", "moved", "--episodes", "2", "--task", theirs])
    assert done.exit_code == 0, done.output
    assert executed() == {str(tmp_path / "theirs" / "arm.py")}
    assert f"the task is the code in {theirs}" in done.stderr
    done = CliRunner().invoke(app, ["control", "moved", "--episodes", "2", "--trust"])
    assert done.exit_code == 0, done.output
    assert executed() == {str(folder / "arm.py") for folder in (tmp_path / "theirs", moved / "task")}
    next((moved / "task").glob("beside*")).write_text("TRACE = 'elsewhere'")
    done = CliRunner().invoke(app, ["evaluate", "moved", "--trust"])
    assert done.exit_code == 1
    assert "is missing or was altered" in done.stderr


def test_a_run_keeps_a_copy_of_its_task_file_and_of_modules_beside_it(gift, tmp_path):
    theirs = f"{tmp_path / 'theirs' / 'arm.py'}:Arm"
    config = with_values(preset("debug"), [f"task.name={theirs}"])
    run = new_run(tmp_path / "runs" / "own", config, "debug")
    copies = {file.name: file.read_text() for file in (run.path / "task").glob("*.py")}
    assert copies == {file.name: file.read_text() for file in (tmp_path / "theirs").glob("*.py")}
    assert run.kept_task() == f"{run.path / 'task' / 'arm.py'}:Arm"
    assert not run.keeps_other_task(theirs)
    (tmp_path / "theirs" / "arm.py").write_text(CODE + "# another")
    assert run.keeps_other_task(theirs)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        (".lock", "authorized_keys"),
        (".summary.lock", "not_there_yet"),
        ("control/2x16", "home"),
        ("teacher/deep/link", "/etc/passwd"),
        ("circle", "circle"),
    ],
)
def test_nothing_is_read_or_written_through_a_link_out_of_a_run(gift, tmp_path, link, target):
    keys = tmp_path / "authorized_keys"
    keys.write_text("ssh-ed25519 AAAA me")
    (tmp_path / "home").mkdir()
    place = gift / link
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(Path(target) if target.startswith(("/", "circle")) else tmp_path / target)
    # Each way to open a run, at one of the links; at the others one of them.
    for words in (
        (*EVERY_STAGE, ["compare", "gift"]) if link == ".lock" else (["report"], ["export", "--resume"])
    ):
        done = CliRunner().invoke(app, [*words, "gift"])
        assert done.exit_code == 1, (words, done.output)
        assert f"{place} is a link out of" in done.stderr
    assert keys.read_text() == "ssh-ed25519 AAAA me"
    assert not list((tmp_path / "home").iterdir())
    assert not (tmp_path / "not_there_yet").exists()


def test_a_pipe_in_a_run_hangs_nobody_and_links_within_a_run_are_its_own(gift):
    (gift / "again.json").symlink_to("summary.json")
    open_run("gift")
    baseline = Path(shutil.copytree(gift / "control", gift / "baselines" / "cloning"))
    shutil.copy(gift / "config.json", baseline)
    (baseline / "teacher").symlink_to("../../teacher")
    open_run(str(baseline))
    (baseline / "students").symlink_to("../../../other")
    with pytest.raises(FathomError, match="students is a link out of"):
        open_run(str(baseline))
    shutil.rmtree(baseline)
    os.mkfifo(gift / "teacher" / "metrics.jsonl.pipe")
    with pytest.raises(FathomError, match=r"metrics\.jsonl\.pipe is no file and no folder"):
        open_run("gift")


def test_a_file_is_written_in_place_of_no_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    run = create_run(tmp_path / "run", preset("debug"), "debug", 0)
    for name in (".lock", ".summary.json.partial", "metrics.jsonl"):
        (run.path / name).symlink_to(tmp_path / "precious")
    for write in (
        lambda: run.locked().__enter__(),
        lambda: run.update_summary({"wall_s": 1.0}),
        lambda: run.append_metrics(".", {}),
    ):
        with pytest.raises(FathomError, match="cannot write"):
            write()
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_sweep_names_no_run_outside_of_it(gift, tmp_path):
    sweep = tmp_path / "runs" / "sweep"
    sweep.mkdir()
    entries = [{"run": "../gift", "values": {}, "seed": 0}]
    settings = {"preset": "debug", "config": preset("debug").model_dump(mode="json")}
    (sweep / "sweep.json").write_text(json.dumps(settings | {"vary": {}, "seeds": [0], "runs": entries}))
    for words in (["distill", "sweep"], ["report", "sweep"], ["teacher", "--resume", "--run", "sweep"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1, done.output
        assert "'../gift' lies outside the sweep" in done.stderr
