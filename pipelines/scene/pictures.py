"""Pictures of footage, drawn by MuJoCo's renderer without a display."""

import copy
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import mujoco
import numpy as np
from PIL import Image

from pipelines.scene import graphics
from pipelines.scene.footage import Episode, Footage
from pipelines.scene.framing import FIELD_OF_VIEW, grid_spacing
from pipelines.scene.shapes import GEOM, SHOWN_GROUPS, Array

SIZE = (480, 360)  # pixels: width, height
GOAL_COLOUR = (0.1, 0.75, 0.35, 0.35)
PATH_COLOUR = (0.85, 0.35, 0.05, 1.0)
GROUND_COLOUR, LINE_COLOUR = (0.62, 0.63, 0.65, 1.0), (0.42, 0.43, 0.46, 1.0)
SKY_COLOUR = (0.66, 0.67, 0.69, 1.0)
PATH_PIECES, PATH_WIDTH = 150, 3.0  # pixels
POLE = 0.12  # height over the camera's distance
GRID_LINES = 31  # along each axis
MAX_SHAPES = 20_000
SHADOW_SIZE = 1024  # texels
UPRIGHT = np.eye(3)
SUN = (-0.32, 0.26, -0.91)  # its direction


class Artist:
    """Draws frames of one footage; from `drawing`."""

    def __init__(self, shown: Footage, size: tuple[int, int]):
        self._shown, self.size = shown, size
        model = self._model = copy.copy(shown.scene.model)
        camera = shown.camera
        model.vis.global_.offwidth, model.vis.global_.offheight = size
        model.vis.global_.fovy = FIELD_OF_VIEW
        model.vis.headlight.active = 1
        model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = 0.45, 0.3
        model.vis.headlight.specular[:] = 0
        # The sun's shadows reach over three extents, beyond what a picture shows of the ground nearby.
        model.vis.quality.shadowsize, model.vis.map.shadowclip = SHADOW_SIZE, 3.0
        if shown.scene.floor is not None:  # patterns are for eyes that see no lines
            model.geom_matid[shown.scene.floor] = -1
            model.geom_rgba[shown.scene.floor] = GROUND_COLOUR
            model.geom_size[shown.scene.floor, :2] = 0  # endless
        # What is nearer than 0.01 and farther than 50 of these is cut off.
        model.stat.extent = camera.distance / 2
        self._data = mujoco.MjData(model)
        self._scene = mujoco.MjvScene(model, MAX_SHAPES)
        self._options, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._options.geomgroup[:] = [group < SHOWN_GROUPS for group in range(len(self._options.geomgroup))]
        if (model.geom_group[shown.scene.geoms] >= SHOWN_GROUPS).any():
            self._options.geomgroup[:] = 1
        self._camera.distance, self._camera.azimuth = camera.distance, camera.azimuth
        self._camera.elevation = camera.elevation
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def free(self) -> None:
        self._context.free()

    def draw(self, episode: Episode, frame: int, note: str = "") -> Array:
        """-> [height, width, 3] bytes; the note stands in a corner."""
        model, data, scene = self._model, self._data, self._scene
        data.qpos[:] = episode.qpos[frame]
        mujoco.mj_fwdPosition(model, data)
        followed = self._shown.camera.follow
        self._camera.lookat[:] = episode.view[frame] if followed else self._shown.camera.target
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, everything, scene)
        self._light()
        self._add_surroundings()
        self._add_path(episode.path[: frame + 1])
        self._add_goal(episode.marker)
        width, height = self.size
        area = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(area, scene, self._context)
        font, corner = mujoco.mjtFont.mjFONT_NORMAL.value, mujoco.mjtGridPos.mjGRID_TOPLEFT.value
        mujoco.mjr_overlay(font, corner, area, self._shown.caption(episode, frame), "", self._context)
        if note:
            corner = mujoco.mjtGridPos.mjGRID_TOPRIGHT.value
            mujoco.mjr_overlay(font, corner, area, note, "", self._context)
        pixels = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, area, self._context)
        return pixels[::-1]

    def _light(self) -> None:
        """The sun beside the camera's light, in place of the model's own lights."""
        scene, distance = self._scene, self._shown.camera.distance
        scene.nlight = 2
        sun = scene.lights[1]
        sun.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL.value
        sun.headlight, sun.castshadow = 0, 1
        sun.dir = SUN
        sun.pos = self._camera.lookat - distance * np.asarray(SUN)
        sun.ambient, sun.diffuse, sun.specular = np.zeros(3), np.full(3, 0.5), np.full(3, 0.1)
        sun.attenuation, sun.cutoff, sun.exponent = (1, 0, 0), 180, 0

    def _add_surroundings(self) -> None:
        """A sky, and a ground with lines where the model has none."""
        camera, place = self._shown.camera, self._camera.lookat
        distance, axes = camera.distance, camera.axes()
        size = [40 * distance, 40 * distance, distance]
        self._add(
            GEOM.mjGEOM_BOX, size, place + 20 * distance * axes[2], SKY_COLOUR, emission=1.0, turn=axes.T
        )
        height = self._shown.ground
        if self._shown.scene.floor is None:
            size = [20 * distance, 20 * distance, 1e-3 * distance]
            self._add(GEOM.mjGEOM_BOX, size, np.array([*place[:2], height - size[2]]), GROUND_COLOUR)
        spacing = grid_spacing(distance)
        reach, thickness = spacing * (GRID_LINES - 1) / 2, 5e-4 * distance
        for i in range(GRID_LINES):
            across = (np.round(place[:2] / spacing) + i - GRID_LINES // 2) * spacing
            for axis in range(2):
                half, at = np.full(3, thickness), np.array([*place[:2], height])
                half[1 - axis], half[2], at[axis] = reach, thickness / 4, across[axis]
                self._add(GEOM.mjGEOM_BOX, half, at, LINE_COLOUR)

    def _add_goal(self, at: Array) -> None:
        """A sphere; among walls, with a pole that stands out above them."""
        radius, distance = self._shown.radius, self._shown.camera.distance
        self._add(GEOM.mjGEOM_SPHERE, [radius] * 3, at, GOAL_COLOUR, emission=0.3)
        if self._shown.scene.mobile:
            half = POLE * distance / 2
            size = [2e-3 * distance, 2e-3 * distance, half]
            pole = np.array([at[0], at[1], self._shown.ground + half])
            self._add(GEOM.mjGEOM_BOX, size, pole, (*GOAL_COLOUR[:3], 1.0), emission=0.5)

    def _add_path(self, path: Array) -> None:
        points = path[np.unique(np.linspace(0, len(path) - 1, min(len(path), PATH_PIECES)).astype(int))]
        for start, end in pairwise(points):
            drawn = self._add(GEOM.mjGEOM_LINE, np.zeros(3), start, PATH_COLOUR, emission=0.2)
            if drawn is not None:
                ends = np.asarray(start, float), np.asarray(end, float)
                mujoco.mjv_connector(drawn, GEOM.mjGEOM_LINE.value, PATH_WIDTH, *ends)

    def _add(
        self,
        kind: mujoco.mjtGeom,
        size: Array | Sequence[float],
        at: Array,
        colour: Sequence[float],
        emission: float = 0.0,
        turn: Array = UPRIGHT,
    ) -> mujoco.MjvGeom | None:
        """One more shape in the scene; None where it is full."""
        scene = self._scene
        if scene.ngeom >= scene.maxgeom:
            return None
        drawn = scene.geoms[scene.ngeom]
        numbers = np.asarray(size, float), np.asarray(at, float), turn.ravel(), np.asarray(colour, np.float32)
        mujoco.mjv_initGeom(drawn, kind.value, *numbers)
        drawn.emission = emission
        drawn.category = mujoco.mjtCatBit.mjCAT_DECOR.value
        scene.ngeom += 1
        return drawn


@contextmanager
def drawing(shown: Footage, size: tuple[int, int] = SIZE) -> Iterator[Artist]:
    """Raises: NoGraphics where no picture can be drawn."""
    with graphics.context(*size):
        artist = Artist(shown, size)
        try:
            yield artist
        finally:
            artist.free()


def stills(shown: Footage) -> tuple[bytes, bytes]:
    """The first and the last frame of the first episode, as PNG; raises as `drawing` does."""
    episode = shown.episodes[0]
    with drawing(shown) as artist:
        return _png(artist.draw(episode, 0)), _png(artist.draw(episode, len(episode.qpos) - 1))


def shared_palette(pictures: Sequence[Array]) -> Image.Image:
    """256 colours for all pictures; those of small things count for more than their share, or the goal
    would fade."""
    fine = np.concatenate([picture.reshape(-1, 3) for picture in pictures]).astype(np.uint32)
    found, counts = np.unique(fine @ np.array([1 << 16, 1 << 8, 1], np.uint32), return_counts=True)
    found = np.repeat(found, np.sqrt(counts).astype(int))
    colours = np.stack([found >> 16, found >> 8, found], axis=-1).astype(np.uint8)
    # An octree errs by a little everywhere, the usual median cut by much where colours are crowded.
    return Image.fromarray(colours[None]).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def indexed(pixels: Array, palette: Image.Image) -> Image.Image:
    """Pixels [height, width, 3] as a picture of the palette's colours."""
    return Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE)


def _png(pixels: Array) -> bytes:
    stream = io.BytesIO()
    indexed(pixels, shared_palette([pixels])).save(stream, "png", optimize=True)
    return stream.getvalue()
