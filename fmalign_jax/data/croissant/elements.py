"""What a description in Croissant is made of, and how it is written.

The format is version 1.1 of MLCommons,
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html. Licence, citation and
what else the owner alone knows are left out unless the config tells them.
"""

from __future__ import annotations

import hashlib
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fmalign_jax.data import files

Json = dict[str, Any]
About = Mapping[str, str]
"""What the owner of the data tells: `data.about` of a config."""

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


def write(folder: pathlib.Path, description: Json) -> None:
    """Writes the description into the folder of the data, whole or not at all.

    An earlier one is replaced; one that somebody else wrote, or has edited since, is
    kept, and that is said.

    Args:
      folder: of the data set.
      description: as `prepared`, `layout_v2` and the like return it.

    Raises:
      OSError: one may not write there.
    """
    path = folder / FILE
    text = files.json_text(signed(description))
    if (path.exists() or path.is_symlink()) and not _is_own(path):
        logging.warning(
            "%s: an earlier description is replaced only as it was written; got one "
            "that was edited, or is of another kind, and kept it; move it away to have "
            "a new one",
            path,
        )
        return
    files.write_text(path, text)


def dataset(
    name: str,
    description: str,
    distribution: list[Json],
    record_sets: list[Json],
    about: About,
) -> Json:
    """Returns a whole description.

    Raises:
      ValueError: `about` tells something else than the format has.
    """
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


def signed(description: Json) -> Json:
    """Adds a version of the description: a digest, by which an edited one is known."""
    digest = hashlib.sha256(files.json_text(description).encode()).hexdigest()[:12]
    return {**description, "sdVersion": f"1.0.0+{digest}"}


def _is_own(path: pathlib.Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        found = files.read_json(path) or {}
        unsigned = {k: v for k, v in found.items() if k != "sdVersion"}
        return signed(unsigned) == found
    except ValueError:  # no JSON, or a NaN in it
        return False


def file(root: pathlib.Path, path: pathlib.Path) -> Json:
    """Returns a file of the folder, with its size and digest."""
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


def file_set(name: str, pattern: str, encoding: str = _ARRAY_RECORD) -> Json:
    """Returns all files whose names fit a pattern."""
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": encoding,
        "includes": pattern,
    }


def record_set(name: str, description: str, fields: Iterable[Json]) -> Json:
    """Returns a kind of records."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": list(fields),
    }


def field(record_set: str, name: str, kind: str | list[str], **further: Any) -> Json:
    """Returns a field of a kind of records."""
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "dataType": kind,
        **further,
    }


def reference(field: str) -> Json:
    """Returns that a field has the values of another."""
    # The specification leaves "field" out; mlcroissant 1.1 fails without it.
    return {"field": {"@id": field}}


def table(
    name: str,
    description: str,
    kinds: Mapping[str, str],
    rows: Sequence[Json],
    *,
    key: str = "",
    kind: str = "",
) -> Json:
    """Returns a record set whose records stand in the description itself."""
    fields = [field(name, column, of) for column, of in kinds.items()]
    return {
        **record_set(name, description, fields),
        **({"key": {"@id": f"{name}/{key}"}} if key else {}),
        **({"dataType": kind} if kind else {}),
        "data": [{f"{name}/{column}": row[column] for column in kinds} for row in rows],
    }


def _numbered(name: str, description: str, names: Sequence[str], **about: str) -> Json:
    kinds = {"number": "sc:Integer", "name": "sc:Text"}
    rows = [{"number": number, "name": text} for number, text in enumerate(names)]
    return table(name, description, kinds, rows, **about)


def recordings(names: Sequence[str]) -> Json:
    """Returns the recordings, by number and name."""
    return _numbered("recordings", "The recordings.", names, key="name")


def classes(names: Sequence[str]) -> list[Json]:
    """Returns the classes, if there are any."""
    said = "The classes; a label is the number of one, or -1 where it is unknown."
    about = {"key": "number", "kind": "sc:Enumeration"}
    return [_numbered("classes", said, names, **about)] if names else []


def split(parts: Sequence[Json], of_data: Mapping[str, str]) -> list[Json]:
    """Returns the splits, and which recordings, or parts of them, each one has."""
    used = [split for split in _SPLITS if any(p["split"] == split for p in parts)]
    kinds = {"recording": "sc:Text", "split": "sc:Text", **of_data}
    timed: Mapping[str, str] = {
        key: "sc:Float" for key in ("start_s", "end_s") if key in parts[0]
    }
    found = table(
        "parts",
        "What each split has of each recording, and from when to when.",
        {**kinds, **timed},
        parts,
    )
    for field, other in zip(found["field"], ("recordings", "splits"), strict=False):
        field["references"] = reference(f"{other}/name")
    splits = table(
        "splits",
        "The splits.",
        {"name": "sc:Text", "url": "sc:URL"},
        [{"name": split, "url": f"cr:{_SPLITS[split]}Split"} for split in used],
        key="name",
        kind="cr:Split",
    )
    return [splits, found]
