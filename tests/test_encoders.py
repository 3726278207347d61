from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fresh_parameters import fresh_parameters
from hypothesis import given, settings, strategies as st

from fmalign_jax.models import encoders, layers


def random(*shape: int, seed: int = 0) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, jnp.float32)


def start(module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Returns output and variables of a module with fresh parameters."""
    variables = fresh_parameters(module, *args, **kwargs)
    return jax.jit(lambda v: module.apply(v, *args, **kwargs))(variables), variables


def compiled(module: Any, **kwargs: Any) -> Any:
    """Returns the module's apply, compiled."""
    return jax.jit(lambda variables, x: module.apply(variables, x, **kwargs))


def run(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns the output of a fresh module."""
    return start(module, *args, **kwargs)[0]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def dense(params: Any, index: int, x: np.ndarray) -> np.ndarray:
    layer = params[f"Dense_{index}"]
    return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


# -- stems -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 1, 7, 7, 5), (2, 3, 1, 128)])
def test_feature_stem_passes_features_on(shape: tuple[int, ...]) -> None:
    x = random(*shape)
    np.testing.assert_array_equal(run(encoders.FeatureStem(), x), x[:, :, 0])


def test_feature_stem_refuses_several_samples_a_tick() -> None:
    with pytest.raises(ValueError, match="once a tick; got 2 samples a tick"):
        run(encoders.FeatureStem(), random(2, 3, 2, 4))


LEADS, TICKS, RATE, LAG_HEADS, KNOTS = 3, 4, 2, 2, 5


def lag_stem(**options: Any) -> encoders.LagStem:
    return encoders.LagStem(
        samples_per_tick=RATE,
        features=(4, 6),
        heads=LAG_HEADS,
        knots=KNOTS,
        **options,
    )


def range_of_leads(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Returns a range in order of time, and as a batch holds it."""
    ordered = random(2, LEADS * TICKS, RATE, 3, seed=seed)
    parts = [ordered[:, n * TICKS : (n + 1) * TICKS] for n in range(LEADS)]
    return ordered, jnp.concatenate(parts, axis=2)


def test_lag_stem_is_a_softmax_over_lags_of_the_sensor_stem() -> None:
    ordered, batch = range_of_leads()
    stem = lag_stem(spread=0.25)
    variables = jax.tree.map(np.asarray, fresh_parameters(stem, batch))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), variables["params"])
    found, sown = stem.apply({"params": params}, batch, mutable="intermediates")

    sensor = encoders.SensorStem((4, 6))
    tokens = np.asarray(sensor.apply({"params": params["SensorStem_0"]}, ordered))
    asked = tokens @ params["asked"]["kernel"] + params["asked"]["bias"]
    lags = np.arange((LEADS - 1) * TICKS + 1)
    knots = np.linspace(0, lags[-1], KNOTS)
    expected = np.zeros((2, TICKS, 6))
    weights = np.zeros((2, LAG_HEADS, TICKS, len(lags)))
    for b in range(2):
        for h in range(LAG_HEADS):
            profile = 10 * np.interp(lags, knots, params["profile"][h])
            profile -= ((lags - lags[-1] / 2) / (0.25 * TICKS)) ** 2 / 2
            for t in range(TICKS):
                weights[b, h, t] = softmax(profile + asked[b, t + lags, h])
                part = slice(h * 3, h * 3 + 3)
                expected[b, t, part] = weights[b, h, t] @ tokens[b, t + lags, part]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    (seen,) = sown["intermediates"]["lag_weights"]
    np.testing.assert_allclose(seen, weights.mean(axis=2), atol=1e-5)


