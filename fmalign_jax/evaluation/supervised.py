"""The oracle: the target's encoder trained from scratch with the target's own labels.

What labels for every window of the target would give; zero-shot transfer has none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict
from numpy import ndarray
from scipy.special import softmax
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold

from fmalign_jax.data import pipeline
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.linear_head import PooledLinear, class_weights
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.training import preprocess, sharding

Statistics = Mapping[str, Mapping[str, Array]]
Streams = Mapping[str, ndarray]

_HELD_OUT = 5  # one part in so many judges the epochs
_WINDOWS_AT_ONCE = 8  # of a gradient: each takes a copy of the parameters
_LEAST_UPDATES = 50  # in an epoch
_PATIENCE = 4  # epochs without improvement, after which it stops
# With a run's own 1e-3 and no decay it over-fits ten recordings within five epochs and
# ends below a head on frozen codes.
_LEARNING_RATE = 3e-4
_WEIGHT_DECAY = 0.3


@dataclasses.dataclass(frozen=True)
class Oracle:
    """A supervised encoder of one modality, and how it was trained.

    Attributes:
      predict: a split to the class probabilities [N, K] of its windows.
      losses: cross-entropy on the held-out groups after each epoch.
    """

    predict: Callable[[LabelledWindows], Float[ndarray, "N K"]]
    losses: list[float]

    @property
    def best_epoch(self) -> int:
        """Returns the epoch whose parameters were kept, from 1."""
        return 1 + int(np.argmin(self.losses))


@dataclasses.dataclass(frozen=True)
class _Network:
    """Encoder and head of one modality, and what its inputs are made with."""

    modality: str
    system: Any
    head: PooledLinear
    statistics: Any
    time_warp: Mapping[str, float]
    augmentation: Mapping[str, Mapping[str, float]]
    samples_per_tick: Mapping[str, int]

    def logits(
        self, params: Any, streams: Any, key: Key[Array, ""] | None = None
    ) -> Float[Array, "B K"]:
        """Returns logits; with a key, as in training: augmented and with dropout."""
        values = preprocess.normalise(streams, self.statistics)
        rngs = {}
        if key is not None:
            augment_key, dropout_key = jax.random.split(key)
            values = preprocess.random_view(
                augment_key,
                values,
                time_warp=self.time_warp,
                settings=self.augmentation,
                samples_per_tick=self.samples_per_tick,
            )
            rngs = {"dropout": dropout_key}
        semantic: Any = self.system.apply(
            {"params": params["encoder"]},
            values,
            train=key is not None,
            method="semantic",
            rngs=rngs,
        )
        logits: Any = self.head.apply(
            {"params": params["head"]}, semantic[self.modality]
        )
        return logits


def train(
    split: LabelledWindows,
    groups: Int[ndarray, " N"],
    config: ConfigDict,
    modality: str,
    statistics: Statistics,
    spec: HeadSpec,
    *,
    classes: int,
    epochs: int,
    seed: int,
) -> Oracle:
    """Trains an encoder and a head together, keeping the best epoch.

    On one device, so that the oracle does not depend on their number.

    Args:
      split: the head split, all windows labelled.
      groups: [N], recordings (or clips, blocks), of which a fifth judges the epochs.
      config: of the run: architecture, augmentation, batch size.
      modality: which encoder.
      statistics: of the inputs, as in the run.
      spec: pooling and class weights of the head.
      classes: K.
      epochs: at most, of 50 updates or more each; it stops after four without
        improvement on the held-out groups.
      seed: of parameters, order, dropout and augmentation.
    """
    folds = min(_HELD_OUT, len(np.unique(groups)))
    own, held = next(GroupKFold(folds).split(groups, groups=groups))
    fitted, judged = split.chosen(own), split.chosen(held)
    encoder = FrozenEncoder(config, [modality], sharding.one_device_mesh())
    network = _Network(
        modality,
        encoder.system,
        PooledLinear(classes, spec.pooling),
        sharding.on_one_device({m: s for m, s in statistics.items() if m == modality}),
        config.time_warp.to_dict(),
        {m: s for m, s in config.augment.to_dict().items() if m == modality},
        config.data.samples_per_tick.to_dict(),
    )
    weights = class_weights(fitted.label, classes, balanced=spec.balanced)
    batch_size = min(config.batch_size, len(fitted))
    updates = epochs * (_epoch_windows(len(fitted), batch_size) // batch_size)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.optimizer.clip_norm),
        optax.adamw(
            optax.cosine_decay_schedule(_LEARNING_RATE, updates),
            weight_decay=_WEIGHT_DECAY,
        ),
    )
    step = _make_step(network, optimizer, weights)
    apply = jax.jit(network.logits)
    key, first = jax.random.key(seed), np.arange(batch_size)
    params = _start(network, encoder, _streams(fitted, modality, first), key)
    state = (params, optimizer.init(params))
    best, losses = params, []
    for epoch in range(epochs):
        order = _epoch_order(
            len(fitted), batch_size, np.random.default_rng([seed, epoch])
        )
        for start in range(0, len(order) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            step_key = jax.random.fold_in(key, epoch * len(order) + start)
            streams = _streams(fitted, modality, rows)
            state = step(state, step_key, streams, fitted.label[rows])
        probability = _predict(apply, state[0], judged, modality, config.batch_size)
        losses.append(log_loss(judged.label, probability, labels=np.arange(classes)))
        if losses[-1] == min(losses):
            best = state[0]
        elif epoch - int(np.argmin(losses)) >= _PATIENCE:
            break
    return Oracle(
        lambda other: _predict(apply, best, other, modality, config.batch_size),
        [float(loss) for loss in losses],
    )


def _epoch_windows(windows: int, batch_size: int) -> int:
    """Returns how many windows an epoch takes: each several times if they are few."""
    return windows * -(-_LEAST_UPDATES // (windows // batch_size))


def _epoch_order(
    windows: int, batch_size: int, rng: np.random.Generator
) -> Int[ndarray, " n"]:
    """Returns the windows of an epoch, shuffled."""
    passes = _epoch_windows(windows, batch_size) // windows
    return np.concatenate([rng.permutation(windows) for _ in range(passes)])


def _start(
    network: _Network, encoder: FrozenEncoder, streams: Streams, key: Key[Array, ""]
) -> Any:
    """Returns the first parameters, the encoder's as those of a run."""
    encoder_key, head_key = jax.random.split(key)
    params = encoder.fresh_params(encoder_key, streams, network.statistics)
    z = jnp.zeros((1, 1, network.system.width))
    return {"encoder": params, "head": network.head.init(head_key, z)["params"]}


