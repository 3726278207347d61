"""Fits the shared level of a state to training windows, before it is judged or saved.

The last stage of training, in closed form and without labels: a state that is validated
or saved has the shared level of its own encoders, and one that goes on training does
not use it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from numpy import ndarray

from fmalign_jax.data import pipeline
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.training import preprocess, sharding
from fmalign_jax.training.state import Trainer, TrainState
from fmalign_jax.training.step import at_drawn_leads

WINDOWS = 1024
"""Training windows, evenly spread, that it is fitted to."""


class SharedLevelFit:
    """Fits the shared level of states of one run; does nothing where there is none."""

    def __init__(self, trainer: Trainer, store: RecordingStore, mesh: Mesh) -> None:
        """Prepares the fit; compiles nothing yet.

        Args:
          trainer: the static half of the run.
          store: its recordings.
          mesh: devices that share each batch.
        """
        self._system = trainer.model
        self._config = trainer.config
        self._store = store
        self._mesh = mesh
        self._features = jax.jit(
            functools.partial(_features, trainer),
            out_shardings=sharding.replicated(mesh),
        )

    def __call__(self, state: TrainState, windows: WindowIndex) -> TrainState:
        """Returns the state with its shared level fitted; all else as it was.

        Args:
          state: of the run.
          windows: its training windows, as training reads them; some of them are taken.
        """
        if not self._system.has_shared_level:
            return state
        features = {
            name: segments.reshape(-1, segments.shape[-1])
            for name, segments in self.segments(state, windows.spread(WINDOWS)).items()
        }
        fitted = self._system.fit_shared(state.model_state, features)
        placed = jax.device_put(fitted["shared"], sharding.replicated(self._mesh))
        return dataclasses.replace(state, model_state={**fitted, "shared": placed})

    def segments(
        self, state: TrainState, windows: WindowIndex
    ) -> dict[str, Float[ndarray, "N S D"]]:
        """Returns the features of each segment of windows, by modality, on the host."""
        rows: dict[str, list[ndarray]] = {}
        for batch in pipeline.evaluation_batches(
            self._store,
            windows,
            batch_size=self._config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            found, mask = jax.device_get(
                self._features(
                    state.params["model"],
                    state.statistics,
                    sharding.place_batch(batch, self._mesh),
                )
            )
            for name, segments in found.items():
                rows.setdefault(name, []).append(segments[mask])
        return {name: np.concatenate(parts) for name, parts in rows.items()}


def _features(
    trainer: Trainer,
    params: Any,
    statistics: Mapping[str, Mapping[str, Array]],
    batch: Mapping[str, Any],
) -> tuple[dict[str, Array], Array]:
    """Returns each window's segments [B, S, D], and which rows are windows."""
    key = jax.random.key(trainer.config.seed)  # of the leads, where they are drawn
    streams = at_drawn_leads(trainer.config, key, batch["streams"])
    semantic: Any = trainer.model.apply(
        {"params": params},
        preprocess.normalise(streams, statistics),
        train=False,
        method="semantic",
    )
    return trainer.model.shared_features(semantic), batch["mask"]
