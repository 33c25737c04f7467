"""Episodes as pictures, drawn by MuJoCo: moving ones for the report, films, and its interactive viewer."""

import copy
import importlib.util
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from PIL import Image

from pipelines import graphics
from pipelines.files import read_json, write_bytes, write_text
from pipelines.rundir import PICTURES, RECORDING
from teacher.errors import FathomError, UsageError
from teacher.rollout import Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import MujocoTask, Task, achieved_goal, goal_distance

Array = np.ndarray
GEOM = mujoco.mjtGeom
SIZE, SMALL = (480, 360), (400, 300)  # pixels: width, height; of films, and of the report's pictures
FIELD_OF_VIEW = 45.0  # degrees, vertical
MARGIN = 1.08
SHOWN_GROUPS = 3  # geoms of higher groups are for collisions alone, by MuJoCo's convention
FRAMED = 100  # configurations that decide the camera
# Robots' radii up to which everything is shown at once: limbs have to be seen moving, a vehicle does not.
WHOLE, WHOLE_VEHICLE = 16.0, 60.0
REGION = 8.0  # robots' radii around a robot that is followed

GOAL_COLOUR, PATH_COLOUR = (0.05, 0.65, 0.3, 0.4), (0.85, 0.35, 0.05, 1.0)
GROUND_COLOUR, LINE_COLOUR, SKY_COLOUR = (0.80, 0.81, 0.82, 1), (0.62, 0.63, 0.65, 1), (0.70, 0.75, 0.80, 1)
GOAL_SHARE = 0.02  # of the camera's distance: the radius of a goal that is not measured in metres
PATH_PIECES, PATH_WIDTH = 150, 3.0  # pixels
GRID_LINES = 31  # along each axis
SUN = np.array([-0.32, 0.26, -0.91])  # direction of its light

FRAME_S, MOVING_FRAME_S = 0.04, 0.15  # for how long a frame is shown, of a film and of the report's pictures
LONGEST_S, LONGEST_MOVING_S = 24.0, 5.0  # a longer film, or episode in the report, runs faster than the clock
PAUSE_S = 1.0  # at an episode's end
OLD_STILLS = ("first.png", "last.png")  # beside recordings of before


class Episode(NamedTuple):
    """F frames, one a control period, up to the step at which the episode ended."""

    qpos: Array  # [F, nq]
    marker: Array  # [3] m: the goal
    path: Array  # [F, 3] m: the achieved goal
    distance: Array  # [F] to the goal, in its unit
    ended: bool  # before its time


class Recording(NamedTuple):
    """Episodes to look at, in the model of their task."""

    spec: TaskSpec
    model: mujoco.MjModel
    episodes: list[Episode]

    def caption(self, episode: Episode, frame: int) -> str:
        """Returns time, distance and whether that is at the goal."""
        goal, distance = self.spec.goal, episode.distance[frame]
        ended = episode.ended and frame == len(episode.qpos) - 1
        where = "ended early" if ended else "at the goal" if distance <= goal.success_radius else ""
        unit = "" if goal.unit == "1" else f" {goal.unit}"
        return f"{frame * self.spec.control_dt:.2f} s   distance {distance:.3g}{unit}   {where}".rstrip()

    def figures(self) -> dict[str, Any]:
        """Returns what the report says of the episodes, as JSON."""
        goal = self.spec.goal
        episodes = [{"distance": e.distance.round(4).tolist(), "ended": e.ended} for e in self.episodes]
        limits = {"success_radius": goal.success_radius, "unit": goal.unit}
        return {"control_dt": self.spec.control_dt, **limits, "episodes": episodes}


def record(task: Task, trajectories: Trajectories, goal: Array, count: int) -> Recording | None:
    """Returns the first `count` episodes, with goals [E, G]; None if the task has no model to draw."""
    if not isinstance(task, MujocoTask):
        return None
    # As the C engine has the model, if it has it.
    model = task.model(min(task.engines, key=lambda name: (name != "mujoco", name == "analytic")))
    episodes = []
    for i in range(min(count, len(goal))):
        sound = np.isfinite(trajectories.qpos[:, i]).all(-1)  # a simulation may leave the numbers
        active = trajectories.active[:, i]
        last = max(0, min(int(active.sum()), int(np.cumprod(sound).sum()) - 1))
        observation = trajectories.observation[: last + 1, i]
        path, marker = (
            np.asarray(task.marker(each)) for each in (achieved_goal(task.spec, observation), goal[i])
        )
        distance = np.asarray(goal_distance(task.spec, observation, goal[i]))
        episodes.append(Episode(trajectories.qpos[: last + 1, i], marker, path, distance, last < len(active)))
    return Recording(task.spec, model, episodes)


