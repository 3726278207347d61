"""How regular the clocks of recordings are, and where their streams start and end.

Read from the stored times alone. Whether one clock runs faster than another is not
among them: the same samples that end 2 s later may have been recorded longer. Starts
and ends are told, and no drift is made of them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from fmalign_jax.data.files import csv_cell
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline

GAP_PERIODS = 1.5
"""An interval of more median intervals is a gap: a sample or more is missing."""

_JITTER_SHARE = 0.95  # of the intervals
_MOST_RATES = 2.0  # between recordings of one stream
_MOST_DUPLICATES = 0.01
_MOST_APART_S = 60.0
_FEW_RECORDINGS = 20  # so many are printed one by one


@dataclasses.dataclass(frozen=True)
class StreamClock:
    """The clock of one stream of one recording; NaN where there is no such value.

    Attributes:
      recording: its name.
      stream: its name.
      samples: number of samples.
      clips: number of clips; intervals between clips do not count.
      rate_hz: samples a second, by the median interval.
      jitter_s: 95 % of the intervals are nearer than this to the median, seconds.
      gaps: intervals of more than `GAP_PERIODS` median intervals.
      longest_gap_s: length of the longest gap, seconds.
      longest_gap_at_s: when it begins, seconds on the recording's clock.
      duplicates: samples with the time of the sample before.
      start_s: time of the first sample, seconds on the recording's clock.
      end_s: time of the last.
      starts_after_s: how much later it starts than the reference stream, seconds; of
        several clips in the one where that is most, either way. NaN: it is that stream.
      ends_after_s: how much later it ends.
    """

    recording: str
    stream: str
    samples: int
    clips: int
    rate_hz: float
    jitter_s: float
    gaps: int
    longest_gap_s: float
    longest_gap_at_s: float
    duplicates: int
    start_s: float
    end_s: float
    starts_after_s: float
    ends_after_s: float


_HEADER = {
    "recording": "recording",
    "stream": "stream",
    "samples": "samples",
    "rate_hz": "rate Hz",
    "jitter_s": "jitter s",
    "gaps": "gaps",
    "longest_gap_s": "longest s",
    "longest_gap_at_s": "at s",
    "duplicates": "same time",
    "start_s": "start s",
    "end_s": "end s",
    "starts_after_s": "starts after s",
    "ends_after_s": "ends after s",
}

# What is bad about a clock, each the more the larger.
_FAULTS: Sequence[Callable[[StreamClock], float]] = (
    lambda clock: clock.jitter_s * clock.rate_hz,
    lambda clock: float(clock.gaps),
    lambda clock: clock.longest_gap_s,
    lambda clock: clock.duplicates / clock.samples,
    lambda clock: abs(clock.starts_after_s),
    lambda clock: abs(clock.ends_after_s),
)


def measure(timelines: Sequence[Timeline], *, reference: str) -> list[StreamClock]:
    """Measures every stream of every recording.

    Args:
      timelines: the recordings.
      reference: the stream that starts and ends are told against; the first one where
        a recording lacks it.
    """
    clocks = []
    for timeline in timelines:
        first = next(iter(timeline.streams))
        against = reference if reference in timeline.streams else first
        spans = {name: _spans(stream) for name, stream in timeline.streams.items()}
        for name, stream in timeline.streams.items():
            starts_s, ends_s = (
                _most_after_s(spans[name], spans[against], end)
                if name != against
                else math.nan
                for end in (0, 1)
            )
            clocks.append(
                StreamClock(
                    recording=timeline.name,
                    stream=name,
                    clips=len(spans[name]),
                    starts_after_s=starts_s,
                    ends_after_s=ends_s,
                    **_intervals(stream),
                )
            )
    return clocks


def warnings(clocks: Sequence[StreamClock]) -> list[str]:
    """Returns a line for each rule and stream that recordings break, with the worst."""
    found = []
    for stream, own in _by_stream(clocks).items():
        found += _different_rates(stream, own)
        found += _worst(
            [c for c in own if c.duplicates > _MOST_DUPLICATES * c.samples],
            lambda c: c.duplicates / c.samples,
            lambda c: (
                f"at most {_MOST_DUPLICATES:.0%} of the samples may have the time of "
                f"the sample before; got {c.duplicates / c.samples:.1%}; export their "
                "times with all digits"
            ),
        )
        found += _worst(
            [c for c in own if abs(c.starts_after_s) > _MOST_APART_S],
            lambda c: abs(c.starts_after_s),
            lambda c: (
                f"streams should start within {_MOST_APART_S:g} s; got one "
                f"{abs(c.starts_after_s):.6g} s "
                f"{'later' if c.starts_after_s > 0 else 'earlier'} than the reference; "
                "correct the offset between the clocks, or cut what only one has"
            ),
        )
    return found


def table(
    clocks: Sequence[StreamClock], *, few: int = _FEW_RECORDINGS
) -> list[list[str]]:
    """Returns rows of cells to print, with a header.

    Of more than a few recordings: the least, median and most of each stream, and the
    recordings that are worst in something.

    Args:
      clocks: as from `measure`.
      few: so many recordings are told one by one.
    """
    rows = [[*_HEADER.values()]]
    if len({clock.recording for clock in clocks}) <= few:
        return rows + [_cells(dataclasses.asdict(clock)) for clock in clocks]
    for stream, own in _by_stream(clocks).items():
        rows += _summary(stream, own)
        worst = {_worst_of(own, fault) for fault in _FAULTS}
        rows += [_cells(dataclasses.asdict(c)) for c in own if c in worst]
    return rows


def csv_text(clocks: Sequence[StreamClock]) -> str:
    """Returns a CSV table, a row a stream of a recording; empty where NaN."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(StreamClock))
    for clock in clocks:
        writer.writerow(map(_csv_cell, dataclasses.astuple(clock)))
    return file.getvalue()


