"""Features stay near the codes, their own and those of their teachers."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, pair_entries
from fmalign_jax.systems.code_statistics import CodeFeatures


class Commitment(nn.Module):
    """sum_n beta[m, n] mean||z^m - sg(e_{c^n})||^2, summed over m (METHOD 2).

    Attributes:
      weights: beta[student][teacher]; the paper's own 0.25, other 0.125.
    """

    weights: PairTable

    needs = ("code_vectors",)

    @nn.compact
    def __call__(
        self, features: CodeFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and ``commitment/<student>-><teacher>``, unweighted."""
        check_names(self.weights, features.semantic, table_name="commitment weights")
        total = jnp.zeros(len(features.mask))
        metrics = {}
        for student, teacher, weight in pair_entries(self.weights):
            error = losses.commitment(
                features.semantic[student], features.code_vectors[teacher]
            )
            metrics[f"commitment/{student}->{teacher}"] = error
            total += weight * error
        return total, metrics
