"""The window index: which samples each window of each split reads.

The steps: clocks -> ticks (`ticks.py`, where the lead is applied) -> a split for each
tick (`splits.py`) -> windows of T ticks that are all usable, in one clip and in one
split. Nothing is stored, so that another lead needs no new preparation.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Container, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64
from numpy import ndarray

from fmalign_jax.data.store.timelines import Timeline
from fmalign_jax.data.windows import splits
from fmalign_jax.data.windows.align import align
from fmalign_jax.data.windows.spec import WindowSpec, whole_ticks
from fmalign_jax.data.windows.splits import SPLITS, SplitSpec
from fmalign_jax.data.windows.ticks import Ticks, smallest_int

__all__ = [
    "SplitSpec",
    "WindowIndex",
    "WindowSpec",
    "assert_no_leak",
    "build_index",
    "nearest_windows",
    "whole_ticks",
]

_SAMPLE_BITS = 40  # of a key (recording, sample); the rest number the recording


def spread(number: int, most: int) -> Int64[ndarray, " n"]:
    """Returns at most `most` of the numbers 0 to `number` - 1, evenly spread."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))


@dataclasses.dataclass(frozen=True)
class WindowIndex:
    """The windows of one split, in order of recording name, clip and time.

    Attributes:
      ticks: all ticks, shared by the splits.
      start: [N], first tick of each window.
      window_ticks: ticks T in a window.
      by: how the splits were made: "recording", "clip", "block" or "given".
    """

    ticks: Ticks
    start: Int[ndarray, " N"]
    window_ticks: int
    by: str

    def __len__(self) -> int:
        return len(self.start)

    @functools.cached_property
    def recording(self) -> Int32[ndarray, " N"]:
        """Returns the number of each window's recording."""
        return self.recording_of(np.arange(len(self)))

    @functools.cached_property
    def clip(self) -> Int32[ndarray, " N"]:
        """Returns the clip of each window."""
        return self.ticks.segments.clip[self.ticks.segments.of(self.start)]

    @functools.cached_property
    def time_s(self) -> Float64[ndarray, " N"]:
        """Returns the centre of each window on the reference clock, in seconds."""
        return self.centre_s(np.arange(len(self)))

    def recording_of(self, window: Int[ndarray, "..."]) -> Int32[ndarray, "..."]:
        """Returns the numbers of the recordings of windows."""
        segments = self.ticks.segments
        return segments.recording[segments.of(self.start[window])]

    def centre_s(self, window: Int[ndarray, "..."]) -> Float64[ndarray, "..."]:
        """Returns the centres of windows on the reference clock, in seconds."""
        first = self.start[window]
        start_s, _ = self.ticks.span_s(first)
        _, end_s = self.ticks.span_s(first + self.window_ticks - 1)
        return (start_s + end_s) / 2

    def by_recording(self) -> dict[int, slice]:
        """Returns the windows of each recording that has any, in order of its number.

        The windows must be in order.
        """
        of_ticks = self.ticks.segments.by_recording()
        bounds = [(own.start, own.stop) for own in of_ticks.values()]
        # In the type of `start`, which else is converted whole.
        keys = np.array(bounds, self.start.dtype).reshape(-1, 2)
        found = np.searchsorted(self.start, keys).tolist()
        pairs = zip(of_ticks, found, strict=True)
        return {n: slice(begin, end) for n, (begin, end) in pairs if begin < end}

    def spread(self, most: int) -> WindowIndex:
        """Returns at most so many of the windows, evenly spread over all."""
        return dataclasses.replace(self, start=self.start[spread(len(self), most)])

    def reading(self, stream: str) -> WindowIndex:
        """Returns the same windows, of which one stream alone is read."""
        samples = {stream: self.ticks.samples[stream]}
        ticks = dataclasses.replace(self.ticks, samples=samples)
        return dataclasses.replace(self, ticks=ticks)

    def rows(self, window: int | Int[ndarray, "..."]) -> Int64[ndarray, "... T"]:
        """Returns the ticks of windows."""
        return self.start[window, None] + np.arange(self.window_ticks)

    def label(self, window: int | Int[ndarray, "..."]) -> Int32[ndarray, "... T"]:
        """Returns the class of each tick of windows, -1 unknown."""
        return self.ticks.label[self.rows(window)]

    def samples(
        self, window: int | Int[ndarray, "..."]
    ) -> dict[str, Int[ndarray, "... T _"]]:
        """Returns, by stream, the positions of the samples that windows read."""
        rows = self.rows(window)
        return {name: table[rows] for name, table in self.ticks.samples.items()}

    def reads(self, stream: str) -> tuple[Int64[ndarray, " S"], Int64[ndarray, " S"]]:
        """Returns each (recording, sample) that any window reads, once and in order."""
        keys = self.read_keys(stream)
        return keys >> _SAMPLE_BITS, keys & ((1 << _SAMPLE_BITS) - 1)

    def read_samples(
        self, stream: str, recordings: Container[int] | None = None
    ) -> Iterator[tuple[int, Int64[ndarray, " s"]]]:
        """Gives the samples that any window reads, recording by recording.

        Args:
          stream: whose samples.
          recordings: numbers of those to go through, by default all.

        Yields:
          Number of the recording, in order, and its samples, each once and in order.
        """
        read, samples = self._is_read(), self.ticks.samples[stream]
        for number, own in self.ticks.segments.by_recording().items():
            asked = recordings is None or number in recordings
            if asked and read[own].any():
                yield number, _distinct(samples[own][read[own]])

    def read_ticks(self) -> Int64[ndarray, " n"]:
        """Returns each tick that any window reads, once and in order."""
        return np.flatnonzero(self._is_read())

    def _is_read(self) -> Bool[ndarray, " n"]:
        """Says of each tick whether any window reads it."""
        begin, end = _stretches(self.start, self.window_ticks)
        change = np.zeros(len(self.ticks) + 1, np.int8)
        change[begin] = 1
        change[end] = -1
        return np.cumsum(change, dtype=np.int8, out=change)[:-1].view(bool)

    def keys(self, stream: str, tick: Int64[ndarray, " n"]) -> Int64[ndarray, "n _"]:
        """Returns one number for each (recording, sample) that ticks read."""
        segments = self.ticks.segments
        recording = segments.recording[segments.of(tick), None].astype(np.int64)
        return recording << _SAMPLE_BITS | self.ticks.samples[stream][tick]

    def read_keys(self, stream: str) -> Int64[ndarray, " S"]:
        """Returns one sorted number for each (recording, sample) any window reads."""
        keys = [
            number << _SAMPLE_BITS | samples
            for number, samples in self.read_samples(stream)
        ]
        return np.concatenate(keys) if keys else np.zeros(0, np.int64)


