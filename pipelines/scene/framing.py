"""From where to look at a scene, so that what happens fits into the picture."""

from typing import NamedTuple

import numpy as np

from pipelines.scene.shapes import GEOM, Array, Scene

FIELD_OF_VIEW = 45.0  # degrees, vertical
ASPECT = 4 / 3  # width over height
MARGIN = 1.08
REGION = 8.0  # robots' radii around a robot that is followed
# Robots' radii up to which everything is shown at once: limbs have to be seen moving, a vehicle does not.
WHOLE, WHOLE_VEHICLE = 16.0, 60.0
SMOOTHING_S = 1.0  # a camera that follows does not rock with the robot


class Camera(NamedTuple):
    """A view, by MuJoCo's conventions; one that follows looks at the robot instead of at its target."""

    target: Array  # [3] in metres
    distance: float  # from the target, in metres
    azimuth: float  # degrees
    elevation: float  # degrees; negative: from above
    follow: bool

    def axes(self) -> Array:
        """[3, 3]: right, up and ahead in the world."""
        azimuth, elevation = np.radians([self.azimuth, self.elevation])
        flat = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        ahead = np.cos(elevation) * flat + np.array([0.0, 0.0, np.sin(elevation)])
        right = np.array([flat[1], -flat[0], 0.0])
        return np.stack([right, np.cross(right, ahead), ahead])


def framed(scene: Scene, qpos: Array, markers: Array, radius: float) -> Camera:
    """A camera for these configurations [F, nq] and goals [E, 3], shown as spheres of `radius` m.

    An arm is seen with its goals from near, a maze as a whole from above; a robot that is small in its
    surroundings is followed."""
    boxes = [_boxes(scene, configuration) for configuration in qpos]
    moving = scene.carriers > 0
    walls = ~moving & (scene.model.geom_type[scene.geoms] != GEOM.mjGEOM_PLANE)
    parts = [box[moving] for box in boxes] + [np.stack([markers - radius, markers + radius], axis=1)]
    if scene.mobile:
        parts.append(boxes[0][walls])
    content = np.concatenate(parts)
    low, high = content[:, 0].min(0), content[:, 1].max(0)
    robot = max(_reach(scene, configuration) for configuration in qpos)
    limit = WHOLE if len(scene.bodies) > 1 else WHOLE_VEHICLE
    follow = scene.mobile and float(np.linalg.norm(high - low)) / 2 > limit * robot
    centre, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-3)
    if follow:
        half = np.minimum(half, [REGION * robot, REGION * robot, robot])
    flatness = 1 - min(1.0, 2 * half[2] / max(half[:2]))
    camera = Camera(
        target=centre,
        distance=0.0,
        azimuth=165.0 if scene.mobile and walls.any() else 130.0,
        elevation=-(20 + 35 * flatness),
        follow=follow,
    )
    return camera._replace(distance=MARGIN * _fitting(camera, half))


def ground(scene: Scene, qpos: Array) -> float:
    """Height of the floor in metres; where the model has none, that of the origin, or of what is lowest."""
    if scene.floor is not None:
        return float(scene.at(qpos[0]).geom_xpos[scene.floor, 2])
    return min(0.0, *(float(_boxes(scene, configuration)[:, 0, 2].min()) for configuration in qpos))


def grid_spacing(distance: float) -> float:
    """Between the lines on a floor seen from this distance: 1, 2 or 5 of a power of ten, in metres."""
    rough = distance / 12
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= rough))


def followed(path: Array, control_dt: float) -> Array:
    """Where a camera looks that follows the path [F, 3], one point a control period: its running mean."""
    window = max(1, round(SMOOTHING_S / control_dt) // 2 * 2 + 1)
    padded = np.pad(path, ((window // 2, window // 2), (0, 0)), mode="edge")
    sums = np.cumsum(np.pad(padded, ((1, 0), (0, 0))), axis=0)
    return (sums[window:] - sums[:-window]) / window


def _fitting(camera: Camera, half: Array) -> float:
    """The distance at which a box of these half sizes [3] around the target just fits."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    right, up, ahead = camera.axes() @ corners.T
    slope = np.tan(np.radians(FIELD_OF_VIEW / 2))
    return float(np.max([np.abs(up) / slope - ahead, np.abs(right) / (slope * ASPECT) - ahead]))


def _boxes(scene: Scene, configuration: Array) -> Array:
    """Axis-aligned boxes [K, 2, 3] (low, high) around the shown geoms."""
    model, data = scene.model, scene.at(configuration)
    turn = data.geom_xmat[scene.geoms].reshape(-1, 3, 3)
    centre = data.geom_xpos[scene.geoms] + np.einsum("kij,kj->ki", turn, model.geom_aabb[scene.geoms, :3])
    half = np.einsum("kij,kj->ki", np.abs(turn), model.geom_aabb[scene.geoms, 3:])
    return np.stack([centre - half, centre + half], axis=1)


def _reach(scene: Scene, configuration: Array) -> float:
    """How far the robot's geoms reach from its base, in metres."""
    model, data = scene.model, scene.at(configuration)
    own = scene.geoms[model.body_rootid[model.geom_bodyid[scene.geoms]] == scene.root]
    away = np.linalg.norm(data.geom_xpos[own] - data.xpos[scene.root], axis=-1) + model.geom_rbound[own]
    return float(max(away.max(initial=0.0), 1e-3))
