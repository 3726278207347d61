"""Contrast of the ticks of windows, each with its partner at the same tick."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.objectives.gaps import far_apart
from fmalign_jax.objectives.scale import scale_of
from fmalign_jax.systems.features import Features

_EXCLUDED = -1e30


class TemporalAlignment(nn.Module):
    """Symmetric InfoNCE between single ticks of two modalities (C3T, Kamboj 2024).

        logits[(i, t), (j, u)] = s <a_it, b_ju>,  a, b: semantic features on the unit
        sphere, of window i at tick t

    The positive of (i, t) is (i, t) of the other modality; the negatives are all ticks
    of the other windows of the global batch. Contrasted over rows and over columns, the
    mean of both and of a window's ticks. The logits take 4 (B n)^2 bytes and their
    gradient as much again: 3.7 MB for 32 windows of 30 ticks, 236 MB for 256.

    Attributes:
      anchor: one modality, such as the video.
      positive: the other, such as the current.
      temperature: s = 1 / temperature; None to learn it, as in `Clip`.
      same_window: whether the other ticks of the same window are negatives too.
      ticks_per_window: n, how many ticks are compared: in training drawn anew in every
        step, the same of all windows, otherwise evenly spaced; None for all.
      min_gap_s: windows of the same recording that are nearer than this are no
        negatives of each other; 0 for all.
    """

    anchor: str
    positive: str
    temperature: float | None = 0.1
    same_window: bool = False
    ticks_per_window: int | None = None
    min_gap_s: float = 0.0

    random_streams = ("ticks",)

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and its metrics.

        ``tick_accuracy/<from>-><to>`` and their mean ``tick_accuracy`` are [B]: how
        often the partner of a tick is the nearest of those it is compared with.
        Scalars are ``tick_scale``, and ``tick_loss_uniform``, the mean loss of uniform
        logits, to compare ``loss/temporal_alignment`` with.

        Raises:
          ValueError: a name that is no modality, more ticks than a window has, or a
            gap where the features do not say when their windows were.
        """
        check_names(
            {self.anchor: {self.positive: 1.0}},
            features.semantic,
            table_name="the anchor and the positive of a temporal alignment",
        )
        chosen = self._ticks(features.semantic[self.anchor].shape[1], train=train)
        windows, ticks = len(features.mask), len(chosen)
        anchors, positives = (
            losses.normalise(
                features.semantic[m][:, chosen].reshape(windows * ticks, -1)
            )
            for m in (self.anchor, self.positive)
        )
        scale = scale_of(self, self.temperature)
        cosine = jnp.matmul(anchors, positives.T, precision=jax.lax.Precision.HIGHEST)
        compared = self._compared(features, ticks)
        logits = jnp.where(compared, scale * cosine, _EXCLUDED)
        mask = jnp.repeat(features.mask, ticks)

        def by_window(values: Float[Array, " N"]) -> Float[Array, " B"]:
            return values.reshape(windows, ticks).mean(axis=1)

        loss = losses.symmetric_info_nce(logits, mask)
        forth, back = (
            by_window(losses.own_is_nearest(x, mask)) for x in (logits, logits.T)
        )
        candidates = jnp.maximum((compared & mask).sum(axis=1), 1)
        return by_window(loss), {
            f"tick_accuracy/{self.anchor}->{self.positive}": forth,
            f"tick_accuracy/{self.positive}->{self.anchor}": back,
            "tick_accuracy": (forth + back) / 2,
            "tick_scale": scale,
            "tick_loss_uniform": losses.masked_mean(jnp.log(candidates), mask),
        }

    def _ticks(self, window_ticks: int, *, train: bool) -> Int[Array, " n"]:
        """Returns which ticks of every window are compared."""
        n = window_ticks if self.ticks_per_window is None else self.ticks_per_window
        if not 1 <= n <= window_ticks:
            raise ValueError(
                "ticks_per_window must be from 1 to the ticks of a window, "
                f"{window_ticks}; got {n}; correct the config"
            )
        if train and n < window_ticks:
            key = self.make_rng("ticks")
            return jax.random.choice(key, window_ticks, (n,), replace=False)
        return jnp.arange(n) * window_ticks // n

    def _compared(self, features: Features, ticks: int) -> Bool[Array, "N N"]:
        """Which ticks are compared: partners, and those of windows far enough apart."""
        windows = len(features.mask)
        same = jnp.eye(windows, dtype=bool)
        other = ~same
        if self.min_gap_s:
            other &= far_apart(features, self.min_gap_s)
        pairs = other | same if self.same_window else other
        by_tick = jnp.repeat(jnp.repeat(pairs, ticks, axis=0), ticks, axis=1)
        return by_tick | jnp.eye(windows * ticks, dtype=bool)
