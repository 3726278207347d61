"""The numbers of a config that compiled programs take as arguments.

What changes shapes, or the program itself, is compiled into it. The rest, such as the
seed, a rate or a weight, is handed to it: a run that differs in those alone finds its
programs compiled already, and so do the members of a sweep.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

NUMBERS = (
    "seed",
    "optimizer.learning_rate",
    "optimizer.critic_learning_rate",
    "optimizer.weight_decay",
    "objectives.*.weight",
)
"""Their keys, as patterns."""


def is_number(key: str) -> bool:
    """Returns whether compiled programs take a setting as an argument."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in NUMBERS)


def as_argument(key: str, value: Any) -> np.ndarray:
    """Returns the value, or the values, of such a setting as programs take them."""
    if key == "seed":  # as jax.random.key reads a Python number, a negative one too
        return np.asarray(np.asarray(value) % 2**32, np.uint32)
    return np.asarray(value, np.float32)


def numbers_of(config: ConfigDict) -> dict[str, np.ndarray]:
    """Returns, by dotted key, the numbers of a config."""
    flat = flatten_dict(config.to_dict(), sep=".")
    return {k: as_argument(k, value) for k, value in flat.items() if is_number(k)}


def with_numbers(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy in which arrays, under trace or not, take the place of numbers."""
    own = config.copy_and_resolve_references()
    with own.ignore_type():
        for key, value in values.items():
            *path, last = key.split(".")
            entry = own
            for name in path:
                entry = entry[name]
            entry[last] = value
    return own
