"""The class of a window from those of its ticks, and means over windows that have one.

As `evaluation.labelled_windows` decides it, within the compiled step.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fmalign_jax.structs import UNLABELLED
from fmalign_jax.systems.features import Features


def window_class(features: Features) -> Int[Array, " B"]:
    """Returns the class that most of a window's labelled ticks have, -1 if unknown.

    Of equally frequent ones the highest; -1 for windows that only pad the batch.

    Raises:
      ValueError: the features do not hold labels.
    """
    label = features.label
    if label is None:
        raise ValueError(
            "a loss term with classes needs labels; got features without; give its "
            'class an attribute labels = "L1" or "L2"'
        )
    known = label != UNLABELLED
    count = jnp.where(known, (label[:, :, None] == label[:, None]).sum(axis=-1), 0)
    frequent = known & (count == count.max(axis=1, keepdims=True))
    highest = jnp.where(frequent, label, UNLABELLED).max(axis=1)
    return jnp.where(features.mask, highest, UNLABELLED)


def over_counted(
    values: Float[Array, " B"], counted: Bool[Array, " B"], mask: Bool[Array, " B"]
) -> Float[Array, " B"]:
    """Returns values whose mean over the batch is that of the windows that count.

    A term gives one loss a window, and the step takes the mean of all; where some have
    no class, the others stand for them. The rest is 0.
    """
    share = mask.sum() / jnp.maximum(counted.sum(), 1)
    return jnp.where(counted, values * share, 0.0)
