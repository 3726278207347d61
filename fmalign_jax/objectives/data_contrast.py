"""Two augmented views of a window, through two networks, find each other (CLMLF)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.models import linear
from fmalign_jax.systems.features import Features


class Projection(nn.Module):
    """Linear D -> D, GELU, Linear D -> D."""

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Returns vectors of the same shape."""
        return linear.Dense(x.shape[-1])(nn.gelu(linear.Dense(x.shape[-1])(x)))


class DataContrast(nn.Module):
    """Data-based contrastive learning (DBCL; Li et al. 2022).

    Symmetric InfoNCE on the unit sphere between the two views of each window, the first
    through one network and the second through another. In evaluation, where nothing is
    augmented, both are the window as it is.

    Attributes:
      second_views: views to contrast with themselves; modalities, or "fused".
      temperature: of the cosines.
    """

    second_views: tuple[str, ...]
    temperature: float = 0.07

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss and ``data_accuracy/<view>``, all [B].

        Raises:
          ValueError: an unknown view.
        """
        check_names(
            {name: {} for name in self.second_views},
            features.semantic,
            table_name="second_views",
        )
        mask = features.mask
        total = jnp.zeros(len(mask))
        metrics = {}
        for name in self.second_views:
            first = features.semantic[name]
            second = features.second_view.get(name, first)
            logits = losses.cosine_logits(
                Projection(name=f"first_{name}")(first.mean(axis=1)),
                Projection(name=f"second_{name}")(second.mean(axis=1)),
                self.temperature,
            )
            total += losses.symmetric_info_nce(logits, mask)
            metrics[f"data_accuracy/{name}"] = losses.own_is_nearest(logits, mask)
        return total, metrics
