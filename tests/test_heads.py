"""Heads on made-up features: what they learn, and what they must not learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from fmalign_jax.evaluation import heads
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.linear_head import PooledLinear, class_weights

KINDS = [
    HeadSpec(kind="logistic"),
    HeadSpec(kind="logistic", pooling="max", l2=(0.01,), balanced=True),
    HeadSpec(kind="linear", steps=150, batch_size=32, learning_rate=5e-3),
    HeadSpec(kind="linear", pooling="mean", steps=150, learning_rate=5e-3),
    HeadSpec(kind="linear", pooling="last", steps=150, balanced=True),
    HeadSpec(kind="prototypes", pooling="mean"),
    HeadSpec(kind="prototypes", per="recording"),
    HeadSpec(kind="neighbours", pooling="mean", neighbours=(3,)),
]


def _features(labels, *, seed=0, ticks=5, width=6, apart=3.0):
    """Features whose first entries name the class."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(labels), ticks, width)).astype(np.float32)
    x[np.arange(len(labels)), :, labels] += apart
    return x


def _labels(n, classes=3, seed=1):
    return np.random.default_rng(seed).integers(0, classes, n)


def _fit(spec, features, labels, *, classes=3, groups=None, seed=0):
    groups = np.arange(len(labels)) % 4 if groups is None else groups
    return heads.fit(spec, features, labels, classes=classes, groups=groups, seed=seed)


def _balanced_accuracy(head, features, labels):
    predicted = head.predict(features).argmax(axis=1)
    return np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)])


@pytest.mark.parametrize("spec", KINDS)
def test_every_kind_learns_classes_that_lie_apart(spec):
    labels, others = _labels(120), _labels(90, seed=2)
    head = _fit(spec, _features(labels), labels)
    unseen = _features(others, seed=3)
    assert _balanced_accuracy(head, unseen, others) > 0.9
    probability = head.predict(unseen)
    assert probability.shape == (90, 3)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("spec", KINDS)
def test_shuffled_labels_give_chance(spec):
    # Classes lie apart, so each head maps them to classes at random: many are needed.
    labels, others = _labels(120), _labels(120, seed=2)
    found = []
    for seed in range(12):
        shuffled = np.random.default_rng(seed).permutation(labels)
        head = _fit(spec, _features(labels, apart=1.0), shuffled)
        unseen = _features(others, seed=3, apart=1.0)
        found.append(_balanced_accuracy(head, unseen, others))
    assert np.mean(found) == pytest.approx(1 / 3, abs=0.12)


@pytest.mark.parametrize("spec", KINDS)
def test_the_same_seed_gives_the_same_head(spec):
    labels = _labels(60)
    features = _features(labels, apart=1.0)
    once, again = (_fit(spec, features, labels).predict(features) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    if spec.kind == "linear":
        other = _fit(spec, features, labels, seed=1).predict(features)
        assert not np.array_equal(once, other)


@pytest.mark.parametrize("spec", KINDS)
def test_a_class_without_windows_is_never_predicted(spec):
    labels = np.where(_labels(80) == 1, 2, _labels(80))  # 0 and 2
    head = _fit(spec, _features(labels), labels)
    assert not (head.predict(_features(labels, seed=5)).argmax(axis=1) == 1).any()


@pytest.mark.parametrize("spec", KINDS)
def test_features_that_are_all_alike_give_probabilities(spec):
    features = np.ones((20, 4, 6), np.float32)
    probability = _fit(spec, features, np.arange(20) % 2, classes=2).predict(features)
    assert np.isfinite(probability).all()
    np.testing.assert_allclose(probability, probability[:1].repeat(20, axis=0))


@pytest.mark.parametrize("pooling", heads.POOLINGS)
def test_the_published_head_is_linear_pooling_linear(pooling):
    features = np.random.default_rng(0).normal(size=(7, 5, 4)).astype(np.float32)
    module = PooledLinear(3, pooling)
    params = module.init(jax.random.key(0), jnp.asarray(features))["params"]
    inner, outer = (
        {k: np.asarray(v) for k, v in params[name].items()}
        for name in ("inner", "outer")
    )
    hidden = features @ inner["kernel"] + inner["bias"]
    pooled = {
        "max": hidden.max(axis=1),
        "mean": hidden.mean(axis=1),
        "last": hidden[:, -1],
    }[pooling]
    np.testing.assert_allclose(
        module.apply({"params": params}, jnp.asarray(features)),
        pooled @ outer["kernel"] + outer["bias"],
        rtol=1e-4,
        atol=1e-5,
    )
    assert inner["kernel"].shape == (4, 4)


@pytest.mark.parametrize("l2", [0.02, 2.0])
def test_logistic_minimises_mean_cross_entropy_and_the_penalty(l2):
    labels = _labels(60)
    features = _features(labels, apart=0.7, width=4)
    x, truth = features.mean(axis=1).astype(float), np.eye(3)[labels]

    def loss(flat):
        weights = flat[:12].reshape(4, 3)
        log_p = log_softmax(x @ weights + flat[12:], axis=1)
        return -(truth * log_p).sum(axis=1).mean() + l2 / 2 * (weights**2).sum()

    found = minimize(loss, np.zeros(15), method="BFGS", options={"gtol": 1e-7}).x
    expected = softmax(x @ found[:12].reshape(4, 3) + found[12:], axis=1)
    spec = HeadSpec(kind="logistic", l2=(l2,))
    probability = _fit(spec, features, labels).predict(features)
    np.testing.assert_allclose(probability, expected, atol=2e-3)


def test_prototypes_answer_the_nearest_class_mean():
    labels = _labels(50)
    features = _features(labels, apart=0.5)
    spec = HeadSpec(kind="prototypes", pooling="mean")
    pooled = features.mean(axis=1)
    means = np.stack([pooled[labels == c].mean(axis=0) for c in range(3)])
    distance = np.square(pooled[:, None] - means[None]).sum(axis=-1)
    probability = _fit(spec, features, labels).predict(features)
    np.testing.assert_array_equal(
        probability.argsort(axis=1)[:, ::-1], distance.argsort(axis=1)
    )


def test_the_nearest_neighbour_of_a_window_is_itself():
    labels = _labels(40)
    features = _features(labels, apart=0.0)
    spec = HeadSpec(kind="neighbours", pooling="last", neighbours=(1,))
    found = _fit(spec, features, labels).predict(features)
    np.testing.assert_array_equal(found.argmax(axis=1), labels)


def test_settings_are_chosen_by_whole_groups():
    # Windows of a group are copies. Divided, one neighbour would be always right.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(120), 5)
    state = rng.integers(0, 2, 120)
    heard = np.where(rng.uniform(size=120) < 0.3, 1 - state, state)  # noisy labels
    centres = rng.normal(size=(120, 4)) * 0.2
    centres[:, 0] += 3 * state
    features = np.repeat(centres, 5, axis=0)[:, None].astype(np.float32)
    spec = HeadSpec(kind="neighbours", pooling="mean", neighbours=(1, 45))
    head = _fit(spec, features, heard[groups], classes=2, groups=groups)
    assert head.chosen["neighbours"] == 45
    one, many = head.chosen["choice"]
    assert one < many < 0.85


def test_one_candidate_needs_no_choice():
    labels = _labels(30)
    head = _fit(HeadSpec(), _features(labels), labels, groups=np.zeros(30, int))
    assert head.chosen == {"l2": 0.2}


def test_class_weights_balance_the_classes():
    labels = np.array([0, 0, 0, 1])
    weights = class_weights(labels, 3, balanced=True)
    assert weights[labels].mean() == pytest.approx(1)
    assert 3 * weights[0] == pytest.approx(weights[1])
    assert class_weights(labels, 3, balanced=False).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ["logistic", "linear"])
