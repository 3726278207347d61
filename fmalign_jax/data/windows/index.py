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
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64
from numpy import ndarray

from fmalign_jax.data.store.timelines import Timeline
from fmalign_jax.data.windows import splits
from fmalign_jax.data.windows.splits import SPLITS, SplitSpec
from fmalign_jax.data.windows.ticks import Ticks, WindowSpec, align, whole_ticks

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
    start: Int64[ndarray, " N"]
    window_ticks: int
    by: str

    def __len__(self) -> int:
        return len(self.start)

    @functools.cached_property
    def recording(self) -> Int32[ndarray, " N"]:
        """Returns the number of each window's recording."""
        return self.ticks.recording[self.start]

    @functools.cached_property
    def clip(self) -> Int32[ndarray, " N"]:
        """Returns the clip of each window."""
        return self.ticks.clip[self.start]

    @functools.cached_property
    def time_s(self) -> Float64[ndarray, " N"]:
        """Returns the centre of each window on the reference clock, in seconds."""
        last = self.start + self.window_ticks - 1
        return (self.ticks.start_s[self.start] + self.ticks.end_s[last]) / 2

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
    ) -> dict[str, Int64[ndarray, "... T _"]]:
        """Returns, by stream, the positions of the samples that windows read."""
        rows = self.rows(window)
        return {name: table[rows] for name, table in self.ticks.samples.items()}

    def reads(self, stream: str) -> tuple[Int64[ndarray, " S"], Int64[ndarray, " S"]]:
        """Returns each (recording, sample) that any window reads, once and in order."""
        keys = self.read_keys(stream)
        return keys >> _SAMPLE_BITS, keys & ((1 << _SAMPLE_BITS) - 1)

    def read_ticks(self) -> Int64[ndarray, " n"]:
        """Returns each tick that any window reads, once and in order."""
        read = np.zeros(len(self.ticks), bool)
        read[self.rows(np.arange(len(self)))] = True
        return np.flatnonzero(read)

    def keys(self, stream: str, tick: Int64[ndarray, " n"]) -> Int64[ndarray, "n _"]:
        """Returns one number for each (recording, sample) that ticks read."""
        recording = self.ticks.recording[tick, None].astype(np.int64)
        return recording << _SAMPLE_BITS | self.ticks.samples[stream][tick]

    def read_keys(self, stream: str) -> Int64[ndarray, " S"]:
        """Returns one sorted number for each (recording, sample) any window reads."""
        return np.unique(self.keys(stream, self.read_ticks()))


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
    start = _starts(ticks, dataclasses.replace(windows, stride_ticks=1), ticks.usable)
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
            shared = np.intersect1d(
                indexes[one].read_keys(stream),
                indexes[other].read_keys(stream),
                assume_unique=True,
            )
            if shared.size:
                raise ValueError(
                    f"splits must not share samples; got {shared.size} samples of "
                    f"{stream!r} in both {one!r} and {other!r} (the first: sample "
                    f"{shared[0] & ((1 << _SAMPLE_BITS) - 1)} of recording "
                    f"{shared[0] >> _SAMPLE_BITS}); keep the splits further apart with "
                    "a larger guard_s, or split by recording"
                )


def _laid(windows: WindowSpec, stride_ticks: int | None) -> dict[str, WindowSpec]:
    """Returns how the windows of each split are laid."""
    if stride_ticks is None:
        stride_ticks = windows.stride_ticks
    evaluation = dataclasses.replace(windows, stride_ticks=stride_ticks)
    return {split: windows if split == "train" else evaluation for split in SPLITS}


def _starts(
    ticks: Ticks, windows: WindowSpec, good: Bool[ndarray, " n"]
) -> Int64[ndarray, " N"]:
    """Returns the ticks at which T good ticks of one segment start, on the stride.

    The stride counts from the first tick of each run of good ticks, so that no run of T
    ticks or more is without a window.
    """
    n = windows.window_ticks
    stride = n if windows.mode == "clip" else windows.stride_ticks
    fresh = np.diff(ticks.segment, prepend=-1) != 0
    begins = good & (fresh | ~np.append(False, good)[:-1])
    tick = np.flatnonzero(good)
    _, first, run, length = np.unique(
        np.cumsum(begins)[tick],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    offset = np.arange(len(tick)) - first[run]
    return tick[(offset % stride == 0) & (offset + n <= length[run])]


def _log_short_clips(
    ticks: Ticks, timelines: Sequence[Timeline], windows: WindowSpec
) -> None:
    """Says how many clips are too short for a window; a recording is at least one."""
    reference = windows.reference_stream
    clips = sum(len(np.unique(t.streams[reference].clip)) for t in timelines)
    short = clips - int((np.bincount(ticks.segment) >= windows.window_ticks).sum())
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
    lengths = np.bincount(ticks.segment) if len(ticks) else np.zeros(1, int)
    longest = int(lengths.max())
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
