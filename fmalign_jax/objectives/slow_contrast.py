"""A half of a window is nearer to its other half than to other windows."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.objectives.gaps import far_apart
from fmalign_jax.systems.features import Features


class SlowContrast(nn.Module):
    """InfoNCE between the two halves of each window, under different augmentations.

    As `SelfContrast`, but what stays the same in the positive is what changes slowly
    (Wiskott and Sejnowski 2002; time contrast, Hyvarinen and Morioka 2016): the halves
    of a window of 60 s are 30 s apart. Windows that are nearer than `min_gap_s` are no
    negatives. In evaluation, where nothing is augmented, it is 0.

    Attributes:
      second_views: modalities to contrast with themselves.
      min_gap_s: least time between a window and its negatives in one recording.
      temperature: of the logits.
    """

    second_views: tuple[str, ...]
    min_gap_s: float = 0.0
    temperature: float = 0.1

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss and, in training, ``slow_accuracy/<modality>``, all [B]."""
        check_names(
            {name: {} for name in self.second_views},
            features.semantic,
            table_name="second_views",
        )
        mask = features.mask
        total = jnp.zeros(len(mask))
        metrics = {}
        for name in self.second_views if train else ():
            negative = far_apart(features, self.min_gap_s)
            negative |= jnp.eye(len(mask), dtype=bool)
            first, second = features.semantic[name], features.second_view[name]
            middle = first.shape[1] // 2
            for early, late in ((first, second), (second, first)):
                logits = losses.cosine_logits(
                    early[:, :middle].mean(axis=1),
                    late[:, middle:].mean(axis=1),
                    self.temperature,
                )
                logits = jnp.where(negative, logits, -1e30)
                total += losses.symmetric_info_nce(logits, mask) / 2
            metrics[f"slow_accuracy/{name}"] = losses.own_is_nearest(logits, mask)
        return total, metrics
