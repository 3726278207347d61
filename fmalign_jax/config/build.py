"""Builds what a config names: parts of a model, objectives, sources of data."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any


def build(entry: Mapping[str, Any], role: str, **defaults: Any) -> Any:
    """Builds a module from a config entry.

    Args:
      entry: ``{"name": "package.module.Class", **kwargs of that class}``.
      role: where the entry stands in the config, for messages.
      defaults: kwargs for the class where it has them and the entry does not.

    Raises:
      ValueError: when the entry names no class, gives a key that the class does not
        have, or lacks one that it needs.
    """
    kwargs = dict(entry)
    name = kwargs.pop("name", None)
    if name is None:
        raise ValueError(
            f"{role} must name its class; got keys {sorted(kwargs)}; add "
            "name='package.module.Class'"
        )
    component = load(name)
    if not hasattr(component, "__dataclass_fields__"):
        raise ValueError(
            f"{role} must name a class whose fields are its options; got {name}, which "
            "is no dataclass; decorate it with @dataclasses.dataclass"
        )
    fields = {f.name: f for f in dataclasses.fields(component)}
    fields = {k: f for k, f in fields.items() if k not in ("name", "parent")}
    if unknown := sorted(set(kwargs) - set(fields)):
        raise ValueError(
            f"{role} may give only what {name} takes; got {', '.join(unknown)}; "
            f"allowed: {', '.join(sorted(fields)) or 'nothing'}"
        )
    kwargs = {k: v for k, v in defaults.items() if k in fields} | kwargs
    if missing := sorted(k for k in fields if _needed(fields[k]) and k not in kwargs):
        raise ValueError(
            f"{role} must give what {name} needs; {', '.join(missing)} not given; "
            "add it to the config"
        )
    return component(**kwargs)


def _needed(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


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
