"""A window's partner is nearer to it than the partners of other windows."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.models.cmg import Features
from fmalign_jax.pairs import PairTable, check_names, learning_scale


class Triplet(nn.Module):
    """Semi-hard triplet loss on mean semantic features of windows (METHOD 5).

    Negatives are the partners of all other windows of the batch. Keep its weight at
    0.1 or below and watch `triplet_active`: near 0 the term has nothing left to say.

    Attributes:
      anchor: modality of the anchors, such as the video.
      positive: modality of positives and negatives, such as the current.
      margin: least difference of squared distances between unit vectors.
      learns_from: share of the gradient that reaches each side; None for all of it.
    """

    anchor: str
    positive: str
    margin: float = 0.2
    learns_from: PairTable | None = None

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss and ``triplet_active``, 1 where it is above 0, both [B]."""
        check_names(
            {self.anchor: {self.positive: 1.0}},
            features.semantic,
            table_name="the triplet's anchor and positive",
        )
        check_names(self.learns_from, features.semantic, table_name="learns_from")
        mask = features.mask
        allowed = mask[:, None] & mask & ~jnp.eye(len(mask), dtype=bool)
        loss = losses.triplet(
            losses.gradient_scale(
                features.semantic[self.anchor].mean(axis=1),
                learning_scale(self.learns_from, self.anchor, self.positive),
            ),
            losses.gradient_scale(
                features.semantic[self.positive].mean(axis=1),
                learning_scale(self.learns_from, self.positive, self.anchor),
            ),
            allowed,
            margin=self.margin,
        )
        return loss, {"triplet_active": (loss > 0).astype(jnp.float32)}
