"""Evaluates a run with labels: a head learnt on one modality, applied to the other.

    python -m fmalign_jax.evaluate --config configs/evaluate.py --config.checkpoint=RUN

The run's encoders and codebook are frozen. A head is trained on the codes of the source
modality and applied unchanged to those of the target (zero-shot), the other way round,
and to its own modality. docs/evaluation.md says how to read the result.
"""

from __future__ import annotations

import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax import (
    cli,
    evaluation_files,
    evaluation_report,
    heads,
    labelled,
    oracle,
)
from fmalign_jax.config.saved import to_json
from fmalign_jax.evaluation_report import (
    Probabilities,
    score_all,
    score_splits,
    scored_rows,
)
from fmalign_jax.heads import HeadSpec
from fmalign_jax.labelled import LabelledWindows, Splits
from fmalign_jax.run import outputs, restore
from fmalign_jax.run.frozen_encoder import EncoderState, Encodings, FrozenEncoder
from fmalign_jax.scores import resampling_units
from fmalign_jax.training import sharding


def evaluate(
    config: ConfigDict, workdir: pathlib.Path | None = None
) -> tuple[dict[str, Any], pathlib.Path]:
    """Evaluates a run and writes what was found.

    Args:
      config: as from `evaluation_config`.
      workdir: where to write; by default RUN/evaluation, or RUN/evaluation-DIGEST if
        that holds an evaluation with other settings.

    Returns:
      What was written to eval.json, and the folder.

    Raises:
      ValueError: no such run or checkpoint, recordings that do not fit it, labels that
        do not match, or a folder that holds something else.
    """
    check(config)
    spec = HeadSpec(**config.head.to_dict())
    run = restore.open_run(pathlib.Path(config.checkpoint), str(config.step))
    splits = labelled.load_splits(config, run.config)
    settings = settings_of(config, run.step, splits)
    folder = outputs.choose_folder(run.path, workdir, settings)

    mesh = sharding.make_mesh()
    encoder = FrozenEncoder(run.config, (config.source, config.target), mesh)
    frozen = restore.restore(run, mesh)
    encoded = encode(encoder, frozen, splits, config)
    probabilities, chosen = transfer(encoded, splits, spec, config)

    report = {
        "run": str(run.path),
        "checkpoint": {"step": run.step, "chosen": run.chosen},
        "source": config.source,
        "target": config.target,
        "classes": list(splits.classes),
        "features": config.features,
        "head": chosen,
        "headline_split": splits.headline,
        "splits": evaluation_report.describe(splits, config),
        "zero_shot": score_all(probabilities, splits, config),
        "references": {
            "chance": 1 / len(splits.classes),
            "majority": evaluation_report.majority(splits, config),
            "random_encoders": random_encoders(encoder, frozen, splits, spec, config),
            "oracle": supervised(run.config, frozen, splits, spec, config),
            "sizes": evaluation_report.sizes(splits),
        },
    }
    report["notes"] = evaluation_report.notes(report, run, splits)
    headline = splits.by_name[splits.headline]
    predictions = {
        direction: scored_rows(headline, found[headline.name])
        for direction, found in probabilities.items()
    }
    evaluation_files.write_predictions(
        folder / "predictions.csv",
        splits.reported,
        splits.classes,
        probabilities,
        encoded,
    )
    evaluation_files.draw_pictures(
        folder, headline, splits.classes, probabilities, predictions
    )
    outputs.write_report(folder, settings, report)
    return report, folder


