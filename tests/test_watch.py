"""Seeing episodes: what of a model is recorded, how it is framed, and the films made of it."""

import json
import re
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from PIL import Image
from pipelines.scene import film, graphics
from pipelines.scene.footage import MAX_FRAMES, Footage, footage, recording
from pipelines.scene.framing import ASPECT, FIELD_OF_VIEW, followed, framed
from pipelines.scene.keeping import keep
from pipelines.scene.shapes import MAX_FACES, Mesh, Scene, reduced

from pipelines import stages, watching
from pipelines.config import Config, with_values
from pipelines.progress import Display
from pipelines.report.page import watch_page
from pipelines.rundir import RECORDING, STILLS, create_run
from teacher.errors import FathomError, UsageError
from teacher.simulation import Trajectories
from teacher.tasks import State, make_task

GOALS = {"fr3_reach": [0.4, 0.2, 0.5], "wheel_maze": [1.5, 1.0]}


def trajectories(task, goal, *, steps=8, episodes=2, ended=None, seed=0):
    """Made-up episodes that begin at the home pose; those with `ended` steps stand still from there on."""
    model, generator = Scene.of(task).model, np.random.default_rng(seed)
    home = np.zeros(model.nq)
    home[: len(task.spec.joints.default)] = task.spec.joints.default
    moves = 0.02 * generator.normal(size=(steps, episodes, model.nq)).cumsum(0)
    qpos = np.concatenate([np.zeros((1, episodes, model.nq)), moves]) + home
    going = np.ones((steps, episodes), bool)
    if ended is not None:
        going[ended:] = False
        qpos[ended + 1 :] = qpos[ended]
    state = State(qpos, np.zeros((*qpos.shape[:2], model.nv)), np.zeros((*qpos.shape[:2], model.nu)))
    action = np.zeros((steps, episodes, task.spec.action_size))
    return Trajectories(qpos, task.observe(state), action, going)


def seen(name, **changes) -> Footage:
    task, goal = make_task(name), np.array([GOALS[name]] * changes.get("episodes", 2))
    shown = footage(task, trajectories(task, goal, **changes), goal, len(goal))
    assert shown is not None
    return shown


@pytest.fixture(scope="module")
def gl():
    try:
        return graphics.library()
    except graphics.NoGraphics as error:
        pytest.skip(str(error))


@pytest.fixture
def no_gl(monkeypatch):
    """A machine whose OpenGL libraries cannot be loaded."""
    monkeypatch.setattr(graphics, "candidates", lambda: ("nowhere",))
    graphics.library.cache_clear()
    yield
    graphics.library.cache_clear()


def workshop():
    """A model with everything that is awkward: welded bodies, meshes, a height field, hidden shapes."""
    spec = mujoco.MjSpec()
    spec.add_material(name="paint", rgba=[0.1, 0.2, 0.3, 1])
    rough = np.random.default_rng(0).normal(size=(5000, 3))
    spec.add_mesh(name="rough", uservert=(rough / np.linalg.norm(rough, axis=1)[:, None]).ravel())
    spec.add_hfield(name="hill", size=[1, 2, 0.5, 0.1], nrow=3, ncol=4, userdata=np.linspace(0, 1, 12))
    world, kinds = spec.worldbody, mujoco.mjtGeom
    world.add_geom(name="floor", type=kinds.mjGEOM_PLANE, size=[0, 0, 1], pos=[0, 0, -0.5])
    world.add_geom(type=kinds.mjGEOM_HFIELD, hfieldname="hill", pos=[3, 0, 0])
    base = world.add_body(pos=[0, 0, 1], quat=[0.6, 0.8, 0, 0])
    base.add_freejoint()
    base.add_geom(type=kinds.mjGEOM_BOX, size=[0.1, 0.2, 0.3], pos=[0.1, 0, 0], quat=[0.8, 0, 0.6, 0])
    base.add_geom(type=kinds.mjGEOM_SPHERE, size=[1, 0, 0], group=3)
    welded = base.add_body(pos=[0.3, 0.1, 0], quat=[0.5, 0.5, 0.5, 0.5])
    welded.add_geom(type=kinds.mjGEOM_MESH, meshname="rough", material="paint")
    arm = welded.add_body(pos=[0, 0, 0.4])
    arm.add_joint(name="elbow", axis=[0, 1, 0])
    arm.add_geom(type=kinds.mjGEOM_CAPSULE, size=[0.05, 0.2, 0], rgba=[1, 0, 0, 0.5])
    spec.add_actuator(name="elbow", trntype=mujoco.mjtTrn.mjTRN_JOINT, target="elbow")
    return Scene(spec.compile())


