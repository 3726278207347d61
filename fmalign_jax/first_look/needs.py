"""How many minutes of recordings each step needs, beside how many there are.

Each number is what was enough in a measurement of this project, with the page that has
it; less was mostly not tried. None is a law.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from fmalign_jax.first_config.survey import Survey
from fmalign_jax.first_config.words import counted, rounded
from fmalign_jax.first_look.association import Association
from fmalign_jax.first_look.ticks import Plan
from fmalign_jax.lead.search import FEW_UNITS

_SEARCH_RECORDINGS, _SEARCH_MIN = 3, 150.0  # docs/results/lead.md: every group of three
_TRAINED_RECORDINGS, _TRAINED_MIN = 10, 500.0  # docs/results.md: furnaces
_ALARM_MIN = 1800.0  # docs/early_warning.md: a level that held on test
_TRAINED_CLIPS, _CLIPS_MIN = 430, 20.0  # docs/results/utd_mhad.md: four people


@dataclasses.dataclass(frozen=True)
class Need:
    """What one step needs.

    Attributes:
      step: what is to be done.
      needed: how much of what, in words.
      there: how much there is, in words.
      enough: whether that is enough.
      source: where the number comes from.
    """

    step: str
    needed: str
    there: str
    enough: bool
    source: str


def needs(survey: Survey, plan: Plan, found: Association) -> list[Need]:
    """Returns what each step needs, the next one first."""
    stretch_s = survey.common_s()
    minutes = float(stretch_s.sum()) / 60
    there = f"{rounded(minutes)} min in {counted(len(survey.seen), 'recording')}"
    least_min = FEW_UNITS * found.stretch_s / 60
    first = Need(
        "this check",
        f"{FEW_UNITS} stretches of {rounded(found.stretch_s)} s "
        f"({rounded(least_min)} min), and two recordings or one longer than twice the "
        "leads",
        f"{counted(found.stretches, 'stretch', 'stretches')} that have pairs; wrong "
        f"pairings {'impossible' if found.chance is None else 'possible'}",
        found.stretches >= FEW_UNITS and found.chance is not None,
        "docs/lead.md: fewer have too few events for a verdict",
    )
    more = (
        _slow(len(survey.seen), minutes, there) if plan.slow else _fast(survey, there)
    )
    return [first, *more]


def _reaches(minutes: float, needed: float) -> bool:
    """Says whether there are so many minutes, but for a sample at an end."""
    return minutes >= 0.99 * needed


def _slow(recordings: int, minutes: float, there: str) -> Iterator[Need]:
    yield Need(
        "a lead (fmalign check, lead)",
        f"{_SEARCH_RECORDINGS} recordings, {_SEARCH_MIN:g} min in all",
        there,
        recordings >= _SEARCH_RECORDINGS and _reaches(minutes, _SEARCH_MIN),
        "docs/check.md, docs/results/lead.md: most groups of three recordings of 50 "
        "min have one, single ones by far not all",
    )
    yield Need(
        "training (fmalign train)",
        f"{_TRAINED_RECORDINGS} recordings, {_TRAINED_MIN:g} min in all",
        there,
        recordings >= _TRAINED_RECORDINGS and _reaches(minutes, _TRAINED_MIN),
        "docs/results.md: furnaces; so many were trained on, fewer were not measured",
    )
    yield Need(
        "an alarm (fmalign warn)",
        f"{_ALARM_MIN / 60:g} h with labels that are not trained on",
        there,
        _reaches(minutes, _ALARM_MIN),
        "docs/early_warning.md: a level found on 30 h held, one found on 7.5 h did not",
    )


def _fast(survey: Survey, there: str) -> Iterator[Need]:
    clips = len(survey.common_s())
    minutes = float(survey.common_s().sum()) / 60
    yield Need(
        "training (fmalign train)",
        f"{_TRAINED_CLIPS} clips of some seconds, about {_CLIPS_MIN:g} min",
        f"{there}, {counted(clips, 'clip')}",
        _reaches(minutes, _CLIPS_MIN),
        "docs/results/utd_mhad.md: clips of four people; fewer were not measured",
    )
