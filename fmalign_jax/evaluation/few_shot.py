"""The few-shot curve: how good heads are with a few labelled windows of each class.

Of the source, applied to the target; and of the target itself, what as many labels of
its own would give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.evaluation import heads
from fmalign_jax.evaluation.classification_metrics import from_confusion
from fmalign_jax.evaluation.classifier import Features, Labels, pool
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.prototype_heads import can_be_asked
from fmalign_jax.evaluation.splits import HEAD, EvaluationSplits
from fmalign_jax.evaluation.transfer import features_of, groups
from fmalign_jax.run.frozen_encoder import Encodings

NUMBERS = (1, 2, 5, 10, 25, 50)
"""Labelled windows of each class."""
DRAWS = 20

_HEADS: Mapping[str, Mapping[str, Any]] = {
    "prototypes": {"kind": "prototypes", "per": "class"},
    "per_recording": {"kind": "prototypes", "per": "recording"},
    "episodic": {"kind": "episodic", "per": "class"},
    "logistic": {"kind": "logistic"},
}
_METRIC = "balanced_accuracy"


def describe(
    encoded: Mapping[str, Encodings],
    splits: EvaluationSplits,
    spec: HeadSpec,
    config: ConfigDict,
) -> dict[str, Any] | None:
    """Returns how good heads are with few labels, on the headline split.

    Args:
      encoded: as heads see them.
      splits: their windows.
      spec: for pooling and the penalty of the logistic head, of several the first.
      config: of the evaluation.

    Returns:
      `labelled`, the numbers n of windows a class that every class of the head split
      has; `draws`; and `heads`: by head and direction a list over n of the mean
      balanced accuracy, its `deviation` over draws, `by_recording`, means over draws,
      and over how many `draws` the head could be fitted. None if not asked for.
    """
    if not config.few_shot:
        return None
    head, test = splits.head, splits.by_name[splits.headline]
    features = features_of(
        {name: encoded[name] for name in (HEAD, splits.headline)}, splits, config
    )
    pooled = {
        name: {m: pool(x, spec.pooling)[:, None] for m, x in own.items()}
        for name, own in features.items()
    }
    unit = np.full(len(head), -1)
    unit[head.known] = groups(head.chosen(head.known))
    counts = np.unique(head.label[head.known], return_counts=True)[1]
    labelled = [n for n in NUMBERS if n <= counts.min()]
    specs = {
        name: dataclasses.replace(spec, l2=spec.l2[:1], **changes)
        for name, changes in _HEADS.items()
    }
    found: dict[str, dict[str, list[Any]]] = {name: {} for name in specs}
    for fitted in dict.fromkeys((config.source, config.target)):
        direction = f"{fitted}->{config.target}"
        for name, one in specs.items():
            found[name][direction] = [
                _over_draws(
                    [
                        _predicted(
                            one,
                            pooled[HEAD][fitted][rows],
                            head.label[rows],
                            unit[rows],
                            pooled[splits.headline][config.target],
                            classes=len(splits.classes),
                            seed=config.seed,
                        )
                        for rows in _drawn(head.label, n, config.seed)
                    ],
                    test,
                )
                for n in labelled
            ]
    return {"labelled": labelled, "draws": DRAWS, "heads": found}


def _drawn(label: Labels, number: int, seed: int) -> list[Int[ndarray, " n"]]:
    """Returns so many windows of each class, of every draw; for all heads the same."""
    found = []
    for draw in range(DRAWS):
        rng = np.random.default_rng([seed, number, draw])
        rows = [
            rng.choice(np.flatnonzero(label == c), number, replace=False)
            for c in np.unique(label[label >= 0])
        ]
        found.append(np.sort(np.concatenate(rows)))
    return found


def _predicted(
    spec: HeadSpec,
    features: Features,
    labels: Labels,
    units: Labels,
    tested: Float[ndarray, "tested 1 D"],
    *,
    classes: int,
    seed: int,
) -> Float[ndarray, "tested K"] | None:
    """Returns what a head says; None if these windows allow no episodes."""
    if spec.kind == "episodic" and not can_be_asked(labels, units):
        return None
    head = heads.fit(spec, features, labels, classes=classes, groups=units, seed=seed)
    return head.predict(tested)


def _over_draws(
    predicted: list[Float[ndarray, "N K"] | None], split: LabelledWindows
) -> dict[str, Any]:
    """Returns mean and deviation over the draws that a head could be fitted on."""
    said = [one[split.known] for one in predicted if one is not None]
    if not said:
        return {_METRIC: None, "deviation": None, "by_recording": None, "draws": 0}
    label, recording = split.label[split.known], split.windows.recording[split.known]
    numbers, own = np.unique(recording, return_inverse=True)
    classes = said[0].shape[1]
    confusion = np.zeros((len(said), len(numbers), classes, classes), np.int64)
    for counts, one in zip(confusion, said, strict=True):
        np.add.at(counts, (own, label, one.argmax(axis=1)), 1)
    values = from_confusion(confusion.sum(axis=1))[_METRIC]
    apart = [from_confusion(confusion[:, r])[_METRIC] for r in range(len(numbers))]
    return {
        _METRIC: _number(values.mean()),
        "deviation": _number(values.std(ddof=1)) if len(values) > 1 else None,
        "by_recording": {
            split.store.names[number]: _number(one.mean())
            for number, one in zip(numbers.tolist(), apart, strict=True)
        },
        "draws": len(said),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
