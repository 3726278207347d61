"""A tick attends to the units that the other modality chose around it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.systems.alignvsr import AlignVsrFeatures


class LocalAlignment(nn.Module):
    """The local loss of AlignVSR, `losses.local_alignment`.

    No gradient reaches the units or the modality that chose them.

    Attributes:
      asking: the modality that attends to the units.
      asked: the one that chose them.
      reach_ticks: w, how many ticks on either side are asked for.
      lag_ticks: how far the asked modality is ahead, beside ``data.lead_s``.
    """

    asking: str
    asked: str
    reach_ticks: int = 1
    lag_ticks: int = 0

    needs = ("codes", "encoded")

    @nn.compact
    def __call__(
        self, features: AlignVsrFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss and metrics, all [B].

        ``local_uniform``: the loss over that of uniform attention, (2w + 1) ln U.
        ``unit_gain``: in nats a unit, by how much the loss is below that of attention
        which is always the frequency of the units in the batch.
        ``unit_in_window``, ``unit_in_window_chance``: share of ticks whose likeliest
        unit is one of those around them; that share if each tick had the likeliest
        unit of any tick of the batch.
        ``attention_entropy``: of the window's mean attention, 0 to ln U.

        Raises:
          ValueError: a name that is no modality, or a lag longer than a window.
        """
        check_names(
            {self.asking: {self.asked: 1.0}},
            features.semantic,
            table_name="LocalAlignment's asking and asked",
        )
        weights, units = features.encoded[self.asking], features.codes[self.asked]
        place = {"reach_ticks": self.reach_ticks, "lag_ticks": self.lag_ticks}
        loss = losses.local_alignment(weights, units, **place)
        size, around = weights.shape[-1], 2 * self.reach_ticks + 1
        counted = jnp.broadcast_to(features.mask[:, None, None], weights.shape)
        frequency = _mean(features.encoded[self.asked], counted)
        blind = losses.local_alignment(
            jnp.broadcast_to(frequency, weights.shape), units, **place
        )
        near = losses.units_near(units, size, **place).astype(jnp.float32)
        some = near.max(axis=-1)  # at a lag, some ticks have no unit in the window
        likeliest = jax.nn.one_hot(weights.argmax(axis=-1), size)
        by_chance = _mean(likeliest, counted & (some[..., None] > 0))
        entropy = jax.scipy.special.entr(weights.mean(axis=1)).sum(axis=-1)
        return loss, {
            "local_uniform": loss / (around * jnp.log(max(size, 2))),
            "unit_gain": (blind - loss) / around,
            "unit_in_window": (near * likeliest).sum((1, 2)) / some.sum(1),
            "unit_in_window_chance": (near @ by_chance).sum(1) / some.sum(1),
            "attention_entropy": entropy,
        }


def _mean(values: Float[Array, "B T U"], counted: Array) -> Float[Array, " U"]:
    """Returns the mean over the ticks that count; 0 where none does."""
    total = jnp.where(counted, values, 0.0).sum(axis=(0, 1))
    return total / jnp.maximum(counted.sum(axis=(0, 1)), 1)
