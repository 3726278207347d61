"""How good predictions are: metrics with intervals, from labels and probabilities.

The metrics are one-vs-rest. With two classes they are those of class 1, the positive
one; with more, means over the classes that have a window among the labels:

    precision = TP / (TP + FP), 0 when nothing was called positive
    recall    = TP / (TP + FN)
    f1        = 2 TP / (2 TP + FP + FN)
    fdr       = FP / (FP + TN), false detections: alarms without a cause
    mdr       = FN / (FN + TP), missed detections
    auroc, auprc  areas under the ROC curve and the (stepwise) precision-recall curve

`accuracy` is the share of right windows and `balanced_accuracy` the mean recall of the
classes that occur. A metric that the labels do not define is None.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "f1",
    "precision",
    "recall",
    "auroc",
    "auprc",
    "fdr",
    "mdr",
)
BY_RECORDING = ("accuracy", "balanced_accuracy", "auroc")
"""Metrics that are also given for each recording alone."""

BLOCKS = 10
"""Contiguous blocks that stand for units where there is but one recording and clip."""

_LEVEL = (2.5, 97.5)
_DRAWN_AT_ONCE = 1 << 21  # weights of windows


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Labels and what a head says, of windows in order of recording, clip and time.

    Attributes:
      label: [N], the true classes; all known.
      probability: [N, K], of each class; the largest is the prediction.
      recording: [N], number of each window's recording.
      clip: [N], number of its clip.
    """

    label: Int[ndarray, " N"]
    probability: Float[ndarray, "N K"]
    recording: Int[ndarray, " N"]
    clip: Int[ndarray, " N"]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def predicted(self) -> Int[ndarray, " N"]:
        """Returns the class of highest probability, of equal ones the first."""
        return self.probability.argmax(axis=1)


def score(predictions: Predictions, *, draws: int, seed: int) -> dict[str, Any]:
    """Returns all metrics, and 95 % intervals by resampling recordings.

    Windows of one recording are similar, so whole recordings are resampled: with one
    recording its clips, with one clip BLOCKS contiguous blocks of windows.

    Args:
      predictions: windows with known labels, possibly none.
      draws: resampled sets; 0 for no intervals.
      seed: of the draws.

    Returns:
      The metrics by name (None where undefined), `intervals` by the same names,
      `resampled` (unit, how many of it), `windows`, and `note` on what is undefined.
    """
    unit, units = resampling_units(predictions.recording, predictions.clip)
    number = len(np.unique(units))
    return {
        **point_metrics(predictions),
        "intervals": _intervals(predictions, units, draws=draws, seed=seed),
        "resampled": {"unit": unit, "units": number},
        "windows": len(predictions),
        "note": _note(predictions, unit, number),
    }


def point_metrics(predictions: Predictions) -> dict[str, float | None]:
    """Returns the metrics of all windows, by name; None where undefined."""
    classes = predictions.probability.shape[1]
    if not len(predictions):
        return dict.fromkeys(METRICS)
    counted = from_confusion(
        confusion_matrix(
            predictions.label, predictions.predicted, labels=np.arange(classes)
        )[None]
    )
    values = {name: value.item() for name, value in counted.items()}
    values |= {"auroc": np.nan, "auprc": np.nan}
    present = np.unique(predictions.label)
    if len(present) > 1:
        ranked = present if classes > 2 else np.array([1])
        hits = [(predictions.label == c, predictions.probability[:, c]) for c in ranked]
        values |= {
            "auroc": np.mean([roc_auc_score(*hit) for hit in hits]),
            "auprc": np.mean([average_precision_score(*hit) for hit in hits]),
        }
    return {name: _number(values[name]) for name in METRICS}


def by_recording(predictions: Predictions) -> dict[int, dict[str, float | None]]:
    """Returns accuracies and AUROC of each recording, by its number.

    Where they differ much, the recordings do: the mean over windows says little of the
    next one. `windows` is how many labelled ones it has.
    """
    found: dict[int, dict[str, float | None]] = {}
    for number in np.unique(predictions.recording).tolist():
        rows = predictions.recording == number
        own = Predictions(
            label=predictions.label[rows],
            probability=predictions.probability[rows],
            recording=predictions.recording[rows],
            clip=predictions.clip[rows],
        )
        metrics = point_metrics(own)
        found[number] = {name: metrics[name] for name in BY_RECORDING}
        found[number]["windows"] = len(own)
    return found


def from_confusion(
    confusion: Int[ndarray, "n K K"] | Float[ndarray, "n K K"],
) -> dict[str, Float[ndarray, " n"]]:
    """Returns the metrics that counts decide, of several confusion matrices.

    Args:
      confusion: windows by true class (rows) and predicted class (columns).

    Returns:
      Metrics by name, NaN where undefined.
    """
    total = confusion.sum(axis=(1, 2))[:, None]
    tp = np.diagonal(confusion, axis1=1, axis2=2)
    fn = confusion.sum(axis=2) - tp
    fp = confusion.sum(axis=1) - tp
    tn = total - tp - fn - fp
    present = tp + fn > 0
    several = present.sum(axis=1) > 1
    recall = _ratio(tp, tp + fn)

    def averaged(values: ndarray) -> ndarray:
        if values.shape[1] == 2:
            return values[:, 1]
        return _mean_where(present, values)

    return {
        "accuracy": _ratio(tp.sum(axis=1), total[:, 0]),
        "balanced_accuracy": _only(several, _mean_where(present, recall)),
        "f1": _only(several, averaged(_ratio(2 * tp, 2 * tp + fp + fn))),
        "precision": _only(several, averaged(tp / np.maximum(tp + fp, 1))),
        "recall": averaged(recall),
        "fdr": averaged(_ratio(fp, fp + tn)),
        "mdr": averaged(_ratio(fn, tp + fn)),
    }


