"""What is measured: a config, made-up inputs of the right shapes, and a first state.

No data set is read, so that a benchmark runs anywhere and at any batch size.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fmalign_jax.config.overrides import load_file
from fmalign_jax.training import sharding
from fmalign_jax.training.state import Trainer, TrainState, init_state, make_trainer

ROOT = pathlib.Path(__file__).parents[1]

FURNACE = {"video": ((64, 64, 3), np.uint8), "current": ((3,), np.float32)}
"""Shape and dtype of one sample, by modality, where the config does not say."""


@dataclasses.dataclass(frozen=True)
class Case:
    """All that a step needs.

    Attributes:
      trainer: the static half.
      state: before the first step, on the mesh.
      batch: one batch, on the mesh.
      tick_shapes: by modality [R, ...], one tick.
      mesh: the devices.
    """

    trainer: Trainer
    state: TrainState
    batch: dict[str, Any]
    tick_shapes: Mapping[str, tuple[int, ...]]
    mesh: Mesh


def load_config(name: str) -> ConfigDict:
    """Returns a config by its file and variant, such as configs/pretrain.py:smoke."""
    path, _, variant = name.partition(":")
    found = pathlib.Path(path)
    module = load_file(found if found.exists() else ROOT / found)
    return module.get_config(variant) if variant else module.get_config()


def without_augmentation(config: ConfigDict) -> None:
    """Leaves the step what PyTorch does too; published code augments nothing."""
    config.augment = ConfigDict()
    config.time_warp.stretch = 0.0
    config.time_warp.shift = 0.0


def sample_shapes(config: ConfigDict) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Returns shape and dtype of one sample of each modality."""
    options = config.data.options
    if "video_shape" in options:  # precomputed features
        return {
            "video": (tuple(options.video_shape), np.float32),
            "current": ((options.audio_width,), np.float32),
        }
    return dict(FURNACE)


def make_case(config: ConfigDict, mesh: Mesh | None = None) -> Case:
    """Builds trainer, first state and one batch for a config.

    Args:
      config: of a run.
      mesh: by default all devices.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    sharding.check_batch_size(config.batch_size, mesh)
    rng = np.random.default_rng(0)
    rows, ticks = config.batch_size, config.data.window_ticks
    streams, statistics, tick_shapes = {}, {}, {}
    for name, (shape, dtype) in sample_shapes(config).items():
        tick_shapes[name] = (config.data.samples_per_tick[name], *shape)
        size = (rows, ticks, *tick_shapes[name])
        whole = np.issubdtype(dtype, np.integer)
        values = rng.integers(0, 256, size) if whole else rng.normal(size=size)
        streams[name] = values.astype(dtype)
        mean, std = (127.5, 74.0) if whole else (0.0, 1.0)
        statistics[name] = {
            "mean": np.full(shape[-1], mean, np.float32),
            "std": np.full(shape[-1], std, np.float32),
        }
    batch = {
        "streams": streams,
        "mask": np.ones(rows, bool),
        "label": np.full((rows, ticks), -1, np.int32),
        "recording": np.arange(rows, dtype=np.int32) % 4,
        "time_s": 100.0 * np.arange(rows),
    }
    trainer = make_trainer(config, steps_per_epoch=100, steps=1000)
    placed = sharding.place_batch(batch, mesh)
    everywhere = sharding.replicated(mesh)
    statistics = jax.device_put(statistics, everywhere)
    state = init_state(trainer, placed, statistics, mesh)
    return Case(trainer, state, placed, tick_shapes, mesh)
