"""A window attends, on the whole, to the units that the other modality chose in it."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.systems.alignvsr import AlignVsrFeatures


class GlobalAlignment(nn.Module):
    """Cross-entropy of the window's histogram of units, `losses.global_alignment`.

    It stands in place of AlignVSR's recognition of text. It is blind to the order of
    ticks, at least the entropy of the histogram, and no gradient reaches the units or
    the modality that chose them.

    Attributes:
      asking: the modality that attends to the units.
      asked: the one that chose them.
    """

    asking: str
    asked: str

    needs = ("codes", "encoded")

    @nn.compact
    def __call__(
        self, features: AlignVsrFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and no metrics; `local_alignment` has them.

        Raises:
          ValueError: a name that is no modality.
        """
        check_names(
            {self.asking: {self.asked: 1.0}},
            features.semantic,
            table_name="GlobalAlignment's asking and asked",
        )
        weights = features.encoded[self.asking]
        return losses.global_alignment(weights, features.codes[self.asked]), {}
