"""What there is to see of a MuJoCo model, without a graphics library."""

from functools import cached_property
from typing import Any, NamedTuple

import mujoco
import numpy as np

from teacher.tasks import MujocoTask, Task

JSON = dict[str, Any]
Array = np.ndarray

GEOM = mujoco.mjtGeom
# How many of geom_size's entries have a meaning.
SIZES = {
    GEOM.mjGEOM_PLANE: ("plane", 2),
    GEOM.mjGEOM_SPHERE: ("sphere", 1),
    GEOM.mjGEOM_CAPSULE: ("capsule", 2),
    GEOM.mjGEOM_ELLIPSOID: ("ellipsoid", 3),
    GEOM.mjGEOM_CYLINDER: ("cylinder", 2),
    GEOM.mjGEOM_BOX: ("box", 3),
}
MESHES = (GEOM.mjGEOM_MESH, GEOM.mjGEOM_SDF)
SHOWN_GROUPS = 3  # geoms of higher groups are for collisions alone, by MuJoCo's convention
UNCOLOURED = (0.5, 0.5, 0.5, 1.0)  # MuJoCo's default: the material's colour shows
MAX_FACES = 20_000  # of all meshes together; a page of more is heavy
HEIGHT_CELLS = 64  # of a height field, along each side


class Mesh(NamedTuple):
    vertices: np.ndarray  # [V, 3] in metres
    faces: np.ndarray  # [F, 3] indices of vertices


class Scene:
    """The visible shapes of a task's model, each fixed to a rigid body that moves, or to the world."""

    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self._data = mujoco.MjData(model)

    @classmethod
    def of(cls, task: Task) -> "Scene | None":
        """The scene as the C engine has it, if it has; None for a task without a model."""
        if not isinstance(task, MujocoTask):
            return None
        engine = min(task.engines, key=lambda name: (name != "mujoco", name == "analytic"))
        return cls(task.model(engine))

    @cached_property
    def geoms(self) -> np.ndarray:
        """Numbers of the geoms that are shown."""
        shown = [i for i in range(self.model.ngeom) if self.colour(i)[3] > 0]
        return np.array([i for i in shown if self.model.geom_group[i] < SHOWN_GROUPS] or shown, dtype=int)

    @cached_property
    def carriers(self) -> np.ndarray:
        """Of each shown geom, the body that it moves with; 0: the world."""
        return self.model.body_weldid[self.model.geom_bodyid[self.geoms]]

    @cached_property
    def bodies(self) -> list[int]:
        """Numbers of the moving bodies that carry shown geoms."""
        return sorted({int(body) for body in self.carriers} - {0})

    @cached_property
    def root(self) -> int:
        """The body that stands for the robot: the base of what the first actuator moves."""
        model = self.model
        moved = next(iter(self.bodies), 0)
        if model.nu:
            kind, number = mujoco.mjtTrn(model.actuator_trntype[0]), model.actuator_trnid[0, 0]
            if kind in (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT):
                moved = model.jnt_bodyid[number]
            elif kind == mujoco.mjtTrn.mjTRN_SITE:
                moved = model.site_bodyid[number]
            elif kind == mujoco.mjtTrn.mjTRN_BODY:
                moved = number
        return int(model.body_rootid[moved])

    @cached_property
    def mobile(self) -> bool:
        """Whether the robot can leave its place."""
        first, count = self.model.body_jntadr[self.root], self.model.body_jntnum[self.root]
        kinds = (
            {mujoco.mjtJoint(kind) for kind in self.model.jnt_type[first : first + count]} if count else set()
        )
        return not kinds.isdisjoint((mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE))

    @cached_property
    def floor(self) -> int | None:
        """Number of the lowest horizontal plane's geom, if the model has one."""
        data = self.at(self.model.qpos0)
        planes = [
            int(geom)
            for geom in self.geoms
            if self.model.geom_type[geom] == GEOM.mjGEOM_PLANE and data.geom_xmat[geom, 8] > 0.99
        ]
        return min(planes, key=lambda geom: data.geom_xpos[geom, 2], default=None)

    def at(self, qpos: np.ndarray) -> mujoco.MjData:
        """Positions of everything at a configuration [nq]; the same object at every call."""
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self._data)
        return self._data

    def poses(self, qpos: np.ndarray) -> np.ndarray:
        """[F, nq] -> position (m) and quaternion (w first) of each moving body [F, B, 7]."""
        poses = np.zeros((len(qpos), len(self.bodies), 7))
        for pose, configuration in zip(poses, qpos, strict=True):
            data = self.at(configuration)
            pose[:] = np.concatenate([data.xpos[self.bodies], data.xquat[self.bodies]], axis=-1)
        return poses

    def colour(self, geom: int) -> np.ndarray:
        """[4] red, green, blue and opacity, from the geom or else its material."""
        rgba, material = self.model.geom_rgba[geom], self.model.geom_matid[geom]
        if material >= 0 and tuple(rgba) == UNCOLOURED:
            return self.model.mat_rgba[material]
        return rgba

    def shapes(self) -> tuple[list[JSON], list[JSON]]:
        """Shapes, without the floor, and the meshes that they name by number.

        Poses are relative to `bodies[body]`, or the world where body is None; sizes are as MuJoCo's, in m."""
        model, data = self.model, self.at(self.model.qpos0)
        meshes: dict[tuple[int, int], JSON] = {}
        share = MAX_FACES // max(1, sum(GEOM(model.geom_type[i]) not in SIZES for i in self.geoms))
        shapes = []
        for geom, carrier in zip(self.geoms, self.carriers, strict=True):
            if geom == self.floor:
                continue
            turn = data.xmat[carrier].reshape(3, 3).T
            quaternion = np.zeros(4)
            mujoco.mju_mat2Quat(quaternion, (turn @ data.geom_xmat[geom].reshape(3, 3)).ravel())
            shape: JSON = {
                "body": self.bodies.index(carrier) if carrier else None,
                "position": rounded(turn @ (data.geom_xpos[geom] - data.xpos[carrier])),
                "quaternion": rounded(quaternion),
                "colour": rounded(self.colour(geom), 3),
            }
            kind = GEOM(model.geom_type[geom])
            if kind in SIZES:
                name, count = SIZES[kind]
                shape |= {"kind": name, "size": rounded(model.geom_size[geom, :count])}
            else:
                number = int(model.geom_dataid[geom])
                source = (kind.value, number if number >= 0 else -1 - int(geom))
                if source not in meshes:
                    mesh = reduced(_mesh(model, geom), share)
                    meshes[source] = {
                        "vertices": rounded(mesh.vertices.ravel()),
                        "faces": mesh.faces.ravel().tolist(),
                    }
                shape |= {"kind": "mesh", "mesh": list(meshes).index(source)}
            shapes.append(shape)
        return shapes, list(meshes.values())


