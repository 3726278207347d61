"""AlignVSR: two losses, a bank of units and a similarity, by their equations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fresh_parameters import fresh_parameters
from test_qformer import _dense, _norm

from fmalign_jax import losses
from fmalign_jax.models import quantizer
from fmalign_jax.models.layers import sinusoids
from fmalign_jax.objectives.local_alignment import LocalAlignment
from fmalign_jax.systems.alignvsr import AlignVsr
from fmalign_jax.systems.initialise import initialise

B, T, D, U, HEADS = 3, 6, 8, 5, 2
PARTS = {"stem": {"name": "fmalign_jax.models.encoders.FeatureStem"}, "pool": None}
BANK = {
    "codes": U,
    "initialisation": "sample",
    "decay": 0.9,
    "idle_steps": 2,
    "idle_rule": "all",
    "ema_mix": {"current": {"current": 1.0}},
    "revival_noise": 0.0,
}
MASK = jnp.ones(B, bool)


def _weights(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


# The losses


@pytest.mark.parametrize(("reach", "lag"), [(1, 0), (0, 0), (2, 3), (1, -4), (0, 5)])
def test_the_local_loss_is_the_sum_over_ticks_and_units(reach, lag):
    rng = np.random.default_rng(10 + lag)
    a, u = _weights(rng, B, T, U), rng.integers(0, U, (B, T))
    found = losses.local_alignment(
        jnp.asarray(a), jnp.asarray(u), reach_ticks=reach, lag_ticks=lag
    )
    for b in range(B):
        ticks = []
        for t in range(T):
            y, left = np.zeros(U), 0
            for d in range(-reach, reach + 1):
                if 0 <= t - lag + d < T:
                    y[u[b, t - lag + d]] += 1
                    left += 1
            if left:
                own = -(y * np.log(a[b, t].astype(float) + 1e-8)).sum()
                ticks.append(own * (2 * reach + 1) / left)
        assert found[b] == pytest.approx(np.mean(ticks), rel=1e-5)


def test_the_global_loss_is_a_cross_entropy_that_no_order_changes():
    rng = np.random.default_rng(0)
    a, u = _weights(rng, B, T, U), rng.integers(0, U, (B, T))
    found = losses.global_alignment(jnp.asarray(a), jnp.asarray(u))
    for b in range(B):
        h = np.bincount(u[b], minlength=U) / T
        expected = -(h * np.log(a[b].mean(axis=0) + 1e-8)).sum()
        assert found[b] == pytest.approx(expected, rel=1e-5)
        assert found[b] >= -(h[h > 0] * np.log(h[h > 0])).sum() - 1e-6
    turned = losses.global_alignment(jnp.asarray(a), jnp.asarray(u[:, ::-1]))
    np.testing.assert_allclose(turned, found, rtol=1e-6)


def test_uniform_attention_gives_three_times_ln_u():
    for size, published in ((64, 12.48), (200, 15.89)):
        even = jnp.full((1, T, size), 1 / size)
        loss = losses.local_alignment(even, jnp.zeros((1, T), jnp.int32))
        np.testing.assert_allclose(loss, 3 * np.log(size), rtol=1e-5)
        assert float(loss[0]) == pytest.approx(published, abs=5e-3)


def test_one_head_with_distances_and_no_reach_is_code_prediction():
    rng = np.random.default_rng(1)
    z, e = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in ((B, T, D), (U, D)))
    u = jnp.asarray(rng.integers(0, U, (B, T)))
    distance = jnp.linalg.norm(z[:, :, None] - e, axis=-1)
    attention = jax.nn.softmax(-distance / 0.5, axis=-1)
    np.testing.assert_allclose(
        losses.local_alignment(attention, u, reach_ticks=0),
        losses.code_prediction(z, e, u, 0.5),
        rtol=1e-4,
    )


def _planted(lag, ticks=400, size=64, windows=2):
    """Attention half of which is on the three units around `lag` ticks before."""
    rng = np.random.default_rng(2)
    u = rng.integers(0, size, (windows, ticks))
    near = [np.eye(size)[np.roll(u, lag + d, axis=1)] for d in (-1, 0, 1)]
    a = 0.5 / size + 0.5 * np.mean(near, axis=0)
    return jnp.asarray(a, jnp.float32), jnp.asarray(u)


def test_a_planted_lag_has_the_least_loss():
    a, u = _planted(40)
    lags = np.arange(-60, 61)
    loss = np.array(
        [losses.local_alignment(a, u, lag_ticks=int(lag)).mean() for lag in lags]
    )
    assert lags[loss.argmin()] == 40
    assert loss.min() < 12.48 < np.median(loss)


def test_a_lag_that_leaves_no_unit_in_the_window_is_refused():
    a, u = _planted(0, ticks=T)
    losses.local_alignment(a, u, lag_ticks=T)  # one unit is left
    with pytest.raises(ValueError, match=r"lag_ticks .* got 7 and 1 for windows of 6"):
        losses.local_alignment(a, u, lag_ticks=T + 1)


# The system


def _system(**settings):
    return AlignVsr(
        **{
            "width": D,
            "modalities": dict.fromkeys(("video", "current"), PARTS),
            "transformer": {"layers": 1, "heads": HEADS, "ffn": 6, "causal": True},
            "codebook": BANK,
            **settings,
        }
    )


def _inputs(seed=0):
    rng = np.random.default_rng(seed)
    return {
        m: jnp.asarray(rng.normal(size=(B, T, 1, n)), jnp.float32)
        for m, n in (("video", 6), ("current", 4))
    }


def _state(seed=0):
    rng = np.random.default_rng(seed)
    empty = _system().empty_model_state()["codebook"]
    counts = jnp.asarray(rng.uniform(0.5, 3.0, U), jnp.float32)
    sums = jnp.asarray(rng.normal(size=(U, D)), jnp.float32) * counts[:, None]
    return {"codebook": dataclasses.replace(empty, counts=counts, sums=sums)}


STATE = _state()
VARIABLES = fresh_parameters(_system(), _inputs(), STATE, MASK, train=False)
PARAMS = jax.tree.map(np.asarray, VARIABLES["params"])


def _features(inputs=None, state=STATE, variables=VARIABLES, mask=MASK):
    given = _inputs() if inputs is None else inputs
    return _system().apply(variables, given, state, mask, train=False)


def _ask(x, e, own):
    q, k = (
        np.einsum("...d,dhe->...he", y, own[n]["kernel"]) + own[n].get("bias", 0)
        for n, y in (("query", x), ("key", e))
    )
    scores = np.einsum("bthc,uhc->bhtu", q, k) / np.sqrt(D / HEADS)
    a = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    if "value" in own:
        v = np.einsum("ud,dhe->uhe", e, own["value"]["kernel"]) + own["value"]["bias"]
        out = np.einsum("bhtu,uhc->bthc", a, v)
        out = np.einsum("bthc,hcd->btd", out, own["out"]["kernel"])
        x = _norm(x + out + own["out"]["bias"], own["LayerNorm_0"])
    return x, a.mean(axis=1)


def _layer(x, own):
    part = own["MultiHeadDotProductAttention_0"]
    q, k, v = (
        np.einsum("bnd,dhe->bnhe", x, part[n]["kernel"]) + part[n]["bias"]
        for n in ("query", "key", "value")
    )
    scores = np.einsum("bnhe,bkhe->bhnk", q, k) / np.sqrt(D / HEADS)
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)  # causal
    a = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    out = np.einsum("bhnk,bkhe->bnhe", a, v)
    out = np.einsum("bnhe,hed->bnd", out, part["out"]["kernel"])
    x = _norm(x + out + part["out"]["bias"], own["LayerNorm_0"])
    inner = np.maximum(_dense(x, own["Dense_0"]), 0)
    return _norm(x + _dense(inner, own["Dense_1"]), own["LayerNorm_1"])


def test_the_video_asks_the_bank_as_the_equations_say():
    """Its ticks know their places, the current's do not; A is the mean of all."""
    e = np.asarray(STATE["codebook"].sums / STATE["codebook"].counts[:, None])
    x = {
        m: _dense(np.asarray(v)[:, :, 0], PARAMS[f"semantics_{m}"]["projection"])
        for m, v in _inputs().items()
    }
    x["video"] = x["video"] + np.asarray(sinusoids(T, D))
    z = {
        m: _layer(y, PARAMS[f"semantics_{m}"]["TransformerLayer_0"])
        for m, y in x.items()
    }
    y, first = _ask(z["video"], e, PARAMS["asks_0"])
    _, second = _ask(_layer(y, PARAMS["between_0"]), e, PARAMS["asks_1"])
    features = _features()
    np.testing.assert_allclose(
        features.encoded["video"], (first + second) / 2, atol=1e-5
    )
    np.testing.assert_allclose(features.semantic["current"], z["current"], atol=1e-4)
    units = np.square(z["current"][:, :, None] - e).sum(axis=-1).argmin(axis=-1)
    np.testing.assert_array_equal(features.codes["current"], units)
    np.testing.assert_array_equal(features.encoded["current"], np.eye(U)[units])
    likeliest = features.encoded["video"].argmax(axis=-1)
    np.testing.assert_array_equal(features.codes["video"], likeliest)


