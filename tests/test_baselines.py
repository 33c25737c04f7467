"""Baselines: shallow networks in a teacher's place, what they cost, and what they say of distillation."""

import json
import shutil

import pytest

from pipelines.baselines import distill_with_baselines
from pipelines.config import with_values
from pipelines.files import write_json
from pipelines.progress import Display
from pipelines.report import write_report
from pipelines.rundir import Run
from student.baselines import (
    NAMES,
    conclusion,
    iterations_within,
    parse_names,
    require_budget,
    student_config,
    teacher_config,
)
from student.config import StudentConfig
from teacher.config import NetworkConfig, TeacherConfig
from teacher.errors import UsageError
from teacher.train import load_teacher


def test_baselines_are_named_by_a_list_or_all_together():
    assert parse_names("all") == NAMES
    assert parse_names("dagger, direct") == ("direct", "dagger")
    assert parse_names("direct_long") == ("direct", "direct_long")
    with pytest.raises(UsageError, match=r"direkt.*did you mean 'direct'"):
        parse_names("direct,direkt")


def test_a_baseline_leaves_out_what_its_name_says_and_nothing_else():
    teacher = TeacherConfig(network=NetworkConfig(depth=16, width=32, actor_depth=8, actor_width=16))
    direct, shallow = (teacher_config(name, teacher, "2x8") for name in ("direct", "shallow_actor"))
    assert teacher_config("direct_long", teacher, "2x8") == direct
    assert (direct.network.depths, direct.network.widths) == ((4, 4), (8, 8))
    assert (shallow.network.depths, shallow.network.widths) == ((4, 16), (8, 32))
    for made in (direct, shallow):
        assert made.model_copy(update={"network": teacher.network}) == teacher

    students = StudentConfig(sizes=("2x8", "3x8"), goals=(0.5, 0.25, 0.15, 0.1))
    cloning, dagger = (student_config(name, students, "2x8") for name in ("cloning", "dagger"))
    assert dagger == students.model_copy(update={"sizes": ("2x8",), "goals": (1.0, 0.0, 0.0, 0.0)})
    assert cloning == dagger.model_copy(update={"teacher_rounds": students.rounds, "noise": 0.0})


def test_a_budget_that_is_too_small_is_told_what_each_baseline_takes():
    def asked(names, budget):
        students = StudentConfig(rounds=10, envs=100, baseline_budget_s=budget)
        require_budget(names, {"wall_s": 300.0, "env_steps": 1_000_000}, students, episode_length=100)

    asked(NAMES, 660)  # twice 300 s and twice 30 s: `direct` is part of `direct_long`
    asked(NAMES, None)
    with pytest.raises(
        UsageError, match=r"found 400, but these take about 660 s: direct_long 300 s, shallow_actor 300 s, "
    ):
        asked(NAMES, 400)
    asked(["direct"], 300)
    with pytest.raises(UsageError, match="300 s"):
        asked(["direct"], 299)


def test_a_training_is_prolonged_at_the_pace_of_its_iterations_without_its_compilation():
    lines = [{"iteration": i, "wall_s": 10.0 + 2 * (i - 1)} for i in range(1, 6)]
    assert iterations_within(28.0, lines) == 5 + 5
    assert iterations_within(18.0, lines) == iterations_within(1.0, lines) == 5
    assert iterations_within(30.0, lines[:1]) == 1 + 2  # nothing else is known of a single iteration
    assert iterations_within(28.0, [lines[0], lines[4]]) == 5 + 5  # others were lost


@pytest.mark.parametrize(
    ("gain", "interval", "says"),
    [
        (0.1, (0.05, 0.15), "Distillation beats"),
        (0.1, (-0.01, 0.2), "Distillation does not surely beat"),
        (-0.1, (-0.2, -0.05), "Distillation does worse than"),
    ],
)
def test_a_distillation_that_does_not_beat_direct_training_says_so(gain, interval, says):
    direct = {"size": "2x64", "time_at_goal": 0.8, "student_gain": gain, "student_gain_interval": interval}
    direct |= {"parameters": 23_000, "student_parameters": 6_000, "env_steps": 1_280_000}
    said = conclusion({"direct": direct})
    assert said.startswith(says)
    assert f"{100 * (0.8 + gain):.1f}\u202f%" in said
    assert conclusion({"direct": direct, "direct_long": direct}).count(says) == 2
    assert conclusion({"cloning": direct}) is None


