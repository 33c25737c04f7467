import base64
import io
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
import rich
from PIL import Image

from pipelines import formats, tables
from pipelines.config import preset, with_values
from pipelines.files import write_columns, write_json
from pipelines.ground_truth import Queries, drawable
from pipelines.report import figures, plot, write_report
from pipelines.report.context import RunContext
from pipelines.rundir import DISTANCE_MAP, RECORDING, ROBOT_LOG, create_run
from teacher.errors import FathomError
from teacher.tasks.mazes import U4, Maze

SIZES = ("2x16", "3x16")
EVIL = "<script>alert('&')</script>"
GOAL = {"unit": "m", "success_radius": 0.05, "strict_radius": 0.02}
DRAWN = re.compile(r"<figcaption>([^<]*)</figcaption><svg(.*?)</svg>", re.DOTALL)
VOID = {"meta", "input", "img", "br"}


class Page(HTMLParser):
    """A page's elements, each with its attributes, its text and the names of those around it."""

    def __init__(self, source):
        super().__init__()
        self.found, self.open, self.cells = [], [], []
        self.feed(source)
        self.tags = [each["tag"] for each in self.found]
        self.text = " ".join(self.of("body")[0]["text"].split())
        self.rows = [[" ".join(cell["text"].split()) for cell in row] for row in self.cells]
        self.loaded = [each[key] for each in self.found for key in ("src", "href", "srcset") if key in each]

    def handle_starttag(self, tag, attrs):
        each = {"tag": tag, "within": [one["tag"] for one in self.open], "text": "", **dict(attrs)}
        self.found.append(each)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append(each)
        if tag not in VOID:
            self.open.append(each)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop()["tag"] == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        for each in self.open:
            each["text"] += data if data.isspace() else f"{data} "

    def of(self, *tags):
        return [each for each in self.found if each["tag"] in tags]

    def row(self, name):
        return next(row for row in self.rows if row and row[0].split()[:1] == [name])


def score(success, at_goal=0.857, episodes=256):
    """A score whose intervals are two percent wide on each side."""
    values = {"success_final": success, "strict_final": success * 0.9, "time_at_goal": at_goal}
    intervals = {f"{key}_interval": [value - 0.02, value + 0.02] for key, value in values.items()}
    distance = {"final_distance": 0.0213, "final_distance_interval": [0.0192, 0.0239]}
    return {"episodes": episodes, **values, **intervals, **distance}


def new_run(tmp_path, name="arm", values=()):
    return create_run(tmp_path / name, with_values(preset("debug"), values), "debug", 7)


def add_teacher(run, iterations=4, *, finished=True, success=0.984, at_goal=0.857):
    """A teacher's part of a run; drawing its curves takes most of the time, 0 iterations have none."""
    run.begin_stage("teacher", None, 0)
    for i in range(1, iterations + 1):
        line = {"iteration": i, "env_steps": 320 * i, "wall_s": i, "critic_loss": 5 / i}
        line |= {"critic_accuracy": 0.1 * i, "actor_loss": 3.0 - i}
        run.append_metrics("teacher", line | ({"evaluation": score(success)} if i % 2 == 0 else {}))
    if finished:
        teacher = {"depth": 4, "width": 16, "env_steps": 1280, "wall_s": 9.1, **score(success, at_goal)}
        run.update_summary({"task": "fr3_reach", "engine": "mjx", "seed": 7, "teacher": teacher})


def add_students(run, rounds=0):
    run.begin_stage("students", "ab" * 32, 0)
    for i in range(1, rounds + 1):
        losses = {f"{size}/{kind}_loss": 1 / i for size in SIZES for kind in ("policy", "critic")}
        run.append_metrics("students", {"round": i, "labels": 1600 * i, "wall_s": i, **losses})
    run.update_summary({"students": {size: {"parameters": 727, "wall_s": 3.0} for size in SIZES}})


