"""What every system must do, whatever it is made of: one row a system."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from fmalign_jax import train
from fmalign_jax.config import component, load_file
from fmalign_jax.evaluation import retrieval
from fmalign_jax.objectives.total import label_level
from fmalign_jax.run.checkpoints import Checkpoints, abstract
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import FUSED, System, inputs_of, make_system
from fmalign_jax.training import sharding, step as train_step
from fmalign_jax.training.state import encode, init_state, make_trainer

CONFIGS = load_file(pathlib.Path(__file__).parents[1] / "configs" / "systems.py")


def cmg(config: ConfigDict) -> None:
    """CMG is what the tiny config describes."""
    config.objectives.reconstruction.weight = 0.0  # compiles long, changes nothing


SYSTEMS = {
    "cmg": cmg,
    **CONFIGS.SYSTEMS,
    **CONFIGS.SUPERVISED,
    **CONFIGS.CONTROLS,
}
_SUMMARY = "['model']['specifics_video']['Dense_"
IDLE = {"micu": _SUMMARY, "indexed": _SUMMARY}
"""Parameters that a system has and does not learn: the summary that CLUB reads."""


LEVELS = {"hdcid": 2}
"""How many levels stand side by side in what a system encodes; else one."""


def _config(name: str) -> ConfigDict:
    config = tiny.tiny_config()
    config.optimizer.epsilon = 1e-3  # see test_step: gradients that are but rounding
    config.optimizer.warmup_steps = 0
    SYSTEMS[name](config)
    for term in config.objectives.values():
        if "from_epoch" in term:
            term.from_epoch = 0.0  # all that a system has learns from the first step
    return config


@dataclasses.dataclass
class Case:
    """A system at its first state, with one batch."""

    name: str
    config: ConfigDict
    trainer: object
    mesh: object
    state: object
    batch: dict
    inputs: dict
    step: object
    evaluate: object


def _case(name: str, devices: int = 1) -> Case:
    config = _config(name)
    trainer, mesh, state = tiny.first_state(config, devices)
    batch = sharding.place_batch(tiny.random_batch(config), mesh)
    inputs = {
        "video": jnp.asarray(batch["streams"]["video"], jnp.float32) / 74.0,
        "current": jnp.asarray(batch["streams"]["current"]),
    }
    step = train_step.make_train_step(trainer, mesh)
    evaluate = train_step.make_eval_step(trainer, mesh)
    return Case(name, config, trainer, mesh, state, batch, inputs, step, evaluate)


@pytest.fixture(scope="module", params=SYSTEMS)
def case(request):
    return _case(request.param)


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


def _leaves(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), np.asarray(leaf)


def _equal(found, expected):
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(found), jax.device_get(expected)
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
    for name, encoding in encoded.items():
        np.testing.assert_array_equal(encoding.features, held[name])
        if case.trainer.model.has_codes:
            np.testing.assert_array_equal(encoding.codes, features.codes[name])
        else:
            assert encoding.codes is None
            assert not hasattr(features, "codes")


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


def test_without_context_features_are_those_of_single_ticks(case):
    """What a tick sees of other ticks is what its stem gathers around it."""

    def ticks(inputs):
        return case.trainer.model.apply(
            {"params": case.state.params["model"]},
            inputs,
            train=False,
            context=False,
            method="semantic",
        )

    found = ticks(case.inputs)
    last = {m: x.at[:, -1].multiply(-1.0) for m, x in case.inputs.items()}
    shape = (case.config.batch_size, case.config.data.window_ticks)
    assert set(found) == set(case.trainer.model.views)
    for m, changed in ticks(last).items():
        width = LEVELS.get(case.name, 1) * case.config.model.width
        assert found[m].shape == (*shape, width)
        np.testing.assert_allclose(changed[:, :-3], found[m][:, :-3], atol=1e-6)
        assert np.abs(changed[:, -1] - found[m][:, -1]).max() > 1e-3


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
    _equal(state, before)
    _equal(case.evaluate(state, batch), first)
    for _ in range(2):
        state, metrics = case.step(state, batch)
    assert np.isfinite([float(x) for x in metrics["scalars"].values()]).all()
    after = dict(_leaves(state.params))
    still = [
        path
        for path, leaf in _leaves(before.params)
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
    assert all(np.isfinite(leaf).all() for _, leaf in _leaves(gradient))


def test_a_checkpoint_restores_bit_for_bit_and_goes_on_alike(case, tmp_path):
    state = jax.tree.map(jnp.copy, case.state)
    state, _ = case.step(state, case.batch)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, data={}, config={})
        checkpoints.wait()
        restored, _ = checkpoints.restore_latest(abstract(state))
    _equal(restored, state)
    straight, _ = case.step(state, case.batch)
    resumed, _ = case.step(restored, case.batch)
    _equal(resumed, straight)


@pytest.mark.slow
def test_eight_devices_equal_one(case):
    shared = _case(case.name, devices=8)
    state, _ = case.step(jax.tree.map(jnp.copy, case.state), case.batch)
    other, _ = shared.step(shared.state, shared.batch)
    expected = dict(_leaves((state.params, state.model_state)))
    for path, leaf in _leaves((other.params, other.model_state)):
        np.testing.assert_allclose(
            leaf, expected[path], rtol=1e-4, atol=1e-4, err_msg=path
        )


def test_a_term_that_asks_for_codes_is_refused_by_a_system_without():
    config = _config("clip")
    config.objectives.commitment = component(
        "fmalign_jax.objectives.commitment.Commitment",
        weight=1.0,
        weights={"video": {"current": 1.0}},
    )
    with pytest.raises(ValueError, match=r"'commitment' needs .*no code_vectors"):
        tiny.first_state(config)


def test_an_unknown_part_of_a_modality_is_refused():
    config = _config("clip")
    config.model.modalities.video.specific = component("x.Y")
    with pytest.raises(ValueError, match="must give exactly stem, pool; got"):
        tiny.first_state(config)


def test_a_control_that_mixes_modalities_is_never_evaluated_as_if_it_did_not():
    config, mesh = _config("fused_control"), sharding.make_mesh(jax.devices()[:1])
    FrozenEncoder(config, ["current"], mesh)
    with pytest.raises(ValueError, match=r"own input alone; got .*Fused, a control"):
        FrozenEncoder(config, ["video", "current"], mesh)


# Learning what modalities share, and nothing where there is nothing


LATENT, WIDE, UNSEEN = 6, 12, 64


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
    config = _config(name)
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
    """Trains a system on planted pairs, and on shuffled ones.

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
                streams["current"] = rng.permutation(streams["current"])
            placed = sharding.place_batch(batch(streams), mesh)
            if state is None:
                state = init_state(trainer, placed, statistics, mesh)
            state, _ = step(state, placed)
        unseen = _planted(rng, UNSEEN, ticks, mixing)
        encoded = trainer.model.apply(
            {"params": state.params["model"]},
            {m: jnp.asarray(x) / 3.0 for m, x in unseen.items()},
            state.model_state,
            ("video", "current"),
            method="encode",
        )
        features = {m: np.asarray(own.features) for m, own in encoded.items()}
        similarity = getattr(trainer.model, "similarity", retrieval.similarity)
        alike = similarity(features["video"], features["current"])
        found[shuffled] = float(np.mean(alike.argmax(axis=1) == np.arange(UNSEEN)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS.SYSTEMS)
def test_partners_are_found_where_there_is_something_to_find(name):
    if make_system(_config(name)).uses_labels:
        pytest.skip("pairs alone teach it nothing: it learns from labels")
    found, chance = _recalls(name), 1 / UNSEEN
    assert found[False] >= 5 * chance
    # Three binomial standard errors.
    assert found[True] <= chance + 3 * np.sqrt(chance * (1 - chance) / UNSEEN)


@pytest.mark.slow
def test_permuted_labels_change_no_parameter(case):
    if case.trainer.model.uses_labels:
        pytest.skip("labels shape its features")
    shape = (case.config.batch_size, case.config.data.window_ticks)
    label = np.random.default_rng(0).integers(-1, 2, shape).astype(np.int32)
    states = [
        case.step(jax.tree.map(jnp.copy, case.state), case.batch | {"label": own})[0]
        for own in (label, label[::-1].copy())
    ]
    _equal(*states)


@pytest.fixture(scope="module")
def furnaces(tmp_path_factory):
    """Where the simulated furnaces of all systems lie."""
    return tmp_path_factory.mktemp("furnaces")


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", {**CONFIGS.SYSTEMS, **CONFIGS.SUPERVISED})
def test_the_shipped_config_trains_in_miniature(name, furnaces, tmp_path):
    config = CONFIGS.get_config(f"{name}+smoke")
    config.data.path = str(furnaces / "simulated")
    config.data.prepared_dir = str(furnaces / "prepared")
    config.max_steps = 8
    config.eval_every_epochs = 1.0
    state, summary = train.train(config, tmp_path / "run")
    assert int(state.step) == 8
    assert summary["best_step"] == 8
    assert np.isfinite(summary["best_score"])
