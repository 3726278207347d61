"""Finds how far the current is ahead of the video, without labels.

    python -m fmalign_jax.lead_time --config configs/lead_time.py \\
        --config.checkpoint=RUN

The run's encoders are frozen. Every recording is encoded once, each modality on its
own; then the current is slid along the video over all leads, and indicators of how well
the two match make curves. docs/lead.md says how to read them.
"""

from __future__ import annotations

import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.config import lead_config
from fmalign_jax.data.files import write_json
from fmalign_jax.lead import files, labels
from fmalign_jax.lead.indicators import INDICATORS, MODEL_FREE, OF_CODES, OF_LABELS
from fmalign_jax.lead.recordings import (
    SearchData,
    choose_recordings,
    encode,
    settings_of,
)
from fmalign_jax.lead.search import FEW_UNITS, FOUND, find_lead
from fmalign_jax.lead.tick_features import Clip
from fmalign_jax.run import outputs, restore
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.systems.system import make_system


def search(
    config: ConfigDict, workdir: pathlib.Path | None = None
) -> tuple[dict[str, Any], pathlib.Path]:
    """Searches for the lead and writes what was found.

    Args:
      config: as from `lead_config`.
      workdir: where to write; by default RUN/lead_time, or RUN/lead_time-DIGEST if that
        holds a search with other settings.

    Returns:
      What was written to lead_time.json, and the folder.

    Raises:
      ValueError: no such run or checkpoint, recordings that do not fit it or are too
        short for the range, or a folder that holds something else.
    """
    _check(config)
    run = restore.open_run(pathlib.Path(config.checkpoint), str(config.step))
    data = run.config.data
    if data.windows != "sliding":
        raise ValueError(
            "a lead is searched for with sliding windows; got a run whose windows are "
            f"{data.windows!r}, which have no ticks of one length; train with "
            "--config.data.windows=sliding"
        )
    config = _with_possible_indicators(config, run)
    if config.labels:
        config = _for_labels(config)
    material = choose_recordings(config, run)
    settings = settings_of(config, run, material)
    folder, settings = outputs.choose_folder(
        run.folder, workdir, settings, "lead_time", run_digest=run.digest
    )
    # Before the features that a given folder keeps: it is known again by its settings.
    write_json(folder / outputs.SETTINGS, settings)
    keep_in = workdir or run.folder
    clips = encode(config, run, material, keep_in)
    late = None
    if config.labels:
        clips = _labelled(clips, material, data)
    elif config.correct_response:
        late = labels.response_in_training(config, run, keep_in)
    report = {
        "run": str(run.path),
        "checkpoint": {"step": run.step, "chosen": run.chosen},
        "trained_lead_s": None if data.draw_lead else data.lead_s,
        "origin": material.origin,
        "trained_on": material.trained_on,
        "to_labels": config.labels,
        **find_lead(
            clips,
            config,
            data,
            trained_on=bool(material.trained_on) and not config.labels,
            response=late,
        ),
    }
    report["notes"] = _notes(report, run, config)
    with outputs.whole(folder, settings) as place:
        files.write(place, report)
    return report, folder


def _labelled(
    clips: Sequence[Clip], material: SearchData, data: ConfigDict
) -> list[Clip]:
    found = labels.with_labels(clips, material.store, data)
    if not found:
        raise ValueError(
            "a lead to labels needs recordings whose labels change; got none of "
            f"{len(material.numbers)}; use --config.labels=False"
        )
    return found


def _check(config: ConfigDict) -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"a search for the lead runs in one process; got {jax.process_count()}; "
            "leave out --coordinator and --processes"
        )
    if not config.checkpoint:
        raise ValueError(
            "a search for the lead needs a run; got none; give the folder that "
            "training named, as in fmalign lead RUN"
        )
    if not config.least_lead_s < config.most_lead_s:
        raise ValueError(
            "least_lead_s must be below most_lead_s; got "
            f"{config.least_lead_s} and {config.most_lead_s}; correct them"
        )
    if config.model_free not in ("", *MODEL_FREE):
        raise ValueError(
            f"model_free must be one of {', '.join(MODEL_FREE)}, or empty; got "
            f"{config.model_free!r}; correct --config.model_free"
        )
    unknown = set(config.indicators) - set(INDICATORS)
    chosen = (config.indicator, config.evidence)
    if unknown or not set(chosen) <= set(config.indicators):
        raise ValueError(
            f"indicators must be among {', '.join(INDICATORS)}, and indicator and "
            f"evidence among them; got {', '.join(config.indicators)} with "
            f"{' and '.join(chosen)}; correct --config.indicators, --config.indicator "
            "or --config.evidence"
        )
    for name in ("stride_ticks", "dimensions", "bootstrap_draws", "null_draws"):
        if config[name] < 1:
            raise ValueError(
                f"{name} must be at least 1; got {config[name]}; correct the config"
            )


