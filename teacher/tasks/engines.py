"""The simulators: one description of a task, several ways to integrate it.

`mjx` and `brax` are pure JAX and run batched inside compiled code, `warp` is MJX over kernels of the
package warp; `mujoco` is the C engine, the other simulator that an exported policy must survive;
`analytic` is a task's own arithmetic.
"""

import contextlib
import copy
import importlib.util
import io
import warnings
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.errors import FathomError, UsageError, unknown_name
from teacher.randomization import PhysicsParams
from teacher.tasks.base import AnalyticTask, Array, Frames, MujocoTask, State, Task

UNSTABLE = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)

# Parts of MuJoCo's state (mjtState) that MJX and brax lose between two steps, and what models have them.
LOST_STATE = {
    "HISTORY": "a delay of actuators or sensors",
    "PLUGIN": "plugins with a state",
    "PLASTIC": "springs that yield",
}
# Fields of mjModel that MJX passes over in silence: any but zero are other physics than the C engine's.
UNREAD = {
    "n": ("plugin", "flex"),
    "opt.": ("noslip_iterations", "disableactuator"),
    "flg_": ("adhesion",),
    "geom_": ("surfacevel", "fluid"),
    "actuator_": ("actearly", "armature", "damping", "dampingpoly"),
    "dof_": ("dampingpoly",),
    "jnt_": ("stiffnesspoly",),
    "tendon_": ("dampingpoly", "stiffnesspoly"),
}

BRAX_LACKS = {"na": "actuators with an activation", "neq": "equality constraints"}
INTEGRATED = int(mujoco.mjtState.mjSTATE_INTEGRATION)  # all that a step begins with

# Factors of `PhysicsParams` and the fields of a MuJoCo or MJX model that are multiplied by them.
SCALED_BY = {
    "friction": ("geom_friction", "pair_friction"),
    "mass": ("body_mass", "body_inertia", "body_subtreemass"),
    "strength": ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "jnt_actfrcrange"),
}


class Engine(Protocol):
    """A batch of simulations of one task; E is the number of environments."""

    compiled: bool  # whether the methods are pure JAX and may stand inside jit
    alters_model: bool  # whether friction, mass and strength may differ between environments
    takes_pushes: bool

    def init(self, qpos: Any, qvel: Any, conditions: Any) -> Any:
        """Joint state [E, nq], [E, nv] and conditions [E], or (), -> the engine's own state."""

    def step(self, state: Any, control: Any, conditions: Any) -> Any:
        """Holds controls [E, U] for one control period."""

    def push(self, state: Any, change: Any) -> Any:
        """Adds [E, nv] to the velocities."""
        return state._replace(qvel=state.qvel + change)

    def read(self, state: Any, conditions: Any = ()) -> State:
        """The engine's state as tasks see it, [E, ...]."""


class Seen(NamedTuple):
    """What a task observes of a model beside its joints: numbers of sites, bodies, entries of sensordata."""

    sites: tuple[int, ...] = ()
    bodies: tuple[int, ...] = ()
    sensors: tuple[int, ...] = ()


class MjxState(NamedTuple):
    """What MJX needs to go on; the rest of its data is derived, scratch, or what it never changes."""

    qpos: Array
    qvel: Array
    control: Array
    warmstart: Array
    rest: Any = ()  # the further fields of its data that this model's state has, by name


