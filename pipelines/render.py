"""Episodes as pictures, drawn by MuJoCo: moving ones for the report, films, and its interactive viewer."""

import copy
import importlib.util
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from PIL import Image

from pipelines import graphics
from pipelines.files import read_json, write_bytes, write_text
from pipelines.rundir import PICTURES, RECORDING
from teacher.errors import FathomError
from teacher.rollout import Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import MujocoTask, Task, achieved_goal, goal_distance

Array = np.ndarray
Draw = Callable[..., Array]
GEOM = mujoco.mjtGeom
SIZE, SMALL = (
    (480, 360),
    (400, 300),
)  # pixels: width, height; of films, and of the report's pictures; all are 4:3
FIELD_OF_VIEW = 45.0  # degrees, vertical
MARGIN = 1.08
SHOWN_GROUPS = 3  # geoms of higher groups are for collisions alone, by MuJoCo's convention
FRAMED = 100  # configurations that decide the camera
# Robots' radii up to which everything is shown at once: limbs have to be seen moving, a vehicle does not.
WHOLE, WHOLE_VEHICLE = 16.0, 60.0
REGION = 8.0  # robots' radii around a robot that is followed

GOAL_COLOUR, PATH_COLOUR = (0.05, 0.65, 0.3, 0.25), (0.85, 0.35, 0.05, 1.0)
GROUND_COLOUR, LINE_COLOUR, SKY_COLOUR = (0.80, 0.81, 0.82, 1), (0.62, 0.63, 0.65, 1), (0.70, 0.75, 0.80, 1)
GOAL_SHARE = 0.02  # of the camera's distance: the radius of a goal that is not measured in metres
AXES_COLOURS = ((0.8, 0.2, 0.2, 1), (0.2, 0.6, 0.2, 1), (0.2, 0.3, 0.8, 1))  # x, y and z of a pose
AXIS = 2.0  # their length, in radii of the goal
PATH_PIECES, PATH_WIDTH = 150, 3.0  # pixels
GRID_LINES = 31  # along each axis
SUN = np.array([-0.32, 0.26, -0.91])  # direction of its light

FRAME_S, MOVING_FRAME_S = 0.04, 0.15  # for how long a frame is shown, of a film and of the report's pictures
LONGEST_S, LONGEST_MOVING_S = 24.0, 5.0  # a longer film, or episode in the report, runs faster than the clock
PAUSE_S = 1.0  # at an episode's end


class Episode(NamedTuple):
    """F frames, one a control period, up to the step at which the episode ended."""

    qpos: Array  # [F, nq]
    marker: Array  # [3] m: the goal
    path: Array  # [F, 3] m: the achieved goal
    distance: Array  # [F] to the goal, in its unit
    ended: bool  # before its time
    # Of poses the axes as columns, of the goal and of what was achieved: three, or a planar pose's heading.
    turns: Array | None = None  # [1 + F, 3, 3 or 1]


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

    def goal_radius(self, view: "View") -> float:
        """Returns how large a goal is drawn, m."""
        goal = self.spec.goal
        return goal.success_radius if goal.unit == "m" else GOAL_SHARE * view.camera.distance

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
        achieved = achieved_goal(task.spec, observation)
        path, marker = (np.asarray(task.marker(each)) for each in (achieved, goal[i]))
        distance = np.asarray(goal_distance(task.spec, observation, goal[i]))
        stated, turns = task.spec.goal, None
        if stated.lever is not None:
            turns = np.vstack([goal[i], achieved])[:, stated.movable :] / stated.lever
            planar = stated.movable == 2
            turns = np.insert(turns, 2, 0, 1)[..., None] if planar else turns.reshape(-1, 3, 3) * 2**0.5
        qpos = trajectories.qpos[: last + 1, i]
        episodes.append(Episode(qpos, marker, path, distance, last < len(active), turns))
    return Recording(task.spec, model, episodes)


