import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmalign_jax import inputs

KEY = jax.random.key(0)


def test_normalise_standardises_channels_and_leaves_tokens_alone():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 3, 1, 4, 4, 3)).astype(np.uint8)
    tokens = rng.integers(0, 9, (2, 3, 5)).astype(np.int32)
    mean, std = np.array([10, 20, 30], np.float32), np.array([2, 4, 5], np.float32)
    out = inputs.normalise(
        {"video": jnp.asarray(frames), "text": jnp.asarray(tokens)},
        {"video": {"mean": jnp.asarray(mean), "std": jnp.asarray(std)}},
    )
    np.testing.assert_allclose(out["video"], (frames - mean) / std, rtol=1e-6)
    assert out["video"].dtype == jnp.float32
    np.testing.assert_array_equal(out["text"], tokens)
    assert out["text"].dtype == jnp.int32


def _frames(batch=6):
    values = np.random.default_rng(1).normal(size=(batch, 2, 1, 8, 8, 3))
    return jnp.asarray(values, jnp.float32)


def _augment(operation, strength, values, key=KEY):
    return np.asarray(
        inputs.augment(key, {"m": values}, settings={"m": {operation: strength}})["m"]
    )


def test_flip_mirrors_whole_windows():
    frames = _frames(64)
    out = _augment("flip", 0.5, frames)
    kept = np.all(out == np.asarray(frames), axis=(1, 2, 3, 4, 5))
    mirrored = np.all(out == np.asarray(frames)[..., ::-1, :], axis=(1, 2, 3, 4, 5))
    assert np.all(kept ^ mirrored)
    assert 10 < kept.sum() < 54


def test_crop_shifts_every_frame_of_a_window_alike():
    frames = _frames()
    out = _augment("crop", 2, frames)
    padded = np.pad(
        frames, [(0, 0), (0, 0), (0, 0), (2, 2), (2, 2), (0, 0)], mode="edge"
    )
    for window in range(len(frames)):
        matches = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(
                out[window], padded[window, :, :, y : y + 8, x : x + 8, :]
            )
        ]
        assert len(matches) == 1


@pytest.mark.parametrize("operation", ["brightness", "scale"])
def test_one_draw_a_window(operation):
    frames = _frames(400)
    out = _augment(operation, 0.3, frames)
    change = (
        out - np.asarray(frames)
        if operation == "brightness"
        else out / np.asarray(frames) - 1
    ).reshape(400, -1)
    np.testing.assert_allclose(change, change[:, :1] * np.ones_like(change), atol=2e-3)
    assert np.std(change[:, 0]) == pytest.approx(0.3, rel=0.15)


def test_jitter_is_independent_noise():
    values = jnp.zeros((10, 20, 5, 3))
    out = _augment("jitter", 0.1, values)
    assert np.std(out) == pytest.approx(0.1, rel=0.1)
    assert len(np.unique(out)) > 0.99 * out.size


def test_mask_blanks_whole_ticks():
    out = _augment("mask", 0.25, jnp.ones((40, 20, 5, 3)))
    ticks = out.reshape(40, 20, -1)
    assert np.all(ticks == ticks[..., :1])
    assert (1 - ticks[..., 0]).mean() == pytest.approx(0.25, abs=0.05)


def test_augmentation_depends_on_the_key_alone_and_zero_means_off():
    frames = _frames()
    once, again = (_augment("jitter", 0.1, frames) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    other = _augment("jitter", 0.1, frames, key=jax.random.key(1))
    assert not np.array_equal(once, other)
    np.testing.assert_array_equal(_augment("jitter", 0, frames), frames)


@pytest.mark.parametrize("operation", ["flip", "crop"])
def test_what_is_for_frames_is_refused_elsewhere(operation):
    with pytest.raises(ValueError, match=rf"{operation} is for frames .* 'm' with"):
        _augment(operation, 1, jnp.ones((4, 5, 6, 3)))


@pytest.mark.parametrize("settings", [{"m": {"flop": 1.0}}, {"video": {"flip": 0.5}}])
def test_unknown_names_are_refused(settings):
    with pytest.raises(ValueError, match="must name a modality"):
        inputs.augment(KEY, {"m": _frames()}, settings=settings)
