"""Codes and specific features together must reconstruct the encoder's input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fmalign_jax import losses
from fmalign_jax.config.build import build
from fmalign_jax.systems.cmg import SplitFeatures


class Reconstruction(nn.Module):
    """Mean squared error of the decoded inputs, summed over the modalities (METHOD 1).

    Attributes:
      decoders: by modality ``{"name": dotted name, **options}`` of a Linen module
        called as ``decoder(quantized, specific, inputs) -> (prediction, target)``, so
        that the decoder says what of the input it reconstructs.
      dtype: of the decoders' computation; parameters are fp32.
    """

    decoders: Mapping[str, Mapping[str, Any]]
    dtype: DTypeLike = jnp.float32

    needs = ("quantized", "specific")

    def setup(self) -> None:
        """Builds the decoders."""
        self.networks = {
            modality: build(entry, f"the decoder of {modality!r}", dtype=self.dtype)
            for modality, entry in self.decoders.items()
        }

    def __call__(
        self, features: SplitFeatures, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss and ``reconstruction_error/<modality>``, all [B]."""
        if unknown := sorted(set(self.decoders) - set(features.semantic)):
            raise ValueError(
                "decoders may name only the modalities "
                f"{sorted(features.semantic)}; got {unknown}; correct the config"
            )
        errors = {}
        for modality in sorted(self.decoders):
            prediction, target = self.networks[modality](
                features.quantized[modality],
                features.specific[modality],
                features.inputs[modality],
            )
            errors[f"reconstruction_error/{modality}"] = losses.squared_error(
                prediction, target
            )
        return sum(errors.values(), jnp.zeros(len(features.mask))), errors
