"""Means over recordings and training seeds, with the error of both.

A recording moves all seeds together, and a seed all recordings together. So neither
the spread over seeds alone nor that over recordings alone says how far another study,
with other recordings and other seeds, would be from this one.
"""

from __future__ import annotations

import dataclasses
import math

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
    parts = [(float(values.mean(axis=1).var(ddof=1)) / recordings, recordings - 1)]
    if seeds > 1:
        parts.append((float(values.mean(axis=0).var(ddof=1)) / seeds, seeds - 1))
    squared = sum(part for part, _ in parts)
    error = math.sqrt(squared)
    if not error:  # nothing varies
        return Population(mean, 0.0, None, (mean, mean), recordings, seeds)
    freedom = squared**2 / sum(part**2 / degrees for part, degrees in parts)
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Population(
        mean, error, freedom, (mean - reach, mean + reach), recordings, seeds
    )
