"""A saved run as if it had been trained with other settings."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from fmalign_jax.run import integrity


def change_settings(
    run: pathlib.Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """Changes the settings in config.json and in every checkpoint, digests too."""
    _rewrite(run / "config.json", change)
    for checkpoint in (run / "checkpoints").glob("[0-9]*"):
        settings = _rewrite(checkpoint / "config" / "metadata", change)
        file = checkpoint / "digest" / "metadata"
        digest = integrity.unsealed(json.loads(file.read_text()))
        digest["config"] = {"": integrity.json_digest(settings)}
        file.write_text(json.dumps(integrity.sealed(digest)))


def _rewrite(
    file: pathlib.Path, change: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))
    return settings
