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
from fmalign_jax.data.files import csv_cell, replacing
from fmalign_jax.evaluation import events, fonts, plots, retrieval
from fmalign_jax.evaluation.classification_metrics import Predictions
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.report import Probabilities, scores_of
from fmalign_jax.objectives.total import NO_LABELS
from fmalign_jax.run.frozen_encoder import Encodings

SHOWN = ("accuracy", "balanced_accuracy", "f1", "auroc", "fdr", "mdr")
CHANCE = "chance"
"""The row of one who guesses each class as often as the others."""
"""The metrics that a table of scores has, in their order."""

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
    codes. With a shared level these are the shared ones, a number a segment, and the
    finer codes of the ticks stand in columns of their own, `<modality> tick codes`.
    """
    shown = [1] if len(classes) == 2 else range(len(classes))
    code_columns = [
        (f"{modality} {name}", kind, modality)
        for kind, name in _code_columns(next(iter(encoded.values()))).items()
        for modality in next(iter(encoded.values())).codes
    ]
    header = ["split", "recording", "clip", "time_s", "label"]
    for direction in probabilities:
        suffixes = [""] if len(classes) == 2 else [f" {classes[c]}" for c in shown]
        header.append(f"{direction} prediction")
        header += [f"{direction} score{suffix}" for suffix in suffixes]
    header += [name for name, _, _ in code_columns]
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(map(csv_cell, header))
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
                for _, kind, modality in code_columns:
                    codes = getattr(encoded[name], kind)[modality][row]
                    cells.append(" ".join(map(str, codes.tolist())))
                writer.writerow(map(csv_cell, cells))


def _code_columns(encodings: Encodings) -> dict[str, str]:
    """Returns which codes are written, by their field in `Encodings`, and as what."""
    if encodings.shared_codes:
        return {"shared_codes": "codes", "codes": "tick codes"}
    return {"codes": "codes"} if encodings.codes else {}


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
    with fonts.readable([*classes, *split.store.names]) as shown:
        names = tuple(shown[name] for name in classes)
        labels = np.unique(split.label[split.known])
        if len(labels) > 1:
            plots.draw_roc(folder / "roc.png", predictions)
            plots.draw_precision_recall(folder / "precision_recall.png", predictions)
        if len(labels):
            plots.draw_confusion(folder / "confusion.png", predictions, names)
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
                shown[name],
                split.windows.time_s[rows],
                scores,
                split.label[rows],
                names,
            )


def _drawn(probability: Float[ndarray, "N K"]) -> Float[ndarray, " N"]:
    if probability.shape[1] == 2:
        return probability[:, 1]
    return probability.argmax(axis=1).astype(np.float64)


def score_rows(report: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Returns name, split and scores of each direction, reference and other model."""
    rows = [
        (direction, split, own)
        for direction, scores in scores_of(report).items()
        for split, own in scores["splits"].items()
    ]
    if report["calibration"] is not None:
        before = report["calibration"]["uncalibrated"]["splits"]
        rows += [("not calibrated", split, own) for split, own in before.items()]
    references, headline = report["references"], report["headline_split"]
    by_chance = dict.fromkeys(("accuracy", "balanced_accuracy"), references["chance"])
    rows += [
        (CHANCE, headline, by_chance),
        ("majority", headline, references["majority"]),
    ]
    if references["random_encoders"]:
        direction = f"{report['source']}->{report['target']}"
        own = references["random_encoders"][direction]
        rows.append((f"random {direction}, {own['draws']} draws", headline, own))
    if references["oracle"]:
        rows.append((f"oracle {report['target']}", headline, references["oracle"]))
    for name, own in report["supervised"].items():
        rows.append((f"supervised {name}, {'+'.join(own['inputs'])}", headline, own))
    return rows


