"""What a folder holds, as one table for people."""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fmalign_jax.data import clock_report, dataset
from fmalign_jax.data.clock_report import StreamClock
from fmalign_jax.first_config.choices import Choice
from fmalign_jax.first_config.survey import (
    NO_LABEL,
    REFERENCE,
    Kind,
    Seen,
    Survey,
    common_s,
)
from fmalign_jax.first_config.words import counted, plain, rounded, seconds

_WIDTH = 76  # of the last column
_SAME_S = 0.0005
_FEW_RECORDINGS = 20  # so many are told one by one


def table(survey: Survey) -> list[list[str]]:
    """Returns rows of three cells to print: what, of what, and what was found.

    Recordings, streams, labels, clocks and their gaps, and what was left out.
    """
    rows = [["what", "of", "found"]]
    if survey.seen:
        rows.append(_recordings(survey))
        rows += _streams(survey)
        rows += _labels(survey)
        rows += _clocks(survey)
        rows += _gaps(survey)
        rows += [["warning", "clock", line] for line in _warnings(survey)]
    rows += [["left out", item.what, item.why] for item in survey.left_out]
    return [line for row in rows for line in wrapped(row)]


def open_rows(choice: Choice) -> list[list[str]]:
    """Returns rows to print of what is not decided: the setting, and what to do."""
    return [
        [key, line]
        for name, why in choice.open
        for key, _, line in wrapped([name or "-", "", why])
    ]


def wrapped(row: Sequence[str]) -> list[list[str]]:
    """Returns a row, and further ones for what does not fit into its last cell."""
    first, second, found = map(plain, row)
    lines = textwrap.wrap(found, _WIDTH, break_on_hyphens=False) or [""]
    return [[first, second, lines[0]], *(["", "", line] for line in lines[1:])]


def _recordings(survey: Survey) -> list[str]:
    kind = " in layout V2" if survey.source == dataset.BENCHMARK else ""
    names = ", ".join(seen.name for seen in survey.seen[:_FEW_RECORDINGS])
    if len(survey.seen) > _FEW_RECORDINGS:
        names += f" and {len(survey.seen) - _FEW_RECORDINGS} more"
    found = f"{names}, in {survey.folder}{kind}; both streams {_together(survey)}"
    return ["recordings", str(len(survey.seen)), found]


def _together(survey: Survey) -> str:
    """Says for how long both streams run, and in how long stretches."""
    stretch_s = survey.common_s()
    whole = seconds(float(stretch_s.sum()))
    if len(stretch_s) == 1:
        return whole
    of = "clips" if len(stretch_s) > len(survey.seen) else "recordings"
    least, usual, most = (
        seconds(float(np.quantile(stretch_s, share))) for share in (0.0, 0.5, 1.0)
    )
    if least == most:
        return f"{whole}: {len(stretch_s)} {of} of {usual}"
    return f"{whole}: {len(stretch_s)} {of} of {least} to {most}, usually {usual}"


def _streams(survey: Survey) -> Iterator[list[str]]:
    """Yields a row for each kind of each stream."""
    names = dict.fromkeys(name for seen in survey.seen for name in seen.kinds)
    for name in names:
        kinds: dict[Kind, list[Seen]] = collections.defaultdict(list)
        for seen in survey.seen:
            if name in seen.kinds:
                kinds[seen.kinds[name]].append(seen)
        for kind, alike in kinds.items():
            of = "all" if len(alike) == len(survey.seen) else _named(alike)
            yield [name, of, _stream(name, kind, alike, survey)]


def _named(alike: Sequence[Seen]) -> str:
    more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
    return f"{alike[0].name}{more}"


def _stream(name: str, kind: Kind, alike: Sequence[Seen], survey: Survey) -> str:
    own = {seen.name for seen in alike}
    rates = [
        c.rate_hz for c in survey.clocks if c.stream == name and c.recording in own
    ]
    units = sorted({seen.units[name] for seen in alike})
    if len(kind.shape) == 1:
        what = counted(kind.shape[0], "channel")
    else:
        what = f"{' x '.join(map(str, kind.shape))} {kind.dtype}".strip()
    if kind.channel_names:
        what += f" ({', '.join(kind.channel_names)})"
    unit = " or ".join(unit or "not known" for unit in units)
    return f"{what}; {_range(rates)} Hz; unit {unit}"