class Lines(Display):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, text):
        self.said.append(text)


ASKED = ("direct", "direct_long", "cloning")


@pytest.fixture(scope="module")
def compared(debug_run, tmp_path_factory):
    """The debug run with baselines of each kind, and what was said; its teacher seems to have taken as long
    as three more iterations of `direct`."""
    run = Run(tmp_path_factory.mktemp("baselines") / "run")
    shutil.copytree(debug_run.path, run.path)
    lines = Lines()
    distill_with_baselines(run, lines, "direct", resume=False)
    run.update_summary({"teacher": {"wall_s": time_of_more(Run(run.path / "baselines" / "direct"), 3)}})
    return run, distill_with_baselines(run, lines, ",".join(ASKED), resume=True), lines.said


def time_of_more(run, iterations):
    """Seconds that a teacher would have taken for that many more."""
    times = [line["wall_s"] for line in run.metrics("teacher")]
    return times[-1] + iterations * (times[-1] - times[0]) / (len(times) - 1)


def test_every_baseline_is_judged_beside_the_student(compared):
    run, figures, said = compared
    assert figures == {key: run.summary[key] for key in ("students", "baselines")}
    assert tuple(figures["baselines"]) == ASKED
    for name, found in figures["baselines"].items():
        assert {"time_at_goal", "success_final", "env_steps", "wall_s", "student_gain"} <= set(found)
        assert ("labels" in found) == (name == "cloning")
        assert found["episodes"] == run.config.student.episodes
        assert found["size"] == run.summary["selected"]
        student = figures["students"][found["size"]]["parameters"]
        assert found["student_parameters"] == student
        assert (found["parameters"] > student) == (name != "cloning")
    assert figures["baselines"]["direct"]["env_steps"] == run.summary["teacher"]["env_steps"]
    assert conclusion(figures["baselines"]) in said
    for name in ASKED[:2]:
        own = Run(run.path / "baselines" / name)
        config = load_teacher(own.checkpoints).config
        assert config == own.config.teacher
        assert config.network.depths == (4, 4)
        assert own.summary["teacher"]["env_steps"] == figures["baselines"][name]["env_steps"]
    shown = write_report(run).read_text("utf-8").partition("trained otherwise</h2>")[2]
    assert all(f"{found['parameters']:,}" in shown for found in figures["baselines"].values())
    alone = write_report(Run(run.path / "baselines" / "direct"))
    assert "trained otherwise</h2>" not in alone.read_text("utf-8")


def test_the_longer_training_goes_on_from_the_shorter_until_the_teachers_time_has_passed(compared):
    run, figures, _ = compared
    short, long = (Run(run.path / "baselines" / name) for name in ("direct", "direct_long"))
    before = short.metrics("teacher")
    lines = long.metrics("teacher")
    assert lines[: len(before)] == before
    assert len(lines) == len(before) + 3 == long.config.teacher.collect.iterations
    assert figures["baselines"]["direct_long"]["wall_s"] == lines[-1]["wall_s"]


def test_finished_baselines_are_kept_and_others_not_confused_with_them(compared, tmp_path):
    before, figures, _ = compared
    run = Run(shutil.copytree(before.path, tmp_path / "run", symlinks=True))
    with pytest.raises(UsageError, match=r"direct holds a baseline already: add --resume"):
        distill_with_baselines(run, Lines(), "direct", resume=False)
    again = Lines()
    assert (
        distill_with_baselines(run, again, "cloning,direct", resume=True)["baselines"] == figures["baselines"]
    )
    assert sum(line.startswith("kept") for line in again.said) == 2
    settings = json.loads((run.path / "baselines" / "direct" / "config.json").read_text())
    settings["config"]["teacher"]["update"]["batch_size"] = 16
    write_json(run.path / "baselines" / "direct" / "config.json", settings)
    with pytest.raises(UsageError, match="begun with other settings"):
        distill_with_baselines(run, Lines(), "direct", resume=True)


def test_a_budget_is_asked_about_before_anything_begins(debug_run, tmp_path):
    run = Run(shutil.copytree(debug_run.path, tmp_path / "run"))
    poor = Run(run.path, with_values(run.config, ["student.baseline_budget_s=0.001"]))
    with pytest.raises(UsageError, match="baseline_budget_s"):
        distill_with_baselines(poor, Lines(), "all", resume=False)
    assert not (run.path / "baselines").exists()
