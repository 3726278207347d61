"""Finds how far the current is ahead of the video, without labels.

    python -m fmalign_jax.lead_time --config configs/lead_time.py \\
        --config.checkpoint=RUN

The run's encoders are frozen. Every recording is encoded once, each modality on its
own; then the current is slid along the video over all leads, and indicators of how well
the two go together make curves. docs/lead.md says how to read them.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray
from tqdm import tqdm

from fmalign_jax import command, evaluation_files, labelled, prepare, restored, sharding
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.frozen import Encoder
from fmalign_jax.lead import (
    lead_curves,
    lead_files,
    lead_rows,
    lead_statistics,
    tick_features,
)
from fmalign_jax.lead.lead_curves import LeadSums, Rows
from fmalign_jax.lead.lead_rows import INDICATORS, Layout
from fmalign_jax.lead.tick_features import Clip
from fmalign_jax.restored import Run
from fmalign_jax.run_directory import to_json

FOUND, NOT_FOUND, TOO_SHORT = "lead found", "no lead found", "too short to tell"

_UNIT_WINDOWS = 5
_PEAK_SHARE = 6  # of a window, on either side of the highest point
_FEW_UNITS = 8


@dataclasses.dataclass(frozen=True)
class Material:
    """The recordings of a search.

    Attributes:
      store: all recordings there.
      numbers: those to search in.
      origin: "the run", or where they were taken from.
      trained_on: whether the run was trained on them.
    """

    store: RecordingStore
    numbers: tuple[int, ...]
    origin: str
    trained_on: bool


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
    run = restored.open_run(pathlib.Path(config.checkpoint), str(config.step))
    data = run.config.data
    if data.windows != "sliding":
        raise ValueError(
            "a lead is searched for with sliding windows; got a run whose windows are "
            f"{data.windows!r}, which have no ticks of one length; train with "
            "--config.data.windows=sliding"
        )
    material = choose_recordings(config, run)
    settings = _settings(config, run, material)
    folder = evaluation_files.choose_folder(
        run.path, workdir, settings, name="lead_time"
    )
    evaluation_files.write_json(folder / evaluation_files.SETTINGS, settings)
    clips = encode(config, run, material, workdir or run.path)
    report = {
        "run": str(run.path),
        "checkpoint": {"step": run.step, "chosen": run.chosen},
        "trained_lead_s": data.lead_s,
        "origin": material.origin,
        "trained_on": material.trained_on,
        **find_lead(clips, config, data),
    }
    report["notes"] = _notes(report, run, config)
    lead_files.write(folder, report)
    return report, folder


def _check(config: ConfigDict) -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"a search for the lead runs in one process; got {jax.process_count()}; "
            "leave out --coordinator and --processes"
        )
    if not config.checkpoint:
        raise ValueError(
            "a search for the lead needs a run; got none; add --config.checkpoint=RUN, "
            "the folder that training named"
        )
    if not config.least_lead_s < config.most_lead_s:
        raise ValueError(
            "least_lead_s must be below most_lead_s; got "
            f"{config.least_lead_s} and {config.most_lead_s}; correct them"
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


def choose_recordings(config: ConfigDict, run: Run) -> Material:
    """Opens the recordings to search in: given ones, or what the run has not seen.

    Raises:
      ValueError: there are none, or they are faulty.
    """
    if config.recordings:
        data = ConfigDict(run.config.data.to_dict())
        store = labelled.open_recordings(config.recordings, data)
        numbers = tuple(range(len(store.names)))
        return Material(store, numbers, config.recordings, trained_on=False)
    store = prepare.prepare(run.config)
    windows = prepare.make_windows(store, run.config)
    seen = set(np.unique(windows["train"].recording).tolist())
    unseen = tuple(n for n in range(len(store.names)) if n not in seen)
    numbers = unseen or tuple(range(len(store.names)))
    return Material(store, numbers, "the run", trained_on=not unseen)


def _settings(config: ConfigDict, run: Run, material: Material) -> dict[str, Any]:
    """Returns all that decides the outcome, whatever folders are called."""
    settings = to_json(config)
    del settings["checkpoint"], settings["recordings"]
    names = [material.store.names[number] for number in material.numbers]
    fingerprint = material.store.fingerprint
    return settings | {"step": run.step, "recordings": [fingerprint, *names]}


def encode(
    config: ConfigDict, run: Run, material: Material, keep_in: pathlib.Path
) -> list[Clip]:
    """Encodes every recording once; what was encoded before is read instead.

    Args:
      config: of the search.
      run: whose encoders.
      material: the recordings.
      keep_in: features are kept in its folder `ticks`, so that a search that was
        stopped, or another one over the same recordings, goes on from there.
    """
    data, store = run.config.data, material.store
    key = {
        "step": run.step,
        "stride_ticks": config.stride_ticks,
        "recordings": store.fingerprint,
    }
    folder = keep_in / "ticks" / evaluation_files.settings_digest(key)
    modalities = (data.reference_stream, data.leading_stream)
    files = {n: folder / f"{store.names[n]}.npz" for n in material.numbers}
    missing = [n for n, file in files.items() if not file.exists()]
    if missing:
        mesh = sharding.make_mesh()
        frozen = restored.restore(run, mesh)
        encoders = {m: Encoder(run.config, (m,), mesh) for m in modalities}
        windows = {
            m: tick_features.lay_windows(
                store, data, m, stride_ticks=config.stride_ticks
            )
            for m in modalities
        }
    for number in tqdm(missing, desc="encoding", unit="recording", disable=None):
        clips = tick_features.encode_recording(
            store,
            number,
            windows,
            encoders,
            frozen,
            reference=modalities[0],
            leading=modalities[1],
        )
        tick_features.save(files[number], clips)
    return [
        clip
        for number, file in files.items()
        for clip in tick_features.load(file, store.names[number])
    ]


def find_lead(
    clips: Sequence[Clip], config: ConfigDict, data: ConfigDict
) -> dict[str, Any]:
    """Makes curves, estimates and a verdict of encoded clips.

    Args:
      clips: of all recordings.
      config: of the search.
      data: the run's settings of data.

    Raises:
      ValueError: the clips are too short for the range.
    """
    window_s = data.window_ticks * data.tick_s
    unit_s = config.unit_s or _UNIT_WINDOWS * window_s
    layout = lead_rows.lay(
        clips,
        tick_s=data.tick_s,
        least_s=config.least_lead_s,
        most_s=config.most_lead_s,
        unit_ticks=max(1, round(unit_s / data.tick_s)),
    )
    kinds = {name: INDICATORS[name] for name in config.indicators}
    rows = lead_rows.make_rows(
        layout,
        list(kinds),
        window_ticks=data.window_ticks,
        dimensions=config.dimensions,
    )
    sums = lead_curves.lead_sums(
        rows, kinds, layout.leads, unit_ticks=layout.unit_ticks
    )
    tried = {
        name: kind
        for name, kind in kinds.items()
        if name in (config.indicator, config.evidence, *config.chance_of)
    }
    wrong = wrong_pairings(layout, rows, tried, config, data.window_ticks)
    half_width_s = config.peak_half_width_s or window_s / _PEAK_SHARE
    reading = Reading(
        half_width=max(1, round(half_width_s / data.tick_s)),
        response_s=config.response_windows * window_s,
        draws=config.bootstrap_draws,
        seed=config.seed,
    )
    units = layout.unit_recording()
    whole = {
        name: reading.describe(
            own, [w[name] for w in wrong if name in w], layout.lead_s, units
        )
        for name, own in sums.items()
    }
    alone = {
        name: _describe_one(number, reading, sums, wrong, layout, config)
        for number, name in enumerate(layout.names)
    }
    filled = int((sums[config.indicator].pairs.max(axis=0) > 0).sum())
    return _conclude(whole, alone, filled, config) | {
        "reference": data.reference_stream,
        "leading": data.leading_stream,
        "lead_s": _plain(layout.lead_s),
        "tick_s": data.tick_s,
        "window_s": window_s,
        "unit_s": layout.unit_ticks * data.tick_s,
        "units": filled,
    }


def wrong_pairings(
    layout: Layout,
    rows: Rows,
    kinds: Mapping[str, str],
    config: ConfigDict,
    window_ticks: int,
) -> list[dict[str, LeadSums]]:
    """Returns the same sums of recordings put together wrongly, draw by draw."""
    pairings = lead_statistics.wrong_pairings(
        layout, draws=config.null_draws, guard_ticks=window_ticks, seed=config.seed
    )
    bar = tqdm(pairings, "wrong pairings", config.null_draws, disable=None)
    return [
        lead_curves.lead_sums(
            lead_curves.rearranged(rows, *pairing),
            kinds,
            layout.leads,
            unit_ticks=layout.unit_ticks,
        )
        for pairing in bar
    ]


def _describe_one(
    number: int,
    reading: Reading,
    sums: Mapping[str, LeadSums],
    wrong: Sequence[Mapping[str, LeadSums]],
    layout: Layout,
    config: ConfigDict,
) -> dict[str, Any] | None:
    """Returns what one recording tells; the chance is that of the evidence."""
    units = layout.unit_recording()
    own = units == number
    found = reading.describe(
        sums[config.indicator].chosen(own), [], layout.lead_s, units[own]
    )
    if found is None:
        return None
    chance = _chance(
        sums[config.evidence].chosen(own),
        [w[config.evidence].chosen(own) for w in wrong],
    )
    return found | {"chance": chance}


def _chance(sums: LeadSums, wrong: Sequence[LeadSums]) -> float | None:
    """Returns how likely wrong pairings rise as far; None without any."""
    if not wrong:
        return None
    rises = lead_statistics.rise(np.array([own.curve() for own in [sums, *wrong]]))
    return lead_statistics.chance(rises[0], rises[1:])


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a curve is read.

    Attributes:
      half_width: ticks on either side of the highest point for the parabola.
      response_s: added to the interval on either side.
      draws: of the bootstrap.
      seed: of the draws.
    """

    half_width: int
    response_s: float
    draws: int
    seed: int

    def describe(
        self,
        sums: LeadSums,
        wrong: Sequence[LeadSums],
        lead_s: Float[ndarray, " L"],
        recording: Int[ndarray, " U"],
    ) -> dict[str, Any] | None:
        """Returns curve, estimate, interval and chance; None without any pair.

        Args:
          sums: of one indicator.
          wrong: the same of wrong pairings.
          lead_s: the leads.
          recording: of each unit.
        """
        curve = sums.curve()
        if np.isnan(curve).all():
            return None
        weights = lead_statistics.bootstrap_weights(
            recording, draws=self.draws, seed=self.seed
        )
        estimate, *drawn = lead_statistics.peaks(
            np.concatenate([curve[None], sums.curves(weights)]),
            lead_s,
            half_width=self.half_width,
        )
        low, high = lead_statistics.interval(np.array(drawn))
        null = np.array([own.curve() for own in wrong])
        return {
            "curve": [None if np.isnan(value) else float(value) for value in curve],
            "estimate_s": float(estimate),
            "interval_s": [low - self.response_s, high + self.response_s],
            "statistical_interval_s": [low, high],
            "at_edge": bool(np.nanargmax(curve) in (0, len(curve) - 1)),
            "chance": _chance(sums, wrong),
            "wrong_pairings": _plain(np.nanpercentile(null, lead_statistics.LEVEL))
            if len(null)
            else None,
        }


