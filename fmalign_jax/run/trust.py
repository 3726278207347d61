"""Which code the config of a saved run may name.

The folder of a run may come from somebody else. Its config names classes, and to build
what it describes is to import and call them. So a saved config may name the classes of
this package, of the kind that belongs there, and those of packages that the user of
this machine trusts; anything else is refused before it is imported.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn

from fmalign_jax.cli import TRUST_CODE
from fmalign_jax.config.build import load

PACKAGE = "fmalign_jax"

_SOURCE = "data.source"


def check_names(
    settings: Mapping[str, Any], where: object, *, trust_code: Iterable[str] = ()
) -> None:
    """Refuses a saved config that names code of others.

    Args:
      settings: of the run, as read from config.json.
      where: the file, for the message.
      trust_code: packages or modules whose classes may be named too, besides those of
        the environment variable TRUST_CODE.

    Raises:
      ValueError: naming the first key whose value may not stand there.
    """
    trusted = [*trust_code, *filter(None, os.environ.get(TRUST_CODE, "").split(","))]
    for key, name in names(settings):
        if any(_inside(name, package.strip()) for package in trusted):
            continue
        if not (isinstance(name, str) and _inside(name, PACKAGE)):
            raise ValueError(
                f"{where}: {key} must name a class of {PACKAGE}; got {name!r}, which "
                "would be imported and run. If you know and trust that code, allow its "
                f"package with --trust_code=PACKAGE or {TRUST_CODE}=PACKAGE"
            )
        found = load(name)
        if not _fits(key, found):
            kind = "a source of recordings" if key == _SOURCE else "a Flax module"
            raise ValueError(
                f"{where}: {key} must name {kind} of {PACKAGE}; got {name!r}, which is "
                "something else; the file is damaged or was changed"
            )


def names(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields everything that building the config would import, with its key."""
    data = settings.get("data")
    if isinstance(data, Mapping) and "source" in data:
        yield _SOURCE, data["source"]
    for key, value in settings.items():
        # Options of data are plain arguments. Loggers are made by training alone, from
        # the config of its command line.
        if key not in ("data", "loggers"):
            yield from _named(key, value)


def _named(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "name":
                yield f"{key}.name", inner
            else:
                yield from _named(f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _named(f"{key}.{number}", inner)


def _inside(name: Any, package: str) -> bool:
    return isinstance(name, str) and f"{name}.".startswith(f"{package}.")


def _fits(key: str, found: Any) -> bool:
    """Says whether an object of this package is of the kind that belongs there."""
    if not (inspect.isclass(found) and _inside(found.__module__, PACKAGE)):
        return False
    return (
        hasattr(found, "fingerprint")
        if key == _SOURCE
        else issubclass(found, nn.Module)
    )
