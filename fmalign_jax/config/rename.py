"""One modality by another name, throughout a config."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

_NO_MODALITIES = ("data.about", "data.options", "data.path", "data.prepared_dir")
"""What belongs to the source, or is a path that may be called like a modality."""


def rename_modality(config: ConfigDict, old: str, new: str) -> None:
    """Calls a modality by another name wherever a config names it.

    The stream must have that name in the recordings too, as by the option
    `sensor_name` of `RecordingFiles`.

    Args:
      config: changed in place: the keys of its tables, and values that name a modality.
      old: what it is called, such as "current".
      new: what to call it.

    Raises:
      ValueError: the model has no modality of the old name, or one of the new.

    >>> from fmalign_jax.config import default_config
    >>> config = default_config()
    >>> rename_modality(config, "current", "wrist")
    >>> config.data.leading_stream, sorted(config.model.modalities)
    ('wrist', ['video', 'wrist'])
    """
    modalities = sorted(config.model.modalities)
    if old not in modalities or new in modalities:
        raise ValueError(
            f"a modality of the model must be renamed to another name; got {old!r} to "
            f"{new!r}, and the modalities {modalities}; choose one of them, and a new "
            "name"
        )
    with config.unlocked():
        _rename(config, old, new, "")


def _rename(table: ConfigDict, old: str, new: str, place: str) -> None:
    for key in list(table):
        if f"{place}{key}" in _NO_MODALITIES:
            continue
        value = table[key]
        if isinstance(value, ConfigDict):
            _rename(value, old, new, f"{place}{key}.")
        elif _renamed(value, old, new) != value:
            table[key] = _renamed(value, old, new)
        if key == old:
            del table[key]
            table[new] = (
                value if isinstance(value, ConfigDict) else _renamed(value, old, new)
            )


def _renamed(value: Any, old: str, new: str) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_renamed(item, old, new) for item in value)
    return new if isinstance(value, str) and value == old else value
