"""OneLLM: one encoder for all modalities, experts and routers, by their equations."""

from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fresh_parameters import fresh_parameters
from ml_collections import ConfigDict

from fmalign_jax.alarm import make
from fmalign_jax.alarm.comparison import Scored
from fmalign_jax.alarm.model import AlarmModel
from fmalign_jax.data.windows.spec import WindowSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.systems.onellm import ROUTERS, OneLlm

B, T, D, SLOTS, K = 3, 5, 8, 4, 3
PARTS = {"stem": {"name": "fmalign_jax.models.encoders.FeatureStem"}, "pool": None}
MASK = jnp.ones(B, bool)


def _system(**settings):
    return OneLlm(
        **{
            "width": D,
            "modalities": dict.fromkeys(("video", "current"), PARTS),
            "transformer": {"layers": 0, "positions": "learned"},
            "encoder": {"layers": 1, "heads": 2, "ffn": 8},
            "tokens": SLOTS,
            "experts": K,
            "blocks": 1,
            **settings,
        }
    )


def _inputs(seed=0):
    rng = np.random.default_rng(seed)
    return {
        m: jnp.asarray(rng.normal(size=(B, T, 1, n)), jnp.float32)
        for m, n in (("video", 6), ("current", 4))
    }


def _variables(system, seed=0):
    return fresh_parameters(system, _inputs(), {}, MASK, train=False, seed=seed)


VARIABLES = _variables(_system())


def _features(system, variables=None, inputs=None):
    return system.apply(
        VARIABLES if variables is None else variables,
        _inputs() if inputs is None else inputs,
        {},
        MASK,
        train=False,
    )


def _routed(variables, biases):
    """Returns parameters whose routers give these logits, whatever they read."""
    params = dict(variables["params"])
    for m in ("video", "current"):
        router = dict(params[f"routers_{m}"])
        router["Dense_1"] = {
            "kernel": 0 * router["Dense_1"]["kernel"],
            "bias": jnp.asarray(biases, jnp.float32),
        }
        params[f"routers_{m}"] = router
    return {"params": params}


def _numpy_weights(router, params, modality, encoded):
    """The weights [B, S, K] by their definition."""
    if router == "constant":
        return np.full((B, SLOTS, K), 1 / K)
    tokens = params[f"tokens_{modality}"]
    read = np.broadcast_to(tokens, (B, SLOTS, D))
    if router == "soft_input":
        read = encoded.mean(axis=1, keepdims=True)
    first, second = (params[f"routers_{modality}"][f"Dense_{i}"] for i in (0, 1))
    hidden = np.asarray(nn.gelu(read @ first["kernel"] + first["bias"]))
    logits = hidden @ second["kernel"] + second["bias"]
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    if router == "sparse":
        weights = weights * (weights == weights.max(axis=-1, keepdims=True))
    return np.broadcast_to(weights, (B, SLOTS, K))


@pytest.mark.parametrize("router", ROUTERS)
def test_features_are_those_of_the_equations(router):
    system = _system(router=router)
    features, captured = system.apply(
        VARIABLES,
        _inputs(),
        {},
        MASK,
        train=False,
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    params = jax.tree.map(np.asarray, VARIABLES["params"])
    seen = captured["intermediates"]
    # Modalities are called one after the other.
    for call, m in enumerate(features.semantic):
        encoded = np.asarray(seen["universal"]["__call__"][call])
        weights = _numpy_weights(router, params, m, encoded)
        np.testing.assert_allclose(features.expert_weights[m], weights, atol=1e-5)
        mixed = sum(
            weights[..., k, None]
            * np.asarray(seen[f"projections_{k}"]["__call__"][call])[:, :SLOTS]
            for k in range(K)
        )
        x = mixed @ params["outer"]["kernel"] + params["outer"]["bias"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * params["norm"]["scale"] + params["norm"]["bias"]
        np.testing.assert_allclose(features.semantic[m], x, atol=1e-4)


def test_an_expert_reads_modality_tokens_and_ticks():
    system = _system(experts=1)
    variables = _variables(system)
    base = _features(system, variables).semantic["video"]
    params = dict(variables["params"])
    params["tokens_video"] = params["tokens_video"].at[0].add(1.0)
    moved = _features(system, {"params": params}).semantic
    # Every slot sees every modality token; the other modality has its own.
    assert (np.abs(moved["video"] - base).max(axis=(0, 2)) > 1e-4).all()
    inputs = _inputs()
    inputs["video"] = inputs["video"].at[:, 2].add(1.0)
    other = _features(system, variables, inputs).semantic
    assert (np.abs(other["video"] - base).max(axis=(0, 2)) > 1e-4).all()
    np.testing.assert_array_equal(moved["current"], other["current"])


def test_one_expert_makes_all_routers_alike():
    variables = _variables(_system(experts=1))
    found = [
        _features(_system(experts=1, router=router), variables).semantic
        for router in ROUTERS
    ]
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, found[0])


def test_soft_weights_of_one_expert_alone_are_sparse_ones():
    for chosen in range(K):
        variables = _routed(VARIABLES, 200.0 * (np.arange(K) == chosen))
        soft, sparse = (
            _features(_system(router=r), variables) for r in ("soft", "sparse")
        )
        assert soft.expert_weights["video"][0, 0, chosen] == 1.0
        jax.tree.map(np.testing.assert_array_equal, soft.semantic, sparse.semantic)


def test_equal_logits_are_the_constant_router():
    soft = _features(_system(router="soft"), _routed(VARIABLES, np.full(K, 7.0)))
    constant = _features(_system(router="constant"))
    for m, z in soft.semantic.items():
        np.testing.assert_allclose(z, constant.semantic[m], atol=1e-5)


def test_the_published_router_does_not_see_the_input():
    for router in ROUTERS:
        first, second = (
            _features(_system(router=router), inputs=_inputs(seed)).expert_weights
            for seed in (0, 1)
        )
        for m, weights in first.items():
            apart = np.abs(weights - second[m]).max()
            assert (apart > 1e-3) if router == "soft_input" else (apart == 0.0)
            if router == "soft":  # but it tells modality tokens apart
                assert np.abs(weights - weights[:, :1]).max() > 1e-3


def test_the_sparse_router_learns():
    system = _system(router="sparse")

    def loss(params):
        return (_features(system, {"params": params}).semantic["video"] ** 3).sum()

    gradient = jax.jit(jax.grad(loss))(VARIABLES["params"])
    assert np.abs(gradient["routers_video"]["Dense_1"]["bias"]).max() > 1e-4


def test_one_set_of_parameters_serves_all_modalities():
    own = {"semantics", "routers", "tokens"}
    shared = {"universal", "outer", "norm", *(f"projections_{k}" for k in range(K))}
    names = {f"{part}_{m}" for part in own for m in ("video", "current")}
    assert set(VARIABLES["params"]) == names | shared

    def loss(params, modality):
        z = _features(_system(), {"params": params}).semantic[modality]
        return (z**3).sum()

    for m, other in (("video", "current"), ("current", "video")):
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(VARIABLES["params"], m)
        for part in shared:
            assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[part])), part
        for part in own:
            leaves = jax.tree.leaves(gradient[f"{part}_{other}"])
            assert not any(np.any(leaf) for leaf in leaves)


