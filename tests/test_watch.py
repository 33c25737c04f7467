"""Seeing episodes: what is recorded, how it is framed, and the pictures made of it."""

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from PIL import Image

from pipelines import closed_loop, graphics, render, watch
from pipelines.config import Config, with_values
from pipelines.progress import Display
from pipelines.rundir import RECORDING, Run, create_run
from teacher.errors import FathomError, UsageError
from teacher.rollout import Trajectories
from teacher.tasks import State, make_task

FREE = mujoco.mjtCamera.mjCAMERA_FREE
PROBE = f"{Path(__file__).with_name('probes.py')}:Aim"  # without a model
GOALS = {"fr3_reach": [0.4, 0.2, 0.5], "wheel_maze": [1.5, 1.0], "ant": [2.0, 0.0]}


def trajectories(task, *, steps=8, episodes=2, ended=None):
    """Made-up episodes that begin at the home pose; those with `ended` steps stand still from there on."""
    model, generator = task.model("mujoco"), np.random.default_rng(0)
    home = np.zeros(model.nq)
    home[: len(task.spec.joints.default)] = task.spec.joints.default
    moves = 0.02 * generator.normal(size=(steps, episodes, model.nq)).cumsum(0)
    qpos = np.concatenate([np.zeros((1, episodes, model.nq)), moves]) + home
    active = np.ones((steps, episodes), bool)
    if ended is not None:
        active[ended:] = False
        qpos[ended + 1 :] = qpos[ended]
    state = State(qpos, np.zeros((*qpos.shape[:2], model.nv)), np.zeros((*qpos.shape[:2], model.nu)))
    action = np.zeros((steps, episodes, task.spec.action_size))
    return Trajectories(qpos, task.observe(state), action, active)


def recorded(name, goal=None, **changes) -> render.Recording:
    task, goal = make_task(name), np.array([goal or GOALS[name]] * changes.get("episodes", 2))
    found = render.record(task, trajectories(task, **changes), goal, len(goal))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def gl():
    try:
        return graphics.library()
    except graphics.NoGraphics as error:
        pytest.skip(str(error))


# What is recorded


def test_what_is_recorded_is_where_the_robot_was_and_how_far_from_its_goal():
    found = recorded("fr3_reach", steps=20)
    for episode in found.episodes:
        assert len(episode.qpos) == len(episode.path) == len(episode.distance) == 21 and not episode.ended
        np.testing.assert_allclose(episode.marker, GOALS["fr3_reach"])
        away = np.linalg.norm(episode.path - episode.marker, axis=-1)
        np.testing.assert_allclose(episode.distance, away, rtol=1e-5)
    figures = json.loads(json.dumps(found.figures()))
    assert figures["control_dt"] == found.spec.control_dt and figures["success_radius"] == 0.05
    np.testing.assert_allclose(figures["episodes"][1]["distance"], found.episodes[1].distance, atol=1e-4)


def test_an_episode_stops_where_it_ended_or_left_the_numbers():
    found = recorded("fr3_reach", ended=3)
    assert [len(episode.qpos) for episode in found.episodes] == [4, 4]
    assert found.caption(found.episodes[0], 3).endswith("ended early")
    task = make_task("fr3_reach")
    diverged = trajectories(task)
    diverged.qpos[5:, 1] = np.nan
    found = render.record(task, diverged, np.array([GOALS["fr3_reach"]] * 2), 2)
    assert [len(episode.qpos) for episode in found.episodes] == [9, 5]
    assert "NaN" not in json.dumps(found.figures())


# How it is framed


def inside(view, points) -> np.ndarray:
    """Which points a picture shows, by MuJoCo's meaning of a camera's angles."""
    camera = view.camera
    a, e = np.radians([camera.azimuth, camera.elevation])
    ahead = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([np.sin(a), -np.cos(a), 0])
    away = points - (camera.lookat - camera.distance * ahead)
    slope, depth = np.tan(np.radians(render.FIELD_OF_VIEW / 2)), away @ ahead
    across, over = np.abs(away @ right), np.abs(away @ np.cross(right, ahead))
    return (over < slope * depth) & (across < slope * depth * render.SIZE[0] / render.SIZE[1])


