"""FmFormer: a supervised classifier of video, current, or both (Wu et al. 2024).

Tubelets of the video and samples of the current are tokens; each stream attends to
itself and to the other. Written from the description, checked against the published
numbers of parameters. It gives no features that modalities share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fmalign_jax.models import linear

_TUBELET = (2, 8, 8)  # frames, rows, columns
_PUBLISHED_EPSILON = 1e-5


def _norm(dtype: DTypeLike, name: str | None = None) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=_PUBLISHED_EPSILON, dtype=dtype, name=name)


def tubelets(
    frames: Float[Array, "B F H W C"], size: tuple[int, int, int] = _TUBELET
) -> Float[Array, "B n V"]:
    """Cuts a video into blocks of some frames, rows and columns, each one vector.

    Raises:
      ValueError: the video is no whole number of blocks.
    """
    b, *extent, c = frames.shape
    if any(have % side for have, side in zip(extent, size, strict=True)):
        raise ValueError(
            f"frames, rows and columns must be multiples of {size}; got "
            f"{tuple(extent)}; choose another frame_stride or other frames"
        )
    (t, p), (h, q), (w, r) = (
        (have // side, side) for have, side in zip(extent, size, strict=True)
    )
    cut = frames.reshape(b, t, p, h, q, w, r, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return cut.reshape(b, t * h * w, p * q * r * c)


class Tokens(nn.Module):
    """LayerNorm, Linear, LayerNorm and learned positions of some vectors.

    Attributes:
      width: of a token.
      norm_inputs: whether the vectors themselves are normalised.
      dtype: of the computation; parameters are fp32.
    """

    width: int
    norm_inputs: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, vectors: Float[Array, "B n V"]) -> Float[Array, "B n D"]:
        """Returns one token a vector."""
        if self.norm_inputs:
            vectors = _norm(self.dtype, "norm_inputs")(vectors)
        x = linear.Dense(self.width, dtype=self.dtype, name="linear")(vectors)
        x = _norm(self.dtype, "norm_tokens")(x)
        return x + _learned(self, "positions", (vectors.shape[1], self.width))


def _learned(module: nn.Module, name: str, shape: tuple[int, ...]) -> Array:
    found: Array = module.param(name, nn.initializers.normal(1.0), shape)
    return found


class Attention(nn.Module):
    """Multi-head attention of one stream to itself or to another.

    Each stream makes its own queries, keys and values from its own normalised tokens.

    Attributes:
      heads: attention heads.
      dtype: of the computation; parameters are fp32.
    """

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, streams: Mapping[str, Float[Array, "B n D"]], *, crossed: bool
    ) -> dict[str, Float[Array, "B n D"]]:
        """Returns what is added to each stream.

        Args:
          streams: one, or two where they are crossed.
          crossed: whether a stream attends to the other one.
        """
        made = {}
        for name, x in streams.items():
            width = x.shape[-1]
            both = linear.Dense(
                3 * width, use_bias=False, dtype=self.dtype, name=f"{name}_qkv"
            )(_norm(self.dtype, f"{name}_norm")(x))
            split = both.reshape(*x.shape[:2], 3, self.heads, width // self.heads)
            made[name] = jnp.moveaxis(split, 2, 0)
        found = {}
        for name, (query, _, _) in made.items():
            other = next(n for n in made if n != name) if crossed else name
            _, key, value = made[other]
            mixed = nn.dot_product_attention(
                query, key, value, dtype=self.dtype, force_fp32_for_softmax=True
            )
            joined = mixed.reshape(streams[name].shape)
            width = joined.shape[-1]
            outer = linear.Dense(width, dtype=self.dtype, name=f"{name}_out")
            found[name] = outer(joined)
        return found


class FeedForward(nn.Module):
    """LayerNorm, Linear, GELU, Linear.

    Attributes:
      hidden: width inside.
      dtype: of the computation; parameters are fp32.
    """

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B n D"]) -> Float[Array, "B n D"]:
        """Returns what is added to the tokens."""
        inner = linear.Dense(self.hidden, dtype=self.dtype)(_norm(self.dtype)(x))
        inner = nn.gelu(inner, approximate=False)
        return linear.Dense(x.shape[-1], dtype=self.dtype)(inner)


class FmFormer(nn.Module):
    """Class logits of windows, from one modality or from two.

    A block is self-attention of each stream, attention of each to the other, where
    there are two, and a feed-forward layer of each, all pre-norm. A Linear on the class
    token of each stream gives logits, which are added.

    Attributes:
      classes: K.
      video: the modality of frames, "" for none.
      current: that of samples, "" for none.
      frame_stride: every how many frames of a window are read, from the first.
      width: D of a token.
      depth: number of blocks.
      heads: attention heads.
      hidden: width of the feed-forward layers.
      dilated: whether every second pixel of the frames gives further tokens.
      phase_layer_norm: whether the phases of a sample are normalised by themselves, as
        published: what is left is an angle, whatever the level of the current.
      dtype: of the computation; parameters and logits are fp32.
    """

    classes: int
    video: str = "video"
    current: str = "current"
    frame_stride: int = 3
    width: int = 96
    depth: int = 6
    heads: int = 3
    hidden: int = 384
    dilated: bool = True
    phase_layer_norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Array], *, train: bool
    ) -> Float[Array, "B K"]:
        """Returns logits.

        Args:
          inputs: by modality [B, T, R, ...], normalised: frames [H, W, C], samples [C].
          train: nothing acts in training only.

        Raises:
          ValueError: no stream at all, or frames that cannot be cut into tubelets.
        """
        streams: dict[str, Any] = {}
        if self.video:
            streams["video"] = self._video(inputs[self.video])
        if self.current:
            streams["current"] = self._current(inputs[self.current])
        if not streams:
            raise ValueError(
                "FmFormer needs a video or a current; got neither; name one"
            )
        for i in range(self.depth):
            for crossed in (False, True)[: len(streams)]:
                attend = Attention(
                    self.heads, self.dtype, name=f"{'cross' if crossed else 'self'}_{i}"
                )
                for name, more in attend(streams, crossed=crossed).items():
                    streams[name] = streams[name] + more
            for name, x in streams.items():
                feed = FeedForward(self.hidden, self.dtype, name=f"{name}_feed_{i}")
                streams[name] = x + feed(x)
        logits = [
            linear.Dense(self.classes, name=f"{name}_head")(
                _norm(jnp.float32, f"{name}_norm")(x[:, 0].astype(jnp.float32))
            )
            for name, x in streams.items()
        ]
        return jnp.asarray(sum(logits))

    def _video(self, video: Array) -> Float[Array, "B n D"]:
        frames = video.reshape(video.shape[0], -1, *video.shape[3:])
        frames = frames[:, :: self.frame_stride]
        tokens = [
            Tokens(self.width, dtype=self.dtype, name="patches")(tubelets(frames))
        ]
        if self.dilated:
            coarse = tubelets(frames[:, :, ::2, ::2])
            tokens.append(Tokens(self.width, dtype=self.dtype, name="dilated")(coarse))
        return self._with_class("video", jnp.concatenate(tokens, axis=1))

    def _current(self, current: Array) -> Float[Array, "B n D"]:
        samples = current.reshape(current.shape[0], -1, current.shape[-1])
        tokens = Tokens(
            self.width,
            norm_inputs=self.phase_layer_norm,
            dtype=self.dtype,
            name="samples",
        )
        return self._with_class("current", tokens(samples))

    def _with_class(
        self, name: str, tokens: Float[Array, "B n D"]
    ) -> Float[Array, "B m D"]:
        """Returns the class token, which has a place of its own, and the others."""
        first = _learned(self, f"{name}_class", (1, self.width))
        first = first + _learned(self, f"{name}_class_position", (1, self.width))
        first = jnp.broadcast_to(first, (len(tokens), 1, self.width))
        return jnp.concatenate([first, tokens], axis=1)
