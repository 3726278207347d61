"""Flax's linear layers, whose first kernels all come from one draw.

A draw costs the compiler some 300 instructions, whatever its size, and a model has
eighty kernels: they were three quarters of the program that makes a first state. Layers
of flax.linen itself work beside these; each of them draws its own kernel.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

_PARTS = 8
_CUT = 2.0
_STD = 0.87962566103423978
"""Of a standard normal distribution without what lies beyond the cut."""


@dataclasses.dataclass
class _Draw:
    """Numbers handed out in turn; without any it counts those that are asked for."""

    numbers: Float[Array, "N"] | None = None
    used: int = 0

    def take(self, shape: Sequence[int]) -> Float[Array, "..."]:
        start, self.used = self.used, self.used + math.prod(shape)
        if self.numbers is None:
            return jnp.zeros(shape)
        return self.numbers[start : self.used].reshape(shape)


_draw: contextvars.ContextVar[_Draw | None] = contextvars.ContextVar(
    "_draw", default=None
)


def init(module: nn.Module, key: Key[Array, ""], *args: Any, **options: Any) -> Any:
    """Returns what ``module.init(key, *args, **options)`` does, kernels from one draw.

    The numbers depend on the key and on the order in which the module makes its
    kernels.
    """
    kernels_key, key = jax.random.split(key)
    first = functools.partial(module.init, key, *args, **options)
    count = _Draw()
    # Flax asks for some kernels more than once, to compare shapes.
    _with_draw(count, lambda: jax.eval_shape(first))
    numbers = _truncated_normal(kernels_key, count.used)
    return _with_draw(_Draw(numbers), first)


def _truncated_normal(key: Key[Array, ""], size: int) -> Float[Array, "N"]:
    """Returns at least so many numbers of variance 1.

    In a loop: the compiler draws what is made without one anew for each kernel.
    """

    def some(own_key: Key[Array, ""]) -> Float[Array, "n"]:
        shape = (-(-size // _PARTS),)
        return jax.random.truncated_normal(own_key, -_CUT, _CUT, shape) / _STD

    return jax.lax.map(some, jax.random.split(key, _PARTS)).reshape(-1)


def _with_draw(draw: _Draw, function: Callable[[], Any]) -> Any:
    token = _draw.set(draw)
    try:
        return function()
    finally:
        _draw.reset(token)


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
    if draw := _draw.get():
        return draw.take(shape).astype(dtype) * math.prod(shape[:-1]) ** -0.5
    return nn.initializers.lecun_normal()(key, shape, dtype)


Dense = functools.partial(nn.Dense, kernel_init=lecun_normal)
DenseGeneral = functools.partial(nn.DenseGeneral, kernel_init=lecun_normal)
Conv = functools.partial(nn.Conv, kernel_init=lecun_normal)
MultiHeadDotProductAttention = functools.partial(
    nn.MultiHeadDotProductAttention, kernel_init=lecun_normal
)
