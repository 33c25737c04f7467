"""Baselines: plain networks in a teacher's place, what they cost, and what they say of distillation."""

import json
import shutil
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.baselines import distil_beside
from pipelines.config import with_values
from pipelines.presets import preset
from pipelines.progress import Display
from pipelines.report.baselines import baselines as section
from pipelines.report.findings import read_findings
from pipelines.rundir import Run, write_json
from student.baselines import (
    NAMES,
    conclusion,
    distilled,
    expected_s,
    named,
    require_budget,
    trained_directly,
)
from student.config import StudentConfig
from student.networks import parameter_count
from teacher.compilation import jit_once
from teacher.config import NetworkConfig, TeacherConfig
from teacher.errors import UsageError
from teacher.networks import (
    act_and_embed_goal,
    action_distribution,
    embed_both_actions,
    embed_goal,
    embed_state_action,
    init_params,
    make_networks,
)
from teacher.trained import load_teacher

SIZES = OBSERVATION, ACTION, GOAL = 5, 2, 3
REPRESENTATION = 4


def networks_and_params(**config):
    networks = make_networks(NetworkConfig(depth=4, width=8, representation=REPRESENTATION, **config), ACTION)
    return networks, jit_once(lambda key: init_params(networks, key, SIZES))(jax.random.key(0))


def inputs(count=6):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(count, size)), jnp.float32) for size in (*SIZES, ACTION)]


def plain_parameters(inputs, layers, width, outputs):
    return sum(a * b + b for a, b in pairwise([inputs, *[width] * layers, outputs]))


def test_a_plain_network_has_its_layers_and_no_normalisation():
    _, deep = networks_and_params()
    _, params = networks_and_params(plain_actor="2x16", plain_critic="3x12")
    counts = [
        plain_parameters(OBSERVATION + GOAL, 2, 16, 2 * ACTION),
        plain_parameters(OBSERVATION + ACTION, 3, 12, REPRESENTATION),
        plain_parameters(GOAL, 3, 12, REPRESENTATION),
    ]
    assert [parameter_count(tree) for tree in (params.actor, params.state_action, params.goal)] == counts
    _, mixed = networks_and_params(plain_actor="2x16")
    assert parameter_count(mixed.actor) == counts[0]
    assert parameter_count(mixed.goal) == parameter_count(deep.goal)


@pytest.mark.parametrize("plain", [{"plain_actor": "1x4"}, {"plain_critic": "1x4"}])
def test_a_plain_network_works_beside_a_deep_one(plain):
    networks, params = networks_and_params(**plain)
    observation, _, goal, _ = inputs()
    together = act_and_embed_goal(networks, params, observation, goal)
    apart = (
        *action_distribution(networks, params.actor, observation, goal),
        embed_goal(networks, params.goal, goal),
    )
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_plain_critic_learns_from_the_data_alone_and_passes_the_policys_derivative():
    networks, params = networks_and_params(plain_critic="2x8")
    observation, data, _, policy = inputs()

    def both(tree, action):
        of_data, of_policy = embed_both_actions(networks, tree, observation, data, action)
        return of_data.sum() + (of_policy**2).sum()

    def apart(tree, action):
        fixed = embed_state_action(networks, params.state_action, observation, action)
        return embed_state_action(networks, tree, observation, data).sum() + (fixed**2).sum()

    found, expected = (jax.grad(f, argnums=(0, 1))(params.state_action, policy) for f in (both, apart))
    assert float(jnp.abs(expected[1]).max()) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_a_plain_size_is_written_like_a_students_and_survives_json():
    config = with_values(preset("debug"), ["network.plain_actor=2x64"])
    network = config.teacher.network
    assert network.depths == (2, 4)
    assert network.widths == (64, 16)
    assert NetworkConfig.model_validate_json(network.model_dump_json()) == network
    with pytest.raises(UsageError, match=r"network\.plain_actor.*found '64'.*LAYERSxWIDTH"):
        with_values(preset("debug"), ['network.plain_actor="64"'])
    with pytest.raises(ValidationError, match="LAYERSxWIDTH"):
        NetworkConfig(plain_critic=64)


def test_baselines_are_named_by_a_list_or_all_together():
    assert named("all") == NAMES
    assert named("dagger, direct") == ("direct", "dagger")
    with pytest.raises(UsageError, match=r"direkt.*did you mean 'direct'"):
        named("direct,direkt")


