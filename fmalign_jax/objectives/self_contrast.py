"""A window is nearer to itself under another augmentation than to the other windows."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.systems.features import Features


class SelfContrast(nn.Module):
    """InfoNCE between two augmented views of each window (SimCLR, Chen et al. 2020).

    It shapes a modality that teaches the others, and so learns nothing from them, by
    what its augmentations leave unchanged. Windows are compared by their mean semantic
    features on the unit sphere. In evaluation, where nothing is augmented, it is 0.

    Attributes:
      second_views: modalities to contrast with themselves.
      temperature: of the logits.
    """

    second_views: tuple[str, ...]
    temperature: float = 0.1

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss and, in training, ``self_accuracy/<modality>``, all [B]."""
        check_names(
            {name: {} for name in self.second_views},
            features.semantic,
            table_name="second_views",
        )
        mask = features.mask
        total = jnp.zeros(len(mask))
        metrics = {}
        for name in self.second_views if train else ():
            first, second = (
                views[name].mean(axis=1)
                for views in (features.semantic, features.second_view)
            )
            logits = losses.cosine_logits(first, second, self.temperature)
            total += losses.symmetric_info_nce(logits, mask)
            metrics[f"self_accuracy/{name}"] = losses.own_is_nearest(logits, mask)
        return total, metrics
