"""Contrast of masked ticks within a window and of masked windows in the batch."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fmalign_jax import losses
from fmalign_jax.systems.features import Features


class MaskedContrast(nn.Module):
    """The fine and the coarse contrast of MICU (open-set cross-modal, ICCV 2025).

    In training each tick of a window is kept with a probability, the same ticks of
    every modality: y = mask z. Over all ordered pairs of modalities, one with itself
    included, summed:

        fine     InfoNCE over the ticks of one window, y_t of one against z_t' of the
                 other, mean over the kept ticks
        coarse   InfoNCE over the windows of the batch, mean_t y against mean_t z

    A masked tick would contribute log T and no gradient, so it is left out. Ticks of
    one window are mostly of one state, which makes them hard negatives of each other.

    Attributes:
      keep: probability that a tick is kept in training; all are kept otherwise.
      temperature: of both contrasts.
      fine: weight of the first.
      coarse: weight of the second.
    """

    keep: float = 0.7
    temperature: float = 0.1
    fine: float = 1.0
    coarse: float = 1.0

    random_streams = ("mask",)

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and metrics, all [B].

        ``masked_fine`` and ``masked_coarse`` are the two parts before their weights;
        ``coarse_accuracy``, the mean over pairs of different modalities of how often a
        window's partner is the nearest of the batch.
        """
        semantic = features.semantic
        first = next(iter(semantic.values()))
        kept = jnp.ones(first.shape[:2], bool)
        if train and self.keep < 1:
            kept = jax.random.bernoulli(self.make_rng("mask"), self.keep, kept.shape)
        fine, coarse = (jnp.zeros(len(kept)) for _ in range(2))
        accuracies = []
        for asking, z in semantic.items():
            query = jnp.where(kept[..., None], z, 0.0)
            for asked, key in semantic.items():
                fine += self._fine(query, key, kept)
                logits = losses.cosine_logits(
                    query.mean(axis=1), key.mean(axis=1), self.temperature
                )
                # Of a window without a kept tick all logits are equal: no gradient.
                own = losses.info_nce(logits, features.mask)
                coarse += jnp.where(kept.any(axis=1), own, 0.0)
                if asked != asking:
                    accuracies.append(losses.own_is_nearest(logits, features.mask))
        metrics = {"masked_fine": fine, "masked_coarse": coarse}
        if accuracies:
            metrics["coarse_accuracy"] = jnp.stack(accuracies).mean(axis=0)
        return self.fine * fine + self.coarse * coarse, metrics

    def _fine(
        self,
        query: Float[Array, "B T D"],
        key: Float[Array, "B T D"],
        kept: Bool[Array, "B T"],
    ) -> Float[Array, " B"]:
        logits = jnp.einsum(
            "btd,bsd->bts",
            losses.normalise(query),
            losses.normalise(key),
            precision=jax.lax.Precision.HIGHEST,
        )
        by_tick = losses.info_nce(logits / self.temperature)
        total = jnp.where(kept, by_tick, 0.0).sum(axis=1)
        return total / jnp.maximum(kept.sum(axis=1), 1)