def test_an_arm_and_its_goal_fill_the_picture_and_a_maze_is_seen_from_above():
    found = recorded("fr3_reach")
    view, data, points = render.frame(found), mujoco.MjData(found.model), [found.episodes[0].marker[None]]
    for qpos in found.episodes[0].qpos:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(found.model, data)
        points.append(data.geom_xpos.copy())
    assert inside(view, np.concatenate(points)).all()
    assert view.camera.distance < 3 and view.camera.type == FREE and not view.mobile
    view = render.frame(recorded("wheel_maze"))
    corners = np.array([(0.0, 0.0, 0.0), (*make_task("wheel_maze").maze.extent, 0.0)])
    assert inside(view, corners).all()
    assert view.camera.elevation < -45 and view.camera.type == FREE and view.mobile


def test_a_robot_that_is_small_in_its_surroundings_is_followed():
    far, near = (render.frame(recorded("ant", [x, 0.0])) for x in (200.0, 2.0))
    assert far.camera.type == mujoco.mjtCamera.mjCAMERA_TRACKING and far.camera.distance < 60
    assert near.camera.type == FREE and near.camera.distance < 10 and near.ground == 0.0


# Pictures


@pytest.mark.parametrize(
    ("control_dt", "steps", "seconds", "speed"),
    [(0.02, 100, 0.04, 1), (0.05, 1000, 0.04, 5), (1.0, 3, 1.0, 1)],
)
def test_films_run_by_the_clock_unless_they_are_long(control_dt, steps, seconds, speed):
    episode = SimpleNamespace(qpos=np.zeros((steps + 1, 1)))
    found = SimpleNamespace(spec=SimpleNamespace(control_dt=control_dt), episodes=[episode] * 2)
    planned = render.shots(found, [0, 1], 0.04)
    assert {shot.speed for shot in planned} == {speed}
    assert planned[0].step == 0 and planned[-1].step == steps and planned[-1].episode == 1
    assert planned[0].seconds == pytest.approx(seconds)
    assert planned[1].step * control_dt == pytest.approx(seconds * speed)


def frames_of(file) -> list[np.ndarray]:
    with Image.open(file) as image:
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"), dtype=int))
    return frames


def test_gif_shows_every_planned_frame(gl, tmp_path):
    found = recorded("wheel_maze")
    render.write_gif(tmp_path / "maze.gif", found)
    frames = frames_of(tmp_path / "maze.gif")
    assert len(frames) == len(render.shots(found, [0, 1], 2 * render.FRAME_S)) == 18
    assert min(frame.std() for frame in frames) > 10
    assert np.abs(frames[0] - frames[8]).max() > 50  # it moves
    red, green, blue = np.moveaxis(frames[0], -1, 0)
    assert ((green > red + 40) & (green > blue + 20)).sum() > 30  # the goal


