"""What the codes of a run mean, and a map of its features, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.cluster import hierarchy
from scipy.spatial import distance
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from fmalign_jax.evaluation import code_measures
from fmalign_jax.structs import UNLABELLED

Json = dict[str, Any]

_SHOWN_CODES = 100  # in the table of distances
_NEIGHBOURS = 10
_PERPLEXITY = 30.0
_THICKNESS = 0.01  # in deviations of the points


def shown_steps(kept: Sequence[int]) -> dict[str, int]:
    """Chooses the checkpoints for the middle and the end of a run.

    Args:
      kept: steps of the checkpoints that the run kept, at least one.

    Returns:
      "end", the last; and "middle", of the others the one nearest to half of it, if
      there is another.
    """
    *earlier, end = sorted(kept)
    chosen = {"end": end}
    if earlier:
        chosen["middle"] = min(earlier, key=lambda step: abs(step - end / 2))
    return chosen


def code_counts(
    codes: Int[ndarray, "N T"],
    labels: Int[ndarray, "N T"],
    *,
    size: int,
    classes: int,
) -> tuple[Int[ndarray, " M"], Int[ndarray, "M K"]]:
    """Counts the ticks on each code, and those with a label by class.

    Args:
      codes: of each tick.
      labels: class of each tick, -1 unknown.
      size: number of codes M.
      classes: number of classes.

    Returns:
      All ticks by code, and the labelled ones by code and class.
    """
    known = labels != UNLABELLED
    by_class = np.zeros((size, classes), np.int64)
    np.add.at(by_class, (codes[known], labels[known]), 1)
    return np.bincount(codes.ravel(), minlength=size), by_class


def near_order(vectors: Float[ndarray, "n D"]) -> Int[ndarray, " n"]:
    """Orders vectors so that near ones are side by side (average linkage)."""
    if len(vectors) < 3:
        return np.arange(len(vectors))
    tree = hierarchy.linkage(vectors, "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree).astype(np.int64)


def codebook(
    vectors: Float[ndarray, "M D"],
    codes: Mapping[str, Mapping[str, Int[ndarray, "N T"]]],
    labels: Int[ndarray, "N T"],
    classes: Sequence[str],
) -> Json:
    """Describes a codebook by its use.

    Args:
      vectors: of the codes.
      codes: of each tick, by part of the recordings ("train", "held_out") and modality.
      labels: class of each tick of the training part, -1 unknown.
      classes: names, or none.

    Returns:
      `size`; `counts`, ticks by part, modality and code; `by_class`, labelled ticks of
      the training part by modality, code and class; `order`, the codes in use, near
      ones side by side; `shown`, the most used of them in that order, and `distances`
      between these.
    """
    size = len(vectors)
    counted = {
        part: {
            modality: code_counts(
                found,
                labels if part == "train" else np.full(found.shape, UNLABELLED),
                size=size,
                classes=len(classes),
            )
            for modality, found in by_modality.items()
        }
        for part, by_modality in codes.items()
    }
    total = sum(counts for part in counted.values() for counts, _ in part.values())
    used = np.flatnonzero(total)
    order = used[near_order(vectors[used])]
    most = set(np.argsort(-np.asarray(total), kind="stable")[:_SHOWN_CODES].tolist())
    shown = np.array([code for code in order.tolist() if code in most], np.int64)
    between = distance.squareform(distance.pdist(vectors[shown]))
    return {
        "size": size,
        "counts": {
            part: {m: counts.tolist() for m, (counts, _) in found.items()}
            for part, found in counted.items()
        },
        "by_class": {
            m: by_class.tolist() for m, (_, by_class) in counted["train"].items()
        },
        "order": order.tolist(),
        "shown": shown.tolist(),
        "distances": np.round(between, 3).tolist(),
    }


def feature_map(
    semantic: Mapping[str, Float[ndarray, "N T D"]],
    label: Int[ndarray, " N"],
    *,
    seed: int = 0,
) -> Json:
    """Lays the windows of all modalities on one plane, and says how they mix.

    A window is the mean of its features over the ticks: of what the modalities share,
    where the run has a level for that. The plane is t-SNE's
    (van der Maaten and Hinton 2008); what is said of neighbours is not read off the
    plane but measured in the D dimensions.

    Args:
      semantic: features by modality, of the same windows.
      label: class of each window, -1 unknown.
      seed: of the t-SNE.

    Returns:
      `points`, by modality [N, 2]; `mixing`, the share of other modalities among the 10
      nearest windows, and `mixing_chance`, what it is when modalities play no part;
      `same_label`, among the 10 nearest windows of OTHER modalities the share with the
      same label, and `same_label_chance`. The last two are None without
      labels, and of one modality alone.
    """
    points = np.concatenate([z.mean(axis=1) for z in semantic.values()])
    count, modalities = len(label), len(semantic)
    perplexity = min(_PERPLEXITY, max(1.0, (len(points) - 1) / 3))
    search = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    shown = points
    if points.shape[1] == 1:  # one number a window alone would be laid on a line
        across = np.random.default_rng(seed).normal(size=len(points))
        shown = np.column_stack([points, _THICKNESS * points.std() * across])
    # So few points are laid sooner by one thread than by several that wait for another.
    with threadpool_limits(1):
        plane = search.fit_transform(shown.astype(np.float32))
    modality = np.repeat(np.arange(modalities), count)
    placed = np.split(np.round(plane.astype(np.float64), 2), modalities)
    return {
        "points": {m: part.tolist() for m, part in zip(semantic, placed, strict=True)},
        "mixing": code_measures.mixing(
            {m: z.mean(axis=1) for m, z in semantic.items()}
        ),
        "mixing_chance": code_measures.mixing_chance(count, modalities),
        **_same_label(points, modality, np.tile(label, modalities)),
    }


def _same_label(
    points: Float[ndarray, "P D"],
    modality: Int[ndarray, " P"],
    label: Int[ndarray, " P"],
) -> dict[str, float | None]:
    known = label != UNLABELLED
    points, modality, label = points[known], modality[known], label[known]
    if len(np.unique(label)) < 2 or len(np.unique(modality)) < 2:
        return {"same_label": None, "same_label_chance": None}
    shares = []
    for number in np.unique(modality):
        own, other = modality == number, modality != number
        k = min(_NEIGHBOURS, int(other.sum()))
        search = NearestNeighbors(n_neighbors=k).fit(points[other])
        found = search.kneighbors(points[own], return_distance=False)
        shares.append((label[other][found] == label[own][:, None]).mean(axis=1))
    frequency = np.unique(label, return_counts=True)[1] / len(label)
    return {
        "same_label": float(np.concatenate(shares).mean()),
        "same_label_chance": float((frequency**2).sum()),
    }
