"""The loss terms: values from NumPy, gradients only where they belong, any sharding."""

from __future__ import annotations

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fmalign_jax import losses
from fmalign_jax.models.critics import CpcNetwork
from fmalign_jax.objectives.club import Club
from fmalign_jax.objectives.code_matching import CodeMatching
from fmalign_jax.objectives.code_prediction import CodePrediction
from fmalign_jax.objectives.commitment import Commitment
from fmalign_jax.objectives.cross_cpc import CrossCpc
from fmalign_jax.objectives.cwcl import Cwcl
from fmalign_jax.objectives.reconstruction import Reconstruction
from fmalign_jax.objectives.self_contrast import SelfContrast
from fmalign_jax.objectives.total import Objectives
from fmalign_jax.objectives.triplet import Triplet
from fmalign_jax.systems.cmg import CmgFeatures
from fmalign_jax.systems.features import Features
from fmalign_jax.training import sharding

TWO = ("current", "video")
FOLDER = "fmalign_jax.objectives."
VIDEO_TEACHES = {"current": {"video": 1.0}, "video": {"current": 0.0}}
ALL_PAIRS = {m: {"current": 0.3, "video": 1.0} for m in TWO}


class LinearDecoder(nn.Module):
    @nn.compact
    def __call__(self, quantized, specific, inputs):
        x = jnp.concatenate([quantized, specific], axis=-1)
        return nn.Dense(inputs.shape[-1])(x), inputs[:, :, 0]


DECODER = {"name": f"{__name__}.LinearDecoder"}
TERMS = {
    "reconstruction": {
        "name": FOLDER + "reconstruction.Reconstruction",
        "decoders": dict.fromkeys(TWO, DECODER),
    },
    "commitment": {"name": FOLDER + "commitment.Commitment", "weights": ALL_PAIRS},
    "code_matching": {"name": FOLDER + "code_matching.CodeMatching"},
    "code_prediction": {
        "name": FOLDER + "code_prediction.CodePrediction",
        "weights": {"video": {"current": 1.0}},
    },
    "cross_cpc": {
        "name": FOLDER + "cross_cpc.CrossCpc",
        "weights": ALL_PAIRS,
        "steps": 3,
        "width": 8,
        "layers": 1,
        "learns_from": VIDEO_TEACHES,
    },
    "club": {"name": FOLDER + "club.Club", "hidden": (8, 8)},
    "cwcl": {"name": FOLDER + "cwcl.Cwcl", "stronger": "video", "weaker": "current"},
    "self_contrast": {
        "name": FOLDER + "self_contrast.SelfContrast",
        "second_views": ("current",),
    },
    "canonical": {
        "name": FOLDER + "canonical.Canonical",
        "first": "video",
        "second": "current",
    },
    "swapped_prediction": {
        "name": FOLDER + "swapped_prediction.SwappedPrediction",
        "weights": ALL_PAIRS,
        "prototypes": 3,
    },
    "slow_contrast": {
        "name": FOLDER + "slow_contrast.SlowContrast",
        "second_views": ("current",),
    },
    "triplet": {
        "name": FOLDER + "triplet.Triplet",
        "anchor": "video",
        "positive": "current",
        "min_gap_s": 20.0,
    },
}


def make_features(
    seed=0, batch=5, ticks=7, width=6, codes=9, modalities=TWO, mask=None
):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return {m: jnp.asarray(rng.normal(size=shape), jnp.float32) for m in modalities}

    embeddings = normal(codes, width)[modalities[0]]
    semantic = normal(batch, ticks, width)
    indices = {
        m: jnp.asarray(rng.integers(codes, size=(batch, ticks)), jnp.int32)
        for m in modalities
    }
    vectors = {m: embeddings[c] for m, c in indices.items()}
    return CmgFeatures(
        inputs=normal(batch, ticks, 1, 3),
        semantic=semantic,
        specific=normal(batch, ticks, 4),
        pooled_specific=normal(batch, ticks, 4),
        codes=indices,
        code_vectors=vectors,
        quantized=vectors,
        embeddings=embeddings,
        mask=jnp.ones(batch, bool) if mask is None else jnp.asarray(mask),
        second_view=normal(batch, ticks, semantic[modalities[0]].shape[-1]),
        recording=jnp.arange(batch) % 2,
        time_s=jnp.stack([15.0 * jnp.arange(batch), jnp.zeros(batch)], axis=-1),
    )


