"""Squared errors, and two helpers about means and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_mean(
    values: Float[Array, " B"], mask: Bool[Array, " B"]
) -> Float[Array, ""]:
    """Mean over the windows that count; 0 when none does.

    Args:
      values: [B] one value per window; those of windows that do not count may be NaN.
      mask: [B], False for rows that only pad a batch.

    >>> masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False]))
    Array(2., dtype=float32)
    """
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def gradient_scale(x: Float[Array, "*n"], scale: float) -> Float[Array, "*n"]:
    """Returns x exactly, with its gradient multiplied by `scale`.

    A scale of 0 makes x a pure teacher, of 1 an ordinary student.

    >>> jax.grad(lambda x: gradient_scale(x, 0.25) ** 2)(3.0)
    Array(1.5, dtype=float32, weak_type=True)
    """
    held = jax.lax.stop_gradient(x)
    # Unlike scale * x + (1 - scale) * held, this form cannot change x by rounding.
    return held + scale * (x - held)


def squared_error(
    prediction: Float[Array, "B *n"], target: Float[Array, "B *n"]
) -> Float[Array, " B"]:
    """Mean squared error of each window, over all axes but the first.

    Args:
      prediction: [B, ...] of any float dtype; the error is taken in fp32.
      target: same shape.

    >>> squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 0.0]]))
    Array([5.], dtype=float32)
    """
    error = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.square(error).mean(axis=tuple(range(1, error.ndim)))


def commitment(
    semantic: Float[Array, "B T D"], code_vectors: Float[Array, "B T D"]
) -> Float[Array, " B"]:
    """Pulls features to codes, mean ||z - sg(e_c)||^2 over T and D (METHOD 2).

    Args:
      semantic: z [B, T, D] of the student.
      code_vectors: e_c [B, T, D], codes of the teacher at the same ticks (the student
        itself included); no gradient reaches them.

    >>> commitment(jnp.ones((1, 1, 2)), jnp.zeros((1, 1, 2)))
    Array([1.], dtype=float32)
    """
    return squared_error(semantic, jax.lax.stop_gradient(code_vectors))
