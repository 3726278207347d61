"""Cross-entropy of the class of a window."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fmalign_jax.config.pair_tables import check_names
from fmalign_jax.models import linear
from fmalign_jax.objectives.window_classes import over_counted, window_class
from fmalign_jax.structs import UNLABELLED
from fmalign_jax.systems.features import Features


class Classification(nn.Module):
    """A small classifier of windows: dropout, Linear D -> D/2, GELU, Linear -> K.

    It belongs to the loss and is lost to the evaluation, which fits the same head for
    every system; what stays are the features that it shaped. The mean is over windows
    of known class.

    Attributes:
      view: whose features; a modality, or "fused".
      classes: K.
      dropout: rate, in training.
    """

    view: str = "fused"
    classes: int = 2
    dropout: float = 0.1

    labels = "L2"
    random_streams = ("dropout",)

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss and ``class_accuracy``, both [B].

        Raises:
          ValueError: an unknown view, or features without labels.
        """
        check_names(
            {self.view: {}}, features.semantic, table_name="Classification's view"
        )
        label = window_class(features)
        known = label != UNLABELLED
        f = features.semantic[self.view].mean(axis=1)
        f = nn.Dropout(self.dropout, deterministic=not train)(f)
        logits = linear.Dense(self.classes)(nn.gelu(linear.Dense(f.shape[-1] // 2)(f)))
        loss = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.maximum(label, 0)
        )
        right = (logits.argmax(axis=-1) == label).astype(jnp.float32)
        return over_counted(loss, known, features.mask), {
            "class_accuracy": over_counted(right, known, features.mask)
        }
