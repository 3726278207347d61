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

from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.config import early_warning_config, evaluation_config
from fmalign_jax.data.files import write_json
from fmalign_jax.evaluation import (
    calibration,
    channels,
    code_sharing,
    few_shot,
    files,
    lag_weights,
    localisation,
    open_set,
    report as evaluation_report,
    retrieval,
    splits as evaluation_splits,
    supervised,
)
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.report import (
    over_draws,
    score_all,
    score_splits,
    scored_rows,
    scores_key,
)
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.evaluation.transfer import (
    check,
    encode,
    groups,
    kinds_of_features,
    settings_of,
    transfer,
    with_features,
)
from fmalign_jax.objectives.total import label_level
from fmalign_jax.run import outputs, restore
from fmalign_jax.run.frozen_encoder import EncoderState, FrozenEncoder
from fmalign_jax.systems.system import FUSED
from fmalign_jax.training import sharding

RANDOM_HEAD_WINDOWS = 512
"""Windows that the heads on random encoders are fitted on: so many do, and the encoders
are drawn several times."""


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
    run = restore.open_run(pathlib.Path(config.checkpoint), str(config.step))
    config = with_features(config, run.config)
    channels.check(config, run.config)
    spec = HeadSpec(**config.head.to_dict())
    splits = evaluation_splits.load_splits(config, run.config)
    localisation.check(config, run.config, splits)
    open_set.check(config, splits)
    settings = settings_of(config, run.step, splits)
    folder, settings = outputs.choose_folder(
        run.folder, workdir, settings, run_digest=run.digest
    )

    mesh = sharding.make_mesh()
    encoder = FrozenEncoder(run.config, (config.source, config.target), mesh)
    frozen = restore.restore(run, mesh)
    encoded = encode(encoder, frozen, splits, config)
    seen, choice = channels.select(encoded, splits, spec, config)
    probabilities, chosen = transfer(seen, splits, spec, config)
    scores, calibrated = score_all(probabilities, splits, config), None
    if config.calibrate == "paired":
        across = f"{config.source}->{config.target}"
        probabilities = calibration.calibrated(probabilities, splits, config)
        before = scores[across]
        scores[across] = score_splits(probabilities[across], splits, config)
        calibrated = calibration.describe(before, scores[across], config)

    labels = label_level(run.config)
    report = {
        "run": str(run.path),
        "checkpoint": {"step": run.step, "chosen": run.chosen},
        "source": config.source,
        "target": config.target,
        "labels": labels,
        "classes": list(splits.classes),
        "features": config.features,
        "head": chosen,
        "headline_split": splits.headline,
        "splits": evaluation_report.describe(
            splits, evaluation_splits.streams_of(config, run.config)
        ),
        scores_key(labels): scores,
        "calibration": calibrated,
        "supervised": classifiers(run.config, frozen, splits, spec, config),
        "references": {
            "chance": 1 / len(splits.classes),
            "majority": evaluation_report.majority(splits, config),
            "random_encoders": random_encoders(encoder, frozen, splits, spec, config),
            "oracle": supervised_reference(run.config, frozen, splits, spec, config),
            "sizes": evaluation_report.sizes(splits),
        },
    }
    report["lag_weights"] = lag_weights.describe(
        encoder.system, frozen, splits.by_name[splits.headline], run.config
    )
    kinds = kinds_of_features(encoder.system)
    report["retrieval"] = retrieval.describe(
        seen,
        kinds,
        splits,
        config,
        getattr(encoder.system, "similarity", retrieval.similarity),
    )
    report["channels"] = channels.describe(encoded, choice, splits, spec, config)
    report["few_shot"] = few_shot.describe(seen, splits, spec, config)
    report["localisation"] = localisation.describe(
        encoder, frozen, seen, splits, spec, config, run.config
    )
    report["open_set"] = open_set.describe(seen, splits, spec, config)
    report["code_sharing"] = code_sharing.describe(encoded, splits, config)
    report["notes"] = evaluation_report.notes(report, run, splits)
    headline = splits.by_name[splits.headline]
    predictions = {
        direction: scored_rows(headline, found[headline.name])
        for direction, found in probabilities.items()
    }
    with outputs.whole(folder, settings) as place:
        files.write_predictions(
            place / "predictions.csv",
            splits.reported,
            splits.classes,
            probabilities,
            encoded,
        )
        files.draw_pictures(place, headline, splits.classes, probabilities, predictions)
        write_json(place / "eval.json", report)
    return report, folder


