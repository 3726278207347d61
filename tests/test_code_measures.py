"""Measures of shared codes, on codes planted to be shared, or to look as if."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.evaluation import code_measures
from fmalign_jax.evaluation.code_measures import CodeTable

WINDOWS, RECORDINGS, CODES = 200, 6, 8
RECORDING = np.repeat(np.arange(RECORDINGS), WINDOWS)


def state_of(rng: np.random.Generator) -> np.ndarray:
    """A state of two values that lasts some windows, of all recordings [N]."""
    return np.cumsum(rng.random(len(RECORDING)) > 0.7) % 2


def planted(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of two modalities [N, 1], and the state behind the first."""
    rng = np.random.default_rng(0)
    state, other = state_of(rng), state_of(rng)
    private = rng.integers(0, 4, (2, len(state)))
    pairs = {
        "identical": (state, state),
        "independent": (state, other),
        # As it would be with the lead wrong by 40 windows.
        "shifted": (state, np.roll(state.reshape(RECORDINGS, -1), 40, axis=1)),
        # The state in both, beside something that one modality alone shows.
        "nuisance": (4 * state + private[0], 4 * state + private[1]),
        # Each recording has a code of its own, and nothing else.
        "recording": (RECORDING, RECORDING),
    }
    a, b = (codes.reshape(-1, 1) for codes in pairs[kind])
    return a, b, state


def measured(kind: str) -> dict[str, float]:
    a, b, _ = planted(kind)
    agreement, information = (
        code_measures.beyond_shifts(measure, a, b, RECORDING, least_shift=1, seed=0)
        for measure in (
            code_measures.agreement,
            code_measures.mutual_information_nats,
        )
    )
    return {
        "agreement": agreement.value,
        "chance": agreement.chance,
        "kappa": code_measures.kappa(agreement.value, agreement.chance),
        "shared_nats": information.beyond,
    }


def test_identical_codes_are_shared_whole():
    found = measured("identical")
    assert found["agreement"] == 1.0
    assert found["kappa"] == pytest.approx(1.0)
    # The entropy of two equally frequent states is log 2; shifts keep little of it.
    assert found["shared_nats"] == pytest.approx(np.log(2), abs=0.03)


def test_independent_codes_agree_by_chance_alone():
    found = measured("independent")
    assert found["agreement"] == pytest.approx(0.5, abs=0.06)
    assert abs(found["kappa"]) < 0.1
    assert abs(found["shared_nats"]) < 0.01


def test_codes_at_another_time_are_not_shared():
    found = measured("shifted")
    assert abs(found["kappa"]) < 0.15
    assert abs(found["shared_nats"]) < 0.02


def test_a_private_nuisance_lowers_agreement_but_not_information():
    found = measured("nuisance")
    # Right state, and one of four by accident.
    assert found["agreement"] == pytest.approx(0.25, abs=0.02)
    assert 0.05 < found["kappa"] < 0.2
    assert found["shared_nats"] == pytest.approx(np.log(2), abs=0.04)


def test_a_code_for_each_recording_is_not_counted_as_shared():
    found = measured("recording")
    assert found["agreement"] == 1.0
    assert found["chance"] == 1.0
    assert found["kappa"] is None
    assert found["shared_nats"] == pytest.approx(0.0, abs=1e-9)
    a, b, state = planted("recording")
    by_marginals = code_measures.chance_by_marginals(a, b, CODES)
    assert by_marginals == pytest.approx(1 / RECORDINGS)
    about = code_measures.information_nats(a, RECORDING, seed=0)
    assert about == pytest.approx(np.log(RECORDINGS), abs=0.02)
    assert abs(code_measures.information_nats(a, state, seed=0)) < 0.02


