"""Checkpoints of a distillation: its state while it runs, each student when it is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from student.config import TRAINING_FIELDS, parse_size
from student.distill import WEIGHTS, Distiller, DistillState
from student.networks import Student, fold, init_student
from teacher import checkpoint
from teacher.errors import FathomError
from teacher.spec import TaskSpec

_NOTHING: Any = None  # in place of the labels, which are saved as rows


class TrainedStudent(NamedTuple):
    """One student; its parameters take raw observations and goals."""

    name: str
    params: Student
    spec: TaskSpec
    teacher_source: str  # fingerprint of the checkpoint it was distilled from
    source: str  # fingerprint of its own

    def __repr__(self) -> str:
        """Tells of which task and size it is, without its parameters."""
        return f"<TrainedStudent {self.name} of {self.spec.name}>"


def save_state(directory: Path, distiller: Distiller, state: DistillState) -> None:
    """Saves everything after a finished round."""
    checkpoint.save(
        directory,
        int(state.round),
        state._replace(labels=_NOTHING),
        rows=state.labels,
        written=int(state.round) * distiller.spec.episode_length,
        record=_record(distiller),
        keep=distiller.teacher.config.checkpoint.keep,
    )


def restore_state(directory: Path, distiller: Distiller) -> DistillState:
    """Reads the newest saved state; FathomError if it belongs to another teacher or configuration."""
    saved = checkpoint.load(directory)
    what = f"checkpoint {directory / str(saved.step)}"
    if changed := [key for key, value in _record(distiller).items() if saved.record.get(key) != value]:
        raise FathomError(f"{what} was begun with another {' and '.join(changed)}")
    template = jax.eval_shape(distiller.init, jax.random.key(0))
    state: DistillState = checkpoint.fill(template._replace(labels=_NOTHING), saved.leaves, what)
    labels = checkpoint.fill(template.labels, saved.rows, f"{what}, labels")
    checkpoint.rewind(directory, saved.step)
    return state._replace(labels=labels)


def _record(distiller: Distiller) -> dict[str, Any]:
    return {
        "student": distiller.config.model_dump(mode="json", include=TRAINING_FIELDS),
        "teacher": distiller.teacher.source,
        "weights": WEIGHTS,
    }


def save_students(
    directory: Path, distiller: Distiller, state: DistillState, seeds: Mapping[str, int]
) -> None:
    """Writes each student to `directory`/SIZE, of the seed in `seeds`, normalisation folded in."""
    for number, name in enumerate(distiller.config.sizes):
        student = jax.tree.map(lambda leaf, seed=seeds[name]: leaf[seed], state.ensemble.student(number))
        checkpoint.save(
            directory / name,
            int(state.round),
            fold(student, state.normaliser),
            record={
                "spec": distiller.spec.model_dump(mode="json"),
                "representation": distiller.teacher.representation,
                "critic": distiller.config.critic,
                "teacher": distiller.teacher.source,
            },
        )


def load_student(directory: Path) -> TrainedStudent:
    """Reads `students/SIZE`; FathomError if it is missing or damaged."""
    saved = checkpoint.load(directory)
    try:
        spec = TaskSpec.model_validate(saved.record["spec"])
        representation, teacher = saved.record["representation"], saved.record["teacher"]
        size, critic = parse_size(directory.name), parse_size(saved.record["critic"])
    except (ValueError, KeyError, TypeError) as error:
        raise FathomError(f"{directory} holds no student that this program knows: {error}") from error
    sizes = spec.sensed_sizes
    template = jax.eval_shape(lambda: init_student(jax.random.key(0), size, critic, sizes, representation))
    params = checkpoint.fill(template, saved.leaves, f"student {directory}")
    return TrainedStudent(directory.name, params, spec, teacher, saved.fingerprint)