def random_encoders(
    encoder: FrozenEncoder,
    frozen: EncoderState,
    splits: EvaluationSplits,
    spec: HeadSpec,
    config: ConfigDict,
) -> dict[str, Any] | None:
    """Returns the scores of the same heads on encoders that were not pre-trained.

    The means over several draws of the encoders, and how far the draws vary.
    """
    if not config.random_encoders:
        return None
    few = splits.with_head(splits.head.spread(RANDOM_HEAD_WINDOWS))
    unbounded = config.copy_and_resolve_references()
    unbounded.bootstrap_draws = 0  # the draws tell how far values vary
    found = []
    for draw in range(config.random_encoders):
        fresh = encoder.random(
            frozen.statistics, few.head.store, few.head.windows, seed=config.seed + draw
        )
        encoded = encode(encoder, fresh, few, config)
        seen, _ = channels.select(encoded, few, spec, config)
        probabilities, _ = transfer(seen, few, spec, config)
        found.append(score_all(probabilities, few, unbounded))
    return {
        direction: over_draws([one[direction] for one in found])
        for direction in found[0]
    }


def supervised_reference(
    run_config: ConfigDict,
    frozen: EncoderState,
    splits: EvaluationSplits,
    spec: HeadSpec,
    config: ConfigDict,
) -> dict[str, Any] | None:
    """Returns the scores of the target's encoder trained with its own labels.

    None of a view of all modalities: it has no encoder of its own.
    """
    if not config.oracle_epochs or config.target == FUSED:
        return None
    known = splits.head.chosen(splits.head.known)
    trained = supervised.train(
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
    return {"modality": config.target, **of_classifier(trained, splits, config)}


def classifiers(
    run_config: ConfigDict,
    frozen: EncoderState,
    splits: EvaluationSplits,
    spec: HeadSpec,
    config: ConfigDict,
) -> dict[str, Any]:
    """Returns the scores of each classifier that the config names.

    They are trained with the labels of the head split and see what they are tested on:
    compare them with the oracle, never with the transfer.
    """
    known = splits.head.chosen(splits.head.known)
    found = {}
    for name, entry in config.get("classifiers", {}).items():
        trained = supervised.train_classifier(
            known,
            groups(known),
            run_config,
            entry.to_dict(),
            frozen.statistics,
            classes=len(splits.classes),
            balanced=spec.balanced,
            seed=config.seed,
        )
        found[name] = {
            "inputs": list(entry.modalities),
            **of_classifier(trained, splits, config),
        }
    return found


def of_classifier(
    trained: supervised.Oracle, splits: EvaluationSplits, config: ConfigDict
) -> dict[str, Any]:
    """Returns the scores of a classifier, and how it was trained."""
    said = {name: trained.predict(split) for name, split in splits.reported.items()}
    return {
        "parameters": trained.parameters,
        "epoch": trained.best_epoch,
        "held_out_loss": trained.losses,
        **score_splits(said, splits, config),
    }


def next_commands(
    report: Mapping[str, Any], folder: pathlib.Path, run: restore.OpenedRun
) -> list[list[str]]:
    """Returns what may be done next: commands, and what they are for."""
    name, rows = cli.quoted(run.path), []
    data, usual = run.config.data, early_warning_config()
    if (
        data.windows == "sliding"
        and report["target"] not in (data.reference_stream, FUSED)
        and evaluation_splits.VALIDATION in report["splits"]
        and len(report["classes"]) == 2
    ):
        which = "".join(
            f" --{key}={report[key]}"
            for key in ("source", "target")
            if report[key] != usual[key]
        )
        rows.append(
            [f"fmalign warn {name}{which}", f"an alarm on the {report['target']} alone"]
        )
    if run.path.is_dir():  # a packed run has no report
        own = folder == run.path / "evaluation"
        where = "" if own else f" --evaluation {cli.quoted(folder)}"
        rows.append([f"fmalign report {name}{where}", "one HTML page about the run"])
    return rows


def main(config: ConfigDict) -> None:
    """Evaluates the run of the command line and prints a table."""
    started_s = time.perf_counter()
    report, folder = evaluate(config, cli.workdir())
    files.print_report(report, folder)
    run = restore.open_run(pathlib.Path(config.checkpoint), str(config.step))
    cli.print_next(next_commands(report, folder, run))
    logging.info("took %.0f s", time.perf_counter() - started_s)


if __name__ == "__main__":
    cli.run(main, evaluation_config)
