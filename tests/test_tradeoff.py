"""Plots whose points have names, and what is behind the front of students."""

import re
from itertools import combinations

import pytest
from test_report import full_run

from pipelines.report.context import RunContext
from pipelines.report.figures import front, retention_and_cost
from pipelines.report.plot import figure, name_points


def test_the_front_holds_whom_none_surpasses_at_no_more_cost():
    kept = {"a": 0.90, "b": 0.95, "c": 0.95, "d": 0.93, "e": 0.99}
    costs = {"a": 10, "b": 20, "c": 20, "d": 30, "e": 40}
    assert front(kept, costs) == ["a", "b", "e"]
    assert front({}, {}) == []


@pytest.mark.parametrize(
    ("points", "first", "fewest"),
    [
        ({f"{d}x{w}": (50.0 * d * w, 0.99, 1.01) for d in (2, 3, 4) for w in (32, 33, 64, 256)}, "2x32", 6),
        ({name: (10000.0 + i, 0.95, 1.05) for i, name in enumerate("habcdefg")}, "h", 1),  # room for few
    ],
)
def test_names_overlap_neither_each_other_nor_the_plot_s_edge_and_who_comes_first_is_named(
    points, first, fewest
):
    with figure("names", []) as axes:
        axes.set_xscale("log")
        axes.set_xlim(2000, 1e5)
        axes.set_ylim(0.9, 1.1)
        written = name_points(axes, points, list(points))
        boxes = [text.get_window_extent() for text in axes.texts]
    assert written[0] == first and fewest <= len(written) == len(boxes) < len(points)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("teacher", [True, False])
def test_the_teacher_stands_on_the_plots_if_it_was_timed(tmp_path, teacher):
    run = full_run(tmp_path)
    if teacher:
        run.update_summary({"teacher": {"latency_us_p50": 184.0}})
    parameters, latency = (f.svg for f in retention_and_cost({"arm": RunContext.of(run)}))
    assert ">teacher</text>" in parameters
    assert (">teacher</text>" in latency) == ("of the teacher in JAX" in latency) == teacher
    assert re.search(r">2x16</text>", parameters)