def _distinct(samples: Int[ndarray, "..."]) -> Int64[ndarray, " s"]:
    """Returns each of the positions once and in order, without sorting them."""
    found = np.zeros(samples.max() + 1, bool)
    found[samples] = True
    return np.flatnonzero(found)


def _stretches(
    start: Int[ndarray, " N"], window_ticks: int
) -> tuple[Int[ndarray, " s"], Int[ndarray, " s"]]:
    """Returns begin and end of the stretches of ticks that windows cover together.

    No stretch begins where another ends.
    """
    if not len(start):
        return start, start
    if (start[1:] < start[:-1]).any():
        start = np.sort(start)
    last = np.flatnonzero(start[1:] - start[:-1] > window_ticks)
    return start[np.append(0, last + 1)], start[np.append(last, -1)] + window_ticks


def nearest_windows(
    start: Int[ndarray, " N"], window_ticks: int, ticks: int
) -> tuple[Int64[ndarray, " n"], Int64[ndarray, " n"]]:
    """Returns for each tick the window whose centre is nearest, and its place in it.

    Args:
      start: first tick of each window, in order.
      window_ticks: ticks T in a window.
      ticks: n, how many ticks there are.

    Returns:
      Number of the window, -1 where none covers the tick, and position within it.
    """
    row = np.full(ticks, -1, np.int64)
    position = np.zeros(ticks, np.int64)
    places = np.arange(window_ticks)
    from_centre = np.abs(places - (window_ticks - 1) / 2)
    # What is nearer to a centre is written later, over what is farther.
    for place in places[np.argsort(-from_centre, kind="stable")]:
        row[start + place] = np.arange(len(start))
        position[start + place] = place
    return row, position


