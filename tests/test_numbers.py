"""What of a config is an argument of the compiled programs, and what is not."""

import jax
import numpy as np
import pytest
import tiny
from hypothesis import given, settings, strategies as st

from fmalign_jax.training import (
    numbers,
    sharding,
    state as train_state,
    step as train_step,
)

CHANGES = {
    "seed": 7,
    "optimizer.learning_rate": 3e-4,
    "optimizer.critic_learning_rate": 2e-4,
    "optimizer.weight_decay": 0.3,
    "objectives.cross_cpc.weight": 0.25,
}


def _config(changes):
    config = tiny.tiny_config()
    config.objectives.reconstruction.weight = 0.0  # compiles long, changes nothing
    config.update_from_flattened_dict(changes)
    return config


def test_every_number_is_named_and_nothing_else():
    config = _config({})
    weights = {f"objectives.{name}.weight" for name in config.objectives}
    others = {key for key in CHANGES if not key.startswith("objectives.")}
    assert set(numbers.numbers_of(config)) == weights | others
    assert not numbers.is_number("batch_size")
    assert not numbers.is_number("objectives.cross_cpc.weights.video.current")


@settings(deadline=None)
@given(st.integers(-(2**31), 2**40))
def test_a_seed_draws_what_it_draws_as_a_python_number(seed):
    key = jax.random.key(numbers.as_argument("seed", seed))
    expected = jax.random.key_data(jax.random.key(seed))
    np.testing.assert_array_equal(jax.random.key_data(key), expected)


@pytest.fixture(scope="module")
def texts():
    """The programs, before they are compiled, of two configs: by name, two texts."""
    found = {"train": [], "evaluate": [], "first state": []}
    mesh = sharding.make_mesh(jax.devices()[:1])
    for changes in ({}, CHANGES):
        config = _config(changes)
        trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
        batch = sharding.place_batch(tiny.random_batch(config), mesh)
        init = train_state.make_init(trainer, mesh)
        given = (batch, tiny.STATISTICS)
        state = init.func.eval_shape(*init.args, *given)
        step = train_step.make_train_step(trainer, mesh)
        evaluate = train_step.make_eval_step(trainer, mesh)
        for name, program, arguments in (
            ("first state", init, given),
            ("train", step, (state, batch)),
            ("evaluate", evaluate, (state, batch)),
        ):
            lowered = program.func.lower(*program.args, *arguments)
            found[name].append(lowered.as_text())
    return found


@pytest.mark.parametrize("program", ["train", "evaluate", "first state"])
def test_other_numbers_make_no_other_program(texts, program):
    one, other = texts[program]
    assert one == other


def test_a_number_that_is_given_is_used():
    config = _config({})
    trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
    own = trainer.with_numbers(numbers.numbers_of(_config(CHANGES)))
    rates = [float(each.schedule(50)) for each in (own, trainer)]
    before = trainer.config.optimizer.learning_rate
    assert rates[0] == pytest.approx(rates[1] * 3e-4 / before)
    assert own.weights["cross_cpc"] == 0.25
    assert own.config.seed == 7
    assert trainer.weights["cross_cpc"] == 1.0  # unchanged
    assert set(own.objectives.terms) == set(trainer.objectives.terms)
    params = {"kernel": np.ones((2, 2), np.float32)}
    for optimizer, gradient, expected in (
        (own.optimizer, 0.0, 0.0),  # the first step of the warm-up
        (own.critic_optimizer, 1.0, -2e-4),
    ):
        gradients = {"kernel": np.full((2, 2), gradient, np.float32)}
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-4)
