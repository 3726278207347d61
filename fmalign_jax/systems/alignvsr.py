"""Units of one modality, to which the ticks of the other attend (AlignVSR, 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, no_type_check

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key
from numpy import ndarray

from fmalign_jax import losses
from fmalign_jax.models import linear, quantizer
from fmalign_jax.models.layers import TransformerLayer
from fmalign_jax.systems.code_statistics import CodeFeatures, CodeStatistics
from fmalign_jax.systems.system import Encoding, ModelState
from fmalign_jax.systems.two_tower import TwoTower

_EXACT = jax.lax.Precision.HIGHEST


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class AlignVsrFeatures(CodeFeatures):
    """What AlignVSR gives beside what every system with a codebook gives.

    Attributes:
      encoded: by modality fp32 [B, T, U], weights on the units, that sum to one: of the
        asking modality its attention, of the asked one 1 on the unit of the tick.
    """

    encoded: dict[str, Float[Array, "B T U"]]


class Ask(nn.Module):
    """Cross-attention of ticks to the vectors of units, with a post-norm residual.

    Attributes:
      heads: attention heads.
      dropout: rate, in training; never of the attention, which is what is read.
      answered: whether ticks take up what they attend to; if not, they attend only.
      dtype: of the computation; parameters and attention are fp32.
    """

    heads: int
    dropout: float
    answered: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], bank: Float[Array, "U D"], *, train: bool
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B T U"]]:
        """Returns ticks, and the mean attention of the heads."""
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        query = linear.DenseGeneral(shape, dtype=self.dtype, name="query")(x)
        # Without bias: it would be the same for all units.
        to_keys = linear.DenseGeneral(
            shape, use_bias=False, dtype=self.dtype, name="key"
        )
        key = to_keys(bank)
        logits = jnp.einsum("bthc,uhc->bhtu", query, key, precision=_EXACT)
        logits = logits.astype(jnp.float32) / np.sqrt(shape[1])
        attention = jax.nn.softmax(logits, axis=-1)
        if self.answered:
            value = linear.DenseGeneral(shape, dtype=self.dtype, name="value")(bank)
            mixed = jnp.einsum("bhtu,uhc->bthc", attention.astype(value.dtype), value)
            outer = linear.DenseGeneral(
                width, axis=(-2, -1), dtype=self.dtype, name="out"
            )
            drop = nn.Dropout(self.dropout, deterministic=not train)
            x = nn.LayerNorm(dtype=self.dtype)(x + drop(outer(mixed)))
        return x, attention.mean(axis=1)


class AlignVsr(TwoTower):
    """A bank of units of one modality, and another modality that asks it.

    The units are a codebook that the asked modality alone moves; a tick of it is its
    nearest unit. A tick of the asking one is its attention to the units, the mean over
    layers and heads, so that both are encoded as weights on units [B, T, U]. No
    gradient reaches the units' vectors. The state beside the parameters is
    ``{"codebook": Codebook}``.

        x = encoder(ticks with their places)
        x, a_1 = ask(x, units);  x = transformer layer(x);  a_2 = ask(x, units)

    Every layer asks by weights of its own, and between two of them ticks see each other
    once. What a tick takes up from the units serves the next question only: nothing
    stands behind the last attention. `semantic` are the features of both modalities
    before the units, which they do not share.

    Attributes:
      asking: the modality that attends, such as the video.
      asked: the modality of the units, such as the current.
      layers: how often the units are asked.
      codebook: the settings ``config.codebook``, without a shared level; `ema_mix`
        has one row, of the asked modality, since the units know no other.

    Raises:
      ValueError: the modalities are not these two.
    """

    asking: str = "video"
    asked: str = "current"
    layers: int = 2
    codebook: Mapping[str, Any] = flax.core.FrozenDict()

    has_codes: ClassVar[bool] = True

    def setup(self) -> None:
        """Builds towers and the layers that ask."""
        super().setup()
        like = next(iter(self.semantics.values()))
        self.asks = [
            Ask(like.heads, like.dropout, i + 1 < self.layers, self.dtype)
            for i in range(self.layers)
        ]
        self.between = [
            TransformerLayer(
                like.heads, like.ffn, like.dropout, self.dtype, like.causal
            )
            for _ in range(self.layers - 1)
        ]

    def encoder_settings(self, modality: str) -> Mapping[str, Any]:
        """Returns those of all, with the places of ticks for the asking modality.

        The other's units must not depend on where in a window a tick stands.
        """
        positions = "sinusoidal" if modality == self.asking else "none"
        return {**self.transformer, "positions": positions}

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> AlignVsrFeatures:
        """Encodes a batch; the units are read, never changed.

        Args:
          inputs: by modality [B, T, R, ...], normalised.
          model_state: holds the units.
          mask: False for rows that only pad the batch.
          train: whether dropout acts.
        """
        self.check_modalities(inputs, "the inputs")
        self.check_modalities({self.asking, self.asked}, "model.asking and model.asked")
        semantic = self.semantic(inputs, train=train)
        vectors = jax.lax.stop_gradient(self.code_vectors(model_state))
        encoded = self._on_units(semantic, vectors, train=train)
        codes = {m: w.argmax(axis=-1).astype(jnp.int32) for m, w in encoded.items()}
        return AlignVsrFeatures(
            inputs=dict(inputs),
            semantic=semantic,
            encoded=encoded,
            codes=codes,
            code_vectors={
                m: quantizer.code_vectors(c, vectors) for m, c in codes.items()
            },
            embeddings=vectors,
            mask=mask,
        )

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns features before the units, of some or all modalities."""
        semantic = super().semantic(inputs, train=train, context=context)
        if self.is_initializing() and self.asking in semantic:
            # What encodes needs these parameters too.
            bank = jnp.zeros((1, self.width))
            self._attention(semantic[self.asking], bank, train=train)
        return semantic

    def encode(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        views: Iterable[str],
        *,
        context: bool = True,
    ) -> dict[str, Encoding]:
        """Returns weights on the units and the likeliest unit of each tick."""
        chosen = {name: inputs[name] for name in views}
        semantic = self.semantic(chosen, train=False, context=context)
        vectors = self.code_vectors(model_state)
        encoded = self._on_units(semantic, vectors, train=False, context=context)
        return {
            m: Encoding(
                weights,
                weights.argmax(axis=-1).astype(jnp.int32),
                compared=self._compared(m, weights, model_state),
            )
            for m, weights in encoded.items()
        }

    def similarity(
        self, first: Float[ndarray, "N T 1 U"], second: Float[ndarray, "M T 1 U"]
    ) -> Float[ndarray, "N M"]:
        """Returns by how many nats a tick attention makes units likelier than they are.

        Of what `encode` gives as `compared`: the mean over ticks of
        ln(A[t, u[t]] + 1e-8) - ln f[u[t]], f how frequent units were in training.
        Without f, windows of common units would be similar to all others.
        """
        ticks = first.shape[1]
        flat = (x.reshape(len(x), -1).astype(np.float64) for x in (first, second))
        a, b = flat
        return a @ b.T / ticks

    def empty_model_state(self) -> ModelState:
        """Returns units of the right shapes, all at zero."""
        codebook = quantizer.empty_codebook(
            self.codebook["codes"], self.width, modalities=(self.asked,)
        )
        return {"codebook": codebook}

    def init_model_state(
        self, key: Key[Array, ""], semantic: Mapping[str, Float[Array, "B T D"]]
    ) -> ModelState:
        """Places the units on features of the asked modality; on others without it."""
        placed_on = semantic.get(self.asked, next(iter(semantic.values())))
        codebook = quantizer.initialise(
            key,
            placed_on.reshape(-1, placed_on.shape[-1]),
            self.codebook["codes"],
            modalities=(self.asked,),
            method=self.codebook["initialisation"],
        )
        return {"codebook": codebook}

    def update_model_state(
        self, model_state: ModelState, features: Any, key: Key[Array, ""]
    ) -> tuple[ModelState, dict[str, Array]]:
        """Moves the units by the asked modality alone, and revives idle ones."""
        settings, asked = self.codebook, self.asked
        semantic = {asked: jax.lax.stop_gradient(features.semantic[asked])}
        codebook = quantizer.ema_update(
            model_state["codebook"],
            semantic,
            {asked: features.codes[asked]},
            decay=settings["decay"],
            ema_mix=settings["ema_mix"],
        )
        codebook, revived = quantizer.revive(
            key,
            codebook,
            semantic,
            modalities=(asked,),
            idle_steps=settings["idle_steps"],
            rule=settings["idle_rule"],
            noise_scale=settings["revival_noise"],
        )
        return {"codebook": codebook}, {"revived_codes": revived}

    def code_vectors(self, model_state: ModelState) -> Float[Array, "U D"]:
        """Returns the vector of each unit."""
        return quantizer.embeddings(model_state["codebook"])

    def statistics(self, features: Any) -> CodeStatistics:
        """Returns how both modalities use the units, and how far they agree."""
        return CodeStatistics.from_features(features)

    def histograms(self, model_state: ModelState) -> dict[str, Array]:
        """Returns what each unit counts."""
        return {"codebook/count": model_state["codebook"].counts}

    def _compared(
        self, modality: str, weights: Float[Array, "B T U"], model_state: ModelState
    ) -> Float[Array, "B T 1 U"]:
        """Returns vectors whose inner product is the `similarity` of two ticks."""
        if modality == self.asking:
            counts = model_state["codebook"].counts
            weights = losses.log_weights(weights) - jnp.log(counts / counts.sum())
        return weights[:, :, None]

    def _on_units(
        self,
        semantic: Mapping[str, Float[Array, "B T D"]],
        vectors: Float[Array, "U D"],
        *,
        train: bool,
        context: bool = True,
    ) -> dict[str, Float[Array, "B T U"]]:
        """Returns the weights of both modalities on the units."""
        return {
            m: self._attention(z, vectors, train=train, context=context)
            if m == self.asking
            else jax.nn.one_hot(quantizer.assign(z, vectors), len(vectors))
            for m, z in semantic.items()
        }

    def _attention(
        self,
        x: Float[Array, "B T D"],
        vectors: Float[Array, "U D"],
        *,
        train: bool,
        context: bool = True,
    ) -> Float[Array, "B T U"]:
        """Returns the mean attention to the units over layers and heads."""
        found = []
        for i, ask in enumerate(self.asks):
            if i:
                x = self.between[i - 1](x, train=train, context=context)
            x, attention = ask(x, vectors, train=train)
            found.append(attention)
        return jnp.stack(found).mean(axis=0)
