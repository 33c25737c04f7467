import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import rich
from PIL import Image

from pipelines import tables
from pipelines.config import preset, with_values
from pipelines.files import write_columns, write_json
from pipelines.report import write_report
from pipelines.report.context import RunContext
from pipelines.report.figures import control_distances
from pipelines.report.plot import MAX_POINTS, thinned
from pipelines.report.run_page import commands, from_preset
from pipelines.rundir import DISTANCE_MAP, RECORDING, create_run
from teacher.distance_map import Queries, drawable
from teacher.errors import FathomError
from teacher.tasks.mazes import U4, Maze

SIZES = ("2x16", "3x16")
EVIL = "<script>alert('&')</script>"
GOAL = {"unit": "m", "success_radius": 0.05, "strict_radius": 0.02}


class Page(HTMLParser):
    """Visible text of a page, the tables' rows, and every attribute that loads something."""

    def __init__(self, source):
        super().__init__()
        self.words, self.rows, self.loaded, self.tags, self.hidden = [], [], [], [], 0
        self.feed(source)
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.hidden += tag in ("script", "style")
        self.loaded += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if self.hidden:
            return
        self.words.append(data + " ")
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data + " "

    def row(self, name):
        return next(row for row in self.rows if row and row[0].split()[:1] == [name])


def score(success, at_goal=0.857, episodes=256):
    """A score whose intervals are two percent wide on each side."""
    values = {"success_final": success, "strict_final": success * 0.9, "time_at_goal": at_goal}
    intervals = {f"{key}_interval": [value - 0.02, value + 0.02] for key, value in values.items()}
    return {
        "episodes": episodes,
        **values,
        **intervals,
        "final_distance": 0.0213,
        "final_distance_interval": [0.0192, 0.0239],
    }


def new_run(tmp_path, name="arm", values=()):
    return create_run(tmp_path / name, with_values(preset("debug"), values), "debug", 7)


def add_teacher(run, iterations=4, *, finished=True, success=0.984):
    """A teacher's part of a run; drawing its curves takes most of the time, 0 iterations have none."""
    run.begin_stage("teacher", None, 0)
    for i in range(1, iterations + 1):
        line = {"iteration": i, "env_steps": 320 * i, "wall_s": i, "critic_loss": 5 / i}
        line |= {"critic_accuracy": 0.1 * i, "actor_loss": 3.0 - i}
        run.append_metrics("teacher", line | ({"evaluation": score(success)} if i % 2 == 0 else {}))
    if finished:
        teacher = {"depth": 4, "width": 16, "env_steps": 1280, "wall_s": 9.1, **score(success)}
        run.update_summary({"task": "fr3_reach", "engine": "mjx", "seed": 7, "teacher": teacher})


def add_students(run, rounds=3):
    run.begin_stage("students", "ab" * 32, 0)
    for i in range(1, rounds + 1):
        losses = {f"{size}/{kind}_loss": 1 / i for size in SIZES for kind in ("policy", "critic")}
        run.append_metrics("students", {"round": i, "labels": 1600 * i, "wall_s": i, **losses})
    run.update_summary({"students": {size: {"parameters": 727, "wall_s": 3.0} for size in SIZES}})


def add_files(run, *, retention=0.998, passes=True, sizes=SIZES):
    for size in sizes:
        judged = {
            **score(0.975),
            "critic": {
                "spearman_actions": 0.931,
                "spearman_states": 0.964,
                "best_action": 0.502,
                "top1": 0.712,
                "gradient_cosine": 0.953,
                "distance_error": 0.204,
                "distance_error_relative": 0.051,
            },
            "teacher_parameters": 5000,
            "final_distance_change": -0.0012,
            "final_distance_change_interval": [-0.002, -0.0004],
            "calibration": clock(),
            "worst_decile": {"student": 0.613, "teacher": 0.631, "difference_interval": [-0.1, 0.1]},
        }
        if retention is not None:
            judged |= {"retention": retention, "retention_interval": [0.991, 1.004]}
        file = {"bundle": f"export/{size}", "student_sha256": "cd" * 32, "parity_max_error": 3.6e-7}
        file |= {
            "distance_max_error": 4.3e-6,
            "observations": 1000,
            "latency_us_p50": 6.8,
            "latency_us_p99": 11.2,
        }
        run.update_summary({"students": {size: judged}, "export": {size: file}})
        (run.bundles / size).mkdir(parents=True)
        spec = {"task": {"goal": GOAL}, "provenance": {"seed": 7}, "files": {"policy.onnx": "0f" * 32}}
        write_json(run.bundles / size / "spec.json", spec)
        write_columns(run.proof(size), **proof())
    if sizes == SIZES:
        because = f"{SIZES[0]} is the smallest"
        run.update_summary(
            {
                "selected": SIZES[0],
                "selected_passes": passes,
                "selected_because": because,
                "students": {SIZES[0]: {"robustness": robustness()}},
            }
        )


