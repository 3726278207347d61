"""LSTM layers whose loop over the ticks has only what must be in it.

The product with the inputs is one for all ticks, and so is the gradient of the
recurrent kernel; several LSTMs of one shape share one loop. In such a loop a GPU is
limited by the start of kernels, a CPU by memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fmalign_jax.models import linear

GATES = 4
"""Input, forget, cell and output gate are side by side, in PyTorch's order."""


class LstmLayer(nn.Module):
    """The parameters of one LSTM layer; `run_side_by_side` computes with them.

    Attributes:
      width: E, of the state.
    """

    width: int

    @nn.compact
    def __call__(
        self, features: int
    ) -> tuple[Float[Array, "F G"], Float[Array, "E G"], Float[Array, " G"]]:
        """Returns input kernel, recurrent kernel and bias, G = 4 E, for F inputs."""
        gates = GATES * self.width
        return (
            self.param("input_kernel", linear.lecun_normal, (features, gates)),
            self.param("recurrent_kernel", _orthogonal_gates, (self.width, gates)),
            self.param("bias", nn.initializers.zeros, (gates,)),
        )


def run_side_by_side(
    stacks: Sequence[Sequence[LstmLayer]], inputs: Sequence[Float[Array, "B T F"]]
) -> list[Float[Array, "B T E"]]:
    """Runs N stacks of LSTM layers of one shape, each on its own inputs.

    Args:
      stacks: of each run its layers; the same stack may come several times.
      inputs: of each run.

    Returns:
      The last layer's h_t of each run.
    """
    x = jnp.stack(inputs)
    for layers in zip(*stacks, strict=True):
        weights = [layer(x.shape[-1]) for layer in layers]
        kernel, recurrent, bias = (jnp.stack(w) for w in zip(*weights, strict=True))
        gates = jnp.einsum("nbtf,nfg->tnbg", x, kernel) + bias[:, None]
        x = jnp.moveaxis(recurrence(gates, recurrent), 0, 2)
    return list(x)


@jax.custom_vjp
def recurrence(
    gates: Float[Array, "T N B G"], kernel: Float[Array, "N E G"]
) -> Float[Array, "T N B E"]:
    """Runs N LSTMs over the ticks, from a state of zero.

        i, f, g, o = gates_t + h_{t-1} W;  c_t = s(f) c_{t-1} + s(i) tanh(g)
        h_t = s(o) tanh(c_t)

    (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.)

    Args:
      gates: what inputs and bias give to the gates.
      kernel: W, recurrent.
    """
    return _forward(gates, kernel)[0]


def _forward(gates: Array, kernel: Array) -> tuple[Array, Any]:
    def tick(carry: tuple[Array, Array], own: Array) -> tuple[Any, Any]:
        h, c = carry
        summed = own + jnp.einsum("nbe,neg->nbg", h, kernel)
        i, f, g, o = jnp.split(summed, GATES, axis=-1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (h, c), (h, c, jnp.concatenate([i, f, g, o], axis=-1))

    start = jnp.zeros((*gates.shape[1:-1], kernel.shape[1]), gates.dtype)
    _, (h, c, opened) = jax.lax.scan(tick, (start, start), gates)
    return h, (h, c, opened, kernel)


def _backward(saved: Any, h_gradient: Array) -> tuple[Array, Array]:
    h, c, opened, kernel = saved

    def tick(carry: tuple[Array, Array], own: Any) -> tuple[Any, Array]:
        dh, dc = carry
        from_above, before, now, gates = own
        i, f, g, o = jnp.split(gates, GATES, axis=-1)
        squashed = jnp.tanh(now)
        dh = dh + from_above
        dc = dc + dh * o * (1.0 - squashed**2)
        summed = jnp.concatenate(
            [
                dc * g * i * (1.0 - i),
                dc * before * f * (1.0 - f),
                dc * i * (1.0 - g**2),
                dh * squashed * o * (1.0 - o),
            ],
            axis=-1,
        )
        return (jnp.einsum("nbg,neg->nbe", summed, kernel), dc * f), summed

    start = jnp.zeros_like(h[0])
    earlier = jnp.concatenate([start[None], c[:-1]])
    _, gates_gradient = jax.lax.scan(
        tick, (start, start), (h_gradient, earlier, c, opened), reverse=True
    )
    kernel_gradient = jnp.einsum("tnbe,tnbg->neg", h[:-1], gates_gradient[1:])
    return gates_gradient, kernel_gradient


recurrence.defvjp(_forward, _backward)


def _orthogonal_gates(
    key: Array, shape: tuple[int, int], dtype: Any = jnp.float32
) -> Float[Array, "E G"]:
    """An orthogonal matrix for each gate."""
    width = shape[0]
    orthogonal = nn.initializers.orthogonal()
    keys = jax.random.split(key, GATES)
    # One by one: of two that decompose several at once on a CPU with two threads, each
    # may wait for ever for the thread that the other holds (JAX 0.10).
    return jnp.concatenate([orthogonal(k, (width, width), dtype) for k in keys], axis=1)
