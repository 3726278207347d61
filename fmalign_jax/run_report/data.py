"""Everything that the report of a run shows, as one JSON object.

Files are read, and the checkpoints restored, without changing them. What is missing
(recordings that were moved, an evaluation that was not made) is left out, and a note
says so.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.data import dataset
from fmalign_jax.evaluation import splits as evaluation_splits
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.run import checkpoint_files, restore
from fmalign_jax.run.frozen_encoder import EncoderState, FrozenEncoder
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.run_report import codes as report_codes, files, recording_timeline
from fmalign_jax.structs import UNLABELLED
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import setup, sharding
from fmalign_jax.training.shared_level import SharedLevelFit
from fmalign_jax.training.state import make_trainer

Json = dict[str, Any]

_MAP_WINDOWS = 250
_TRAINING_WINDOWS = 600
_RECORDINGS = 3


def collect(path: pathlib.Path, evaluation: pathlib.Path | None = None) -> Json:
    """Gathers the data of a report.

    Args:
      path: the folder of a run.
      evaluation: the folder of its evaluation; by default RUN/evaluation, if there.

    Returns:
      `name`, `summary`, `config` (rows), `curves`, `evaluation`, `lead`, and, where
      checkpoints and recordings are available, `encoded`: see `describe`. `notes` says
      what is lacking: pairs of a name and why.

    Raises:
      ValueError: the folder is not that of a run, or a file in it is damaged.
    """
    settings = files.read_json(path / "config.json")
    if settings is None:
        raise ValueError(
            "a report needs the folder of a run, with config.json; got "
            f"{path}; give the folder that training named, such as "
            "runs/pretrain-1a2b3c4d"
        )
    folder = files.evaluation_folder(path, evaluation)
    found = files.read_json(folder / "eval.json")
    notes: list[tuple[str, str]] = []
    encoded = None
    try:
        encoded = _encoded(path, folder, found, notes)
    except (ValueError, OSError) as error:
        logging.warning("codes, map and timeline are left out: %s", error)
        notes.append(("no_codes", str(error)))
    if found is None:
        notes.append(("no_evaluation", ""))
    return {
        "name": path.resolve().name,
        "summary": files.read_json(path / "summary.json"),
        "config": files.flat(settings),
        "batch_size": settings["batch_size"],
        "curves": files.read_curves(
            path / "metrics.jsonl", also=settings.get("score", "").removeprefix("-")
        ),
        "evaluation": found,
        "lead": files.read_lead(path),
        "encoded": encoded,
        "notes": notes,
    }


def _encoded(
    path: pathlib.Path,
    folder: pathlib.Path,
    evaluation: Json | None,
    notes: list[tuple[str, str]],
) -> Json:
    """Opens checkpoint and recordings, and describes them."""
    run = _open(path, evaluation, notes)
    splits = _splits(run, evaluation)
    scores = {}
    if evaluation is not None:
        direction = f"{evaluation['source']}->{evaluation['target']}"
        scores = files.read_scores(
            folder / "predictions.csv", direction, evaluation["classes"]
        )
    reference = run.config.data.reference_stream
    known = set(run.config.model.modalities.to_dict())
    modalities = sorted(
        known & set(splits.head.store.stream_names), key=lambda m: (m != reference, m)
    )
    return describe(run, splits, modalities, scores, evaluation, notes)


def _open(
    path: pathlib.Path, evaluation: Json | None, notes: list[tuple[str, str]]
) -> OpenedRun:
    """Opens the checkpoint that was evaluated, or the best."""
    step = "best" if evaluation is None else str(evaluation["checkpoint"]["step"])
    kept, _ = checkpoint_files.saved_steps(path / "checkpoints")
    if step.isdigit() and int(step) not in kept:
        notes.append(("step_gone", step))
        step = "best"
    return restore.open_run(path, step)


def _splits(run: OpenedRun, evaluation: Json | None) -> EvaluationSplits:
    """Returns the windows that were evaluated, or those of the run."""
    if evaluation is not None:
        config = evaluation_config()
        config.source, config.target = evaluation["source"], evaluation["target"]
        for name, split in evaluation["splits"].items():
            if split["origin"] != "the run":
                config[f"{name}_data"] = split["origin"]
        return evaluation_splits.load_splits(config, run.config)
    store = dataset.open_dataset(run.config)
    windows = {
        name: index
        for name, index in dataset.make_windows(store, run.config).items()
        if len(index)
    }
    head = windows["train"]
    if (head.label(np.arange(len(head))) != UNLABELLED).any():
        return evaluation_splits.label_run(store, windows)
    return EvaluationSplits(
        classes=(),
        by_name={
            name: LabelledWindows(
                name,
                "the run",
                store,
                windows[split],
                np.full(len(windows[split]), UNLABELLED),
            )
            for name, split in evaluation_splits.RUN_SPLITS.items()
            if split in windows
        },
        pretraining=None,
    )


def describe(
    run: OpenedRun,
    splits: EvaluationSplits,
    modalities: list[str],
    scores: Mapping[tuple[str, str], tuple[list[float], list[float]]],
    evaluation: Json | None,
    notes: list[tuple[str, str]],
) -> Json:
    """Encodes windows with the frozen encoders and describes what comes out.

    Args:
      run: with the checkpoint whose codes are shown.
      splits: the windows.
      modalities: which of the run's the recordings have.
      scores: as from `run_report.files.read_scores`.
      evaluation: what eval.json holds.
      notes: gets what is lacking.

    Returns:
      `step`; `classes`; `modalities`; `codebook` (`report_codes.codebook`; None for a
      system without codes); `map`, one entry a stage with `stage`, `step` and what
      `report_codes.feature_map` returns; `map_windows`, label, recording and time of
      its windows; `recordings` (`recording_timeline.timeline`, each with its `score`).
    """
    mesh = sharding.one_device_mesh()
    views = make_system(run.config).views
    shown = [m for m in modalities if m in views]
    encoder = FrozenEncoder(run.config, shown or views, mesh)
    held = splits.by_name.get(splits.headline, splits.head)
    training = splits.head.spread(_TRAINING_WINDOWS)
    mapped = held.spread(_MAP_WINDOWS)
    frozen = restore.restore(run, mesh)
    codes: dict[str, Mapping[str, ndarray]] = {"train": {}, "held_out": {}}
    vectors = encoder.system.shared_vectors(frozen.model_state)
    if vectors is None:
        vectors = encoder.system.code_vectors(frozen.model_state)
    if vectors is not None:
        seen = {
            part: encoder(frozen, split.store, split.windows, keep_semantic=False)
            for part, split in (("train", training), ("held_out", held))
        }
        codes = {part: own.tick_codes() for part, own in seen.items()}
    kept, _ = checkpoint_files.saved_steps(run.checkpoints)
    return {
        "step": run.step,
        "chosen": run.chosen,
        "kept": kept,
        "classes": list(splits.classes),
        "modalities": modalities,
        "held_out": held.name,
        "leading": run.config.data.leading_stream,
        "lead_s": run.config.data.lead_s,
        "codebook": None
        if vectors is None
        else report_codes.codebook(
            np.asarray(vectors),
            codes,
            _tick_labels(training, splits.classes),
            splits.classes,
        ),
        "map": _maps(run, kept, encoder, mapped, mesh, notes),
        "map_windows": {
            "label": mapped.label.tolist(),
            "recording": [mapped.store.names[n] for n in mapped.windows.recording],
            "time_s": np.round(mapped.windows.time_s, 2).tolist(),
        },
        "recordings": [
            recording | _score(recording, scores, run.config, evaluation)
            for recording in _recordings(
                run.config, held, codes["held_out"], splits.classes
            )
        ],
    }


def _maps(
    run: OpenedRun,
    kept: list[int],
    encoder: FrozenEncoder,
    mapped: LabelledWindows,
    mesh: Mesh,
    notes: list[tuple[str, str]],
) -> list[Json]:
    """Returns the maps at start, middle and end, as far as these are there."""
    shown = report_codes.shown_steps(kept)
    states = {"start": (0, _untrained(run, mesh, notes))} | {
        stage: (
            shown[stage],
            restore.restore(dataclasses.replace(run, step=shown[stage]), mesh),
        )
        for stage in ("middle", "end")
        if stage in shown
    }
    maps = []
    for stage, (step, frozen) in states.items():
        if frozen is not None:
            seen = encoder(frozen, mapped.store, mapped.windows, keep_semantic=True)
            # What the modalities share, where the run has a level for it.
            features = seen.variates or seen.semantic
            placed = report_codes.feature_map(features, mapped.label)
            maps.append({"stage": stage, "step": step, **placed})
    return maps


def _tick_labels(split: LabelledWindows, classes: Sequence[str]) -> ndarray:
    """Returns the class of each tick [N, T]; -1 where there are no classes."""
    labels = split.windows.label(np.arange(len(split)))
    return labels if classes else np.full_like(labels, UNLABELLED)


def _untrained(
    run: OpenedRun, mesh: Mesh, notes: list[tuple[str, str]]
) -> EncoderState | None:
    """Makes the state before the first step again, from seed and first batch.

    None if the run's recordings are not available or have changed: then it would be
    another state.
    """
    try:
        data = setup.load_data(run.config)
        same = restore.confirm_training_windows(run, data.store, data.windows["train"])
    except (ValueError, OSError) as error:
        notes.append(("no_start", str(error)))
        return None
    if not same:
        notes.append(("no_start", "the raw files of the run have changed"))
        return None
    trainer = make_trainer(
        run.config, steps_per_epoch=data.steps_per_epoch, steps=data.planned_steps
    )
    state = jax.block_until_ready(setup.first_state(trainer, data, mesh))
    state = SharedLevelFit(trainer, data.store, mesh)(state, data.training)
    return EncoderState(state.params["model"], state.model_state, state.statistics)


def _recordings(
    config: ConfigDict,
    held: LabelledWindows,
    codes: Mapping[str, ndarray],
    classes: Sequence[str],
) -> list[Json]:
    """Returns the timelines of up to three recordings, of several classes first."""
    numbers = np.unique(held.windows.recording)
    variety = [
        len(np.unique(held.label[held.windows.recording == number]))
        for number in numbers
    ]
    first = numbers[np.argsort(-np.array(variety), kind="stable")][:_RECORDINGS]
    return [
        recording_timeline.timeline(
            held,
            number,
            codes,
            classes,
            leading_stream=config.data.leading_stream,
            reference_stream=config.data.reference_stream,
            lead_s=config.data.lead_s,
        )
        for number in sorted(first.tolist())
    ]


def _score(
    recording: Json,
    scores: Mapping[tuple[str, str], tuple[list[float], list[float]]],
    config: ConfigDict,
    evaluation: Json | None,
) -> Json:
    """Returns the `score` of a recording's windows of the target, if there is one.

    `shift_s` is how much earlier than the window's centre the target was read.
    """
    found = scores.get((recording["split"], recording["name"]))
    if found is None or evaluation is None:
        return {}
    leads = evaluation["target"] == config.data.leading_stream
    times, values = found
    return {
        "score": {
            "t": [round(time - recording["start_s"], 3) for time in times],
            "v": values,
            "shift_s": config.data.lead_s if leads else 0.0,
        }
    }