def _csv_cell(value: str | int | float) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.12g}"
    return csv_cell(value)


def _intervals(stream: StreamTimeline) -> dict[str, Any]:
    time_s = stream.time_s
    steps = np.diff(time_s)
    inside = np.diff(stream.clip) == 0
    positive = steps[inside & (steps > 0)]
    usual_s = float(np.median(positive)) if len(positive) else math.nan
    gap = inside & (steps > GAP_PERIODS * usual_s)
    longest = int(np.argmax(np.where(gap, steps, -1.0))) if gap.any() else None
    return {
        "samples": len(time_s),
        "rate_hz": 1 / usual_s,
        "jitter_s": _jitter_s(positive, usual_s),
        "gaps": int(gap.sum()),
        "longest_gap_s": math.nan if longest is None else float(steps[longest]),
        "longest_gap_at_s": math.nan if longest is None else float(time_s[longest]),
        "duplicates": int((inside & (steps == 0)).sum()),
        "start_s": float(time_s[0]),
        "end_s": float(time_s[-1]),
    }


def _jitter_s(steps: Float[np.ndarray, "n"], usual_s: float) -> float:
    if not len(steps):
        return math.nan
    return float(np.quantile(np.abs(steps - usual_s), _JITTER_SHARE))


def _spans(stream: StreamTimeline) -> dict[int, tuple[float, float]]:
    """Start and end of each clip, seconds, by number of the clip."""
    first = np.flatnonzero(np.diff(stream.clip, prepend=stream.clip[0] - 1))
    last = np.append(first[1:], len(stream.clip)) - 1
    ends = zip(stream.time_s[first].tolist(), stream.time_s[last].tolist(), strict=True)
    return dict(zip(stream.clip[first].tolist(), ends, strict=True))


def _most_after_s(
    spans: Mapping[int, tuple[float, float]],
    other: Mapping[int, tuple[float, float]],
    end: int,
) -> float:
    """How much later a stream starts (0) or ends (1), in the clip with the most."""
    after_s = [spans[clip][end] - other[clip][end] for clip in spans if clip in other]
    return max(after_s, key=abs, default=math.nan)


def _by_stream(clocks: Sequence[StreamClock]) -> dict[str, list[StreamClock]]:
    found: dict[str, list[StreamClock]] = {}
    for clock in clocks:
        found.setdefault(clock.stream, []).append(clock)
    return found


def _different_rates(stream: str, clocks: Sequence[StreamClock]) -> list[str]:
    rated = [clock for clock in clocks if math.isfinite(clock.rate_hz)]
    if not rated:
        return []
    usual_hz = float(np.median([clock.rate_hz for clock in rated]))
    rated.sort(key=lambda clock: abs(math.log(clock.rate_hz / usual_hz)))
    odd = rated[-1]
    other = max(rated, key=lambda c: abs(math.log(c.rate_hz / odd.rate_hz)))
    ratio = max(odd.rate_hz / other.rate_hz, other.rate_hz / odd.rate_hz)
    if ratio <= _MOST_RATES:
        return []
    return [
        f"{odd.recording}, stream {stream!r}: recordings should have one rate, within "
        f"a factor of {_MOST_RATES:g}; got {odd.rate_hz:.4g} Hz, and "
        f"{other.rate_hz:.4g} Hz in {other.recording}; check the unit of its times, "
        "and that rows are not missing"
    ]


def _worst(
    clocks: Sequence[StreamClock],
    fault: Callable[[StreamClock], float],
    said: Callable[[StreamClock], str],
) -> list[str]:
    """Returns a line about the recording that breaks a rule most, if any does."""
    if not clocks:
        return []
    worst = max(clocks, key=fault)
    others = f" (and {len(clocks) - 1} more recordings)" if len(clocks) > 1 else ""
    return [f"{worst.recording}, stream {worst.stream!r}{others}: {said(worst)}"]


def _summary(stream: str, clocks: Sequence[StreamClock]) -> list[list[str]]:
    """Returns the least, median and most of each value, without those that are NaN."""
    rows = []
    for name, share in (("least", 0.0), ("median", 0.5), ("most", 1.0)):
        values: dict[str, str | int | float] = {
            "recording": f"{name} of {len(clocks)}",
            "stream": stream,
        }
        for key in [*_HEADER][2:]:
            own = np.array([getattr(clock, key) for clock in clocks], float)
            known = own[~np.isnan(own)]
            values[key] = float(np.quantile(known, share)) if known.size else math.nan
        rows.append(_cells(values))
    return rows


def _worst_of(
    clocks: Sequence[StreamClock], fault: Callable[[StreamClock], float]
) -> StreamClock | None:
    """Returns the clock with most of a fault; None where none has any."""
    faulty = [clock for clock in clocks if fault(clock) > 0]
    return max(faulty, key=fault, default=None)


def _cells(values: Mapping[str, str | int | float]) -> list[str]:
    return [_cell(values[key]) for key in _HEADER]


def _cell(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{round(value, 6):.7g}"
