"""Folders that a command writes beside a run."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from fmalign_jax.config.digest import short_digest
from fmalign_jax.data.files import json_text, write_json

SETTINGS = "settings.json"


def choose_folder(
    run: pathlib.Path,
    workdir: pathlib.Path | None,
    settings: Mapping[str, Any],
    name: str = "evaluation",
) -> pathlib.Path:
    """Returns the folder to write to, RUN/name by default; writes nothing yet.

    Raises:
      ValueError: a folder given by the user holds something else.
    """
    digest = settings_digest(settings)
    default = (run / name, run / f"{name}-{digest}")
    candidates = default if workdir is None else (workdir,)
    for folder in candidates:
        if _is_free(folder, settings):
            return folder
    raise ValueError(
        f"{name} needs a folder that is new, empty, or of the same settings; got "
        f"{candidates[-1]}, which holds something else; choose another --workdir"
    )


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


def write_report(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    report: Mapping[str, Any],
    name: str = "eval.json",
) -> None:
    """Writes settings.json and the report, eval.json by default."""
    write_json(folder / SETTINGS, settings)
    write_json(folder / name, report)
