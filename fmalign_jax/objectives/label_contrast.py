"""Windows of one class are nearer to each other than to those of others (CLMLF)."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.objectives.window_classes import over_counted, window_class
from fmalign_jax.structs import UNLABELLED
from fmalign_jax.systems.features import Features


class LabelContrast(nn.Module):
    """Label-based contrastive learning (LBCL; Li et al. 2022, Khosla et al. 2020).

    Windows are compared by their mean semantic features on the unit sphere, over the
    global batch. It reads the labels of the annotation: it is supervised. Its mean is
    over windows that have another one of their class in the batch.

    Attributes:
      view: whose features; a modality, or "fused".
      temperature: of the cosines.
    """

    view: str = "fused"
    temperature: float = 0.07

    labels = "L2"

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and ``label_accuracy`` [B].

        That is how often the nearest window of known class is of the same class.

        Raises:
          ValueError: an unknown view, or features without labels.
        """
        check_names(
            {self.view: {}}, features.semantic, table_name="LabelContrast's view"
        )
        label = window_class(features)
        f = features.semantic[self.view].mean(axis=1)
        logits = losses.cosine_logits(f, f, self.temperature)
        loss, counted = losses.label_contrast(logits, label)
        nearest = losses.nearest_other(logits, label != UNLABELLED)
        right = (label[nearest] == label).astype(loss.dtype)
        return over_counted(loss, counted, features.mask), {
            "label_accuracy": over_counted(right, label != UNLABELLED, features.mask)
        }
