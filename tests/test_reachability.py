"""Reachability: what is asked, the model and its calibration, and what the controller makes of it."""

import shutil

import numpy as np
import pytest
import scipy.special

from export.bundle import add_reachability
from export.controller import ControllerError, load
from pipelines import critic_uses as measuring
from pipelines.progress import Display
from pipelines.report.critic_uses import critic_uses as section
from pipelines.report.findings import read_findings
from pipelines.rundir import Run
from student.reachability import (
    Questions,
    Reachability,
    area_under_curve,
    brier,
    calibration_error,
    fit,
    foretold,
    questions,
    reliability,
    stretched,
)
from student.saved import load_student
from teacher.sensing import Sensed
from teacher.simulation import Trajectories
from teacher.tasks import goal_distance, make_task

TRUE = Reachability(intercept=1.0, distance=2.0, seconds=1.5)
COUNT = 4000


def drawn(seed, count=COUNT):
    """Distances, time limits and answers of the model itself."""
    rng = np.random.default_rng(seed)
    distance, seconds = np.exp(rng.normal(size=count)), np.exp(rng.normal(size=count))
    return distance, seconds, rng.random(count) < TRUE.probability(distance, seconds)


def asked(seconds, arrived, straight):
    """Questions of which only these answers matter; 8 an episode, the last of them beyond the range."""
    nothing = np.zeros((len(seconds), 1))
    number = np.arange(len(seconds))
    return Questions(nothing, nothing, nothing, straight, number % 8 == 7, seconds, arrived, number // 8)


@pytest.mark.parametrize("seed", range(5))
def test_a_nearer_goal_and_more_time_are_never_less_probable(seed):
    rng = np.random.default_rng(seed)
    distance, seconds = np.exp(rng.normal(size=(2, 60)))
    model = fit(distance, seconds, rng.random(60) < 0.5)
    grid = np.linspace(0.1, 5, 40)
    assert np.all(np.diff(model.probability(grid, np.ones(40))) <= 0)
    assert np.all(np.diff(model.probability(np.ones(40), grid)) >= 0)


def test_on_its_own_data_the_model_is_calibrated():
    distance, seconds, arrived = drawn(1)
    found = fit(distance, seconds, arrived)
    np.testing.assert_allclose(found, TRUE, rtol=0.15)
    distance, seconds, arrived = drawn(2)
    answer = found.probability(distance, seconds)
    assert calibration_error(reliability(answer, arrived)) < 0.03
    assert brier(answer, arrived) < 1.01 * brier(TRUE.probability(distance, seconds), arrived)


def test_an_estimate_holds_only_if_the_critic_knows_more_than_the_plain_distance():
    parts = [drawn(seed) for seed in (3, 4)]
    rng = np.random.default_rng(0)
    truth = tuple(distance for distance, _, _ in parts)
    noise = tuple(np.exp(rng.normal(size=COUNT)) for _ in parts)

    def found(critic, straight):
        both = (asked(s, a, d) for d, (_, s, a) in zip(straight, parts, strict=True))
        return foretold(*both, critic)

    knows = found(truth, noise)
    assert Reachability(**knows["coefficients"]).distance > 1
    assert knows["brier"] < knows["brier_euclidean"] < knows["brier_base"]
    for straight in (noise, truth):  # the limits of time alone beat the base rate, not the distance
        assert found(noise, straight)["coefficients"] is None
    assert found(truth, truth)["coefficients"] is None


def test_one_episode_has_no_interval_and_proves_nothing():
    distance, seconds, arrived = drawn(10, 8)
    few = asked(seconds, arrived, np.ones(8))
    assert len(set(arrived)) == 2
    assert foretold(few, few, (distance, distance)) == {"coefficients": None}


def test_goals_inside_and_beyond_the_range_are_told_apart():
    fitted, held_out = (asked(s, a, d) for d, s, a in (drawn(5), drawn(6)))
    found = foretold(fitted, held_out, (drawn(5)[0], drawn(6)[0]))
    parts = found["goals"]["inside"], found["goals"]["beyond"]
    assert [part["questions"] for part in parts] == [COUNT * 7 // 8, COUNT // 8]
    for key in ("brier", "brier_base", "brier_euclidean", "arrived"):
        assert np.average([part[key] for part in parts], weights=[7, 1]) == pytest.approx(found[key])


def test_without_both_answers_nothing_can_be_said():
    distance, seconds, arrived = drawn(7, 80)
    always = asked(seconds, np.ones(80, bool), distance)
    some = asked(seconds, arrived, distance)
    assert foretold(some, always, (distance, distance)) == {"coefficients": None}
    assert foretold(always, some, (distance, distance)) == {"coefficients": None}


def test_scores_by_hand():
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    happened = np.array([False, True, True, True])
    bins = reliability(probability, happened)
    assert [(each["observed"], each["count"]) for each in bins] == [(0.5, 2), (1.0, 2)]
    assert calibration_error(bins) == pytest.approx((0.45 + 0.025) / 2)
    assert brier(probability, happened) == pytest.approx((0.05**2 + 0.95**2 + 0.05**2) / 4)
    assert area_under_curve(probability, happened) == pytest.approx(2.5 / 3)


def test_a_stretched_goal_keeps_its_direction_from_the_middle():
    spec = make_task("reacher").spec
    low, high = np.array(spec.goal.low), np.array(spec.goal.high)
    goal = np.stack([low, (low + high) / 2, high])
    np.testing.assert_allclose(
        stretched(spec, goal, 1.5), [low - (high - low) / 4, (low + high) / 2, high + (high - low) / 4]
    )


def test_questions_are_answered_by_what_happened_later():
    spec, rng = make_task("reacher").spec, np.random.default_rng(0)
    length, episodes = spec.episode_length, 3
    observation = rng.normal(size=(length + 1, episodes, spec.observation_size)).astype(np.float32)
    low, high = np.array(spec.goal.low), np.array(spec.goal.high)
    goal = np.stack([0.9 * low + 0.1 * high, 0.1 * low + 0.9 * high, high + 0.01]).astype(np.float32)
    ends = np.array([length, length, length // 2])
    going = np.arange(length)[:, None] < ends
    step, episode = np.indices((length + 1, episodes))
    seen = Sensed(step[..., None], episode[..., None])  # what was seen tells when and where
    action = np.zeros((length, episodes, spec.action_size))
    lived = Trajectories(observation[..., :1], observation, action, going, seen)
    radius = np.quantile(goal_distance(spec, observation, goal), 0.03)
    spec = spec.model_copy(update={"goal": spec.goal.model_copy(update={"success_radius": float(radius)})})
    found = questions(spec, lived, goal, seed=0)
    near = goal_distance(spec, observation, goal) <= radius
    assert set(np.unique(found.arrived)) == {False, True}
    for i in range(len(found.arrived)):
        step, episode = int(found.observation[i, 0]), found.episode[i]
        limit = round(found.seconds[i] / spec.control_dt)
        assert found.goal[i] == episode
        assert not near[step, episode]
        assert step < ends[episode]
        assert 1 <= limit <= length - step
        later = near[step + 1 : min(step + limit, ends[episode]) + 1, episode]
        assert found.arrived[i] == later.any()
        assert found.beyond[i] == (episode == 2)


@pytest.fixture(scope="module")
def measured(debug_run, tmp_path_factory):
    """A copy of the debug run, whose selected student's critic was measured by its export."""
    run = Run(tmp_path_factory.mktemp("uses") / "run")
    shutil.copytree(debug_run.path, run.path)
    student = load_student(run.students / run.summary["selected"])
    return run, student, run.summary["students"][student.name]["reachability"]


def test_what_was_measured_is_kept(measured, monkeypatch):
    run, student, figures = measured
    monkeypatch.setattr(measuring, "simulation_of", None)  # so that nothing can be measured
    assert measuring.critic_uses(run, student, Display()) == figures


def bundle_with(measured, folder, coefficients):
    run, student, _ = measured
    bundle = shutil.copytree(run.bundles / student.name, folder / "bundle")
    add_reachability(bundle, coefficients)
    return bundle


def test_the_controller_answers_as_the_model(measured, tmp_path):
    controller = load(bundle_with(measured, tmp_path, TRUE._asdict()))
    spec = controller.spec
    with np.load(tmp_path / "bundle" / "golden.npz") as recorded:
        obs, goal, actions = recorded["obs"], recorded["goal"], recorded["actions"]
    longest = spec["episode_length"] * spec["control_dt"]
    distance = np.array([controller.distance(*each) for each in zip(obs, actions, goal, strict=True)])
    seconds = np.linspace(longest / 10, longest, len(obs))
    found = [controller.reachable(*each) for each in zip(obs, goal, seconds, strict=True)]
    np.testing.assert_allclose(found, TRUE.probability(distance, seconds), rtol=1e-3, atol=1e-6)
    assert scipy.special.logit(found[0]) != pytest.approx(scipy.special.logit(found[-1]))
    for wrong in (0, -1.0, float("nan"), 1.01 * longest):
        with pytest.raises(ControllerError, match=rf"seconds: {wrong}, allowed: more than 0, at most"):
            controller.reachable(obs[0], goal[0], wrong)
    with pytest.raises(ControllerError, match="goal: dtype float64"):
        controller.reachable(obs[0], goal[0].astype(np.float64), longest)


def test_a_bundle_without_an_estimate_says_why(measured, tmp_path):
    controller = load(bundle_with(measured, tmp_path, None))
    zeros = [np.zeros(n, np.float32) for n in (controller._obs.batch.size, controller._goal.batch.size)]
    with pytest.raises(ControllerError, match="was not shown to foretell arrival"):
        controller.reachable(*zeros, 1.0)
    add_reachability(tmp_path / "bundle", {"intercept": 1.0})
    with pytest.raises(ControllerError, match=r"not a description of a bundle.*distance"):
        load(tmp_path / "bundle")


def test_the_report_shows_what_was_asked_and_found(measured, tmp_path):
    run = Run(shutil.copytree(measured[0].path, tmp_path / "run"))
    name = measured[1].name
    fitted, held_out = (asked(s, a, np.ones(COUNT)) for _, s, a in (drawn(8), drawn(9)))
    figures = foretold(fitted, held_out, (drawn(8)[0], drawn(9)[0])) | {"stretch": measuring.STRETCH}
    run.update_summary({"students": {name: {"reachability": figures}}})
    shown = section(read_findings(run))
    for key in ("brier", "brier_base", "brier_euclidean", "auc"):
        assert f"{figures[key]:.3f}" in shown
    assert "<svg" in shown
    assert "answers reachable()" in shown
    run.update_summary({"students": {name: {"reachability": {"coefficients": None}}}})
    assert "answers reachable()" not in section(read_findings(run))
    summary = run.summary
    del summary["students"][name]["reachability"]
    (run.path / "summary.json").unlink()
    run.update_summary(summary)
    assert section(read_findings(run)) is None
