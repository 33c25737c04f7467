"""One run over several devices and hosts: a mesh with one axis, along which data is divided.

Environments and replay stay where they are; goals' embeddings are gathered, so that every
state-action is told apart from the goals of the whole batch; each device holds all parameters and
a share of the optimiser's state. Settings describe the whole run: its result does not depend on
the number of devices, beyond the order of sums and the windows of `collect.sampling`.

Collectives are written out, by `shard_map`: the compiler cannot divide the kernels of Warp and
Pallas, and would gather a replay that is read at computed places.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

Array = jax.Array
Tree = Any  # nested arrays

AXIS = "data"


class Devices:
    """The devices of a run; by default all there are, on all hosts.

    The methods that take arrays belong inside a function given to `spread`, and there each device
    sees its own part alone. With one device they do nothing, and nothing is spread."""

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        self.all = tuple(jax.devices() if devices is None else devices)
        self.count = len(self.all)
        self.several_processes = len({device.process_index for device in self.all}) > 1
        self._mesh = Mesh(np.array(self.all), (AXIS,))

    def connect(self) -> None:
        """Lets the devices of several processes meet; all must call it, at about the same time.

        Later, one may compile for longer than another waits for it to connect."""
        if self.several_processes:
            jax.block_until_ready(jax.jit(self.spread(lambda: jax.lax.psum(jnp.ones(()), AXIS), (), P()))())

    def of_first(self, number: int) -> int:
        """Returns the first process's number; every process must ask."""
        if not self.several_processes:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def spread(self, function: Callable, takes: Tree, gives: Tree) -> Callable:
        """Runs `function` on every device at once; `takes` and `gives` say how arrays are divided."""
        if self.count == 1:
            return function
        return jax.shard_map(function, mesh=self._mesh, in_specs=takes, out_specs=gives, check_vma=False)

    def index(self) -> Array | int:
        """Returns which of the devices this is."""
        return 0 if self.count == 1 else jax.lax.axis_index(AXIS)

    def rows(self, total: int) -> Array:
        """Returns the numbers of this device's rows among `total`."""
        share = total // self.count
        return self.index() * share + jnp.arange(share)

    def gather(self, rows: Array) -> Array:
        """Gathers [n, ...] of each device -> [n * devices, ...], this device's own first."""
        if self.count == 1:
            return rows
        return jnp.roll(jax.lax.all_gather(rows, AXIS, tiled=True), -self.index() * len(rows), axis=0)

    def mean(self, tree: Tree) -> Tree:
        """Averages over the devices."""
        return tree if self.count == 1 else jax.lax.pmean(tree, AXIS)

    def layer_spec(self, leaf: Any) -> P:
        """Says how an array of the optimiser is divided: along its first axis that comes out even.

        Vectors and what does not divide are kept whole on every device."""
        axis = self._layer_axis(leaf)
        return P() if axis is None else P(*[None] * axis, AXIS)

    def mean_parts(self, tree: Tree) -> Tree:
        """Averages whole arrays over the devices; returns this device's part."""

        def part(leaf: Array, axis: int) -> Array:
            return jax.lax.psum_scatter(leaf, AXIS, scatter_dimension=axis, tiled=True) / self.count

        return self._by_layer(part, self.mean, tree, tree)

    def own_parts(self, tree: Tree) -> Tree:
        """Returns this device's part of arrays that every device has whole."""

        def part(leaf: Array, axis: int) -> Array:
            size = leaf.shape[axis] // self.count
            return jax.lax.dynamic_slice_in_dim(leaf, self.index() * size, size, axis)

        return self._by_layer(part, lambda leaf: leaf, tree, tree)

    def whole(self, parts: Tree, like: Tree) -> Tree:
        """Joins every device's parts to arrays that all have whole, of the shapes of `like`."""

        def join(part: Array, axis: int) -> Array:
            return jax.lax.all_gather(part, AXIS, axis=axis, tiled=True)

        return self._by_layer(join, lambda part: part, parts, like)

    def norm(self, parts: Tree, like: Tree) -> Array:
        """Returns the norm of all the arrays whose parts the devices hold."""

        def square(part: Array) -> Array:
            return (part**2).sum()

        squares = self._by_layer(lambda part, _: jax.lax.psum(square(part), AXIS), square, parts, like)
        return jnp.sqrt(sum(jax.tree.leaves(squares)))

    def _by_layer(self, divided: Callable, kept: Callable, parts: Tree, like: Tree) -> Tree:
        """Applies `divided` to the parts of arrays that are divided, and their axis; `kept` to all others."""

        def apply(part: Array, leaf: Any) -> Array:
            axis = self._layer_axis(leaf)
            found: Array = kept(part) if axis is None else divided(part, axis)
            return found

        return jax.tree.map(apply, parts, like)

    def _layer_axis(self, leaf: Any) -> int | None:
        if self.count == 1 or len(leaf.shape) < 2:
            return None
        return next((axis for axis, size in enumerate(leaf.shape) if size % self.count == 0), None)

    def place(self, tree: Tree, specs: Tree) -> Tree:
        """Divides arrays of this process, the same in all of them, over the devices.

        specs: may stop above the leaves; a spec then holds for all below it."""
        if self.count == 1:
            return tree

        def divided(leaf: Array, spec: P) -> Array:
            whole, sharding = np.asarray(leaf), NamedSharding(self._mesh, spec)
            return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part].copy())

        return jax.tree.map(
            lambda spec, part: jax.tree.map(lambda leaf: _as_numbers(divided, leaf, spec), part),
            specs,
            tree,
            is_leaf=lambda node: isinstance(node, P),
        )

    def fetch(self, tree: Tree) -> Tree:
        """Fetches arrays divided over several processes whole into this one; every process must ask.

        Those of a single process can be read as they are."""
        if not self.several_processes:
            return tree
        from jax.experimental import multihost_utils

        gather = partial(multihost_utils.process_allgather, tiled=True)
        return jax.tree.map(partial(_as_numbers, gather), tree)

    def local(self, tree: Tree) -> Tree:
        """Returns arrays that every device has whole, on one device of this process."""
        return tree if self.count == 1 else jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def _as_numbers(function: Callable, leaf: Array, *more: Any) -> Any:
    """Applies to an array, or to the numbers behind random keys, what does not take keys."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(function(jax.random.key_data(leaf), *more)))
    return function(leaf, *more)
