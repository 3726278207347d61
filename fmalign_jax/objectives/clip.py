"""Contrast of whole windows with a learned temperature, as in CLIP."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import PairTable, check_names, learning_scale
from fmalign_jax.objectives.gaps import far_apart
from fmalign_jax.objectives.scale import scale_of
from fmalign_jax.systems.features import Features

_EXCLUDED = -1e30


class Clip(nn.Module):
    """Symmetric InfoNCE between the windows of two modalities (Radford et al. 2021).

        logits[i, j] = s <a_i, b_j>,  a, b: mean semantic features on the unit sphere

    contrasted over rows and over columns of the global batch, the mean of both. The
    scale s = 100 sigmoid(r) is learned; unlike exp(t) with a clamp it cannot exceed 100
    and cannot get stuck there.

    Attributes:
      anchor: one modality, such as the video.
      positive: the other, such as the current.
      temperature: fixes s = 1 / temperature; None to learn it.
      learns_from: share of the gradient that reaches each side; None for all of it.
      min_gap_s: windows of the same recording that are nearer than this are no
        negatives of each other; 0 for all.
    """

    anchor: str
    positive: str
    temperature: float | None = None
    learns_from: PairTable | None = None
    min_gap_s: float = 0.0

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and its metrics.

        ``clip_accuracy/<from>-><to>`` and their mean ``clip_accuracy`` are [B]. Scalars
        are ``clip_scale``, and two losses to compare ``loss/clip`` with: uniform logits
        give ``clip_loss_uniform``, log N of N windows; a model that knows two balanced
        states and nothing else cannot get below ``clip_loss_two_states``, log(N / 2).

        Raises:
          ValueError: a name that is no modality, or a gap where the features do not
            say when their windows were.
        """
        check_names(
            {self.anchor: {self.positive: 1.0}},
            features.semantic,
            table_name="CLIP's anchor and positive",
        )
        check_names(self.learns_from, features.semantic, table_name="learns_from")
        mask = features.mask
        anchors, positives = (
            losses.gradient_scale(
                features.semantic[own].mean(axis=1),
                learning_scale(self.learns_from, own, other),
            )
            for own, other in (
                (self.anchor, self.positive),
                (self.positive, self.anchor),
            )
        )
        scale = scale_of(self, self.temperature)
        cosine = jnp.matmul(
            losses.normalise(anchors),
            losses.normalise(positives).T,
            precision=jax.lax.Precision.HIGHEST,
        )
        logits = jnp.where(self._compared(features), scale * cosine, _EXCLUDED)
        forth, back = (losses.own_is_nearest(x, mask) for x in (logits, logits.T))
        windows = jnp.maximum(mask.sum(), 1).astype(jnp.float32)
        return losses.symmetric_info_nce(logits, mask), {
            f"clip_accuracy/{self.anchor}->{self.positive}": forth,
            f"clip_accuracy/{self.positive}->{self.anchor}": back,
            "clip_accuracy": (forth + back) / 2,
            "clip_scale": scale,
            "clip_loss_uniform": jnp.log(windows),
            "clip_loss_two_states": jnp.log(windows / 2),
        }

    def _compared(self, features: Features) -> Bool[Array, "B B"]:
        """Which windows are compared: partners, and those that are far enough apart."""
        partners = jnp.eye(len(features.mask), dtype=bool)
        if not self.min_gap_s:
            return jnp.ones_like(partners)
        return partners | far_apart(features, self.min_gap_s)