def test_random_codes_hold_no_information_however_many_they_are():
    """The plain estimate grows with the number of codes; what is reported does not."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 128, (2, len(RECORDING), 1))
    assert code_measures.mutual_information_nats(a, b) > 2
    found = code_measures.beyond_shifts(
        code_measures.mutual_information_nats, a, b, RECORDING, least_shift=1, seed=0
    )
    assert abs(found.beyond) < 0.05
    assert abs(code_measures.information_nats(a, state_of(rng), seed=0)) < 0.03


def test_shifts_stay_within_their_recording_and_move_far_enough():
    orders = code_measures.shifted_orders(RECORDING, least_shift=7, seed=1)
    assert len(orders) == code_measures.SHIFTS
    for order in orders:
        np.testing.assert_array_equal(RECORDING[order], RECORDING)
        assert sorted(order.tolist()) == list(range(len(order)))
        moved = np.abs(order - np.arange(len(order)))
        assert np.minimum(moved, WINDOWS - moved).min() >= 7
    assert len({tuple(order) for order in orders}) > 1


def test_recordings_too_short_to_shift_are_left_out():
    recording = np.array([0, 0, 0, 0, 1])
    a = np.array([0, 0, 1, 1, 0])[:, None]
    found = code_measures.beyond_shifts(
        code_measures.agreement, a, 1 - a, recording, least_shift=2, seed=0
    )
    # Of the long one alone: turned by two windows, its inverse is itself.
    assert (found.value, found.chance) == (0.0, 1.0)
    alone = code_measures.beyond_shifts(
        code_measures.agreement, a, a, np.arange(5), least_shift=2, seed=0
    )
    assert (alone.value, alone.chance, alone.beyond) == (1.0, None, None)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_counted_measures_equal_their_definitions(seed, places, size):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, size, (2, 40, places))
    p, q = ((x.reshape(-1, 1) == np.arange(size)).mean(axis=0) for x in (a, b))
    assert code_measures.chance_by_marginals(a, b, size) == pytest.approx((p * q).sum())
    entropy = -sum(x * np.log(x) for x in p if x > 0)
    assert code_measures.entropy_nats(a, size) == pytest.approx(entropy)
    modal = [[np.bincount(row).argmax() for row in x] for x in (a, b)]
    equal = sum(x == y for x, y in zip(*modal, strict=True))
    both = {"video": a, "current": b}
    assert code_measures.equal_windows(both, size) == equal
    assert code_measures.equal_share(both, size) == equal / 40
    label = rng.integers(0, 2, 40)
    best = sum(
        max((a[label == c] == j).sum() for j in range(size))
        for c in (0, 1)
        if (label == c).any()
    )
    assert code_measures.ceiling(a, label, size) == pytest.approx(best / a.size)


def test_kappa_runs_from_chance_to_one():
    assert code_measures.kappa(0.5, 0.5) == 0.0
    assert code_measures.kappa(1.0, 0.5) == 1.0
    assert code_measures.kappa(0.8, 0.5) == pytest.approx(0.6)
    assert code_measures.kappa(1.0, 1.0) is None
    assert code_measures.kappa(1.0, None) is None


def test_the_table_is_counted_with_half_a_count_more():
    codes = np.array([[0, 0], [0, 1], [1, 1], [2, 1]])
    label = np.array([0, 0, 0, 1])
    table = CodeTable.count(codes, label, size=4, classes=3)
    counts = np.array([[3, 3, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]) + 0.5
    likelihood = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(table.log_likelihood), likelihood)
    np.testing.assert_allclose(np.exp(table.log_prior), [3 / 4, 1 / 4, 0])
    found = table.predict(np.array([[0, 2]]))[0]
    score = np.exp(np.log(likelihood[:2][:, [0, 2]]).mean(axis=1)) * [3 / 4, 1 / 4]
    np.testing.assert_allclose(found, [*(score / score.sum()), 0.0])
    assert table.coverage(np.array([[0, 3], [1, 3]])) == 0.5


def test_a_table_transfers_what_is_shared_and_nothing_else():
    def transferred(kind: str) -> float:
        a, b, state = planted(kind)
        table = CodeTable.count(a, state, size=CODES, classes=2)
        predicted = table.predict(b).argmax(axis=1)
        return np.mean([(predicted[state == c] == c).mean() for c in (0, 1)])

    assert transferred("identical") == 1.0
    assert transferred("nuisance") == 1.0
    assert transferred("independent") == pytest.approx(0.5, abs=0.08)
    assert transferred("recording") == pytest.approx(0.5, abs=0.08)


def test_mixing_tells_a_gap_between_modalities_from_merged_clouds():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 3))
    noise = 0.1 * rng.normal(size=(300, 3))
    merged = {"video": shared, "current": shared + noise}
    apart = {"video": shared, "current": shared + noise + 20}
    chance = code_measures.mixing_chance(300, 2)
    assert chance == pytest.approx(300 / 599)
    assert code_measures.mixing(merged) == pytest.approx(chance, abs=0.05)
    assert code_measures.mixing(apart) == 0.0
    # Standardised by modality the gap cannot be seen: this must be said beside it.
    assert code_measures.mixing(apart, standardise=True) > 0.4
