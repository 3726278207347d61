"""Whether two modalities use the same codes: measures of codes as codes.

Pure functions of arrays. A classifier on code *vectors* may transfer although no two
windows share a code; what is measured here looks at which code it is, and nothing else.

Chance is taken twice. *By marginals*: each modality chooses its codes as often as it
does, without regard to the other; two sequences that change slowly agree more often
than that by accident. *By shifts*: one modality is shifted in a circle within its
recording, by a window at least, so that its own rhythm is kept and only the pairing is
lost. What a shift keeps (which furnace it is, how often it is abnormal) is not counted
as shared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import entr, softmax
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import NearestNeighbors

Codes = Int[ndarray, "N S"]

SHIFTS = 50
"""Circular shifts that a chance is the mean of."""

_NEIGHBOURS = 10
_PERMUTATIONS = 50


@dataclasses.dataclass(frozen=True)
class Chance:
    """A value with what it is by accident.

    Attributes:
      value: as it was measured.
      chance: its mean over the shifts; None where nothing can be shifted.
    """

    value: float
    chance: float | None

    @property
    def beyond(self) -> float | None:
        """Returns what is left of the value beyond chance."""
        return None if self.chance is None else self.value - self.chance


@dataclasses.dataclass(frozen=True)
class CodeTable:
    """A classifier that knows a window by its codes alone.

    The score of a class is the mean over the window's codes of log p(code | class),
    plus log p(class); both are counted, each code with half a count more.

    Attributes:
      log_likelihood: [K, M], log p(code | class).
      log_prior: [K].
      used: [M], whether the windows it was counted on have the code.
    """

    log_likelihood: Float[ndarray, "K M"]
    log_prior: Float[ndarray, " K"]
    used: ndarray

    @classmethod
    def count(
        cls, codes: Codes, label: Int[ndarray, " N"], *, size: int, classes: int
    ) -> CodeTable:
        """Counts the codes of labelled windows.

        Args:
          codes: [N, S] of one modality.
          label: [N], all known.
          size: number of codes M.
          classes: K; one without a window is never predicted.
        """
        counts = np.zeros((classes, size))
        np.add.at(counts, (label[:, None], codes), 1)
        windows = np.bincount(label, minlength=classes)
        smoothed = counts + 0.5
        with np.errstate(divide="ignore"):
            prior = np.log(windows / windows.sum())
        return cls(
            np.log(smoothed / smoothed.sum(axis=1, keepdims=True)),
            prior,
            np.asarray(counts.any(axis=0)),
        )

    def predict(self, codes: Codes) -> Float[ndarray, "N K"]:
        """Returns class probabilities of windows."""
        likelihood = self.log_likelihood[:, codes].mean(axis=-1).T
        return softmax(likelihood + self.log_prior, axis=1)

    def coverage(self, codes: Codes) -> float:
        """Returns the share of codes that the table has seen."""
        return float(self.used[codes].mean())


def agreement(a: Codes, b: Codes) -> float:
    """Returns the share of places at which both modalities have the same code."""
    return float((a == b).mean())


def equal_windows(codes: Mapping[str, Codes], size: int) -> int:
    """Returns in how many windows all modalities have one most frequent code.

    The user's `equal_num`. Of equally frequent codes the lowest counts.
    """
    modal = np.stack([_most_frequent(own, size) for own in codes.values()])
    return int((modal == modal[0]).all(axis=0).sum())


def equal_share(codes: Mapping[str, Codes], size: int) -> float:
    """Returns `equal_windows` over all windows, equal_num / B."""
    return equal_windows(codes, size) / len(next(iter(codes.values())))


def chance_by_marginals(a: Codes, b: Codes, size: int) -> float:
    """Returns the agreement of two that choose as often, but independently."""
    return float(_shares(a, size) @ _shares(b, size))


def kappa(agreement: float, chance: float | None) -> float | None:
    """Returns (agreement - chance) / (1 - chance): 0 is chance, 1 is always the same.

    None without a chance, and where chance alone agrees always.
    """
    if chance is None or chance >= 1 - 1e-9:
        return None
    return (agreement - chance) / (1 - chance)


def mutual_information_nats(a: Codes, b: Codes) -> float:
    """Returns the plain estimate of I(a; b); it is too high where codes are many."""
    return float(mutual_info_score(a.ravel(), b.ravel()))


def beyond_shifts(
    measure: Callable[[Codes, Codes], float],
    a: Codes,
    b: Codes,
    recording: Int[ndarray, " N"],
    *,
    least_shift: int,
    seed: int,
) -> Chance:
    """Measures two modalities, and the same with one of them shifted in time.

    Args:
      measure: of paired codes.
      a: [N, S] of one modality; windows in order of recording and time.
      b: [N, S] of the other.
      recording: [N], which recording each window is of.
      least_shift: windows, so that a window and its shifted partner share no sample.
      seed: of the shifts.

    Recordings too short for such a shift are left out of value and chance.
    """
    kept = np.isin(recording, _long_enough(recording, least_shift))
    if not kept.any():
        return Chance(measure(a, b), None)
    a, b, recording = a[kept], b[kept], recording[kept]
    found = [
        measure(a, b[order])
        for order in shifted_orders(recording, least_shift=least_shift, seed=seed)
    ]
    return Chance(measure(a, b), float(np.mean(found)))


def shifted_orders(
    recording: Int[ndarray, " N"], *, least_shift: int, seed: int
) -> list[Int[ndarray, " N"]]:
    """Returns SHIFTS orders of the windows, each recording turned in a circle.

    Both ways round a shift is at least `least_shift` windows long.
    """
    rng = np.random.default_rng(seed)
    orders = []
    for _ in range(SHIFTS):
        order = np.arange(len(recording))
        for number in np.unique(recording):
            rows = np.flatnonzero(recording == number)
            shift = rng.integers(least_shift, len(rows) - least_shift + 1)
            order[rows] = np.roll(rows, shift)
        orders.append(order)
    return orders


def _long_enough(recording: Int[ndarray, " N"], least_shift: int) -> ndarray:
    numbers, windows = np.unique(recording, return_counts=True)
    return numbers[windows >= 2 * least_shift]


def sharing(
    codes: Mapping[str, Codes],
    size: int,
    recording: Int[ndarray, " N"],
    *,
    least_shift: int,
    seed: int,
) -> dict[str, Any]:
    """Returns agreement, information and use of the codes of two modalities.

    Args:
      codes: of paired windows, of two modalities.
      size: number of codes.
      recording: of each window.
      least_shift: windows that a shift moves at least.
      seed: of the shifts.

    Returns:
      `agreement`; `chance_marginals`, `chance_shift`; `kappa` beyond each;
      `shared_nats`, mutual information beyond shifts, and `shared_of_entropy`, its
      share of the smaller entropy; `entropy_nats`, `perplexity` by modality;
      `equal_num`, `equal_share`.
    """
    a, b = codes.values()
    agreeing, information = (
        beyond_shifts(measure, a, b, recording, least_shift=least_shift, seed=seed)
        for measure in (agreement, mutual_information_nats)
    )
    by_marginals = chance_by_marginals(a, b, size)
    entropy = {m: entropy_nats(own, size) for m, own in codes.items()}
    least = min(entropy.values())
    beyond = information.beyond
    whole = agreement(a, b)
    return {
        "agreement": whole,
        "chance_marginals": by_marginals,
        "chance_shift": agreeing.chance,
        "kappa": {
            "marginals": kappa(whole, by_marginals),
            "shift": kappa(agreeing.value, agreeing.chance),
        },
        "shared_nats": beyond,
        "shared_of_entropy": None if beyond is None or least < 1e-9 else beyond / least,
        "entropy_nats": entropy,
        "perplexity": {m: math.exp(value) for m, value in entropy.items()},
        "equal_num": equal_windows(codes, size),
        "equal_share": equal_share(codes, size),
    }


def entropy_nats(codes: Codes, size: int) -> float:
    """Returns the entropy of a modality's use of the codes."""
    return float(entr(_shares(codes, size)).sum())


