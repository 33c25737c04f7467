"""Students of a whole sweep: what is done in which run, what is refused, and how the page compares them.

Distillation and export are stood in for; tests/test_sweep.py does both."""

import json
from types import SimpleNamespace

import pytest
from recovery import pipeline_here
from test_sweep import NAMES, fill, made, page_of

from pipelines import export_students, train_students
from pipelines.compare import compare_sweep
from pipelines.files import read_json
from pipelines.runtime import Interrupted
from pipelines.sweep import Sweep
from teacher.errors import Diverged, FathomError

SIZES = ("2x16", "3x16")


def with_students(sweep: Sweep, time_at_goal, retention=lambda member: 0.9) -> Sweep:
    """Gives every run evaluated students; both functions give a figure for a member, None for none."""
    for member in sweep.members:
        kept, reached = retention(member), time_at_goal(member)
        figures = {"parameters": 482, "wall_s": 3.0, "episodes": 1000, "time_at_goal": reached}
        figures |= {"teacher_time_at_goal": 0.8} | ({} if kept is None else {"retention": kept})
        member.run.update_summary({"students": dict.fromkeys(SIZES, figures)})
    return sweep


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> Sweep:
    """Two depths and two seeds whose teachers are trained."""
    monkeypatch.chdir(tmp_path)
    return fill(made(tmp_path / "runs" / "sweep", ["network.depth=4,8"], [0, 1]), lambda m: 0.5)


@pytest.fixture
def stages(monkeypatch) -> SimpleNamespace:
    """Stands in for both stages: `tried` says which were begun in which run, `endings` how they fail there,
    `passes` whether a student keeps enough."""
    found = SimpleNamespace(tried=[], endings={}, settings=[], passes=lambda run: True)

    def begin(stage, run):
        found.tried.append((stage, "/".join(run.path.parts[-2:])))
        found.settings.append(run.config)
        run.begin_stage("students", None, run.seed)
        (run.students / "checkpoints").mkdir(exist_ok=True)
        if found.tried[-1] in found.endings:
            raise found.endings[found.tried[-1]]

    def distill(run, display, *, resume, seed):
        begin("distill", run)
        for size in run.config.student.sizes:
            (run.students / size / "3").mkdir(parents=True, exist_ok=True)
            run.update_summary({"students": {size: {"parameters": 482, "wall_s": 3.0}}})

    def export(run, display, *, resume, seed, sign):
        begin("export", run)
        sizes, passes = run.config.student.sizes, found.passes(run)
        because = "as was asked" if passes else "no student surely keeps 98 %. What limits it is capacity."
        evaluated = {"time_at_goal": 0.4, "retention": 0.8, "teacher_time_at_goal": 0.5, "episodes": 16}
        selected = {"selected": sizes[0], "selected_passes": passes, "selected_because": because}
        run.update_summary({"students": dict.fromkeys(sizes, evaluated), **selected})

    # A page takes a second to draw: tests that look at it write it.
    monkeypatch.setattr("pipelines.report.write_sweep_report", lambda sweep: sweep.path / "report.html")
    monkeypatch.setattr(train_students, "distill", distill)
    monkeypatch.setattr(export_students, "export", export)
    return found


def test_every_run_is_tried_in_order_and_finished_ones_are_kept(sweep, stages):
    done = pipeline_here("distill", "sweep")
    assert done.exit_code == 0, done.stderr
    assert stages.tried == [("distill", name) for name in NAMES]
    assert "run 2 of 4: depth 8, seed 0" in done.stderr
    assert done.stdout.count("2x16, 3x16") == 4
    assert pipeline_here("distill", "sweep", "--resume").exit_code == 0
    assert len(stages.tried) == 4
    # Where a sweep is all there is, it need not be named.
    done = pipeline_here("export", "--json")
    assert done.exit_code == 0 and stages.tried[4:] == [("export", name) for name in NAMES]
    assert json.loads(done.stdout) == read_json(sweep.path / "summary.json")


def test_settings_hold_for_all_runs_and_need_not_be_given_again(sweep, stages):
    stages.endings["distill", NAMES[1]] = Interrupted("stopped; go on with --resume")
    sizes = ["--set", "student.sizes=2x8", "--set", "student.episodes=20"]
    assert pipeline_here("distill", "sweep", *sizes).exit_code == 130
    assert sweep.config.student.sizes == ("2x8",)
    assert [member.run.config.student.sizes for member in sweep.members[:1]] == [("2x8",)]
    stages.endings.clear()
    assert pipeline_here("distill", "sweep", "--resume").exit_code == 0
    assert [name for _, name in stages.tried] == [NAMES[0], NAMES[1], *NAMES[1:]]
    assert {config.student.sizes for config in stages.settings} == {("2x8",)}
    assert {config.student.episodes for config in stages.settings} == {20}
    assert [config.teacher.network.depth for config in stages.settings] == [4, 8, 8, 4, 8]
    assert pipeline_here("export", "sweep", "--set", "student.episodes=30").exit_code == 0
    assert stages.settings[-1].student.episodes == 30 and stages.settings[-1].student.sizes == ("2x8",)


