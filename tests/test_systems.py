"""What every system must do, whatever it is made of: one row a system."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from system_cases import (
    CONFIGS,
    IDLE,
    LEVELS,
    SYSTEMS,
    Case,
    check_equal,
    leaves,
    make_case,
    make_config,
)

from fmalign_jax.config import component
from fmalign_jax.objectives.total import label_level
from fmalign_jax.run.checkpoint_files import abstract
from fmalign_jax.run.checkpoints import Checkpoints
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import FUSED, System, inputs_of, make_system
from fmalign_jax.training import sharding
from fmalign_jax.training.state import encode


@pytest.fixture(scope="module", params=SYSTEMS)
def case(request):
    return make_case(request.param)


def _features(case: Case, inputs=None, **changes) -> Features:
    return encode(
        case.trainer,
        case.state.params["model"],
        case.state.model_state,
        case.inputs if inputs is None else inputs,
        case.batch | changes,
        train=False,
    )


def _alone(case: Case) -> list[str]:
    """Returns the views that are a modality."""
    return [name for name in case.trainer.model.views if name in case.inputs]


def _encode(case: Case, views):
    return case.trainer.model.apply(
        {"params": case.state.params["model"]},
        {name: case.inputs[name] for name in inputs_of(views, case.inputs)},
        case.state.model_state,
        views,
        method="encode",
    )


def _terms(case: Case, features: Features, params=None):
    own = case.state.params["objectives"] if params is None else params
    return case.trainer.objectives.apply(
        {"params": own | case.state.critic_params}, features, train=False
    )


def test_it_is_a_system(case):
    system = case.trainer.model
    assert isinstance(system, System)
    supervised = case.name in CONFIGS.SUPERVISED
    assert system.uses_labels is False
    assert label_level(case.config) == ("L2" if supervised else "L0")
    if not supervised:
        assert set(system.views) == set(case.inputs)
    assert set(system.views) <= {*case.inputs, FUSED}


def test_features_have_the_shapes_of_the_config(case):
    features = jax.eval_shape(lambda: _features(case))
    shape = (case.config.batch_size, case.config.data.window_ticks)
    for z in features.semantic.values():
        if case.trainer.model.slots_are_ticks:
            assert z.shape == (*shape, case.config.model.width)
        assert z.shape[::2] == (shape[0], case.config.model.width)
        assert z.dtype == jnp.float32
    assert set(features.semantic) == set(case.trainer.model.views)
    assert features.recording.shape == shape[:1]


def test_encode_gives_what_the_features_hold(case):
    features = _features(case)
    views = case.trainer.model.views
    encoded = _encode(case, views)
    assert set(encoded) == set(views)
    held = getattr(features, "encoded", features.semantic)
    if hasattr(features, "ticks"):  # what is trained may be windows
        features = features.ticks
        held = features.semantic
    for name, encoding in encoded.items():
        np.testing.assert_array_equal(encoding.features, held[name])
        if case.trainer.model.has_codes:
            np.testing.assert_array_equal(encoding.codes, features.codes[name])
        else:
            assert encoding.codes is None
            assert not hasattr(features, "codes")


def test_a_second_view_is_what_the_terms_see(case):
    held = _features(case).semantic
    found = case.trainer.model.apply(
        {"params": case.state.params["model"]},
        case.inputs,
        train=False,
        method="second_view",
    )
    assert set(found) == set(held)
    for name, features in found.items():
        np.testing.assert_allclose(features, held[name], atol=1e-5)


def test_each_modality_is_encoded_from_its_own_input_alone(case):
    both = _encode(case, case.trainer.model.views)
    apart = [
        np.abs(_encode(case, (name,))[name].features - both[name].features).max()
        for name in _alone(case)
    ]
    alone = max(apart, default=0.0) <= 1e-6
    assert alone == case.trainer.model.encodes_alone
    # A control that breaks the rule breaks it clearly.
    assert case.trainer.model.encodes_alone == (case.name not in CONFIGS.CONTROLS)
    assert case.trainer.model.encodes_alone or max(apart) > 0.1


def _ticks(case, inputs):
    """Returns the features that each tick has by itself."""
    return case.trainer.model.apply(
        {"params": case.state.params["model"]},
        inputs,
        train=False,
        context=False,
        method="semantic",
    )


def test_without_context_features_are_those_of_single_ticks(case):
    """What a tick sees of other ticks is what its stem gathers around it."""
    found = _ticks(case, case.inputs)
    last = {m: x.at[:, -1].multiply(-1.0) for m, x in case.inputs.items()}
    shape = (case.config.batch_size, case.config.data.window_ticks)
    assert set(found) == set(case.trainer.model.views)
    for m, changed in _ticks(case, last).items():
        width = LEVELS.get(case.name, 1) * case.config.model.width
        assert found[m].shape == (*shape, width)
        np.testing.assert_allclose(changed[:, :-3], found[m][:, :-3], atol=1e-6)
        assert np.abs(changed[:, -1] - found[m][:, -1]).max() > 1e-3


def test_without_context_a_tick_has_no_place_in_its_window(case):
    """Or what ticks at the same places have in common would look like a lead."""
    found = _ticks(case, case.inputs)
    later = {m: jnp.roll(x, 1, axis=1) for m, x in case.inputs.items()}
    for m, moved in _ticks(case, later).items():
        np.testing.assert_allclose(moved[:, 4:-3], found[m][:, 3:-4], atol=1e-5)


def test_a_system_of_one_modality_is_the_same_one(case):
    """Evaluation builds the encoders that it needs alone."""
    for name in _alone(case):
        system = make_system(case.config, [name])
        alone = system.apply(
            {"params": case.state.params["model"]},
            {name: case.inputs[name]},
            case.state.model_state,
            (name,),
            method="encode",
        )
        np.testing.assert_array_equal(
            alone[name].features, _encode(case, (name,))[name].features
        )


def test_the_model_state_keeps_its_shapes(case):
    system, state = case.trainer.model, case.state
    empty = jax.eval_shape(system.empty_model_state)
    assert jax.tree.map(jnp.shape, state.model_state) == jax.tree.map(
        lambda x: x.shape, empty
    )
    vectors = system.code_vectors(state.model_state)
    assert (vectors is not None) == system.has_codes


def test_every_parameter_learns_and_only_training_changes_anything(case):
    state, batch = jax.tree.map(jnp.copy, case.state), case.batch
    before = jax.device_get(state)
    first = jax.device_get(case.evaluate(state, batch))
    check_equal(state, before)
    check_equal(case.evaluate(state, batch), first)
    for _ in range(2):
        state, metrics = case.step(state, batch)
    assert np.isfinite([float(x) for x in metrics["scalars"].values()]).all()
    after = dict(leaves(state.params))
    still = [
        path
        for path, leaf in leaves(before.params)
        if np.array_equal(leaf, after[path])
        and not path.startswith(IDLE.get(case.name, "-"))
    ]
    assert not still


def test_labels_change_nothing_but_what_is_called_supervised(case):
    steps = []
    for shift in (0, 1):
        label = jnp.roll(case.batch["label"], shift, axis=0)
        state = jax.tree.map(jnp.copy, case.state)
        for _ in range(2):
            state, _ = case.step(state, case.batch | {"label": label})
        steps.append(jax.device_get(state.params["model"]))
    same = jax.tree.map(np.array_equal, *steps)
    if case.name in CONFIGS.SUPERVISED:
        assert not all(jax.tree.leaves(same["fusion_0"]))
    else:
        assert all(jax.tree.leaves(same))


def test_padded_rows_change_no_other_rows_loss(case):
    mask = jnp.arange(case.config.batch_size) < 5
    noise = jax.random.normal(jax.random.key(1), ())
    other = {
        name: jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, noise)
        for name, x in case.inputs.items()
    }
    losses = [
        _terms(case, _features(case, inputs, mask=mask))[0]
        for inputs in (case.inputs, other)
    ]
    for name, values in losses[0].items():
        np.testing.assert_allclose(values, losses[1][name], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(values[5:], 0.0)


def test_gradients_are_finite_at_zero_features_and_one_window(case):
    mask = jnp.arange(case.config.batch_size) < 1
    features = _features(case, mask=mask)

    def loss(semantic):
        changed = dataclasses.replace(features, semantic=semantic, second_view=semantic)
        return sum(term.sum() for term in _terms(case, changed)[0].values())

    gradient = jax.grad(loss)(jax.tree.map(jnp.zeros_like, features.semantic))
    assert all(np.isfinite(leaf).all() for _, leaf in leaves(gradient))


def test_a_checkpoint_restores_bit_for_bit_and_goes_on_alike(case, tmp_path):
    state = jax.tree.map(jnp.copy, case.state)
    state, _ = case.step(state, case.batch)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, data={}, config={})
        checkpoints.wait()
        restored, _ = checkpoints.restore_latest(abstract(state))
    check_equal(restored, state)
    straight, _ = case.step(state, case.batch)
    resumed, _ = case.step(restored, case.batch)
    check_equal(resumed, straight)


def test_a_term_that_asks_for_codes_is_refused_by_a_system_without():
    config = make_config("clip")
    config.objectives.commitment = component(
        "fmalign_jax.objectives.commitment.Commitment",
        weight=1.0,
        weights={"video": {"current": 1.0}},
    )
    with pytest.raises(ValueError, match=r"'commitment' needs .*no code_vectors"):
        tiny.first_state(config)


def test_an_unknown_part_of_a_modality_is_refused():
    config = make_config("clip")
    config.model.modalities.video.specific = component("x.Y")
    with pytest.raises(ValueError, match="must give exactly stem, pool; got"):
        tiny.first_state(config)


def test_a_control_that_mixes_modalities_is_never_evaluated_as_if_it_did_not():
    config, mesh = make_config("fused_control"), sharding.make_mesh(jax.devices()[:1])
    FrozenEncoder(config, ["current"], mesh)
    with pytest.raises(ValueError, match=r"own input alone; got .*Fused, a control"):
        FrozenEncoder(config, ["video", "current"], mesh)


@pytest.mark.parametrize("name", ["clip", "cmg"])
@pytest.mark.slow
def test_permuted_labels_change_no_parameter(name):
    case = make_case(name)
    shape = (case.config.batch_size, case.config.data.window_ticks)
    label = np.random.default_rng(0).integers(-1, 2, shape).astype(np.int32)
    states = [
        case.step(jax.tree.map(jnp.copy, case.state), case.batch | {"label": own})[0]
        for own in (label, label[::-1].copy())
    ]
    check_equal(*states)