# What is recorded


@pytest.mark.parametrize("name", ["fr3_reach", "wheel_maze", "workshop"])
def test_shapes_stand_where_mujoco_has_them(name):
    scene = workshop() if name == "workshop" else Scene.of(make_task(name))
    model, data = scene.model, mujoco.MjData(scene.model)
    data.qpos[:] += 0.3
    mujoco.mj_forward(model, data)
    (poses,) = scene.poses(data.qpos[None])
    shapes, _ = scene.shapes()
    geoms = [geom for geom in scene.geoms if geom != scene.floor]
    assert len(shapes) == len(geoms) > 0
    for shape, geom in zip(shapes, geoms, strict=True):
        pose = np.array([0, 0, 0, 1, 0, 0, 0]) if shape["body"] is None else poses[shape["body"]]
        place, turn = np.zeros(3), np.zeros(4)
        mujoco.mju_rotVecQuat(place, np.array(shape["position"]), pose[3:])
        mujoco.mju_mulQuat(turn, pose[3:], np.array(shape["quaternion"]))
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, turn)
        np.testing.assert_allclose(place + pose[:3], data.geom_xpos[geom], atol=2e-4)
        np.testing.assert_allclose(matrix, data.geom_xmat[geom], atol=5e-4)


def test_what_is_seen_is_what_mujoco_shows():
    scene = workshop()
    shapes, meshes = scene.shapes()
    assert [shape["kind"] for shape in shapes] == ["mesh", "box", "mesh", "capsule"]  # no sphere of group 3
    assert shapes[0]["body"] is None and shapes[1]["body"] == shapes[2]["body"] != shapes[3]["body"]
    assert shapes[2]["colour"] == [0.1, 0.2, 0.3, 1.0] and shapes[3]["colour"] == [1.0, 0.0, 0.0, 0.5]
    hill = np.array(meshes[0]["vertices"]).reshape(-1, 3)
    np.testing.assert_allclose([hill.min(0), hill.max(0)], [[-1, -2, 0], [1, 2, 0.5]], atol=1e-3)
    assert scene.mobile and scene.floor == 0 and not Scene.of(make_task("fr3_reach")).mobile


def test_a_large_mesh_is_made_small_and_keeps_its_extent():
    generator = np.random.default_rng(0)
    corners = generator.uniform(-1, 1, size=(3000, 3))
    mesh = Mesh(corners, generator.integers(0, len(corners), size=(9000, 3)))
    small = reduced(mesh, 500)
    assert 12 < len(small.faces) <= 500
    assert small.faces.max() < len(small.vertices)
    np.testing.assert_allclose(small.vertices.min(0), mesh.vertices.min(0), atol=0.7)
    assert reduced(mesh, MAX_FACES) is mesh


def test_a_model_without_shapes_is_no_error():
    spec = mujoco.MjSpec()
    spec.worldbody.add_body(name="point", mass=1, inertia=[1, 1, 1], explicitinertial=True).add_freejoint()
    scene = Scene(spec.compile())
    assert scene.shapes() == ([], [])
    assert np.isfinite(framed(scene, scene.model.qpos0[None], np.zeros((1, 3)), 0.1).distance)


def test_long_episodes_are_thinned_and_keep_both_ends():
    shown = seen("fr3_reach", steps=1000)
    written = recording(shown)
    for episode, full in zip(written["episodes"], shown.episodes, strict=True):
        steps = episode["steps"]
        assert len(steps) <= MAX_FRAMES and steps[0] == 0 and steps[-1] == 1000
        assert {len(episode[key]) for key in ("poses", "path", "distance", "view")} == {len(steps)}
        np.testing.assert_allclose(episode["path"][-1], full.path[-1], atol=1e-4)
        poses = shown.scene.poses(full.qpos[-1:]).ravel()
        np.testing.assert_allclose(episode["poses"][-1], poses, atol=1e-4)


def test_a_recording_of_many_bodies_stays_small():
    task = make_task("humanoid")
    goal = np.tile(np.array([3.0, 0.0, 1.25], np.float32), (4, 1))
    shown = footage(task, trajectories(task, goal, steps=1000, episodes=4), goal, 4)
    assert shown is not None and len(shown.scene.bodies) > 8
    assert len(json.dumps(recording(shown))) < 4e6


def test_an_episode_stops_where_it_ended():
    shown = seen("fr3_reach", ended=3)
    assert [len(episode.qpos) for episode in shown.episodes] == [4, 4]
    assert shown.caption(shown.episodes[0], 3).endswith("ended early")
    assert recording(shown)["episodes"][0]["ended"]
    assert not seen("fr3_reach").episodes[0].ended


