"""Learned queries read one modality and meet the tokens of the other (BLIP-2, 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, no_type_check

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int
from numpy import ndarray

from fmalign_jax import losses
from fmalign_jax.models import linear
from fmalign_jax.models.layers import placed, sinusoids
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import Encoding, ModelState
from fmalign_jax.systems.two_tower import PairStatistics, TwoTower

_NEVER = -1e30  # as a logit


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class QFormerFeatures(Features):
    """What a Q-Former gives beside what every system gives.

    Attributes:
      match: fp32 [B, 3, 2], logits of "no pair" and "a pair" of three pairs: the
        window's own; another window's queried modality with the window's tokens; the
        window's queried modality with another's tokens.
      wrong: int32 [B, 2], which other windows these were.
      scale: fp32, of the cosines.
    """

    match: Float[Array, "B 3 2"]
    wrong: Int[Array, "B 2"]
    scale: Float[Array, ""]


@no_type_check  # as a pytree it also carries shapes and fetched arrays
@flax.struct.dataclass
class MatchStatistics(PairStatistics):
    """How near partners are, and how often wrong pairs are told.

    Attributes:
      wrong: by ``same_recording`` and ``other_recording`` int32, wrong pairs of windows
        of one recording, and of two.
      told: the same of those that were told to be none.
    """

    wrong: dict[str, Int[Array, ""]]
    told: dict[str, Int[Array, ""]]

    @classmethod
    def from_features(cls, features: Any) -> MatchStatistics:
        """Counts one batch of `QFormerFeatures`."""
        counted = (features.mask & (features.mask.sum() > 1))[:, None]
        told = features.match[:, 1:].argmax(axis=-1) == 0
        same = features.recording[features.wrong] == features.recording[:, None]
        kinds = {"same_recording": same & counted, "other_recording": ~same & counted}
        return cls(
            **vars(PairStatistics.from_features(features)),
            wrong={name: own.sum(dtype=jnp.int32) for name, own in kinds.items()},
            told={
                name: (own & told).sum(dtype=jnp.int32) for name, own in kinds.items()
            },
        )

    def compute(self) -> dict[str, Float[Array, ""]]:
        """Returns those of `PairStatistics` and shares of the wrong pairs.

        ``wrong_pairs/<kind>``: those of the kind; ``wrong_pairs_told/<kind>``: those of
        the kind that were told, so that equal numbers mean all. None is ever NaN.
        """
        pairs = jnp.maximum(sum(self.wrong.values()), 1)
        return super().compute() | {
            f"{name}/{kind}": jnp.divide(total, pairs)
            for name, kinds in (
                ("wrong_pairs", self.wrong),
                ("wrong_pairs_told", self.told),
            )
            for kind, total in kinds.items()
        }


class Attend(nn.Module):
    """Attention to keys, with a post-norm residual.

    Attributes:
      heads: attention heads.
      dropout: rate, in training.
      dtype: of the computation; parameters are fp32.
    """

    heads: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B n D"], keys: Float[Array, "B k D"], *, train: bool
    ) -> Float[Array, "B n D"]:
        """Returns vectors of the same shape."""
        attention = linear.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            broadcast_dropout=False,
            dropout_rate=self.dropout,
            deterministic=not train,
            force_fp32_for_softmax=True,
        )
        drop = nn.Dropout(self.dropout, deterministic=not train)
        return nn.LayerNorm(dtype=self.dtype)(x + drop(attention(x, keys)))


class Feed(nn.Module):
    """Linear, ReLU, Linear of each vector, with a post-norm residual.

    Attributes:
      ffn: width inside.
      dropout: rate, in training.
      dtype: of the computation; parameters are fp32.
    """

    ffn: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B n D"], *, train: bool
    ) -> Float[Array, "B n D"]:
        """Returns vectors of the same shape."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        inner = drop(nn.relu(linear.Dense(self.ffn, dtype=self.dtype)(x)))
        outer = linear.Dense(x.shape[-1], dtype=self.dtype)(inner)
        return nn.LayerNorm(dtype=self.dtype)(x + drop(outer))


