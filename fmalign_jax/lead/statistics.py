"""From a curve over leads to an estimate, an interval, and whether there is a lead.

The estimate is the vertex of a parabola through the points around the highest one. The
interval is a bootstrap in two stages, recordings and then stretches of time within each
(Davison and Hinkley 1997, 3.8), so that one recording is enough for an interval. The
null distribution is made of the same recordings in wrong pairings: the leading modality
of each is taken from another recording or from another time, turned around the end
(circular shift), so that everything but the pairing stays as it was. How far a curve
rises above its own median is compared with how far those curves rise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.stats import gumbel_r, norm, t

from fmalign_jax.lead.layout import Layout

LEVEL = (2.5, 97.5)
PEAK_SHARE = 6
"""Of a window, for the parabola on either side of the highest point."""
_ATTEMPTS = 20  # draws of other places before a row is given up


def peaks(
    curves: Float[ndarray, "B L"], lead_s: Float[ndarray, " L"], *, half_width: int
) -> Float[ndarray, " B"]:
    """Returns where each curve is highest, between the leads by a parabola.

    Args:
      curves: NaN where there is no value.
      lead_s: evenly spaced.
      half_width: points on either side of the highest that the parabola is fitted to;
        0 for the highest point itself.
    """
    curves = np.where(np.isnan(curves), -np.inf, curves)
    best = curves.argmax(axis=1)
    if half_width < 1 or len(lead_s) < 2 * half_width + 1:
        return lead_s[best]
    middle = np.clip(best, half_width, len(lead_s) - 1 - half_width)
    offset = np.arange(-half_width, half_width + 1)
    near = np.take_along_axis(curves, middle[:, None] + offset, axis=1)
    design = np.stack([offset**2, offset, np.ones_like(offset)], axis=1)
    finite = np.isfinite(near).all(axis=1)
    bend, slope, _ = np.linalg.pinv(design) @ np.where(finite[:, None], near, 0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = -slope / (2 * bend)
    good = finite & (bend < 0) & (np.abs(vertex) <= half_width)
    step_s = lead_s[1] - lead_s[0]
    return np.where(
        good, lead_s[middle] + np.where(good, vertex, 0) * step_s, lead_s[best]
    )


def rise(curves: Float[ndarray, "B L"]) -> Float[ndarray, " B"]:
    """Returns how far each curve rises above its own median."""
    return np.nanmax(curves, axis=1) - np.nanmedian(curves, axis=1)


def bootstrap_weights(
    recording: Int[ndarray, " U"], *, draws: int, seed: int
) -> Float[ndarray, "B U"]:
    """Draws recordings with replacement, and within each its units.

    Args:
      recording: of each unit.
      draws: B.
      seed: of the draws.

    Returns:
      How often each unit was drawn.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(recording == number) for number in np.unique(recording)]
    weights = np.zeros((draws, len(recording)))
    for row in weights:
        for i in rng.integers(len(members), size=len(members)):
            drawn = rng.choice(members[i], size=len(members[i]))
            np.add.at(row, drawn, 1)
    return weights


def interval(
    estimates: Float[ndarray, " B"], estimate: float, *, units: int
) -> list[float]:
    """Returns the middle 95 % of bootstrapped estimates, widened for few units.

    Resampling n values understates their spread by sqrt((n - 1) / n) and takes the
    normal distribution for Student's (Hesterberg 2015, 3.3): matters below 20.

    Args:
      estimates: of the draws.
      estimate: of all values, around which it is widened.
      units: n, how many values were resampled.
    """
    count = max(units, 2)
    factor = t.ppf(LEVEL[1] / 100, count - 1) / norm.ppf(LEVEL[1] / 100)
    factor *= np.sqrt(count / (count - 1))
    ends = np.percentile(estimates, LEVEL)
    return [float(estimate + factor * (end - estimate)) for end in ends]


class Rearrangement(NamedTuple):
    """Where the leading modality of each row is taken from; see `rearranged`."""

    source: Int[ndarray, " S"]
    position: Int[ndarray, "S n"]
    known: Bool[ndarray, "S n"]


