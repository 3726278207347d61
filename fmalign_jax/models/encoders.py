"""Encoders: from one modality's input to semantic and specific features.

A stem turns normalised input into features, a map [B, T, h, w, C] or a vector
[B, T, C] a tick. A pool turns maps into vectors, from which `SemanticEncoder` makes
what modalities share. A specific encoder reads the stem's features and returns
(specific features, their summary as one vector a tick).

Stems, pools and specific encoders are named in the config; another one is a Linen
module with the same call. One that needs to know whether it is in training uses
``self.has_rng("dropout")``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fmalign_jax.models import linear
from fmalign_jax.models.layers import (
    ResidualBlock,
    TransformerLayer,
    conv,
    few_ticks_at_a_time,
    in_time_order,
    largest,
    placed,
    sinusoids,
    space_to_depth,
)

PROJECTION = "projection"
"""Name of the Linear -> D of `SemanticEncoder`."""


class FeatureStem(nn.Module):
    """Passes precomputed features on: [B, T, 1, h, w, C] or [B, T, 1, C].

    Raises:
      ValueError: when a tick holds more than one sample.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, inputs: Float[Array, "B T R *rest"]) -> Array:
        """Returns the features without the axis of samples."""
        if inputs.shape[2] != 1:
            raise ValueError(
                "precomputed features come once a tick; got "
                f"{inputs.shape[2]} samples a tick; set samples_per_tick to 1"
            )
        return inputs[:, :, 0].astype(self.dtype)


class FrameStem(nn.Module):
    """Convolutions over each tick's frames, [B, T, R, H, W, C] -> [B, T, h, w, F].

    The first layer cuts the frame into patches, one matrix product, which is several
    times faster on a CPU than a convolution over full-size frames.

    Attributes:
      features: channels of each layer.
      strides: stride of each layer; the first is the side of a patch in pixels.
      norm: "group" or "none", before each ReLU.
      differences: also show what changed since the tick before (0 at the first).
      overlap: the further layers are 3x3 convolutions. False: each cuts its input into
        patches too, as large as its stride, which is less work.
      dtype: of the computation; parameters are fp32.
    """

    features: Sequence[int] = (32, 64, 128)
    strides: Sequence[int] = (4, 2, 1)
    norm: str = "group"
    differences: bool = False
    overlap: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "B T R H W C"]
    ) -> Float[Array, "B T h w F"]:
        """Returns feature maps."""
        self._check(inputs.shape)
        b, t, r, h, w, c = inputs.shape
        x = jnp.moveaxis(inputs, 2, 4).reshape(b, t, h, w, r * c).astype(self.dtype)
        if self.differences:
            change = jnp.diff(x, axis=1, prepend=x[:, :1])
            x = jnp.concatenate([x, change], axis=-1)
        return few_ticks_at_a_time(self, FrameStem._maps, x, widest=max(self.features))

    def _maps(self, x: Float[Array, "B n H W C"]) -> Float[Array, "B n h w F"]:
        for layer, (width, stride) in enumerate(
            zip(self.features, self.strides, strict=True)
        ):
            if layer and self.overlap:
                x = conv(width, (3, 3), (stride, stride), dtype=self.dtype)(x)
            else:
                patches = space_to_depth(x, stride)
                x = linear.Dense(width, dtype=self.dtype)(patches)
            x = self._activate(x)
        return x

    def _activate(self, x: Array) -> Array:
        if self.norm == "group":
            groups = math.gcd(8, x.shape[-1])
            x = nn.GroupNorm(groups, reduction_axes=(-3, -2, -1), dtype=self.dtype)(x)
        return nn.relu(x)

    def _check(self, shape: Sequence[int]) -> None:
        sides = self.strides[:1] if self.overlap else self.strides
        patch = math.prod(sides)
        if shape[3] % patch or shape[4] % patch:
            of = "strides[0]" if self.overlap else "the product of all strides"
            raise ValueError(
                f"frames must divide into patches of {of} pixels; got frames of "
                f"{shape[3]}x{shape[4]} and {patch}; choose other strides"
            )
        if len(self.features) != len(self.strides):
            raise ValueError(
                "FrameStem needs one stride a layer; got features "
                f"{tuple(self.features)} and strides {tuple(self.strides)}"
                "; make them equally long"
            )
        if self.norm not in ("group", "none"):
            raise ValueError(
                f"FrameStem normalises by 'group' or 'none'; got {self.norm!r}; "
                "use one of them"
            )


