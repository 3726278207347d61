"""From the clocks of the streams to common ticks: which samples each tick reads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int32
from numpy import ndarray

from fmalign_jax.data.store.timelines import StreamTimeline, Timeline
from fmalign_jax.data.windows.spec import ROUNDING, WindowSpec
from fmalign_jax.data.windows.ticks import Segments, Ticks, smallest_int
from fmalign_jax.structs import UNLABELLED

_MOST_TICKS = 10_000_000  # in a clip; more would fill the memory
_TIE = 1e-3  # sample periods within which two samples count as equally near


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
            usable &= (gap_s <= most_s * (1 + ROUNDING)).all(axis=1)
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
        return start_s, spec.tick_s, math.floor(ticks + ROUNDING)
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
    tick = np.floor((labelled.time_s(clip) - start_s) / tick_s + ROUNDING).astype(int)
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
