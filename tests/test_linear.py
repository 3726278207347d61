"""Kernels that come from one draw: their spread, that none is given out twice."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import system_cases
import tiny

from fmalign_jax.models import linear
from fmalign_jax.models.layers import TransformerLayer
from fmalign_jax.training import state as train_state

KEY = jax.random.key(3)


class Layers(nn.Module):
    """One of each layer, with enough numbers for a spread to be measured."""

    @nn.compact
    def __call__(self, x):
        x = linear.Dense(300, name="dense")(x)
        x = linear.DenseGeneral((4, 50), name="general")(x)
        x = linear.DenseGeneral(64, axis=(-2, -1), name="joined")(x)
        x = linear.MultiHeadDotProductAttention(4, name="attention")(x)
        return linear.Conv(80, (5,), name="conv")(x)


@pytest.fixture(scope="module")
def kernels():
    made = linear.init(Layers(), KEY, jnp.zeros((2, 3, 40)))
    leaves = jax.tree_util.tree_leaves_with_path(made["params"])
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
        if path[-1].key == "kernel"
    }


@pytest.mark.parametrize(
    ("name", "fan_in"),
    [
        ("dense", 40),
        ("general", 300),
        ("joined", 200),
        ("attention/query", 64),
        ("attention/out", 64),
        ("conv", 5 * 64),
    ],
)
def test_a_kernel_has_the_variance_of_its_fan_in(kernels, name, fan_in):
    kernel = kernels[f"{name}/kernel"].ravel()
    # The spread of a measured deviation of n such numbers is below 1 / sqrt(2 n).
    assert kernel.std() * np.sqrt(fan_in) == pytest.approx(
        1.0, abs=4 / np.sqrt(2 * kernel.size)
    )
    assert abs(kernel.mean()) * np.sqrt(fan_in * kernel.size) < 4
    # Cut at two deviations of the normal distribution that is cut.
    largest = np.abs(kernel).max() * np.sqrt(fan_in)
    assert 0.95 * 2 / 0.8796 < largest <= 2 / 0.8796 + 1e-3


def test_no_number_is_given_to_two_kernels(kernels):
    # Whatever the fan-in: a part handed out twice would be proportional to itself.
    rows = [kernel.ravel()[:500] for kernel in kernels.values()]
    close = np.abs(np.corrcoef(rows)) - np.eye(len(rows))
    assert close.max() < 0.25


def test_a_kernel_that_fits_no_block_draws_for_itself(
    monkeypatch,
):
    monkeypatch.setattr(linear, "_BLOCKS", (32, 64))

    class Rows(nn.Module):
        @nn.compact
        def __call__(self, x):
            return [linear.Dense(4, name=f"layer_{i}")(x) for i in range(6)]

    def kernels():
        made = linear.init(Rows(), KEY, jnp.zeros((1, 5)))["params"]  # 20 numbers each
        return [np.asarray(made[f"layer_{i}"]["kernel"]) for i in range(6)]

    found, alone = kernels(), Rows().init(jax.random.split(KEY)[1], jnp.zeros((1, 5)))
    for i, kernel in enumerate(found):
        own = np.array_equal(kernel, alone["params"][f"layer_{i}"]["kernel"])
        assert own == (i > 3)  # one in the first block, three in the second


def test_another_key_gives_other_numbers_and_the_same_key_the_same():
    def first(key):
        made = linear.init(linear.Dense(8), key, jnp.zeros((1, 4)))
        return np.asarray(made["params"]["kernel"])

    np.testing.assert_array_equal(first(KEY), first(KEY))
    assert np.abs(first(KEY) - first(jax.random.key(4))).min() > 0


def test_outside_it_is_the_layer_of_flax():
    x = jnp.zeros((1, 4))
    for own, theirs in (
        (linear.Dense(8), nn.Dense(8)),
        (linear.Conv(8, (1,)), nn.Conv(8, (1,))),
    ):
        jax.tree.map(
            np.testing.assert_array_equal, own.init(KEY, x), theirs.init(KEY, x)
        )


def test_a_module_without_kernels_and_one_that_fails():
    assert (
        linear.init(nn.LayerNorm(), KEY, jnp.ones((1, 4)))["params"]["scale"].sum() == 4
    )
    with pytest.raises(AssertionError, match="heads"):
        linear.init(TransformerLayer(3, 8, 0.0), KEY, jnp.zeros((1, 4, 8)), train=False)
    # Nothing of it is left for what comes after.
    test_outside_it_is_the_layer_of_flax()


def test_a_kernel_that_is_read_again_is_the_same():
    """Flax asks for its numbers once more, to compare shapes."""

    class Twice(nn.Module):
        def setup(self):
            self.layer = linear.Dense(4)
            self.last = linear.Dense(4)

        def __call__(self, x):
            return self.last(self.layer(self.layer(x)))

    x = jnp.ones((1, 4))
    variables = linear.init(Twice(), KEY, x)
    first, last = (variables["params"][n]["kernel"] for n in ("layer", "last"))
    np.testing.assert_allclose(
        Twice().apply(variables, x), x @ first @ first @ last, rtol=1e-6
    )
    assert np.abs(first - last).min() > 0


def _equations(jaxpr):
    """Yields the equations of a program and of what it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


DRAWS = dict.fromkeys(system_cases.SYSTEMS, 2) | {
    "alignvsr": 3,
    "cmg": 19,
    "fcid": 19,
    "fused_control": 19,
    "hdcid": 36,
    "indexed": 19,
    "micu": 3,
    "onellm": 6,
    "qformer": 4,
}
"""By system: one of the model and one of its terms; with codes their places; with
Cross-CPC four for the orthogonal matrices of each LSTM layer; learned vectors."""


@pytest.mark.parametrize("name", sorted(system_cases.SYSTEMS))
def test_no_layer_of_ours_draws_its_own_kernel(monkeypatch, name):
    monkeypatch.setattr(linear, "_BLOCKS", (2**20,))
    config = system_cases.make_config(name)
    trainer = train_state.make_trainer(config, steps_per_epoch=10, steps=100)
    first = functools.partial(train_state.fresh_state, trainer)
    arrays = jax.tree.map(jnp.asarray, (tiny.random_batch(config), tiny.STATISTICS))
    made = jax.make_jaxpr(first)(*arrays)
    equations = list(_equations(made.jaxpr))
    drawn = [e for e in equations if e.primitive.name == "random_bits"]
    assert len(drawn) == DRAWS[name]
    # Two decompositions of several matrices at once may wait for each other for ever.
    for equation in equations:
        if equation.primitive.name in ("geqrf", "householder_product"):
            assert equation.invars[0].aval.ndim == 2
