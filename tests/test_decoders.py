from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fresh_parameters import fresh_parameters
from hypothesis import given, settings, strategies as st

from fmalign_jax.models import decoders, layers

B, T, D = 2, 3, 4


def random(*shape: int, seed: int = 0) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, jnp.float32)


TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 5, (B, T, 4)), jnp.int32)
CASES = {
    "maps": (
        decoders.ConvDecoder(features=(16, 32), residual=4),
        random(B, T, 3, 3, 8),
        random(B, T, 1, 7, 7, 5, seed=1),
        (B, T, 7, 7, 5),
    ),
    "frames": (
        decoders.FrameDecoder(target_size=8, features=64),
        random(B, T, 4, 4, 8),
        random(B, T, 2, 16, 32, 3, seed=1),
        (B, T, 2, 8, 8, 3),
    ),
    "samples": (
        decoders.DenseDecoder(features=6),
        random(B, T, 7),
        random(B, T, 4, 3, seed=1),
        (B, T, 4, 3),
    ),
    "tokens": (
        decoders.TokenDecoder(vocabulary=5, features=6),
        random(B, T, 7),
        TOKENS,
        (B, T, 5),
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


@each_case
def test_prediction_and_target_have_one_shape_and_fp32(case: str) -> None:
    decoder, specific, inputs, shape = CASES[case]
    for dtype in (jnp.float32, jnp.bfloat16):
        (prediction, target), variables = jax.eval_shape(
            decoder.clone(dtype=dtype).init_with_output,
            jax.random.key(0),
            random(B, T, D),
            specific.astype(dtype),
            inputs,
        )
        assert prediction.shape == target.shape == shape
        assert prediction.dtype == target.dtype == jnp.float32
        assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@each_case
def test_code_and_specific_features_get_the_gradient_and_the_target_does_not(
    case: str,
) -> None:
    decoder, specific, inputs, _ = CASES[case]
    quantized = random(B, T, D, seed=2)
    variables = fresh_parameters(decoder, quantized, specific, inputs)

    def error(quantized: Any, specific: Any) -> Any:
        prediction, target = decoder.apply(variables, quantized, specific, inputs)
        return jnp.mean((prediction - target) ** 2)

    for gradient in jax.jit(jax.grad(error, (0, 1)))(quantized, specific):
        # Every window and tick, through its own prediction.
        assert np.all(np.abs(gradient).reshape(B * T, -1).max(axis=1) > 0)
    if jnp.issubdtype(inputs.dtype, jnp.floating):
        to_inputs = jax.grad(
            lambda x: decoder.apply(variables, quantized, specific, x)[1].sum()
        )(inputs)
        assert not np.any(to_inputs)


@each_case
def test_a_decoder_can_fit_its_target(case: str) -> None:
    decoder, specific, inputs, _ = CASES[case]
    quantized = random(B, T, D, seed=2)
    optimizer = optax.adam(5e-3)

    def error(variables: Any) -> Any:
        """Of the prediction, in variances of the target."""
        prediction, target = decoder.apply(variables, quantized, specific, inputs)
        return jnp.mean((prediction - target) ** 2) / target.var()

    @jax.jit
    def fit(variables: Any) -> Any:
        def step(_: Any, carry: Any) -> Any:
            variables, state = carry
            updates, state = optimizer.update(jax.grad(error)(variables), state)
            return optax.apply_updates(variables, updates), state

        start = (variables, optimizer.init(variables))
        return error(jax.lax.fori_loop(0, 300, step, start)[0])

    assert fit(fresh_parameters(decoder, quantized, specific, inputs)) < 0.5


def target_of(case: str) -> np.ndarray:
    decoder, specific, inputs, _ = CASES[case]
    call = (random(B, T, D), specific, inputs)
    variables = fresh_parameters(decoder, *call)
    return np.asarray(jax.jit(lambda v: decoder.apply(v, *call)[1])(variables))


def test_targets_are_the_encoders_inputs() -> None:
    np.testing.assert_array_equal(target_of("maps"), CASES["maps"][2][:, :, 0])
    np.testing.assert_array_equal(target_of("samples"), CASES["samples"][2])
    frames = np.asarray(CASES["frames"][2])
    pooled = np.zeros((B, T, 2, 8, 8, 3))
    for i, j in np.ndindex(8, 8):
        block = frames[:, :, :, 2 * i : 2 * i + 2, 4 * j : 4 * j + 4]
        pooled[:, :, :, i, j] = block.mean(axis=(3, 4))
    np.testing.assert_allclose(target_of("frames"), pooled, atol=1e-6)
    tokens = np.asarray(TOKENS)
    shares = np.stack([(tokens == v).mean(axis=2) for v in range(5)], axis=-1)
    np.testing.assert_allclose(target_of("tokens"), shares, atol=1e-6)


@pytest.mark.parametrize(("overlap", "reach"), [(True, 4), (False, 2)])
def test_a_frame_is_decoded_where_its_features_lie(overlap: bool, reach: int) -> None:
    """Features in one corner of the map show in that corner of the frame."""
    decoder, _, inputs, _ = CASES["frames"]
    decoder = decoder.clone(overlap=overlap)
    specific, quantized = jnp.zeros((B, T, 4, 4, 8)), random(B, T, D)
    variables = fresh_parameters(decoder, quantized, specific, inputs)

    def predict(specific: Any) -> np.ndarray:
        return np.asarray(decoder.apply(variables, quantized, specific, inputs)[0])

    corner = specific.at[:, :, 0, 0].set(3.0)
    moved = np.abs(np.asarray(predict(corner)) - predict(specific))
    rows, columns = np.nonzero(moved.max(axis=(0, 1, 2, 5)))
    assert rows.size
    assert rows.max() == reach - 1
    assert columns.max() == reach - 1


@pytest.mark.parametrize(("size", "frame"), [(10, 20), (8, 20), (2, 16)])
def test_a_target_size_that_does_not_fit_is_refused(size: int, frame: int) -> None:
    with pytest.raises(ValueError, match=f"got target_size {size}, map .4, 4."):
        decoders.FrameDecoder(target_size=size).init(
            jax.random.key(0),
            random(B, T, D),
            random(B, T, 4, 4, 8),
            random(B, T, 1, frame, frame, 3),
        )


@given(
    side=st.integers(1, 4),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    channels=st.integers(1, 3),
)
@settings(deadline=None, max_examples=8)
def test_depth_to_space_undoes_space_to_depth(
    side: int, height: int, width: int, channels: int
) -> None:
    x = random(2, height * side, width * side, channels)
    deep = layers.space_to_depth(x, side)
    assert deep.shape == (2, height, width, side * side * channels)
    patch = np.asarray(x)[1, (height - 1) * side :, :side]
    np.testing.assert_array_equal(deep[1, height - 1, 0], patch.ravel())
    np.testing.assert_array_equal(layers.depth_to_space(deep, side), x)
