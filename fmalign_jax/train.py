"""Pre-trains the model: recordings in, an aligned codebook and checkpoints out.

    python -m fmalign_jax.train --config configs/pretrain.py

Running the same command again resumes an interrupted run where it stopped. From Python:

    import fmalign_jax as fm

    run = fm.train("pretrain:smoke")
"""

from __future__ import annotations

import importlib
import logging
import pathlib
import sys
import time
import types
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.config import default_config
from fmalign_jax.config.check import check_config
from fmalign_jax.config.saved import to_json
from fmalign_jax.data import pipeline
from fmalign_jax.evaluation.probe import LabelledValidation
from fmalign_jax.evaluation.shared_validation import SharedValidation
from fmalign_jax.evaluation.training_summary import print_summary
from fmalign_jax.objectives.total import label_level
from fmalign_jax.progress import Bar
from fmalign_jax.run.checkpoint_files import abstract
from fmalign_jax.run.checkpoints import Checkpoints
from fmalign_jax.run.directory import RunDirectory, default_path
from fmalign_jax.training import logged_values, resident, sharding, step as train_step
from fmalign_jax.training.interruption import Interruption
from fmalign_jax.training.setup import (
    Cadence,
    Data,
    first_state,
    load_data,
    middle_step,
    training_batches,
)
from fmalign_jax.training.shared_level import SharedLevelFit
from fmalign_jax.training.state import Trainer, TrainState, make_trainer
from fmalign_jax.training.validation import Probe, Validation, score_of


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
        trainer = make_trainer(
            config, steps_per_epoch=data.steps_per_epoch, steps=data.planned_steps
        )
        with (
            closing(
                training_batches(
                    data,
                    config,
                    seed=config.seed,
                    indices_only=config.data.resident,
                )
            ) as batches,
            Checkpoints(
                run.checkpoints, keep_steps=[middle_step(data, config)]
            ) as checkpoints,
        ):
            state = first_state(trainer, data, mesh)
            restored = checkpoints.restore_latest(abstract(state))
            if restored is not None:
                state, position = restored
                batches.set_state(position)
            start = int(state.step)
            logging.info(
                "%s: %s at step %d of %d; the first step is compiled before it runs",
                workdir,
                "starting" if restored is None else "resuming",
                start,
                data.steps,
            )
            earlier = run.summary() if start >= data.steps else None
            run.start(start, last_step=data.steps)
            state = run_steps(trainer, data, mesh, state, batches, run, checkpoints)
            checkpoints.wait()
            seconds = round(time.perf_counter() - started_s, 1)
            summary = summarise(run, checkpoints, state, data) | {
                "labels": label_level(config),
                # A run that was finished already keeps the time that it took.
                "seconds": earlier["seconds"] if earlier else seconds,
            }
    run.finish(summary)
    return state, summary


def run_steps(
    trainer: Trainer,
    data: Data,
    mesh: Mesh,
    state: TrainState,
    batches: pipeline.TrainingBatches,
    run: RunDirectory,
    checkpoints: Checkpoints,
) -> TrainState:
    """Trains to the last step, or until the run is asked to stop; saves on the way."""
    config = trainer.config
    compiled_steps = train_step.make_train_steps(trainer, mesh)
    windows = None
    if config.data.resident:
        windows = resident.place(data.store, data.training, mesh)
    fit_shared = SharedLevelFit(trainer, data.store, mesh)
    validation = Validation(
        trainer,
        data.store,
        data.windows["validation"],
        mesh,
        _probes(trainer, data, mesh, fit_shared),
    )
    cadence = Cadence.of(data, config)
    if cadence.evaluate_every is not None:
        validation.check_score(state)
    together = config.steps_per_dispatch
    step = start = int(state.step)
    meter = logged_values.Meter(first_step=start + 1, batch_size=config.batch_size)
    bar = Bar(total=data.steps, initial=start, shown=jax.process_index() == 0)
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
                bar.show(progress(values))
            score = None
            if save:  # and so wherever a state is validated
                state = fit_shared(state, data.training)
            if evaluate:
                values = validation(state)
                logged_values.check_finite(values, step=step, split="validation")
                run.log(step, "validation", values)
                log_histograms(run, step, state, trainer.model)
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


def _probes(
    trainer: Trainer, data: Data, mesh: Mesh, fit_shared: SharedLevelFit
) -> list[Probe]:
    """Returns what validation measures besides losses and the use of codes."""
    found: list[Probe] = []
    if trainer.model.has_shared_level:
        validation = data.windows["validation"]
        found.append(SharedValidation(trainer, fit_shared, validation))
    if trainer.config.labelled_validation:
        windows = {name: data.windows[name] for name in ("train", "validation")}
        found.append(LabelledValidation(trainer.config, data.store, windows, mesh))
    return found


def log_histograms(
    run: RunDirectory, step: int, state: TrainState, system: Any
) -> None:
    """Adds what the system finds worth a histogram, such as the use of codes."""
    for name, values in system.histograms(state.model_state).items():
        run.log_histogram(step, name, np.asarray(values))


def progress(values: Mapping[str, float]) -> list[str]:
    """Returns what stands beside the progress bar, the most important first."""
    used = [
        f"{name.removeprefix('perplexity/')} {value:.3g}"
        for name, value in values.items()
        if name.startswith("perplexity/")
    ]
    speed = values["windows_per_s"]
    return [
        f"loss {values['loss']:.3g}",
        *([f"perplexity {' '.join(used)}"] if used else []),
        f"{speed:,.0f} windows/s" if speed >= 10 else f"{speed:.2g} windows/s",
    ]


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


def main(config: ConfigDict) -> None:
    """Trains the config of the command line and prints a summary."""
    workdir = cli.workdir() or default_path(cli.config_name(), config)
    _, summary = train(config, workdir)
    if jax.process_index() == 0:
        print_summary(summary, workdir, config)


class _Called(types.ModuleType):
    """This module, which can be called: `fmalign_jax.train(...)`.

    Whenever Python imports a module, it puts it in the place of a function of the same
    name in the package.
    """

    def __call__(
        self, config: Any, workdir: Any = None, **overrides: Any
    ) -> Any:  # a fmalign_jax.Run
        """Trains and returns the run: `fmalign_jax.api.train`, which see."""
        api: Any = importlib.import_module("fmalign_jax.api")  # which is above this
        return api.train(config, workdir, **overrides)


sys.modules[__name__].__class__ = _Called

if __name__ == "__main__":
    cli.run(main, default_config, own_modules=True)
