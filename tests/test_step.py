"""The compiled steps: devices, compilation, gradients, critics, random streams."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from fmalign_jax.config.default import component
from fmalign_jax.models import quantizer
from fmalign_jax.training import sharding, state as train_state, step as train_step
from fmalign_jax.training.joined import join

STEPS = 3


@dataclasses.dataclass
class Trained:
    """One trainer, its compiled steps, and what a few of them gave."""

    trainer: train_state.Trainer
    mesh: jax.sharding.Mesh
    step: object
    evaluate: object
    states: list  # on the host; the last one also in `state`
    state: train_state.TrainState
    metrics: list


def _train(config, devices, steps=STEPS):
    trainer, mesh, state = tiny.first_state(config, devices)
    step = train_step.make_train_step(trainer, mesh)
    states, metrics = [jax.device_get(state)], []
    for index in range(steps):
        batch = sharding.place_batch(tiny.random_batch(config, seed=index), mesh)
        state, reported = step(state, batch)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(reported))
    evaluate = train_step.make_eval_step(trainer, mesh)
    return Trained(trainer, mesh, step, evaluate, states, state, metrics)


@pytest.fixture(scope="module")
def config():
    config = tiny.tiny_config()
    assert config.model.transformer.dropout > 0
    assert config.augment.video.crop > 0
    config.objectives.cross_cpc.starts = "random"
    # Adam divides by |g| + epsilon. Some gradients are zero but for rounding (a bias
    # of attention's keys); with the usual 1e-8 their steps have a random sign.
    config.optimizer.epsilon = 1e-3
    return config


@pytest.fixture(scope="module")
def one(config):
    with tiny.smooth_critics():
        return _train(config, devices=1)


def _copy(state):
    return jax.tree.map(jnp.copy, state)


def _assert_close(found, expected, *, what, atol=1e-5):
    found, expected = (dict(_leaves(tree)) for tree in (found, expected))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(
            found[path], value, rtol=1e-5, atol=atol, err_msg=f"{what}{path}"
        )


def _leaves(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), np.asarray(leaf)


def _adam(opt_state):
    """The moments: after the first step, the clipped gradient itself."""
    states = jax.tree.leaves(
        opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
    )
    return next(s for s in states if isinstance(s, optax.ScaleByAdamState))


# Devices


@pytest.fixture(scope="module")
def eight(config):
    with tiny.smooth_critics():
        return _train(config, devices=8)


@pytest.mark.slow
def test_eight_devices_equal_one(one, eight):
    for alone, shared in zip(one.metrics, eight.metrics, strict=True):
        _assert_close(shared["scalars"], alone["scalars"], what="metric ")
        # The statistics are sums over many ticks; what they stand for is compared.
        _assert_close(
            shared["statistics"].compute(),
            alone["statistics"].compute(),
            what="metric ",
        )
    for step, (alone, shared) in enumerate(zip(one.states, eight.states, strict=True)):
        for part in ("model_state", "critic_params", "critic_opt_state", "params"):
            _assert_close(
                getattr(shared, part), getattr(alone, part), what=f"step {step} {part} "
            )
        _assert_close(
            _adam(shared.opt_state).mu,
            _adam(alone.opt_state).mu,
            what=f"step {step} gradient ",
        )


@pytest.fixture(scope="module")
def sharded(config):
    config = config.copy_and_resolve_references()
    config.optimizer.shard_state = True
    with pytest.MonkeyPatch.context() as patch, tiny.smooth_critics():
        patch.setattr(sharding, "SMALL", 2**7)
        return _train(config, devices=8)


@pytest.mark.slow
def test_devices_that_share_the_optimisers_state_equal_one(one, sharded):
    for step, (alone, shared) in enumerate(
        zip(one.states, sharded.states, strict=True)
    ):
        for part in ("model_state", "critic_params", "params"):
            _assert_close(
                getattr(shared, part), getattr(alone, part), what=f"step {step} {part} "
            )
    shares = []
    for x in jax.tree.leaves(_adam(sharded.state.opt_state)):
        even = x.size >= 2**7 and any(n % 8 == 0 for n in x.shape)
        shares.append(8 if even else 1)
        held = {part.data.size for part in x.addressable_shards}
        assert held == {x.size // shares[-1]}
    assert set(shares) == {1, 8}
    for x in jax.tree.leaves((sharded.state.params, sharded.state.model_state)):
        assert x.sharding.is_fully_replicated
    assert sharded.step.func._cache_size() == 1  # the state comes back as it went in


def test_training_moved_everything_that_the_comparison_covers(one):
    first, last = one.states[0], one.states[-1]
    for part in ("model_state", "critic_params", "params"):
        pairs = zip(
            _leaves(getattr(first, part)), _leaves(getattr(last, part)), strict=True
        )
        moved = [not np.array_equal(a, b) for (_, a), (_, b) in pairs]
        assert np.mean(moved) > 0.9, part
    assert int(last.step) == STEPS


def test_the_optimisers_keep_few_arrays_whatever_the_number_of_layers(one):
    """Each array of its own takes a GPU several kernels, and the compiler its time."""
    state = one.states[0]
    assert len(jax.tree.leaves(state.params)) > 50
    for kept in (state.opt_state, state.critic_opt_state):
        assert len(jax.tree.leaves(kept)) <= 6


# Clipping


def test_the_gradient_is_clipped_to_the_norm_of_the_config(config, one):
    norm = one.metrics[0]["scalars"]["norm/gradient"]
    assert norm > 2 * config.optimizer.clip_norm
    moments = _adam(one.states[1].opt_state).mu
    applied = float(optax.tree.norm(moments)) / 0.1  # mu = (1 - 0.9) g
    assert applied == pytest.approx(config.optimizer.clip_norm, rel=1e-4)


def test_both_adams_divide_by_the_epsilon_of_the_config():
    config = tiny.tiny_config()
    config.optimizer.update(
        {"epsilon": 0.3, "schedule": "constant", "warmup_steps": 0, "clip_norm": 9.0}
    )
    trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
    gradient = jnp.array(0.1)
    for optimizer in (trainer.optimizer, trainer.critic_optimizer):
        update, _ = optimizer.update(gradient, optimizer.init(gradient), jnp.array(1.0))
        assert float(update) == pytest.approx(-2.5e-4, rel=1e-4)


def test_critics_have_a_learning_rate_of_their_own():
    config = tiny.tiny_config()
    config.optimizer.update({"schedule": "constant", "warmup_steps": 0})
    config.optimizer.update({"learning_rate": 0.1, "critic_learning_rate": 0.02})
    trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
    gradient = jnp.array(0.3)
    for optimizer, rate in ((trainer.optimizer, 0.1), (trainer.critic_optimizer, 0.02)):
        update, _ = optimizer.update(gradient, optimizer.init(gradient), jnp.array(1.0))
        assert float(update) == pytest.approx(-rate, rel=1e-4)


def test_kernels_decay_and_biases_do_not():
    config = tiny.tiny_config()
    config.optimizer.update(
        {"schedule": "constant", "warmup_steps": 0, "learning_rate": 0.1}
    )
    config.optimizer.weight_decay = 0.5
    trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
    attention = nn.MultiHeadDotProductAttention(2).init(
        jax.random.key(0), jnp.ones((1, 5, 4))
    )
    heads = attention["params"]["key"]
    assert heads["bias"].shape == (2, 2)
    params = {"kernel": jnp.full((2, 3), 4.0), "bias": jnp.full(3, 4.0)}
    params["key"] = jax.tree.map(lambda x: jnp.full_like(x, 4.0), heads)
    still = jax.tree.map(jnp.zeros_like, params)
    vectors, split = join(params)
    updates, _ = trainer.optimizer.update(
        join(still)[0], trainer.optimizer.init(vectors), vectors
    )
    updates = split(updates)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 4.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)
    np.testing.assert_allclose(updates["key"]["kernel"], -0.1 * 0.5 * 4.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["key"]["bias"], 0.0)


# The start


def test_a_constant_modality_does_not_blow_its_projection_up():
    config = tiny.tiny_config()
    mesh = sharding.make_mesh(jax.devices()[:1])
    trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
    batch = tiny.random_batch(config)
    batch["streams"]["current"] = np.zeros_like(batch["streams"]["current"])
    placed = sharding.place_batch(batch, mesh)
    state = train_state.init_state(trainer, placed, tiny.STATISTICS, mesh)
    model = state.params["model"]
    assert np.abs(model["semantics_current"]["projection"]["kernel"]).max() < 10
    assert np.isfinite(
        np.asarray(quantizer.embeddings(state.model_state["codebook"]))
    ).all()


class ProjectingStem(nn.Module):
    """A stem with a layer of the same name."""

    @nn.compact
    def __call__(self, inputs):
        x = inputs.reshape(*inputs.shape[:2], -1)
        return nn.Dense(4, name="projection", bias_init=nn.initializers.ones)(x)


def test_only_the_semantic_encoders_projections_are_standardised():
    config = tiny.tiny_config()
    config.model.modalities.current.stem = component(f"{__name__}.ProjectingStem")
    _, _, state = tiny.first_state(config)
    model = state.params["model"]
    np.testing.assert_array_equal(model["stems_current"]["projection"]["bias"], 1)
    assert np.abs(model["semantics_current"]["projection"]["bias"]).max() > 1e-3


# Compilation and transfers


def test_one_compilation_serves_all_steps_and_padded_batches(config, one):
    assert one.step.func._cache_size() == 1
    batch = tiny.random_batch(config)
    padded = batch | {"mask": np.arange(config.batch_size) < 3}
    for rows in (batch, padded):
        one.evaluate(one.state, sharding.place_batch(rows, one.mesh))
    assert one.evaluate.func._cache_size() == 1


def test_a_step_moves_nothing_between_host_and_device(config, one):
    host = tiny.random_batch(config)
    batch, state = sharding.place_batch(host, one.mesh), _copy(one.state)
    with jax.transfer_guard("disallow"):
        state, _ = one.step(state, batch)
        one.evaluate(state, batch)
        with pytest.raises(Exception, match="Disallowed host-to-device"):
            one.evaluate(state, host)


def test_the_state_is_donated(config, one):
    state = _copy(one.state)
    one.step(state, sharding.place_batch(tiny.random_batch(config), one.mesh))
    # XLA may keep a leaf it cannot reuse; all large ones must be gone.
    large = [leaf for leaf in jax.tree.leaves(state) if leaf.size > 1]
    assert all(leaf.is_deleted() for leaf in large)


# Evaluation


def test_evaluation_changes_nothing_and_draws_nothing(config, one):
    state = _copy(one.state)
    before = jax.device_get(state)
    batch = sharding.place_batch(tiny.random_batch(config), one.mesh)
    first = jax.device_get(one.evaluate(state, batch))
    later = dataclasses.replace(state, step=state.step + 7)
    jax.tree.map(
        np.testing.assert_array_equal, first, jax.device_get(one.evaluate(later, batch))
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)


def test_padding_counts_for_nothing(config, one):
    mask = np.arange(config.batch_size) < 5
    batch = tiny.random_batch(config) | {"mask": mask}
    noise = tiny.random_batch(config, seed=9)["streams"]
    other = batch | {
        "streams": {
            name: np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, noise[name])
            for name, x in batch["streams"].items()
        }
    }
    first, second = (
        jax.device_get(one.evaluate(one.state, sharding.place_batch(b, one.mesh)))
        for b in (batch, other)
    )
    _assert_close(second, first, what="padded ")
    assert int(first["statistics"].windows) == 5
    assert all(int(mean.count) == 5 for mean in first["scalars"].values())


# The codebook


def test_codes_start_as_long_as_the_features(config, one):
    batch = tiny.random_batch(config)
    inputs = {
        name: jnp.asarray(
            (values.astype(np.float32) - tiny.STATISTICS[name]["mean"])
            / tiny.STATISTICS[name]["std"]
        )
        for name, values in batch["streams"].items()
    }
    first = one.states[0]
    semantic = one.trainer.model.apply(
        {"params": first.params["model"]}, inputs, train=False, method="semantic"
    )
    z = np.concatenate(
        [np.asarray(x).reshape(-1, x.shape[-1]) for x in semantic.values()]
    )
    codebook = jax.tree.map(jnp.asarray, one.states[1].model_state["codebook"])
    e = np.asarray(quantizer.embeddings(codebook))
    longest = np.linalg.norm(e, axis=-1).max()
    assert 0.1 < longest / np.median(np.linalg.norm(z, axis=-1)) < 2


# Random streams


def test_random_streams_depend_on_seed_step_and_name_alone(one):
    names = train_step.random_streams(one.trainer)
    assert {"dropout", "start", "permutation"} < set(names)  # asked of the parts
    keys = {
        (seed, step, name): tuple(jax.random.key_data(key).tolist())
        for seed, step in itertools.product((0, 1), (0, 1, 5))
        for name, key in train_step.step_keys(seed, jnp.asarray(step), names).items()
    }
    assert len(set(keys.values())) == len(keys) == 6 * len(names)
    again = train_step.step_keys(1, jnp.asarray(5), ["revive"])["revive"]
    assert tuple(jax.random.key_data(again).tolist()) == keys[1, 5, "revive"]


# Critics


def _keep_only(config, *names):
    for name in config.objectives:
        if name not in names:
            config.objectives[name].weight = 0.0
    return config


@pytest.fixture(scope="module")
def critic_alone():
    """Nothing but CLUB, weighted so little that its bound moves nobody."""
    config = _keep_only(tiny.tiny_config(), "club")
    config.objectives.club.weight = 1e-30
    return _train(config, devices=1, steps=1)


def test_critics_take_their_inner_steps_and_no_others(critic_alone):
    first, last = critic_alone.states
    steps = critic_alone.trainer.config.optimizer.critic_steps
    assert int(_adam(last.critic_opt_state).count) == steps
    for (path, a), (_, b) in zip(
        _leaves(first.critic_params), _leaves(last.critic_params), strict=True
    ):
        assert np.abs(a - b).max() > 0, path
        # Each step of Adam moves a parameter by about the learning rate at most.
        assert np.abs(a - b).max() < 1.2e-3 * steps, path


def test_the_critics_likelihood_teaches_nobody_else(critic_alone):
    scalars = critic_alone.metrics[0]["scalars"]
    assert abs(scalars["loss/club"]) > 1e-6
    # The bound's own gradient is scaled by 1e-30; the likelihood's would be near one.
    assert scalars["norm/gradient"] < 1e-20


def test_the_outer_loss_leaves_critics_alone():
    config = _keep_only(tiny.tiny_config(), "club", "commitment")
    config.objectives.club.weight = 1.0
    config.optimizer.critic_steps = 0
    first, last = _train(config, devices=1, steps=1).states
    jax.tree.map(np.testing.assert_array_equal, last.critic_params, first.critic_params)
    assert set(first.params["objectives"]).isdisjoint(first.critic_params)


# Configuration


def _shapes(config, batch, statistics):
    """Output of one train step without compiling it."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
    placed = sharding.place_batch(batch, mesh)
    state = train_state.init_state(trainer, placed, statistics, mesh)
    step = train_step.make_train_step(trainer, mesh)
    return state, jax.eval_shape(step, state, placed)


