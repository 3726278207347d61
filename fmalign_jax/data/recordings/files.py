"""Recordings by glob: neutral .npz files, and videos with a table beside them.

<stem>.npz                       one recording, see fmalign_jax.data.recordings.npz
<stem>.mp4 (avi, mkv, mov)       the video of one recording, or
<stem>/                          its frames as images, with beside it
<stem>.csv, or <stem>.parquet    a time column and channel columns
<stem>.frames.csv                optional; file, time: of the images
<stem>.labels.csv                optional; time, label: it holds until the next row
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int32

from fmalign_jax.data import clocks, tables, taken
from fmalign_jax.data.files import fingerprint
from fmalign_jax.data.recordings import images, label_file, places
from fmalign_jax.data.recordings.npz import (
    SENSOR,
    read_label_names,
    read_npz,
    write_npz,
)
from fmalign_jax.data.recordings.video import SUFFIXES, read_video
from fmalign_jax.data.validation import check_recording
from fmalign_jax.structs import UNLABELLED, Recording, Stream, is_normal

__all__ = ["RecordingFiles", "write_npz"]


class RecordingFiles:
    """The recordings that one or several globs match, one a file."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_frame_rate_hz: float | None = None,
        frame_size: int | Sequence[int] = (64, 64),
        time_column: str | None = None,
        channels: Sequence[str] | None = None,
        video_start: float | str | Mapping[str, float | str] | None = None,
        label_names: Sequence[str] = (),
        unit: str = "",
        sensor_name: str = SENSOR,
        frame_time: str | None = None,
        frame_rate_hz: float | None = None,
    ) -> None:
        """Notes what to read; files are found by `names`.

        Args:
          path: a file, a folder, a glob, or several of them separated by commas.
          max_frame_rate_hz: keep at most so many frames a second, None keeps all.
          frame_size: height and width that video files and images are scaled to,
            pixels; one number for both.
          time_column: name of the time column of the CSV, by default "time" or "时间",
            else the first: in seconds, or dates and times "YYYY-MM-DD HH:MM:SS.fff".
          channels: columns of the CSV to take, by default all other numeric ones that
            have a name.
          video_start: the moment of the first frame on the clock of the CSV, written
            like its times; or such a moment by file stem. By default 0 s.
          label_names: classes, in the order of their numbers; by default those of the
            .npz files, else the sorted texts of the label files.
          unit: unit of the channels of the CSV.
          sensor_name: what the stream of the CSV, or of the key sensor, is called.
          frame_time: where the name of an image tells its time: a regular expression
            for the name without its suffix, with named groups, see `images.Times`.
          frame_rate_hz: images are numbered by their names, at so many a second.

        Raises:
          ValueError: an option is not as described.
        """
        clocks.check_rate(max_frame_rate_hz)
        _check_channels(channels)
        self._path = os.fspath(path)
        self._max_frame_rate_hz = max_frame_rate_hz
        self._frame_size = _pair(frame_size)
        self._time_column = time_column
        self._channels = None if channels is None else tuple(channels)
        self._video_start = (
            dict(video_start) if isinstance(video_start, Mapping) else video_start
        )
        self._given_label_names = tuple(label_names)
        self._unit = unit
        self._sensor_name = _checked_name(sensor_name)
        self._frame_times = images.Times(frame_time, frame_rate_hz)

    def names(self) -> list[str]:
        """Names of the recordings: the stems of their files, sorted.

        Raises:
          ValueError: nothing matches, or two files have the same stem.
        """
        return sorted(self._files)

    def read(self, name: str) -> Recording:
        """Reads and checks one recording.

        Returns:
          streams "video" and "current" (the sensor, or as `sensor_name` says), and
          those the .npz file names.

        Raises:
          ValueError: a file is missing, damaged, or not as described above.
        """
        path = self._file(name)
        if places.is_npz(path):
            recording = read_npz(
                path, label_names=self.label_names, sensor_name=self._sensor_name
            )
            return self._thinned(recording)
        return self._read_video(path)

    def files(self, name: str) -> tuple[pathlib.Path, ...]:
        """The files of a recording: its own, or its folder, and those beside a video.

        Raises:
          ValueError: there is no such recording.
        """
        path = self._file(name)
        return (path, *places.beside_video(path))

    def first_time(self, name: str) -> str | None:
        """The first time of the CSV beside a video, as it is written there.

        Returns:
          What the option `video_start` would be if the video began with the first row;
          None for a recording without a CSV.

        Raises:
          ValueError: there is no such recording, or its CSV is no table.
        """
        path = self._file(name)
        if places.is_npz(path):
            return None
        table = tables.read_table(places.table_beside(path))
        return table.first_row[self._time_position(table)]

    def fingerprint(self) -> str:
        """Digest of names, sizes and times of all files, and of the options."""
        files = [
            file
            for path in self._files.values()
            for file in (
                *(images.images_of(path) if path.is_dir() else (path,)),
                *places.beside_video(path),
            )
        ]
        skipped = ("_path", "_files", "label_names")
        # Options that came later leave the digests of those who have not set them.
        later = {"_sensor_name": SENSOR, "_frame_times": images.Times()}
        options = {
            key: value
            for key, value in vars(self).items()
            if key not in skipped and (key not in later or value != later[key])
        }
        return fingerprint(files, options=sorted(options.items()))

    def _file(self, name: str) -> pathlib.Path:
        if name not in self._files:
            raise ValueError(
                f"{self._path}: the name must be one of {self.names()}; got {name!r}; "
                "choose one of them"
            )
        return self._files[name]

    @functools.cached_property
    def _files(self) -> dict[str, pathlib.Path]:
        files: dict[str, pathlib.Path] = {}
        for path in sorted(places.matches(self._path)):
            name = places.name_of(path)
            if name in files:
                raise ValueError(
                    f"{path}: two recordings must not have one name; got "
                    f"{files[name]} too; rename one of the files, or give a pattern "
                    "that matches one"
                )
            files[name] = path
        if not files:
            raise ValueError(
                f"{self._path}: must match at least one file ending in .npz, "
                f"{', '.join(SUFFIXES)}, or a folder of images with a table beside it; "
                "got none; check the folder and the pattern"
            )
        return files

    @functools.cached_property
    def label_names(self) -> tuple[str, ...]:
        """The classes of all files together; their numbers must mean the same.

        Where none gives an order, "normal" and the like come first, and the others as
        they are sorted.

        Raises:
          ValueError: two files name other classes, or one cannot be read.
        """
        source: str = "the option label_names"
        common = self._given_label_names
        texts: set[str] = set()
        for path in self._files.values():
            if places.is_npz(path):
                names = read_label_names(path)
                if names and common and names != common:
                    raise ValueError(
                        f"{path}: all files must name the same classes; got "
                        f"{list(names)}, but {list(common)} in {source}; use one order "
                        "for all"
                    )
                if names:
                    common, source = names, str(path)
            elif label_file.beside(path).is_file():
                texts.update(label_file.texts(label_file.beside(path)))
        named = {text for text in texts if text and not clocks.is_number(text)}
        # The class that counts as abnormal is the second of two.
        normal_first = sorted(named, key=lambda text: (not is_normal(text), text))
        return common or tuple(normal_first)

    def _thinned(self, recording: Recording) -> Recording:
        streams = dict(recording.streams)
        if "video" in streams:
            streams["video"] = _thinned(streams["video"], self._max_frame_rate_hz)
        return dataclasses.replace(recording, streams=streams)

    def _read_video(self, path: pathlib.Path) -> Recording:
        table = tables.read_table(places.table_beside(path))
        time_column = self._time_position(table)
        written_s = table.seconds(time_column)
        table.check_rising(time_column, written_s)
        listing = images.listed(path, self._frame_times) if path.is_dir() else None
        start = self._start(path, listing)
        start_s = _start_s(table, time_column, path, start)
        sensor_s = clocks.sample_times(written_s, table.path) - start_s
        read = (
            functools.partial(images.read_images, listing)
            if listing
            else functools.partial(read_video, path)
        )
        frames, frame_s = read(
            frame_size=self._frame_size,
            max_frame_rate_hz=self._max_frame_rate_hz,
        )
        channels = self._channels or table.channels(time_column)
        streams = {
            "video": (frames, frame_s, "grey level", ("red", "green", "blue")),
            self._sensor_name: (
                table.numbers(*channels).astype(np.float32),
                sensor_s,
                self._unit,
                channels,
            ),
        }
        labels = self._labels(path, np.concatenate([frame_s, sensor_s]), start)
        zero_s = min([*frame_s[:1], *sensor_s[:1]])
        recording = Recording(
            name=places.name_of(path),
            streams={
                name: Stream(
                    values=values,
                    time_s=time_s - zero_s,
                    clip=np.zeros(len(time_s), np.int32),
                    label=labels(time_s),
                    unit=unit,
                    channel_names=names,
                )
                for name, (values, time_s, unit, names) in streams.items()
            },
            label_names=self.label_names,
            provenance=json.dumps({"video": path.name, "table": table.path.name}),
            file=str(path),
            taken={
                str(table.path): taken.table(table, time_column, {"channels": channels})
            }
            | self._labels_taken(path)
            | ({str(path): f"images, times from {listing.said}"} if listing else {}),
        )
        sources = {"video": str(path), self._sensor_name: str(table.path)}
        check_recording(recording, path, sources=sources)
        return recording

    def _time_position(self, table: tables.Table) -> int:
        if self._time_column is None:
            return table.time_position()
        return table.position(self._time_column)

    def _start(
        self, video: pathlib.Path, listing: images.Listing | None
    ) -> float | str | None:
        """The moment of the first frame: by the option, or by the times of images."""
        start = self._video_start
        if isinstance(start, dict):
            start = start.get(places.name_of(video))
        return listing.first if start is None and listing is not None else start

    def _labels_taken(self, video: pathlib.Path) -> dict[str, str]:
        path = label_file.beside(video)
        if not path.is_file():
            return {}
        table = tables.read_table(path)
        time_column, label = label_file.columns(table)
        said = taken.table(table, time_column, {"label": [label]})
        classes = taken.names(self.label_names) if self.label_names else "by number"
        return {str(path): f"{said}; classes {classes}"}

    def _labels(
        self,
        video: pathlib.Path,
        time_s: Float[np.ndarray, "N"],
        start: float | str | None,
    ) -> Callable[[Float[np.ndarray, "n"]], Int32[np.ndarray, "n"]]:
        """Returns what gives the class at each time since the first frame.

        Args:
          video: beside which the labels may lie.
          time_s: of all samples, since the first frame.
          start: the moment of the first frame, as `_start_s` takes it.
        """
        path = label_file.beside(video)
        if not path.is_file():
            return lambda time_s: np.full(len(time_s), UNLABELLED, np.int32)
        table = tables.read_table(path)
        time_column, _ = label_file.columns(table)
        written_s = label_file.starts_s(table)
        start_s = written_s - _start_s(table, time_column, video, start)
        numbers = label_file.numbers(path, self.label_names)
        label_file.check_within(path, start_s, float(time_s.min()), float(time_s.max()))
        return lambda time_s: label_file.held(start_s, numbers, time_s)


