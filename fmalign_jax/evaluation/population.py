"""Means over recordings and training seeds, with the error of both.

A recording moves all seeds together, and a seed all recordings together. So neither
the spread over seeds alone nor that over recordings alone says how far another study,
with other recordings and other seeds, would be from this one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Population:
    """A mean over R recordings and S seeds.

    Attributes:
      mean: of all values.
      error: standard error, SE^2 = Var_r(mean_s y) / R + Var_s(mean_r y) / S with
        sample variances; the recordings' part alone where there is one seed, and None
        where there is one recording.
      freedom: degrees of freedom of the error (Satterthwaite 1946); None as `error`.
      interval: 95 %, mean -+ t error; None as `error`.
      recordings: R.
      seeds: S.
    """

    mean: float
    error: float | None
    freedom: float | None
    interval: tuple[float, float] | None
    recordings: int
    seeds: int


def over_recordings_and_seeds(values: Float[ndarray, "R S"]) -> Population:
    """Returns the mean of one value a recording and seed, with its error.

    Raises:
      ValueError: no value, or some that are not finite.
    """
    recordings, seeds = values.shape
    if not values.size or not np.isfinite(values).all():
        raise ValueError(
            "a mean over recordings and seeds needs a finite value of each; got "
            f"{recordings} x {seeds}, {int((~np.isfinite(values)).sum())} of them not "
            "finite; leave out recordings that do not define the value"
        )
    mean = float(values.mean())
    if recordings < 2:
        return Population(mean, None, None, None, recordings, seeds)
    error, freedom = _joined([_part(values.mean(axis=1)), *_of_seeds(values)])
    if not error:  # nothing varies
        return Population(mean, 0.0, None, (mean, mean), recordings, seeds)
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Population(
        mean, error, freedom, (mean - reach, mean + reach), recordings, seeds
    )


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two systems differ, over the same recordings and seeds of their own.

    Attributes:
      mean: of the first less the second.
      interval: 95 %, mean -+ t error.
      p: two-sided, of no difference.
    """

    mean: float
    interval: tuple[float, float]
    p: float


def difference(
    first: Float[ndarray, "R S"], second: Float[ndarray, "R s"]
) -> Difference | None:
    """Compares two systems; recordings are paired, seeds are not.

    SE^2 = Var_r(mean_s y - mean_s y') / R + Var_s(mean_r y) / S + Var_s(mean_r y') / S'
    with sample variances and the degrees of freedom of Satterthwaite (1946); a single
    seed adds nothing, and the interval is then too narrow.

    Returns:
      None with fewer than two recordings, or where nothing varies.
    """
    by_recording = first.mean(axis=1) - second.mean(axis=1)
    if len(by_recording) < 2:
        return None
    error, freedom = _joined(
        [_part(by_recording), *_of_seeds(first), *_of_seeds(second)]
    )
    if not error:
        return None
    mean = float(by_recording.mean())
    reach = float(stats.t.ppf(0.975, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, (mean - reach, mean + reach), p)


def holm(p: Sequence[float]) -> list[float]:
    """Returns p values adjusted for as many comparisons (Holm 1979)."""
    order = np.argsort(p)
    scaled = np.array(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]


def over_recordings(
    names: Sequence[str],
    values: Sequence[Mapping[str, float | None]],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any] | None:
    """Returns means over recordings, with intervals by drawing recordings anew.

    Args:
      names: of the recordings.
      values: by recording, the same values; None where it does not define one, and the
        mean is then over the others.
      draws: of recordings; 0 for no intervals.
      seed: of the draws.

    Returns:
      The means by name, None where no recording defines one; 95 % `intervals` by the
      same names, empty of one recording, and None where most draws define no mean; and
      `by_recording`, what was given. None without recordings.
    """
    if not values:
        return None
    table = np.array([list(own.values()) for own in values], np.float64)
    known = np.isfinite(table)
    filled = np.where(known, table, 0.0)

    def means(rows: ndarray) -> ndarray:
        counts = known[rows].sum(axis=-2)
        sums = filled[rows].sum(axis=-2)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    intervals: dict[str, Any] = {}
    if draws and len(table) > 1:
        rng = np.random.default_rng(seed)
        drawn = means(rng.integers(len(table), size=(draws, len(table))))
        for name, column in zip(values[0], drawn.T, strict=True):
            defined = column[np.isfinite(column)]
            few = 2 * len(defined) < draws
            ends = None if few else np.percentile(defined, (2.5, 97.5)).tolist()
            intervals[name] = ends
    found = means(np.arange(len(table))).tolist()
    return {
        **{
            name: None if math.isnan(mean) else mean
            for name, mean in zip(values[0], found, strict=True)
        },
        "intervals": intervals,
        "by_recording": dict(zip(names, values, strict=True)),
    }


def _of_seeds(values: Float[ndarray, "R S"]) -> list[tuple[float, int]]:
    return [_part(values.mean(axis=0))] if values.shape[1] > 1 else []


def _part(values: Float[ndarray, " n"]) -> tuple[float, int]:
    """Returns the squared error of a mean, and its degrees of freedom."""
    return float(values.var(ddof=1)) / len(values), len(values) - 1


def _joined(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Returns the error of a sum of independent parts, and its degrees of freedom."""
    squared = sum(part for part, _ in parts)
    if not squared:
        return 0.0, 0.0
    return math.sqrt(squared), squared**2 / sum(part**2 / own for part, own in parts)
