"""Contrast of queries with a class token, and matching of pairs, as in BLIP-2."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.systems.qformer import QFormerFeatures


class QueryMatching(nn.Module):
    """The two terms of a Q-Former (BLIP-2, Li et al. 2023).

        contrast  S[i, j] = s max_q <q_iq, t_j>, cross-entropy with label smoothing over
                  rows and over columns of the global batch, the mean of both
        matching  cross-entropy of "a pair" of a window's own, and of "no pair" of two
                  wrong ones that are similar, the mean over the three

    Attributes:
      queried: the modality that the queries read.
      other: the modality with the tokens.
      smoothing: of the labels of the contrast.
      contrast: weight of the first.
      match: weight of the second.
    """

    queried: str
    other: str
    smoothing: float = 0.1
    contrast: float = 1.0
    match: float = 1.0

    needs = ("match", "wrong", "scale")

    @nn.compact
    def __call__(
        self, features: QFormerFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and metrics.

        ``query_contrast`` and ``query_match`` [B] are the parts before their weights;
        ``query_accuracy`` [B], how often a window's partner is the nearest of the
        batch, mean of both ways; ``match_accuracy`` [B], of the three pairs;
        ``query_scale``, s.
        """
        check_names(
            {self.queried: {self.other: 1.0}},
            features.semantic,
            table_name="QueryMatching's queried and other",
        )
        mask = features.mask
        cosine = losses.largest_cosine(
            features.semantic[self.queried], features.semantic[self.other]
        )
        logits = features.scale * cosine
        forth, back = (
            losses.smoothed_info_nce(x, mask, smoothing=self.smoothing)
            for x in (logits, logits.T)
        )
        contrast = (forth + back) / 2
        near = [losses.own_is_nearest(x, mask) for x in (logits, logits.T)]
        # Where there is no other window, there is no wrong pair.
        counted = jnp.array([1.0, 0.0, 0.0]) + (mask.sum() > 1) * jnp.array([0, 1, 1])
        counted /= counted.sum()
        answer = jnp.broadcast_to(jnp.array([1, 0, 0]), features.match.shape[:2])
        by_pair = optax.softmax_cross_entropy_with_integer_labels(
            features.match, answer
        )
        match = jnp.where(mask, by_pair @ counted, 0.0)
        right = (features.match.argmax(axis=-1) == answer).astype(jnp.float32)
        return self.contrast * contrast + self.match * match, {
            "query_contrast": contrast,
            "query_match": match,
            "query_accuracy": (near[0] + near[1]) / 2,
            "match_accuracy": jnp.where(mask, right @ counted, 0.0),
            "query_scale": features.scale,
        }
