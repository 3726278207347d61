"""Parameters as optimisers see them: the small arrays one after the other.

An optimiser treats every number alike. Over a hundred small arrays that costs a GPU the
start of several kernels for each, and the compiler half of its work; over two long
vectors it is the same arithmetic. (`optax.flatten` joins all arrays, which would copy
the large ones too, and does not keep apart what decays.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

LARGE = 2**17
"""Arrays of so many numbers stay as they are: a copy would take memory and time."""

KERNELS, OTHERS = "kernels", "others"
"""Matrices and filters, which decay; biases and scales, which do not."""

VECTOR = "vector"
"""Of each kind the small arrays. The large ones beside it go by their dotted names."""

_EVENLY = 6720
"""A vector is as long as a multiple: 2 to 8, 16, 32 or 64 devices can share it."""

Joined = dict[str, dict[str, Any]]


def join(params: Any) -> tuple[Joined, Callable[[Joined], Any]]:
    """Joins the arrays of nested dictionaries, by kind.

    Args:
      params: or what has their structure, such as gradients.

    Returns:
      By kind a dictionary of the vector, with zeros at its end, and the large arrays,
      each where there is one; and the function that makes of such an object what
      `params` are again, as `jax.flatten_util.ravel_pytree` does.

    >>> layer = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    >>> joined, split = join({"layer": layer})
    >>> {kind: float(arrays["vector"].sum()) for kind, arrays in joined.items()}
    {'kernels': 6.0, 'others': 3.0}
    >>> split(joined)["layer"]["bias"]
    Array([1., 1., 1.], dtype=float32)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    by_name = {
        jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves
    }
    names: dict[str, list[str]] = {KERNELS: [], OTHERS: []}
    for name, array in by_name.items():
        names[KERNELS if _is_kernel(name, array) else OTHERS].append(name)
    joined, unravel, lengths = {}, {}, {}
    for kind, own in names.items():
        small = {name: by_name[name] for name in own if by_name[name].size < LARGE}
        joined[kind] = {name: by_name[name] for name in own if name not in small}
        if small:  # a checkpoint holds no empty array
            vector, unravel[kind] = ravel_pytree(small)
            lengths[kind] = len(vector)
            joined[kind][VECTOR] = jnp.pad(vector, (0, -len(vector) % _EVENLY))

    def split(joined: Joined) -> Any:
        found: dict[str, Any] = {}
        for kind, arrays in joined.items():
            found |= arrays
            if kind in unravel:
                found |= unravel[kind](arrays[VECTOR][: lengths[kind]])
        return jax.tree.unflatten(structure, [found[name] for name in by_name])

    return joined, split


def _is_kernel(name: str, array: Any) -> bool:
    """By name too: attention keeps its biases by head, [heads, width]."""
    return array.ndim > 1 and name.rpartition(".")[2] != "bias"


def decays(joined: Any) -> Any:
    """Marks what weight decay acts on, as `optax.adamw` asks for it."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.DictKey(KERNELS) in path[:1], joined
    )


def apart(opt_state: Any, params: Any) -> Any:
    """Returns the shapes of an optimiser's state where nothing was joined yet.

    So it stands in the checkpoints of earlier versions.

    Args:
      opt_state: shapes of the state over joined `params`.
      params: shapes of the arrays one by one.
    """
    return _with_moments(opt_state, lambda _: params)


def joined_state(opt_state: Any, like: Any) -> Any:
    """Joins a state of the shapes of `apart`, onto the shardings of `like`."""
    layout = jax.tree.map(lambda x: x.sharding, like)
    by_kind = jax.jit(
        lambda state: _with_moments(state, lambda moments: join(moments)[0]),
        out_shardings=layout,
    )
    return by_kind(opt_state)


def _with_moments(opt_state: Any, change: Callable[[Any], Any]) -> Any:
    def changed(state: Any) -> Any:
        if not isinstance(state, optax.ScaleByAdamState):
            return state
        return state._replace(mu=change(state.mu), nu=change(state.nu))

    return jax.tree.map(
        changed, opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState)
    )