CRITIC = {
    **{"spearman_actions": 0.931, "spearman_states": 0.964, "best_action": 0.502, "top1": 0.712},
    **{"gradient_cosine": 0.953, "distance_error": 0.204, "distance_error_relative": 0.051},
}
# Times to the goal by the critic's distance; the farthest half of the states mostly never came.
CLOCK = {
    **{"horizon_s": 1.6, "distance": [1, 2], "seconds": [[0.1, 0.2, 0.3], [0.6, 0.9, None]]},
    **{"arrived": [1.0, 0.6], "rank_correlation": 0.712, "rank_correlation_straight": 0.834},
}
FILE = {
    **{"student_sha256": "cd" * 32, "parity_max_error": 3.6e-7, "distance_max_error": 4.3e-6},
    **{"observations": 1000, "latency_us_p50": 6.8, "latency_us_p99": 11.2},
}


def add_files(run, *, retention=0.998, passes=True, sizes=SIZES):
    evaluated = {**score(0.975), "critic": CRITIC, "teacher_parameters": 5000, "calibration": CLOCK}
    evaluated |= {"final_distance_change": -0.0012, "final_distance_change_interval": [-0.002, -0.0004]}
    evaluated |= {"worst_decile": {"student": 0.613, "teacher": 0.631, "difference_interval": [-0.1, 0.1]}}
    if retention is not None:
        evaluated |= {"retention": retention, "retention_interval": [0.991, 1.004]}
    for size in sizes:
        run.update_summary(
            {"students": {size: evaluated}, "export": {size: FILE | {"bundle": f"export/{size}"}}}
        )
        (run.bundles / size).mkdir(parents=True)
        spec = {"task": {"goal": GOAL}, "provenance": {"seed": 7}, "files": {"policy.onnx": "0f" * 32}}
        write_json(run.bundles / size / "spec.json", spec)
        write_columns(run.parity(size), latency_us=np.linspace(5, 12, 1000))
    if sizes == SIZES:
        chosen = {"selected": SIZES[0], "selected_passes": passes, "selected_because": "2x16 is the smallest"}
        run.update_summary({**chosen, "students": {SIZES[0]: {"robustness": robustness()}}})


def robustness(source="cd" * 32):
    """Under two conditions, of the file with this fingerprint."""
    usual = {"student": 0.9, "teacher": 0.9, "excess_drop": 0.0, "excess_drop_interval": [0.0, 0.0]}
    usual |= {"student_interval": [0.6, 0.9], "teacher_interval": [0.6, 0.9]}
    late = usual | {"student": 0.702, "teacher": 0.801, "excess_drop": 0.103, "retention": 0.876}
    late |= {"excess_drop_interval": [0.091, 0.115], "retention_interval": [0.85, 0.9]}
    found = {"nominal": usual, "delay_2": late, "mass_less": usual}
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


def add_control(run, *, success=0.984, late=0):
    """The controller in the other simulator, and on a robot."""
    folder = run.path / "control" / SIZES[0]
    folder.mkdir(parents=True)
    write_json(folder / RECORDING, recorded())
    for number in (1, 2):
        (folder / f"episode-{number}.webp").write_bytes(moving())
    clock = {"latency_us_p50": 7.1, "latency_us_p99": 12.9, "steps": 25600, "missed_deadlines": late}
    clock["student_sha256"] = FILE["student_sha256"]
    ends = {"goals": 4, "reached": 3, "distances_m": [0.01, 0.02, 0.03, 0.061], "worst_distance_m": 0.061}
    write_columns(folder / ROBOT_LOG, latency_us=np.full(100, 300.0))
    robot = {"robot": "fr3-sim", "mean_distance_m": 0.03, "limit_violations": 0, **ends, **clock}
    found = {
        "control": {SIZES[0]: {"engine": "mujoco", **score(success), **clock}},
        "robot": {SIZES[0]: robot},
    }
    run.update_summary(found | {"wall_s": 60.0})


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
    add_students(run, 3)
    add_files(run)
    add_control(run)
    direct = {
        "size": SIZES[0],
        "parameters": 731,
        "student_parameters": 727,
        "env_steps": 1280,
        "wall_s": 9.0,
    }
    direct |= {"student_gain": 0.357, "student_gain_interval": [0.3, 0.4], **score(0.5, at_goal=0.5)}
    run.update_summary({"baselines": {"direct": direct}})
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


