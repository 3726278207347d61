"""Localisation: where in a recording does a spell of the abnormal class begin and end?

A logistic head on single ticks of the one modality is applied to those of both. Every
tick of a test recording has the features it has in the window whose centre is nearest;
windows lie as close as those of training for that. Scores are averaged over a few
ticks, and what is on becomes spells, in the labels and in what is said of them alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict
from numpy import ndarray
from scipy.ndimage import uniform_filter1d
from sklearn.metrics import roc_curve

from fmalign_jax.data.windows.index import nearest_windows
from fmalign_jax.evaluation import baselines, events, heads
from fmalign_jax.evaluation.classification_metrics import from_confusion
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows, tick_labels
from fmalign_jax.evaluation.population import over_recordings
from fmalign_jax.evaluation.retrieval import apart
from fmalign_jax.evaluation.splits import HEAD, EvaluationSplits, load_splits
from fmalign_jax.evaluation.transfer import features_of, groups
from fmalign_jax.run.frozen_encoder import EncoderState, Encodings, FrozenEncoder
from fmalign_jax.structs import UNLABELLED
from fmalign_jax.systems.system import make_system

MERGE_GAP_S = 20.0
"""Spells no further apart are one."""
LEAST_S = 20.0
"""Shorter spells, after merging, are none."""
NEAR_S = 10.0
"""An onset that is this near is right."""

_MEAN_TICKS = 5  # over which the score of a head is averaged
_ABNORMAL = 1
_LENGTHS_S = (30.0, 60.0, 120.0)  # of the rolling rules

Json = dict[str, Any]
Said = Sequence[Bool[ndarray, " _"]]
"""By track, which ticks are said to be abnormal."""


@dataclasses.dataclass(frozen=True)
class Track:
    """The ticks of one recording and clip, in order.

    Attributes:
      recording: name of the recording.
      ticks: [n], by number.
      row: [n], window whose centre is nearest to the tick, -1 where none covers it.
      position: [n], place in what is known of that window.
      known: [n], whether the tick is covered and has a label; others are not judged.
      abnormal: [n], by its label.
      begin_s: [n], begin of the tick.
      end_s: [n], end of the tick.
    """

    recording: str
    ticks: Int[ndarray, " n"]
    row: Int[ndarray, " n"]
    position: Int[ndarray, " n"]
    known: Bool[ndarray, " n"]
    abnormal: Bool[ndarray, " n"]
    begin_s: Float[ndarray, " n"]
    end_s: Float[ndarray, " n"]

    def spells(self, on: Bool[ndarray, " n"]) -> events.Spans:
        """Returns the spells of ticks that are on and known."""
        return events.spells(
            on & self.known,
            self.begin_s,
            self.end_s,
            merge_gap_s=MERGE_GAP_S,
            least_s=LEAST_S,
        )


def check(config: ConfigDict, run_config: ConfigDict, splits: EvaluationSplits) -> None:
    """Refuses what has no ticks or no spells.

    Raises:
      ValueError: a system whose features belong to whole windows, or other labels than
        two classes.
    """
    if not config.localisation:
        return
    if not make_system(run_config).slots_are_ticks:
        raise ValueError(
            "localisation needs features of every tick; got a run of "
            f"{run_config.model.name}, whose features belong to the window as a whole; "
            'train it with model.keep="ticks" if it has that key, or leave out '
            "--config.localisation"
        )
    if len(splits.classes) != 2:
        raise ValueError(
            "localisation needs two classes, the second of which comes in spells; got "
            f"{len(splits.classes)}: {', '.join(splits.classes)}; leave out "
            "--config.localisation"
        )


def describe(
    encoder: FrozenEncoder,
    frozen: EncoderState,
    seen: Mapping[str, Encodings],
    splits: EvaluationSplits,
    spec: HeadSpec,
    config: ConfigDict,
    run_config: ConfigDict,
) -> Json | None:
    """Returns how well spells are found, on the headline split.

    Args:
      encoder: of the run, for windows that lie closer.
      frozen: what it encodes with.
      seen: the splits as heads see them.
      splits: their windows.
      spec: for the penalty of the logistic head.
      config: of the evaluation.
      run_config: of the run.

    Returns:
      `directions`: by direction what `population.over_recordings` makes of `measures`;
      `references`: the same of what needs no model; `rules`, their settings as chosen
      on the head split; and `head`, the settings of the head by modality. None if not
      asked for.
    """
    if not config.localisation:
        return None
    dense, encoded = _dense(encoder, frozen, seen, splits, config, run_config)
    split = dense.by_name[dense.headline]
    features = features_of(encoded, dense, config)
    kept_ticks = features[HEAD][config.source].shape[1]
    laid = tracks(split, splits.classes, kept_ticks)
    found: dict[str, dict[str, Any]] = {"directions": {}, "references": {}, "head": {}}
    for fitted in (config.source, config.target):
        head = _head(features[HEAD][fitted], splits, spec, config.seed)
        found["head"][fitted] = dict(head.chosen)
        for tested in (config.target, config.source):
            values = features[dense.headline][tested]
            said = [_said(head, values, track) for track in laid]
            found["directions"][f"{fitted}->{tested}"] = _scored(laid, said, config)
    always = [np.ones(len(track.ticks), bool) for track in laid]
    rules, found["rules"] = _plain(splits.head, split, laid, splits, config, run_config)
    for name, on in {"always_abnormal": always, **rules}.items():
        found["references"][name] = _scored(laid, on, config)
    return found


def tracks(
    split: LabelledWindows, classes: tuple[str, ...], kept_ticks: int
) -> list[Track]:
    """Returns the ticks of every recording and clip that has windows.

    Args:
      split: whose windows.
      classes: of which the second is abnormal.
      kept_ticks: of each window so many, the last, have features.
    """
    ticks, windows = split.windows.ticks, split.windows
    labels = tick_labels(split, classes)
    segment = ticks.segment[windows.start]
    found = []
    for number in np.unique(segment):
        own = np.flatnonzero(ticks.segment == number)
        rows = np.flatnonzero(segment == number)
        start = windows.start[rows] - own[0] + windows.window_ticks - kept_ticks
        row, position = nearest_windows(start, kept_ticks, len(own))
        covered = row >= 0
        found.append(
            Track(
                recording=split.store.names[ticks.recording[own[0]]],
                ticks=own,
                row=np.where(covered, rows[row], -1),
                position=position,
                known=covered & (labels[own] != UNLABELLED),
                abnormal=labels[own] == _ABNORMAL,
                begin_s=ticks.start_s[own],
                end_s=ticks.end_s[own],
            )
        )
    return found


def measures(own: Sequence[Track], said: Said) -> dict[str, float | None]:
    """Returns how well what is said of one recording agrees with its labels.

    Args:
      own: its tracks.
      said: of each.

    Returns:
      Of ticks `balanced_accuracy` and `f1`. Of spells `event_f1@L` for L in
      `events.IOU_LEVELS`, with one-to-one pairs from the highest temporal IoU:
      2 TP / (said + true). Of pairs with an IoU of the least L whose onset is seen,
      `onset_error_s`, the median, and `onset_within_10_s`, the share. `spells`, how
      many there are, and `said`. None where undefined.
    """
    confusion = np.zeros((1, 2, 2), np.int64)
    counts = {"spells": 0, "said": 0}
    hits = dict.fromkeys(events.IOU_LEVELS, 0)
    errors_s: list[float] = []
    for track, on in zip(own, said, strict=True):
        cell = (track.abnormal[track.known] * 1, on[track.known] * 1)
        np.add.at(confusion[0], cell, 1)
        true, found = track.spells(track.abnormal), track.spells(on)
        counts["spells"] += len(true)
        counts["said"] += len(found)
        iou = events.temporal_iou(true, found)
        rows, columns = events.matched(iou, least=min(events.IOU_LEVELS))
        for least in events.IOU_LEVELS:
            hits[least] += int((iou[rows, columns] >= least).sum())
        first_s = track.begin_s[track.known].min(initial=np.inf)
        begun = true[rows, 0] > first_s  # before that, nobody saw it begin
        errors_s += np.abs(true[rows, 0] - found[columns, 0])[begun].tolist()
    of_ticks = {name: value.item() for name, value in from_confusion(confusion).items()}
    both = counts["spells"] + counts["said"]
    return {
        **{
            name: None if np.isnan(of_ticks[name]) else of_ticks[name]
            for name in ("balanced_accuracy", "f1")
        },
        **{f"event_f1@{at}": 2 * n / both if both else None for at, n in hits.items()},
        "onset_error_s": float(np.median(errors_s)) if errors_s else None,
        "onset_within_10_s": (
            float(np.mean(np.array(errors_s) <= NEAR_S)) if errors_s else None
        ),
        **{name: float(count) for name, count in counts.items()},
    }


def smoothed(
    score: Float[ndarray, " n"], known: Bool[ndarray, " n"]
) -> Float[ndarray, " n"]:
    """Returns the mean over the known ticks of the five around each tick."""
    sums, counts = (
        uniform_filter1d(values, _MEAN_TICKS, mode="constant")
        for values in (np.where(known, score, 0.0), known.astype(np.float64))
    )
    return np.asarray(sums / np.maximum(counts, 1 / _MEAN_TICKS))


def _dense(
    encoder: FrozenEncoder,
    frozen: EncoderState,
    seen: Mapping[str, Encodings],
    splits: EvaluationSplits,
    config: ConfigDict,
    run_config: ConfigDict,
) -> tuple[EvaluationSplits, dict[str, Encodings]]:
    """Returns the splits with test windows as close as those of training, encoded."""
    closer = run_config.copy_and_resolve_references()
    data = closer.data
    data.eval_stride_ticks = min(data.stride_ticks, data.eval_stride_ticks)
    dense = load_splits(config, closer).with_head(splits.head)
    split = dense.by_name[dense.headline]
    encodings = encoder(
        frozen,
        split.store,
        split.windows,
        keep_semantic=config.features == "semantic",
    )
    # With the channels of the code vectors that heads see.
    own = dataclasses.replace(encodings, vectors=seen[HEAD].vectors)
    return dense, {HEAD: seen[HEAD], dense.headline: own}


def _head(
    features: Float[ndarray, "N t D"],
    splits: EvaluationSplits,
    spec: HeadSpec,
    seed: int,
) -> heads.Head:
    """Fits a head on the labelled ticks of windows that do not overlap."""
    split = splits.head
    rows = apart(split.windows)
    chosen, values = split.chosen(rows), features[rows]
    place = chosen.windows.rows(np.arange(len(rows)))[:, -values.shape[1] :]
    labels = tick_labels(split, splits.classes)[place].astype(np.int64)
    known = labels != UNLABELLED
    return heads.fit(
        dataclasses.replace(spec, kind="logistic"),
        values[known][:, None],
        labels[known],
        classes=len(splits.classes),
        groups=np.broadcast_to(groups(chosen)[:, None], known.shape)[known],
        seed=seed,
    )


def _said(
    head: heads.Head, features: Float[ndarray, "N t D"], track: Track
) -> Bool[ndarray, " n"]:
    covered = track.row >= 0
    score = np.zeros(len(covered))
    values = features[track.row[covered], track.position[covered]]
    score[covered] = head.predict(values[:, None])[:, _ABNORMAL]
    return smoothed(score, covered) >= 0.5


def _plain(
    head: LabelledWindows,
    split: LabelledWindows,
    laid: Sequence[Track],
    splits: EvaluationSplits,
    config: ConfigDict,
    run_config: ConfigDict,
) -> tuple[dict[str, Said], dict[str, Json]]:
    """Returns what plain rules say of a sensor, and how they were chosen.

    Length and level are those with the largest sum of both classes' recalls on the
    ticks of the head split, whose labels are used; none of the test is.
    """
    stream = config.target
    if len(head.store.streams[stream].value_shape) > 1:
        return {}, {}
    slots = run_config.data.samples_per_tick[stream]
    read = head.windows.read_ticks()
    segment = head.windows.ticks.segment[read]
    pieces = [read[segment == number] for number in np.unique(segment)]
    samples = [head.samples(stream, piece, slots) for piece in pieces]
    label = tick_labels(head, splits.classes)[np.concatenate(pieces)]
    known = label != UNLABELLED
    said: dict[str, Said] = {}
    chosen: dict[str, Json] = {}
    for name, options in baselines.candidates(
        samples, tick_s=run_config.data.tick_s, lengths_s=_LENGTHS_S
    ).items():
        best = -np.inf
        for settings, score in options:
            scores = np.concatenate([score(own) for own in samples])[known]
            false, right, levels = roc_curve(label[known] == _ABNORMAL, scores)
            gain = (right - false)[1:]  # the first level is above all scores
            if gain.max() > best:
                best, level = gain.max(), float(levels[1:][gain.argmax()])
                rule, chosen[name] = score, {**settings, "level": level}
        own_said = []
        for track in laid:
            on, covered = np.zeros(len(track.ticks), bool), track.row >= 0
            values = split.samples(stream, track.ticks[covered], slots)
            on[covered] = rule(values) >= chosen[name]["level"]
            own_said.append(on)
        said[name] = own_said
    return said, chosen


def _scored(laid: Sequence[Track], said: Said, config: ConfigDict) -> Json | None:
    """Returns means over recordings."""
    names = list(dict.fromkeys(track.recording for track in laid))
    values = []
    for name in names:
        own = [n for n, track in enumerate(laid) if track.recording == name]
        values.append(measures([laid[n] for n in own], [said[n] for n in own]))
    return over_recordings(
        names, values, draws=config.bootstrap_draws, seed=config.seed
    )
