"""Pictures of an evaluation (ROC, precision-recall, confusion, scores over time) and of
a search for the lead.

Drawn without pyplot, which needs a display or a global setting.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from fmalign_jax.evaluation.classification_metrics import Predictions

_DPI = 110
_NUMBERED_CLASSES = 10  # with more, the cells of a confusion matrix bear no numbers


def draw_roc(path: pathlib.Path, predictions: Mapping[str, Predictions]) -> None:
    """Draws the ROC curve of each direction; of several classes, all pooled.

    Args:
      path: the picture.
      predictions: by direction; those with one class only are left out.
    """
    figure, axes = _figure("false detection rate (FDR)", "recall (1 - MDR)")
    for direction, (label, value) in _pooled(predictions).items():
        fdr, recall, _ = roc_curve(label, value)
        axes.plot(fdr, recall, label=direction)
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", label="chance")
    axes.legend()
    figure.savefig(path, dpi=_DPI)


def draw_precision_recall(
    path: pathlib.Path, predictions: Mapping[str, Predictions]
) -> None:
    """Draws the precision-recall curve of each direction; see `draw_roc`."""
    figure, axes = _figure("recall", "precision")
    for direction, (label, value) in _pooled(predictions).items():
        precision, recall, _ = precision_recall_curve(label, value)
        axes.step(recall, precision, where="post", label=direction)
    for _, (label, _) in list(_pooled(predictions).items())[:1]:
        axes.axhline(label.mean(), color="0.7", linestyle=":", label="chance")
    axes.set_ylim(0, 1.02)
    axes.legend()
    figure.savefig(path, dpi=_DPI)


def draw_confusion(
    path: pathlib.Path, predictions: Mapping[str, Predictions], classes: Sequence[str]
) -> None:
    """Draws a confusion matrix a direction: colours are shares of the true class."""
    side = math.ceil(math.sqrt(len(predictions)))
    figure = Figure(figsize=(5 * side, 4.5 * side), layout="constrained")
    panels = figure.subplots(side, side, squeeze=False).ravel()
    for axes, (direction, found) in zip(panels, predictions.items(), strict=True):
        numbers = np.arange(len(classes))
        counts = confusion_matrix(found.label, found.predicted, labels=numbers)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=direction, xlabel="predicted", ylabel="true")
        if len(classes) > _NUMBERED_CLASSES:
            continue
        axes.set_xticks(numbers, classes, rotation=45)
        axes.set_yticks(numbers, classes)
        for row, column in np.ndindex(counts.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, counts[row, column], ha="center", va="center", color=colour
            )
    figure.savefig(path, dpi=_DPI)


def draw_over_time(
    path: pathlib.Path,
    title: str,
    time_s: Float[ndarray, " N"],
    scores: Mapping[str, Float[ndarray, " N"]],
    label: Int[ndarray, " N"],
    classes: Sequence[str],
) -> None:
    """Draws scores of one recording over time, above its label.

    Args:
      path: the picture.
      title: name of the recording.
      time_s: centres of the windows on the reference clock, in order.
      scores: by direction: the probability of class 1; of several classes, the number
        of the predicted one.
      label: class of each window, -1 unknown.
      classes: their names.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    two = len(classes) == 2
    for direction, values in scores.items():
        above.plot(time_s, values, marker=".", linewidth=1, label=direction)
    above.set(title=title, ylabel=f"score of {classes[1]}" if two else "predicted")
    if two:
        above.set_ylim(-0.02, 1.02)
        above.axhline(0.5, color="0.7", linestyle=":")
    above.legend()
    known = np.where(label >= 0, label, np.nan)
    below.step(time_s, known, where="mid", color="black")
    below.set(xlabel="time of the window's centre, s", ylabel="label")
    if len(classes) <= _NUMBERED_CLASSES:
        below.set_yticks(np.arange(len(classes)), classes)
        below.set_ylim(-0.3, len(classes) - 0.7)
    figure.savefig(path, dpi=_DPI)


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _pooled(
    predictions: Mapping[str, Predictions],
) -> dict[str, tuple[ndarray, ndarray]]:
    """Returns by direction which windows are positive, and their scores.

    Of several classes every (window, class) pair is taken for a window.
    """
    pooled = {}
    for direction, found in predictions.items():
        k = found.probability.shape[1]
        hit = found.label[:, None] == np.arange(k)
        wanted = slice(1, 2) if k == 2 else slice(0, k)
        if len(np.unique(found.label)) > 1:
            pooled[direction] = (
                hit[:, wanted].ravel(),
                found.probability[:, wanted].ravel(),
            )
    return pooled