def test_the_order_of_the_units_means_nothing():
    order = np.array([3, 0, 4, 1, 2])
    turned = {"codebook": jax.tree.map(lambda x: x[order], STATE["codebook"])}
    one, other = _features().encoded, _features(state=turned).encoded
    for m in one:
        np.testing.assert_allclose(other[m], one[m][..., order], atol=1e-6)


@pytest.mark.parametrize("name", ["local_alignment", "global_alignment"])
def test_no_gradient_reaches_the_bank_or_the_current(name):
    def loss(variables, state):
        features = _features(variables=variables, state=state)
        own = getattr(losses, name)
        return own(features.encoded["video"], features.codes["current"]).sum()

    grads, bank = jax.grad(loss, argnums=(0, 1), allow_int=True)(VARIABLES, STATE)
    for part, own in grads["params"].items():
        moved = max(float(np.abs(x).max()) for x in jax.tree.leaves(own))
        assert (moved > 0) == (part != "semantics_current"), part
    assert not np.asarray(bank["codebook"].sums).any()
    assert not np.asarray(bank["codebook"].counts).any()


def test_the_current_alone_moves_the_units():
    features = _features()
    other = dataclasses.replace(
        features,
        semantic={**features.semantic, "video": features.semantic["video"] + 9.0},
        codes={**features.codes, "video": 0 * features.codes["video"]},
    )
    key = jax.random.key(0)
    found, _ = _system().update_model_state(STATE, features, key)
    same, _ = _system().update_model_state(STATE, other, key)
    jax.tree.map(np.testing.assert_array_equal, found, same)
    moved = quantizer.ema_update(
        STATE["codebook"],
        {"current": features.semantic["current"]},
        {"current": features.codes["current"]},
        decay=0.9,
        ema_mix={"current": {"current": 1.0}},
    )
    jax.tree.map(np.testing.assert_array_equal, found["codebook"], moved)
    # Two steps without use, and a unit is placed anew.
    rare = dataclasses.replace(features, codes={"current": 0 * features.codes["video"]})
    state = {"codebook": dataclasses.replace(moved, idle={"current": jnp.arange(U)})}
    _, logged = _system().update_model_state(state, rare, key)
    assert logged["revived_codes"] == U - 1


