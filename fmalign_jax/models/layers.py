"""Layers that encoders and decoders are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Shaped

from fmalign_jax.models import linear

_FRAMES = 48
"""How many frames go through narrow convolutions at a time on a CPU, about."""
_NARROW = 256
"""Up to so many channels a CPU waits for memory; beyond, for its arithmetic."""


def conv(
    features: int,
    kernel: Sequence[int],
    strides: int | Sequence[int] = 1,
    *,
    padding: str | int = "SAME",
    dtype: DTypeLike = jnp.float32,
) -> nn.Conv:
    """Returns flax.linen.Conv, as one matrix product where that is faster.

    On a CPU XLA's gradient of a convolution takes about ten times as long as the
    convolution; the gradient of a matrix product does not. Anywhere, the gradient of
    an unpadded convolution pads its small map by zeros, and multiplies these: from 3x3
    to 5x5 that is 2.8 times the work of a product. Parameters and values are the same
    in both forms.
    """
    unpadded = padding == "VALID" and features > _NARROW
    by_product = jax.default_backend() == "cpu" or unpadded
    return linear.Conv(
        features,
        kernel,
        strides,
        padding=padding,
        dtype=dtype,
        conv_general_dilated=convolve_by_product if by_product else None,
    )


def convolve_by_product(
    lhs: Float[Array, "n *space C"],
    rhs: Float[Array, "*kernel C F"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "n *out F"]:
    """Convolution, channels last, as the product of patches and the flattened kernel.

    Args:
      lhs: the maps.
      rhs: the kernel.
      window_strides: stride of each axis.
      padding: "SAME", "VALID", or zeros before and after each axis.
      **options: the further arguments of `jax.lax.conv_general_dilated`; dilation and
        groups are not used in this project.

    Raises:
      NotImplementedError: on dilation or groups.
    """
    for name in ("lhs_dilation", "rhs_dilation"):
        if any(d != 1 for d in options.get(name) or ()):
            raise NotImplementedError(f"convolve_by_product takes no {name}")
    if options.get("feature_group_count", 1) != 1:
        raise NotImplementedError("convolve_by_product takes no groups")
    kernel, space = rhs.shape[:-2], lhs.shape[1:-1]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(space, kernel, window_strides, padding)
    x = jnp.pad(lhs, [(0, 0), *padding, (0, 0)])
    sizes = [
        (size - k) // stride + 1
        for size, k, stride in zip(x.shape[1:-1], kernel, window_strides, strict=True)
    ]
    patches = [
        x[
            (
                slice(None),
                *(
                    slice(start, start + (size - 1) * stride + 1, stride)
                    for start, size, stride in zip(
                        offset, sizes, window_strides, strict=True
                    )
                ),
            )
        ]
        for offset in itertools.product(*map(range, kernel))
    ]
    return jnp.concatenate(patches, axis=-1) @ rhs.reshape(-1, rhs.shape[-1])


def few_ticks_at_a_time(
    module: nn.Module,
    apply: Callable[..., Any],
    *arrays: Float[Array, "B T *_"],
    widest: int,
) -> Any:
    """Returns what a function of single ticks makes of all of them.

    On a CPU a few ticks of all windows go through at a time, and intermediate values
    are computed again for the gradient. It then stays in the cache: convolutions of few
    channels are limited by memory there, not by arithmetic. Elsewhere all go at once.

    Args:
      module: whose parameters the function uses.
      apply: ``apply(module, *some)`` of some ticks [B, n, ...] gives arrays
        [B, n, ...].
      *arrays: all ticks.
      widest: most channels of a layer.
    """
    b, ticks = arrays[0].shape[:2]
    fitting = [d for d in range(1, ticks + 1) if ticks % d == 0 and b * d <= _FRAMES]
    n = max(fitting, default=1)
    if jax.default_backend() != "cpu" or widest > _NARROW or n == ticks:
        return apply(module, *arrays)
    scan = nn.scan(
        nn.remat(lambda m, _, some: (None, apply(m, *some)), prevent_cse=False),
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
    )
    some = tuple(x.reshape(b, ticks // n, n, *x.shape[2:]) for x in arrays)
    _, found = scan(module, None, some)
    return jax.tree.map(lambda y: y.reshape(b, ticks, *y.shape[3:]), found)


def in_time_order(
    values: Shaped[Array, "B T LR ..."], samples_per_tick: int
) -> Shaped[Array, "B LT R ..."]:
    """Returns what was read over a range of leads as one stretch of time.

    Args:
      values: the samples of L leads side by side in each tick, the earliest first;
        from lead to lead a window passes, so that the windows follow one another.
      samples_per_tick: R of one lead.
    """
    b, t, slots = values.shape[:3]
    leads = slots // samples_per_tick
    if leads == 1:
        return values
    x = values.reshape(b, t, leads, samples_per_tick, *values.shape[3:])
    return jnp.moveaxis(x, 2, 1).reshape(
        b, leads * t, samples_per_tick, *values.shape[3:]
    )


def side_by_side(
    values: Shaped[Array, "B LT R ..."], leads: int
) -> Shaped[Array, "B T LR ..."]:
    """Undoes `in_time_order`."""
    if leads == 1:
        return values
    b, ticks, r = values.shape[:3]
    x = values.reshape(b, leads, ticks // leads, r, *values.shape[3:])
    return jnp.moveaxis(x, 1, 2).reshape(
        b, ticks // leads, leads * r, *values.shape[3:]
    )


class WideningConv(nn.Module):
    """Transposed 3x3 convolution of stride 1, [*n, h, w, C] -> [*n, h+2, w+2, F].

    Each position adds its parts, one product, to its neighbours. As a convolution over
    maps with zeros around it would multiply these too: 2.8 times the work from 3x3.

    Attributes:
      features: F.
      dtype: of the computation; parameters are fp32.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*n h w C"]) -> Float[Array, "*n H W F"]:
        """Returns maps that are 2 higher and wider."""
        side = 3
        initial = linear.lecun_normal
        shape = (x.shape[-1], side, side, self.features)
        kernel = self.param("kernel", initial, shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        products = x.astype(self.dtype) @ kernel.reshape(x.shape[-1], -1)
        shares = jnp.split(products, side**2, axis=-1)
        total = bias
        for i, j in itertools.product(range(side), repeat=2):
            around = [(0, 0)] * (x.ndim - 3)
            pads = [*around, (i, side - 1 - i), (j, side - 1 - j), (0, 0)]
            total = total + jnp.pad(shares[side * i + j].astype(jnp.float32), pads)
        return total.astype(self.dtype)


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), as in VQ-VAE's encoder.

    Attributes:
      features: channels inside the block.
      dtype: of the computation; parameters are fp32.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*n h w C"]) -> Float[Array, "*n h w C"]:
        """Returns maps of the same shape."""
        inner = conv(self.features, (3, 3), dtype=self.dtype)(nn.relu(x))
        return x + conv(x.shape[-1], (1, 1), dtype=self.dtype)(nn.relu(inner))


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward layer, each with post-norm residual.

    Attributes:
      heads: attention heads.
      ffn: width of the feed-forward layer.
      dropout: rate, in training.
      dtype: of the computation; parameters are fp32.
      causal: a tick sees itself and those before it, instead of all.
    """

    heads: int
    ffn: int
    dropout: float
    dtype: DTypeLike = jnp.float32
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        train: bool,
        context: bool = True,
        present: Bool[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Returns features of the same shape.

        Args:
          x: one vector a tick.
          train: whether dropout acts.
          context: False for ticks that see themselves alone, whatever `causal` says.
          present: False for what no other may see; None if all may be seen.
        """
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attention = linear.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            broadcast_dropout=False,
            dropout_rate=self.dropout,
            deterministic=not train,
            force_fp32_for_softmax=True,
        )
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
        if not context:
            mask = jnp.eye(x.shape[1], dtype=bool)[None, None]
        if present is not None:
            mask = nn.combine_masks(mask, present[:, None, None], dtype=bool)
        x = nn.LayerNorm(dtype=self.dtype)(x + drop(attention(x, mask=mask)))
        inner = drop(nn.relu(linear.Dense(self.ffn, dtype=self.dtype)(x)))
        outer = linear.Dense(x.shape[-1], dtype=self.dtype)(inner)
        return nn.LayerNorm(dtype=self.dtype)(x + drop(outer))


