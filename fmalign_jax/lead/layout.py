"""Clips side by side in rows, so that a difference of positions is a lead."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from fmalign_jax.lead.tick_features import Clip

UNIT_WINDOWS = 5
"""Windows in a unit, where nothing else is said."""

_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the ticks of clips are in rows.

    Attributes:
      clips: those in which some lead of the range has pairs.
      leads: [L], in ticks: those of the range at which any clip has a pair.
      lead_s: [L], the same in seconds, between the centres of ticks.
      reference_at: by row, position of the reference's first tick.
      leading_at: the same of the leading modality; may be negative.
      ticks: n, length of a row.
      unit_ticks: length of a unit.
      recording: [S], number of each row's recording, from 0 in order of appearance.
      tick_s: length of a tick.
    """

    clips: tuple[Clip, ...]
    leads: Int[ndarray, " L"]
    lead_s: Float[ndarray, " L"]
    reference_at: Int[ndarray, " S"]
    leading_at: Int[ndarray, " S"]
    ticks: int
    unit_ticks: int
    recording: Int[ndarray, " S"]
    tick_s: float

    @property
    def names(self) -> list[str]:
        """Returns the recordings, in the order of their numbers."""
        return list(dict.fromkeys(clip.recording for clip in self.clips))

    def unit_recording(self) -> Int[ndarray, " U"]:
        """Returns the recording of each unit."""
        return np.repeat(self.recording, self.ticks // self.unit_ticks)


def layout(
    clips: Sequence[Clip],
    *,
    tick_s: float,
    least_s: float,
    most_s: float,
    unit_ticks: int,
) -> Layout:
    """Lays clips in rows so that a difference of positions is a lead.

    Each modality has ticks on its own clock; what their distance lacks to whole ticks,
    its mean over the clips, is added to every lead.

    Args:
      clips: of all recordings.
      tick_s: length of a tick.
      least_s: the smallest lead to look at; may be negative.
      most_s: the largest.
      unit_ticks: length of a unit.

    Raises:
      ValueError: no clip is long enough for any lead of the range.
    """
    distance = np.array([c.reference.start_s - c.leading.start_s for c in clips])
    turns = np.exp(2j * np.pi * (distance / tick_s))
    beyond = float(np.angle(turns.sum())) / (2 * np.pi)  # ticks, in [-0.5, 0.5]
    whole = np.round(distance / tick_s - beyond).astype(int)
    leads = np.arange(
        math.ceil(least_s / tick_s - beyond - _ROUNDING),
        math.floor(most_s / tick_s - beyond + _ROUNDING) + 1,
    )
    possible = [
        (first + k - end, last + k - begin)
        for (first, last), (begin, end), k in (
            (_extent(clip.reference.known), _extent(clip.leading.known), k)
            for clip, k in zip(clips, whole.tolist(), strict=True)
        )
    ]
    least, most = min(low for low, _ in possible), max(high for _, high in possible)
    if (leads < least).all() or (leads > most).all():
        raise _no_overlap(least_s, most_s)
    leads = leads[(leads >= least) & (leads <= most)]
    kept, reference_at, leading_at, ends = [], [], [], []
    for clip, k in zip(clips, whole.tolist(), strict=True):
        first, last = _extent(clip.reference.known)
        begin, end = _extent(clip.leading.known)
        # On the scale of the leading ticks, the reference's tick i is i + k.
        begin = max(begin, first + k - leads[-1])
        end = min(end, last + k - leads[0])
        if begin > end:
            continue
        origin = min(first + k, begin)
        kept.append(clip)
        reference_at.append(k - origin)
        leading_at.append(-origin)
        ends.append(max(last + k, end) - origin + 1)
    if not kept:
        raise _no_overlap(least_s, most_s)
    names = list(dict.fromkeys(clip.recording for clip in kept))
    longest = max(ends)
    unit_ticks = min(unit_ticks, longest)
    return Layout(
        clips=tuple(kept),
        leads=leads,
        lead_s=(leads + beyond) * tick_s,
        reference_at=np.array(reference_at),
        leading_at=np.array(leading_at),
        ticks=-(-longest // unit_ticks) * unit_ticks,
        unit_ticks=unit_ticks,
        recording=np.array([names.index(clip.recording) for clip in kept]),
        tick_s=tick_s,
    )


def layout_that_fits(
    clips: Sequence[Clip],
    fits: Callable[[Layout], bool],
    *,
    tick_s: float,
    least_s: float,
    most_s: float,
    unit_ticks: int,
) -> Layout:
    """Lays clips in rows, in units so long that what is made of them fits.

    Units are doubled until it does, or until they are as long as a row.

    Args:
      clips: as `layout`; so the rest.
      fits: whether the sums of so many units fit into memory.
      tick_s: ...
      least_s: ...
      most_s: ...
      unit_ticks: length of a unit to begin with.

    Raises:
      ValueError: as `layout`.
    """
    while True:
        laid = layout(
            clips,
            tick_s=tick_s,
            least_s=least_s,
            most_s=most_s,
            unit_ticks=unit_ticks,
        )
        if fits(laid) or laid.unit_ticks < unit_ticks:
            return laid
        unit_ticks *= 2


def _no_overlap(least_s: float, most_s: float) -> ValueError:
    return ValueError(
        f"a lead needs recordings longer than itself; got leads of {least_s:g} to "
        f"{most_s:g} s and no clip in which the streams overlap so; correct "
        "--config.least_lead_s and --config.most_lead_s"
    )


def _extent(known: Bool[ndarray, " n"]) -> tuple[int, int]:
    found = np.flatnonzero(known)
    return int(found[0]), int(found[-1])
