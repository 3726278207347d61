"""Partner windows have similar distributions over the codes."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, learning_scale
from fmalign_jax.systems.code_statistics import CodeFeatures


class CodeMatching(nn.Module):
    """Cross-modal code matching, L_cmcm, summed over pairs of modalities (METHOD 3).

    Attributes:
      learns_from: share of each pair's gradient that reaches the student's features;
        None for all of it on both sides.
    """

    learns_from: PairTable | None = None

    needs = ("embeddings",)

    @nn.compact
    def __call__(
        self, features: CodeFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and no metrics."""
        check_names(self.learns_from, features.semantic, table_name="learns_from")
        log_p = {
            name: losses.log_code_distribution(
                z, jax.lax.stop_gradient(features.book(name))
            )
            for name, z in features.semantic.items()
        }
        total = jnp.zeros(len(features.mask))
        for first, second in itertools.combinations(sorted(log_p), 2):
            scale = learning_scale(self.learns_from, first, second)
            scale_back = learning_scale(self.learns_from, second, first)
            total += losses.code_matching(
                losses.gradient_scale(log_p[first], scale),
                losses.gradient_scale(log_p[second], scale_back),
                features.mask,
            )
        return total, {}