def reduced(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with at most so many faces (at least twelve), corners within a cell drawn together."""
    cells = 128.0
    found = mesh
    while len(found.faces) > max(12, faces):
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        size = max(float((high - low).max()) / cells, 1e-9)
        _, first, cell = np.unique(
            np.floor((mesh.vertices - low) / size), axis=0, return_index=True, return_inverse=True
        )
        corners = cell.reshape(-1)[mesh.faces]
        whole = (corners != np.roll(corners, 1, axis=1)).all(1)
        found = Mesh(mesh.vertices[first], np.unique(corners[whole], axis=0))
        cells *= 0.8
    return found


def rounded(values: np.ndarray, digits: int = 4) -> list[Any]:
    return np.asarray(values, dtype=float).round(digits).tolist()


def _mesh(model: mujoco.MjModel, geom: int) -> Mesh:
    """Triangles of a mesh or a height field; a box around whatever else a geom may be."""
    kind, number = GEOM(model.geom_type[geom]), int(model.geom_dataid[geom])
    if kind in MESHES and number >= 0:
        vertex, face = model.mesh_vertadr[number], model.mesh_faceadr[number]
        return Mesh(
            model.mesh_vert[vertex : vertex + model.mesh_vertnum[number]].astype(float),
            model.mesh_face[face : face + model.mesh_facenum[number]],
        )
    if kind == GEOM.mjGEOM_HFIELD and number >= 0:
        return _height_field(model, number)
    centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [triangle for a, b, c, d in sides for triangle in ((a, b, c), (a, c, d))]
    return Mesh(centre + corners * half, np.array(faces))


def _height_field(model: mujoco.MjModel, number: int) -> Mesh:
    """The surface alone, without the block below it."""
    rows, columns = int(model.hfield_nrow[number]), int(model.hfield_ncol[number])
    first = int(model.hfield_adr[number])
    heights = model.hfield_data[first : first + rows * columns].reshape(rows, columns)
    half_x, half_y, top, _ = model.hfield_size[number]
    row, column = (np.unique(np.linspace(0, n - 1, HEIGHT_CELLS).astype(int)) for n in (rows, columns))
    x, y = np.meshgrid(
        half_x * (2 * column / (columns - 1) - 1), half_y * (2 * row / (rows - 1) - 1), indexing="xy"
    )
    vertices = np.stack([x, y, top * heights[np.ix_(row, column)]], axis=-1).reshape(-1, 3)
    a = (np.arange(len(row) - 1)[:, None] * len(column) + np.arange(len(column) - 1)).ravel()
    b, c, d = a + 1, a + len(column) + 1, a + len(column)
    return Mesh(vertices, np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]))
