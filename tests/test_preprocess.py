import jax.numpy as jnp
import numpy as np

from fmalign_jax.training import preprocess


def test_normalise_standardises_channels_and_leaves_tokens_alone():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 1, 4, 4, 3)).astype(np.uint8)
    tokens = rng.integers(0, 9, (2, 3, 5)).astype(np.int32)
    mean, std = np.array([10, 20, 30], np.float32), np.array([2, 4, 5], np.float32)
    out = preprocess.normalise(
        {"video": jnp.asarray(frames), "text": jnp.asarray(tokens)},
        {"video": {"mean": jnp.asarray(mean), "std": jnp.asarray(std)}},
    )
    np.testing.assert_allclose(out["video"], (frames - mean) / std, rtol=1e-6)
    assert out["video"].dtype == jnp.float32
    np.testing.assert_array_equal(out["text"], tokens)
    assert out["text"].dtype == jnp.int32
