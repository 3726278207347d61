"""Localisation of the glow: does the current say where on the video something glows?

Masks of frames are read here and nowhere else: no model ever sees one. Frames are the
last ones of windows, which in any encoder have seen their window, and the query of a
frame is what the tick of that frame is encoded as: by its own video, or by the current
that was read a lead earlier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray

from fmalign_jax.data import pipeline
from fmalign_jax.data.dataset import Masks
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.evaluation import (
    glow_decoder,
    localisation_metrics as metrics,
    population,
)
from fmalign_jax.evaluation.glow_decoder import FittedDecoder
from fmalign_jax.evaluation.pointing import Looker, Looks
from fmalign_jax.evaluation.transfer import scale_of
from fmalign_jax.run.frozen_encoder import EncoderState, Encodings, FrozenEncoder

VIDEO, CURRENT = "video", "current"
RIGHT, ZEROS = "right query", "zeros"
OTHER_STATE, OTHER_RECORDING = "window of the other state", "another recording"
RANDOM_ENCODERS = 4
_DRAWS = 1000
_START_WINDOWS = 64

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class GlowFrames:
    """One frame of each window, what encoders make of it, and what is to be found.

    Attributes:
      store: the recordings.
      windows: the windows.
      masks: of the glow.
      hidden: frames with a glow that is no brighter than what is around it.
      looks: where the encoder of the video looks.
      query: by modality, one vector a frame.
    """

    store: RecordingStore
    windows: WindowIndex
    masks: Bool[ndarray, "N H W"]
    hidden: Bool[ndarray, " N"]
    looks: Looks
    query: Mapping[str, Float32[ndarray, "N D"]]

    @property
    def glows(self) -> Bool[ndarray, " N"]:
        """Returns which frames have a glow."""
        return np.asarray(self.masks.any(axis=(1, 2)))

    @property
    def recording(self) -> Int[ndarray, " N"]:
        """Returns the number of each frame's recording."""
        return self.windows.recording

    @property
    def touched(self) -> Bool[ndarray, "N h w"]:
        """Returns the cells of the stem's map that the masks touch."""
        return metrics.cells(
            self.masks, self.masks.shape[1] // self.looks.free.shape[1]
        )


def frames_of(
    windows: WindowIndex,
    store: RecordingStore,
    masks: Masks,
    encoded: Encodings,
    kind: str,
    look: Callable[[Mapping[str, Any]], Looks],
) -> GlowFrames:
    """Returns the last frames of windows, with their masks.

    Args:
      windows: whose last ticks are looked at.
      store: their recordings.
      masks: as from `dataset.open_masks`.
      encoded: the windows, encoded.
      kind: of the features that ask, "codes" or "semantic".
      look: where the encoder looks in these windows, by queries.
    """
    query = {
        m: np.asarray(encoded.features(m, kind)[:, -1], np.float32)
        for m in (VIDEO, CURRENT)
    }
    last = windows.start + windows.window_ticks - 1
    frame = windows.ticks.samples[VIDEO][last, -1]
    found, hidden = [], []
    for number in np.unique(windows.recording).tolist():  # windows are in this order
        own = frame[windows.recording == number]
        found.append(masks(store.names[number], own))
        hidden.append(metrics.hidden(store.gather(VIDEO, number, own), found[-1]))
    return GlowFrames(
        store,
        windows,
        np.concatenate(found),
        np.concatenate(hidden),
        look(query),
        query,
    )