def test_balanced_weights_raise_the_recall_of_a_rare_class(kind):
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=300) < 0.1).astype(int)
    features = _features(labels, apart=0.4, width=4)
    recalls = []
    for balanced in (False, True):
        spec = HeadSpec(kind=kind, steps=100, balanced=balanced)
        found = _fit(spec, features, labels, classes=2).predict(features)
        recalls.append((found.argmax(axis=1) == 1)[labels == 1].mean())
    assert recalls[1] > recalls[0] + 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "forest"}, "head.kind must be one of logistic"),
        ({"per": "furnace"}, "head.per must be one of class, recording; got 'furnace'"),
        ({"pooling": "median"}, "head.pooling must be one of max"),
        ({"neighbours": ()}, "head.neighbours must give one value or more"),
        ({"neighbours": (0,)}, "each at least 1; got"),
        ({"l2": (0.1, 0.0)}, "head.l2 must give one value or more"),
        ({"steps": 0}, "must be at least 1"),
    ],
)
def test_faulty_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HeadSpec(**settings)


def test_a_head_needs_two_classes():
    with pytest.raises(ValueError, match="at least two classes; got 10 windows of 1"):
        _fit(HeadSpec(), np.ones((10, 2, 3), np.float32), np.ones(10, int))


def test_a_choice_needs_two_groups():
    labels = _labels(30)
    spec = HeadSpec(kind="neighbours", neighbours=(1, 3))
    with pytest.raises(ValueError, match="got 1 of them"):
        _fit(spec, _features(labels), labels, groups=np.zeros(30, int))


TWO_CLASSES = [HeadSpec(kind=kind, steps=50) for kind in ("logistic", "linear")]


@pytest.mark.parametrize("spec", [s for s in KINDS if s.kind != "neighbours"])
def test_what_is_exported_says_the_same(spec):
    labels = _labels(120)
    head = _fit(spec, _features(labels, apart=1.0), labels, classes=4)  # one is absent
    unseen = _features(_labels(40, seed=2), seed=3, apart=1.0)
    found = jax.jit(head.traced)(unseen)
    np.testing.assert_allclose(found, head.predict(unseen), atol=3e-6)


@pytest.mark.parametrize("spec", TWO_CLASSES)
def test_what_is_exported_says_the_same_of_two_classes(spec):
    labels = _labels(120, classes=2)
    head = _fit(spec, _features(labels, apart=1.0), labels, classes=2)
    found = jax.jit(head.traced)(_features(labels, seed=3, apart=1.0))
    expected = head.predict(_features(labels, seed=3, apart=1.0))
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_neighbours_cannot_be_exported():
    labels = _labels(30)
    assert _fit(HeadSpec(kind="neighbours"), _features(labels), labels).traced is None
