"""The simulators: one MuJoCo model, three ways to integrate it.

`mjx` and `brax` are pure JAX and run batched inside compiled code; `mujoco` is the C
engine, the other simulator that an exported policy must survive.
"""

import contextlib
import io
import warnings
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.errors import FathomError, unknown_name
from teacher.tasks.base import Array, Task

UNSTABLE = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)


class Engine(Protocol):
    """A batch of simulations of one model; E is the number of environments."""

    compiled: bool  # whether the methods are pure JAX and may stand inside jit

    def init(self, qpos: Any, qvel: Any) -> Any:
        """Joint state [E, nq], [E, nv] -> the engine's own state."""

    def step(self, state: Any, control: Any) -> Any:
        """Holds controls [E, U] for one control period."""

    def joints(self, state: Any) -> tuple[Any, Any]:
        """The engine's state -> qpos [E, nq], qvel [E, nv]."""


class MjxState(NamedTuple):
    """What MJX needs to go on; the rest of its data is derived or scratch."""

    qpos: Array
    qvel: Array
    warmstart: Array


class MjxEngine:
    """MuJoCo in JAX."""

    compiled = True

    def __init__(self, model: mujoco.MjModel, substeps: int):
        # Slow to import, and the other engines do without; it prints where warp is not installed.
        with contextlib.redirect_stdout(io.StringIO()):
            from mujoco import mjx

        self._mjx, self._substeps = mjx, substeps
        here = jax.local_devices()[0]  # MJX would take the first of all processes
        self._model = mjx.put_model(model, device=here)
        self._data = mjx.make_data(model, device=here)

    def init(self, qpos: Array, qvel: Array) -> MjxState:
        return MjxState(qpos, qvel, jnp.zeros_like(qvel))

    def step(self, state: MjxState, control: Array) -> MjxState:
        # TF32, the default on recent GPUs, is too coarse for solving the equations of motion.
        with jax.default_matmul_precision("highest"):
            return jax.vmap(self._step)(state, control)

    def _step(self, state: MjxState, control: Array) -> MjxState:
        data = self._data.replace(
            qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, ctrl=control
        )
        data = jax.lax.fori_loop(0, self._substeps, lambda _, d: self._mjx.step(self._model, d), data)
        return MjxState(data.qpos, data.qvel, data.qacc_warmstart)

    def joints(self, state: MjxState) -> tuple[Array, Array]:
        return state.qpos, state.qvel


class BraxEngine:
    """Brax's spring pipeline, for comparison with published numbers."""

    compiled = True

    def __init__(self, model: mujoco.MjModel, substeps: int):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # brax announces at every use that it is not developed further
            from brax.io import mjcf
            from brax.spring import pipeline

            self._system = mjcf.load_model(model)
        self._pipeline, self._substeps = pipeline, substeps

    def init(self, qpos: Array, qvel: Array) -> Any:
        with jax.default_matmul_precision("highest"):
            return jax.vmap(lambda q, qd: self._pipeline.init(self._system, q, qd))(qpos, qvel)

    def step(self, state: Any, control: Array) -> Any:
        with jax.default_matmul_precision("highest"):
            return jax.vmap(self._step)(state, control)

    def _step(self, state: Any, control: Array) -> Any:
        return jax.lax.fori_loop(
            0, self._substeps, lambda _, s: self._pipeline.step(self._system, s, control), state
        )

    def joints(self, state: Any) -> tuple[Array, Array]:
        return state.q, state.qd


class MujocoEngine:
    """The C engine: one MjData an environment, double precision."""

    compiled = False

    def __init__(self, model: mujoco.MjModel, substeps: int):
        self._model, self._substeps = model, substeps

    def init(self, qpos: np.ndarray, qvel: np.ndarray) -> list[mujoco.MjData]:
        state = [mujoco.MjData(self._model) for _ in qpos]
        for data, position, velocity in zip(state, qpos, qvel, strict=True):
            data.qpos, data.qvel = position, velocity
        return state

    def step(self, state: list[mujoco.MjData], control: np.ndarray) -> list[mujoco.MjData]:
        """Advances the given simulations in place.

        Raises: FathomError where MuJoCo would go on as if nothing were wrong: for controls that are
        not finite, and for a simulation that became unstable."""
        if not np.isfinite(control).all():
            raise FathomError(f"controls are not finite: {control[~np.isfinite(control).all(-1)][0]}")
        for data, command in zip(state, control, strict=True):
            data.ctrl = command
            mujoco.mj_step(self._model, data, self._substeps)
            for warning in UNSTABLE:
                if data.warning[warning].number:
                    raise FathomError(f"the simulation became unstable at {data.time:.3f} s ({warning.name})")
        return state

    def joints(self, state: list[mujoco.MjData]) -> tuple[np.ndarray, np.ndarray]:
        return np.stack([d.qpos for d in state]), np.stack([d.qvel for d in state])


ENGINES: dict[str, type[MjxEngine | BraxEngine | MujocoEngine]] = {
    "mjx": MjxEngine,
    "brax": BraxEngine,
    "mujoco": MujocoEngine,
}


def make_engine(task: Task, name: str) -> Engine:
    """The named engine over the task's model; UsageError if the task does not run on it."""
    if name not in task.engines:
        raise unknown_name(f"engine for task {task.spec.name!r}", name, task.engines)
    model = task.model()
    substeps = round(task.spec.control_dt / model.opt.timestep)
    if abs(substeps * model.opt.timestep - task.spec.control_dt) > 1e-9:
        raise FathomError(
            f"task {task.spec.name!r}: control period {task.spec.control_dt} s is no multiple "
            f"of the model's time step {model.opt.timestep} s"
        )
    return ENGINES[name](model, substeps)
