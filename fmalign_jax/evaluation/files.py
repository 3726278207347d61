"""What an evaluation writes: eval.json, predictions.csv, pictures, a printed table.

The folder is RUN/evaluation. If that holds an evaluation with other settings (another
checkpoint, head or recordings), it is RUN/evaluation-DIGEST, of the settings; so the
same command finds its folder again, and no evaluation takes the place of another. The
search for the lead chooses RUN/lead_time in the same way.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fmalign_jax.cli import print_table
from fmalign_jax.data.files import replacing
from fmalign_jax.evaluation import plots
from fmalign_jax.evaluation.classification_metrics import Predictions
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.report import Probabilities
from fmalign_jax.run.frozen_encoder import Encodings

_SHOWN = ("accuracy", "balanced_accuracy", "f1", "auroc", "fdr", "mdr")
_TIMELINES = 4  # recordings drawn over time


def write_predictions(
    path: pathlib.Path,
    splits: Mapping[str, LabelledWindows],
    classes: tuple[str, ...],
    probabilities: Probabilities,
    encoded: Mapping[str, Encodings],
) -> None:
    """Writes one row a window of the splits that are reported on.

    Columns: split, recording, clip, time_s (centre of the reference window), label
    (empty: unknown); for each direction the prediction, and the score: the probability
    of class 1, or of each class if there are more than two; for each modality its
    codes, a number a tick.
    """
    shown = [1] if len(classes) == 2 else range(len(classes))
    modalities = list(next(iter(encoded.values())).codes)
    header = ["split", "recording", "clip", "time_s", "label"]
    for direction in probabilities:
        suffixes = [""] if len(classes) == 2 else [f" {classes[c]}" for c in shown]
        header.append(f"{direction} prediction")
        header += [f"{direction} score{suffix}" for suffix in suffixes]
    header += [f"{modality} codes" for modality in modalities]
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        for name, split in splits.items():
            clips = split.clip_names()
            for row in range(len(split)):
                label = int(split.label[row])
                cells: list[Any] = [
                    name,
                    split.store.names[split.windows.recording[row]],
                    clips[row],
                    f"{split.windows.time_s[row]:.6g}",
                    classes[label] if label >= 0 else "",
                ]
                for found in probabilities.values():
                    probability = found[name][row]
                    cells.append(classes[int(probability.argmax())])
                    cells += [f"{probability[c]:.6g}" for c in shown]
                for modality in modalities:
                    codes = encoded[name].codes[modality][row]
                    cells.append(" ".join(map(str, codes.tolist())))
                writer.writerow(cells)


def draw_pictures(
    folder: pathlib.Path,
    split: LabelledWindows,
    classes: tuple[str, ...],
    probabilities: Probabilities,
    predictions: Mapping[str, Predictions],
) -> None:
    """Draws the pictures of the headline split.

    Curves need labels of two classes, confusion matrices any; scores over time are
    drawn for the first few continuous recordings.
    """
    labels = np.unique(split.label[split.known])
    if len(labels) > 1:
        plots.draw_roc(folder / "roc.png", predictions)
        plots.draw_precision_recall(folder / "precision_recall.png", predictions)
    if len(labels):
        plots.draw_confusion(folder / "confusion.png", predictions, classes)
    if not split.continuous:
        return
    for number in np.unique(split.windows.recording)[:_TIMELINES]:
        rows = split.windows.recording == number
        scores = {
            direction: _drawn(found[split.name][rows])
            for direction, found in probabilities.items()
        }
        name = split.store.names[number]
        plots.draw_over_time(
            folder / f"over_time_{name}.png",
            name,
            split.windows.time_s[rows],
            scores,
            split.label[rows],
            classes,
        )


def _drawn(probability: Float[ndarray, "N K"]) -> Float[ndarray, " N"]:
    if probability.shape[1] == 2:
        return probability[:, 1]
    return probability.argmax(axis=1).astype(np.float64)


def print_report(report: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Prints the headline numbers, the references, and where the files are."""
    print(f"checkpoint: step {report['checkpoint']['step']} of {report['run']}")
    for name, split in report["splits"].items():
        seen = f", {split['setting']}" if name != "head" else ""
        print(
            f"{name}: {split['labelled']} labelled windows of {split['windows']}, "
            f"{len(split['recordings'])} recordings of {split['origin']}{seen}"
        )
    rows = [["", "split", *_SHOWN]]
    for direction, scores in report["zero_shot"].items():
        for name, own in scores["splits"].items():
            rows.append([direction, name, *_cells(own)])
    references = report["references"]
    headline = report["headline_split"]
    direction = f"{report['source']}->{report['target']}"
    chance = ["chance", headline, f"{references['chance']:.3f}"]
    majority = references["majority"]
    rows.append(chance + [""] * (len(_SHOWN) - 1))
    rows.append(["majority", headline, *_cells(majority)])
    if references["random_encoders"]:
        scores = references["random_encoders"][direction]
        rows.append([f"random {direction}", headline, *_cells(scores)])
    if references["oracle"]:
        scores = references["oracle"]
        rows.append([f"oracle {report['target']}", headline, *_cells(scores)])
    print_table(rows)
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"written to {folder}")


def _cells(scores: Mapping[str, Any]) -> list[str]:
    """Returns the shown metrics with their intervals: "0.690 [0.60, 0.75]"."""
    cells = []
    for name in _SHOWN:
        value = scores.get(name)
        interval = scores.get("intervals", {}).get(name)
        text = "-" if value is None else f"{value:.3f}"
        cells.append(
            f"{text} [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else text
        )
    return cells
