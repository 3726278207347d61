"""The read side of the stored data set: samples by recording and position."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, Shaped

from fmalign_jax.data.store import builder
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline

_PORTION_BYTES = 32 << 20  # as float64


@dataclasses.dataclass(frozen=True)
class StreamInfo:
    """What one stream holds, in every recording.

    Attributes:
      value_shape: shape of one sample, such as (64, 64, 3).
      dtype: type of the values as recorded.
      unit: unit of the values.
      channel_names: names of the last axis, or empty.
      samples_per_record: samples in a stored record, the last of a recording aside.
      samples: number of samples in all recordings.
    """

    value_shape: tuple[int, ...]
    dtype: np.dtype
    unit: str
    channel_names: tuple[str, ...]
    samples_per_record: int
    samples: int

    @property
    def sample_bytes(self) -> int:
        """Returns the size of one sample."""
        return self.dtype.itemsize * int(np.prod(self.value_shape))


class RecordingStore:
    """A stored data set, opened for reading; safe to share between threads.

    Opening reads only the timeline. Small streams are then read whole at their first
    use; of the others the most recently used records are kept.

    Attributes:
      directory: the folder of the data set.
      names: names of the recordings; a recording's number is its position here.
      label_names: names of the classes, or empty.
      streams: what each stream holds, by name.
      fingerprint: of the raw data.
      taken: what the raw files were taken as, a line a kind; empty where the data set
        was prepared before this was noted.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        memory_bytes: int = 64 << 20,
        cache_bytes: int = 256 << 20,
    ) -> None:
        """Opens a data set.

        Args:
          directory: as given to `builder.prepare`.
          memory_bytes: the smallest streams are held whole up to this sum.
          cache_bytes: what the recently used records of each other stream may take.

        Raises:
          ValueError: there is no data set, or it is damaged.
        """
        self.directory = Path(directory)
        if not builder.is_complete(self.directory):
            raise ValueError(
                f"a prepared data set (version {builder.VERSION}) is needed; got "
                f"{self.directory}, which holds none; prepare it first"
            )
        timeline = _Records(self.directory, builder.TIMELINE)
        about = timeline.metadata
        self.names: tuple[str, ...] = tuple(about["names"])
        self.label_names: tuple[str, ...] = tuple(about["label_names"])
        self.fingerprint: str = about["fingerprint"]
        self.taken: tuple[str, ...] = tuple(about.get("taken", ()))
        rows = [_compact(timeline[i]) for i in range(len(timeline))]
        self._timelines = _timelines(self.names, rows)
        self.streams: dict[str, StreamInfo] = {
            name: _stream_info(fields, self._lengths(name))
            for name, fields in about["streams"].items()
        }
        self._readers = self._open(memory_bytes, cache_bytes)

    def __repr__(self) -> str:
        return f"RecordingStore(fingerprint={self.fingerprint!r})"

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Returns the names of the streams."""
        return tuple(self.streams)

    def timelines(self) -> list[Timeline]:
        """Returns the clocks of all recordings, in the order of `names`."""
        return list(self._timelines)

    def gather(
        self, stream: str, recording: int, samples: Int[np.ndarray, "..."]
    ) -> Shaped[np.ndarray, "..."]:
        """Reads samples of one stream of one recording.

        Args:
          stream: name of the stream.
          recording: number of the recording.
          samples: positions in the stream, in any shape and order.

        Returns:
          Values [*samples.shape, *value_shape].

        Raises:
          IndexError: a position lies outside the recording.
          ValueError: the stored data are damaged.
        """
        return self._readers[stream].gather(recording, samples)

    def portions(
        self,
        stream: str,
        recordings: Int[np.ndarray, " S"],
        samples: Int[np.ndarray, " S"],
    ) -> Iterator[Shaped[np.ndarray, "_ ..."]]:
        """Reads samples of several recordings in order, a bounded portion at a time.

        Args:
          stream: name of the stream.
          recordings: number of each sample's recording, never decreasing.
          samples: positions of the samples, increasing within a recording.

        Yields:
          Values of the next samples; of one recording each.

        Raises:
          IndexError, ValueError: as `gather`.
        """
        size = max(1, _PORTION_BYTES // (8 * self.streams[stream].sample_bytes))
        for number in np.unique(recordings):
            own = samples[recordings == number]
            for start in range(0, len(own), size):
                yield self.gather(stream, int(number), own[start : start + size])

    def exchanged(self, stream: str, recordings: Sequence[int]) -> RecordingStore:
        """Returns the same data set with one stream exchanged among recordings.

        Each of them has the values of the next one, the last those of the first; where
        they are too few, they begin again. Clocks and labels stay.

        Args:
          stream: name of the stream.
          recordings: numbers of the recordings.
        """
        other = copy.copy(self)
        partner = dict(zip(recordings, np.roll(recordings, -1).tolist(), strict=True))
        lengths = self._lengths(stream)
        reader = _ExchangedReader(self._readers[stream], partner, lengths)
        other._readers = {**self._readers, stream: reader}
        return other

    def _lengths(self, stream: str) -> np.ndarray:
        return np.array([len(t.streams[stream].time_s) for t in self._timelines])

    def _open(
        self, memory_bytes: int, cache_bytes: int
    ) -> dict[str, _StreamReader | _ExchangedReader]:
        readers: dict[str, _StreamReader | _ExchangedReader] = {}
        by_size = sorted(
            self.streams.items(),
            key=lambda item: item[1].samples * item[1].sample_bytes,
        )
        for name, info in by_size:
            memory_bytes -= info.samples * info.sample_bytes
            readers[name] = _StreamReader(
                _Records(self.directory, name),
                info,
                self._lengths(name),
                whole=memory_bytes >= 0,
                cache_bytes=cache_bytes,
            )
        return readers


class _Records:
    """The records of one config; opened at first use, with one clear error."""

    def __init__(self, directory: Path, config: str) -> None:
        self._directory = directory
        self.config = config
        self._lock = threading.Lock()

    @functools.cached_property
    def _builder(self) -> tfds.core.DatasetBuilder:
        try:
            return tfds.builder_from_directory(
                builder.config_directory(self._directory, self.config)
            )
        except Exception as error:
            raise self.damaged("description") from error

    @functools.cached_property
    def _source(self) -> Any:
        return self._builder.as_data_source(builder.SPLIT)

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self._builder.info.metadata)

    def __len__(self) -> int:
        return self._builder.info.splits[builder.SPLIT].num_examples

    def __getitem__(self, record: int) -> dict[str, Any]:
        # Whatever a broken file makes the reader raise, the remedy is the same.
        try:
            with self._lock:
                source = self._source
            fields = source[record]
        except Exception as error:
            raise self.damaged(f"record {record}") from error
        if fields is None:
            raise self.damaged(f"record {record}")
        return fields

    def damaged(self, what: str) -> ValueError:
        return ValueError(
            f"stored data must read back as written; {what} of {self.config!r} in "
            f"{self._directory} does not; delete that folder and prepare it again"
        )


class _StreamReader:
    """Gathers samples of one stream, from memory or from its records."""

    def __init__(
        self,
        records: _Records,
        info: StreamInfo,
        lengths: np.ndarray,
        *,
        whole: bool,
        cache_bytes: int,
    ) -> None:
        self._records = records
        self._info = info
        self._lengths = lengths
        self._first_sample = np.concatenate([[0], np.cumsum(lengths)])
        n_records = -(-lengths // info.samples_per_record)
        self._first_record = np.concatenate([[0], np.cumsum(n_records)])
        self._whole = whole
        self._lock = threading.Lock()
        record_bytes = max(1, info.samples_per_record * info.sample_bytes)
        # Kept records are shared between threads and windows, and never written to.
        self._record = functools.lru_cache(max(8, cache_bytes // record_bytes))(
            self._read_record
        )

    def gather(self, recording: int, samples: np.ndarray) -> np.ndarray:
        length = self._lengths[recording]
        if samples.size and (samples.min() < 0 or samples.max() >= length):
            raise IndexError(
                f"samples must lie in [0, {length}); got [{samples.min()}, "
                f"{samples.max()}] for {self._records.config!r} of recording "
                f"{recording}"
            )
        if self._whole:
            with self._lock:
                values = self._values
            return values[self._first_sample[recording] + samples]
        return self._gather_records(recording, samples)

    def _gather_records(self, recording: int, samples: np.ndarray) -> np.ndarray:
        size = self._info.samples_per_record
        records, position = np.unique(samples // size, return_inverse=True)
        first = self._first_record[recording]
        parts = [self._record(int(first + record)) for record in records]
        # Every record but the last of a recording is full, and comes in order.
        joined = np.concatenate(parts) if parts else self._empty()
        return joined[position.reshape(samples.shape) * size + samples % size]

    @functools.cached_property
    def _values(self) -> np.ndarray:
        parts = [self._read_record(i) for i in range(int(self._first_record[-1]))]
        return np.concatenate(parts)

    def _empty(self) -> np.ndarray:
        return np.empty((0, *self._info.value_shape), self._info.dtype)

    def _read_record(self, record: int) -> np.ndarray:
        fields = self._records[record]
        recording = int(np.searchsorted(self._first_record, record, side="right")) - 1
        start = (record - self._first_record[recording]) * self._info.samples_per_record
        n = min(self._info.samples_per_record, self._lengths[recording] - start)
        if (fields["recording"], fields["start"]) != (recording, start) or len(
            fields["values"]
        ) != n:
            raise self._records.damaged(f"record {record}")
        return fields["values"]


@dataclasses.dataclass(frozen=True)
class _ExchangedReader:
    """Gathers the samples of other recordings than those that are asked for."""

    reader: _StreamReader | _ExchangedReader
    partner: Mapping[int, int]
    lengths: np.ndarray

    def gather(self, recording: int, samples: np.ndarray) -> np.ndarray:
        other = self.partner.get(recording, recording)
        return self.reader.gather(other, samples % self.lengths[other])


def _stream_info(fields: Mapping[str, Any], lengths: np.ndarray) -> StreamInfo:
    return StreamInfo(
        value_shape=tuple(fields["value_shape"]),
        dtype=np.dtype(fields["dtype"]),
        unit=fields["unit"],
        channel_names=tuple(fields["channel_names"]),
        samples_per_record=int(fields["samples_per_record"]),
        samples=int(lengths.sum()),
    )


def _compact(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a clock whose clips and labels take no room where they never change."""

    def once(values: np.ndarray) -> np.ndarray:
        if not len(values) or (values != values[0]).any():
            return values
        return np.broadcast_to(values[0], values.shape)

    return {**row, "clip": once(row["clip"]), "label": once(row["label"])}


def _timelines(names: tuple[str, ...], rows: list[dict[str, Any]]) -> list[Timeline]:
    grouped: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for row in rows:
        grouped[row["recording"].decode()].append(row)
    return [
        Timeline(
            name=name,
            number=number,
            streams={
                row["stream"].decode(): StreamTimeline(
                    row["time_s"], row["clip"], row["label"]
                )
                for row in grouped[name]
            },
            clip_names=tuple(text.decode() for text in grouped[name][0]["clip_names"]),
            partition=_partition(grouped[name][0]["partition"]),
        )
        for number, name in enumerate(names)
    ]


def _partition(text: bytes) -> dict[str, tuple[tuple[float, float], ...]]:
    spans = json.loads(text)
    return {
        name: tuple((float(start), float(end)) for start, end in pairs)
        for name, pairs in spans.items()
    }