def test_a_weight_of_zero_leaves_a_term_out():
    config = tiny.tiny_config()
    for name in ("cross_cpc", "club"):
        config.objectives[name].weight = 0.0
    state, (_, metrics) = _shapes(config, tiny.random_batch(config), tiny.STATISTICS)
    losses = {name for name in metrics["scalars"] if name.startswith("loss/")}
    assert losses == {
        f"loss/{name}"
        for name in config.objectives
        if name not in ("cross_cpc", "club")
    }
    assert "cross_cpc" not in state.params["objectives"]
    assert not state.critic_params


def test_the_total_is_the_weighted_sum_of_the_terms(config, one):
    for metrics in one.metrics:
        scalars = metrics["scalars"]
        total = sum(
            term.weight * scalars[f"loss/{name}"]
            for name, term in config.objectives.items()
        )
        np.testing.assert_allclose(scalars["loss"], total, rtol=1e-5)


def test_norms_and_learning_rate_are_what_they_say(config, one):
    for index, metrics in enumerate(one.metrics):
        before, after = (s.params for s in one.states[index : index + 2])
        change = jax.tree.map(np.subtract, after, before)
        scalars = metrics["scalars"]
        for name, tree in (("parameter", before), ("update", change)):
            expected = np.sqrt(sum((x**2).sum() for _, x in _leaves(tree)))
            np.testing.assert_allclose(
                scalars[f"norm/{name}"], expected, rtol=1e-3, atol=1e-6
            )
        rate = 0.0 if index < config.optimizer.warmup_steps else 1e-3
        assert scalars["learning_rate"] == pytest.approx(rate, rel=1e-2)