class MjxEngine(Engine):
    """MuJoCo in JAX."""

    compiled, alters_model, takes_pushes = True, True, True

    def __init__(self, task: MujocoTask, model: mujoco.MjModel):
        # Slow to import, and the other engines do without; it prints where warp is not installed.
        with contextlib.redirect_stdout(io.StringIO()):
            from mujoco import mjx

        self._mjx, self._substeps, self._seen = mjx, control_substeps(task, model), seen_of(task, model)
        self._put(model, jax.local_devices()[0])  # MJX would take the first of all processes
        clocked = (model.sensor_type == mujoco.mjtSensor.mjSENS_CLOCK).any()
        self._rest = (*["act"] * bool(model.na), *["time"] * bool(clocked))

    def _put(self, model: mujoco.MjModel, device: jax.Device) -> None:
        self._model = self._mjx.put_model(model, device=device, impl="jax")
        self._made = self._mjx.make_data(model, device=device, impl="jax")

    def _data(self, environments: int) -> Any:
        """Scratch of one environment among so many."""
        return self._made

    def init(self, qpos: Array, qvel: Array, conditions: Any) -> MjxState:
        control = jnp.zeros((len(qpos), self._model.nu))
        rest = {name: jnp.zeros((len(qpos), *getattr(self._made, name).shape)) for name in self._rest}
        return MjxState(qpos, qvel, control, jnp.zeros_like(qvel), rest or ())

    def step(self, state: MjxState, control: Array, conditions: Any) -> MjxState:
        # TF32, the default on recent GPUs, is too coarse for solving the equations of motion.
        with jax.default_matmul_precision("highest"):
            return jax.vmap(partial(self._step, self._data(len(control))))(state, control, conditions)

    def _step(self, data: Any, state: MjxState, control: Array, conditions: Any) -> MjxState:
        model, data = self._altered(conditions), self._resumed(data, state._replace(control=control))
        data = jax.lax.fori_loop(0, self._substeps, lambda _, d: self._mjx.step(model, d), data)
        rest = {name: getattr(data, name) for name in self._rest}
        return MjxState(data.qpos, data.qvel, control, data.qacc_warmstart, rest or ())

    def _altered(self, conditions: Any) -> Any:
        return self._model.replace(**altered(self._model, conditions)) if conditions else self._model

    def _resumed(self, data: Any, state: MjxState) -> Any:
        return data.replace(
            qpos=state.qpos,
            qvel=state.qvel,
            qacc_warmstart=state.warmstart,
            ctrl=state.control,
            **(state.rest or {}),
        )

    def read(self, state: MjxState, conditions: Any = ()) -> State:
        if not any(self._seen):
            return State(state.qpos, state.qvel, state.control)
        with jax.default_matmul_precision("highest"):
            return jax.vmap(partial(self._read, self._data(len(state.qpos))))(state, conditions)

    def _read(self, data: Any, state: MjxState, conditions: Any) -> State:
        model = self._altered(conditions)
        return seen_state(self._seen, model, self._forward(model, self._resumed(data, state)))

    def _forward(self, model: Any, data: Any) -> Any:
        """The data of a state, as far as the task sees them."""
        if self._seen.sensors:
            # Once more the accelerations: a forward pass leaves them out where there are no constraints.
            return self._mjx.sensor_acc(model, self._mjx.forward(model, data))
        for part in (self._mjx.kinematics, self._mjx.com_pos, self._mjx.com_vel):
            data = part(model, data)
        return data


class WarpEngine(MjxEngine):
    """MuJoCo in kernels of the package warp, under MJX's interface.

    Those keep room for a fixed number of contacts and constraints; what is beyond it is left out."""

    alters_model = False  # its kernels take one model for all environments

    CONTACTS, CONSTRAINTS = 48, 192  # of one environment; contacts are shared by all of them

    def _put(self, model: mujoco.MjModel, device: jax.Device) -> None:
        import warp

        warp.config.log_level = warp.LOG_WARNING  # or else it announces itself and every kernel
        from mujoco.mjx.warp.types import GraphMode

        # Staged graphs leave the replay of a CUDA graph to XLA; a CPU has none.
        mode = GraphMode.NONE if device.platform == "cpu" else GraphMode.WARP_STAGED
        super()._put(model, device)
        self._in_jax = self._model, self._made
        self._model = self._mjx.put_model(model, device=device, impl="warp", graph_mode=mode)
        self._source, self._device = model, device

    def _data(self, environments: int) -> Any:
        contacts = environments * self.CONTACTS
        return self._mjx.make_data(
            self._source, device=self._device, impl="warp", naconmax=contacts, njmax=self.CONSTRAINTS
        )

    def _read(self, data: Any, state: MjxState, conditions: Any) -> State:
        # The kernels' parts are not to be had one by one: kinematics alone are JAX's.
        model, data = (self._model, data) if self._seen.sensors else self._in_jax
        return seen_state(self._seen, model, self._forward(model, self._resumed(data, state)))

    def _forward(self, model: Any, data: Any) -> Any:
        return self._mjx.forward(model, data) if self._seen.sensors else super()._forward(model, data)