def _with_possible_indicators(config: ConfigDict, run: OpenedRun) -> ConfigDict:
    """Leaves out the indicators of codes where the run's system has no codes."""
    if make_system(run.config).has_codes:
        return config
    chosen = {config.indicator, config.evidence}
    if chosen & set(OF_CODES):
        raise ValueError(
            f"{', '.join(sorted(chosen & set(OF_CODES)))} needs a system with codes; "
            f"{run.config.model.name} has none; use another --config.indicator and "
            "--config.evidence"
        )
    config = config.copy_and_resolve_references()
    for key in ("indicators", "chance_of"):
        config[key] = tuple(name for name in config[key] if name not in OF_CODES)
    return config


def _for_labels(config: ConfigDict) -> ConfigDict:
    """Keeps the indicators that can compare features with labels."""
    config = config.copy_and_resolve_references()
    both = (config.indicator, config.evidence)
    if not set(both) <= set(OF_LABELS):
        raise ValueError(
            f"a lead to labels is found by {' and '.join(OF_LABELS)}; got "
            f"{' and '.join(both)}; correct --config.indicator and --config.evidence"
        )
    config.indicators = tuple(n for n in config.indicators if n in OF_LABELS)
    config.chance_of = tuple(n for n in config.chance_of if n in OF_LABELS)
    return config


def _notes(report: Mapping[str, Any], run: OpenedRun, config: ConfigDict) -> list[str]:
    notes = [run.note] if run.note else []
    trained_lead_s = report["trained_lead_s"]
    if report["trained_on"] and trained_lead_s is not None:
        notes.append(
            "the run was trained on these recordings at a lead of "
            f"{trained_lead_s:g} s and may have memorised them: what its indicators "
            "say there is no evidence; search in others with --config.recordings=GLOB"
        )
    if report["trained_on"] is None:
        notes.append(
            "the run's own data are no longer there, so that it is not known whether "
            "it was trained on these recordings; if it was, it may have memorised them"
        )
    if report["response"]:
        late = report["response"]
        low, high = late["interval_s"]
        notes.append(
            f"{late['delay_s']:.3g} s [{low:.3g}, {high:.3g}] are off the answer: so "
            f"much later than the labels does the encoder of the "
            f"{report['reference']} respond, in {late['recordings']} recordings of the "
            "training"
        )
    free = config.model_free
    if report["verdict"] == FOUND and report["indicator"] == free:
        notes.append(f"the answer is that of {free!r}, which asks no model")
    if report["indicators"][report["indicator"]]["at_edge"]:
        notes.append(
            "the curve is highest at the edge of the range: use a wider range with "
            "--config.least_lead_s and --config.most_lead_s"
        )
    if report["chance"] is None:
        notes.append(
            "the recordings are too short for wrong pairings outside the range, so "
            "chance is unknown; use a smaller range or more recordings"
        )
    if report["units"] < FEW_UNITS:
        notes.append(
            f"there are {report['units']} stretches of {report['unit_s']:g} s, and "
            f"fewer than {FEW_UNITS} have too few events for a verdict: the intervals "
            "say little; use more recordings"
        )
    return notes


def main(config: ConfigDict) -> None:
    """Searches with the run of the command line and prints a table."""
    started_s = time.perf_counter()
    report, folder = search(config, cli.workdir())
    files.show(report, folder)
    logging.info("took %.0f s", time.perf_counter() - started_s)


if __name__ == "__main__":
    cli.run(main, lead_config)
