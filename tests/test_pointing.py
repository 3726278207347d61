"""Where an encoder looks: by its pool, and by what a query weighs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from fresh_parameters import fresh_parameters

from fmalign_jax.evaluation import pointing
from fmalign_jax.models.encoders import AttentivePool
from fmalign_jax.systems.system import make_system

POOLS = ("MaxPool", "AttentivePool")


def _system(pool):
    config = tiny.tiny_config()
    config.model.modalities.video.pool = {"name": f"fmalign_jax.models.encoders.{pool}"}
    return make_system(config, ("video",))


@pytest.fixture(scope="module", params=POOLS)
def seen(request):
    """A system, its parameters, two windows and queries."""
    system = _system(request.param)
    rng = np.random.default_rng(0)
    video = {"video": jnp.asarray(rng.normal(size=(2, 3, 1, 16, 16, 3)), jnp.float32)}
    params = fresh_parameters(system, video, train=False, method="semantic")["params"]
    query = {"asking": jnp.asarray(rng.normal(size=(2, 16)), jnp.float32)}
    found = jax.jit(lambda p, x, q: pointing.look_at_last(system, p, x, q))(
        params, video, query
    )
    return system, params, video, query, found


def _pooled(system, params, video):
    def pool(one, inputs):
        stems = one.stem_features(inputs)
        return stems["video"], one.pools["video"](stems["video"])

    return system.apply({"params": params}, video, method=pool)


def test_channels_weigh_by_how_features_come_nearer_to_the_query(seen):
    """By finite differences of the pooled vector of the last tick."""
    system, params, video, query, found = seen
    stem, pooled = _pooled(system, params, video)
    np.testing.assert_allclose(found.stem, stem[:, -1], rtol=1e-5, atol=1e-6)

    @jax.jit
    def nearness(pooled):
        z = system.apply(
            {"params": params},
            pooled,
            method=lambda one, x: one.semantics["video"](x, train=False),
        )[:, -1]
        cosine = (z * query["asking"]).sum(axis=1)
        for one in (z, query["asking"]):
            cosine /= jnp.linalg.norm(one, axis=1)
        return cosine

    step = 1e-2
    channels = pooled.shape[-1]
    weight = np.zeros((2, channels))
    for c in range(channels):
        up, down = (nearness(pooled.at[:, -1, c].add(s)) for s in (step, -step))
        weight[:, c] = (up - down) / (2 * step)
    last = np.asarray(stem[:, -1])
    if isinstance(_pool_of(system, params), AttentivePool):
        taken = found.free[..., None] * last
    else:
        highest = last == last.max(axis=(1, 2), keepdims=True)
        taken = highest / highest.sum(axis=(1, 2), keepdims=True)
    expected = np.einsum("nc,nhwc->nhw", weight, taken)
    np.testing.assert_allclose(found.asked["asking"], expected, rtol=0.05, atol=2e-4)
    assert np.abs(expected).max() > 0.01


def _pool_of(system, params):
    return system.bind({"params": params}).pools["video"]


def test_a_pool_tells_which_cells_it_takes(seen):
    system, params, video, _, found = seen
    stem, pooled = _pooled(system, params, video)
    free = np.asarray(found.free)
    np.testing.assert_allclose(free.sum(axis=(1, 2)), 1, rtol=1e-5)
    last = np.asarray(stem[:, -1])
    flat = last.reshape(2, -1, last.shape[-1])
    if isinstance(_pool_of(system, params), AttentivePool):
        # The pool's output is its attention over cells that squeeze and excitation
        # scaled by channel: that factor is the same for the whole map.
        mean = np.einsum("np,npc->nc", free.reshape(2, -1), flat)
        ratio = np.asarray(pooled[:, -1]) / mean
        assert ((ratio > 1) & (ratio < 2)).all()
        return
    expected = np.zeros_like(flat[..., 0])
    for row, maps in enumerate(flat):
        for c in range(flat.shape[-1]):
            highest = maps[:, c] == maps[:, c].max()
            expected[row] += highest / highest.sum() / flat.shape[-1]
    np.testing.assert_allclose(free.reshape(2, -1), expected, rtol=1e-5)


def test_a_pool_that_chooses_no_cells_is_refused():
    with pytest.raises(ValueError, match=r"video\.pool must be .*got FlattenPool"):
        pointing.looker(_system("FlattenPool"), "video")
