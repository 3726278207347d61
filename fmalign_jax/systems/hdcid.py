"""Two levels: what is specific of the first is split once more (H-DCID).

Level 1 is CMG. Level 2 has encoders, a codebook and loss terms of its own, on the
specific features of level 1 (TOC and H-DCID, arXiv 2403.05168).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, no_type_check

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from fmalign_jax.config.build import build
from fmalign_jax.models import quantizer
from fmalign_jax.models.encoders import DenseSpecific
from fmalign_jax.systems.cmg import Cmg, CmgFeatures
from fmalign_jax.systems.system import Encoding, ModelState
from fmalign_jax.systems.towers import SEMANTIC_ENCODER

SECOND = "second_codebook"
BOOKS = {"upper": "codebook", "lower": SECOND}
"""Where in the model state each level has its codebook."""


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class TwoLevelFeatures(CmgFeatures):
    """What CMG gives, and the same of the level below.

    Attributes:
      lower: level 2; its `inputs` are the specific features of level 1 [B, T, S],
        without gradient: as the target of their own reconstruction they would vanish.
      encoded: by modality, what `encode` gives of the levels, side by side.
    """

    lower: CmgFeatures
    encoded: dict[str, Float[Array, "B T W"]]


class SameWidth(nn.Module):
    """Specific features of a vector, as wide as the vector.

    Attributes:
      dtype: of the computation; parameters are fp32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "B T S"]
    ) -> tuple[Float[Array, "B T S"], Float[Array, "B T S"]]:
        """Returns the features twice, the second time in fp32."""
        return DenseSpecific(features.shape[-1], self.dtype)(features)