def test_a_table_by_which_the_video_moves_units_is_refused():
    both = {m: {m: 1.0} for m in ("video", "current")}
    system = _system(codebook=BANK | {"ema_mix": both})
    with pytest.raises(ValueError, match="ema_mix"):
        system.update_model_state(STATE, _features(), jax.random.key(0))


def test_units_are_placed_on_the_current():
    semantic = _features().semantic
    state = _system().init_model_state(jax.random.key(0), semantic)
    rows = np.asarray(semantic["current"]).reshape(-1, D)
    for vector in np.asarray(_system().code_vectors(state)):
        assert np.abs(rows - vector).max(axis=1).min() < 1e-6


def test_similarity_is_the_likelihood_of_units_above_their_frequency():
    encoded = _system().apply(
        VARIABLES, _inputs(), STATE, ("video", "current"), method="encode"
    )
    a, u = np.asarray(encoded["video"].features), np.asarray(encoded["current"].codes)
    f = np.asarray(STATE["codebook"].counts / STATE["codebook"].counts.sum())
    expected = np.array(
        [
            [
                np.mean([np.log(a[i, t, u[j, t]] + 1e-8) for t in range(T)])
                - np.log(f[u[j]]).mean()
                for j in range(B)
            ]
            for i in range(B)
        ]
    )
    video, current = (np.asarray(encoded[m].compared) for m in ("video", "current"))
    found = _system().similarity(video, current)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(_system().similarity(current, video), found.T)


def test_other_modalities_than_the_two_are_refused():
    system = _system(asked="sound")
    with pytest.raises(ValueError, match=r"model\.asking and model\.asked must have"):
        system.init(jax.random.key(0), _inputs(), STATE, MASK, train=False)


# The metrics