def information_nats(codes: Codes, about: Int[ndarray, " N"], *, seed: int) -> float:
    """Returns I(code; about) beyond what random permutations of `about` give.

    Args:
      codes: [N, S] of one modality.
      about: [N], such as the label or the recording.
      seed: of the permutations.
    """
    rng = np.random.default_rng(seed)

    def information(values: Int[ndarray, " N"]) -> float:
        return float(
            mutual_info_score(codes.ravel(), np.repeat(values, codes.shape[1]))
        )

    by_accident = [information(rng.permutation(about)) for _ in range(_PERMUTATIONS)]
    return information(about) - float(np.mean(by_accident))


def ceiling(codes: Codes, label: Int[ndarray, " N"], size: int) -> float:
    """Returns the agreement with these codes that knowing the label could reach.

    One who knows the label alone does best with the most frequent code of each class:
    sum over the classes of p(class) max_j p(code j | class).
    """
    return float(
        sum(
            np.bincount(codes[label == c].ravel(), minlength=size).max()
            for c in np.unique(label)
        )
        / codes.size
    )


def mixing(
    features: Mapping[str, Float[ndarray, "N D"]], *, standardise: bool = False
) -> float:
    """Returns the share of other modalities among the 10 nearest windows.

    Args:
      features: one vector a window, by modality, of the same windows.
      standardise: whether each modality is brought to mean 0 and variance 1 first,
        which hides a gap between their means.
    """
    own = [
        (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9) if standardise else x
        for x in features.values()
    ]
    points = np.concatenate(own)
    modality = np.repeat(np.arange(len(own)), [len(x) for x in own])
    k = min(_NEIGHBOURS, len(points) - 1)
    search = NearestNeighbors(n_neighbors=k).fit(points)
    nearest = search.kneighbors(return_distance=False)
    return float((modality[nearest] != modality[:, None]).mean())


def mixing_chance(windows: int, modalities: int) -> float:
    """Returns `mixing` where modality plays no part."""
    return (modalities - 1) * windows / (modalities * windows - 1)


def _shares(codes: Codes, size: int) -> Float[ndarray, " M"]:
    return np.bincount(codes.ravel(), minlength=size) / codes.size


def _most_frequent(codes: Codes, size: int) -> Int[ndarray, " N"]:
    counts = np.zeros((len(codes), size), np.int64)
    np.add.at(counts, (np.arange(len(codes))[:, None], codes), 1)
    return counts.argmax(axis=1)
