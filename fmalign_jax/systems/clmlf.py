"""One transformer over the ticks of all modalities, pooled to a vector (CLMLF, 2022).

As published it is shaped by labels, `objectives.label_contrast` and
`objectives.classification`; one of its forms needs none.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from fmalign_jax.config.pair_tables import PairTable, check_names
from fmalign_jax.models import linear
from fmalign_jax.models.layers import TransformerLayer, placed, sinusoids
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import FUSED, ModelState
from fmalign_jax.systems.two_tower import TwoTower

FORMS = ("fused", "dropout", "pairs")
_NEVER = -1e30  # as a logit


class AttentionPool(nn.Module):
    """f = sum_n a_n x_n,  a = softmax_n of Linear(GELU(Linear(x_n))), of what is there.

    Attributes:
      dtype: of the hidden layer; parameters, weights and sum are fp32.
    """

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B n D"], present: Bool[Array, "B n"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B n"]]:
        """Returns the pooled vectors and the weights, 0 where no token is present."""
        hidden = nn.gelu(linear.Dense(x.shape[-1] // 2, dtype=self.dtype)(x))
        # No bias: a softmax does not see it.
        logits = linear.Dense(1, use_bias=False)(hidden.astype(jnp.float32))[..., 0]
        weights = jax.nn.softmax(jnp.where(present, logits, _NEVER), axis=-1)
        pooled = jnp.einsum("bn,bnd->bd", weights, x.astype(jnp.float32))
        return pooled, weights


class Clmlf(TwoTower):
    """Multi-layer fusion: every tick of every modality attends to all that are there.

        x_m = GELU(Linear(stem and pool of m)) + positions, then layers of m's own
        f = attention pooling of the fusion transformer of [x_v; x_c]

    The Linear is that of the towers: ``transformer={"layers": 0}``. f is one slot,
    [B, 1, D], which belongs to the window as a whole. Without context each tick is a
    window of its own.

    Attributes:
      form: which views there are, and what the fusion sees in training. "fused": one
        view of all modalities together. "dropout": this and each modality alone; in
        training each window of the fused view shows all modalities or one of them, all
        equally likely. "pairs": each modality alone, in training too.
      own_layers: by modality, the transformer layers over its ticks alone; by default
        none.
      layers: of the fusion transformer.
      heads: attention heads.
      ffn: width of the feed-forward layers.
      dropout: rate, in training.

    Raises:
      ValueError: an unknown form or modality.
    """

    form: str = "fused"
    own_layers: Mapping[str, int] = flax.core.FrozenDict()
    layers: int = 3
    heads: int = 4
    ffn: int = 256
    dropout: float = 0.1

    @property
    def views(self) -> tuple[str, ...]:
        """Returns what can be encoded: each modality, all together, or both."""
        alone = () if self.form == "fused" else tuple(self.modalities)
        return alone if self.form == "pairs" else (*alone, FUSED)

    @property
    def slots_are_ticks(self) -> bool:
        """Returns whether features are those of ticks: no."""
        return False

    def setup(self) -> None:
        """Builds the layers of each modality, the fusion and the pooling."""
        super().setup()
        if self.form not in FORMS:
            raise ValueError(
                f"model.form must be one of {', '.join(FORMS)}; got {self.form!r}; use "
                "one of them"
            )
        self.before = {
            m: [self._layer() for _ in range(self.own_layers.get(m, 0))]
            for m in self.modalities
        }
        self.fusion = [self._layer() for _ in range(self.layers)]
        self.attention_pool = AttentionPool(self.dtype)

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> Features:
        """Encodes a batch, as `TwoTower`."""
        named: PairTable = {m: {} for m in self.own_layers}
        check_names(named, self.modalities, table_name="model.own_layers")
        return super().__call__(inputs, model_state, mask, train=train)

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B _ D"]]:
        """Returns the slot of each view that the inputs allow; ticks without context.

        The fused view needs all modalities.
        """
        tokens = self._tokens(inputs, train=train, context=context)
        found = {}
        if self.form != "fused":
            for m, x in tokens.items():
                found[m] = self.fuse({m: x}, train=train)
        if self.form != "pairs" and set(inputs) == set(self.modalities):
            shown = self._shown(next(iter(tokens.values())), train=train)
            found[FUSED] = self.fuse(tokens, shown, train=train)
        if context:
            return found
        windows = len(next(iter(inputs.values())))
        return {name: z.reshape(windows, -1, self.width) for name, z in found.items()}

    def fuse(
        self,
        tokens: Mapping[str, Float[Array, "b n D"]],
        shown: Mapping[str, Bool[Array, " b"]] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b 1 D"]:
        """Returns what the fusion makes of the tokens of some or all modalities.

        Args:
          tokens: by modality.
          shown: by modality, False for windows that must not show it; by default all
            show all. What a token that is not shown holds is of no effect.
          train: whether dropout acts.
        """
        x = jnp.concatenate(list(tokens.values()), axis=1)
        present = jnp.ones(x.shape[:2], bool)
        if shown is not None:
            present = jnp.concatenate(
                [
                    jnp.broadcast_to(shown[m][:, None], own.shape[:2])
                    for m, own in tokens.items()
                ],
                axis=1,
            )
            x = jnp.where(present[..., None], x, 0.0)
        for layer in self.fusion:
            x = layer(x, train=train, present=None if shown is None else present)
        pooled, _ = self.attention_pool(x, present)
        return pooled[:, None]

    def _tokens(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool
    ) -> dict[str, Float[Array, "_ _ D"]]:
        """Returns one vector a tick; without context, windows of one tick."""
        found = {}
        for m, x in super().semantic(inputs, train=train, context=context).items():
            own = placed(nn.gelu(x), sinusoids(*x.shape[1:]), context=context)
            for layer in self.before[m]:
                own = layer(own, train=train, context=context)
            found[m] = own if context else own.reshape(-1, 1, own.shape[-1])
        return found

    def _shown(
        self, tokens: Float[Array, "b n D"], *, train: bool
    ) -> dict[str, Bool[Array, " b"]] | None:
        """Draws which modalities each window shows, where that is the form."""
        if self.form != "dropout" or not train:
            return None
        count = len(self.modalities)
        drawn = jax.random.randint(
            self.make_rng("dropout"), (len(tokens),), 0, count + 1
        )
        return {
            m: (drawn == count) | (drawn == i)
            for i, m in enumerate(sorted(self.modalities))
        }

    def _layer(self) -> TransformerLayer:
        return TransformerLayer(self.heads, self.ffn, self.dropout, self.dtype)
