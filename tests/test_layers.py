"""Convolutions written as matrix products: values and gradients of XLA's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.models import layers


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def own(lhs, rhs, strides, padding):
    numbers = jax.lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, ("NHWC", "HWIO", "NHWC")
    )
    return jax.lax.conv_general_dilated(
        lhs, rhs, strides, padding, dimension_numbers=numbers
    )


def check_same(form, lhs, rhs, strides, padding, expected=own):
    """Values and both gradients of `form` are those of XLA's convolution."""

    def both(convolve):
        y, back = jax.vjp(lambda x, w: convolve(x, w, strides, padding), lhs, rhs)
        return y, back(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        both(form),
        both(expected),
    )


sizes = st.tuples(st.integers(3, 6), st.integers(3, 6))


@settings(deadline=None, max_examples=20)
@given(
    space=sizes,
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 2)]),
    strides=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    padding=st.sampled_from(["SAME", "VALID", [(2, 1), (0, 2)]]),
)
def test_product_of_patches_is_the_convolution(space, kernel, strides, padding):
    lhs, rhs = normal(0, 2, *space, 3), normal(1, *kernel, 3, 4)
    check_same(layers.convolve_by_product, lhs, rhs, strides, padding)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(space=sizes)
def test_widening_is_a_convolution_over_zeros(space):
    x = normal(0, 2, *space, 3)
    layer = layers.WideningConv(features=4)
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]

    def found(x, kernel, *_):
        return layer.apply({"params": variables["params"] | {"kernel": kernel}}, x)

    def expected(x, kernel, *_):
        flipped = jnp.moveaxis(kernel[:, ::-1, ::-1], 0, 2)
        return own(x, flipped, (1, 1), [(2, 2), (2, 2)])

    check_same(found, x, kernel, (1, 1), "SAME", expected)


def test_widening_sums_its_shares_in_fp32():
    x = jnp.ones((1, 3, 3, 1), jnp.bfloat16)
    layer = layers.WideningConv(features=1, dtype=jnp.bfloat16)
    kernel = jnp.array([256.0, *[0.75] * 8]).reshape(1, 3, 3, 1)
    y = layer.apply({"params": {"kernel": kernel, "bias": jnp.zeros(1)}}, x)
    assert y.dtype == jnp.bfloat16
    # One after the other in bfloat16, 0.75 would be lost beside 256 each time.
    assert y[0, 2, 2, 0] == 262.0


@pytest.mark.parametrize(
    ("backend", "features", "padding", "product"),
    [
        ("cpu", 8, "SAME", True),
        ("gpu", 8, "VALID", False),
        ("gpu", 512, "SAME", False),
        ("gpu", 512, "VALID", True),  # its gradient would multiply zeros
    ],
)
def test_where_a_convolution_is_a_product(
    monkeypatch, backend, features, padding, product
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    layer = layers.conv(features, (3, 3), padding=padding)
    assert (layer.conv_general_dilated is not None) == product
