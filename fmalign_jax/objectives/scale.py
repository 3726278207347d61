"""The scale of cosines: given by a temperature, or learned."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses


def scale_of(term: nn.Module, temperature: float | None) -> Float[Array, ""]:
    """Returns 1 / temperature; without one the term's parameter `scale`, learned.

    Args:
      term: a loss term, in its compact `__call__`.
      temperature: of the cosines, or None to learn the scale.
    """
    if temperature is not None:
        return jnp.asarray(1.0 / temperature, jnp.float32)
    start = nn.initializers.constant(losses.SCALE_START)
    return losses.learned_scale(term.param("scale", start, (), jnp.float32))
