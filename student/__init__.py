"""Distillation of a teacher's policy and critic into students of a few layers."""

from typing import TYPE_CHECKING

from teacher.lazy import lazily

if TYPE_CHECKING:
    from student.checkpoint import TrainedStudent as TrainedStudent
    from student.checkpoint import load_student as load_student
    from student.checkpoint import save_students as save_students
    from student.config import StudentConfig as StudentConfig
    from student.distill import Distiller as Distiller
    from student.distill import DistillState as DistillState
    from student.networks import act as act
    from student.networks import critic_distance as critic_distance
    from teacher.version import __version__ as __version__
else:
    __getattr__, __dir__, __all__ = lazily(__name__, __file__)
