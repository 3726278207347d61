"""The train command with every float32 of the device a float64, on CPUs.

    python benchmarks/double_precision.py --config configs/pretrain.py:smoke

Rounding is then so small that it does not grow to anything within some hundred steps,
and what still differs between two runs is not rounding: benchmarks/devices.py --double.
It is no way to train: an accelerator is slow at it, and published tables are float32.
"""

from __future__ import annotations

import dataclasses
import runpy
from typing import Any

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)
# Before Flax is imported, which takes its parameters' type from here.
jnp.float32 = jnp.float64

from fmalign_jax import train_state  # noqa: E402

_make_learner = train_state.make_learner


def make_learner(*arguments: Any, **settings: Any) -> train_state.Learner:
    """Returns the learner of a config, whose modules compute in float64."""
    learner = _make_learner(*arguments, **settings)
    return dataclasses.replace(
        learner,
        model=learner.model.clone(dtype=jnp.float64),
        objectives=learner.objectives.clone(dtype=jnp.float64),
    )


if __name__ == "__main__":
    train_state.make_learner = make_learner
    runpy.run_module("fmalign_jax.train", run_name="__main__", alter_sys=True)
