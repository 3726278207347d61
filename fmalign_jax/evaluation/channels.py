"""Which channels of the code vectors a head sees: a choice that trains nothing.

Training-free choice of codebook channels (TOC): channels on which the codes lie far
apart are kept, those on which they are alike are left out. The assignment of a tick to
its code still uses all channels; only the vector that stands for the code is shorter.
With two codebooks channels are chosen in each by itself, as many in both, and the short
vectors stand side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray
from sklearn.decomposition import PCA

from fmalign_jax.evaluation import heads
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.report import over_draws, score_all
from fmalign_jax.evaluation.splits import HEAD, EvaluationSplits
from fmalign_jax.evaluation.transfer import (
    features_of,
    groups,
    kinds_of_features,
    transfer,
)
from fmalign_jax.run.frozen_encoder import Encodings
from fmalign_jax.systems.system import make_system

BOOKS = {"vectors": "codes", "lower_vectors": "lower_codes"}
"""Where `Encodings` have the vectors of each codebook, and the codes that use them."""

KINDS = ("all", "toc", "random", "variance", "worst", "pca")
DRAWS = 10
"""Draws of as many random channels, beside a choice."""

Seed = tuple[int, ...]

_GRID = (64, 128, 144, 168, 196, 224, 256)  # of 256 channels, in the publication


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelSpec:
    """Which channels to keep.

    Attributes:
      kind: "all": every one; "toc": those of highest U, see `usefulness`; "variance":
        those of largest variance over the codes; "random"; "worst": those of lowest U;
        "pca": no channels, but the first principal components of the code vectors.
      keep: how many; of several numbers the one that does best within the head split.
        Empty: shares of all from a quarter to all, as published.
      top: toc: of every top + bottom channels so many are those of highest U
      bottom: and so many those of lowest U.
      share: weight of S in U; the variance has the rest.
    """

    kind: str = "all"
    keep: tuple[int, ...] = ()
    top: int = 1
    bottom: int = 0
    share: float = 0.7

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"channels.kind must be one of {', '.join(KINDS)}; got {self.kind!r}; "
                "use one of them"
            )
        if min(self.top, self.bottom) < 0 or self.top + self.bottom < 1:
            raise ValueError(
                "channels.top and channels.bottom must be 0 or more, and not both 0; "
                f"got {self.top} and {self.bottom}; correct them"
            )
        if not 0 <= self.share <= 1:
            raise ValueError(
                f"channels.share must be from 0 to 1; got {self.share}; correct it"
            )

    def counts(self, channels: int) -> list[int]:
        """Returns how many channels may be kept of D: whole multiples of top + bottom.

        Raises:
          ValueError: a number that is larger than D or too small for top and bottom.
        """
        parts = self.top + self.bottom
        keep = self.keep or tuple(channels * n // _GRID[-1] for n in _GRID)
        if min(keep) < parts or max(keep) > channels:
            raise ValueError(
                f"channels.keep must be from {parts} to the {channels} channels that "
                f"code vectors have; got {keep}; correct it"
            )
        return list(dict.fromkeys(n // parts * parts for n in keep))


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
      spec: by which rule.
      used: by codebook, as `BOOKS` names them, the numbers of the codes [M'] that any
        modality chooses on the head split.
      count: C, how many channels are kept.
      judged: by C, the balanced accuracy on held-out folds; empty where one C is given.
    """

    spec: ChannelSpec
    used: Mapping[str, Int[ndarray, " m"]]
    count: int
    judged: Mapping[int, float]


def check(config: ConfigDict, run_config: ConfigDict) -> None:
    """Refuses a choice of channels where heads do not read code vectors.

    Args:
      config: of the evaluation, with the kind of features that heads read.
      run_config: of the run.

    Raises:
      ValueError: other features than code vectors, or settings that cannot work.
    """
    kind = ChannelSpec(**config.channels.to_dict()).kind
    if kind != "all" and config.features != "codes":
        has_codes = "codes" in kinds_of_features(make_system(run_config))
        remedy = (
            "add --config.features=codes"
            if has_codes
            else "use channels.kind=all: this run's system has no codebook"
        )
        raise ValueError(
            f"channels.kind={kind} chooses among the channels of code vectors; got "
            f"features={config.features}; {remedy}"
        )


