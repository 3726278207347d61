"""What every recording must satisfy, wherever it came from."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Shaped

from fmalign_jax.data.clocks import LATEST_S
from fmalign_jax.structs import LARGEST, UNLABELLED, Recording, Stream

_LEAST_OVERLAP = 0.5
_MOST_ALIKE = 0.5
_DAYS = (
    "; numbers such as 45356.3 are days, as a spreadsheet counts them: give that "
    "column the form of a date and time, and export it again"
)
"""Share of samples with the time of the one before; a clock may stumble, not stand."""
VALUE_DTYPES = ("uint8", "int32", "float32")


def check_recording(
    recording: Recording,
    where: str | pathlib.Path,
    *,
    sources: Mapping[str, str] | None = None,
) -> None:
    """Refuses a recording that could not be aligned or trained on.

    Args:
      recording: the recording to check.
      where: file or folder it came from, named in every error.
      sources: where each stream came from, such as "x.npz, key 'sensor'", if that
        says more than `where`.

    Raises:
      ValueError: the first rule that is broken, what came, and what to do.
    """
    if not recording.streams:
        raise ValueError(
            f"{where}: a recording needs a stream; got none; record video or current"
        )
    for name, stream in recording.streams.items():
        source = (sources or {}).get(name, f"{where}, stream {name!r}")
        _check_shapes(stream, source)
        _check_frames(name, stream, source)
        _check_values(stream, source)
        _check_time(stream, source)
        _check_names(stream.label, recording.label_names, f"{source}, labels")
        _check_clips(stream, recording.clip_names, source)
    _check_common_clock(recording, str(where))
    _check_partition(recording, str(where))


def _check_shapes(stream: Stream, source: str) -> None:
    samples = len(stream.values) if stream.values.ndim else 0
    if not samples:
        raise ValueError(
            f"{source}: a stream needs samples; got shape {stream.values.shape}; "
            "remove the stream or record it again"
        )
    if stream.values.dtype.name not in VALUE_DTYPES:
        raise ValueError(
            f"{source}: values must be one of {', '.join(VALUE_DTYPES)}; got "
            f"{stream.values.dtype}; convert them"
        )
    for key in ("time_s", "clip", "label"):
        shape = getattr(stream, key).shape
        if shape != (samples,):
            raise ValueError(
                f"{source}: {key} must have one entry a sample, shape ({samples},); "
                f"got {shape}; write one for each"
            )
    channels = stream.values.shape[-1]
    if stream.channel_names and channels != len(stream.channel_names):
        raise ValueError(
            f"{source}: each of the {channels} channels needs one name; got "
            f"{len(stream.channel_names)}; correct the names or leave them out"
        )


def _check_frames(name: str, stream: Stream, source: str) -> None:
    shape = stream.values.shape
    if name != "video" or stream.values.dtype != np.uint8:
        return
    if len(shape) != 4 or shape[-1] not in (1, 3):
        raise ValueError(
            f"{source}: frames uint8 must be [N, H, W, 3], or [N, H, W, 1] if grey; "
            f"got shape {shape}; move the colours to the last axis and drop others"
        )


def _check_values(stream: Stream, source: str) -> None:
    if stream.values.dtype.kind != "f":
        return
    # Sample by sample would be slow, all at once would double large feature maps.
    for start in range(0, len(stream.values), 4096):
        sound = np.abs(stream.values[start : start + 4096]) <= LARGEST
        if not sound.all():
            place = np.argwhere(~sound)[0]
            place[0] += start
            raise ValueError(
                f"{source}: values must be finite, and at most {LARGEST:g}; got "
                f"{stream.values[tuple(place)]} at index {place.tolist()} "
                f"({stream.time_s[place[0]]:.6g} s); interpolate or cut out that "
                "sample"
            )


def _check_time(stream: Stream, source: str) -> None:
    finite = np.isfinite(stream.time_s)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ValueError(
            f"{source}: times must be finite; got {stream.time_s[index]} at index "
            f"{index}; cut out that sample"
        )
    far = np.abs(stream.time_s) > LATEST_S
    if far.any():
        index = int(np.argmax(far))
        raise ValueError(
            f"{source}: times must be seconds, at most those of the year 9999; got "
            f"{stream.time_s[index]:.6g} at index {index}; convert them, or cut out "
            "that sample"
        )
    back = (np.diff(stream.time_s) < 0) & (np.diff(stream.clip) == 0)
    if back.any():
        index = int(np.argmax(back)) + 1
        raise ValueError(
            f"{source}: time must not go back within a clip; got "
            f"{stream.time_s[index]:.6g} s after {stream.time_s[index - 1]:.6g} s at "
            f"index {index}; sort the samples by time or split them into clips"
        )
    alike = (np.diff(stream.time_s) == 0) & (np.diff(stream.clip) == 0)
    if alike.sum() > _MOST_ALIKE * (len(stream.time_s) - 1):
        raise ValueError(
            f"{source}: samples must have times of their own; got {alike.sum()} of "
            f"{len(stream.time_s)} with the time of the sample before; write times "
            "with all their digits, as float64"
        )


def _check_names(
    number: Int[np.ndarray, "N"], names: tuple[str, ...], source: str
) -> None:
    bad = number < UNLABELLED
    if names:
        bad |= number >= len(names)
    if bad.any():
        index = int(np.argmax(bad))
        upper = f"0 to {len(names) - 1}" if names else "0 or more"
        raise ValueError(
            f"{source}: must be {upper}, or {UNLABELLED} for unknown; got "
            f"{number[index]} at index {index}; correct it or name that class"
        )


def _check_clips(stream: Stream, names: tuple[str, ...], source: str) -> None:
    first = _clip_starts(stream.clip)
    clips = stream.clip[first]
    if len(np.unique(clips)) != len(clips):
        again = next(i for i in range(len(clips)) if clips[i] in clips[:i])
        raise ValueError(
            f"{source}: the samples of a clip must lie together; got clip "
            f"{clips[again]} again at index {first[again]}; sort the samples by clip"
        )
    if clips.min() < 0 or (names and clips.max() >= len(names)):
        raise ValueError(
            f"{source}: clip numbers must be 0 or more, and below the "
            f"{len(names) or 'any'} clip names; got {clips.min()} to {clips.max()}; "
            "correct clip_names or the clip numbers"
        )


def _clip_starts(clip: Int[np.ndarray, "N"]) -> Int[np.ndarray, "clips"]:
    return np.flatnonzero(np.diff(clip, prepend=clip[0] - 1))


def _check_common_clock(recording: Recording, where: str) -> None:
    spans = {name: _clip_spans(stream) for name, stream in recording.streams.items()}
    for (one, ours), (other, theirs) in itertools.combinations(spans.items(), 2):
        lonely = sorted(ours.keys() ^ theirs.keys())
        if lonely:
            raise ValueError(
                f"{where}: every clip must be in every stream; got clip {lonely[0]} in "
                f"only one of {one!r} and {other!r}; remove it or add the other part"
            )
        for clip, (start, stop) in ours.items():
            if max(start, theirs[clip][0]) > min(stop, theirs[clip][1]):
                raise ValueError(
                    f"{where}: streams must share one clock and overlap in time; got "
                    f"{one!r} from {start:.6g} to {stop:.6g} s and {other!r} from "
                    f"{theirs[clip][0]:.6g} to {theirs[clip][1]:.6g} s in clip {clip}; "
                    "correct the offset between the clocks, and give times in seconds"
                    + _DAYS
                    * (_is_days(start, stop) or _is_days(*theirs[clip]))
                )
        _check_overlap(recording, (one, other), where)


def _is_days(start: float, stop: float) -> bool:
    """Whether times look like the days since 1900 that a spreadsheet counts."""
    return 20_000 < start <= stop < 80_000 and stop - start < 10


def _check_overlap(recording: Recording, pair: tuple[str, str], where: str) -> None:
    """Refuses two streams of which one covers less than half of the other's time."""
    one, other = (_covered(recording.streams[name]) for name in pair)
    # A lone sample may stand for any stretch of time.
    clips = [clip for clip in one if one[clip][0] < one[clip][1]]
    clips = [clip for clip in clips if other[clip][0] < other[clip][1]]
    common_s = longer_s = 0.0
    for clip in clips:
        starts, stops = zip(one[clip], other[clip], strict=True)
        common_s += min(stops) - max(starts)
        longer_s += max(np.subtract(stops, starts))
    if common_s < _LEAST_OVERLAP * longer_s:
        raise ValueError(
            f"{where}: streams must cover the same time, or at least half of it; got "
            f"{pair[0]!r} and {pair[1]!r} with {common_s:.6g} s in common, where the "
            f"longer has {longer_s:.6g} s; give all times in seconds, correct the "
            "offset between the clocks, copy the file again if it was cut short, or "
            "leave out what only one has"
        )


