"""The first parameters of a system, and the state it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from fmalign_jax.models import linear
from fmalign_jax.models.encoders import PROJECTION
from fmalign_jax.systems.system import ModelState

Params = Mapping[str, Any]


def initialise(
    system: Any,
    model_key: Key[Array, ""],
    state_key: Key[Array, ""],
    inputs: Mapping[str, Array],
    mask: Bool[Array, " B"],
    *,
    standardise: bool,
) -> tuple[Params, ModelState]:
    """Returns all parameters of a system, and the state it keeps beside them.

    Args:
      system: any `System`.
      model_key: for the parameters.
      state_key: for the state.
      inputs: by modality, normalised; the state is made of what the untrained encoders
        make of them.
      mask: False for rows that only pad the batch.
      standardise: whether to apply `standardise_projections`.
    """
    variables = linear.init(
        system, model_key, inputs, system.empty_model_state(), mask, train=False
    )
    if standardise:
        variables = standardise_projections(system, variables, inputs)
    semantic = system.apply(variables, inputs, train=False, method="semantic")
    return variables["params"], system.init_model_state(state_key, semantic)


def encoder_parameters(
    system: Any,
    key: Key[Array, ""],
    inputs: Mapping[str, Array],
    *,
    standardise: bool,
) -> Params:
    """Returns the first parameters of what `encode` needs alone."""
    variables = linear.init(system, key, inputs, train=False, method="semantic")
    if standardise:
        variables = standardise_projections(system, variables, inputs)
    params: Params = variables["params"]
    return params


def standardise_projections(
    system: Any, variables: Any, inputs: Mapping[str, Array]
) -> Any:
    """Scales and shifts each Linear -> D so that its output has mean 0, variance 1.

    For systems whose semantic encoders are named ``semantics_<modality>``. Untrained
    stems give nearly the same output for all windows: on video the mean was 97 % of the
    features' energy, and it hid the contrast between windows. Depends on the first
    batch alone (data-dependent initialisation, Salimans and Kingma 2016).

    Raises:
      ValueError: the system has no such encoders.
    """
    _, captured = system.apply(
        variables,
        inputs,
        train=False,
        method="semantic",
        capture_intermediates=lambda module, _: module.name == PROJECTION,
        mutable=["intermediates"],
    )
    params = dict(variables["params"])
    for modality in inputs:
        encoder = f"semantics_{modality}"
        if encoder not in params:
            raise ValueError(
                "standardise_projections needs a system with a semantic encoder for "
                f"each modality; {type(system).__name__} has no {encoder}; set "
                "standardise_projections to False"
            )
        outputs = captured["intermediates"][encoder]
        x = outputs[PROJECTION]["__call__"][0].astype(jnp.float32)
        mean, std = x.mean(axis=(0, 1)), x.std(axis=(0, 1))
        # What is the same in all windows has no scale to be brought to 1.
        std = jnp.where(std > 1e-4, std, 1.0)
        layer = params[encoder][PROJECTION]
        params[encoder] = params[encoder] | {
            PROJECTION: {
                "kernel": layer["kernel"] / std,
                "bias": (layer["bias"] - mean) / std,
            }
        }
    return {"params": params}
