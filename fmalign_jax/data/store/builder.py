"""The stored data set: recordings at native rates, written by tensorflow-datasets.

A data set is a folder of tensorflow-datasets configs in array_record files, readable
with `tfds.builder_from_directory` and without TensorFlow:

    <directory>/recordings/<stream>/1.0.0/    chunks of one stream, in order of time
    <directory>/recordings/timeline/1.0.0/    one record per recording and stream

The values lie in chunk records, so that a window reads few records; clocks, clips and
labels lie once more in `timeline`, so that windows are found without decoding frames.

`ShardBasedBuilder` rather than `GeneratorBasedBuilder`: it writes records in order as
they come, whereas the latter holds a whole split in memory and, above 1 GB, spills to
files that it can open only with TensorFlow installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import grp
import io
import os
import pwd
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from filelock import FileLock

from fmalign_jax.data import taken
from fmalign_jax.data.files import file_name
from fmalign_jax.data.store import records
from fmalign_jax.progress import Bar
from fmalign_jax.structs import Recording

DATASET_NAME = "recordings"
TIMELINE = "timeline"
SPLIT = "train"  # the one tfds split; ours are made when windows are
VERSION = tfds.core.Version("1.0.0")
RELEASE_NOTES = {"1.0.0": "Chunk records per stream, and a timeline per recording."}

_KEPT_BYTES = 512 << 20

Shard = Callable[[], Iterator[tuple[int, records.Record]]]


@runtime_checkable
class Source(Protocol):
    """Where recordings come from: any class with these three methods."""

    def names(self) -> list[str]:
        """Returns the sorted names of the recordings."""

    def read(self, name: str) -> Recording:
        """Reads and validates one recording."""

    def fingerprint(self) -> str:
        """Returns a short digest that changes when the raw data change."""


@dataclasses.dataclass(eq=False, kw_only=True)
class _Config(tfds.core.BuilderConfig):
    """What one config stores, and the record generators, one a recording."""

    features: tfds.features.FeaturesDict
    shards: Sequence[Shard]
    metadata: Mapping[str, object]


# Registered class names are global to the process, and a second definition raises.
class RecordingsBuilder(  # type: ignore[call-arg]
    tfds.core.ShardBasedBuilder, skip_registration=True
):
    """Stores one stream, or the timeline, of all recordings: one shard a recording."""

    name = DATASET_NAME
    VERSION = VERSION
    RELEASE_NOTES = RELEASE_NOTES
    # Where tensorflow-datasets looks for checksums of downloads, of which there are
    # none; looking needs a package that it does not depend on.
    code_path = None

    def _create_builder_config(
        self, builder_config: _Config, version: str | None
    ) -> _Config:
        del version  # configs follow the streams of the data: none is known before
        return builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description="Furnace recordings at native rates.",
            features=config.features,
            metadata=tfds.core.MetadataDict(config.metadata),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Shard]]:
        del dl_manager
        return {SPLIT: self.builder_config.shards}


def prepare(
    source: Source,
    directory: str | os.PathLike[str],
    *,
    chunk_samples: int = 16,
    progress: bool = True,
) -> None:
    """Stores all recordings of a source, once.

    Builds in a hidden folder beside and renames it when done; a complete data set of
    the same raw data is reused. Of several processes that ask at once, one builds and
    the others wait for it. Holds one recording in memory at a time (and keeps up to
    512 MiB of them, so as not to read a small source once per stream).

    Args:
      source: gives the recordings.
      directory: where the data set shall lie.
      chunk_samples: samples in a record; streams of small samples take more, as many
        as make up 64 KiB.
      progress: whether to show a progress bar.

    Raises:
      ValueError: recordings differ in streams, shapes, channels or classes; the
        directory holds something else, or was prepared from other raw data.
    """
    if chunk_samples < 1:
        raise ValueError(f"chunk_samples must be at least 1; got {chunk_samples}")
    directory = Path(os.path.abspath(directory))
    # Before the lock, so that a complete set may lie where one cannot write.
    if _is_reusable(directory, source):
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.incomplete")
    with FileLock(directory.with_name(f".{directory.name}.lock")):
        if _is_reusable(directory, source):
            return
        if directory.exists() and any(directory.iterdir()):
            raise ValueError(
                f"a data set needs a folder of its own; got {directory}, which holds "
                "other files; delete it or choose another folder"
            )
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _build(source, temporary, chunk_samples=chunk_samples, progress=progress)
            os.replace(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def is_complete(directory: str | os.PathLike[str]) -> bool:
    """Says whether a directory holds a complete data set of this version."""
    return (config_directory(directory, TIMELINE) / "dataset_info.json").is_file()


def config_directory(directory: str | os.PathLike[str], config: str) -> Path:
    """Returns the folder of one config, for `tfds.builder_from_directory`."""
    return Path(directory) / DATASET_NAME / file_name(config) / str(VERSION)


def _is_reusable(directory: Path, source: Source) -> bool:
    """Says whether the set is there already, and refuses one of other raw data."""
    if not is_complete(directory):
        return False
    fingerprint = source.fingerprint()
    builder = tfds.builder_from_directory(config_directory(directory, TIMELINE))
    stored = builder.info.metadata["fingerprint"]
    if stored != fingerprint:
        raise ValueError(
            f"the data set in {directory} must come from the raw data asked for; got "
            f"one with fingerprint {stored}, not {fingerprint}; delete the folder to "
            "prepare it again, or choose another"
        )
    return True


def _build(
    source: Source, directory: Path, *, chunk_samples: int, progress: bool
) -> None:
    names = source.names()
    _check_names(names)
    reader = _Reader(source)
    first = reader.read(names[0])
    total = len(names) * len(first.streams)
    with Bar(description="preparing recordings", total=total, shown=progress) as bar:
        for stream_name, stream in first.streams.items():
            if stream_name == TIMELINE:
                raise ValueError(
                    f"no stream may be called {TIMELINE!r}; got one in "
                    f"{_called(first)}; rename it"
                )
            length = records.samples_per_record(stream.values, chunk_samples)
            shards = [
                functools.partial(
                    _chunks, reader, bar, name, number, stream_name, length
                )
                for number, name in enumerate(names)
            ]
            _write(directory, stream_name, records.chunk_features(stream), shards, {})
        metadata = _metadata(source, reader, first, chunk_samples)
        _write(
            directory,
            TIMELINE,
            records.timeline_features(),
            [reader.timeline_rows],
            metadata,
        )
    shutil.rmtree(directory / "downloads", ignore_errors=True)  # made, never used


def _check_names(names: Sequence[str]) -> None:
    """Refuses names of files that are no text, such as those in GBK on Linux."""
    for name in names:
        shown = name.encode("utf-8", "backslashreplace").decode()
        if shown != name:
            raise ValueError(
                f"{shown}: the name of a recording must be written in UTF-8; got bytes "
                "of another kind (GBK, perhaps); rename the file, such as by convmv"
            )


def _write(
    directory: Path,
    name: str,
    features: tfds.features.FeaturesDict,
    shards: Sequence[Shard],
    metadata: Mapping[str, object],
) -> None:
    config = _Config(
        name=file_name(name), features=features, shards=shards, metadata=metadata
    )
    # tensorflow-datasets prints two lines about downloads, of which there are none.
    with contextlib.redirect_stdout(io.StringIO()), _owners_without_names():
        builder = RecordingsBuilder(data_dir=directory, config=config)
        builder.download_and_prepare(file_format="array_record")


@contextlib.contextmanager
def _owners_without_names() -> Iterator[None]:
    """Lets files belong to a user or a group that has a number and no name.

    tensorflow-datasets asks for the size of a file by a call that looks both names up
    and fails without them, as in a container that runs as `--user 1000:1000`.
    """

    def user(number: int) -> pwd.struct_passwd:
        try:
            return named_user(number)
        except KeyError:
            return pwd.struct_passwd((str(number), "x", number, 0, "", "/", ""))

    def group(number: int) -> grp.struct_group:
        try:
            return named_group(number)
        except KeyError:
            return grp.struct_group((str(number), "x", number, []))

    named_user, named_group = pwd.getpwuid, grp.getgrgid
    with (
        mock.patch.object(pwd, "getpwuid", user),
        mock.patch.object(grp, "getgrgid", group),
    ):
        yield


class _Reader:
    """Reads recordings, checks that they fit together, and notes their timelines."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: dict[str, Recording] = {}
        self._kept_bytes = 0
        self._first: Recording | None = None
        self.label_names: tuple[str, ...] = ()
        self._rows: dict[str, list[records.Record]] = {}
        self._taken: dict[str, Mapping[str, str]] = {}

    def read(self, name: str) -> Recording:
        if name not in self._kept:
            recording = self._source.read(name)
            size = sum(stream.values.nbytes for stream in recording.streams.values())
            if self._kept_bytes + size > _KEPT_BYTES:
                self._kept.clear()
                self._kept_bytes = 0
            self._kept[name] = recording
            self._kept_bytes += size
            self._note(recording)
        return self._kept[name]

    def timeline_rows(self) -> Iterator[tuple[int, records.Record]]:
        rows = [row for name in sorted(self._rows) for row in self._rows[name]]
        yield from enumerate(rows)

    def taken(self) -> list[str]:
        """Returns what the files of all recordings were taken as, a line a kind."""
        return taken.lines(self._taken[name] for name in sorted(self._taken))

    def _note(self, recording: Recording) -> None:
        self._first = self._first or recording
        _check_same(self._first, recording)
        names = recording.label_names
        self.label_names = self.label_names or names
        if names and names != self.label_names:
            raise ValueError(
                "recordings of one data set must have the same classes; got "
                f"{names} in {_called(recording)} after {self.label_names}; prepare "
                "them as separate data sets"
            )
        self._rows[recording.name] = [
            records.timeline(recording, name) for name in recording.streams
        ]
        self._taken[recording.name] = recording.taken or {
            recording.file or recording.name: taken.streams(recording)
        }