def _covered(stream: Stream) -> dict[int, tuple[float, float]]:
    """The time that each clip covers: a sample stands for the time around it."""
    steps = np.diff(stream.time_s)[np.diff(stream.clip) == 0]
    half_s = float(np.median(steps[steps > 0])) / 2 if (steps > 0).any() else 0.0
    return {
        clip: (start - half_s, stop + half_s) if start < stop else (start, stop)
        for clip, (start, stop) in _clip_spans(stream).items()
    }


def _clip_spans(stream: Stream) -> dict[int, tuple[float, float]]:
    first = _clip_starts(stream.clip)
    last = np.append(first[1:], len(stream.clip)) - 1
    columns: list[Shaped[np.ndarray, "clips"]] = [
        stream.clip[first],
        stream.time_s[first],
        stream.time_s[last],
    ]
    clips, starts, stops = (column.tolist() for column in columns)
    return dict(zip(clips, zip(starts, stops, strict=True), strict=True))


def _check_partition(recording: Recording, where: str) -> None:
    spans = [
        (start, stop, part)
        for part, pairs in recording.partition.items()
        for start, stop in pairs
    ]
    for start, stop, part in spans:
        if not start < stop:
            raise ValueError(
                f"{where}: a span of split {part!r} must begin before it ends; got "
                f"{start} to {stop} s; correct it"
            )
    for (_, stop, part), (start, _, other) in itertools.pairwise(sorted(spans)):
        if start < stop:
            raise ValueError(
                f"{where}: spans of splits must not overlap; got {part!r} until "
                f"{stop:.6g} s and {other!r} from {start:.6g} s; correct the split"
            )
