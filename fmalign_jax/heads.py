"""Heads: small classifiers on frozen features, fitted on one modality's windows.

Pure functions of arrays and a seed. A head takes one vector a tick, [N, T, D], and
gives class probabilities [N, K]. Its settings are chosen, where several are offered,
within the windows it is fitted on, and never on what it is tested on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from numpy import ndarray
from scipy.special import softmax
from sklearn.metrics import recall_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier

KINDS = ("linear", "prototypes", "neighbours")
POOLINGS = ("max", "mean", "last")

Features = Float[ndarray, "N T D"]
Labels = Int[ndarray, " N"]
Predict = Callable[[Features], Float[ndarray, "N K"]]

_FOLDS = 3
_PREDICTED_AT_ONCE = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What kind of head, and the settings to choose from.

    Attributes:
      kind: "linear": Linear D -> D, pooling over the ticks, Linear -> classes, by Adam
        on cross-entropy (the published head, if pooled by "max"); "prototypes": class
        means of the pooled vectors, squared Euclidean distance; "neighbours": nearest
        pooled vectors.
      pooling: over the ticks of a window: "max", "mean" or "last".
      weight_decay: linear; of several the best is chosen.
      neighbours: neighbours; how many, of several numbers the best is chosen.
      steps: linear: updates.
      batch_size: linear: windows drawn in each.
      learning_rate: linear: of Adam, falling to 0 along a cosine.
      balanced: linear: whether every class weighs the same in the loss.
    """

    kind: str = "linear"
    pooling: str = "mean"
    weight_decay: tuple[float, ...] = (1e-3,)
    neighbours: tuple[int, ...] = (5,)
    steps: int = 300
    batch_size: int = 128
    learning_rate: float = 2e-3
    balanced: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("pooling", self.pooling, POOLINGS),
        ):
            if value not in known:
                raise ValueError(
                    f"head.{name} must be one of {', '.join(known)}; got {value!r}; "
                    "use one of them"
                )
        if not self.weight_decay or not self.neighbours or min(self.neighbours) < 1:
            raise ValueError(
                "head.weight_decay and head.neighbours must each give a value, "
                f"neighbours at least 1; got {self.weight_decay} and "
                f"{self.neighbours}; write them as tuples, such as (5,)"
            )
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                "head.steps and head.batch_size must be at least 1; got "
                f"{self.steps} and {self.batch_size}; correct them"
            )

    def candidates(self) -> list[dict[str, Any]]:
        """Returns the settings to choose from."""
        if self.kind == "linear":
            return [{"weight_decay": value} for value in self.weight_decay]
        if self.kind == "neighbours":
            return [{"neighbours": value} for value in self.neighbours]
        return [{}]


@dataclasses.dataclass(frozen=True)
class Head:
    """A fitted head.

    Attributes:
      predict: features [N, T, D] to probabilities [N, K].
      chosen: the settings that were chosen, and `choice`, the mean balanced accuracy
        on held-out folds of each candidate (absent when there was one).
    """

    predict: Predict
    chosen: Mapping[str, Any]


def fit(
    spec: HeadSpec,
    features: Features,
    labels: Labels,
    *,
    classes: int,
    groups: Labels,
    seed: int,
) -> Head:
    """Fits a head, choosing its settings by folds of whole groups.

    Args:
      spec: what kind, and the candidates.
      features: [N, T, D].
      labels: [N], all known, of at least two classes.
      classes: K; the classes without a window are never predicted.
      groups: [N], what must not be divided between fitting and judging a candidate,
        such as the recording.
      seed: of parameters and batches.

    Raises:
      ValueError: fewer than two classes, or several candidates and but one group.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError(
            "a head needs windows of at least two classes; got "
            f"{len(labels)} windows of {len(np.unique(labels))}; give recordings with "
            "more classes, or label them"
        )
    candidates = spec.candidates()
    chosen: dict[str, Any] = candidates[0]
    if len(candidates) > 1:
        choice = _judge(spec, candidates, features, labels, classes, groups, seed)
        chosen = candidates[int(np.argmax(choice))] | {"choice": choice}
    return Head(_fit(spec, chosen, features, labels, classes, seed), chosen)


def _judge(
    spec: HeadSpec,
    candidates: list[dict[str, Any]],
    features: Features,
    labels: Labels,
    classes: int,
    groups: Labels,
    seed: int,
) -> list[float]:
    """Returns the mean balanced accuracy of each candidate on held-out groups."""
    number = len(np.unique(groups))
    if number < 2:
        raise ValueError(
            "head settings are chosen by folds of recordings, clips or blocks; got "
            f"{number} of them; give one value to each setting"
        )
    folds = list(GroupKFold(min(_FOLDS, number)).split(features, labels, groups))
    folds = [(own, held) for own, held in folds if len(np.unique(labels[own])) > 1]
    scores = []
    for settings in candidates:
        found = []
        for own, held in folds:
            predict = _fit(spec, settings, features[own], labels[own], classes, seed)
            predicted, true = predict(features[held]).argmax(axis=1), labels[held]
            found.append(
                recall_score(true, predicted, labels=np.unique(true), average="macro")
            )
        scores.append(float(np.mean(found)))
    return scores


def _fit(
    spec: HeadSpec,
    settings: Mapping[str, Any],
    features: Features,
    labels: Labels,
    classes: int,
    seed: int,
) -> Predict:
    if spec.kind == "linear":
        decay = settings["weight_decay"]
        return _fit_linear(spec, decay, features, labels, classes, seed)
    pooled = np.asarray(pool(features, spec.pooling))
    if spec.kind == "prototypes":
        return _fit_prototypes(spec, pooled, labels, classes)
    return _fit_neighbours(spec, settings["neighbours"], pooled, labels, classes)


def pool(features: Any, pooling: str) -> Any:
    """Returns one vector a window, [N, T, D] -> [N, D], of NumPy or JAX arrays."""
    if pooling == "last":
        return features[:, -1]
    return features.max(axis=1) if pooling == "max" else features.mean(axis=1)


class PooledLinear(nn.Module):
    """Linear D -> D, pooling over the ticks, Linear -> classes (the published head).

    Attributes:
      classes: K.
      pooling: "max", "mean" or "last".
    """

    classes: int
    pooling: str = "max"

    @nn.compact
    def __call__(self, features: Float[Array, "N T D"]) -> Float[Array, "N K"]:
        """Returns the logits."""
        inner = nn.Dense(features.shape[-1], name="inner")(features)
        return nn.Dense(self.classes, name="outer")(pool(inner, self.pooling))


def class_weights(labels: Labels, classes: int, *, balanced: bool) -> ndarray:
    """Returns the weight of each class in the loss, [K] with mean 1 over windows."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / np.maximum(counts, 1) / max(1, (counts > 0).sum())
    return (weights if balanced else np.ones(classes)).astype(np.float32)


