"""From the clocks of the streams to common ticks: which samples each tick reads."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64
from numpy import ndarray

from fmalign_jax.data.store.timelines import StreamTimeline, Timeline
from fmalign_jax.structs import UNLABELLED

MODES = ("sliding", "clip")

_MOST_TICKS = 10_000_000  # in a clip; more would fill the memory
_WHOLE = 1e-6  # ticks by which a length may miss a whole number, for rounding
_TIE = 1e-3  # sample periods within which two samples count as equally near


def whole_ticks(name: str, seconds: float, tick_s: float) -> int:
    """Converts a length in seconds to ticks.

    Raises:
      ValueError: the length is not a whole, positive number of ticks.
    """
    if not tick_s > 0:
        raise ValueError(f"tick_s must be positive; got {tick_s}")
    ticks = round(seconds / tick_s)
    if ticks < 1 or abs(seconds / tick_s - ticks) > _WHOLE:
        below, above = (max(1, f(seconds / tick_s)) for f in (math.floor, math.ceil))
        raise ValueError(
            f"{name} must be a whole, positive number of ticks; got {seconds} s / "
            f"{tick_s} s = {seconds / tick_s:g}; use {name}={below * tick_s:g} or "
            f"{max(above, below) * tick_s:g}"
        )
    return ticks


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How windows are laid over recordings.

    Attributes:
      samples_per_tick: the streams to read, and the samples R each gives to a tick.
      window_ticks: ticks T in a window.
      stride_ticks: ticks from the start of one window to that of the next.
      tick_s: length of a tick in seconds; with mode "clip" the clip decides.
      lead_s: how much EARLIER the leading stream is read, in seconds; may be negative.
      other_leads_s: further leads at which every window must be readable too: at each
        of them all windows, and their splits, are then the same.
      read_all_leads: read the leading stream at every one of these leads, side by side.
      lead_range_s: least and most lead; the leading stream is read over all leads
        between them, in stretches of one window that follow one another, the earliest
        first, side by side. Empty: at `lead_s`, which else is their middle.
      leading_stream: the stream that the lead shifts.
      reference_stream: the stream whose clock and labels the ticks follow.
      mode: "sliding" for windows at every stride, "clip" for one window per clip: T
        equal segments of the time that all streams of the clip cover.
      max_gap_s: how far the nearest sample may lie from where it is wanted; by
        default, for each stream, its share of a tick or 3 of its sample periods,
        whichever is longer. Ticks that miss it are left out of every window.
    """

    samples_per_tick: Mapping[str, int]
    window_ticks: int
    stride_ticks: int = 1
    tick_s: float = 1.0
    lead_s: float = 0.0
    other_leads_s: tuple[float, ...] = ()
    read_all_leads: bool = False
    lead_range_s: tuple[float, ...] = ()
    leading_stream: str = "current"
    reference_stream: str = "video"
    mode: str = "sliding"
    max_gap_s: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}; got {self.mode!r}")
        counts = {"window_ticks": self.window_ticks, "stride_ticks": self.stride_ticks}
        counts |= {
            f"samples_per_tick[{k!r}]": n for k, n in self.samples_per_tick.items()
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        for name in ("reference_stream", "leading_stream"):
            stream = getattr(self, name)
            needed = name == "reference_stream" or any(self._leads_s)
            if needed and stream not in self.samples_per_tick:
                raise ValueError(
                    f"{name} must be one of the streams of samples_per_tick, "
                    f"{sorted(self.samples_per_tick)}; got {stream!r}"
                )
        for name in ("tick_s", "max_gap_s"):
            seconds = getattr(self, name)
            if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
                raise ValueError(f"{name} must be positive; got {seconds}")
        self._check_lead()

    @property
    def _leads_s(self) -> tuple[float, ...]:
        if self.lead_range_s:
            return self._range_leads_s()
        return (self.lead_s, *self.other_leads_s)

    def _range_leads_s(self) -> tuple[float, ...]:
        """Returns the leads of the stretches, the earliest stretch first.

        Raises:
          ValueError: the range is not one, or no whole number of windows wide.
        """
        window_s = self.window_ticks * self.tick_s
        given = self.lead_range_s
        if len(given) != 2 or not all(map(math.isfinite, given)):
            raise ValueError(
                f"lead_range_s must be the least and the most lead; got {given}; use "
                "such as (150.0, 330.0), or () for one lead"
            )
        least_s, most_s = given
        stretches = (most_s - least_s) / window_s
        if stretches < 1 - _WHOLE or abs(stretches - round(stretches)) > _WHOLE:
            wide_s = max(1, round(stretches)) * window_s
            raise ValueError(
                "lead_range_s must be one window wide or several; got "
                f"{most_s:g} - {least_s:g} s = {stretches:g} windows of {window_s:g} s"
                f"; use lead_range_s=({least_s:g}, {least_s + wide_s:g})"
            )
        middle_s = (least_s + most_s) / 2
        if abs(self.lead_s - middle_s) > _WHOLE * window_s or self.other_leads_s:
            moved = tuple(end_s - middle_s + self.lead_s for end_s in given)
            raise ValueError(
                "lead_s must be the middle of lead_range_s, and other_leads_s be empty "
                f"beside it; got {self.lead_s:g} for {given} and {self.other_leads_s}; "
                f"use lead_s={middle_s:g}, or lead_range_s={moved}"
            )
        return tuple(most_s - window_s * n for n in range(round(stretches) + 1))

    def _check_lead(self) -> None:
        for lead_s in self._leads_s:
            if not math.isfinite(lead_s):
                raise ValueError(f"lead_s must be finite; got {lead_s}")
            if lead_s and self.leading_stream == self.reference_stream:
                raise ValueError(
                    "a lead shifts one stream against another; got leading_stream = "
                    f"reference_stream = {self.leading_stream!r}; name two"
                )
            if lead_s and self.mode == "clip":
                raise ValueError(
                    f"mode 'clip' takes whole clips, so lead_s must be 0; got {lead_s}"
                    "; use mode 'sliding'"
                )

    @property
    def guard_ticks(self) -> int:
        """Returns the ticks that keep two windows from sharing any moment."""
        lead_s = max(map(abs, self._leads_s))
        return self.window_ticks + math.ceil(lead_s / self.tick_s - _WHOLE)

    def leads_read(self, stream: str) -> int:
        """Returns at how many leads L a stream is read."""
        several = self.read_all_leads or self.lead_range_s
        return len(self.shifts_s(stream)) if several else 1

    def shift_s(self, stream: str) -> float:
        """Returns how much later than the tick a stream is read, in seconds.

        Of a range of leads, at `lead_s`.
        """
        if stream != self.leading_stream or not self.lead_s:
            return 0.0
        return -self.lead_s

    def last_shift_s(self, stream: str) -> float:
        """Returns the same of the last sample that a tick reads.

        Of a range of leads, at the least of them.
        """
        if self.lead_range_s and stream == self.leading_stream:
            return -self.lead_range_s[0]
        return self.shift_s(stream)

    def shifts_s(self, stream: str) -> tuple[float, ...]:
        """Returns the shifts at which a stream must be readable, in seconds.

        At the window's own lead and at the other leads, or at those of a range.
        """
        if stream != self.leading_stream:
            return (0.0,)
        return tuple(-lead_s if lead_s else 0.0 for lead_s in self._leads_s)


@dataclasses.dataclass(frozen=True)
class Segments:
    """The (recording, clip) pairs in order: stretches of ticks that follow one another.

    Attributes:
      first: [G + 1], first tick of each; at the end the number of all ticks.
      recording: [G], number of the recording.
      clip: [G], number of the clip.
      start_s: [G], start of the first tick on the recording's clock.
      tick_s: [G], length of its ticks.
    """

    first: Int64[ndarray, " _"]
    recording: Int32[ndarray, " G"]
    clip: Int32[ndarray, " G"]
    start_s: Float64[ndarray, " G"]
    tick_s: Float64[ndarray, " G"]

    @property
    def lengths(self) -> Int64[ndarray, " G"]:
        """Returns how many ticks each has."""
        return np.diff(self.first)

    def of(self, tick: Int[ndarray, "..."]) -> Int64[ndarray, "..."]:
        """Returns which segment ticks lie in."""
        return np.searchsorted(self.first, tick, side="right") - 1

    def by_recording(self) -> dict[int, slice]:
        """Returns the ticks of each recording that has any, in order of its number."""
        if not len(self.recording):
            return {}
        begins = np.flatnonzero(np.diff(self.recording, prepend=-1))
        ends = self.first[np.append(begins[1:], len(self.recording))].tolist()
        numbers = self.recording[begins].tolist()
        own = map(slice, self.first[begins].tolist(), ends)
        return dict(sorted(zip(numbers, own, strict=True), key=lambda item: item[0]))


@dataclasses.dataclass(frozen=True)
class Ticks:
    """All ticks of all recordings, in order of recording name, clip and time.

    What is the same for all ticks of a segment is stored once for it. `recording` and
    the like are arrays of one number a tick, made and kept when they are first asked
    for: evaluation asks, training does not.

    Attributes:
      samples: by stream [n, R], positions of the samples each tick reads; of a leading
        stream that is read at L leads [n, L * R], those at `lead_s` first, or at those
        of a range, the longest first.
      usable: [n], whether every one of those samples is near enough.
      label: [n], class of the tick, -1 unknown.
      segments: the (recording, clip) pairs; no window crosses from one to another.
    """

    samples: Mapping[str, Int[ndarray, "n _"]]
    usable: Bool[ndarray, " n"]
    label: Int32[ndarray, " n"]
    segments: Segments

    def __len__(self) -> int:
        return len(self.usable)

    @functools.cached_property
    def segment(self) -> Int64[ndarray, " n"]:
        """Returns the number of each tick's segment."""
        return np.repeat(np.arange(len(self.segments.clip)), self.segments.lengths)

    @functools.cached_property
    def recording(self) -> Int32[ndarray, " n"]:
        """Returns the number of each tick's recording."""
        return self.segments.recording[self.segment]

    @functools.cached_property
    def clip(self) -> Int32[ndarray, " n"]:
        """Returns the number of each tick's clip."""
        return self.segments.clip[self.segment]

    @functools.cached_property
    def start_s(self) -> Float64[ndarray, " n"]:
        """Returns the start of each tick on the recording's clock."""
        return self.span_s(np.arange(len(self)))[0]

    @functools.cached_property
    def end_s(self) -> Float64[ndarray, " n"]:
        """Returns the end of each tick on the recording's clock."""
        return self.span_s(np.arange(len(self)))[1]

    def span_s(
        self, tick: Int[ndarray, "..."]
    ) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        """Returns start and end of ticks on the clocks of their recordings."""
        segment = self.segments.of(tick)
        place = tick - self.segments.first[segment]
        start_s, tick_s = self.segments.start_s[segment], self.segments.tick_s[segment]
        return start_s + place * tick_s, start_s + (place + 1) * tick_s


def align(timelines: Sequence[Timeline], spec: WindowSpec) -> Ticks:
    """Lays ticks over recordings and finds the samples that each tick reads.

    Tick i of a clip covers [t0 + i tick_s, t0 + (i+1) tick_s) on the clock that all
    streams share. It begins half a sample period before the first sample of the
    reference stream, since a sample stands for the time around it: at equal rates the
    middle of a tick then falls on a sample. Slot r of R of a stream takes the sample
    nearest to t0 + (i + (r + 0.5) / R) tick_s, minus lead_s for the leading stream;
    of two equally near, the earlier.

    The label of a tick is the most frequent known label of the reference stream's
    samples within it, of several the smallest; with none within, that of the sample
    nearest to its middle. Where the reference stream of a recording has no labels at
    all, those of the first other stream (by name) that has some are taken, at the
    tick's own time: the lead shifts values, never labels.

    Args:
      timelines: the clocks; their order does not matter.
      spec: how ticks are laid.

    Raises:
      ValueError: a recording lacks a stream.
    """
    timelines = sorted(timelines, key=lambda timeline: timeline.name)
    for timeline in timelines:
        missing = set(spec.samples_per_tick) - set(timeline.streams)
        if missing:
            raise ValueError(
                f"every recording must have the streams {sorted(spec.samples_per_tick)}"
                f"; got {sorted(timeline.streams)} in {timeline.name!r}; add "
                f"{sorted(missing)} to its file, or leave {sorted(missing)} out of "
                "data.samples_per_tick and of the model"
            )
    parts = (part for t in timelines for part in _recording_ticks(t, spec))
    positions = {
        name: smallest_int(
            max((len(t.streams[name].time_s) for t in timelines), default=0)
        )
        for name in spec.samples_per_tick
    }
    return _joined(parts, positions, spec, labelled=any(map(_has_labels, timelines)))


def smallest_int(number: int) -> type[np.signedinteger]:
    """Returns int32 where numbers up to this one fit, else int64."""
    return np.int32 if number <= np.iinfo(np.int32).max else np.int64


def _has_labels(timeline: Timeline) -> bool:
    streams = timeline.streams.values()
    return any((stream.label != UNLABELLED).any() for stream in streams)


@dataclasses.dataclass(frozen=True)
class _Clips:
    """One stream of a recording, cut into clips."""

    period_s: float
    rows: dict[int, ndarray]
    stream: StreamTimeline

    @classmethod
    def of(cls, stream: StreamTimeline) -> _Clips:
        order = np.argsort(stream.clip, kind="stable")
        clips, starts = np.unique(stream.clip[order], return_index=True)
        rows = dict(zip(clips.tolist(), np.split(order, starts[1:]), strict=True))
        steps = np.concatenate([np.diff(stream.time_s[part]) for part in rows.values()])
        steps = steps[steps > 0]
        period_s = float(np.median(steps)) if steps.size else 0.0
        return cls(period_s, rows, stream)

    def time_s(self, clip: int) -> ndarray:
        return self.stream.time_s[self.rows[clip]]

    def span_s(self, clip: int) -> tuple[float, float]:
        time_s = self.time_s(clip)
        return time_s[0] - self.period_s / 2, time_s[-1] + self.period_s / 2

    def nearest(self, clip: int, target_s: ndarray) -> tuple[ndarray, ndarray]:
        """Returns positions of the samples nearest to targets, and how far they are."""
        time_s = self.time_s(clip)
        after = np.clip(np.searchsorted(time_s, target_s), 0, len(time_s) - 1)
        before = np.maximum(after - 1, 0)
        gap_before = np.abs(target_s - time_s[before])
        gap_after = np.abs(time_s[after] - target_s)
        later = gap_after < gap_before - _TIE * self.period_s
        row = np.where(later, after, before)
        return self.rows[clip][row], np.where(later, gap_after, gap_before)


@dataclasses.dataclass(frozen=True)
class _ClipTicks:
    """The ticks of one clip."""

    recording: int
    clip: int
    start_s: float
    tick_s: float
    samples: dict[str, ndarray]
    usable: ndarray
    label: ndarray


def _recording_ticks(timeline: Timeline, spec: WindowSpec) -> Iterator[_ClipTicks]:
    clips = {name: _Clips.of(timeline.streams[name]) for name in spec.samples_per_tick}
    labelled = _labelled_stream(timeline, spec.reference_stream)
    in_all = set.intersection(*(set(stream.rows) for stream in clips.values()))
    for clip in sorted(in_all):
        part = _clip_ticks(timeline.number, clip, clips, labelled, spec)
        if len(part.usable):
            yield part


def _clip_ticks(
    recording: int,
    clip: int,
    clips: dict[str, _Clips],
    labelled: _Clips | None,
    spec: WindowSpec,
) -> _ClipTicks:
    start_s, tick_s, n = _grid(clip, clips, spec)
    tick = np.arange(n)
    samples: dict[str, ndarray] = {}
    usable = np.ones(n, bool)
    for name, slots in spec.samples_per_tick.items():
        slot = (np.arange(slots) + 0.5) / slots
        target_s = start_s + (tick[:, None] + slot) * tick_s
        most_s = max(tick_s / slots, 3 * clips[name].period_s)
        most_s = spec.max_gap_s if spec.max_gap_s is not None else most_s
        at_leads = []
        for shift_s in spec.shifts_s(name):
            found, gap_s = clips[name].nearest(clip, target_s + shift_s)
            at_leads.append(found)
            usable &= (gap_s <= most_s * (1 + _WHOLE)).all(axis=1)
        kept = at_leads[: spec.leads_read(name)]
        samples[name] = np.concatenate(kept, axis=1)
    return _ClipTicks(
        recording=recording,
        clip=clip,
        start_s=start_s,
        tick_s=tick_s,
        samples=samples,
        usable=usable,
        label=_labels(labelled, clip, start_s, tick_s, n),
    )


def _grid(
    clip: int, clips: dict[str, _Clips], spec: WindowSpec
) -> tuple[float, float, int]:
    """Returns where the ticks of a clip start, how long they are and how many."""
    if spec.mode == "sliding":
        start_s, end_s = clips[spec.reference_stream].span_s(clip)
        ticks = (end_s - start_s) / spec.tick_s
        if ticks > _MOST_TICKS:
            raise ValueError(
                f"a clip may have up to {_MOST_TICKS} ticks; got {ticks:.2g} of tick_s="
                f"{spec.tick_s:g} in {end_s - start_s:g} s; use a larger tick_s"
            )
        return start_s, spec.tick_s, math.floor(ticks + _WHOLE)
    starts_s, ends_s = zip(*(s.span_s(clip) for s in clips.values()), strict=True)
    tick_s = (min(ends_s) - max(starts_s)) / spec.window_ticks
    return max(starts_s), tick_s, spec.window_ticks if tick_s > 0 else 0


def _labelled_stream(timeline: Timeline, reference: str) -> _Clips | None:
    others = sorted(set(timeline.streams) - {reference})
    for name in (reference, *others):
        if (timeline.streams[name].label != UNLABELLED).any():
            return _Clips.of(timeline.streams[name])
    return None


def _labels(
    labelled: _Clips | None, clip: int, start_s: float, tick_s: float, n: int
) -> Int32[ndarray, " n"]:
    if labelled is None or clip not in labelled.rows:
        return np.full(n, UNLABELLED, np.int32)
    label = labelled.stream.label
    middle_s = start_s + (np.arange(n) + 0.5) * tick_s
    nearest, gap_s = labelled.nearest(clip, middle_s)
    fallback = np.where(
        gap_s <= max(tick_s, 3 * labelled.period_s), label[nearest], UNLABELLED
    )
    rows = labelled.rows[clip]
    tick = np.floor((labelled.time_s(clip) - start_s) / tick_s + _WHOLE).astype(int)
    known = (tick >= 0) & (tick < n) & (label[rows] != UNLABELLED)
    if not known.any():
        return fallback.astype(np.int32)
    classes, column = np.unique(label[rows[known]], return_inverse=True)
    cell = tick[known] * len(classes) + column
    counts = np.bincount(cell, minlength=n * len(classes)).reshape(n, len(classes))
    most = classes[counts.argmax(axis=1)]
    return np.where(counts.any(axis=1), most, fallback).astype(np.int32)


def _joined(
    parts: Iterable[_ClipTicks],
    positions: Mapping[str, type],
    spec: WindowSpec,
    *,
    labelled: bool,
) -> Ticks:
    """Joins the ticks of all clips, with room for them once.

    The buffers grow in place: a list of parts and what it is joined to would take the
    room twice.
    """
    samples = {name: bytearray() for name in spec.samples_per_tick}
    usable, label = bytearray(), bytearray()
    firsts, heads = [0], []
    for part in parts:
        for name, buffer in samples.items():
            buffer.extend(np.ascontiguousarray(part.samples[name], positions[name]))
        usable.extend(part.usable)
        if labelled:
            label.extend(part.label)
        firsts.append(len(usable))
        heads.append((part.recording, part.clip, part.start_s, part.tick_s))
    recording, clip, start_s, tick_s = zip(*heads, strict=True) if heads else [()] * 4
    return Ticks(
        samples={
            name: np.frombuffer(buffer, positions[name]).reshape(
                -1, spec.samples_per_tick[name] * spec.leads_read(name)
            )
            for name, buffer in samples.items()
        },
        usable=np.frombuffer(usable, bool),
        label=np.frombuffer(label, np.int32)
        if labelled
        else np.broadcast_to(np.int32(UNLABELLED), len(usable)),
        segments=Segments(
            first=np.array(firsts, np.int64),
            recording=np.array(recording, np.int32),
            clip=np.array(clip, np.int32),
            start_s=np.array(start_s, np.float64),
            tick_s=np.array(tick_s, np.float64),
        ),
    )
