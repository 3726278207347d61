"""The linear head: Linear D -> D, pooling over the ticks, Linear -> classes, by Adam.

As in the publication. It fits the training windows closely. Where the features of the
modalities differ, the logistic regression in `heads` is more robust.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from numpy import ndarray
from scipy.special import softmax

from fmalign_jax.evaluation.classifier import Features, Fitted, Labels, pool

_PREDICTED_AT_ONCE = 512


class PooledLinear(nn.Module):
    """Linear D -> D, pooling over the ticks, Linear -> classes (the published head).

    Attributes:
      classes: K.
      pooling: "max", "mean" or "last".
    """

    classes: int
    pooling: str = "max"

    @nn.compact
    def __call__(self, features: Float[Array, "N T D"]) -> Float[Array, "N K"]:
        """Returns the logits."""
        inner = nn.Dense(features.shape[-1], name="inner")(features)
        return nn.Dense(self.classes, name="outer")(pool(inner, self.pooling))


def class_weights(labels: Labels, classes: int, *, balanced: bool) -> ndarray:
    """Returns the weight of each class in the loss, [K] with mean 1 over windows."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / np.maximum(counts, 1) / max(1, (counts > 0).sum())
    return (weights if balanced else np.ones(classes)).astype(np.float32)


def fit_linear(
    features: Features,
    labels: Labels,
    *,
    classes: int,
    pooling: str,
    weight_decay: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    balanced: bool,
    seed: int,
) -> Fitted:
    """Fits the head; the arguments are those of `heads.HeadSpec`."""
    module = PooledLinear(classes, pooling)
    params = _trained(
        module,
        jax.random.key(seed),
        np.asarray(features, np.float32),
        labels.astype(np.int32),
        class_weights(labels, classes, balanced=balanced),
        jnp.float32(learning_rate),
        jnp.float32(weight_decay),
        steps=steps,
        batch_size=batch_size,
    )
    apply = jax.jit(module.apply)

    def predict(features: Features) -> Float[ndarray, "N K"]:
        starts = range(0, len(features), _PREDICTED_AT_ONCE)
        parts = [features[i : i + _PREDICTED_AT_ONCE] for i in starts]
        logits = [np.asarray(apply({"params": params}, part)) for part in parts]
        return softmax(np.concatenate(logits).astype(np.float64), axis=1)

    def traced(features: Float[Array, "N T D"]) -> Float[Array, "N K"]:
        with jax.default_matmul_precision("highest"):
            logits: Any = module.apply({"params": params}, features)
            return jax.nn.softmax(logits)

    return Fitted(predict, traced)


@functools.partial(jax.jit, static_argnames=("module", "steps", "batch_size"))
def _trained(
    module: PooledLinear,
    key: Key[Array, ""],
    features: Float[Array, "N T D"],
    labels: Int[Array, " N"],
    weights: Float[Array, " K"],
    learning_rate: Float[Array, ""],
    weight_decay: Float[Array, ""],
    *,
    steps: int,
    batch_size: int,
) -> Any:
    """Returns the parameters after all steps, each on windows drawn at random.

    Gradients are taken window by window and then averaged: a CPU divides one long sum
    over all of them by its number of threads, and rounds accordingly.
    """
    init_key, order_key = jax.random.split(key)
    schedule = optax.cosine_decay_schedule(1.0, steps)
    optimizer = optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_schedule(schedule),
        optax.scale(-learning_rate),
    )

    def loss(params: Any, row: Int[Array, ""]) -> Float[Array, ""]:
        logits = module.apply({"params": params}, features[row][None])[0]
        value = optax.softmax_cross_entropy_with_integer_labels(logits, labels[row])
        return value * weights[labels[row]]

    by_window = jax.vmap(jax.grad(loss), in_axes=(None, 0))

    def step(carry: Any, step_key: Key[Array, ""]) -> tuple[Any, None]:
        params, opt_state = carry
        rows = jax.random.randint(step_key, (batch_size,), 0, len(features))
        gradients = jax.tree.map(lambda g: g.mean(axis=0), by_window(params, rows))
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    params = module.init(init_key, features[:1])["params"]
    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(order_key, steps))
    return params
