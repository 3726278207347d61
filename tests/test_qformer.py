"""The Q-Former: its three runs, wrong pairs, and its two terms, by their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fresh_parameters import fresh_parameters

from fmalign_jax import losses
from fmalign_jax.objectives.clip import Clip
from fmalign_jax.objectives.query_matching import QueryMatching
from fmalign_jax.systems import qformer
from fmalign_jax.systems.qformer import QFormer

B, T, D, QUERIES, HEADS = 4, 5, 8, 3, 2
PARTS = {"stem": {"name": "fmalign_jax.models.encoders.FeatureStem"}, "pool": None}
MASK = jnp.ones(B, bool)


def _system(**settings):
    return QFormer(
        **{
            "width": D,
            "modalities": dict.fromkeys(("video", "current"), PARTS),
            "transformer": {"layers": 0},
            "queries": QUERIES,
            "blocks": 3,
            "heads": HEADS,
            "ffn": 6,
            **settings,
        }
    )


def _inputs(seed=0):
    rng = np.random.default_rng(seed)
    return {
        m: jnp.asarray(rng.normal(size=(B, T, 1, n)), jnp.float32)
        for m, n in (("video", 6), ("current", 4))
    }


VARIABLES = fresh_parameters(_system(), _inputs(), {}, MASK, train=False)
PARAMS = jax.tree.map(np.asarray, VARIABLES["params"])


def _features(inputs=None, mask=MASK, variables=VARIABLES, **how):
    how = how or {"train": False}
    return (
        _system()
        .apply(variables, _inputs() if inputs is None else inputs, {}, mask, **how)
        .replace(recording=jnp.array([0, 0, 1, 1]), time_s=jnp.zeros((B, 2)))
    )


# By hand


def _norm(x, layer):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * layer["scale"] + layer["bias"]


def _dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def _attend(x, keys, own):
    part = own["MultiHeadDotProductAttention_0"]
    q, k, v = (
        np.einsum("bnd,dhe->bnhe", y, part[name]["kernel"]) + part[name]["bias"]
        for name, y in (("query", x), ("key", keys), ("value", keys))
    )
    scores = np.einsum("bnhe,bkhe->bhnk", q, k) / np.sqrt(D / HEADS)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhnk,bkhe->bnhe", weights, v)
    out = np.einsum("bnhe,hed->bnd", mixed, part["out"]["kernel"])
    return _norm(x + out + part["out"]["bias"], own["LayerNorm_0"])


def _feed(x, own):
    inner = np.maximum(_dense(x, own["Dense_0"]), 0)
    return _norm(x + _dense(inner, own["Dense_1"]), own["LayerNorm_0"])


def _run(queries, tokens, keys):
    """All that is there sees all of it; queries alone see the keys, in blocks 0, 2."""
    for i in range(3):
        both = np.concatenate([queries, tokens], axis=1)
        both = _attend(both, both, PARAMS[f"selves_{i}"])
        queries, tokens = both[:, : queries.shape[1]], both[:, queries.shape[1] :]
        if queries.size and i in (0, 2):
            queries = _attend(queries, keys, PARAMS[f"crosses_{i // 2}"])
        queries = _feed(queries, PARAMS[f"query_feeds_{i}"])
        tokens = _feed(tokens, PARAMS[f"token_feeds_{i}"])
    return queries, tokens


def _parts():
    """Returns queries, tokens and keys as they enter the first block."""
    place = np.asarray(qformer.sinusoids(T, D))
    x = {
        m: _dense(np.asarray(v)[:, :, 0], PARAMS[f"semantics_{m}"]["projection"])
        for m, v in _inputs().items()
    }
    keys = _norm(x["video"], PARAMS["key_norm"]) + place
    first = np.broadcast_to(PARAMS["class_token"], (B, 1, D))
    tokens = np.concatenate([first, x["current"] + place], axis=1)
    queries = np.broadcast_to(PARAMS["queries_start"], (B, QUERIES, D))
    entered = (_norm(part, PARAMS["input_norm"]) for part in (queries, tokens))
    return *entered, keys


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_three_runs_are_those_of_the_equations():
    features = _features()
    queries, tokens, keys = _parts()
    alone, _ = _run(queries, tokens[:, :0], keys)
    slots = _unit(_dense(alone, PARAMS["query_outer"]))
    np.testing.assert_allclose(features.semantic["video"], slots, atol=1e-4)
    _, alone = _run(queries[:, :0], tokens, keys)
    slot = _unit(_dense(alone[:, :1], PARAMS["token_outer"]))
    np.testing.assert_allclose(features.semantic["current"], slot, atol=1e-4)
    wrong = np.asarray(features.wrong)
    pairs = [(keys, tokens), (keys[wrong[:, 0]], tokens), (keys, tokens[wrong[:, 1]])]
    for number, (seen, own) in enumerate(pairs):
        together, _ = _run(queries, own, seen)
        logits = _dense(together, PARAMS["match_head"]).mean(axis=1)
        np.testing.assert_allclose(features.match[:, number], logits, atol=1e-4)


def test_the_order_of_ticks_is_known_by_their_positions_alone(monkeypatch):
    turned = {m: x[:, ::-1] for m, x in _inputs().items()}

    def change():
        first, second = (_features(x).semantic for x in (_inputs(), turned))
        return [float(np.abs(z - second[m]).max()) for m, z in first.items()]

    assert min(change()) > 1e-3
    monkeypatch.setattr(qformer, "sinusoids", lambda t, d: jnp.zeros((t, d)))
    assert max(change()) < 1e-5


def _drawn(mask, scale):
    """Returns 4000 draws of wrong ones [4000, B, 2], and the cosines."""
    slots, others = (_features().semantic[m] for m in ("video", "current"))

    def draw(key):
        return _system().apply(
            VARIABLES,
            slots,
            others,
            jnp.asarray(scale),
            mask,
            True,
            method="_wrong",
            rngs={"match": key},
        )

    drawn = jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000))
    return np.asarray(drawn), np.array(losses.largest_cosine(slots, others))


def test_wrong_ones_are_others_drawn_by_how_similar_they_are():
    drawn, cosine = _drawn(MASK, 3.0)
    weights = np.exp(3.0 * cosine)
    np.fill_diagonal(weights, 0)
    for side, own in enumerate((weights.T, weights)):
        share = (drawn[:, :, side, None] == np.arange(B)).mean(axis=0)
        expected = own / own.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(share, expected, atol=0.03)
        assert (np.diagonal(share) == 0.0).all()


def test_a_window_that_only_pads_is_no_wrong_one():
    drawn, _ = _drawn(jnp.arange(B) < 3, 3.0)
    assert drawn.max() == 2


def test_in_evaluation_the_most_similar_one_is_taken():
    features = _features()
    similar = np.array(
        losses.largest_cosine(features.semantic["video"], features.semantic["current"])
    )
    np.fill_diagonal(similar, -2)
    expected = np.stack([similar.argmax(axis=0), similar.argmax(axis=1)], axis=1)
    np.testing.assert_array_equal(features.wrong, expected)


def test_wrong_ones_of_a_step_are_drawn():
    keys = jax.random.split(jax.random.key(1), 20)

    @jax.jit
    def wrong(key):
        rngs = {"dropout": jax.random.key(0), "match": key}
        return _features(train=True, rngs=rngs).wrong

    assert len({np.asarray(wrong(key)).tobytes() for key in keys}) > 1


def test_one_query_without_smoothing_is_clip():
    features = _features()
    semantic = {m: z[:, :1] for m, z in features.semantic.items()}
    features = features.replace(semantic=semantic, scale=jnp.asarray(10.0))
    term = QueryMatching("video", "current", smoothing=0.0, match=0.0)
    loss, metrics = term.apply({}, features, train=False)
    clip, expected = Clip("video", "current", temperature=0.1).apply(
        {}, features, train=False
    )
    np.testing.assert_allclose(loss, clip, atol=1e-5)
    np.testing.assert_array_equal(metrics["query_accuracy"], expected["clip_accuracy"])


def test_smoothing_has_the_floor_of_its_target():
    """The loss is least where the logits are those of the target: its entropy."""
    for windows, floor in ((32, 0.651), (80, 0.754)):
        target = np.full((windows, windows), 0.1 / windows) + 0.9 * np.eye(windows)
        logits = jnp.asarray(np.log(target), jnp.float32)
        loss = losses.smoothed_info_nce(logits, smoothing=0.1)
        np.testing.assert_allclose(loss, floor, atol=1e-3)
    mask = jnp.arange(32) < 20
    inside = losses.smoothed_info_nce(logits[:20, :20], smoothing=0.1)
    padded = losses.smoothed_info_nce(logits[:32, :32], mask, smoothing=0.1)
    np.testing.assert_allclose(padded[:20], inside, rtol=1e-5)
    np.testing.assert_array_equal(padded[20:], 0.0)


def test_who_knows_the_prior_alone_matches_two_of_three():
    prior = jnp.log(jnp.array([2 / 3, 1 / 3]))
    features = _features().replace(match=jnp.broadcast_to(prior, (B, 3, 2)))
    term = QueryMatching("video", "current", contrast=0.0)
    loss, metrics = term.apply({}, features, train=False)
    np.testing.assert_allclose(loss, 0.6365, atol=1e-4)
    np.testing.assert_allclose(metrics["match_accuracy"], 2 / 3, rtol=1e-6)
    # With one window there is no wrong pair, and only its own is judged.
    one = features.replace(mask=jnp.arange(B) < 1)
    loss, _ = term.apply({}, one, train=False)
    np.testing.assert_allclose(loss, [np.log(3), 0, 0, 0], rtol=1e-5)


def test_the_way_back_is_the_transpose_and_the_query_that_is_nearest_counts():
    features = _features()
    a, b = (np.asarray(features.semantic[m]) for m in ("video", "current"))
    forth = _system().similarity(a, b)
    np.testing.assert_allclose(forth, _system().similarity(b, a).T, atol=1e-6)
    cosine = np.einsum("iqd,jd->ijq", a, b[:, 0])
    np.testing.assert_allclose(forth, cosine.max(axis=-1), atol=1e-5)


def test_wrong_pairs_are_counted_by_recording():
    wrong = jnp.array([[1, 2], [0, 3], [3, 0], [2, 2]])
    match = jnp.zeros((B, 3, 2)).at[:, 1, 0].set(1.0).at[:, 2, 1].set(1.0)
    features = _features().replace(
        wrong=wrong, match=match, mask=jnp.array([True, True, True, False])
    )
    statistics = _system().statistics(features)
    values = statistics.merge(statistics).compute()
    # The first of each row is of the own recording, and was told.
    for kind, told in (("same_recording", 0.5), ("other_recording", 0.0)):
        assert values[f"wrong_pairs/{kind}"] == 0.5
        assert values[f"wrong_pairs_told/{kind}"] == told
    assert "other_cosine/current-video" in values
    # Of one window there is no wrong pair, and no number that is none.
    alone = _system().statistics(features.replace(mask=jnp.arange(B) < 1)).compute()
    assert alone["wrong_pairs/same_recording"] == 0.0


def test_a_modality_that_nobody_asks_is_refused():
    with pytest.raises(ValueError, match=r"needs model\.queried and one modality"):
        _system(queried="sound").apply(VARIABLES, _inputs(), {}, MASK, train=False)
    features, term = _features(), QueryMatching("sound", "current")
    with pytest.raises(ValueError, match="queried and other may name only"):
        term.apply({}, features, train=False)
