"""Heads: small classifiers on frozen features, fitted on one modality's windows.

Pure functions of arrays and a seed. A head takes one vector a tick, [N, T, D], and
gives class probabilities [N, K]. Its settings are chosen, where several are offered,
within the windows it is fitted on, and never on what it is tested on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy import ndarray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier

from fmalign_jax.evaluation.classifier import (
    Features,
    Fitted,
    Labels,
    Predict,
    of_all_classes,
    of_all_classes_traced,
    pool,
)
from fmalign_jax.evaluation.linear_head import fit_linear
from fmalign_jax.evaluation.prototype_heads import PER, fit_episodic, fit_prototypes

KINDS = ("logistic", "linear", "prototypes", "episodic", "neighbours")
POOLINGS = ("max", "mean", "last")

_FOLDS = 3
_ITERATIONS = 2000  # of the solver of the logistic regression, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What kind of head, and the settings to choose from.

    Attributes:
      kind: "logistic": multinomial logistic regression on the pooled vectors;
        "linear": Linear D -> D, pooling over the ticks, Linear -> classes, by Adam on
        cross-entropy (the published head, if pooled by "max"); "prototypes": class
        means of the pooled vectors, squared Euclidean distance; "episodic": the same of
        a linear map to 32 that is learnt by asking of other recordings; "neighbours":
        nearest pooled vectors.
      pooling: over the ticks of a window: "max", "mean" or "last".
      per: prototypes, episodic: what has one prototype of each class, the "class" as a
        whole or every "recording" (clip, block) with five windows of it or more.
      l2: logistic: lambda of mean cross-entropy + lambda/2 |W|^2; of several the best
        is chosen.
      weight_decay: linear; of several the best is chosen.
      neighbours: neighbours; how many, of several numbers the best is chosen.
      steps: linear: updates.
      batch_size: linear: windows drawn in each.
      learning_rate: linear: of Adam, falling to 0 along a cosine.
      balanced: logistic, linear: whether every class weighs the same in the loss.
    """

    kind: str = "logistic"
    pooling: str = "mean"
    per: str = "class"
    l2: tuple[float, ...] = (0.2,)
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
            ("per", self.per, PER),
        ):
            if value not in known:
                raise ValueError(
                    f"head.{name} must be one of {', '.join(known)}; got {value!r}; "
                    "use one of them"
                )
        for name, values, least in (
            ("l2", self.l2, 1e-9),
            ("weight_decay", self.weight_decay, 0),
            ("neighbours", self.neighbours, 1),
        ):
            if not values or min(values) < least:
                raise ValueError(
                    f"head.{name} must give one value or more, each at least {least}; "
                    f"got {values}; write a tuple, such as (5,)"
                )
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                "head.steps and head.batch_size must be at least 1; got "
                f"{self.steps} and {self.batch_size}; correct them"
            )

    def candidates(self) -> list[dict[str, Any]]:
        """Returns the settings to choose from."""
        if self.kind == "logistic":
            return [{"l2": value} for value in self.l2]
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
      traced: the same for what is compiled, see `classifier.Fitted`; neighbours have
        none.
      chosen: the settings that were chosen, and `choice`, the mean balanced accuracy
        on held-out folds of each candidate (absent when there was one).
    """

    predict: Predict
    traced: Callable[[Array], Array] | None
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
        such as the recording; what prototypes are `per`, and episodes ask across.
      seed: of parameters, batches and episodes.

    Raises:
      ValueError: fewer than two classes, several candidates and but one group, or too
        few groups for episodes.
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
    fitted = _fit(spec, chosen, features, labels, classes, groups, seed)
    return Head(fitted.predict, fitted.traced, chosen)


def held_out(
    spec: HeadSpec,
    features: Features,
    labels: Labels,
    *,
    classes: int,
    groups: Labels,
    seed: int,
) -> float:
    """Returns the mean balanced accuracy on held-out groups, of the best candidate.

    The arguments are those of `fit`.

    Raises:
      ValueError: one group.
    """
    candidates = spec.candidates()
    return max(_judge(spec, candidates, features, labels, classes, groups, seed))


def folds(labels: Labels, groups: Labels) -> list[tuple[ndarray, ndarray]]:
    """Returns three divisions of windows by whole groups: to fit on, and held out.

    Those that leave one class to fit on are left out; of two groups there are two.
    """
    number = min(_FOLDS, len(np.unique(groups)))
    found = GroupKFold(number).split(labels, labels, groups)
    return [(own, held) for own, held in found if len(np.unique(labels[own])) > 1]


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
    scores = []
    for settings in candidates:
        found = []
        for own, held in folds(labels, groups):
            fitted = _fit(
                spec,
                settings,
                features[own],
                labels[own],
                classes,
                groups[own],
                seed,
            )
            predicted = fitted.predict(features[held]).argmax(axis=1)
            true = labels[held]
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
    groups: Labels,
    seed: int,
) -> Fitted:
    if spec.kind == "linear":
        return fit_linear(
            features,
            labels,
            classes=classes,
            pooling=spec.pooling,
            weight_decay=settings["weight_decay"],
            steps=spec.steps,
            batch_size=spec.batch_size,
            learning_rate=spec.learning_rate,
            balanced=spec.balanced,
            seed=seed,
        )
    pooled = np.asarray(pool(features, spec.pooling), np.float64)
    if spec.kind == "logistic":
        return _fit_logistic(spec, settings["l2"], pooled, labels, classes)
    options: dict[str, Any] = {
        "classes": classes,
        "pooling": spec.pooling,
        "per": spec.per,
    }
    if spec.kind == "prototypes":
        return fit_prototypes(pooled, labels, groups, **options)
    if spec.kind == "episodic":
        return fit_episodic(pooled, labels, groups, seed=seed, **options)
    return _fit_neighbours(spec, settings["neighbours"], pooled, labels, classes)


def _fit_logistic(
    spec: HeadSpec,
    l2: float,
    pooled: Float[ndarray, "N D"],
    labels: Labels,
    classes: int,
) -> Fitted:
    model = LogisticRegression(
        C=1 / (l2 * len(pooled)),
        class_weight="balanced" if spec.balanced else None,
        max_iter=_ITERATIONS,
    ).fit(pooled, labels)

    def predict(features: Features) -> Float[ndarray, "N K"]:
        vectors = np.asarray(pool(features, spec.pooling), np.float64)
        return of_all_classes(model.predict_proba(vectors), model.classes_, classes)

    weights = np.asarray(model.coef_, np.float32)
    offsets = np.asarray(model.intercept_, np.float32)
    if len(weights) == 1:  # of two classes sklearn keeps the logit of the second
        weights, offsets = np.stack([0 * weights[0], weights[0]]), np.append(0, offsets)

    def traced(features: Array) -> Array:
        vectors = pool(features, spec.pooling)
        logits = jnp.matmul(vectors, weights.T, precision="highest") + offsets
        return of_all_classes_traced(jax.nn.softmax(logits), model.classes_, classes)

    return Fitted(predict, traced)


def _fit_neighbours(
    spec: HeadSpec,
    neighbours: int,
    pooled: Float[ndarray, "N D"],
    labels: Labels,
    classes: int,
) -> Fitted:
    model = KNeighborsClassifier(min(neighbours, len(pooled))).fit(pooled, labels)

    def predict(features: Features) -> Float[ndarray, "N K"]:
        vectors = np.asarray(pool(features, spec.pooling))
        return of_all_classes(model.predict_proba(vectors), model.classes_, classes)

    return Fitted(predict)
