"""The settings of a config reach the compiled step, seen through a witness objective.

What each setting does is tested where it is done; here, that a step asks for it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fmalign_jax.config.default import component
from fmalign_jax.objectives.total import label_level
from fmalign_jax.training import preprocess, sharding, step as train_step
from fmalign_jax.training.state import encode

MODALITIES = ("current", "video")


class Witness(nn.Module):
    """An objective that reports what it was shown, in numbers that tell it apart."""

    second_views: tuple[str, ...]

    @nn.compact
    def __call__(self, features, *, train):
        seen = {f"inputs/{m}": _digest(x) for m, x in features.inputs.items()}
        for name, second in features.second_view.items():
            apart = jnp.abs(features.semantic[name] - second)
            seen[f"apart/{name}"] = apart.max(axis=(1, 2))
        seen |= {f"semantic/{m}": z.sum() for m, z in features.semantic.items()}
        loss = sum(jnp.square(z).mean(axis=(1, 2)) for z in features.semantic.values())
        return loss, seen


class LabelWitness(Witness):
    """The same, of an objective that asks for labels."""

    labels = "L2"

    @nn.compact
    def __call__(self, features, *, train):
        loss, seen = Witness.__call__(self, features, train=train)
        told = features.label.sum(axis=1)
        return loss * (1 + told), seen | {"label": told}


def _digest(values):
    """One number a window [B], another if any sample is another."""
    flat = values.reshape(len(values), -1)
    return flat @ jnp.linspace(1.0, 2.0, flat.shape[1])


def _digests():
    """What the witness reports of the batch as it was recorded."""
    return {
        name: float(_digest((x - mean) / std).mean())
        for name, x in tiny.random_batch(_config())["streams"].items()
        for mean, std in [tiny.STATISTICS[name].values()]
    }


def _config(**changes):
    """A step without dropout, augmentation and any objective but the witness."""
    config = tiny.tiny_config()
    config.model.transformer.update({"layers": 0, "dropout": 0.0})
    config.augment = {}
    config.objectives = {
        "witness": component(f"{__name__}.Witness", weight=1.0, second_views=MODALITIES)
    }
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def _steps(config, steps=1):
    """(metrics of each step on one and the same batch, states before and after)."""
    trainer, mesh, state = tiny.first_state(config)
    step = train_step.make_train_step(trainer, mesh)
    states, metrics = [jax.device_get(state)], []
    for _ in range(steps):
        batch = sharding.place_batch(tiny.random_batch(config), mesh)
        state, reported = step(state, batch)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(reported["scalars"]))
    return metrics, states


@pytest.fixture(scope="module")
def plain():
    """Two steps without augmentation."""
    return _steps(_config(), 2)


def _augmented(steps=1, **augment):
    config = _config()
    config.augment = augment
    return _steps(config, steps)[0]


@pytest.fixture(scope="module")
def noisy():
    """Two steps in which the current alone is augmented."""
    return _augmented(2, current={"jitter": 0.5}, video={"jitter": 0.0})


# Labels


def _shown(config, label):
    """What two steps make of one batch with these labels: metrics, and parameters."""
    trainer, mesh, state = tiny.first_state(config)
    step = train_step.make_train_steps(trainer, mesh)
    batch = sharding.place_batch(tiny.random_batch(config) | {"label": label}, mesh)
    state, metrics = step(state, [batch, batch])
    return metrics["scalars"], state.params


def test_labels_reach_an_objective_that_asks_for_them_and_no_other():
    config = _config()
    label = tiny.random_batch(config)["label"]
    other = 1 - label
    _, params = _shown(config, label)
    jax.tree.map(np.testing.assert_array_equal, params, _shown(config, other)[1])
    config.objectives.witness.name = f"{__name__}.LabelWitness"
    for given in (label, other):
        metrics, apart = _shown(config, given)
        np.testing.assert_allclose(metrics["label"], given.sum(axis=1).mean())
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params, apart)
    assert not any(jax.tree.leaves(same["model"]["semantics_video"]["projection"]))


def test_without_such_an_objective_a_step_reads_no_labels():
    config = _config()
    trainer, mesh, state = tiny.first_state(config)
    batch = sharding.place_batch(tiny.random_batch(config), mesh)
    del batch["label"]
    inputs = preprocess.normalise(batch["streams"], state.statistics)
    features = encode(
        trainer, state.params["model"], state.model_state, inputs, batch, train=False
    )
    assert features.label is None
    assert trainer.objectives.labels == label_level(config) == "L0"


def test_the_level_is_the_highest_of_objectives_with_a_weight():
    config = _config()
    config.objectives.told = component(
        f"{__name__}.LabelWitness", weight=0.5, second_views=()
    )
    assert label_level(config) == "L2"
    config.objectives.told.weight = 0.0
    assert label_level(config) == "L0"


# Augmentation


def test_without_augmentation_both_views_are_the_window_itself(plain):
    metrics, _ = plain
    for name, expected in _digests().items():
        assert metrics[0][f"apart/{name}"] == pytest.approx(0, abs=1e-5)
        assert metrics[0][f"inputs/{name}"] == pytest.approx(expected, rel=1e-3)
        assert metrics[1][f"inputs/{name}"] == metrics[0][f"inputs/{name}"]


def test_each_modality_is_augmented_by_its_own_settings(plain, noisy):
    before, after = plain[0][0], noisy[0]
    assert abs(after["inputs/current"] - before["inputs/current"]) > 1e-2
    assert after["inputs/video"] == before["inputs/video"]


def test_the_second_view_is_augmented_anew(noisy):
    assert noisy[0]["apart/current"] > 1e-2
    assert noisy[0]["apart/video"] == pytest.approx(0, abs=1e-5)


def test_the_second_view_is_augmented_as_the_first():
    # A mask of all ticks leaves nothing to draw: what two views show is then the same,
    # but only if both are masked.
    masked = _augmented(current={"mask": 1.0})[0]
    assert masked["inputs/current"] == 0
    assert masked["apart/current"] == pytest.approx(0, abs=1e-5)


def test_two_steps_on_one_batch_draw_other_augmentations(noisy):
    first, second = (metrics["inputs/current"] for metrics in noisy)
    assert abs(first - second) > 1e-2


def test_a_step_warps_time_in_both_views(plain):
    warped = _steps(_config(**{"time_warp.shift": 0.3}))[0][0]
    for name in MODALITIES:
        assert abs(warped[f"inputs/{name}"] - plain[0][0][f"inputs/{name}"]) > 1e-2
        assert warped[f"apart/{name}"] > 1e-2


# The codebook


def test_the_codebook_moves_by_the_decay_and_the_mix_of_the_config():
    mix = {"video": {"current": 1.0}}
    config = _config(**{"codebook.decay": 0.5, "codebook.idle_steps": 99})
    config.codebook.ema_mix = mix
    metrics, (first, last) = _steps(config)
    ticks = config.batch_size * config.data.window_ticks
    # The codes that the video alone chose, half-way to the features of the current.
    assert last.model_state["codebook"].counts.sum() == pytest.approx(
        0.5 * config.codebook.codes + 0.5 * ticks
    )
    assert last.model_state["codebook"].sums.sum() == pytest.approx(
        0.5 * first.model_state["codebook"].sums.sum()
        + 0.5 * metrics[0]["semantic/current"],
        rel=1e-3,
    )


@pytest.mark.parametrize("rule", ["all", "any"])
def test_codes_are_revived_after_the_idle_steps_of_the_config(rule):
    config = _config(**{"codebook.idle_steps": 2, "codebook.idle_rule": rule})
    config.codebook.decay = 1.0  # codes stand still: both steps use the same ones
    ticks = config.batch_size * config.data.window_ticks
    config.codebook.codes = 3 * ticks  # more than two modalities can use in a step
    (first, second), states = _steps(config, 2)
    assert first["revived_codes"] == 0
    idle = np.stack([states[1].model_state["codebook"].idle[m] for m in MODALITIES]) > 0
    unused = idle.all(axis=0) if rule == "all" else idle.any(axis=0)
    assert second["revived_codes"] == unused.sum()
    assert idle.any(axis=0).sum() > idle.all(axis=0).sum() > 0


# Evaluation


def _evaluated(config):
    trainer, mesh, state = tiny.first_state(config)
    batch = sharding.place_batch(tiny.random_batch(config), mesh)
    scalars = train_step.make_eval_step(trainer, mesh)(state, batch)["scalars"]
    return {name: float(mean.compute()) for name, mean in scalars.items()}


def test_an_evaluation_neither_augments_nor_drops():
    config = _config(**{"model.transformer.layers": 1})
    plain = _evaluated(config)
    config.model.transformer.dropout = 0.5
    config.augment = {"current": {"jitter": 0.5}}
    config.time_warp.shift = 0.3
    assert _evaluated(config) == plain
    for name, expected in _digests().items():
        assert plain[f"inputs/{name}"] == pytest.approx(expected, rel=1e-3)


def test_an_evaluation_weighs_the_terms_as_training_does():
    values = _evaluated(_config(**{"objectives.witness.weight": 0.25}))
    assert values["loss"] == pytest.approx(0.25 * values["loss/witness"])


# The start


def _first(**changes):
    return jax.device_get(tiny.first_state(_config(**changes))[2])


def test_parameters_and_codes_start_from_the_seed_of_the_config(plain):
    (first, *_), other = plain[1], _first(seed=1)
    kernel = [
        state.params["model"]["semantics_current"]["projection"]["kernel"]
        for state in (first, other)
    ]
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-2
    assert (
        np.abs(
            first.model_state["codebook"].sums - other.model_state["codebook"].sums
        ).max()
        > 1e-2
    )


def test_projections_stay_as_drawn_where_the_config_says_so(plain):
    biases = [
        state.params["model"]["semantics_current"]["projection"]["bias"]
        for state in (plain[1][0], _first(standardise_projections=False))
    ]
    assert np.abs(biases[0]).max() > 1e-3
    np.testing.assert_array_equal(biases[1], 0)
