"""From a stem's map and a query to a mask: a small decoder over frozen encoders.

The query scales and shifts the channels of the map (FiLM, Perez et al. 2018). Trained
with the queries of one modality, it is asked with those of the other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Key
from numpy import ndarray

from fmalign_jax.evaluation.localisation_metrics import confusion, iou
from fmalign_jax.models.layers import conv

_BATCH = 32
_LEARNING_RATE = 2e-3
_THRESHOLDS = np.linspace(0.0, 10.0, 41)  # logits; weighted to balance, most is above 0


class GlowDecoder(nn.Module):
    """Map [B, h, w, C] and query [B, D] to logits [B, H, W].

    1x1 convolution; scale and shift of its channels by the query; then doubled in size
    again and again, each time with a 3x3 convolution to half of the channels.

    Attributes:
      doublings: H / h = W / w = 2^doublings.
      features: channels at the size of the map.
    """

    doublings: int
    features: int = 64

    @nn.compact
    def __call__(
        self, maps: Float[Array, "B h w C"], query: Float[Array, "B D"]
    ) -> Float[Array, "B H W"]:
        """Returns one logit a pixel; a query of zeros changes nothing."""
        x = conv(self.features, (1, 1))(maps)
        film = nn.Dense(2 * self.features, use_bias=False, name="film")(query)
        scale, shift = jnp.split(film[:, None, None], 2, axis=-1)
        x = x * (1 + scale) + shift
        for level in range(1, self.doublings + 1):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = nn.relu(conv(max(8, self.features >> level), (3, 3))(x))
        return conv(1, (1, 1))(x)[..., 0]


@dataclasses.dataclass(frozen=True)
class FittedDecoder:
    """A decoder and the level above which a pixel belongs to the glow.

    Attributes:
      module: the network.
      params: its parameters.
      threshold: of the logit; with the highest IoU on what it was fitted to.
    """

    module: GlowDecoder
    params: Any
    threshold: float

    def masks(
        self, maps: Float32[ndarray, "N h w C"], query: Float32[ndarray, "N D"]
    ) -> Bool[ndarray, "N H W"]:
        """Returns the pixels that belong to the glow."""
        return _logits(self.module, self.params, maps, query) > self.threshold


def fit(
    maps: Float32[ndarray, "N h w C"],
    query: Float32[ndarray, "N D"],
    masks: Bool[ndarray, "N H W"],
    *,
    steps: int,
    seed: int,
) -> FittedDecoder:
    """Fits a decoder by Adam.

    Args:
      maps: of the stem.
      query: one a frame.
      masks: of the glow; both classes weigh the same in the loss.
      steps: updates, each on 32 frames drawn at random.
      seed: of parameters and order.

    Raises:
      ValueError: frames that are no power of two as large as the maps, or no glow.
    """
    doublings = math.log2(masks.shape[1] / maps.shape[1])
    larger = (masks.shape[1] / maps.shape[1], masks.shape[2] / maps.shape[2])
    if doublings % 1 or larger[0] != larger[1]:
        raise ValueError(
            "masks must be 2, 4, 8 ... times as high and wide as the stem's map; got "
            f"{masks.shape[1:]} and {maps.shape[1:3]}; use another stem or frame size"
        )
    share = float(masks.mean())
    if not share:
        raise ValueError(
            "the frames to learn from must show a glow; got none in "
            f"{len(masks)} frames; use more of them"
        )
    module = GlowDecoder(int(doublings))
    params = _trained(
        module,
        jax.random.key(seed),
        maps,
        query,
        masks,
        jnp.float32([0.5 / (1 - share), 0.5 / share]),
        steps=steps,
    )
    logits = _logits(module, params, maps, query)
    found = [iou(confusion(masks, logits > level)) for level in _THRESHOLDS]
    return FittedDecoder(module, params, float(_THRESHOLDS[np.argmax(found)]))


@functools.partial(jax.jit, static_argnames=("module", "steps"))
def _trained(
    module: GlowDecoder,
    key: Key[Array, ""],
    maps: Float[Array, "N h w C"],
    query: Float[Array, "N D"],
    masks: Bool[Array, "N H W"],
    weights: Float[Array, "2"],
    *,
    steps: int,
) -> Any:
    """Returns the parameters after all steps; `weights` are those of dark and glow."""
    init_key, order_key = jax.random.split(key)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps))

    def loss(params: Any, rows: Any) -> Float[Array, ""]:
        logits: Any = module.apply({"params": params}, maps[rows], query[rows])
        glow = masks[rows]
        value = optax.sigmoid_binary_cross_entropy(logits, glow.astype(logits.dtype))
        return (value * jnp.where(glow, weights[1], weights[0])).mean()

    def step(carry: Any, step_key: Key[Array, ""]) -> tuple[Any, None]:
        params, opt_state = carry
        rows = jax.random.randint(step_key, (_BATCH,), 0, len(maps))
        updates, opt_state = optimizer.update(jax.grad(loss)(params, rows), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    params = module.init(init_key, maps[:1], query[:1])["params"]
    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(order_key, steps))
    return params


def _logits(
    module: GlowDecoder,
    params: Any,
    maps: Float32[ndarray, "N h w C"],
    query: Float32[ndarray, "N D"],
) -> Float32[ndarray, "N H W"]:
    apply = _apply(module)
    parts = [
        np.asarray(apply(params, maps[i : i + _BATCH], query[i : i + _BATCH]))
        for i in range(0, len(maps), _BATCH)
    ]
    return np.concatenate(parts)


@functools.cache
def _apply(module: GlowDecoder) -> Any:
    return jax.jit(
        lambda params, maps, query: module.apply({"params": params}, maps, query)
    )
