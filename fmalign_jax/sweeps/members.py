"""The members of a sweep: one config, and what each of them has of its own.

What differs between members enters the compiled programs as numbers, so that one
program serves them all. It is limited to MAY_DIFFER: any other setting changes shapes,
or the program itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict
from jaxtyping import Shaped
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.config.check import check_config
from fmalign_jax.training.numbers import NUMBERS, as_argument, is_number

LEAD = "data.lead_s"

MAY_DIFFER = (*NUMBERS, LEAD)
"""The settings in which members may differ."""

_NAME = re.compile(r"[\w.+=-]+")


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
      name: of its folder; letters, digits and ``_ . + = -``.
      changes: by dotted key of MAY_DIFFER, the value it has instead of the config's.
    """

    name: str
    changes: Mapping[str, Any]


def combinations(vary: Mapping[str, Any]) -> list[Member]:
    """Returns a member for every combination of values.

    Args:
      vary: a tree of settings with the values of each, such as
        ``{"seed": (0, 1), "data": {"lead_s": (120.0, 240.0)}}``. A setting without
        values is left as the config has it.

    Raises:
      ValueError: no setting has values.
    """
    values = {key: tuple(given) for key, given in _flat(vary).items() if given}
    if not values:
        raise ValueError(
            "a sweep needs a setting with several values; got none in vary; use such "
            "as --config.vary.seed='(0, 1, 2)'"
        )
    return [
        Member(
            "_".join(f"{_short(k)}={v:g}" for k, v in zip(values, chosen, strict=True)),
            dict(zip(values, chosen, strict=True)),
        )
        for chosen in itertools.product(*values.values())
    ]


def member_configs(config: ConfigDict, members: Sequence[Member]) -> list[ConfigDict]:
    """Returns the whole config of each member; by itself it trains the same run.

    Members at different leads get ``data.other_leads_s``: only windows that all of them
    can read are used, so that they see the same video.

    Raises:
      ValueError: a name or a setting that cannot be.
    """
    _check_names([member.name for member in members])
    configs = [_changed(config, member) for member in members]
    leads_s = sorted({float(own.data.lead_s) for own in configs})
    for own in configs:
        if len(leads_s) > 1:
            others = {*leads_s, *own.data.other_leads_s} - {own.data.lead_s}
            own.data.other_leads_s = tuple(sorted(others))
        check_config(own)
    for name in configs[0].objectives if configs else ():
        weights = {own.objectives[name].weight for own in configs}
        if 0 in weights and len(weights) > 1:
            raise ValueError(
                "a weight of 0 leaves a term out of the program, so it must be 0 for "
                f"all members or for none; got {sorted(weights)} for objectives."
                f"{name}.weight; use a small weight instead, or a sweep of its own"
            )
    return configs


def differing(configs: Sequence[ConfigDict]) -> dict[str, Shaped[ndarray, " N"]]:
    """Returns, by key, the values of all members where they are not all the same.

    The lead is left out: it changes what is read, not what is computed.
    """
    flat = [_flat(config.to_dict()) for config in configs]
    found = {}
    for key in flat[0]:
        values = [own[key] for own in flat]
        if is_number(key) and len(set(values)) > 1:
            found[key] = as_argument(key, values)
    return found


def _changed(config: ConfigDict, member: Member) -> ConfigDict:
    known = _flat(config.to_dict())
    own = config.copy_and_resolve_references()
    for key, value in member.changes.items():
        if not _may_differ(key) or key not in known:
            raise ValueError(
                f"members of a sweep may differ in {', '.join(MAY_DIFFER)} alone, what "
                f"changes no shapes; got {key} for {member.name!r}; train such runs "
                "one after the other (scripts/study.py)"
            )
        try:
            own.update_from_flattened_dict({key: value})
        except TypeError as error:
            raise ValueError(
                f"{key} must be a {type(known[key]).__name__}; got {value!r} for "
                f"{member.name!r}; correct the value"
            ) from error
    if not 0 <= own.seed < 2**31:
        raise ValueError(
            "the seed of a member must lie in [0, 2147483648); got "
            f"{own.seed}; use another one"
        )
    return own


def _check_names(names: Sequence[str]) -> None:
    unfit = [name for name in names if not _NAME.fullmatch(name) or {*name} == {"."}]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or unfit or twice:
        raise ValueError(
            "a sweep needs members, each with a name of its own of letters, digits and "
            f"_ . + = -; got {(unfit or twice or names)[:3]}; give other names, or "
            "each value once"
        )


def _may_differ(key: str) -> bool:
    return key == LEAD or is_number(key)


def _short(key: str) -> str:
    """Returns what names a setting: lead_s, cross_cpc.weight."""
    parts = key.split(".")
    return ".".join(parts[-2:] if parts[0] == "objectives" else parts[-1:])


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = flatten_dict(tree, sep=".")
    return flat
