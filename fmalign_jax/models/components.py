"""Builds the parts of a model that a config names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from fmalign_jax.imports import load


def build(entry: Mapping[str, Any], role: str, **defaults: Any) -> nn.Module:
    """Builds a Linen module from a config entry.

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
