"""The values that each indicator of the lead compares, in rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.special import logsumexp

from fmalign_jax.lead.curves import (
    ASSOCIATION,
    CANONICAL,
    EQUAL,
    INFORMATION,
    LARGEST,
    PRODUCT,
    Rows,
)
from fmalign_jax.lead.layout import Layout
from fmalign_jax.lead.tick_features import TickFeatures, centred_mean

MOTION = "motion"

INDICATORS = {
    "canonical": CANONICAL,
    "association": ASSOCIATION,
    "centred_cosine": PRODUCT,
    "cosine": PRODUCT,
    "code_association": ASSOCIATION,
    "code_information": INFORMATION,
    "code_agreement": EQUAL,
    "equal_share": EQUAL,
    "info_nce": PRODUCT,
    "plain": CANONICAL,
    MOTION: CANONICAL,
    "own": LARGEST,
}
"""Every indicator and its kind; docs/lead.md says what each one is worth."""

OF_CODES = ("code_association", "code_information", "code_agreement", "equal_share")
"""The indicators that look at codes; a system without codes has none of them."""

MODEL_FREE = ("plain", MOTION)
"""The indicators that ask no model: no training can have moved what they answer."""

OF_LABELS = ("canonical", "association")
"""The indicators that can compare features with labels."""

INFO_NCE = "info_nce"

_TEMPERATURE = 0.1
_NEGATIVES = 512
TABLE_CODES = 16
"""Codes that a table of two modalities' codes tells apart, on either side."""
_CODES = TABLE_CODES - 1  # the commonest; all others together are one more
_RIDGE = 1e-3  # of the largest variance


