"""Which windows of a batch are far enough apart to be negatives of each other."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool

from fmalign_jax.systems.features import Features

ROUNDING_S = 1e-3
"""By how much a gap may fall short, so that one of exactly `min_gap_s` counts."""


def far_apart(features: Features, min_gap_s: float) -> Bool[Array, "B B"]:
    """Says whether two windows are of different recordings, or far enough apart.

    Args:
      features: of the batch.
      min_gap_s: least time between two windows of one recording.

    Raises:
      ValueError: the features do not say when their windows were.
    """
    time_s, recording = features.time_s, features.recording
    if time_s is None or recording is None:
        raise ValueError(
            "min_gap_s needs to know when windows were; got features without "
            "recording and time_s; take them from training.state.encode"
        )
    # Both parts of the time are subtracted before they are added: exact.
    gap_s = jnp.abs((time_s[:, None] - time_s).sum(axis=-1))
    enough = gap_s >= min_gap_s - ROUNDING_S
    return (recording[:, None] != recording) | enough
