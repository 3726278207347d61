"""How a run keeps its config: as JSON and back, and which settings may differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax.config.digest import short_digest

MAY_CHANGE = (
    "max_steps",
    "log_every_steps",
    "loggers",
    "checkpoint_every_steps",
    "steps_per_dispatch",
    "data.about",
    "data.resident",
    "data.read_threads",
    "data.prefetch_batches",
    "data.prepared_dir",
    "optimizer.shard_state",
)
"""Config keys under which a run may be continued with another value."""

ABSENT: Mapping[str, Any] = {
    "codebook.shared": None,
    "codebook.shared.skip_ticks": 0,
    "codebook.shared.student_weight": 0.0,
    "data.draw_lead": False,
    "data.lead_range_s": [],
    "data.other_leads_s": [],
    "data.shuffle_partners": False,
    "loggers": ["tensorboard"],
    "model.transformer.causal": False,
    "objectives.cross_cpc.stride": 1,
    "model.name": "fmalign_jax.systems.cmg.Cmg",
}
"""Config keys that came later than the first runs, and what a run without them does."""


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as plain JSON values."""
    settings: dict[str, Any] = json.loads(config.to_json())
    return settings


def from_json(settings: dict[str, Any]) -> ConfigDict:
    """Returns the config of a saved run, with the keys that came after it."""
    _add_later_keys(settings)
    return ConfigDict(_as_tuples(settings))


def digest(config: ConfigDict) -> str:
    """Returns eight hexadecimal digits that tell configs of different runs apart."""
    text = json.dumps(_lasting(to_json(config)), sort_keys=True)
    return short_digest(text, size=4)


def differences(
    saved: Mapping[str, Any], given: Mapping[str, Any], *, besides: Sequence[str] = ()
) -> list[str]:
    """Returns in words where a run of one config cannot go on with the other.

    Args:
      saved: one config.
      given: the other.
      besides: further keys that may differ.
    """
    may_change = (*MAY_CHANGE, *besides)
    return _differences(_lasting(saved, may_change), _lasting(given, may_change))


def _add_later_keys(settings: dict[str, Any]) -> None:
    """Adds the keys of ABSENT that the settings of a saved run lack."""
    for key, value in ABSENT.items():
        *sections, name = key.split(".")
        entry = settings
        for section in sections:
            # A system may have no such section, and an optional one may be None.
            entry = entry.get(section) or {}
        entry.setdefault(name, value)


def _lasting(
    settings: Any, may_change: Sequence[str] = MAY_CHANGE, prefix: str = ""
) -> Any:
    """Returns the settings without the keys that may change or need not be there."""
    if not isinstance(settings, dict):
        return settings
    return {
        key: _lasting(value, may_change, f"{prefix}{key}.")
        for key, value in settings.items()
        if f"{prefix}{key}" not in may_change
        and not (f"{prefix}{key}" in ABSENT and value == ABSENT[f"{prefix}{key}"])
    }


def _differences(saved: Any, given: Any, prefix: str = "") -> list[str]:
    if not (isinstance(saved, dict) and isinstance(given, dict)):
        return [] if saved == given else [f"{prefix} ({saved!r} there, {given!r} here)"]
    return [
        line
        for key in sorted(saved.keys() | given.keys())
        for line in _differences(
            saved.get(key), given.get(key), f"{prefix}.{key}" if prefix else key
        )
    ]


def _as_tuples(value: Any) -> Any:
    """Returns a config as it was before JSON made lists of its tuples."""
    if isinstance(value, dict):
        return {key: _as_tuples(entry) for key, entry in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