class QFormer(TwoTower):
    """Queries over the ticks of one modality, and a class token over the other's.

    One stack of blocks, run in three ways: the queries alone give the slots of the
    queried modality, the class token and ticks of the other give its one slot, and both
    together tell whether they belong to each other. In every block all that is there
    attends to all of it, by the same weights; in every second one the queries, and they
    alone, also attend to the ticks of the queried modality; queries and tokens have
    feed-forward layers of their own. Features are unit vectors, and two windows are as
    similar as the query that is nearest.

    The towers are the tokenisers: with ``transformer={"layers": 0}`` a stem, a pool and
    a Linear -> D. Without context each tick is a window of its own, and its features
    are the mean of its slots.

    Attributes:
      queried: the modality that the queries read; the other has the tokens.
      queries: their number.
      blocks: number of blocks.
      heads: attention heads.
      ffn: width of the feed-forward layers.
      dropout: rate, in training.

    Raises:
      ValueError: the modalities are not the queried one and another.
    """

    queried: str = "video"
    queries: int = 8
    blocks: int = 4
    heads: int = 4
    ffn: int = 256
    dropout: float = 0.1

    random_streams: ClassVar[tuple[str, ...]] = ("dropout", "match")

    @property
    def slots_are_ticks(self) -> bool:
        """Returns whether features are those of ticks: no."""
        return False

    def setup(self) -> None:
        """Builds the blocks, each part under a name of its own.

        So the parameters of one modality alone are whole entries of all parameters.
        """
        super().setup()
        every = range(self.blocks)

        def feed() -> Feed:
            return Feed(self.ffn, self.dropout, self.dtype)

        def attend() -> Attend:
            return Attend(self.heads, self.dropout, self.dtype)

        self.selves = [attend() for _ in every]
        self.crosses = [attend() for _ in every[::2]]
        self.query_feeds = [feed() for _ in every]
        self.token_feeds = [feed() for _ in every]
        small = nn.initializers.normal(0.02)
        if self.queried in self.modalities:
            self.query_vectors = self.param(
                "queries_start", small, (self.queries, self.width)
            )
        if set(self.modalities) - {self.queried}:
            self.class_token = self.param("class_token", small, (1, self.width))
        self.key_norm = nn.LayerNorm(dtype=self.dtype)
        self.input_norm = nn.LayerNorm(dtype=self.dtype)
        self.input_drop = nn.Dropout(self.dropout)
        self.query_outer = linear.Dense(self.width, dtype=self.dtype)
        self.token_outer = linear.Dense(self.width, dtype=self.dtype)
        self.match_head = linear.Dense(2)
        start = nn.initializers.constant(losses.SCALE_START)
        self.raw_scale = self.param("scale", start, (), jnp.float32)

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> QFormerFeatures:
        """Encodes a batch, and says of right and wrong pairs whether they are pairs.

        A wrong one is drawn by how similar it is; in evaluation, the most similar one
        is taken. Nothing else of a window depends on others.

        Args:
          inputs: by modality [B, T, R, ...], normalised.
          model_state: empty.
          mask: False for rows that only pad the batch.
          train: whether dropout acts, and wrong pairs are drawn.
        """
        self.check_modalities(inputs, "the inputs")
        if self.queried not in inputs or len(inputs) != 2:
            raise ValueError(
                "a Q-Former needs model.queried and one modality more; got "
                f"{self.queried!r} of {', '.join(sorted(inputs))}; correct the config"
            )
        (other,) = set(inputs) - {self.queried}
        ticks = self._ticks(inputs, train=train)
        keys = ticks[self.queried]
        tokens = self._tokens(ticks[other], train=train)
        queries = self._queries(len(keys), train=train)
        semantic = {
            self.queried: self._slots(queries, keys, train=train),
            other: self._class(tokens, train=train),
        }
        scale = losses.learned_scale(self.raw_scale)
        wrong = self._wrong(semantic[self.queried], semantic[other], scale, mask, train)
        pairs = (len(keys) * 3, -1, self.width)  # of one window side by side
        found, _ = self._run(
            jnp.repeat(queries, 3, axis=0),
            jnp.stack([tokens, tokens, tokens[wrong[:, 1]]], axis=1).reshape(pairs),
            jnp.stack([keys, keys[wrong[:, 0]], keys], axis=1).reshape(pairs),
            train=train,
        )
        logits = self.match_head(found).mean(axis=1).reshape(-1, 3, 2)
        return QFormerFeatures(
            inputs=dict(inputs),
            semantic=semantic,
            match=logits.astype(jnp.float32),
            wrong=wrong,
            scale=scale,
            mask=mask,
        )

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B _ D"]]:
        """Returns the slots of some or all modalities; ticks without context."""
        ticks = self._ticks(inputs, train=train, context=context)
        slots = {
            m: self._own_slots(m, x, train=train, context=context)
            for m, x in ticks.items()
        }
        return slots if context else _means(slots, ticks)

    def encode(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        views: Iterable[str],
        *,
        context: bool = True,
    ) -> dict[str, Encoding]:
        """Returns the slots of some or all modalities.

        Without context the slots of each tick are what is compared, and their mean its
        features.
        """
        if context:
            return super().encode(inputs, model_state, views)
        chosen = {name: inputs[name] for name in views}
        ticks = self._ticks(chosen, train=False, context=False)
        slots = {
            m: self._own_slots(m, x, train=False, context=False)
            for m, x in ticks.items()
        }
        return {
            m: Encoding(
                z, None, compared=slots[m].reshape(*z.shape[:2], -1, self.width)
            )
            for m, z in _means(slots, ticks).items()
        }

    def similarity(
        self, first: Float[ndarray, "N S D"], second: Float[ndarray, "M s D"]
    ) -> Float[ndarray, "N M"]:
        """Returns how similar windows are: the cosine of the slots that are nearest."""
        return np.asarray(
            losses.largest_cosine(jnp.asarray(first), jnp.asarray(second))
        )

    def statistics(self, features: Any) -> MatchStatistics:
        """Returns how near windows are, and how often wrong pairs are told."""
        return MatchStatistics.from_features(features)

    def _ticks(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns one vector a tick, which with context knows its place."""
        found = {}
        for m, x in super().semantic(inputs, train=train, context=context).items():
            own = self.key_norm(x) if m == self.queried else x
            found[m] = placed(own, sinusoids(*x.shape[1:]), context=context)
        return found

    def _own_slots(
        self, modality: str, ticks: Float[Array, "B T D"], *, train: bool, context: bool
    ) -> Float[Array, "n _ D"]:
        """Returns a modality's slots of windows, or of ticks, from these alone."""
        own = ticks if context else ticks.reshape(-1, 1, self.width)
        if modality == self.queried:
            queries = self._queries(len(own), train=train)
            return self._slots(queries, own, train=train)
        return self._class(self._tokens(own, train=train), train=train)

    def _queries(self, windows: int, *, train: bool) -> Float[Array, "B Q D"]:
        shape = (windows, *self.query_vectors.shape)
        return self._entered(jnp.broadcast_to(self.query_vectors, shape), train)

    def _tokens(
        self, ticks: Float[Array, "B T D"], *, train: bool
    ) -> Float[Array, "B n D"]:
        """Returns the class token and, behind it, the ticks."""
        first = jnp.broadcast_to(self.class_token, (len(ticks), 1, self.width))
        return self._entered(jnp.concatenate([first, ticks], axis=1), train)

    def _entered(self, x: Float[Array, "B n D"], train: bool) -> Float[Array, "B n D"]:
        dropped: Array = self.input_drop(self.input_norm(x), deterministic=not train)
        return dropped

    def _slots(
        self,
        queries: Float[Array, "B Q D"],
        keys: Float[Array, "B T D"],
        *,
        train: bool,
    ) -> Float[Array, "B Q D"]:
        """Returns the slots of the queried modality, from the queries alone."""
        found, _ = self._run(queries, queries[:, :0], keys, train=train)
        return losses.normalise(self.query_outer(found))

    def _class(
        self, tokens: Float[Array, "B n D"], *, train: bool
    ) -> Float[Array, "B 1 D"]:
        """Returns the slot of the other modality, from its tokens alone."""
        _, found = self._run(tokens[:, :0], tokens, tokens[:, :0], train=train)
        return losses.normalise(self.token_outer(found[:, :1]))

    def _run(
        self,
        queries: Float[Array, "B Q D"],
        tokens: Float[Array, "B n D"],
        keys: Float[Array, "B T D"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "B Q D"], Float[Array, "B n D"]]:
        """Returns queries and tokens after all blocks; either may be none at all."""
        count = queries.shape[1]
        for i in range(self.blocks):
            both = jnp.concatenate([queries, tokens], axis=1)
            both = self.selves[i](both, both, train=train)
            queries, tokens = both[:, :count], both[:, count:]
            if count and i % 2 == 0:
                queries = self.crosses[i // 2](queries, keys, train=train)
            if count:
                queries = self.query_feeds[i](queries, train=train)
            if tokens.shape[1]:
                tokens = self.token_feeds[i](tokens, train=train)
        return queries, tokens

    def _wrong(
        self,
        slots: Float[Array, "B Q D"],
        others: Float[Array, "B 1 D"],
        scale: Float[Array, ""],
        mask: Bool[Array, " B"],
        train: bool,
    ) -> Int[Array, "B 2"]:
        """Returns for each window another one, of either modality, that is similar."""
        logits = jax.lax.stop_gradient(scale * losses.largest_cosine(slots, others))
        both = jnp.stack([logits.T, logits])
        allowed = mask & ~jnp.eye(len(mask), dtype=bool)
        both = jnp.where(allowed, both, _NEVER)
        if train:
            chosen = jax.random.categorical(self.make_rng("match"), both)
        else:
            chosen = both.argmax(axis=-1)
        return chosen.astype(jnp.int32).T


def _means(
    slots: Mapping[str, Float[Array, "n _ D"]], ticks: Mapping[str, Array]
) -> dict[str, Float[Array, "B T D"]]:
    """Returns the mean slot of each tick."""
    return {m: slots[m].mean(axis=1).reshape(x.shape) for m, x in ticks.items()}
