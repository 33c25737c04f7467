"""Sweeps: the runs of one, its figures and its page, and what is refused before anything is created."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from recovery import newest, pipeline_here, without_clock
from test_report import Page, add_truth, score

from pipelines import train_teacher
from pipelines.compare import compare_sweep, seed_interval
from pipelines.config import preset, with_values
from pipelines.files import write_json
from pipelines.report import write_sweep_report
from pipelines.run_sweep import train_sweep
from pipelines.runtime import Interrupted
from pipelines.sweep import Sweep, combinations, create_sweep, parse_seeds
from teacher.errors import Diverged

NAMES = ["depth-4/seed-0", "depth-8/seed-0", "depth-4/seed-1", "depth-8/seed-1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pipeline) -> tuple[Sweep, dict]:
    """Two seeds of the debug preset, of one evaluation each, and what the command printed."""
    folder = tmp_path_factory.mktemp("sweep")
    settings = ["collect.total_steps=640", "evaluate.every=1", "checkpoint.interval_s=0"]
    words = [word for assignment in settings for word in ("--set", assignment)]
    done = pipeline("teacher", "--preset", "debug", "--seeds", "0,1", *words, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return Sweep(folder / "runs" / "debug-seeds"), json.loads(done.stdout)


@pytest.fixture
def copied(trained, tmp_path, monkeypatch) -> Sweep:
    """The trained sweep, for a test to change."""
    sweep = Sweep(shutil.copytree(trained[0].path, tmp_path / "runs" / "sweep"))
    monkeypatch.chdir(tmp_path)
    return sweep


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def made(path, varied, seeds, values=()) -> Sweep:
    """A sweep in which nothing has been trained."""
    config = with_values(preset("debug"), values)
    return create_sweep(path, config, "debug", combinations(config, varied), seeds)


def fill(sweep: Sweep, success, *, skip=()) -> Sweep:
    """Ends every run but `skip` as if it had been trained; `success` gives a share for a member."""
    for member in sweep.members:
        if member.name in skip:
            continue
        member.run.begin_stage("teacher", None, member.seed)
        share, depth = success(member), member.run.config.teacher.network.depth
        for i in range(1, 5):
            line = {"iteration": i, "env_steps": 320 * i, "wall_s": 10.0 + depth * i / 4}
            member.run.append_metrics("teacher", line | {"evaluation": score(share * i / 4)})
        figures = {"depth": depth, "width": 16, "env_steps": 1280, "wall_s": 10.0 + depth, **score(share)}
        member.run.update_summary(
            {"task": "reacher", "engine": "mjx", "seed": member.seed, "teacher": figures}
        )
    return sweep


def page_of(sweep: Sweep) -> Page:
    return Page(write_sweep_report(sweep).read_text(encoding="utf-8"))


def test_one_json_object_holds_the_summary_of_every_run(trained):
    sweep, printed = trained
    assert printed == json.loads((sweep.path / "summary.json").read_text())
    assert printed["vary"] == {} and printed["seeds"] == [0, 1]
    for run, member in zip(printed["runs"], sweep.members, strict=True):
        assert run["run"] == member.name and run["state"] == "finished"
        assert member.run.summary.items() <= run.items()
        assert run["env_steps_per_s"] > 0 and run["parameters"]["critic"] > run["parameters"]["actor"]
    [combination] = printed["combinations"]
    assert combination["time_at_goal"] == np.mean([run["teacher"]["time_at_goal"] for run in printed["runs"]])
    assert combination["seeds"] == [0, 1]
    assert train_sweep(sweep) == printed  # what has ended is kept
    assert all(Page((sweep.path / "report.html").read_text()).row(member.name) for member in sweep.members)


def test_a_killed_sweep_goes_on_with_the_run_that_was_killed(trained, copied):
    """What a run holds that was killed after its first save: figures are those of the whole sweep again."""
    killed, whole = copied.members[0].run, copied.members[1].run
    shutil.rmtree(newest(killed.checkpoints))
    (killed.path / "summary.json").unlink()
    kept = files_of(whole.path)
    done = pipeline_here("teacher", "--run", "sweep", "--resume", "--json")
    assert done.exit_code == 0
    assert "run 1 of 2: seed 0; about" in done.stderr and "going on from iteration 1 of 2" in done.stderr
    found, expected = (without_clock(each["runs"]) for each in (json.loads(done.stdout), trained[1]))
    for run in (*found, *expected):
        del run["env_steps_per_s"]
    assert found == expected
    assert files_of(whole.path) == kept


def test_students_of_one_run_are_distilled_and_those_of_a_whole_sweep_judged(copied):
    settings = copied.settings
    write_json(copied.path / "sweep.json", settings | {"runs": settings["runs"][:1], "seeds": [0]})
    assert pipeline_here("distill", f"sweep/{copied.members[0].name}").exit_code == 0
    done = pipeline_here("export", "sweep", "--json")
    assert done.exit_code == 0, done.stderr
    summary, [member] = json.loads(done.stdout), copied.members
    row, student = summary["students"][0], summary["runs"][0]["students"]["2x16"]
    assert row["size"] == "2x16" and row["episodes"] == 16
    for key in ("time_at_goal", "teacher_time_at_goal"):
        assert row[key] == student[key]
    assert (member.run.bundles / "2x16" / "policy.onnx").is_file()
    assert "Students, means over" in Page((copied.path / "report.html").read_text()).text


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_and_its_runs_are_found_by_name(tmp_path, monkeypatch):
    sweep = fill(made(tmp_path / "runs" / "sweep", ["network.depth=4,8"], [0]), lambda m: 0.5)
    monkeypatch.chdir(tmp_path)
    for words, page in (
        ([], sweep.path / "report.html"),  # it is all there is
        (["sweep"], sweep.path / "report.html"),
        (["sweep/depth-8/seed-0"], sweep.path / "depth-8" / "seed-0" / "report.html"),
    ):
        page.unlink(missing_ok=True)
        done = pipeline_here("report", *words)
        assert done.exit_code == 0 and page.samefile(done.stdout.strip())
    assert "pipeline distill sweep/depth-8/seed-0" in Page(page.read_text()).text
    for words in (["control"], ["evaluate"], ["run", "--resume", "--run"]):  # those for one run name its
        done = pipeline_here(*words, "sweep")
        assert done.exit_code == 2 and "runs/sweep is a sweep, not a run" in done.stderr
        assert all(f"runs/sweep/{member.name}" in done.stderr for member in sweep.members)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["runs/sweep exists", "--resume"]),
        (
            ["--resume", "--depths", "4,16"],
            ["network.depth=4,8, not preset=debug seeds=0,1 network.depth=4,16"],
        ),
        (["--resume", "--vary", "network.width=4,8"], ["not preset=debug seeds=0,1 network.width=4,8"]),
        (["--resume", "--seeds", "0"], ["seeds=0,1 network.depth=4,8, not preset=debug seeds=0 "]),
        (["--resume", "--set", "network.width=4"], ["other settings"]),
        (["--resume", "--preset", "quickstart"], ["preset=debug", "not preset=quickstart"]),
    ],
)
def test_resuming_with_other_values_is_refused(tmp_path, monkeypatch, arguments, words):
    made(tmp_path / "runs" / "sweep", ["network.depth=4,8"], [0, 1])
    before = files_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = pipeline_here("teacher", "--run", "sweep", *arguments)
    assert done.exit_code == 2, done.output
    for word in words:
        assert word in done.stderr
    assert files_of(tmp_path) == before


def test_combinations_are_every_pair_with_the_last_setting_fastest():
    config = preset("debug")
    found = combinations(config, ["network.actor_depth=4,none", "update.batch_size=16,32"])
    values = [tuple(values.values()) for values, _ in found]
    assert values == [(4, 16), (4, 32), (None, 16), (None, 32)]
    for (depth, batch), (_, combined) in zip(values, found, strict=True):
        assert combined.teacher.network.actor_depth == depth and combined.teacher.update.batch_size == batch
    assert combinations(config, []) == [({}, config)]
    assert parse_seeds("2, 0,1") == [2, 0, 1]


def test_interval_over_seeds_is_students():
    low, high = seed_interval([2.0, 3.0, 4.0])  # mean 3, standard error 1 / sqrt(3), t = 4.3027
    assert (low, high) == pytest.approx((0.51587, 5.48413), abs=1e-4)
    assert seed_interval([0.5, 0.7], highest=1.0) == [0.0, 1.0]
    assert seed_interval([-0.2, 0.2], lowest=-1.0)[0] == -1.0
    assert seed_interval([0.5]) is None and seed_interval([0.5, 0.5]) is None


@pytest.fixture
def teach(monkeypatch):
    """Stands in for the training: a run ends at once, or as `endings` says for its depth."""
    endings: dict[int, Exception] = {}
    tried: list[int] = []

    def teach(run, display, *, resume):
        depth = run.config.teacher.network.depth
        tried.append(depth)
        if depth in endings:
            raise endings[depth]
        run.update_summary({"task": "reacher", "teacher": {**score(0.5), "wall_s": 1.0}})

    monkeypatch.setattr(train_teacher, "teach", teach)
    return endings, tried


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_diverges_is_recorded_and_the_others_go_on(tmp_path, monkeypatch, teach):
    endings, tried = teach
    endings[4] = Diverged("training diverged: critic_loss became nan in iteration 3")
    monkeypatch.chdir(tmp_path)
    done = pipeline_here("teacher", "--preset", "debug", "--depths", "4,8", "--json")
    assert done.exit_code == 1 and tried == [4, 8]
    assert "failed in 1 of 2 runs" in done.stderr and "depth-4/seed-0: training diverged" in done.stderr
    summary = json.loads(done.stdout)
    assert [run["state"] for run in summary["runs"]] == ["diverged", "finished"]
    assert "success_final" not in summary["combinations"][0]
    page = Page(Path("runs/debug-depth/report.html").read_text())
    assert "depth-4/seed-0 has no score: training diverged" in page.text
    again = pipeline_here("teacher", "--run", "debug-depth", "--resume", "--json")
    assert again.exit_code == 1 and tried == [4, 8]
    assert json.loads(again.stdout) == summary


def test_a_run_too_large_for_the_device_is_recorded_and_tried_again(tmp_path, teach):
    endings, tried = teach
    endings[8] = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
    sweep = made(tmp_path / "sweep", ["network.depth=4,8"], [0])
    assert [run["state"] for run in train_sweep(sweep)["runs"]] == ["finished", "out of memory"]
    del endings[8]
    assert [run["state"] for run in train_sweep(sweep)["runs"]] == ["finished", "finished"]
    assert tried == [4, 8, 8]


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_sweep_stops_and_goes_on_with_the_same_run(tmp_path, monkeypatch, teach):
    endings, tried = teach
    endings[8] = Interrupted("stopped and saved after iteration 3; go on with --resume")
    monkeypatch.chdir(tmp_path)
    done = pipeline_here("teacher", "--preset", "debug", "--depths", "4,8,16")
    assert done.exit_code == 130 and tried == [4, 8]
    assert "go on with --resume" in done.stderr
    del endings[8]
    done = pipeline_here("teacher", "--preset", "debug", "--depths", "4,8,16", "--resume")
    assert done.exit_code == 0 and tried == [4, 8, 8, 16]


@pytest.mark.usefixtures("undrawn")
def test_no_difference_is_called_sure_that_the_seeds_do_not_show(tmp_path):
    shares = {(4, 0): 0.2, (4, 1): 0.21, (8, 0): 0.7, (8, 1): 0.71, (16, 0): 0.68, (16, 1): 0.71}
    sweep = made(tmp_path / "arm", ["network.depth=4,8,16"], [0, 1])
    page = page_of(fill(sweep, lambda m: shares[m.values["network.depth"], m.seed]))
    assert "Most goals are reached by depth 8: 70.5 % (64.1 to 76.9), the mean over 2 seeds" in page.text
    assert "These seeds do not prove that to be more than depth 16 reaches" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_under_way_is_shown_as_far_as_it_came(tmp_path):
    sweep = made(tmp_path / "arm", ["network.depth=4,8"], [0, 1])
    assert "no run has finished" in page_of(sweep).text
    one = made(tmp_path / "one", ["network.depth=4,8"], [3])
    assert "One seed: the differences may be chance" in page_of(fill(one, lambda m: 0.5)).text
    page = page_of(fill(sweep, lambda m: 0.5, skip=["depth-8/seed-1"]))
    assert "1 of 4 runs not ended yet: pipeline teacher --run arm --resume" in page.text.replace("  ", " ")
    assert any(row[0] == "depth 8 1 of 2 seeds" for row in page.rows)
    assert "not begun" in " ".join(page.row("depth-8/seed-1"))


def test_any_number_of_settings_and_kinds_of_value_has_a_page(tmp_path):
    varied = ["network.architecture=scaled,published", "network.actor_depth=none,8", "network.width=8,16"]
    sweep = fill(made(tmp_path / "arm", varied, [0, 1]), lambda m: 0.4 + 0.1 * m.seed)
    page = page_of(sweep)
    assert all(page.row(member.name) for member in sweep.members)
    assert page.tags.count("figure") == 8
    assert compare_sweep(sweep, {}).combinations[0].success_final == pytest.approx(0.45)


def test_a_sweep_beside_what_is_known_of_its_task(tmp_path):
    """The reference's line is in every plot that has one to compare, means over seeds in a table."""
    sweep = fill(made(tmp_path / "arm", ["network.depth=4,8"], [0, 1]), lambda m: 0.5)
    assert "reference" not in page_of(sweep).text
    for member in sweep.members:
        depth = member.values["network.depth"]
        add_truth(member.run, share=0.4 + 0.05 * depth + 0.01 * member.seed)
    shallow, deep = compare_sweep(sweep, {}).combinations
    assert shallow.share_of_reference == pytest.approx(0.605)
    assert deep.rank_correlation_far == pytest.approx(0.634)
    assert deep.interval("rank_correlation") is None  # both seeds agree exactly
    page = page_of(sweep)
    assert page.text.count("reference: time at goal") == 1 and page.text.count("reference policy") == 2
    row = next(row for row in page.rows if row and row[0] == "depth 8")
    assert [cell.split()[0] for cell in row[1:]] == ["80.5", "0.812", "0.634"]

    # Lines of different references are not drawn.
    sweep.members[0].run.update_summary({"reference": {"time_at_goal": 0.5, "success_final": 0.5}})
    text = page_of(sweep).text
    assert "reference: time at goal" not in text and "reference policy" not in text