class SensorStem(nn.Module):
    """1-D convolutions over the raw samples, [B, T, R, C] -> [B, T, F].

    One layer at the sensor's own rate finds local shapes and fluctuations, one strided
    layer gathers them into a token a tick. Nothing normalises over time or channels, so
    level and amplitude survive; the ends are mirrored, so that the edge of a window
    does not look like a jump.

    Attributes:
      features: channels of the two layers.
      kernel: length of the first layer's filters, samples.
      phase_layer_norm: LayerNorm over the channels of each sample, as in published
        code. It throws level and common amplitude away: for ablation only.
      dtype: of the computation; parameters are fp32.
    """

    features: tuple[int, int] | list[int] = (64, 128)
    kernel: int = 5
    phase_layer_norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, inputs: Float[Array, "B T R C"]) -> Float[Array, "B T F"]:
        """Returns one token a tick."""
        b, t, r, c = inputs.shape
        x = inputs.reshape(b, t * r, c).astype(self.dtype)
        if self.phase_layer_norm:
            x = nn.LayerNorm(dtype=self.dtype)(x)
        local, token = self.features
        x = conv(local, (self.kernel,), padding="REFLECT", dtype=self.dtype)(x)
        # Half a tick into both neighbours, so that a token is centred on its tick.
        reach = max(1, r // 2)
        x = jnp.pad(nn.relu(x), ((0, 0), (reach, reach), (0, 0)), mode="reflect")
        gather = conv(token, (r + 2 * reach,), (r,), padding="VALID", dtype=self.dtype)
        return nn.relu(gather(x))


LAG_WEIGHTS = "lag_weights"
"""Name of what a stem that reads a range of leads sows."""

_PROFILE_STEP = 10.0
"""How much faster than other parameters the profile over the lags is learnt: there are
few steps, and a weight has to change by a factor."""


class LagStem(nn.Module):
    """A sensor read over a range of leads, [B, T, L * R, C] -> [B, T, F], by soft lag.

    The samples of L leads (``data.lead_range_s``) are put in order of time, and
    `SensorStem` makes a token of every tick. A tick of the window then takes a mean of
    the tokens at all leads from the least to the most; its weights are a softmax over
    the lags. Each head has weights of its own for its share of the features.

    A weight's logit is that of the lag plus what the token itself asks for. That of the
    lag is a normal density around the middle of the range, to which a piecewise linear
    profile is learnt. Windows of one lead pass through `SensorStem` alone, as the
    search for the lead reads them.

    Attributes:
      samples_per_tick: R of one lead.
      features: channels of the two layers of `SensorStem`.
      kernel: of `SensorStem`.
      heads: parts of the features with weights of their own.
      knots: of the profile over the range of leads.
      spread: standard deviation of the weights at the start, in windows.
      weights: "soft", or "mean" for equal ones.
      dtype: of the computation; parameters and weights are fp32.
    """

    samples_per_tick: int
    features: tuple[int, int] | list[int] = (64, 128)
    kernel: int = 5
    heads: int = 4
    knots: int = 10
    spread: float = 0.5
    weights: str = "soft"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, inputs: Float[Array, "B T LR C"]) -> Float[Array, "B T F"]:
        """Returns one vector a tick; sows the weights [B, heads, lags], longest first.

        Raises:
          ValueError: weights of another name, or heads that do not divide F.
        """
        if self.weights not in ("soft", "mean") or self.features[1] % self.heads:
            raise ValueError(
                "LagStem takes weights 'soft' or 'mean', and heads that divide its last"
                f" features; got {self.weights!r}, {self.heads} heads and "
                f"{tuple(self.features)}; correct model.modalities"
            )
        ordered = in_time_order(inputs, self.samples_per_tick)
        stem = SensorStem(self.features, self.kernel, dtype=self.dtype)
        tokens = stem(ordered)
        zeros = nn.initializers.zeros
        profile = self.param("profile", zeros, (self.heads, self.knots))
        asked = nn.Dense(self.heads, kernel_init=zeros, name="asked")
        b, ticks = inputs.shape[:2]
        if tokens.shape[1] == ticks:
            asked(tokens[:, :1])  # has its parameters all the same
            return tokens
        scores = asked(tokens.astype(jnp.float32))
        # [T, all]: how far a token lies behind the earliest that a tick reads.
        lag = np.arange(tokens.shape[1]) - np.arange(ticks)[:, None]
        most = tokens.shape[1] - ticks
        place = np.clip(lag / most, 0, 1) * (self.knots - 1)
        hats = np.maximum(0, 1 - np.abs(place[..., None] - np.arange(self.knots)))
        from_middle = (lag - most / 2) / (self.spread * ticks)
        logits = _PROFILE_STEP * jnp.einsum("hk,tck->htc", profile, hats)
        logits = logits - from_middle**2 / 2 + scores.mT[:, :, None]
        if self.weights == "mean":
            logits = jnp.zeros_like(logits)
        logits = jnp.where((lag >= 0) & (lag <= most), logits, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1)
        by_lag = np.arange(ticks)[:, None] + np.arange(most + 1)
        read = jnp.take_along_axis(weights, by_lag[None, None], axis=-1)
        self.sow("intermediates", LAG_WEIGHTS, read.mean(axis=2))
        parts = tokens.reshape(b, tokens.shape[1], self.heads, -1)
        mixed = jnp.einsum("bhtc,bchf->bthf", weights.astype(parts.dtype), parts)
        return mixed.reshape(b, ticks, -1)


