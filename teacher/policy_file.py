"""A policy from elsewhere as a teacher: an ONNX file that answers what a task observes with actions."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from teacher.config import TeacherConfig
from teacher.errors import FathomError, UsageError
from teacher.rollout import Policy
from teacher.spec import TaskSpec
from teacher.tasks import achieved_goal, make_task
from teacher.train import Teacher

Array = jax.Array

# The names that exporters give to what a policy is told.
OBSERVATION, GOAL, ACHIEVED = "observation", "goal", "achieved goal"
NAMES = {
    **dict.fromkeys(("observation", "observations", "obs", "state"), OBSERVATION),
    **dict.fromkeys(("goal", "desired_goal", "command"), GOAL),
    "achieved_goal": ACHIEVED,
}
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}


@dataclass(frozen=True, eq=False)
class PolicyFile:
    """A teacher that is known by its answers alone: it has a policy and no critic.

    Its methods are those of `Teacher` that need no critic."""

    config: TeacherConfig  # of its task; nothing of it was trained by these settings
    spec: TaskSpec
    session: Any  # ONNX Runtime's
    takes: dict[str, tuple[str, ...]]  # by input: which of NAMES' values, side by side
    states: dict[str, np.ndarray]  # by input: what it carries from step to step, as an episode begins with it
    actor_parameters: int
    source: str  # SHA-256 of the file
    params: Any = ()
    representation: int = 0

    def __repr__(self) -> str:
        """Tells of which task and size it is."""
        return f"<PolicyFile of {self.spec.name}: {self.actor_parameters:,} parameters>"

    @classmethod
    def of(cls, graph: bytes, config: TeacherConfig, what: str) -> Self:
        """Opens a graph, and asks it about nothing but zeros.

        Args: what: names it in messages.
        Raises: UsageError if its inputs or its output are not those of the task."""
        import onnx
        import onnxruntime  # neither is needed where a teacher was trained here

        spec = make_task(config.task.name).spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        try:
            model = onnx.load_from_string(graph)
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the libraries' own exceptions share no other base
            raise UsageError(f"{what}: ONNX Runtime {onnxruntime.__version__} refuses it: {error}") from error
        weights = sum(int(np.prod(each.dims)) for each in model.graph.initializer)
        states = _states(session, what)
        takes = _inputs([each for each in session.get_inputs() if each.name not in states], spec, what)
        opened = cls(config, spec, session, takes, states, weights, hashlib.sha256(graph).hexdigest())
        observation, action, goal = spec.sizes
        memory = [states] * 2
        nothing = np.zeros((2, observation), np.float32), np.zeros((2, goal), np.float32)
        try:
            for _ in range(2):  # the second answer takes the states that came with the first
                found = opened(*nothing, memory)
        except Exception as error:  # likewise
            raise UsageError(f"{what}: it answers no observation of zeros: {error}") from error
        if found.shape != (2, action):
            raise UsageError(
                f"{what}: its output {opened.output!r} is {list(found.shape[1:])} an observation, "
                f"task {spec.name!r} has actions [{action}]"
            )
        if not np.isfinite(found).all():
            raise UsageError(f"{what}: it answers an observation of zeros with {found[0].tolist()}")
        return opened

    @property
    def recurrent(self) -> bool:
        """Tells whether it keeps a state, so that an answer depends on the episode so far."""
        return bool(self.states)

    @property
    def output(self) -> str:
        """Returns the name of the first output that is no state: the actions."""
        names = [each.name for each in self.session.get_outputs()]
        return next(name for name in names if name not in map(_after, self.states))

    def __call__(
        self, observation: np.ndarray, goal: np.ndarray, memory: list[dict[str, np.ndarray]] | None = None
    ) -> np.ndarray:
        """[..., S], [..., G] -> actions [..., A], clipped to [-1, 1] as the task would clip them.

        Args: memory: each row's states, replaced by those after the answer; by default, episodes begin."""
        rows = observation.reshape(-1, observation.shape[-1]), goal.reshape(-1, goal.shape[-1])
        known = {OBSERVATION: rows[0], GOAL: rows[1], ACHIEVED: achieved_goal(self.spec, rows[0])}
        given = {each.name: each for each in self.session.get_inputs()}
        feed = {
            name: np.hstack([known[part] for part in parts]).astype(TYPES[given[name].type])
            for name, parts in self.takes.items()
        }
        if self.recurrent or any(given[name].shape[0] == 1 for name in feed):
            memory, names = memory or [self.states] * len(rows[0]), [self.output, *map(_after, self.states)]
            each = []
            for i, states in enumerate(memory):
                one = {name: values[i : i + 1] for name, values in feed.items()}
                action, *after = self.session.run(names, one | states)
                memory[i] = dict(zip(self.states, after, strict=True))
                each.append(action)
            answers = np.concatenate(each)
        else:
            (answers,) = self.session.run([self.output], feed)
        return np.clip(answers, -1, 1).astype(np.float32).reshape(*observation.shape[:-1], -1)

    def begin(self, episodes: int) -> Policy:
        """Returns what answers a batch of episodes step by step, from their first one on."""
        return partial(self, memory=[self.states] * episodes)

    def act(self, params: Any, observation: Array, goal: Array) -> Array:
        """[B, S], [B, G] -> actions [B, A]; traced, it calls the host."""
        answer: Array = jax.pure_callback(
            lambda *asked: self(np.asarray(asked[0]), np.asarray(asked[1])),
            jax.ShapeDtypeStruct((*observation.shape[:-1], self.spec.action_size), np.float32),
            observation,
            goal,
            vmap_method="broadcast_all",
        )
        return answer

    def policy(self) -> Policy:
        return self


