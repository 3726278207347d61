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
        np.testing.assert_allclose(found.std(axis=0), shared.correlations, atol=1e-3)


def test_with_two_modalities_it_is_canonical_correlation_analysis():
    features, _ = planted(noise=1.0)
    shared = shared_codes.fit(features, **OPTIONS | {"directions": 6, "ridge": 1e-9})
    x, y = (features[m] - features[m].mean(axis=0) for m in ("current", "video"))
    n = len(x)
    whiten = [np.linalg.inv(np.real(sqrtm(v.T @ v / n))) for v in (x, y)]
    expected = np.linalg.svd(whiten[0] @ (x.T @ y / n) @ whiten[1])[1]
    np.testing.assert_allclose(shared.correlations, expected, atol=1e-4)
    first, second = (along(shared, m, features[m]) for m in ("current", "video"))
    cross = first.T @ second / n  # each of deviation rho
    np.testing.assert_allclose(cross, np.diag(expected**3), atol=2e-3)


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


def test_one_index_for_a_pair_is_told_by_each_modality_alone():
    features, state = planted(noise=0.8)
    shared = shared_codes.fit(features, **OPTIONS | {"student_weight": 0.5})
    for name, values in features.items():
        found = codes_of(shared, name, values)
        assert same_or_opposite(found, state) > 0.85
        # From the equation: the largest of u W + b.
        reader = np.asarray(shared.readers[name])
        scores = along(shared, name, values) @ reader[:-1] + reader[-1]
        np.testing.assert_array_equal(found, scores.argmax(axis=1))


def test_a_learnt_index_splits_less_of_what_one_modality_alone_shows():
    """Four codes of one shared bit: the nearest split noise."""
    features, _ = planted(n=2000, noise=0.8)
    agreement, chance = [], []
    for weight in (0.0, 1.0):
        shared = shared_codes.fit(
            features, **OPTIONS | {"codes": 4, "student_weight": weight}
        )
        found = [codes_of(shared, m, x) for m, x in features.items()]
        shares = [np.bincount(codes, minlength=4) / 2000 for codes in found]
        agreement.append((found[0] == found[1]).mean())
        chance.append(shares[0] @ shares[1])
    nearest, learnt = (
        (a - c) / (1 - c) for a, c in zip(agreement, chance, strict=True)
    )
    assert learnt > nearest + 0.05


def test_the_teacher_leads_where_codes_are():
    """The smaller the student's weight, the nearer the index to the teacher's own."""
    features, _ = planted(noise=1.5)
    alone = shared_codes.fit(features, **OPTIONS)
    u = along(alone, "video", features["video"])[:, 0]
    own = codes_of(alone, "video", features["video"])
    found = {}
    for weight in (0.01, 1.0):
        shared = shared_codes.place_codes(
            {m: along(alone, m, x) for m, x in features.items()},
            teacher="video",
            codes=2,
            student_weight=weight,
        )
        codes = shared_codes.assign_variates(
            shared, "video", jnp.asarray(u)[:, None, None]
        )
        found[weight] = float(
            np.asarray(shared.codes)[1, 0] - np.asarray(shared.codes)[0, 0]
        )
        assert (np.asarray(codes)[:, 0] == own).mean() > 0.95
    assert found[0.01] > 1.1 * found[1.0]


def test_more_codes_than_points_leave_the_rest_unused():
    features = {m: x[:3] for m, x in planted()[0].items()}
    for weight in (0.0, 0.5):
        shared = shared_codes.fit(
            features, **OPTIONS | {"codes": 8, "student_weight": weight}
        )
        assert shared.codes.shape == (8, 1)
        assert codes_of(shared, "video", features["video"]).max() < 3


def test_features_that_never_change_give_one_code_and_no_nan():
    features = {"video": np.ones((20, 4)), "current": np.ones((20, 4))}
    for weight in (0.0, 0.5):
        shared = shared_codes.fit(features, **OPTIONS | {"student_weight": weight})
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(shared))
        assert len(np.unique(codes_of(shared, "current", features["current"]))) == 1


def test_a_fit_has_the_shapes_of_an_empty_one():
    features, _ = planted()
    for codes, weight in ((4, 0.0), (4, 0.5), (2, 0.5)):
        sizes = {"directions": 2, "codes": codes, "student_weight": weight}
        shared = shared_codes.fit(features, **OPTIONS | sizes)
        blank = shared_codes.empty(6, modalities=features, **sizes)
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
        ({"student_weight": -0.1}, "between 0 and 1; got -0.1"),
        ({"features": {}}, "two modalities or more"),
        ({"features": {"video": np.full((3, 2), np.nan), "current": np.ones((3, 2))}},
         "are not; the run has diverged"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused(changes, message):
    options = {"features": planted()[0], **OPTIONS, **changes}
    with pytest.raises(ValueError, match=message):
        shared_codes.fit(options.pop("features"), **options)
