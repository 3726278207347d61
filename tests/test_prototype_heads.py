"""Prototype heads: their formulas, what must change nothing, and episodes."""

import jax
import numpy as np
import optax
import pytest
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.metrics import log_loss

from fmalign_jax.evaluation import heads, prototype_heads
from fmalign_jax.evaluation.heads import HeadSpec

PLAIN = HeadSpec(kind="prototypes")
BY_RECORDING = HeadSpec(kind="prototypes", per="recording")
EPISODIC = HeadSpec(kind="episodic")


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch):
    """As many as are needed to learn what lies apart."""
    monkeypatch.setattr(prototype_heads, "EPISODES", 60)
    prototype_heads._taught.clear_cache()


def _windows(n=120, classes=3, width=6, recordings=4, apart=1.0, seed=0):
    """Features whose first entries name the class; recordings are moved."""
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, classes, n), np.arange(n) * recordings // n
    x = rng.normal(size=(n, 5, width))
    x[np.arange(n), :, labels] += apart
    x += rng.normal(size=(recordings, width))[groups][:, None]
    return x.astype(np.float32), labels, groups


def _fit(spec, features, labels, groups, *, classes=3, seed=0):
    return heads.fit(spec, features, labels, classes=classes, groups=groups, seed=seed)


def test_plain_prototypes_are_a_linear_rule():
    features, labels, groups = _windows()
    x = features.mean(axis=1).astype(np.float64)
    c = np.stack([x[labels == k].mean(axis=0) for k in range(3)])
    s = np.square(x - c[labels]).sum(axis=1).mean()
    expected = softmax(x @ (2 * c / s).T - np.square(c).sum(axis=1) / s, axis=1)
    found = _fit(PLAIN, features, labels, groups).predict(features)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_class_has_a_prototype_in_every_recording_with_five_windows_of_it():
    features, labels, groups = _windows(n=200, recordings=3)
    # Recording 2 has four windows of class 1; class 2 has four in each recording.
    for group, k in ((2, 1), (0, 2), (1, 2), (2, 2)):
        rows = np.flatnonzero((groups == group) & (labels == k))
        labels[rows[4:]] = 0
    x = features.mean(axis=1).astype(np.float64)
    prototypes = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    rows = [(labels == k) & (groups == r) for k, r in prototypes] + [labels == 2]
    c = np.stack([x[own].mean(axis=0) for own in rows])
    owner = np.array([0, 0, 0, 1, 1, 2])
    s = np.mean(
        np.concatenate(
            [
                np.square(x[own] - one).sum(axis=1)
                for own, one in zip(rows, c, strict=True)
            ]
        )
    )
    near = -np.square(x[:, None] - c).sum(axis=-1) / s
    scores = [
        logsumexp(near[:, owner == k], axis=1) - np.log((owner == k).sum())
        for k in range(3)
    ]
    head = _fit(BY_RECORDING, features, labels, groups)
    expected = softmax(np.stack(scores, axis=1), axis=1)
    np.testing.assert_allclose(head.predict(features), expected, rtol=1e-5)