def rngs(seed=0):
    start, permutation = jax.random.split(jax.random.key(seed))
    return {"start": start, "permutation": permutation}


def with_params(term, features, seed=0):
    init = jax.jit(functools.partial(term.init, train=False))
    return init(jax.random.key(seed), features)


def float_gradient(loss, features: CmgFeatures) -> CmgFeatures:
    """Gradient to every float field of the features."""
    gradient = jax.jit(jax.grad(loss, allow_int=True))(features)
    blank = lambda g, x: (  # noqa: E731
        np.array(g) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(1)
    )
    return jax.tree.map(blank, gradient, features)


def touched(gradient: CmgFeatures) -> set[str]:
    """Names of the fields and modalities that a gradient reaches."""
    found = set()
    for field in dataclasses.fields(gradient):
        value = getattr(gradient, field.name)
        for name, leaf in value.items() if isinstance(value, dict) else [("", value)]:
            if np.any(leaf):
                found.add(f"{field.name}/{name}".rstrip("/"))
    return found


def reached(term, features, *, train=False) -> set[str]:
    variables = with_params(term, features)
    return touched(
        float_gradient(
            lambda f: term.apply(variables, f, train=train, rngs=rngs())[0].sum(),
            features,
        )
    )


# --- reconstruction and commitment ------------------------------------------------


def test_reconstruction_sums_the_modalities_errors():
    features = make_features()
    term = Reconstruction(decoders=dict.fromkeys(TWO, DECODER))
    variables = with_params(term, features)
    loss, metrics = term.apply(variables, features, train=True)
    expected = {}
    for m in TWO:
        layer = variables["params"][f"networks_{m}"]["Dense_0"]
        x = np.concatenate([features.quantized[m], features.specific[m]], axis=-1)
        prediction = x @ np.array(layer["kernel"]) + np.array(layer["bias"])
        target = np.array(features.inputs[m])[:, :, 0]
        expected[m] = ((prediction - target) ** 2).mean(axis=(1, 2))
        error = metrics[f"reconstruction_error/{m}"]
        np.testing.assert_allclose(error, expected[m], rtol=1e-4)
    np.testing.assert_allclose(loss, expected["current"] + expected["video"], rtol=1e-4)


def test_reconstruction_may_leave_a_modality_out():
    term = Reconstruction(decoders={"video": DECODER})
    assert reached(term, make_features()) == {
        "inputs/video",
        "quantized/video",
        "specific/video",
    }


