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

from fmalign_jax.training import state  # noqa: E402

_make_trainer = state.make_trainer


def make_trainer(*arguments: Any, **settings: Any) -> state.Trainer:
    """Returns the trainer of a config, whose modules compute in float64."""
    trainer = _make_trainer(*arguments, **settings)
    return dataclasses.replace(
        trainer,
        model=trainer.model.clone(dtype=jnp.float64),
        objectives=trainer.objectives.clone(dtype=jnp.float64),
    )


if __name__ == "__main__":
    state.make_trainer = make_trainer
    runpy.run_module("fmalign_jax.train", run_name="__main__", alter_sys=True)
