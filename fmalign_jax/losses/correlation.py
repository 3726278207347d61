"""Cross-correlation of paired windows to the identity."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def decorrelation(
    a: Float[Array, "B r"],
    b: Float[Array, "B r"],
    mask: Bool[Array, " B"] | None = None,
    *,
    off_diagonal: float = 0.1,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Barlow Twins (Zbontar et al. 2021, eq. 1): correlate pairwise, and only so.

        sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2

    with C the correlation of each column of `a` with each of `b` over the windows. A
    soft form of canonical correlation analysis: at its least, a and b are r pairs of
    canonical variates.

    Args:
      a: of one modality.
      b: of the other, paired by row.
      mask: [B], False for windows that do not count.
      off_diagonal: weight of correlations between columns that are no pair.

    Returns:
      The loss, and the mean of C_ii.
    """
    counted = jnp.ones(len(a), bool) if mask is None else mask
    a, b = (_standardised(x.astype(jnp.float32), counted) for x in (a, b))
    correlation = a.T @ b
    own = jnp.diagonal(correlation)
    off = correlation - jnp.diag(own)
    loss = jnp.square(1 - own).sum() + off_diagonal * jnp.square(off).sum()
    return loss, own.mean()


def _standardised(
    x: Float[Array, "B r"], counted: Bool[Array, " B"]
) -> Float[Array, "B r"]:
    """Returns columns of mean 0 and length 1 over the windows that count."""
    x = jnp.where(counted[:, None], x - x.mean(axis=0, where=counted[:, None]), 0.0)
    return x / jnp.sqrt(jnp.square(x).sum(axis=0) + 1e-6)