def point(
    test: GlowFrames, head: GlowFrames, random: Sequence[Looks], *, seed: int
) -> Json:
    """Returns how often the highest cell lies on the glow, and the AUROC of cells.

    Args:
      test: only frames with a glow count.
      head: tells where a glow mostly is, the row `place alone`.
      random: where encoders that were not trained look on the test frames.
      seed: of the intervals.
    """
    looks, glows = test.looks, test.glows
    touched, recording = test.touched[glows], test.recording[glows]
    prior = head.touched[head.glows].mean(axis=0)
    maps = {
        "label-free": looks.free,
        **{f"asked by the {name}": cells for name, cells in looks.asked.items()},
        "place alone": np.broadcast_to(prior, looks.free.shape),
    }

    def scored(values: Float[ndarray, " n"]) -> Json:
        return over_recordings(values, recording, seed=seed)

    rows = {
        name: {
            "game": scored(metrics.pointing_game(cells[glows], touched)),
            "auroc": scored(metrics.cell_auroc(cells[glows], touched)),
        }
        for name, cells in maps.items()
    }
    if random:
        drawn = [own.free[glows] for own in random]
        rows["random encoders"] = {
            "game": scored(
                np.mean([metrics.pointing_game(own, touched) for own in drawn], axis=0)
            ),
            "auroc": scored(
                np.mean([metrics.cell_auroc(own, touched) for own in drawn], axis=0)
            ),
        }
    rows["chance"] = {
        "game": scored(metrics.pointing_chance(touched)),
        "auroc": {"mean": 0.5, "interval": None},
    }
    return {"frames": int(glows.sum()), "rows": rows}


def random_looks(
    encoder: FrozenEncoder,
    frozen: EncoderState,
    look: Looker,
    head: GlowFrames,
    test: GlowFrames,
) -> list[Looks]:
    """Returns where encoders of the same form look that were not trained."""
    few = head.windows.spread(_START_WINDOWS)
    streams = pipeline.assemble(head.store, few, np.arange(len(few)))["streams"]
    own = {m: streams[m] for m in encoder.system.modalities}
    return [
        look(
            EncoderState(
                encoder.fresh_params(jax.random.key(draw), own, frozen.statistics),
                frozen.model_state,
                frozen.statistics,
            ),
            test.store,
            test.windows,
            {},
        )
        for draw in range(RANDOM_ENCODERS)
    ]


def segment(
    head: GlowFrames, test: GlowFrames, *, steps: int, seeds: int
) -> dict[str, Json]:
    """Returns how well decoders find the glow.

    Args:
      head: what they are fitted to.
      test: what they are judged on.
      steps: of each fit.
      seeds: how many decoders; numbers are means over them.

    Returns:
      `plain`, the metrics of decoders that never had a query; and `directions`, by
      "trained->tested" queries the `thresholds`, `rows` by what asks,
      `query_effect`, right queries less those of the other state, and `gain`, right
      queries less `plain`, each on all frames with a glow and on hidden ones.
    """
    scale = {m: scale_of(query[:, None]) for m, query in head.query.items()}

    def scaled(frames: GlowFrames, modality: str) -> Float32[ndarray, "N D"]:
        mean, deviation = scale[modality]
        return np.asarray((frames.query[modality] - mean) / deviation, np.float32)

    def fitted(query: Float32[ndarray, "N D"]) -> list[FittedDecoder]:
        return [
            glow_decoder.fit(head.looks.stem, query, head.masks, steps=steps, seed=seed)
            for seed in range(seeds)
        ]

    zeros = np.zeros_like(test.query[VIDEO])
    plain = _counts(fitted(np.zeros_like(head.query[VIDEO])), test, zeros)
    found: dict[str, Json] = {}
    for trained in (VIDEO, CURRENT):
        decoders = fitted(scaled(head, trained))
        for tested in (CURRENT, VIDEO):
            asked = scaled(test, tested)
            found[f"{trained}->{tested}"] = _asked(decoders, test, asked, plain)
    return {"plain": describe(plain, test), "directions": found}


def _counts(
    decoders: Sequence[FittedDecoder],
    test: GlowFrames,
    query: Float32[ndarray, "N D"],
) -> Int[ndarray, "S N 4"]:
    masks = (one.masks(test.looks.stem, query) for one in decoders)
    return np.stack([metrics.confusion(test.masks, own) for own in masks])


def _asked(
    decoders: Sequence[FittedDecoder],
    test: GlowFrames,
    query: Float32[ndarray, "N D"],
    plain: Int[ndarray, "S N 4"],
) -> Json:
    asking = queries(query, test.glows, test.recording, seed=0)
    counts = {
        name: _counts(decoders, test, own)
        for name, own in asking.items()
        if own is not None
    }

    def less(wrong: Int[ndarray, "S N 4"] | None) -> dict[str, Json | None]:
        chosen = {"all": test.glows, "hidden": test.hidden}
        return {
            name: None
            if wrong is None
            else query_effect(counts[RIGHT], wrong, frames, test.recording)
            for name, frames in chosen.items()
        }

    return {
        "thresholds": [one.threshold for one in decoders],
        "rows": {name: describe(own, test) for name, own in counts.items()},
        "query_effect": less(counts.get(OTHER_STATE)),
        "gain": less(plain),
    }