def _make_step(
    network: _Network, optimizer: optax.GradientTransformation, weights: ndarray
) -> Callable[..., Any]:
    """Returns the compiled update (state, key, streams, labels) -> state.

    Gradients are taken window by window, as for heads, a few windows at a time.
    """

    def loss(params: Any, window: Any) -> Float[Array, ""]:
        key, streams, label = window
        batch = jax.tree.map(lambda x: x[None], streams)
        logits = network.logits(params, batch, key)[0]
        value = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return value * jnp.asarray(weights)[label]

    @jax.jit
    def step(state: Any, key: Any, streams: Any, labels: Any) -> Any:
        params, opt_state = state
        windows = (jax.random.split(key, len(labels)), streams, jnp.asarray(labels))
        portion = math.gcd(len(labels), _WINDOWS_AT_ONCE)

        def add(total: Any, some: Any) -> tuple[Any, None]:
            gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, some)
            return jax.tree.map(lambda t, g: t + g.sum(axis=0), total, gradients), None

        portions = jax.tree.map(lambda x: x.reshape(-1, portion, *x.shape[1:]), windows)
        zero = jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(add, zero, portions)
        gradients = jax.tree.map(lambda g: g / len(labels), total)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return step


def _predict(
    apply: Callable[..., Any],
    params: Any,
    split: LabelledWindows,
    modality: str,
    batch_size: int,
) -> Float[ndarray, "N K"]:
    """Returns the probabilities of all windows; the last batch is filled up."""
    logits = []
    for start in range(0, len(split), batch_size):
        rows = np.minimum(start + np.arange(batch_size), len(split) - 1)
        logits.append(np.asarray(apply(params, _streams(split, modality, rows))))
    return softmax(np.concatenate(logits)[: len(split)].astype(np.float64), axis=1)


def _streams(
    split: LabelledWindows, modality: str, rows: Int[ndarray, " B"]
) -> dict[str, ndarray]:
    """Reads one stream of some windows."""
    ticks = split.windows.ticks
    alone = dataclasses.replace(ticks, samples={modality: ticks.samples[modality]})
    windows = dataclasses.replace(split.windows, ticks=alone)
    return pipeline.assemble(split.store, windows, rows)["streams"]
