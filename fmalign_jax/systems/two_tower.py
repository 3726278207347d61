"""Two towers without a codebook: the simple reference (CLIP, Radford et al. 2021).

Aligned by a contrast of whole windows, `objectives.clip`. The semantic encoder's last
layer is the shared space: there is no projection head and no codebook.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import ClassVar, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from numpy import ndarray

from fmalign_jax.losses import normalise
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import (
    Encoding,
    ModelState,
    SharedEncoding,
    Statistics,
    inputs_of,
)
from fmalign_jax.systems.towers import Towers


@no_type_check  # as a pytree it also carries shapes and fetched arrays
@flax.struct.dataclass
class PairStatistics:
    """How near windows are to their partners, and to the partners of others.

    Attributes:
      windows: int32, windows counted.
      others: int32, pairs of two different windows of a batch.
      own: by pair of modalities fp32, sum of the cosines of partners.
      other: by pair of modalities fp32, sum of the cosines of windows that are none.
    """

    windows: Int[Array, ""]
    others: Int[Array, ""]
    own: dict[str, Float[Array, ""]]
    other: dict[str, Float[Array, ""]]

    @classmethod
    def from_features(cls, features: Features) -> PairStatistics:
        """Counts one batch; windows are compared by their mean semantic features."""
        mask = features.mask
        unit = {m: normalise(z.mean(axis=1)) for m, z in features.semantic.items()}
        pairs = mask[:, None] & mask
        apart = pairs & ~jnp.eye(len(mask), dtype=bool)
        own, other = {}, {}
        for first, second in itertools.combinations(sorted(unit), 2):
            cosine = jnp.matmul(
                unit[first], unit[second].T, precision=jax.lax.Precision.HIGHEST
            )
            name = f"{first}-{second}"
            own[name] = jnp.diagonal(cosine).sum(where=mask)
            other[name] = cosine.sum(where=apart)
        return cls(mask.sum(dtype=jnp.int32), apart.sum(dtype=jnp.int32), own, other)

    def merge(self, other: PairStatistics) -> PairStatistics:
        """Returns the sums over both."""
        return jax.tree.map(jnp.add, self, other)

    def compute(self) -> dict[str, Float[Array, ""]]:
        """Returns ``pair_cosine/<pair>`` and ``other_cosine/<pair>``.

        Both near 1: the features have collapsed. Both equal: nothing is aligned.
        """
        means = {
            f"pair_cosine/{name}": jnp.divide(total, self.windows)
            for name, total in self.own.items()
        }
        return means | {
            f"other_cosine/{name}": jnp.divide(total, self.others)
            for name, total in self.other.items()
        }


class TwoTower(Towers):
    """One encoder a modality, aligned by a contrast of windows alone.

    It keeps nothing beside its parameters and gives no codes.
    """

    has_codes: ClassVar[bool] = False
    has_shared_level: ClassVar[bool] = False

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> Features:
        """Encodes a batch.

        Args:
          inputs: by modality [B, T, R, ...], normalised.
          model_state: empty.
          mask: False for rows that only pad the batch.
          train: whether dropout acts.
        """
        self.check_modalities(inputs, "the inputs")
        semantic = self.semantic(inputs, train=train)
        return Features(inputs=dict(inputs), semantic=semantic, mask=mask)

    def encode(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        views: Iterable[str],
        *,
        context: bool = True,
    ) -> dict[str, Encoding]:
        """Returns semantic features of some or all views."""
        views = tuple(views)
        chosen = {m: inputs[m] for m in inputs_of(views, self.modalities)}
        semantic = self.semantic(chosen, train=False, context=context)
        return {name: Encoding(semantic[name], None) for name in views}

    def empty_model_state(self) -> ModelState:
        """Returns nothing."""
        return {}

    def init_model_state(
        self, key: Key[Array, ""], semantic: Mapping[str, Float[Array, "B T D"]]
    ) -> ModelState:
        """Returns nothing."""
        return {}

    def update_model_state(
        self, model_state: ModelState, features: Features, key: Key[Array, ""]
    ) -> tuple[ModelState, dict[str, Array]]:
        """Returns nothing."""
        return {}, {}

    def shared_features(
        self, semantic: Mapping[str, Float[Array, "B T D"]]
    ) -> dict[str, Float[Array, "B S D"]]:
        """Returns nothing: there is no shared level."""
        return {}

    def fit_shared(
        self,
        model_state: ModelState,
        features: Mapping[str, Float[ndarray, "N D"]],
    ) -> ModelState:
        """Returns the state as it is."""
        return model_state

    def read_shared(
        self, model_state: ModelState, features: Mapping[str, Float[Array, "B S D"]]
    ) -> dict[str, SharedEncoding]:
        """Returns nothing: there is no shared level."""
        return {}

    def shared_vectors(self, model_state: ModelState) -> None:
        """Returns nothing: there is no shared level."""
        return None

    def code_vectors(self, model_state: ModelState) -> Float[Array, "M D"] | None:
        """Returns nothing: there are no codes."""
        return None

    def statistics(self, features: Features) -> Statistics:
        """Returns how near windows are to their partners and to others."""
        return PairStatistics.from_features(features)

    def histograms(self, model_state: ModelState) -> dict[str, Array]:
        """Returns nothing."""
        return {}