def queries(
    query: Float32[ndarray, "N D"],
    glows: Bool[ndarray, " N"],
    recording: Int[ndarray, " N"],
    *,
    seed: int,
) -> dict[str, Float32[ndarray, "N D"] | None]:
    """Returns the right queries and wrong ones; None where there are none.

    A window of the other state is of the same recording where that has one.
    """
    same_state = glows[:, None] == glows
    same_recording = recording[:, None] == recording
    rng = np.random.default_rng(seed)

    def drawn(*choices: Bool[ndarray, "N N"]) -> Float32[ndarray, "N D"] | None:
        rows = []
        for allowed in zip(*choices, strict=True):
            numbers = [own for own in map(np.flatnonzero, allowed) if len(own)]
            if not numbers:
                return None
            rows.append(rng.choice(numbers[0]))
        return query[rows]

    return {
        RIGHT: query,
        ZEROS: np.zeros_like(query),
        OTHER_STATE: drawn(~same_state & same_recording, ~same_state),
        OTHER_RECORDING: drawn(same_state & ~same_recording),
    }


def describe(counts: Int[ndarray, "S N 4"], test: GlowFrames) -> Json:
    """Returns the metrics of a row, means over the decoders; None for undefined."""

    def mean(measure: Callable[[Any], float], chosen: Any = ...) -> float | None:
        value = float(np.mean([measure(own[chosen]) for own in counts]))
        return None if np.isnan(value) else value

    return {
        "iou_glow": mean(metrics.iou, test.glows),
        "f_glow": mean(metrics.f_measure, test.glows),
        "iou_glow_hidden": mean(metrics.iou, test.hidden),
        "miou_fmf": mean(metrics.both_classes_iou),
        "false_mask_share": mean(metrics.false_mask_share),
    }


def query_effect(
    right: Int[ndarray, "S N 4"],
    wrong: Int[ndarray, "S N 4"],
    chosen: Bool[ndarray, " N"],
    recording: Int[ndarray, " N"],
) -> Json | None:
    """Returns the IoU with the right queries less that with others, or with none.

    Means over the decoders, and a 95 % interval by drawing recordings anew; None if no
    frame is chosen.
    """
    if not chosen.any():
        return None
    numbers, own = np.unique(recording[chosen], return_inverse=True)
    by_recording = np.zeros((2, len(right), len(numbers), 4), np.int64)
    for total, counts in zip(by_recording, (right, wrong), strict=True):
        for decoder, found in zip(total, counts[:, chosen], strict=True):
            np.add.at(decoder, own, found)

    def effect(rows: Int[ndarray, " n"]) -> float:
        values = [[metrics.iou(own[rows]) for own in kind] for kind in by_recording]
        return float(np.mean(values[0]) - np.mean(values[1]))

    return {
        "mean": effect(np.arange(len(numbers))),
        "interval": _interval(effect, len(numbers), seed=0),
        "frames": int(chosen.sum()),
    }


def over_recordings(
    values: Float[ndarray, " n"], recording: Int[ndarray, " n"], *, seed: int
) -> Json:
    """Returns the mean over recordings, with a 95 % interval by drawing them anew."""
    numbers = np.unique(recording)
    found = population.over_recordings(
        [str(r) for r in numbers],
        [{"mean": float(values[recording == r].mean())} for r in numbers],
        draws=_DRAWS,
        seed=seed,
    )
    assert found is not None, "there are frames"
    return {"mean": found["mean"], "interval": found["intervals"].get("mean")}


def _interval(
    value: Callable[[Int[ndarray, " n"]], float], number: int, *, seed: int
) -> list[float] | None:
    """Returns the interval of a value of recordings; None for a single one."""
    if number < 2:
        return None
    drawn = np.random.default_rng(seed).integers(number, size=(_DRAWS, number))
    ends: list[float] = np.nanpercentile(
        [value(rows) for rows in drawn], (2.5, 97.5)
    ).tolist()
    return ends
