"""Where recordings lie: which files and folders are some, and what is beside them."""

from __future__ import annotations

import glob
import os
import pathlib

from fmalign_jax.data import parquet
from fmalign_jax.data.files import beside
from fmalign_jax.data.recordings import images, label_file
from fmalign_jax.data.recordings.video import SUFFIXES


def is_npz(path: pathlib.Path) -> bool:
    """Whether a path is a recording of its own, by its name."""
    return path.suffix.lower() == ".npz"


def matches(path: str) -> set[pathlib.Path]:
    """The files of a path as a whole, or else of its parts between commas."""
    found = _found(path) or {
        file for part in path.split(",") for file in _found(part.strip())
    }
    return {file for file in found if is_recording(file)}


def is_recording(path: pathlib.Path) -> bool:
    """Whether a path is a file of a recording, or a folder of images with a table."""
    if path.suffix.lower() in (".npz", *SUFFIXES) and not path.is_dir():
        return True
    tables_beside = (beside(path, ".csv"), beside(path, parquet.SUFFIX))
    return images.is_folder(path) and any(table.is_file() for table in tables_beside)


def _found(path: str) -> set[pathlib.Path]:
    """One file, one folder of images, what a folder holds, or what a glob matches."""
    pattern = pathlib.Path(path).expanduser()
    folder, name = pattern.parent, pattern.name
    if pattern.is_dir() and _is_folder_of_recordings(pattern):
        folder, name = pattern, "*"
    elif pattern.exists():
        name = glob.escape(name)
    # A folder that is there means itself, whatever brackets its name has.
    place = glob.escape(str(folder)) if folder.is_dir() else str(folder)
    found = glob.glob(os.path.join(place, name), recursive=True)
    return {pathlib.Path(file) for file in found}


def _is_folder_of_recordings(folder: pathlib.Path) -> bool:
    """Whether a folder is not itself one recording: pictures may lie among others."""
    return not is_recording(folder) or any(map(is_recording, folder.iterdir()))


def name_of(path: pathlib.Path) -> str:
    """The name of the recording that a file, or a folder of images, is."""
    return path.name if path.is_dir() else path.stem


def table_beside(video: pathlib.Path) -> pathlib.Path:
    """The table of the sensor beside a video, in one of its forms.

    Raises:
      ValueError: it is there in both.
    """
    text, packed = beside(video, ".csv"), beside(video, parquet.SUFFIX)
    if text.is_file() and packed.is_file():
        raise ValueError(
            f"{packed}: a video needs one table beside it; got {text.name} too; move "
            "one of them elsewhere"
        )
    return packed if packed.is_file() else text


def beside_video(video: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """What is there beside a video, or nothing beside a recording of its own."""
    if is_npz(video):
        return ()
    parts = [beside(video, suffix) for suffix in (".csv", parquet.SUFFIX)]
    parts.append(label_file.beside(video))
    if video.is_dir():
        parts.append(images.times_file(video))
    return tuple(part for part in parts if part.is_file())