def clock():
    """Times to the goal by the critic's distance; the farthest half of the states mostly never came."""
    quartiles = [[0.1 * i, 0.2 * i, 0.3 * i] for i in range(1, 6)] + [[0.6, 0.9, None]] * 5
    return {
        "states": 2048,
        "horizon_s": 1.6,
        "distance": [0.5 * i for i in range(1, 11)],
        "seconds": quartiles,
        "arrived": [1.0] * 5 + [0.6] * 5,
        "rank_correlation": 0.712,
        "rank_correlation_straight": 0.834,
    }


def proof():
    """Errors and latencies of as many observations as a bundle is proved on; some are exact."""
    drawn = np.random.default_rng(0)
    errors = 1e-7 * drawn.integers(0, 5, 1000)
    return {"action_error": errors, "distance_error": errors, "latency_us": drawn.gamma(20, 0.4, 1000)}


def robustness(source="cd" * 32):
    """Under two conditions, of the file with this fingerprint."""
    interval = {f"{who}_interval": [0.6, 0.9] for who in ("student", "teacher")}
    usual = {
        "student": 0.9,
        "teacher": 0.9,
        "excess_drop": 0.0,
        "excess_drop_interval": [0.0, 0.0],
        **interval,
    }
    late = usual | {"student": 0.702, "teacher": 0.801, "excess_drop": 0.103}
    late |= {"excess_drop_interval": [0.091, 0.115], "retention": 0.876}
    late["retention_interval"] = [0.85, 0.9]
    found = {"nominal": usual, "delay_2": late}
    return {"episodes": 64, "student_sha256": source, "conditions": found}


def recorded(steps=5):
    """Two episodes, as `pipelines.render` records them."""
    episode = {"distance": [0.3 / (i + 1) for i in range(steps)], "ended": False}
    return {"control_dt": 0.05, "success_radius": 0.05, "unit": "m", "episodes": [episode] * 2}


def moving(frames=3):
    """An animated WebP, of grey that grows lighter."""
    first, *rest = (Image.new("L", (16, 12), 60 * i) for i in range(frames))
    stream = io.BytesIO()
    first.save(stream, "webp", save_all=True, append_images=rest)
    return stream.getvalue()


def add_control(run, *, success=0.984, late=0, drawn=True):
    folder = run.path / "control" / SIZES[0]
    folder.mkdir(parents=True)
    write_json(folder / RECORDING, recorded())
    for number in (1, 2) if drawn else ():
        (folder / f"episode-{number}.webp").write_bytes(moving())
    clock = {"latency_us_p50": 7.1, "latency_us_p99": 12.9, "latency_us_max": 341.0}
    figures = {"engine": "mujoco", **score(success), **clock, "steps": 25600, "missed_deadlines": late}
    figures["student_sha256"] = "cd" * 32
    run.update_summary({"control": {SIZES[0]: figures}, "wall_s": 60.0})


def add_truth(run, *, share=0.797):
    """A maze task's: a reference policy, and the critic's distances beside the true ones."""
    maze = Maze(U4, 1.0)
    true = maze.routes.steps
    ranks = {"rank_correlation": 0.812, "rank_correlation_far": 0.634}
    ranks |= {"rank_correlation_straight": 0.745, "rank_correlation_far_straight": 0.281}
    known = {"share_of_reference": share, "share_of_reference_interval": [share - 0.03, share + 0.03]}
    known["maze_distance"] = {"states": 400, "cells": len(true), **ranks}
    run.update_summary({"reference": score(1.0, at_goal=0.9311), "teacher": known})
    asked = Queries(np.zeros((1, 2)), np.zeros((1, 2)), maze.centres("S"), maze.routes.centres)
    distance = 0.7 * true[maze.cell_number(asked.position)] + 1.23
    write_columns(run.path / "teacher" / DISTANCE_MAP, **drawable(maze, asked, distance))


