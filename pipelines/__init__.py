"""From the command line to artifacts: run directories, stages, progress, report."""

from typing import TYPE_CHECKING

from teacher.lazy import lazily

if TYPE_CHECKING:
    from pipelines.all_stages import run_all as run_all
    from pipelines.closed_loop import control as control
    from pipelines.closed_loop import selected_bundle as selected_bundle
    from pipelines.config import Config as Config
    from pipelines.config import preset as preset
    from pipelines.config import with_values as with_values
    from pipelines.export_students import export as export
    from pipelines.progress import Display as Display
    from pipelines.report import write_report as write_report
    from pipelines.rundir import Run as Run
    from pipelines.rundir import open_run as open_run
    from pipelines.stages import evaluate as evaluate
    from pipelines.stages import new_run as new_run
    from pipelines.train_students import distill as distill
    from pipelines.train_teacher import teach as teach
    from teacher.version import __version__ as __version__
else:
    __getattr__, __dir__, __all__ = lazily(__name__, __file__)