AnyTeacher = Teacher | PolicyFile


def read_graph(file: Path) -> bytes:
    """Reads a policy's ONNX file, with weights that lie beside it; UsageError if it is none."""
    import onnx

    try:
        model = onnx.load(str(file))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's exceptions share no other base
        raise UsageError(f"{file}: not an ONNX file that can be read: {error}") from error
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def load_policy(file: Path, config: TeacherConfig) -> PolicyFile:
    """Opens what `read_graph` gave a run to keep; FathomError if that is missing or does not fit its task."""
    try:
        return PolicyFile.of(file.read_bytes(), config, str(file))
    except (OSError, UsageError) as error:
        raise FathomError(str(error)) from error


def _after(state: str) -> str:
    """Returns the output that goes back into a state's input: `h_in` -> `h_out`."""
    return state.removesuffix("_in") + "_out"


def _states(session: Any, what: str) -> dict[str, np.ndarray]:
    """Returns what each state begins an episode with, by input; UsageError if one cannot be carried."""
    inputs, outputs = session.get_inputs(), [each.name for each in session.get_outputs()]
    states: dict[str, np.ndarray] = {}
    for given in inputs if len(inputs) > 1 else ():
        if not given.name.endswith("_in"):
            continue
        if _after(given.name) not in outputs:
            raise UsageError(
                f"{what}: its input {given.name!r} is a state without an output {_after(given.name)!r}, "
                f"and none of {', '.join(NAMES)}"
            )
        if given.type not in TYPES or not all(isinstance(size, int) for size in given.shape):
            raise UsageError(
                f"{what}: its state {given.name!r} is {given.type}{given.shape}, allowed: float of fixed "
                "sizes, for one episode"
            )
        states[given.name] = np.zeros(given.shape, TYPES[given.type])
    if len(states) == min(len(inputs), len(outputs)):
        raise UsageError(
            f"{what}: all of its inputs or outputs are states ({', '.join(states)}), allowed: an observation "
            "and actions beside them"
        )
    return states


def _inputs(inputs: list[Any], spec: TaskSpec, what: str) -> dict[str, tuple[str, ...]]:
    """Returns what each input is told; UsageError if that cannot be known, or has another size."""
    observation, _, goal = spec.sizes
    sizes = {OBSERVATION: observation, GOAL: goal, ACHIEVED: goal}
    needs = f"task {spec.name!r} has observations [{observation}] and goals [{goal}]"
    takes: dict[str, tuple[str, ...]] = {}
    for given in inputs:
        rows, size = given.shape if len(given.shape) == 2 else (0, None)
        if given.type not in TYPES or not isinstance(size, int) or rows not in (1, None, str(rows)):
            raise UsageError(
                f"{what}: its input {given.name!r} is {given.type}{given.shape}, allowed: float [1, N], or "
                "with any number of rows"
            )
        if len(inputs) == 1:
            alone = {observation + goal: (OBSERVATION, GOAL), observation: (OBSERVATION,)}
            if size not in alone:
                raise UsageError(
                    f"{what}: its input {given.name!r} has {size} entries; {needs}, allowed: the observation "
                    f"with the goal behind it [{observation + goal}], or the observation alone"
                )
            takes[given.name] = alone[size]
            continue
        if given.name not in NAMES:
            raise UsageError(
                f"{what}: its input {given.name!r} is not known, allowed: {', '.join(NAMES)}, and a state "
                "NAME_in that comes back as output NAME_out"
            )
        if size != sizes[NAMES[given.name]]:
            raise UsageError(f"{what}: its input {given.name!r} has {size} entries; {needs}")
        takes[given.name] = (NAMES[given.name],)
    return takes
