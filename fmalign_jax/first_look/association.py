"""How two streams go together at every lead, without a model.

Three ways to look, the indicators of the search for the lead (`fmalign_jax.lead`):
`motion` and `plain` as they are there, and `places`, in which the video is what stands
out in it (`places.py`). Each has a curve along the directions that correlate best, a
chance by wrong pairings, a floor (the highest value of wrong pairings between
recordings) and a ceiling (how well the halves of each stream go together).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fmalign_jax.config import lead_config
from fmalign_jax.first_look.ticks import Looked, Plan
from fmalign_jax.lead import curves, indicators, layout as lead_layout, statistics
from fmalign_jax.lead.curves import ASSOCIATION, CANONICAL, LeadSums, Rows
from fmalign_jax.lead.indicators import MOTION
from fmalign_jax.lead.layout import Layout
from fmalign_jax.lead.search import FEW_UNITS, FOUND, NOT_FOUND, TOO_SHORT, Reading
from fmalign_jax.lead.tick_features import Clip, TickFeatures, centred_mean
from fmalign_jax.progress import Bar

PLACES, PLAIN = "places", "plain"
VIEWS = (PLACES, MOTION, PLAIN)
"""The ways to look."""

SIGNIFICANCE = lead_config().significance
_DIMENSIONS = {PLACES: 2, MOTION: 3, PLAIN: 3}  # directions kept of each stream
_CURVE, _EVIDENCE = "curve", "evidence"
_KINDS = {_CURVE: CANONICAL, _EVIDENCE: ASSOCIATION}
_BOOTSTRAP, _WRONG = 500, 60
_RESPONSE_WINDOWS = 0.5  # what stands out grows for a minute: docs/check.md
_MOST_UNITS = 4000  # of the sums by lead and unit, which are in memory


@dataclasses.dataclass(frozen=True)
class View:
    """What one way to look finds.

    Attributes:
      name: such as "places".
      curve: [L], correlation along the best directions; NaN without pairs.
      wrong: [n, L], the same of wrong pairings.
      chance: how likely the association of wrong pairings rises as far; None where
        there are none.
      estimate_s: where the curve is highest.
      interval_s: 95 %.
      at_edge: whether the highest point is the first or last lead.
      floor: the highest value of wrong pairings between recordings, on average; None
        of one recording.
      ceiling: the most that noise within the streams leaves; None where it is unknown.
    """

    name: str
    curve: Float[ndarray, " L"]
    wrong: Float[ndarray, "n L"]
    chance: float | None
    estimate_s: float
    interval_s: tuple[float, float]
    at_edge: bool
    floor: float | None
    ceiling: float | None

    @property
    def peak(self) -> float:
        """Returns the highest value of the curve."""
        return float(np.nanmax(self.curve))


@dataclasses.dataclass(frozen=True)
class Alone:
    """What the view that counts says of one recording.

    Attributes:
      recording: its name.
      estimate_s: where its curve is highest.
      interval_s: 95 %.
      chance: by wrong pairings; None where there are none.
    """

    recording: str
    estimate_s: float
    interval_s: tuple[float, float]
    chance: float | None


@dataclasses.dataclass(frozen=True)
class Shown:
    """Both streams of one clip along the best directions, tick by tick.

    Attributes:
      recording: its name.
      time_s: [n], of the ticks of the video, on the recording's clock.
      reference: [n], of the video; NaN where it is not known.
      leading: [n], of the sensor as much earlier as the lead says.
    """

    recording: str
    time_s: Float[ndarray, " n"]
    reference: Float[ndarray, " n"]
    leading: Float[ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Association:
    """What two streams have in common.

    Attributes:
      lead_s: [L], the leads; above 0 the sensor is ahead.
      views: by name.
      best: the view that counts.
      chance: of all views together: the smallest, times their number.
      verdict: `search.FOUND`, `NOT_FOUND` or `TOO_SHORT`.
      stretches: of time with any pair.
      stretch_s: length of one.
      alone: by recording, those with any pair.
      halves: estimate and interval of the first and of the second half of all
        recordings, by the best view; empty unless a lead was found.
      shown: the longest clip by the best view.
    """

    lead_s: Float[ndarray, " L"]
    views: Mapping[str, View]
    best: View
    chance: float | None
    verdict: str
    stretches: int
    stretch_s: float
    alone: tuple[Alone, ...]
    halves: tuple[tuple[float, tuple[float, float]], ...]
    shown: Shown


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Sums of a view and the curves of its wrong pairings.

    Attributes:
      rows: the values.
      own: by kind.
      wrong: by kind, the curves of all recordings.
      wrong_alone: of the evidence, the curves of each.
      between: the curves of what wrong pairings pair between recordings.
    """

    rows: Rows
    own: Mapping[str, LeadSums]
    wrong: Mapping[str, Sequence[ndarray]]
    wrong_alone: Sequence[Float[ndarray, "R L"]]
    between: Sequence[Float[ndarray, " L"]]


