"""How good alarms are, counted in episodes and alarms, not in windows.

docs/early_warning.md has the definitions in words. All times are seconds on one clock,
that of the reference (the video). Pure functions of NumPy arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from fmalign_jax.evaluation.events import Spans

_ROUNDING_S = 1e-6

DETECTS, REPEATS, LATE, FALSE, UNJUDGED = range(5)
"""What an alarm is; see `match_alarms`."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """What became of the episodes and alarms of one recording.

    Attributes:
      counted: [S], whether the episode is long enough, and scores were there when an
        alarm was due: throughout [o - lead - spread, o - lead + spread].
      warning_s: [S], from the alarm to the visible onset; NaN: missed.
      kinds: [A], DETECTS, REPEATS, LATE, FALSE or UNJUDGED.
    """

    counted: Bool[ndarray, " S"]
    warning_s: Float[ndarray, " S"]
    kinds: ndarray


def match_alarms(
    episodes: Spans,
    raised_s: Float[ndarray, " A"],
    *,
    scored: Spans,
    labelled: Spans,
    lead_s: float,
    spread_s: float,
    min_spell_s: float = 0.0,
) -> Judged:
    """Matches alarms with episodes.

    An episode visible in [o, f) is foreshadowed in [o - lead - spread,
    f - lead + spread]. An alarm raised in there belongs to it: it DETECTS the episode
    if it is the first and raised before o, REPEATS it if another has detected it, and
    is LATE from o on. An alarm raised at a that belongs to no episode is FALSE; if
    labels are lacking in [a + lead - spread, a + lead + spread] it is UNJUDGED. An
    alarm belongs to one episode, of several the earliest that is not yet detected.

    Args:
      episodes: onset and end of each, as the labels show them.
      raised_s: when each alarm was raised, rising.
      scored: when there were scores.
      labelled: where labels are known.
      lead_s: how far the current is ahead.
      spread_s: by how much leads differ, and what a window blurs.
      min_spell_s: shorter episodes are not counted; their alarms are not false.
    """
    early, late = -lead_s - spread_s, -lead_s + spread_s
    counted = _within(episodes[:, 0] + early, episodes[:, 0] + late, scored)
    counted &= episodes[:, 1] - episodes[:, 0] >= min_spell_s - _ROUNDING_S
    known = _within(raised_s - late, raised_s - early, labelled)
    warning_s = np.full(len(episodes), np.nan)
    kinds = np.full(len(raised_s), FALSE)
    for number, at_s in enumerate(raised_s.tolist()):
        own = np.flatnonzero(
            (episodes[:, 0] + early <= at_s) & (at_s <= episodes[:, 1] + late)
        )
        ahead = own[np.isnan(warning_s[own]) & (at_s < episodes[own, 0])]
        if len(ahead):
            warning_s[ahead[0]] = episodes[ahead[0], 0] - at_s
            kinds[number] = DETECTS
        elif len(own):
            detected = not np.isnan(warning_s[own]).all()
            kinds[number] = REPEATS if detected else LATE
        elif not known[number]:
            kinds[number] = UNJUDGED
    return Judged(counted, warning_s, kinds)


def _within(
    begin_s: Float[ndarray, " N"], end_s: Float[ndarray, " N"], spans: Spans
) -> Bool[ndarray, " N"]:
    """Says which intervals lie wholly within one of the spans."""
    inside = (spans[:, 0] <= begin_s[:, None]) & (end_s[:, None] <= spans[:, 1])
    return np.asarray(inside.any(axis=1))


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts of one recording or of several; they add.

    Attributes:
      episodes: that could have been foreseen.
      warning_s: of those that were, one entry an episode.
      alarms: how many of each kind, in the order of the constants.
      hours: with a score, labels or not.
    """

    episodes: int
    warning_s: tuple[float, ...]
    alarms: tuple[int, ...]
    hours: float

    @property
    def detection_rate(self) -> float | None:
        """Returns detected episodes / episodes; None without episodes."""
        return len(self.warning_s) / self.episodes if self.episodes else None

    @property
    def false_alarms_per_hour(self) -> float | None:
        """Returns false alarms by hour of scores; None without any."""
        return self.alarms[FALSE] / self.hours if self.hours else None

    @property
    def precision(self) -> float | None:
        """Returns detecting alarms / (detecting + false); None without either."""
        judged = self.alarms[DETECTS] + self.alarms[FALSE]
        return self.alarms[DETECTS] / judged if judged else None


def tally(judged: Judged, hours: float) -> Tally:
    """Counts what became of one recording."""
    warned = judged.warning_s[judged.counted & ~np.isnan(judged.warning_s)]
    counts = np.bincount(judged.kinds, minlength=UNJUDGED + 1)
    return Tally(
        int(judged.counted.sum()), tuple(warned.tolist()), tuple(counts.tolist()), hours
    )


def total(tallies: Iterable[Tally]) -> Tally:
    """Adds the counts of recordings."""
    parts = list(tallies)
    return Tally(
        sum(part.episodes for part in parts),
        tuple(warning_s for part in parts for warning_s in part.warning_s),
        tuple(sum(part.alarms[kind] for part in parts) for kind in range(UNJUDGED + 1)),
        sum(part.hours for part in parts),
    )
