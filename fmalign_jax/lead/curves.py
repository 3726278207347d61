"""Similarity of two modalities at every lead: compiled once, over all leads.

The ticks of a clip are a row; row r holds the reference at positions p and the leading
modality such that position p of the one and p - k of the other are k ticks of lead
apart. An indicator measures how similar two ticks are; its curve is the mean over all
pairs at a lead. Sums are kept by *unit*, a stretch of a row, so that units can be drawn
with replacement afterwards (bootstrap) without computing anything again.

Six kinds of indicator:

    product      <x, y>, such as the cosine of unit vectors
    largest      max_s,z <x_s, y_z> of several vectors a tick
    equal        1 where two codes are the same
    canonical    correlation of the two directions that correlate best (Hotelling 1936):
                 of the mean of x y^T over all pairs the largest singular value over all
                 leads gives directions a and b; the curve is <a, x> <b, y> at every
                 lead. It asks for no common code space. The directions are fitted to
                 the very pairs they are applied to, so that the highest value is too
                 high; wrong pairings are fitted in the same way and show by how much.
    association  how well the pattern by which x and y vary together repeats from unit
                 to unit. With A_u = sum over the pairs of unit u of x y^T, weights w
                 and pair counts n,
                     (|sum_u w_u A_u|^2 - sum_u w_u^2 |A_u|^2)
                     / ((sum_u w_u n_u)^2 - sum_u w_u^2 n_u^2),
                 the mean of <A_u, A_v> over pairs of different units, an unbiased
                 estimate of |E x y^T|^2. For whitened x and y that is the sum of the
                 squared canonical correlations, for whitened one-hot codes Pearson's
                 phi^2 of their joint table. Nothing is fitted, and it is 0 on average
                 where nothing repeats; but it knows no sign.
    information  mutual information of two codes in nats, from their table of counts;
                 biased upwards at all leads alike, by about (codes - 1)^2 / (2 pairs).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy import ndarray

PRODUCT, LARGEST, EQUAL = "product", "largest", "equal"
CANONICAL, ASSOCIATION = "canonical", "association"
INFORMATION = "information"
_TABLES = (CANONICAL, ASSOCIATION, INFORMATION)
_LEAST_SHARE = 0.1  # of the most pairs; a lead with fewer has no value


@no_type_check  # as a pytree it also carries tracers
@flax.struct.dataclass
class Rows:
    """All clips of a search side by side.

    Attributes:
      reference: by indicator [S, n, d], [S, n] or, for "largest", [S, n, s, d], of the
        modality that follows.
      leading: the same of the modality that may be ahead.
      reference_known: [S, n], where the reference has a value.
      leading_known: [S, n], where the leading modality has one.
    """

    reference: dict[str, Array]
    leading: dict[str, Array]
    reference_known: Bool[Array, "S n"]
    leading_known: Bool[Array, "S n"]


@dataclasses.dataclass(frozen=True)
class LeadSums:
    """Sums of one indicator by lead and unit.

    Attributes:
      kind: such as "product".
      sums: [L, U, q], of the similarity (q = 1), or of x y^T as q numbers.
      pairs: [L, U], pairs of ticks.
      directions: [q], a b^T; None except for "canonical".
    """

    kind: str
    sums: Float[ndarray, "L U q"]
    pairs: Float[ndarray, "L U"]
    directions: Float[ndarray, " q"] | None = None

    @classmethod
    def of(
        cls,
        kind: str,
        sums: Float[ndarray, "L U q"],
        pairs: Float[ndarray, "L U"],
        shape: tuple[int, int],
    ) -> LeadSums:
        """Fits the directions where the kind needs some.

        Args:
          kind: of the indicator.
          sums: by lead and unit.
          pairs: the same.
          shape: of x y^T.
        """
        directions = _best_directions(sums, pairs, shape) if kind == CANONICAL else None
        return cls(kind, sums, pairs, directions)

    def curves(self, weights: Float[ndarray, "B U"]) -> Float[ndarray, "B L"]:
        """Returns the curve for each weighting of the units; NaN without a pair."""
        pairs = weights @ self.pairs.T
        totals = np.tensordot(weights, self.sums, axes=(1, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.kind == INFORMATION:
                return _information(totals / pairs[..., None])
            if self.directions is not None:
                return totals @ self.directions / pairs
            if self.kind != ASSOCIATION:
                return totals[..., 0] / pairs
            own = weights**2 @ (self.sums**2).sum(axis=2).T
            return ((totals**2).sum(axis=2) - own) / (
                pairs**2 - weights**2 @ (self.pairs**2).T
            )

    def curve(self) -> Float[ndarray, " L"]:
        """Returns the curve of all units, each once."""
        return self.curves(np.ones((1, self.pairs.shape[1])))[0]

    def chosen(self, units: ndarray) -> LeadSums:
        """Returns some of the units, by mask or number; directions stay."""
        return dataclasses.replace(
            self, sums=self.sums[:, units], pairs=self.pairs[:, units]
        )


def sums_bytes(
    kinds: Sequence[str], *, leads: int, units: int, dimensions: int
) -> float:
    """Returns how many bytes `lead_sums` may take, in single and double precision."""
    numbers = sum(dimensions**2 if kind in _TABLES else 1 for kind in kinds)
    return float(leads * units * numbers * 12)


def lead_sums(
    rows: Rows,
    kinds: Mapping[str, str],
    leads: Int[ndarray, " L"],
    *,
    unit_ticks: int,
) -> dict[str, LeadSums]:
    """Computes every indicator at every lead, in one compiled call.

    A lead at which less than a tenth as many pairs are left as at the best one has no
    value: a handful of ticks agree by chance.

    Args:
      rows: n a multiple of `unit_ticks`.
      kinds: by indicator its kind.
      leads: in ticks.
      unit_ticks: length of a unit; units are numbered row by row.
    """
    found = _sums(
        rows, jnp.asarray(leads), kinds=tuple(kinds.items()), unit_ticks=unit_ticks
    )
    sums, pairs = jax.device_get(found)
    few = pairs.sum(axis=1) < _LEAST_SHARE * pairs.sum(axis=1).max()
    pairs = np.where(few[:, None], 0.0, pairs)
    return {
        name: LeadSums.of(
            kind,
            np.where(few[:, None, None], 0.0, sums[name]).astype(float),
            pairs.astype(float),
            (rows.reference[name].shape[-1], rows.leading[name].shape[-1]),
        )
        for name, kind in kinds.items()
    }


def _best_directions(
    sums: Float[ndarray, "L U q"], pairs: Float[ndarray, "L U"], shape: tuple[int, int]
) -> Float[ndarray, " q"]:
    """Returns a b^T of the lead at which they correlate best."""
    means = sums.sum(axis=1) / np.maximum(pairs.sum(axis=1), 1)[:, None]
    left, size, right = np.linalg.svd(means.reshape(-1, *shape), full_matrices=False)
    best = size[:, 0].argmax()
    return np.outer(left[best, :, 0], right[best, 0]).ravel()


def _information(shares: Float[ndarray, "B L q"]) -> Float[ndarray, "B L"]:
    """Mutual information of square tables of shares."""
    side = math.isqrt(shares.shape[-1])
    joint = shares.reshape(*shares.shape[:-1], side, side)
    apart = joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)
    ratio = np.where(joint > 0, joint / np.where(apart > 0, apart, 1), 1)
    return (joint * np.log(ratio)).sum(axis=(-2, -1))


@functools.partial(jax.jit, static_argnames=("kinds", "unit_ticks"))
def _sums(
    rows: Any, leads: Array, *, kinds: tuple[tuple[str, str], ...], unit_ticks: int
) -> tuple[dict[str, Array], Array]:
    """Returns by indicator [L, U, q], and pairs [L, U]."""
    n = rows.reference_known.shape[1]
    position = jnp.arange(n)

    def by_unit(values: Array) -> Array:
        """[S, n, ...] to [U, unit, ...]."""
        return values.reshape(-1, unit_ticks, *values.shape[2:])

    def similar(kind: str, x: Array, y: Array) -> Array:
        if kind == LARGEST:
            exact = jax.lax.Precision.HIGHEST
            products = jnp.einsum("rtsd,rtzd->rtsz", x, y, precision=exact)
            return products.max(axis=(-2, -1))
        return (x == y) if kind == EQUAL else (x * y).sum(axis=-1)

    def at(lead: Array) -> tuple[dict[str, Array], Array]:
        partner = position - lead
        inside = (partner >= 0) & (partner < n)
        partner = jnp.clip(partner, 0, n - 1)
        pair = rows.reference_known & rows.leading_known[:, partner] & inside
        weight = pair.astype(jnp.float32)
        found = {}
        for name, kind in kinds:
            x, y = rows.reference[name], rows.leading[name][:, partner]
            if kind in _TABLES:
                # The padding of the rows is 0, so only the partner is masked.
                parts = jnp.einsum(
                    "utd,ute->ude",
                    by_unit(x * weight[..., None]),
                    by_unit(y),
                    precision=jax.lax.Precision.HIGHEST,
                )
                found[name] = parts.reshape(len(parts), -1)
                continue
            same = similar(kind, x, y)
            found[name] = by_unit(same * weight).sum(axis=1, keepdims=True)
        return found, by_unit(weight).sum(axis=1)

    return jax.lax.map(at, leads)


def rearranged(
    rows: Rows,
    source: Int[ndarray, " S"],
    position: Int[ndarray, "S n"],
    known: Bool[ndarray, "S n"],
) -> Rows:
    """Returns rows whose leading modality was taken from elsewhere.

    Args:
      rows: as they were recorded.
      source: for each row the row that its leading modality comes from.
      position: where in that row each position comes from.
      known: which positions exist at all.
    """
    taken = jax.tree.map(
        lambda values: values[source[:, None], position],
        (rows.leading, rows.leading_known),
    )
    return Rows(rows.reference, taken[0], rows.reference_known, taken[1] & known)
