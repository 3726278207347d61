"""Cross-modal generalisation: every modality's encoders around one codebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, no_type_check

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key
from numpy import ndarray

from fmalign_jax.models import quantizer, shared_codes
from fmalign_jax.systems.code_statistics import CodeFeatures, CodeStatistics
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import Encoding, ModelState, SharedEncoding
from fmalign_jax.systems.towers import Towers


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class SplitFeatures(Features):
    """What a system gives that splits what modalities share from what is their own.

    Attributes:
      specific: by modality [B, T, ...], what is a modality's own.
      pooled_specific: by modality [B, T, S] fp32, specific features as one vector a
        tick.
      quantized: by modality [B, T, D], what reconstruction reads beside the specific
        features: e_c with the gradient of the semantic features.
    """

    specific: dict[str, Array]
    pooled_specific: dict[str, Float[Array, "B T _"]]
    quantized: dict[str, Float[Array, "B T D"]]


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class CmgFeatures(SplitFeatures, CodeFeatures):
    """What CMG gives beside what every system with a codebook gives."""


class Cmg(Towers):
    """Cross-modal generalisation (Xia et al. 2023): towers around one codebook.

    Each modality has one part more than `Towers`, "specific". The state beside the
    parameters is ``{"codebook": Codebook}``, and with a shared level also
    ``{"shared": SharedCodes}``.

    Attributes:
      codebook: the settings ``config.codebook``; one that only encodes needs none.
        Its entry `shared` gives the shared level; None for none.
      laplace_epsilon: smoothing of the counts when the codebook is read.

    Raises:
      ValueError: on an unknown part or kwarg, and when the modalities of the config,
        the inputs and the codebook are not the same.
    """

    codebook: Mapping[str, Any] = flax.core.FrozenDict()
    laplace_epsilon: float = 0.0

    parts: ClassVar[tuple[str, ...]] = ("stem", "pool", "specific")
    has_codes: ClassVar[bool] = True

    @property
    def has_shared_level(self) -> bool:
        """Returns whether the codebook has a level that all modalities share."""
        return self.codebook.get("shared") is not None

    def setup(self) -> None:
        """Builds the parts of every modality."""
        super().setup()
        self.specifics = {m: self.build_part(m, "specific") for m in self.modalities}

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
        self.check_modalities(model_state["codebook"].idle, "the codebook")
        self.check_modalities(inputs, "the inputs")
        stems = self.stem_features(inputs)
        semantic = self.from_stems(stems, train=train)
        specific = {m: self.specifics[m](stems[m]) for m in stems}
        return self.quantised(
            inputs, semantic, specific, self.vectors(model_state["codebook"]), mask
        )

    @staticmethod
    def quantised(
        inputs: Mapping[str, Array],
        semantic: Mapping[str, Float[Array, "B T D"]],
        specific: Mapping[str, tuple[Array, Float[Array, "B T S"]]],
        vectors: Float[Array, "M _"],
        mask: Bool[Array, " B"],
    ) -> CmgFeatures:
        """Gives each semantic feature its nearest code; no gradient reaches the codes.

        Args:
          inputs: by modality, what reconstruction returns to.
          semantic: by modality.
          specific: by modality, specific features, and pooled to one vector a tick.
          vectors: of the codes.
          mask: False for rows that only pad the batch.
        """
        vectors = jax.lax.stop_gradient(vectors)
        codes = {m: quantizer.assign(z, vectors) for m, z in semantic.items()}
        chosen = {m: quantizer.code_vectors(c, vectors) for m, c in codes.items()}
        return CmgFeatures(
            inputs=dict(inputs),
            semantic=dict(semantic),
            specific={m: features for m, (features, _) in specific.items()},
            pooled_specific={m: pooled for m, (_, pooled) in specific.items()},
            codes=codes,
            code_vectors=chosen,
            quantized={
                m: quantizer.straight_through(semantic[m], chosen[m]) for m in chosen
            },
            embeddings=vectors,
            mask=mask,
        )

    def encode(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        views: Iterable[str],
        *,
        context: bool = True,
    ) -> dict[str, Encoding]:
        """Returns semantic features and codes of some or all modalities."""
        chosen = {name: inputs[name] for name in views}
        semantic = self.semantic(chosen, train=False, context=context)
        books = self.books(model_state)
        return {
            m: Encoding(
                z, quantizer.assign(z, books[m]), self._shared(model_state, m, z)
            )
            for m, z in semantic.items()
        }

    def books(self, model_state: ModelState) -> dict[str, Float[Array, "M D"]]:
        """Returns the codes of each modality: the same of all."""
        return dict.fromkeys(self.modalities, self.code_vectors(model_state))

    def shared_features(
        self, semantic: Mapping[str, Float[Array, "B T D"]]
    ) -> dict[str, Float[Array, "B S D"]]:
        """Returns the mean semantic features of each segment."""
        segments = self.codebook["shared"]["segments"]
        return {
            m: shared_codes.segment_means(self._shared_ticks(z), segments)
            for m, z in semantic.items()
        }

    def fit_shared(
        self,
        model_state: ModelState,
        features: Mapping[str, Float[ndarray, "N D"]],
    ) -> ModelState:
        """Fits canonical directions, and codes on the teacher's side of them."""
        settings = dict(self.codebook["shared"])
        for read_elsewhere in ("segments", "skip_ticks"):
            settings.pop(read_elsewhere, None)
        return {**model_state, "shared": shared_codes.fit(features, **settings)}

    def read_shared(
        self, model_state: ModelState, features: Mapping[str, Float[Array, "B S D"]]
    ) -> dict[str, SharedEncoding]:
        """Returns variates and code of each segment."""
        shared = model_state["shared"]
        return {
            m: SharedEncoding(
                shared_codes.variates(shared, m, segments),
                shared_codes.assign(shared, m, segments),
            )
            for m, segments in features.items()
        }

    def shared_vectors(self, model_state: ModelState) -> Float[Array, "K r"] | None:
        """Returns the place of each shared code among the variates."""
        return model_state["shared"].codes if self.has_shared_level else None

    def _shared(
        self, model_state: ModelState, modality: str, semantic: Float[Array, "B T D"]
    ) -> SharedEncoding | None:
        if not self.has_shared_level:
            return None
        shared = model_state["shared"]
        segments = self.shared_features({modality: semantic})[modality]
        return SharedEncoding(
            shared_codes.variates(shared, modality, self._shared_ticks(semantic)),
            shared_codes.assign(shared, modality, segments),
        )

    def _shared_ticks(self, semantic: Float[Array, "B T D"]) -> Float[Array, "B t D"]:
        """Returns the ticks that the shared level looks at."""
        return semantic[:, self.codebook["shared"].get("skip_ticks", 0) :]

    def _empty_shared(self) -> ModelState:
        """Returns the shared level before it is first fitted, if there is one."""
        if not self.has_shared_level:
            return {}
        settings = self.codebook["shared"]
        empty = shared_codes.empty(
            self.width,
            modalities=self.modalities,
            directions=settings["directions"],
            codes=settings["codes"],
            student_weight=settings.get("student_weight", 0.0),
        )
        return {"shared": empty}

    def empty_model_state(self) -> ModelState:
        """Returns a codebook of the right shapes with all codes at zero."""
        codebook = quantizer.empty_codebook(
            self.codebook["codes"], self.width, modalities=self.modalities
        )
        return {"codebook": codebook, **self._empty_shared()}

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
        return {"codebook": codebook, **self._empty_shared()}

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
        return {**model_state, "codebook": codebook}, {"revived_codes": revived}

    def code_vectors(self, model_state: ModelState) -> Float[Array, "M D"]:
        """Returns the vector of each code."""
        return self.vectors(model_state["codebook"])

    def vectors(self, codebook: quantizer.Codebook) -> Float[Array, "M D"]:
        """Returns the vector of each code of a codebook, e = sums / counts."""
        return quantizer.embeddings(codebook, epsilon=self.laplace_epsilon)

    def statistics(self, features: CmgFeatures) -> CodeStatistics:
        """Returns how the modalities use the codes, and how far they agree."""
        return CodeStatistics.from_features(features)

    def histograms(self, model_state: ModelState) -> dict[str, Array]:
        """Returns what each code counts, and how long its vector is."""
        codebook = model_state["codebook"]
        return {
            "codebook/count": codebook.counts,
            "codebook/norm": jnp.linalg.norm(self.vectors(codebook), axis=-1),
        }
