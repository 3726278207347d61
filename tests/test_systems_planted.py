"""Every system learns what modalities share, and nothing where there is nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from system_cases import CONFIGS, make_config

from fmalign_jax.config import component
from fmalign_jax.evaluation import retrieval
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import sharding, step as train_step
from fmalign_jax.training.state import init_state, make_trainer

LATENT, WIDE = 6, 12
UNSEEN, GALLERIES = 64, 4
"""Windows among which a partner is to be found, and how often: chance varies less."""


def _planted(rng: np.random.Generator, windows: int, ticks: int, mixing: dict) -> dict:
    """Both modalities as noisy linear images of one random walk over ticks."""
    walk = rng.normal(size=(windows, ticks, LATENT)).cumsum(axis=1)
    return {
        name: (walk @ matrix + 0.3 * rng.normal(size=(windows, ticks, WIDE)))[
            :, :, None
        ].astype(np.float32)
        for name, matrix in mixing.items()
    }


def _planted_config(name: str) -> ConfigDict:
    """Returns a config whose inputs are single vectors a tick."""
    config = make_config(name)
    config.batch_size = 32
    config.optimizer.learning_rate = 3e-3
    config.augment = ConfigDict({})
    # It hides the small signal that the queries of `qformer` start from.
    for part in (config.model, *map(config.model.get, ("transformer", "encoder"))):
        if part and "dropout" in part:
            part.dropout = 0.0
    for parts in config.model.modalities.values():
        parts.stem = component("fmalign_jax.models.encoders.FeatureStem")
        parts.pool = None
        if "specific" in parts:
            parts.specific = component(
                "fmalign_jax.models.encoders.DenseSpecific", features=8
            )
    if "reconstruction" in config.objectives:
        config.objectives.reconstruction.weight = 0.0
    return config


def _recalls(name: str) -> dict[bool, float]:
    """Trains a system on planted pairs, and afresh on shuffled ones.

    Returns:
      By whether they were shuffled, how many partners of unseen windows rank first.
    """
    config = _planted_config(name)
    ticks = config.data.window_ticks
    statistics = {
        m: {"mean": np.zeros(WIDE), "std": np.full(WIDE, 3.0)}
        for m in ("video", "current")
    }
    statistics = jax.tree.map(lambda x: x.astype(np.float32), statistics)
    mesh = sharding.make_mesh(jax.devices()[:1])
    trainer = make_trainer(config, steps_per_epoch=10, steps=200)
    step = train_step.make_train_step(trainer, mesh)

    def batch(streams):
        rows = len(streams["video"])
        return {
            "streams": streams,
            "mask": np.ones(rows, bool),
            "recording": np.zeros(rows, np.int32),
            "time_s": np.arange(rows, dtype=float),
        }

    found = {}
    for shuffled in (False, True):
        rng, state = np.random.default_rng(0), None
        mixing = {m: rng.normal(size=(LATENT, WIDE)) for m in statistics}
        for _ in range(200):
            streams = _planted(rng, config.batch_size, ticks, mixing)
            if shuffled:
                # A random order would leave one of a batch in its place, on average,
                # which is enough for a regression (`distilled`).
                streams["current"] = np.roll(streams["current"], 1, axis=0)
            placed = sharding.place_batch(batch(streams), mesh)
            if state is None:
                state = init_state(trainer, placed, statistics, mesh)
            state, _ = step(state, placed)
        unseen = _planted(rng, GALLERIES * UNSEEN, ticks, mixing)
        encoded = trainer.model.apply(
            {"params": state.params["model"]},
            {m: jnp.asarray(x) / 3.0 for m, x in unseen.items()},
            state.model_state,
            ("video", "current"),
            method="encode",
        )
        features = {
            m: np.asarray(own.features if own.compared is None else own.compared)
            for m, own in encoded.items()
        }
        similarity = getattr(trainer.model, "similarity", retrieval.similarity)
        nearest = [
            similarity(features["video"][own], features["current"][own]).argmax(axis=1)
            for own in np.split(np.arange(GALLERIES * UNSEEN), GALLERIES)
        ]
        found[shuffled] = float(np.mean(nearest == np.arange(UNSEEN)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS.SYSTEMS)
def test_partners_are_found_where_there_is_something_to_find(name):
    if make_system(make_config(name)).uses_labels:
        pytest.skip("pairs alone teach it nothing: it learns from labels")
    found, chance = _recalls(name), 1 / UNSEEN
    assert found[False] >= 5 * chance
    # Three binomial standard errors.
    windows = GALLERIES * UNSEEN
    assert found[True] <= chance + 3 * np.sqrt(chance * (1 - chance) / windows)
