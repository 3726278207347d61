"""Find a class by the dotted name a config gives it."""

from __future__ import annotations

import importlib
from typing import Any


def load(dotted_name: str) -> Any:
    """Returns the object that a config names, such as ``"package.module.Class"``.

    Any importable package may be named, the user's own included: an encoder, a loss
    term or a data source is added by writing one file and naming it in a config.

    Args:
      dotted_name: module path and attribute, joined by dots.

    Raises:
      ValueError: when the module or the attribute does not exist.
    """
    module_name, _, attribute = dotted_name.rpartition(".")
    if not module_name:
        raise ValueError(
            "a component is named by its module and class, joined by dots; got "
            f"{dotted_name!r}; write for example 'my_package.my_module.MyClass'"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a component's module must be importable; got {dotted_name!r}, but "
            f"{error}; check the spelling in the config or install the package"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ValueError(
            f"a component must exist in its module; {module_name!r} has no "
            f"{attribute!r}; check the spelling in the config"
        ) from error
