"""The smallest run that is still the whole thing: tiny recordings, a tiny model."""

import contextlib
import json
import pathlib
import types
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from fmalign_jax.alarm.live import Monitor
from fmalign_jax.config.default import component, default_config
from fmalign_jax.models import mlp
from fmalign_jax.training import sharding, state as train_state

LIGHT = {
    "model.transformer.layers": 0,
    "objectives.reconstruction.weight": 0.0,
    "objectives.window_contrast.weight": 0.0,
}
"""Changes that leave out what takes longest to compile, where it does not matter."""

LIGHT_FLAGS = tuple(f"--config.{key}={value}" for key, value in LIGHT.items())


def get_config(folder: str) -> ConfigDict:
    """Returns the config for commands: --config tests/tiny.py:FOLDER."""
    return tiny_config(pathlib.Path(folder))


def replayed(alarm: Any, recording: pathlib.Path) -> dict[float, float]:
    """Returns, by time, what a monitor says of the sensor of a written recording."""
    with np.load(recording) as raw:
        rows = np.column_stack([raw["sensor_t"], raw["sensor"].astype(float)])
    own = Monitor(alarm, live=False)
    lines = (",".join(map(repr, row)) for row in rows.tolist())
    readings = [r for line in lines for r in own.feed(line)] + own.flush()
    return {r.time_s: r.probability for r in readings}


def tiny_config(tmp_path: pathlib.Path | None = None) -> ConfigDict:
    """Returns a config that trains in seconds on recordings below `tmp_path`."""
    config = default_config()
    config.batch_size = 8
    config.log_every_steps = 2
    config.checkpoint_every_steps = 4
    config.max_steps = 8
    config.codebook.codes = 16
    config.model.width = 16
    config.model.transformer.layers = 1
    config.model.transformer.ffn = 32
    config.model.modalities.video.stem.features = (8, 8)
    config.model.modalities.video.stem.strides = (4, 1)
    config.model.modalities.video.specific.features = (8,)
    config.model.modalities.video.specific.residual = 8
    config.model.modalities.current.stem.features = (8, 16)
    config.model.modalities.current.specific.features = 8
    config.objectives.reconstruction.decoders.video.target_size = 4
    config.objectives.cross_cpc.width = 16
    config.objectives.cross_cpc.steps = 2
    config.optimizer.warmup_steps = 1
    config.data.tick_s = 1.0
    config.data.window_ticks = 8
    config.data.stride_ticks = 4
    config.data.eval_stride_ticks = 8
    config.data.samples_per_tick.current = 2
    config.augment.video.crop = 1
    if tmp_path is not None:
        config.data.source = "fmalign_jax.data.recordings.RecordingFiles"
        config.data.path = str(tmp_path / "raw" / "*.npz")
        config.data.prepared_dir = str(tmp_path / "prepared")
        write_recordings(tmp_path / "raw")
    return config


def write_recordings(
    folder: pathlib.Path,
    *,
    recordings: int = 3,
    seconds: int = 120,
    seed: int = 0,
    text: bool = False,
) -> None:
    """Writes recordings of a slow rhythm that frames and current share, once.

    With `text` also four tokens a second that follow it.
    """
    if folder.exists():
        return
    folder.mkdir(parents=True)
    for index in range(recordings):
        rng = np.random.default_rng([seed, index])
        state = np.cumsum(rng.normal(size=seconds * 2)) / 5
        frames = np.clip(
            100
            + 80 * np.sin(state[::2, None, None, None])
            + rng.normal(0, 8, (seconds, 16, 16, 3)),
            0,
            255,
        )
        amplitude = 1 + 0.5 * np.sin(state)[:, None]
        tokens = {
            "streams": np.array(["text"]),
            "text": np.repeat((state > 0) * 7 + rng.integers(0, 7, len(state)), 2),
            "text_t": np.arange(seconds * 4) / 4 + 0.125,
        }
        np.savez(
            folder / f"furnace_{index}.npz",
            frames=frames.astype(np.uint8),
            frame_t=np.arange(seconds) + 0.5,
            frame_label=(state[::2] > 0).astype(np.int16),
            label_names=np.array(["normal", "abnormal"]),
            sensor=(amplitude * rng.normal(size=(seconds * 2, 3))).astype(np.float32),
            sensor_t=np.arange(seconds * 2) / 2 + 0.25,
            channel_names=np.array(["a", "b", "c"]),
            meta=np.array(json.dumps({"source": "test"})),
            **(tokens if text else {}),
        )


