"""FCID: no codes for ticks, one coarse chain for both modalities, codes of windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from system_cases import make_config

from fmalign_jax.models import quantizer
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import sharding, step as train_step


@pytest.fixture(scope="module")
def case():
    config = make_config("fcid")
    trainer, mesh, state = tiny.first_state(config, 1)
    return trainer, mesh, state, sharding.place_batch(tiny.random_batch(config), mesh)


def _inputs(batch):
    return {m: jnp.asarray(x, jnp.float32) / 100 for m, x in batch["streams"].items()}


def _features(case, inputs=None, **changes):
    trainer, _, state, batch = case
    config = ConfigDict(trainer.config.to_dict())
    config.model.update(changes)
    return make_system(config).apply(
        {"params": state.params["model"]},
        _inputs(batch) if inputs is None else inputs,
        state.model_state,
        batch["mask"],
        train=False,
    )


def _relu_linear(params, x, *, relu=True):
    y = np.asarray(x, np.float64) @ np.asarray(params["kernel"], np.float64)
    y = y + np.asarray(params["bias"], np.float64)
    return np.maximum(y, 0) if relu else y


def test_the_coarse_level_is_one_chain_of_the_means_of_windows(case):
    params, found = case[2].params["model"], _features(case)
    for m, z in found.semantic.items():
        mean = np.asarray(z, np.float64).mean(axis=1, keepdims=True)
        p = _relu_linear(params["projection"], mean, relu=False)
        np.testing.assert_allclose(found.lower.inputs[m], p, atol=1e-5)
        general = _relu_linear(params["general"], p)
        np.testing.assert_allclose(found.lower.semantic[m], general, atol=1e-5)
        own = _relu_linear(params["own"], p)
        np.testing.assert_allclose(found.lower.pooled_specific[m], own, atol=1e-5)
        vectors = np.asarray(found.lower.embeddings, np.float64)
        apart = ((general[:, :, None] - vectors) ** 2).sum(-1)
        chosen = np.take_along_axis(
            apart, np.asarray(found.lower.codes[m])[..., None], -1
        )
        np.testing.assert_allclose(chosen[..., 0], apart.min(-1), atol=1e-4)


def test_the_fine_level_has_no_codes(case):
    found = _features(case)
    assert not hasattr(found, "codes")
    for m, z in found.semantic.items():
        np.testing.assert_array_equal(found.quantized[m], z)


def test_of_windows_of_one_tick_both_forms_are_the_same(case):
    one = {m: x[:, :1] for m, x in _inputs(case[3]).items()}
    window, tick = (_features(case, one, coarse=c).lower for c in ("window", "tick"))
    jax.tree.map(np.testing.assert_array_equal, window, tick)


def test_ticks_are_what_is_trained_where_the_config_says_so(case):
    window, tick = (_features(case, coarse=c) for c in ("window", "tick"))
    jax.tree.map(np.testing.assert_array_equal, window.ticks, tick.ticks)
    jax.tree.map(np.testing.assert_array_equal, tick.lower, tick.ticks)
    for m, g in window.lower.semantic.items():
        assert g.shape[1] == 1
        # ReLU and the mean do not commute, so that the forms differ.
        assert np.abs(g[:, 0] - window.ticks.semantic[m].mean(axis=1)).max() > 1e-3


def test_one_network_of_club_serves_both_modalities_at_the_coarse_level(case):
    critics = case[2].critic_params
    assert set(critics["club"]) == {"video", "current"}
    assert set(critics["coarse_club"]["applied"]) == {"shared"}


def test_no_gradient_reaches_what_the_coarse_level_gives_back(case):
    trainer, _, state, batch = case

    def target(params):
        found = trainer.model.apply(
            {"params": params},
            _inputs(batch),
            state.model_state,
            batch["mask"],
            train=False,
        )
        return sum(p.sum() for p in found.lower.inputs.values())

    gradient = jax.grad(target)(state.params["model"])
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient)) == 0


def test_the_codebook_moves_once_a_step_by_windows(case):
    trainer, mesh, state, batch = case
    before = jax.device_get(state)
    step = train_step.make_train_step(trainer, mesh)
    after, metrics = step(jax.tree.map(jnp.copy, state), batch)
    settings = trainer.config.codebook
    counts = before.model_state["codebook"].counts.sum()
    # Each modality adds (1 - decay) times its windows, shared out by a row of the mix.
    windows = 2 * int(batch["mask"].sum())
    expected = settings.decay * counts + (1 - settings.decay) * windows
    np.testing.assert_allclose(
        after.model_state["codebook"].counts.sum(), expected, rtol=1e-5
    )
    assert {f"loss/coarse_{n}" for n in ("clip", "club", "commitment")} <= set(
        metrics["scalars"]
    )
    writers = quantizer.codebook_writers(settings.ema_mix.to_dict())
    assert list(writers) == ["current", "video"]


def test_what_cannot_be_is_refused():
    config = make_config("fcid")
    config.model.coarse = "recording"
    with pytest.raises(ValueError, match=r"model\.coarse must be one of window, tick"):
        tiny.first_state(config, 1)
