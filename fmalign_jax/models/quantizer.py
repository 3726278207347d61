"""The shared codebook: nearest codes, joint directed EMA, revival of idle codes.

A codebook is data; everything that happens to it is a pure function, called once a
step from all modalities together and outside the gradient. Reading it (`embeddings`,
`assign`) cannot change it. All arithmetic is fp32, whatever the encoders compute in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmalign_jax.config.pair_tables import PairTable, check_names

COUNT_FLOOR = 1e-3
"""Counts stop decaying here. 0.99**n leaves fp32 after about 8700 unused steps, and
0/0 would follow; at the floor count and sums stand still together, so e is kept."""

_EXACT = jax.lax.Precision.HIGHEST


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass
class Codebook:
    """Shared codes of all modalities, kept as running counts and sums.

    Attributes:
      counts: [M] fp32, running number of features a step that fall on each code.
      sums: [M, D] fp32, running sum of these features; the codes are sums / counts.
      idle: by modality [M] int32, steps since that modality last chose each code.
    """

    counts: Float[Array, " M"]
    sums: Float[Array, "M D"]
    idle: dict[str, Int[Array, " M"]]


def empty_codebook(codes: int, width: int, *, modalities: Iterable[str]) -> Codebook:
    """Returns a codebook of the right shapes with all codes at zero.

    Args:
      codes: M.
      width: D.
      modalities: names of the modalities that share the codebook.
    """
    return Codebook(
        counts=jnp.ones(codes, jnp.float32),
        sums=jnp.zeros((codes, width), jnp.float32),
        idle={name: jnp.zeros(codes, jnp.int32) for name in modalities},
    )


def initialise(
    key: Array,
    features: Float[Array, "n D"],
    codes: int,
    *,
    modalities: Iterable[str],
    method: str = "sample",
    jitter: float = 0.01,
    iterations: int = 10,
) -> Codebook:
    """Places the codes on data, with counts at one.

    A count of zero with sums at e would scale unused codes by 1/epsilon at the first
    update, so a fresh code weighs as much as one feature.

    Args:
      key: random key.
      features: semantic features of all modalities.
      codes: M, size of the codebook; may exceed the number of features.
      modalities: names of the modalities that share the codebook.
      method: "sample" takes features as codes, "kmeans" moves them to cluster means.
      jitter: noise that separates copies when there are fewer features than codes,
        in standard deviations of the features.
      iterations: Lloyd iterations of "kmeans".

    Raises:
      ValueError: without features, codes or modalities, or on an unknown method.
    """
    names = tuple(modalities)
    if len(features) == 0 or codes < 1 or not names:
        raise ValueError(
            "a codebook needs features, codes and modalities; got "
            f"{len(features)} features, {codes} codes, modalities {names}; pass the "
            "semantic features of at least one batch"
        )
    if method not in ("sample", "kmeans"):
        raise ValueError(
            f"codes start by 'sample' or 'kmeans'; got {method!r}; use one of them"
        )
    features = features.astype(jnp.float32)
    placed = _sample(key, features, codes, jitter)
    if method == "kmeans":
        placed = _lloyd(features, placed, iterations)
    codebook = empty_codebook(codes, features.shape[1], modalities=names)
    return dataclasses.replace(codebook, sums=placed)


def embeddings(codebook: Codebook, *, epsilon: float = 0.0) -> Float[Array, "M D"]:
    """Reads the codes, e = sums / counts.

    Args:
      codebook: the codebook.
      epsilon: Laplace smoothing of the counts, for this reading only.
    """
    counts = codebook.counts
    if epsilon:
        total = counts.sum()
        counts = (counts + epsilon) * total / (total + epsilon * counts.size)
    return codebook.sums / counts[:, None]


def assign(z: Float[Array, "*n D"], codes: Float[Array, "M E"]) -> Int[Array, "*n"]:
    """Returns the nearest code of each feature, argmin_j ||z - e_j||^2, as int32.

    ||z||^2 is the same for every code and left out, so one matrix product suffices.

    Args:
      z: [..., D] features of any dtype.
      codes: [M, D] codes.

    Raises:
      ValueError: when features and codes differ in width.
    """
    if z.shape[-1] != codes.shape[-1]:
        raise ValueError(
            "features and codes must have the same width; got "
            f"{z.shape[-1]} and {codes.shape[-1]}; build the codebook from this model"
        )
    codes = codes.astype(jnp.float32)
    products = jnp.matmul(z.astype(jnp.float32), codes.T, precision=_EXACT)
    distances = jnp.sum(codes**2, axis=-1) - 2.0 * products
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


def code_vectors(
    codes: Int[Array, "*n"], vectors: Float[Array, "M D"]
) -> Float[Array, "*n D"]:
    """Returns e_c of each code index c; no gradient reaches the codebook."""
    return jax.lax.stop_gradient(vectors)[codes]


def straight_through(
    z: Float[Array, "*n D"], vectors: Float[Array, "*n D"]
) -> Float[Array, "*n D"]:
    """Returns z + sg(e_c - z): the value of e_c, the gradient of z."""
    return z + jax.lax.stop_gradient(vectors - z)


def check_ema_mix(
    ema_mix: PairTable, modalities: Iterable[str], *, name: str = "ema_mix"
) -> None:
    """Checks the table A of the multi-modal EMA, or another table of shares.

    Raises:
      ValueError: when a row does not sum to 1, an entry is negative, a name is not a
        modality of the codebook, or there is no row.
    """
    names = sorted(modalities)
    check_names(ema_mix, names, table_name=name)
    for writer in codebook_writers(ema_mix):
        row = dict(ema_mix[writer])
        total = math.fsum(row.values())
        if abs(total - 1.0) > 1e-6 or min(row.values()) < 0:
            raise ValueError(
                f"each row of {name} must be non-negative and sum to 1; got "
                f"{name}.{writer} = {row}, sum {total:g}; give the shares of {names}"
            )
    if not codebook_writers(ema_mix):
        raise ValueError(
            "some modality must move the codes; got an ema_mix without a row; give "
            f"one of {names} a row"
        )


def codebook_writers(ema_mix: PairTable) -> list[str]:
    """Returns the modalities that move codes, those with a row in the table A.

    The choices of the others move nothing, and a code that only they use is idle: such
    a student has to use the codes of its teachers. If it moved the codes it chose, it
    would end on codes of its own, near the mean of its teachers' features.
    """
    return sorted(name for name, row in ema_mix.items() if row)


def ema_update(
    codebook: Codebook,
    semantic: Mapping[str, Float[Array, "B T D"]],
    codes: Mapping[str, Int[Array, "B T"]],
    *,
    decay: float,
    ema_mix: PairTable,
) -> Codebook:
    """Moves the codes towards their features, all modalities in one joint update.

        N_j <- g N_j + (1 - g) sum_m n^m_j
        o_j <- g o_j + (1 - g) sum_m sum_{c^m = j} sum_n A[m, n] z^n

    A feature of modality n joins, at the same window and tick, the codes that modality
    m chose, with share A[m, n] (CMG, NeurIPS 2023, multi-modal EMA, here directed and
    joint). Updating modality after modality instead applies the decay twice: for two,
    it equals this with decay g^2 and weights g / (1 + g) and 1 / (1 + g).

    Args:
      codebook: the codebook before the step.
      semantic: by modality [B, T, D], continuous features.
      codes: by modality [B, T], the codes they fall on.
      decay: g.
      ema_mix: A[student][teacher]; every row sums to 1. A modality without a row
        moves no code (see `codebook_writers`).

    Returns:
      The codebook after the step, idle counters included.

    Raises:
      ValueError: on a wrong table, or modalities or widths other than the codebook's.
    """
    _check_modalities(codebook, semantic, codes)
    check_ema_mix(ema_mix, codebook.idle)
    movers = codebook_writers(ema_mix)
    z = {n: jax.lax.stop_gradient(v).astype(jnp.float32) for n, v in semantic.items()}
    chosen = {n: _one_hot(c, codebook.counts.size) for n, c in codes.items()}
    hits = {n: chosen[n].sum(axis=0) for n in sorted(codebook.idle)}
    added = jnp.zeros_like(codebook.sums)
    for name in movers:
        mixed = sum(share * z[teacher] for teacher, share in ema_mix[name].items())
        added += jnp.matmul(
            chosen[name].T, jnp.reshape(mixed, (-1, added.shape[1])), precision=_EXACT
        )
    keep = jnp.clip(COUNT_FLOOR / codebook.counts, decay, 1.0)
    gain = 1.0 - decay
    return Codebook(
        counts=keep * codebook.counts + gain * sum(hits[n] for n in movers),
        sums=keep[:, None] * codebook.sums + gain * added,
        idle={n: jnp.where(hits[n] > 0, 0, codebook.idle[n] + 1) for n in hits},
    )


def revive(
    key: Array,
    codebook: Codebook,
    semantic: Mapping[str, Float[Array, "B T D"]],
    *,
    modalities: Iterable[str],
    idle_steps: int,
    rule: str = "all",
    noise_scale: float = 0.01,
) -> tuple[Codebook, Int[Array, ""]]:
    """Puts idle codes back among the features of this batch.

    Count, sums and idle counters are written together, so that a revived code weighs
    one feature, keeps its place until it is chosen, and has idle_steps to be chosen.

    Args:
      key: random key.
      codebook: the codebook after `ema_update`.
      semantic: by modality [B, T, D], the features to draw from.
      modalities: those whose use keeps a code, and whose features are drawn (the
        `codebook_writers` of the codebook).
      idle_steps: steps without use after which a code counts as idle.
      rule: "any": idle in at least one modality; "all": used by none of them.
      noise_scale: noise on the drawn features, in standard deviations of each
        feature dimension over the batch.

    Returns:
      The codebook, and how many codes were revived.

    Raises:
      ValueError: on an unknown rule, or modalities or widths other than the codebook's.
    """
    _check_modalities(codebook, semantic, semantic)
    if rule not in ("any", "all"):
        raise ValueError(
            f"idle codes are judged by 'any' or 'all' modalities; got {rule!r}; "
            "use one of them"
        )
    names = sorted(modalities)
    m, width = codebook.sums.shape
    drawn = jnp.concatenate([semantic[n].reshape(-1, width) for n in names]).astype(
        jnp.float32
    )
    if len(drawn) == 0:
        return codebook, jnp.zeros((), jnp.int32)
    idle = jnp.stack([codebook.idle[n] for n in names]) >= idle_steps
    dead = idle.any(axis=0) if rule == "any" else idle.all(axis=0)
    pick_key, noise_key = jax.random.split(key)
    seeds = drawn[jax.random.randint(pick_key, (m,), 0, len(drawn))]
    noise = jax.random.normal(noise_key, seeds.shape) * drawn.std(axis=0)
    seeds = jax.lax.stop_gradient(seeds + noise_scale * noise)
    revived = Codebook(
        counts=jnp.where(dead, 1.0, codebook.counts),
        sums=jnp.where(dead[:, None], seeds, codebook.sums),
        idle={n: jnp.where(dead, 0, v) for n, v in codebook.idle.items()},
    )
    return revived, dead.sum(dtype=jnp.int32)


def _sample(
    key: Array, features: Float[Array, "n D"], codes: int, jitter: float
) -> Float[Array, "M D"]:
    """Draws codes from the features, each feature as rarely as possible."""
    pick_key, noise_key = jax.random.split(key)
    n = len(features)
    placed = features[jax.random.permutation(pick_key, n)[jnp.arange(codes) % n]]
    if codes <= n:
        return placed
    noise = jax.random.normal(noise_key, placed.shape) * features.std(axis=0)
    return placed + jitter * noise


def _lloyd(
    features: Float[Array, "n D"], placed: Float[Array, "M D"], iterations: int
) -> Float[Array, "M D"]:
    """k-means; a code without features stays where it is."""

    def step(_: Array, placed: Array) -> Array:
        chosen = _one_hot(assign(features, placed), len(placed))
        counts = chosen.sum(axis=0)[:, None]
        sums = jnp.matmul(chosen.T, features, precision=_EXACT)
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), placed)

    return jax.lax.fori_loop(0, iterations, step, placed)


def _one_hot(codes: Int[Array, "*n"], m: int) -> Float[Array, "N M"]:
    return jax.nn.one_hot(codes.reshape(-1), m, dtype=jnp.float32)


def _check_modalities(codebook: Codebook, *mappings: Mapping[str, Array]) -> None:
    """Refuses features of other modalities or another width than the codebook's."""
    expected = sorted(codebook.idle)
    for mapping in mappings:
        if sorted(mapping) != expected:
            raise ValueError(
                f"a codebook serves the modalities it was built for, {expected}; got "
                f"{sorted(mapping)}; build the codebook from this model's features"
            )
    width = codebook.sums.shape[1]
    for name, z in mappings[0].items():
        if z.shape[-1] != width:
            raise ValueError(
                f"features must be as wide as the codebook, {width}; got {z.shape[-1]} "
                f"in {name!r}; build the codebook from this model's features"
            )
