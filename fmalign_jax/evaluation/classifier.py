"""What every kind of head is: from features of windows to class probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray

from fmalign_jax.models.layers import largest

Features = Float[ndarray, "N T D"]
Labels = Int[ndarray, " N"]
Predict = Callable[[Features], Float[ndarray, "N K"]]
"""Features of windows to the probabilities of K classes."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted classifier in two forms.

    Attributes:
      predict: for the host, in float64 where it can.
      traced: the same of JAX arrays, float32, for what is compiled and exported; None
        if there is none.
    """

    predict: Predict
    traced: Callable[[Float[Array, "N T D"]], Float[Array, "N K"]] | None = None


def pool(features: Any, pooling: str) -> Any:
    """Returns one vector a window, [N, T, D] -> [N, D], of NumPy or JAX arrays."""
    if pooling == "last":
        return features[:, -1]
    if pooling == "mean":
        return features.mean(axis=1)
    # A head is trained through its pooling.
    return largest(features, 1) if isinstance(features, jax.Array) else features.max(1)


def of_all_classes(
    probability: Float[ndarray, "N _"], present: Int[ndarray, " _"], classes: int
) -> Float[ndarray, "N K"]:
    """Returns probabilities of all classes, 0 for those that were absent."""
    spread = np.zeros((len(probability), classes))
    spread[:, present] = probability
    return spread


def of_all_classes_traced(
    probability: Array, present: Int[ndarray, " _"], classes: int
) -> Array:
    """Returns the same of JAX arrays."""
    spread = jnp.zeros((len(probability), classes), probability.dtype)
    return spread.at[:, present].set(probability)
