"""Describes a prepared data set: streams, clocks, splits and records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import numpy as np

from fmalign_jax.data.clock_report import StreamClock
from fmalign_jax.data.croissant import elements
from fmalign_jax.data.croissant.elements import About, Json
from fmalign_jax.data.store import RecordingStore, builder
from fmalign_jax.data.windows.index import WindowIndex

_TYPES = {"str": "sc:Text", "int": "sc:Integer", "float": "sc:Float"}
_KINDS = {"b": "sc:Boolean", "f": "sc:Float", "i": "sc:Integer", "u": "sc:Integer"}


def prepared(
    store: RecordingStore,
    clocks: Sequence[StreamClock],
    windows: Mapping[str, WindowIndex],
    about: About,
) -> Json:
    """Describes a prepared data set, in whose folder `clocks.csv` lies already.

    Args:
      store: the data set.
      clocks: of its recordings, as `clock_report.measure` returns them.
      windows: of each split.
      about: what the owner tells, as `data.about` of a config.

    Raises:
      ValueError: `about` tells something else.
      OSError: `clocks.csv` is not there.
    """
    folders = {
        name: builder.config_directory("", name).as_posix()
        for name in (*store.streams, builder.TIMELINE)
    }
    return elements.dataset(
        store.directory.name,
        "Recordings of several streams, each at its native rate, all on one clock in "
        "seconds, prepared by fmalign_jax; tensorflow_datasets.builder_from_directory "
        f"reads each of the folders {', '.join(folders.values())}. Raw data: "
        f"fingerprint {store.fingerprint}.",
        [
            elements.file(store.directory, store.directory / "clocks.csv"),
            *(
                elements.file_set(f"files-{quote(stream)}", f"{place}/*.array_record*")
                for stream, place in folders.items()
            ),
        ],
        [
            elements.recordings(store.names),
            *elements.classes(store.label_names),
            _streams(store, clocks),
            _clocks(),
            *elements.split(_parts(store.names, windows), {"windows": "sc:Integer"}),
            *(_samples(store, stream) for stream in store.streams),
            _timeline(),
        ],
        about,
    )


def _parts(names: Sequence[str], windows: Mapping[str, WindowIndex]) -> list[Json]:
    parts = []
    for split, index in windows.items():
        for number, own in index.by_recording().items():
            start = index.start[own]
            starts_s, _ = index.ticks.span_s(start)
            _, ends_s = index.ticks.span_s(start + index.window_ticks - 1)
            parts.append(
                {
                    "recording": names[number],
                    "split": split,
                    "windows": len(start),
                    "start_s": float(starts_s.min()),
                    "end_s": float(ends_s.max()),
                }
            )
    return parts


def _streams(store: RecordingStore, clocks: Sequence[StreamClock]) -> Json:
    rows = []
    for name, info in store.streams.items():
        rates_hz = np.array([c.rate_hz for c in clocks if c.stream == name])
        known_hz = rates_hz[np.isfinite(rates_hz)]
        rows.append(
            {
                "name": name,
                "unit": info.unit,
                "channels": ", ".join(info.channel_names),
                "shape": ",".join(map(str, info.value_shape)),
                "dtype": info.dtype.name,
                "samples": info.samples,
                "rate_hz": float(np.median(known_hz)) if known_hz.size else None,
            }
        )
    kinds = {
        **dict.fromkeys(("name", "unit", "channels", "shape", "dtype"), "sc:Text"),
        "samples": "sc:Integer",
        "rate_hz": "sc:Float",
    }
    said = (
        "The streams: shape and type of one sample, samples in all recordings, and "
        "the median rate of the recordings."
    )
    return elements.table("streams", said, kinds, rows, key="name")


def _clocks() -> Json:
    source = {"fileObject": {"@id": "clocks.csv"}}
    return elements.record_set(
        "clocks",
        "How regular the clock of each stream of each recording is.",
        (
            elements.field(
                "clocks",
                column.name,
                _TYPES[str(column.type)],
                source={**source, "extract": {"column": column.name}},
            )
            for column in dataclasses.fields(StreamClock)
        ),
    )


def _samples(store: RecordingStore, stream: str) -> Json:
    info = store.streams[stream]
    name = f"records-{quote(stream)}"
    shape = ",".join(map(str, (-1, *info.value_shape)))
    return elements.record_set(
        name,
        f"Stream {stream} in records of up to {info.samples_per_record} samples, in "
        "order of recording and time; start is the position of the first sample.",
        [
            elements.field(
                name, "recording", "sc:Integer", source=_column(stream, "recording")
            ),
            elements.field(
                name, "start", "sc:Integer", source=_column(stream, "start")
            ),
            elements.field(
                name,
                "values",
                _KINDS.get(info.dtype.kind, "sc:Text"),
                source=_column(stream, "values"),
                isArray=True,
                arrayShape=shape,
            ),
            *_clock_fields(name, stream),
        ],
    )


def _timeline() -> Json:
    name, stream = "records-timeline", builder.TIMELINE
    texts = ("recording", "stream", "clip_names", "partition", "provenance")
    return elements.record_set(
        name,
        "Clock, clips and labels of each stream of each recording, without values.",
        [
            *(
                elements.field(name, key, "sc:Text", source=_column(stream, key))
                | ({"isArray": True} if key == "clip_names" else {})
                for key in texts
            ),
            *_clock_fields(name, stream),
        ],
    )


def _clock_fields(name: str, stream: str) -> list[Json]:
    kinds: Mapping[str, str | list[str]] = {
        "time_s": "sc:Float",
        "clip": "sc:Integer",
        "label": ["sc:Integer", "cr:Label"],
    }
    return [
        elements.field(name, key, kind, source=_column(stream, key), isArray=True)
        for key, kind in kinds.items()
    ]


def _column(stream: str, column: str) -> Json:
    return {
        "fileSet": {"@id": f"files-{quote(stream)}"},
        "extract": {"column": column},
    }
