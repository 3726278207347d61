"""Prototype heads: class means, means of each recording, and means that were learnt.

Of a class the log-probability falls with the squared distance to its nearest prototypes
(Snell et al. 2017). Squared, not its root: that makes plain prototypes a linear rule.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key
from numpy import ndarray
from scipy.special import logsumexp, softmax
from sklearn.metrics.pairwise import euclidean_distances

from fmalign_jax.evaluation.classifier import (
    Features,
    Fitted,
    Labels,
    of_all_classes,
    of_all_classes_traced,
    pool,
)

PER = ("class", "recording")

_LEAST_WINDOWS = 5  # of a class in a recording, for a prototype of its own

EPISODES = 500
_SUPPORT, _QUERIES = 5, 15  # windows a class in an episode
_WIDTH = 32  # of the features that are learnt
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-2


def fit_prototypes(
    pooled: Float[ndarray, "N D"],
    labels: Labels,
    groups: Labels,
    *,
    classes: int,
    pooling: str,
    per: str,
) -> Fitted:
    """Fits class means; sklearn's NearestCentroid refuses features all alike.

    The score of a class is the log-mean-exp over its prototypes c of -|x - c|^2 / s,
    with s the mean squared distance of a window to its own prototype. It is the mean,
    not the sum, so that a class does not gain from having more prototypes.

    Args:
      pooled: one vector a window.
      labels: [N].
      groups: [N], recordings, clips or blocks.
      classes: K.
      pooling: of what it is applied to.
      per: "class": one prototype a class; "recording": one for each group that has at
        least five windows of the class, and one of all where none has.
    """
    present = np.unique(labels)
    prototypes = _members(labels, groups, per)
    means = np.stack([pooled[rows].mean(axis=0) for _, rows in prototypes])
    owner = np.array([number for number, _ in prototypes])
    own, counted = np.zeros_like(pooled), np.zeros(len(pooled), bool)
    for (_, rows), mean in zip(prototypes, means, strict=True):
        own[rows], counted[rows] = mean, True
    squared = np.square(pooled[counted] - own[counted]).sum(axis=1)
    # The scale changes no decision of plain prototypes; it keeps probabilities from
    # rounding to 0 and 1.
    scale = squared.mean() or 1.0

    def predict(features: Features) -> Float[ndarray, "N K"]:
        vectors = np.asarray(pool(features, pooling))
        near = -euclidean_distances(vectors, means, squared=True) / scale
        scores = [
            logsumexp(near[:, owner == c], axis=1) - np.log((owner == c).sum())
            for c in present
        ]
        probability = softmax(np.stack(scores, axis=1), axis=1)
        return of_all_classes(probability, present, classes)

    centres = np.asarray(means, np.float32)

    def traced(features: Array) -> Array:
        vectors = pool(features, pooling)
        near = -jnp.square(vectors[:, None] - centres).sum(axis=-1) / scale
        scores = [
            jax.nn.logsumexp(near[:, owner == c], axis=1) - np.log((owner == c).sum())
            for c in present
        ]
        probability = jax.nn.softmax(jnp.stack(scores, 1))
        return of_all_classes_traced(probability, present, classes)

    return Fitted(predict, traced)


def _members(
    labels: Labels, groups: Labels, per: str
) -> list[tuple[int, Bool[ndarray, " N"]]]:
    """Returns the class of each prototype, and the windows that it is the mean of."""
    found = []
    for number in np.unique(labels).tolist():
        rows = labels == number
        apart = [rows & (groups == group) for group in np.unique(groups[rows])]
        apart = [own for own in apart if own.sum() >= _LEAST_WINDOWS]
        if per == "class" or not apart:
            apart = [rows]
        found += [(number, own) for own in apart]
    return found


def can_be_asked(labels: Labels, groups: Labels) -> bool:
    """Says whether episodes can be made: two classes, each in two groups or more."""
    shared = [len(np.unique(groups[labels == c])) > 1 for c in np.unique(labels)]
    return sum(shared) > 1


def fit_episodic(
    pooled: Float[ndarray, "N D"],
    labels: Labels,
    groups: Labels,
    *,
    classes: int,
    pooling: str,
    per: str,
    seed: int,
) -> Fitted:
    """Fits prototypes of a linear map of the features, which episodes have taught.

    In an episode the groups are divided in two; a few windows of each class from one
    half are its prototypes, those asked are from the other: another furnace. After all
    episodes the prototypes are those of all windows.

    The arguments are those of `fit_prototypes`; `seed` is of the map and the episodes.

    Raises:
      ValueError: no two classes that occur in two groups each.
    """
    if not can_be_asked(labels, groups):
        raise ValueError(
            "an episodic head asks of another recording, clip or block, and needs two "
            "classes that occur in two of them each; got "
            f"{len(np.unique(groups))} with {len(np.unique(labels))} classes; use "
            "--config.head.kind=prototypes"
        )
    kernel = np.asarray(
        _taught(
            jax.random.key(seed),
            np.asarray(pooled, np.float32),
            dataclasses.astuple(_episodes(labels, groups, seed)),
        )
    )
    fitted = fit_prototypes(
        pooled @ kernel.astype(np.float64),
        labels,
        groups,
        classes=classes,
        pooling="mean",
        per=per,
    )

    def predict(features: Features) -> Float[ndarray, "N K"]:
        vectors = np.asarray(pool(features, pooling), np.float64)
        return fitted.predict((vectors @ kernel.astype(np.float64))[:, None])

    def traced(features: Array) -> Array:
        vectors = jnp.matmul(pool(features, pooling), kernel, precision="highest")
        assert fitted.traced is not None
        return fitted.traced(vectors[:, None])

    return Fitted(predict, traced)


@dataclasses.dataclass(frozen=True)
class _Episodes:
    """Windows of all episodes, by number.

    Attributes:
      support: of which the prototypes of each class are made.
      queries: that are asked.
      asked: whether the class occurs in both halves, and takes part.
    """

    support: Int[ndarray, "E k 5"]
    queries: Int[ndarray, "E k 15"]
    asked: Bool[ndarray, "E k"]


def _episodes(labels: Labels, groups: Labels, seed: int) -> _Episodes:
    """Draws the windows of all episodes, with replacement where there are few."""
    rng = np.random.default_rng(seed)
    present, every = np.unique(labels), np.unique(groups)
    of_class = [np.flatnonzero(labels == c) for c in present]
    support = np.zeros((EPISODES, len(present), _SUPPORT), np.int64)
    queries = np.zeros((EPISODES, len(present), _QUERIES), np.int64)
    asked = np.zeros((EPISODES, len(present)), bool)
    for episode in range(EPISODES):
        while asked[episode].sum() < 2:
            half = rng.permutation(every)[: len(every) // 2]
            for k, rows in enumerate(of_class):
                first = np.isin(groups[rows], half)
                asked[episode, k] = first.any() and not first.all()
                if asked[episode, k]:
                    support[episode, k] = _drawn(rng, rows[first], _SUPPORT)
                    queries[episode, k] = _drawn(rng, rows[~first], _QUERIES)
    return _Episodes(support, queries, asked)


def _drawn(
    rng: np.random.Generator, rows: Int[ndarray, " n"], number: int
) -> Int[ndarray, " _"]:
    return rng.choice(rows, number, replace=len(rows) < number)


@jax.jit
def _taught(
    key: Key[Array, ""], pooled: Float[Array, "N D"], episodes: Any
) -> Float[Array, "D W"]:
    """Returns the kernel of the linear map after all episodes.

    Gradients are taken window by window, as those of the linear head.
    """
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(_LEARNING_RATE, EPISODES),
        weight_decay=_WEIGHT_DECAY,
    )

    def loss(
        kernel: Float[Array, "D W"],
        query: Float[Array, " D"],
        own: Int[Array, ""],
        centres: Float[Array, "k D"],
        asked: Bool[Array, " k"],
    ) -> Float[Array, ""]:
        # The map is linear: that of a mean is the mean of those of its windows.
        apart = jnp.matmul(query - centres, kernel, precision="highest")
        near = jnp.where(asked, -jnp.square(apart).sum(axis=-1), -jnp.inf)
        return optax.softmax_cross_entropy_with_integer_labels(near, own)

    by_class = jax.vmap(jax.grad(loss), in_axes=(None, 0, None, None, None))
    by_window = jax.vmap(by_class, in_axes=(None, 0, 0, None, None))

    def step(carry: Any, episode: Any) -> tuple[Any, None]:
        kernel, opt_state = carry
        support, queries, asked = episode
        gradients = by_window(
            kernel,
            pooled[queries],
            jnp.arange(len(asked)),
            pooled[support].mean(axis=1),
            asked,
        )
        total = (gradients.mean(axis=1) * asked[:, None, None]).sum(axis=0)
        updates, opt_state = optimizer.update(total / asked.sum(), opt_state, kernel)
        return (optax.apply_updates(kernel, updates), opt_state), None

    first = jax.nn.initializers.lecun_normal()(key, (pooled.shape[1], _WIDTH))
    (kernel, _), _ = jax.lax.scan(step, (first, optimizer.init(first)), episodes)
    return kernel
