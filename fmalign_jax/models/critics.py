"""Networks that only the objectives use: Cross-CPC's predictors and CLUB's q(s|z)."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax.models import linear
from fmalign_jax.models.lstm import LstmLayer, run_side_by_side
from fmalign_jax.models.mlp import AffineLayer, mlps_side_by_side


class CpcNetwork(nn.Module):
    """Looks ahead from one modality's past: an LSTM and K linear predictors (METHOD 5).

    The predictors carry no bias, so that a logit is the bilinear <z, W_k h>.

    Attributes:
      steps: K, ticks predicted ahead.
      features: F, width of what is predicted.
      width: of the LSTM's context.
      layers: LSTM layers.
    """

    steps: int
    features: int
    width: int = 256
    layers: int = 2

    def setup(self) -> None:
        """Creates the layers."""
        self.recurrent = [LstmLayer(self.width) for _ in range(self.layers)]
        self.predictors = linear.DenseGeneral(
            (self.steps, self.features), use_bias=False
        )

    def __call__(self, semantic: Float[Array, "B T D"]) -> Float[Array, "B T K F"]:
        """Predicts, from the contexts of all ticks, the K ticks that follow each."""
        return self.predict(self.contexts(semantic))

    def contexts(self, semantic: Float[Array, "B T D"]) -> Float[Array, "B T E"]:
        """Returns h_t, which depends on the ticks up to and including t alone."""
        return contexts_side_by_side([self], [semantic])[0]

    def predict(self, contexts: Float[Array, "*n E"]) -> Float[Array, "*n K F"]:
        """Returns W_k h for k = 1..K."""
        return self.predictors(contexts)


def contexts_side_by_side(
    networks: Sequence[CpcNetwork], semantic: Sequence[Float[Array, "B T D"]]
) -> list[Float[Array, "B T E"]]:
    """Returns the contexts that each network makes of its own features, in one loop."""
    return run_side_by_side(
        [network.recurrent for network in networks],
        [z.astype(jnp.float32) for z in semantic],
    )


class ClubNetwork(nn.Module):
    """q(s|z), a diagonal Gaussian given by two MLPs (METHOD 4).

    Attributes:
      features: S, width of s.
      hidden: widths of the hidden layers.
      learned_variance: False fixes the variance at 1 and leaves the second MLP out.
    """

    features: int
    hidden: tuple[int, ...] = (128, 128, 128)
    learned_variance: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        widths = (*self.hidden, self.features)
        self.mean = [AffineLayer(width) for width in widths]
        if self.learned_variance:
            self.log_variance = [AffineLayer(width) for width in widths]

    def __call__(
        self, semantic: Float[Array, "*n D"]
    ) -> tuple[Float[Array, "*n S"], Float[Array, "*n S"]]:
        """Returns mean and log variance; the latter ends in tanh, within [-1, 1]."""
        return gaussians_side_by_side([self], [semantic])[0]


def gaussians_side_by_side(
    networks: Sequence[ClubNetwork], semantic: Sequence[Float[Array, "*n D"]]
) -> list[tuple[Float[Array, "*n S"], Float[Array, "*n S"]]]:
    """Returns what each network makes of its own features, all MLPs side by side."""
    semantic = [z.astype(jnp.float32) for z in semantic]
    learned = [network.learned_variance for network in networks]
    means = [network.mean for network in networks]
    scales = [n.log_variance for n, own in zip(networks, learned, strict=True) if own]
    varied = [z for z, own in zip(semantic, learned, strict=True) if own]
    found = mlps_side_by_side([*means, *scales], [*semantic, *varied])
    mean, log_variance = found[: len(means)], iter(found[len(means) :])
    return [
        (x, jnp.tanh(next(log_variance)) if own else jnp.zeros_like(x))
        for x, own in zip(mean, learned, strict=True)
    ]