def test_a_class_does_not_gain_from_having_more_prototypes():
    """20 prototypes against 5, all drawn alike: not many more answers."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 5)
    labels = (groups >= 20).astype(int)
    features = np.repeat(rng.normal(size=(25, 8)), 5, axis=0)[:, None]
    features = features + rng.normal(size=features.shape)
    head = _fit(BY_RECORDING, features, labels, groups, classes=2)
    said = head.predict(rng.normal(size=(4000, 1, 8)))
    assert 0.3 < (said.argmax(axis=1) == 0).mean() < 0.7


def test_of_one_recording_both_forms_are_the_same():
    features, labels, _ = _windows(recordings=1)
    alike = np.zeros(len(labels), int)
    plain, apart = (
        _fit(spec, features, labels, alike).predict(features)
        for spec in (PLAIN, BY_RECORDING)
    )
    np.testing.assert_array_equal(plain, apart)
    for spec in (PLAIN, BY_RECORDING):
        several = _windows(recordings=3)[2]
        other = _fit(spec, features, labels, several).predict(features)
        assert np.array_equal(other, plain) == (spec is PLAIN)


@pytest.mark.parametrize("spec", [PLAIN, BY_RECORDING])
def test_the_order_of_recordings_changes_nothing(spec):
    features, labels, groups = _windows()
    moved = np.array([2, 0, 3, 1])[groups]
    order = np.argsort(moved, kind="stable")
    once = _fit(spec, features, labels, groups).predict(features)
    again = _fit(spec, features[order], labels[order], moved[order]).predict(features)
    np.testing.assert_allclose(again, once, rtol=1e-5)


# Episodes


@pytest.mark.parametrize("per", prototype_heads.PER)
def test_episodes_teach_classes_that_lie_apart(per):
    features, labels, groups = _windows(n=160, apart=4.0)
    others, true, _ = _windows(n=160, apart=4.0, recordings=2, seed=3)
    head = _fit(HeadSpec(kind="episodic", per=per), features, labels, groups, classes=4)
    said = head.predict(others)
    assert (said.argmax(axis=1) == true).mean() > 0.85
    assert not (said.argmax(axis=1) == 3).any()  # a class without windows
    np.testing.assert_allclose(said.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(head.traced)(others), said, atol=1e-5)


def test_what_tells_recordings_apart_is_unlearnt():
    """The class lies along one channel, and others move with the recording."""
    rng = np.random.default_rng(0)

    def windows(recordings):
        groups = np.repeat(np.arange(recordings), 40)
        labels = rng.integers(0, 2, len(groups))
        x = 6 * rng.normal(size=(recordings, 8))[groups]
        x[:, 0] = labels + 0.3 * rng.normal(size=len(groups))
        # In each recording the class comes with another shift of all others.
        x[:, 1:] += (
            (labels[:, None] - 0.5) * 4 * rng.normal(size=(recordings, 7))[groups]
        )
        return x[:, None].astype(np.float32), labels, groups

    seen, unseen = windows(6), windows(6)
    right = [
        (_fit(spec, *seen, classes=2).predict(unseen[0]).argmax(axis=1) == unseen[1])
        for spec in (PLAIN, EPISODIC)
    ]
    assert right[1].mean() > right[0].mean()


def test_the_same_seed_gives_the_same_map_and_another_seed_another():
    features, labels, groups = _windows()
    one, same, other = (
        _fit(EPISODIC, features, labels, groups, seed=seed).predict(features)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("recordings", [2, 5])
def test_episodes_ask_of_other_recordings(recordings):
    _, labels, groups = _windows(recordings=recordings)
    labels[(labels == 2) & (groups > 0)] = 1  # class 2 is in one recording alone
    found = prototype_heads._episodes(labels, groups, seed=0)
    assert found.support.shape == (60, 3, 5)
    assert found.queries.shape == (60, 3, 15)
    assert found.asked[:, :2].all()
    assert not found.asked[:, 2].any()
    for support, queries in zip(found.support, found.queries, strict=True):
        for k in range(2):
            assert set(labels[support[k]]) == set(labels[queries[k]]) == {k}
        first, other = groups[support[:2]], groups[queries[:2]]
        assert not set(first.ravel()) & set(other.ravel())
    assert len({tuple(own) for own in found.support[:, 0]}) > 30


def test_the_map_is_what_adam_makes_of_the_episodes(monkeypatch):
    """Three steps, with the gradient of a loss that is written out."""
    monkeypatch.setattr(prototype_heads, "EPISODES", 3)
    rates = (prototype_heads._LEARNING_RATE, prototype_heads._WEIGHT_DECAY)
    assert rates == (1e-3, 1e-2)
    # Of three steps a decay of 0.01 would not be seen.
    monkeypatch.setattr(prototype_heads, "_WEIGHT_DECAY", 5.0)
    features, labels, groups = _windows(recordings=3)
    pooled = features.mean(axis=1)
    found = prototype_heads._episodes(labels, groups, seed=0)
    episodes = (found.support, found.queries, found.asked)
    kernel = jax.nn.initializers.lecun_normal()(jax.random.key(5), (6, 32))

    def loss(kernel, support, queries):
        mapped = pooled @ kernel
        centres = mapped[support].mean(axis=1)
        squared = ((mapped[queries][:, :, None] - centres) ** 2).sum(axis=-1)
        own = jax.nn.log_softmax(-squared)
        return -sum(own[k, :, k].mean() for k in range(3)) / 3

    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, 3), weight_decay=5.0)
    state = optimizer.init(kernel)
    for support, queries, asked in zip(*episodes, strict=True):
        assert asked.all()
        gradient = jax.grad(loss)(kernel, support, queries)
        updates, state = optimizer.update(gradient, state, kernel)
        kernel = optax.apply_updates(kernel, updates)
    result = prototype_heads._taught(jax.random.key(5), pooled, episodes)
    np.testing.assert_allclose(result, kernel, atol=2e-5)


def test_of_unrelated_features_nothing_is_learnt_for_new_recordings():
    features, labels, groups = _windows(n=300, classes=2, width=16, apart=0.0)
    others, true, _ = _windows(n=300, classes=2, width=16, apart=0.0, seed=9)
    said = _fit(EPISODIC, features, labels, groups, classes=2).predict(others)
    assert log_loss(true, said) == pytest.approx(np.log(2), abs=0.1)


def test_gradients_are_finite_of_a_class_that_is_not_asked():
    features, labels, groups = _windows()
    labels[(labels == 2) & (groups > 0)] = 1
    said = _fit(EPISODIC, np.zeros_like(features), labels, groups).predict(features)
    assert np.isfinite(said).all()
    np.testing.assert_allclose(
        log_softmax(np.log(said), axis=1), np.log(said), atol=1e-9
    )


@pytest.mark.parametrize("groups", [np.zeros(40, int), np.arange(40) % 2])
def test_episodes_need_two_classes_in_two_recordings(groups):
    features = np.ones((40, 2, 3), np.float32)
    assert not prototype_heads.can_be_asked(np.arange(40) % 2, groups)
    with pytest.raises(ValueError, match="two classes that occur in two of them each"):
        _fit(EPISODIC, features, np.arange(40) % 2, groups, classes=2)
