"""The encoders of every modality: stem, pool, and what modalities share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import flax
import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fmalign_jax.config.build import build

SEMANTIC_ENCODER = "fmalign_jax.models.encoders.SemanticEncoder"


class Towers(nn.Module):
    """One tower a modality, each from its own input alone.

    Attributes:
      width: D, width of semantic features.
      modalities: by name the modality's parts, ``{"stem": entry, "pool": entry or
        None}`` and what a system adds; an entry is ``{"name": dotted class,
        **kwargs}``.
      transformer: kwargs of `SemanticEncoder`, the same for every modality.
      dtype: of the computation; parameters and semantic features are fp32.

    Raises:
      ValueError: on an unknown part or kwarg.
    """

    width: int
    modalities: Mapping[str, Mapping[str, Any]]
    transformer: Mapping[str, Any] = flax.core.FrozenDict()
    dtype: DTypeLike = jnp.float32

    parts: ClassVar[tuple[str, ...]] = ("stem", "pool")
    uses_labels: ClassVar[bool] = False
    encodes_alone: ClassVar[bool] = True
    random_streams: ClassVar[tuple[str, ...]] = ("dropout",)

    def setup(self) -> None:
        """Builds the parts of every modality."""
        for name, entries in self.modalities.items():
            self._check_parts(name, entries)
        self.stems = {m: self.build_part(m, "stem") for m in self.modalities}
        self.pools = {
            m: self.build_part(m, "pool")
            for m, e in self.modalities.items()
            if e["pool"]
        }
        self.semantics = {
            m: build(
                {"name": SEMANTIC_ENCODER, **self.encoder_settings(m)},
                "model.transformer",
                width=self.width,
                dtype=self.dtype,
            )
            for m in self.modalities
        }

    @property
    def views(self) -> tuple[str, ...]:
        """Returns what can be encoded: each modality."""
        return tuple(self.modalities)

    @property
    def slots_are_ticks(self) -> bool:
        """Returns whether there is one vector of features a tick: yes."""
        return True

    @property
    def has_lower_codes(self) -> bool:
        """Returns whether `encode` gives codes of a second codebook: no."""
        return False

    def lower_vectors(
        self, model_state: Mapping[str, Any]
    ) -> Float[Array, "M D"] | None:
        """Returns the vector of each code of a second codebook: there is none."""
        return None

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns semantic features, of some or all modalities."""
        stems = self.stem_features(inputs)
        return self.from_stems(stems, train=train, context=context)

    def second_view(
        self, inputs: Mapping[str, Array], *, train: bool
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns the semantic features: terms see what is encoded."""
        return self.semantic(inputs, train=train)

    def encoder_settings(self, modality: str) -> Mapping[str, Any]:
        """Returns the kwargs of a modality's `SemanticEncoder`: those of all."""
        return self.transformer

    def build_part(self, modality: str, part: str) -> nn.Module:
        """Builds a part of a modality as the config describes it."""
        entry = self.modalities[modality][part]
        built: nn.Module = build(
            entry, f"model.modalities.{modality}.{part}", dtype=self.dtype
        )
        return built

    def stem_features(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns what the stems make of the inputs."""
        return {m: self.stems[m](inputs[m]) for m in sorted(inputs)}

    def from_stems(
        self, stems: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns semantic features from those of the stems.

        Args:
          stems: as from `stem_features`.
          train: whether dropout acts.
          context: False for ticks of which each sees no more than its stem does.
        """
        pooled = {
            m: self.pools[m](x) if m in self.pools else x for m, x in stems.items()
        }
        for name, x in pooled.items():
            if x.ndim != 3:
                raise ValueError(
                    "semantic features need one vector a tick, [B, T, C]; got "
                    f"{x.shape} for {name!r}; give model.modalities.{name} a pool"
                )
        return {
            m: self.semantics[m](x, train=train, context=context)
            for m, x in pooled.items()
        }

    def check_modalities(self, names: Any, what: str) -> None:
        """Refuses anything but the modalities of the model."""
        if sorted(names) != sorted(self.modalities):
            raise ValueError(
                f"{what} must have the modalities of the model, "
                f"{sorted(self.modalities)}; got {sorted(names)}; correct "
                "config.model.modalities or the data"
            )

    def _check_parts(self, modality: str, entries: Mapping[str, Any]) -> None:
        if sorted(entries) != sorted(self.parts):
            raise ValueError(
                f"model.modalities.{modality} must give exactly "
                f"{', '.join(self.parts)}; got {', '.join(sorted(entries))}; set pool "
                "to None for vectors"
            )
