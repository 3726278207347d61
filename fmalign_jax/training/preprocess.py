"""From the batch as it travelled (uint8, amperes) to what the encoders see.

Runs inside the compiled step, on the device: frames cross the bus as uint8.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

Statistics = Mapping[str, Mapping[str, Array]]
Streams = Mapping[str, Shaped[Array, "..."]]


def normalise(streams: Streams, statistics: Statistics) -> dict[str, Array]:
    """Standardises each channel with the statistics of the training split.

    Args:
      streams: raw windows [B, T, R, ...] by modality, or one window of each.
      statistics: mean and std [C] by modality; a modality without an entry is a
        token stream and passes through unchanged.

    Returns:
      The same shapes, float32 and dimensionless (tokens keep their integer dtype).
    """
    return {
        name: (values.astype(jnp.float32) - statistics[name]["mean"])
        / statistics[name]["std"]
        if name in statistics
        else values
        for name, values in streams.items()
    }


def at_lead(
    streams: Streams, lead: Int[Array, " B"], *, leading: str, samples_per_tick: int
) -> dict[str, Array]:
    """Takes the samples of one lead where windows hold those of several.

    Args:
      streams: raw windows by modality: the leading one [B, T, L * R, ...], the samples
        of L leads side by side in each tick; the others as they are.
      lead: number in [0, L) of each window's lead.
      leading: name of the leading stream.
      samples_per_tick: R of the leading stream.
    """
    values = streams[leading]
    b, t, slots = values.shape[:3]
    leads = slots // samples_per_tick
    values = values.reshape(b, t, leads, samples_per_tick, *values.shape[3:])
    return {**streams, leading: values[jnp.arange(b), :, lead]}
