"""The terms of MICU: masked contrasts and the jigsaw of code vectors."""

import itertools

import jax
import numpy as np
import pytest
from test_objectives import make_features, reached, with_params

from fmalign_jax.objectives.code_jigsaw import CodeJigsaw
from fmalign_jax.objectives.masked_contrast import MaskedContrast

TAU = 0.1


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def _info_nce(query, key):
    """By its equation, of every row."""
    logits = _unit(query) @ _unit(key).T / TAU
    return np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)


def _masked(features, keep, seed=0):
    """Applies the term in training; returns its parts and which ticks were kept."""
    key = jax.random.key(seed)
    term = MaskedContrast(keep=keep)
    _, parts = term.apply({}, features, train=True, rngs={"mask": key})
    shape = next(iter(features.semantic.values())).shape[:2]
    drawn = nn_key(term, key)
    return parts, np.asarray(jax.random.bernoulli(drawn, keep, shape))


def nn_key(term, key):
    """The key that a term draws from: Flax folds the module's path into it."""
    return term.apply({}, rngs={"mask": key}, method=lambda own: own.make_rng("mask"))


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_both_contrasts_are_those_of_the_equations(keep):
    features = make_features(batch=5, ticks=7)
    semantic = {m: np.asarray(z, np.float64) for m, z in features.semantic.items()}
    parts, kept = _masked(features, keep)
    fine, coarse = np.zeros(5), np.zeros(5)
    for asking, asked in itertools.product(semantic, semantic):
        query = kept[..., None] * semantic[asking]
        for b in range(5):
            rows = _info_nce(query[b], semantic[asked][b])
            fine[b] += rows[kept[b]].mean()
        coarse += _info_nce(query.mean(axis=1), semantic[asked].mean(axis=1))
    np.testing.assert_allclose(parts["masked_fine"], fine, rtol=1e-4)
    np.testing.assert_allclose(parts["masked_coarse"], coarse, rtol=1e-4)


def test_a_window_without_a_kept_tick_has_no_loss_and_no_gradient():
    features = make_features(batch=4, ticks=3)
    term = MaskedContrast(keep=0.2)
    key = jax.random.key(3)
    kept = jax.random.bernoulli(nn_key(term, key), 0.2, (4, 3))
    empty = ~np.asarray(kept).any(axis=1)
    assert 0 < empty.sum() < 4

    def loss(semantic):
        changed = features.replace(semantic=semantic)
        rows, _ = term.apply({}, changed, train=True, rngs={"mask": key})
        return rows[empty].sum()

    value, gradient = jax.value_and_grad(loss)(features.semantic)
    assert value == 0.0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_masks_differ_between_steps_and_are_absent_in_validation():
    features = make_features(batch=6, ticks=8)
    first, _ = _masked(features, 0.7, seed=0)
    second, _ = _masked(features, 0.7, seed=1)
    assert not np.array_equal(first["masked_fine"], second["masked_fine"])
    whole, _ = _masked(features, 1.0)
    _, seen = MaskedContrast(keep=0.7).apply({}, features, train=False)
    np.testing.assert_array_equal(seen["masked_fine"], whole["masked_fine"])


def test_the_weights_of_the_two_contrasts():
    features = make_features(batch=4)
    parts = MaskedContrast().apply({}, features, train=False)[1]
    for fine, coarse in ((1.0, 0.0), (0.0, 1.0), (0.5, 2.0)):
        loss, _ = MaskedContrast(fine=fine, coarse=coarse).apply(
            {}, features, train=False
        )
        expected = fine * parts["masked_fine"] + coarse * parts["masked_coarse"]
        np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_partners_are_found_where_modalities_agree():
    features = make_features(batch=6)
    alike = dict.fromkeys(features.semantic, features.semantic["video"])
    _, found = MaskedContrast().apply({}, features.replace(semantic=alike), train=False)
    np.testing.assert_array_equal(found["coarse_accuracy"], 1.0)


def test_the_jigsaw_shows_every_arrangement_of_the_parts():
    features = make_features(batch=3)
    term = CodeJigsaw(width=8)
    variables = with_params(term, features)
    loss, found = term.apply(variables, features, train=False)
    params = jax.tree.map(np.asarray, variables["params"])
    quantized = {m: np.asarray(z) for m, z in features.quantized.items()}
    half = quantized["video"].shape[-1] // 2
    # In validation the first part is of the first modality, the second of the second.
    pieces = [quantized["current"][..., :half], quantized["video"][..., half:]]
    expected, right = np.zeros(3), np.zeros(3)
    for j, order in enumerate([(0, 1), (1, 0)]):
        shown = np.concatenate([pieces[i] for i in order], axis=-1)
        hidden = shown @ params["hidden"]["kernel"] + params["hidden"]["bias"]
        logits = np.maximum(hidden, 0) @ params["order"]["kernel"]
        logits = logits + params["order"]["bias"]
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected -= log_p[..., j].mean(axis=1) / 2
        right += (logits.argmax(axis=-1) == j).mean(axis=1) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(found["jigsaw_accuracy"], right, rtol=1e-6)


def test_one_arrangement_leaves_nothing_to_tell():
    features = make_features(batch=3)
    term = CodeJigsaw(arrangements=1, width=4)
    loss, found = term.apply(with_params(term, features), features, train=False)
    np.testing.assert_array_equal(loss, 0.0)
    np.testing.assert_array_equal(found["jigsaw_accuracy"], 1.0)


@pytest.mark.parametrize(("parts", "arrangements"), [(4, 2), (2, 3), (2, 0)])
def test_a_jigsaw_that_cannot_be_laid_is_refused(parts, arrangements):
    features = make_features(batch=2)
    with pytest.raises(ValueError, match="parts that divide the width"):
        with_params(CodeJigsaw(parts=parts, arrangements=arrangements), features)


def test_arrangements_differ_from_each_other():
    orders = CodeJigsaw(parts=4, arrangements=9)._orders()
    assert len(np.unique(orders, axis=0)) == 9
    np.testing.assert_array_equal(np.sort(orders, axis=1), [[0, 1, 2, 3]] * 9)


def test_gradients_reach_all_modalities():
    features = make_features(batch=4)
    towers = {"semantic/current", "semantic/video"}
    assert reached(MaskedContrast(), features) == towers
    assert reached(CodeJigsaw(width=8), features) == {
        "quantized/current",
        "quantized/video",
    }