class TokenStem(nn.Module):
    """Mean embedding of a tick's tokens, int [B, T, R] -> [B, T, F].

    Attributes:
      vocabulary: number of different tokens.
      features: width of the embedding.
      dtype: of the computation; parameters are fp32.
    """

    vocabulary: int
    features: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, inputs: Int[Array, "B T R"]) -> Float[Array, "B T F"]:
        """Returns one vector a tick."""
        embed = nn.Embed(self.vocabulary, self.features, dtype=self.dtype)
        return embed(inputs).mean(axis=2)


class AttentivePool(nn.Module):
    """Channel and spatial attention, [B, T, h, w, C] -> [B, T, C].

    Channels are re-weighted by squeeze and excitation, x (1 + s). Positions are
    weighted by a softmax over the POSITIONS; over any other axis all weights would be
    one and the attention a plain sum.

    Attributes:
      width: of the space in which position and pooled vector meet.
      reduction: of the channels in the squeeze.
      dtype: of the computation; parameters are fp32.
    """

    width: int = 256
    reduction: int = 8
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "B T h w C"]) -> Float[Array, "B T C"]:
        """Returns the weighted mean; sows the weights [B, T, h * w] as `attention`."""
        b, t, h, w, c = features.shape
        x = features.reshape(b, t, h * w, c).astype(self.dtype)

        def dense(width: int) -> nn.Dense:
            return linear.Dense(width, dtype=self.dtype)

        squeezed = nn.relu(dense(max(1, c // self.reduction))(x.mean(axis=2)))
        x = x * (1.0 + nn.sigmoid(dense(c)(squeezed)))[:, :, None]
        pooled = nn.relu(dense(self.width)(x.mean(axis=2)))[:, :, None]
        places = nn.relu(dense(self.width)(x))
        scores = jnp.tanh(dense(1)(pooled * places).astype(jnp.float32))[..., 0]
        attention = jax.nn.softmax(scores, axis=-1)
        self.sow("intermediates", "attention", attention)
        return jnp.einsum("btp,btpc->btc", attention.astype(x.dtype), x)


class MaxPool(nn.Module):
    """Largest value of each channel over the positions, [B, T, h, w, C] -> [B, T, C].

    Keeps what is seen anywhere, however small, such as a spot on a furnace's shell.
    """

    @nn.compact
    def __call__(self, features: Float[Array, "B T h w C"]) -> Float[Array, "B T C"]:
        """Returns the maxima."""
        return largest(features.reshape(*features.shape[:2], -1, features.shape[-1]), 2)


class FlattenPool(nn.Module):
    """All positions side by side, through one Linear, [B, T, h, w, C] -> [B, T, F].

    Keeps where in the frame something happens, which is lost in any pooling by weights.

    Attributes:
      features: F.
      dtype: of the computation; parameters are fp32.
    """

    features: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "B T h w C"]) -> Float[Array, "B T F"]:
        """Returns one vector a tick."""
        x = features.reshape(*features.shape[:2], -1)
        return linear.Dense(self.features, dtype=self.dtype)(x)


class SemanticEncoder(nn.Module):
    """From one vector a tick to semantic features, [B, T, C] -> [B, T, D] fp32.

    Attributes:
      width: D.
      layers: number of transformer layers.
      heads: attention heads.
      ffn: width of the feed-forward layers.
      dropout: rate, in training.
      positions: "none" (the paper's form), "sinusoidal" or "learned".
      causal: a tick's features depend on no later tick, up to what the stem gathers
        around it. The paper's encoders look both ways.
      dtype: of the computation; parameters are fp32.
    """

    width: int
    layers: int = 2
    heads: int = 4
    ffn: int = 1024
    dropout: float = 0.1
    positions: str = "none"
    causal: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "B T C"], *, train: bool, context: bool = True
    ) -> Float[Array, "B T D"]:
        """Returns continuous semantic features, fp32 for the quantiser.

        Args:
          features: one vector a tick.
          train: whether dropout acts.
          context: False for ticks that do not see each other, nor know their place.
        """
        x = linear.Dense(self.width, dtype=self.dtype, name=PROJECTION)(features)
        if self.positions != "none":
            x = placed(x, self._positions(x.shape[1]), context=context)
        for _ in range(self.layers):
            layer = TransformerLayer(
                self.heads, self.ffn, self.dropout, self.dtype, self.causal
            )
            x = layer(x, train=train, context=context)
        return x.astype(jnp.float32)

    def _positions(self, ticks: int) -> Float[Array, "T D"]:
        if self.positions == "sinusoidal":
            return sinusoids(ticks, self.width)
        if self.positions == "learned":
            initial = nn.initializers.normal(0.02)
            return self.param("positions", initial, (ticks, self.width))
        raise ValueError(
            "positions are 'none', 'sinusoidal' or 'learned'; got "
            f"{self.positions!r}; use one of them"
        )


