"""Describes a data set as Croissant: JSON-LD that catalogues and loaders read.

The format is version 1.1 of MLCommons,
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html. Licence, citation and
what else the owner alone knows are left out unless the config tells them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from fmalign_jax.data import files
from fmalign_jax.data.clock_report import StreamClock
from fmalign_jax.data.fmf.benchmark import LABEL_NAMES
from fmalign_jax.data.store import RecordingStore, builder
from fmalign_jax.data.windows.index import WindowIndex

Json = dict[str, Any]
_About = Mapping[str, str]

FILE = "croissant.json"

# As mlcroissant writes it, so that any reader knows the short names.
_TERMS = (
    *("annotation", "arrayShape", "citeAs", "column", "containedIn"),
    *("equivalentProperty", "excludes", "extract", "field", "fileObject"),
    *("fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset"),
    *("jsonPath", "key", "md5", "parentField", "path", "recordSet", "references"),
    *("regex", "repeated", "replace", "samplingRate", "sdVersion", "separator"),
    *("source", "subField", "transform", "value"),
)
_CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}
_CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
_TOLD = {
    "license": "license",
    "cite_as": "citeAs",
    "url": "url",
    "creator": "creator",
    "date_published": "datePublished",
    "version": "version",
}
_SPLITS = {"train": "Training", "validation": "Validation", "test": "Test"}
_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".mp4": "video/mp4",
}
_ARRAY_RECORD = "https://github.com/google/array_record"  # it has no media type
_TYPES = {"str": "sc:Text", "int": "sc:Integer", "float": "sc:Float"}
_KINDS = {"b": "sc:Boolean", "f": "sc:Float", "i": "sc:Integer", "u": "sc:Integer"}


def write(folder: pathlib.Path, description: Json) -> None:
    """Writes the description into the folder of the data, whole or not at all.

    An earlier one is replaced; one that somebody else wrote, or has edited since, is
    kept, and that is said.

    Args:
      folder: of the data set.
      description: as one of the functions below returns it.

    Raises:
      OSError: one may not write there.
    """
    path = folder / FILE
    text = files.json_text(_signed(description))
    if (path.exists() or path.is_symlink()) and not _is_own(path):
        logging.warning(
            "%s: an earlier description is replaced only as it was written; got one "
            "that was edited, or is of another kind, and kept it; move it away to have "
            "a new one",
            path,
        )
        return
    files.write_text(path, text)


def prepared(
    store: RecordingStore,
    clocks: Sequence[StreamClock],
    windows: Mapping[str, WindowIndex],
    about: _About,
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
    return _dataset(
        store.directory.name,
        "Recordings of several streams, each at its native rate, all on one clock in "
        "seconds, prepared by fmalign_jax; tensorflow_datasets.builder_from_directory "
        f"reads each of the folders {', '.join(folders.values())}. Raw data: "
        f"fingerprint {store.fingerprint}.",
        [
            _file(store.directory, store.directory / "clocks.csv"),
            *(
                _file_set(f"files-{quote(stream)}", f"{place}/*.array_record*")
                for stream, place in folders.items()
            ),
        ],
        [
            _recordings(store.names),
            *_classes(store.label_names),
            _streams(store, clocks),
            _clocks(),
            *_split(_parts(store.names, windows), {"windows": "sc:Integer"}),
            *(_samples(store, stream) for stream in store.streams),
            _timeline(),
        ],
        about,
    )


def layout_v2(root: pathlib.Path, description: str) -> Json:
    """Describes a folder in layout V2 (`fmf.benchmark`), the split files included.

    Args:
      root: the folder, complete.
      description: what the recordings are.
    """
    names = sorted(path.stem for path in root.glob("pixel-level/videos/*.mat"))
    parts = [
        {"recording": pathlib.Path(file).stem, "split": split, "frames": len(frames)}
        for split in ("train", "test")
        for file, frames in _indices(root, split).items()
    ]
    current = {"time": "sc:DateTime", **dict.fromkeys("abc", "sc:Float")}
    return _dataset(
        root.name,
        f"{description} Layout V2 of the FMF benchmark: currents in amperes, times "
        "to the second. Each video is HDF5: data, uint8 [T, C, W, H], and label, uint8 "
        f"[T, W, H], in which 0 is {LABEL_NAMES[0]} and 1 {LABEL_NAMES[1]}.",
        [
            *(_file(root, path) for path in sorted(root.rglob("*.json"))),
            _file_set("videos", "pixel-level/videos/*.mat", "application/x-hdf5"),
            _file_set("currents", "pixel-level/currents/*.csv", "text/csv"),
            _file_set("timestamps", "pixel-level/timestamps/*.csv", "text/csv"),
            _file_set("truth", "truth/*.npz", "application/zip"),
        ],
        [
            _recordings(names),
            *_classes(LABEL_NAMES),
            *_split(parts, {"frames": "sc:Integer"}),
            _of_files("videos", "mat", {"content": "sc:VideoObject"}),
            _of_files("currents", "csv", current),
            _of_files("timestamps", "csv", {"time": "sc:DateTime"}),
        ],
        {},
    )


def videos_and_tables(root: pathlib.Path, description: str, about: _About) -> Json:
    """Describes a folder of videos, each beside tables of its current and its labels.

    Args:
      root: the folder; <name>.mp4, <name>.csv with the columns time, a, b, c, and
        <name>.labels.csv with time and label, from which on it holds.
      description: what the recordings are.
      about: as in `prepared`.
    """
    paths = sorted(path for path in root.iterdir() if path.suffix in (".csv", ".mp4"))
    labels = "*.labels.csv"
    names = {
        line.rpartition(",")[2]
        for path in root.glob(labels)
        for line in path.read_text(encoding="utf-8").splitlines()[1:]
    }
    current = dict.fromkeys(("time", *"abc"), "sc:Float")
    return _dataset(
        root.name,
        f"{description} Times are seconds from the start of the video, currents "
        "amperes; a label holds from its time to the next one.",
        [
            *(_file(root, path) for path in paths),
            _file_set("videos", "*.mp4", "video/mp4"),
            _file_set("currents", "*.csv", "text/csv") | {"excludes": labels},
            _file_set("labels", labels, "text/csv"),
        ],
        [
            _recordings(sorted(path.stem for path in root.glob("*.mp4"))),
            *_classes(sorted(names)),
            _of_files("videos", "mp4", {"content": "sc:VideoObject"}),
            _of_files("currents", "csv", current),
            _of_files("labels", "labels.csv", {"time": "sc:Float", "label": "sc:Text"}),
        ],
        about,
    )


def _dataset(
    name: str,
    description: str,
    distribution: list[Json],
    record_sets: list[Json],
    about: _About,
) -> Json:
    if unknown := sorted(set(about) - set(_TOLD)):
        raise ValueError(
            f"data.about tells {', '.join(_TOLD)}; got {', '.join(unknown)}; use those"
        )
    told: Json = {_TOLD[key]: text for key, text in about.items() if text}
    if "creator" in told:
        told["creator"] = {"@type": "sc:Organization", "name": told["creator"]}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": name,
        "description": description,
        **told,
        "distribution": distribution,
        "recordSet": record_sets,
    }


def _signed(description: Json) -> Json:
    """Adds a version of the description: a digest, by which an edited one is known."""
    digest = hashlib.sha256(files.json_text(description).encode()).hexdigest()[:12]
    return {**description, "sdVersion": f"1.0.0+{digest}"}


def _is_own(path: pathlib.Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        found = files.read_json(path) or {}
        unsigned = {k: v for k, v in found.items() if k != "sdVersion"}
        return _signed(unsigned) == found
    except ValueError:  # no JSON, or a NaN in it
        return False


def _file(root: pathlib.Path, path: pathlib.Path) -> Json:
    content = path.read_bytes()
    name = path.relative_to(root).as_posix()
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": path.name,
        "contentUrl": name,
        "contentSize": f"{len(content)} B",
        "encodingFormat": _MEDIA_TYPES[path.suffix],
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _file_set(name: str, pattern: str, encoding: str = _ARRAY_RECORD) -> Json:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": encoding,
        "includes": pattern,
    }


def _record_set(name: str, description: str, fields: Iterable[Json]) -> Json:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": list(fields),
    }


def _field(record_set: str, name: str, kind: str | list[str], **further: Any) -> Json:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "dataType": kind,
        **further,
    }


def _reference(field: str) -> Json:
    # The specification leaves "field" out; mlcroissant 1.1 fails without it.
    return {"field": {"@id": field}}


def _table(
    name: str,
    description: str,
    kinds: Mapping[str, str],
    rows: Sequence[Json],
    *,
    key: str = "",
    kind: str = "",
) -> Json:
    """Returns a record set whose records stand in the description itself."""
    fields = [_field(name, column, of) for column, of in kinds.items()]
    return {
        **_record_set(name, description, fields),
        **({"key": {"@id": f"{name}/{key}"}} if key else {}),
        **({"dataType": kind} if kind else {}),
        "data": [{f"{name}/{column}": row[column] for column in kinds} for row in rows],
    }


def _numbered(name: str, description: str, names: Sequence[str], **about: str) -> Json:
    kinds = {"number": "sc:Integer", "name": "sc:Text"}
    rows = [{"number": number, "name": text} for number, text in enumerate(names)]
    return _table(name, description, kinds, rows, **about)


def _recordings(names: Sequence[str]) -> Json:
    return _numbered("recordings", "The recordings.", names, key="name")


def _classes(names: Sequence[str]) -> list[Json]:
    """Returns the classes, if there are any."""
    said = "The classes; a label is the number of one, or -1 where it is unknown."
    about = {"key": "number", "kind": "sc:Enumeration"}
    return [_numbered("classes", said, names, **about)] if names else []


def _split(parts: Sequence[Json], of_data: Mapping[str, str]) -> list[Json]:
    """Returns the splits, and which recordings, or parts of them, each one has."""
    used = [split for split in _SPLITS if any(p["split"] == split for p in parts)]
    kinds = {"recording": "sc:Text", "split": "sc:Text", **of_data}
    timed: Mapping[str, str] = {
        key: "sc:Float" for key in ("start_s", "end_s") if key in parts[0]
    }
    table = _table(
        "parts",
        "What each split has of each recording, and from when to when.",
        {**kinds, **timed},
        parts,
    )
    for field, other in zip(table["field"], ("recordings", "splits"), strict=False):
        field["references"] = _reference(f"{other}/name")
    splits = _table(
        "splits",
        "The splits.",
        {"name": "sc:Text", "url": "sc:URL"},
        [{"name": split, "url": f"cr:{_SPLITS[split]}Split"} for split in used],
        key="name",
        kind="cr:Split",
    )
    return [splits, table]


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
    return _table("streams", said, kinds, rows, key="name")


def _clocks() -> Json:
    source = {"fileObject": {"@id": "clocks.csv"}}
    return _record_set(
        "clocks",
        "How regular the clock of each stream of each recording is.",
        (
            _field(
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
    return _record_set(
        name,
        f"Stream {stream} in records of up to {info.samples_per_record} samples, in "
        "order of recording and time; start is the position of the first sample.",
        [
            _field(
                name, "recording", "sc:Integer", source=_column(stream, "recording")
            ),
            _field(name, "start", "sc:Integer", source=_column(stream, "start")),
            _field(
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
    return _record_set(
        name,
        "Clock, clips and labels of each stream of each recording, without values.",
        [
            *(
                _field(name, key, "sc:Text", source=_column(stream, key))
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
        _field(name, key, kind, source=_column(stream, key), isArray=True)
        for key, kind in kinds.items()
    ]


def _column(stream: str, column: str) -> Json:
    return {
        "fileSet": {"@id": f"files-{quote(stream)}"},
        "extract": {"column": column},
    }


def _of_files(kind: str, suffix: str, columns: Mapping[str, str]) -> Json:
    """Returns the record set of a kind of files, one a recording."""
    name, source = f"records-{kind}", {"fileSet": {"@id": kind}}
    recording = _field(
        name,
        "recording",
        "sc:Text",
        source={
            **source,
            "extract": {"fileProperty": "filename"},
            # mlcroissant applies it twice.
            "transform": {"regex": rf"^(.+?)(?:\.{re.escape(suffix)})?$"},
        },
        references=_reference("recordings/name"),
    )

    def extract(column: str) -> Json:
        if column == "content":
            return {"fileProperty": column}
        return {"column": column}

    return _record_set(
        name,
        f"The {kind} of the recordings.",
        [
            recording,
            *(
                _field(name, key, of, source={**source, "extract": extract(key)})
                for key, of in columns.items()
            ),
        ],
    )


def _indices(root: pathlib.Path, split: str) -> Mapping[str, Sequence[int]]:
    text = (root / "pixel-level" / f"{split}.json").read_text(encoding="utf-8")
    found: Mapping[str, Sequence[int]] = json.loads(text)
    return found
