import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.summary import Summary, document, problem

PAGE = Path(__file__).parents[1] / "docs" / "summary.md"


def test_a_runs_summary_holds_what_the_schema_states_and_loses_nothing(debug_run):
    written = json.loads((debug_run.path / "summary.json").read_text())
    read = Summary.model_validate(written)
    assert json.loads(json.dumps(read.model_dump(exclude_unset=True))) == written


def test_the_page_says_what_the_schema_says():
    assert document() in PAGE.read_text(), "python -m pipelines.summary prints what belongs there"


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"teacher": []}, "teacher"),
        ({"teacher": {"time_at_goal": "often"}}, "teacher.time_at_goal"),
        ({"students": {"2x16": {"retention_interval": [0.9]}}}, "students.2x16.retention_interval"),
        (
            {"students": {"2x16": {"retention": 1.0, "kept": 1.0}}},
            "students.2x16: kept is not one of its figures",
        ),
        ({"selected": "2x16"}, "selected is '2x16'"),
    ],
)
def test_a_wrong_figure_is_named(found, named):
    with pytest.raises(ValidationError) as error:
        Summary.model_validate(found)
    assert named in problem(error.value)