def test_lag_stem_starts_around_the_middle_and_may_take_the_mean() -> None:
    ordered, batch = range_of_leads()
    variables = jax.jit(lag_stem().init)(jax.random.key(0), batch)
    sensor = {"params": variables["params"]["SensorStem_0"]}
    tokens = np.asarray(encoders.SensorStem((4, 6)).apply(sensor, ordered))
    lags = np.arange((LEADS - 1) * TICKS + 1)
    expected = np.stack([tokens[:, t + lags].mean(axis=1) for t in range(TICKS)], 1)
    narrow = lag_stem(spread=0.05).apply(variables, batch)
    middle = tokens[:, TICKS * (LEADS - 1) // 2 :][:, :TICKS]
    np.testing.assert_allclose(narrow, middle, atol=1e-4)
    moved = jax.tree.map(lambda x: x + 0.5, variables["params"])
    moved = {**moved, "SensorStem_0": variables["params"]["SensorStem_0"]}
    moved["profile"] = moved["profile"] * jnp.arange(KNOTS)
    mean = lag_stem(weights="mean").apply({"params": moved}, batch)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    assert np.abs(lag_stem().apply({"params": moved}, batch) - expected).max() > 0.01


def test_lag_stem_reads_one_lead_as_a_sensor_stem() -> None:
    x = random(2, TICKS, RATE, 3)
    found, variables = start(lag_stem(), x)
    sensor = {"params": variables["params"]["SensorStem_0"]}
    expected = encoders.SensorStem((4, 6)).apply(sensor, x)
    np.testing.assert_array_equal(found, expected)
    # The search for the lead reads runs of both kinds with the same parameters.
    _, of_range = start(lag_stem(), range_of_leads()[1])
    shapes = [jax.tree.map(jnp.shape, v["params"]) for v in (variables, of_range)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("options", [{"weights": "max"}, {"heads": 4}])
def test_lag_stem_refuses_what_it_does_not_know(options: dict[str, Any]) -> None:
    given = {"samples_per_tick": RATE, "features": (4, 6), **options}
    with pytest.raises(ValueError, match="LagStem takes weights 'soft' or 'mean'"):
        run(encoders.LagStem(**given), range_of_leads()[1])


@pytest.mark.parametrize("norm", ["group", "none"])
def test_frame_stem_gives_maps(norm: str) -> None:
    stem = encoders.FrameStem(features=(8, 8), strides=(4, 2), norm=norm)
    assert run(stem, random(2, 3, 2, 16, 24, 3)).shape == (2, 3, 2, 3, 8)


@pytest.mark.parametrize(("channels", "groups"), [(12, 4), (16, 8), (5, 1)])
def test_frame_stem_normalises_any_number_of_channels(channels, groups) -> None:
    stem = encoders.FrameStem((channels,), (2,))
    frames = random(1, 1, 1, 4, 4, 3)
    _, captured = stem.apply(
        stem.init(jax.random.key(0), frames),
        frames,
        capture_intermediates=lambda module, _: type(module).__name__ == "GroupNorm",
        mutable=["intermediates"],
    )
    out = captured["intermediates"]["GroupNorm_0"]["__call__"][0]
    means = np.asarray(out).reshape(2, 2, groups, -1).mean(axis=(0, 1, 3))
    np.testing.assert_allclose(means, 0, atol=1e-5)


def test_frame_stem_default_leaves_room_for_two_valid_convolutions() -> None:
    frames = jax.ShapeDtypeStruct((2, 3, 1, 64, 64, 3), jnp.float32)
    stem = encoders.FrameStem()
    out = jax.eval_shape(
        lambda x: stem.init_with_output(jax.random.key(0), x)[0], frames
    )
    assert out.shape == (2, 3, 8, 8, 128)


def test_frame_stem_first_layer_is_a_strided_convolution() -> None:
    x = random(1, 1, 1, 8, 12, 3)
    stem = encoders.FrameStem(features=(5,), strides=(4,), norm="none")
    params = fresh_parameters(stem, x)["params"]
    kernel = np.asarray(params["Dense_0"]["kernel"]).reshape(4, 4, 3, 5)
    expected = np.tile(np.asarray(params["Dense_0"]["bias"]), (2, 3, 1))
    for i, j in np.ndindex(2, 3):
        patch = np.asarray(x)[0, 0, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        expected[i, j] += np.einsum("hwc,hwcf->f", patch, kernel)
    out = compiled(stem)({"params": params}, x)
    np.testing.assert_allclose(out[0, 0], np.maximum(expected, 0), atol=1e-5)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_stem_without_overlap_sees_each_patch_by_itself(overlap: bool) -> None:
    x = random(1, 1, 1, 16, 16, 3)
    stem = encoders.FrameStem(
        features=(6, 8), strides=(4, 2), norm="none", overlap=overlap
    )
    params = fresh_parameters(stem, x)["params"]
    encode = compiled(stem)
    out = np.asarray(encode({"params": params}, x))[0, 0]
    changed = encode({"params": params}, x.at[:, :, :, 8:, :8].add(1.0))
    moved = np.abs(np.asarray(changed)[0, 0] - out).max(axis=-1) > 1e-3
    # Of 2x2 places the lower left is that of the changed pixels.
    assert moved[1, 0]
    assert moved.sum() == 1 or overlap
    assert moved.sum() > 1 or not overlap
    if overlap:
        return
    first = np.asarray(x).reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4)
    first = np.maximum(dense(params, 0, first.reshape(4, 4, 48)), 0)
    second = first.reshape(2, 2, 2, 2, 6).transpose(0, 2, 1, 3, 4).reshape(2, 2, 24)
    expected = np.maximum(dense(params, 1, second), 0)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_frame_stem_ticks_see_one_another_only_through_differences() -> None:
    x = random(2, 4, 1, 8, 8, 3)
    changed = x.at[:, 1].add(1.0)
    for differences, touched in ((False, [1]), (True, [1, 2])):
        stem = encoders.FrameStem(
            features=(4, 4), strides=(4, 1), differences=differences
        )
        variables = fresh_parameters(stem, x)
        encode = compiled(stem)
        moved = np.abs(np.asarray(encode(variables, x)) - encode(variables, changed))
        assert list(np.flatnonzero(moved.max(axis=(0, 2, 3, 4)))) == touched


def test_frame_differences_are_those_of_neighbouring_ticks() -> None:
    x = random(1, 3, 1, 4, 4, 1)
    stem = encoders.FrameStem(
        features=(9,), strides=(4,), norm="none", differences=True
    )
    params = fresh_parameters(stem, x)["params"]
    kernel = np.asarray(params["Dense_0"]["kernel"]).reshape(16, 2, 9)
    frames = np.asarray(x).reshape(3, 16)
    change = np.concatenate([np.zeros((1, 16)), frames[1:] - frames[:-1]])
    expected = frames @ kernel[:, 0] + change @ kernel[:, 1]
    expected += np.asarray(params["Dense_0"]["bias"])
    out = compiled(stem)({"params": params}, x)
    np.testing.assert_allclose(out[0, :, 0, 0], np.maximum(expected, 0), atol=1e-5)
    assert np.all(np.any(expected > 0, axis=1))  # the ReLU hides no tick


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strides": (5, 2, 1)}, "patches of strides.0. pixels; got frames of 16x16"),
        (
            {"strides": (4, 2, 4), "overlap": False},
            "patches of the product of all strides pixels; got frames of 16x16 and 32",
        ),
        ({"strides": (4, 2)}, "one stride a layer"),
        ({"norm": "batch"}, "'group' or 'none'; got 'batch'"),
    ],
)
def test_frame_stem_refuses_what_does_not_fit(kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(encoders.FrameStem(**kwargs), random(1, 2, 1, 16, 16, 3))


@given(ticks=st.integers(1, 6), samples=st.integers(1, 9), channels=st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_sensor_stem_gives_one_token_a_tick(
    ticks: int, samples: int, channels: int
) -> None:
    stem = encoders.SensorStem(features=(4, 6))
    out, _ = jax.eval_shape(
        stem.init_with_output, jax.random.key(0), random(2, ticks, samples, channels)
    )
    assert out.shape == (2, ticks, 6)


def test_sensor_stem_takes_a_single_sample() -> None:
    assert np.all(np.isfinite(run(encoders.SensorStem(), random(2, 1, 1, 3))))


def level_and_amplitude(phase_layer_norm: bool) -> tuple[float, float]:
    """How far tokens move when all phases shift, or swell, together."""
    x = random(2, 6, 4, 3)
    stem = encoders.SensorStem(phase_layer_norm=phase_layer_norm)
    variables = fresh_parameters(stem, x)
    encode = compiled(stem)
    base = np.asarray(encode(variables, x))
    size = np.abs(base).mean()
    moved = [np.abs(encode(variables, y) - base).mean() for y in (x + 2.0, 3.0 * x)]
    return moved[0] / size, moved[1] / size


def test_sensor_stem_keeps_level_and_amplitude() -> None:
    level, amplitude = level_and_amplitude(phase_layer_norm=False)
    assert level > 0.3
    assert amplitude > 0.3


def test_phase_layer_norm_throws_level_and_amplitude_away() -> None:
    level, amplitude = level_and_amplitude(phase_layer_norm=True)
    assert level < 1e-3
    assert amplitude < 1e-2


def test_sensor_stem_sees_no_jump_at_the_ends_of_a_steady_window() -> None:
    x = jnp.full((1, 6, 3, 2), 2.5)
    out = np.asarray(run(encoders.SensorStem(features=(8, 8)), x))
    np.testing.assert_allclose(out, np.broadcast_to(out[:, :1], out.shape), atol=1e-5)
    assert np.any(out > 0)


def test_sensor_tokens_follow_their_tick() -> None:
    x = random(1, 12, 4, 2)
    stem = encoders.SensorStem(features=(6, 6), kernel=3)
    variables = fresh_parameters(stem, x)
    encode = compiled(stem)
    base, changed = (np.asarray(encode(variables, y)) for y in (x, x.at[:, 6].add(5.0)))
    moved = np.abs(base - changed).max(axis=(0, 2))
    assert list(np.flatnonzero(moved > 1e-6)) == [5, 6, 7]


def test_a_sensor_token_is_centred_on_its_tick() -> None:
    """Or leads, which are between centres, would be off by part of a tick."""
    ticks, samples = 5, 6
    stem = encoders.SensorStem(features=(4, 4), kernel=3)
    x = jnp.abs(random(1, ticks, samples, 2))
    params = jax.tree.map(
        jnp.abs, fresh_parameters(stem, x)
    )  # positive: no ReLU is silent
    reach = jax.grad(lambda x: stem.apply(params, x)[0, 2].sum())(x)
    touched = np.flatnonzero(np.any(reach.reshape(-1, 2), axis=1))
    assert touched.mean() == 2 * samples + (samples - 1) / 2


def test_token_stem_is_the_mean_embedding() -> None:
    tokens = jnp.asarray([[[0, 2], [1, 1]]], jnp.int32)
    stem = encoders.TokenStem(vocabulary=3, features=4)
    variables = stem.init(jax.random.key(0), tokens)
    table = np.asarray(variables["params"]["Embed_0"]["embedding"])
    expected = np.stack([(table[0] + table[2]) / 2, table[1]])[None]
    np.testing.assert_allclose(stem.apply(variables, tokens), expected, atol=1e-6)


# -- pool ------------------------------------------------------------------------------


def pool_and_weights(x: jax.Array) -> tuple[Any, np.ndarray, np.ndarray]:
    pool = encoders.AttentivePool(width=6, reduction=2)
    variables = fresh_parameters(pool, x)
    params = jax.tree.map(lambda p: 3.0 * p, variables["params"])
    out, state = pool.apply({"params": params}, x, mutable=["intermediates"])
    (attention,) = state["intermediates"]["attention"]
    return params, np.asarray(out), np.asarray(attention)


def test_attentive_pool_by_hand() -> None:
    x = random(2, 3, 4, 5, 8)
    params, out, attention = pool_and_weights(x)
    flat = np.asarray(x).reshape(2, 3, 20, 8)
    squeezed = np.maximum(dense(params, 0, flat.mean(axis=2)), 0)
    gate = 1 / (1 + np.exp(-dense(params, 1, squeezed)))
    flat = flat * (1 + gate)[:, :, None]
    pooled = np.maximum(dense(params, 2, flat.mean(axis=2)), 0)
    places = np.maximum(dense(params, 3, flat), 0)
    scores = np.tanh(dense(params, 4, pooled[:, :, None] * places))[..., 0]
    np.testing.assert_allclose(attention, softmax(scores), atol=1e-5)
    expected = (softmax(scores)[..., None] * flat).sum(axis=2)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    assert params["Dense_0"]["kernel"].shape == (8, 4)


def test_attention_weighs_positions_and_is_no_plain_sum() -> None:
    x = random(2, 3, 4, 5, 8)
    _, out, attention = pool_and_weights(x)
    assert attention.shape == (2, 3, 20)
    np.testing.assert_allclose(attention.sum(axis=-1), 1.0, rtol=1e-5)
    assert attention.std(axis=-1).min() > 1e-3
    total = np.asarray(x).sum(axis=(2, 3))
    assert np.abs(out).mean() < 0.5 * np.abs(total).mean()


def test_attention_over_one_position_is_that_position() -> None:
    x = random(2, 3, 1, 1, 8)
    params, out, attention = pool_and_weights(x)
    np.testing.assert_allclose(attention, 1.0)
    flat = np.asarray(x)[:, :, 0, 0]
    gate = 1 / (1 + np.exp(-dense(params, 1, np.maximum(dense(params, 0, flat), 0))))
    np.testing.assert_allclose(out, flat * (1 + gate), atol=1e-5)


def test_attentive_pool_does_not_care_where_things_are() -> None:
    x = random(1, 2, 3, 3, 4)
    pool = encoders.AttentivePool(width=5)
    variables = fresh_parameters(pool, x)
    moved = x.reshape(1, 2, 9, 4)[:, :, ::-1].reshape(x.shape)
    np.testing.assert_allclose(
        pool.apply(variables, x), pool.apply(variables, moved), atol=1e-5
    )


# -- semantic --------------------------------------------------------------------------


def layer_norm(params: Any, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return x * np.asarray(params["scale"]) + np.asarray(params["bias"])


def numpy_transformer_layer(params: Any, x: np.ndarray) -> np.ndarray:
    """A post-norm layer, from the equations."""
    attention = jax.tree.map(np.asarray, params["MultiHeadDotProductAttention_0"])
    q, k, v = (
        np.einsum("btd,dhe->bthe", x, attention[part]["kernel"])
        + attention[part]["bias"]
        for part in ("query", "key", "value")
    )
    weights = softmax(np.einsum("bthe,bshe->bhts", q, k) / np.sqrt(q.shape[-1]))
    mixed = np.einsum("bhts,bshe->bthe", weights, v)
    out = np.einsum("bthe,hed->btd", mixed, attention["out"]["kernel"])
    x = layer_norm(params["LayerNorm_0"], x + out + attention["out"]["bias"])
    inner = np.maximum(dense(params, 0, x), 0)
    return layer_norm(params["LayerNorm_1"], x + dense(params, 1, inner))


def test_semantic_encoder_by_hand() -> None:
    x = random(2, 5, 6)
    encoder = encoders.SemanticEncoder(width=8, heads=2, ffn=12)
    params = fresh_parameters(encoder, x, train=False)["params"]
    projection = jax.tree.map(np.asarray, params[encoders.PROJECTION])
    expected = np.asarray(x) @ projection["kernel"] + projection["bias"]
    for i in range(2):
        expected = numpy_transformer_layer(params[f"TransformerLayer_{i}"], expected)
    out = compiled(encoder, train=False)({"params": params}, x)
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("positions", "free"), [("none", True), ("sinusoidal", False), ("learned", False)]
)
def test_only_without_positions_the_order_of_ticks_does_not_matter(
    positions: str, free: bool
) -> None:
    x = random(2, 5, 6)
    encoder = encoders.SemanticEncoder(
        width=8, layers=1, heads=2, ffn=12, positions=positions
    )
    variables = fresh_parameters(encoder, x, train=False)
    encode = compiled(encoder, train=False)
    ahead = np.asarray(encode(variables, x))
    back = np.asarray(encode(variables, jnp.asarray(np.asarray(x)[:, ::-1])))[:, ::-1]
    assert np.allclose(ahead, back, atol=1e-4) == free
    assert ("positions" in variables["params"]) == (positions == "learned")


def test_unknown_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="'learned'; got 'rotary'"):
        run(
            encoders.SemanticEncoder(width=8, positions="rotary"),
            random(2, 5, 6),
            train=False,
        )


@given(ticks=st.integers(1, 20), width=st.integers(1, 9))
@settings(deadline=None, max_examples=20)
def test_sinusoids(ticks: int, width: int) -> None:
    out = np.asarray(layers.sinusoids(ticks, width))
    pairs = -(-width // 2)
    for t, d in np.ndindex(ticks, width):
        angle = t / 10000 ** ((d % pairs) / pairs)
        wave = np.sin(angle) if d < pairs else np.cos(angle)
        np.testing.assert_allclose(out[t, d], wave, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_encoder_sees_no_later_tick(causal: bool) -> None:
    x = np.array(random(2, 6, 5))
    encoder = encoders.SemanticEncoder(width=8, heads=2, ffn=12, causal=causal)
    variables = fresh_parameters(encoder, jnp.asarray(x), train=False)
    encode = compiled(encoder, train=False)
    before = np.asarray(encode(variables, jnp.asarray(x)))
    x[:, 3] += 1.0
    changed = np.abs(np.asarray(encode(variables, jnp.asarray(x))) - before)
    assert changed[:, 3:].max(axis=(0, 2)).min() > 1e-3
    assert (changed[:, :3].max() < 1e-6) == causal


def test_semantic_dropout_acts_in_training_only() -> None:
    x = jnp.tile(random(1, 5, 6), (2, 1, 1))
    encoder = encoders.SemanticEncoder(width=8, layers=1, heads=2, ffn=12, dropout=0.5)
    variables = fresh_parameters(encoder, x, train=False)
    still = np.asarray(compiled(encoder, train=False)(variables, x))
    train = jax.jit(
        lambda key: encoder.apply(variables, x, train=True, rngs={"dropout": key})
    )
    first, second = (np.asarray(train(jax.random.key(k))) for k in (0, 1))
    assert np.abs(first - second).max() > 0.1
    assert np.abs(first - still).max() > 0.1
    assert np.abs(first[0] - first[1]).max() > 0.1  # each window has its own mask
    np.testing.assert_allclose(still[0], still[1], atol=1e-6)


# -- specific --------------------------------------------------------------------------


def test_conv_specific_shapes_and_summary() -> None:
    x = random(2, 3, 7, 7, 6)
    module = encoders.ConvSpecific(features=(8, 10), residual=4)
    (out, summary), variables = start(module, x)
    assert out.shape == (2, 3, 3, 3, 10)
    assert summary.shape == (2, 3, 6)
    params = variables["params"]
    hidden = np.maximum(dense(params, 0, np.asarray(out).mean(axis=(2, 3))), 0)
    np.testing.assert_allclose(summary, dense(params, 1, hidden), atol=1e-5)
    narrow = jax.eval_shape(lambda: run(module.clone(summary=5), x))
    assert narrow[1].shape == (2, 3, 5)


def test_conv_specific_refuses_maps_that_vanish() -> None:
    with pytest.raises(ValueError, match=r"larger than the 4 rows .*got 4x8"):
        run(encoders.ConvSpecific(features=(8, 10)), random(2, 3, 4, 8, 6))


def test_residual_block_adds_to_its_input() -> None:
    x = random(2, 4, 4, 3)
    block = layers.ResidualBlock(5)
    variables = fresh_parameters(block, x)
    assert np.any(block.apply(variables, x) != x)
    dead = jax.tree.map(jnp.zeros_like, variables)
    np.testing.assert_array_equal(block.apply(dead, x), x)


def test_patch_specific_by_hand() -> None:
    x = random(2, 3, 4, 6, 5)
    module = encoders.PatchSpecific(features=(8, 7), side=2, summary=3)
    (out, summary), variables = start(module, x)
    params = variables["params"]
    patches = np.asarray(x).reshape(2, 3, 2, 2, 3, 2, 5).transpose(0, 1, 2, 4, 3, 5, 6)
    hidden = np.maximum(dense(params, 0, patches.reshape(2, 3, 2, 3, 20)), 0)
    np.testing.assert_allclose(out, dense(params, 1, hidden), atol=1e-5)
    pooled = np.maximum(dense(params, 2, np.asarray(out).mean(axis=(2, 3))), 0)
    np.testing.assert_allclose(summary, dense(params, 3, pooled), atol=1e-5)
    as_the_map = jax.eval_shape(lambda: run(module.clone(summary=None), x))
    assert as_the_map[1].shape == (2, 3, 5)


def test_patch_specific_refuses_maps_that_do_not_divide() -> None:
    with pytest.raises(
        ValueError, match=r"divide into patches .*got maps of 4x6 and 4"
    ):
        run(encoders.PatchSpecific(side=4), random(1, 2, 4, 6, 3))


def test_dense_specific_is_its_own_summary() -> None:
    x = random(2, 3, 6)
    module = encoders.DenseSpecific(features=4)
    (out, summary), variables = start(module, x)
    expected = np.maximum(dense(variables["params"], 0, np.asarray(x)), 0)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_array_equal(out, summary)


# -- number format ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "shape", "kwargs", "output"),
    [
        (encoders.FeatureStem, (2, 3, 1, 5), {}, jnp.bfloat16),
        (encoders.FrameStem, (2, 3, 1, 16, 16, 3), {}, jnp.bfloat16),
        (encoders.SensorStem, (2, 3, 4, 3), {}, jnp.bfloat16),
        (encoders.AttentivePool, (2, 3, 4, 4, 8), {}, jnp.bfloat16),
        (encoders.SemanticEncoder, (2, 3, 8), {"width": 8}, jnp.float32),
        (encoders.DenseSpecific, (2, 3, 8), {}, (jnp.bfloat16, jnp.float32)),
        (
            encoders.ConvSpecific,
            (2, 3, 5, 5, 8),
            {"features": (8, 8), "residual": 4},
            (jnp.bfloat16, jnp.float32),
        ),
        (encoders.PatchSpecific, (2, 3, 4, 4, 8), {}, (jnp.bfloat16, jnp.float32)),
    ],
)
def test_bfloat16_computes_with_fp32_parameters(
    module: Any, shape: tuple[int, ...], kwargs: Any, output: Any
) -> None:
    call = {"train": False} if module is encoders.SemanticEncoder else {}
    instance = module(dtype=jnp.bfloat16, **kwargs)
    out, variables = jax.eval_shape(
        lambda x: instance.init_with_output(jax.random.key(0), x, **call),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )
    assert jax.tree.map(lambda x: x.dtype, out) == jax.tree.map(jnp.dtype, output)
    for leaf in jax.tree.leaves(variables.get("params", {})):
        assert leaf.dtype == jnp.float32


def test_flatten_pool_by_hand() -> None:
    x = random(2, 3, 2, 4, 5)
    pool = encoders.FlattenPool(features=6)
    params = fresh_parameters(pool, x)["params"]
    expected = dense(params, 0, np.asarray(x).reshape(2, 3, 40))
    np.testing.assert_allclose(
        compiled(pool)({"params": params}, x), expected, atol=1e-4
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_largest_is_the_maximum_with_one_place_for_its_gradient(axis):
    x = np.random.default_rng(0).integers(-3, 3, (4, 5, 6)).astype(np.float32)
    found, back = jax.vjp(lambda v: layers.largest(v, axis), jnp.asarray(x))
    np.testing.assert_array_equal(found, x.max(axis=axis))
    expected = np.zeros_like(x)
    first = np.expand_dims(x.argmax(axis=axis), axis)
    np.put_along_axis(expected, first, 1.0, axis)
    np.testing.assert_array_equal(back(jnp.ones_like(found))[0], expected)


def test_the_pool_by_maxima_keeps_a_small_spot():
    maps = np.random.default_rng(1).normal(size=(2, 3, 4, 4, 5)).astype(np.float32)
    maps[1, 2, 3, 0] = 9.0
    pooled = encoders.MaxPool().apply({}, jnp.asarray(maps))
    np.testing.assert_array_equal(pooled, maps.max(axis=(2, 3)))
