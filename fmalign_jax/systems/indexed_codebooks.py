"""One codebook a modality, aligned by index (after CoDAAR, Sen et al. 2026).

CMG's encoders and decoders around as many codebooks as there are modalities. The same
index means the same thing in all of them, although each holds vectors of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from fmalign_jax.models import quantizer
from fmalign_jax.systems.cmg import Cmg, CmgFeatures
from fmalign_jax.systems.system import ModelState


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class IndexedFeatures(CmgFeatures):
    """As `CmgFeatures`, with the codebook of each modality.

    `code_vectors` are those of a modality's own codebook; `embeddings` the vectors of
    all codebooks side by side, [M, sum D]; so is `quantized`, [B, T, sum D].

    Attributes:
      books: by modality [M, D], its codebook as it was read, without gradient.
    """

    books: dict[str, Float[Array, "M D"]]

    def book(self, modality: str) -> Float[Array, "M D"]:
        """Returns the codes among which a modality chooses: its own."""
        return self.books[modality]


class IndexedCodebooks(Cmg):
    """Towers around one codebook a modality; same indices mean the same thing.

    A modality chooses the nearest code of its own codebook. Codebooks are aligned three
    times: all start on the same pairs of ticks, and codes that none uses are put back
    on the same pair; each moves by the features of all modalities (`ema_mix`); and each
    is read as a mean of all (`cascade`), so that vectors of one index stay close.

    What a code stands for outside is the vectors of all codebooks side by side,
    [M, sum D], whichever modality chose it. The state beside the parameters is
    ``{"codebooks": {modality: Codebook}}``, and that of a shared level as in `Cmg`.

    Settings in ``config.codebook`` that differ from `Cmg`:
      ema_mix: A[own][other], a row for every modality: the share of each modality's
        features in what its codebook moves to.
      cascade: [own][other], the share of each codebook in a codebook as it is read;
        rows sum to 1. A modality without a row reads its own alone.

    Raises:
      ValueError: as `Cmg`, and for a wrong row of `cascade`.
    """

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> IndexedFeatures:
        """Encodes and quantises a batch; the codebooks are read, never changed.

        Args:
          inputs: by modality [B, T, R, ...], normalised.
          model_state: holds the codebooks.
          mask: False for rows that only pad the batch.
          train: whether dropout acts.
        """
        self.check_modalities(model_state["codebooks"], "the codebooks")
        self.check_modalities(inputs, "the inputs")
        if cascade := self.codebook.get("cascade"):
            quantizer.check_ema_mix(cascade, self.modalities, name="codebook.cascade")
        stems = self.stem_features(inputs)
        semantic = self.from_stems(stems, train=train)
        specific = {m: self.specifics[m](stems[m]) for m in stems}
        books = jax.lax.stop_gradient(self.books(model_state))
        side_by_side = _side_by_side(books)
        codes = {m: quantizer.assign(z, books[m]) for m, z in semantic.items()}
        # The error of a reconstruction reaches all modalities: each has its part in
        # the vectors that a decoder is given.
        joint = _side_by_side(semantic)
        return IndexedFeatures(
            inputs=dict(inputs),
            semantic=semantic,
            specific={m: features for m, (features, _) in specific.items()},
            pooled_specific={m: pooled for m, (_, pooled) in specific.items()},
            codes=codes,
            code_vectors={
                m: quantizer.code_vectors(c, books[m]) for m, c in codes.items()
            },
            quantized={
                m: quantizer.straight_through(
                    joint, quantizer.code_vectors(c, side_by_side)
                )
                for m, c in codes.items()
            },
            embeddings=side_by_side,
            books=books,
            mask=mask,
        )

    def books(self, model_state: ModelState) -> dict[str, Float[Array, "M D"]]:
        """Returns the codebook of each modality as it is read: a mean of all."""
        own = {
            m: quantizer.embeddings(book, epsilon=self.laplace_epsilon)
            for m, book in model_state["codebooks"].items()
        }
        zero = jnp.zeros(())
        return {m: sum((s * own[n] for n, s in self._row(m, own)), zero) for m in own}

    def _row(self, modality: str, present: Iterable[str]) -> list[tuple[str, float]]:
        """Returns the shares of the codebooks that there are in one of them."""
        table = self.codebook.get("cascade", {})
        row = table.get(modality, {modality: 1.0})
        here = {n: s for n, s in row.items() if n in present and s}
        return [(n, s / sum(here.values())) for n, s in sorted(here.items())]

    def empty_model_state(self) -> ModelState:
        """Returns codebooks of the right shapes with all codes at zero."""
        empty = quantizer.empty_codebook(
            self.codebook["codes"], self.width, modalities=self.modalities
        )
        return {"codebooks": dict.fromkeys(self.modalities, empty)} | (
            self._empty_shared()
        )

    def init_model_state(
        self, key: Key[Array, ""], semantic: Mapping[str, Float[Array, "B T D"]]
    ) -> ModelState:
        """Places the codes of one index on the same pairs of ticks."""
        joint = _side_by_side(semantic)
        placed = quantizer.initialise(
            key,
            joint.reshape(-1, joint.shape[-1]),
            self.codebook["codes"],
            modalities=semantic,
            method=self.codebook["initialisation"],
        )
        parts = jnp.split(placed.sums, len(semantic), axis=1)
        books = {
            m: dataclasses.replace(placed, sums=part)
            for m, part in zip(sorted(semantic), parts, strict=True)
        }
        return {"codebooks": books, **self._empty_shared()}

    def update_model_state(
        self, model_state: ModelState, features: CmgFeatures, key: Key[Array, ""]
    ) -> tuple[ModelState, dict[str, Array]]:
        """Moves each codebook by its EMA, then puts back what no modality uses."""
        settings = self.codebook
        self.check_modalities(settings["ema_mix"], "codebook.ema_mix")
        semantic = jax.lax.stop_gradient(features.semantic)
        books = {}
        for m, book in model_state["codebooks"].items():
            moved = quantizer.ema_update(
                book,
                semantic,
                features.codes,
                decay=settings["decay"],
                ema_mix={m: settings["ema_mix"][m]},
            )
            # Use is counted for all modalities in every codebook, and the key is the
            # same: the same codes go to the same ticks, each to its own features.
            books[m], revived = quantizer.revive(
                key,
                moved,
                dict.fromkeys(semantic, semantic[m]),
                modalities=semantic,
                idle_steps=settings["idle_steps"],
                rule=settings["idle_rule"],
                noise_scale=settings["revival_noise"],
            )
        return {**model_state, "codebooks": books}, {"revived_codes": revived}

    def code_vectors(self, model_state: ModelState) -> Float[Array, "M E"]:
        """Returns the vectors of each index in all codebooks, side by side."""
        return _side_by_side(self.books(model_state))

    def histograms(self, model_state: ModelState) -> dict[str, Array]:
        """Returns what each code counts in each codebook, and its vector's length."""
        found = {}
        for m, vectors in self.books(model_state).items():
            found[f"codebook/count/{m}"] = model_state["codebooks"][m].counts
            found[f"codebook/norm/{m}"] = jnp.linalg.norm(vectors, axis=-1)
        return found


def _side_by_side(parts: Mapping[str, Float[Array, "*n D"]]) -> Float[Array, "*n E"]:
    return jnp.concatenate([parts[m] for m in sorted(parts)], axis=-1)
