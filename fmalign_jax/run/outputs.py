"""Folders that a command writes beside a run."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from fmalign_jax.config.digest import short_digest
from fmalign_jax.data.files import json_text, write_json

SETTINGS = "settings.json"


def choose_folder(
    run: pathlib.Path,
    workdir: pathlib.Path | None,
    settings: dict[str, Any],
    name: str = "evaluation",
    *,
    run_digest: str,
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Chooses the folder to write to, RUN/name by default; writes nothing yet.

    Args:
      run: its folder.
      workdir: the folder that the user gave; outside the run it may hold what was made
        of another one.
      settings: all that decides what is written, but for the run.
      name: of the folder in that of the run.
      run_digest: tells the run from others.

    Returns:
      The folder, and the settings that it is known by.

    Raises:
      ValueError: a folder given by the user holds something else.
    """
    digest = settings_digest(settings)
    default = (run / name, run / f"{name}-{digest}")
    candidates = default if workdir is None else (workdir,)
    settings = owned(settings, candidates[0], run, run_digest)
    for folder in candidates:
        if _is_free(folder, settings):
            return folder, settings
    raise ValueError(
        f"{name} needs a folder that is new, empty, or of the same settings; got "
        f"{candidates[-1]}, which holds something else; choose another --workdir"
    )


def owned(
    settings: dict[str, Any], folder: pathlib.Path, run: pathlib.Path, run_digest: str
) -> dict[str, Any]:
    """Returns settings that name the run too, where a folder lies outside the run's."""
    if folder.resolve().is_relative_to(run.resolve()):
        return settings
    return settings | {"run": run_digest}


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Returns eight hexadecimal digits that tell settings apart."""
    return short_digest(json_text(settings), size=4)


def _is_free(folder: pathlib.Path, settings: Mapping[str, Any]) -> bool:
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    file = folder / SETTINGS
    if not file.is_file():
        return not any(folder.iterdir())
    return file.read_text(encoding="utf-8") == json_text(settings)


@contextlib.contextmanager
def whole(folder: pathlib.Path, settings: Mapping[str, Any]) -> Iterator[pathlib.Path]:
    """Gives a place to write to, whose files appear in a folder at the end, or never.

    A command that is killed leaves a hidden `.NAME-*.incomplete` beside the folder, and
    the folder as it was.

    Args:
      folder: as from `choose_folder`.
      settings: written with the files, as settings.json.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = pathlib.Path(
        tempfile.mkdtemp(
            prefix=f".{folder.name}-", suffix=".incomplete", dir=folder.parent
        )
    )
    try:
        yield place
        write_json(place / SETTINGS, settings)
        if folder.is_dir():  # of the same settings, or empty
            for file in sorted(
                place.iterdir(), key=lambda file: file.suffix == ".json"
            ):
                os.replace(file, folder / file.name)
        else:
            place.chmod(0o755)
            os.rename(place, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)
