"""The shared level of a codebook: a few codes, placed on what all modalities show.

Codes of single ticks in D dimensions describe a window well and are almost never the
same in two modalities: most of what a modality shows, the other does not. What they
share is a few directions, and it changes slowly. This level keeps those directions
alone, one code a segment, and is fitted in closed form to features of training windows:

1. Directions by regularised canonical correlation analysis (Hotelling 1936), for more
   than two modalities in the MAXVAR form (Kettenring 1971). Along each of them every
   modality has mean 0 and as deviation the correlation there: no gap between the
   modalities is left, and what they share more of weighs more.
2. Codes by k-means on the variates of all modalities side by side, the teacher's with
   the larger weight: one index for a pair. Each modality alone learns to tell the index
   from its own variates, by multinomial logistic regression, and so seldom chooses an
   index that it cannot tell.
   With a student weight of 0, by k-means on the teacher's variates alone; the others
   take the nearest.

Nothing of it has a gradient. Fitting is NumPy on the host; reading is JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from fmalign_jax.models import quantizer

_RESTARTS = 10
_NEVER = -1e9
"""Score of a code that no training segment has."""
_EXACT = jax.lax.Precision.HIGHEST


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass
class SharedCodes:
    """Canonical directions of each modality, and codes along them.

    Attributes:
      mean: by modality [D] fp32, of its features in training.
      directions: by modality [D, r] fp32; (z - mean) @ directions are its variates.
      correlations: [r] fp32, of the variates of the modalities in training, the mean
        over pairs.
      codes: [K, r] fp32, among the teacher's variates, in order of the first.
    """

    mean: dict[str, Float[Array, " D"]]
    directions: dict[str, Float[Array, "D r"]]
    correlations: Float[Array, " r"]
    codes: Float[Array, "K r"]


@no_type_check
@flax.struct.dataclass
class LearntCodes(SharedCodes):
    """Shared codes that each modality has learnt to tell; else the nearest is taken.

    Attributes:
      readers: by modality [r + 1, K] fp32: a segment's code has the largest of
        variates @ readers[:r] + readers[r].
    """

    readers: dict[str, Float[Array, "r+1 K"]]


@dataclasses.dataclass(frozen=True)
class PlacedCodes:
    """Codes along given directions; as in `LearntCodes`, without readers None."""

    codes: Float[Array, "K r"]
    readers: dict[str, Float[Array, "r+1 K"]] | None


def empty(
    width: int,
    *,
    modalities: Iterable[str],
    directions: int,
    codes: int,
    student_weight: float = 0.0,
) -> SharedCodes:
    """Returns shared codes of the right shapes, with everything at zero.

    Args:
      width: D of the features.
      modalities: names of those that share the codes.
      directions: r.
      codes: K.
      student_weight: as in `fit`; 0 has no readers.
    """
    names = tuple(modalities)
    blank = SharedCodes(
        mean={name: jnp.zeros(width, jnp.float32) for name in names},
        directions={
            name: jnp.zeros((width, directions), jnp.float32) for name in names
        },
        correlations=jnp.zeros(directions, jnp.float32),
        codes=jnp.zeros((codes, directions), jnp.float32),
    )
    if not student_weight:
        return blank
    reader = jnp.zeros((directions + 1, codes), jnp.float32)
    return _learnt(blank, dict.fromkeys(names, reader))


def _learnt(shared: SharedCodes, readers: dict[str, Any]) -> LearntCodes:
    fields = {f.name: getattr(shared, f.name) for f in dataclasses.fields(shared)}
    return LearntCodes(**fields, readers=readers)


def variates(
    shared: SharedCodes, modality: str, features: Float[Array, "*n D"]
) -> Float[Array, "*n r"]:
    """Returns what of a modality's features all modalities share."""
    centred = features.astype(jnp.float32) - shared.mean[modality]
    return jnp.matmul(centred, shared.directions[modality], precision=_EXACT)


