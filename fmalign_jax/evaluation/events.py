"""Intervals in which something is on, and how well some of them match others.

All times are seconds on one clock. Pure functions of NumPy arrays.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

Spans = Float[ndarray, "_ 2"]
"""Begin and end of intervals, in order and apart."""

IOU_LEVELS = (0.3, 0.5, 0.7)
"""Temporal IoU from which on an event is found."""

_ROUNDING_S = 1e-6


def spans_of(
    on: Bool[ndarray, " N"],
    begin_s: Float[ndarray, " N"],
    end_s: Float[ndarray, " N"],
    *,
    merge_gap_s: float = 0.0,
) -> Spans:
    """Returns the intervals in which something is on.

    Args:
      on: by tick.
      begin_s: begin of each tick, rising.
      end_s: end of each tick.
      merge_gap_s: intervals no further apart than this are taken for one.
    """
    begin_s, end_s = begin_s[on].astype(np.float64), end_s[on].astype(np.float64)
    apart = begin_s[1:] - end_s[:-1] > merge_gap_s + _ROUNDING_S
    ends = np.append(apart, np.ones(min(1, len(end_s)), bool))
    begins = np.append(np.ones(min(1, len(end_s)), bool), apart)
    return np.stack([begin_s[begins], end_s[ends]], axis=1)


def spells(
    on: Bool[ndarray, " N"],
    begin_s: Float[ndarray, " N"],
    end_s: Float[ndarray, " N"],
    *,
    merge_gap_s: float,
    least_s: float,
) -> Spans:
    """Returns `spans_of` after merging, without those that are shorter than `least_s`.

    The arguments are those of `spans_of`.
    """
    found = spans_of(on, begin_s, end_s, merge_gap_s=merge_gap_s)
    return found[found[:, 1] - found[:, 0] >= least_s - _ROUNDING_S]


def temporal_iou(true: Spans, said: Spans) -> Float[ndarray, "n m"]:
    """Returns of every pair how long both last together, by how long either lasts."""
    both = np.minimum(true[:, None, 1], said[:, 1]) - np.maximum(
        true[:, None, 0], said[:, 0]
    )
    both = np.maximum(both, 0.0)
    lengths = (true[:, 1] - true[:, 0])[:, None] + (said[:, 1] - said[:, 0])
    return np.asarray(both / (lengths - both))


def matched(
    iou: Float[ndarray, "n m"], *, least: float
) -> tuple[Int[ndarray, " k"], Int[ndarray, " k"]]:
    """Pairs rows and columns one to one, greedily from the highest IoU.

    Args:
      iou: as from `temporal_iou`; of equal ones the first row, then the first column.
      least: pairs below are none.

    Returns:
      Row and column of each pair, by falling IoU: those at a higher `least` come first.
    """
    rows, columns = np.nonzero(iou >= least)
    pairs: list[tuple[int, int]] = []
    free = np.ones(iou.shape[0], bool), np.ones(iou.shape[1], bool)
    for place in np.argsort(-iou[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if free[0][row] and free[1][column]:
            free[0][row] = free[1][column] = False
            pairs.append((row, column))
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