class ConvSpecific(nn.Module):
    """Specific features of a map: 3x3 valid convolutions, 1x1, a residual block.

    Attributes:
      features: channels of the 3x3 layers; each takes 2 off the map's sides.
      residual: inner channels of the residual block.
      summary: width of the summary, None for as many as the map has channels.
      dtype: of the computation; parameters are fp32.
    """

    features: Sequence[int] = (1024, 2048)
    residual: int = 1024
    summary: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "B T h w C"]
    ) -> tuple[Float[Array, "B T hs ws F"], Float[Array, "B T S"]]:
        """Returns the map and, by average pooling and an MLP, its summary in fp32."""
        shrink = 2 * len(self.features)
        if min(features.shape[2:4]) <= shrink:
            raise ValueError(
                f"maps must be larger than the {shrink} rows that ConvSpecific takes "
                f"off; got {features.shape[2]}x{features.shape[3]}; give fewer layers "
                "or the stem smaller strides"
            )
        return few_ticks_at_a_time(
            self, ConvSpecific._map_and_summary, features, widest=max(self.features)
        )

    def _map_and_summary(
        self, features: Float[Array, "B n h w C"]
    ) -> tuple[Float[Array, "B n hs ws F"], Float[Array, "B n S"]]:
        x = features
        for width in self.features:
            x = nn.relu(conv(width, (3, 3), padding="VALID", dtype=self.dtype)(x))
        x = conv(self.features[-1], (1, 1), dtype=self.dtype)(x)
        x = ResidualBlock(self.residual, self.dtype)(x)
        return x, _summary(x, self.summary or features.shape[-1], self.dtype)


class PatchSpecific(nn.Module):
    """Specific features of a map that is cut into patches, each by itself.

    As `ConvSpecific`, but without convolutions: no patch sees its neighbours, which is
    several times faster on a CPU.

    Attributes:
      features: channels of the layers.
      side: of a patch, in places of the map.
      summary: width of the summary, None for as many as the map has channels.
      dtype: of the computation; parameters are fp32.
    """

    features: Sequence[int] = (64, 64)
    side: int = 2
    summary: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "B T h w C"]
    ) -> tuple[Float[Array, "B T hs ws F"], Float[Array, "B T S"]]:
        """Returns the map and, by average pooling and an MLP, its summary in fp32."""
        if features.shape[2] % self.side or features.shape[3] % self.side:
            raise ValueError(
                "maps must divide into patches of PatchSpecific's side; got maps of "
                f"{features.shape[2]}x{features.shape[3]} and {self.side}; choose "
                "another side, or other strides of the stem"
            )
        return few_ticks_at_a_time(
            self, PatchSpecific._map_and_summary, features, widest=max(self.features)
        )

    def _map_and_summary(
        self, features: Float[Array, "B n h w C"]
    ) -> tuple[Float[Array, "B n hs ws F"], Float[Array, "B n S"]]:
        first, *further = self.features
        patches = space_to_depth(features, self.side)
        x = linear.Dense(first, dtype=self.dtype)(patches)
        for width in further:
            x = linear.Dense(width, dtype=self.dtype)(nn.relu(x))
        return x, _summary(x, self.summary or features.shape[-1], self.dtype)


class DenseSpecific(nn.Module):
    """Specific features of a vector, Linear and ReLU; they are their own summary.

    Attributes:
      features: width.
      dtype: of the computation; parameters are fp32.
    """

    features: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "B T C"]
    ) -> tuple[Float[Array, "B T F"], Float[Array, "B T F"]]:
        """Returns the features twice, the second time in fp32."""
        x = nn.relu(linear.Dense(self.features, dtype=self.dtype)(features))
        return x, x.astype(jnp.float32)


def _summary(
    x: Float[Array, "B n h w F"], width: int, dtype: DTypeLike
) -> Float[Array, "B n S"]:
    """Returns the mean over the places, through an MLP; a part of a compact module."""
    pooled = linear.Dense(x.shape[-1], dtype=dtype)(x.mean(axis=(2, 3)))
    return linear.Dense(width, dtype=dtype)(nn.relu(pooled)).astype(jnp.float32)