def print_report(report: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Prints the headline numbers, the references, and where the files are."""
    print(f"checkpoint: step {report['checkpoint']['step']} of {report['run']}")
    for name, split in report["splits"].items():
        seen = f", {split['setting']}" if name != "head" else ""
        print(
            f"{name}: {split['labelled']} labelled windows of {split['windows']}, "
            f"{len(split['recordings'])} recordings of {split['origin']}{seen}"
        )
    level = report["labels"]
    title = "" if level == NO_LABELS else f"not zero-shot, labels {level}"
    rows = [[title, "split", *SHOWN]]
    rows += [[what, split, *_cells(own)] for what, split, own in score_rows(report)]
    print_table(rows)
    if report["code_sharing"] is not None:
        print_table(code_rows(report))
    if report["channels"] is not None:
        print_table(channel_rows(report["channels"]))
    if report["few_shot"] is not None:
        print_table(few_shot_rows(report["few_shot"]))
    if report["retrieval"] is not None:
        print_table(retrieval_rows(report["retrieval"]))
    if report["localisation"] is not None:
        print_table(localisation_rows(report))
    if report["open_set"] is not None:
        print_table(open_set_rows(report["open_set"]))
    if report["lag_weights"] is not None:
        lags = report["lag_weights"]
        print(
            f"leads read: {lags['mean_s']:.0f} s on average, standard deviation "
            f"{lags['deviation_s']:.0f} s, of {lags['lead_s'][-1]:g} to "
            f"{lags['lead_s'][0]:g} s"
        )
    if report["calibration"] is not None and report["calibration"]["gain"]:
        print(_gain_sentence(report["calibration"]["gain"]))
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"written to {folder}")


def _gain_sentence(gain: Mapping[str, Any]) -> str:
    """Returns what a calibration gained, in a sentence."""
    found = f"calibrated by its own source, {gain['balanced_accuracy']:+.3f} balanced "
    found += f"accuracy, mean of {gain['recordings']} recordings"
    if gain["interval"] is None:
        return found
    low, high = gain["interval"]
    return f"{found}, 95 % interval {low:+.3f} to {high:+.3f}"


def code_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Returns what is printed of how far the codes are shared, a row a figure."""
    found = report["code_sharing"]
    source, target = report["source"], report["target"]
    direction = f"{source}->{target}"
    table = found["by_code"][direction]
    kappa, pair = found["kappa"], (source, target)
    level = {"shared": "shared level", "ticks": "codes of ticks"}[found["level"]]

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def both(values: Mapping[str, float]) -> str:
        return ", ".join(f"{m} {values[m]:.3g}" for m in pair)

    chances = [number(found[f"chance_{name}"]) for name in ("marginals", "shift")]
    rows = {
        f"codes, {level}": f"{found['verdict'] or 'not measured'}; "
        f"{found['codes']} codes, {report['headline_split']} split",
        f"table by code {direction}": _cells(table)[SHOWN.index("balanced_accuracy")],
        "coverage": number(table["coverage"]),
        "agreement": f"{number(found['agreement'])} (chance: marginals {chances[0]}, "
        f"shifts {chances[1]})",
        "kappa": f"{number(kappa['shift'])} beyond shifts, "
        f"{number(kappa['marginals'])} beyond marginals",
        "equal_num": f"{found['equal_num']} windows, equal_num / B "
        f"{number(found['equal_share'])}",
        "shared information, nats": number(found["shared_nats"]),
        "perplexity": both(found["perplexity"]),
        "ceiling of agreement": number(found["ceiling"]),
        "mixing": f"{number(found['mixing'])} "
        f"(mixed: {number(found['mixing_chance'])})",
    }
    return [list(row) for row in rows.items()]


def channel_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Returns what is printed of a choice of channels: a row a rule."""
    directions = list(next(iter(found["rows"].values())))
    shown = SHOWN.index("balanced_accuracy")
    header = f"{found['keep']} of {found['channels']} channels"
    return [[header, *directions]] + [
        [kind, *(_cells(row[direction])[shown] for direction in directions)]
        for kind, row in found["rows"].items()
    ]


def few_shot_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Returns what is printed of the few-shot curve: a row a head and direction."""

    def cell(own: Mapping[str, Any]) -> str:
        value, deviation = own["balanced_accuracy"], own["deviation"]
        if value is None:
            return "-"
        return f"{value:.3f}" + ("" if deviation is None else f" ± {deviation:.2f}")

    header = ["labelled windows a class", *map(str, found["labelled"])]
    return [header] + [
        [f"{direction}, {name}", *map(cell, curve)]
        for name, curves in found["heads"].items()
        for direction, curve in curves.items()
    ]


def retrieval_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Returns what is printed of the retrieval: a row a direction, and references."""
    shown = [f"recall@{k}" for k in retrieval.AT] + ["median_rank", "normalised_rank"]
    rows = [
        [f"{direction}, by {kind}", own]
        for kind, directions in found["features"].items()
        for direction, own in directions.items()
    ]
    rows += [[f"by {name}", own] for name, own in found["references"].items()]
    header = f"retrieval, {found['windows']:.0f} windows a recording"
    return [[header, *shown]] + [
        [name, *("-" if own is None else f"{own[key]:.3g}" for key in shown)]
        for name, own in rows
    ]


def localisation_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Returns what is printed of the localisation: a row a direction or rule."""
    found, target = report["localisation"], report["target"]
    shown = ["balanced_accuracy", "f1", *(f"event_f1@{at}" for at in events.IOU_LEVELS)]
    shown += ["onset_error_s", "onset_within_10_s"]
    rows = dict(found["directions"])
    # A head on the target's own labels, of the same frozen features.
    rows[f"{target}->{target}, tick oracle"] = rows.pop(f"{target}->{target}")
    rows |= {name.replace("_", " "): own for name, own in found["references"].items()}
    return [["localisation of spells", *shown]] + [
        [name, *("-" if own[key] is None else f"{own[key]:.3f}" for key in shown)]
        for name, own in rows.items()
    ]


def open_set_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Returns what is printed of the open set: a row a direction."""
    shown = ("auroc", "known_accuracy", "unknown_rejected", "harmonic_mean")
    return [[f"{len(found['known'])} known classes", *shown]] + [
        [direction, *("-" if own[key] is None else f"{own[key]:.3f}" for key in shown)]
        for direction, own in found["directions"].items()
    ]


def _cells(scores: Mapping[str, Any]) -> list[str]:
    """Returns the shown metrics: "0.690 [0.60, 0.75]", or "0.51 ± 0.15" over draws."""
    cells = []
    for name in SHOWN:
        value = scores.get(name)
        interval = scores.get("intervals", {}).get(name)
        deviation = scores.get("deviations", {}).get(name)
        text = "-" if value is None else f"{value:.3f}"
        if interval:
            text += f" [{interval[0]:.2f}, {interval[1]:.2f}]"
        elif deviation is not None:
            text += f" ± {deviation:.2f}"
        cells.append(text)
    return cells
