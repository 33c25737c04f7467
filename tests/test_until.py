"""A teacher's training that ends at a score: when, what it leaves, and which scores there are."""

import pytest

from pipelines import train_teacher
from pipelines.config import preset, with_values
from pipelines.rundir import Run
from pipelines.stages import new_run
from student.baselines import TRAINED, teacher_config
from teacher.config import SHARES, EvaluateConfig, TeacherConfig
from teacher.evaluate import EpisodeMetrics
from teacher.train import confirm, load_teacher


def test_training_ends_at_the_first_evaluation_that_reaches_until(debug_run, tmp_path, monkeypatch):
    whole = Run(debug_run.path)
    lines = whole.metrics("teacher")
    first = next(i for i, line in enumerate(lines, 1) if "evaluation" in line)
    reached = lines[first - 1]["evaluation"]["time_near_goal"]
    assert reached > 0 and first < len(lines)
    config = with_values(preset("debug"), [f"evaluate.until=time_near_goal={reached}"])
    run = new_run(tmp_path / "run", config)
    summary = train_teacher.teach(run)
    assert summary["ended_by"] == "evaluate.until" and summary["env_steps"] == lines[first - 1]["env_steps"]
    assert whole.summary["teacher"]["ended_by"] == "collect.total_steps"
    own = run.metrics("teacher")
    assert [line["critic_loss"] for line in own] == [line["critic_loss"] for line in lines[:first]]
    # It is finished: found so again, by this process, by those that follow it, and by the next stage.
    monkeypatch.setattr(train_teacher, "train", None)
    assert train_teacher.teach(run, resume=True) == summary
    assert run.metrics("teacher") == own
    train_teacher.follow(run, resume=True)
    assert confirm(load_teacher(run.checkpoints))["time_near_goal"] == pytest.approx(reached)


def test_processes_that_follow_stop_where_the_first_does(tmp_path, monkeypatch):
    run = new_run(tmp_path / "run", preset("debug"))
    exchanged = []

    def agreed(*flags):
        exchanged.append(flags)
        return (False, False, len(exchanged) == 3)[: len(flags)]  # the first flag of all asks for a save

    monkeypatch.setattr(train_teacher.distributed, "agreed", agreed)
    train_teacher.follow(run, resume=False)
    assert exchanged == [(False,), (False, False, False), (False, False, False)]


def test_every_share_of_a_score_can_be_waited_for():
    assert set(SHARES) == set(EpisodeMetrics._fields) - {"final_distance", "final_angle"}
    config = EvaluateConfig(until="success_any=.5")
    assert config.reached({"success_any": 0.5}) and not config.reached({"success_any": 0.49})
    assert not config.reached(None) and not EvaluateConfig().reached({"success_any": 1.0})


def test_a_baseline_does_not_end_where_its_teacher_did():
    teacher = TeacherConfig(evaluate=EvaluateConfig(until="success_any=0.5", every=3))
    for name in TRAINED:
        assert teacher_config(name, teacher, "2x16").evaluate == EvaluateConfig(every=3)
