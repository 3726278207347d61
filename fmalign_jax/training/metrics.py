"""Sums and counts that merge: means of logged values, and the codebook's health.

All work inside jit, over batches sharded in any way, and count each window once: rows
whose mask is False change nothing. Names of pairs are in alphabetical order, because
JAX sorts the keys of every dictionary that passes a jit.
"""

from __future__ import annotations

from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@no_type_check  # as a pytree it also carries shapes and fetched arrays
@flax.struct.dataclass
class Mean:
    """A mean over windows, in the making.

    Attributes:
      total: fp32 sum of the values of the windows that count.
      count: int32 number of them.
    """

    total: Float[Array, ""]
    count: Int[Array, ""]

    @classmethod
    def of(cls, values: Array, mask: Bool[Array, " B"]) -> Mean:
        """Starts from one value per window [B], or one that stands for all windows."""
        values = jnp.broadcast_to(jnp.asarray(values, jnp.float32), mask.shape)
        return cls(
            jnp.where(mask, values, 0.0).sum(),
            mask.sum(dtype=jnp.int32),
        )

    def merge(self, other: Mean) -> Mean:
        """Returns the mean over the windows of both."""
        return jax.tree.map(jnp.add, self, other)

    def compute(self) -> Float[Array, ""]:
        """Returns the mean; NaN when nothing was counted."""
        return jnp.divide(self.total, self.count)