def with_text(config: ConfigDict) -> ConfigDict:
    """Adds a third modality, a sequence of tokens, by configuration alone."""
    encoders, decoders = "fmalign_jax.models.encoders.", "fmalign_jax.models.decoders."
    config.model.modalities.text = {
        "stem": component(encoders + "TokenStem", vocabulary=VOCABULARY, features=16),
        "pool": None,
        "specific": component(encoders + "DenseSpecific", features=8),
    }
    config.data.samples_per_tick.text = 4
    terms = config.objectives
    terms.reconstruction.decoders.text = component(
        decoders + "TokenDecoder", vocabulary=VOCABULARY, features=16
    )
    others = ("video", "current")
    for table in (terms.commitment.weights, terms.cross_cpc.weights):
        table.text = dict.fromkeys((*others, "text"), 0.2)
    for other in others:
        terms.cross_cpc.weights[other].text = 1.0
    for term in (terms.code_matching, terms.cross_cpc):
        term.learns_from.text = dict.fromkeys(others, 1.0)
    config.codebook.ema_mix = {
        "video": {"video": 0.8, "current": 0.1, "text": 0.1},
        "current": {"video": 0.6, "current": 0.3, "text": 0.1},
        "text": {"video": 0.5, "current": 0.2, "text": 0.3},
    }
    return config


def random_batch(config: ConfigDict, seed: int = 0) -> dict:
    """Returns a batch of the shapes a config describes, without any data set."""
    rng = np.random.default_rng(seed)
    shape = (config.batch_size, config.data.window_ticks)
    streams = {
        "video": rng.integers(0, 256, (*shape, 1, 16, 16, 3)).astype(np.uint8),
        "current": rng.normal(size=(*shape, 2, 3)).astype(np.float32),
    }
    if "text" in config.model.modalities:
        tokens = rng.integers(0, VOCABULARY, (*shape, 4))
        streams["text"] = tokens.astype(np.int32)
    return {
        "streams": streams,
        "label": rng.integers(0, 2, shape).astype(np.int32),
        "mask": np.ones(config.batch_size, bool),
        "recording": np.arange(config.batch_size, dtype=np.int32) % 2,
        "time_s": 10.0 * np.arange(config.batch_size),
    }


VOCABULARY = 20

STATISTICS = {
    "video": {"mean": np.full(3, 127, np.float32), "std": np.full(3, 74, np.float32)},
    "current": {"mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32)},
}


_ON_ALL = sharding.make_mesh


@contextlib.contextmanager
def visible_devices(number: int):
    """Lets commands see so many of the virtual devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sharding,
            "make_mesh",
            lambda devices=None: _ON_ALL((devices or jax.devices())[:number]),
        )
        yield


@contextlib.contextmanager
def smooth_critics():
    """Softplus in place of the critics' ReLU.

    Of some seeds and programs a unit of a critic comes to lie on the kink of its ReLU:
    rounding then decides its side, and the inner steps make 2e-5 of it, in the first
    step. Without the kink, what is left are true differences.
    """
    smooth = types.SimpleNamespace(**vars(nn) | {"relu": nn.softplus})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp, "nn", smooth)
        yield


def first_state(config: ConfigDict, devices: int = 1):
    """Returns (trainer, mesh, state before the first step) on so many devices."""
    mesh = sharding.make_mesh(jax.devices()[:devices])
    trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
    batch = sharding.place_batch(random_batch(config), mesh)
    return trainer, mesh, train_state.init_state(trainer, batch, STATISTICS, mesh)
