"""The score of an alarm as a function of raw windows, and as a program that is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Int
from numpy import ndarray

from fmalign_jax.alarm.alarm_file import NO_CODE
from fmalign_jax.models.layers import side_by_side
from fmalign_jax.run.frozen_encoder import EncoderState, FrozenEncoder
from fmalign_jax.training import preprocess, sharding

Score: TypeAlias = Callable[
    [Float[Array, "B T R C"]], tuple[Float[Array, " B"], Int[Array, " B"]]
]
"""Of raw windows: the probability of the abnormal class, and the code of the last tick.
"""


def score_of(
    encoder: FrozenEncoder,
    frozen: EncoderState,
    modality: str,
    classify: Callable[[Array], Array],
    *,
    mean: Float[ndarray, " D"],
    deviation: Float[ndarray, " D"],
    features: str,
    abnormal: int,
    shown: slice,
    leads: int = 1,
) -> Score:
    """Returns the score of an alarm, with every parameter in it.

    Args:
      encoder: knows the architecture.
      frozen: parameters, model state and input statistics.
      modality: which encoder.
      classify: standardised features [B, n, D] to probabilities [B, K].
      mean: of the features, taken off before `classify`.
      deviation: of the features, divided by.
      features: which kind, see `Encodings.features`.
      abnormal: the class whose probability is the score.
      shown: which vectors of a window `classify` is shown.
      leads: L; windows of a range of leads hold L * T ticks, in order of time.
    """
    params, model_state, statistics = sharding.on_one_device(
        (frozen.params, frozen.model_state, dict(frozen.statistics))
    )
    # On the host, as the features that the head was fitted on.
    table, use_shared = None, features == "shared"
    if features == "codes":
        if encoder.system.has_lower_codes:
            raise ValueError(
                "an alarm reads one codebook; got a system with two; use "
                "--config.features=semantic"
            )
        vectors = np.asarray(encoder.system.code_vectors(model_state))
        table = jnp.asarray((vectors - mean) / deviation)

    def score(
        windows: Float[Array, "B T R C"],
    ) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
        windows = side_by_side(windows, leads)
        inputs = preprocess.normalise({modality: windows}, statistics)
        encoded: Any = encoder.system.apply(
            {"params": params}, inputs, model_state, (modality,), method="encode"
        )
        z, codes, shared = encoded[modality][:3]
        own = codes if shared is None else shared.codes
        code = jnp.full(len(z), NO_CODE, jnp.int32) if own is None else own[:, -1]
        if table is not None:
            values = table[codes]
        else:
            values = ((shared.variates if use_shared else z) - mean) / deviation
        return classify(values[:, shown])[:, abnormal], code

    return score


def serialised(score: Score, shape: tuple[int, int, int, int]) -> bytearray:
    """Returns the program of a score, for CPUs, and windows of this shape."""
    windows = jax.ShapeDtypeStruct(shape, jnp.float32)
    return export.export(jax.jit(score), platforms=("cpu",))(windows).serialize()
