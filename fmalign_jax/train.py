"""Pre-trains the model: recordings in, an aligned codebook and checkpoints out.

    python -m fmalign_jax.train --config configs/pretrain.py

Running the same command again resumes an interrupted run where it stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from fmalign_jax import command, reporting, resident, sharding, train_step
from fmalign_jax.checkpoint import Checkpoints, abstract
from fmalign_jax.config.check import check_config
from fmalign_jax.config.saved import to_json
from fmalign_jax.data import dataset, pipeline
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.statistics import channel_statistics
from fmalign_jax.interruption import Interruption
from fmalign_jax.models import quantizer
from fmalign_jax.run_directory import RunDirectory, default_path
from fmalign_jax.train_state import Learner, TrainState, init_state, make_learner
from fmalign_jax.validation import Validation, score_of


@dataclasses.dataclass(frozen=True)
class Data:
    """The prepared recordings, their windows by split, and the run's length.

    `training` are the training windows as they are read (`prepare.training_windows`).
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


def train(
    config: ConfigDict, workdir: pathlib.Path
) -> tuple[TrainState, dict[str, Any]]:
    """Trains a config in a folder, resuming what the folder holds.

    Args:
      config: as from `default_config`.
      workdir: folder of the run.

    Returns:
      The last state, and the summary that was also written to summary.json.

    Raises:
      ValueError: on faulty data or settings, or a folder of another run.
      FloatingPointError: when a loss stops being finite; names the step and the term.
    """
    started_s = time.perf_counter()
    check_config(config)
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.batch_size, mesh)
    with RunDirectory(workdir, config, write=jax.process_index() == 0) as run:
        data = load_data(config)
        learner = make_learner(
            config, steps_per_epoch=data.steps_per_epoch, steps=data.planned_steps
        )
        with (
            closing(
                training_batches(
                    data,
                    config,
                    seed=config.seed,
                    numbers_only=config.data.resident,
                )
            ) as batches,
            Checkpoints(
                run.checkpoints, keep_steps=[middle_step(data, config)]
            ) as checkpoints,
        ):
            state = first_state(learner, data, mesh)
            restored = checkpoints.restore_latest(abstract(state))
            if restored is not None:
                state, position = restored
                batches.set_state(position)
            start = int(state.step)
            logging.info(
                "%s: %s at step %d of %d",
                workdir,
                "starting" if restored is None else "resuming",
                start,
                data.steps,
            )
            earlier = run.summary() if start >= data.steps else None
            run.start(start, last_step=data.steps)
            state = run_steps(learner, data, mesh, state, batches, run, checkpoints)
            checkpoints.wait()
            seconds = round(time.perf_counter() - started_s, 1)
            summary = summarise(run, checkpoints, state, data) | {
                # A run that was finished already keeps the time that it took.
                "seconds": earlier["seconds"] if earlier else seconds
            }
    run.finish(summary)
    return state, summary


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
    return Data(store, windows, training, steps_per_epoch, planned, steps)


def middle_step(data: Data, config: ConfigDict) -> int:
    """Returns the step whose checkpoint is kept to look at the run's middle."""
    together = config.steps_per_dispatch
    return together * round(data.planned_steps / 2 / together)


def training_batches(
    data: Data, config: ConfigDict, *, seed: int, numbers_only: bool = False
) -> pipeline.TrainingBatches:
    """Returns this process's endless, resumable share of shuffled batches.

    With `numbers_only` they hold window numbers alone, for windows on the device.
    """
    return pipeline.training_batches(
        data.store,
        data.training,
        batch_size=config.batch_size,
        seed=seed,
        batch_from=config.data.batch_from,
        numbers_only=numbers_only,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.read_threads,
        prefetch=config.data.prefetch_batches,
    )


def first_state(learner: Learner, data: Data, mesh: Mesh) -> TrainState:
    """Returns the state before the first step.

    Codes and shapes come from one shuffled batch, drawn apart from the training ones.
    """
    config = learner.config
    statistics = channel_statistics(
        data.store, data.training, list(config.model.modalities)
    )
    with closing(training_batches(data, config, seed=config.seed + 1)) as batches:
        batch = sharding.place_batch(next(batches), mesh)
    return init_state(learner, batch, statistics, mesh)


