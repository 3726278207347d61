"""A control that must fail: the current looks at the video before it is quantised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax.models import linear
from fmalign_jax.systems.cmg import Cmg


class Fused(Cmg):
    """CMG whose one modality attends to the other before codes and Cross-CPC.

        z^c <- LN(z^c + CrossAttention(z^c; z^v, z^v))

    Where the other modality is absent the attention is 0. Codes then agree because both
    modalities show the same input, and say nothing of the fused one: a control for what
    agreement of codes is worth, never a system to use.

    Attributes:
      fused: the modality that attends.
      fused_with: the one it attends to.
      fusion_heads: attention heads.
    """

    fused: str = "current"
    fused_with: str = "video"
    fusion_heads: int = 4

    encodes_alone: ClassVar[bool] = False

    def setup(self) -> None:
        """Builds the parts of every modality, and the attention between them."""
        super().setup()
        self.fusion_attention = linear.MultiHeadDotProductAttention(
            self.fusion_heads, dtype=self.dtype, force_fp32_for_softmax=True
        )
        self.fusion_norm = nn.LayerNorm(dtype=self.dtype)

    def from_stems(
        self, stems: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns semantic features, fused where both modalities are given.

        Without context a tick attends to the same tick of the other modality alone.
        """
        semantic = super().from_stems(stems, train=train, context=context)
        if self.fused not in semantic:
            return semantic
        z = semantic[self.fused]
        if self.fused_with in semantic:
            mask = None if context else jnp.eye(z.shape[1], dtype=bool)
            z = z + self.fusion_attention(z, semantic[self.fused_with], mask=mask)
        fused = self.fusion_norm(z).astype(jnp.float32)
        return {**semantic, self.fused: fused}
