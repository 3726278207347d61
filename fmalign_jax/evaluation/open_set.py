"""Open set: does a head know what it was never shown?

The head is trained on some of the classes, drawn at random, and tested on all. What it
says of a window is taken for known or not by its largest probability. The level below
which a window is rejected is fixed before the test: a level chosen on the test gives a
good harmonic mean to a head that knows nothing of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.evaluation import heads
from fmalign_jax.evaluation.classification_metrics import Predictions, score
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import HEAD, EvaluationSplits
from fmalign_jax.evaluation.transfer import features_of, groups
from fmalign_jax.run.frozen_encoder import Encodings

REJECTED_SHARE = 0.05
"""Of windows of known classes in held-out folds, how many the level rejects."""


def check(config: ConfigDict, splits: EvaluationSplits) -> None:
    """Refuses a number of known classes that leaves nothing to learn or to hold out.

    Raises:
      ValueError: fewer than two known classes, or not fewer than the head split has.
    """
    known, classes = config.open_set.known, len(_occurring(splits.head))
    if known and not 2 <= known < classes:
        raise ValueError(
            "open_set.known must be 0 (off), or at least 2 and fewer than the classes "
            f"of the head split, {classes}; got {known}; correct it"
        )


def describe(
    seen: Mapping[str, Encodings],
    splits: EvaluationSplits,
    spec: HeadSpec,
    config: ConfigDict,
) -> dict[str, Any] | None:
    """Returns how well known and unknown classes are told apart, headline split.

    Args:
      seen: as heads see them.
      splits: their windows.
      spec: of the head.
      config: of the evaluation.

    Returns:
      `known`, the names of the classes that the head is shown; and by direction under
      `directions`: `auroc` of the largest probability, with its `interval` and how it
      was `resampled`; `level`, below which a window is rejected; and what `measures`
      says at that level. None if not asked for.
    """
    if not config.open_set.known:
        return None
    split, head_split = splits.by_name[splits.headline], splits.head
    rng = np.random.default_rng(config.seed)
    shown = rng.choice(
        _occurring(head_split), int(config.open_set.known), replace=False
    )
    features = features_of(
        {name: seen[name] for name in (HEAD, splits.headline)}, splits, config
    )
    rows = np.flatnonzero(np.isin(head_split.label, shown))
    own = head_split.chosen(rows)
    found = {}
    for fitted in (config.source, config.target):
        given = features[HEAD][fitted][rows]
        options: dict[str, Any] = {"classes": len(splits.classes), "seed": config.seed}
        unit = groups(own)
        head = heads.fit(spec, given, own.label, groups=unit, **options)
        held = [
            heads.fit(spec, given[fit], own.label[fit], groups=unit[fit], **options)
            .predict(given[out])
            .max(axis=1)
            for fit, out in heads.folds(own.label, unit)
        ]
        level = float(np.quantile(np.concatenate(held), REJECTED_SHARE))
        for tested in (config.target, config.source):
            said = head.predict(features[splits.headline][tested])
            found[f"{fitted}->{tested}"] = _scored(split, said, shown, level, config)
    names = [splits.classes[number] for number in np.sort(shown)]
    return {"known": names, "directions": found}


def measures(
    label: Int[ndarray, " N"],
    probability: Float[ndarray, "N K"],
    known: Bool[ndarray, " N"],
    level: float,
) -> dict[str, float | None]:
    """Returns how good answers are where windows may be rejected.

    Args:
      label: the true classes.
      probability: of each class.
      known: whether the true class was shown to the head.
      level: windows whose largest probability is below are rejected.

    Returns:
      `known_accuracy`, a_k, where a rejection is wrong; `unknown_rejected`, the share
      a_u; and `harmonic_mean`, 2 a_k a_u / (a_k + a_u). None where undefined.
    """
    rejected = probability.max(axis=1) < level
    right = (probability.argmax(axis=1) == label) & ~rejected
    if not known.any() or known.all():
        mean = None
    else:
        both = right[known].mean(), rejected[~known].mean()
        mean = float(2 * both[0] * both[1] / sum(both)) if sum(both) else 0.0
    return {
        "known_accuracy": float(right[known].mean()) if known.any() else None,
        "unknown_rejected": None if known.all() else float(rejected[~known].mean()),
        "harmonic_mean": mean,
    }


def _occurring(split: LabelledWindows) -> Int[ndarray, " k"]:
    return np.unique(split.label[split.known])


def _scored(
    split: LabelledWindows,
    probability: Float[ndarray, "N K"],
    shown: Int[ndarray, " k"],
    level: float,
    config: ConfigDict,
) -> dict[str, Any]:
    labelled = split.known
    label, own = split.label[labelled], probability[labelled]
    known = np.isin(label, shown)
    largest = own.max(axis=1)
    of_all = score(
        Predictions(
            label=known.astype(np.int64),
            probability=np.stack([1 - largest, largest], axis=1),
            recording=split.windows.recording[labelled],
            clip=split.windows.clip[labelled],
        ),
        draws=config.bootstrap_draws,
        seed=config.seed,
    )
    return {
        "auroc": of_all["auroc"],
        "interval": of_all["intervals"]["auroc"],
        "resampled": of_all["resampled"],
        "level": level,
        **measures(label, own, known, level),
    }
