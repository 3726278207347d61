"""How the modalities use the codes, and how far they agree: counts that merge."""

from __future__ import annotations

import itertools
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fmalign_jax.losses import normalise
from fmalign_jax.systems.features import Features


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class CodeFeatures(Features):
    """What a system with a codebook gives beside what every system gives.

    Attributes:
      codes: by modality int32 [B, T], nearest code of each semantic feature.
      code_vectors: by modality [B, T, D], e_c, without gradient.
      embeddings: [M, D], the codebook as it was read, without gradient.
    """

    codes: dict[str, Int[Array, "B T"]]
    code_vectors: dict[str, Float[Array, "B T D"]]
    embeddings: Float[Array, "M D"]

    def book(self, modality: str) -> Float[Array, "M D"]:
        """Returns the codes among which a modality chooses: the same for all."""
        return self.embeddings


@no_type_check  # as a pytree it also carries shapes and fetched arrays
@flax.struct.dataclass
class CodeStatistics:
    """How the modalities use the codes, and how far they agree.

    Attributes:
      histograms: by modality int32 [M], ticks on each code.
      windows: int32, windows counted.
      ticks: int32, ticks counted.
      equal: int32, windows whose most frequent code is the same in all modalities.
      matches: by pair int32, ticks on the same code.
      cosines: by pair fp32, sum over the ticks of the cosine of the two code vectors.
    """

    histograms: dict[str, Int[Array, " M"]]
    windows: Int[Array, ""]
    ticks: Int[Array, ""]
    equal: Int[Array, ""]
    matches: dict[str, Int[Array, ""]]
    cosines: dict[str, Float[Array, ""]]

    @classmethod
    def from_features(cls, features: CodeFeatures) -> CodeStatistics:
        """Counts one batch."""
        codes, mask = features.codes, features.mask
        modalities = sorted(codes)
        windows = mask.sum(dtype=jnp.int32)
        most_frequent = jnp.stack([_most_frequent(codes[m]) for m in modalities])
        equal = (most_frequent == most_frequent[0]).all(axis=0)
        matches, cosines = {}, {}
        for first, second in itertools.combinations(modalities, 2):
            pair = f"{first}-{second}"
            a, b = features.code_vectors[first], features.code_vectors[second]
            matches[pair] = _count(codes[first] == codes[second], mask)
            cosine = (normalise(a) * normalise(b)).sum(axis=-1)
            cosines[pair] = jnp.where(mask[:, None], cosine, 0.0).sum()
        return cls(
            histograms={
                m: _histogram(codes[m], mask, len(features.embeddings))
                for m in modalities
            },
            windows=windows,
            ticks=windows * codes[modalities[0]].shape[1],
            equal=_count(equal, mask),
            matches=matches,
            cosines=cosines,
        )

    def merge(self, other: CodeStatistics) -> CodeStatistics:
        """Returns the statistics over the windows of both."""
        return jax.tree.map(jnp.add, self, other)

    def compute(self) -> dict[str, Float[Array, ""]]:
        """Returns the figures by name, fp32; shares are NaN when nothing was counted.

        ``perplexity/<m>``: exp entropy of the codes' use by a modality, 1 to M.
        ``used_codes/<m>``, ``used_codes/all``: codes used by it; by all modalities.
        ``equal_num``, ``equal_share``: windows with the same most frequent code in all
        modalities; that over all windows.
        ``token_agreement/<a>-<b>``: share of ticks on the same code.
        ``chance_agreement/<a>-<b>``: that share if each chose its codes as often as it
        does, but without regard to the other.
        ``code_cosine/<a>-<b>``: mean cosine of the paired code vectors.
        """
        ticks = jnp.asarray(self.ticks, jnp.float32)
        used = {m: histogram > 0 for m, histogram in self.histograms.items()}
        used["all"] = jnp.stack(list(used.values())).all(axis=0)
        figures = {f"used_codes/{m}": codes.sum() for m, codes in used.items()}
        for modality, histogram in self.histograms.items():
            share = histogram / ticks
            entropy = jax.scipy.special.entr(share).sum()
            figures[f"perplexity/{modality}"] = jnp.exp(entropy)
        for first, second in itertools.combinations(sorted(self.histograms), 2):
            pair = f"{first}-{second}"
            shares = (self.histograms[m] / ticks for m in (first, second))
            figures[f"chance_agreement/{pair}"] = jnp.multiply(*shares).sum()
            figures[f"token_agreement/{pair}"] = self.matches[pair] / ticks
            figures[f"code_cosine/{pair}"] = self.cosines[pair] / ticks
        figures["equal_num"] = jnp.asarray(self.equal)
        figures["equal_share"] = jnp.divide(self.equal, self.windows)
        return {name: value.astype(jnp.float32) for name, value in figures.items()}


def _count(hits: Bool[Array, "B *T"], mask: Bool[Array, " B"]) -> Int[Array, ""]:
    return hits.sum(where=mask.reshape(-1, *[1] * (hits.ndim - 1)), dtype=jnp.int32)


def _histogram(
    codes: Int[Array, "B T"], mask: Bool[Array, " B"], size: int
) -> Int[Array, " M"]:
    counted = jnp.broadcast_to(mask[:, None], codes.shape).astype(jnp.int32)
    return jnp.zeros(size, jnp.int32).at[codes].add(counted)


def _most_frequent(codes: Int[Array, "B T"]) -> Int[Array, " B"]:
    """The most frequent code of a window; of equally frequent ones the lowest."""
    frequency = (codes[:, :, None] == codes[:, None, :]).sum(axis=-1)
    most = frequency == frequency.max(axis=-1, keepdims=True)
    return jnp.where(most, codes, jnp.iinfo(jnp.int32).max).min(axis=-1)
