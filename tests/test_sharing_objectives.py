"""Terms that shape what modalities share: values from NumPy, gradients as directed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_objectives import make_features, reached, with_params

from fmalign_jax import losses
from fmalign_jax.objectives.canonical import Canonical
from fmalign_jax.objectives.cwcl import Cwcl
from fmalign_jax.objectives.slow_contrast import SlowContrast
from fmalign_jax.objectives.swapped_prediction import SwappedPrediction

DIRECTED = {"current": {"video": 1.0}, "video": {"current": 0.0}}


def test_decorrelation_is_that_of_the_equation():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12, 3))
    mask = np.arange(12) < 9
    loss, own = losses.decorrelation(
        jnp.asarray(a, jnp.float32),
        jnp.asarray(b, jnp.float32),
        jnp.asarray(mask),
        off_diagonal=0.3,
    )
    c = np.corrcoef(a[mask], b[mask], rowvar=False)[:3, 3:]
    off = (c**2).sum() - (np.diag(c) ** 2).sum()
    expected = ((1 - np.diag(c)) ** 2).sum() + 0.3 * off
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(own) == pytest.approx(np.diag(c).mean(), rel=1e-4)


def test_balanced_assignments_give_every_prototype_its_share():
    scores = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    scores[:, 0] += 3  # all prefer the first
    mask = np.arange(40) < 30
    found = losses.balanced_assignments(
        jnp.asarray(scores), jnp.asarray(mask), sharpness=0.5, iterations=50
    )
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found)[mask].sum(axis=0), 30 / 4, rtol=1e-3)
    gradient = jax.grad(lambda x: losses.balanced_assignments(x).sum())(
        jnp.asarray(scores)
    )
    assert not np.any(gradient)


def test_the_canonical_term_is_directed():
    features = make_features(batch=6)
    directed = Canonical("video", "current", learns_from=DIRECTED)
    assert reached(directed, features) == {"semantic/current"}
    both = Canonical("video", "current")
    assert reached(both, features) == {"semantic/current", "semantic/video"}


def test_the_canonical_term_prefers_what_both_show():
    features = make_features(batch=64)
    state = np.random.default_rng(1).normal(size=(64, 1, 1)).astype(np.float32)
    shared = {m: z + 3 * state for m, z in features.semantic.items()}
    term = Canonical("video", "current", directions=1)
    variables = with_params(term, features)
    apart, _ = term.apply(variables, features, train=False)
    joint, found = term.apply(variables, features.replace(semantic=shared), train=False)
    turned = found["canonical_correlation"][0] > 0  # directions are not learnt here
    assert (joint[0] < apart[0]) == bool(turned)
    assert abs(float(found["canonical_correlation"][0])) > 0.5


def test_a_student_alone_moves_towards_its_teachers_prototypes():
    features = make_features(batch=6)
    term = SwappedPrediction(weights={"current": {"video": 1.0}})
    assert reached(term, features) == {"semantic/current"}
    own = SwappedPrediction(weights={"video": {"video": 1.0}}, second_views=("video",))
    assert reached(own, features, train=True) == {"second_view/video"}


def test_halves_of_a_window_are_the_positives_of_the_slow_contrast():
    features = make_features(batch=4, ticks=6)
    # Windows 15 s apart, of two recordings in turn: those of one are 30 s apart.
    loss, metrics = SlowContrast(second_views=("video",), min_gap_s=31.0).apply(
        {}, features, train=True
    )
    first, second = (
        np.array(views["video"], np.float64)
        for views in (features.semantic, features.second_view)
    )
    near = np.equal.outer(np.arange(4) % 2, np.arange(4) % 2) & ~np.eye(4, dtype=bool)
    expected = np.zeros(4)
    for early, late in ((first, second), (second, first)):
        a, b = early[:, :3].mean(axis=1), late[:, 3:].mean(axis=1)
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
        logits = np.where(near, -np.inf, a @ b.T / 0.1)
        for matrix in (logits, logits.T):
            norm = np.log(np.exp(matrix).sum(axis=1))
            expected += (norm - np.diag(matrix)) / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert metrics["slow_accuracy/video"].shape == (4,)
    silent, _ = SlowContrast(second_views=("video",)).apply({}, features, train=False)
    assert not np.any(silent)


def test_cwcl_says_how_much_of_its_weight_lies_on_the_own_pair():
    """Sharpened to 0.01 it is InfoNCE under another name; nothing said so."""
    features = make_features(batch=6, mask=[True] * 5 + [False])
    found = {}
    for temperature in (0.01, 0.3):
        term = Cwcl("video", "current", weight_temperature=temperature)
        _, metrics = term.apply({}, features, train=True)
        found[temperature] = np.asarray(metrics["cwcl_own_weight"])
        assert found[temperature][5] == 0
    weights = losses.cwcl_weights(
        features.semantic["video"].mean(axis=1),
        features.mask,
        centre=True,
        temperature=0.3,
    )
    weights = np.asarray(weights)[:5, :5]
    np.testing.assert_allclose(
        found[0.3][:5], np.diag(weights) / weights.sum(axis=1), rtol=1e-5
    )
    assert found[0.01][:5].mean() > 0.95 > found[0.3][:5].mean()
