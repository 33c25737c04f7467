"""Tasks of a user's own: the files of docs/own-task.md, installed packages, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from pipelines import catalogue, closed_loop, stages
from pipelines.config import preset, with_values
from pipelines.progress import Display
from pipelines.rundir import Run
from pipelines.sweep import combinations, described
from teacher import checkpoint
from teacher.errors import FathomError, UsageError
from teacher.rollout import simulation
from teacher.spec import TaskSpec
from teacher.tasks import TASKS, State, make_task, task_names
from teacher.tasks.base import Frames
from teacher.tasks.validation import require_same
from teacher.train import load_teacher

DOCS = Path(__file__).parent.parent / "docs" / "own-task.md"
WHEELS, SEEING, PUCK, FISH = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def robot(tmp_path_factory) -> str:
    """The documented puck, in a file of its own."""
    return written(tmp_path_factory.mktemp("robot"), PUCK, "Puck")


@pytest.fixture(scope="module")
def own_run(robot, pipeline) -> Path:
    """What the documentation tells its reader to type, beside the file, for a single student."""
    file = Path(robot.rpartition(":")[0])
    asked = ("--preset", "debug", "--task", "robot.py:Puck", "--set", "student.sizes=2x16")
    done = pipeline("run", *asked, "--json", cwd=file.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"] == "puck"
    return file.parent / "runs" / "debug"


def written(folder: Path, text: str, name: str = "Robot") -> str:
    file = folder / "robot.py"
    file.write_text(text)
    return f"{file}:{name}"


# The whole way


def test_a_task_in_a_file_goes_all_the_way_to_the_controller(own_run):
    summary = json.loads((own_run / "summary.json").read_text())
    assert {figures["engine"] for figures in summary["control"].values()} == {"analytic"}
    assert (own_run / "report.html").exists()
    settings = json.loads((own_run / "config.json").read_text())["config"]
    assert settings["teacher"]["task"]["name"] == f"{own_run.parent.parent / 'robot.py'}:Puck"
    bundle = json.loads((own_run / "export" / "2x16" / "spec.json").read_text())
    assert bundle["task"]["name"] == "puck"


def test_a_bundle_that_left_its_run_asks_for_its_task_and_refuses_another(
    own_run, robot, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bundle = shutil.copytree(own_run / "export" / "2x16", tmp_path / "bundle")
    with pytest.raises(UsageError, match=r"is for task 'puck', which is not installed.*--task path"):
        closed_loop.control(bundle, Display(), episodes=2)
    assert closed_loop.control(bundle, Display(), task=robot, episodes=2)["episodes"] == 2
    changed = written(tmp_path, PUCK.replace("success_radius=0.1", "success_radius=0.15"), "Puck")
    folder = shutil.copytree(own_run / "teacher" / "checkpoints", tmp_path / "checkpoints")
    manifest = folder / str(checkpoint.saves(folder)[0]) / checkpoint.MANIFEST
    saved = json.loads(manifest.read_text())
    saved["record"]["config"]["task"]["name"] = changed
    checkpoint.write_manifest(manifest.parent, saved)
    for opened in (
        lambda: closed_loop.control(bundle, Display(), task=changed),
        lambda: load_teacher(folder),
    ):
        with pytest.raises(FathomError, match=r"goal\.success_radius is 0\.1 there and 0\.15 here"):
            opened()


WHOLE = re.search(r'MJCF = """\n(.*?)"""', WHEELS, re.DOTALL)
OUTSIDE = '<mujoco><custom><numeric name="one" data="1"/></custom></mujoco>'
TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


@pytest.mark.parametrize("lost", [None, "../outside.xml"])
def test_a_run_keeps_the_model_files_of_its_task_and_names_what_it_could_not_keep(tmp_path, lost):
    home, away = tmp_path / "home", tmp_path / "away"
    files = {
        "assets/robot.xml": WHOLE[1].replace(
            "<worldbody>", '<include file="parts/hull.xml"/>\n  <worldbody>', 1
        ),
        "assets/parts/hull.xml": f"""<mujoco><compiler meshdir="meshes"/>
            <asset><mesh name="hull" file="hull.obj"/></asset>
            {f'<include file="../{lost}"/>' if lost else ""}</mujoco>""",
        "assets/meshes/hull.obj": TETRAHEDRON,
    }
    for name, text in (files | {"assets/other.xml": "", "../outside.xml": OUTSIDE}).items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    load = 'from_xml_path(str(Path(__file__).parent / "assets" / "robot.xml"))'
    text = WHEELS.replace(WHOLE[0], "from pathlib import Path").replace("from_xml_string(MJCF)", load)
    task = written(home, text, "TwoWheels")
    run = stages.new_run(home / "run", with_values(preset("debug"), [f"task.name={task}"]), "debug")
    home.rename(away)
    run = Run(away / "run")
    kept = {str(file.relative_to(run.path / "task")) for file in (run.path / "task").rglob("*.*")}
    assert kept == {"robot.py", "files.json", *files}
    if lost:
        with pytest.raises(
            FathomError, match=r"task/outside\.xml(.|\n)*with --task path/to/robot\.py:TwoWheels"
        ):
            run.kept_task()
        return
    assert make_task(run.kept_task()).model("mjx").nmesh == 1
    (run.path / "task" / "assets" / "meshes" / "hull.obj").write_text(TETRAHEDRON.replace("1", "2"))
    with pytest.raises(FathomError, match=r"hull\.obj is missing or was altered"):
        run.kept_task()


def test_the_first_field_that_differs_is_named():
    spec = make_task("reacher").spec
    stored = spec.model_dump(mode="json")
    require_same("a bundle", stored, spec)
    require_same("a bundle", {key: value for key, value in stored.items() if key != "deployed"}, spec)
    for path, value, told in (
        (("version",), 1, f"version is 1 there and {spec.version} here"),
        (("action", "scale", 1), 0.5, r"action\.scale\[1\] is 0\.5 there and 1\.0 here"),
        (("observation", 2, "unit"), "mm", r"observation\[2\]\.unit is 'mm' there and 'm' here"),
        (("goal", "entries"), ["x"], r"goal\.entries is \['x'\] there and \['x', 'y'\] here"),
    ):
        other = json.loads(json.dumps(stored))
        part = other
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value
        with pytest.raises(FathomError, match=f"a bundle was made for another task.*{told}"):
            require_same("a bundle", other, spec)


# Where tasks come from


def test_a_file_named_twice_is_one_task(robot, monkeypatch):
    folder = Path(robot.rpartition(":")[0]).parent
    monkeypatch.chdir(folder)
    for name in ("robot.py", f"../{folder.name}/robot.py"):
        assert make_task(f"{name}:Puck") is make_task(robot)


def test_a_sweep_over_files_names_its_runs_without_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = combinations(preset("debug"), ["task.name=reacher,robots/one.py:Robot"])
    assert [described(values, "-", "-") for values, _ in made] == ["name-reacher", "name-one.py:Robot"]
    assert described(made[1].values) == "name one.py:Robot"
    assert made[1].values == {"task.name": f"{tmp_path.resolve()}/robots/one.py:Robot"}


def test_a_file_may_import_what_lies_beside_it_and_make_its_task_in_a_function(tmp_path):
    (tmp_path / "own_wheels.py").write_text(WHEELS)
    text = "import own_wheels\n\n\ndef robot():\n    return own_wheels.TwoWheels()\n"
    assert make_task(written(tmp_path, text, "robot")).spec.name == "two_wheels"


ROBOT = "class Robot:\n    def __init__(self{}):\n        {}\n"
REFUSED = [
    (None, "Robot", UsageError, r"there is no task file .*robot\.py"),
    (None, None, UsageError, r"say which task of the file, .*robot\.py:NAME"),
    ("class Robot: pass\n", "Robbot", UsageError, r"unknown task in .* 'Robbot'; did you mean 'Robot'\?"),
    ("class Robot: pass\n", "Robot", FathomError, r"made a Robot, not a teacher\.tasks\.Task"),
    ("Robot = 3\n", "Robot", FathomError, r"is a int, not a class or a function"),
    ("x = 1\nx.y\n", "Robot", FathomError, r"AttributeError: .* \(line 2 of .*robot\.py\)"),
    ("raise SystemExit('usage')\n", "Robot", FathomError, r"cannot be executed: SystemExit: usage"),
    (ROBOT.format("", "raise OSError"), "Robot", FathomError, r"cannot be made: OSError: +\(line 3 of"),
    (ROBOT.format(", arm", "pass"), "Robot", FathomError, r"missing 1 required"),
    ("from teacher.tasks import MujocoTask as Robot\n", "Robot", FathomError, "abstract.*observe"),
]


@pytest.mark.parametrize(("text", "name", "kind", "told"), REFUSED)
def test_a_file_without_a_task_is_refused(tmp_path, text, name, kind, told):
    reference = str(tmp_path / "robot.py") + f":{name}" * (name is not None)
    if text is not None:
        written(tmp_path, text)
    with pytest.raises(kind, match=told) as refusal:
        make_task(reference)
    assert type(refusal.value) is kind


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """An installed package with a sound task, broken ones, and one of a name that is taken."""
    record = tmp_path / "own_robots-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: own-robots\nVersion: 1.0\n")
    points = {
        "puck": "own_robots:Puck",
        "misnamed": "own_robots:Puck",
        "absent": "own_robots:Nothing",
        "missing": "not_there.at_all:Puck",
        "reacher": "own_robots:Puck",
    }
    (record / "entry_points.txt").write_text(
        "[fathom.tasks]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    (tmp_path / "own_robots.py").write_text(PUCK)
    monkeypatch.syspath_prepend(tmp_path)


def test_installed_packages_bring_tasks_and_broken_ones_are_named(packages, capsys):
    assert {"puck", "absent", *TASKS} <= set(task_names())
    assert make_task("puck").spec.name == "puck"
    assert make_task("reacher").spec.action.kind == "joint_torque"
    found = catalogue.listed([], Display())
    assert {"puck", "reacher", "fr3_reach"} <= set(found)
    assert not {"absent", "missing", "misnamed"} & set(found)
    told = capsys.readouterr().err
    for sentence in (
        "task 'absent' of package own-robots cannot be loaded: AttributeError",
        "task 'missing' of package own-robots cannot be loaded: ModuleNotFoundError",
        "task 'misnamed' calls itself 'puck'",
        "task 'reacher' of package own-robots is out of reach",
    ):
        assert sentence in told
    with pytest.raises(UsageError, match=r"unknown task 'puk'; did you mean 'puck'\?"):
        make_task("puk")


# What is listed and measured


def test_tasks_are_described_for_machines(robot, pipeline, tmp_path):
    done = pipeline("tasks", "reacher", robot, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert listed.keys() == {"reacher", robot}
    assert TaskSpec.model_validate(listed[robot].pop("spec")) == make_task(robot).spec
    assert listed[robot] == {
        "engines": ["analytic"],
        "layouts": ["all"],
        "evaluation_layout": "all",
        "randomised": False,
        "description": "A puck without friction stops at a point.",
    }


def test_speed_is_measured_on_every_engine_and_failures_are_said(tmp_path, monkeypatch):
    analytic = catalogue.measure_engine(written(tmp_path, PUCK, "Puck"), "analytic", 8)
    assert analytic["environments"] == 8 and analytic["steps_per_s"] > 0 and analytic["compile_s"] > 0
    alone = catalogue.measure_engine("reacher", "mujoco", 8)
    assert alone["environments"] == 1 and "compile_s" not in alone

    def measure(task, engine, envs):
        if engine == "mujoco":
            raise FathomError("the simulation became unstable")
        return analytic

    monkeypatch.setattr(catalogue, "measure_engine", measure)
    figures = catalogue.measure({"reacher": make_task("reacher")}, 8, Display())["tasks"]["reacher"]
    failed = {"error": "the simulation became unstable"}
    assert figures == {"mjx": analytic, "brax": analytic, "mujoco": failed}


# What the documentation shows besides


def test_the_documented_observation_takes_what_a_state_holds():
    names: dict = {}
    exec(SEEING, names)
    ones, frames = np.ones((2, 7)), Frames(*(np.full((2, 1, size), 2.0) for size in (3, 4, 3, 3)))
    seen = names["Arm"].observe(None, State(ones, ones, ones, frames, frames, 3 * ones[:, :3]))
    np.testing.assert_array_equal(seen[1], [1] * 7 + [2] * 3 + [0] * 3 + [3] * 3)


def test_the_documented_environment_of_playground_is_a_task(tmp_path):
    pytest.importorskip("mujoco_playground")
    fish = simulation(written(tmp_path, FISH, "Fish"), "mujoco")
    start = fish.starts(jax.random.key(0), 2)
    swum = fish.rollout(lambda observation, goal: np.ones((len(goal), 5), np.float32), start)
    assert np.isfinite(swum.observation).all()
    assert np.ptp(swum.observation[..., 7:14], axis=0).max() > 0.5