def build_index(
    timelines: Sequence[Timeline],
    windows: WindowSpec,
    split: SplitSpec,
    *,
    evaluation_stride_ticks: int | None = None,
) -> dict[str, WindowIndex]:
    """Finds all windows of all recordings and divides them into splits.

    Which tick belongs to which split depends on where windows could start at all, not
    on the stride: another stride gives other windows of the same splits.

    Args:
      timelines: the clocks of the recordings, in any order.
      windows: how windows are laid; its lead is applied here.
      split: how to divide them.
      evaluation_stride_ticks: stride of the validation and test windows; by default
        that of `windows`, which the training windows have.

    Returns:
      An index for each of "train", "validation" and "test"; those not asked for are
      empty.

    Raises:
      ValueError: no window fits, a split that was asked for is empty, two splits share
        samples, or the recordings do not fit the specs.
    """
    ticks = align(timelines, windows)
    # One window of each run of usable ticks tells which clips have any.
    sparse = dataclasses.replace(windows, stride_ticks=max(1, len(ticks)))
    start = _starts(ticks, sparse, ticks.usable)
    if not len(start):
        raise ValueError(_why_none(ticks, windows))
    _log_short_clips(ticks, timelines, windows)
    split = dataclasses.replace(
        split, by=splits.resolve_way(ticks, start, windows, split)
    )
    code = splits.assign(ticks, start, timelines, windows, split)
    indexes = {
        name: WindowIndex(
            ticks,
            _starts(ticks, laid, ticks.usable & (code == SPLITS.index(name))),
            windows.window_ticks,
            split.by,
        )
        for name, laid in _laid(windows, evaluation_stride_ticks).items()
    }
    _check_not_empty(indexes, windows, split)
    assert_no_leak(indexes)
    counts = {name: len(index) for name, index in indexes.items()}
    logging.getLogger(__name__).info("windows split by %s: %s", split.by, counts)
    return indexes


def assert_no_leak(indexes: Mapping[str, WindowIndex]) -> None:
    """Checks that no two splits read the same sample of a stream.

    Raises:
      ValueError: two do.
    """
    for one, other in itertools.combinations(indexes, 2):
        for stream in indexes[one].ticks.samples:
            shared = _shared(indexes[one], indexes[other], stream)
            if shared:
                number, sample = shared[0]
                raise ValueError(
                    f"splits must not share samples; got {len(shared)} samples of "
                    f"{stream!r} in both {one!r} and {other!r} (the first: sample "
                    f"{sample} of recording {number}); keep the splits further apart "
                    "with a larger guard_s, or split by recording"
                )


def _shared(one: WindowIndex, other: WindowIndex, stream: str) -> list[tuple[int, int]]:
    """Returns the (recording, sample) that two splits both read, in order."""
    both = one.by_recording().keys() & other.by_recording().keys()
    if not both:
        return []
    found = []
    # A recording at a time: the samples of all would be many to hold and to sort.
    pairs = zip(
        one.read_samples(stream, both), other.read_samples(stream, both), strict=True
    )
    for (number, mine), (_, theirs) in pairs:
        shared = np.intersect1d(mine, theirs, assume_unique=True)
        found += [(number, sample) for sample in shared.tolist()]
    return found


def _laid(windows: WindowSpec, stride_ticks: int | None) -> dict[str, WindowSpec]:
    """Returns how the windows of each split are laid."""
    if stride_ticks is None:
        stride_ticks = windows.stride_ticks
    evaluation = dataclasses.replace(windows, stride_ticks=stride_ticks)
    return {split: windows if split == "train" else evaluation for split in SPLITS}