class View(NamedTuple):
    """From where to look at a recording."""

    camera: mujoco.MjvCamera
    mobile: bool  # the robot can leave its place
    ground: float  # height of the floor, m


def frame(recording: Recording) -> View:
    """Returns a view in which what happens fits into the picture.

    An arm is seen with its goals from near, a maze as a whole from above; a robot that is small in its
    surroundings is followed."""
    model, data = recording.model, mujoco.MjData(recording.model)
    # The robot is the heaviest thing that moves; it can leave its place by the joints of its base.
    roots = np.unique(model.body_rootid[model.body_weldid > 0])
    robot = int(max(roots, key=lambda body: model.body_subtreemass[body], default=0))
    kinds = model.jnt_type[model.jnt_bodyid == robot]
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
    ground = float(floors.min()) if len(floors) else min(0.0, float(low[2]))
    camera = mujoco.MjvCamera()
    camera.lookat, camera.azimuth = (low + high) / 2, 165 if len(walls) else 130
    camera.elevation = -(20 + 35 * flatness)
    if follow:
        camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING.value, robot
    # Right, up and ahead in the world; the farthest away that any corner needs.
    azimuth, elevation = np.radians([camera.azimuth, camera.elevation])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    ahead = np.array([*np.cos(elevation) * np.array([-right[1], right[0]]), np.sin(elevation)])
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    across, over, deep = np.stack([right, np.cross(right, ahead), ahead]) @ corners.T
    slope = np.tan(np.radians(FIELD_OF_VIEW / 2))
    camera.distance = MARGIN * np.max(
        [np.abs(over) / slope - deep, np.abs(across) / (slope * SIZE[0] / SIZE[1]) - deep]
    )
    return View(camera, mobile, ground)