def run_steps(
    learner: Learner,
    data: Data,
    mesh: Mesh,
    state: TrainState,
    batches: pipeline.TrainingBatches,
    run: RunDirectory,
    checkpoints: Checkpoints,
) -> TrainState:
    """Trains to the last step, or until the run is asked to stop; saves on the way."""
    config = learner.config
    compiled_steps = train_step.make_train_steps(learner, mesh)
    windows = None
    if config.data.resident:
        windows = resident.place(data.store, data.training, mesh)
    validation = Validation(learner, data.store, data.windows, mesh)
    cadence = Cadence.of(data, config)
    if cadence.evaluate_every is not None:
        validation.check_score(state)
    together = config.steps_per_dispatch
    step = start = int(state.step)
    meter = reporting.Meter(first_step=start + 1, batch_size=config.batch_size)
    bar = tqdm(
        total=data.steps,
        initial=start,
        unit="step",
        disable=jax.process_index() > 0,
    )
    with Interruption() as interruption, bar:
        while step < data.steps:
            # One at a time where a dispatch would not end on a multiple of its steps.
            whole = step % together == 0 and step + together <= data.steps
            drawn = [
                sharding.place_batch(meter.next_batch(batches), mesh)
                for _ in range(together if whole else 1)
            ]
            state, metrics = compiled_steps(state, drawn, windows)
            meter.add(metrics)
            bar.update(len(drawn))
            step += len(drawn)

            log = step % config.log_every_steps == 0
            stop = interruption.requested(agree_after=metrics if log else None)
            evaluate, save = cadence.evaluates(step), stop or cadence.saves(step)
            if log or save:
                values = meter.report()
                run.log(step, "train", values)
                bar.set_postfix(progress(values))
            score = None
            if evaluate:
                values = validation(state)
                reporting.check_finite(values, step=step, split="validation")
                run.log(step, "validation", values)
                log_histograms(run, step, state)
                score = score_of(values, config.score)
                bar.write(f"step {step}: validation {config.score} {score:.4f}")
            if save:
                # Before the next batch is drawn, so that data and state agree.
                checkpoints.save(
                    state,
                    data=batches.get_state(),
                    config=to_json(config),
                    score=score,
                )
            if evaluate or save:
                meter.restart_clock()
            if stop:
                checkpoints.wait()
                logging.warning("asked to stop: saved step %d", step)
                break
    return state


def log_histograms(run: RunDirectory, step: int, state: TrainState) -> None:
    """Adds what a code counts and how long its vector is."""
    counts = np.asarray(state.codebook.counts)
    vectors = np.asarray(quantizer.embeddings(state.codebook))
    run.log_histogram(step, "codebook/count", counts)
    run.log_histogram(step, "codebook/norm", np.linalg.norm(vectors, axis=-1))


def progress(values: Mapping[str, float]) -> dict[str, str]:
    """Returns what stands beside the progress bar."""
    shown = {
        name.removeprefix("loss/"): value
        for name, value in values.items()
        if name.startswith(("loss", "perplexity/"))
    } | {"windows/s": values["windows_per_s"]}
    return {name: f"{value:.3g}" for name, value in shown.items()}


def summarise(
    run: RunDirectory, checkpoints: Checkpoints, state: TrainState, data: Data
) -> dict[str, Any]:
    """Returns what a run ends with: its last values, best step, and paths."""
    best = checkpoints.best_step()
    return {
        "step": int(state.step),
        "steps": data.steps,
        "finished": int(state.step) >= data.steps,
        "windows": {name: len(index) for name, index in data.windows.items()},
        "train": run.last("train"),
        "validation": run.last("validation"),
        "best_step": best,
        "best_score": checkpoints.score(best),
        "latest_checkpoint": str(checkpoints.path(int(state.step))),
        "best_checkpoint": None if best is None else str(checkpoints.path(best)),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "devices": [str(device) for device in jax.devices()],
        "versions": {"jax": jax.__version__},
    }


def print_summary(summary: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Prints a short table and the paths of what a run wrote."""
    rows = {
        "steps": f"{summary['step']} of {summary['steps']}, {summary['seconds']:.0f} s",
        "best checkpoint": str(summary["best_checkpoint"]),
        "latest checkpoint": summary["latest_checkpoint"],
        "metrics": str(workdir / "metrics.jsonl"),
        "summary": str(workdir / "summary.json"),
        "curves": f"tensorboard --logdir {workdir / 'tensorboard'}",
    }
    values = summary["validation"] or summary["train"] or {}
    shown = {
        name: f"{value:.4g}"
        for name, value in values.items()
        if name.startswith(("loss", "cpc_accuracy", "perplexity", "equal_share"))
    }
    print(reporting.table(shown | rows))


def main(config: ConfigDict) -> None:
    """Trains the config of the command line and prints a summary."""
    workdir = command.workdir() or default_path(command.config_name(), config)
    _, summary = train(config, workdir)
    if jax.process_index() == 0:
        print_summary(summary, workdir)


if __name__ == "__main__":
    command.run(main)