BLIND = {"iterations": 0}  # without curves
# How far a run has come, and what it is worth: its parts, what the page says of them, and what it does not.
SAID = {
    "nothing": (
        {},
        "Nothing has been found yet|teacher: not run yet|control: not run yet",
        "How the teacher learned|The controller's episodes",
    ),
    "unfinished teacher": (
        {"teacher": {"iterations": 3, "finished": False}},
        "teacher: not complete, iteration 3 of 4. pipeline teacher --run arm --resume|960 environment steps "
        "so far; at its last evaluation it reached 98.4 % (96.4 to 100.4)",
        "What students keep",
    ),
    "half an export": (
        {"teacher": BLIND, "students": {}, "files": {"sizes": SIZES[:1]}},
        "The depth-4 teacher reaches 98.4 % (96.4 to 100.4) of 256 goals|file: not complete, 1 of 2|"
        "pipeline export arm --resume|2x16, 3x16, not evaluated yet",
        "teacher: not|Robustness",
    ),
    "teacher that reaches nothing": (
        {"teacher": BLIND | {"success": 0.0, "at_goal": 0.0}}
        | {"students": {}, "files": {"retention": None, "passes": False}},
        "The depth-4 teacher was never at a goal|control: not run yet",
        "keeps",
    ),
    "teacher that is seldom at a goal": (
        {"teacher": BLIND | {"at_goal": 0.09}, "students": {}, "files": {"retention": None}},
        "The depth-4 teacher was at its goals 9.0 % (7.0 to 11.0) of the time, too seldom to tell",
        "never",
    ),
    "no student that keeps enough": (
        {"teacher": BLIND, "students": {}, "files": {"retention": 0.93, "passes": False}}
        | {"control": {"success": 0.7, "late": 12}},
        "No student surely keeps 98.0 %|the nearest, 2x16, keeps 93.0 %|surely reaches fewer goals than its "
        "teacher|12 of 25,600 answers came after the control period",
        "The 2x16 student",
    ),
    "student that was asked for": (
        {"asked": ["student.select=2x16"], "teacher": BLIND, "files": {"retention": 0.93, "passes": False}},
        "The 2x16 student keeps 93.0 %",
        "No student",
    ),
    "weak teacher": (
        {"teacher": BLIND | {"success": 0.03}, "students": {}, "files": {}},
        "The teacher itself has not mastered the task: it reaches 3.0 %",
        "No student",
    ),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("parts", "said", "unsaid"), SAID.values(), ids=SAID)
def test_a_page_says_how_far_a_run_has_come_and_hides_nothing(tmp_path, parts, said, unsaid):
    asked = parts.get("asked", ["student.min_retention=0.98"])
    run = new_run(tmp_path, values=asked)
    add = {"teacher": add_teacher, "students": add_students, "files": add_files, "control": add_control}
    for part, adding in add.items():
        if part in parts:
            adding(run, **parts[part])
    text = read(run).text
    assert all(words in text for words in said.split("|")), text[:1500]
    assert not any(words in text for words in unsaid.split("|")), text[:1500]


def test_full_run_states_the_figures_of_the_summary(full_report):
    page = Page(full_report.read_text(encoding="utf-8"))
    assert (
        "The 2x16 student keeps 99.8 % (99.1 to 100.4) of its depth-4 teacher's time at goal. It answers in "
        "7.1 µs and reaches 98.4 % (96.4 to 100.4) of 256 goals within 5 cm in the MuJoCo C engine."
        in page.text
    )
    assert "not run yet" not in page.text
    for row, listed in {
        "Control": "98.4|88.6|85.7|83.7 to 87.7|2.13 cm|1.92 to 2.39|12.9|0 of 25,600 late",
        "Robot": "fr3-sim|3 of 4 goals|75.0|3 cm|0 states beyond a limit|farthest end 6.1 cm",
        "2x16": "727|99.8|99.1 to 100.4|97.5|6.8|11.2|-1.2 mm -2 to -0.4|61.3|63.1",
        "all": "0.931|0.964|0.502|0.712|0.953|0.204|5.1",  # students share their critic
        "2": "80.1|70.2|10.3|9.1 to 11.5|87.6",  # steps of delay
        "mass": "20 %",
        "distilled": "727|85.7|99.8",
        "residual,": "731|1,280|50.0",
    }.items():
        assert all(figure in " ".join(page.row(row)) for figure in listed.split("|")), row
    for words in (
        "Selection: 2x16 is the smallest.",
        "Distillation beats direct training",
        "Seconds to the goal, by the critic's distance",
        "Latency of 2x16",
        *("0f" * 32, "3.6e-07"),
    ):
        assert words in page.text, words