def _start_s(
    table: tables.Table,
    column: int,
    video: pathlib.Path,
    start: float | str | None,
) -> float:
    """The first frame of the video, in seconds on the clock of a table."""
    dated = table.is_dated(column)
    if not dated and (start is None or clocks.is_number(str(start))):
        return float(start or 0)
    if not dated or start is None or not clocks.is_instant(str(start)):
        raise ValueError(
            f"{table.path}: its times and the option video_start, or else those of "
            "images, must both be seconds or both be dates; got "
            f"{table.first_row[column]!r} and {start!r}; give the moment of the first "
            f"frame of {video.name} as video_start"
        )
    return clocks.instant(str(start))


def _checked_name(sensor_name: str) -> str:
    usable = isinstance(sensor_name, str) and re.fullmatch(r"[^\W\d]\w*", sensor_name)
    if not usable or sensor_name == "video":
        raise ValueError(
            "sensor_name must be a word of letters, digits and _, and not video; got "
            f"{sensor_name!r}; use such as 'wrist'"
        )
    return sensor_name


def _pair(frame_size: int | Sequence[int]) -> tuple[int, int]:
    pair = (frame_size,) * 2 if isinstance(frame_size, int) else tuple(frame_size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ValueError(
            f"frame_size must be height and width in pixels; got {frame_size!r}; use "
            "such as (64, 64)"
        )
    return pair[0], pair[1]


def _check_channels(channels: Sequence[str] | None) -> None:
    if channels is not None and (isinstance(channels, str) or not channels):
        raise ValueError(
            f"channels must name at least one column; got {channels!r}; use such as "
            "('a', 'b'), or leave the option out to take all"
        )


def _thinned(stream: Stream, max_rate_hz: float | None) -> Stream:
    if max_rate_hz is None:
        return stream
    keep = clocks.thin(stream.time_s, max_rate_hz=max_rate_hz)
    arrays = {
        key: getattr(stream, key)[keep] for key in ("values", "time_s", "clip", "label")
    }
    return dataclasses.replace(stream, **arrays)
