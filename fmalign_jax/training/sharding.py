"""The device mesh and how arrays lie on it: the only file that knows devices.

Data parallelism by one `jax.jit` over a one-axis mesh: the batch is cut along its
first axis, the state is on every device. Code inside the step sees the GLOBAL batch,
so negatives, permutations and codebook sums are global with no collective written by
hand (what `pmap` was for is written this way today).
"""

from __future__ import annotations

import collections
import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"

SMALL = 2**16
"""Arrays of fewer numbers are small."""


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis, "data", over the devices (all by default)."""
    if devices is None:
        devices = jax.devices()
        _say_once(tuple(device.device_kind for device in devices))
    # Auto axes: under the default, explicit ones, z @ z.T of a sharded z is refused.
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


@functools.cache
def _say_once(kinds: tuple[str, ...]) -> None:
    """Says which devices a command runs on."""
    counted = collections.Counter(kinds).items()
    text = ", ".join(f"{number} x {kind}" for kind, number in counted)
    logging.getLogger(__name__).info("devices: %s", text)


def one_device_mesh() -> Mesh:
    """Returns a mesh of the first device.

    On several, sums over a batch round otherwise, and training amplifies that: what
    must not depend on their number at all is computed on one.
    """
    return make_mesh(jax.devices()[:1])


def on_one_device(tree: Any) -> Any:
    """Returns arrays that lie on every device of a mesh, on the first one alone."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the train state: the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def divided(tree: Any, mesh: Mesh) -> Any:
    """Returns a sharding for every array: each device holds a part of the large ones.

    An array is cut along the longest axis that the devices share evenly; small ones,
    and those without such an axis, lie whole on every device.
    """

    def lay(array: Any) -> NamedSharding:
        even = [n for n in array.shape if n % mesh.size == 0]
        if array.size < SMALL or not even:
            return replicated(mesh)
        axis = array.shape.index(max(even))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA_AXIS))

    return jax.tree.map(lay, tree)


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its rows divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless the devices share the global batch evenly."""
    if batch_size % mesh.size:
        raise ValueError(
            "batch_size must be a multiple of the number of devices; got "
            f"{batch_size} on {mesh.size} devices; use "
            f"--config.batch_size={mesh.size * max(1, batch_size // mesh.size)}"
        )


def place_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts this process's rows of a batch onto its devices of the mesh.

    Args:
      batch: NumPy arrays whose first axis holds this process's rows; the global batch
        is the rows of all processes, in the order of their index.
      mesh: from `make_mesh`.

    Returns:
      The same tree of global jax.Arrays; float64 (times) [B] becomes float32 [B, 2],
      two numbers whose sum it is: seconds since 1970 are known to 128 s in one.
    """
    return _placed(batch, batch_sharded(mesh))


def place_replicated(tree: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts NumPy arrays, the same on every process, onto every device of the mesh.

    Returns:
      The same tree of global jax.Arrays; float64 becomes float32 as by `place_batch`.
    """
    return _placed(tree, replicated(mesh))


def free_bytes(devices: Iterable[Any]) -> int | None:
    """Returns the free memory of the fullest device; None where one does not tell.

    CPUs do not.
    """
    free = []
    for device in devices:
        stats = device.memory_stats()
        if not stats or "bytes_limit" not in stats:
            return None
        free.append(stats["bytes_limit"] - stats["bytes_in_use"])
    return min(free)


def _placed(tree: Mapping[str, Any], sharding: NamedSharding) -> dict[str, Any]:
    def place(values: np.ndarray) -> jax.Array:
        values = _as_pairs(values) if values.dtype == np.float64 else values
        return jax.make_array_from_process_local_data(sharding, values)

    return jax.tree.map(place, dict(tree))


def _as_pairs(values: np.ndarray) -> np.ndarray:
    """Splits float64 [...] into float32 [..., 2]: the nearest, and what it lacks."""
    nearest = values.astype(np.float32)
    return np.stack([nearest, (values - nearest).astype(np.float32)], axis=-1)
