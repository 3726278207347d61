"""Validation of a run on the way: losses, the codebook's health, the score.

Without labels unless the config asks for them; nothing of it flows back into training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from fmalign_jax.data import pipeline
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.training import logged_values, resident, sharding, step
from fmalign_jax.training.state import Trainer, TrainState


@runtime_checkable
class Probe(Protocol):
    """What else is measured of a state at every validation."""

    @property
    def names(self) -> list[str]:
        """Returns the names of its values."""

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns its values, by name."""


class Validation:
    """Measures states of one run on its validation windows."""

    def __init__(
        self,
        trainer: Trainer,
        store: RecordingStore,
        windows: WindowIndex,
        mesh: Mesh,
        probes: Sequence[Probe] = (),
    ) -> None:
        """Prepares the measurement; compiles nothing yet.

        With `data.resident` the validation windows are put onto the devices.

        Args:
          trainer: the static half of the run.
          store: its recordings.
          windows: of its validation split.
          mesh: devices that share each batch.
          probes: what else is measured.

        Raises:
          ValueError: the windows do not fit the device.
        """
        self._trainer, self._config = trainer, trainer.config
        self._store = store
        self._windows = windows
        self._mesh = mesh
        self._eval_step = step.make_eval_step(trainer, mesh)
        self._on_device = None
        if self._config.data.resident and len(self._windows):
            self._on_device = resident.place(store, self._windows, mesh)
        self._probes = tuple(probes)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns losses, codebook health and what the probes measure.

        Every validation window counts once.
        """
        values = logged_values.summarise(
            self._eval_step(
                state, sharding.place_batch(batch, self._mesh), self._on_device
            )
            for batch in self._batches()
        )
        for probe in self._probes:
            values |= probe(state)
        return values

    def check_score(self, state: TrainState) -> None:
        """Checks that the config's score will be measured, without computing anything.

        Raises:
          ValueError: it will not.
        """
        batch = sharding.place_batch(self._batches()[0], self._mesh)
        evaluate = functools.partial(step.evaluate_batch, self._trainer)
        shapes = jax.eval_shape(evaluate, state, batch, self._on_device)
        values = logged_values.summarise([logged_values.blank(shapes)])
        names = [name for probe in self._probes for name in probe.names]
        score_of(values | dict.fromkeys(names, math.nan), self._config.score)

    def _batches(self) -> pipeline.EvaluationBatches:
        """Returns this process's share of the validation windows, each once."""
        return pipeline.evaluation_batches(
            self._store,
            self._windows,
            batch_size=self._config.batch_size,
            indices_only=self._on_device is not None,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def score_of(values: Mapping[str, float], name: str) -> float:
    """Returns the value that chooses the best checkpoint (higher is better).

    Args:
      values: of a validation.
      name: of the value; with a minus sign before it, its negative.

    Raises:
      ValueError: when the config names a value that validation does not measure.
    """
    value = values.get(name.removeprefix("-"))
    if value is None:
        raise ValueError(
            f"score must name a validation metric; got {name!r}; use one of "
            f"{', '.join(sorted(values))}, with a minus sign where lower is better"
        )
    return -value if name.startswith("-") else value
