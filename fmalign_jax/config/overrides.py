"""For studies: a config read from its file, and small changes to it with a name."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

Change = Callable[[ConfigDict], None]
"""Changes a config in place."""

_PACKAGE = pathlib.Path(__file__).parents[1]


def load_file(path: pathlib.Path) -> ModuleType:
    """Imports a Python file that lies in no package, such as a config.

    Raises:
      ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(
            f"a config or study must be a Python file; got {path}, which is none; "
            "correct the path"
        )
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shipped_configs() -> dict[str, pathlib.Path]:
    """Returns the config files that come with the package, by name."""
    # In a wheel they lie in the package, in a checkout beside it.
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    found = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(found.glob("*.py"))}


def shipped_config(name: str) -> ConfigDict:
    """Returns a config that comes with the package, for one of your own to start from.

    Args:
      name: such as "recordings", or with a variant "pretrain:recordings+any_lead".

    Raises:
      ValueError: there is no such config or variant.
    """
    stem, _, variant = name.partition(":")
    shipped = shipped_configs()
    if stem not in shipped:
        raise ValueError(
            f"a shipped config must be one of {', '.join(shipped)}; got {stem!r}; "
            "correct the name"
        )
    module: Any = load_file(shipped[stem])
    config: ConfigDict = module.get_config(*filter(None, [variant]))
    return config


def unchanged(config: ConfigDict) -> None:
    """Leaves a config as it is."""


def without(*terms: str) -> Change:
    """Returns a change that leaves objectives out."""

    def change(config: ConfigDict) -> None:
        for term in terms:
            config.objectives[term].weight = 0.0

    return change


def setting(key: str, value: Any) -> Change:
    """Returns a change of one key, by its dotted name."""

    def change(config: ConfigDict) -> None:
        config.update_from_flattened_dict({key: value})

    return change