def resampling_units(
    recording: Int[ndarray, " N"], clip: Int[ndarray, " N"]
) -> tuple[str, Int[ndarray, " N"]]:
    """Returns what may be taken as independent, and which one each window is of.

    Recordings where there are several, else clips, else contiguous blocks.
    """
    for name, unit in (("recording", recording), ("clip", clip)):
        if len(np.unique(unit)) > 1:
            return name, np.unique(unit, return_inverse=True)[1].astype(np.int64)
    n = len(recording)
    return "block", np.arange(n) * min(BLOCKS, n) // max(1, n)


def by_clip(predictions: Predictions) -> Predictions:
    """Pools the windows of each clip: mean probability, most frequent label."""
    pairs = np.stack([predictions.recording, predictions.clip], axis=1)
    clips, member = np.unique(pairs, axis=0, return_inverse=True)
    k = predictions.probability.shape[1]
    votes = np.zeros((len(clips), k), int)
    np.add.at(votes, (member, predictions.label), 1)
    sums = np.zeros((len(clips), k))
    np.add.at(sums, member, predictions.probability)
    return Predictions(
        label=votes.argmax(axis=1),
        probability=sums / votes.sum(axis=1, keepdims=True),
        recording=clips[:, 0],
        clip=clips[:, 1],
    )


def _intervals(
    predictions: Predictions, units: Int[ndarray, " N"], *, draws: int, seed: int
) -> dict[str, list[float] | None]:
    number = len(np.unique(units))
    if number < 2 or not draws:
        return dict.fromkeys(METRICS)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(number, np.full(number, 1 / number), size=draws)
    at_once = max(1, _DRAWN_AT_ONCE // len(units))
    parts = [
        resampled_metrics(predictions, drawn[i : i + at_once][:, units])
        for i in range(0, draws, at_once)
    ]
    return {
        name: _interval(np.concatenate([part[name] for part in parts]))
        for name in METRICS
    }


def resampled_metrics(
    predictions: Predictions, weight: Int[ndarray, "draws N"]
) -> dict[str, Float[ndarray, " draws"]]:
    """Returns the metrics of several resampled sets at once, NaN where undefined.

    The same values as `point_metrics` of each set; one by one, a thousand draws of
    many classes would take minutes.

    Args:
      predictions: the windows drawn from.
      weight: how often each window is in each set.
    """
    k = predictions.probability.shape[1]
    cell = predictions.label * k + predictions.predicted
    confusion = weight.astype(np.float64) @ np.eye(k * k)[cell]
    metrics = from_confusion(confusion.reshape(-1, k, k))
    areas: dict[str, list[ndarray]] = {"auroc": [], "auprc": []}
    for c in [1] if k == 2 else range(k):
        positive = predictions.label == c
        both = _ranking(predictions.probability[:, c], positive, weight)
        areas["auroc"].append(both[0])
        areas["auprc"].append(both[1])
    defined = {name: np.stack(values, axis=-1) for name, values in areas.items()}
    return metrics | {
        name: _mean_where(np.isfinite(values), values)
        for name, values in defined.items()
    }


def _ranking(
    scores: Float[ndarray, " N"],
    positive: Bool[ndarray, " N"],
    weight: Int[ndarray, "draws N"],
) -> tuple[Float[ndarray, " draws"], Float[ndarray, " draws"]]:
    """Returns auroc and auprc of each draw, NaN without both classes in it."""
    order = np.argsort(-scores, kind="stable")
    # One threshold for each distinct score, so that ties count half.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    tp = np.cumsum(weight[:, order] * positive[order], axis=1)[:, last]
    fp = np.cumsum(weight[:, order] * ~positive[order], axis=1)[:, last]
    tp_before = np.pad(tp, [(0, 0), (1, 0)])[:, :-1]
    fp_before = np.pad(fp, [(0, 0), (1, 0)])[:, :-1]
    positives, negatives = tp[:, -1], fp[:, -1]
    under = ((fp - fp_before) * (tp + tp_before) / 2).sum(axis=1)
    precision = tp / np.maximum(tp + fp, 1)
    steps = ((tp - tp_before) * precision).sum(axis=1)
    both = (positives > 0) & (negatives > 0)
    return (
        _only(both, _ratio(under, positives * negatives)),
        _only(both, _ratio(steps, positives)),
    )


def _note(predictions: Predictions, unit: str, units: int) -> str | None:
    classes = len(np.unique(predictions.label))
    if not classes:
        return "no window has a label: nothing to measure"
    if classes == 1:
        return "only one class among the labels: metrics that need two are undefined"
    if units < 5:
        return f"only {units} {unit}s to resample: the intervals say little"
    return None


def _interval(values: Float[ndarray, " draws"]) -> list[float] | None:
    """Returns the 95 % range of the draws, None if most of them are undefined."""
    defined = values[np.isfinite(values)]
    if 2 * len(defined) < len(values):
        return None
    return [float(bound) for bound in np.percentile(defined, _LEVEL)]


def _ratio(above: ndarray, below: ndarray) -> ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


def _only(condition: ndarray, values: ndarray) -> ndarray:
    return np.where(condition, values, np.nan)


def _mean_where(chosen: ndarray, values: ndarray) -> ndarray:
    """Returns the mean over the last axis of the chosen entries, NaN without any."""
    total = np.where(chosen, values, 0.0).sum(axis=-1)
    return _ratio(total, chosen.sum(axis=-1))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