def check(config: ConfigDict) -> None:
    """Refuses settings of an evaluation that cannot work.

    Raises:
      ValueError: several processes, no run, one modality, or an unknown name.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"an evaluation runs in one process; got {jax.process_count()}; leave out "
            "--coordinator and --processes"
        )
    if not config.checkpoint:
        raise ValueError(
            "an evaluation needs a run; got none; add --config.checkpoint=RUN, the "
            "folder that training named"
        )
    if config.source == config.target:
        raise ValueError(
            "source and target must be two modalities; got "
            f"{config.source!r} for both; correct --config.source or --config.target"
        )
    for name, known in (
        ("features", ("codes", "semantic")),
        ("standardise", ("head", "recording", "none")),
    ):
        if config[name] not in known:
            raise ValueError(
                f"{name} must be one of {', '.join(known)}; got {config[name]!r}; use "
                "one of them"
            )


def settings_of(config: ConfigDict, step: int, splits: Splits) -> dict[str, Any]:
    """Returns all that decides the outcome, whatever the folder of the run is called.

    Paths of recordings are left out too: fingerprints tell them apart.
    """
    settings = to_json(config)
    for key in ("checkpoint", *(f"{name}_data" for name in labelled.RUN_SPLITS)):
        del settings[key]
    fingerprints = {n: split.store.fingerprint for n, split in splits.by_name.items()}
    return settings | {"step": step, "recordings": fingerprints}


def encode(
    encoder: FrozenEncoder, frozen: EncoderState, splits: Splits, config: ConfigDict
) -> dict[str, Encodings]:
    """Returns all splits as frozen encoders see them."""
    return {
        name: encoder(
            frozen,
            split.store,
            split.windows,
            keep_semantic=config.features == "semantic",
        )
        for name, split in splits.by_name.items()
    }


def transfer(
    encoded: Mapping[str, Encodings],
    splits: Splits,
    spec: HeadSpec,
    config: ConfigDict,
) -> tuple[Probabilities, dict[str, Any]]:
    """Trains a head on each modality and applies it to both.

    Returns:
      Class probabilities of all windows that are reported on, by direction and split;
      and the settings of the head, by the modality it was trained on.
    """
    head_split, known = splits.head, splits.head.known
    features = _features(encoded, splits, config)
    probabilities, chosen = {}, {}
    for trained in (config.source, config.target):
        head = heads.fit(
            spec,
            features[labelled.HEAD][trained][known],
            head_split.label[known],
            classes=len(splits.classes),
            groups=groups(head_split.chosen(known)),
            seed=config.seed,
        )
        chosen[trained] = dict(head.chosen)
        for tested in (config.target, config.source):
            probabilities[f"{trained}->{tested}"] = {
                name: head.predict(features[name][tested]) for name in splits.reported
            }
    return probabilities, chosen


def _features(
    encoded: Mapping[str, Encodings], splits: Splits, config: ConfigDict
) -> dict[str, dict[str, Float[ndarray, "N T D"]]]:
    """Returns features by split and modality, standardised as asked for."""
    found: dict[str, dict[str, Float[ndarray, "N T D"]]] = {n: {} for n in encoded}
    for modality in (config.source, config.target):
        head = encoded[labelled.HEAD].features(modality)
        for name, own in encoded.items():
            values = own.features(modality)
            if config.standardise == "recording":
                recording = splits.by_name[name].windows.recording
                values = _standardised_by(recording, values)
            elif config.standardise == "head":
                values = _standardised(values, of=head)
            found[name][modality] = values
    return found


def scale_of(
    features: Float[ndarray, "N T D"],
) -> tuple[Float[ndarray, " D"], Float[ndarray, " D"]]:
    """Returns what features are standardised by: mean, and what they are divided by."""
    return features.mean(axis=(0, 1)), features.std(axis=(0, 1)) + 1e-6


def _standardised(
    values: Float[ndarray, "N T D"], *, of: Float[ndarray, "n T D"]
) -> Float[ndarray, "N T D"]:
    mean, deviation = scale_of(of)
    return (values - mean) / deviation


def _standardised_by(
    recording: Int[ndarray, " N"], values: Float[ndarray, "N T D"]
) -> Float[ndarray, "N T D"]:
    """Standardises the windows of each recording by themselves."""
    found = np.empty_like(values)
    for number in np.unique(recording):
        own = values[recording == number]
        found[recording == number] = _standardised(own, of=own)
    return found


def groups(split: LabelledWindows) -> ndarray:
    """Returns what must stay together when a split is divided once more."""
    return resampling_units(split.windows.recording, split.windows.clip)[1]


def random_encoders(
    encoder: FrozenEncoder,
    frozen: EncoderState,
    splits: Splits,
    spec: HeadSpec,
    config: ConfigDict,
) -> dict[str, Any] | None:
    """Returns the scores of the same heads on encoders that were not pre-trained."""
    if not config.random_encoders:
        return None
    fresh = encoder.random(
        frozen.statistics, splits.head.store, splits.head.windows, seed=config.seed
    )
    probabilities, _ = transfer(
        encode(encoder, fresh, splits, config), splits, spec, config
    )
    return score_all(probabilities, splits, config)


def supervised(
    run_config: ConfigDict,
    frozen: EncoderState,
    splits: Splits,
    spec: HeadSpec,
    config: ConfigDict,
) -> dict[str, Any] | None:
    """Returns the scores of the target's encoder trained with its own labels."""
    if not config.oracle_epochs:
        return None
    known = splits.head.chosen(splits.head.known)
    trained = oracle.train(
        known,
        groups(known),
        run_config,
        config.target,
        frozen.statistics,
        spec,
        classes=len(splits.classes),
        epochs=config.oracle_epochs,
        seed=config.seed,
    )
    found = {name: trained.predict(split) for name, split in splits.reported.items()}
    return {
        "modality": config.target,
        "epoch": trained.best_epoch,
        "held_out_loss": trained.losses,
        **score_splits(found, splits, config),
    }


def main(config: ConfigDict) -> None:
    """Evaluates the run of the command line and prints a table."""
    started_s = time.perf_counter()
    report, folder = evaluate(config, cli.workdir())
    evaluation_files.print_report(report, folder)
    logging.info("took %.0f s", time.perf_counter() - started_s)


if __name__ == "__main__":
    cli.run(main)