def test_a_baseline_leaves_out_what_its_name_says_and_nothing_else():
    teacher = TeacherConfig(network=NetworkConfig(depth=16, width=32))
    direct, shallow = (trained_directly(name, teacher, "2x8") for name in ("direct", "shallow_actor"))
    assert (direct.network.depths, direct.network.widths) == ((2, 2), (8, 8))
    assert (shallow.network.depths, shallow.network.widths) == ((2, 16), (8, 32))
    for made in (direct, shallow):
        assert made.model_copy(update={"network": teacher.network}) == teacher

    students = StudentConfig(sizes=("2x8", "3x8"), goals=(0.5, 0.25, 0.15, 0.1))
    cloning, dagger = (distilled(name, students, "2x8") for name in ("cloning", "dagger"))
    assert dagger == students.model_copy(update={"sizes": ("2x8",), "goals": (1.0, 0.0, 0.0, 0.0)})
    assert cloning == dagger.model_copy(update={"teacher_rounds": students.rounds, "noise": 0.0})


def test_a_budget_names_the_baselines_that_fit():
    students = StudentConfig(rounds=10, envs=100)
    teacher = {"wall_s": 300.0, "env_steps": 1_000_000}
    expected = {name: expected_s(name, teacher, students, episode_length=100) for name in NAMES}
    assert expected == {"direct": 300, "shallow_actor": 300, "cloning": 30, "dagger": 30}
    require_budget(expected, 660)
    require_budget(expected, None)
    with pytest.raises(
        UsageError, match=r"found 400, but these take about 660 s.*--baselines cloning,dagger,direct fits"
    ):
        require_budget(expected, 400)
    with pytest.raises(UsageError, match="none of them fits"):
        require_budget(expected, 29)


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
    assert conclusion({"direct": direct}).startswith(says)
    assert f"{100 * (0.8 + gain):.1f}\u202f%" in conclusion({"direct": direct})
    assert conclusion({"cloning": direct}) is None


class Lines(Display):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def compared(debug_run, tmp_path_factory):
    """The debug run with every baseline, and what was said."""
    run = Run(tmp_path_factory.mktemp("baselines") / "run")
    shutil.copytree(debug_run.path, run.path)
    lines = Lines()
    return run, distil_beside(run, lines, "all", resume=False), lines.said


def test_every_baseline_is_judged_beside_the_student(compared):
    run, figures, said = compared
    assert figures == {key: run.summary[key] for key in ("students", "baselines")}
    assert tuple(figures["baselines"]) == NAMES
    keys = "time_at_goal time_at_goal_interval success_final env_steps wall_s parameters student_gain"
    for name, found in figures["baselines"].items():
        assert set(keys.split()) <= set(found)
        assert ("labels" in found) == (name in ("cloning", "dagger"))
        assert found["episodes"] == run.config.student.episodes
        assert found["size"] == run.summary["selected"]
    teacher_steps = run.summary["teacher"]["env_steps"]
    assert [figures["baselines"][name]["env_steps"] for name in NAMES[:2]] == [teacher_steps] * 2
    assert conclusion(figures["baselines"]) in said


def test_a_baseline_is_a_run_of_its_own(compared):
    run, figures, _ = compared
    size = figures["baselines"]["direct"]["size"]
    for name, plain in [("direct", [size, size]), ("shallow_actor", [size, None])]:
        network = load_teacher(run.path / "baselines" / name / "teacher" / "checkpoints").config.network
        written = network.model_dump(mode="json")
        assert [written["plain_actor"], written["plain_critic"]] == plain
    shown = section(read_findings(run))
    assert all(f"{found['parameters']:,}" in shown for found in figures["baselines"].values())
    assert section(read_findings(Run(run.path / "baselines" / "direct"))) is None


def test_finished_baselines_are_kept_and_others_not_confused_with_them(compared, tmp_path):
    before, figures, _ = compared
    run = Run(shutil.copytree(before.path, tmp_path / "run", symlinks=True))
    with pytest.raises(UsageError, match=r"direct holds a baseline already: add --resume"):
        distil_beside(run, Lines(), "direct", resume=False)
    again = Lines()
    assert distil_beside(run, again, "cloning,direct", resume=True)["baselines"] == figures["baselines"]
    assert sum(line.startswith("kept") for line in again.said) == 2
    settings = json.loads((run.path / "baselines" / "direct" / "config.json").read_text())
    settings["config"]["teacher"]["update"]["batch"] = 16
    write_json(run.path / "baselines" / "direct" / "config.json", settings)
    with pytest.raises(UsageError, match="begun with other settings"):
        distil_beside(run, Lines(), "direct", resume=True)


def test_a_budget_is_asked_about_before_anything_begins(debug_run, tmp_path):
    run = Run(shutil.copytree(debug_run.path, tmp_path / "run"))
    poor = Run(run.path, with_values(run.config, ["student.baseline_budget_s=0.001"]))
    with pytest.raises(UsageError, match="baseline_budget_s"):
        distil_beside(poor, Lines(), "all", resume=False)
    assert not (run.path / "baselines").exists()
