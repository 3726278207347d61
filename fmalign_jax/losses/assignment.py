"""Balanced assignments of windows to prototypes, and what predicts them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def balanced_assignments(
    scores: Float[Array, "B K"],
    mask: Bool[Array, " B"] | None = None,
    *,
    sharpness: float = 0.05,
    iterations: int = 3,
) -> Float[Array, "B K"]:
    """Divides windows over prototypes so that each prototype gets the same share.

    Sinkhorn-Knopp on exp(scores / sharpness), in logarithms (SwAV, Caron et al. 2020,
    eq. 3; Cuturi 2013). No gradient passes. Balance keeps a teacher that learns from
    its own assignments from giving all windows the same one.

    Args:
      scores: of each window for each prototype, such as cosines.
      mask: [B], False for windows that do not count; their rows are not meaningful.
      sharpness: epsilon; towards 0 each window goes to one prototype.
      iterations: of the algorithm; the rows are normalised last, so that each sums
        to 1.

    >>> balanced_assignments(jnp.array([[1.0, 0.0], [1.0, 0.9]])).round(2)
    Array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
    log_q = scores / sharpness
    counted = jnp.ones(len(scores), bool) if mask is None else mask

    for _ in range(iterations):
        total = jax.nn.logsumexp(log_q, axis=0, keepdims=True, where=counted[:, None])
        log_q = jax.nn.log_softmax(log_q - total, axis=1)
    return jnp.exp(log_q)


def cross_entropy(
    target: Float[Array, "*n K"], logits: Float[Array, "*n K"]
) -> Float[Array, "*n"]:
    """Returns -sum_k target_k log softmax(logits)_k.

    >>> cross_entropy(jnp.array([0.5, 0.5]), jnp.zeros(2))
    Array(0.6931472, dtype=float32)
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -(target * log_p).sum(axis=-1)
