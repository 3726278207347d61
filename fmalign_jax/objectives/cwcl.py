"""Contrast of whole windows in which similar windows are not false negatives."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, learning_scale
from fmalign_jax.systems.features import Features


class Cwcl(nn.Module):
    """CWCL from the stronger to the weaker modality, InfoNCE back (METHOD 5).

    Windows are compared by their mean semantic features on the unit sphere.

    Attributes:
      stronger: the modality whose similarities give the weights, such as the video.
      weaker: the modality contrasted with it.
      temperature: of the logits.
      centre_weights: subtract the batch mean before the weights' cosine. With two
        working states and neither option the optimum is uniform logits.
      weight_temperature: exp((cos - 1) / this) as weights; None for (cos + 1) / 2.
      learns_from: share of the gradient that reaches each side; None for all of it.
    """

    stronger: str
    weaker: str
    temperature: float = 0.1
    centre_weights: bool = True
    weight_temperature: float | None = None
    learns_from: PairTable | None = None

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the mean of both directions and metrics, all [B].

        ``cwcl_accuracy/<given>-><other>`` of each direction; and ``cwcl_own_weight``,
        the share of a window's weights that lies on its own pair: near 1 the loss is
        InfoNCE, and windows of the same state are negatives.
        """
        check_names(
            {self.stronger: {self.weaker: 1.0}},
            features.semantic,
            table_name="CWCL's stronger and weaker",
        )
        check_names(self.learns_from, features.semantic, table_name="learns_from")
        mask = features.mask
        anchors = losses.gradient_scale(
            features.semantic[self.stronger].mean(axis=1),
            learning_scale(self.learns_from, self.stronger, self.weaker),
        )
        partners = losses.gradient_scale(
            features.semantic[self.weaker].mean(axis=1),
            learning_scale(self.learns_from, self.weaker, self.stronger),
        )
        logits = losses.cosine_logits(anchors, partners, self.temperature)
        weights = losses.cwcl_weights(
            anchors,
            mask,
            centre=self.centre_weights,
            temperature=self.weight_temperature,
        )
        forth = losses.cwcl(logits, weights, mask)
        back = losses.info_nce(logits.T, mask)
        own = jnp.diagonal(weights) / jnp.maximum((weights * mask).sum(axis=-1), 1e-30)
        return (forth + back) / 2, {
            "cwcl_own_weight": jnp.where(mask, own, 0.0),
            f"cwcl_accuracy/{self.stronger}->{self.weaker}": losses.own_is_nearest(
                logits, mask
            ),
            f"cwcl_accuracy/{self.weaker}->{self.stronger}": losses.own_is_nearest(
                logits.T, mask
            ),
        }