def full_run(folder, name="arm", values=()):
    run = new_run(folder, name, values)
    add_teacher(run)
    add_students(run)
    add_files(run)
    add_control(run)
    return run


@pytest.fixture
def full(tmp_path):
    return full_run(tmp_path)


@pytest.fixture(scope="module")
def full_report(tmp_path_factory):
    """The written page of a full run, for tests that only look at it."""
    return write_report(full_run(tmp_path_factory.mktemp("full")))


def read(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_empty_run_says_that_nothing_has_run(tmp_path):
    page = read(new_run(tmp_path))
    assert "Nothing has been found yet" in page.text
    for stage in ("teacher", "students", "file", "control"):
        assert f"{stage}: not run yet" in page.text
    assert "svg" not in page.tags and "img" not in page.tags
    assert "Learning" not in page.text


def test_unfinished_teacher_is_shown_as_far_as_it_came(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run, 3, finished=False)
    page = read(run)
    assert "teacher: not complete, iteration 3 of 4" in page.text
    assert "pipeline teacher --run arm --resume" in page.text
    assert (
        "960 environment steps so far; at its last evaluation it reached 98.4 % (96.4 to 100.4)" in page.text
    )
    assert page.tags.count("figure") == 4


def test_teacher_alone_names_the_stages_that_follow(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run)
    page = read(run)
    assert "The depth-4 teacher reaches 98.4 % (96.4 to 100.4) of 256 goals after 1,280" in page.text
    assert "teacher: not" not in page.text
    assert "pipeline distill arm" in page.text and "pipeline export arm" in page.text


def test_half_an_export_is_not_called_complete(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run, 0)
    add_students(run, 0)
    add_files(run, sizes=SIZES[:1])
    page = read(run)
    assert "file: not complete, 1 of 2" in page.text
    assert "pipeline export arm --resume" in page.text


def test_full_run_states_the_figures_of_the_summary(full_report):
    page = Page(full_report.read_text(encoding="utf-8"))
    assert (
        "The 2x16 student keeps 99.8 % (99.1 to 100.4) of its depth-4 teacher's time at goal, "
        "answers in 7.1 µs, and reaches 98.4 % (96.4 to 100.4) of 256 goals within 5 cm "
        "in the MuJoCo C engine." in page.text
    )
    assert "not run yet" not in page.text
    control = " ".join(page.row("Control"))
    for figure in (
        "98.4",
        "88.6",
        "85.7",
        "83.7 to 87.7",
        "2.13",
        "1.92 to 2.39",
        "12.9",
        "0 of 25,600 late",
    ):
        assert figure in control
    student, critic = (" ".join(page.row(name)) for name in ("2x16", "all"))
    for figure in ("727", "99.8", "99.1 to 100.4", "97.5", "6.8", "11.2", "-0.12", "61.3", "63.1"):
        assert figure in student
    for figure in ("0.931", "0.964", "0.502", "0.712", "0.953", "0.204", "5.1"):
        assert figure in critic
    assert "Selection: 2x16 is the smallest." in page.text
    robust = " ".join(page.row("2"))  # steps of delay
    for figure in ("80.1", "70.2", "10.3", "9.1 to 11.5", "87.6"):
        assert figure in robust
    assert "0f" * 32 in page.text and "3.6e-07" in page.text


def test_a_figure_that_was_not_computed_is_absent(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run, 0, success=0.0)
    add_students(run, 0)
    add_files(run, retention=None, passes=False)
    page = read(run)
    assert "The depth-4 teacher never was at a goal" in page.text
    assert page.row("2x16")[2].strip() == "\N{EN DASH}"
    assert "The exported controller has not been run yet" in page.text


def test_no_student_passes_is_said(tmp_path):
    run = new_run(tmp_path, values=["student.retention=0.98"])
    add_teacher(run, 0)
    add_students(run, 0)
    add_files(run, retention=0.93, passes=False)
    add_control(run, success=0.7, late=12)
    text = read(run).text
    assert "No student surely keeps 98.0 %" in text and "the nearest, 2x16, keeps 93.0 %" in text
    assert "surely reaches fewer goals than its teacher" in text
    assert "12 of 25,600 answers came after the control period" in text


def test_a_student_that_was_asked_for_is_not_called_the_nearest(tmp_path):
    run = new_run(tmp_path, values=["student.retention=0.98", "student.choose=2x16"])
    add_teacher(run, 0)
    add_students(run, 0)
    add_files(run, retention=0.93, passes=False)
    text = read(run).text
    assert "The 2x16 student keeps 93.0 %" in text and "No student" not in text


def test_robustness_of_another_file_is_not_shown(full):
    full.update_summary({"students": {SIZES[0]: {"robustness": robustness("ef" * 32)}}})
    assert "of delay" not in read(full).text


def test_students_that_share_a_critic_share_a_row(full):
    full.update_summary({"students": {SIZES[1]: {"critic": {"top1": 0.5}}}})
    page = read(full)
    assert not [row for row in page.rows if row and row[0].startswith("all")]
    assert sum(row[0].split()[:1] == [SIZES[1]] for row in page.rows if row) == 3  # with file and students


def test_what_a_claim_is_worth_is_shown_and_said(full_report):
    page = Page(full_report.read_text(encoding="utf-8"))
    assert "rank correlation of 0.71, the plain distance to the goal with one of 0.83" in page.text
    assert "Every student's file was judged in MuJoCo XLA (mjx)" in page.text
    assert "Seconds to the goal, by the critic's distance" in page.text
    assert "Largest error of an action of 2x16" in page.text and "Latency of 2x16" in page.text


def test_what_was_not_measured_is_not_drawn(full):
    summary = full.summary
    for student in summary["students"].values():
        del student["calibration"]
    write_json(full.path / "summary.json", summary | {"control": {}})
    for size in SIZES:
        full.proof(size).write_bytes(b"half a file")
    page = read(full)
    assert "Calibration" not in page.text and "Largest error of an action of" not in page.text


def test_weak_teacher_is_not_hidden_behind_a_faithful_student(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run, 0, success=0.03)
    add_students(run, 0)
    add_files(run)
    assert "The teacher itself has not mastered the task: it reaches 3.0 %" in read(run).text


def test_page_refers_to_nothing_outside(full_report):
    source = full_report.read_text(encoding="utf-8")
    page = Page(source)
    assert all(value.startswith(("#", "data:image/webp;base64,")) for value in page.loaded)
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?://|url\((?!#)|@import", source)
    assert len(source) < 5e6


def test_same_run_gives_the_same_bytes(full, full_report):
    assert write_report(full).read_bytes() == full_report.read_bytes()


def test_text_of_the_run_is_escaped(full):
    control = full.summary["control"][SIZES[0]]
    full.update_summary({"task": EVIL, "control": {SIZES[0]: {**control, "engine": EVIL}}})
    write_json(full.path / "config.json", {**full.settings, "preset": EVIL})
    spec = full.bundles / SIZES[0] / "spec.json"
    write_json(spec, json.loads(spec.read_text()) | {"task": {"goal": {**GOAL, "unit": EVIL}}})
    page = read(full)
    assert page.text.count(EVIL) >= 3
    assert "script" not in page.tags


def test_commands_carry_what_differs_from_the_preset(tmp_path):
    values = ['student.sizes=["2x16"]', "task.engine=mujoco", "update.batch=64", "network.actor_depth=8"]
    run = new_run(tmp_path, values=values)
    found = from_preset("debug", run.config)[3::2]
    assert with_values(preset("debug"), found) == run.config
    assert len(found) == len(values)
    text = read(run).text.replace("  ", " ")
    assert "pipeline run --preset debug --seed 7 --run arm-again --set" in text


@pytest.mark.parametrize(("changed", "lines"), [({}, 1), ({"episodes": 3}, 2), ({"engine": "mjx"}, 1)])
def test_control_is_a_command_of_its_own_only_where_the_settings_say_otherwise(full, changed, lines):
    config = with_values(preset("debug"), ["control.episodes=16"])
    write_json(full.path / "config.json", {**full.settings, "config": config.model_dump(mode="json")})
    known = full.summary["control"][SIZES[0]]
    full.update_summary({"control": {SIZES[0]: known | {"engine": "mujoco", "episodes": 16} | changed}})
    assert len(commands(RunContext.of(full))) == lines


def test_settings_of_another_version_leave_a_page_without_commands(tmp_path):
    run = new_run(tmp_path)
    settings = run.settings
    settings["config"]["export"]["gone"] = 1
    write_json(run.path / "config.json", settings)
    assert "The settings are not of this version of the program" in read(run).text


def test_long_curves_are_thinned_and_keep_their_end():
    lines = [{"iteration": i} for i in range(5000)]
    assert len(thinned(lines)) <= MAX_POINTS and thinned(lines)[-1] == lines[-1]
    assert thinned([]) == []


def test_moving_pictures_are_shown_if_they_were_drawn(full):
    page = read(full)
    assert page.tags.count("img") == 4  # of each episode the moving picture and its last frame
    assert page.text.count("not at the goal, 6 cm away") == 2
    pictures = [value.partition(",")[2] for value in page.loaded if value.startswith("data:")]
    still = Image.open(io.BytesIO(base64.b64decode(pictures[1])))
    assert getattr(still, "n_frames", 1) == 1
    assert still.convert("L").getpixel((8, 6)) == pytest.approx(120, abs=8)
    shutil.rmtree(full.path / "control")
    add_control(full, drawn=False)
    page = read(full)
    assert "img" not in page.tags
    assert "No pictures of them: pipeline control arm/export/2x16 draws them" in page.text


def test_a_recording_of_before_is_shown_at_its_own_times(full):
    """It held some steps alone, and what the pages of then drew."""
    old = recorded() | {"camera": {"follow": False}, "shapes": []}
    for episode in old["episodes"]:
        episode["steps"] = [0, 200, 400, 600, 800]  # of 0.05 s: 40 s in all
    write_json(full.path / "control" / SIZES[0] / RECORDING, old)
    (figure,) = control_distances(RunContext.of(full))
    assert re.search(r">40</text>", figure.svg)


def test_a_task_without_a_model_has_no_recording(full):
    (full.path / "control" / SIZES[0] / RECORDING).unlink()
    page = read(full)
    assert "img" not in page.tags and "No pictures" not in page.text
    assert "ran 256 held-out episodes in mujoco." in page.text


def test_broken_file_is_named(full):
    (full.path / "summary.json").write_text("{")
    with pytest.raises(FathomError, match=r"summary\.json"):
        write_report(full)


# Beside what is known of the task


def test_the_ceiling_is_a_line_a_row_and_a_sentence(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run)
    without = read(run)
    assert "reference" not in without.text.lower()
    add_truth(run)
    page = read(run)
    assert (
        "The teacher is at its goals 85.7 % (83.7 to 87.7) of the time, 79.7 % (76.7 to 82.7) of what a "
        "controller that knows the task reaches." in page.text
    )
    assert "reference: time at goal" in page.text  # the line's name
    assert page.row("Reference")[4].split()[0] == "93.1"
    add_students(run)
    add_files(run)
    assert "79.7 % (76.7 to 82.7) of what a controller that knows the task reaches" in read(run).text


def test_distances_in_a_maze_are_drawn_beside_the_true_ones(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run, 0)
    add_truth(run)
    page = read(run)
    assert page.tags.count("figure") == 3
    assert "rank correlation of 0.81 (the straight line: 0.74)" in page.text
    assert "at least 8 cells apart with one of 0.63 (0.28)" in page.text
    words = page.text.split()
    # From the start to the far end of the maze: 10 cells, 8.2 by the critic.
    assert "10" in words and "8.2" in words and "1.2" in words


def test_a_maze_of_which_only_figures_are_kept_has_no_pictures(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run, 0)
    add_truth(run)
    (run.path / "teacher" / DISTANCE_MAP).write_bytes(b"half of it")
    page = read(run)
    assert "figure" not in page.tags and "rank correlation of 0.81" in page.text


def test_the_terminal_shows_what_is_known_beside_the_teacher(tmp_path, capsys):
    run = new_run(tmp_path)
    add_teacher(run, 0)
    add_truth(run)
    rich.print(tables.score(run.summary["teacher"]), tables.summary(run.summary))
    printed = capsys.readouterr().out
    for words in (
        ["share_of_reference", "0.797", "0.767", "to", "0.827"],
        ["maze_distance.rank_correlation_far", "0.634"],
        ["reference", "knows"],
    ):
        assert any(line.replace("│", " ").split()[: len(words)] == words for line in printed.splitlines())