def test_commitment_weighs_every_pair_of_student_and_teacher():
    features = make_features()
    table = {"current": {"current": 0.25, "video": 0.5}, "video": {"video": 0.125}}
    loss, metrics = Commitment(weights=table).apply({}, features, train=True)

    def error(student, teacher):
        gap = features.semantic[student] - features.code_vectors[teacher]
        return (np.array(gap) ** 2).mean(axis=(1, 2))

    expected = (
        0.25 * error("current", "current")
        + 0.5 * error("current", "video")
        + 0.125 * error("video", "video")
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert sorted(metrics) == [
        "commitment/current->current",
        "commitment/current->video",
        "commitment/video->video",
    ]


def test_commitment_reaches_the_students_features_alone():
    table = {"current": {"video": 1.0}}
    assert reached(Commitment(weights=table), make_features()) == {"semantic/current"}


@pytest.mark.parametrize(
    "term",
    [
        Commitment(weights={"video": {"curent": 1.0}}),
        CodeMatching(learns_from={"vidio": {}}),
        CodePrediction(weights={"video": {"curent": 1.0}}),
        CrossCpc(weights={"sound": {"video": 1.0}}),
        CrossCpc(weights=ALL_PAIRS, learns_from={"video": {"sound": 1.0}}),
        Cwcl(stronger="video", weaker="sound"),
        Triplet(anchor="sound", positive="video", min_gap_s=0.0),
        Reconstruction(decoders={"sound": DECODER}),
    ],
)
def test_unknown_modalities_are_refused_by_name(term):
    unknown = "sound|curent|vidio"
    with pytest.raises(ValueError, match=rf"\['current', 'video'\].*({unknown})"):
        with_params(term, make_features())


# --- code matching ----------------------------------------------------------------


def test_code_matching_sums_over_the_pairs_of_three_modalities():
    three = ("current", "text", "video")
    features = make_features(modalities=three)
    loss, _ = CodeMatching().apply({}, features, train=True)
    log_p = {
        m: losses.log_code_distribution(features.semantic[m], features.embeddings)
        for m in three
    }
    pairs = [("current", "text"), ("current", "video"), ("text", "video")]
    expected = sum(losses.code_matching(log_p[a], log_p[b]) for a, b in pairs)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_code_matching_prefers_partners_on_the_same_codes():
    features = make_features()
    same = dict.fromkeys(TWO, features.semantic["video"])
    matched = dataclasses.replace(features, semantic=same)
    loss, _ = CodeMatching().apply({}, features, train=True)
    matched_loss, _ = CodeMatching().apply({}, matched, train=True)
    assert matched_loss.mean() < loss.mean()


@pytest.mark.parametrize(
    ("learns_from", "expected"),
    [
        (None, {"semantic/current", "semantic/video"}),
        (VIDEO_TEACHES, {"semantic/current"}),
    ],
)
@pytest.mark.parametrize(
    "term",
    [
        lambda table: CodeMatching(learns_from=table),
        lambda table: Cwcl("video", "current", learns_from=table),
        lambda table: Triplet("video", "current", 0.0, margin=2.0, learns_from=table),
        lambda table: CrossCpc(
            {m: {o: 1.0 for o in TWO if o != m} for m in TWO},
            steps=2,
            width=4,
            layers=1,
            learns_from=table,
        ),
    ],
    ids=["code_matching", "cwcl", "triplet", "cross_cpc"],
)
def test_a_teacher_gets_exactly_no_gradient(term, learns_from, expected):
    assert reached(term(learns_from), make_features(), train=True) == expected


def test_learns_from_scales_the_gradient_and_not_the_loss():
    features = make_features()

    def value_and_gradient(share):
        term = CodeMatching(learns_from={"video": {"current": share}})
        loss = lambda f: term.apply({}, f, train=True)[0].sum()  # noqa: E731
        gradient = float_gradient(loss, features).semantic["video"]
        return loss(features), gradient

    full, gradient = value_and_gradient(1.0)
    quarter, quarter_gradient = value_and_gradient(0.25)
    assert full == quarter
    np.testing.assert_allclose(quarter_gradient, 0.25 * gradient, rtol=1e-4, atol=1e-8)


# --- code prediction --------------------------------------------------------------


def test_code_prediction_weighs_every_pair_of_student_and_teacher():
    features = make_features()
    table = {"video": {"current": 0.5, "video": 0.25}}
    loss, metrics = CodePrediction(weights=table, temperature=2.0).apply(
        {}, features, train=True
    )
    z, e = features.semantic["video"], features.embeddings
    expected = 0.5 * losses.code_prediction(z, e, features.codes["current"], 2.0)
    expected += 0.25 * losses.code_prediction(z, e, features.codes["video"], 2.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics == {}


def test_code_prediction_reaches_the_students_features_alone():
    term = CodePrediction(weights={"video": {"current": 1.0}})
    assert reached(term, make_features()) == {"semantic/video"}


def test_a_term_that_asks_for_what_is_not_there_is_refused():
    every = make_features()
    plain = Features(inputs=every.inputs, semantic=every.semantic, mask=every.mask)
    terms = {
        "commitment": {
            "name": "fmalign_jax.objectives.commitment.Commitment",
            "weights": {"video": {"video": 1.0}},
        }
    }
    with pytest.raises(ValueError, match=r"'commitment' needs .*gives no code_vectors"):
        Objectives(terms=terms).init(jax.random.key(0), plain, train=False)


# --- Cross-CPC --------------------------------------------------------------------


def numpy_cross_cpc(variables, features, weights, steps, width, starts, stride=1):
    """Sample by sample from the equation; also the accuracy of each direction."""
    total, accuracy = np.zeros(len(features.mask)), {}
    for m, row in weights.items():
        z = features.semantic[m]
        network = CpcNetwork(steps, z.shape[-1], width, layers=1)
        predictions = np.array(network.apply({"params": variables["params"][m]}, z))
        for n, weight in row.items():
            target, hits = np.array(features.semantic[n]), []
            for t in starts:
                for k in range(1, steps + 1):
                    scores = predictions[:, t, k - 1] @ target[:, t + k * stride].T
                    own = np.diag(scores)
                    nll = np.log(np.exp(scores).sum(axis=1)) - own
                    total += weight * nll / (steps * len(starts))
                    hits.append(own == scores.max(axis=1))
            accuracy[f"cpc_accuracy/{m}->{n}"] = np.mean(hits, axis=0)
    # Only pairs of different modalities count as cross-modal accuracy.
    cross = [accuracy[f"cpc_accuracy/{m}->{n}"] for m in TWO for n in TWO if m != n]
    return total, accuracy | {"cpc_accuracy": np.mean(cross, axis=0)}


def test_cross_cpc_in_evaluation_averages_every_start():
    features = make_features(ticks=8)
    term = CrossCpc(weights=ALL_PAIRS, steps=3, width=5, layers=1)
    variables = with_params(term, features)
    evaluate = jax.jit(functools.partial(term.apply, train=False))
    loss, metrics = evaluate(variables, features)
    expected, accuracy = numpy_cross_cpc(
        variables, features, ALL_PAIRS, 3, 5, starts=[1, 2, 3, 4]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert metrics.keys() == accuracy.keys()
    for name, value in accuracy.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_cross_cpc_in_training_draws_one_start_for_the_batch():
    features = make_features(ticks=6)
    term = CrossCpc(weights=ALL_PAIRS, steps=2, width=5, layers=1)
    variables = with_params(term, features)
    each = [
        numpy_cross_cpc(variables, features, ALL_PAIRS, 2, 5, starts=[t])[0]
        for t in (1, 2, 3)
    ]
    apply = jax.jit(lambda seed: term.apply(variables, features, train=True, rngs=seed))
    drawn = set()
    for seed in range(20):
        loss, _ = apply(rngs(seed))
        drawn.add(int(np.argmin([np.abs(loss - e).max() for e in each])))
        assert np.min([np.abs(loss - e).max() for e in each]) < 1e-4
    assert drawn == {0, 1, 2}


def test_cross_cpc_reads_no_further_than_a_step_may_look_ahead_from():
    features = make_features(ticks=9)
    term = CrossCpc(weights=ALL_PAIRS, steps=2, width=5, layers=1, stride=3)
    variables = with_params(term, features)
    evaluate = functools.partial(term.apply, train=False)
    program = str(jax.make_jaxpr(evaluate)(variables, features))
    # Starts are 1 and 2; the six ticks behind them are predicted, not read.
    assert set(re.findall(r"\blength=(\d+)", program)) == {"3"}


def test_cross_cpc_predicts_every_stride_ticks():
    features = make_features(ticks=9)
    term = CrossCpc(weights=ALL_PAIRS, steps=2, width=5, layers=1, stride=3)
    variables = with_params(term, features)
    loss, metrics = jax.jit(functools.partial(term.apply, train=False))(
        variables, features
    )
    expected, accuracy = numpy_cross_cpc(
        variables, features, ALL_PAIRS, 2, 5, starts=[1, 2], stride=3
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    for name, value in accuracy.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    # The last start that is drawn still has a tick to predict.
    each = [
        numpy_cross_cpc(variables, features, ALL_PAIRS, 2, 5, starts=[t], stride=3)[0]
        for t in (1, 2)
    ]
    drawn = set()
    for seed in range(10):
        loss, _ = term.apply(variables, features, train=True, rngs=rngs(seed))
        drawn.add(int(np.argmin([np.abs(loss - e).max() for e in each])))
    assert drawn == {0, 1}


def test_cross_cpc_needs_long_enough_windows():
    features = make_features(ticks=6)
    with_params(CrossCpc(weights=ALL_PAIRS, steps=4, width=2, layers=1), features)
    sizes = "stride \\+ 2 ticks; got 6 ticks, steps=%d and stride=%d"
    for steps, stride in ((5, 1), (2, 3), (2, 0)):
        term = CrossCpc(
            weights=ALL_PAIRS, steps=steps, width=2, layers=1, stride=stride
        )
        with pytest.raises(ValueError, match=sizes % (steps, stride)):
            with_params(term, features)


def test_cross_cpc_network_learns_even_where_features_do_not():
    features = make_features()
    term = CrossCpc(
        weights={"current": {"video": 1.0}}, steps=2, width=4, learns_from={}
    )
    variables = with_params(term, features)
    loss = lambda v: term.apply(v, features, train=False)[0].sum()  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(variables)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_cross_cpc_predicts_a_shared_course():
    """Windows are told apart by a course that their modalities share."""
    course = np.random.default_rng(0).normal(size=(16, 1, 6))
    semantic = {
        m: jnp.asarray(course + 0.3 * features, jnp.float32)
        for m, features in make_features(batch=16, ticks=6).semantic.items()
    }
    features = dataclasses.replace(make_features(batch=16, ticks=6), semantic=semantic)
    term = CrossCpc(weights={"current": {"video": 1.0}}, steps=2, width=16, layers=1)
    variables = with_params(term, features)
    optimizer = optax.adam(1e-2)

    def step(carry, _):
        variables, state = carry
        gradient = jax.grad(lambda v: term.apply(v, features, train=False)[0].mean())(
            variables
        )
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(variables, updates), state), None

    start = (variables, optimizer.init(variables))
    (variables, _), _ = jax.lax.scan(step, start, length=150)
    _, metrics = term.apply(variables, features, train=False)
    assert metrics["cpc_accuracy/current->video"].mean() > 0.9


# --- CLUB -------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["learned", "unit"])
def test_club_evaluates_all_pairs_without_randomness(variance):
    features = make_features()
    term = Club(hidden=(8,), variance=variance)
    variables = with_params(term, features)
    evaluate = jax.jit(functools.partial(term.apply, train=False))
    bound, metrics = evaluate(variables, features)
    full = Club(hidden=(8,), variance=variance, estimator="full")
    trained, _ = full.apply(variables, features, train=True)
    np.testing.assert_allclose(bound, trained, rtol=1e-5)
    parts = [metrics[f"club_bound/{m}"] for m in TWO]
    np.testing.assert_allclose(bound, parts[0] + parts[1], rtol=1e-5)
    assert (bound < 0).any()  # an unfitted critic; not clamped
    sampled, parts = term.apply(variables, features, train=True, rngs=rngs())
    assert (sampled < 0).any()
    assert all((part < 0).any() for part in parts.values())


def test_club_in_training_draws_other_windows():
    features = make_features()
    term = Club(hidden=(8,))
    variables = with_params(term, features)
    bounds = jnp.stack(
        [term.apply(variables, features, train=True, rngs=rngs(i))[0] for i in range(3)]
    )
    assert np.abs(bounds[0] - bounds[1]).max() > 1e-3
    again, _ = term.apply(variables, features, train=True, rngs=rngs(2))
    np.testing.assert_array_equal(again, bounds[2])


def test_club_moves_semantic_and_specific_features():
    expected = {
        f"{field}/{m}" for field in ("semantic", "pooled_specific") for m in TWO
    }
    assert reached(Club(hidden=(8,)), make_features(), train=True) == expected


def test_critic_loss_moves_all_critics_and_no_features():
    features = make_features()
    term = Club(hidden=(8,))
    variables = with_params(term, features)
    loss = lambda v, f: term.apply(v, f, method="critic_loss")  # noqa: E731
    assert not touched(float_gradient(lambda f: loss(variables, f), features))
    gradient = jax.grad(loss)(variables, features)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("option", ["estimator", "variance"])
def test_club_refuses_unknown_options(option):
    with pytest.raises(ValueError, match=f"{option} must be one of .*got 'other'"):
        with_params(Club(**{option: "other"}), make_features())


# --- CWCL and triplet -------------------------------------------------------------


def test_cwcl_weighs_by_the_stronger_and_contrasts_both_ways():
    features = make_features()
    p = np.array(features.semantic["video"]).mean(1)
    q = np.array(features.semantic["current"]).mean(1)
    loss, metrics = Cwcl("video", "current", temperature=0.2).apply(
        {}, features, train=True
    )
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    logits = jnp.asarray(unit(p) @ unit(q).T / 0.2)
    weights = losses.cwcl_weights(jnp.asarray(p), centre=True)
    expected = (losses.cwcl(logits, weights) + losses.info_nce(logits.T)) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    forth = np.mean(logits.argmax(1) == np.arange(5))
    assert np.isclose(metrics["cwcl_accuracy/video->current"].mean(), forth)


def test_triplet_reports_the_active_fraction():
    features = make_features()
    loss, metrics = Triplet("video", "current", min_gap_s=0.0).apply(
        {}, features, train=True
    )
    np.testing.assert_array_equal(metrics["triplet_active"], loss > 0)
    near = jnp.tile(jnp.eye(5, 6)[:, None], (1, 7, 1))
    aligned = dataclasses.replace(features, semantic=dict.fromkeys(TWO, near))
    loss, metrics = Triplet("video", "current", min_gap_s=0.0).apply(
        {}, aligned, train=True
    )
    assert not np.any(loss)
    assert not np.any(metrics["triplet_active"])


def _far_apart(time_s, recording, min_gap_s):
    """Which windows may serve as negatives, seen by which features get a gradient."""
    count = len(time_s)
    mesh = sharding.make_mesh(jax.devices()[:1])
    placed = sharding.place_batch({"time_s": np.asarray(time_s, np.float64)}, mesh)
    features = dataclasses.replace(
        make_features(batch=count),
        recording=jnp.asarray(recording),
        time_s=placed["time_s"],
    )
    term = Triplet("video", "current", min_gap_s=min_gap_s, margin=8.0)
    used = np.zeros((count, count), bool)
    for other in range(count):  # all but two masked: is one the other's negative?
        for own in set(range(count)) - {other}:
            mask = jnp.zeros(count, bool).at[jnp.array([own, other])].set(True)
            pair = dataclasses.replace(features, mask=mask)
            loss, _ = term.apply({}, pair, train=True)
            used[own, other] = loss[own] > 0
    return used


@pytest.mark.parametrize("origin_s", [0.0, 1.7e9])
def test_negatives_of_one_recording_are_a_lead_apart(origin_s):
    # Three windows of one recording at 0, 240 and 250.08 s, one of another at 0 s.
    time_s = origin_s + np.array([0.0, 240.0, 250.08, 0.0])
    recording = np.array([3, 3, 3, 5])
    used = _far_apart(time_s, recording, 240.0)
    expected = ~np.eye(4, dtype=bool)
    expected[1, 2] = expected[2, 1] = False
    np.testing.assert_array_equal(used, expected)
    wider = _far_apart(time_s, recording, 250.04)
    expected[0, 1] = expected[1, 0] = False
    np.testing.assert_array_equal(wider, expected)


def test_a_triplet_needs_to_know_when_its_windows_were():
    features = dataclasses.replace(make_features(), time_s=None)
    with pytest.raises(ValueError, match="when windows were"):
        Triplet("video", "current", min_gap_s=1.0).apply({}, features, train=True)


# --- all of them ------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TERMS))
def test_padding_changes_nothing(name):
    mask = np.array([True, False, True, True, False, True])
    features = make_features(batch=6, mask=mask)
    huge = jax.tree.map(  # what padding rows hold must not matter
        lambda x: (
            x.at[~mask].multiply(100.0)
            if x.shape[0] == 6 and jnp.issubdtype(x.dtype, jnp.floating)
            else x
        ),
        features,
    )
    alone = jax.tree.map(lambda x: x[mask] if x.shape[0] == 6 else x, features)
    objectives = Objectives(terms={name: TERMS[name]})
    variables = with_params(objectives, features)
    evaluate = jax.jit(functools.partial(objectives.apply, train=False))
    losses_padded, metrics_padded = evaluate(variables, huge)
    losses_alone, metrics_alone = evaluate(variables, alone)
    actual, expected = losses_padded[name], losses_alone[name]
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual[mask], expected, rtol=1e-5, atol=1e-6)
    assert not np.any(actual[~mask])
    for key, value in metrics_alone.items():
        np.testing.assert_allclose(metrics_padded[key][mask], value, rtol=1e-4)
    fits = [objectives.apply(variables, f, method="critic_loss") for f in (huge, alone)]
    np.testing.assert_allclose(*fits, rtol=1e-5)


def test_parameters_lie_under_the_names_of_the_terms():
    objectives = Objectives(terms=TERMS)
    params = with_params(objectives, make_features())["params"]
    with_parameters = ["canonical", "club", "cross_cpc", "reconstruction"]
    assert sorted(params) == [*with_parameters, "swapped_prediction"]
    assert objectives.critic_names == ("club",)


def test_critics_are_fitted_apart_from_all_other_parameters():
    features = make_features()
    objectives = Objectives(terms=TERMS)
    params = dict(with_params(objectives, features)["params"])
    critics = {name: params.pop(name) for name in objectives.critic_names}

    def inner(critics):
        return objectives.apply({"params": critics}, features, method="critic_loss")

    def outer(params, critics):
        variables = {"params": params | jax.lax.stop_gradient(critics)}
        terms, _ = objectives.apply(variables, features, train=True, rngs=rngs())
        return sum(loss.mean() for loss in terms.values())

    assert inner(critics).shape == ()
    assert all(np.any(g) for g in jax.tree.leaves(jax.jit(jax.grad(inner))(critics)))
    to_params, to_critics = jax.jit(jax.grad(outer, (0, 1)))(params, critics)
    assert not any(np.any(g) for g in jax.tree.leaves(to_critics))
    assert all(np.any(g) for g in jax.tree.leaves(to_params))


def test_without_critics_there_is_nothing_to_fit():
    objectives = Objectives(terms={"commitment": TERMS["commitment"]})
    assert objectives.critic_names == ()
    assert objectives.apply({}, make_features(), method="critic_loss") == 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**TERMS["club"], "varience": "unit"}, "'extra'.*varience.*variance"),
        ({"name": FOLDER + "cwcl.Cwcl", "stronger": "video"}, "'extra'.*weaker"),
        ({"name": FOLDER + "cwcl.Cwlc"}, "Cwlc"),
        ({"weight": 1.0}, "name"),
    ],
)
def test_mistaken_entries_are_refused_by_term_and_key(entry, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        with_params(Objectives(terms={"extra": entry}), make_features())


@pytest.mark.parametrize("name", ["terms", "critic_loss", "init"])
def test_a_term_cannot_take_a_name_in_use(name):
    with pytest.raises(ValueError, match=f"'{name}' is not free"):
        with_params(Objectives(terms={name: TERMS["triplet"]}), make_features())


def test_metrics_of_two_terms_do_not_overwrite_each_other():
    terms = {"first": TERMS["triplet"], "second": TERMS["triplet"]}
    with pytest.raises(ValueError, match=r"triplet_active.*'second'"):
        with_params(Objectives(terms=terms), make_features())


def test_a_weight_is_left_to_the_train_step():
    features = make_features()
    weighted = Objectives(terms={"triplet": {**TERMS["triplet"], "weight": 0.1}})
    plain = Objectives(terms={"triplet": TERMS["triplet"]})
    np.testing.assert_array_equal(
        weighted.apply({}, features, train=True)[0]["triplet"],
        plain.apply({}, features, train=True)[0]["triplet"],
    )


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    features = make_features(batch=16)
    objectives = Objectives(terms=TERMS)
    variables = with_params(objectives, features)

    def total(variables, semantic, features):
        features = dataclasses.replace(features, semantic=semantic)
        terms, metrics = objectives.apply(variables, features, train=True, rngs=rngs())
        fit = objectives.apply(variables, features, method="critic_loss")
        return sum(x.mean() for x in terms.values()) + fit, (terms, metrics)

    @jax.jit
    def run(variables, features):
        value_and_gradients = jax.value_and_grad(total, (0, 1), has_aux=True)
        return value_and_gradients(variables, features.semantic, features)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    sharded = jax.tree.map(
        lambda x: jax.device_put(x, rows if x.shape[0] == 16 else whole), features
    )
    one = run(variables, features)
    eight = run(jax.device_put(variables, whole), sharded)
    assert eight[1][1]["video"].sharding.num_devices == 8
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5), one, eight
    )


