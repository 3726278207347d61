"""Merged statistics equal NumPy's over all windows at once, each counted once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fmalign_jax.systems.cmg import CmgFeatures
from fmalign_jax.systems.code_statistics import CodeStatistics
from fmalign_jax.training.metrics import Mean

EMBEDDINGS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


def with_codes(codes, mask=None, embeddings=EMBEDDINGS) -> CmgFeatures:
    codes = {m: jnp.asarray(c, jnp.int32) for m, c in codes.items()}
    batch = len(next(iter(codes.values())))
    embeddings = jnp.asarray(embeddings)
    vectors = {m: embeddings[c] for m, c in codes.items()}
    return CmgFeatures(
        inputs={},
        semantic={},
        specific={},
        pooled_specific={},
        codes=codes,
        code_vectors=vectors,
        quantized=vectors,
        embeddings=embeddings,
        mask=jnp.ones(batch, bool) if mask is None else jnp.asarray(mask),
    )


def random_codes(seed, batch=8, ticks=5, modalities=("current", "video")):
    rng = np.random.default_rng(seed)
    return {m: rng.integers(0, 5, size=(batch, ticks)) for m in modalities}


def figures(*batches: CmgFeatures) -> dict[str, float]:
    parts = [jax.jit(CodeStatistics.from_features)(batch) for batch in batches]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    return {name: float(value) for name, value in merged.compute().items()}


def numpy_figures(codes, embeddings=EMBEDDINGS) -> dict[str, float]:
    a, v = codes["current"], codes["video"]
    expected = {}
    shares = {
        m: np.bincount(c.ravel(), minlength=len(embeddings)) / c.size
        for m, c in codes.items()
    }
    by_chance = shares["current"] @ shares["video"]
    expected["chance_agreement/current-video"] = by_chance
    for m, c in codes.items():
        share = shares[m][shares[m] > 0]
        expected[f"perplexity/{m}"] = np.exp(-(share * np.log(share)).sum())
        expected[f"used_codes/{m}"] = len(np.unique(c))
    expected["used_codes/all"] = len(np.intersect1d(a, v))
    equal = 0
    for row in zip(*codes.values(), strict=True):
        counts = [np.bincount(c).argmax() for c in row]  # the lowest of equals
        equal += len(set(counts)) == 1
    expected["equal_num"] = equal
    expected["equal_share"] = equal / len(a)
    ea, ev = embeddings[a].astype(np.float64), embeddings[v].astype(np.float64)
    lengths = np.linalg.norm(ea, axis=-1) * np.linalg.norm(ev, axis=-1)
    expected["token_agreement/current-video"] = (a == v).mean()
    expected["code_cosine/current-video"] = ((ea * ev).sum(-1) / lengths).mean()
    return expected


@given(st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=25)
def test_figures_equal_numpy(seed):
    codes = random_codes(seed)
    actual, expected = figures(with_codes(codes)), numpy_figures(codes)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@given(st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=15)
def test_padded_batches_merge_to_one_pass_over_all_windows(seed):
    codes = random_codes(seed, batch=11)
    padded = {m: np.concatenate([c, c[:5] * 0]) for m, c in codes.items()}
    mask = np.arange(16) < 11
    halves = [
        with_codes({m: c[rows] for m, c in padded.items()}, mask[rows])
        for rows in (slice(0, 8), slice(8, 16))
    ]
    expected = numpy_figures(codes)
    for name, value in figures(*halves).items():
        assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_collapse_and_even_use_are_told_apart():
    even = np.arange(7)[:, None].repeat(3, axis=1)
    found = figures(with_codes({"current": even, "video": even * 0 + 2}))
    assert found["perplexity/current"] == pytest.approx(7, rel=1e-5)
    assert found["perplexity/video"] == pytest.approx(1, rel=1e-5)
    assert found["used_codes/current"] == 7
    assert found["used_codes/video"] == found["used_codes/all"] == 1


def test_equal_counts_windows_in_which_all_modalities_agree():
    codes = {
        "current": [[1, 1, 2], [3, 3, 3], [0, 4, 4]],
        "text": [[1, 5, 1], [3, 3, 0], [4, 4, 4]],
        "video": [[6, 1, 1], [2, 2, 2], [4, 0, 4]],
    }
    found = figures(with_codes({m: np.array(c) for m, c in codes.items()}))
    assert found["equal_num"] == 2
    assert found["equal_share"] == pytest.approx(2 / 3)
    pairs = {name for name in found if name.startswith("token_agreement")}
    assert pairs == {
        "token_agreement/current-text",
        "token_agreement/current-video",
        "token_agreement/text-video",
    }


def test_of_equally_frequent_codes_the_lowest_counts():
    codes = {"current": np.array([[5, 2, 5, 2]]), "video": np.array([[2, 2, 2, 6]])}
    assert figures(with_codes(codes))["equal_num"] == 1
    codes = {"current": np.array([[5, 2, 5, 2]]), "video": np.array([[5, 5, 5, 6]])}
    assert figures(with_codes(codes))["equal_num"] == 0


def test_near_duplicates_are_told_by_their_cosine():
    """Two states, each with its own near-duplicates for either modality."""
    centres = np.array([[5.0, 0.0], [-5.0, 0.0]])
    embeddings = np.concatenate([centres, centres + 0.01]).astype(np.float32)
    state = np.random.default_rng(0).integers(0, 2, size=(6, 4))
    found = figures(
        with_codes({"current": state, "video": state + 2}, embeddings=embeddings)
    )
    assert found["token_agreement/current-video"] == 0
    assert found["code_cosine/current-video"] > 0.999
    crossed = with_codes({"current": state, "video": 3 - state}, embeddings=embeddings)
    assert figures(crossed)["code_cosine/current-video"] < -0.999


def test_counts_are_not_lost_to_rounding():
    statistics = CodeStatistics.from_features(with_codes(random_codes(0)))
    big = jax.tree.map(lambda x: x + 2**24 if x.dtype == jnp.int32 else x, statistics)
    grown = big.merge(statistics)
    assert int(grown.windows) == 2**24 + 16
    assert int(grown.ticks) == 2**24 + 80


def test_statistics_fetched_from_the_device_merge_and_compute():
    codes = random_codes(3)
    parts = [
        jax.device_get(CodeStatistics.from_features(with_codes(codes)))
        for _ in range(2)
    ]
    found = parts[0].merge(parts[1]).compute()
    expected = numpy_figures(codes)
    expected["equal_num"] *= 2
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_mean_counts_each_window_once():
    first = Mean.of(jnp.array([1.0, 2.0, 3.0]), jnp.ones(3, bool))
    last = Mean.of(jnp.array([7.0, jnp.nan, jnp.nan]), jnp.arange(3) < 1)
    assert first.merge(last).compute() == 13 / 4
    fetched = jax.device_get(first.merge(last))
    assert float(fetched.compute()) == 13 / 4


def test_mean_of_a_scalar_weighs_it_by_its_windows():
    first = Mean.of(jnp.array(1.0), jnp.ones(3, bool))
    last = Mean.of(jnp.array(5), jnp.arange(3) < 1)
    assert first.merge(last).compute() == 2.0


def test_eight_devices_count_what_one_counts():
    features = with_codes(random_codes(4, batch=16), np.arange(16) < 13)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    sharded = jax.tree.map(
        lambda x: jax.device_put(x, rows if x.shape[0] == 16 else whole), features
    )
    one, eight = figures(features), figures(sharded)
    assert one == pytest.approx(eight, rel=1e-5)
