"""Decoders: from code vector and specific features back to the encoder's input.

Every decoder is called with (quantized [B, T, D], specific [B, T, ...], inputs) and
returns (prediction, target), both fp32 and of one shape, for a mean squared error. The
code vector goes through a Linear and is concatenated with the specific features, at
every position of a map. The target carries no gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fmalign_jax.models import linear
from fmalign_jax.models.layers import (
    ResidualBlock,
    WideningConv,
    conv,
    depth_to_space,
    few_ticks_at_a_time,
)


class ConvDecoder(nn.Module):
    """Feature maps [B, T, 1, h, w, C] by transposed convolutions; mirrors ConvSpecific.

    Attributes:
      features: channels of ConvSpecific's layers, in the encoder's order.
      residual: inner channels of the residual block.
      dtype: of the computation; parameters are fp32.
    """

    features: Sequence[int] = (1024, 2048)
    residual: int = 1024
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        quantized: Float[Array, "B T D"],
        specific: Float[Array, "B T hs ws F"],
        inputs: Float[Array, "B T 1 h w C"],
    ) -> tuple[Float[Array, "B T h w C"], Float[Array, "B T h w C"]]:
        """Returns (prediction, target)."""
        code = linear.Dense(self.features[-1], dtype=self.dtype)(quantized)
        x = _beside(code, specific)
        x = conv(self.features[-1], (1, 1), dtype=self.dtype)(x)
        x = nn.relu(ResidualBlock(self.residual, self.dtype)(x))
        for width in reversed(self.features[:-1]):
            x = nn.relu(WideningConv(width, self.dtype)(x))
        x = WideningConv(inputs.shape[-1], self.dtype)(x)
        return x.astype(jnp.float32), jax.lax.stop_gradient(inputs[:, :, 0])


class FrameDecoder(nn.Module):
    """A tick's frames [B, T, R, H, W, C] at reduced size, as [B, T, R, s, s, C].

    Attributes:
      target_size: s, the side of the reduced frames in pixels; a multiple of the
        specific map's side and a divisor of the frame's.
      features: channels of the hidden layer.
      overlap: the hidden layer sees each place's neighbours, 3x3; False: it does not,
        which a CPU does several times faster.
      dtype: of the computation; parameters are fp32.
    """

    target_size: int = 16
    features: int = 64
    overlap: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        quantized: Float[Array, "B T D"],
        specific: Float[Array, "B T hs ws F"],
        inputs: Float[Array, "B T R H W C"],
    ) -> tuple[Float[Array, "B T R s s C"], Float[Array, "B T R s s C"]]:
        """Returns (prediction, target); the target is the average-pooled frames."""
        b, t, r, h, w, c = inputs.shape
        side, size = specific.shape[2], self.target_size
        if specific.shape[3] != side or size % side or h % size or w % size:
            raise ValueError(
                "target_size must be a multiple of the specific map's side and divide "
                f"the frame's; got target_size {size}, map {specific.shape[2:4]}, "
                f"frame {(h, w)}; use a size such as {side * max(1, size // side)}"
            )
        x = few_ticks_at_a_time(
            self,
            functools.partial(FrameDecoder._frames, samples=r, channels=c),
            quantized,
            specific,
            widest=self.features,
        )
        blocks = inputs.reshape(b, t, r, size, h // size, size, w // size, c)
        target = jax.lax.stop_gradient(blocks.mean(axis=(4, 6)))
        return x, target

    def _frames(
        self,
        quantized: Float[Array, "B n D"],
        specific: Float[Array, "B n hs ws F"],
        *,
        samples: int,
        channels: int,
    ) -> Float[Array, "B n R s s C"]:
        b, n, side = specific.shape[:3]
        r, c = samples, channels
        patch = self.target_size // side
        code = linear.Dense(self.features, dtype=self.dtype)(quantized)
        side_seen = 3 if self.overlap else 1
        hidden = conv(self.features, (side_seen, side_seen), dtype=self.dtype)
        x = nn.relu(hidden(_beside(code, specific)))
        x = linear.Dense(patch**2 * r * c, dtype=self.dtype)(x)
        size = self.target_size
        x = depth_to_space(x, patch).reshape(b, n, size, size, r, c)
        return jnp.moveaxis(x, 4, 2).astype(jnp.float32)


class DenseDecoder(nn.Module):
    """Samples or vectors of any shape [B, T, ...] by Linear layers.

    Attributes:
      features: width of the code vector when it is joined with the specific features.
      dtype: of the computation; parameters are fp32.
    """

    features: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        quantized: Float[Array, "B T D"],
        specific: Float[Array, "B T F"],
        inputs: Float[Array, "B T *rest"],
    ) -> tuple[Float[Array, "B T *rest"], Float[Array, "B T *rest"]]:
        """Returns (prediction, target), shaped as the inputs."""
        code = linear.Dense(self.features, dtype=self.dtype)(quantized)
        x = jnp.concatenate([code, specific.astype(code.dtype)], axis=-1)
        x = linear.Dense(math.prod(inputs.shape[2:]), dtype=self.dtype)(x)
        target = jax.lax.stop_gradient(inputs)
        return x.reshape(inputs.shape).astype(jnp.float32), target


class TokenDecoder(nn.Module):
    """How often each token occurs in a tick, [B, T, vocabulary], shares that sum to 1.

    Attributes:
      vocabulary: number of different tokens.
      features: width of the code vector when it is joined with the specific features.
      dtype: of the computation; parameters are fp32.
    """

    vocabulary: int
    features: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        quantized: Float[Array, "B T D"],
        specific: Float[Array, "B T F"],
        inputs: Int[Array, "B T R"],
    ) -> tuple[Float[Array, "B T V"], Float[Array, "B T V"]]:
        """Returns (prediction, target)."""
        code = linear.Dense(self.features, dtype=self.dtype)(quantized)
        x = jnp.concatenate([code, specific.astype(code.dtype)], axis=-1)
        prediction = linear.Dense(self.vocabulary, dtype=self.dtype)(x)
        target = jax.nn.one_hot(inputs, self.vocabulary).mean(axis=2)
        return prediction.astype(jnp.float32), target


def _beside(
    code: Float[Array, "B T E"], specific: Float[Array, "B T hs ws F"]
) -> Float[Array, "B T hs ws EF"]:
    """Concatenates the code vector with the specific features of every position."""
    shape = (*specific.shape[:-1], code.shape[-1])
    code = jnp.broadcast_to(code[:, :, None, None], shape)
    return jnp.concatenate([code, specific.astype(code.dtype)], axis=-1)
