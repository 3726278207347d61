"""Cross-modal generalisation: every modality's encoders around one codebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, no_type_check

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from fmalign_jax.config.build import build
from fmalign_jax.models import quantizer
from fmalign_jax.systems.code_statistics import CodeFeatures, CodeStatistics
from fmalign_jax.systems.system import Encoding, ModelState

PARTS = ("stem", "pool", "specific")
SEMANTIC_ENCODER = "fmalign_jax.models.encoders.SemanticEncoder"


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class CmgFeatures(CodeFeatures):
    """What CMG gives beside what every system gives.

    Attributes:
      specific: by modality [B, T, ...], what is a modality's own.
      pooled_specific: by modality [B, T, S] fp32, specific features as one vector a
        tick.
      quantized: by modality [B, T, D], e_c with the gradient of the semantic features.
    """

    specific: dict[str, Array]
    pooled_specific: dict[str, Float[Array, "B T _"]]
    quantized: dict[str, Float[Array, "B T D"]]


class Cmg(nn.Module):
    """Cross-modal generalisation: encoders of every modality, one codebook.

    Its state beside the parameters is ``{"codebook": Codebook}``.

    Attributes:
      width: D, width of semantic features and codes.
      modalities: by name the modality's parts, ``{"stem": entry, "pool": entry or
        None, "specific": entry}``; an entry is ``{"name": dotted class, **kwargs}``.
      transformer: kwargs of `SemanticEncoder`, the same for every modality.
      codebook: the settings ``config.codebook``; a system that only encodes needs none.
      laplace_epsilon: smoothing of the counts when the codebook is read.
      dtype: of the computation; parameters, semantic features and codes are fp32.

    Raises:
      ValueError: on an unknown part or kwarg, and when the modalities of the config,
        the inputs and the codebook are not the same.
    """

    width: int
    modalities: Mapping[str, Mapping[str, Any]]
    transformer: Mapping[str, Any] = flax.core.FrozenDict()
    codebook: Mapping[str, Any] = flax.core.FrozenDict()
    laplace_epsilon: float = 0.0
    dtype: DTypeLike = jnp.float32

    uses_labels = False
    has_codes = True
    random_streams = ("dropout",)

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
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> CmgFeatures:
        """Encodes and quantises a batch; the codebook is read, never changed.

        Args:
          inputs: by modality [B, T, R, ...], normalised.
          model_state: holds the shared codes.
          mask: False for rows that only pad the batch.
          train: whether dropout acts.
        """
        self._check_modalities(model_state["codebook"].idle, "the codebook")
        self._check_modalities(inputs, "the inputs")
        stems = self._stem_features(inputs)
        semantic = self._semantic(stems, train=train)
        parts = {m: self.specifics[m](stems[m]) for m in stems}
        vectors = jax.lax.stop_gradient(self.code_vectors(model_state))
        codes = {m: quantizer.assign(z, vectors) for m, z in semantic.items()}
        chosen = {m: quantizer.code_vectors(c, vectors) for m, c in codes.items()}
        return CmgFeatures(
            inputs=dict(inputs),
            semantic=semantic,
            specific={m: specific for m, (specific, _) in parts.items()},
            pooled_specific={m: pooled for m, (_, pooled) in parts.items()},
            codes=codes,
            code_vectors=chosen,
            quantized={
                m: quantizer.straight_through(semantic[m], chosen[m]) for m in chosen
            },
            embeddings=vectors,
            mask=mask,
        )

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns the semantic features alone, of some or all modalities."""
        return self._semantic(self._stem_features(inputs), train=train)

    def encode(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        views: Iterable[str],
    ) -> dict[str, Encoding]:
        """Returns semantic features and codes of some or all modalities."""
        semantic = self.semantic({name: inputs[name] for name in views}, train=False)
        vectors = self.code_vectors(model_state)
        return {
            m: Encoding(z, quantizer.assign(z, vectors)) for m, z in semantic.items()
        }

    @property
    def views(self) -> tuple[str, ...]:
        """Returns what can be encoded: each modality."""
        return tuple(self.modalities)

    def empty_model_state(self) -> ModelState:
        """Returns a codebook of the right shapes with all codes at zero."""
        return {
            "codebook": quantizer.empty_codebook(
                self.codebook["codes"], self.width, modalities=self.modalities
            )
        }

    def init_model_state(
        self, key: Key[Array, ""], semantic: Mapping[str, Float[Array, "B T D"]]
    ) -> ModelState:
        """Places the codes on semantic features (METHOD 2: counts at one)."""
        rows = [z.reshape(-1, z.shape[-1]) for z in semantic.values()]
        codebook = quantizer.initialise(
            key,
            jnp.concatenate(rows),
            self.codebook["codes"],
            modalities=semantic,
            method=self.codebook["initialisation"],
        )
        return {"codebook": codebook}

    def update_model_state(
        self, model_state: ModelState, features: CmgFeatures, key: Key[Array, ""]
    ) -> tuple[ModelState, dict[str, Array]]:
        """Moves the codes: one joint EMA of all modalities, then revival (METHOD 2)."""
        settings = self.codebook
        semantic = jax.lax.stop_gradient(features.semantic)
        codebook = quantizer.ema_update(
            model_state["codebook"],
            semantic,
            features.codes,
            decay=settings["decay"],
            ema_mix=settings["ema_mix"],
        )
        codebook, revived = quantizer.revive(
            key,
            codebook,
            semantic,
            modalities=quantizer.codebook_writers(settings["ema_mix"]),
            idle_steps=settings["idle_steps"],
            rule=settings["idle_rule"],
            noise_scale=settings["revival_noise"],
        )
        return {"codebook": codebook}, {"revived_codes": revived}

    def code_vectors(self, model_state: ModelState) -> Float[Array, "M D"]:
        """Returns the vector of each code, e = sums / counts."""
        return quantizer.embeddings(
            model_state["codebook"], epsilon=self.laplace_epsilon
        )

    def statistics(self, features: CmgFeatures) -> CodeStatistics:
        """Returns how the modalities use the codes, and how far they agree."""
        return CodeStatistics.from_features(features)

    def histograms(self, model_state: ModelState) -> dict[str, Array]:
        """Returns what each code counts, and how long its vector is."""
        vectors = self.code_vectors(model_state)
        return {
            "codebook/count": model_state["codebook"].counts,
            "codebook/norm": jnp.linalg.norm(vectors, axis=-1),
        }

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