@pytest.mark.slow
def test_bfloat16_computes_but_does_not_store():
    config = tiny.tiny_config()
    config.compute_dtype = "bfloat16"
    trained = _train(config, devices=1, steps=1)
    assert np.isfinite(list(trained.metrics[0]["scalars"].values())).all()
    floating = [
        leaf.dtype
        for _, leaf in _leaves(trained.states[1])
        if not np.issubdtype(leaf.dtype, np.integer)
    ]
    assert set(floating) == {np.dtype(np.float32)}
    model, state = trained.trainer.model, trained.states[1]
    features, sown = jax.eval_shape(
        lambda inputs: model.apply(
            {"params": state.params["model"]},
            inputs,
            jax.tree.map(jnp.asarray, state.model_state),
            jnp.ones(config.batch_size, bool),
            train=False,
            capture_intermediates=True,
        ),
        {
            name: jnp.zeros(values.shape, jnp.float32)
            for name, values in tiny.random_batch(config)["streams"].items()
        },
    )
    for part in (features.semantic, features.quantized, features.pooled_specific):
        assert {x.dtype for x in part.values()} == {jnp.dtype(jnp.float32)}
    assert jnp.dtype(jnp.bfloat16) in {
        x.dtype for x in jax.tree.leaves(sown["intermediates"])
    }


