"""A window's partner is nearer to it than the partners of other windows."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, learning_scale
from fmalign_jax.objectives.gaps import far_apart
from fmalign_jax.systems.features import Features


class Triplet(nn.Module):
    """Semi-hard triplet loss on mean semantic features of windows (METHOD 5).

    Negatives are the partners of the windows of other recordings, and of those of the
    same recording that are far enough away. Keep its weight at 0.1 or below and watch
    `triplet_active`: near 0 the term has no more effect.

    Attributes:
      anchor: modality of the anchors, such as the video.
      positive: modality of positives and negatives, such as the current.
      min_gap_s: least time between a window and its negatives in one recording, the
        lead or more, so that no negative shows what the window does.
      margin: least difference of squared distances between unit vectors.
      learns_from: share of the gradient that reaches each side; None for all of it.
    """

    anchor: str
    positive: str
    min_gap_s: float
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
        allowed &= far_apart(features, self.min_gap_s)
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
