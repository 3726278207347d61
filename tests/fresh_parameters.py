"""Parameters for tests of modules, without compiling their initialisers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def fresh_parameters(module: Any, *args: Any, seed: int = 0, **kwargs: Any) -> Any:
    """Returns variables of the shapes that the module wants, drawn by NumPy.

    Kernels have variance 1 / fan-in; biases are small but not zero and scales near
    one but not one, so that a test by hand notices when they are left out.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        noise = rng.normal(size=leaf.shape)
        if path[-1].key == "scale":
            noise = 1 + 0.1 * noise
        else:
            fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
            noise = noise / np.sqrt(fan_in)
        return jnp.asarray(noise, leaf.dtype)

    shapes = jax.eval_shape(
        lambda key: module.init(key, *args, **kwargs), jax.random.key(0)
    )
    return jax.tree_util.tree_map_with_path(draw, shapes)
