"""Scores without a model: rolling statistics of the current, CUSUM.

Each gives a score a tick from the samples up to it, high where an alarm is due: a calm
current means an abnormal furnace. NumPy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Samples = Float[ndarray, "n R C"]
Score = Callable[[Samples], Float[ndarray, " n"]]

_SMALLEST = 1e-6  # of a deviation, in units of the current: its logarithm is taken


def rolling_sd(samples: Samples, *, ticks: int) -> Float[ndarray, " n"]:
    """Returns minus the log standard deviation of the last ticks, mean of channels.

    Args:
      samples: [n, R, C], the samples of each tick in order.
      ticks: how many ticks back; fewer at the begin.
    """
    x = samples.astype(np.float64) - samples.mean(axis=(0, 1))
    count = _rolling(np.full(len(x), x.shape[1], float), ticks)[:, None]
    mean = _rolling(x.sum(axis=1), ticks) / count
    square = _rolling(np.square(x).sum(axis=1), ticks) / count
    return -_log_mean(np.sqrt(np.maximum(square - np.square(mean), 0)))


def rolling_change(samples: Samples, *, ticks: int) -> Float[ndarray, " n"]:
    """Returns minus the log mean absolute change from sample to sample; see above.

    Unlike the standard deviation it does not see slow changes of the level.
    """
    return -_log_mean(
        _rolling(_changes(samples), ticks) / _rolling_count(samples, ticks)
    )


def cusum(
    samples: Samples, *, slack: float, limit: float, mean: float, deviation: float
) -> Float[ndarray, " n"]:
    """Returns Page's one-sided cumulative sum (1954) of how calm the current is.

    S <- min(limit, max(0, S + (mean - x) / deviation - slack)), x the log mean absolute
    change within a tick.

    Args:
      samples: [n, R, C], the samples of each tick in order.
      slack: k, in deviations: what is forgiven each tick.
      limit: S goes no higher, so that it falls again when the episode is over.
      mean: of x over a reference.
      deviation: of x over it.
    """
    steps = (mean - tick_change(samples)) / deviation - slack
    return np.array(
        list(
            itertools.accumulate(
                steps.tolist(),
                lambda s, step: min(limit, max(0.0, s + step)),
                initial=0.0,
            )
        )[1:]
    )


def tick_change(samples: Samples) -> Float[ndarray, " n"]:
    """Returns the log mean absolute change within each tick, mean of channels."""
    return _log_mean(_changes(samples) / samples.shape[1])


def candidates(
    reference: list[Samples], *, tick_s: float, lengths_s: tuple[float, ...]
) -> dict[str, list[tuple[Mapping[str, Any], Score]]]:
    """Returns by method the settings to choose from, and their scores.

    Args:
      reference: samples of the recordings that a head is fitted on; CUSUM takes mean
        and deviation from them. No label is used.
      tick_s: length of a tick.
      lengths_s: lengths of the rolling statistics.
    """
    changes = np.concatenate([tick_change(samples) for samples in reference])
    scale = {"mean": float(changes.mean()), "deviation": float(changes.std()) or 1.0}

    def bound(function: Callable[..., Any], **options: Any) -> Score:
        return lambda samples: function(samples, **options)

    found: dict[str, list[tuple[Mapping[str, Any], Score]]] = {}
    for function in (rolling_sd, rolling_change):
        found[function.__name__] = [
            (
                {"length_s": length_s},
                bound(function, ticks=max(1, round(length_s / tick_s))),
            )
            for length_s in lengths_s
        ]
    found["cusum"] = [
        (
            {"slack": slack, "limit": limit},
            bound(cusum, slack=slack, limit=limit, **scale),
        )
        for slack in (0.0, 0.25, 0.5)
        for limit in (10.0, 30.0)
    ]
    return found


def _changes(samples: Samples) -> Float[ndarray, "n C"]:
    """Returns the sum of absolute changes to each sample of a tick, by channel."""
    n, r, c = samples.shape
    x = samples.astype(np.float64).reshape(n * r, c)
    changes: ndarray = np.abs(np.diff(x, axis=0, prepend=x[:1]))
    return changes.reshape(n, r, c).sum(axis=1)


def _rolling(values: Float[ndarray, "n *C"], ticks: int) -> Float[ndarray, "n *C"]:
    """Returns the sum of the last so many values, of fewer at the begin."""
    sums = np.cumsum(values, axis=0)
    sums[ticks:] = sums[ticks:] - sums[:-ticks]
    return sums


def _rolling_count(samples: Samples, ticks: int) -> Float[ndarray, "n 1"]:
    ones = np.full((len(samples), 1), float(samples.shape[1]))
    return _rolling(ones, ticks)


def _log_mean(values: Float[ndarray, "n C"]) -> Float[ndarray, " n"]:
    return np.log(np.maximum(values, _SMALLEST)).mean(axis=1)
