"""The version of this program, as its packages state it."""

from importlib.metadata import version

__version__ = version("fathom-rl")
