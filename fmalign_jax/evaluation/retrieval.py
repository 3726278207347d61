"""Retrieval within a recording: which of its currents belongs to this video?

The gallery of a recording is its windows that do not overlap, each modality read at the
run's lead, so that a window and its partner have the same number. Every window of one
modality ranks all windows of the other. Never across recordings: what a furnace looks
like would solve that without any timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.evaluation.labelled_windows import LabelledWindows, tick_labels
from fmalign_jax.evaluation.population import over_recordings
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.run.frozen_encoder import Encodings

AT = (1, 5, 10)
"""Numbers of answers within which a partner is looked for."""

Json = dict[str, Any]
Similarity = Callable[[Float[ndarray, "N S *D"], Float[ndarray, "M s *D"]], ndarray]
"""Features of windows to how similar they are [N, M], every pair."""


def similarity(
    first: Float[ndarray, "N T D"], second: Float[ndarray, "M t D"]
) -> Float[ndarray, "N M"]:
    """Returns the cosine of the means over ticks, of every pair of windows."""
    units = []
    for features in (first, second):
        mean = np.asarray(features, np.float64).mean(axis=1)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        units.append(mean / np.maximum(length, 1e-12))
    return units[0] @ units[1].T


def nearness(
    first: Float[ndarray, "N T D"], second: Float[ndarray, "M t D"]
) -> Float[ndarray, "N M"]:
    """Returns minus the squared distance of the means over ticks, of every pair.

    For shared features: they may have one direction, in which a cosine is a sign.
    """
    means = [np.asarray(own, np.float64).mean(axis=1) for own in (first, second)]
    return -np.square(means[0][:, None] - means[1]).sum(axis=-1)


def measures(score: Float[ndarray, "N N"]) -> dict[str, float]:
    """Returns how well partners are found: row i belongs to column i.

    With g candidates better than the partner and e others exactly as good, its rank is
    1 + g + e/2, and it is among the first k with probability (k - g) / (e + 1), between
    0 and 1: ties are drawn fairly, so that features which are all alike give k/N.

    Returns:
      ``recall@k`` of `AT`; `median_rank`; `normalised_rank`, the mean of
      (rank - 1) / (N - 1): 0 is best, 0.5 chance.
    """
    own = np.diagonal(score)[:, None]
    better = (score > own).sum(axis=1)
    equal = (score == own).sum(axis=1) - 1
    rank = 1 + better + equal / 2
    found = {
        f"recall@{k}": float(np.clip((k - better) / (equal + 1), 0, 1).mean())
        for k in AT
    }
    return found | {
        "median_rank": float(np.median(rank)),
        "normalised_rank": float(((rank - 1) / (len(score) - 1)).mean()),
    }


def apart(windows: WindowIndex) -> Int[ndarray, " n"]:
    """Returns windows of which no two share a tick: each the first that it can be."""
    rows, end = [], -1
    for row, start in enumerate(windows.start.tolist()):
        if start >= end:
            rows.append(row)
            end = start + windows.window_ticks
    return np.array(rows, np.int64)


def galleries(windows: WindowIndex) -> Iterator[tuple[int, Int[ndarray, " n"]]]:
    """Yields each recording, and its windows of which no two share a tick.

    Recordings with fewer than two are left out.
    """
    rows = apart(windows)
    recording = windows.recording[rows]
    for number in np.unique(recording).tolist():
        if (recording == number).sum() > 1:
            yield number, rows[recording == number]


def describe(
    encoded: Mapping[str, Encodings],
    kinds: Sequence[str],
    splits: EvaluationSplits,
    config: ConfigDict,
    own_similarity: Similarity = similarity,
) -> Json | None:
    """Returns how well each modality finds the other, by split.

    Args:
      encoded: all splits.
      kinds: of features that the run has.
      splits: their windows.
      config: of the evaluation.
      own_similarity: by continuous features, or what the system compares in their
        place; that of the system, if it has one.

    Returns:
      For the headline split, and for every split under `splits`: `windows`, the mean
      size of a gallery; `recordings`; by kind of features and direction the means over
      recordings of `measures`, with 95 % `intervals` and the values `by_recording`; and
      `references`: what one gets by chance, by the windows' labels alone, and by the
      share of their ticks of each class. None if not asked for.
    """
    if not config.retrieval:
        return None
    found = {
        name: _of_split(
            encoded[name], kinds, split, splits.classes, config, own_similarity
        )
        for name, split in splits.reported.items()
    }
    return {**found[splits.headline], "splits": found}


def _of_split(
    encodings: Encodings,
    kinds: Sequence[str],
    split: LabelledWindows,
    classes: tuple[str, ...],
    config: ConfigDict,
    own_similarity: Similarity,
) -> Json:
    laid = list(galleries(split.windows))
    names = [split.store.names[number] for number, _ in laid]
    directions = ((config.source, config.target), (config.target, config.source))
    by_kind = {
        "shared": (nearness, "shared"),
        "codes": (similarity, "codes"),
        "semantic": (own_similarity, "compared"),
    }

    def scores(
        kind: str, asking: str, asked: str, rows: Int[ndarray, " n"]
    ) -> Float[ndarray, "N N"]:
        compare, read = by_kind[kind]
        return compare(
            encodings.features(asking, read)[rows],
            encodings.features(asked, read)[rows],
        )

    def mean(scores: list[Float[ndarray, "N N"]]) -> Json | None:
        return over_recordings(
            names,
            [measures(own) for own in scores],
            draws=config.bootstrap_draws,
            seed=config.seed,
        )

    return {
        "recordings": len(laid),
        "windows": float(np.mean([len(rows) for _, rows in laid])) if laid else 0.0,
        "features": {
            kind: {
                f"{asking}->{asked}": mean(
                    [scores(kind, asking, asked, rows) for _, rows in laid]
                )
                for asking, asked in directions
            }
            for kind in kinds
        },
        "references": {
            "chance": mean([np.zeros((len(rows), len(rows))) for _, rows in laid]),
            **_by_label(split, classes, laid, mean),
        },
    }


def _by_label(
    split: LabelledWindows,
    classes: tuple[str, ...],
    laid: Sequence[tuple[int, Int[ndarray, " n"]]],
    mean: Any,
) -> Json:
    """Returns what the labels alone find; what is above them uses more than those."""
    ticks = tick_labels(split, classes)
    shares, labels = [], []
    for _, rows in laid:
        own = ticks[split.windows.rows(rows)]
        shares.append((own[..., None] == np.arange(len(classes))).mean(axis=1))
        labels.append(split.label[rows])
    if not laid or any((own < 0).any() for own in labels):
        return {"label": None, "label_share": None}
    return {
        "label": mean([(own[:, None] == own).astype(float) for own in labels]),
        "label_share": mean(
            [-np.abs(own[:, None] - own).sum(axis=-1).round(9) for own in shares]
        ),
    }