def _starts(
    ticks: Ticks, windows: WindowSpec, good: Bool[ndarray, " n"]
) -> Int[ndarray, " N"]:
    """Returns the ticks at which T good ticks of one segment start, on the stride.

    The stride counts from the first tick of each run of good ticks, so that no run of T
    ticks or more is without a window.
    """
    n = windows.window_ticks
    stride = n if windows.mode == "clip" else windows.stride_ticks
    stride = min(stride, max(1, len(ticks)))  # none is longer
    begin, end = _runs(ticks, good)
    long = end - begin >= n
    begin, end = begin[long], end[long]
    count = (end - begin - n) // stride + 1
    # Steps from window to window, summed up in place: no number is stored twice.
    start = np.full(count.sum(), stride, smallest_int(len(ticks)))
    before = np.append(0, begin + (count - 1) * stride)[:-1]
    start[np.cumsum(count) - count] = begin - before
    return np.cumsum(start, dtype=start.dtype, out=start)


def _runs(
    ticks: Ticks, good: Bool[ndarray, " n"]
) -> tuple[Int64[ndarray, " r"], Int64[ndarray, " r"]]:
    """Returns begin and end of each run of good ticks within a segment."""
    changes = np.flatnonzero(good[1:] != good[:-1]) + 1
    edges = np.union1d(changes, ticks.segments.first)
    begin, end = edges[:-1], edges[1:]
    own = good[begin]
    return begin[own], end[own]


def _log_short_clips(
    ticks: Ticks, timelines: Sequence[Timeline], windows: WindowSpec
) -> None:
    """Says how many clips are too short for a window; a recording is at least one."""
    reference = windows.reference_stream
    clips = sum(len(np.unique(t.streams[reference].clip)) for t in timelines)
    short = clips - int((ticks.segments.lengths >= windows.window_ticks).sum())
    if short and windows.mode == "sliding":
        logging.getLogger(__name__).warning(
            "%d of %d clips are shorter than a window of %d ticks of %g s and are left "
            "out; take each clip as one window (configs/recordings.py:clips) or use a "
            "smaller tick_s",
            short,
            clips,
            windows.window_ticks,
            windows.tick_s,
        )


def _why_none(ticks: Ticks, windows: WindowSpec) -> str:
    """Says why no window fits anywhere."""
    longest = int(ticks.segments.lengths.max(initial=0))
    asked = f"{windows.window_ticks} ticks of {windows.tick_s:g} s"
    if longest < windows.window_ticks and windows.mode == "sliding":
        return (
            f"a window must fit into a recording (or clip); got windows of {asked}, "
            f"and the longest is {longest} ticks = {longest * windows.tick_s:g} s; use "
            "shorter windows or longer recordings"
        )
    return (
        f"a window needs {windows.window_ticks} ticks in a row for which every stream "
        f"has samples near enough; got {int(ticks.usable.sum())} such ticks of "
        f"{len(ticks)} (lead_s={windows.lead_s:g}, max_gap_s={windows.max_gap_s}); "
        "check that the clocks of the streams overlap, use a smaller lead_s, shorter "
        "windows or a larger max_gap_s"
    )


def _check_not_empty(
    indexes: Mapping[str, WindowIndex], windows: WindowSpec, split: SplitSpec
) -> None:
    """Refuses an empty split that was asked for."""
    for name, index in indexes.items():
        if split.requested(name) and not len(index):
            counts = {other: len(windows) for other, windows in indexes.items()}
            raise ValueError(
                f"the {name} split must have windows; got {counts}, split by "
                f"{split.by!r} with windows of {windows.window_ticks} ticks kept "
                f"{windows.guard_ticks} ticks apart in blocks; use more or longer "
                "recordings, shorter windows, a smaller lead_s, another way to split "
                f"(by=...), or other shares (validation={split.validation:g}, "
                f"test={split.test:g})"
            )
