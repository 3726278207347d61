"""Two levels: each learns by itself, and the second from what the first leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from system_cases import make_config

from fmalign_jax.config import component
from fmalign_jax.config.check import check_config
from fmalign_jax.objectives.total import make_objectives
from fmalign_jax.systems.hdcid import SECOND
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import sharding, step as train_step
from fmalign_jax.training.state import encode

FIRST_STEP = 2  # at which the terms of level 2 start


def _case(change=None):
    config = make_config("hdcid")
    if change is not None:
        change(config)
    trainer, mesh, state = tiny.first_state(config, 1)
    batch = sharding.place_batch(tiny.random_batch(config), mesh)
    return trainer, mesh, state, batch


@pytest.fixture(scope="module")
def case():
    return _case()


def _lower(terms):
    return [name for name in terms if name.startswith("lower_")]


def _starts_later(config):
    for name in _lower(config.objectives):
        config.objectives[name].from_epoch = FIRST_STEP / 10  # of ten steps each


def _without(config):
    for name in _lower(config.objectives):
        config.objectives[name].weight = 0.0


def _trained(case, steps):
    trainer, mesh, state, batch = case
    state, step = (
        jax.tree.map(jnp.copy, state),
        train_step.make_train_step(trainer, mesh),
    )
    states = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        states.append(jax.device_get(jax.tree.map(jnp.copy, state)))
    return states, metrics


def _difference(first, second):
    return max(
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )


@pytest.fixture(scope="module")
def starting_later():
    return _case(_starts_later)


@pytest.fixture(scope="module")
def later(starting_later):
    return _trained(starting_later, FIRST_STEP + 1)[0]


@pytest.fixture(scope="module")
def alone(starting_later):
    trainer, mesh, state, batch = _case(_without)
    # What a term starts with depends on the terms before it.
    start = starting_later[2]
    state = dataclasses.replace(
        state,
        params={
            part: {name: start.params[part][name] for name in own}
            for part, own in state.params.items()
        },
        critic_params={name: start.critic_params[name] for name in state.critic_params},
    )
    return _trained((trainer, mesh, state, batch), FIRST_STEP + 1)[0]


def _level_1(state):
    return {
        name: own
        for name, own in state.params["model"].items()
        if not name.startswith("lower_")
    }


def test_until_its_terms_start_level_1_is_cmg(later, alone):
    before, after = later[FIRST_STEP - 1], later[FIRST_STEP]
    reference = alone[FIRST_STEP - 1]
    # Two programs, which the compiler may round differently.
    assert _difference(_level_1(before), _level_1(reference)) < 1e-6
    assert (
        _difference(before.critic_params["club"], reference.critic_params["club"])
        < 1e-6
    )
    # After it, level 2 also moves what is specific at level 1.
    apart = [
        _difference(
            after.params["model"][name], alone[FIRST_STEP].params["model"][name]
        )
        for name in ("specifics_video", "specifics_current")
    ]
    assert min(apart) > 1e-6


def test_the_critics_of_level_2_start_with_it(later):
    first, second, third = (s.critic_params["lower_club"] for s in later)
    assert _difference(first, second) == 0
    assert _difference(second, third) > 0


def test_each_codebook_moves_once_a_step_by_its_own_features(case):
    trainer, _, state, _ = case
    features = _features(case)
    own = {"codebook": features, SECOND: features.lower}
    moved, _ = trainer.model.update_model_state(
        state.model_state, features, jax.random.key(0)
    )
    settings = trainer.config.codebook
    for name, level in own.items():
        expected = settings.decay * state.model_state[name].counts
        hits = jnp.zeros(settings.codes)
        for m in settings.ema_mix:
            hits = hits.at[level.codes[m].reshape(-1)].add(1.0)
        expected = expected + (1 - settings.decay) * hits
        floored = expected >= 1e-3  # below, counts stop decaying
        np.testing.assert_allclose(
            moved[name].counts[floored], expected[floored], rtol=1e-5
        )
    assert set(moved) == {"codebook", SECOND}


def _features(case):
    trainer, _, state, batch = case
    inputs = {
        "video": jnp.asarray(batch["streams"]["video"], jnp.float32) / 74.0,
        "current": jnp.asarray(batch["streams"]["current"]),
    }
    return encode(
        trainer,
        state.params["model"],
        state.model_state,
        inputs,
        batch,
        train=False,
    )


def test_what_level_2_reconstructs_gets_no_gradient_from_it(case):
    """Without: the loss would be least for specific features that vanish."""
    trainer, _, state, _ = case
    features = _features(case)

    def loss(scale):
        trainer_model = trainer.model
        scaled = {m: scale * x for m, x in features.pooled_specific.items()}
        lower = trainer_model.apply(
            {"params": state.params["model"]},
            scaled,
            method=lambda own, x: own._lower(x, train=False),
        )
        return sum((z * jnp.arange(z.shape[-1])).sum() for z in lower.values())

    assert np.abs(jax.grad(loss)(1.0)) > 1e-4  # it is made of them
    for m, x in features.lower.inputs.items():
        np.testing.assert_array_equal(x, features.pooled_specific[m])

    def target(params):
        found = trainer.model.apply(
            {"params": params},
            {m: jnp.asarray(x) for m, x in features.inputs.items()},
            state.model_state,
            features.mask,
            train=False,
        )
        return sum(x.sum() for x in found.lower.inputs.values())

    gradient = jax.grad(target)(state.params["model"])
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient)) == 0


@pytest.mark.parametrize("levels", [("upper",), ("lower",), ("lower", "upper")])
def test_levels_say_what_is_encoded(case, levels):
    trainer, _, state, _ = case
    features = _features(case)
    both = {m: jnp.split(z, 2, axis=-1) for m, z in features.encoded.items()}
    config = ConfigDict(trainer.config.to_dict())
    config.model.levels = levels
    system = make_system(config)
    found = system.apply(
        {"params": state.params["model"]},
        features.inputs,
        state.model_state,
        ("video",),
        method="encode",
    )["video"]
    order = {"upper": 0, "lower": 1}
    expected = [both["video"][order[level]] for level in levels]
    np.testing.assert_array_equal(found.features, np.concatenate(expected, -1))
    codes = {"upper": features.codes, "lower": features.lower.codes}
    np.testing.assert_array_equal(found.codes, codes[levels[0]]["video"])
    tables = {"upper": features.embeddings, "lower": features.lower.embeddings}
    np.testing.assert_array_equal(
        system.code_vectors(state.model_state), tables[levels[0]]
    )
    if len(levels) == 1:
        assert found.lower_codes is None
        assert system.lower_vectors(state.model_state) is None
        return
    np.testing.assert_array_equal(found.lower_codes, codes[levels[1]]["video"])
    np.testing.assert_array_equal(
        system.lower_vectors(state.model_state), tables[levels[1]]
    )


@pytest.mark.parametrize("levels", [("upper",), ("lower",), ("lower", "upper")])
def test_levels_change_nothing_in_training(case, levels):
    trainer, _, state, _ = case
    given = _features(case)
    config = ConfigDict(trainer.config.to_dict())
    config.model.levels = levels
    found = make_system(config).apply(
        {"params": state.params["model"]},
        given.inputs,
        state.model_state,
        given.mask,
        train=False,
    )
    for level, expected in ((found, given), (found.lower, given.lower)):
        np.testing.assert_array_equal(level.embeddings, expected.embeddings)
        for name in level.codes:
            np.testing.assert_array_equal(level.codes[name], expected.codes[name])


def test_what_cannot_be_is_refused():
    config = make_config("hdcid")
    config.model.levels = ("middle",)
    with pytest.raises(ValueError, match=r"model\.levels must be"):
        tiny.first_state(config, 1)
    config = make_config("clip")
    config.objectives.lower = component(
        "fmalign_jax.objectives.at_lower.AtLower",
        weight=1.0,
        term={"name": "fmalign_jax.objectives.club.Club"},
    )
    with pytest.raises(ValueError, match=r"'lower' needs the features lower"):
        tiny.first_state(config, 1)
    for wrong in (-1.0, "one", float("nan")):
        config = tiny.tiny_config()
        config.objectives.club["from_epoch"] = wrong
        with pytest.raises(ValueError, match=r"club\.from_epoch must be an epoch"):
            check_config(config)


def test_a_term_at_the_lower_level_is_what_it_applies():
    objectives = make_objectives(make_config("hdcid"))
    assert set(objectives.critic_names) == {"club", "lower_club"}
    assert {"start", "permutation"} >= set(objectives.random_streams)