def make_rows(
    layout: Layout, indicators: Sequence[str], *, window_ticks: int, dimensions: int
) -> Rows:
    """Lays the values that each indicator compares into rows.

    Args:
      layout: from `layout.layout`.
      indicators: which of INDICATORS.
      window_ticks: ticks in a window, for modal codes and plain means.
      dimensions: principal directions that associations keep of each modality.
    """
    side = {"reference": layout.reference_at, "leading": layout.leading_at}
    values: dict[str, dict[str, Any]] = {role: {} for role in side}
    known: dict[str, Any] = {}
    for role, at in side.items():
        own: list[TickFeatures] = [getattr(clip, role) for clip in layout.clips]
        known[role] = _placed(layout, at, [part.known for part in own])
        placed = {  # some indicators look at the same
            view: _placed(layout, at, view(own, layout, window_ticks, dimensions))
            for view in {_VIEWS[name] for name in indicators}
        }
        values[role] = {name: placed[_VIEWS[name]] for name in indicators}
    if INFO_NCE in indicators:
        x, y = (values[role][INFO_NCE] for role in side)
        candidates = x[known["reference"]]
        step = -(-len(candidates) // _NEGATIVES)
        values["reference"][INFO_NCE], values["leading"][INFO_NCE] = info_nce_factors(
            x, y, candidates[::step]
        )
    return Rows(
        values["reference"], values["leading"], known["reference"], known["leading"]
    )


def placed_window_means(
    layout: Layout, window_ticks: int
) -> tuple[
    Float[ndarray, "S n D"],
    Float[ndarray, "S n D"],
    Bool[ndarray, "S n"],
    Bool[ndarray, "S n"],
]:
    """Returns unit means of the window around each tick, and where it is all known.

    Both of the reference, then of the leading modality.
    """
    means, known = [], []
    for role in ("reference", "leading"):
        at = layout.reference_at if role == "reference" else layout.leading_at
        own: list[TickFeatures] = [getattr(clip, role) for clip in layout.clips]
        values = _window_means(own, layout, window_ticks, 0)
        means.append(_placed(layout, at, values))
        whole = [_known_around(part.known, window_ticks) for part in own]
        known.append(_placed(layout, at, whole))
    return means[0], means[1], known[0], known[1]


def _known_around(known: Bool[ndarray, " n"], width: int) -> Bool[ndarray, " n"]:
    """Returns whether all ticks that `centred_mean` takes are known."""
    span = 2 * (width // 2) + 1
    counts = np.convolve(known, np.ones(span), mode="full")[width // 2 :][: len(known)]
    return counts > span - 0.5


def info_nce_factors(
    x: Float[ndarray, "S n d"],
    y: Float[ndarray, "S n d"],
    candidates: Float[ndarray, "N d"],
) -> tuple[Float[ndarray, "S n d+1"], Float[ndarray, "S n d+1"]]:
    """Returns factors whose product is the InfoNCE bound of a pair, in nats.

    log N + <x, y> / tau - log sum_j exp(<c_j, y> / tau), with tau = 0.1 as in the
    window contrast (van den Oord et al. 2018). The candidates are the same for every
    pair: neither the lead nor a wrong pairing changes what a pair is compared with.

    Args:
      x: unit vectors of the reference.
      y: unit vectors of the leading modality.
      candidates: c_j, vectors of the reference.
    """
    normaliser = logsumexp(y @ candidates.T / _TEMPERATURE, axis=-1)
    bias = np.log(len(candidates)) - normaliser
    return (
        np.concatenate([x / _TEMPERATURE, np.ones_like(x[..., :1])], axis=-1),
        np.concatenate([y, bias[..., None]], axis=-1).astype(np.float32),
    )


def _placed(
    layout: Layout, at: Int[ndarray, " S"], parts: Sequence[ndarray]
) -> ndarray:
    """Lays one array a clip into rows, 0 elsewhere."""
    shape = (len(parts), layout.ticks, *parts[0].shape[1:])
    dtype = np.float32 if parts[0].dtype == np.float64 else parts[0].dtype
    rows = np.zeros(shape, dtype)
    for row, (part, first) in enumerate(zip(parts, at.tolist(), strict=True)):
        begin, end = max(0, first), min(layout.ticks, first + len(part))
        rows[row, begin:end] = part[begin - first : end - first]
    return rows


Parts = Sequence[TickFeatures]
View = Callable[[Parts, Layout, int, int], list[ndarray]]


def _cosine(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    return [_unit(part.semantic) for part in parts]


def _centred_cosine(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    centred = _without_trend(parts, [part.semantic for part in parts], layout)
    return [_unit(values) for values in centred]


def _window_means(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    """Returns what the window contrast compares: means on the unit sphere."""
    return [_unit(centred_mean(p.semantic, p.known, window)) for p in parts]


def _semantic(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    return _whitened(parts, [part.semantic for part in parts], layout, d)


def _plain(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    smooth = [centred_mean(part.plain, part.known, window) for part in parts]
    return _whitened(parts, smooth, layout, d)


def _motion(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    return _whitened(parts, [part.motion for part in parts], layout, d)


def _own(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    """Returns what the run's system compares, unit vectors if that is features."""
    return [
        _unit(part.semantic)[:, None] if part.own is None else part.own
        for part in parts
    ]


def _one_hot_whitened(
    parts: Parts, layout: Layout, window: int, d: int
) -> list[ndarray]:
    return _whitened(parts, _one_hot(parts), layout, d)


def _codes(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    return [_code(part) for part in parts]


def _modal_codes(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    """Returns the most frequent code of the window around each tick."""
    found = []
    for part in parts:
        codes, column = np.unique(_code(part), return_inverse=True)
        shares = centred_mean(np.eye(len(codes))[column], part.known, window)
        found.append(codes[shares.argmax(axis=1)])
    return found


def _plain_one_hot(parts: Parts, layout: Layout, window: int, d: int) -> list[ndarray]:
    return _one_hot(parts)


_VIEWS: dict[str, View] = {
    "canonical": _semantic,
    "association": _semantic,
    "centred_cosine": _centred_cosine,
    "cosine": _cosine,
    "code_association": _one_hot_whitened,
    "code_information": _plain_one_hot,
    "code_agreement": _codes,
    "equal_share": _modal_codes,
    "info_nce": _window_means,
    "plain": _plain,
    MOTION: _motion,
    "own": _own,
}


def _one_hot(parts: Parts) -> list[ndarray]:
    codes, counts = np.unique(
        np.concatenate([_code(part)[part.known] for part in parts]),
        return_counts=True,
    )
    common = codes[np.argsort(-counts, kind="stable")[:_CODES]]
    table = np.full(int(codes.max()) + 1, len(common))
    table[common] = np.arange(len(common))
    return [np.eye(_CODES + 1)[table[_code(part)]] for part in parts]


def _code(part: TickFeatures) -> ndarray:
    """Returns the codes; never called for a system without codes."""
    assert part.code is not None
    return part.code


def _unit(values: Float[ndarray, "n D"]) -> Float[ndarray, "n D"]:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _without_trend(
    parts: Parts, values: Sequence[ndarray], layout: Layout
) -> list[ndarray]:
    """Subtracts each recording's own straight line in time over its known ticks.

    A lens that fouls and a shell that warms up drift both, and whatever has a trend
    goes with whatever else has one. Wrong pairings cannot tell: turned, a trend is cut.
    """
    found = [np.zeros(0)] * len(parts)
    for rows in _by_recording(layout.recording):
        time_s = [
            parts[i].start_s + layout.tick_s * np.arange(len(parts[i])) for i in rows
        ]
        known = [parts[i].known for i in rows]
        seen = np.concatenate([values[i][k] for i, k in zip(rows, known, strict=True)])
        seen_s = np.concatenate([t[k] for t, k in zip(time_s, known, strict=True)])
        mean, middle_s = seen.astype(np.float64).mean(axis=0), seen_s.mean()
        seen_s -= middle_s
        slope = seen_s @ (seen - mean) / max(seen_s @ seen_s, layout.tick_s**2)
        for i, t in zip(rows, time_s, strict=True):
            found[i] = values[i] - mean - (t - middle_s)[:, None] * slope
    return found


def _by_recording(recording: Int[ndarray, " S"]) -> Iterator[list[int]]:
    for number in np.unique(recording):
        yield np.flatnonzero(recording == number).tolist()


def _whitened(
    parts: Parts,
    values: Sequence[ndarray],
    layout: Layout,
    dimensions: int,
) -> list[ndarray]:
    """Returns the first principal directions, each with variance 1, without trend.

    Uses one modality alone and no lead, so that nothing about the pairing is fitted.
    """
    centred = _without_trend(parts, values, layout)
    seen = np.concatenate(
        [own[part.known] for part, own in zip(parts, centred, strict=True)]
    )
    spread = seen.std(axis=0) + 1e-12
    covariance = np.atleast_2d(np.cov((seen / spread).T, ddof=0))  # of one feature too
    variance, direction = np.linalg.eigh(covariance)
    order = np.argsort(-variance)[:dimensions]
    kept = order[variance[order] > _RIDGE * variance.max()]
    if not len(kept):  # nothing ever changes, such as a collapsed code
        return [np.zeros((len(part), 1)) for part in parts]
    turn = direction[:, kept] / np.sqrt(variance[kept]) / spread[:, None]
    return [
        (own @ turn) * part.known[:, None]
        for part, own in zip(parts, centred, strict=True)
    ]
