"""How far the shared codes are shared, on validation windows and without labels.

Measured at every validation of a run whose codebook has a shared level:

``shared_agreement/<a>-<b>``: share of segments with the same shared code.
``shared_kappa/<a>-<b>``: that beyond what shifts in time give, from 0 to 1.
``shared_nats/<a>-<b>``: mutual information of the codes beyond that of shifts.
``shared_correlation/<a>-<b>``: of the variates of windows, the mean over directions.
``shared_perplexity/<m>``: exp entropy of a modality's use of the shared codes.
``shared_equal_share``: windows whose most frequent shared code is the same in all
    modalities, over all windows.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.evaluation import code_measures
from fmalign_jax.training.shared_level import SharedLevelFit
from fmalign_jax.training.state import Trainer, TrainState


class SharedValidation:
    """Measures the shared level of states of one run on its validation windows."""

    def __init__(
        self, trainer: Trainer, fit: SharedLevelFit, windows: WindowIndex
    ) -> None:
        """Takes what states are measured with.

        Args:
          trainer: the static half of the run.
          fit: encodes windows, in the program that the shared level is fitted with.
          windows: of the validation split.
        """
        data = trainer.config.data
        self._system = trainer.model
        self._fit = fit
        self._windows = windows
        self._least_shift = math.ceil(data.window_ticks / data.eval_stride_ticks)
        self._seed = trainer.config.seed

    @property
    def names(self) -> list[str]:
        """Returns the names of the values."""
        pairs = (
            f"shared_{name}/{a}-{b}"
            for name in ("agreement", "kappa", "nats", "correlation")
            for a, b in itertools.combinations(sorted(self._system.modalities), 2)
        )
        own = (f"shared_perplexity/{m}" for m in sorted(self._system.modalities))
        return [*pairs, *own, "shared_equal_share"]

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns the values by name; 0 where something cannot be measured."""
        segments = self._fit.segments(state, self._windows)
        found = self._system.read_shared(
            state.model_state, {m: jnp.asarray(x) for m, x in segments.items()}
        )
        codes = {m: np.asarray(own.codes) for m, own in sorted(found.items())}
        size = len(self._system.shared_vectors(state.model_state))
        values = {"shared_equal_share": code_measures.equal_share(codes, size)}
        for a, b in itertools.combinations(codes, 2):
            pair = code_measures.sharing(
                {m: codes[m] for m in (a, b)},
                size,
                self._windows.recording,
                least_shift=self._least_shift,
                seed=self._seed,
            )
            along = (np.asarray(found[m].variates).mean(axis=1) for m in (a, b))
            values |= {
                f"shared_agreement/{a}-{b}": pair["agreement"],
                f"shared_kappa/{a}-{b}": pair["kappa"]["shift"] or 0.0,
                f"shared_nats/{a}-{b}": pair["shared_nats"] or 0.0,
                f"shared_correlation/{a}-{b}": mean_correlation(*along),
                **{
                    f"shared_perplexity/{m}": value
                    for m, value in pair["perplexity"].items()
                },
            }
        return values


def mean_correlation(a: Float[ndarray, "N r"], b: Float[ndarray, "N r"]) -> float:
    """Returns the mean over the directions of the correlation, 0 where none varies."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    products: Any = (a * b).sum(axis=0)
    return float((products / np.maximum(scale, 1e-12)).mean())
