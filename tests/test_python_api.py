"""From Python as from the command line: public names, what importing costs, stages without a display."""

import ast
import importlib
from importlib.metadata import version
from pathlib import Path

import pytest

import export
import pipelines
from pipelines import control, new_run, open_run, preset, selected_bundle, with_values
from teacher import Learner, UsageError, load_teacher
from teacher.evaluate import EpisodeMetrics

ROOT = Path(__file__).parent.parent
PACKAGES = ("teacher", "student", "export", "pipelines")


def declared(package: str) -> dict[str, str]:
    """Public names and their modules, as type checkers read them."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    lines = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.asname: line.module for line in lines for alias in line.names if alias.asname}


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_those_that_type_checkers_see(package):
    module = importlib.import_module(package)
    names = declared(package)
    assert dir(module) == sorted(names)
    for name, home in names.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    assert {*module.__all__, "__version__"} == names.keys()
    assert module.__version__ == version("fathom-rl")
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Tacher'"):
        _ = module.Tacher


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_lists_the_public_names(package):
    page = (ROOT / "docs" / "api" / f"{package}.md").read_text()
    public = {f"::: {home}.{name}" for name, home in declared(package).items() if name != "__version__"}
    assert public <= set(page.splitlines())


def test_a_new_run_is_refused_before_anything_is_written(tmp_path):
    config = preset("debug")
    wrong = config.teacher.model_copy(update={"task": config.teacher.task.model_copy(update={"engine": "x"})})
    with pytest.raises(UsageError, match=r"task\.engine"):
        new_run(tmp_path / "run", config.model_copy(update={"teacher": wrong}))
    assert not list(tmp_path.iterdir())
    run = new_run(tmp_path / "run", config, seed=3)
    assert (run.seed, run.config) == (3, config)
    with pytest.raises(UsageError, match="is never overwritten"):
        new_run(tmp_path / "run", config)


def test_a_stage_says_how_to_get_a_run():
    for stage in ("teach", "distill", "export", "run_all", "evaluate", "selected_bundle", "write_report"):
        function = getattr(pipelines, stage)
        with pytest.raises(UsageError, match=rf"^{stage} takes a run.* 'runs/x': open_run\('runs/x'\)"):
            function("runs/x")
        with pytest.raises(UsageError, match=rf"^{stage} takes a run, found Config: open_run\(path\)"):
            function(preset("debug"))


def test_other_arguments_say_how_to_get_them(debug_run):
    run, config = open_run(debug_run.path), preset("debug")
    for function, wanted in (
        (lambda: new_run("x", "debug"), r"Config, found 'debug': preset\("),
        (lambda: with_values(config.teacher, []), r"Config, found TeacherConfig: preset\("),
        (lambda: open_run(config), "path or name of a run, found Config"),
        (lambda: control(run), r"directory of a bundle.*is selected_bundle\(run\)"),
        (lambda: control(run.path), r"directory of a bundle.*is selected_bundle\(run\)"),
        (lambda: load_teacher(run), r"directory of checkpoints.*is run\.checkpoints"),
        (lambda: load_teacher(run.path), r"directory of checkpoints.*is run\.checkpoints"),
        (lambda: Learner(config), r"TeacherConfig, found Config: .* is config\.teacher"),
    ):
        with pytest.raises(UsageError, match=wanted):
            function()
    assert with_values(config, "network.depth=8") == with_values(config, ["network.depth=8"])
    assert load_teacher(str(run.checkpoints)).source == load_teacher(run.checkpoints).source


def test_what_is_printed_of_a_thing_is_a_line_that_tells_what_it_is(debug_run, tmp_path):
    run, teacher = open_run(debug_run.path), load_teacher(debug_run.path / "teacher" / "checkpoints")
    score, size = f"{run.figures.teacher.time_at_goal:.3f}", run.figures.selected
    told = f"teacher {score} of its time at the goal; student {size} selected"
    assert repr(run) == f"<Run {run.path}: reacher, preset debug, seed 0; {told}>"
    assert repr(new_run(tmp_path / "new", preset("debug"))).endswith("; no teacher yet>")
    (tmp_path / "new" / "config.json").write_text("{")
    assert repr(open_run(tmp_path / "new")).endswith("new: cannot be read (FathomError)>")
    assert repr(teacher).startswith("<Teacher of reacher: depth ")
    assert repr(export.controller.load(selected_bundle(run))).startswith("<Controller of reacher: obs [")
    assert "None" not in repr(run.figures.control[size])
    scores = EpisodeMetrics([0.5, 0], [1, 0], [1, 0], [1, 0], [1, 0], [0, 1])
    assert "time_at_goal 0.25, success_final 0.5" in repr(scores)