def wrong_pairings(
    layout: Layout, *, draws: int, guard_ticks: int, seed: int
) -> Iterator[Rearrangement]:
    """Yields pairings without any true lead; none if there is no room.

    Each row takes the leading modality of a random row of about its length, turned by a
    random number of ticks; its own is turned so far that no lead of the range meets
    itself again.

    Args:
      layout: of the rows.
      draws: how many to yield.
      guard_ticks: kept beyond the range, for what a window sees.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    begin, length = _leading_extents(layout)
    reach = int(layout.leads[-1] - layout.leads[0]) + guard_ticks
    room = length - 2 * reach
    rows = len(length)
    if rows == 1 and room[0] < 1:
        return
    position = np.arange(layout.ticks)
    alike = _alike(length, alone=room >= 1)
    for _ in range(draws):
        source = _shuffled(rng, alike, fixed=room >= 1)
        shift = rng.integers(0, length[source])
        own = source == np.arange(rows)
        shift[own] = reach + rng.integers(0, np.maximum(room[own], 1))
        inside = (position - begin[:, None] >= 0) & (
            position - begin[:, None] < length[:, None]
        )
        turned = (position - begin[:, None] - shift[:, None]) % length[source][:, None]
        yield Rearrangement(source, begin[source][:, None] + turned, inside)


def _leading_extents(layout: Layout) -> tuple[ndarray, ndarray]:
    """Returns first position and length of each row's leading modality."""
    first, last = [], []
    for clip, at in zip(layout.clips, layout.leading_at.tolist(), strict=True):
        known = np.flatnonzero(clip.leading.known) + at
        known = known[(known >= 0) & (known < layout.ticks)]
        first.append(known[0])
        last.append(known[-1])
    begin = np.array(first)
    return begin, np.array(last) - begin + 1


def _alike(length: Int[ndarray, " S"], *, alone: Bool[ndarray, " S"]) -> list[ndarray]:
    """Groups rows of which none is shorter than half of another, as far as it goes.

    Who may not be alone joins the next, of whatever length. A short row has nothing
    slow left. Repeated along a long one, it would make wrong pairings rise less than
    the right one, whose slow changes meet by chance.

    Args:
      length: of each row.
      alone: whether a row may be in a group of its own.

    Returns:
      The rows of each group, long ones first.
    """
    groups: list[list[int]] = []
    for row in np.argsort(-length, kind="stable").tolist():
        longest = length[groups[-1][0]] if groups else 0
        lonely = bool(groups) and len(groups[-1]) == 1 and not alone[groups[-1][0]]
        if groups and (2 * length[row] >= longest or lonely):
            groups[-1].append(row)
        else:
            groups.append([row])
    if len(groups) > 1 and len(groups[-1]) == 1 and not alone[groups[-1][0]]:
        groups[-2:] = [groups[-2] + groups[-1]]
    return [np.sort(group) for group in groups]


def _shuffled(
    rng: np.random.Generator,
    groups: Sequence[ndarray],
    *,
    fixed: Bool[ndarray, " S"],
) -> Int[ndarray, " S"]:
    """Permutes rows within groups; only those of `fixed` may stay in place."""
    rows = np.arange(len(fixed))
    drawn = rows.copy()
    for group in groups:
        for _ in range(_ATTEMPTS):
            drawn[group] = rng.permutation(group)
            if (fixed | (drawn != rows))[group].all():
                break
        else:
            drawn[group] = np.roll(group, int(rng.integers(1, len(group))))
    return drawn


def distinct_pairings(layout: Layout, *, guard_ticks: int) -> Float[ndarray, " S"]:
    """Returns by row how many wrong pairings are possible that have nothing in common.

    Two of them that are turned by less than the range read partly the same leads.

    Args:
      layout: of the rows.
      guard_ticks: as for `wrong_pairings`.
    """
    _, length = _leading_extents(layout)
    reach = int(layout.leads[-1] - layout.leads[0]) + guard_ticks
    room = length - 2 * reach
    others = np.zeros_like(length)
    for group in _alike(length, alone=room >= 1):
        others[group] = length[group].sum() - length[group]
    return (np.maximum(room, 0) + others) / reach


def chance(
    found: float, wrong: Float[ndarray, " n"], *, distinct: float
) -> float | None:
    """Returns how likely wrong pairings rise as far; None without two of them.

    The rise of a curve is a largest value, so its distribution is that of Gumbel; the
    fit by moments reaches beyond the number of draws. But a mean and a deviation of a
    few independent values are themselves uncertain: the answer is never below what
    Student's t says of one more value after so many.

    Args:
      found: how far the curve of the right pairing rises.
      wrong: the same of wrong ones.
      distinct: how many of them may count as independent.
    """
    wrong = wrong[np.isfinite(wrong)]
    if len(wrong) < 2 or not np.isfinite(found):
        return None
    mean, deviation = wrong.mean(), max(wrong.std(), np.finfo(float).tiny)
    scale = deviation * np.sqrt(6) / np.pi
    gumbel = gumbel_r.sf(found, mean - np.euler_gamma * scale, scale)
    count = max(distinct, 2.0)
    # Of `count` values: their deviation with count - 1 below, and that of one more.
    uncertain = deviation * np.sqrt(count / (count - 1) * (1 + 1 / count))
    student = t.sf((found - mean) / uncertain, count - 1)
    return float(max(student, gumbel))