@contextmanager
def rendering(recording: Recording, size: tuple[int, int] = SIZE) -> Iterator[Draw]:
    """Gives a function that draws a step of a numbered episode, with its caption in a corner, and how much
    faster than the clock it runs, if it does.

    It returns [height, width, 3] bytes. Raises: NoGraphics where no picture can be drawn."""
    view, model = frame(recording), copy.copy(recording.model)
    data, area = mujoco.MjData(model), mujoco.MjrRect(0, 0, *size)
    everything = mujoco.mjtCatBit.mjCAT_ALL.value
    planes = model.geom_type == GEOM.mjGEOM_PLANE
    model.geom_matid[planes], model.geom_rgba[planes] = -1, GROUND_COLOUR  # patterns hide the lines on it
    arm = Fr3.of(model)
    drawn = arm.model if arm else model  # the one whose meshes are known to the context
    drawn.vis.global_.offwidth, drawn.vis.global_.offheight = size
    drawn.vis.global_.fovy, drawn.vis.quality.offsamples = FIELD_OF_VIEW, 4
    drawn.vis.quality.shadowsize, drawn.vis.map.shadowclip = 1024, 3.0
    drawn.vis.headlight.ambient[:], drawn.vis.headlight.diffuse[:] = 0.45, 0.3
    drawn.vis.headlight.specular[:] = 0
    # What is nearer than 0.01 and farther than 50 of it is cut off.
    drawn.stat.extent = view.camera.distance / 2
    scene, options = mujoco.MjvScene(drawn, 20_000), mujoco.MjvOption()
    scene.flags[mujoco.mjtRndFlag.mjRND_CULL_FACE.value] = 0  # the sky is seen from within
    if arm:  # drawn once more for its shadow, meshes would take most of the time without a GPU
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW.value] = 0
    groups = {*range(SHOWN_GROUPS), *recording.model.geom_group[_shown(recording.model)]}
    options.geomgroup[:] = [group in groups for group in range(6)]

    def draw(number: int, step: int, speed: int = 1) -> Array:
        episode = recording.episodes[number]
        data.qpos[:] = episode.qpos[step]
        mujoco.mj_fwdPosition(model, data)
        first = (arm.model, arm.at(data.qpos)) if arm else (model, data)
        mujoco.mjv_updateScene(*first, options, None, view.camera, everything, scene)
        if arm:
            mujoco.mjv_addGeoms(model, data, options, mujoco.MjvPerturb(), everything, scene)
        _add_surroundings(scene, view)
        add_goal_and_path(scene, episode, step, recording.goal_radius(view))
        if view.mobile:  # a pole stands out above walls
            half, thin = 0.06 * view.camera.distance, 2e-3 * view.camera.distance
            pole = np.array([*episode.marker[:2], view.ground + half])
            _add(scene, GEOM.mjGEOM_BOX, [thin, thin, half], pole, (*GOAL_COLOUR[:3], 1))
        mujoco.mjr_render(area, scene, context)
        text = recording.caption(episode, step) + (f"   {speed} x" if speed > 1 else "")
        corner = mujoco.mjtGridPos.mjGRID_TOPLEFT.value
        mujoco.mjr_overlay(mujoco.mjtFont.mjFONT_NORMAL.value, corner, area, text, "", context)
        pixels = np.empty((*size[::-1], 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, area, context)
        return pixels[::-1]

    with graphics.context(*size):
        context = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
        try:
            yield draw
        finally:
            context.free()


def _add_surroundings(scene: mujoco.MjvScene, view: View) -> None:
    """Adds a sun in place of the model's lights, a sky, and a ground with lines by which motion is seen."""
    place, distance, box = view.camera.lookat, view.camera.distance, GEOM.mjGEOM_BOX
    scene.nlight, sun = 2, scene.lights[1]  # beside the camera's own
    sun.type, sun.headlight, sun.castshadow = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL.value, 0, 1
    sun.dir, sun.pos = SUN, place - distance * SUN
    sun.ambient, sun.diffuse, sun.specular = np.zeros(3), np.full(3, 0.5), np.full(3, 0.1)
    sun.attenuation, sun.cutoff, sun.exponent = (1, 0, 0), 180, 0
    _add(scene, GEOM.mjGEOM_SPHERE, [18 * distance] * 3, place, SKY_COLOUR, emission=1.0)
    thin = 5e-4 * distance
    under = np.array([*place[:2], view.ground - 2 * thin])
    _add(scene, box, [20 * distance, 20 * distance, thin], under, GROUND_COLOUR)
    spacing = 2.0 ** np.ceil(np.log2(distance / 12))
    for line in (np.arange(GRID_LINES) - GRID_LINES // 2) * spacing:
        for axis in range(2):
            half, at = np.full(3, thin), np.array([*place[:2], view.ground])
            half[1 - axis] = spacing * GRID_LINES / 2
            at[axis] = np.round(place[axis] / spacing) * spacing + line
            _add(scene, box, half, at, LINE_COLOUR)


class Fr3(NamedTuple):
    """A Franka Research 3 of the installed package franky-sim, with its meshes, in place of capsules."""

    model: mujoco.MjModel
    data: mujoco.MjData
    joints: dict[int, int]  # a joint's place in its qpos: in that of the task's model

    @classmethod
    def of(cls, model: mujoco.MjModel) -> "Fr3 | None":
        """Returns the arm of a task's model and hides its own; None if there is none or no package."""
        package = importlib.util.find_spec("franky_sim")
        own = {model.joint(i).name: i for i in range(model.njnt)}
        if "fr3_joint1" not in own or model.nmesh or package is None or package.origin is None:
            return None
        file = Path(package.origin).with_name("assets") / "fr3.xml"
        spec = mujoco.MjSpec.from_file(str(file))
        spec.meshdir = str(file.with_name("meshes"))
        arm = spec.compile()
        names = {name.removeprefix("fr3_") if "finger" in name else name: i for name, i in own.items()}
        pairs = ((i, names.get(arm.joint(i).name)) for i in range(arm.njnt))
        joints = {int(arm.jnt_qposadr[i]): int(model.jnt_qposadr[j]) for i, j in pairs if j is not None}
        if len(joints) < arm.njnt:  # without a hand
            hand = [arm.body(i).name for i in arm.geom_bodyid]
            arm.geom_group[["hand" in name or "finger" in name for name in hand]] = SHOWN_GROUPS
        base = model.body_rootid[model.jnt_bodyid[own["fr3_joint1"]]]
        model.geom_rgba[model.body_rootid[model.geom_bodyid] == base, 3] = 0
        return cls(arm, mujoco.MjData(arm), joints)

    def at(self, qpos: Array) -> mujoco.MjData:
        self.data.qpos[list(self.joints)] = qpos[list(self.joints.values())]
        mujoco.mj_fwdPosition(self.model, self.data)
        return self.data


def add_goal_and_path(scene: mujoco.MjvScene, episode: Episode, step: int, radius: float) -> None:
    """Adds a sphere at the goal, the achieved goal's path up to a step, and of poses the axes of both."""
    _add(scene, GEOM.mjGEOM_SPHERE, [radius] * 3, episode.marker, GOAL_COLOUR, emission=0.3)
    if episode.turns is not None:
        for place, turn in ((episode.marker, 0), (episode.path[step], 1 + step)):
            for axis, colour in zip(episode.turns[turn].T, AXES_COLOURS, strict=False):
                tip = place + 2 * AXIS * radius * axis  # half of which MuJoCo draws
                _connect(scene, GEOM.mjGEOM_ARROW, 0.1 * radius, place, tip, colour)
    for ends in pairwise(episode.path[_even(step + 1, PATH_PIECES)]):
        _connect(scene, GEOM.mjGEOM_LINE, PATH_WIDTH, *ends, PATH_COLOUR)


def keep(folder: Path, recording: Recording | None, say: Callable[[str], None], *, drawn: bool) -> None:
    """Writes what the report shows of a recording, in place of any from before: figures, and pictures if
    they are to be `drawn` and can be. Without a recording nothing is left."""
    for file in [folder / RECORDING, *folder.glob(PICTURES)]:
        file.unlink(missing_ok=True)
    if recording is None:
        return
    try:
        for number, picture in enumerate(moving_pictures(recording) if drawn else [], 1):
            write_bytes(folder / PICTURES.replace("*", str(number)), picture)
    except graphics.NoGraphics as error:
        say(f"the report will be without pictures: {error}")
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
    speed: int  # how much faster than the clock the film runs
    seconds: float  # for which it is shown


def shots(
    recording: Recording, numbers: Sequence[int], frame_s: float, longest_s: float = LONGEST_S
) -> list[Shot]:
    """Returns frames of these episodes in order.

    Each is shown for `frame_s` seconds or little more; an episode's last frame is among them."""
    period, found = recording.spec.control_dt, []
    lasts = {number: len(recording.episodes[number].qpos) - 1 for number in numbers}
    speed = max(1, int(np.ceil(sum(lasts.values()) * period / longest_s - 1e-9)))
    stride = max(1, int(np.ceil(speed * frame_s / period - 1e-9)))
    shown_s = stride * period / speed
    for number, last in lasts.items():
        found += [Shot(number, step, speed, shown_s) for step in range(0, last, stride)]
        found.append(Shot(number, last, speed, max(PAUSE_S, shown_s)))
    return found


def moving_pictures(recording: Recording) -> list[bytes]:
    """Returns each episode as an animated WebP of some 50 kB; raises as `rendering` does."""
    planned = [
        shots(recording, [i], MOVING_FRAME_S, LONGEST_MOVING_S) for i in range(len(recording.episodes))
    ]
    with rendering(recording, SMALL) as draw:
        return [_animation(draw, each, "webp", quality=60, method=2) for each in planned]


def write_gif(file: Path, recording: Recording) -> None:
    """Writes all episodes one after the other; raises as `rendering` does."""
    planned = shots(recording, range(len(recording.episodes)), 2 * FRAME_S)
    with rendering(recording) as draw:
        write_bytes(file, _animation(draw, planned, "gif", optimize=False))


def _animation(draw: Draw, planned: list[Shot], kind: str, **options: Any) -> bytes:
    images = [Image.fromarray(draw(*shot[:3])) for shot in planned]
    if kind == "gif":  # an octree errs by a little everywhere, the usual median cut by much in small things
        octree, plain = Image.Quantize.FASTOCTREE, Image.Dither.NONE
        images = [image.quantize(256, octree, dither=plain) for image in images]
    clock = np.round(100 * np.cumsum([0.0, *(shot.seconds for shot in planned)]))
    milliseconds = (10 * np.maximum(2, np.diff(clock))).astype(int).tolist()  # a GIF counts in tens of them
    first, *rest = images
    stream = io.BytesIO()
    first.save(stream, kind, save_all=True, append_images=rest, duration=milliseconds, loop=0, **options)
    return stream.getvalue()


def write_mp4(file: Path, recording: Recording) -> None:
    """Needs PyAV; raises as `rendering` does."""
    av: Any = importlib.import_module("av")
    planned = shots(recording, range(len(recording.episodes)), FRAME_S)
    frame_s = min(shot.seconds for shot in planned)
    rate = Fraction(1 / frame_s).limit_denominator(1000)
    with rendering(recording) as draw, av.open(str(file), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = SIZE
        for shot in planned:
            pixels = np.ascontiguousarray(draw(*shot[:3]))
            for _ in range(round(shot.seconds / frame_s)):  # all frames of a film are of one length
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def show_live(recording: Recording) -> None:
    """Plays the episodes in MuJoCo's viewer, by the clock and again, until its window is closed."""
    from mujoco import viewer  # needs a display

    data, view = mujoco.MjData(recording.model), frame(recording)
    steps = [(episode, step) for episode in recording.episodes for step in range(len(episode.qpos))]
    with viewer.launch_passive(recording.model, data, show_left_ui=False, show_right_ui=False) as window:
        for name in ("type", "trackbodyid", "lookat", "distance", "azimuth", "elevation"):
            setattr(window.cam, name, getattr(view.camera, name))
        for episode, step in cycle(steps):
            if not window.is_running():
                return
            begun = time.monotonic()
            with window.lock():
                data.qpos[:] = episode.qpos[step]
                mujoco.mj_forward(recording.model, data)
                window.user_scn.ngeom = 0
                add_goal_and_path(window.user_scn, episode, step, recording.goal_radius(view))
            window.sync()
            time.sleep(max(0.0, begun + recording.spec.control_dt - time.monotonic()))


def _shown(model: mujoco.MjModel) -> Array:
    """Returns which geoms are to be seen; those for collisions too where there are no others."""
    visible = model.geom_rgba[:, 3] > 0
    drawn = visible & (model.geom_group < SHOWN_GROUPS)
    return drawn if drawn.any() else visible


def _even(length: int, count: int) -> Array:
    """Returns at most `count` of the numbers 0 to length - 1, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(int))


def _add(
    scene: mujoco.MjvScene, kind: mujoco.mjtGeom, size: Any, at: Any, colour: Any, emission: float = 0.0
) -> mujoco.MjvGeom:
    """Adds one more shape to the scene."""
    drawn, shape = scene.geoms[scene.ngeom], (np.asarray(size, float), np.asarray(at, float))
    mujoco.mjv_initGeom(drawn, kind.value, *shape, np.eye(3).ravel(), np.asarray(colour, np.float32))
    drawn.emission, drawn.category = emission, mujoco.mjtCatBit.mjCAT_DECOR.value
    scene.ngeom += 1
    return drawn


def _connect(
    scene: mujoco.MjvScene, kind: mujoco.mjtGeom, width: float, start: Array, end: Array, colour: Any
) -> None:
    """Adds an arrow or a line between two points."""
    drawn = _add(scene, kind, np.zeros(3), start, colour, emission=0.2)
    mujoco.mjv_connector(drawn, kind.value, width, start.astype(float), end.astype(float))
