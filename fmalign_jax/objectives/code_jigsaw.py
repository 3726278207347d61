"""Tell in which order the parts of a code vector were put together."""

from __future__ import annotations

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from numpy import ndarray

from fmalign_jax.models import linear
from fmalign_jax.systems.cmg import CmgFeatures


class CodeJigsaw(nn.Module):
    """The cross-modal jigsaw of MICU (open-set cross-modal, ICCV 2025).

    Code vectors are cut into equal parts along the channels. Each part is taken from a
    modality drawn anew in every step, so that parts of different modalities must fit
    together. Every tick is shown in several arrangements of its parts, and a small
    network tells which: cross-entropy, mean over ticks and arrangements. The gradient
    reaches the semantic features through the codes (straight-through).

    The channels of a part are never those of another, so that a linear classifier tells
    the arrangements of two unrelated modalities: watch ``jigsaw_accuracy``; at 1 the
    term is idle.

    Attributes:
      parts: G, divides the width.
      arrangements: J, at most G!; drawn once.
      width: of the network's hidden layer.
      seed: of the arrangements.
    """

    parts: int = 2
    arrangements: int = 2
    width: int = 512
    seed: int = 0

    needs = ("quantized",)
    random_streams = ("jigsaw",)

    @nn.compact
    def __call__(
        self, features: CmgFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss [B] and ``jigsaw_accuracy`` [B].

        Raises:
          ValueError: the parts do not divide the width, or cannot be arranged so often.
        """
        vectors = jnp.stack([z for _, z in sorted(features.quantized.items())])
        self._check(vectors.shape[-1])
        modality = jnp.arange(self.parts) % len(vectors)
        if train:
            modality = jax.random.randint(
                self.make_rng("jigsaw"), (self.parts,), 0, len(vectors)
            )
        pieces = jnp.stack(jnp.split(vectors, self.parts, axis=-1))  # [G, m, B, T, D/G]
        mixed = pieces[jnp.arange(self.parts), modality]  # [G, B, T, D/G]
        shown = jnp.moveaxis(mixed[self._orders()], 1, -2)  # [J, B, T, G, D/G]
        hidden = nn.relu(linear.Dense(self.width, name="hidden")(_flat(shown)))
        logits = linear.Dense(self.arrangements, name="order")(hidden)
        order = jnp.arange(self.arrangements)[:, None, None]
        order = jnp.broadcast_to(order, logits.shape[:-1])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, order)
        right = (logits.argmax(axis=-1) == order).astype(jnp.float32)
        return loss.mean(axis=(0, 2)), {"jigsaw_accuracy": right.mean(axis=(0, 2))}

    def _orders(self) -> Int[ndarray, "J G"]:
        """Returns the arrangements, the first of them as it was."""
        every = np.array(list(itertools.permutations(range(self.parts))))
        others = np.random.default_rng(self.seed).permutation(len(every) - 1) + 1
        return every[[0, *others[: self.arrangements - 1]]]

    def _check(self, width: int) -> None:
        most = math.factorial(self.parts)
        if width % self.parts or not 1 <= self.arrangements <= most:
            raise ValueError(
                "a code jigsaw needs parts that divide the width, and 1 to parts! "
                f"arrangements; got width {width}, {self.parts} parts and "
                f"{self.arrangements} arrangements; correct them"
            )


def _flat(shown: Float[Array, "J B T G d"]) -> Float[Array, "J B T _"]:
    return shown.reshape(*shown.shape[:-2], -1)
