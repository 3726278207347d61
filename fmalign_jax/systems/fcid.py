"""Fine and coarse: ticks without codes, windows with one codebook (FCID).

After FCID (ACL 2025 Findings), whose third modality, text, is left out: video and
current share the coarse level and are contrasted with each other there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fmalign_jax.models import linear
from fmalign_jax.systems.cmg import Cmg, CmgFeatures, SplitFeatures
from fmalign_jax.systems.code_statistics import CodeStatistics
from fmalign_jax.systems.system import ModelState

COARSE = ("window", "tick")


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class FineFeatures(SplitFeatures):
    """What the fine level gives, and both readings of the coarse one.

    The fine level has no codes: `quantized` are the semantic features as they are.

    Attributes:
      lower: the coarse level as it is trained, of windows [B, 1, D] or of ticks; its
        `inputs` are the projections p, without gradient: as the target of their own
        reconstruction they would vanish.
      ticks: the coarse level of every tick alone, which is what `encode` gives.
    """

    lower: CmgFeatures
    ticks: CmgFeatures


class Fcid(Cmg):
    """CMG's encoders without codes, and a coarse level that the modalities share.

        p = Linear(mean_t z);  g = ReLU(Linear p), general;  r = ReLU(Linear p), own

    The three Linear are those of all modalities, and one codebook is of g. Loss terms
    reach the coarse level through `objectives.at_lower`. `encode` makes p, g and the
    code of every tick alone, though training with ``coarse="window"`` sees means of
    windows only (so it is published). There is no shared level.

    Attributes:
      coarse: "window", as published, or "tick": the coarse level of every tick in
        training too.

    Raises:
      ValueError: another `coarse`, or a codebook with a shared level.
    """

    coarse: str = "window"

    def setup(self) -> None:
        """Builds both levels."""
        super().setup()
        if self.coarse not in COARSE:
            raise ValueError(
                f"model.coarse must be one of {', '.join(COARSE)}; got "
                f"{self.coarse!r}; correct the config"
            )
        if self.codebook.get("shared") is not None:
            raise ValueError(
                "FCID has no shared level; got codebook.shared; set it to None"
            )
        self.projection = linear.Dense(self.width, dtype=self.dtype)
        self.general = linear.Dense(self.width, dtype=self.dtype)
        self.own = linear.Dense(self.width, dtype=self.dtype)

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> Any:
        """Encodes a batch at both levels and quantises the coarse: `FineFeatures`."""
        self.check_modalities(model_state["codebook"].idle, "the codebook")
        self.check_modalities(inputs, "the inputs")
        stems = self.stem_features(inputs)
        fine = self.from_stems(stems, train=train)
        specific = {m: self.specifics[m](x) for m, x in stems.items()}
        ticks = self._coarse(fine, model_state, mask)
        lower = ticks
        if self.coarse == "window":
            means = {m: z.mean(axis=1, keepdims=True) for m, z in fine.items()}
            lower = self._coarse(means, model_state, mask)
        return FineFeatures(
            inputs=dict(inputs),
            semantic=fine,
            specific={m: features for m, (features, _) in specific.items()},
            pooled_specific={m: pooled for m, (_, pooled) in specific.items()},
            quantized=fine,
            mask=mask,
            lower=lower,
            ticks=ticks,
        )

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns the general features g of every tick alone."""
        fine = super().semantic(inputs, train=train, context=context)
        return {m: self._general(self.projection(z)) for m, z in fine.items()}

    def second_view(
        self, inputs: Mapping[str, Array], *, train: bool
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns z, which terms see as ``features.semantic``, and not g."""
        return super().semantic(inputs, train=train)

    def update_model_state(
        self, model_state: ModelState, features: Any, key: Any
    ) -> tuple[ModelState, dict[str, Array]]:
        """Moves the codes once, by the coarse level as it is trained."""
        return super().update_model_state(model_state, features.lower, key)

    def statistics(self, features: Any) -> CodeStatistics:
        """Returns how the modalities use the codes of ticks, and how far they agree."""
        return CodeStatistics.from_features(features.ticks)

    def _coarse(
        self,
        fine: Mapping[str, Float[Array, "B s D"]],
        model_state: ModelState,
        mask: Bool[Array, " B"],
    ) -> CmgFeatures:
        projected = {m: self.projection(z) for m, z in fine.items()}
        own = {m: nn.relu(self.own(p)).astype(p.dtype) for m, p in projected.items()}
        return self.quantised(
            {
                m: jax.lax.stop_gradient(p).astype(jnp.float32)
                for m, p in projected.items()
            },
            {m: self._general(p) for m, p in projected.items()},
            {m: (r, r.astype(jnp.float32)) for m, r in own.items()},
            self.code_vectors(model_state),
            mask,
        )

    def _general(self, projected: Float[Array, "B s D"]) -> Float[Array, "B s D"]:
        return nn.relu(self.general(projected)).astype(jnp.float32)