def test_teacher_and_students_have_one_colour_each_in_all_figures(full_report):
    blue, orange = "--series-1", "--series-2"
    source = full_report.read_text(encoding="utf-8").partition("</style>")[2]
    used = {title: {each for each in (blue, orange) if each in svg} for title, svg in DRAWN.findall(source)}
    for words, colours in {
        "The teacher in held-out episodes": {blue},
        "Policy loss of the students": {orange},
        "Retention of time at goal against parameters": {blue, orange},
        "Time at goal by condition": {blue, orange},
        "Distance to the goal": {orange},
    }.items():
        assert [found for title, found in used.items() if words in title] == [colours], words
    assert not re.search(r"--series-[34]", source)


def test_distances_have_the_unit_that_fits():
    for metres, shown in (
        (0, "0 cm"),
        (27e-6, "27 µm"),
        (-0.0012, "-1.2 mm"),
        (0.999, "99.9 cm"),
        (3.25, "3.25 m"),
    ):
        assert formats.with_unit(metres, "m") == shown
        assert formats.with_unit(metres, "cells") == f"{formats.significant(metres)} cells"


def test_what_was_not_measured_or_is_of_another_file_is_absent(full):
    summary = full.summary
    for student in summary["students"].values():
        del student["calibration"], student["retention"], student["retention_interval"]
    summary["students"][SIZES[0]]["robustness"] = robustness("ef" * 32)
    summary["students"][SIZES[1]]["critic"] = {"top1": 0.5}
    write_json(full.path / "summary.json", summary | {"control": {}})
    full.parity(SIZES[0]).write_bytes(b"half a file")
    page = read(full)
    for words in ("another simulator", "Latency of", "of delay", "Retention of time at goal"):
        assert words not in page.text
    assert page.row("2x16")[2].strip() == "\N{EN DASH}"
    assert not [row for row in page.rows if row and row[0].startswith("all")]


def test_page_refers_to_nothing_outside_and_is_the_same_again(full, full_report):
    source = full_report.read_text(encoding="utf-8")
    page = Page(source)
    assert all(value.startswith(("#", "data:image/webp;base64,")) for value in page.loaded)
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?://|url\((?!#)|@import", source)
    assert write_report(full).read_text(encoding="utf-8") == source


@pytest.mark.usefixtures("undrawn")
def test_text_of_the_run_is_escaped(full):
    control = full.summary["control"][SIZES[0]]
    full.update_summary({"task": EVIL, "control": {SIZES[0]: {**control, "engine": EVIL}}})
    write_json(full.path / "config.json", {**full.settings, "preset": EVIL})
    spec = full.bundles / SIZES[0] / "spec.json"
    write_json(spec, json.loads(spec.read_text()) | {"task": {"goal": {**GOAL, "unit": EVIL}}})
    page = read(full)
    assert page.text.count(EVIL) >= 3
    assert "script" not in page.tags


def test_the_command_carries_what_differs_from_the_preset(tmp_path):
    values = ['student.sizes=["2x16"]', "task.engine=mujoco", "update.batch_size=64", "network.actor_depth=8"]
    run = new_run(tmp_path, values=values)
    words = shlex.split(RunContext(run).again)
    assert words[:8] == ["pipeline", "run", "--preset", "debug", "--seed", "7", "--run", "arm-again"]
    assert with_values(preset("debug"), words[9::2]) == run.config and len(words) == 8 + 2 * len(values)


