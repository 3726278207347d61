"""Flax's linear layers, whose first kernels all come from one draw.

A draw costs the compiler some 300 instructions, whatever its size, and a model has
eighty kernels: they were three quarters of the program that makes a first state. Layers
of flax.linen itself work beside these; each of them draws its own kernel.
"""

from __future__ import annotations

import contextvars
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

_CUT = 2.0
_STD = 0.87962566103423978
"""Of a standard normal distribution without what lies beyond the cut."""
_BLOCKS = tuple(2**n for n in range(20, 25))
"""How many numbers a draw has, block by block; the compiler drops unused ones."""
_PARTS = 8
"""Rounds of the loop that draws a block."""


class _Draw:
    """Truncated normal numbers of variance 1, handed out in turn."""

    def __init__(self, key: Key[Array, ""]) -> None:
        keys = jax.random.split(key, len(_BLOCKS))
        self.blocks = list(map(_truncated_normal, keys, _BLOCKS))
        self.used = 0

    def take(self, shape: Sequence[int]) -> Float[Array, "..."] | None:
        """Returns numbers that nobody has; None where no block has so many left."""
        size = math.prod(shape)
        while self.blocks and self.used + size > self.blocks[0].size:
            self.blocks.pop(0)
            self.used = 0
        if not self.blocks:
            return None
        start, self.used = self.used, self.used + size
        return self.blocks[0][start : self.used].reshape(shape)


def _truncated_normal(key: Key[Array, ""], size: int) -> Float[Array, "N"]:
    """Returns numbers of variance 1, made in a loop.

    What is made without one the compiler makes anew for each kernel.
    """

    def part(own_key: Key[Array, ""]) -> Float[Array, "n"]:
        shape = (size // _PARTS,)
        return jax.random.truncated_normal(own_key, -_CUT, _CUT, shape) / _STD

    return jax.lax.map(part, jax.random.split(key, _PARTS)).reshape(-1)


_draw: contextvars.ContextVar[_Draw | None] = contextvars.ContextVar(
    "_draw", default=None
)


def init(module: nn.Module, key: Key[Array, ""], *args: Any, **options: Any) -> Any:
    """Returns what ``module.init(key, *args, **options)`` does, kernels from one draw.

    The numbers depend on the key and on the kernels that were made before.
    """

    def first(key: Key[Array, ""], *args: Any) -> Any:
        kernels_key, key = jax.random.split(key)
        token = _draw.set(_Draw(kernels_key))
        try:
            return module.init(key, *args, **options)
        finally:
            _draw.reset(token)

    return jax.jit(first)(key, *args)  # without it all blocks would be drawn


def lecun_normal(
    key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Float[Array, "..."]:
    """Truncated normal numbers of variance 1 / fan-in (LeCun et al. 1998).

    As flax.linen's default; inside `init` from its draw, which `key` does not change.

    Args:
      key: of this kernel.
      shape: the last axis is what the layer gives, all others are the fan-in.
      dtype: of the kernel.
    """
    draw = _draw.get()
    numbers = draw.take(shape) if draw else None
    if numbers is None:
        return nn.initializers.lecun_normal()(key, shape, dtype)
    return numbers.astype(dtype) * math.prod(shape[:-1]) ** -0.5


Dense = functools.partial(nn.Dense, kernel_init=lecun_normal)
DenseGeneral = functools.partial(nn.DenseGeneral, kernel_init=lecun_normal)
Conv = functools.partial(nn.Conv, kernel_init=lecun_normal)
MultiHeadDotProductAttention = functools.partial(
    nn.MultiHeadDotProductAttention, kernel_init=lecun_normal
)