def associate(
    looked: Looked, plan: Plan, *, seed: int, progress: bool = True
) -> Association:
    """Compares the streams at every lead of the plan.

    Args:
      looked: the ticks.
      plan: how they were looked at.
      seed: of wrong pairings and bootstrap.
      progress: whether to show a progress bar.

    Raises:
      ValueError: no clip is longer than the least lead.
    """
    layout = _layout(looked.clips, plan)
    pairings = list(
        statistics.wrong_pairings(
            layout, draws=_WRONG, guard_ticks=plan.window_ticks, seed=seed
        )
    )
    distinct = statistics.distinct_pairings(layout, guard_ticks=plan.window_ticks)
    sums = {
        name: _sums(rows, layout, pairings)
        for name, rows in Bar(
            _rows(looked, layout, plan),
            "comparing streams",
            total=len(VIEWS),
            shown=progress,
        )
    }
    reading = {
        name: Reading(
            half_width=max(1, round(plan.window_ticks / statistics.PEAK_SHARE)),
            response_s=plan.tick_s
            if name == MOTION
            else _RESPONSE_WINDOWS * plan.smooth_ticks * plan.tick_s,
            draws=_BOOTSTRAP,
            seed=seed,
            distinct=float(distinct.sum()),
        )
        for name in VIEWS
    }
    found = {
        name: _view(name, own, reading[name], layout, _ceiling(name, looked, plan))
        for name, own in sums.items()
    }
    views = {name: view for name, view in found.items() if view is not None}
    if not views:
        raise ValueError(
            "streams are compared where both are known; got no tick of one at any lead "
            f"of {plan.least_s:g} to {plan.most_s:g} s from one of the other; correct "
            "--least_lead_s and --most_lead_s, or the clocks"
        )
    best = _best(views, slow=plan.slow)
    least = min(
        (v.chance for v in views.values() if v.chance is not None), default=None
    )
    chance = None if least is None else min(1.0, len(views) * least)
    stretches = int((sums[best.name].own[_CURVE].pairs.max(axis=0) > 0).sum())
    verdict = NOT_FOUND
    if chance is None or stretches < FEW_UNITS:
        verdict = TOO_SHORT
    elif chance < SIGNIFICANCE:
        verdict = FOUND
    own = sums[best.name]
    alone = _alone(own, reading[best.name], layout, distinct)
    return Association(
        lead_s=layout.lead_s,
        views=views,
        best=best,
        chance=chance,
        verdict=verdict,
        stretches=stretches,
        stretch_s=layout.unit_ticks * plan.tick_s,
        alone=tuple(alone),
        halves=tuple(_halves(own, reading[best.name], layout, best, plan))
        if verdict == FOUND
        else (),
        shown=_shown(own, best.estimate_s, layout, plan),
    )


def _best(views: Mapping[str, View], *, slow: bool) -> View:
    """Returns the view that counts: of those that find a lead, the first.

    In a movement the level of a sensor and the look of a picture need not be in phase,
    but what moves moves in both; in a slow process, what stands out stays. Where none
    finds a lead, the view of least chance.
    """
    order = (PLACES, MOTION, PLAIN) if slow else (MOTION, PLACES, PLAIN)
    sure = [
        views[name]
        for name in order
        if name in views and len(views) * _chance(views[name]) < SIGNIFICANCE
    ]
    return sure[0] if sure else min(views.values(), key=_chance)


def _chance(view: View) -> float:
    """Returns the chance of a view, infinite where it is not known."""
    return math.inf if view.chance is None else view.chance


