"""Episodes to look at, and their form as JSON for the page's viewer."""

from typing import NamedTuple

import numpy as np

from pipelines.scene.framing import ASPECT, FIELD_OF_VIEW, Camera, followed, framed, ground
from pipelines.scene.shapes import JSON, Array, Scene, rounded
from teacher.rollout import Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import MujocoTask, Task, achieved_goal, goal_distance

MAX_FRAMES = 250  # of an episode in a recording
MAX_NUMBERS = 250_000  # of a recording's poses: two megabytes
FRAMED = 100  # configurations that decide the camera
MARKER_SHARE = 0.02  # of the camera's distance: the radius of a goal that is not measured in metres


class Episode(NamedTuple):
    """F frames, one a control period, up to the step at which the episode ended."""

    qpos: Array  # [F, nq]
    marker: Array  # [3]: the goal
    path: Array  # [F, 3]: the achieved goal
    distance: Array  # [F] to the goal, in its unit
    view: Array  # [F, 3]: where to look to follow the robot
    goal: Array  # [G]
    ended: bool  # before its time


class Footage(NamedTuple):
    scene: Scene
    spec: TaskSpec
    camera: Camera
    ground: float  # height in metres
    radius: float  # of goals as they are drawn, in metres
    episodes: list[Episode]

    def caption(self, episode: Episode, frame: int) -> str:
        """Time, distance and whether that is at the goal."""
        goal, distance = self.spec.goal, episode.distance[frame]
        ended = episode.ended and frame == len(episode.qpos) - 1
        where = "ended early" if ended else "at the goal" if distance <= goal.success_radius else ""
        unit = "" if goal.unit == "1" else f" {goal.unit}"
        return f"{frame * self.spec.control_dt:.2f} s   distance {distance:.3g}{unit}   {where}".rstrip()


def footage(task: Task, trajectories: Trajectories, goal: Array, count: int) -> Footage | None:
    """The first `count` episodes, with goals [E, G]; None if the task has no model to draw."""
    scene = Scene.of(task)
    if scene is None:
        return None
    assert isinstance(task, MujocoTask)
    episodes = [_episode(task, scene, trajectories, goal, i) for i in range(min(count, len(goal)))]
    spec = task.spec
    radius = spec.goal.success_radius if spec.goal.unit == "m" else 0.0
    configurations = np.concatenate([episode.qpos for episode in episodes])
    chosen = configurations[_even(len(configurations), FRAMED)]
    camera = framed(scene, chosen, np.stack([episode.marker for episode in episodes]), radius)
    radius = radius or MARKER_SHARE * camera.distance
    return Footage(scene, spec, camera, ground(scene, chosen), radius, episodes)


def recording(shown: Footage) -> JSON:
    """The footage for viewer.js: the shapes once, the moving bodies' poses at some frames of each episode.

    Poses are position (m) and quaternion (w first), flat, [F][7 B]."""
    scene, spec, camera = shown.scene, shown.spec, shown.camera
    shapes, meshes = scene.shapes()
    numbers = len(shown.episodes) * (7 * len(scene.bodies) + 7)
    frames = max(2, min(MAX_FRAMES, MAX_NUMBERS // numbers))
    return {
        "control_dt": spec.control_dt,
        "success_radius": spec.goal.success_radius,
        "unit": spec.goal.unit,
        "marker_radius": round(shown.radius, 4),
        "ground": round(shown.ground, 4),
        "mobile": scene.mobile,
        "camera": {
            "target": rounded(camera.target),
            "distance": round(camera.distance, 4),
            "azimuth": camera.azimuth,
            "elevation": round(camera.elevation, 2),
            "follow": camera.follow,
            "field_of_view": FIELD_OF_VIEW,
            "aspect": ASPECT,
        },
        "shapes": shapes,
        "meshes": meshes,
        "episodes": [_recorded(scene, episode, frames) for episode in shown.episodes],
    }


def _episode(task: MujocoTask, scene: Scene, trajectories: Trajectories, goal: Array, number: int) -> Episode:
    spec, going = task.spec, trajectories.active[:, number]
    sound = np.isfinite(trajectories.qpos[:, number]).all(-1)  # a simulation may leave the numbers
    last = max(0, min(int(going.sum()), int(np.cumprod(sound).sum()) - 1))
    qpos = trajectories.qpos[: last + 1, number]
    observation = trajectories.observation[: last + 1, number]
    root = np.stack([scene.at(configuration).xpos[scene.root].copy() for configuration in qpos])
    return Episode(
        qpos=qpos,
        marker=np.asarray(task.marker(goal[number])),
        path=np.asarray(task.marker(achieved_goal(spec, observation))),
        distance=np.asarray(goal_distance(spec, observation, goal[number])),
        view=followed(root, spec.control_dt),
        goal=goal[number],
        ended=last < len(going),
    )


def _recorded(scene: Scene, episode: Episode, frames: int) -> JSON:
    steps = _even(len(episode.qpos), frames)
    return {
        "goal": rounded(episode.goal),
        "marker": rounded(episode.marker),
        "steps": steps.tolist(),
        "poses": rounded(scene.poses(episode.qpos[steps]).reshape(len(steps), -1)),
        "path": rounded(episode.path[steps]),
        "distance": rounded(episode.distance[steps]),
        "view": rounded(episode.view[steps]),
        "ended": episode.ended,
    }


def _even(length: int, count: int) -> Array:
    """At most `count` of the numbers 0 to length - 1, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(int))