def test_frames_that_left_the_numbers_are_not_shown():
    task, goal = make_task("fr3_reach"), np.array([GOALS["fr3_reach"]] * 2)
    found = trajectories(task, goal)
    found.qpos[5:, 1] = np.nan
    shown = footage(task, found, goal, 2)
    assert [len(episode.qpos) for episode in shown.episodes] == [9, 5]
    assert "NaN" not in json.dumps(recording(shown))


# How it is framed


def inside(camera, points) -> np.ndarray:
    right, up, ahead = camera.axes() @ (points - camera.target).T
    slope = np.tan(np.radians(FIELD_OF_VIEW / 2))
    depth = camera.distance + ahead
    return (np.abs(up) < slope * depth) & (np.abs(right) < slope * ASPECT * depth)


def test_an_arm_and_its_goal_fill_the_picture():
    shown = seen("fr3_reach")
    points = np.concatenate([shown.scene.at(qpos).geom_xpos for qpos in shown.episodes[0].qpos])
    assert inside(shown.camera, points).all() and inside(shown.camera, shown.episodes[0].marker[None]).all()
    assert shown.camera.distance < 3 and not shown.camera.follow


def test_a_vehicle_is_seen_with_its_whole_maze_from_above():
    shown = seen("wheel_maze")
    corners = np.array([(0.0, 0.0, 0.0), (*make_task("wheel_maze").maze.extent, 0.0)])
    assert inside(shown.camera, corners).all()
    assert shown.camera.elevation < -45 and not shown.camera.follow


def test_a_robot_that_is_small_in_its_surroundings_is_followed():
    scene = workshop()
    goal = np.array([[200.0, 0.0, 0.0]])
    far = framed(scene, scene.model.qpos0[None], goal, 0.5)
    assert far.follow and far.distance < 60
    assert not framed(scene, scene.model.qpos0[None], goal / 100, 0.5).follow


def test_a_camera_that_follows_does_not_rock():
    path = np.stack([np.arange(100) * 0.1, 0.2 * (-1.0) ** np.arange(100), np.ones(100)], axis=1)
    smooth = followed(path, control_dt=0.05)
    assert smooth.shape == path.shape
    np.testing.assert_allclose(smooth[20:-20, 0], path[20:-20, 0])
    assert np.abs(smooth[20:-20, 1]).max() < 0.03


# Page and films


def test_page_holds_goal_and_walls_and_refers_to_nothing_outside():
    shown = seen("wheel_maze")
    source = watch_page("wheel_maze", "teacher", recording(shown), [b"png"])
    data = json.loads(re.search(r'id="recording">(.*?)</script>', source)[1])
    walls = [shape for shape in data["shapes"] if shape["kind"] == "box" and shape["body"] is None]
    assert len(walls) == len(make_task("wheel_maze").maze.boxes)
    assert data["episodes"][0]["marker"][:2] == GOALS["wheel_maze"] and data["marker_radius"] == 0.1
    assert not re.search(r"https?://|@import|<link|src=\"(?!data:)", source)
    assert source.count("<img") == 1


@pytest.mark.parametrize(
    ("control_dt", "steps", "seconds", "speed"),
    [(0.02, 100, 0.04, 1), (0.05, 100, 0.05, 1), (0.05, 1000, 0.04, 5), (1.0, 3, 1.0, 1)],
)
def test_films_run_by_the_clock_unless_they_are_long(control_dt, steps, seconds, speed):
    episode = SimpleNamespace(qpos=np.zeros((steps + 1, 1)))
    shown = SimpleNamespace(spec=SimpleNamespace(control_dt=control_dt), episodes=[episode] * 2)
    planned, found = film.shots(shown)
    assert found == speed
    assert planned[0].frame == 0 and planned[-1].frame == steps
    assert planned[0].seconds == pytest.approx(seconds)
    assert planned[1].frame * control_dt == pytest.approx(seconds * speed)


def test_gif_shows_every_planned_frame(gl, tmp_path):
    shown = seen("fr3_reach")
    film.write_gif(tmp_path / "arm.gif", shown)
    with Image.open(tmp_path / "arm.gif") as image:
        assert image.n_frames == len(film.shots(shown)[0]) == 18
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"), dtype=int))
    assert min(frame.std() for frame in frames) > 10
    assert np.abs(frames[0] - frames[8]).max() > 50  # it moves
    red, green, blue = np.moveaxis(frames[0], -1, 0)
    assert ((green > red + 40) & (green > blue + 20)).sum() > 100  # the goal


