"""Curves over leads against NumPy, pair by pair."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.lead.curves import (
    ASSOCIATION,
    CANONICAL,
    EQUAL,
    INFORMATION,
    LARGEST,
    PRODUCT,
    LeadSums,
    Rows,
    lead_sums,
    rearranged,
)

KINDS = {"a": ASSOCIATION, "e": EQUAL, "i": INFORMATION, "p": PRODUCT}
LEADS = np.arange(-4, 6)


def _rows(seed: int, rows: int = 3, n: int = 24, d: int = 4) -> Rows:
    rng = np.random.default_rng(seed)
    known = [rng.uniform(size=(rows, n)) < 0.8 for _ in range(2)]
    sides = []
    for mask in known:
        values = rng.normal(size=(rows, n, d)).astype(np.float32) * mask[..., None]
        codes = rng.integers(0, d, (rows, n)).astype(np.int32)
        one_hot = np.eye(d, dtype=np.float32)[codes]
        sides.append({"a": values, "p": values, "e": codes, "i": one_hot})
    return Rows(sides[0], sides[1], known[0], known[1])


def _pairs(rows: Rows, lead: int, unit_ticks: int):
    """Yields (unit, row, position, partner) of every pair."""
    count, n = rows.reference_known.shape
    for row, position in itertools.product(range(count), range(n)):
        partner = position - lead
        if not 0 <= partner < n:
            continue
        if rows.reference_known[row, position] and rows.leading_known[row, partner]:
            yield (
                row * (n // unit_ticks) + position // unit_ticks,
                row,
                position,
                partner,
            )


@given(st.integers(0, 2**31 - 1), st.sampled_from([6, 8, 24]))
@settings(deadline=None, max_examples=10)
def test_sums_are_those_of_every_pair(seed, unit_ticks):
    rows = _rows(seed)
    found = lead_sums(rows, KINDS, LEADS, unit_ticks=unit_ticks)
    units = 3 * 24 // unit_ticks
    for number, lead in enumerate(LEADS.tolist()):
        pairs = np.zeros(units)
        sums = {
            name: np.zeros((units, own.sums.shape[2])) for name, own in found.items()
        }
        for unit, row, t, s in _pairs(rows, lead, unit_ticks):
            pairs[unit] += 1
            for name in "ai":
                x, y = rows.reference[name][row, t], rows.leading[name][row, s]
                sums[name][unit] += np.outer(x, y).ravel()
            sums["p"][unit] += rows.reference["p"][row, t] @ rows.leading["p"][row, s]
            sums["e"][unit] += rows.reference["e"][row, t] == rows.leading["e"][row, s]
        for name, own in found.items():
            np.testing.assert_array_equal(own.pairs[number], pairs)
            np.testing.assert_allclose(own.sums[number], sums[name], atol=1e-4)


def test_association_is_the_mean_over_different_units():
    rng = np.random.default_rng(3)
    sums, pairs = rng.normal(size=(2, 5, 9)), rng.integers(1, 9, (2, 5)).astype(float)
    found = LeadSums(ASSOCIATION, sums, pairs).curve()
    for lead in range(2):
        top = bottom = 0.0
        for u, v in itertools.permutations(range(5), 2):
            top += sums[lead, u] @ sums[lead, v]
            bottom += pairs[lead, u] * pairs[lead, v]
        assert found[lead] == pytest.approx(top / bottom)


def test_association_of_whitened_features_is_the_squared_canonical_correlation():
    rng = np.random.default_rng(0)
    rho, n = 0.6, 40_000
    x = rng.normal(size=(1, n, 2)).astype(np.float32)
    y = rng.normal(size=(1, n, 2)).astype(np.float32)
    y[..., 1] = rho * x[..., 0] + math.sqrt(1 - rho**2) * y[..., 1]
    seen = np.ones((1, n), bool)
    rows = Rows({"a": x}, {"a": y}, seen, seen)
    own = lead_sums(rows, {"a": ASSOCIATION}, np.arange(2), unit_ticks=400)["a"]
    np.testing.assert_allclose(own.curve(), [rho**2, 0], atol=0.02)


@pytest.mark.parametrize("lead", [0, 3])
def test_canonical_is_the_best_correlation_with_its_sign(lead):
    rng = np.random.default_rng(1)
    rho, n = -0.7, 20_000
    x = rng.normal(size=(1, n, 3)).astype(np.float32)
    y = rng.normal(size=(1, n, 2)).astype(np.float32)
    y[:, : n - lead, 1] = (
        rho * x[:, lead:, 2] + math.sqrt(1 - rho**2) * y[:, : n - lead, 1]
    )
    seen = np.ones((1, n), bool)
    rows = Rows({"c": x}, {"c": y}, seen, seen)
    own = lead_sums(rows, {"c": CANONICAL}, np.arange(6), unit_ticks=400)["c"]
    curve = own.curve()
    assert curve.argmax() == lead
    assert curve[lead] == pytest.approx(0.7, abs=0.02)
    assert np.abs(np.delete(curve, lead)).max() < 0.04
    # Some of the units, along the directions of all.
    part = own.chosen(np.arange(25)).curve()
    assert part[lead] == pytest.approx(0.7, abs=0.05)


def test_information_of_equal_codes_is_their_entropy():
    shares = np.diag([0.5, 0.25, 0.25]).reshape(1, 1, 9)
    found = LeadSums(INFORMATION, 8 * shares, np.full((1, 1), 8.0)).curve()
    assert found[0] == pytest.approx(1.5 * math.log(2))


def test_a_unit_drawn_twice_counts_twice():
    own = LeadSums(PRODUCT, np.array([[[1.0], [6.0]]]), np.array([[1.0, 2.0]]))
    found = own.curves(np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found[:, 0], [8 / 4, 3, np.nan])
    np.testing.assert_allclose(own.chosen(np.array([0])).curve(), [1.0])


def test_rearranging_takes_the_leading_modality_from_elsewhere():
    rows = _rows(5)
    source = np.array([1, 2, 0])
    position = np.tile((np.arange(24) + 3) % 24, (3, 1))
    known = np.ones((3, 24), bool)
    known[:, -1] = False
    found = jax.device_get(rearranged(rows, source, position, known))
    expected = rows.leading["p"][source][:, (np.arange(24) + 3) % 24]
    np.testing.assert_array_equal(found.leading["p"], expected)
    assert not found.leading_known[:, -1].any()
    np.testing.assert_array_equal(found.reference["p"], rows.reference["p"])


def test_of_several_vectors_the_nearest_pair_counts():
    rng = np.random.default_rng(4)
    rows = _rows(4)
    x, y = (rng.normal(size=(3, 24, s, 4)).astype(np.float32) for s in (3, 2))
    rows = dataclasses.replace(rows, reference={"l": x}, leading={"l": y})
    found = lead_sums(rows, {"l": LARGEST}, LEADS, unit_ticks=8)["l"]
    for number, lead in enumerate(LEADS.tolist()):
        sums = np.zeros((9, 1))
        for unit, row, t, s in _pairs(rows, lead, 8):
            sums[unit] += max(a @ b for a in x[row, t] for b in y[row, s])
        np.testing.assert_allclose(found.sums[number], sums, atol=1e-4)
