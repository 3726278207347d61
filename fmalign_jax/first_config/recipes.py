"""How windows can be laid over the recordings of a folder, the best way first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from fmalign_jax.first_config.survey import REFERENCE, Survey
from fmalign_jax.first_config.words import rounded, seconds

SLOW, FAST, CLIPS = "pretrain:recordings", "recordings:sliding", "recordings:clips"
"""The shipped configs that a first config starts from."""

SHORT_TICKS = 12
"""Ticks of a short window, which still holds three steps of Cross-CPC."""

_SLOW_FROM_S = 300.0  # stretches this long show a process whose states last minutes
_SLOW_TICK_S = 2.0
_FAST_TICKS_S = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_LEAST_CLIPS = 5  # from which on `data.split` can go by clip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How windows are laid.

    Attributes:
      base: the shipped config.
      tick_s: length of a tick; of clips, which divide into equal ticks, the usual one.
      window_ticks: T.
      why: of the length of a tick.
    """

    base: str
    tick_s: float
    window_ticks: int
    why: str


def recipes(survey: Survey) -> Iterator[Recipe]:
    """Yields ways to lay windows, the first that works is the best."""
    stretch_s = survey.common_s()
    usual_s = float(np.median(stretch_s))
    interval_s = max(1 / survey.rate_hz(name) for name in (REFERENCE, survey.leading))
    rates = (
        f"video {rounded(survey.rate_hz(REFERENCE))} Hz, sensor "
        f"{rounded(survey.rate_hz(survey.leading))} Hz"
    )
    if usual_s >= _SLOW_FROM_S:
        tick_s = max(_SLOW_TICK_S, two_digits(interval_s))
        for ticks in (30, SHORT_TICKS):
            yield Recipe(SLOW, tick_s, ticks, f"{rates}; {_least(tick_s, interval_s)}")
        return
    tick_s = _fast_tick_s(interval_s, 20, usual_s)
    if len(stretch_s) >= _LEAST_CLIPS and 20 * tick_s > usual_s / 2:
        yield Recipe(CLIPS, usual_s / 16, 16, rates)
    for ticks in (20, SHORT_TICKS):
        tick_s = _fast_tick_s(interval_s, ticks, usual_s)
        yield Recipe(FAST, tick_s, ticks, f"{rates}; {_least(tick_s, interval_s)}")


def _fast_tick_s(interval_s: float, ticks: int, usual_s: float) -> float:
    """Returns the longest tick of which two windows fit into a usual stretch.

    And no shorter one than holds a sample of each stream.
    """
    if interval_s > 1.05 * _FAST_TICKS_S[0]:
        return two_digits(interval_s)
    held = [tick_s for tick_s in _FAST_TICKS_S if 1.05 * tick_s >= interval_s]
    held = held or [two_digits(interval_s)]
    fitting = [tick_s for tick_s in held if ticks * tick_s <= usual_s / 2]
    return max(fitting, default=min(held))


def _least(tick_s: float, interval_s: float) -> str:
    if tick_s < 1.5 * interval_s:
        return "the slower stream has one sample in a tick"
    return f"the slower stream has {tick_s / interval_s:.2g} samples in a tick"


def why_base(survey: Survey, recipe: Recipe) -> str:
    """Returns why a recipe starts from its shipped config."""
    usual = seconds(float(np.median(survey.common_s())))
    if recipe.base == SLOW:
        return (
            f"A stretch without interruption is usually {usual} long: a slow process, "
            "as a furnace. The sensor learns from the video. If movements of seconds "
            f'matter, start from "{FAST}".'
        )
    slow = f'For a slow process, as a furnace, start from "{SLOW}".'
    if recipe.base == CLIPS:
        return (
            f"There are many short clips, usually {usual} long: each is one window, "
            f'and the video learns from the sensor. For windows that slide: "{FAST}".'
        )
    return (
        f"A stretch without interruption is usually {usual} long: fast movements. The "
        f"video learns from the sensor. {slow}"
    )


def two_digits(value: float) -> float:
    """Returns a number that is easier to read."""
    return float(f"{value:.2g}")
