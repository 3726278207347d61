"""Makes an alarm on the current alone from a run, and measures how good it is.

    python -m fmalign_jax.early_warning --config configs/early_warning.py \\
        --config.checkpoint=RUN

The score is that of `evaluate`: the head that was fitted on the source's codes (video),
applied to those of the target (current), here of the window that ends with each tick.
When an alarm is raised is chosen on validation for a budget of false alarms; the result
is measured on test. docs/early_warning.md has the definitions.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import time
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.alarm import (
    alarm_file,
    comparison,
    export,
    onnx_file,
    report as alarm_report,
    signature,
)
from fmalign_jax.alarm.comparison import Candidate
from fmalign_jax.alarm.make import (
    abnormal_class,
    alarm_settings,
    better,
    calibrated_scores,
    check_settings,
    model_scores,
    oracle_scores,
    taught_scores,
    with_a_window_a_tick,
)
from fmalign_jax.alarm.model import AlarmModel
from fmalign_jax.alarm.taught import TaughtScore
from fmalign_jax.config import early_warning_config
from fmalign_jax.data import dataset
from fmalign_jax.data.files import write_json
from fmalign_jax.evaluation import splits as evaluation_splits, transfer
from fmalign_jax.run import outputs, restore
from fmalign_jax.training import sharding

NAME = "early_warning"
ALARM = f"alarm{alarm_file.SUFFIX}"
ONNX = f"alarm{onnx_file.SUFFIX}"


def early_warning(
    config: ConfigDict, workdir: pathlib.Path | None = None
) -> tuple[dict[str, Any], pathlib.Path]:
    """Makes the alarm, judges it and writes both.

    Args:
      config: as from `early_warning_config`.
      workdir: where to write; by default RUN/early_warning, or
        RUN/early_warning-DIGEST if that holds one with other settings.

    Returns:
      What was written to early_warning.json, and the folder.

    Raises:
      ValueError: as `evaluate.evaluate`; no validation split, or settings of which no
        alarm can be made; no key to sign it with, or no package to write ONNX with.
    """
    transfer.check(config)
    run = restore.open_run(pathlib.Path(config.checkpoint), str(config.step))
    config = transfer.with_features(config, run.config)
    check_settings(config, run)
    key_path = pathlib.Path(config.signing_key) if config.signing_key else None
    if key_path is not None:
        signature.private_key(key_path)  # no hour's work for a key that is none
    if config.onnx:
        onnx_file.converter()
    splits = evaluation_splits.load_splits(config, with_a_window_a_tick(run.config))
    abnormal = abnormal_class(config, splits)
    settings = transfer.settings_of(config, run.step, splits)
    # Signed or not, and in whichever form, it is the same alarm.
    del settings["signing_key"], settings["onnx"]
    folder, settings = outputs.choose_folder(
        run.folder, workdir, settings, NAME, run_digest=run.digest
    )

    frozen = restore.restore(run, sharding.make_mesh())
    model = AlarmModel.fit(config, run, frozen, splits)
    spec = dataset.window_spec(run.config.data, stride_ticks=1)
    definition, scored = comparison.judged(splits, config, spec, abnormal)
    candidates: dict[str, list[Candidate]] = {
        "model": model_scores(config, model, splits, scored, spec, abnormal)
    }
    if config.calibrate == "paired":
        candidates["calibrated"] = calibrated_scores(
            config,
            model,
            splits,
            scored,
            candidates["model"],
            definition.lead_s,
            abnormal,
        )
    taught = TaughtScore.learn(config, model, splits.head, spec, abnormal)
    if taught is not None:
        candidates["taught"] = taught_scores(taught, splits, scored)
    if config.baselines:
        candidates |= comparison.baseline_scores(config, splits, scored, spec)
    if config.oracle_epochs:
        candidates["oracle"] = [
            ({}, oracle_scores(config, run, frozen, splits, scored, abnormal))
        ]
    methods = {
        name: comparison.choose(config, scored, own, definition, spec.tick_s)
        for name, own in candidates.items()
    }
    exported = config.alarm or better(methods)
    if exported not in methods:
        raise ValueError(
            "a video that shows both classes teaches, and a sensor of numbers is taught"
            "; got alarm='taught', and the head finds one class in the video of the "
            f"head split, or {config.target!r} is tokens; use --config.alarm=model"
        )
    chosen = methods[exported]
    methods["chance"] = comparison.shifted_by_half(chosen, scored, definition)

    alarm = alarm_settings(config, run, splits, spec, definition, chosen, abnormal)
    report = {
        "run": str(run.path),
        "checkpoint": {"step": run.step, "chosen": run.chosen},
        "alarm": exported,
        "source": config.source,
        "target": config.target,
        "abnormal": alarm.abnormal,
        "head": dict(model.head.chosen),
        "definition": {
            **dataclasses.asdict(definition),
            "merge_gap_s": config.merge_gap_s,
            "false_alarms_per_hour": config.false_alarms_per_hour,
            "window_s": spec.window_ticks * spec.tick_s,
        },
        "until_visible_s": list(alarm.until_visible_s),
        "until_visible_from": alarm.until_visible_from,
        "headline_split": splits.headline,
        "recordings": {n: split.recordings for n, split in splits.by_name.items()},
        "methods": alarm_report.describe(
            methods,
            {name: own.series for name, own in scored.items()},
            definition,
            config,
        ),
        "notes": alarm_report.notes(run, splits, chosen, config),
    }
    headline = splits.headline
    with outputs.whole(folder, settings) as place:
        series = scored[headline].series
        alarm_report.draw(place, series, methods, exported, headline)
        if exported == "taught" and taught is not None:
            score = taught.score()
        else:
            recent_ticks = round(chosen.settings["recent_s"] / spec.tick_s)
            leads = spec.leads_read(config.target)
            score = model.score(abnormal, recent_ticks, leads)
        shape = (alarm.rows, *alarm.window_shape)
        alarm_file.save(place / ALARM, alarm, export.serialised(score, shape))
        if config.onnx:
            onnx_file.save(place / ONNX, alarm, score)
        if key_path is not None:
            for name in (ALARM, ONNX) if config.onnx else (ALARM,):
                signature.sign(place / name, key_path)
        write_json(place / f"{NAME}.json", report)
        written = {file.name for file in place.iterdir()}
    for path in (folder / ALARM, folder / ONNX):
        for own in (path, signature.path_of(path)):
            if own.name not in written:  # one that is there is of the alarm before
                own.unlink(missing_ok=True)
    return report, folder


def next_commands(folder: pathlib.Path, run: pathlib.Path) -> list[list[str]]:
    """Returns what may be done next: commands, and what they are for."""
    alarm = cli.quoted(folder / ALARM)
    rows = [[f"fmalign monitor --alarm {alarm} --input current.csv", "watches a file"]]
    if run.is_dir():
        rows.append(
            [f"fmalign report {cli.quoted(run)}", "one HTML page about the run"]
        )
    return rows


def main(config: ConfigDict) -> None:
    """Makes the alarm of the command line's run and prints a table."""
    started_s = time.perf_counter()
    report, folder = early_warning(config, cli.workdir())
    alarm_report.print_report(report, folder)
    cli.print_next(next_commands(folder, pathlib.Path(config.checkpoint)))
    logging.info("took %.0f s", time.perf_counter() - started_s)


if __name__ == "__main__":
    cli.run(main, early_warning_config)
