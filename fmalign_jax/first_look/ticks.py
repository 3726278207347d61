"""From recordings to ticks that no model has seen: what moves, what stands out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.data.store.builder import Source
from fmalign_jax.data.windows.align import align
from fmalign_jax.data.windows.spec import WindowSpec
from fmalign_jax.data.windows.ticks import Ticks
from fmalign_jax.first_config import recipes
from fmalign_jax.first_config.reading import read_recording
from fmalign_jax.first_config.survey import LEADING, REFERENCE, Survey
from fmalign_jax.first_look import places
from fmalign_jax.lead.tick_features import Clip, TickFeatures, without_model
from fmalign_jax.progress import Bar
from fmalign_jax.structs import Recording

_MOST_FRAMES, _MOST_VALUES = 2, 16  # of a tick
_AT_ONCE = 512  # ticks whose frames are in memory as numbers
_FAST_SHARE = 5  # of a window, that fast recordings are averaged over
SLOW_RANGE_S = (0.0, 420.0)
"""Leads that are looked at in slow recordings, where none are given."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How recordings are looked at.

    Attributes:
      tick_s: length of a tick.
      window_ticks: ticks in a window.
      samples: of a tick, by stream.
      least_s: the smallest lead to look at; above 0 the sensor is ahead.
      most_s: the largest.
      slow: whether it is a process whose states last minutes, as a furnace.
      smooth_ticks: ticks that `plain` and `places` are averaged over.
      leading: name of the sensor's stream.
    """

    tick_s: float
    window_ticks: int
    samples: Mapping[str, int]
    least_s: float
    most_s: float
    slow: bool
    smooth_ticks: int
    leading: str = LEADING

    @property
    def window_s(self) -> float:
        """Returns the length of a window."""
        return self.window_ticks * self.tick_s


def plan(
    survey: Survey,
    *,
    least_s: float | None = None,
    most_s: float | None = None,
    data: ConfigDict | None = None,
) -> Plan:
    """Chooses ticks and leads for recordings, as a first config would.

    Args:
      survey: what the recordings hold.
      least_s: the smallest lead; by default 0 s, of recordings of less than five
        minutes minus a third of a usual stretch, of a single one a tenth.
      most_s: the largest; by default 420 s, or so much of a usual stretch.
      data: the settings of data of a config, whose ticks and windows are then taken.

    Raises:
      ValueError: the range is none.
    """
    recipe = next(recipes.recipes(survey))
    slow = recipe.base == recipes.SLOW
    tick_s, window_ticks = recipe.tick_s, recipe.window_ticks
    if data is not None and data.windows == "sliding":
        tick_s, window_ticks = data.tick_s, data.window_ticks
    stretch_s = survey.common_s()
    # Of one stretch, wrong pairings are its own at other times: they need room.
    part_s = float(np.median(stretch_s)) / (3 if len(stretch_s) > 1 else 10)
    usual = SLOW_RANGE_S if slow else (-part_s, part_s)
    least_s = usual[0] if least_s is None else least_s
    most_s = usual[1] if most_s is None else most_s
    if not least_s + tick_s <= most_s:
        raise ValueError(
            "--least_lead_s must be below --most_lead_s, by a tick at least; got "
            f"{least_s:g} and {most_s:g} s, with ticks of {tick_s:g} s; correct them"
        )
    samples = {
        name: max(1, min(most, round(survey.rate_hz(name) * tick_s)))
        for name, most in ((REFERENCE, _MOST_FRAMES), (survey.leading, _MOST_VALUES))
    }
    # A movement is over before a window is.
    smooth_ticks = window_ticks if slow else max(1, window_ticks // _FAST_SHARE)
    return Plan(
        tick_s,
        window_ticks,
        samples,
        least_s,
        most_s,
        slow,
        smooth_ticks,
        survey.leading,
    )


@dataclasses.dataclass(frozen=True)
class Looked:
    """The ticks of all recordings.

    Attributes:
      clips: with `motion` and `plain` features; there are no others.
      places: by clip, what stands out in each tick of the video, see `places`.
    """

    clips: tuple[Clip, ...]
    places: tuple[Float32[ndarray, "_ _"], ...]


def look(
    survey: Survey, readers: Mapping[str, Source], plan: Plan, *, progress: bool = True
) -> Looked:
    """Reads every recording again and looks at its ticks.

    Args:
      survey: what the recordings hold.
      readers: by name.
      plan: how to look.
      progress: whether to show a progress bar.
    """
    clips: list[Clip] = []
    out: list[Float32[ndarray, "n 2"]] = []
    for seen in Bar(survey.seen, "looking at ticks", shown=progress):
        recording, _ = read_recording(readers[seen.name], seen.name)
        streams = {
            name: align([seen.timeline], _spec(name, plan)) for name in plan.samples
        }
        features = {
            name: _features(recording, name, ticks) for name, ticks in streams.items()
        }
        standing = _standing_out(recording, streams[REFERENCE])
        both = set(features[REFERENCE]) & set(features[plan.leading])
        for clip in sorted(both):
            parts = (features[name][clip] for name in (REFERENCE, plan.leading))
            clips.append(Clip(seen.name, clip, *parts))
            out.append(standing[streams[REFERENCE].clip == clip])
    return Looked(tuple(clips), tuple(out))


def _spec(stream: str, plan: Plan) -> WindowSpec:
    """Returns ticks on the clock of one stream; no other is looked at."""
    return WindowSpec(
        samples_per_tick={stream: plan.samples[stream]},
        window_ticks=plan.window_ticks,
        tick_s=plan.tick_s,
        reference_stream=stream,
        leading_stream=stream,
    )


def _features(
    recording: Recording, stream: str, ticks: Ticks
) -> dict[int, TickFeatures]:
    """Returns the ticks of one stream by clip, without clips that have none."""
    values = recording.streams[stream].values
    plain, motion = without_model(values.__getitem__, ticks.samples[stream], ticks.clip)
    found = {}
    for clip in np.unique(ticks.clip[ticks.usable]).tolist():
        own = ticks.clip == clip
        known = ticks.usable[own].copy()
        # There is no tick before the first one, nor after the last: both streams would
        # seem to move less where a clip begins and ends, and so go together.
        known[[0, -1]] = False
        if not known.any():
            continue
        found[clip] = TickFeatures(
            start_s=float(ticks.start_s[own][0]),
            known=known,
            semantic=plain[own],
            code=None,
            plain=plain[own],
            motion=motion[own],
        )
    return found


def _standing_out(recording: Recording, ticks: Ticks) -> Float32[ndarray, "n 2"]:
    frames = recording.streams[REFERENCE].values
    samples: Int[ndarray, "n R"] = ticks.samples[REFERENCE]
    contrast = [
        places.contrasts(frames[samples[begin : begin + _AT_ONCE]])
        for begin in range(0, len(samples), _AT_ONCE)
    ]
    return places.standing_out(np.concatenate(contrast), ticks.usable)