def largest(x: Float[Array, "*n"], axis: int) -> Float[Array, "*m"]:
    """Maximum along an axis; its gradient goes to the first largest entry.

    The gradient of `jnp.max` looks for the maximum once more, by equality. Where the
    compiler recomputes x with other rounding, no entry is equal and it is 0 / 0: the
    stem of a video got NaN from finite losses.
    """
    first = jnp.argmax(jax.lax.stop_gradient(x), axis=axis, keepdims=True)
    place = jax.lax.broadcasted_iota(first.dtype, x.shape, axis % x.ndim)
    return jnp.where(place == first, x, 0.0).sum(axis=axis)


def sinusoids(ticks: int, width: int) -> Float[Array, "T D"]:
    """Fixed positions: sin(t / 10000^(2i/D)), then the cosines (Vaswani et al.)."""
    pairs = (width + 1) // 2
    rates = 10000.0 ** (-np.arange(pairs) / pairs)
    angles = np.arange(ticks)[:, None] * rates
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return jnp.asarray(waves[:, :width], jnp.float32)


def placed(
    x: Float[Array, "B T D"], positions: Float[Array, "T D"], *, context: bool
) -> Float[Array, "B T D"]:
    """Returns ticks with their positions added.

    Ticks that see no others have no place among them: all get the position of the
    middle. With their own, those at the same place of their windows would be alike in
    both modalities, which looks like a lead.
    """
    if not context:
        positions = positions[len(positions) // 2]
    return x + positions.astype(x.dtype)


def space_to_depth(x: Float[Array, "*n H W C"], side: int) -> Float[Array, "*n h w F"]:
    """Cuts maps into patches of side x side pixels and lays each along the channels."""
    *n, h, w, c = x.shape
    x = x.reshape(*n, h // side, side, w // side, side, c)
    x = jnp.swapaxes(x, -4, -3)
    return x.reshape(*n, h // side, w // side, side * side * c)


def depth_to_space(x: Float[Array, "*n h w F"], side: int) -> Float[Array, "*n H W C"]:
    """Undoes `space_to_depth`."""
    *n, h, w, f = x.shape
    x = x.reshape(*n, h, w, side, side, f // side**2)
    x = jnp.swapaxes(x, -4, -3)
    return x.reshape(*n, h * side, w * side, f // side**2)