def _fit_linear(
    spec: HeadSpec,
    weight_decay: float,
    features: Features,
    labels: Labels,
    classes: int,
    seed: int,
) -> Predict:
    module = PooledLinear(classes, spec.pooling)
    params = _trained(
        module,
        jax.random.key(seed),
        np.asarray(features, np.float32),
        labels.astype(np.int32),
        class_weights(labels, classes, balanced=spec.balanced),
        jnp.float32(spec.learning_rate),
        jnp.float32(weight_decay),
        steps=spec.steps,
        batch_size=spec.batch_size,
    )
    apply = jax.jit(module.apply)

    def predict(features: Features) -> Float[ndarray, "N K"]:
        starts = range(0, len(features), _PREDICTED_AT_ONCE)
        parts = [features[i : i + _PREDICTED_AT_ONCE] for i in starts]
        logits = [np.asarray(apply({"params": params}, part)) for part in parts]
        return softmax(np.concatenate(logits).astype(np.float64), axis=1)

    return predict


@functools.partial(jax.jit, static_argnames=("module", "steps", "batch_size"))
def _trained(
    module: PooledLinear,
    key: Key[Array, ""],
    features: Float[Array, "N T D"],
    labels: Int[Array, " N"],
    weights: Float[Array, " K"],
    learning_rate: Float[Array, ""],
    weight_decay: Float[Array, ""],
    *,
    steps: int,
    batch_size: int,
) -> Any:
    """Returns the parameters after all steps, each on windows drawn at random.

    Gradients are taken window by window and then averaged: a CPU divides one long sum
    over all of them by its number of threads, and rounds accordingly.
    """
    init_key, order_key = jax.random.split(key)
    schedule = optax.cosine_decay_schedule(1.0, steps)
    optimizer = optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_schedule(schedule),
        optax.scale(-learning_rate),
    )

    def loss(params: Any, row: Int[Array, ""]) -> Float[Array, ""]:
        logits = module.apply({"params": params}, features[row][None])[0]
        value = optax.softmax_cross_entropy_with_integer_labels(logits, labels[row])
        return value * weights[labels[row]]

    by_window = jax.vmap(jax.grad(loss), in_axes=(None, 0))

    def step(carry: Any, step_key: Key[Array, ""]) -> tuple[Any, None]:
        params, opt_state = carry
        rows = jax.random.randint(step_key, (batch_size,), 0, len(features))
        gradients = jax.tree.map(lambda g: g.mean(axis=0), by_window(params, rows))
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    params = module.init(init_key, features[:1])["params"]
    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(order_key, steps))
    return params


def _fit_prototypes(
    spec: HeadSpec, pooled: Float[ndarray, "N D"], labels: Labels, classes: int
) -> Predict:
    """Class means; sklearn's NearestCentroid refuses features that are all alike."""
    present = np.unique(labels)
    means = np.stack([pooled[labels == c].mean(axis=0) for c in present])
    own = np.square(pooled - means[np.searchsorted(present, labels)]).sum(axis=1)
    # The scale changes no decision; it keeps probabilities from rounding to 0 and 1.
    scale = own.mean() or 1.0

    def predict(features: Features) -> Float[ndarray, "N K"]:
        vectors = np.asarray(pool(features, spec.pooling))
        distances = euclidean_distances(vectors, means, squared=True)
        return _spread(softmax(-distances / scale, axis=1), present, classes)

    return predict


def _fit_neighbours(
    spec: HeadSpec,
    neighbours: int,
    pooled: Float[ndarray, "N D"],
    labels: Labels,
    classes: int,
) -> Predict:
    model = KNeighborsClassifier(min(neighbours, len(pooled))).fit(pooled, labels)

    def predict(features: Features) -> Float[ndarray, "N K"]:
        vectors = np.asarray(pool(features, spec.pooling))
        return _spread(model.predict_proba(vectors), model.classes_, classes)

    return predict


def _spread(
    probability: Float[ndarray, "N _"], present: Int[ndarray, " _"], classes: int
) -> Float[ndarray, "N K"]:
    """Returns probabilities of all classes, 0 for those that were absent."""
    spread = np.zeros((len(probability), classes))
    spread[:, present] = probability
    return spread
