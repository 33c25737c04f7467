"""How functions are compiled where JAX's defaults do not do."""

from collections.abc import Callable
from typing import Any

import jax
import jaxlib


def jit_physics(function: Callable, **options: Any) -> Callable:
    """Compiles, as `jax.jit` does, functions that step a simulator.

    With jaxlib before 0.11 XLA's CPU fusion duplicates work along a kinematic chain, some
    700 times; those versions need it off, later ones neither need nor know the option.
    """
    version = tuple(int(part) for part in jaxlib.__version__.split(".")[:2])
    if version < (0, 11) and jax.default_backend() == "cpu":
        options["compiler_options"] = {"xla_cpu_use_fusion_emitters": False}
    return jax.jit(function, **options)


def jit_once(function: Callable, **options: Any) -> Callable:
    """Compiles functions that run a few times: optimising them would take longer than running them."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)
