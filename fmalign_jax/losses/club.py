"""CLUB, an upper bound of mutual information to be minimised (Cheng et al. 2020).

A critic q(s|z) = N(mean(z), diag exp log_variance(z)) is fitted by its likelihood; the
bound compares how well it explains a window's own s with how well it explains those
of other windows. It may be negative while the critic lags behind, and is not clamped.
With the true conditional and Gaussians of correlation r the bound is r^2 / (1 - r^2)
a dimension, above the information -log(1 - r^2) / 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def gaussian_log_likelihood(
    mean: Float[Array, "*n S"],
    log_variance: Float[Array, "*n S"],
    target: Float[Array, "*n S"],
) -> Float[Array, "*n"]:
    """log N(target; mean, diag exp log_variance), summed over the last axis.

    >>> gaussian_log_likelihood(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
    Array(-1.837877, dtype=float32)
    """
    scaled = jnp.square(target - mean) * jnp.exp(-log_variance)
    return -0.5 * (scaled + log_variance + jnp.log(2 * jnp.pi)).sum(axis=-1)


def club_sampled(
    mean: Float[Array, "B T S"],
    log_variance: Float[Array, "B T S"],
    summary: Float[Array, "B T S"],
    permutation: Int[Array, " B"],
) -> Float[Array, " B"]:
    """CLUB with one negative a window (Cheng et al. 2020, eq. 16; METHOD 4).

        1/2 sum_d [(mean_b - s_pi(b))^2 - (mean_b - s_b)^2] / exp(log_variance_b)

    at every tick, then the mean over the ticks.

    Args:
      mean: [B, T, S] of q(s|z).
      log_variance: [B, T, S] of q(s|z).
      summary: s [B, T, S].
      permutation: pi [B], of the global batch, as from `random_cycle`.

    >>> s = jnp.array([0.0, 2.0]).reshape(2, 1, 1)
    >>> club_sampled(s, jnp.zeros_like(s), s, jnp.array([1, 0]))
    Array([2., 2.], dtype=float32)
    """
    own = jnp.square(mean - summary)
    other = jnp.square(mean - summary[permutation])
    difference = 0.5 * (other - own) * jnp.exp(-log_variance)
    return difference.sum(axis=-1).mean(axis=-1)


def club_full(
    mean: Float[Array, "B T S"],
    log_variance: Float[Array, "B T S"],
    summary: Float[Array, "B T S"],
    mask: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """CLUB against all other windows, the mean of `club_sampled` over its negatives.

    The mean over b' of (mean_b - s_b')^2 is (mean_b - centre)^2 + spread, so no [B, B]
    array is needed. A window is not its own negative.

    Args:
      mean: [B, T, S] of q(s|z).
      log_variance: [B, T, S] of q(s|z).
      summary: s [B, T, S].
      mask: [B], False for windows that are neither counted nor negatives.

    >>> s = jnp.array([0.0, 2.0]).reshape(2, 1, 1)
    >>> club_full(s, jnp.zeros_like(s), s)
    Array([2., 2.], dtype=float32)
    """
    counted = jnp.ones(len(summary), bool) if mask is None else mask
    count = jnp.maximum(counted.sum(), 1)
    rows = counted[:, None, None]
    centre = summary.sum(axis=0, where=rows) / count
    spread = jnp.square(summary - centre).sum(axis=0, where=rows) / count
    every = jnp.square(mean - centre) + spread
    own = jnp.square(mean - summary)
    # The mean over the others: the own pair's zero difference leaves the average.
    others = count / jnp.maximum(count - 1, 1)
    difference = 0.5 * others * (every - own) * jnp.exp(-log_variance)
    return jnp.where(counted, difference.sum(axis=-1).mean(axis=-1), 0.0)


def random_cycle(key: Key[Array, ""], mask: Bool[Array, " B"]) -> Int[Array, " B"]:
    """Draws a permutation that gives every window another one, none of them masked.

    The windows that count form one random cycle; masked ones stay where they are. A
    plain permutation would leave on average one window its own negative.

    >>> random_cycle(jax.random.key(0), jnp.array([True, True, False]))
    Array([1, 0, 2], dtype=int32)
    """
    positions = jnp.arange(len(mask))
    draws = jnp.where(mask, jax.random.uniform(key, mask.shape), 2.0)
    order = jnp.argsort(draws)
    count = mask.sum()
    following = order[(positions + 1) % jnp.maximum(count, 1)]
    return positions.at[order].set(jnp.where(positions < count, following, order))
