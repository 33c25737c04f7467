"""Runs side by side: what differs is shown, and what cannot be compared is said."""

import json

import pytest
from test_report import Page, full_run, new_run
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.compare import compare_runs, different, open_runs
from pipelines.files import write_json
from pipelines.report import write_comparison


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs that differ in depth and seed, as they lie in runs/."""
    monkeypatch.chdir(tmp_path)
    for name, depth in (("deep", 16), ("shallow", 4)):
        run = full_run(tmp_path / "runs", name, [f"network.depth={depth}"])
        write_json(run.path / "config.json", run.settings | {"seed": depth})
    return open_runs(["deep", "shallow"])


def change(run, **summary):
    write_json(run.path / "summary.json", run.summary | summary)


def test_settings_that_differ_are_named_with_both_values(runs):
    found = compare_runs(runs)
    assert found["settings"] == {"seed": [16, 4], "network.depth": [16, 4]}
    assert found["versions"] == {} and found["not_comparable"] == []
    assert different([{"a": 1}, {"b": [2]}]) == {"a": [1, None], "b": [None, [2]]}


@pytest.mark.usefixtures("undrawn")
def test_command_prints_a_table_or_one_object_and_writes_a_page(runs, tmp_path):
    page = tmp_path / "both.html"
    done = CliRunner().invoke(app, ["compare", "deep", "shallow", "--out", str(page)])
    assert done.exit_code == 0 and page.is_file(), done.stderr
    for words in ("network.depth", "2x16", "99.8", "controller", str(page)):
        assert words in done.stdout
    printed = json.loads(CliRunner().invoke(app, ["compare", "deep", "shallow", "--json"]).stdout)
    assert printed["page"] == "runs/compare.html" and printed["settings"]["seed"] == [16, 4]
    assert printed["runs"]["deep"]["summary"]["selected"] == "2x16"


def test_page_shows_each_run_s_scores_students_and_verdict(runs, tmp_path):
    written = write_comparison(runs, compare_runs(runs), tmp_path / "page.html")
    page = Page(written.read_text("utf-8"))
    assert page.text.count("The 2x16 student keeps 99.8 % (99.1 to 100.4)") == 2
    depth = next(row for row in page.rows if row and row[0].split() == ["network.depth"])
    assert [cell.split()[0] for cell in depth[1:]] == ["16", "4"]
    assert "99.8" in " ".join(page.row("2x16")) and "6.8" in " ".join(page.row("2x16"))
    assert [row[0].split() for row in page.rows if row and row[0].startswith("deep")] == [
        ["deep", stage] for stage in ("teacher", "student", "controller")
    ]
    assert page.tags.count("figure") == 2 + 3


def test_what_of_the_figures_does_not_compare_is_said(runs):
    teacher = runs["deep"].summary["teacher"]
    change(runs["deep"], teacher=teacher | {"layout": "near"})
    change(runs["shallow"], teacher=teacher | {"layout": "far", "episodes": 64}, engine="brax")
    sentences = compare_runs(runs)["not_comparable"]
    for words, sentence in zip(("deep: near, shallow: far", "brax", "shallow: 64"), sentences, strict=True):
        assert words in sentence
    settings = runs["shallow"].settings
    settings["config"]["teacher"]["task"]["name"] = "wheel_maze"
    write_json(runs["shallow"].path / "config.json", settings)
    sentence = compare_runs(runs)["not_comparable"][0]
    assert "the tasks differ (deep: reacher, shallow: wheel_maze)" in sentence


def test_runs_that_have_found_nothing_yet_are_shown_too(tmp_path):
    runs = {name: new_run(tmp_path, name) for name in ("one", "two")}
    written = write_comparison(runs, compare_runs(runs), tmp_path / "page.html")
    page = Page(written.read_text("utf-8"))
    assert page.text.count("Nothing has been found yet") == 2 and "svg" not in page.tags
    assert "the runs differ in nothing that was set" in page.text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["deep"], "at least two are compared"),
        (["deep", "runs/deep"], "runs/deep is named twice"),
        (["deep", "nowhere"], "is no run"),
    ],
)
def test_a_wrong_request_is_refused_and_writes_nothing(runs, tmp_path, names, words):
    done = CliRunner().invoke(app, ["compare", *names])
    assert done.exit_code == 2 and words in done.stderr
    assert not list(tmp_path.rglob("compare.html"))
