"""What an evaluation reports: scores by direction and split, references, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.evaluation.classification_metrics import (
    METRICS,
    Predictions,
    by_clip,
    by_recording,
    score,
)
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import HEAD, EvaluationSplits, seen_in_pretraining
from fmalign_jax.objectives.total import LABELS, NO_LABELS
from fmalign_jax.run.restore import OpenedRun, confirm_training_windows

Probabilities = Mapping[str, Mapping[str, Float[ndarray, "N K"]]]
"""Of each class, by direction ("video->current"), then by split."""


def scores_key(labels: str) -> str:
    """Returns under which name a report or a validation keeps scores of directions.

    Args:
      labels: the level of `LABELS` of the run.
    """
    return "zero_shot" if labels == NO_LABELS else "supervised_representation"


def scores_of(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the scores of a report by direction, whatever its run's labels."""
    found: Mapping[str, Any] = report[scores_key(report["labels"])]
    return found


def score_all(
    probabilities: Probabilities, splits: EvaluationSplits, config: ConfigDict
) -> dict[str, Any]:
    """Returns the scores of each direction; see `score_splits`."""
    return {
        direction: score_splits(found, splits, config)
        for direction, found in probabilities.items()
    }


def score_splits(
    found: Mapping[str, Float[ndarray, "N K"]],
    splits: EvaluationSplits,
    config: ConfigDict,
) -> dict[str, Any]:
    """Returns the scores of the headline split, and of every split under `splits`.

    Each with those of its single recordings, under `by_recording`. Where recordings
    consist of clips, also of whole clips, under `clips`.
    """
    scores = {}
    for name, split in splits.reported.items():
        predictions = scored_rows(split, found[name])
        options = {"draws": config.bootstrap_draws, "seed": config.seed}
        scores[name] = score(predictions, **options)
        scores[name]["by_recording"] = {
            split.store.names[number]: own
            for number, own in by_recording(predictions).items()
        }
        if not split.continuous:
            scores[name]["clips"] = score(by_clip(predictions), **options)
    return {**scores[splits.headline], "splits": scores}


def over_draws(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns means and deviations over draws, of the headline split and of each.

    Args:
      scores: of each draw, as from `score_splits`.

    Returns:
      The metrics, their means, None where a draw does not define them; `deviations` by
      the same names, of the draws (not of their mean), None of one draw; `draws`, how
      many; and `splits`.
    """

    def summarised(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        values = {
            name: np.array([row[name] for row in rows], np.float64)
            for name in METRICS
            if all(row[name] is not None for row in rows)
        }
        return {
            **dict.fromkeys(METRICS),
            **{name: float(found.mean()) for name, found in values.items()},
            "deviations": {
                name: float(found.std(ddof=1)) if len(found) > 1 else None
                for name, found in values.items()
            },
            "draws": len(rows),
        }

    return {
        **summarised(scores),
        "splits": {
            name: summarised([one["splits"][name] for one in scores])
            for name in scores[0]["splits"]
        },
    }


def majority(splits: EvaluationSplits, config: ConfigDict) -> dict[str, Any]:
    """Returns the scores of always answering the head split's most frequent class."""
    labels = splits.head.label[splits.head.known]
    frequent = int(np.bincount(labels).argmax())
    answer = np.eye(len(splits.classes))[frequent]
    found = {n: np.tile(answer, (len(s), 1)) for n, s in splits.reported.items()}
    scores = score_splits(found, splits, config)
    kept = ("accuracy", "balanced_accuracy")
    return {
        "class": splits.classes[frequent],
        **{name: scores[name] for name in kept},
        "splits": {
            split: {name: own[name] for name in kept}
            for split, own in scores["splits"].items()
        },
    }


def scored_rows(
    split: LabelledWindows, probability: Float[ndarray, "N K"]
) -> Predictions:
    """Returns the windows that have a label, with what a head says of them."""
    known = split.known
    return Predictions(
        label=split.label[known],
        probability=probability[known],
        recording=split.windows.recording[known],
        clip=split.windows.clip[known],
    )


def describe(splits: EvaluationSplits, streams: Sequence[str]) -> dict[str, Any]:
    """Returns by split where it came from and whether pre-training has seen it.

    `inductive`: no recording of it was in pre-training; `transductive`: some were
    (`seen_recordings` says which, and how that is known);
    `unknown`: the recordings of the run are not available.
    """
    described = {}
    for name, split in splits.by_name.items():
        seen = None
        if splits.pretraining is not None:
            seen = seen_in_pretraining(split, splits.pretraining, streams)
        setting = "unknown" if seen is None else "inductive"
        described[name] = {
            "origin": split.origin,
            "recordings": split.recordings,
            "windows": len(split),
            "labelled": int(split.known.sum()),
            "seen_in_pretraining": None if seen is None else bool(seen),
            "seen_recordings": seen,
            "setting": "transductive" if seen else setting,
        }
    return described


def sizes(splits: EvaluationSplits) -> dict[str, Any]:
    """Returns by split the number of windows, recordings, and windows of each class."""
    return {
        name: {
            "windows": len(split),
            "labelled": int(split.known.sum()),
            "recordings": len(split.recordings),
            "classes": {
                names: int((split.label == number).sum())
                for number, names in enumerate(splits.classes)
            },
        }
        for name, split in splits.by_name.items()
    }


def transductive(splits: Mapping[str, Any], labels: str) -> list[str]:
    """Returns a note for each split but the head's that pre-training has seen.

    Args:
      splits: as from `describe`.
      labels: the level of `LABELS` of the run.
    """
    without = ", without labels" if labels == NO_LABELS else ""
    return [
        f"{name} is transductive: pre-training saw "
        f"{', '.join(split['seen_recordings'])}{without}"
        for name, split in splits.items()
        if name != HEAD and split["seen_in_pretraining"]
    ]


def notes(
    report: Mapping[str, Any], run: OpenedRun, splits: EvaluationSplits
) -> list[str]:
    """Returns what a reader must know to interpret the numbers."""
    found = [run.note] if run.note else []
    level = report["labels"]
    without = ", without labels" if level == NO_LABELS else ""
    if level != NO_LABELS:
        found.append(
            f"{LABELS[level]} ({level}): its numbers are not zero-shot; compare them "
            "with the oracle"
        )
    if splits.headline == "validation":
        found.append(
            "there is no test split: the numbers are those of the validation split, on "
            f"which the best checkpoint was chosen{without}; give unseen recordings "
            "with --config.test_data=GLOB"
        )
    pretraining = splits.pretraining
    if pretraining is None:
        found.append(
            "the recordings of the run are not available: whether these were seen in "
            "pre-training is not known"
        )
    elif not confirm_training_windows(run, pretraining.store, pretraining.windows):
        found.append(
            "the raw files of the run have changed since it was trained: which "
            "recordings it has seen is not certain"
        )
    found += transductive(report["splits"], level)
    target = scores_of(report)[f"{report['source']}->{report['target']}"]
    for name, scores in target["splits"].items():
        if scores["note"]:
            found.append(f"{name}: {scores['note']}")
    return found + _untrained(report, target["balanced_accuracy"])


def _untrained(report: Mapping[str, Any], reached: float | None) -> list[str]:
    """Says where encoders that learnt nothing are as good as the run."""
    of_random = report["references"]["random_encoders"] or {}
    random = of_random.get(f"{report['source']}->{report['target']}", {})
    value = random.get("balanced_accuracy")
    if value is None or reached is None or reached > value:
        return []
    return [
        f"encoders that were not trained reach {value:.3f} balanced accuracy where the "
        f"run reaches {reached:.3f}: that it learnt anything is not shown"
    ]