class View(NamedTuple):
    """From where to look at a recording, by MuJoCo's conventions."""

    target: Array  # [3] m
    distance: float  # from the target, m
    azimuth: float  # degrees
    elevation: float  # degrees; negative: from above
    robot: int  # the body that stands for it
    follow: bool  # the camera looks at the robot instead of at its target
    mobile: bool  # the robot can leave its place
    ground: float  # height of the floor, m

    def axes(self) -> Array:
        """Returns right, up and ahead in the world, [3, 3]."""
        azimuth, elevation = np.radians([self.azimuth, self.elevation])
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        ahead = np.array([*np.cos(elevation) * np.array([-right[1], right[0]]), np.sin(elevation)])
        return np.stack([right, np.cross(right, ahead), ahead])

    def place(self, camera: mujoco.MjvCamera) -> None:
        """Puts a camera there."""
        camera.lookat[:], camera.distance = self.target, self.distance
        camera.azimuth, camera.elevation = self.azimuth, self.elevation
        if self.follow:
            camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING.value, self.robot


def frame(recording: Recording, aspect: float = SIZE[0] / SIZE[1]) -> View:
    """Returns a view in which what happens fits into the picture.

    An arm is seen with its goals from near, a maze as a whole from above; a robot that is small in its
    surroundings is followed."""
    model, data = recording.model, mujoco.MjData(recording.model)
    robot = _robot(model)
    kinds = model.jnt_type[model.body_jntadr[robot] :][: model.body_jntnum[robot]]
    mobile = bool(np.isin(kinds, (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE)).any())
    plane = model.geom_type == GEOM.mjGEOM_PLANE
    shown = _shown(model) & ~plane
    moving = shown & (model.body_weldid[model.geom_bodyid] > 0)
    own = moving & (model.body_rootid[model.geom_bodyid] == robot)
    qpos = np.concatenate([episode.qpos for episode in recording.episodes])
    boxes, reach = [], 1e-3
    for configuration in qpos[_even(len(qpos), FRAMED)]:
        data.qpos[:] = configuration
        mujoco.mj_kinematics(model, data)
        turn = data.geom_xmat.reshape(-1, 3, 3)
        centre = data.geom_xpos + np.einsum("kij,kj->ki", turn, model.geom_aabb[:, :3])
        half = np.einsum("kij,kj->ki", np.abs(turn), model.geom_aabb[:, 3:])
        boxes.append(np.stack([centre - half, centre + half], axis=1))
        away = np.linalg.norm(data.geom_xpos - data.xpos[robot], axis=-1) + model.geom_rbound
        reach = max(reach, away[own].max(initial=0.0))
    markers = np.stack([episode.marker for episode in recording.episodes])
    radius = recording.spec.goal.success_radius if recording.spec.goal.unit == "m" else 0.0
    walls = boxes[0][shown & ~moving] if mobile else boxes[0][:0]
    goals = np.stack([markers - radius, markers + radius], axis=1)
    content = np.concatenate([*(box[moving] for box in boxes), goals, walls])
    low, high = content[:, 0].min(0), content[:, 1].max(0)
    vehicle = len(set(model.body_weldid[model.geom_bodyid[moving]])) <= 1
    follow = mobile and np.linalg.norm(high - low) / 2 > (WHOLE_VEHICLE if vehicle else WHOLE) * reach
    half = np.maximum((high - low) / 2, 1e-3)
    half = np.minimum(half, [REGION * reach, REGION * reach, reach]) if follow else half
    flatness = 1 - min(1.0, 2 * half[2] / max(half[:2]))
    floors = data.geom_xpos[plane & (data.geom_xmat[:, 8] > 0.99), 2]
    ground = float(floors.min(initial=np.inf)) if len(floors) else min(0.0, float(low[2]))
    azimuth = 165.0 if len(walls) else 130.0
    view = View((low + high) / 2, 0.0, azimuth, -(20 + 35 * flatness), robot, bool(follow), mobile, ground)
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    right, up, ahead = view.axes() @ corners.T
    slope = np.tan(np.radians(FIELD_OF_VIEW / 2))
    fitting = np.max([np.abs(up) / slope - ahead, np.abs(right) / (slope * aspect) - ahead])
    return view._replace(distance=float(MARGIN * fitting))


