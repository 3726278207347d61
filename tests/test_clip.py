"""The contrast of windows with a learned temperature, against its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmalign_jax.objectives.clip import Clip
from fmalign_jax.objectives.cwcl import Cwcl
from fmalign_jax.systems.features import Features

B, T, D = 6, 4, 5


def _features(seed=0, mask=None, scale=1.0) -> Features:
    rng = np.random.default_rng(seed)
    semantic = {
        m: jnp.asarray(scale * rng.normal(size=(B, T, D)), jnp.float32)
        for m in ("video", "current")
    }
    return Features(
        inputs={},
        semantic=semantic,
        mask=jnp.ones(B, bool) if mask is None else jnp.asarray(mask),
        recording=jnp.asarray([0, 0, 0, 1, 1, 1]),
        time_s=jnp.stack([10.0 * jnp.arange(B), jnp.zeros(B)], axis=-1),
    )


def _evaluate(term, features, params=None):
    variables = {} if params is None else {"params": params}
    return term.apply(variables, features, train=False)


CLIP = Clip("video", "current", temperature=0.1)


def _numpy_logits(features, scale):
    a, b = (np.asarray(features.semantic[m]).mean(axis=1) for m in ("video", "current"))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return scale * a @ b.T


def _numpy_loss(logits):
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    return (rows + columns) / 2


def test_the_loss_is_that_of_the_equation():
    features = _features()
    loss, metrics = _evaluate(CLIP, features)
    logits = _numpy_logits(features, 10.0)
    np.testing.assert_allclose(loss, _numpy_loss(logits), rtol=1e-5)
    forth = logits.argmax(axis=1) == np.arange(B)
    back = logits.argmax(axis=0) == np.arange(B)
    np.testing.assert_array_equal(metrics["clip_accuracy/video->current"], forth)
    np.testing.assert_array_equal(metrics["clip_accuracy/current->video"], back)
    np.testing.assert_array_equal(metrics["clip_accuracy"], (forth + 0.0 + back) / 2)


def test_with_weights_that_are_the_identity_cwcl_is_the_same():
    features = _features()
    identity = Cwcl(
        "video",
        "current",
        temperature=0.1,
        centre_weights=False,
        weight_temperature=1e-6,
    )
    expected, _ = _evaluate(identity, features)
    np.testing.assert_allclose(_evaluate(CLIP, features)[0], expected, atol=1e-6)


def test_swapping_the_modalities_changes_nothing():
    features = _features()
    swapped, _ = _evaluate(Clip("current", "video", temperature=0.1), features)
    np.testing.assert_allclose(_evaluate(CLIP, features)[0], swapped, atol=1e-6)


def test_the_scale_starts_as_published_and_cannot_exceed_100():
    features, term = _features(), Clip("video", "current")
    params = term.init(jax.random.key(0), features, train=False)["params"]
    assert params["scale"].shape == ()  # no kernel: weight decay leaves it alone
    _, metrics = _evaluate(term, features, params)
    assert float(metrics["clip_scale"]) == pytest.approx(1 / 0.07, rel=1e-4)
    for raw in (-100.0, 5.0, 1e4):
        _, metrics = _evaluate(term, features, {"scale": jnp.asarray(raw)})
        assert 0 <= float(metrics["clip_scale"]) <= 100


def test_the_scale_learns_and_is_not_stuck_near_its_most():
    term, features = Clip("video", "current"), _features()

    def loss(raw):
        return _evaluate(term, features, {"scale": raw})[0].mean()

    assert abs(float(jax.grad(loss)(jnp.asarray(-1.7918)))) > 1e-3
    assert abs(float(jax.grad(loss)(jnp.asarray(4.0)))) > 1e-3  # s = 98.2


def test_the_losses_to_compare_with():
    mask = np.arange(B) < 4
    _, metrics = _evaluate(CLIP, _features(mask=mask))
    assert float(metrics["clip_loss_uniform"]) == pytest.approx(np.log(4))
    assert float(metrics["clip_loss_two_states"]) == pytest.approx(np.log(2))
    # Features that are all the same give uniform logits.
    flat = _features(mask=mask)
    flat = flat.replace(semantic={m: jnp.ones((B, T, D)) for m in flat.semantic})
    loss, _ = _evaluate(CLIP, flat)
    np.testing.assert_allclose(loss[:4], np.log(4), rtol=1e-5)


def test_windows_that_are_too_near_are_no_negatives():
    features = _features()
    term = Clip("video", "current", temperature=0.1, min_gap_s=15.0)
    logits = _numpy_logits(features, 10.0)
    at_s, recording = 10.0 * np.arange(B), np.array([0, 0, 0, 1, 1, 1])
    near = (np.abs(at_s[:, None] - at_s) < 15.0) & (recording[:, None] == recording)
    near &= ~np.eye(B, dtype=bool)
    assert near.any()
    logits[near] = -np.inf
    np.testing.assert_allclose(
        _evaluate(term, features)[0], _numpy_loss(logits), rtol=1e-5
    )


def test_a_gap_needs_times():
    features = _features().replace(time_s=None)
    with pytest.raises(ValueError, match="min_gap_s needs to know when windows were"):
        _evaluate(Clip("video", "current", temperature=0.1, min_gap_s=1.0), features)


def test_a_teacher_gets_exactly_no_gradient():
    term = Clip(
        "video",
        "current",
        temperature=0.1,
        learns_from={"current": {"video": 1.0}, "video": {"current": 0.0}},
    )
    features = _features()

    def loss(semantic):
        return _evaluate(term, features.replace(semantic=semantic))[0].sum()

    gradient = jax.grad(loss)(features.semantic)
    assert not np.any(gradient["video"])
    assert np.any(gradient["current"])


def test_a_name_that_is_no_modality_is_refused():
    with pytest.raises(ValueError, match="CLIP's anchor and positive may name only"):
        _evaluate(Clip("video", "sound", temperature=0.1), _features())
