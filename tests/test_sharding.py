import jax
import numpy as np
import pytest

from fmalign_jax.training import sharding


def test_a_batch_is_divided_over_the_devices_in_order():
    mesh = sharding.make_mesh()
    batch = {"x": np.arange(32).reshape(16, 2), "t": 1.7e9 + np.arange(16) / 25}
    placed = sharding.place_batch(batch, mesh)
    np.testing.assert_array_equal(placed["x"], batch["x"])
    assert placed["t"].dtype == np.float32
    np.testing.assert_allclose(
        np.asarray(placed["t"], np.float64).sum(axis=-1), batch["t"], rtol=0, atol=1e-5
    )
    assert len(placed["x"].addressable_shards) == 8
    for index, shard in enumerate(placed["x"].addressable_shards):
        np.testing.assert_array_equal(shard.data, batch["x"][2 * index : 2 * index + 2])


def test_global_products_of_sharded_rows_are_allowed():
    mesh = sharding.make_mesh()
    z = sharding.place_batch({"z": np.ones((8, 3), np.float32)}, mesh)["z"]
    assert jax.jit(lambda z: z @ z.T)(z).shape == (8, 8)


def test_large_arrays_are_cut_along_their_longest_even_axis(monkeypatch):
    monkeypatch.setattr(sharding, "SMALL", 100)
    mesh = sharding.make_mesh()
    shapes = [(16, 24), (24, 16, 9), (7, 15), (3, 8), ()]
    arrays = [np.zeros(shape) for shape in shapes]
    found = sharding.divided(arrays, mesh)
    held = [
        layout.shard_shape(x.shape) for layout, x in zip(found, arrays, strict=True)
    ]
    assert held == [(16, 3), (3, 16, 9), (7, 15), (3, 8), ()]


def test_a_batch_the_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"multiple .* got 12 on 8 .*batch_size=8"):
        sharding.check_batch_size(12, sharding.make_mesh())
    sharding.check_batch_size(16, sharding.make_mesh())
