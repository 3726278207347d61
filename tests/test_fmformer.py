"""FmFormer: as many parameters as published, and the computation of a block."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmalign_jax.models.fmformer import Attention, FmFormer, tubelets

SMALL = {"classes": 2, "width": 12, "depth": 2, "heads": 3, "hidden": 24}


def _count(frames, samples, **options):
    """The number of parameters for so many frames and samples of a window."""
    model = FmFormer(2, frame_stride=1, phase_layer_norm=True, **options)
    inputs = {
        "video": jax.ShapeDtypeStruct((1, frames, 1, 64, 64, 3), jnp.float32),
        "current": jax.ShapeDtypeStruct((1, samples, 1, 3), jnp.float32),
    }
    init = functools.partial(model.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), inputs)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


UNUSED_HEAD = 2 * 96 + 96 * 2 + 2
"""The published video model has a second head, norm and Linear, that nothing reads."""


@pytest.mark.parametrize(
    ("published", "frames", "samples", "options"),
    [
        (1_923_466, 10, 240, {}),
        (1_877_866, 10, 240, {"dilated": False}),
        (3_662_314, 10, 240, {"dilated": False, "depth": 12}),
        (776_836 - UNUSED_HEAD, 8, 240, {"current": ""}),
        (732_772 - UNUSED_HEAD, 8, 240, {"current": "", "dilated": False}),
        (693_512, 10, 240, {"video": ""}),
        (1_911_946, 10, 120, {}),
    ],
)
def test_parameters_are_as_many_as_published(published, frames, samples, options):
    assert _count(frames, samples, **options) == published


def test_tubelets_are_the_blocks_of_the_video():
    rng = np.random.default_rng(0)
    video = rng.normal(size=(2, 4, 16, 24, 3))
    found = tubelets(jnp.asarray(video))
    assert found.shape == (2, 2 * 2 * 3, 2 * 8 * 8 * 3)
    block = video[1, 2:4, 8:16, 16:24].reshape(-1)
    np.testing.assert_allclose(found[1, 1 * 6 + 1 * 3 + 2], block, rtol=1e-6)
    with pytest.raises(ValueError, match=r"multiples of \(2, 8, 8\); got \(3, 16, 24"):
        tubelets(jnp.asarray(video[:, :3]))


def _layer_norm(x, params):
    mean, deviation = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    unit = (x - mean) / np.sqrt(deviation + 1e-5)
    return unit * params["scale"] + params["bias"]


def test_each_stream_attends_to_the_other_as_written_out():
    rng = np.random.default_rng(1)
    streams = {
        "video": rng.normal(size=(2, 5, 6)),
        "current": rng.normal(size=(2, 3, 6)),
    }
    module = Attention(heads=2)
    traced = jax.tree.map(jnp.asarray, streams)
    params = module.init(jax.random.key(0), traced, crossed=True)["params"]
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), params
    )
    found = module.apply({"params": params}, traced, crossed=True)
    own = jax.tree.map(np.asarray, params)
    parts = {}
    for name, x in streams.items():
        qkv = _layer_norm(x, own[f"{name}_norm"]) @ own[f"{name}_qkv"]["kernel"]
        parts[name] = np.split(qkv, 3, axis=-1)
    for name, other in (("video", "current"), ("current", "video")):
        query, (_, key, value) = parts[name][0], parts[other]
        heads = []
        for h in range(2):
            at = slice(3 * h, 3 * h + 3)
            scores = query[..., at] @ np.swapaxes(key[..., at], 1, 2) / math.sqrt(3)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ value[..., at])
        out = own[f"{name}_out"]
        expected = np.concatenate(heads, -1) @ out["kernel"] + out["bias"]
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


@pytest.fixture(scope="module")
def windows():
    rng = np.random.default_rng(2)
    return {
        "video": jnp.asarray(rng.normal(size=(2, 6, 1, 16, 16, 3)), jnp.float32),
        "current": jnp.asarray(rng.normal(size=(2, 6, 4, 3)), jnp.float32),
    }


def _logits(windows, **options):
    model = FmFormer(**SMALL, **options)
    init = jax.jit(functools.partial(model.init, train=False))
    params = init(jax.random.key(0), windows)
    return functools.partial(
        jax.jit(functools.partial(model.apply, train=True)), params
    )


def test_a_twin_reads_its_own_stream_alone(windows):
    louder = windows | {"current": windows["current"] + jnp.arange(3.0)}
    brighter = windows | {"video": windows["video"] + 0.5 * windows["video"][::-1]}
    both = _logits(windows)
    for changed in (louder, brighter):
        assert np.abs(both(changed) - both(windows)).max() > 1e-3
    video, current = _logits(windows, current=""), _logits(windows, video="")
    np.testing.assert_array_equal(video(louder), video(windows))
    np.testing.assert_array_equal(current(brighter), current(windows))
    assert np.abs(current(louder) - current(windows)).max() > 1e-3
    assert np.abs(video(brighter) - video(windows)).max() > 1e-3
    with pytest.raises(ValueError, match="needs a video or a current"):
        _logits(windows, video="", current="")


def test_frames_between_the_strides_are_not_read(windows):
    model = _logits(windows)
    between = windows["video"].at[:, 1:3].multiply(-2.0)
    np.testing.assert_array_equal(model(windows | {"video": between}), model(windows))
    read = windows["video"].at[:, 3].multiply(-2.0)
    assert np.abs(model(windows | {"video": read}) - model(windows)).max() > 1e-4


def test_the_published_norm_of_phases_forgets_level_and_gain(windows):
    published = _logits(windows, phase_layer_norm=True)
    ours = _logits(windows)
    louder = windows | {"current": 3.0 * windows["current"] + 7.0}
    assert np.abs(published(louder) - published(windows)).max() < 1e-3
    assert np.abs(ours(louder) - ours(windows)).max() > 1e-2