def _shown(sums: _Sums, lead_s: float, layout: Layout, plan: Plan) -> Shown:
    """Returns both streams of the clip with the most ticks, the lead apart."""
    rows, directions = sums.rows, sums.own[_CURVE].directions
    known = np.asarray(rows.reference_known)
    row = int(known.sum(axis=1).argmax())
    x, y = (np.asarray(v[_CURVE][row]) for v in (rows.reference, rows.leading))
    assert directions is not None  # of the canonical kind
    left, _, right = np.linalg.svd(directions.reshape(x.shape[1], y.shape[1]))
    position = np.flatnonzero(known[row])
    lead = layout.leads[np.abs(layout.lead_s - lead_s).argmin()]
    partner = np.clip(position - lead, 0, layout.ticks - 1)
    there = np.asarray(rows.leading_known)[row, partner] & (partner == position - lead)
    clip = layout.clips[row]
    first_s = clip.reference.start_s + plan.tick_s / 2
    return Shown(
        clip.recording,
        first_s + (position - layout.reference_at[row]) * plan.tick_s,
        x[position] @ left[:, 0],
        np.where(there, y[partner] @ right[0], np.nan),
    )


def _layout(clips: Sequence[Clip], plan: Plan) -> Layout:
    """Lays clips in rows, in stretches so long that their sums fit into memory."""
    return lead_layout.layout_that_fits(
        clips,
        lambda layout: len(layout.unit_recording()) <= _MOST_UNITS,
        tick_s=plan.tick_s,
        least_s=plan.least_s,
        most_s=plan.most_s,
        unit_ticks=lead_layout.UNIT_WINDOWS * plan.window_ticks,
    )


def _rows(looked: Looked, layout: Layout, plan: Plan) -> Iterator[tuple[str, Rows]]:
    """Yields by view the values that its kinds compare, in rows."""
    standing = dict(zip(map(id, looked.clips), looked.places, strict=True))
    for name in VIEWS:
        laid, indicator = layout, name
        if name == PLACES:  # as `plain`, of other values
            clips = [_seen_as(clip, standing[id(clip)]) for clip in layout.clips]
            laid, indicator = dataclasses.replace(layout, clips=tuple(clips)), PLAIN
        rows = indicators.make_rows(
            laid,
            [indicator],
            window_ticks=plan.smooth_ticks,
            dimensions=_DIMENSIONS[name],
        )
        x, y = rows.reference[indicator], rows.leading[indicator]
        yield (
            name,
            Rows(
                dict.fromkeys(_KINDS, x),
                dict.fromkeys(_KINDS, y),
                rows.reference_known,
                rows.leading_known,
            ),
        )


def _seen_as(clip: Clip, plain: ndarray) -> Clip:
    """Returns a clip whose reference has other plain features."""
    return dataclasses.replace(
        clip, reference=dataclasses.replace(clip.reference, plain=plain)
    )


