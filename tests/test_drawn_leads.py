"""A run that draws the lead of every window anew in every step."""

from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fmalign_jax import sweep, train
from fmalign_jax.data import dataset
from fmalign_jax.run import restore
from fmalign_jax.sweeps.members import Member
from fmalign_jax.training import preprocess, setup, sharding, step
from fmalign_jax.training.state import make_trainer

LEADS_S = (0.0, 4.0, 9.0)


def _drawing(folder):
    config = tiny.tiny_config(folder)
    config.update_from_flattened_dict(tiny.LIGHT)
    config.data.lead_s, *config.data.other_leads_s = LEADS_S
    config.data.other_leads_s = tuple(config.data.other_leads_s)
    config.data.draw_lead = True
    return config


def test_each_window_is_read_at_its_own_lead():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 5, 3 * 2, 3)).astype(np.float32)
    video = rng.normal(size=(4, 5, 1, 2, 2, 3)).astype(np.float32)
    lead = np.array([2, 0, 1, 2])
    found = preprocess.at_lead(
        {"video": jnp.asarray(video), "current": jnp.asarray(values)},
        jnp.asarray(lead),
        leading="current",
        samples_per_tick=2,
    )
    for row, number in enumerate(lead):
        expected = values[row, :, 2 * number : 2 * number + 2]
        np.testing.assert_array_equal(found["current"][row], expected)
    np.testing.assert_array_equal(found["video"], video)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return _drawing(tmp_path_factory.mktemp("drawn"))


@pytest.mark.slow
def test_a_step_is_that_of_a_batch_read_at_the_leads_drawn(config):
    data = setup.load_data(config)
    samples = config.data.samples_per_tick.current
    with (
        tiny.visible_devices(1),
        closing(setup.training_batches(data, config, seed=0)) as batches,
    ):
        mesh = sharding.make_mesh()
        batch = next(batches)
        slots = batch["streams"]["current"].shape[2]
        assert slots == len(LEADS_S) * samples
        trainer = make_trainer(config, steps_per_epoch=10, steps=100)
        state = setup.first_state(trainer, data, mesh)
        lead_key = step.step_keys(config.seed, state.step, ["lead"])["lead"]
        drawn = np.asarray(
            jax.random.randint(lead_key, (config.batch_size,), 0, len(LEADS_S))
        )
        assert len(set(drawn)) > 1
        values = np.stack(
            [
                own[:, number * samples : (number + 1) * samples]
                for own, number in zip(batch["streams"]["current"], drawn, strict=True)
            ]
        )
        at_drawn = batch | {"streams": batch["streams"] | {"current": values}}
        plain = config.copy_and_resolve_references()
        plain.data.draw_lead = False
        _, expected = step.make_train_step(
            make_trainer(plain, steps_per_epoch=10, steps=100), mesh
        )(jax.tree.map(lambda x: x.copy(), state), sharding.place_batch(at_drawn, mesh))
        _, found = step.make_train_step(trainer, mesh)(
            state, sharding.place_batch(batch, mesh)
        )
    for name, value in expected["scalars"].items():
        np.testing.assert_allclose(found["scalars"][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_run_draws_its_leads_and_is_validated_at_its_own(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.data.resident = True
    with tiny.visible_devices(1):
        _, summary = train.train(config, tmp_path / "run")
    assert summary["finished"]
    assert np.isfinite(summary["validation"]["loss"])
    run = restore.open_run(tmp_path / "run", "latest")
    store = dataset.open_dataset(run.config)
    windows = dataset.make_windows(store, run.config)
    assert restore.confirm_training_windows(run, store, windows["train"])
    samples = windows["train"].ticks.samples["current"]
    assert samples.shape[1] == config.data.samples_per_tick.current
    # Stopped and gone on with, streamed and two steps a call, it draws the same ones.
    config.data.resident = False
    for config.max_steps, config.steps_per_dispatch in ((4, 1), (8, 2)):
        with tiny.visible_devices(1):
            _, other = train.train(config, tmp_path / "other")
    assert other["step"] == summary["step"] == 8
    for part in ("train", "validation"):
        assert other[part]["loss"] == pytest.approx(summary[part]["loss"], rel=1e-5)


def test_a_sweep_refuses_it(config, tmp_path):
    with pytest.raises(ValueError, match="each member of a sweep has one lead; got"):
        sweep.train_together(config, [Member("a", {})], tmp_path)
