"""The deep contrastive teacher: tasks, networks, losses, learner, evaluation, checkpoints."""

from typing import TYPE_CHECKING

from teacher.lazy import lazily

if TYPE_CHECKING:
    from teacher.config import TeacherConfig as TeacherConfig
    from teacher.errors import Diverged as Diverged
    from teacher.errors import FathomError as FathomError
    from teacher.errors import UsageError as UsageError
    from teacher.evaluate import EpisodeMetrics as EpisodeMetrics
    from teacher.evaluate import evaluation_starts as evaluation_starts
    from teacher.evaluate import run_episodes as run_episodes
    from teacher.evaluate import summarise as summarise
    from teacher.learner import Learner as Learner
    from teacher.learner import TeacherState as TeacherState
    from teacher.spec import TaskSpec as TaskSpec
    from teacher.tasks import AnalyticTask as AnalyticTask
    from teacher.tasks import MujocoTask as MujocoTask
    from teacher.tasks import Task as Task
    from teacher.tasks import make_task as make_task
    from teacher.tasks import task_names as task_names
    from teacher.train import Teacher as Teacher
    from teacher.train import load_teacher as load_teacher
    from teacher.train import reevaluate as reevaluate
    from teacher.train import restore_state as restore_state
    from teacher.train import save_state as save_state
    from teacher.version import __version__ as __version__
else:
    __getattr__, __dir__, __all__ = lazily(__name__, __file__)
