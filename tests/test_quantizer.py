"""The quantiser's truth table; expected values are derived in NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.models import quantizer
from fmalign_jax.models.quantizer import Codebook

B, T, D, M = 4, 5, 3, 6
MIX = {
    "video": {"video": 0.9, "current": 0.1},
    "current": {"video": 0.7, "current": 0.3},
}
OWN = {"video": {"video": 1.0}, "current": {"current": 1.0}}


def features(seed: int = 0, shape: tuple[int, ...] = (B, T, D)) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {m: jnp.asarray(rng.normal(size=shape), jnp.float32) for m in MIX}


def some_codebook(seed: int = 1, m: int = M) -> Codebook:
    rng = np.random.default_rng(seed)
    counts = rng.uniform(0.5, 3.0, size=m)
    sums = counts[:, None] * rng.normal(size=(m, D))
    return Codebook(
        counts=jnp.asarray(counts, jnp.float32),
        sums=jnp.asarray(sums, jnp.float32),
        idle={
            name: jnp.asarray(rng.integers(0, 9, m), jnp.int32) for name in sorted(MIX)
        },
    )


def assign_all(codebook: Codebook, z: dict[str, jax.Array]) -> dict[str, jax.Array]:
    vectors = quantizer.embeddings(codebook)
    return {m: quantizer.assign(v, vectors) for m, v in z.items()}


def numpy_update(
    codebook: Codebook, z: Any, codes: Any, *, decay: float, mix: Any
) -> tuple[np.ndarray, np.ndarray]:
    """METHOD section 2, one feature after another in float64."""
    counts = decay * np.asarray(codebook.counts, np.float64)
    sums = decay * np.asarray(codebook.sums, np.float64)
    for student, row in mix.items():
        for b, t in np.ndindex(*codes[student].shape):
            j = int(codes[student][b, t])
            counts[j] += 1 - decay
            for teacher, share in row.items():
                sums[j] += (1 - decay) * share * np.asarray(z[teacher][b, t])
    return counts, sums


# -- reading ---------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 30),
    width=st.integers(1, 9),
    m=st.integers(1, 20),
)
@settings(deadline=None, max_examples=25)
def test_assign_is_the_nearest_code(seed: int, n: int, width: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    z, e = rng.normal(size=(n, width)), 2 * rng.normal(size=(m, width))
    codes = quantizer.assign(jnp.asarray(z, jnp.float32), jnp.asarray(e, jnp.float32))
    distance = np.linalg.norm(z[:, None] - e, axis=-1)
    assert codes.dtype == jnp.int32
    np.testing.assert_allclose(
        distance[np.arange(n), codes], distance.min(axis=1), atol=1e-5
    )


def test_assign_is_the_same_under_jit_and_takes_bfloat16() -> None:
    z, e = features()["video"], quantizer.embeddings(some_codebook())
    codes = quantizer.assign(z, e)
    np.testing.assert_array_equal(jax.jit(quantizer.assign)(z, e), codes)
    rounded = z.astype(jnp.bfloat16)
    np.testing.assert_array_equal(
        quantizer.assign(rounded, e), quantizer.assign(rounded.astype(jnp.float32), e)
    )


def test_assign_makes_no_tensor_of_all_differences() -> None:
    """Nothing larger than the [B, T, M] distances, whatever the width."""
    z, e = jnp.zeros((4, 5, 64)), jnp.zeros((50, 64))
    jaxpr = jax.make_jaxpr(quantizer.assign)(z, e)
    sizes = [v.aval.size for equation in jaxpr.eqns for v in equation.outvars]
    assert max(sizes) <= max(50 * 64, 4 * 5 * 64)


def test_assign_of_a_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the same width; got 4 and 3"):
        quantizer.assign(jnp.zeros((2, 4)), jnp.zeros((M, 3)))


def test_an_empty_batch_goes_through() -> None:
    codebook, z = some_codebook(), features(shape=(0, T, D))
    codes = assign_all(codebook, z)
    assert codes["video"].shape == (0, T)
    after = quantizer.ema_update(codebook, z, codes, decay=0.9, ema_mix=MIX)
    np.testing.assert_allclose(
        quantizer.embeddings(after), quantizer.embeddings(codebook), rtol=1e-6
    )
    same, revived = quantizer.revive(
        jax.random.key(0), codebook, z, modalities=z, idle_steps=1, rule="any"
    )
    assert revived == 0
    np.testing.assert_array_equal(same.sums, codebook.sums)


def test_straight_through_has_the_code_value_and_the_feature_gradient() -> None:
    e = quantizer.embeddings(some_codebook())
    z, weight = features()["video"], features(5)["video"]

    def output(z: Any, e: Any) -> Any:
        codes = quantizer.assign(z, e)
        return quantizer.straight_through(z, quantizer.code_vectors(codes, e))

    np.testing.assert_allclose(output(z, e), e[quantizer.assign(z, e)], atol=1e-6)
    to_z, to_e = jax.grad(lambda z, e: (weight * output(z, e)).sum(), (0, 1))(z, e)
    np.testing.assert_array_equal(to_z, weight)
    np.testing.assert_array_equal(to_e, np.zeros((M, D)))


def test_code_vectors_pass_no_gradient_to_the_codebook() -> None:
    e = quantizer.embeddings(some_codebook())
    codes = jnp.asarray([[0, 3], [3, 5]])
    np.testing.assert_array_equal(quantizer.code_vectors(codes, e), e[codes])
    gradient = jax.grad(lambda e: (quantizer.code_vectors(codes, e) ** 2).sum())(e)
    assert not np.any(gradient)


def test_laplace_smoothing_acts_on_reading_only() -> None:
    codebook = some_codebook()
    counts, sums = np.asarray(codebook.counts), np.asarray(codebook.sums)
    smoothed = (counts + 0.5) / (counts.sum() + 0.5 * M) * counts.sum()
    read = quantizer.embeddings(codebook, epsilon=0.5)
    np.testing.assert_allclose(read, sums / smoothed[:, None], rtol=1e-5)
    np.testing.assert_allclose(
        quantizer.embeddings(codebook), sums / counts[:, None], rtol=1e-6
    )
    np.testing.assert_array_equal(codebook.counts, counts)


# -- one joint update ------------------------------------------------------------------


@pytest.mark.parametrize("mix", [MIX, OWN], ids=["directed", "own"])
@pytest.mark.parametrize("jit", [False, True])
def test_one_update_by_hand(mix: Any, jit: bool) -> None:
    codebook, z = some_codebook(), features()
    codes = assign_all(codebook, z)

    def update(codebook: Any, z: Any, codes: Any) -> Codebook:
        return quantizer.ema_update(codebook, z, codes, decay=0.9, ema_mix=mix)

    after = (jax.jit(update) if jit else update)(codebook, z, codes)
    counts, sums = numpy_update(codebook, z, codes, decay=0.9, mix=mix)
    np.testing.assert_allclose(after.counts, counts, rtol=1e-5)
    np.testing.assert_allclose(after.sums, sums, rtol=1e-5, atol=1e-5)
    for name, idle in after.idle.items():
        used = np.isin(np.arange(M), codes[name])
        np.testing.assert_array_equal(
            idle, np.where(used, 0, np.asarray(codebook.idle[name]) + 1)
        )


def test_the_partner_moves_the_students_code_only() -> None:
    """A[current, video] = 1: the current's code moves to the VIDEO's feature."""
    codebook = quantizer.empty_codebook(3, 1, modalities=MIX)
    z = {"video": jnp.full((1, 1, 1), 10.0), "current": jnp.full((1, 1, 1), -4.0)}
    codes = {"video": jnp.asarray([[0]]), "current": jnp.asarray([[1]])}
    mix = {"video": {"video": 1.0}, "current": {"video": 1.0}}
    after = quantizer.ema_update(codebook, z, codes, decay=0.5, ema_mix=mix)
    np.testing.assert_allclose(after.sums[:, 0], [5.0, 5.0, 0.0])
    np.testing.assert_allclose(after.counts, [1.0, 1.0, 0.5])


@given(decay=st.floats(0.3, 0.999), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=20)
def test_one_after_another_is_joint_with_squared_decay(decay: float, seed: int) -> None:
    """Modality after modality = decay g^2, weights g / (1 + g) and 1 / (1 + g)."""
    codebook, z = some_codebook(seed), features(seed + 1)
    codes = assign_all(codebook, z)
    counts, sums = np.asarray(codebook.counts), np.asarray(codebook.sums)
    hits, added = {}, {}
    for name in MIX:
        one_hot = np.eye(M)[np.asarray(codes[name]).ravel()]
        hits[name] = one_hot.sum(axis=0)
        added[name] = one_hot.T @ np.asarray(z[name]).reshape(-1, D)
    twice = codebook
    for name in ("video", "current"):
        twice = quantizer.ema_update(
            Codebook(twice.counts, twice.sums, {name: codebook.idle[name]}),
            {name: z[name]},
            {name: codes[name]},
            decay=decay,
            ema_mix={name: {name: 1.0}},
        )
    share = {"video": decay / (1 + decay), "current": 1 / (1 + decay)}
    squared = decay**2
    joint_counts = squared * counts + (1 - squared) * sum(
        share[m] * hits[m] for m in MIX
    )
    joint_sums = squared * sums + (1 - squared) * sum(share[m] * added[m] for m in MIX)
    np.testing.assert_allclose(twice.counts, joint_counts, rtol=1e-4)
    np.testing.assert_allclose(twice.sums, joint_sums, rtol=1e-4, atol=1e-5)
    ours = quantizer.ema_update(codebook, z, codes, decay=decay, ema_mix=OWN)
    decayed = decay * counts + (1 - decay) * (hits["video"] + hits["current"])
    np.testing.assert_allclose(ours.counts, decayed, rtol=1e-4)
    np.testing.assert_allclose(
        ours.sums,
        decay * sums + (1 - decay) * (added["video"] + added["current"]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_update_is_outside_the_gradient() -> None:
    codebook, z = some_codebook(), features()
    codes = assign_all(codebook, z)

    def read_after(z: Any) -> Any:
        after = quantizer.ema_update(codebook, z, codes, decay=0.9, ema_mix=MIX)
        return (quantizer.embeddings(after) ** 2).sum()

    assert not any(np.any(g) for g in jax.tree.leaves(jax.grad(read_after)(z)))


def test_every_training_step_moves_the_codes_and_stays_fp32() -> None:
    codebook = some_codebook()
    for step in range(3):
        z = {m: v.astype(jnp.bfloat16) for m, v in features(step).items()}
        after = quantizer.ema_update(
            codebook, z, assign_all(codebook, z), decay=0.99, ema_mix=MIX
        )
        assert np.any(quantizer.embeddings(after) != quantizer.embeddings(codebook))
        assert after.sums.dtype == after.counts.dtype == jnp.float32
        codebook = after


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({**MIX, "video": {"video": 0.9}}, r"ema_mix\.video = .*sum 0\.9"),
        ({}, "an ema_mix without a row"),
        ({"video": {}, "current": {}}, "an ema_mix without a row"),
        ({**MIX, "video": {"video": 1.5, "current": -0.5}}, "must be non-negative"),
        ({**MIX, "text": {"text": 1.0}}, "may name only the modalities"),
        ({**MIX, "video": {"vidoe": 1.0}}, r"may name only .*vidoe"),
    ],
)
def test_a_wrong_mix_is_refused(mix: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantizer.check_ema_mix(mix, ("video", "current"))
    codebook, z = some_codebook(), features()
    with pytest.raises(ValueError, match=message):
        jax.jit(
            lambda z: quantizer.ema_update(
                codebook, z, assign_all(codebook, z), decay=0.9, ema_mix=mix
            )
        )(z)


def test_other_modalities_or_widths_than_the_codebooks_are_refused() -> None:
    codebook, z = some_codebook(), features()
    codes = assign_all(codebook, z)
    with pytest.raises(ValueError, match=r"modalities it was built for.*'sound'"):
        quantizer.ema_update(
            codebook, {**z, "sound": z["video"]}, codes, decay=0.9, ema_mix=MIX
        )
    wide = features(shape=(B, T, D + 1))
    with pytest.raises(ValueError, match="as wide as the codebook, 3; got 4"):
        quantizer.ema_update(codebook, wide, codes, decay=0.9, ema_mix=MIX)
    with pytest.raises(ValueError, match="as wide as the codebook, 3; got 4"):
        quantizer.revive(
            jax.random.key(0), codebook, wide, modalities=wide, idle_steps=1
        )


# -- students that own no codes --------------------------------------------------------


def test_a_modality_without_a_row_moves_no_code() -> None:
    codebook, z = some_codebook(), features()
    codes = assign_all(codebook, z)
    mix = {"current": {"current": 1.0}}
    after = quantizer.ema_update(codebook, z, codes, decay=0.9, ema_mix=mix)
    chosen, own = np.asarray(codes["current"]).ravel(), np.asarray(z["current"])
    counts = 0.9 * np.asarray(codebook.counts)
    sums = 0.9 * np.asarray(codebook.sums)
    for feature, code in zip(own.reshape(-1, D), chosen, strict=True):
        counts[code] += 0.1
        sums[code] += 0.1 * feature
    np.testing.assert_allclose(after.counts, counts, rtol=1e-5)
    np.testing.assert_allclose(after.sums, sums, rtol=1e-4, atol=1e-5)
    for name, used in codes.items():  # but its use is counted
        idle = ~np.isin(np.arange(M), np.asarray(used))
        expected = np.where(idle, np.asarray(codebook.idle[name]) + 1, 0)
        np.testing.assert_array_equal(after.idle[name], expected)


@pytest.mark.parametrize("rule", ["any", "all"])
def test_a_code_that_only_a_student_uses_is_seeded_anew_from_its_teacher(rule) -> None:
    codebook, z = some_codebook(), features()
    idle = {m: jnp.zeros(M, jnp.int32) for m in z}
    idle["current"] = idle["current"].at[2].set(9)
    idle["video"] = idle["video"].at[5].set(9)
    codebook = dataclasses.replace(codebook, idle=idle)
    after, revived = quantizer.revive(
        jax.random.key(0),
        codebook,
        z,
        modalities=quantizer.codebook_writers(
            {"current": {"current": 1.0}, "video": {}}
        ),
        idle_steps=9,
        rule=rule,
        noise_scale=0.0,
    )
    assert revived == 1
    np.testing.assert_array_equal(after.sums[5], codebook.sums[5])
    teachers = np.asarray(z["current"]).reshape(-1, D)
    assert np.any(np.all(teachers == np.asarray(after.sums[2]), axis=1))


# -- unused codes ----------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.99, 0.5])
def test_a_code_unused_for_100_000_steps_keeps_its_place(decay: float) -> None:
    """0.99^n leaves fp32 after 8 700 steps; the count must not run into 0 / 0."""
    codebook, z = some_codebook(), features()
    codes = {m: jnp.zeros((B, T), jnp.int32) for m in z}

    @jax.jit
    def run(codebook: Codebook) -> Codebook:
        def step(_: Any, c: Codebook) -> Codebook:
            return quantizer.ema_update(c, z, codes, decay=decay, ema_mix=MIX)

        return jax.lax.fori_loop(0, 100_000, step, codebook)

    after = run(codebook)
    read, before = quantizer.embeddings(after), quantizer.embeddings(codebook)
    np.testing.assert_allclose(read[1:], before[1:], rtol=1e-4)
    assert np.all(after.counts >= 0.9 * quantizer.COUNT_FLOOR)
    # The floor is light: the first use moves the code almost wholly to its feature.
    there = {m: jnp.full((1, 1, D), 7.0) for m in z}
    onto = {m: jnp.full((1, 1), 2, jnp.int32) for m in z}
    used = quantizer.ema_update(after, there, onto, decay=0.99, ema_mix=MIX)
    assert (
        np.abs(quantizer.embeddings(used)[2] - 7.0).max()
        < 0.1 * np.abs(np.asarray(before[2]) - 7.0).max()
    )


def idle_codebook() -> Codebook:
    codebook = some_codebook()
    return Codebook(
        counts=codebook.counts,
        sums=codebook.sums,
        idle={
            "video": jnp.asarray([300, 300, 0, 299, 0, 0], jnp.int32),
            "current": jnp.asarray([300, 0, 301, 299, 0, 0], jnp.int32),
        },
    )


@pytest.mark.parametrize(
    ("rule", "dead"), [("any", [0, 1, 2]), ("all", [0])], ids=["any", "all"]
)
def test_revival_follows_its_rule(rule: str, dead: list[int]) -> None:
    codebook, z = idle_codebook(), features()
    after, revived = jax.jit(
        lambda c, z: quantizer.revive(
            jax.random.key(3),
            c,
            z,
            modalities=z,
            idle_steps=300,
            rule=rule,
            noise_scale=0.0,
        )
    )(codebook, z)
    assert revived == len(dead)
    alive = [j for j in range(M) if j not in dead]
    candidates = np.concatenate([np.asarray(v).reshape(-1, D) for v in z.values()])
    for j in dead:
        assert np.any(np.all(candidates == after.sums[j], axis=1))
    np.testing.assert_array_equal(after.counts[np.array(dead)], np.ones(len(dead)))
    for before_leaf, after_leaf in zip(
        jax.tree.leaves(codebook), jax.tree.leaves(after), strict=True
    ):
        np.testing.assert_array_equal(
            np.asarray(before_leaf)[alive], np.asarray(after_leaf)[alive]
        )
    for idle in after.idle.values():
        assert not np.any(np.asarray(idle)[dead])


def test_revival_noise_is_scaled_to_the_features() -> None:
    many, scale = 2000, np.array([1.0, 10.0, 0.1])
    codebook = some_codebook(m=many)
    codebook = Codebook(
        counts=codebook.counts,
        sums=codebook.sums,
        idle={m: jnp.full(many, 9, jnp.int32) for m in MIX},
    )
    z = {m: v * scale for m, v in features(shape=(50, T, D)).items()}
    z = {m: v.astype(jnp.float32) for m, v in z.items()}
    still, noisy = (
        quantizer.revive(
            jax.random.key(0),
            codebook,
            z,
            modalities=z,
            idle_steps=9,
            noise_scale=noise,
        )[0]
        for noise in (0.0, 0.05)
    )
    spread = np.concatenate([np.asarray(v).reshape(-1, D) for v in z.values()]).std(0)
    noise = np.asarray(noisy.sums - still.sums).std(axis=0)
    np.testing.assert_allclose(noise, 0.05 * spread, rtol=0.1)


def test_a_revived_code_survives_when_it_is_not_chosen() -> None:
    codebook, z = idle_codebook(), features()
    after, _ = quantizer.revive(
        jax.random.key(3), codebook, z, modalities=z, idle_steps=300, rule="any"
    )
    seeded = quantizer.embeddings(after)
    elsewhere = {m: jnp.full((B, T), 5, jnp.int32) for m in z}
    for _ in range(20):
        after = quantizer.ema_update(after, z, elsewhere, decay=0.99, ema_mix=MIX)
    np.testing.assert_allclose(quantizer.embeddings(after)[:5], seeded[:5], rtol=1e-5)
    again, revived = quantizer.revive(
        jax.random.key(4), after, z, modalities=z, idle_steps=300, rule="any"
    )
    # Code 3, at 299 before and untouched, is due now; those revived before are not.
    assert revived == 1
    np.testing.assert_array_equal(again.sums[:3], after.sums[:3])


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'any' or 'all' modalities; got 'none'"):
        quantizer.revive(
            jax.random.key(0),
            some_codebook(),
            features(),
            modalities=("video",),
            idle_steps=1,
            rule="none",
        )


# -- the start -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sample", "kmeans"])
@pytest.mark.parametrize("codes", [7, 64, 200])
def test_the_start_has_counts_at_one_and_codes_on_the_data(
    method: str, codes: int
) -> None:
    z = features(shape=(8, 4, D))["video"].reshape(-1, D) * 0.02
    codebook = quantizer.initialise(
        jax.random.key(0), z, codes, modalities=MIX, method=method
    )
    np.testing.assert_array_equal(codebook.counts, np.ones(codes))
    assert set(codebook.idle) == set(MIX)
    assert not any(np.any(idle) for idle in codebook.idle.values())
    e = np.asarray(quantizer.embeddings(codebook))
    assert len(np.unique(e, axis=0)) == codes
    nearest = np.linalg.norm(e[:, None] - np.asarray(z), axis=-1).min(axis=1)
    slack = {"sample": 0.1, "kmeans": 1.5}[method] * np.asarray(z).std()
    assert nearest.max() < slack
    if method == "sample" and codes <= len(z):
        assert nearest.max() == 0
    if method == "sample" and codes >= len(z):
        distances = np.linalg.norm(np.asarray(z)[:, None] - e, axis=-1)
        assert distances.min(axis=1).max() < slack  # every feature became a code


def test_kmeans_finds_clusters_and_repeats() -> None:
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(D)
    z = np.repeat(centres, 50, axis=0) + 0.1 * rng.normal(size=(150, D))
    z = jnp.asarray(z, jnp.float32)
    start = [
        quantizer.initialise(jax.random.key(k), z, 8, modalities=MIX, method="kmeans")
        for k in (1, 1)
    ]
    np.testing.assert_array_equal(start[0].sums, start[1].sums)
    e = np.asarray(start[0].sums)

    def error(e: Any) -> Any:
        return (np.linalg.norm(np.asarray(z)[:, None] - e, axis=-1) ** 2).min(1).mean()

    sampled = quantizer.initialise(jax.random.key(1), z, 8, modalities=MIX)
    assert error(e) < 0.9 * error(np.asarray(sampled.sums))
    chosen = np.linalg.norm(np.asarray(z)[:, None] - e, axis=-1).argmin(axis=1)
    for j in np.unique(chosen):
        np.testing.assert_allclose(
            e[j], np.asarray(z)[chosen == j].mean(axis=0), atol=0.02
        )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_codes_stay_in_range_after_the_first_update(scale: float) -> None:
    """max ||e|| / median ||z|| < 2; a zero count with sums at e would break it."""
    z = {m: scale * v for m, v in features(shape=(8, 10, 32)).items()}
    every = jnp.concatenate([v.reshape(-1, 32) for v in z.values()])
    codebook = quantizer.initialise(jax.random.key(0), every, 400, modalities=MIX)

    def ratio(codebook: Codebook, *, epsilon: float) -> float:
        codes = assign_all(codebook, z)
        after = quantizer.ema_update(codebook, z, codes, decay=0.99, ema_mix=MIX)
        e = quantizer.embeddings(after, epsilon=epsilon)
        norms = np.linalg.norm(np.asarray(every), axis=-1)
        return float(np.linalg.norm(np.asarray(e), axis=-1).max() / np.median(norms))

    assert ratio(codebook, epsilon=0.0) < 2
    assert ratio(codebook, epsilon=1e-5) < 2


@pytest.mark.parametrize(
    ("n", "codes", "names", "method", "message"),
    [
        (0, 4, MIX, "sample", "needs features.*got 0 features"),
        (5, 0, MIX, "sample", "got 5 features, 0 codes"),
        (5, 4, (), "sample", "needs features, codes and modalities"),
        (5, 4, MIX, "grid", "'sample' or 'kmeans'; got 'grid'"),
    ],
)
def test_an_impossible_start_is_refused(
    n: int, codes: int, names: Any, method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantizer.initialise(
            jax.random.key(0), jnp.ones((n, D)), codes, modalities=names, method=method
        )
