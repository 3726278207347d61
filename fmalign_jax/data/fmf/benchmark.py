"""FMF-Benchmark, layout V2: reading it from disk, and writing it.

    <root>/pixel-level/videos/<name>.mat      HDF5 (MATLAB v7.3): `data` uint8
                                              [T, C, W, H], `label` uint8 [T, W, H]
    <root>/pixel-level/currents/<name>.csv    header; time, phases a, b, c in amperes
    <root>/pixel-level/timestamps/<name>.csv  the second each frame belongs to
    <root>/pixel-level/train.json, test.json  {"<name>.mat": [frame indices]}

The axes of the HDF5 arrays are those of MATLAB's [H, W, C, T], reversed. Times are
written to the second: "YYYY-MM-DD HH:MM:SS".
"""

from __future__ import annotations

import functools
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from fmalign_jax.data import clocks, tables, taken
from fmalign_jax.data.files import fingerprint
from fmalign_jax.data.fmf import split as fmf_split, video as fmf_video
from fmalign_jax.data.validation import check_recording
from fmalign_jax.structs import UNLABELLED, Recording, Stream

LABEL_NAMES = ("normal", "abnormal")
COUNT_TOLERANCE = 25
"""Frames and timestamps may differ by this many (one second) before it is an error."""

_FOLDER = "pixel-level"
# At 25 frames a second the videos of the benchmark are at most 2 % shorter than the
# currents.
_SPAN_TOLERANCE = 0.1
_SPAN_TOLERANCE_S = 10.0

logger = logging.getLogger(__name__)


