"""What a stored record holds: a chunk of samples, or the clock of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from fmalign_jax.structs import Recording, Stream

Record = dict[str, np.ndarray | list[str] | str | int]

_LEAST_RECORD_BYTES = 64 << 10


def samples_per_record(values: np.ndarray, chunk_samples: int) -> int:
    """Returns how many samples of a stream lie in one record."""
    return max(chunk_samples, _LEAST_RECORD_BYTES // max(1, values[:1].nbytes))


def chunks(stream: Stream, recording: int, length: int) -> Iterator[Record]:
    """Cuts a stream into records of at most so many samples, in order."""
    for start in range(0, len(stream.time_s), length):
        part = slice(start, start + length)
        yield {
            "recording": recording,
            "start": start,
            "values": stream.values[part],
            "time_s": stream.time_s[part],
            "clip": stream.clip[part],
            "label": stream.label[part],
        }


def timeline(recording: Recording, stream_name: str) -> Record:
    """Returns the record of one stream's clock, and of where it comes from."""
    stream = recording.streams[stream_name]
    return {
        "recording": recording.name,
        "stream": stream_name,
        "time_s": stream.time_s,
        "clip": stream.clip,
        "label": stream.label,
        "clip_names": list(recording.clip_names),
        "partition": json.dumps(dict(recording.partition)),
        "provenance": recording.provenance,
    }


def _array(shape: tuple[int | None, ...], dtype: np.dtype) -> tfds.features.Tensor:
    # Bytes read about ten times faster than the default list of numbers.
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")


def _clock_features() -> dict[str, tfds.features.FeatureConnector]:
    return {
        "time_s": _array((None,), np.dtype(np.float64)),
        "clip": _array((None,), np.dtype(np.int32)),
        "label": _array((None,), np.dtype(np.int32)),
    }


def chunk_features(stream: Stream) -> tfds.features.FeaturesDict:
    """Returns the fields of a chunk record."""
    return tfds.features.FeaturesDict(
        {
            "recording": tfds.features.Scalar(np.int32),
            "start": tfds.features.Scalar(np.int64),
            "values": _array((None, *stream.values.shape[1:]), stream.values.dtype),
            **_clock_features(),
        }
    )


def timeline_features() -> tfds.features.FeaturesDict:
    """Returns the fields of a timeline record."""
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {
            "recording": text,
            "stream": text,
            "clip_names": tfds.features.Sequence(text),
            "partition": text,  # JSON: {"train": [[start_s, end_s], ...], ...}
            "provenance": text,
            **_clock_features(),
        }
    )