def test_ticks_may_be_kept_in_place_of_slots():
    slots, ticks = _system(), _system(keep="ticks")
    assert not slots.slots_are_ticks
    assert ticks.slots_are_ticks
    assert _features(slots).semantic["video"].shape == (B, SLOTS, D)
    found = _features(ticks)
    assert found.semantic["video"].shape == (B, T, D)
    # The router then reads what differs from window to window.
    assert np.ptp(found.expert_weights["video"], axis=0).max() > 1e-3


def test_without_context_a_tick_is_a_window_of_its_own():
    inputs = _inputs()
    found, encoded = (
        _system().apply(VARIABLES, inputs, train=False, method="semantic", **how)
        for how in ({"context": False}, {})
    )
    assert found["video"].shape == (B, T, D)
    # In a window of one tick, at the place of the middle, there is nothing else to see.
    alone = {m: x[:, :1] for m, x in inputs.items()}
    params = dict(VARIABLES["params"])
    for m in inputs:
        encoder = params[f"semantics_{m}"]
        middle = encoder["positions"][T // 2][None]
        params[f"semantics_{m}"] = encoder | {"positions": middle}
    expected = _features(_system(), {"params": params}, alone).semantic
    for m, z in expected.items():
        np.testing.assert_allclose(found[m][:, 0], z.mean(axis=1), atol=1e-5)
        assert np.abs(encoded[m].mean(axis=1) - found[m].mean(axis=1)).max() > 1e-3


def test_mean_weights_are_counted_over_windows_that_count():
    system = _system(router="soft_input")
    features = _features(system)
    features = features.replace(mask=jnp.arange(B) < 2)
    statistics = system.statistics(features)
    values = statistics.merge(statistics).compute()
    for m, weights in features.expert_weights.items():
        found = [float(values[f"expert_weight/{m}/{k}"]) for k in range(K)]
        expected = np.asarray(weights)[:2].mean(axis=(0, 1))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert sum(found) == pytest.approx(1.0)
    assert "pair_cosine/current-video" in values


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"router": "hard"}, "model.router must be one"), ({"keep": "all"}, "model.keep")],
)
def test_unknown_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        _features(_system(**settings))


def test_an_alarm_is_shown_all_slots():
    """Slots belong to the window as a whole: there are no last ones."""
    spec = WindowSpec(
        samples_per_tick={"video": 1}, window_ticks=30, stride_ticks=5, tick_s=2.0
    )
    for system in (_system(), _system(keep="ticks")):
        model = mock.Mock(spec=AlarmModel, encoder=mock.Mock(system=system))
        model.probabilities.return_value = [np.zeros((1, 2))] * 2
        split = mock.Mock(spec=LabelledWindows)
        found = make.model_scores(
            ConfigDict({"recent_s": (2.0, 60.0)}),
            model,
            EvaluationSplits(("a", "b"), {"head": split, "test": split}, None),
            {"test": mock.Mock(spec=Scored, cut=lambda x: [x])},
            spec,
            1,
        )
        ticks = [1, 30] if system.slots_are_ticks else [30]
        assert [own for own, _ in found] == [{"recent_s": 2.0 * n} for n in ticks]
        model.probabilities.assert_called_once_with(split, ticks)
        kept = slice(-2, None) if system.slots_are_ticks else slice(None)
        assert AlarmModel.shown(model, 2) == kept