class HDcid(Cmg):
    """CMG, and a second CMG on the specific features of the first.

        z1, s1 = level 1 of the inputs;  z2, s2 = encoders of s1, one vector a tick

    Each level has its own codebook, moved by its own features once a step. The state
    beside the parameters is ``{"codebook", "second_codebook"}``. Loss terms reach
    level 2 through `objectives.at_lower`; their gradient also reaches the specific
    encoders of level 1. There is no shared level.

    Attributes:
      levels: which levels `encode` gives: ("upper", "lower"), side by side, or one.

    Raises:
      ValueError: levels that are none, or a codebook with a shared level.
    """

    levels: tuple[str, ...] = ("upper", "lower")

    has_shared_level: ClassVar[bool] = False

    @property
    def has_lower_codes(self) -> bool:
        """Returns whether `encode` gives the codes of two levels."""
        return len(self.levels) > 1

    def setup(self) -> None:
        """Builds the parts of both levels."""
        super().setup()
        if not self.levels or any(own not in BOOKS for own in self.levels):
            raise ValueError(
                'model.levels must be "upper", "lower" or both; got '
                f"{self.levels!r}; correct the config"
            )
        if self.codebook.get("shared") is not None:
            raise ValueError(
                "H-DCID has no shared level; got codebook.shared; set it to None"
            )
        entry = {"name": SEMANTIC_ENCODER, **self.transformer}
        self.lower_semantics = {
            m: build(entry, "model.transformer", width=self.width, dtype=self.dtype)
            for m in self.modalities
        }
        self.lower_specifics = {m: SameWidth(self.dtype) for m in self.modalities}

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> TwoLevelFeatures:
        """Encodes and quantises a batch at both levels, as `Cmg`."""
        upper = super().__call__(inputs, model_state, mask, train=train)
        specific = upper.pooled_specific
        semantic = self._lower(specific, train=train)
        lower = self.quantised(
            # Without gradient: as the target of their own reconstruction they would
            # vanish.
            {m: jax.lax.stop_gradient(x) for m, x in specific.items()},
            semantic,
            {m: self.lower_specifics[m](x) for m, x in specific.items()},
            self.vectors(model_state[SECOND]),
            mask,
        )
        encoded = self._side_by_side(upper.semantic, semantic)
        return TwoLevelFeatures(**vars(upper), lower=lower, encoded=encoded)

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B T W"]]:
        """Returns continuous features of the levels, side by side."""
        stems = self.stem_features(inputs)
        upper = self.from_stems(stems, train=train, context=context)
        specific = {m: self.specifics[m](x)[1] for m, x in stems.items()}
        lower = self._lower(specific, train=train, context=context)
        return self._side_by_side(upper, lower)

    def second_view(
        self, inputs: Mapping[str, Array], *, train: bool
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns the semantic features of level 1, which the terms of CMG see."""
        return super().semantic(inputs, train=train)

    def encode(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        views: Iterable[str],
        *,
        context: bool = True,
    ) -> dict[str, Encoding]:
        """Returns features and codes of the levels, of some or all modalities."""
        chosen = {name: inputs[name] for name in views}
        semantic = self.semantic(chosen, train=False, context=context)
        tables = [self.vectors(model_state[BOOKS[level]]) for level in self.levels]
        found = {}
        for m, z in semantic.items():
            parts = jnp.split(z, len(self.levels), axis=-1)
            codes = [
                quantizer.assign(part, table)
                for part, table in zip(parts, tables, strict=True)
            ]
            first, second = codes if self.has_lower_codes else (*codes, None)
            found[m] = Encoding(z, first, lower_codes=second)
        return found

    def empty_model_state(self) -> ModelState:
        """Returns both codebooks with all codes at zero."""
        empty = super().empty_model_state()
        return {**empty, SECOND: empty["codebook"]}

    def init_model_state(
        self, key: Key[Array, ""], semantic: Mapping[str, Float[Array, "B T W"]]
    ) -> ModelState:
        """Places the codes of each level on its own features; on one, both."""
        keys = jax.random.split(key)
        parts = {m: jnp.split(z, len(self.levels), -1) for m, z in semantic.items()}
        upper, lower = (
            super(HDcid, self).init_model_state(
                own, {m: found[at] for m, found in parts.items()}
            )["codebook"]
            for own, at in zip(keys, (0, -1), strict=True)
        )
        return {"codebook": upper, SECOND: lower}

    def update_model_state(
        self, model_state: ModelState, features: Any, key: Key[Array, ""]
    ) -> tuple[ModelState, dict[str, Array]]:
        """Moves the codes of each level once, by its own features."""
        keys = jax.random.split(key)
        upper, metrics = super().update_model_state(
            {"codebook": model_state["codebook"]}, features, keys[0]
        )
        lower, more = super().update_model_state(
            {"codebook": model_state[SECOND]}, features.lower, keys[1]
        )
        metrics |= {f"lower/{name}": value for name, value in more.items()}
        return {**upper, SECOND: lower["codebook"]}, metrics

    def code_vectors(self, model_state: ModelState) -> Float[Array, "M D"]:
        """Returns the vector of each code of the first level that `encode` gives."""
        return self.vectors(model_state[BOOKS[self.levels[0]]])

    def lower_vectors(
        self, model_state: Mapping[str, Any]
    ) -> Float[Array, "M D"] | None:
        """Returns the same of the second level that `encode` gives, if it gives two."""
        if not self.has_lower_codes:
            return None
        return self.vectors(model_state[BOOKS[self.levels[1]]])

    def histograms(self, model_state: ModelState) -> dict[str, Array]:
        """Returns those of both codebooks."""
        lower = super().histograms({"codebook": model_state[SECOND]})
        return {
            **super().histograms(model_state),
            **{f"lower/{name}": values for name, values in lower.items()},
        }

    def _lower(
        self,
        specific: Mapping[str, Float[Array, "B T S"]],
        *,
        train: bool,
        context: bool = True,
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns the semantic features of level 2."""
        if self.is_initializing():  # what encodes has all parameters of training
            for m, x in specific.items():
                self.lower_specifics[m](x)
        return {
            m: self.lower_semantics[m](x, train=train, context=context)
            for m, x in specific.items()
        }

    def _side_by_side(
        self,
        upper: Mapping[str, Float[Array, "B T D"]],
        lower: Mapping[str, Float[Array, "B T D"]],
    ) -> dict[str, Float[Array, "B T W"]]:
        given = {"upper": upper, "lower": lower}
        return {
            m: jnp.concatenate([given[level][m] for level in self.levels], axis=-1)
            for m in upper
        }