def _check_same(first: Recording, recording: Recording) -> None:
    """Refuses a recording whose streams differ in kind from those of the first."""

    def kinds(
        item: Recording,
    ) -> dict[str, tuple[tuple[int, ...], np.dtype, tuple[str, ...]]]:
        return {
            name: (stream.values.shape[1:], stream.values.dtype, stream.channel_names)
            for name, stream in item.streams.items()
        }

    if kinds(first) != kinds(recording):
        raise ValueError(
            "recordings of one data set must have the same streams, with the same "
            f"shapes, types and channels; got {kinds(recording)} in "
            f"{_called(recording)} against {kinds(first)} in {_called(first)}; correct "
            "the files or prepare them as separate data sets"
        )


def _called(recording: Recording) -> str:
    """Returns what to call a recording in an error: its file, or else its name."""
    return recording.file or repr(recording.name)


def _chunks(
    reader: _Reader,
    bar: Bar,
    name: str,
    number: int,
    stream_name: str,
    length: int,
) -> Iterator[tuple[int, records.Record]]:
    stream = reader.read(name).streams[stream_name]
    yield from enumerate(records.chunks(stream, number, length))
    bar.update()


def _metadata(
    source: Source, reader: _Reader, first: Recording, chunk_samples: int
) -> dict[str, object]:
    return {
        "fingerprint": source.fingerprint(),
        "names": source.names(),
        "label_names": list(reader.label_names),
        "taken": reader.taken(),
        "streams": {
            name: {
                "unit": stream.unit,
                "channel_names": list(stream.channel_names),
                "value_shape": list(stream.values.shape[1:]),
                "dtype": stream.values.dtype.name,
                "samples_per_record": records.samples_per_record(
                    stream.values, chunk_samples
                ),
            }
            for name, stream in first.streams.items()
        },
    }