def test_mp4_shows_every_planned_frame(gl, tmp_path):
    av = pytest.importorskip("av")
    shown = seen("fr3_reach", episodes=1)
    film.write_mp4(tmp_path / "arm.mp4", shown)
    with av.open(str(tmp_path / "arm.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 8 + round(film.PAUSE_S / 0.05)
    assert frames[0].std() > 10


def test_stills_are_kept_beside_the_recording(gl, tmp_path):
    keep(tmp_path, seen("fr3_reach", episodes=1), pytest.fail)
    for name in STILLS:
        with Image.open(tmp_path / name) as image:
            assert image.size == (480, 360)
    keep(tmp_path, None, pytest.fail)
    assert not list(tmp_path.iterdir())


def test_without_graphics_the_recording_is_kept_and_the_lack_is_told(no_gl, tmp_path):
    said = []
    keep(tmp_path, seen("fr3_reach", episodes=1), said.append)
    assert [file.name for file in tmp_path.iterdir()] == [RECORDING]
    assert "libegl1" in said[0]


def test_the_user_s_choice_of_a_library_is_kept(monkeypatch):
    monkeypatch.setenv(graphics.VARIABLE, "osmesa")
    assert graphics.candidates() == ("osmesa",)
    monkeypatch.setenv(graphics.VARIABLE, "off")
    with pytest.raises(graphics.NoGraphics, match="MUJOCO_GL=off"):
        graphics.library.__wrapped__()


# The command


def subject(folder, task="fr3_reach"):
    settings = with_values(Config(), [f"task.name={task}"])
    size = make_task(task).spec.action_size

    def still(observation, goal, sensed):
        return np.zeros((len(goal), size), np.float32)

    return watching.Subject("still", still, settings.teacher, settings.control, folder)


def test_watching_without_graphics_still_writes_the_page(no_gl, tmp_path):
    (page,) = watching.watch(subject(tmp_path / "watch"), Display(), episodes=1)
    assert page == tmp_path / "watch" / "still.html"
    assert "<canvas" in page.read_text("utf-8") and "<img" not in page.read_text("utf-8")
    with pytest.raises(graphics.NoGraphics, match=r"libegl1.*--out FILE\.html"):
        watching.watch(subject(tmp_path), Display(), episodes=1, out=tmp_path / "a.gif")


def test_what_cannot_be_watched_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"found suffix '\.avi', allowed: \.gif, \.mp4, \.html"):
        watching.require_suffix(tmp_path / "a.avi")
    monkeypatch.setattr(film.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"fathom-rl\[video\]"):
        watching.require_suffix(tmp_path / "a.mp4")
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"unknown engine.*'brax'"):
        watching.watch(subject(tmp_path), Display(), engine="brax")
    run = create_run(tmp_path / "run", Config(), "debug", 0)
    with pytest.raises(UsageError, match=r"unknown policy.*'2x9'"):
        watching.of_run(run, "2x9")
    with pytest.raises(FathomError, match="first comes pipeline teacher"):
        watching.of_run(run, None)


def test_a_task_without_a_model_has_nothing_to_draw(tmp_path):
    probe = tmp_path / "probe.py"
    probe.write_text(
        "from teacher.tasks import AnalyticTask\n"
        "from teacher.tasks.wheel_maze import WheelMaze\n"
        "class Probe(AnalyticTask):\n"
        "    engines, name = ('analytic',), 'probe'\n"
        "    spec, start, observe = WheelMaze.spec, WheelMaze.start, WheelMaze.observe\n"
        "    _ends = WheelMaze._ends\n"
        "    control, advance, maze = WheelMaze.control, WheelMaze.advance, WheelMaze.maze\n"
    )
    name = f"{probe}:Probe"
    with pytest.raises(UsageError, match="no MuJoCo model: there is nothing to draw"):
        watching.watch(subject(tmp_path, name), Display())
    assert footage(make_task(name), None, np.zeros((1, 2)), 1) is None


def test_command_draws_a_run_s_teacher_and_its_selected_student(debug_run, pipeline, gl, tmp_path):
    selected = stages.selected_bundle(watching.Run(debug_run.path))
    out = tmp_path / "student.gif"
    done = pipeline("watch", selected, "--episodes", 1, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out)]
    with Image.open(out) as image:
        assert image.n_frames > 10
    page = tmp_path / "teacher.html"
    asked = ("--policy", "teacher", "--episodes", 2, "--seed", 3, "--out", page, "--json")
    done = pipeline("watch", debug_run.path, *asked, cwd=tmp_path)
    assert json.loads(done.stdout) == {"written": [str(page)]}
    done = pipeline("watch", selected, "--policy", "teacher", cwd=tmp_path)
    assert done.returncode == 2 and "is for runs" in done.stderr
