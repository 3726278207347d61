"""Whether a run's codes are shared: the table by code, agreement, information.

What ``evaluate`` reports as `code_sharing`. The codes are those of the shared level, or
of the ticks where a run has no shared level; `level` says which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.evaluation import code_measures, splits as evaluation_splits
from fmalign_jax.evaluation.classification_metrics import point_metrics
from fmalign_jax.evaluation.code_measures import CodeTable
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.report import Probabilities, score_splits, scored_rows
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.models import shared_codes
from fmalign_jax.run.frozen_encoder import Encodings

Json = dict[str, Any]

SHARED_FROM, PARTLY_FROM = 0.4, 0.1
"""Kappa beyond shifts from which codes are called shared, or partly shared."""

SIZES = (2, 3, 4, 8, 16)
"""Numbers of codes at which the variates of a shared level are looked at."""


def by_code(
    encoded: Mapping[str, Encodings], splits: EvaluationSplits, config: ConfigDict
) -> tuple[Probabilities, dict[str, dict[str, float]]]:
    """Classifies windows by their codes alone, with a table counted on the head split.

    Returns:
      Class probabilities by direction and reported split; and the coverage, the share
      of the codes there that the table has seen.
    """
    head, known = splits.head, splits.head.known
    codes, size = encoded[evaluation_splits.HEAD].compared_codes()
    probabilities, coverage = {}, {}
    for counted in (config.source, config.target):
        table = CodeTable.count(
            codes[counted][known],
            head.label[known],
            size=size,
            classes=len(splits.classes),
        )
        for tried in (config.target, config.source):
            direction = f"{counted}->{tried}"
            found = {n: encoded[n].compared_codes()[0][tried] for n in splits.reported}
            probabilities[direction] = {n: table.predict(c) for n, c in found.items()}
            coverage[direction] = {n: table.coverage(c) for n, c in found.items()}
    return probabilities, coverage


def describe(
    encoded: Mapping[str, Encodings], splits: EvaluationSplits, config: ConfigDict
) -> Json | None:
    """Returns everything that is said of how far codes are shared.

    None for a system without codes. The measures of the headline split stand at the
    top, those of every split under `splits`; `verdict` says in a word, by kappa beyond
    shifts, whether the codes are "shared", "partly shared" or "not shared".

    Args:
      encoded: by split; see `Encodings`.
      splits: the windows, and which of them are reported on.
      config: of the evaluation.
    """
    codes, size = encoded[evaluation_splits.HEAD].compared_codes()
    if not codes:
        return None
    probabilities, coverage = by_code(encoded, splits, config)
    table = {
        direction: score_splits(found, splits, config)
        | {"coverage": coverage[direction][splits.headline]}
        for direction, found in probabilities.items()
    }
    for direction, found in table.items():
        for name, scores in found["splits"].items():
            scores["coverage"] = coverage[direction][name]
    variates = encoded[evaluation_splits.HEAD].variates
    own = {
        name: _measures(split, encoded[name], config)
        for name, split in splits.reported.items()
    }
    return {
        "level": "shared" if variates else "ticks",
        "codes": size,
        "verdict": verdict(
            own[splits.headline]["kappa"]["shift"], own[splits.headline]["shared_nats"]
        ),
        "by_code": table,
        **own[splits.headline],
        "by_size": _by_size(encoded, splits, config) if variates else None,
        "splits": own,
    }


def verdict(kappa: float | None, shared_nats: float | None) -> str | None:
    """Returns whether codes are shared; None where it was not measured.

    Codes that tell nothing of each other beyond shifts are not, whatever few windows
    make of kappa.
    """
    if kappa is None or shared_nats is None:
        return None
    if shared_nats <= 0:
        return "not shared"
    if kappa >= SHARED_FROM:
        return "shared"
    return "partly shared" if kappa >= PARTLY_FROM else "not shared"


def _measures(split: LabelledWindows, encodings: Encodings, config: ConfigDict) -> Json:
    """Returns the measures of one split."""
    every, size = encodings.compared_codes()
    codes = {m: every[m] for m in (config.source, config.target)}
    recording, known = split.windows.recording.astype(np.int64), split.known
    labelled = known.any()

    def information(own: Int[ndarray, "n S"], about: Int[ndarray, " n"]) -> float:
        return code_measures.information_nats(own, about, seed=config.seed)

    return {
        **code_measures.sharing(
            codes,
            size,
            recording,
            least_shift=least_shift_windows(split),
            seed=config.seed,
        ),
        "code_information": {
            m: {
                "recording": information(own, recording),
                "label": information(own[known], split.label[known])
                if labelled
                else None,
            }
            for m, own in codes.items()
        },
        **_mixing({m: _points(encodings, m) for m in codes}),
        "ceiling": code_measures.ceiling(
            codes[config.target][known], split.label[known], size
        )
        if labelled
        else None,
        "agreement_by_recording": {
            split.store.names[number]: code_measures.agreement(
                *(own[recording == number] for own in codes.values())
            )
            for number in np.unique(recording).tolist()
        },
    }


def _points(encodings: Encodings, modality: str) -> Float[ndarray, "N d"]:
    """Returns one vector a window, in the space in which its code is chosen."""
    kind = "shared" if encodings.variates else "codes"
    return encodings.features(modality, kind).mean(axis=1)


def least_shift_windows(split: LabelledWindows) -> int:
    """Returns how many windows apart two of a split share no tick."""
    start, same = split.windows.start, np.diff(split.windows.recording) == 0
    steps = np.diff(start)[same & (np.diff(split.windows.clip) == 0)]
    steps = steps[steps > 0]
    if not len(steps):
        return 1
    return max(1, math.ceil(split.windows.window_ticks / int(np.median(steps))))


def _mixing(points: Mapping[str, Float[ndarray, "N d"]]) -> Json:
    """Returns how far the clouds of both modalities merge, windows as points."""
    windows = len(next(iter(points.values())))
    if windows < 2:
        return dict.fromkeys(("mixing", "mixing_standardised", "mixing_chance"))
    return {
        "mixing": code_measures.mixing(points),
        "mixing_standardised": code_measures.mixing(points, standardise=True),
        "mixing_chance": code_measures.mixing_chance(windows, len(points)),
    }


def _by_size(
    encoded: Mapping[str, Encodings], splits: EvaluationSplits, config: ConfigDict
) -> Json:
    """Returns what other numbers of codes along the same directions would give.

    The codes are placed as the run places its own, on windows of the head split,
    without labels. How many codes two modalities can share is seen here: information
    grows with their number until the codes hold what one modality alone shows, and
    agreement falls.
    """
    head, split = splits.head, splits.by_name[splits.headline]
    pair = (config.source, config.target)
    placed_on = {m: _points(encoded[evaluation_splits.HEAD], m) for m in pair}
    tried = {m: _points(encoded[splits.headline], m) for m in pair}
    settings = encoded[evaluation_splits.HEAD].shared_settings or {}
    teacher = settings.get("teacher")
    most = len(np.unique(placed_on[config.source], axis=0))
    found: Json = {}
    for size in (size for size in SIZES if size <= most):
        placed = shared_codes.place_codes(
            placed_on,
            teacher=teacher if teacher in pair else config.source,
            codes=size,
            student_weight=settings.get("student_weight", 0.0),
            seed=config.seed,
        )
        codes = {m: _code(placed, m, points) for m, points in tried.items()}
        table = CodeTable.count(
            _code(placed, config.source, placed_on[config.source])[head.known],
            head.label[head.known],
            size=size,
            classes=len(splits.classes),
        )
        rows = scored_rows(split, table.predict(codes[config.target]))
        found[str(size)] = {
            "balanced_accuracy": point_metrics(rows)["balanced_accuracy"],
            **code_measures.sharing(
                codes,
                size,
                split.windows.recording,
                least_shift=least_shift_windows(split),
                seed=config.seed,
            ),
        }
    return found


def _code(
    placed: shared_codes.PlacedCodes, modality: str, points: Float[ndarray, "N r"]
) -> Int[ndarray, "N 1"]:
    """Returns the code of each window, one segment long."""
    own = jnp.asarray(points, jnp.float32)[:, None]
    return np.asarray(shared_codes.assign_variates(placed, modality, own)).astype(
        np.int64
    )
