"""Supervised references: the oracle, and classifiers that a config names.

The oracle is the target's encoder trained from scratch with the target's own labels:
what labels for every window of the target would give; zero-shot transfer has none. Any
other classifier is a Linen module from the inputs of some modalities to logits.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
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

from fmalign_jax.config.build import build
from fmalign_jax.data import pipeline
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.linear_head import PooledLinear, class_weights
from fmalign_jax.models import linear
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.training import augment, preprocess, sharding
from fmalign_jax.training.state import RUNS_ONCE

Statistics = Mapping[str, Mapping[str, Array]]
Streams = Mapping[str, ndarray]

_HELD_OUT = 5  # one part in so many judges the epochs
_WINDOWS_AT_ONCE = 8  # of a gradient: bounds what their activations take
_LEAST_UPDATES = 50  # in an epoch
_PATIENCE = 4  # epochs without improvement, after which it stops


@dataclasses.dataclass(frozen=True)
class Oracle:
    """A supervised classifier, and how it was trained.

    Attributes:
      predict: a split to the class probabilities [N, K] of its windows.
      losses: cross-entropy on the held-out groups after each epoch.
      parameters: how many it has.
    """

    predict: Callable[[LabelledWindows], Float[ndarray, "N K"]]
    losses: list[float]
    parameters: int = 0

    @property
    def best_epoch(self) -> int:
        """Returns the epoch whose parameters were kept, from 1."""
        return 1 + int(np.argmin(self.losses))


@dataclasses.dataclass(frozen=True)
class Training:
    """How a classifier is trained; those of the oracle by default.

    Attributes:
      epochs: at most, of 50 updates or more each.
      learning_rate: at the start; it follows a cosine down to 0.
      weight_decay: of AdamW.
      batch_size: windows; None for the run's.
    """

    epochs: int
    # With a run's own 1e-3 and no decay the oracle over-fits ten recordings within five
    # epochs and ends below a head on frozen codes.
    learning_rate: float = 3e-4
    weight_decay: float = 0.3
    batch_size: int | None = None


@dataclasses.dataclass(frozen=True)
class _EncoderAndHead:
    """The run's encoder of a modality, from scratch, and a linear head.

    Attributes:
      modality: whose encoder.
      encoder: compiled.
      head: on the encoder's features.
      statistics: of the inputs.
    """

    modality: str
    encoder: FrozenEncoder
    head: PooledLinear
    statistics: Any

    def init(self, key: Key[Array, ""], streams: Streams) -> Any:
        """Returns the first parameters, the encoder's as those of a run."""
        encoder_key, head_key = jax.random.split(key)
        params = self.encoder.fresh_params(encoder_key, streams, self.statistics)
        shapes = jax.eval_shape(
            functools.partial(
                self.encoder.system.apply, train=False, method="semantic"
            ),
            {"params": params},
            preprocess.normalise(jax.tree.map(jnp.asarray, streams), self.statistics),
        )
        z = jnp.zeros((1, 1, shapes[self.modality].shape[-1]))
        return {"encoder": params, "head": self.head.init(head_key, z)["params"]}

    def apply(
        self, params: Any, values: Any, *, train: bool, rngs: Mapping[str, Any]
    ) -> Any:
        """Returns logits [B, K] of normalised inputs."""
        semantic: Any = self.encoder.system.apply(
            {"params": params["encoder"]},
            values,
            train=train,
            method="semantic",
            rngs=rngs,
        )
        return self.head.apply({"params": params["head"]}, semantic[self.modality])


