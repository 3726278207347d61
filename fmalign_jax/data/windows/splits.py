"""Which split each tick belongs to: by recording, by clip, by block, or as given."""

from __future__ import annotations

import dataclasses
import fnmatch
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int8
from numpy import ndarray

from fmalign_jax.data.store.timelines import Timeline
from fmalign_jax.data.windows.spec import WindowSpec
from fmalign_jax.data.windows.ticks import Ticks

SPLITS = ("train", "validation", "test")
NO_SPLIT = -1
"""The split code of ticks that no window may touch."""

WAYS = ("auto", "recording", "clip", "block", "given")

_LEAST_RECORDINGS = 3
_LEAST_CLIPS = 5
_ROUNDING_S = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How windows are divided into training, validation and test.

    Attributes:
      by: "recording"; "clip"; "block" for contiguous stretches of each recording, kept
        apart by at least a window + |lead|; "given" for the partition that came with
        the data (what it does not name is cut from its training part as blocks); or
        "auto": recordings if at least 3 have windows, else clips if at least 5 have,
        else blocks.
      validation: share of the units (recordings, clips, ticks) for validation.
      test: share of the units for test.
      seed: picks the units.
      guard_s: blocks: a gap longer than the least. Given: training ticks nearer than
        this to another part are dropped (window + |lead| is strict).
      validation_recordings: fnmatch patterns of recording names, or of
        "<recording>/<clip>" when split by clip, instead of a share.
      test_recordings: the same for test.
    """

    by: str = "auto"
    validation: float = 0.2
    test: float = 0.0
    seed: int = 0
    guard_s: float | None = None
    validation_recordings: tuple[str, ...] = ()
    test_recordings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise ValueError(f"split by must be one of {WAYS}; got {self.by!r}")
        shares = (self.validation, self.test)
        if min(shares) < 0 or sum(shares) >= 1:
            raise ValueError(
                "shares of validation and test must not be negative and leave some for "
                f"training; got {self.validation} and {self.test}"
            )
        if self.guard_s is not None and not self.guard_s >= 0:
            raise ValueError(f"guard_s must not be negative; got {self.guard_s}")
        patterned = self.validation_recordings or self.test_recordings
        if patterned and self.by in ("block", "given"):
            raise ValueError(
                f"patterns pick recordings or clips; got some with by={self.by!r}; use "
                "by='recording' or by='clip'"
            )

    def share(self, split: str) -> float:
        """Returns the share asked for of a split other than training."""
        return {"validation": self.validation, "test": self.test}[split]

    def patterns(self, split: str) -> tuple[str, ...]:
        """Returns the patterns asked for of a split other than training."""
        return {
            "validation": self.validation_recordings,
            "test": self.test_recordings,
        }[split]

    def requested(self, split: str) -> bool:
        """Says whether a split must not come out empty."""
        return split == "train" or self.share(split) > 0 or bool(self.patterns(split))


def resolve_way(
    ticks: Ticks, start: Int[ndarray, " N"], windows: WindowSpec, spec: SplitSpec
) -> str:
    """Says which way "auto" means for windows that start at some ticks."""
    if spec.by == "block" and windows.mode == "clip":
        raise ValueError(
            "windows of whole clips cannot be split by block; use by='clip'"
        )
    if spec.by != "auto":
        return spec.by
    patterned = spec.validation_recordings or spec.test_recordings
    segment = np.unique(ticks.segments.of(start))
    recordings = len(np.unique(ticks.segments.recording[segment]))
    if patterned or recordings >= _LEAST_RECORDINGS:
        return "recording"
    return "clip" if len(segment) >= _LEAST_CLIPS or windows.mode == "clip" else "block"


def assign(
    ticks: Ticks,
    start: Int[ndarray, " N"],
    timelines: Sequence[Timeline],
    windows: WindowSpec,
    spec: SplitSpec,
) -> Int8[ndarray, " n"]:
    """Gives each tick the position of its split in SPLITS, or NO_SPLIT.

    Args:
      ticks: all ticks.
      start: ticks at which windows may start, at least one of each clip that has any;
        recordings and clips without are not picked.
      timelines: the recordings.
      windows: how windows are laid; blocks keep clear of window + |lead|.
      spec: how to split; `by` already resolved.

    Raises:
      ValueError: patterns match nothing, or twice; a recording has no partition.
    """
    named = {timeline.number: timeline for timeline in timelines}
    segments = ticks.segments
    if spec.by in ("recording", "clip"):
        unit, names = segments.recording, _recording_names(named)
        if spec.by == "clip":
            unit, names = np.arange(len(segments.clip)), _clip_names(ticks, named)
        code = _by_unit(unit, np.unique(segments.of(start)), names, spec)
        return np.repeat(code, segments.lengths)
    code = np.zeros(len(ticks), np.int8)
    absent: tuple[str, ...] = SPLITS[1:]
    if spec.by == "given":
        code = _given(ticks, named, windows, spec)
        absent = tuple(
            s for s in absent if not any(s in t.partition for t in timelines)
        )
    parts = [(SPLITS.index(s), spec.share(s)) for s in absent if spec.share(s) > 0]
    gap = windows.guard_ticks
    if spec.guard_s is not None:
        gap = max(gap, int(np.ceil(spec.guard_s / windows.tick_s)))
    ticks_of = segments.by_recording()
    # By name, so that the order in which recordings come does not matter.
    for position, number in enumerate(sorted(named, key=lambda n: named[n].name)):
        own = ticks_of.get(number, slice(0, 0))
        rows = own.start + np.flatnonzero(ticks.usable[own] & (code[own] == 0))
        rng = np.random.default_rng([spec.seed, position])
        code[rows] = _blocks(len(rows), parts, windows.window_ticks, gap, rng)
    return code


def _recording_names(named: Mapping[int, Timeline]) -> dict[int, str]:
    return {number: timeline.name for number, timeline in named.items()}


def _clip_names(ticks: Ticks, named: Mapping[int, Timeline]) -> dict[int, str]:
    segments = ticks.segments
    pairs = zip(segments.recording.tolist(), segments.clip.tolist(), strict=True)
    names = {}
    for segment, (number, clip) in enumerate(pairs):
        timeline = named[number]
        known = 0 <= clip < len(timeline.clip_names)
        name = timeline.clip_names[clip] if known else str(clip)
        names[segment] = f"{timeline.name}/{name}"
    return names


def _by_unit(
    unit: Int[ndarray, " G"],
    segment: Int[ndarray, " g"],
    names: Mapping[int, str],
    spec: SplitSpec,
) -> Int8[ndarray, " G"]:
    """Gives whole recordings or clips to the splits: a code for each segment."""
    units = sorted(set(unit[segment].tolist()), key=lambda u: names[u])
    shuffled = np.random.default_rng(spec.seed).permutation(len(units))
    left = [units[i] for i in shuffled]
    code = np.zeros(len(unit), np.int8)
    for split in ("validation", "test"):
        if spec.patterns(split):
            picked = [u for u in units if _matches(names[u], spec.patterns(split))]
            if not picked or not set(picked) <= set(left):
                raise ValueError(
                    f"the {split} patterns must match recordings or clips that have "
                    f"windows and that no other pattern matches; got "
                    f"{spec.patterns(split)}; names are {_some(names.values())}"
                )
            left = [u for u in left if u not in set(picked)]
            code[np.isin(unit, picked)] = SPLITS.index(split)
    for split in ("validation", "test"):
        if spec.share(split) > 0 and not spec.patterns(split):
            n = max(1, round(spec.share(split) * len(units)))
            picked, left = left[:n], left[n:]
            code[np.isin(unit, picked)] = SPLITS.index(split)
    return code


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _some(names: Iterable[str], most: int = 10) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def _blocks(
    n: int,
    parts: Sequence[tuple[int, float]],
    window_ticks: int,
    gap: int,
    rng: np.random.Generator,
) -> Int8[ndarray, " n"]:
    """Cuts n ticks into stretches in random order, with gaps between them.

    What is too short to give every part a window goes to training whole.
    """
    code = np.zeros(n, np.int8)
    room = n - gap * len(parts)
    lengths = {k: max(window_ticks, round(share * room)) for k, share in parts}
    lengths[0] = room - sum(lengths.values())
    if not parts or lengths[0] < window_ticks:
        return code
    code[:] = NO_SPLIT
    at = 0
    for k in rng.permutation(list(lengths)).tolist():
        code[at : at + lengths[k]] = k
        at += lengths[k] + gap
    return code


def _given(
    ticks: Ticks,
    named: Mapping[int, Timeline],
    windows: WindowSpec,
    spec: SplitSpec,
) -> Int8[ndarray, " n"]:
    """Gives ticks that lie wholly within a span to that span's split."""
    code = np.full(len(ticks), NO_SPLIT, np.int8)
    strict_s = windows.guard_ticks * windows.tick_s if windows.mode == "sliding" else 0
    ticks_of = ticks.segments.by_recording()
    for number, timeline in named.items():
        _check_partition(timeline)
        own = ticks_of.get(number, slice(0, 0))
        start_s, end_s = ticks.span_s(np.arange(own.start, own.stop))
        of_own = code[own]  # a view
        near = np.zeros(len(of_own), bool)
        strictly_near = np.zeros(len(of_own), bool)
        for split, spans in timeline.partition.items():
            for span in spans:
                of_own[_within(start_s, end_s, span)] = SPLITS.index(split)
                if split != "train":
                    near |= _touches(start_s, end_s, span, spec.guard_s or 0.0)
                    strictly_near |= _touches(start_s, end_s, span, strict_s)
        of_own[near & (of_own == 0)] = NO_SPLIT
        if (strictly_near & (of_own == 0)).any():
            warnings.warn(
                f"in {timeline.name!r} training lies nearer than a window + |lead| = "
                f"{strict_s:g} s to other splits, so that both see the same moments in "
                f"different streams; guard_s={strict_s:g} drops those training windows",
                stacklevel=2,
            )
    return code


def _within(
    start_s: Float64[ndarray, " n"],
    end_s: Float64[ndarray, " n"],
    span: tuple[float, float],
) -> Bool[ndarray, " n"]:
    return (start_s >= span[0] - _ROUNDING_S) & (end_s <= span[1] + _ROUNDING_S)


def _touches(
    start_s: Float64[ndarray, " n"],
    end_s: Float64[ndarray, " n"],
    span: tuple[float, float],
    guard_s: float,
) -> Bool[ndarray, " n"]:
    return (end_s > span[0] - guard_s + _ROUNDING_S) & (
        start_s < span[1] + guard_s - _ROUNDING_S
    )


def _check_partition(timeline: Timeline) -> None:
    if not timeline.partition:
        raise ValueError(
            "by='given' needs recordings that came with a partition; got "
            f"{timeline.name!r} without; use by='recording' or by='block'"
        )
    unknown = set(timeline.partition) - set(SPLITS)
    if unknown:
        raise ValueError(
            f"the parts of a partition must be among {SPLITS}; got {sorted(unknown)} "
            f"in {timeline.name!r}; rename them"
        )