class BraxState(NamedTuple):
    pipeline: Any  # brax's own
    control: Array


class BraxEngine(Engine):
    """Brax's spring pipeline, for comparison with published numbers."""

    compiled, alters_model, takes_pushes = True, False, False

    def __init__(self, task: MujocoTask, model: mujoco.MjModel):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # brax announces at every use that it is not developed further
            from brax.io import mjcf
            from brax.spring import pipeline

            self._system = mjcf.load_model(model)
        self._pipeline, self._substeps = pipeline, control_substeps(task, model)
        self._links = np.array(seen_of(task, model).bodies, int) - 1

    def init(self, qpos: Array, qvel: Array, conditions: Any) -> BraxState:
        with jax.default_matmul_precision("highest"):
            state = jax.vmap(lambda q, qd: self._pipeline.init(self._system, q, qd))(qpos, qvel)
        return BraxState(state, jnp.zeros((len(qpos), self._system.act_size())))

    def step(self, state: BraxState, control: Array, conditions: Any) -> BraxState:
        with jax.default_matmul_precision("highest"):
            return BraxState(jax.vmap(self._step)(state.pipeline, control), control)

    def _step(self, state: Any, control: Array) -> Any:
        return jax.lax.fori_loop(
            0, self._substeps, lambda _, s: self._pipeline.step(self._system, s, control), state
        )

    def read(self, state: BraxState, conditions: Any = ()) -> State:
        pipeline = state.pipeline
        parts = (pipeline.x.pos, pipeline.x.rot, pipeline.xd.vel, pipeline.xd.ang)
        bodies = Frames(*(part[:, self._links] for part in parts)) if len(self._links) else None
        return State(pipeline.q, pipeline.qd, state.control, bodies=bodies)


class AnalyticEngine(Engine):
    """A task's own arithmetic, where a simulator of mechanics is not needed or too slow."""

    compiled, alters_model, takes_pushes = True, False, True

    def __init__(self, task: AnalyticTask):
        self._task = task

    def init(self, qpos: Array, qvel: Array, conditions: Any) -> State:
        xp, action = qpos.__array_namespace__(), jnp.zeros((len(qpos), self._task.spec.action_size))
        control = jax.eval_shape(self._task.control, State(qpos, qvel, action), action)
        return State(qpos, qvel, xp.zeros(control.shape, dtype=qpos.dtype))

    def step(self, state: State, control: Array, conditions: Any) -> State:
        return self._task.advance(state, control)._replace(control=control)

    def read(self, state: State, conditions: Any = ()) -> State:
        return state


