"""The model: every modality's encoders around one shared codebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, no_type_check

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from fmalign_jax.config.build import build
from fmalign_jax.models.quantizer import (
    Codebook,
    assign,
    code_vectors,
    embeddings,
    straight_through,
)

PARTS = ("stem", "pool", "specific")
SEMANTIC_ENCODER = "fmalign_jax.models.encoders.SemanticEncoder"


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass
class Features:
    """What the model makes of a batch, and all that the objectives see.

    Attributes:
      inputs: by modality [B, T, R, ...], normalised, as the encoders read them.
      semantic: by modality [B, T, D] fp32, continuous; what modalities share.
      specific: by modality [B, T, ...], what is a modality's own.
      summary: by modality [B, T, S] fp32, specific features as one vector a tick.
      codes: by modality int32 [B, T], nearest code of each semantic feature.
      code_vectors: by modality [B, T, D], e_c, without gradient.
      quantized: by modality [B, T, D], e_c with the gradient of the semantic features.
      embeddings: [M, D], the codebook as it was read, without gradient.
      mask: bool [B], False for rows that only pad a batch.
      recording: int32 [B], which recording each window is of.
      time_s: fp32 [B, 2], two numbers whose sum is the window's centre on its
        recording's clock. Both are None where the model alone is used.
      second_view: by modality [B, T, D], semantic features of the same windows under
        another augmentation; of the modalities that an objective asks for, in training
        only.
    """

    inputs: dict[str, Array]
    semantic: dict[str, Float[Array, "B T D"]]
    specific: dict[str, Array]
    summary: dict[str, Float[Array, "B T _"]]
    codes: dict[str, Int[Array, "B T"]]
    code_vectors: dict[str, Float[Array, "B T D"]]
    quantized: dict[str, Float[Array, "B T D"]]
    embeddings: Float[Array, "M D"]
    mask: Bool[Array, " B"]
    recording: Int[Array, " B"] | None = None
    time_s: Float[Array, "B 2"] | None = None
    second_view: dict[str, Float[Array, "B T D"]] = flax.struct.field(
        default_factory=dict
    )


class Cmg(nn.Module):
    """Cross-modal generalisation: encoders of every modality, one codebook.

    Attributes:
      width: D, width of semantic features and codes.
      modalities: by name the modality's parts, ``{"stem": entry, "pool": entry or
        None, "specific": entry}``; an entry is ``{"name": dotted class, **kwargs}``.
      transformer: kwargs of `SemanticEncoder`, the same for every modality.
      laplace_epsilon: smoothing of the counts when the codebook is read.
      dtype: of the computation; parameters, semantic features and codes are fp32.

    Raises:
      ValueError: on an unknown part or kwarg, and when the modalities of the config,
        the inputs and the codebook are not the same.
    """

    width: int
    modalities: Mapping[str, Mapping[str, Any]]
    transformer: Mapping[str, Any] = flax.core.FrozenDict()
    laplace_epsilon: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Builds the parts of every modality."""
        for name, entries in self.modalities.items():
            _check_parts(name, entries)
        self.stems = {m: self._build(m, "stem") for m in self.modalities}
        self.pools = {
            m: self._build(m, "pool") for m, e in self.modalities.items() if e["pool"]
        }
        self.specifics = {m: self._build(m, "specific") for m in self.modalities}
        entry = {"name": SEMANTIC_ENCODER, **self.transformer}
        self.semantics = {
            m: build(entry, "model.transformer", width=self.width, dtype=self.dtype)
            for m in self.modalities
        }

    def __call__(
        self,
        inputs: Mapping[str, Array],
        codebook: Codebook,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> Features:
        """Encodes and quantises a batch; the codebook is read, never changed.

        Args:
          inputs: by modality [B, T, R, ...], normalised.
          codebook: shared codes.
          mask: False for rows that only pad the batch.
          train: whether dropout acts.
        """
        self._check_modalities(codebook.idle, "the codebook")
        self._check_modalities(inputs, "the inputs")
        stems = self._stem_features(inputs)
        semantic = self._semantic(stems, train=train)
        parts = {m: self.specifics[m](stems[m]) for m in stems}
        vectors = jax.lax.stop_gradient(
            embeddings(codebook, epsilon=self.laplace_epsilon)
        )
        codes = {m: assign(z, vectors) for m, z in semantic.items()}
        chosen = {m: code_vectors(c, vectors) for m, c in codes.items()}
        return Features(
            inputs=dict(inputs),
            semantic=semantic,
            specific={m: specific for m, (specific, _) in parts.items()},
            summary={m: summary for m, (_, summary) in parts.items()},
            codes=codes,
            code_vectors=chosen,
            quantized={m: straight_through(semantic[m], chosen[m]) for m in chosen},
            embeddings=vectors,
            mask=mask,
        )

    def encode(
        self, inputs: Mapping[str, Array], *, train: bool
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns the semantic features alone, of some or all modalities."""
        return self._semantic(self._stem_features(inputs), train=train)

    def _build(self, modality: str, part: str) -> nn.Module:
        entry = self.modalities[modality][part]
        return build(entry, f"model.modalities.{modality}.{part}", dtype=self.dtype)

    def _stem_features(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {m: self.stems[m](inputs[m]) for m in sorted(inputs)}

    def _semantic(
        self, stems: Mapping[str, Array], *, train: bool
    ) -> dict[str, Float[Array, "B T D"]]:
        pooled = {
            m: self.pools[m](x) if m in self.pools else x for m, x in stems.items()
        }
        for name, x in pooled.items():
            if x.ndim != 3:
                raise ValueError(
                    "semantic features need one vector a tick, [B, T, C]; got "
                    f"{x.shape} for {name!r}; give model.modalities.{name} a pool"
                )
        return {m: self.semantics[m](x, train=train) for m, x in pooled.items()}

    def _check_modalities(self, names: Iterable[str], what: str) -> None:
        if sorted(names) != sorted(self.modalities):
            raise ValueError(
                f"{what} must have the modalities of the model, "
                f"{sorted(self.modalities)}; got {sorted(names)}; correct "
                "config.model.modalities or the data"
            )


def _check_parts(modality: str, entries: Mapping[str, Any]) -> None:
    if sorted(entries) != sorted(PARTS):
        raise ValueError(
            f"model.modalities.{modality} must give exactly {', '.join(PARTS)}; got "
            f"{', '.join(sorted(entries))}; set pool to None for vectors"
        )
