"""CLMLF: fusion of what is there, its contrasts, and its form without labels."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from system_cases import CONFIGS

from fmalign_jax import losses
from fmalign_jax.evaluation.labelled_windows import window_labels
from fmalign_jax.objectives.classification import Classification
from fmalign_jax.objectives.data_contrast import DataContrast, Projection
from fmalign_jax.objectives.label_contrast import LabelContrast
from fmalign_jax.objectives.window_classes import over_counted, window_class
from fmalign_jax.systems.clmlf import AttentionPool
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import make_system

WIDTH, TICKS = 16, 8


def _system(form):
    config = tiny.tiny_config()
    CONFIGS.clmlf_pairs(config)
    config.model.form = form
    return make_system(config)


@pytest.fixture(scope="module")
def inputs():
    streams = tiny.random_batch(tiny.tiny_config())["streams"]
    return {
        "video": jnp.asarray(streams["video"], jnp.float32) / 74.0,
        "current": jnp.asarray(streams["current"]),
    }


@pytest.fixture(scope="module")
def dropout(inputs):
    """The form with all views, and its parameters; the others have the same."""
    system = _system("dropout")
    init = jax.jit(functools.partial(system.init, train=False, method="semantic"))
    return system, init(jax.random.key(0), inputs)


def _apply(system, variables, inputs, train=False):
    """Returns all views of windows."""
    rngs = {"dropout": jax.random.key(1)} if train else None
    apply = functools.partial(system.apply, train=train, rngs=rngs, method="semantic")
    return jax.jit(apply)(variables, inputs)


def _tokens(rng, modalities):
    shape = (4, TICKS, WIDTH)
    return {m: jnp.asarray(rng.normal(size=shape), jnp.float32) for m in modalities}


# Fusion


def test_tokens_that_are_not_shown_change_nothing(dropout):
    """Whatever they hold, and as if the network had none of them."""
    system, variables = dropout
    tokens = _tokens(np.random.default_rng(0), ("current", "video"))
    shown = {"current": jnp.array([True, False, True, True])}
    shown["video"] = jnp.array([True, True, False, True])

    def fused(tokens, shown):
        return system.apply(variables, tokens, shown, train=False, method="fuse")

    found = fused(tokens, shown)
    for other in (1e6, np.nan):
        changed = {
            m: jnp.where(shown[m][:, None, None], x, other) for m, x in tokens.items()
        }
        np.testing.assert_array_equal(found, fused(changed, shown))
    both = fused(tokens, None)
    np.testing.assert_allclose(found[::3], both[::3], atol=1e-5)
    for row, m in ((1, "video"), (2, "current")):
        alone = fused({m: tokens[m]}, None)
        np.testing.assert_allclose(found[row], alone[row], atol=1e-5)
        assert np.abs(found[row] - both[row]).max() > 1e-3


def test_every_tick_sees_every_other_of_both_modalities(dropout, inputs):
    system, variables = dropout

    def fused(inputs):
        return _apply(system, variables, inputs)["fused"]

    before = fused(inputs)
    for m in inputs:
        changed = {**inputs, m: inputs[m].at[:, 0].multiply(-1.0)}
        assert np.abs(fused(changed) - before).max() > 1e-4


def test_the_ticks_of_a_window_have_an_order(dropout, inputs):
    system, variables = dropout

    def alone(video):
        return _apply(system, variables, {"video": video})["video"]

    last_first = inputs["video"][:, ::-1]
    assert np.abs(alone(last_first) - alone(inputs["video"])).max() > 1e-3


@pytest.mark.parametrize(
    ("form", "views"),
    [
        ("fused", {"fused"}),
        ("dropout", {"video", "current", "fused"}),
        ("pairs", {"video", "current"}),
    ],
)
def test_the_forms_differ_in_their_views_alone(form, views, dropout, inputs):
    whole, variables = dropout
    system = _system(form)
    assert set(system.views) == views
    found, expected = (_apply(one, variables, inputs) for one in (system, whole))
    assert set(found) == views
    for name in views:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
        assert found[name].shape == (8, 1, WIDTH)


def test_in_training_a_window_shows_both_modalities_or_one(inputs, dropout):
    """All equally likely; as with dropout, not in evaluation."""
    _, variables = dropout
    still = _system("dropout").clone(dropout=0.0)
    many = {m: jnp.repeat(x[:1], 300, axis=0) for m, x in inputs.items()}
    plain = _apply(still, variables, many)
    drawn = _apply(still, variables, many, train=True)
    kinds = [
        np.abs(drawn["fused"] - plain[name]).max(axis=(1, 2)) < 1e-4
        for name in ("fused", "video", "current")
    ]
    assert np.stack(kinds).sum(axis=0).tolist() == [1] * 300
    np.testing.assert_allclose(np.mean(kinds, axis=1), 1 / 3, atol=0.08)
    np.testing.assert_allclose(drawn["video"], plain["video"], atol=1e-5)


def test_an_unknown_form_is_refused(inputs):
    system = _system("pears")
    with pytest.raises(ValueError, match=r"model\.form must be one of fused, dropout"):
        system.init(jax.random.key(0), inputs, train=False, method="semantic")


def test_layers_of_a_modality_that_there_is_not_are_refused(inputs):
    system = _system("pairs").clone(own_layers={"vido": 1})
    with pytest.raises(ValueError, match=r"model\.own_layers may name only .*'vido'"):
        system.init(jax.random.key(0), inputs, {}, jnp.ones(8, bool), train=False)


def test_weights_of_the_pooling_sum_to_one_over_what_is_there():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 6, WIDTH)), jnp.float32)
    present = jnp.asarray(rng.random((3, 6)) < 0.5).at[:, 0].set(True)
    pool = AttentionPool()
    variables = pool.init(jax.random.key(0), x, present)
    pooled, weights = pool.apply(variables, x, present)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(weights[~present], 0.0)
    assert (weights[present] > 0).all()
    np.testing.assert_allclose(
        pooled, (np.asarray(weights)[..., None] * x).sum(axis=1), rtol=1e-5, atol=1e-6
    )


# The contrast by labels


def _looped(logits, label):
    """LBCL as it is written, window by window."""
    values = []
    for i in range(len(label)):
        others = [a for a in range(len(label)) if a != i and label[a] >= 0]
        positive = [p for p in others if label[p] == label[i] >= 0]
        total = np.log(sum(np.exp(logits[i, a]) for a in others) if others else 1.0)
        shares = [logits[i, p] - total for p in positive]
        values.append(-np.mean(shares) if positive else 0.0)
    return np.array(values)


@pytest.mark.parametrize("seed", range(4))
def test_the_contrast_by_labels_is_its_formula(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(9, 9)) * 3
    label = rng.integers(-1, 3, 9)
    found, counted = losses.label_contrast(
        jnp.asarray(logits, jnp.float32), jnp.asarray(label)
    )
    np.testing.assert_allclose(found, _looped(logits, label), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        counted, [y >= 0 and (label == y).sum() > 1 for y in label]
    )


def test_names_of_classes_do_not_matter_to_it():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(8, 8)), jnp.float32)
    label = rng.integers(0, 3, 8)
    expected, _ = losses.label_contrast(logits, jnp.asarray(label))
    for names in itertools.permutations((0, 5, 2)):
        renamed, _ = losses.label_contrast(logits, jnp.asarray(np.array(names)[label]))
        np.testing.assert_array_equal(renamed, expected)


def test_windows_of_unknown_class_are_not_even_negatives():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(6, 6)), jnp.float32)
    label = jnp.array([0, 0, 1, 1, -1, -1])
    found, _ = losses.label_contrast(logits, label)
    without, _ = losses.label_contrast(logits[:4, :4], label[:4])
    np.testing.assert_allclose(found[:4], without, rtol=1e-6)
    np.testing.assert_array_equal(found[4:], 0.0)


def test_without_two_windows_of_a_class_it_is_nothing():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)), jnp.float32)

    def total(logits, label):
        return losses.label_contrast(logits, label)[0].sum()

    for label in (jnp.arange(5), jnp.full(5, -1)):
        value, gradient = jax.value_and_grad(total)(logits, label)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0.0)


def test_perfect_separation_leaves_the_logarithm_of_the_partners():
    label = jnp.arange(32) % 2
    f = jnp.eye(2)[label]
    logits = losses.cosine_logits(f, f, 0.07)
    found, _ = losses.label_contrast(logits, label)
    np.testing.assert_allclose(found, np.log(15), atol=1e-4)


# The terms


def _features(label, mask=None, rows=None):
    rng = np.random.default_rng(1)
    label = jnp.asarray(label, jnp.int32)
    f = rng.normal(size=(len(label), 1, WIDTH)) if rows is None else rows
    mask = jnp.ones(len(label), bool) if mask is None else jnp.asarray(mask)
    f = jnp.asarray(f, jnp.float32)
    return Features(inputs={}, semantic={"fused": f}, mask=mask, label=label)


def test_the_class_of_a_window_is_that_of_the_evaluation():
    rng = np.random.default_rng(0)
    ticks = rng.integers(-1, 3, (200, 5))
    found = window_class(_features(ticks))
    np.testing.assert_array_equal(found, window_labels(ticks, 3))
    padded = window_class(_features(ticks, mask=np.arange(200) < 150))
    np.testing.assert_array_equal(padded[150:], -1)


def test_windows_that_count_stand_for_the_others():
    counted, mask = jnp.array([1, 1, 0, 0], bool), jnp.array([1, 1, 1, 0], bool)
    found = over_counted(jnp.array([1.0, 2.0, 9.0, 9.0]), counted, mask)
    np.testing.assert_allclose(found[:3].mean(), 1.5)
    np.testing.assert_array_equal(found[2:], 0.0)


def test_the_term_is_the_mean_over_windows_with_partners():
    label = np.repeat([[0], [0], [1], [1], [2], [-1]], 3, axis=1)
    features = _features(label)
    loss, metrics = LabelContrast().apply({}, features, train=True)
    f = np.asarray(features.semantic["fused"][:, 0], np.float64)
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    expected = _looped(unit @ unit.T / 0.07, label[:, 0])
    np.testing.assert_allclose(loss.mean(), expected[:4].mean(), rtol=1e-5)
    nearest = np.where(np.eye(6) + (label[:, 0] < 0) > 0, -9, unit @ unit.T).argmax(1)
    right = [label[nearest[i], 0] == label[i, 0] for i in range(5)]
    np.testing.assert_allclose(metrics["label_accuracy"].mean(), np.mean(right))


def test_the_classifier_learns_from_windows_of_known_class_alone():
    label = np.repeat([[0], [1], [-1], [1]], 3, axis=1)
    features = _features(label)
    term = Classification(classes=3)
    variables = term.init(jax.random.key(0), features, train=False)
    loss, metrics = term.apply(variables, features, train=False)
    kept = np.array([0, 1, 3])
    known = _features(label[kept], rows=features.semantic["fused"][kept])
    alone, of_known = term.apply(variables, known, train=False)
    np.testing.assert_allclose(loss.mean(), alone.mean(), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["class_accuracy"].mean(), of_known["class_accuracy"].mean(), rtol=1e-6
    )

    def total(rows):
        changed = dataclasses.replace(features, semantic={"fused": rows})
        return term.apply(variables, changed, train=False)[0].sum()

    gradient = jax.grad(total)(features.semantic["fused"])
    np.testing.assert_array_equal(gradient[2], 0.0)
    assert (np.abs(gradient[kept]).max(axis=(1, 2)) > 0).all()


def test_labels_that_were_not_passed_are_missed():
    features = dataclasses.replace(_features(np.zeros((4, 3))), label=None)
    with pytest.raises(ValueError, match="needs labels; got features without"):
        LabelContrast().apply({}, features, train=True)


def test_the_contrast_of_views_is_infonce_through_two_networks():
    features = _features(np.zeros((5, 3)))
    second = jnp.flip(features.semantic["fused"], axis=-1)
    features = dataclasses.replace(features, second_view={"fused": second})
    term = DataContrast(second_views=("fused",))
    variables = term.init(jax.random.key(0), features, train=False)
    assert set(variables["params"]) == {"first_fused", "second_fused"}
    loss, metrics = term.apply(variables, features, train=True)
    first, other = (
        np.asarray(
            Projection().apply({"params": variables["params"][name]}, views[:, 0]),
            np.float64,
        )
        for name, views in (
            ("first_fused", features.semantic["fused"]),
            ("second_fused", second),
        )
    )
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, other))
    s = a @ b.T / 0.07
    rows, columns = (np.log(np.exp(x).sum(axis=1)) - np.diag(x) for x in (s, s.T))
    np.testing.assert_allclose(loss, (rows + columns) / 2, rtol=1e-4)
    own = s.argmax(axis=1) == np.arange(5)
    np.testing.assert_array_equal(metrics["data_accuracy/fused"], own)