def _measured(a, u, mask=MASK, **settings):
    features = dataclasses.replace(
        _features(mask=mask),
        encoded={"video": jnp.asarray(a), "current": jax.nn.one_hot(u, U)},
        codes={"current": jnp.asarray(u), "video": jnp.asarray(a).argmax(axis=-1)},
    )
    term = LocalAlignment("video", "current", **settings)
    return term.apply({}, features, train=False)


@pytest.mark.parametrize("lag", [0, 2])
def test_metrics_are_what_they_say(lag):
    rng = np.random.default_rng(5)
    a, u = _weights(rng, B, T, U), rng.integers(0, U, (B, T))
    mask = np.array([True, True, False])
    loss, metrics = _measured(a, u, jnp.asarray(mask), lag_ticks=lag)
    np.testing.assert_allclose(metrics["local_uniform"], loss / (3 * np.log(U)))
    own = {name: np.asarray(value).tolist() for name, value in metrics.items()}
    likeliest = a.argmax(axis=-1)
    frequency = np.bincount(u[mask].ravel(), minlength=U) / (2 * T)
    near = {
        (b, t): {u[b, s] for s in range(t - lag - 1, t - lag + 2) if 0 <= s < T}
        for b in range(B)
        for t in range(T)
    }
    asked = [t for t in range(T) if near[0, t]]
    pool = likeliest[mask][:, asked].ravel()
    for b in range(B):
        share = np.mean([likeliest[b, t] in near[b, t] for t in asked])
        chance = np.mean([[v in near[b, t] for v in pool] for t in asked])
        assert own["unit_in_window"][b] == pytest.approx(share)
        assert own["unit_in_window_chance"][b] == pytest.approx(chance, rel=1e-5)
        mean = a[b].mean(axis=0)
        entropy = float(-(mean * np.log(mean)).sum())
        assert own["attention_entropy"][b] == pytest.approx(entropy, rel=1e-5)
        blind, _ = _measured(np.tile(frequency, (B, T, 1)), u, lag_ticks=lag)
        gain = (blind[b] - loss[b]) / 3
        assert own["unit_gain"][b] == pytest.approx(float(gain), abs=1e-5)


def test_names_that_are_no_modality_are_refused():
    term = LocalAlignment("video", "sound")
    with pytest.raises(ValueError, match="asking and asked may name only"):
        term.apply({}, _features(), train=False)


# Trained


def _ratio(shuffled):
    """Trains on a planted latent; returns the loss over that of the frequencies."""
    rng = np.random.default_rng(0)
    ticks, windows = 12, 16
    mixing = {"video": rng.normal(size=(6, 8)), "current": rng.normal(size=(6, 4))}
    system = _system(
        transformer={"layers": 1, "heads": HEADS, "ffn": 16, "dropout": 0.0},
        codebook=BANK | {"codes": 8, "idle_steps": 50, "initialisation": "kmeans"},
    )

    def batch():
        walk = rng.normal(size=(windows, ticks, 6)).cumsum(axis=1)
        seen = {
            m: (walk @ a + 0.1 * rng.normal(size=(windows, ticks, a.shape[1]))) / 3
            for m, a in mixing.items()
        }
        if shuffled:
            seen["current"] = rng.permutation(seen["current"])
        return {m: jnp.asarray(x[:, :, None], jnp.float32) for m, x in seen.items()}

    mask, first = jnp.ones(windows, bool), batch()
    params, state = initialise(
        system, *jax.random.split(jax.random.key(0)), first, mask, standardise=True
    )
    optimizer = optax.adam(3e-3)

    def features(params, state, inputs):
        return system.apply({"params": params}, inputs, state, mask, train=False)

    def loss(params, state, inputs):
        found = features(params, state, inputs)
        pair = found.encoded["video"], found.codes["current"]
        return (losses.local_alignment(*pair) + losses.global_alignment(*pair)).mean()

    @jax.jit
    def step(params, opt_state, state, inputs):
        gradients = jax.grad(loss)(params, state, inputs)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params)
    for _ in range(200):
        params, opt_state = step(params, opt_state, state, batch())
    own, blind = [], []
    for _ in range(8):
        found = features(params, state, batch())
        own.append(
            losses.local_alignment(found.encoded["video"], found.codes["current"])
        )
        share = np.bincount(np.asarray(found.codes["current"]).ravel(), minlength=8)
        share = share / share.sum()
        blind.append(-3 * (share * np.log(share + 1e-8)).sum())
    return float(np.mean(own) / np.mean(blind))


@pytest.mark.slow
def test_units_are_told_where_there_is_something_to_tell():
    assert _ratio(shuffled=False) <= 0.9
    assert _ratio(shuffled=True) >= 0.97