def _plain(values: Float[ndarray, " n"]) -> list[float]:
    return [float(value) for value in values]


def _conclude(
    whole: Mapping[str, Any], alone: Mapping[str, Any], units: int, config: ConfigDict
) -> dict[str, Any]:
    """Returns the verdict, and the estimate if there is a lead.

    Few stretches hold few events, and one event goes with any other at some lead.
    """
    best, chance = whole[config.indicator], whole[config.evidence]["chance"]
    verdict = TOO_SHORT
    if chance is not None and units >= _FEW_UNITS:
        verdict = FOUND if chance < config.significance else NOT_FOUND
    found = verdict == FOUND
    return {
        "indicator": config.indicator,
        "evidence": config.evidence,
        "chance": chance,
        "verdict": verdict,
        "estimate_s": best["estimate_s"] if found else None,
        "interval_s": best["interval_s"] if found else None,
        "indicators": whole,
        "per_recording": {n: own for n, own in alone.items() if own is not None},
    }


def _notes(report: Mapping[str, Any], run: Run, config: ConfigDict) -> list[str]:
    notes = [run.note] if run.note else []
    if report["trained_on"]:
        notes.append(
            "the run was trained on these recordings at a lead of "
            f"{report['trained_lead_s']:g} s and may know them by heart: a curve that "
            "rises there says little; search in others with --config.recordings=GLOB"
        )
    if report["indicators"][report["indicator"]]["at_edge"]:
        notes.append(
            "the curve is highest at the edge of the range: look farther with "
            "--config.least_lead_s and --config.most_lead_s"
        )
    if report["chance"] is None:
        notes.append(
            "the recordings are too short for wrong pairings outside the range, so "
            "chance is unknown; use a smaller range or more recordings"
        )
    if report["units"] < _FEW_UNITS:
        notes.append(
            f"there are {report['units']} stretches of {report['unit_s']:g} s, and "
            f"fewer than {_FEW_UNITS} hold too few events to tell: the intervals say "
            "little; use more recordings"
        )
    return notes


def main(config: ConfigDict) -> None:
    """Searches with the run of the command line and prints a table."""
    started_s = time.perf_counter()
    report, folder = search(config, command.workdir())
    lead_files.show(report, folder)
    logging.info("took %.0f s", time.perf_counter() - started_s)


if __name__ == "__main__":
    command.run(main)
