"""LSTM layers: values from the equations, gradients as of a plain loop."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.models.lstm import GATES, LstmLayer, recurrence, run_side_by_side


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


class Stacks(nn.Module):
    """Two stacks of layers, of which the first runs twice."""

    width: int
    layers: int

    def setup(self) -> None:
        self.first = [LstmLayer(self.width) for _ in range(self.layers)]
        self.second = [LstmLayer(self.width) for _ in range(self.layers)]

    def __call__(self, a, b, c):
        stacks = [self.first, self.second, self.first]
        return run_side_by_side(stacks, [a, b, c])


def numpy_lstm(layer, x):
    """One sample and tick after the other, in float64."""
    layer = {name: np.asarray(value, np.float64) for name, value in layer.items()}
    batch, ticks, _ = x.shape
    width = layer["recurrent_kernel"].shape[0]
    h, c = np.zeros((2, batch, width))
    found = np.zeros((batch, ticks, width))

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    for t in range(ticks):
        gates = x[:, t] @ layer["input_kernel"] + h @ layer["recurrent_kernel"]
        i, f, g, o = np.split(gates + layer["bias"], GATES, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        found[:, t] = h
    return found


@pytest.mark.parametrize("layers", [1, 2])
def test_contexts_are_those_of_the_equations(layers):
    inputs = [normal(seed, 2, 6, 3) for seed in range(3)]
    model = Stacks(width=4, layers=layers)
    outputs, variables = model.init_with_output(jax.random.key(9), *inputs)
    params = variables["params"]
    for name, x, found in zip(
        ("first", "second", "first"), inputs, outputs, strict=True
    ):
        expected = np.asarray(x, np.float64)
        for layer in range(layers):
            expected = numpy_lstm(params[f"{name}_{layer}"], expected)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def plain_loop(gates, kernel):
    """The recurrence without its own gradient."""

    def tick(carry, own):
        h, c = carry
        i, f, g, o = jnp.split(own + jnp.einsum("nbe,neg->nbg", h, kernel), 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros((*gates.shape[1:-1], kernel.shape[1]))
    return jax.lax.scan(tick, (start, start), gates)[1]


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(
    ticks=st.integers(1, 5),
    runs=st.integers(1, 3),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_gradients_are_those_of_a_plain_loop(ticks, runs, batch, seed):
    width = 3
    gates = normal(seed, ticks, runs, batch, GATES * width)
    kernel = normal(seed + 1, runs, width, GATES * width)
    weights = normal(seed + 2, ticks, runs, batch, width)

    def loss(run):
        return lambda g, k: jnp.sum(jnp.sin(run(g, k)) * weights)

    found = jax.value_and_grad(loss(recurrence), argnums=(0, 1))(gates, kernel)
    expected = jax.value_and_grad(loss(plain_loop), argnums=(0, 1))(gates, kernel)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found,
        expected,
    )


def test_the_recurrent_kernel_starts_orthogonal_gate_by_gate():
    layer = LstmLayer(width=6)
    params = layer.init(jax.random.key(0), 3)["params"]
    assert params["input_kernel"].shape == (3, 24)
    assert not params["bias"].any()
    for gate in np.split(np.asarray(params["recurrent_kernel"]), GATES, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(6), atol=1e-5)