class MujocoEngine(Engine):
    """The C engine: one MjData an environment, double precision."""

    compiled, alters_model, takes_pushes = False, True, True

    def __init__(self, task: MujocoTask, model: mujoco.MjModel):
        self._model, self._substeps, self._seen = model, control_substeps(task, model), seen_of(task, model)
        self._scratch = mujoco.MjData(model)

    def init(self, qpos: np.ndarray, qvel: np.ndarray, conditions: Any) -> list[mujoco.MjData]:
        state = []
        for i, (position, velocity) in enumerate(zip(qpos, qvel, strict=True)):
            model = self._model
            if conditions:
                model = copy.copy(model)
                for name, value in altered(model, PhysicsParams(*(part[i] for part in conditions))).items():
                    getattr(model, name)[:] = value
                # The inertia of bodies that move by themselves is not computed again from their masses.
                armature = model.dof_armature
                model.dof_M0[:] = armature + (model.dof_M0 - armature) * conditions.mass[i]
            data = mujoco.MjData(model)
            data.qpos, data.qvel = position, velocity
            state.append(data)
        return state

    def step(self, state: list[mujoco.MjData], control: np.ndarray, conditions: Any) -> list[mujoco.MjData]:
        """Advances the given simulations in place.

        Raises: FathomError where MuJoCo would go on as if nothing were wrong: for controls that are
        not finite, and for a simulation that became unstable."""
        if not np.isfinite(control).all():
            raise FathomError(f"controls are not finite: {control[~np.isfinite(control).all(-1)][0]}")
        for data, command in zip(state, control, strict=True):
            data.ctrl = command
            mujoco.mj_step(data.model, data, self._substeps)
            for warning in UNSTABLE:
                if data.warning[warning].number:
                    raise FathomError(f"the simulation became unstable at {data.time:.3f} s ({warning.name})")
        return state

    def push(self, state: list[mujoco.MjData], change: np.ndarray) -> list[mujoco.MjData]:
        for data, added in zip(state, np.asarray(change), strict=True):
            data.qvel += added
        return state

    def read(self, state: list[mujoco.MjData], conditions: Any = ()) -> State:
        return jax.tree.map(lambda *each: np.stack(each), *map(self._read, state))

    def _read(self, data: mujoco.MjData) -> State:
        """Aside, since what a step leaves is of its beginning, and the next one begins with it."""
        if not any(self._seen):
            return State(data.qpos, data.qvel, data.ctrl)
        values = np.empty(mujoco.mj_stateSize(data.model, INTEGRATED))
        mujoco.mj_getState(data.model, data, values, INTEGRATED)
        mujoco.mj_setState(data.model, self._scratch, values, INTEGRATED)
        mujoco.mj_forward(data.model, self._scratch)
        return seen_state(self._seen, data.model, self._scratch)


def seen_state(seen: Seen, model: Any, data: Any) -> State:
    """One environment as its task sees it, from a MuJoCo or MJX model and data computed for this state."""
    xp = data.qpos.__array_namespace__()
    sites, bodies, sensors = (np.array(numbers, int) for numbers in seen)
    of_sites = of_bodies = None
    if seen.sites:
        of_sites = _frames(
            xp, model, data, data.site_xpos[sites], model.site_bodyid[sites], model.site_quat[sites]
        )
    if seen.bodies:
        of_bodies = _frames(xp, model, data, data.xpos[bodies], bodies)
    readings = data.sensordata[sensors] if seen.sensors else None
    qpos, qvel, control = (xp.array(part) for part in (data.qpos, data.qvel, data.ctrl))
    return State(qpos, qvel, control, sites=of_sites, bodies=of_bodies, sensors=readings)


def _frames(
    xp: Any, model: Any, data: Any, position: Array, body: np.ndarray, turn: Array | None = None
) -> Frames:
    """Frames [K] at these positions of bodies [K], turned within them."""
    orientation, motion = data.xquat[body], data.cvel[body]
    if turn is not None:
        orientation = _quaternion_product(xp, orientation, turn)
    angular, from_centre = motion[:, :3], position - data.subtree_com[model.body_rootid[body]]
    return Frames(position, orientation, motion[:, 3:] + xp.cross(angular, from_centre), angular)


def _quaternion_product(xp: Any, a: Array, b: Array) -> Array:
    """[..., 4] w x y z: the turn b, then a."""
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True)
    xyz = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + xp.cross(a[..., 1:], b[..., 1:])
    return xp.concatenate([w, xyz], axis=-1)


def altered(model: Any, conditions: PhysicsParams) -> dict[str, Array]:
    """The fields of a MuJoCo or MJX model that one episode's conditions change, with their new values.

    Constants that MuJoCo derives from masses for the softness of constraints stay the model's."""
    return {
        name: getattr(model, name) * getattr(conditions, condition)
        for condition, names in SCALED_BY.items()
        for name in names
    }


