"""What a run needs before its first step: data, batches, cadence, first state."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import closing

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fmalign_jax.config.build import load
from fmalign_jax.data import dataset, pipeline
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.statistics import channel_statistics
from fmalign_jax.objectives.total import NO_LABELS, make_objectives
from fmalign_jax.structs import UNLABELLED
from fmalign_jax.training import sharding
from fmalign_jax.training.state import Trainer, TrainState, init_state


@dataclasses.dataclass(frozen=True)
class Data:
    """The prepared recordings, their windows by split, and the run's length.

    `training` are the training windows as they are read (`dataset.training_windows`).
    `planned_steps` is what `epochs` asks for and what the learning rate follows;
    `steps` is where this call stops, earlier with `max_steps`.
    """

    store: RecordingStore
    windows: Mapping[str, WindowIndex]
    training: WindowIndex
    steps_per_epoch: int
    planned_steps: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Cadence:
    """At which steps a run is validated and saved.

    Attributes:
      evaluate_every: steps between two validations, None without validation windows.
      save_every: steps between two checkpoints.
      middle: the step whose checkpoint is kept, see `middle_step`.
      last: the last step.
    """

    evaluate_every: int | None
    save_every: int
    middle: int
    last: int

    @classmethod
    def of(cls, data: Data, config: ConfigDict) -> Cadence:
        """Returns what a config asks for."""
        together = config.steps_per_dispatch
        epochs = config.eval_every_epochs
        every = together * max(1, round(epochs * data.steps_per_epoch / together))
        return cls(
            evaluate_every=every if len(data.windows["validation"]) > 0 else None,
            save_every=config.checkpoint_every_steps,
            middle=middle_step(data, config),
            last=data.steps,
        )

    def evaluates(self, step: int) -> bool:
        """Says whether a step is followed by a validation."""
        every = self.evaluate_every
        return every is not None and (step % every == 0 or step == self.last)

    def saves(self, step: int) -> bool:
        """Says whether a step is saved, even if the run goes on."""
        due = step % self.save_every == 0 or step in (self.middle, self.last)
        return due or self.evaluates(step)


def load_data(config: ConfigDict) -> Data:
    """Opens the data set (prepared when absent) and cuts it into windows."""
    store = dataset.open_dataset(config)
    windows = dataset.make_windows(store, config)
    steps_per_epoch = pipeline.batches_per_epoch(
        windows["train"], config.batch_size, config.data.batch_from
    )
    planned = round(config.epochs * steps_per_epoch)
    if planned < 1:
        raise ValueError(
            f"epochs must give at least one step; got {config.epochs} epochs of "
            f"{steps_per_epoch} steps; use --config.epochs={1 / steps_per_epoch:.2g} "
            "or more"
        )
    steps = min(planned, config.max_steps) if config.max_steps else planned
    training = dataset.training_windows(store, config, windows)
    _check_labels(training, config)
    if config.data.shuffle_partners:
        store = _with_wrong_partners(store, training, config)
    _log_windows(store, windows["train"], config)
    return Data(store, windows, training, steps_per_epoch, planned, steps)


def _check_labels(training: WindowIndex, config: ConfigDict) -> None:
    """Refuses recordings without the labels, or with more, than objectives ask for."""
    objectives = make_objectives(config)
    level = objectives.labels
    if level == NO_LABELS:
        return
    label = training.ticks.label
    if (label[training.read_ticks()] == UNLABELLED).all():
        raise ValueError(
            f"an objective with labels ({level}) needs labelled training windows; got "
            f"none of {len(training)} in {config.data.path}; label the recordings, or "
            "give the objective the weight 0"
        )
    highest = int(label.max())
    for name, term in objectives.terms.items():
        classes = term.get("classes", getattr(load(term["name"]), "classes", None))
        if classes is not None and highest >= classes:
            raise ValueError(
                f"objectives.{name}.classes must count every class of the recordings; "
                f"got {classes}, and a label {highest}; use "
                f"--config.objectives.{name}.classes={highest + 1}"
            )


def _with_wrong_partners(
    store: RecordingStore, training: WindowIndex, config: ConfigDict
) -> RecordingStore:
    """Returns recordings of which training sees the leading stream of another one."""
    trained = list(training.by_recording())
    if len(trained) < 2:
        raise ValueError(
            "data.shuffle_partners needs training windows of two recordings or more; "
            f"got {len(trained)}; give more recordings, or set it to False"
        )
    return store.exchanged(config.data.leading_stream, trained)


def _log_windows(
    store: RecordingStore, training: WindowIndex, config: ConfigDict
) -> None:
    """Says how many training windows each recording gives, and which share batches."""
    given = (
        f"{store.names[number]} {own.stop - own.start}"
        for number, own in training.by_recording().items()
    )
    logging.info("training windows: %s", ", ".join(given))
    short = pipeline.short_recordings(
        training, config.batch_size, config.data.batch_from
    )
    if len(short):
        logging.warning(
            "recordings with fewer windows than a batch (%d) share batches: %s",
            config.batch_size,
            ", ".join(store.names[n] for n in short),
        )


def middle_step(data: Data, config: ConfigDict) -> int:
    """Returns the step whose checkpoint is kept to look at the run's middle."""
    together = config.steps_per_dispatch
    return together * round(data.planned_steps / 2 / together)


def training_batches(
    data: Data, config: ConfigDict, *, seed: int, indices_only: bool = False
) -> pipeline.TrainingBatches:
    """Returns this process's endless, resumable share of shuffled batches.

    With `indices_only` they hold window indices alone, for windows on the device.
    """
    return pipeline.training_batches(
        data.store,
        data.training,
        batch_size=config.batch_size,
        seed=seed,
        batch_from=config.data.batch_from,
        indices_only=indices_only,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.read_threads,
        prefetch=config.data.prefetch_batches,
    )


def from_all(config: ConfigDict) -> ConfigDict:
    """Returns a config whose batches mix the windows of all recordings."""
    mixed = config.copy_and_resolve_references()
    mixed.data.batch_from = "all"
    return mixed


def first_state(trainer: Trainer, data: Data, mesh: Mesh) -> TrainState:
    """Returns the state before the first step.

    Codes and shapes come from one shuffled batch, drawn apart from the training ones
    and from all recordings: of one alone, scale and codes would be that furnace's.
    """
    config = trainer.config
    statistics = channel_statistics(
        data.store, data.training, list(config.model.modalities)
    )
    seed = config.seed + 1
    with closing(training_batches(data, from_all(config), seed=seed)) as batches:
        batch = sharding.place_batch(next(batches), mesh)
    return init_state(trainer, batch, statistics, mesh)