def _sums(
    rows: Rows, layout: Layout, pairings: Sequence[statistics.Rearrangement]
) -> _Sums:
    def sums_of(own: Rows) -> dict[str, LeadSums]:
        return curves.lead_sums(own, _KINDS, layout.leads, unit_ticks=layout.unit_ticks)

    units = layout.unit_recording()
    members = [units == number for number in range(len(layout.names))]
    wrong: dict[str, list[ndarray]] = {kind: [] for kind in _KINDS}
    alone, between = [], []
    for pairing in pairings:
        found = sums_of(curves.rearranged(rows, *pairing))
        for kind, own in found.items():
            wrong[kind].append(own.curve())
        evidence = found[_EVIDENCE]
        alone.append(np.array([evidence.chosen(own).curve() for own in members]))
        other = layout.recording[pairing.source] != layout.recording
        if 2 * other.sum() >= len(other):
            mixed = np.repeat(other, len(units) // len(other))
            between.append(found[_CURVE].chosen(mixed).curve())
    return _Sums(rows, sums_of(rows), wrong, alone, between)


def _view(
    name: str, sums: _Sums, reading: Reading, layout: Layout, ceiling: float | None
) -> View | None:
    """Returns what a view finds; None without any pair."""
    units = layout.unit_recording()
    found = reading.describe(sums.own[_CURVE], sums.wrong[_CURVE], layout.lead_s, units)
    if found is None:
        return None
    evidence = dataclasses.replace(reading, draws=1).describe(
        sums.own[_EVIDENCE], sums.wrong[_EVIDENCE], layout.lead_s, units
    )
    wrong = np.array(sums.wrong[_CURVE]).reshape(-1, len(layout.lead_s))
    low, high = found["interval_s"]
    return View(
        name=name,
        curve=sums.own[_CURVE].curve(),
        wrong=wrong,
        chance=None if evidence is None else evidence["chance"],
        estimate_s=found["estimate_s"],
        interval_s=(low, high),
        at_edge=found["at_edge"],
        floor=float(np.nanmax(sums.between, axis=1).mean()) if sums.between else None,
        ceiling=ceiling,
    )


def _alone(
    sums: _Sums, reading: Reading, layout: Layout, distinct: Float[ndarray, " S"]
) -> Iterator[Alone]:
    units = layout.unit_recording()
    for number, name in enumerate(layout.names):
        own = units == number
        found = reading.describe(
            sums.own[_CURVE].chosen(own), [], layout.lead_s, units[own]
        )
        if found is None:
            continue
        possible = float(distinct[layout.recording == number].sum())
        evidence = dataclasses.replace(reading, draws=1, distinct=possible).describe(
            sums.own[_EVIDENCE].chosen(own),
            [wrong[number] for wrong in sums.wrong_alone],
            layout.lead_s,
            units[own],
        )
        low, high = found["interval_s"]
        yield Alone(
            name,
            found["estimate_s"],
            (low, high),
            None if evidence is None else evidence["chance"],
        )


def _halves(
    sums: _Sums, reading: Reading, layout: Layout, best: View, plan: Plan
) -> Iterator[tuple[float, tuple[float, float]]]:
    """Yields estimate and interval of the first and the second half of the rows.

    Within a window of the best lead. Nothing unless both halves of every row have
    pairs.
    """
    near = np.abs(layout.lead_s - best.estimate_s) <= plan.window_s
    whole, units = sums.own[_CURVE], layout.unit_recording()
    curve = dataclasses.replace(whole, sums=whole.sums[near], pairs=whole.pairs[near])
    filled = curve.pairs.max(axis=0) > 0
    row = np.repeat(
        np.arange(len(layout.recording)), len(units) // len(layout.recording)
    )
    first = np.zeros(len(units), bool)
    for number in range(len(layout.recording)):
        own = np.flatnonzero(filled & (row == number))
        if len(own) < 2:
            return
        first[own[: len(own) // 2]] = True
    for half in (first, filled & ~first):
        found = dataclasses.replace(reading, response_s=0.0).describe(
            curve.chosen(half), [], layout.lead_s[near], units[half]
        )
        if found is None:
            return
        low, high = found["interval_s"]
        yield found["estimate_s"], (low, high)


def _ceiling(name: str, looked: Looked, plan: Plan) -> float | None:
    """Returns how well two streams could correlate, by how each does with itself.

    The root of the product of both reliabilities (Spearman 1904): even ticks of a
    stream beside its odd ones, averaged over the same windows as in the view; of
    `motion`, which is not averaged, each even tick beside the odd one before it.
    """
    found = []
    for role in ("reference", "leading"):
        halves = []
        for clip, standing in zip(looked.clips, looked.places, strict=True):
            part: TickFeatures = getattr(clip, role)
            if name == PLACES and role == "reference":
                part = dataclasses.replace(part, plain=standing)
            even, odd = (_half(part, name, parity, plan) for parity in (0, 1))
            if even.known.any() and odd.known.any():
                halves.append(Clip(clip.recording, clip.number, even, odd))
        found.append(_self_correlation(halves, name, plan))
    known = [value for value in found if value is not None]
    return math.sqrt(math.prod(known)) if len(known) == len(found) else None


def _half(part: TickFeatures, name: str, parity: int, plan: Plan) -> TickFeatures:
    own = part.known & (np.arange(len(part)) % 2 == parity)
    if name == MOTION:
        return dataclasses.replace(part, known=own)
    half = centred_mean(part.plain, own, plan.smooth_ticks)
    return dataclasses.replace(part, plain=half.astype(np.float32))


def _self_correlation(halves: Sequence[Clip], name: str, plan: Plan) -> float | None:
    if not halves:
        return None
    apart_s = plan.tick_s if name == MOTION else 0.0
    laid = lead_layout.layout(
        halves, tick_s=plan.tick_s, least_s=apart_s, most_s=apart_s, unit_ticks=10**6
    )
    indicator = MOTION if name == MOTION else PLAIN
    rows = indicators.make_rows(
        laid, [indicator], window_ticks=1, dimensions=_DIMENSIONS[name]
    )
    kinds = {indicator: CANONICAL}
    sums = curves.lead_sums(rows, kinds, laid.leads, unit_ticks=laid.unit_ticks)
    value = float(sums[indicator].curve()[0])
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else None
