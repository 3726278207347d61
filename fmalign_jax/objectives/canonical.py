"""Modalities agree along a few directions: a soft canonical correlation analysis."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, learning_scale
from fmalign_jax.models import linear
from fmalign_jax.systems.features import Features


class Canonical(nn.Module):
    """Cross-correlation of two modalities to the identity, along r directions.

    Window means are projected to r numbers; those of both modalities are to correlate
    pair by pair, and with nothing else (Barlow Twins, Zbontar et al. 2021; deep CCA,
    Andrew et al. 2013). What one modality alone shows has no place there, unlike in a
    contrast, which needs all that tells windows apart.

    Attributes:
      first: a modality.
      second: the other.
      directions: r.
      off_diagonal: weight of correlations between directions that are no pair.
      learns_from: share of the gradient that reaches each side; None for all of it.
    """

    first: str
    second: str
    directions: int = 4
    off_diagonal: float = 0.1
    learns_from: PairTable | None = None

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss, the same for all windows, and ``canonical_correlation``."""
        check_names(
            {self.first: {self.second: 1.0}},
            features.semantic,
            table_name="canonical's first and second",
        )
        check_names(self.learns_from, features.semantic, table_name="learns_from")
        along = {}
        for own, other in ((self.first, self.second), (self.second, self.first)):
            seen = losses.gradient_scale(
                features.semantic[own].mean(axis=1),
                learning_scale(self.learns_from, own, other),
            )
            along[own] = linear.Dense(self.directions, name=f"directions_{own}")(seen)
        loss, correlation = losses.decorrelation(
            along[self.first],
            along[self.second],
            features.mask,
            off_diagonal=self.off_diagonal,
        )
        whole = jnp.ones(len(features.mask))
        return loss * whole, {"canonical_correlation": correlation * whole}
