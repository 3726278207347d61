"""At which leads a run reads the leading stream, where it was given a range of them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_leaves_with_path
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.data import pipeline
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.models.encoders import LAG_WEIGHTS
from fmalign_jax.run.frozen_encoder import EncoderState
from fmalign_jax.training import preprocess, sharding

_WINDOWS = 256  # at most; evenly spread


def describe(
    system: Any, frozen: EncoderState, split: LabelledWindows, run_config: ConfigDict
) -> dict[str, Any] | None:
    """Returns the mean weight of each lead over the windows of a split.

    Args:
      system: of the run.
      frozen: its parameters.
      split: the windows.
      run_config: of the run.

    Returns:
      `lead_s`, the leads, longest first; `weight` of each, all heads together, with sum
      1; and their mean `mean_s` and standard deviation `deviation_s`. None for a run at
      one lead, and for a stem that sows no weights.
    """
    data = run_config.data
    if not (data.lead_range_s and len(split)):
        return None
    windows = split.windows.spread(_WINDOWS).reading(data.leading_stream)
    batch = pipeline.assemble(split.store, windows, np.arange(len(windows)))
    params, statistics = sharding.on_one_device(
        (frozen.params, dict(frozen.statistics))
    )

    @jax.jit
    def sown(streams: Any) -> Any:
        inputs = preprocess.normalise(streams, statistics)
        _, found = system.apply(
            {"params": params},
            inputs,
            train=False,
            method="semantic",
            mutable=["intermediates"],
        )
        return found

    found = [
        np.asarray(leaf)
        for path, leaf in tree_leaves_with_path(sown(batch["streams"]))
        if any(getattr(part, "key", None) == LAG_WEIGHTS for part in path)
    ]
    if not found:
        return None
    weight: ndarray = np.asarray(found[0], np.float64).mean(axis=(0, 1))
    most_s = data.lead_range_s[1]
    lead_s = most_s - data.tick_s * np.arange(len(weight))
    mean_s = float(weight @ lead_s)
    return {
        "lead_s": lead_s.tolist(),
        "weight": weight.tolist(),
        "mean_s": mean_s,
        "deviation_s": float(np.sqrt(weight @ (lead_s - mean_s) ** 2)),
    }
