"""Distillation and contrast of single ticks: values from NumPy, gradients as meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_objectives import make_features, reached

from fmalign_jax.objectives.feature_distillation import FeatureDistillation
from fmalign_jax.objectives.temporal_alignment import TemporalAlignment

B, T = 5, 7
FOLLOWS = FeatureDistillation(weights={"current": {"video": 2.0}})


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_a_student_pays_for_its_distance_from_its_teacher():
    features = make_features(batch=B, ticks=T, mask=[True] * 4 + [False])
    loss, metrics = FOLLOWS.apply({}, features, train=True)
    v, c = (np.array(features.semantic[m], np.float64) for m in ("video", "current"))
    error = ((c - v) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(loss, 2.0 * error, rtol=1e-5)
    variance = ((v[:4] - v[:4].mean(axis=(0, 1))) ** 2).mean()
    assert float(metrics["distilled_share/video->current"]) == pytest.approx(
        1 - error[:4].mean() / variance, rel=1e-4
    )
    cosine = _unit(c.mean(axis=1)) @ _unit(v.mean(axis=1)).T
    nearest = np.append(cosine[:4, :4].argmax(axis=1) == np.arange(4), False)
    for name in ("distilled_accuracy", "distilled_accuracy/video->current"):
        np.testing.assert_array_equal(metrics[name], nearest)


def test_a_perfect_student_predicts_all_and_the_mean_predicts_nothing():
    features = make_features(batch=B, ticks=T)
    video = features.semantic["video"]
    mean = jnp.broadcast_to(video.mean(axis=(0, 1)), video.shape)
    for current, share in ((video, 1.0), (mean, 0.0)):
        semantic = {"video": video, "current": current}
        _, found = FOLLOWS.apply({}, features.replace(semantic=semantic), train=False)
        assert float(found["distilled_share/video->current"]) == pytest.approx(
            share, abs=1e-5
        )


def test_a_distillation_moves_the_student_alone():
    assert reached(FOLLOWS, make_features()) == {"semantic/current"}


def test_a_modality_is_not_its_own_teacher():
    term = FeatureDistillation(weights={"video": {"video": 1.0}})
    with pytest.raises(ValueError, match="got 'video' as its own teacher"):
        term.apply({}, make_features(), train=False)


def _expected(features, *, same_window=False, scale=10.0, apart=None):
    """Loss [B] and accuracy [B] by loops over windows and ticks."""
    a, b = (_unit(np.array(features.semantic[m])) for m in ("video", "current"))
    windows, ticks = a.shape[:2]
    counted = [i for i in range(windows) if features.mask[i]]
    loss, hits = np.zeros(windows), np.zeros(windows)
    for i in counted:
        for t in range(ticks):
            for own, others in ((a, b), (b, a)):
                candidates = {(i, t): scale * own[i, t] @ others[i, t]}
                for j in counted:
                    if (j == i and not same_window) or (apart and not apart(i, j)):
                        continue
                    for u in range(ticks):
                        candidates[j, u] = scale * own[i, t] @ others[j, u]
                values = np.array(list(candidates.values()))
                norm = np.log(np.exp(values).sum())
                loss[i] += (norm - candidates[i, t]) / (2 * ticks)
                hits[i] += (candidates[i, t] == values.max()) / (2 * ticks)
    return loss, hits


@pytest.mark.parametrize("same_window", [False, True])
def test_ticks_are_told_from_those_of_other_windows(same_window):
    features = make_features(batch=B, ticks=T, mask=[True] * 4 + [False])
    term = TemporalAlignment("video", "current", same_window=same_window)
    loss, metrics = term.apply({}, features, train=True)
    expected, hits = _expected(features, same_window=same_window)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["tick_accuracy"], hits, atol=1e-6)
    candidates = 4 * T if same_window else 3 * T + 1
    assert float(metrics["tick_loss_uniform"]) == pytest.approx(np.log(candidates))


def test_near_windows_of_a_recording_are_no_negatives():
    features = make_features(batch=B, ticks=T)
    # Windows 15 s apart, of two recordings in turn: those of one are 30 s apart.
    term = TemporalAlignment("video", "current", min_gap_s=31.0)
    expected, _ = _expected(
        features, apart=lambda i, j: (i - j) % 2 or 15 * abs(i - j) >= 31
    )
    np.testing.assert_allclose(term.apply({}, features, train=True)[0], expected, 1e-5)


def test_some_ticks_are_drawn_in_training_and_evenly_spaced_otherwise():
    features = make_features(batch=B, ticks=T)
    term = TemporalAlignment("video", "current", ticks_per_window=3)

    def loss(seed=None):
        rngs = None if seed is None else {"ticks": jax.random.key(seed)}
        return np.asarray(
            term.apply({}, features, train=rngs is not None, rngs=rngs)[0]
        )

    def of(ticks):
        semantic = {m: z[:, ticks] for m, z in features.semantic.items()}
        return _expected(features.replace(semantic=semantic))[0]

    np.testing.assert_allclose(loss(), of([0, 2, 4]), rtol=1e-5)
    drawn = loss(0)
    assert not np.allclose(drawn, loss(1))
    np.testing.assert_array_equal(drawn, loss(0))


def test_more_ticks_than_a_window_has_are_refused():
    term = TemporalAlignment("video", "current", ticks_per_window=T + 1)
    with pytest.raises(ValueError, match="from 1 to the ticks of a window, 7; got 8"):
        term.apply({}, make_features(ticks=T), train=False)


def test_a_learned_temperature_starts_where_clip_does():
    term = TemporalAlignment("video", "current", temperature=None)
    features = make_features(batch=B, ticks=T)
    variables = term.init(jax.random.key(0), features, train=False)
    _, metrics = term.apply(variables, features, train=False)
    assert float(metrics["tick_scale"]) == pytest.approx(1 / 0.07, rel=1e-3)
    assert reached(term, features) == {"semantic/video", "semantic/current"}
