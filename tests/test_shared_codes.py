"""Shared codes: canonical directions and k-means, on features with a planted state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.linalg import sqrtm

from fmalign_jax.models import shared_codes

OPTIONS = {"teacher": "video", "directions": 1, "codes": 2, "ridge": 1e-3}


def planted(n=600, d=6, noise=0.5, seed=0):
    """Features of two modalities that share one of their six dimensions."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, 2, n)
    features = {}
    for name, gap in (("current", 40.0), ("video", -7.0)):
        own = rng.normal(size=(n, d)) * np.array([1, 3, 3, 5, 5, 9])[:d]
        own[:, 0] = 2 * state - 1 + noise * rng.normal(size=n)
        turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
        features[name] = own @ turn + gap
    return features, state


def codes_of(shared, name, values):
    """Returns the code of each row, each a segment of its own."""
    found = shared_codes.assign(shared, name, jnp.asarray(values)[:, None])
    return np.asarray(found)[:, 0]


def along(shared, name, values):
    return np.asarray(shared_codes.variates(shared, name, jnp.asarray(values)))


def same_or_opposite(found, truth):
    agreement = (found == truth).mean()
    return max(agreement, 1 - agreement)


def test_the_shared_state_is_found_beneath_larger_private_variance():
    features, state = planted()
    shared = shared_codes.fit(features, **OPTIONS)
    found = {name: codes_of(shared, name, x) for name, x in features.items()}
    for codes in found.values():
        assert same_or_opposite(codes, state) > 0.93
    assert (found["video"] == found["current"]).mean() > 0.9
    # A state of +-1 and noise of deviation 1/2: correlation 1 / (1 + 1/4).
    assert float(shared.correlations[0]) == pytest.approx(0.8, abs=0.04)


def test_variates_have_no_gap_between_modalities():
    features, _ = planted()
    shared = shared_codes.fit(features, **OPTIONS | {"directions": 3})
    for name, values in features.items():
        found = along(shared, name, values)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(found.std(axis=0), 1, atol=1e-3)


def test_with_two_modalities_it_is_canonical_correlation_analysis():
    features, _ = planted(noise=1.0)
    shared = shared_codes.fit(features, **OPTIONS | {"directions": 6, "ridge": 1e-9})
    x, y = (features[m] - features[m].mean(axis=0) for m in ("current", "video"))
    n = len(x)
    whiten = [np.linalg.inv(np.real(sqrtm(v.T @ v / n))) for v in (x, y)]
    expected = np.linalg.svd(whiten[0] @ (x.T @ y / n) @ whiten[1])[1]
    np.testing.assert_allclose(shared.correlations, expected, atol=1e-4)
    first, second = (along(shared, m, features[m]) for m in ("current", "video"))
    cross = first.T @ second / n
    np.testing.assert_allclose(cross, np.diag(expected), atol=2e-3)


@given(st.integers(0, 1000), st.floats(0.1, 30), st.floats(-50, 50))
@settings(max_examples=15, deadline=None)
def test_scale_turn_and_offset_of_a_modality_change_no_code(seed, scale, offset):
    rng = np.random.default_rng(seed)
    features, _ = planted(n=200, seed=seed)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    moved = features | {"current": scale * features["current"] @ turn + offset}
    shared, again = (
        shared_codes.fit(values, **OPTIONS | {"codes": 3})
        for values in (features, moved)
    )
    for name in features:
        before = codes_of(shared, name, features[name])
        assert (before == codes_of(again, name, moved[name])).mean() > 0.99


def test_three_modalities_share_one_direction():
    features, state = planted()
    rng = np.random.default_rng(9)
    text = np.stack([2 * state - 1 + 0.5 * rng.normal(size=600)] * 6, axis=1)
    text += rng.normal(size=text.shape) * 0.01
    shared = shared_codes.fit(features | {"text": text}, **OPTIONS)
    assert float(shared.correlations[0]) == pytest.approx(0.8, abs=0.04)
    assert same_or_opposite(codes_of(shared, "text", text), state) > 0.93


def test_codes_stand_in_order_and_on_the_teacher():
    features, _ = planted()
    shared = shared_codes.fit(features, **OPTIONS | {"codes": 5})
    assert (np.diff(np.asarray(shared.codes)[:, 0]) > 0).all()
    found = along(shared, "video", features["video"])
    nearest = np.abs(found - np.asarray(shared.codes)[:, 0]).argmin(axis=1)
    means = [found[nearest == k].mean() for k in range(5)]
    np.testing.assert_allclose(np.asarray(shared.codes)[:, 0], means, atol=2e-2)


def test_more_codes_than_points_leave_the_rest_unused():
    features = {m: x[:3] for m, x in planted()[0].items()}
    shared = shared_codes.fit(features, **OPTIONS | {"codes": 8})
    assert shared.codes.shape == (8, 1)
    assert codes_of(shared, "video", features["video"]).max() < 3


def test_features_that_never_change_give_one_code_and_no_nan():
    features = {"video": np.ones((20, 4)), "current": np.ones((20, 4))}
    shared = shared_codes.fit(features, **OPTIONS)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(shared))
    assert len(np.unique(codes_of(shared, "current", features["current"]))) == 1


def test_a_fit_has_the_shapes_of_an_empty_one():
    features, _ = planted()
    shared = shared_codes.fit(features, **OPTIONS | {"directions": 2, "codes": 4})
    blank = shared_codes.empty(6, modalities=features, directions=2, codes=4)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shared) == jax.tree.map(
        lambda x: (x.shape, x.dtype), blank
    )


def test_segments_are_means_of_equal_parts():
    z = jnp.arange(12.0).reshape(1, 6, 2)
    found = shared_codes.segment_means(z, 3)
    np.testing.assert_allclose(found, [[[1, 2], [5, 6], [9, 10]]])
    with pytest.raises(ValueError, match=r"must divide data\.window_ticks"):
        shared_codes.segment_means(z, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "audio"}, "the teacher 'audio'"),
        ({"directions": 7}, "between 1 and the width"),
        ({"features": {}}, "two modalities or more"),
        ({"features": {"video": np.full((3, 2), np.nan), "current": np.ones((3, 2))}},
         "are not; the run has diverged"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(changes, message):
    options = {"features": planted()[0], **OPTIONS, **changes}
    with pytest.raises(ValueError, match=message):
        shared_codes.fit(options.pop("features"), **options)
