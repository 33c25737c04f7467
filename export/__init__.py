"""From a policy and a critic in JAX to a directory that a robot can run and check by itself."""

from typing import TYPE_CHECKING

from teacher.lazy import lazily

if TYPE_CHECKING:
    from export.bundle import write_bundle as write_bundle
    from export.controller import CommandLimiter as CommandLimiter
    from export.controller import Controller as Controller
    from export.controller import ControllerError as ControllerError
    from export.controller import Log as Log
    from export.controller import load as load
    from export.controller import run as run
    from teacher.version import __version__ as __version__
else:
    __getattr__, __dir__, __all__ = lazily(__name__, __file__)