def test_mp4_shows_every_planned_frame(gl, tmp_path):
    av = pytest.importorskip("av")
    render.write_mp4(tmp_path / "maze.mp4", recorded("wheel_maze", episodes=1))
    with av.open(str(tmp_path / "maze.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert frames[0].std() > 10
    assert len(frames) == 8 + round(render.PAUSE_S / make_task("wheel_maze").spec.control_dt)


def test_an_arm_of_an_installed_package_stands_where_the_task_s_own_does(gl):
    pytest.importorskip("franky_sim")
    found = recorded("fr3_reach", episodes=1)
    arm, data = render.Fr3.of(found.model), mujoco.MjData(found.model)
    data.qpos[:] = found.episodes[0].qpos[-1]
    mujoco.mj_kinematics(found.model, data)
    seen = arm.at(data.qpos)
    for number in range(1, 8):  # where the joints' axes are
        joint = f"fr3_joint{number}"
        np.testing.assert_allclose(seen.joint(joint).xanchor, data.joint(joint).xanchor, atol=2e-3)
        np.testing.assert_allclose(seen.joint(joint).xaxis, data.joint(joint).xaxis, atol=1e-3)
    assert render.Fr3.of(recorded("wheel_maze").model) is None


def test_pictures_are_kept_beside_the_recording(gl, tmp_path):
    (tmp_path / "episode-7.webp").write_bytes(b"of before")
    render.keep(tmp_path, recorded("fr3_reach", steps=12), pytest.fail, drawn=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["episode-1.webp", "episode-2.webp", RECORDING]
    frames = frames_of(tmp_path / "episode-1.webp")
    assert frames[0].shape == (300, 400, 3) and len(frames) >= 5 and frames[0].std() > 10
    render.keep(tmp_path, None, pytest.fail, drawn=True)
    assert not list(tmp_path.iterdir())


def test_without_graphics_the_recording_is_kept_and_the_lack_is_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(graphics, "library", graphics.library.__wrapped__)
    monkeypatch.setattr(graphics, "candidates", lambda: ("nowhere",))
    render.keep(tmp_path, recorded("wheel_maze", episodes=1), said.append, drawn=True)
    assert [file.name for file in tmp_path.iterdir()] == [RECORDING]
    assert "libegl1" in said[0]
    monkeypatch.undo()
    monkeypatch.setenv(graphics.VARIABLE, "osmesa")  # the user's choice
    assert graphics.candidates() == ("osmesa",)
    monkeypatch.setenv(graphics.VARIABLE, "off")
    with pytest.raises(graphics.NoGraphics, match="MUJOCO_GL=off"):
        graphics.library.__wrapped__()


def test_a_window_plays_the_episodes_by_the_clock_until_it_is_closed(monkeypatch):
    """A stand-in for MuJoCo's viewer: it needs a display."""
    found, shown = recorded("wheel_maze", episodes=1), []

    class Window(contextlib.nullcontext):
        cam, user_scn, lock = mujoco.MjvCamera(), mujoco.MjvScene(found.model, 100), contextlib.nullcontext

        def __init__(self, model, data, **_):
            super().__init__(self)
            self.data = data

        def is_running(self):
            return len(shown) < 11

        def sync(self):
            shown.append(self.data.qpos.copy())
            assert self.user_scn.ngeom >= 1  # the goal

    monkeypatch.setitem(sys.modules, "mujoco.viewer", SimpleNamespace(launch_passive=Window))
    monkeypatch.setattr(mujoco, "viewer", sys.modules["mujoco.viewer"], raising=False)
    render.show_live(found)
    np.testing.assert_allclose(shown[:9], found.episodes[0].qpos)
    np.testing.assert_allclose(shown[9:], found.episodes[0].qpos[:2])  # again


# The command


def subject(folder, task="fr3_reach"):
    settings = with_values(Config(), [f"task.name={task}"])
    return watch.Subject("still", lambda *seen: None, settings.teacher, settings.control, folder)


def test_what_cannot_be_watched_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"found suffix '\.avi', allowed: \.gif, \.mp4, \.html"):
        watch.require_possible(tmp_path / "a.avi")
    with pytest.raises(UsageError, match="--live shows a window and --out writes a file"):
        watch.require_possible(tmp_path / "a.gif", live=True)
    monkeypatch.setattr(watch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"fathom-rl\[video\]"):
        watch.require_possible(tmp_path / "a.mp4")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FathomError, match="there is no display here"):
        watch.require_possible(None, live=True)
    with pytest.raises(UsageError, match="no MuJoCo model: there is nothing to draw"):
        watch.watch(subject(tmp_path, PROBE), Display())
    assert render.record(make_task(PROBE), None, np.zeros((1, 2)), 1) is None
    with pytest.raises(UsageError, match=r"unknown engine.*'brax'"):
        watch.watch(subject(tmp_path), Display(), engine="brax")
    run = create_run(tmp_path / "run", Config(), "debug", 0)
    with pytest.raises(UsageError, match=r"unknown policy.*'2x9'"):
        watch.of_run(run, "2x9")
    with pytest.raises(FathomError, match="first comes pipeline teacher"):
        watch.of_run(run, None)


def test_command_draws_a_run_s_teacher_and_its_selected_student(debug_run, pipeline, gl, tmp_path):
    selected = closed_loop.selected_bundle(Run(debug_run.path))
    out, page = tmp_path / "student.gif", tmp_path / "teacher.html"
    done = pipeline("watch", selected, "--episodes", 1, "--out", out, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.split() == [str(out)], done.stderr
    assert len(frames_of(out)) > 10
    asked = ("--policy", "teacher", "--episodes", 2, "--seed", 3, "--out", page, "--json")
    done = pipeline("watch", debug_run.path, *asked, cwd=tmp_path)
    assert json.loads(done.stdout) == {"written": [str(page)]}
    done = pipeline("watch", selected, "--policy", "teacher", cwd=tmp_path)
    assert done.returncode == 2 and "is for runs" in done.stderr