def usefulness(
    vectors: Float[ndarray, "M D"], share: float = 0.7
) -> Float[ndarray, " D"]:
    """Returns U of each channel: far apart from code to code, and around zero.

    U = -share S + (1 - share) V, where V is the variance over codes (divisor M - 1) and
    S the mean over ordered pairs of different codes of the product of their values,
    which is mean^2 - V / M.

    Args:
      vectors: of two codes or more.
      share: of S.
    """
    vectors = np.asarray(vectors, np.float64)
    variance = vectors.var(axis=0, ddof=1)
    alike = np.square(vectors.mean(axis=0)) - variance / len(vectors)
    return -share * alike + (1 - share) * variance


def kept(
    spec: ChannelSpec, kind: str, vectors: Float[ndarray, "m D"], count: int, seed: Seed
) -> Int[ndarray, " C"]:
    """Returns the channels that a rule keeps, in ascending order.

    Args:
      spec: for `top`, `bottom` and `share`.
      kind: the rule, any of `KINDS` but "pca".
      vectors: of the codes in use.
      count: C, a multiple of top + bottom. Ties go to the channel of lower number.
      seed: of random channels.
    """
    channels = vectors.shape[1]
    if kind == "all":
        return np.arange(channels)
    if kind == "random":
        return np.sort(np.random.default_rng(seed).permutation(channels)[:count])
    value = usefulness(vectors, spec.share)
    if kind == "variance":
        value = np.asarray(vectors, np.float64).var(axis=0)
    if kind == "worst":
        value = -value
    best = np.argsort(-value, kind="stable")
    if kind != "toc":
        return np.sort(best[:count])
    lowest = count // (spec.top + spec.bottom) * spec.bottom
    worst = np.argsort(value, kind="stable")[:lowest]
    return np.sort(np.concatenate([best[: count - lowest], worst]))


def select(
    encoded: Mapping[str, Encodings],
    splits: EvaluationSplits,
    head: HeadSpec,
    config: ConfigDict,
) -> tuple[Mapping[str, Encodings], Choice | None]:
    """Returns the encodings as heads see them, and the choice of channels.

    How many are kept is chosen by the folds of the head on the source, within the head
    split; which ones, by the codes alone. None, and the same encodings, for "all".

    Raises:
      ValueError: a number of channels that the code vectors do not have, or fewer than
        two codes in use.
    """
    spec = ChannelSpec(**config.channels.to_dict())
    if spec.kind == "all":
        return encoded, None
    own = encoded[HEAD]
    assert own.vectors is not None, "`check` refuses runs without code vectors"
    used = {}
    for vectors, codes in BOOKS.items():
        if getattr(own, vectors) is None:
            continue
        chosen = [rows.ravel() for rows in getattr(own, codes).values()]
        used[vectors] = np.unique(np.concatenate(chosen))
        if len(used[vectors]) < 2:
            raise ValueError(
                "channels are compared over two codes or more that the head split "
                f"uses; got {len(used[vectors])}; use channels.kind=all"
            )
    counts = spec.counts(own.vectors.shape[1])
    judged = {}
    if len(counts) > 1:
        known = splits.head.known
        for count in counts:
            choice = Choice(spec, used, count, {})
            seen = _with_channels({HEAD: own}, choice, spec.kind, (config.seed, 0))
            judged[count] = heads.held_out(
                head,
                features_of(seen, splits, config)[HEAD][config.source][known],
                splits.head.label[known],
                classes=len(splits.classes),
                groups=groups(splits.head.chosen(known)),
                seed=config.seed,
            )
    best = max(judged, key=lambda count: judged[count]) if judged else counts[0]
    choice = Choice(spec, used, best, judged)
    return _with_channels(encoded, choice, spec.kind, (config.seed, 0)), choice


