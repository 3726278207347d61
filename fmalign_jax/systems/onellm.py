"""One encoder for all modalities and experts that a router weighs (OneLLM, 2024).

Aligned, as two towers are, by a contrast of whole windows; there is no codebook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from fmalign_jax.config.build import build
from fmalign_jax.models import linear
from fmalign_jax.models.layers import TransformerLayer
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import ModelState
from fmalign_jax.systems.towers import SEMANTIC_ENCODER
from fmalign_jax.systems.two_tower import PairStatistics, TwoTower

ROUTERS = ("soft", "sparse", "constant", "soft_input")
KEPT = ("slots", "ticks")


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class OneLlmFeatures(Features):
    """What OneLLM gives beside what every system gives.

    Attributes:
      expert_weights: by modality fp32 [B, S, K], with which the outputs of the experts
        were added up.
    """

    expert_weights: dict[str, Float[Array, "B S K"]]


@no_type_check  # as a pytree it also carries shapes and fetched arrays
@flax.struct.dataclass
class ExpertStatistics(PairStatistics):
    """How near partners are, and how much each expert has a say.

    Attributes:
      weights: by modality fp32 [K], sum over the windows of each expert's mean weight.
    """

    weights: dict[str, Float[Array, " K"]]

    @classmethod
    def from_features(cls, features: Any) -> ExpertStatistics:
        """Counts one batch of `OneLlmFeatures`."""
        weights = {
            m: jnp.where(features.mask[:, None], w.mean(axis=1), 0.0).sum(axis=0)
            for m, w in features.expert_weights.items()
        }
        return cls(**vars(PairStatistics.from_features(features)), weights=weights)

    def compute(self) -> dict[str, Float[Array, ""]]:
        """Returns those of `PairStatistics` and ``expert_weight/<modality>/<k>``.

        The last are mean weights; an expert below 0.01 in all modalities is dead.
        """
        return super().compute() | {
            f"expert_weight/{m}/{k}": jnp.divide(total, self.windows)
            for m, totals in self.weights.items()
            for k, total in enumerate(totals)
        }


class Expert(nn.Module):
    """Transformer layers over modality tokens and ticks, P_k.

    Attributes:
      blocks: number of layers.
      heads: attention heads.
      ffn: width of the feed-forward layers.
      dropout: rate, in training.
      dtype: of the computation; parameters are fp32.
    """

    blocks: int
    heads: int
    ffn: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B n D"], *, train: bool) -> Array:
        """Returns vectors of the same shape."""
        for _ in range(self.blocks):
            layer = TransformerLayer(self.heads, self.ffn, self.dropout, self.dtype)
            x = layer(x, train=train)
        return x


class Router(nn.Module):
    """Linear D -> 4D, GELU, Linear -> K, of each vector by itself, R_m.

    Attributes:
      experts: K.
      dtype: of the hidden layer; parameters and logits are fp32.
    """

    experts: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B n D"]) -> Float[Array, "B n K"]:
        """Returns logits."""
        hidden = nn.gelu(linear.Dense(4 * x.shape[-1], dtype=self.dtype)(x))
        return linear.Dense(self.experts)(hidden.astype(jnp.float32))


class OneLlm(TwoTower):
    """Tokenisers, one encoder for all modalities, experts and a router a modality.

        x = encoder(tokens of the ticks);  y = sum_k w_k * P_k([q_m, x]);  LN(Linear(y))

    with q_m, learned tokens of the modality; encoder, experts P_k and the last Linear
    are the same for all modalities. The tokenisers are the towers: with
    ``transformer={"layers": 0, "positions": "learned"}`` a stem, a pool, a Linear -> D
    and learned positions.

    What is kept of y are the places of q_m: *slots*, which belong to the window as a
    whole, or those of the ticks. Without context each tick is a window of its own, and
    its features are the mean of its slots.

    Attributes:
      encoder: kwargs of the `SemanticEncoder` that all modalities share; the experts
        have its heads, ffn and dropout.
      tokens: number of modality tokens.
      experts: K.
      blocks: transformer layers of an expert.
      router: "soft", weights softmax_k R_m(y_s) of each kept vector; "sparse", of these
        the largest alone; "constant", 1 / K; "soft_input", one weighting a window,
        softmax_k R_m(mean_t x). With slots, "soft" and "sparse" read learned tokens
        alone: they give all windows of a modality the same weights.
      keep: "slots", features [B, tokens, D]; or "ticks", [B, T, D].

    Raises:
      ValueError: an unknown router, or a place to keep that there is not.
    """

    encoder: Mapping[str, Any] = flax.core.FrozenDict()
    tokens: int = 8
    experts: int = 3
    blocks: int = 2
    router: str = "soft"
    keep: str = "slots"

    @property
    def slots_are_ticks(self) -> bool:
        """Returns whether features are those of ticks."""
        return self.keep == "ticks"

    def setup(self) -> None:
        """Builds what the modalities share, and tokens and router of each."""
        super().setup()
        for name, known in (("router", ROUTERS), ("keep", KEPT)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"model.{name} must be one of {', '.join(known)}; got "
                    f"{getattr(self, name)!r}; use one of them"
                )
        entry = {"name": SEMANTIC_ENCODER, **self.encoder}
        self.universal = build(
            entry, "model.encoder", width=self.width, dtype=self.dtype
        )
        layer = (self.universal.heads, self.universal.ffn, self.universal.dropout)
        self.projections = [
            Expert(self.blocks, *layer, dtype=self.dtype) for _ in range(self.experts)
        ]
        if self.router != "constant":
            self.routers = {
                m: Router(self.experts, self.dtype) for m in self.modalities
            }
        shape = (self.tokens, self.width)
        self.modality_tokens = {
            m: self.param(f"tokens_{m}", nn.initializers.normal(0.02), shape)
            for m in self.modalities
        }
        self.outer = linear.Dense(self.width, dtype=self.dtype)
        self.norm = nn.LayerNorm(dtype=self.dtype)

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> OneLlmFeatures:
        """Encodes a batch.

        Args:
          inputs: by modality [B, T, R, ...], normalised.
          model_state: empty.
          mask: False for rows that only pad the batch.
          train: whether dropout acts.
        """
        self.check_modalities(inputs, "the inputs")
        found = self._by_modality(inputs, train=train, context=True)
        return OneLlmFeatures(
            inputs=dict(inputs),
            semantic={m: z for m, (z, _) in found.items()},
            expert_weights={m: w for m, (_, w) in found.items()},
            mask=mask,
        )

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B S D"]]:
        """Returns what is kept, of some or all modalities; ticks without context."""
        found = self._by_modality(inputs, train=train, context=context)
        return {m: z for m, (z, _) in found.items()}

    def statistics(self, features: Any) -> ExpertStatistics:
        """Returns how near windows are to their partners, and the experts' weights."""
        return ExpertStatistics.from_features(features)

    def _by_modality(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool
    ) -> dict[str, tuple[Float[Array, "B S D"], Float[Array, "_ s K"]]]:
        """Returns features and weights of the experts, each from its own input."""
        found = {}
        tokens = super().semantic(inputs, train=train, context=context)
        for m, own in tokens.items():
            x = self.universal(own, train=train, context=context)
            windows = x if context else x.reshape(-1, 1, x.shape[-1])
            z, weights = self._project(m, windows, train=train)
            found[m] = (z if context else z.mean(axis=1).reshape(x.shape), weights)
        return found

    def _project(
        self, modality: str, x: Float[Array, "B T D"], *, train: bool
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B S K"]]:
        """Returns what the experts make of tokens and ticks, and their weights."""
        shape = (len(x), self.tokens, self.width)
        tokens = jnp.broadcast_to(self.modality_tokens[modality], shape)
        both = jnp.concatenate([tokens, x], axis=1)
        kept = (
            slice(self.tokens, None)
            if self.slots_are_ticks
            else slice(None, self.tokens)
        )
        weights = self._weights(modality, both[:, kept], x)
        outputs = [expert(both, train=train)[:, kept] for expert in self.projections]
        mixed = jnp.einsum("bsk,kbsd->bsd", weights, jnp.stack(outputs))
        return self.norm(self.outer(mixed)).astype(jnp.float32), weights

    def _weights(
        self, modality: str, kept: Float[Array, "B S D"], x: Float[Array, "B T D"]
    ) -> Float[Array, "B S K"]:
        shape = (*kept.shape[:2], self.experts)
        if self.router == "constant":
            return jnp.full(shape, 1.0 / self.experts)
        read = x.mean(axis=1, keepdims=True) if self.router == "soft_input" else kept
        weights = jax.nn.softmax(self.routers[modality](read), axis=-1)
        if self.router == "sparse":
            # The weight stays a factor: through it the router learns.
            chosen = weights.argmax(axis=-1, keepdims=True)
            weights = jnp.where(jnp.arange(self.experts) == chosen, weights, 0.0)
        return jnp.broadcast_to(weights, shape)