@pytest.mark.usefixtures("undrawn")
def test_moving_pictures_are_shown_if_they_were_drawn(full):
    page = read(full)
    assert page.tags.count("img") == 4  # of each episode the moving picture and its last frame
    assert page.text.count("not at the goal, 6 cm away") == 2
    pictures = [value.partition(",")[2] for value in page.loaded if value.startswith("data:")]
    still = Image.open(io.BytesIO(base64.b64decode(pictures[1])))
    assert getattr(still, "n_frames", 1) == 1
    assert still.convert("L").getpixel((8, 6)) == pytest.approx(120, abs=8)
    folder = full.path / "control" / SIZES[0]
    for file in folder.glob("*.webp"):
        file.unlink()
    page = read(full)
    assert "img" not in page.tags
    assert "No pictures of them: pipeline control arm/export/2x16 draws them" in page.text


@pytest.mark.usefixtures("undrawn")
def test_broken_file_is_named(full):
    write_json(full.path / "control" / SIZES[0] / RECORDING, {"episodes": [{}]})
    with pytest.raises(FathomError, match="does not hold what this program writes"):
        write_report(full)
    (full.path / "summary.json").write_text("{")
    with pytest.raises(FathomError, match=r"summary\.json"):
        write_report(full)


def test_the_ceiling_is_a_line_a_row_and_a_sentence(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run)
    assert "reference" not in read(run).text.lower()
    add_truth(run)
    page = read(run)
    assert (
        "The teacher is at its goals 85.7 % (83.7 to 87.7) of the time, 79.7 % (76.7 to 82.7) of what a "
        "controller that knows the task reaches." in page.text
    )
    assert "reference: time at goal" in page.text  # the line's name
    assert page.row("Reference")[4].split()[0] == "93.1"


def test_distances_in_a_maze_are_drawn_beside_the_true_ones(tmp_path):
    run = new_run(tmp_path)
    add_teacher(run, 0)
    add_truth(run)
    page = read(run)
    assert page.tags.count("figure") == 3
    assert page.row("critic")[1:] == ["0.81", "0.63"] and page.row("straight")[1:] == ["0.74", "0.28"]
    assert "at least 8 cells apart" in page.text
    # From the start to the far end of the maze: 10 cells, 8.2 by the critic.
    assert {"10", "8.2", "1.2"} <= set(page.text.split())
    (run.path / "teacher" / DISTANCE_MAP).write_bytes(b"half of it")
    page = read(run)
    assert "figure" not in page.tags and page.row("critic")


def test_the_terminal_shows_what_is_known_beside_the_teacher(tmp_path, capsys):
    run = new_run(tmp_path)
    add_teacher(run, 0)
    add_truth(run)
    rich.print(tables.score(run.summary["teacher"]), tables.summary(run.summary))
    printed = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["share_of_reference", "0.797", "0.767", "to", "0.827"] in printed
    assert any(line[:2] == ["Reference", "knows"] for line in printed)


# Plots


def test_names_of_points_overlap_nothing_and_who_chooses_first_is_named():
    with plot.figure("plot", []) as axes:
        axes.set(xscale="log", xlim=(100, 1e6), ylim=(0.9, 1.1))
        figures.name_points(axes, {f"{i}x1024": (1000 * 1.7**i, 1.0) for i in range(12)})
        boxes = [each.get_window_extent() for each in axes.texts]
    assert 3 <= len(boxes) < 12 and axes.texts[0].get_text() == "0x1024"
    assert not any(one.count_overlaps([each for each in boxes if each is not one]) for one in boxes)


def test_the_teacher_stands_beside_its_students_if_it_was_timed(full):
    _, untimed = figures.retention_and_cost({"arm": RunContext(full)})
    assert ">teacher</text>" not in untimed.svg
    full.update_summary({"teacher": {"latency_us_p50": 184.0}})
    for drawn in figures.retention_and_cost({"arm": RunContext(full)}):
        assert ">teacher</text>" in drawn.svg and ">2x16</text>" in drawn.svg  # though students are as fast
        assert ("of the teacher in JAX" in drawn.svg) == ("latency" in drawn.title)