class Renderer:
    """Draws frames of one recording; from `rendering`."""

    def __init__(self, recording: Recording, size: tuple[int, int]):
        self._recording, self.size = recording, size
        self._view = view = frame(recording, size[0] / size[1])
        self._model = model = copy.copy(recording.model)
        self._data = mujoco.MjData(model)
        model.geom_matid[model.geom_type == GEOM.mjGEOM_PLANE] = -1  # patterns are for eyes that see no lines
        model.geom_rgba[model.geom_type == GEOM.mjGEOM_PLANE] = GROUND_COLOUR
        self._arm = Fr3.of(model)
        drawn = self._arm.model if self._arm else model  # the one whose meshes are known to the context
        drawn.vis.global_.offwidth, drawn.vis.global_.offheight = size
        drawn.vis.global_.fovy, drawn.vis.quality.offsamples = FIELD_OF_VIEW, 4
        drawn.vis.quality.shadowsize, drawn.vis.map.shadowclip = 1024, 3.0
        drawn.vis.headlight.ambient[:], drawn.vis.headlight.diffuse[:] = 0.45, 0.3
        drawn.vis.headlight.specular[:] = 0
        drawn.stat.extent = view.distance / 2  # what is nearer than 0.01 and farther than 50 of it is cut off
        self._scene = mujoco.MjvScene(drawn, 20_000)
        if self._arm:  # drawn once more for its shadow, meshes would take most of the time without a GPU
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW.value] = 0
        self._options, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        groups = {*range(SHOWN_GROUPS), *recording.model.geom_group[_shown(recording.model)]}
        self._options.geomgroup[:] = [group in groups for group in range(6)]
        view.place(self._camera)
        self._context = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        goal = recording.spec.goal
        self._radius = goal.success_radius if goal.unit == "m" else GOAL_SHARE * view.distance

    def free(self) -> None:
        self._context.free()

    def draw(self, number: int, step: int, note: str = "") -> Array:
        """Draws a frame of the numbered episode, [height, width, 3] bytes; the note stands in a corner."""
        episode, scene, camera = self._recording.episodes[number], self._scene, self._camera
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        self._data.qpos[:] = episode.qpos[step]
        mujoco.mj_fwdPosition(self._model, self._data)
        if self._arm:
            arm, data = self._arm.model, self._arm.at(self._data.qpos)
            mujoco.mjv_updateScene(arm, data, self._options, None, camera, everything, scene)
            mujoco.mjv_addGeoms(
                self._model, self._data, self._options, mujoco.MjvPerturb(), everything, scene
            )
        else:
            mujoco.mjv_updateScene(self._model, self._data, self._options, None, camera, everything, scene)
        self._light()
        self._add_surroundings()
        add_goal_and_path(scene, episode, step, self._radius)
        if self._view.mobile:  # a pole stands out above walls
            distance, half = self._view.distance, 0.06 * self._view.distance
            pole = np.array([*episode.marker[:2], self._view.ground + half])
            _add(
                scene, GEOM.mjGEOM_BOX, [2e-3 * distance, 2e-3 * distance, half], pole, (*GOAL_COLOUR[:3], 1)
            )
        area = mujoco.MjrRect(0, 0, *self.size)
        mujoco.mjr_render(area, scene, self._context)
        left, right = mujoco.mjtGridPos.mjGRID_TOPLEFT.value, mujoco.mjtGridPos.mjGRID_TOPRIGHT.value
        for corner, text in ((left, self._recording.caption(episode, step)), (right, note)):
            if text:
                font = mujoco.mjtFont.mjFONT_NORMAL.value
                mujoco.mjr_overlay(font, corner, area, text, "", self._context)
        pixels = np.empty((*self.size[::-1], 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, area, self._context)
        return pixels[::-1]

    def _light(self) -> None:
        """Sets a sun beside the camera's light, in place of the model's own lights."""
        self._scene.nlight = 2
        sun = self._scene.lights[1]
        sun.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL.value
        sun.headlight, sun.castshadow, sun.dir = 0, 1, SUN
        sun.pos = self._camera.lookat - self._view.distance * SUN
        sun.ambient, sun.diffuse, sun.specular = np.zeros(3), np.full(3, 0.5), np.full(3, 0.1)
        sun.attenuation, sun.cutoff, sun.exponent = (1, 0, 0), 180, 0

    def _add_surroundings(self) -> None:
        """Adds a sky, and a ground with lines by which motion is seen."""
        view, place, scene = self._view, self._camera.lookat, self._scene
        distance, axes = view.distance, view.axes()
        size = [40 * distance, 40 * distance, distance]
        behind = place + 20 * distance * axes[2]
        _add(scene, GEOM.mjGEOM_BOX, size, behind, SKY_COLOUR, emission=1.0, turn=axes.T)
        thickness = 5e-4 * distance
        under = np.array([*place[:2], view.ground - 2 * thickness])
        _add(scene, GEOM.mjGEOM_BOX, [20 * distance, 20 * distance, thickness], under, GROUND_COLOUR)
        power = 10.0 ** np.floor(np.log10(distance / 12))
        spacing = next(step * power for step in (1, 2, 5, 10) if step * power >= distance / 12)
        for i in range(GRID_LINES):
            across = (np.round(place[:2] / spacing) + i - GRID_LINES // 2) * spacing
            for axis in range(2):
                half, at = np.full(3, thickness), np.array([*place[:2], view.ground])
                half[1 - axis] = spacing * (GRID_LINES - 1) / 2
                at[axis] = across[axis]
                _add(scene, GEOM.mjGEOM_BOX, half, at, LINE_COLOUR)


class Fr3(NamedTuple):
    """A Franka Research 3 of the installed package franky-sim, with its meshes, in place of capsules."""

    model: mujoco.MjModel
    data: mujoco.MjData
    joints: list[tuple[int, int]]  # places of a joint in its qpos and in that of the task's model

    @classmethod
    def of(cls, model: mujoco.MjModel) -> "Fr3 | None":
        """Returns the arm of a task's model and hides its own; None if there is none or no package."""
        package = importlib.util.find_spec("franky_sim")
        own = {model.joint(i).name: int(model.jnt_qposadr[i]) for i in range(model.njnt)}
        if "fr3_joint1" not in own or model.nmesh or package is None or package.origin is None:
            return None
        file = Path(package.origin).with_name("assets") / "fr3.xml"
        if not file.is_file():
            return None
        spec = mujoco.MjSpec.from_file(str(file))
        spec.meshdir = str(file.with_name("meshes"))
        arm = spec.compile()
        names = {name.removeprefix("fr3_") if "finger" in name else name: at for name, at in own.items()}
        places = [
            (int(arm.jnt_qposadr[i]), names[arm.joint(i).name])
            for i in range(arm.njnt)
            if arm.joint(i).name in names
        ]
        if len(places) < arm.njnt:  # without a hand
            hand = [arm.body(i).name for i in arm.geom_bodyid]
            arm.geom_group[["hand" in name or "finger" in name for name in hand]] = SHOWN_GROUPS
        base = model.body_rootid[
            model.jnt_bodyid[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, "fr3_joint1")]
        ]
        model.geom_rgba[model.body_rootid[model.geom_bodyid] == base, 3] = 0
        return cls(arm, mujoco.MjData(arm), places)

    def at(self, qpos: Array) -> mujoco.MjData:
        for here, there in self.joints:
            self.data.qpos[here] = qpos[there]
        mujoco.mj_fwdPosition(self.model, self.data)
        return self.data


@contextmanager
def rendering(recording: Recording, size: tuple[int, int] = SIZE) -> Iterator[Renderer]:
    """Raises: NoGraphics where no picture can be drawn."""
    with graphics.context(*size):
        renderer = Renderer(recording, size)
        try:
            yield renderer
        finally:
            renderer.free()


def add_goal_and_path(scene: mujoco.MjvScene, episode: Episode, step: int, radius: float) -> None:
    """Adds a sphere at the goal, and the achieved goal's path up to a step."""
    _add(scene, GEOM.mjGEOM_SPHERE, [radius] * 3, episode.marker, GOAL_COLOUR, emission=0.3)
    for start, end in pairwise(episode.path[_even(step + 1, PATH_PIECES)]):
        drawn = _add(scene, GEOM.mjGEOM_LINE, np.zeros(3), start, PATH_COLOUR, emission=0.2)
        if drawn is not None:
            ends = np.asarray(start, float), np.asarray(end, float)
            mujoco.mjv_connector(drawn, GEOM.mjGEOM_LINE.value, PATH_WIDTH, *ends)


def keep(folder: Path, recording: Recording | None, say: Callable[[str], None], *, drawn: bool) -> None:
    """Writes what the report shows of a recording, in place of any from before: figures, and pictures if
    they are to be `drawn` and can be. Without a recording nothing is left."""
    for file in [folder / RECORDING, *folder.glob(PICTURES), *map(folder.joinpath, OLD_STILLS)]:
        file.unlink(missing_ok=True)
    if recording is None:
        return
    try:
        pictures = moving_pictures(recording) if drawn else []
    except graphics.NoGraphics as error:
        say(f"the report will be without pictures: {error}")
        pictures = []
    for number, picture in enumerate(pictures, 1):
        write_bytes(folder / PICTURES.replace("*", str(number)), picture)
    write_text(folder / RECORDING, json.dumps(recording.figures()))


def is_kept(folder: Path, *, drawn: bool) -> bool:
    """Whether the folder holds a recording that can be read, where the task can be `drawn`."""
    try:
        return not drawn or isinstance(read_json(folder / RECORDING), dict)
    except FathomError:
        return False


class Shot(NamedTuple):
    """A frame of a film."""

    episode: int
    step: int
    seconds: float  # for which it is shown


def shots(recording: Recording, frame_s: float, longest_s: float = LONGEST_S) -> tuple[list[Shot], int]:
    """Returns every episode's frames in order, and how much faster than the clock they run.

    Each is shown for `frame_s` seconds or little more; an episode's last frame is among them."""
    period = recording.spec.control_dt
    total = sum(len(episode.qpos) - 1 for episode in recording.episodes) * period
    speed = max(1, int(np.ceil(total / longest_s - 1e-9)))
    stride = max(1, int(np.ceil(speed * frame_s / period - 1e-9)))
    found = []
    for number, episode in enumerate(recording.episodes):
        last = len(episode.qpos) - 1
        found += [Shot(number, step, stride * period / speed) for step in range(0, last, stride)]
        found.append(Shot(number, last, max(PAUSE_S, stride * period / speed)))
    return found, speed


def moving_pictures(recording: Recording) -> list[bytes]:
    """Returns each episode as an animated WebP of some 50 kB; raises as `rendering` does."""
    found = []
    with rendering(recording, SMALL) as renderer:
        for number, episode in enumerate(recording.episodes):
            alone = recording._replace(episodes=[episode])
            planned, speed = shots(alone, MOVING_FRAME_S, LONGEST_MOVING_S)
            planned = [shot._replace(episode=number) for shot in planned]
            found.append(_animation(renderer, planned, speed, "webp", quality=60, method=2))
    return found


def write_gif(file: Path, recording: Recording) -> None:
    """Writes all episodes one after the other; raises as `rendering` does."""
    with rendering(recording) as renderer:
        write_bytes(file, _animation(renderer, *shots(recording, 2 * FRAME_S), "gif", optimize=False))


def write_mp4(file: Path, recording: Recording) -> None:
    """Raises: UsageError where PyAV is not installed; NoGraphics where no picture can be drawn."""
    require_mp4()
    av: Any = importlib.import_module("av")
    planned, speed = shots(recording, FRAME_S)
    frame_s = min(shot.seconds for shot in planned)
    rate = Fraction(1 / frame_s).limit_denominator(1000)
    with rendering(recording) as renderer, av.open(str(file), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = renderer.size
        for shot in planned:
            pixels = np.ascontiguousarray(renderer.draw(shot.episode, shot.step, _note(speed)))
            for _ in range(round(shot.seconds / frame_s)):  # all frames of a film are of one length
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def require_mp4() -> None:
    """Raises: UsageError where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise UsageError("MP4 needs PyAV: pip install 'fathom-rl[video]', or take a .gif or .html")


def require_display() -> None:
    """Raises: FathomError where no window can be opened."""
    if not graphics.has_display():
        raise FathomError(
            "--live opens a window, and there is no display here: leave it out for a film and a page"
        )


def show_live(recording: Recording) -> None:
    """Plays the episodes in MuJoCo's viewer, by the clock and again, until its window is closed."""
    require_display()
    from mujoco import viewer  # needs a display

    data, view = mujoco.MjData(recording.model), frame(recording)
    goal = recording.spec.goal
    radius = goal.success_radius if goal.unit == "m" else GOAL_SHARE * view.distance
    with viewer.launch_passive(recording.model, data, show_left_ui=False, show_right_ui=False) as window:
        view.place(window.cam)
        while window.is_running():
            for episode in recording.episodes:
                for step, qpos in enumerate(episode.qpos):
                    if not window.is_running():
                        return
                    begun = time.monotonic()
                    with window.lock():
                        data.qpos[:] = qpos
                        mujoco.mj_forward(recording.model, data)
                        window.user_scn.ngeom = 0
                        add_goal_and_path(window.user_scn, episode, step, radius)
                    window.sync()
                    time.sleep(max(0.0, begun + recording.spec.control_dt - time.monotonic()))


def _animation(renderer: Renderer, planned: list[Shot], speed: int, kind: str, **options: Any) -> bytes:
    images = [Image.fromarray(renderer.draw(shot.episode, shot.step, _note(speed))) for shot in planned]
    if kind == "gif":  # an octree errs by a little everywhere, the usual median cut by much in small things
        octree, plain = Image.Quantize.FASTOCTREE, Image.Dither.NONE
        images = [image.quantize(256, octree, dither=plain) for image in images]
    clock = np.round(100 * np.cumsum([0.0, *(shot.seconds for shot in planned)]))
    milliseconds = (10 * np.maximum(2, np.diff(clock))).astype(int).tolist()  # a GIF counts in tens of them
    stream = io.BytesIO()
    images[0].save(
        stream, kind, save_all=True, append_images=images[1:], duration=milliseconds, loop=0, **options
    )
    return stream.getvalue()


def _note(speed: int) -> str:
    return f"{speed} x" if speed > 1 else ""


def _robot(model: mujoco.MjModel) -> int:
    """Returns the body that stands for the robot: the base of what the first actuator moves."""
    moved = next(iter(np.flatnonzero(model.body_weldid > 0)), 0)
    if model.nu:
        kind, number = mujoco.mjtTrn(model.actuator_trntype[0]), model.actuator_trnid[0, 0]
        if kind in (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT):
            moved = model.jnt_bodyid[number]
        elif kind == mujoco.mjtTrn.mjTRN_SITE:
            moved = model.site_bodyid[number]
        elif kind == mujoco.mjtTrn.mjTRN_BODY:
            moved = number
    return int(model.body_rootid[moved])


def _shown(model: mujoco.MjModel) -> Array:
    """Returns which geoms are to be seen; those for collisions too where there are no others."""
    visible = model.geom_rgba[:, 3] > 0
    drawn = visible & (model.geom_group < SHOWN_GROUPS)
    return drawn if drawn.any() else visible


def _even(length: int, count: int) -> Array:
    """Returns at most `count` of the numbers 0 to length - 1, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(int))


def _add(
    scene: mujoco.MjvScene,
    kind: mujoco.mjtGeom,
    size: Array | Sequence[float],
    at: Array,
    colour: Sequence[float],
    emission: float = 0.0,
    turn: Array | None = None,
) -> mujoco.MjvGeom | None:
    """Adds one more shape to the scene; None where it is full."""
    if scene.ngeom >= scene.maxgeom:
        return None
    drawn = scene.geoms[scene.ngeom]
    matrix = np.eye(3) if turn is None else turn
    numbers = np.asarray(size, float), np.asarray(at, float), matrix.ravel(), np.asarray(colour, np.float32)
    mujoco.mjv_initGeom(drawn, kind.value, *numbers)
    drawn.emission, drawn.category = emission, mujoco.mjtCatBit.mjCAT_DECOR.value
    scene.ngeom += 1
    return drawn
