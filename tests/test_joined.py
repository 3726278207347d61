"""Joined arrays: the optimisers compute as over each, and earlier states still fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.training import joined

LARGE = 12
"""In these tests arrays of so many numbers stay apart."""


@pytest.fixture(autouse=True)
def small_limit(monkeypatch):
    monkeypatch.setattr(joined, "LARGE", LARGE)


SHAPES = st.lists(
    st.tuples(
        st.sampled_from(["bias", "kernel", "scale"]),
        st.lists(st.integers(1, 4), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


def _tree(layers, seed, empty=False):
    rng = np.random.default_rng(seed)
    tree = {"model": {}, "objectives": {}}
    for number, (name, shape) in enumerate(layers):
        half = tree["model" if number % 2 or not empty else "objectives"]
        values = rng.normal(size=shape).astype(np.float32)
        half[f"layer_{number}"] = {name: jnp.asarray(values)}
    return tree


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.booleans())
def test_what_was_joined_splits_into_the_same_arrays(layers, both):
    tree = _tree(layers, 0, empty=both)
    found, split = joined.join(tree)
    again = split(found)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    held = sorted(np.concatenate([np.ravel(x) for x in jax.tree.leaves(found)]))
    given = sorted(np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]))
    zeros = len(held) - len(given)
    assert sorted([*given, *[0.0] * zeros]) == held
    for arrays in found.values():
        if joined.VECTOR in arrays:
            assert len(arrays[joined.VECTOR]) % 64 == 0
            assert len(arrays[joined.VECTOR]) % 7 == 0
        assert all(x.size for x in arrays.values())  # no checkpoint holds empty ones
        assert all(x.size >= LARGE for n, x in arrays.items() if n != joined.VECTOR)


@settings(max_examples=10, deadline=None)
@given(SHAPES)
def test_adam_over_joined_arrays_is_adam_over_each(layers):
    """Clipping, moments, decay of the kernels alone: three steps, array by array."""
    params = _tree(layers, 1)
    rule = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(0.1, weight_decay=0.3, mask=joined.decays),
    )
    # As it is done without joining: the mask by the names of the arrays.
    apart = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(
            0.1,
            weight_decay=0.3,
            mask=lambda tree: jax.tree_util.tree_map_with_path(
                lambda path, x: x.ndim > 1 and path[-1].key != "bias", tree
            ),
        ),
    )
    ours, theirs = params, params
    state, their_state = rule.init(joined.join(params)[0]), apart.init(params)
    for step in range(3):
        gradients = _tree(layers, 2 + step)
        vectors, split = joined.join(ours)
        updates, state = rule.update(joined.join(gradients)[0], state, vectors)
        ours = split(optax.apply_updates(vectors, updates))
        updates, their_state = apart.update(gradients, their_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6),
        ours,
        theirs,
    )


def test_nothing_joins_to_nothing():
    """A system without critics."""
    found, split = joined.join({})
    assert not jax.tree.leaves(found)
    assert split(found) == {}


def test_attention_keeps_its_biases_by_head_and_they_are_no_kernels():
    heads = {"kernel": jnp.ones((4, 2, 2)), "bias": jnp.ones((2, 2))}
    found, _ = joined.join({"key": heads, "norm": {"scale": jnp.ones(4)}})
    assert set(found[joined.KERNELS]) == {"key.kernel"}
    assert found[joined.KERNELS]["key.kernel"].shape == (4, 2, 2)
    assert float(found[joined.OTHERS][joined.VECTOR].sum()) == 8.0
    assert joined.decays(found) == {
        joined.KERNELS: {"key.kernel": True},
        joined.OTHERS: {joined.VECTOR: False},
    }


def test_a_state_saved_array_by_array_becomes_the_joined_one():
    params = _tree([("kernel", (3, 5)), ("kernel", (2, 3)), ("bias", (4,))], 0)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    _, before = rule.update(params, rule.init(params))
    vectors, _ = joined.join(params)
    _, expected = rule.update(vectors, rule.init(vectors))
    shapes = jax.eval_shape(lambda: joined.apart(expected, params))
    assert jax.tree.structure(shapes) == jax.tree.structure(before)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), shapes, before)
    found = joined.joined_state(before, expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected
    )