def describe(
    encoded: Mapping[str, Encodings],
    choice: Choice | None,
    splits: EvaluationSplits,
    head: HeadSpec,
    config: ConfigDict,
) -> dict[str, Any] | None:
    """Returns which channels were kept, and what other rules give beside them.

    Args:
      encoded: with all channels.
      choice: as from `select`.
      splits: their windows.
      head: what kind of head.
      config: of the evaluation.

    Returns:
      `kind`; `channels`, D; `used_codes`; `keep`, C; `kept`, the channels, None for
      principal components; `lower`, both of a second codebook, None without one;
      `choice`, by C the balanced accuracy on held-out folds; and
      `rows`, by rule and direction the scores on the headline split with as many
      channels (with as many components as codes in use allow): of random ones mean and
      deviation over draws. None where all channels are kept.
    """
    if choice is None:
        return None
    vectors = encoded[HEAD].vectors
    assert vectors is not None
    judged = dataclasses.replace(
        splits, by_name={n: splits.by_name[n] for n in (HEAD, splits.headline)}
    )

    unbounded = config.copy_and_resolve_references()
    unbounded.bootstrap_draws = 0  # the draws tell how far values vary

    def scores(kind: str, config: ConfigDict, draw: int = 0) -> dict[str, Any]:
        own = {name: encoded[name] for name in judged.by_name}
        seen = _with_channels(own, choice, kind, (config.seed, draw))
        probabilities, _ = transfer(seen, judged, head, config)
        return score_all(probabilities, judged, config)

    rows = {kind: scores(kind, config) for kind in KINDS if kind != "random"}
    drawn = [scores("random", unbounded, draw) for draw in range(DRAWS)]
    rows["random"] = {
        direction: over_draws([one[direction] for one in drawn])
        for direction in drawn[0]
    }
    for row in rows.values():
        for found in row.values():
            del found["splits"]
    channels = {}
    if choice.spec.kind != "pca":
        channels = _kept(encoded[HEAD], choice, choice.spec.kind, (config.seed, 0))
    books = [
        {
            "used_codes": len(used),
            "kept": channels[book].tolist() if book in channels else None,
        }
        for book, used in choice.used.items()
    ]
    return {
        "kind": choice.spec.kind,
        "channels": vectors.shape[1],
        "keep": choice.count,
        **books[0],
        "lower": books[1] if len(books) > 1 else None,
        "choice": {str(count): value for count, value in choice.judged.items()} or None,
        "rows": {kind: rows[kind] for kind in KINDS},
    }


def _kept(
    own: Encodings, choice: Choice, kind: str, seed: Seed
) -> dict[str, Int[ndarray, " C"]]:
    """Returns by codebook the channels that a rule keeps; each has its own draws."""
    return {
        book: kept(
            choice.spec,
            kind,
            getattr(own, book)[used],
            choice.count,
            (*seed, number) if number else seed,
        )
        for number, (book, used) in enumerate(choice.used.items())
    }


def _with_channels(
    encoded: Mapping[str, Encodings], choice: Choice, kind: str, seed: Seed
) -> dict[str, Encodings]:
    """Returns the encodings with the code vectors that a rule makes of each book."""
    head = encoded[HEAD]
    short: dict[str, Any]
    if kind == "pca":
        short = {
            book: _components(getattr(head, book), used, choice.count)
            for book, used in choice.used.items()
        }
    else:
        channels = _kept(head, choice, kind, seed)
        short = {book: getattr(head, book)[:, own] for book, own in channels.items()}
    return {n: dataclasses.replace(own, **short) for n, own in encoded.items()}


def _components(
    vectors: Float[ndarray, "M D"], used: Int[ndarray, " m"], count: int
) -> Float[ndarray, "M C"]:
    """Returns the first principal components of the codes in use, at most m - 1."""
    pca = PCA(min(count, len(used) - 1), svd_solver="full").fit(vectors[used])
    return np.asarray(pca.transform(vectors), vectors.dtype)
