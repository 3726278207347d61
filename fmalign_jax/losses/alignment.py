"""Losses between weights on units, a tick, and the units that another modality chose.

The weights of a tick are not negative and sum to one, such as those of an attention.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy import ndarray

_LEAST = 1e-8  # as published: a weight may underflow to 0
_EXACT = jax.lax.Precision.HIGHEST


def log_weights(weights: Float[Array, "*n U"]) -> Float[Array, "*n U"]:
    """Returns ln(A + 1e-8) in fp32.

    >>> log_weights(jnp.array([1.0, 0.0])).round(2)
    Array([  0.  , -18.42], dtype=float32)
    """
    return jnp.log(weights.astype(jnp.float32) + _LEAST)


def local_alignment(
    weights: Float[Array, "B T U"],
    units: Int[Array, "B T"],
    *,
    reach_ticks: int = 1,
    lag_ticks: int = 0,
) -> Float[Array, " B"]:
    """Cross-entropy of the units around each tick, in the manner of AlignVSR.

        -mean_t sum_d ln(A[t, u[t - lag + d]] + 1e-8),  d = -w .. w

    What lies outside the window is left out, and the sum of the others scaled by
    (2w + 1) / how many there are; a tick without any is left out. Uniform weights give
    (2w + 1) ln U.

    Args:
      weights: A [B, T, U].
      units: u [B, T].
      reach_ticks: w.
      lag_ticks: how far the units are ahead of the ticks that they belong to.

    Raises:
      ValueError: no tick has a unit at this lag.

    >>> local_alignment(jnp.full((1, 2, 2), 0.5), jnp.zeros((1, 2), int))
    Array([2.0794415], dtype=float32)
    """
    near = _near(units.shape[1], reach_ticks, lag_ticks)
    left = near.sum(axis=1, keepdims=True)
    each = (2 * reach_ticks + 1) / np.maximum(left, 1) / (left > 0).sum()
    one_hot = jax.nn.one_hot(units, weights.shape[-1])
    told = jnp.einsum("btu,bsu->bts", log_weights(weights), one_hot, precision=_EXACT)
    return -(told * jnp.asarray(near * each, jnp.float32)).sum(axis=(1, 2))


def units_near(
    units: Int[Array, "B T"], size: int, *, reach_ticks: int = 1, lag_ticks: int = 0
) -> Bool[Array, "B T U"]:
    """Says which units `local_alignment` asks of each tick.

    Args:
      units: u [B, T].
      size: U.
      reach_ticks: w.
      lag_ticks: how far the units are ahead of the ticks that they belong to.

    Raises:
      ValueError: no tick has a unit at this lag.
    """
    near = jnp.asarray(_near(units.shape[1], reach_ticks, lag_ticks), jnp.float32)
    return jnp.einsum("ts,bsu->btu", near, jax.nn.one_hot(units, size)) > 0.5


def global_alignment(
    weights: Float[Array, "B T U"], units: Int[Array, "B T"]
) -> Float[Array, " B"]:
    """Cross-entropy of a window's histogram of units, whatever their order.

        -sum_u h_u ln(mean_t A[t, u] + 1e-8)

    Args:
      weights: A [B, T, U].
      units: u [B, T], whose histogram is h.

    >>> global_alignment(jnp.full((1, 3, 2), 0.5), jnp.array([[0, 1, 1]]))
    Array([0.6931472], dtype=float32)
    """
    histogram = jax.nn.one_hot(units, weights.shape[-1]).mean(axis=1)
    return -(histogram * log_weights(weights.mean(axis=1))).sum(axis=-1)


def _near(ticks: int, reach_ticks: int, lag_ticks: int) -> Bool[ndarray, "T T"]:
    """Says of which ticks [1] the units are asked of a tick [0]."""
    behind = np.arange(ticks)[:, None] - np.arange(ticks)
    near: ndarray = np.abs(behind - lag_ticks) <= reach_ticks
    if not near.any():
        raise ValueError(
            "lag_ticks and reach_ticks must leave a tick some unit of its window; got "
            f"{lag_ticks} and {reach_ticks} for windows of {ticks} ticks; shift the "
            "current by data.lead_s instead"
        )
    return near