def segment_means(
    features: Float[Array, "B T D"], segments: int
) -> Float[Array, "B S D"]:
    """Returns the mean over the ticks of each of S equal segments of a window.

    Raises:
      ValueError: T is not a multiple of S.
    """
    b, t, d = features.shape
    if t % segments:
        raise ValueError(
            "codebook.shared.segments must divide data.window_ticks less skip_ticks; "
            f"got {segments} segments of {t} ticks; use a divisor, such as 1"
        )
    return features.reshape(b, segments, t // segments, d).mean(axis=2)


def assign(
    shared: SharedCodes, modality: str, segments: Float[Array, "B S D"]
) -> Int[Array, "B S"]:
    """Returns the shared code of each segment."""
    return assign_variates(shared, modality, variates(shared, modality, segments))


def assign_variates(
    shared: SharedCodes | PlacedCodes, modality: str, own: Float[Array, "B S r"]
) -> Int[Array, "B S"]:
    """Returns the code of each segment whose variates are known."""
    readers = getattr(shared, "readers", None)
    if readers is None:
        return quantizer.assign(own, shared.codes)
    reader = readers[modality]
    return jnp.argmax(
        jnp.matmul(own, reader[:-1], precision=_EXACT) + reader[-1], axis=-1
    )


def fit(
    features: Mapping[str, Float[ndarray, "N D"]],
    *,
    teacher: str,
    directions: int,
    codes: int,
    ridge: float,
    student_weight: float = 0.0,
    seed: int = 0,
) -> SharedCodes:
    """Fits directions and codes to paired features.

    Args:
      features: by modality, one row a segment, paired by row.
      teacher: the modality on whose variates the codes are placed.
      directions: r.
      codes: K.
      ridge: added to the variances before they are divided by, as a share of the
        largest of them; keeps directions with little variance from being fitted.
      student_weight: of the squared distance along the variates of each modality but
        the teacher, when pairs get their code. 0: the codes are the teacher's alone.
      seed: of k-means.

    Raises:
      ValueError: fewer than two rows or modalities, more directions than features, an
        unknown teacher, a negative weight, or values that are not finite.
    """
    _check(features, teacher, directions, student_weight)
    names = sorted(features)
    values = {m: np.asarray(features[m], np.float64) for m in names}
    mean = {m: x.mean(axis=0) for m, x in values.items()}
    white = {m: _whitening(x - mean[m], ridge) for m, x in values.items()}
    joint = np.concatenate([(values[m] - mean[m]) @ white[m] for m in names], axis=1)
    width = joint.shape[1] // len(names)
    correlation = joint.T @ joint / len(joint)
    for i in range(len(names)):  # only what is between modalities counts
        own = slice(i * width, (i + 1) * width)
        correlation[own, own] = np.eye(width)
    _, vectors = np.linalg.eigh(correlation)
    blocks = np.split(vectors[:, ::-1][:, :directions], len(names))
    found = {m: white[m] @ block for m, block in zip(names, blocks, strict=True)}
    # Of a direction and its opposite always the same, so that two fits can be compared.
    largest = np.abs(found[teacher]).argmax(axis=0)
    sign = np.sign(found[teacher][largest, np.arange(directions)])
    along, scaled = {}, {}
    for m in names:
        raw = (values[m] - mean[m]) @ found[m] * sign
        deviation = np.maximum(raw.std(axis=0), 1e-12)
        along[m] = raw / deviation
        scaled[m] = found[m] * sign / deviation
    correlations = _mean_correlation(along)
    weight = np.maximum(correlations, 0.0)
    along = {m: x * weight for m, x in along.items()}
    scaled = {m: x * weight for m, x in scaled.items()}
    placed = place_codes(
        along, teacher=teacher, codes=codes, student_weight=student_weight, seed=seed
    )
    shared = SharedCodes(
        mean={m: jnp.asarray(mean[m], jnp.float32) for m in names},
        directions={m: jnp.asarray(scaled[m], jnp.float32) for m in names},
        correlations=jnp.asarray(correlations, jnp.float32),
        codes=placed.codes,
    )
    return shared if placed.readers is None else _learnt(shared, placed.readers)


def place_codes(
    along: Mapping[str, Float[ndarray, "N r"]],
    *,
    teacher: str,
    codes: int,
    student_weight: float,
    seed: int = 0,
) -> PlacedCodes:
    """Places codes by k-means; those that have no point repeat the last.

    Args:
      along: by modality, the variates of each segment, paired by row.
      teacher: see `fit`, as are the others.
      codes: K.
      student_weight: see `fit`.
      seed: of k-means.
    """
    students = [m for m in sorted(along) if m != teacher] if student_weight else []
    points = np.concatenate(
        [along[teacher], *(math.sqrt(student_weight) * along[m] for m in students)],
        axis=1,
    )
    number = min(codes, len(np.unique(points, axis=0)))
    found = KMeans(number, n_init=_RESTARTS, random_state=seed).fit(points)
    order = np.argsort(found.cluster_centers_[:, 0], kind="stable")
    centres = found.cluster_centers_[order, : along[teacher].shape[1]]
    repeated = np.repeat(centres[-1:], codes - number, axis=0)
    index = np.argsort(order)[found.labels_]
    return PlacedCodes(
        jnp.asarray(np.concatenate([centres, repeated]), jnp.float32),
        {m: _reader(x, index, codes) for m, x in along.items()} if students else None,
    )


def _reader(
    own: Float[ndarray, "N r"], index: Int[ndarray, " N"], codes: int
) -> Float[Array, "r+1 K"]:
    """Returns the scores by which a modality alone tells the index."""
    reader = np.zeros((own.shape[1] + 1, codes))
    reader[-1] = _NEVER
    there = np.unique(index)
    if len(there) == 1:
        reader[-1, there] = 0.0
        return jnp.asarray(reader, jnp.float32)
    learnt = LogisticRegression().fit(own, index)
    scores = np.concatenate([learnt.coef_, learnt.intercept_[:, None]], axis=1).T
    # Of two classes scikit-learn keeps the second's score against the first's.
    reader[:, there] = scores if len(there) > 2 else scores * np.array([[-0.5, 0.5]])
    return jnp.asarray(reader, jnp.float32)


def _check(
    features: Mapping[str, Any], teacher: str, directions: int, student_weight: float
) -> None:
    rows, width = next(iter(features.values())).shape if features else (0, 0)
    if len(features) < 2 or rows < 2 or teacher not in features:
        raise ValueError(
            "shared codes need paired features of two modalities or more, the teacher "
            f"among them; got {rows} rows of {sorted(features)} and the teacher "
            f"{teacher!r}; give more windows, or correct codebook.shared.teacher"
        )
    if not 1 <= directions <= width:
        raise ValueError(
            "codebook.shared.directions must lie between 1 and the width of the "
            f"features; got {directions} of {width}; use fewer, such as 1"
        )
    if not 0 <= student_weight <= 1:
        raise ValueError(
            "codebook.shared.student_weight must lie between 0 and 1; got "
            f"{student_weight}; 0 places the codes on the teacher alone"
        )
    broken = [m for m, x in features.items() if not np.isfinite(x).all()]
    if broken:
        raise ValueError(
            f"shared codes need finite features; those of {', '.join(broken)} are not; "
            "the run has diverged: lower the learning rate"
        )


def _whitening(centred: Float[ndarray, "N D"], ridge: float) -> Float[ndarray, "D D"]:
    """Returns C^(-1/2) with a ridge on the covariance C."""
    variance, turn = np.linalg.eigh(centred.T @ centred / len(centred))
    most = max(float(variance.max()), 1e-12)
    # Without a ridge too, what never varies is no direction.
    floor = max(ridge, 1e-12) * most
    return (turn / np.sqrt(np.maximum(variance, 0) + floor)) @ turn.T


def _mean_correlation(along: Mapping[str, Float[ndarray, "N r"]]) -> ndarray:
    total = sum(along.values())
    pairs = len(along) * (len(along) - 1)
    # Each variate has mean 0 and variance 1, or is 0 where nothing varies.
    own = sum((x**2).mean(axis=0) for x in along.values())
    return np.asarray(((np.square(total)).mean(axis=0) - own) / pairs)
