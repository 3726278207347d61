"""Windows that lie on the device: placed once, read by number inside the step.

Every device holds all of them, so that each reads its own rows of a batch without
asking another, and what crosses the bus in a step is one number a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int32

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.tables import tables_bytes, window_tables
from fmalign_jax.structs import UNLABELLED, Batch
from fmalign_jax.training import sharding

_MOST_SHARE = 0.5  # of the free memory; the step needs the rest


def place(store: RecordingStore, index: WindowIndex, mesh: Mesh) -> dict[str, Any]:
    """Puts all windows of a split onto every device of the mesh.

    Args:
      store: the values.
      index: the windows.
      mesh: the devices.

    Returns:
      The `WindowTables` as jax.Arrays.

    Raises:
      ValueError: they would take more than half of a device's free memory, if that is
        known; nothing is read then.
    """
    needed = tables_bytes(store, index)
    free = sharding.free_bytes(mesh.local_devices)
    if free is not None and needed > _MOST_SHARE * free:
        raise ValueError(
            "windows kept on the device may take half of its free memory; got "
            f"{needed / 1e6:.0f} MB for {len(index)} windows, and {free / 1e6:.0f} MB "
            "are free; use --config.data.resident=False, a longer data.tick_s or "
            "fewer recordings"
        )
    return sharding.place_replicated({**window_tables(store, index)}, mesh)


def gather(
    windows: Mapping[str, Any], window: Int32[Array, " B"], window_ticks: int
) -> Batch:
    """Reads windows by number, inside a compiled step.

    Args:
      windows: from `place`.
      window: numbers; those past the last window are padding, masked out.
      window_ticks: ticks T in a window.

    Returns:
      The batch that `pipeline.assemble` reads, bit for bit.
    """
    mask = window < len(windows["start"])
    window = jnp.minimum(window, len(windows["start"]) - 1)
    ticks = windows["start"][window, None] + jnp.arange(window_ticks)
    return Batch(
        streams={
            name: values[windows["samples"][name][ticks]]
            for name, values in windows["values"].items()
        },
        label=jnp.where(mask[:, None], windows["label"][ticks], UNLABELLED),
        mask=mask,
        recording=windows["recording"][window],
        time_s=windows["time_s"][window],
    )
