"""Several small MLPs whose layers of one shape are one product on an accelerator.

Where a layer's product is small, a GPU is limited by the start of kernels. A CPU is
not: there a product of several takes a quarter longer than the products one by one.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax.models import linear


class AffineLayer(nn.Module):
    """The parameters of one layer, as `nn.Dense` has them.

    Attributes:
      width: H, of what it gives.
    """

    width: int

    @nn.compact
    def __call__(self, features: int) -> tuple[Float[Array, "F H"], Float[Array, " H"]]:
        """Returns kernel and bias for F inputs."""
        shape = (features, self.width)
        return (
            self.param("kernel", linear.lecun_normal, shape),
            self.param("bias", nn.initializers.zeros, (self.width,)),
        )


def mlps_side_by_side(
    mlps: Sequence[Sequence[AffineLayer]], inputs: Sequence[Float[Array, "..."]]
) -> list[Float[Array, "..."]]:
    """Runs MLPs, with ReLU between the layers, each on its own inputs.

    Args:
      mlps: of each its layers; the same may come several times.
      inputs: of each, [..., F].

    Returns:
      What the last layer of each gives.
    """
    alike = collections.defaultdict(list)
    for index, (layers, x) in enumerate(zip(mlps, inputs, strict=True)):
        shapes = x.shape, tuple(layer.width for layer in layers)
        alike[shapes, index if jax.default_backend() == "cpu" else 0].append(index)
    found: dict[int, Array] = {}
    for indices in alike.values():
        x = jnp.stack([inputs[i] for i in indices])
        for depth, layers in enumerate(zip(*(mlps[i] for i in indices), strict=True)):
            weights = [layer(x.shape[-1]) for layer in layers]
            kernel, bias = (jnp.stack(w) for w in zip(*weights, strict=True))
            x = nn.relu(x) if depth else x
            x = jnp.einsum("n...f,nfh->n...h", x, kernel)
            x += jnp.expand_dims(bias, range(1, x.ndim - 1))
        found |= dict(zip(indices, x, strict=True))
    return [found[i] for i in range(len(mlps))]
