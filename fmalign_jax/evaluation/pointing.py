"""Where on a frame a frozen encoder looks: a value for every cell of its stem's map.

Without labels and without training. A pool says which cells it takes each channel from:
`MaxPool` from the one where the channel is largest, `AttentivePool` by its attention. A
query adds which channels matter: those by which the features would come nearer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_leaves_with_path
from jaxtyping import Array, Float, Float32
from numpy import ndarray

from fmalign_jax.data import pipeline
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.losses import normalise
from fmalign_jax.models.encoders import AttentivePool, MaxPool
from fmalign_jax.run.frozen_encoder import EncoderState
from fmalign_jax.training import preprocess, sharding

_ROWS = 16


class Looks(NamedTuple):
    """What an encoder makes of the last tick of each window.

    Attributes:
      stem: [N, h, w, C], the stem's map.
      free: [N, h, w], where the pool looks; sums to 1 over the cells.
      asked: by query [N, h, w], the cells that would bring the features nearer to it.
    """

    stem: Any
    free: Any
    asked: dict[str, Any]


Looker = Callable[[EncoderState, RecordingStore, WindowIndex, Mapping[str, Any]], Looks]


def looker(system: Any, modality: str) -> Looker:
    """Returns what tells where the encoder of a modality looks, compiled once.

    Args:
      system: of a run.
      modality: with maps, such as the video.

    Returns:
      A function of what encodes, the recordings, some of their windows, and queries: by
      name one vector a window, as long as the features.

    Raises:
      ValueError: the modality's pool is none of those that choose cells.
    """
    entry = system.modalities[modality]["pool"]
    named = entry["name"].rpartition(".")[2] if entry else None
    if named not in (MaxPool.__name__, AttentivePool.__name__):
        raise ValueError(
            f"model.modalities.{modality}.pool must be MaxPool or AttentivePool, which "
            f"choose cells; got {named}; use a run with one of them"
        )

    @jax.jit
    def looks(frozen: Any, streams: Any, asked: Any) -> Looks:
        inputs = preprocess.normalise(streams, frozen.statistics)
        return look_at_last(system, frozen.params, inputs, asked)

    def look(
        frozen: EncoderState,
        store: RecordingStore,
        windows: WindowIndex,
        queries: Mapping[str, Float32[ndarray, "N D"]],
    ) -> Looks:
        frozen, own = sharding.on_one_device(frozen), windows.reading(modality)
        found = []
        for start in range(0, len(own), _ROWS):
            # The last rows are filled up, so that one program serves all.
            rows = np.minimum(np.arange(start, start + _ROWS), len(own) - 1)
            streams = pipeline.assemble(store, own, rows)["streams"]
            asked = {name: query[rows] for name, query in queries.items()}
            found.append(jax.device_get(looks(frozen, streams, asked)))
        joined: Looks = jax.tree.map(
            lambda *parts: np.concatenate(parts)[: len(own)], *found
        )
        return joined

    return look


def look_at_last(
    system: Any, params: Any, inputs: dict[str, Array], queries: dict[str, Array]
) -> Looks:
    """Returns the same of one batch of normalised windows of one modality."""
    (modality,) = inputs

    def features(change: Any) -> tuple[Array, Any]:
        """Returns the last features, with a change added to what is pooled."""
        seen: dict[str, Array] = {}

        def through_pool(
            following: Callable[..., Any], args: Any, kwargs: Any, context: Any
        ) -> Any:
            pooled = following(*args, **kwargs)
            if not isinstance(context.module, MaxPool | AttentivePool):
                return pooled
            seen["map"] = args[0]
            return pooled + change

        with nn.intercept_methods(through_pool):
            found, sown = system.apply(
                {"params": params},
                inputs,
                train=False,
                method="semantic",
                mutable=["intermediates"],
            )
        return found[modality][:, -1], (seen["map"], sown)

    nothing = jnp.zeros(())
    _, (stem, sown) = features(nothing)
    last = stem[:, -1].astype(jnp.float32)
    taken = _cells_taken(last, sown)
    channels = last.shape[-1]
    change = jnp.zeros((*stem.shape[:2], channels))

    def nearness(change: Array, query: Array) -> Array:
        z, _ = features(change)
        return (normalise(z) * normalise(query)).sum()

    asked = {}
    for name, query in queries.items():
        weight = jax.grad(nearness)(change, query)[:, -1]
        asked[name] = jnp.einsum("nc,nhwc->nhw", weight, taken.by_channel)
    return Looks(last, taken.free, asked)


class _Taken(NamedTuple):
    """What a pool takes from each cell.

    Attributes:
      free: the share of what is taken, whatever the channel.
      by_channel: of each channel.
    """

    free: Float[Array, "N h w"]
    by_channel: Float[Array, "N h w C"]


def _cells_taken(last: Float[Array, "N h w C"], sown: Any) -> _Taken:
    n, h, w = last.shape[:3]
    attention = [
        leaf
        for path, leaf in tree_leaves_with_path(sown)
        if any(getattr(part, "key", None) == "attention" for part in path)
    ]
    if attention:
        free = attention[0][:, -1].reshape(n, h, w)
        # All channels are taken alike: only what they hold tells cells apart.
        return _Taken(free, free[..., None] * last)
    flat = last.reshape(n, h * w, -1)
    # No look for the maximum by equality: see `layers.largest`.
    place = jax.nn.one_hot(flat.argmax(axis=1), h * w, axis=1)
    # A channel that is the same everywhere, such as zero, tells no place.
    alike = flat.max(axis=1, keepdims=True) <= flat.min(axis=1, keepdims=True)
    place = jnp.where(alike, 1 / (h * w), place).reshape(last.shape)
    return _Taken(place.mean(axis=-1), place)
