"""Describes folders of raw recordings: layout V2, and videos beside tables."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence

from fmalign_jax.data.croissant import elements
from fmalign_jax.data.croissant.elements import About, Json
from fmalign_jax.data.fmf.benchmark import LABEL_NAMES


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
    return elements.dataset(
        root.name,
        f"{description} Layout V2 of the FMF benchmark: currents in amperes, times "
        "to the second. Each video is HDF5: data, uint8 [T, C, W, H], and label, uint8 "
        f"[T, W, H], in which 0 is {LABEL_NAMES[0]} and 1 {LABEL_NAMES[1]}.",
        [
            *(elements.file(root, path) for path in sorted(root.rglob("*.json"))),
            elements.file_set(
                "videos", "pixel-level/videos/*.mat", "application/x-hdf5"
            ),
            elements.file_set("currents", "pixel-level/currents/*.csv", "text/csv"),
            elements.file_set("timestamps", "pixel-level/timestamps/*.csv", "text/csv"),
            elements.file_set("truth", "truth/*.npz", "application/zip"),
        ],
        [
            elements.recordings(names),
            *elements.classes(LABEL_NAMES),
            *elements.split(parts, {"frames": "sc:Integer"}),
            _of_files("videos", "mat", {"content": "sc:VideoObject"}),
            _of_files("currents", "csv", current),
            _of_files("timestamps", "csv", {"time": "sc:DateTime"}),
        ],
        {},
    )


def videos_and_tables(root: pathlib.Path, description: str, about: About) -> Json:
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
    return elements.dataset(
        root.name,
        f"{description} Times are seconds from the start of the video, currents "
        "amperes; a label holds from its time to the next one.",
        [
            *(elements.file(root, path) for path in paths),
            elements.file_set("videos", "*.mp4", "video/mp4"),
            elements.file_set("currents", "*.csv", "text/csv") | {"excludes": labels},
            elements.file_set("labels", labels, "text/csv"),
        ],
        [
            elements.recordings(sorted(path.stem for path in root.glob("*.mp4"))),
            *elements.classes(sorted(names)),
            _of_files("videos", "mp4", {"content": "sc:VideoObject"}),
            _of_files("currents", "csv", current),
            _of_files("labels", "labels.csv", {"time": "sc:Float", "label": "sc:Text"}),
        ],
        about,
    )


def _of_files(kind: str, suffix: str, columns: Mapping[str, str]) -> Json:
    """Returns the record set of a kind of files, one a recording."""
    name, source = f"records-{kind}", {"fileSet": {"@id": kind}}
    recording = elements.field(
        name,
        "recording",
        "sc:Text",
        source={
            **source,
            "extract": {"fileProperty": "filename"},
            # mlcroissant applies it twice.
            "transform": {"regex": rf"^(.+?)(?:\.{re.escape(suffix)})?$"},
        },
        references=elements.reference("recordings/name"),
    )

    def extract(column: str) -> Json:
        if column == "content":
            return {"fileProperty": column}
        return {"column": column}

    return elements.record_set(
        name,
        f"The {kind} of the recordings.",
        [
            recording,
            *(
                elements.field(
                    name, key, of, source={**source, "extract": extract(key)}
                )
                for key, of in columns.items()
            ),
        ],
    )


def _indices(root: pathlib.Path, split: str) -> Mapping[str, Sequence[int]]:
    text = (root / "pixel-level" / f"{split}.json").read_text(encoding="utf-8")
    found: Mapping[str, Sequence[int]] = json.loads(text)
    return found