@pytest.mark.slow
def test_three_modalities_train_from_configuration_alone():
    config = tiny.with_text(tiny.tiny_config())
    trained = _train(config, devices=1, steps=2)
    scalars = trained.metrics[-1]["scalars"]
    assert np.isfinite(list(scalars.values())).all()
    predicted = {name for name in scalars if name.startswith("cpc_accuracy/")}
    assert predicted == {
        f"cpc_accuracy/{context}->{target}"
        for context, row in config.objectives.cross_cpc.weights.items()
        for target in row
    }
    assert sum("text" in name for name in predicted) == 5
    assert sorted(trained.states[-1].model_state["codebook"].idle) == [
        "current",
        "text",
        "video",
    ]
    assert sorted(trained.metrics[-1]["statistics"].histograms) == [
        "current",
        "text",
        "video",
    ]
    pairs = set(trained.metrics[-1]["statistics"].matches)
    assert pairs == {"current-text", "current-video", "text-video"}
    embedding = {
        path: leaf
        for path, leaf in _leaves(trained.states[-1].params["model"])
        if "text" in path
    }
    assert embedding
    first = dict(_leaves(trained.states[0].params["model"]))
    assert all(np.abs(leaf - first[path]).max() > 0 for path, leaf in embedding.items())


# Schedules