@dataclasses.dataclass(frozen=True)
class _Module:
    """A Linen module ``(inputs, train) -> logits`` that a config names.

    Attributes:
      module: the module.
      statistics: of the inputs.
    """

    module: Any
    statistics: Any

    def init(self, key: Key[Array, ""], streams: Streams) -> Any:
        """Returns the first parameters."""
        values = preprocess.normalise(
            jax.tree.map(jnp.asarray, streams), self.statistics
        )
        first = functools.partial(linear.init, self.module, train=False)
        found = jax.jit(first, compiler_options=RUNS_ONCE)(key, values)
        return found["params"]

    def apply(
        self, params: Any, values: Any, *, train: bool, rngs: Mapping[str, Any]
    ) -> Any:
        """Returns logits [B, K] of normalised inputs."""
        return self.module.apply({"params": params}, values, train=train, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Network:
    """A classifier, and what its inputs are made with.

    Attributes:
      modalities: that it reads.
      classifier: has ``init(key, streams)`` and ``apply(params, values, ...)``.
      statistics: of the inputs.
      time_warp: in training, as in the run.
      augmentation: by modality, as in the run.
      samples_per_tick: by modality.
    """

    modalities: tuple[str, ...]
    classifier: _EncoderAndHead | _Module
    statistics: Any
    time_warp: Mapping[str, float]
    augmentation: Mapping[str, Mapping[str, float]]
    samples_per_tick: Mapping[str, int]

    def logits(
        self, params: Any, streams: Any, key: Key[Array, ""] | None = None
    ) -> Float[Array, "B K"]:
        """Returns logits; with a key, as in training: augmented and with dropout."""
        rngs = {}
        if key is None:
            values = preprocess.normalise(streams, self.statistics)
        else:
            augment_key, dropout_key = jax.random.split(key)
            values = augment.random_view(
                augment_key,
                streams,
                self.statistics,
                time_warp=self.time_warp,
                settings=self.augmentation,
                samples_per_tick=self.samples_per_tick,
            )
            rngs = {"dropout": dropout_key}
        found: Any = self.classifier.apply(
            params, values, train=key is not None, rngs=rngs
        )
        return jnp.asarray(found)


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
    own = sharding.on_one_device({modality: statistics[modality]})
    encoder = FrozenEncoder(config, [modality], sharding.one_device_mesh())
    classifier = _EncoderAndHead(
        modality, encoder, PooledLinear(classes, spec.pooling), own
    )
    return _fitted(
        _network(classifier, config, (modality,), own),
        split,
        groups,
        config,
        Training(epochs),
        classes=classes,
        balanced=spec.balanced,
        seed=seed,
    )


def train_classifier(
    split: LabelledWindows,
    groups: Int[ndarray, " N"],
    config: ConfigDict,
    entry: Mapping[str, Any],
    statistics: Statistics,
    *,
    classes: int,
    balanced: bool,
    seed: int,
) -> Oracle:
    """Trains a classifier that a config names, in the same way.

    Args:
      split: the head split, all windows labelled.
      groups: [N], as for `train`.
      config: of the run: augmentation, batch size.
      entry: ``{"name": dotted name, "modalities": names, "training": settings of
        `Training`, **options of the module}``; the module is also given `classes`.
      statistics: of the inputs, as in the run.
      classes: K.
      balanced: whether every class weighs the same in the loss.
      seed: of parameters, order, dropout and augmentation.

    Raises:
      ValueError: an unknown option, or a modality that the run does not have.
    """
    network, training = named_classifier(entry, config, statistics, classes=classes)
    return _fitted(
        network,
        split,
        groups,
        config,
        training,
        classes=classes,
        balanced=balanced,
        seed=seed,
    )


def named_classifier(
    entry: Mapping[str, Any],
    config: ConfigDict,
    statistics: Statistics,
    *,
    classes: int,
) -> tuple[Network, Training]:
    """Builds a classifier that a config names; arguments as of `train_classifier`.

    Raises:
      ValueError: an unknown option, or a modality that the run does not have.
    """
    options = dict(entry)
    modalities = tuple(options.pop("modalities"))
    training = Training(**options.pop("training"))
    if unknown := sorted(set(modalities) - set(config.model.modalities)):
        raise ValueError(
            "a classifier reads modalities of the run, "
            f"{', '.join(sorted(config.model.modalities))}; got {', '.join(unknown)}; "
            "correct its modalities"
        )
    own = {m: s for m, s in statistics.items() if m in modalities}
    own = sharding.on_one_device(own)
    module = build(options, "a classifier", classes=classes)
    return _network(_Module(module, own), config, modalities, own), training


def _network(
    classifier: _EncoderAndHead | _Module,
    config: ConfigDict,
    modalities: tuple[str, ...],
    statistics: Any,
) -> Network:
    """Returns a classifier with the augmentation of a run."""
    return Network(
        modalities,
        classifier,
        statistics,
        config.time_warp.to_dict(),
        {m: s for m, s in config.augment.to_dict().items() if m in modalities},
        config.data.samples_per_tick.to_dict(),
    )


def _fitted(
    network: Network,
    split: LabelledWindows,
    groups: Int[ndarray, " N"],
    config: ConfigDict,
    training: Training,
    *,
    classes: int,
    balanced: bool,
    seed: int,
) -> Oracle:
    """Trains, judges every epoch on a fifth of the groups, and keeps the best one."""
    folds = min(_HELD_OUT, len(np.unique(groups)))
    own, held = next(GroupKFold(folds).split(groups, groups=groups))
    fitted, judged = split.chosen(own), split.chosen(held)
    weights = class_weights(fitted.label, classes, balanced=balanced)
    batch_size = min(training.batch_size or config.batch_size, len(fitted))
    updates = training.epochs * (_epoch_windows(len(fitted), batch_size) // batch_size)
    optimizer = make_optimizer(config, training, updates)
    step = make_update(network, optimizer, weights)
    apply = jax.jit(network.logits)
    key, first = jax.random.key(seed), np.arange(batch_size)
    params = network.classifier.init(key, _streams(fitted, network.modalities, first))
    state = (params, optimizer.init(params))
    best, losses = params, []
    for epoch in range(training.epochs):
        order = _epoch_order(
            len(fitted), batch_size, np.random.default_rng([seed, epoch])
        )
        for start in range(0, len(order) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            step_key = jax.random.fold_in(key, epoch * len(order) + start)
            streams = _streams(fitted, network.modalities, rows)
            state = step(state, step_key, streams, fitted.label[rows])
        probability = _predict(apply, state[0], judged, network, config.batch_size)
        losses.append(log_loss(judged.label, probability, labels=np.arange(classes)))
        if losses[-1] == min(losses):
            best = state[0]
        elif epoch - int(np.argmin(losses)) >= _PATIENCE:
            break
    return Oracle(
        lambda other: _predict(apply, best, other, network, config.batch_size),
        [float(loss) for loss in losses],
        sum(x.size for x in jax.tree.leaves(best)),
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


def make_optimizer(
    config: ConfigDict, training: Training, updates: int
) -> optax.GradientTransformation:
    """Returns AdamW whose rate follows a cosine down to 0, clipped as in the run."""
    return optax.chain(
        optax.clip_by_global_norm(config.optimizer.clip_norm),
        optax.adamw(
            optax.cosine_decay_schedule(training.learning_rate, updates),
            weight_decay=training.weight_decay,
        ),
    )


def make_update(
    network: Network, optimizer: optax.GradientTransformation, weights: ndarray
) -> Callable[..., Any]:
    """Returns the compiled update (state, key, streams, labels) -> state.

    Gradients are taken of a few windows at a time, by a key each time.
    """

    def loss(params: Any, key: Any, streams: Any, labels: Any) -> Float[Array, ""]:
        logits = network.logits(params, streams, key)
        values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (values * jnp.asarray(weights)[labels]).sum()

    @jax.jit
    def step(state: Any, key: Any, streams: Any, labels: Any) -> Any:
        params, opt_state = state
        portion = math.gcd(len(labels), _WINDOWS_AT_ONCE)

        def add(total: Any, some: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.grad(loss)(params, *some)), None

        windows = streams, jnp.asarray(labels)
        portions = jax.tree.map(lambda x: x.reshape(-1, portion, *x.shape[1:]), windows)
        zero = jax.tree.map(jnp.zeros_like, params)
        keys = jax.random.split(key, len(labels) // portion)
        total, _ = jax.lax.scan(add, zero, (keys, *portions))
        gradients = jax.tree.map(lambda g: g / len(labels), total)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return step


def _predict(
    apply: Callable[..., Any],
    params: Any,
    split: LabelledWindows,
    network: Network,
    batch_size: int,
) -> Float[ndarray, "N K"]:
    """Returns the probabilities of all windows; the last batch is filled up."""
    logits = []
    for start in range(0, len(split), batch_size):
        rows = np.minimum(start + np.arange(batch_size), len(split) - 1)
        logits.append(
            np.asarray(apply(params, _streams(split, network.modalities, rows)))
        )
    return softmax(np.concatenate(logits)[: len(split)].astype(np.float64), axis=1)


def _streams(
    split: LabelledWindows, modalities: Sequence[str], rows: Int[ndarray, " B"]
) -> dict[str, ndarray]:
    """Reads some streams of some windows."""
    ticks = split.windows.ticks
    alone = dataclasses.replace(
        ticks, samples={m: ticks.samples[m] for m in modalities}
    )
    windows = dataclasses.replace(split.windows, ticks=alone)
    return pipeline.assemble(split.store, windows, rows)["streams"]
