"""How well scores of single ticks follow the state, at all levels at once.

VUS-PR (Paparrizos et al. 2022, "Volume under the surface", PVLDB 15(11)): the area
under the curve of precision and recall whose labels fade out around each episode, and
whose recall counts episodes too, averaged over lengths of the fading. It forgives a
score that is a little early or late, and asks for no level. Pure functions of NumPy
arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

_LEVELS = 250


def vus_pr(
    labels: Sequence[Bool[ndarray, " _"]],
    scores: Sequence[Float[ndarray, " _"]],
    *,
    most_ticks: int,
) -> float | None:
    """Returns VUS-PR of series together; None without an episode.

    Args:
      labels: by series, whether each tick belongs to an episode.
      scores: by series, of each tick; high where an episode is.
      most_ticks: L: fading lasts 0, 1, ... L ticks, half of it on each side.
    """
    if not any(label.any() for label in labels):
        return None
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    levels = score[order][np.linspace(0, len(score) - 1, _LEVELS).astype(int)]
    alarmed = np.searchsorted(-score[order], -levels, side="right")
    areas = [
        _area(labels, scores, order, levels, alarmed, ticks)
        for ticks in range(most_ticks + 1)
    ]
    return float(np.mean(areas))


def _area(
    labels: Sequence[Bool[ndarray, " _"]],
    scores: Sequence[Float[ndarray, " _"]],
    order: Int[ndarray, " N"],
    levels: Float[ndarray, " K"],
    alarmed: Int[ndarray, " K"],
    ticks: int,
) -> float:
    """Returns the area under precision against recall for one length of the fading.

    Args:
      labels: by series.
      scores: by series.
      order: of the ticks of all series, by falling score.
      levels: falling.
      alarmed: how many ticks are at or above each level.
      ticks: length of the fading.
    """
    faded = [_faded(label, ticks) for label in labels]
    # An episode is found at levels up to the highest score within it.
    peaks = np.array(
        [
            score[begin:end].max()
            for weight, score in zip(faded, scores, strict=True)
            for begin, end in _spans(weight > 0)
        ]
    )
    found = (peaks[:, None] >= levels).mean(axis=0)
    weight = np.concatenate(faded)
    hits = np.cumsum(weight[order])[alarmed - 1]
    positives = (sum(int(label.sum()) for label in labels) + weight.sum()) / 2
    recall = np.append(0.0, np.minimum(hits / positives, 1) * found)
    precision = np.append(1.0, hits / alarmed)
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def _faded(label: Bool[ndarray, " n"], ticks: int) -> Float[ndarray, " n"]:
    """Returns 1 in each episode, and sqrt(1 - d / ticks) d ticks beside it."""
    faded = label.astype(np.float64)
    place = np.arange(len(label))
    for begin, end in _spans(label):
        distance = np.maximum(begin - place, place - (end - 1))
        beside = (distance > 0) & (distance <= ticks // 2)
        faded[beside] += np.sqrt(1 - distance[beside] / max(ticks, 1))
    return np.minimum(faded, 1)


def _spans(on: Bool[ndarray, " n"]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], on.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
