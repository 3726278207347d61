"""A student chooses the codes that its teacher chose."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, pair_entries
from fmalign_jax.systems.code_statistics import CodeFeatures


class CodePrediction(nn.Module):
    """Cross-entropy of the teacher's codes under the student's distances to all codes.

    Commitment to the teacher's code vectors pulls the student to their mean, which may
    be no code at all where the teacher's is uncertain; this pulls it to the likeliest.
    The swapped prediction of SwAV (Caron et al. 2020) with hard assignments.

    Attributes:
      weights: weights[student][teacher].
      temperature: of the distances, in their units.
    """

    weights: PairTable
    temperature: float = 1.0

    needs = ("codes", "embeddings")

    @nn.compact
    def __call__(
        self, features: CodeFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and no metrics; `token_agreement` measures it."""
        check_names(self.weights, features.semantic, table_name="weights")
        total = jnp.zeros(len(features.mask))
        for student, teacher, weight in pair_entries(self.weights):
            total += weight * losses.code_prediction(
                features.semantic[student],
                jax.lax.stop_gradient(features.book(student)),
                features.codes[teacher],
                self.temperature,
            )
        return total, {}
