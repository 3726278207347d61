"""Windows as training sees them, by what is drawn and on either way to compute it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmalign_jax.models.layers import in_time_order, side_by_side
from fmalign_jax.training import augment

KEY = jax.random.key(0)

STILL = {"stretch": 0.0, "shift": 0.0}


@pytest.fixture(autouse=True, params=["all windows at once", "one by one"])
def way(request, monkeypatch):
    """A CPU alone takes one window after the other; all else takes all at once."""
    devices = 1 if request.param == "one by one" else 8
    monkeypatch.setattr(jax, "device_count", lambda: devices)


def _frames(batch=6):
    values = np.random.default_rng(1).normal(size=(batch, 2, 1, 8, 8, 3))
    return jnp.asarray(values, jnp.float32)


def _augment(operation, strength, values, key=KEY):
    return _view({"m": values}, {"m": {operation: strength}}, key=key)["m"]


def _view(streams, settings, *, statistics=None, warp=None, samples=None, key=KEY):
    viewed = augment.random_view(
        key,
        jax.tree.map(jnp.asarray, streams),
        jax.tree.map(jnp.asarray, statistics or {}),
        time_warp=STILL | (warp or {}),
        settings=settings,
        samples_per_tick=samples or {name: x.shape[2] for name, x in streams.items()},
    )
    return jax.tree.map(np.asarray, viewed)


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
        _view({"m": _frames()}, settings)


def test_mix_and_offset_treat_the_samples_of_a_window_alike():
    values = np.random.default_rng(4).normal(size=(64, 5, 4, 3)).astype(np.float32)
    mixed = _augment("mix", 0.1, jnp.asarray(values))
    for before, after in zip(values, mixed, strict=True):
        flat = before.reshape(-1, 3)
        matrix, *_ = np.linalg.lstsq(flat, after.reshape(-1, 3), rcond=None)
        np.testing.assert_allclose(flat @ matrix, after.reshape(-1, 3), atol=1e-5)
        assert np.abs(matrix - np.eye(3)).max() < 0.6
    added = _augment("offset", 0.3, jnp.asarray(values)) - values
    np.testing.assert_allclose(
        added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-6
    )
    assert 0.2 < added[:, 0, 0].std() < 0.4


def test_a_time_warp_moves_all_modalities_of_a_window_alike():
    ticks, rate = 20, 4
    clock = (np.arange(ticks * rate) + 0.5) / rate  # in ticks
    sensor = np.tile(clock.reshape(1, ticks, rate, 1), (32, 1, 1, 2)).astype(np.float32)
    frames = np.tile(
        (np.arange(ticks) + 0.5).reshape(1, ticks, 1, 1, 1, 1), (32, 1, 1, 2, 2, 3)
    ).astype(np.float32)
    warped = _view(
        {"video": frames, "current": sensor}, {}, warp={"stretch": 0.2, "shift": 0.1}
    )
    seen = np.asarray(warped["current"]).mean(axis=2)[..., 0]
    shown = np.asarray(warped["video"])[:, :, 0, 0, 0, 0]
    inside = slice(4, 16)  # beyond the edge of a window it is mirrored
    # Half a tick, and half of one: samples are picked, not mixed.
    assert np.abs(seen - shown)[:, inside].max() < 0.76
    speed = (seen[:, 12] - seen[:, 8]) / 4
    assert 0.79 < speed.min() < 0.95
    assert 1.05 < speed.max() < 1.21
    middle = (seen[:, 9] + seen[:, 10]) / 2 - 10
    assert 1.0 < np.abs(middle).max() < 2.01
    assert sensor.min() - 1e-5 <= seen.min()
    assert seen.max() <= sensor.max() + 1e-5


def test_a_time_warp_keeps_how_much_a_current_fluctuates():
    """What tells normal from abnormal must be in training what it is in use."""
    noise = np.random.default_rng(0).normal(size=(256, 30, 4, 3)).astype(np.float32)
    warped = _view({"current": noise}, {}, warp={"stretch": 0.1})["current"]

    def mean_change(values: np.ndarray) -> float:
        return float(np.abs(np.diff(values.reshape(256, 120, 3), axis=1)).mean())

    assert 0.95 < mean_change(np.asarray(warped)) / mean_change(noise) < 1.05
    assert np.abs(np.asarray(warped) - noise).mean() > 0.5  # it does something


def test_a_range_of_leads_is_warped_as_one_stretch_of_time():
    ticks, rate, leads = 6, 2, 3
    clock = np.arange(leads * ticks * rate, dtype=np.float32)
    ordered = np.tile(clock.reshape(1, -1, rate, 1), (16, 1, 1, 1))
    values = side_by_side(jnp.asarray(ordered), leads)
    assert values.shape == (16, ticks, leads * rate, 1)
    # The first tick holds the first samples of each window of time.
    np.testing.assert_array_equal(values[0, 0, :, 0], [0, 1, 12, 13, 24, 25])
    np.testing.assert_array_equal(in_time_order(values, rate), ordered)

    def warped(x, samples, shift):
        warp = {"stretch": 0.2, "shift": shift}
        return _view({"m": x}, {}, warp=warp, samples={"m": samples})["m"]

    # A shift is a share of the window, of which the range holds three.
    found = in_time_order(jnp.asarray(warped(values, rate, 0.3)), rate)
    expected = warped(jnp.asarray(ordered), rate, 0.1)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(np.asarray(found) - ordered).max() > 1


def test_beyond_a_window_time_is_mirrored():
    window = jnp.arange(10.0).reshape(10, 1, 1)
    early = augment._resample(window, jnp.array(1.0), jnp.array(-0.3))
    assert early.ravel().tolist() == [2, 1, 0, 0, 1, 2, 3, 4, 5, 6]
    late = augment._resample(window, jnp.array(1.0), jnp.array(0.3))
    assert late.ravel().tolist() == [3, 4, 5, 6, 7, 8, 9, 9, 8, 7]


def test_without_strength_time_stays_as_it_is():
    values = {"m": _frames()}
    out = _view(values, {})
    np.testing.assert_array_equal(out["m"], values["m"])


def test_tokens_are_picked_not_mixed_by_a_time_warp():
    tokens = np.random.default_rng(5).integers(0, 9, (8, 6, 3)).astype(np.int32)
    out = _view({"text": tokens}, {}, warp={"stretch": 0.3, "shift": 0.1})["text"]
    assert out.dtype == jnp.int32
    assert out.shape == tokens.shape


EVERYTHING = {
    "video": {
        "flip": 0.5,
        "crop": 2,
        "brightness": 0.2,
        "scale": 0.2,
        "mix": 0.1,
        "offset": 0.2,
    },
    "current": {"mix": 0.05, "offset": 0.1, "jitter": 0.05, "mask": 0.3},
}


def _raw():
    rng = np.random.default_rng(6)
    frames = rng.integers(0, 256, (6, 5, 1, 8, 8, 3)).astype(np.uint8)
    return {"video": frames, "current": rng.normal(size=(6, 5, 4, 3)).astype("f")}


STATISTICS = {
    "video": {"mean": np.full(3, 120, "f"), "std": np.array([70, 60, 80], "f")},
    "current": {"mean": np.full(3, 0.5, "f"), "std": np.full(3, 2, "f")},
}


def _by_numpy(streams, key):
    """The whole view in NumPy, in the order of the table, from the same draws."""
    key, warp_key = jax.random.split(key)
    speeds, shifts = (
        np.asarray(x)
        for x in augment._draw_warp(warp_key, 6, **{"stretch": 0.2, "shift": 0.1})
    )
    viewed = {}
    for number, name in enumerate(sorted(EVERYTHING)):
        strengths, windows = EVERYTHING[name], []
        draws = {
            operation: np.asarray(
                own.draw(
                    jax.random.fold_in(jax.random.fold_in(key, number), index),
                    streams[name].shape,
                    float(strengths[operation]),
                )
            )
            for index, (operation, own) in enumerate(augment.AUGMENTATIONS.items())
            if operation in strengths
        }
        mean, std = STATISTICS[name]["mean"], STATISTICS[name]["std"]
        for row, raw in enumerate(streams[name]):
            flat = raw.reshape(-1, *raw.shape[2:])
            n = len(flat)
            wanted = ((np.arange(n) + 0.5) / n - 0.5) * speeds[row] + shifts[row] + 0.5
            index = np.floor(wanted * n).astype(int)
            index = np.where(index < 0, -1 - index, index)
            index = np.where(index >= n, 2 * n - 1 - index, index)
            x = (flat[index].reshape(raw.shape) - mean) / std
            own = {operation: drawn[row] for operation, drawn in draws.items()}
            if own.get("flip"):
                x = x[..., ::-1, :]
            if "crop" in own:
                edge = [(0, 0), (0, 0), (2, 2), (2, 2), (0, 0)]
                y, z = own["crop"]
                x = np.pad(x, edge, mode="edge")[:, :, y : y + 8, z : z + 8]
            x = x + own.get("brightness", 0.0)
            x = x * (1 + own.get("scale", 0.0))
            x = x @ own["mix"] + own["offset"]
            x = x + own.get("jitter", 0.0)
            if "mask" in own:
                x = x * own["mask"][:, None, None]
            windows.append(x)
        viewed[name] = np.stack(windows)
    return viewed


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_all_together_are_what_numpy_makes_of_the_same_draws(backend, monkeypatch):
    """Pixels move as uint8, before the normalising; the numbers are as if after it."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    warp = {"stretch": 0.2, "shift": 0.1}
    found = _view(_raw(), EVERYTHING, statistics=STATISTICS, warp=warp)
    for name, expected in _by_numpy(_raw(), KEY).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=2e-6)


def test_what_is_not_augmented_is_normalised_alone():
    raw = _raw()
    found = _view(raw, {"current": {"offset": 0.1}}, statistics=STATISTICS)
    expected = (raw["video"] - STATISTICS["video"]["mean"]) / STATISTICS["video"]["std"]
    np.testing.assert_allclose(found["video"], expected, rtol=1e-6)