def _schedule(**changes):
    config = tiny.tiny_config().optimizer
    config.update({"learning_rate": 0.4, "warmup_steps": 4, **changes})
    schedule = train_state.make_schedule(config, steps_per_epoch=10, steps=100)
    return lambda step: float(schedule(step))


def test_every_schedule_warms_up_in_a_line():
    for kind in ("constant", "cosine", "halving"):
        schedule = _schedule(schedule=kind)
        np.testing.assert_allclose(
            [schedule(step) for step in range(5)], [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6
        )


@pytest.mark.parametrize("kind", ["constant", "cosine", "halving"])
def test_without_warm_up_the_first_step_has_the_whole_rate(kind):
    schedule = _schedule(schedule=kind, warmup_steps=0)
    assert schedule(0) == pytest.approx(0.4)


def test_constant_and_cosine():
    assert _schedule(schedule="constant")(99) == pytest.approx(0.4)
    cosine = _schedule(schedule="cosine")
    for step in (20, 52, 99, 100):
        expected = 0.2 * (1 + np.cos(np.pi * (step - 4) / 96))
        assert cosine(step) == pytest.approx(expected, abs=1e-6)


def test_halving_at_the_epochs_of_the_config():
    schedule = _schedule(schedule="halving", halve_at_epochs=(1, 2.5))
    # Steps count from 0: step 10 is the first of the second epoch.
    expected = {9: 0.4, 10: 0.2, 24: 0.2, 25: 0.1, 99: 0.1}
    assert {s: pytest.approx(schedule(s)) for s in expected} == expected


def test_an_epoch_in_decimals_halves_at_the_nearest_step():
    config = tiny.tiny_config().optimizer
    config.update({"learning_rate": 0.4, "warmup_steps": 0, "schedule": "halving"})
    config.halve_at_epochs = (0.57,)  # 0.57 * 100 is a little below 57
    schedule = train_state.make_schedule(config, steps_per_epoch=100, steps=100)
    assert [pytest.approx(float(schedule(s))) for s in (56, 57)] == [0.4, 0.2]


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match=r"'constant', 'cosine' or 'halving'.*'step'"):
        _schedule(schedule="step")