def test_a_run_that_fails_is_recorded_and_the_others_go_on(sweep, stages):
    stages.endings["distill", NAMES[1]] = Diverged("training diverged: actor_loss became nan in round 2")
    done = pipeline_here("distill", "sweep")
    assert done.exit_code == 1 and len(stages.tried) == 4
    assert f"distill failed in 1 of 4 runs:\n  {NAMES[1]}: training diverged" in done.stderr
    entry = read_json(sweep.path / "summary.json")["runs"][1]
    assert entry["state"] == "finished" and entry["stage_errors"].keys() == {"distill"}
    assert (
        pipeline_here("teacher", "--run", "sweep", "--resume").exit_code == 0
    )  # its teachers are as they were
    stages.endings["export", NAMES[1]] = FathomError("no student in it")
    done = pipeline_here("export", "sweep")
    assert done.exit_code == 1
    entry = read_json(sweep.path / "summary.json")["runs"][1]
    assert entry["stage_errors"].keys() == {"distill", "export"}
    page = page_of(sweep)
    assert f"{NAMES[1]}: distill failed: training diverged" in page.text
    assert "students of 1 of 4 runs not evaluated yet: pipeline distill sweep --resume" in page.text.replace(
        "  ", " "
    )
    stages.endings.clear()
    assert pipeline_here("distill", "sweep", "--resume").exit_code == 0
    assert stages.tried[-1] == ("distill", NAMES[1]) and len(stages.tried) == 9
    assert pipeline_here("export", "sweep", "--resume").exit_code == 0
    assert not any("stage_errors" in run for run in read_json(sweep.path / "summary.json")["runs"])


def test_runs_whose_students_keep_too_little_are_named_at_the_end(sweep, stages):
    assert pipeline_here("distill", "sweep").exit_code == 0
    stages.passes = lambda run: run.config.teacher.network.depth == 4
    done = pipeline_here("export", "sweep")
    assert done.exit_code == 1 and len(stages.tried) == 8
    assert "no student keeps enough in 2 of 4 runs" in done.stderr
    assert "depth-8/seed-1: no student surely keeps" in done.stderr and "depth-4/seed-0:" not in done.stderr
    assert "stage_errors" not in read_json(sweep.path / "summary.json")["runs"][1]
    # A student that was asked for is taken whatever it keeps.
    assert pipeline_here("export", "sweep", "--student", "2x16").exit_code == 0


def test_a_wrong_request_changes_nothing(sweep, stages):
    done = pipeline_here("export", "sweep")
    assert done.exit_code == 1 and not stages.tried
    assert "holds students: first comes pipeline distill runs/sweep" in done.stderr
    left_out = sweep.members[2]
    left_out.run.path.joinpath("summary.json").unlink()
    done = pipeline_here("distill", "sweep")
    assert done.exit_code == 0 and [name for _, name in stages.tried] == [NAMES[0], NAMES[1], NAMES[3]]
    assert f"left out {left_out.name}: its teacher has not finished" in done.stderr
    settings, tried = (sweep.path / "sweep.json").read_bytes(), list(stages.tried)
    for words, message in (
        (["distill", "sweep"], "holds students already (depth-4/seed-0): add --resume"),
        (["distill", "sweep", "--resume", "--set", "student.sizes=2x8"], "made with other values"),
        (["distill", "sweep", "--resume", "--set", "network.depth=16"], "the teacher is trained"),
        (["export", "sweep", "--student", "9x9"], "student.select"),
    ):
        done = pipeline_here(*words)
        assert done.exit_code == 2 and message in done.stderr
        assert (sweep.path / "sweep.json").read_bytes() == settings and stages.tried == tried


def test_students_are_means_over_seeds(sweep):
    with_students(
        sweep,
        lambda m: {0: 0.4, 1: 0.6}[m.seed],
        lambda m: None if m.values["network.depth"] == 4 and m.seed == 1 else 0.9 + 0.2 * m.seed,
    )
    rows = compare_sweep(sweep, {}).students
    assert [(row.values["network.depth"], row.size) for row in rows] == [
        (depth, size) for depth in (4, 8) for size in SIZES
    ]
    for row in rows:
        assert (row.seeds, row.episodes, row.parameters) == ([0, 1], 1000, 482)
        assert row.time_at_goal == pytest.approx(0.5) and row.teacher_time_at_goal == pytest.approx(0.8)
        assert row.interval("time_at_goal") == (0.0, 1.0)  # 0.5 +- 12.7 * 0.1
        assert row.interval("teacher_time_at_goal") is None  # no spread
    assert rows[0].retention is None  # one of its two seeds has none
    assert rows[2].retention == pytest.approx(1.0)
    assert rows[2].interval("retention") == pytest.approx((0.0, 1 + 12.7062 * 0.1), abs=1e-3)


def test_the_page_shows_students_against_their_teachers_depth(sweep, tmp_path):
    before = page_of(sweep)
    page = page_of(with_students(sweep, lambda m: 0.4 + 0.1 * m.seed))
    assert ("Students, means over" in page.text) != ("Students, means over" in before.text)
    assert page.tags.count("figure") == before.tags.count("figure") + 2
    rows = [row for row in page.rows if row and row[0].startswith("depth 8: ")]
    assert [row[0].split()[2] for row in rows] == list(SIZES)
    assert [cell.split()[0] for cell in rows[0][2:4]] == ["45.0", "80.0"]
    # Where several settings vary, each combination of the others has its plots.
    both = fill(made(tmp_path / "arm", ["network.width=8,16", "network.depth=4,8"], [0]), lambda m: 0.5)
    page = page_of(with_students(both, lambda m: 0.4, lambda m: None))
    assert "Time at goal of students at width 8" in page.text
    assert "Retention of time at goal" not in page.text