def write_recording(
    root: pathlib.Path,
    name: str,
    *,
    frames: UInt8[np.ndarray, "N H W 3"],
    masks: UInt8[np.ndarray, "N H W"],
    frame_second: Shaped[np.ndarray, "N"],
    current: Float[np.ndarray, "M 3"],
    current_second: Shaped[np.ndarray, "M"],
) -> None:
    """Writes one recording in layout V2.

    Files are written in place: build a whole data set in a temporary folder and
    rename that.

    Args:
      root: the data set; folders are made as needed.
      name: stem of the three files.
      frames: uint8 [N, H, W, 3].
      masks: uint8 [N, H, W], above 0 where the condition is abnormal.
      frame_second: datetime64[s] [N], the second each frame belongs to.
      current: float [M, 3], amperes of the phases a, b, c.
      current_second: datetime64[s] [M].
    """
    folder = root / _FOLDER
    for kind in ("videos", "currents", "timestamps"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    fmf_video.write_video(folder / "videos" / f"{name}.mat", frames, masks)
    phases = (",".join(f"{value:.6g}" for value in row) for row in current.tolist())
    rows = map(",".join, zip(_written(current_second), phases, strict=True))
    _write_lines(folder / "currents" / f"{name}.csv", ["time,a,b,c", *rows])
    _write_lines(
        folder / "timestamps" / f"{name}.csv", ["time", *_written(frame_second)]
    )


def write_split(
    root: pathlib.Path,
    split: Mapping[str, Mapping[str, Sequence[int] | Int[np.ndarray, "N"]]],
) -> None:
    """Writes train.json and test.json.

    Args:
      root: the data set.
      split: frame indices by part and recording name,
        ``{"train": {"<name>": [0, 1]}, "test": {"<name>": [5, 6]}}``.
    """
    (root / _FOLDER).mkdir(parents=True, exist_ok=True)
    for part in fmf_split.PARTS:
        indices = {
            f"{name}.mat": np.asarray(frames, int).tolist()
            for name, frames in split.get(part, {}).items()
        }
        (root / _FOLDER / f"{part}.json").write_text(json.dumps(indices))


def _written(second: Shaped[np.ndarray, "N"]) -> list[str]:
    text = np.datetime_as_string(second.astype("datetime64[s]"))
    return [moment.replace("T", " ") for moment in text.tolist()]


def _write_lines(path: pathlib.Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


class BenchmarkDirectory:
    """The recordings of one directory in layout V2.

    The recording clock starts at the earlier of the two streams' first seconds. Rows
    that share a written second are spread evenly within it, so any number of rows a
    second, missing seconds and repeated ones keep both streams on one clock.
    """

    def __init__(self, path: str, *, max_frame_rate_hz: float | None = None) -> None:
        """Looks at the directory; reads nothing yet.

        Args:
          path: the data set, or its folder `pixel-level`.
          max_frame_rate_hz: keep at most so many frames a second, None keeps all.
            One tick a second needs few of the 25.

        Raises:
          ValueError: no such folder.
        """
        clocks.check_rate(max_frame_rate_hz)
        root = pathlib.Path(path).expanduser()
        self._folder = root / _FOLDER if (root / _FOLDER).is_dir() else root
        self._max_frame_rate_hz = max_frame_rate_hz
        if not (self._folder / "videos").is_dir():
            raise ValueError(
                f"{path}: the benchmark holds {_FOLDER}/videos, currents and "
                "timestamps; got no videos folder there; give the folder above them"
            )

    def names(self) -> list[str]:
        """Names of the recordings, sorted.

        Raises:
          ValueError: there is none.
        """
        videos = self._folder.glob("videos/*.mat")
        names = sorted(path.stem for path in videos if path.name[0] != ".")
        if not names:
            raise ValueError(
                f"{self._folder / 'videos'}: at least one <name>.mat is needed; got "
                "none; copy the recordings there"
            )
        return names

    def read(self, name: str) -> Recording:
        """Reads and checks one recording.

        Returns:
          streams "video", uint8 [N, H, W, 3] with labels 0 normal and 1 abnormal (any
          pixel marked), and "current", float32 [M, 3] in amperes without labels.

        Raises:
          ValueError: a file is missing, damaged, or not as the layout says.
        """
        self._check_name(name)
        files = self._files(name)
        current, stamps = self._clocks(name)
        time, phases = _columns(current)
        current_second = _whole_seconds(current, time)
        frame_second = _whole_seconds(stamps, stamps.time_position())
        origin = min(current_second[0], frame_second[0])
        video, partition = self._read_video(files["video"], frame_second - origin)
        recording = Recording(
            name=name,
            streams={
                "video": video,
                "current": _current_stream(current, phases, current_second - origin),
            },
            label_names=LABEL_NAMES,
            partition=partition,
            file=str(files["video"]),
            taken={
                str(files["video"]): "'data' and 'label', classes 'normal', 'abnormal'"
                " (any pixel marked)",
                str(current.path): taken.table(current, time, {"channels": phases}),
                str(stamps.path): taken.table(stamps, stamps.time_position(), {}),
            },
            provenance=json.dumps(
                {
                    "layout": "FMF-Benchmark V2",
                    "clock_zero": str(np.datetime64(int(origin), "s")),
                }
            ),
        )
        sources = {stream: str(path) for stream, path in files.items()}
        _check_spans(recording, sources)
        check_recording(recording, self._folder / name, sources=sources)
        return recording

    def masks(
        self, name: str, frame: Int[np.ndarray, "n"]
    ) -> Bool[np.ndarray, "n H W"]:
        """Reads the pixels that are marked abnormal, for what is measured afterwards.

        They are no stream of a recording: no model ever reads them.

        Args:
          name: of the recording.
          frame: positions among the frames of its stream "video".

        Raises:
          ValueError: a file is missing or damaged, or there is no such frame.
        """
        self._check_name(name)
        current, stamps = self._clocks(name)
        second = _whole_seconds(stamps, stamps.time_position())
        # Which frames are kept depends on where the clock starts.
        second -= min(_whole_seconds(current, _columns(current)[0])[0], second[0])
        path = self._files(name)["video"]
        with fmf_video.opened_video(path) as (data, masks):
            time_s = clocks.spread_within_seconds(second[: len(data)])
            keep = clocks.thin(time_s, max_rate_hz=self._max_frame_rate_hz)
            kept = np.flatnonzero(keep)
            if frame.size and not 0 <= frame.min() <= frame.max() < len(kept):
                raise ValueError(
                    f"{path}: frames must lie in [0, {len(kept)}); got {frame.min()} "
                    f"to {frame.max()}; give positions in the stream 'video'"
                )
            return fmf_video.read_masks(masks, kept[frame])

    def fingerprint(self) -> str:
        """Digest of names, sizes and times of all files, and of the frame rate."""
        files = [
            path
            for pattern in ("videos/*.mat", "*/*.csv", "*.json")
            for path in self._folder.glob(pattern)
        ]
        return fingerprint(files, options=self._max_frame_rate_hz)

    def _files(self, name: str) -> dict[str, pathlib.Path]:
        return {
            "video": self._folder / "videos" / f"{name}.mat",
            "current": self._folder / "currents" / f"{name}.csv",
        }

    def _clocks(self, name: str) -> tuple[tables.Table, tables.Table]:
        """Reads the table of the current, and that of the frames' seconds."""
        return (
            tables.read_table(self._files(name)["current"]),
            tables.read_table(self._folder / "timestamps" / f"{name}.csv"),
        )

    def _check_name(self, name: str) -> None:
        if name not in self.names():
            raise ValueError(
                f"{self._folder}: the name must be one of {self.names()}; got {name!r}"
                "; choose one of them"
            )

    def _read_video(
        self, path: pathlib.Path, second: Int[np.ndarray, "N"]
    ) -> tuple[Stream, dict[str, tuple[tuple[float, float], ...]]]:
        with fmf_video.opened_video(path) as (data, masks):
            count = _common_count(path, frames=len(data), timestamps=len(second))
            time_s = clocks.spread_within_seconds(second[:count])
            keep = clocks.thin(time_s, max_rate_hz=self._max_frame_rate_hz)
            frames, abnormal = fmf_video.read_frames(data, masks, keep)
            stored = len(data)
        stream = Stream(
            values=frames,
            time_s=time_s[keep],
            clip=np.zeros(len(frames), np.int32),
            label=abnormal.astype(np.int32),
            unit="grey level",
            channel_names=("red", "green", "blue"),
        )
        return stream, self._split.spans(path.name, time_s, frames=stored)

    @functools.cached_property
    def _split(self) -> fmf_split.Split:
        return fmf_split.read_split(self._folder, self.names())


def _columns(table: tables.Table) -> tuple[int, tuple[int, ...]]:
    """Positions of the time and of the three phases.

    Columns without a name, and of text, are left out; with fewer or more than three
    others nobody can know which are the phases.
    """
    time = table.time_position()
    phases = [
        i
        for i, name in enumerate(table.columns)
        if i != time and not tables.is_nameless(name)
    ]
    if len(phases) != 3:
        phases = [table.position(name) for name in table.channels(time)]
    if len(phases) != 3:
        raise ValueError(
            f"{table.path}: currents must have a time and three phases; got columns "
            f"{list(table.columns)}; leave the others out, and write points in decimals"
        )
    return time, tuple(phases)


def _whole_seconds(table: tables.Table, column: int) -> Int[np.ndarray, "N"]:
    second = np.floor(table.seconds(column))
    table.check_rising(column, second)
    clocks.sample_times(second, table.path)  # refuses a clock that stands
    return second.astype(np.int64)


def _check_spans(recording: Recording, files: Mapping[str, str]) -> None:
    """Refuses current and video of which one ends, or begins, well within the other."""
    if not all(len(stream.time_s) for stream in recording.streams.values()):
        return
    spans = {name: s.time_s[[0, -1]].tolist() for name, s in recording.streams.items()}
    starts, stops = zip(*spans.values(), strict=True)
    whole_s = max(stops) - min(starts)
    common_s = min(stops) - max(starts)
    # Clocks that share nothing are a fault of another kind, which is checked later.
    if 0 < common_s < whole_s - max(_SPAN_TOLERANCE * whole_s, _SPAN_TOLERANCE_S):
        shorter = min(spans, key=lambda name: spans[name][1] - spans[name][0])
        said = " and ".join(
            f"{name} from {start:.6g} to {stop:.6g} s"
            for name, (start, stop) in spans.items()
        )
        raise ValueError(
            f"{files[shorter]}: current and video must cover the same time, but for "
            f"{_SPAN_TOLERANCE:.0%}; got {said}; if the file was cut short, copy it "
            "again, else cut the recording to what both cover"
        )


def _current_stream(
    table: tables.Table, phases: tuple[int, ...], second: Int[np.ndarray, "M"]
) -> Stream:
    return Stream(
        values=table.numbers(*phases).astype(np.float32),
        time_s=clocks.spread_within_seconds(second),
        clip=np.zeros(len(second), np.int32),
        label=np.full(len(second), UNLABELLED, np.int32),
        unit="A",
        channel_names=tuple(table.columns[i] for i in phases),
    )


def _common_count(path: pathlib.Path, *, frames: int, timestamps: int) -> int:
    if abs(frames - timestamps) > COUNT_TOLERANCE:
        raise ValueError(
            f"{path}: frames and timestamps may differ in number by {COUNT_TOLERANCE}; "
            f"got {frames} frames and {timestamps} timestamps; copy the shorter again"
        )
    if frames != timestamps:
        logger.warning(
            "%s: %d frames but %d timestamps; the surplus at the end is left out",
            path,
            frames,
            timestamps,
        )
    return min(frames, timestamps)