ENGINES: dict[str, type[Engine]] = {
    "mjx": MjxEngine,
    "warp": WarpEngine,
    "brax": BraxEngine,
    "mujoco": MujocoEngine,
    "analytic": AnalyticEngine,
}


def engines_of(task: Task) -> tuple[str, ...]:
    """Names of the engines that run the task here, its default first; `warp` wherever `mjx` does, if the
    package is installed."""
    added = ("warp",) if "mjx" in task.engines and importlib.util.find_spec("warp") else ()
    return (*task.engines, *(name for name in added if name not in task.engines))


def make_engine(task: Task, name: str) -> Engine:
    """The named engine over the task; UsageError if the task does not run on it."""
    if name not in engines_of(task):
        raise unknown_name(f"engine for task {task.spec.name!r}", name, engines_of(task))
    engine: Any = ENGINES[name]
    if engine is AnalyticEngine:
        assert isinstance(task, AnalyticTask), f"{task.spec.name} does not integrate itself"
        return AnalyticEngine(task)
    assert isinstance(task, MujocoTask), f"{task.spec.name} has no MuJoCo model"
    model = task.model("mjx" if engine is WarpEngine else name)
    where = f"task {task.spec.name!r} on engine {name!r}"
    if lost := unsupported(engine, task, model):
        raise UsageError(f"{where}: the engine does not have {', '.join(lost)}")
    try:
        made: Engine = engine(task, model)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise UsageError(f"{where}: the engine does not have what the model needs: {error}") from error
    return made


def seen_of(task: MujocoTask, model: mujoco.MjModel) -> Seen:
    """The numbers of the sites, bodies and sensors that the task names; UsageError for an unknown one."""
    found: list[tuple[int, ...]] = []
    for kind, names in (("site", task.sites), ("body", task.bodies), ("sensor", task.sensors)):
        known = [getattr(model, kind)(i).name for i in range(getattr(model, f"n{kind}"))]
        for name in names:
            if name not in known:
                raise unknown_name(f"{kind} of the model", name, filter(None, known))
        found.append(tuple(known.index(name) for name in names))
    sites, bodies, sensors = found
    widths = [range(model.sensor_adr[i], model.sensor_adr[i] + model.sensor_dim[i]) for i in sensors]
    return Seen(sites, bodies, tuple(entry for width in widths for entry in width))


def unsupported(engine: type[Engine], task: MujocoTask, model: mujoco.MjModel) -> list[str]:
    """What the model has and the engine would pass over in silence, each by its name."""
    if engine is MujocoEngine:
        return []
    found = [
        feature
        for part, feature in LOST_STATE.items()
        if (bit := getattr(mujoco.mjtState, f"mjSTATE_{part}", 0)) and mujoco.mj_stateSize(model, bit)
    ]
    for start, ends in UNREAD.items():
        within, start = (model.opt, "") if start == "opt." else (model, start)
        found += [f"{start}{end}" for end in ends if np.any(getattr(within, f"{start}{end}", 0))]
    implicit = model.opt.integrator == mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    if engine is MjxEngine and implicit and (model.actuator_gaintype == mujoco.mjtGain.mjGAIN_MUSCLE).any():
        found.append("muscles in the integrator implicitfast: Euler has them")
    if engine is BraxEngine:
        found += [feature for field, feature in BRAX_LACKS.items() if getattr(model, field)]
        found += ["sites or sensors to observe"] * bool(task.sites or task.sensors)
    return found


def control_substeps(task: Task, model: mujoco.MjModel) -> int:
    """Steps of the model in one control period; FathomError if it is no whole number."""
    substeps = round(task.spec.control_dt / model.opt.timestep)
    if substeps < 1 or abs(substeps * model.opt.timestep - task.spec.control_dt) > 1e-9:
        raise FathomError(
            f"task {task.spec.name!r}: control period {task.spec.control_dt} s is no multiple "
            f"of the model's time step {model.opt.timestep} s"
        )
    return substeps