# --- self contrast ------------------------------------------------------------------


def test_self_contrast_tells_a_window_from_others_by_its_second_view():
    features = make_features(batch=4, mask=[True, True, True, False])
    loss, metrics = SelfContrast(second_views=TWO).apply({}, features, train=True)
    expected, correct = np.zeros(4), {}
    for m in TWO:
        a, b = (
            np.array(views[m])[:3].mean(axis=1)
            for views in (features.semantic, features.second_view)
        )
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
        logits = a @ b.T / 0.1
        for matrix in (logits, logits.T):
            log_softmax = matrix - np.log(np.exp(matrix).sum(axis=1, keepdims=True))
            expected[:3] -= np.diag(log_softmax) / 2
        correct[m] = logits.argmax(axis=1) == np.arange(3)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    for m in TWO:
        np.testing.assert_array_equal(metrics[f"self_accuracy/{m}"][:3], correct[m])


def test_self_contrast_reaches_both_views_of_its_modality_alone():
    assert reached(
        SelfContrast(second_views=("current",)), make_features(), train=True
    ) == {"semantic/current", "second_view/current"}


def test_self_contrast_is_silent_in_evaluation():
    features = make_features()
    loss, metrics = SelfContrast(second_views=TWO).apply({}, features, train=False)
    np.testing.assert_array_equal(loss, np.zeros(len(features.mask)))
    assert metrics == {}


def test_an_objective_says_of_which_modalities_it_needs_a_second_view():
    assert Objectives(terms=TERMS).second_views == ("current",)
    without = {k: v for k, v in TERMS.items() if not k.endswith("_contrast")}
    assert Objectives(terms=without).second_views == ()
    with pytest.raises(ValueError, match="second_views may name only"):
        SelfContrast(second_views=("audio",)).apply({}, make_features(), train=True)
