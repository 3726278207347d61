"""Each modality's past predicts every modality's next ticks."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fmalign_jax import losses
from fmalign_jax.config.pair_tables import (
    PairTable,
    check_names,
    learning_scale,
    pair_entries,
)
from fmalign_jax.models.critics import CpcNetwork, contexts_side_by_side
from fmalign_jax.systems.features import Features


class CrossCpc(nn.Module):
    """InfoNCE between contexts of one modality and later ticks of another (METHOD 5).

    logits[b', b] = <z^n_{b, t+ks}, W^m_k h^m_{b', t}>, normalised over the samples b of
    the global batch; the mean over k = 1..K and the starts t. s is 1 in the paper.

    An encoder whose ticks see each other has seen what is predicted here; give it
    `model.transformer.causal` for a prediction in the strict sense.

    Attributes:
      weights: weights[context modality][predicted modality]; the paper's cross 1.0,
        self 0.1.
      steps: K, predictions ahead. With K = 5 take windows of 20 ticks or more.
      stride: s, ticks from one prediction to the next; the last lies K * s ticks ahead.
      learns_from: learns_from[m][n] scales the gradient that the pairs of m and n,
        in either role, send into the features of m; None for all of it. The
        network's own parameters always learn.
      starts: "random" draws one t of 1..T-K-1 a step for the whole batch, from the
        random stream "start"; "all" takes the mean over them. Evaluation takes all.
        With a stride it is T - K * s - 1.
      width: of the LSTM's context.
      layers: LSTM layers.
    """

    weights: PairTable
    steps: int = 5
    learns_from: PairTable | None = None
    starts: str = "random"
    width: int = 256
    layers: int = 2
    stride: int = 1

    random_streams = ("start",)

    @nn.compact
    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """Returns the loss and ``cpc_accuracy/<context>-><predicted>``, all [B].

        Also ``cpc_accuracy``, the mean over the pairs of different modalities.

        Raises:
          ValueError: when the windows are too short for K steps.
        """
        semantic = features.semantic
        check_names(self.weights, semantic, table_name="Cross-CPC weights")
        check_names(self.learns_from, semantic, table_name="learns_from")
        _, ticks, width = next(iter(semantic.values())).shape
        starts = self._starts(ticks, train=train)
        ahead = starts[:, None] + self.stride * (1 + jnp.arange(self.steps))
        entries = list(pair_entries(self.weights))
        networks = {
            name: CpcNetwork(self.steps, width, self.width, self.layers, name=name)
            for name in sorted({context for context, _, _ in entries})
        }

        # Pairs of the same scale share a run of their LSTM, which reads as far as the
        # last tick that any step may look ahead from.
        read = ticks - self.stride * self.steps
        runs = sorted({(m, self._scale(m, n)) for m, n, _ in entries})
        contexts = contexts_side_by_side(
            [networks[name] for name, _ in runs],
            [
                losses.gradient_scale(semantic[name][:, :read], scale)
                for name, scale in runs
            ],
        )
        predictions = {
            run: networks[run[0]].predict(h[:, starts])
            for run, h in zip(runs, contexts, strict=True)
        }
        total = jnp.zeros(len(features.mask))
        metrics, cross = {}, []
        for context, target, weight in entries:
            candidates = losses.gradient_scale(
                semantic[target], self._scale(target, context)
            )[:, ahead]
            logits = jnp.einsum(
                "iskd,jskd->skij",
                predictions[context, self._scale(context, target)],
                candidates,
                precision=jax.lax.Precision.HIGHEST,
            )
            total += weight * losses.info_nce(logits, features.mask).mean((0, 1))
            correct = losses.own_is_nearest(logits, features.mask).mean((0, 1))
            metrics[f"cpc_accuracy/{context}->{target}"] = correct
            if context != target:
                cross.append(correct)
        if cross:
            metrics["cpc_accuracy"] = jnp.stack(cross).mean(axis=0)
        return total, metrics

    def _scale(self, student: str, teacher: str) -> float:
        return learning_scale(self.learns_from, student, teacher)

    def _starts(self, ticks: int, *, train: bool) -> Int[Array, " S"]:
        """The ticks to look ahead from: one at random, or all that have K ahead."""
        if self.starts not in ("random", "all"):
            raise ValueError(
                f"starts must be 'random' or 'all'; got {self.starts!r}; correct the "
                "config"
            )
        reach = self.steps * self.stride  # NaN is refused below
        if type(self.stride) is not int or self.stride < 1 or ticks < reach + 2:
            raise ValueError(
                "Cross-CPC needs a whole stride of 1 or more and windows of at least "
                f"steps * stride + 2 ticks; got {ticks} ticks, steps={self.steps} and "
                f"stride={self.stride}; use longer windows or a smaller reach"
            )
        if train and self.starts == "random":
            key = self.make_rng("start")
            return jax.random.randint(key, (1,), 1, ticks - reach)
        return jnp.arange(1, ticks - reach)
