"""Any loss term, at the lower level of a system that has two."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fmalign_jax.config.build import build
from fmalign_jax.systems.features import Features


class AtLower(nn.Module):
    """Applies a term to ``features.lower``; a critic if the term is one.

    Attributes:
      term: ``{"name": dotted name, **options}``, as among the objectives.
      dtype: of what the term computes, where it has such a field.
    """

    term: Mapping[str, Any]
    dtype: DTypeLike = jnp.float32

    needs = ("lower",)

    def setup(self) -> None:
        """Builds the term."""
        self.applied = build(self.term, "the term of AtLower", dtype=self.dtype)

    def __call__(
        self, features: Any, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the term's loss [B], and its metrics under ``lower/``.

        Raises:
          ValueError: the lower level does not give what the term needs.
        """
        lower = self._lower(features)
        needs = getattr(self.applied, "needs", ())
        if lacking := [n for n in needs if getattr(lower, n, None) is None]:
            raise ValueError(
                f"{self.term['name']} needs the features {', '.join(needs)}; the lower "
                f"level gives no {', '.join(lacking)}; choose another term"
            )
        loss, metrics = self.applied(lower, train=train)
        return loss, {f"lower/{name}": value for name, value in metrics.items()}

    def critic_loss(self, features: Any) -> Float[Array, ""]:
        """Returns the term's own loss, if it is a critic."""
        loss: Float[Array, ""] = self.applied.critic_loss(self._lower(features))
        return loss

    def _lower(self, features: Any) -> Features:
        """Returns the lower features, of the same windows."""
        about = {
            name: getattr(features, name)
            for name in ("mask", "recording", "time_s", "label")
        }
        lower: Features = dataclasses.replace(features.lower, **about)
        return lower
