"""Looks at a folder of recordings: each file read once, by the readers of training.

Frames and sensor values are let go as soon as they are checked.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import keyword
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from fmalign_jax.data import dataset, tables
from fmalign_jax.data.fmf import BenchmarkDirectory
from fmalign_jax.data.recordings import RecordingFiles, images, places
from fmalign_jax.data.recordings.video import SUFFIXES
from fmalign_jax.data.store.builder import Source
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline
from fmalign_jax.first_config.survey import (
    LEADING,
    REFERENCE,
    Kind,
    LeftOut,
    Seen,
    Survey,
)
from fmalign_jax.first_config.words import listed, plain
from fmalign_jax.progress import Bar
from fmalign_jax.structs import Recording, Stream


def look(folder: pathlib.Path, *, progress: bool = True) -> Survey:
    """Reads every recording of a folder.

    Args:
      folder: of files as `RecordingFiles` takes them, or in layout V2.
      progress: whether to show a progress bar.

    Raises:
      ValueError: there is no such folder, or no recording in it.
    """
    if not folder.is_dir():
        came = "a file" if folder.exists() else "no such folder"
        raise ValueError(
            f"{plain(folder)}: a folder of recordings is needed; got {came}; give the "
            "folder that they lie in"
        )
    folder = folder.resolve()
    source = dataset.source_of(folder)
    found_readers = readers(folder, source)
    found = look_with(found_readers, str(folder), source, progress=progress)
    if source == dataset.BENCHMARK:
        return found
    left_out = (*found.left_out, *_others(folder, found_readers))
    return dataclasses.replace(found, left_out=left_out)


def look_with(
    readers: Mapping[str, Source],
    place: str,
    source: str,
    *,
    leading: str | None = None,
    progress: bool = True,
) -> Survey:
    """Reads recordings, each with its reader.

    Args:
      readers: by name.
      place: where they are, to be told.
      source: dotted name of what reads them.
      leading: name of the sensor's stream; by default "current" where there is one,
        else the only sensor beside the video.
      progress: whether to show a progress bar.
    """
    found = [
        _read(readers[name], name, leading)
        for name in Bar(sorted(readers), "reading recordings", shown=progress)
    ]
    seen = [item for item in found if isinstance(item, Seen)]
    left_out = [item for item in found if isinstance(item, LeftOut)]
    names = [leading or sensor_of(item.kinds) for item in seen]
    usual, _ = collections.Counter(names or [LEADING]).most_common(1)[0]
    left_out += [
        LeftOut(
            item.file,
            f"the sensor of all recordings must have one name; got {name!r}, and "
            f"{usual!r} in most; rename it, or give each kind a folder of its own",
            is_recording=True,
        )
        for item, name in zip(seen, names, strict=True)
        if name != usual
    ]
    seen = [item for item, name in zip(seen, names, strict=True) if name == usual]
    return Survey(pathlib.Path(place), source, _numbered(seen), tuple(left_out), usual)


def sensor_of(kinds: Mapping[str, Kind]) -> str:
    """Returns which stream of a recording is its sensor.

    "current", if there is one; else the only stream of numbers beside the video; else
    "current", which then is missing.
    """
    sensors = _sensors(kinds)
    return sensors[0] if LEADING not in kinds and len(sensors) == 1 else LEADING


def _sensors(kinds: Mapping[str, Kind]) -> list[str]:
    """Returns the streams of numbers beside the video."""
    return [
        name
        for name, kind in kinds.items()
        if name != REFERENCE and len(kind.shape) == 1 and kind.dtype.startswith("float")
    ]


def files_of(path: str) -> dict[str, Source]:
    """Returns by name what reads each of the files that a file or glob matches.

    Each file has a reader of its own, so that one that is damaged, or has other
    classes, is no reason to refuse another.

    Raises:
      ValueError: nothing matches, or two files have the same stem.
    """
    every = RecordingFiles(path)
    return {name: RecordingFiles(every.files(name)[0]) for name in every.names()}


def readers(folder: pathlib.Path, source: str) -> dict[str, Source]:
    """Returns by name what reads each recording of a folder.

    Raises:
      ValueError: there is no recording.
    """
    if source == dataset.BENCHMARK:
        benchmark = BenchmarkDirectory(str(folder))
        return dict.fromkeys(benchmark.names(), benchmark)
    if not any(map(_is_recording, folder.iterdir())):
        inside = ", ".join(other.what for other in _others(folder, {}))
        came = f"only {inside}" if inside else "an empty folder"
        raise ValueError(
            f"{plain(folder)}: must hold a recording, which is {_FORMS}; got "
            f"{came}; give the folder that they lie in (docs/recordings.md says how to "
            "write them)"
        )
    return files_of(str(folder))


def _is_recording(path: pathlib.Path) -> bool:
    return not path.name.startswith(".") and places.is_recording(path)


def _read(reader: Source, name: str, leading: str | None) -> Seen | LeftOut:
    """Reads one recording and keeps what a config has to know of it."""
    path = pathlib.Path(name)
    try:
        if isinstance(reader, RecordingFiles):
            path = reader.files(name)[0]
        recording, first_time = read_recording(reader, name)
        kinds = {key: _kind(stream) for key, stream in recording.streams.items()}
        _check_usable(recording, kinds, first_time, leading or sensor_of(kinds))
    except (ValueError, OSError) as error:
        # The folder, and mostly the file, stand beside it.
        why = str(error).replace(f"{path.parent}/", "").removeprefix(f"{path.name}: ")
        return LeftOut(path.name, why, is_recording=True)
    return Seen(
        file=path.name,
        timeline=Timeline(
            name=name,
            number=0,
            streams={
                key: StreamTimeline(stream.time_s, stream.clip, stream.label)
                for key, stream in recording.streams.items()
            },
            clip_names=recording.clip_names,
            partition=recording.partition,
        ),
        kinds=kinds,
        units={key: stream.unit for key, stream in recording.streams.items()},
        label_names=recording.label_names,
        first_time=first_time,
    )


def read_recording(reader: Source, name: str) -> tuple[Recording, str]:
    """Reads a recording; where its clocks do not meet, as if they began together.

    Returns:
      The recording, and the time at which the video was then taken to begin, or "".

    Raises:
      ValueError: the recording is faulty.
    """
    try:
        return reader.read(name), ""
    except ValueError:
        if not isinstance(reader, RecordingFiles):
            raise
        first_time = _first_time(reader, name)
        if first_time is None:
            raise
        path = reader.files(name)[0]
        with contextlib.suppress(ValueError):
            return RecordingFiles(path, video_start=first_time).read(name), first_time
        raise


def _first_time(reader: RecordingFiles, name: str) -> str | None:
    try:
        return reader.first_time(name)
    except ValueError:
        return None


def _check_usable(
    recording: Recording, kinds: Mapping[str, Kind], first_time: str, leading: str
) -> None:
    """Refuses a recording that a first config cannot take.

    Args:
      recording: as it was read.
      kinds: of its streams.
      first_time: the time at which its video was taken to begin, or "".
      leading: name of its sensor's stream.

    Raises:
      ValueError: its name is no text, it lacks a stream, or its frames are none.
    """
    if not recording.name.isprintable():
        raise ValueError(
            "the name of a recording must be printable text in UTF-8; got "
            f"{plain(recording.name)!r}; rename the file"
        )
    missing = sorted({REFERENCE, leading} - set(recording.streams))
    sensors = _sensors(kinds)
    if leading == LEADING and missing == [LEADING] and len(sensors) > 1:
        raise ValueError(
            f"a first config is for one sensor beside the video; got "
            f"{', '.join(map(repr, sensors))}, none of them called {LEADING!r}; leave "
            "the one that is meant alone in the array 'streams', or take it by a "
            'config of your own (docs/recordings.md, "A sensor with a name of its own")'
        )
    if missing:
        raise ValueError(
            f"training needs the streams {REFERENCE!r} and {leading!r}; got "
            f"{sorted(recording.streams)} without {missing}; add "
            f"{' and '.join(_KEYS.get(n, repr(n)) for n in missing)} to the file, or "
            "move it elsewhere"
        )
    if not _can_be_a_key(leading):
        raise ValueError(
            "the name of the sensor's stream must be a word, which a config can have "
            f"as a key: letters, digits and _; got {plain(leading)!r}; rename it"
        )
    video = recording.streams[REFERENCE].values
    if video.dtype != np.uint8:
        raise ValueError(
            f"a first config is for frames uint8 [N, H, W, 3]; got "
            f"{video.dtype} {list(video.shape)}, which are feature maps; start from "
            "configs/cmg_paper.py instead"
        )
    for name in (REFERENCE, leading):
        stream = recording.streams[name]
        if not ((np.diff(stream.time_s) > 0) & (np.diff(stream.clip) == 0)).any():
            raise ValueError(
                f"the rate of a stream shows from two samples of a clip on; "
                f"got {len(stream.time_s)} of {name!r}; record longer, or move the "
                "file elsewhere"
            )
    if first_time and "." in recording.name:
        raise ValueError(
            f"the option video_start, which this recording needs, names files "
            f"without a point in their names; got {recording.name!r}; rename the files"
        )


def _can_be_a_key(name: str) -> bool:
    """Says whether a config file can write ``config.NAME`` and mean this name."""
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        and unicodedata.normalize("NFKC", name) == name  # as Python reads it
        and not hasattr(ConfigDict, name)
    )


_KEYS = {
    REFERENCE: "'frames' and 'frame_t'",
    LEADING: "'sensor' and 'sensor_t', or the array 'streams' with the sensor's name,",
}


def _kind(stream: Stream) -> Kind:
    return Kind(stream.values.shape[1:], stream.values.dtype.name, stream.channel_names)


def _numbered(seen: Sequence[Seen]) -> tuple[Seen, ...]:
    return tuple(
        dataclasses.replace(
            item, timeline=dataclasses.replace(item.timeline, number=number)
        )
        for number, item in enumerate(seen)
    )


_FORMS = (
    f".npz, or a video ({', '.join(SUFFIXES)}, or a folder of images) with a .csv or "
    ".parquet beside it"
)


def _others(folder: pathlib.Path, readers: Mapping[str, Source]) -> list[LeftOut]:
    """Returns what lies in a folder beside the files of its recordings."""
    used = {
        file
        for name, reader in readers.items()
        if isinstance(reader, RecordingFiles)
        for file in reader.files(name)
    }
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path not in used and not path.name.startswith("."):
            alike[_why_left(path)].append(path.name)
    return [LeftOut(listed(files), why) for why, files in alike.items()]


def _why_left(path: pathlib.Path) -> str:
    if images.is_folder(path):
        return (
            "a folder of images needs a table of the sensor beside it, with its name; "
            f"got none; put it there as {path.name}.csv"
        )
    if path.is_dir():
        return (
            "recordings must lie in the folder itself; got a folder in it; run fmalign "
            "init on that one if they lie there"
        )
    if path.suffix.lower() == ".csv" or tables.is_parquet(path):
        return (
            "a table must lie beside a video of the same name; got it without; put the "
            f"video there ({', '.join(SUFFIXES)}, or a folder of images), or write "
            "both streams as .npz"
        )
    return f"a recording is {_FORMS}; got another kind; convert it, if it is one"