def _range(values: Sequence[float]) -> str:
    least, most = rounded(min(values)), rounded(max(values))
    return least if least == most else f"{least} to {most}"


def _labels(survey: Survey) -> Iterator[list[str]]:
    lengths = survey.class_seconds()
    if not lengths:
        yield ["labels", "none", "training needs none"]
        return
    known = [name for name in lengths if name != NO_LABEL]
    minutes = ", ".join(
        f"{name} {rounded(s / 60, 2)} min" for name, s in lengths.items()
    )
    yield ["labels", counted(len(known), "class", "classes"), minutes]


def _clocks(survey: Survey) -> Iterator[list[str]]:
    """Yields start, length, offset and overlap: by recording, or least and most."""
    by_name = _by_recording(survey.clocks)
    if len(survey.seen) > _FEW_RECORDINGS:
        yield ["clocks", f"{len(survey.seen)} recordings", _summary(survey)]
        return
    for seen in survey.seen:
        yield ["clock", seen.name, _clock(seen, by_name[seen.name], survey.leading)]


def _by_recording(
    clocks: Sequence[StreamClock],
) -> Mapping[str, Mapping[str, StreamClock]]:
    found: dict[str, dict[str, StreamClock]] = collections.defaultdict(dict)
    for clock in clocks:
        found[clock.recording][clock.stream] = clock
    return found


def _clock(seen: Seen, clocks: Mapping[str, StreamClock], leading: str) -> str:
    video, sensor = clocks[REFERENCE], clocks[leading]
    both_s = float(common_s(seen.timeline, leading).sum())
    clips = f" in {video.clips} clips" if video.clips > 1 else ""
    apart = any(abs(s) >= _SAME_S for s in (sensor.starts_after_s, sensor.ends_after_s))
    where = " (in the clip where that is most)" if apart and video.clips > 1 else ""
    told = (
        f"video {rounded(video.start_s)} to {rounded(video.end_s)} s{clips}; sensor "
        f"starts {_after(sensor.starts_after_s)} and ends {_after(sensor.ends_after_s)}"
        f"{where}; both run {seconds(both_s)}"
    )
    if seen.first_time:
        told += (
            f"; ASSUMED: the video begins with the first row of the CSV, "
            f"{seen.first_time}, for the two clocks do not meet as they are"
        )
    return told


def _after(later_s: float) -> str:
    if abs(later_s) < _SAME_S:
        return "with it"
    return f"{rounded(abs(later_s))} s {'after' if later_s > 0 else 'before'} it"


def _summary(survey: Survey) -> str:
    sensor = [clock for clock in survey.clocks if clock.stream == survey.leading]
    both_s = [
        float(common_s(timeline, survey.leading).sum()) for timeline in survey.timelines
    ]
    parts = [f"both streams {seconds(min(both_s))} to {seconds(max(both_s))}"]
    for key, verb in (("starts_after_s", "starts"), ("ends_after_s", "ends")):
        worst = max(sensor, key=lambda clock: abs(getattr(clock, key)))
        told = _after(getattr(worst, key))
        parts.append(f"the sensor {verb} at most {told} ({worst.recording})")
    assumed = [seen for seen in survey.seen if seen.first_time]
    if assumed:
        parts.append(
            f"ASSUMED in {len(assumed)}: the video begins with the first row of the "
            "CSV, for the two clocks do not meet as they are"
        )
    return "; ".join(parts)


def _gaps(survey: Survey) -> Iterator[list[str]]:
    """Yields where samples are missing, of many recordings the longest alone."""
    rule = f"longer than {clock_report.GAP_PERIODS:g} usual ones"
    found = [clock for clock in survey.clocks if clock.gaps]
    found.sort(key=lambda clock: -clock.longest_gap_s)
    for clock in found[:_FEW_RECORDINGS]:
        yield [
            "gaps",
            f"{clock.recording} {clock.stream}",
            f"{counted(clock.gaps, 'interval')} {rule}; the longest "
            f"{rounded(clock.longest_gap_s)} s, at {rounded(clock.longest_gap_at_s)} s",
        ]
    more = len(found) - _FEW_RECORDINGS
    if more > 0:
        yield ["gaps", f"{more} more", "shorter ones"]
    if not found:
        yield ["gaps", "none", f"no interval {rule}"]


def _warnings(survey: Survey) -> list[str]:
    return clock_report.warnings(survey.clocks)
