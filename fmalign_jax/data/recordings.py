"""Recordings by glob: neutral .npz files, and video files with a CSV beside them.

<stem>.npz                       one recording, see fmalign_jax.data.npz
<stem>.mp4 (avi, mkv, mov)       the video of one recording, with beside it
<stem>.csv                       a time column and channel columns
<stem>.labels.csv                optional; time, label: it holds until the next row
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int32

from fmalign_jax.data import clocks
from fmalign_jax.data.files import fingerprint
from fmalign_jax.data.npz import read_label_names, read_npz, write_npz
from fmalign_jax.data.validation import check_recording
from fmalign_jax.data.video import SUFFIXES, read_video
from fmalign_jax.structs import UNLABELLED, Recording, Stream

__all__ = ["RecordingFiles", "write_npz"]


class RecordingFiles:
    """The recordings that one or several globs match, one a file."""

    def __init__(
        self,
        path: str,
        *,
        max_frame_rate_hz: float | None = None,
        frame_size: Sequence[int] = (64, 64),
        time_column: str | None = None,
        channels: Sequence[str] | None = None,
        video_start: float | str | Mapping[str, float | str] | None = None,
        label_names: Sequence[str] = (),
        unit: str = "",
    ) -> None:
        """Notes what to read; files are found by `names`.

        Args:
          path: a glob, several separated by commas, or a folder.
          max_frame_rate_hz: keep at most so many frames a second, None keeps all.
          frame_size: height and width that video files are scaled to, pixels.
          time_column: name of the time column of the CSV, by default its first: in
            seconds, or dates and times "YYYY-MM-DD HH:MM:SS.fff".
          channels: columns of the CSV to take, by default all other numeric ones.
          video_start: the moment of the first frame on the clock of the CSV, written
            like its times; or such a moment by file stem. By default 0 s.
          label_names: classes, in the order of their numbers; by default those of the
            .npz files, else the sorted texts of the label files.
          unit: unit of the channels of the CSV.
        """
        self._path = path
        self._max_frame_rate_hz = max_frame_rate_hz
        self._frame_size = (frame_size[0], frame_size[1])
        self._time_column: str | int = 0 if time_column is None else time_column
        self._channels = None if channels is None else tuple(channels)
        self._video_start = (
            dict(video_start) if isinstance(video_start, Mapping) else video_start
        )
        self._given_label_names = tuple(label_names)
        self._unit = unit

    def names(self) -> list[str]:
        """Names of the recordings: the stems of their files, sorted.

        Raises:
          ValueError: nothing matches, or two files have the same stem.
        """
        return sorted(self._files)

    def read(self, name: str) -> Recording:
        """Reads and checks one recording.

        Returns:
          streams "video" and "current" (the sensor), or those the .npz file names.

        Raises:
          ValueError: a file is missing, damaged, or not as described above.
        """
        if name not in self._files:
            raise ValueError(
                f"{self._path}: the name must be one of {self.names()}; got {name!r}; "
                "choose one of them"
            )
        path = self._files[name]
        if path.suffix == ".npz":
            return self._completed(read_npz(path))
        return self._read_video(path)

    def fingerprint(self) -> str:
        """Digest of names, sizes and times of all files, and of the options."""
        files = [
            file
            for path in self._files.values()
            for file in (path, path.with_suffix(".csv"), _labels_of(path))
            if file.is_file()
        ]
        skipped = ("_path", "_files", "_label_names")
        options = {
            key: value for key, value in vars(self).items() if key not in skipped
        }
        return fingerprint(files, options=sorted(options.items()))

    @functools.cached_property
    def _files(self) -> dict[str, pathlib.Path]:
        files: dict[str, pathlib.Path] = {}
        for path in sorted(_matches(self._path)):
            if path.stem in files:
                raise ValueError(
                    f"{path}: two recordings must not have one name; got "
                    f"{files[path.stem]} too; rename one of the files"
                )
            files[path.stem] = path
        if not files:
            raise ValueError(
                f"{self._path}: must match at least one file ending in .npz, "
                f"{', '.join(SUFFIXES)}; got none; check the folder and the pattern"
            )
        return files

    @functools.cached_property
    def _label_names(self) -> tuple[str, ...]:
        """The classes of all files together; their numbers must mean the same."""
        source: str = "the option label_names"
        common = self._given_label_names
        texts: set[str] = set()
        for path in self._files.values():
            if path.suffix == ".npz":
                names = read_label_names(path)
                if names and common and names != common:
                    raise ValueError(
                        f"{path}: all files must name the same classes; got "
                        f"{list(names)}, but {list(common)} in {source}; use one order "
                        "for all"
                    )
                if names:
                    common, source = names, str(path)
            elif _labels_of(path).is_file():
                texts.update(clocks.read_table(_labels_of(path)).texts(1).tolist())
        named = sorted(text for text in texts if text and not clocks.is_number(text))
        return common or tuple(named)

    def _completed(self, recording: Recording) -> Recording:
        streams = dict(recording.streams)
        if "video" in streams:
            streams["video"] = _thinned(streams["video"], self._max_frame_rate_hz)
        return dataclasses.replace(
            recording, streams=streams, label_names=self._label_names
        )

    def _read_video(self, path: pathlib.Path) -> Recording:
        table = clocks.read_table(path.with_suffix(".csv"))
        sensor_s = self._since_video_start(table, self._time_column, path)
        frames, frame_s = read_video(
            path,
            frame_size=self._frame_size,
            max_frame_rate_hz=self._max_frame_rate_hz,
        )
        channels = self._channel_columns(table)
        streams = {
            "video": (frames, frame_s, "grey level", ("red", "green", "blue")),
            "current": (
                table.numbers(*channels).astype(np.float32),
                sensor_s,
                self._unit,
                channels,
            ),
        }
        zero_s = min([*frame_s[:1], *sensor_s[:1]])
        recording = Recording(
            name=path.stem,
            streams={
                name: Stream(
                    values=values,
                    time_s=time_s - zero_s,
                    clip=np.zeros(len(time_s), np.int32),
                    label=self._labels(path, time_s),
                    unit=unit,
                    channel_names=names,
                )
                for name, (values, time_s, unit, names) in streams.items()
            },
            label_names=self._label_names,
            provenance=json.dumps({"video": path.name, "table": table.path.name}),
            file=str(path),
        )
        sources = {"video": str(path), "current": str(table.path)}
        check_recording(recording, path, sources=sources)
        return recording

    def _channel_columns(self, table: clocks.Table) -> tuple[str, ...]:
        time_column = table.columns[table.position(self._time_column)]
        if self._channels is not None:
            return self._channels
        channels = tuple(
            name
            for name, cell in zip(table.columns, table.first_row, strict=False)
            if name != time_column and clocks.is_number(cell)
        )
        if not channels:
            raise ValueError(
                f"{table.path}: a column of numbers is needed beside "
                f"{time_column!r}; got columns {list(table.columns)}; add one"
            )
        return channels

    def _since_video_start(
        self, table: clocks.Table, column: str | int, video: pathlib.Path
    ) -> Float[np.ndarray, "N"]:
        """Times of a table in seconds since the first frame of the video."""
        start = self._video_start
        if isinstance(start, dict):
            start = start.get(video.stem)
        written = table.first_row[table.position(column)]
        dated = clocks.is_instant(written) and not clocks.is_number(written)
        if not dated and (start is None or clocks.is_number(str(start))):
            return table.seconds(column) - float(start or 0)
        if not dated or start is None or not clocks.is_instant(str(start)):
            raise ValueError(
                f"{table.path}: its times and the option video_start must both be "
                f"seconds or both be dates; got {written!r} and {start!r}; give the "
                f"moment of the first frame of {video.name} as video_start"
            )
        return table.seconds(column) - clocks.instant(str(start))

    def _labels(
        self, video: pathlib.Path, time_s: Float[np.ndarray, "N"]
    ) -> Int32[np.ndarray, "N"]:
        """The class that holds at each time since the first frame."""
        path = _labels_of(video)
        if not path.is_file():
            return np.full(len(time_s), UNLABELLED, np.int32)
        table = clocks.read_table(path)
        start_s = self._since_video_start(table, 0, video)
        if (np.diff(start_s) < 0).any():
            row = int(np.argmax(np.diff(start_s) < 0)) + 1
            raise ValueError(
                f"{path}: time must not go back; got a step back in line "
                f"{table.line(row)}; sort the rows by time"
            )
        numbers = [self._label_number(text, path) for text in table.texts(1).tolist()]
        held = np.array([UNLABELLED, *numbers], np.int32)
        return held[np.searchsorted(start_s, time_s, side="right")]

    def _label_number(self, text: str, path: pathlib.Path) -> int:
        if text in self._label_names:
            return self._label_names.index(text)
        if text == "":
            return UNLABELLED
        if clocks.is_number(text) and float(text).is_integer():
            return int(float(text))
        raise ValueError(
            f"{path}: labels must be class numbers or one of "
            f"{list(self._label_names)}; got {text!r}; correct it or name that class"
        )


def _matches(path: str) -> set[pathlib.Path]:
    patterns = [pathlib.Path(part.strip()).expanduser() for part in path.split(",")]
    found = {
        pathlib.Path(file)
        for pattern in patterns
        for file in glob.glob(
            str(pattern / "*" if pattern.is_dir() else pattern), recursive=True
        )
    }
    return {file for file in found if file.suffix.lower() in (".npz", *SUFFIXES)}


def _labels_of(video: pathlib.Path) -> pathlib.Path:
    return video.with_suffix(".labels.csv")


def _thinned(stream: Stream, max_rate_hz: float | None) -> Stream:
    if max_rate_hz is None:
        return stream
    keep = clocks.thin(stream.time_s, max_rate_hz=max_rate_hz)
    arrays = {
        key: getattr(stream, key)[keep] for key in ("values", "time_s", "clip", "label")
    }
    return dataclasses.replace(stream, **arrays)
