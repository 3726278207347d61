"""What the files of a run say, for its report: summary, curves, evaluation, lead.

Nothing here computes; `codes` and `recording_timeline` describe what encoders see.
Every function returns plain JSON values, NaN and infinity as None.
"""

from __future__ import annotations

import csv
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from fmalign_jax.data import files

Json = dict[str, Any]

_CURVES = (
    "loss",
    "perplexity/",
    "equal_share",
    "shared_",
    "token_agreement/",
    "chance_agreement/",
    "code_cosine/",
    "cpc_accuracy",
    "used_codes/",
    "learning_rate",
)
"""Beginnings of the names of the values that the report draws."""


def read_json(path: pathlib.Path) -> Json | None:
    """Reads a file of one JSON object, as `data.files.read_json`, of finite numbers."""
    found: Json | None = finite(files.read_json(path))
    return found


def finite(value: Any) -> Any:
    """Returns JSON values with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_curves(path: pathlib.Path, also: str = "") -> dict[str, dict[str, list[Any]]]:
    """Reads metrics.jsonl.

    A last line that a kill cut short is left out.

    Args:
      path: the file; without it there are no curves.
      also: the name of one more value to read.

    Returns:
      By split the steps, under "step", and by name of a value one number a step, None
      where it was not measured.
    """
    if not path.is_file():
        return {}
    rows: dict[str, list[Json]] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = finite(json.loads(text))
            rows.setdefault(row["split"], []).append(row)
        except (ValueError, KeyError, TypeError):
            continue
    return {
        split: {"step": [row["step"] for row in found]}
        | {
            name: [row.get(name) for row in found]
            for name in sorted({key for row in found for key in row})
            if name.startswith(_CURVES) or name == also
        }
        for split, found in rows.items()
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Returns nested settings as rows: ("data.lead_s", 240.0)."""
    rows: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def evaluation_folder(run: pathlib.Path, given: pathlib.Path | None) -> pathlib.Path:
    """Returns where the evaluation of a run is; by default RUN/evaluation.

    Raises:
      ValueError: a folder was given that holds no evaluation.
    """
    if given is None:
        return run / "evaluation"
    if not (given / "eval.json").is_file():
        raise ValueError(
            "--evaluation must be the folder of an evaluation, with eval.json; got "
            f"{given}; give the folder that fmalign_jax.evaluate named"
        )
    return given


def read_scores(
    path: pathlib.Path, direction: str, classes: list[str]
) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """Reads what a head said of each window from predictions.csv.

    Args:
      path: the file; without it there are no scores.
      direction: of the head, such as "video->current".
      classes: their names.

    Returns:
      By (split, recording) the centres of the reference windows in seconds, and the
      scores: the probability of class 1; of more than two classes the number of the
      predicted one.

    Raises:
      ValueError: the file is of another evaluation.
    """
    if not path.is_file():
        return {}
    two = len(classes) == 2
    column = f"{direction} {'score' if two else 'prediction'}"
    found: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                cell = row[column]
                score = float(cell) if two else float(classes.index(cell))
                times, scores = found.setdefault(
                    (row["split"], row["recording"]), ([], [])
                )
                times.append(float(row["time_s"]))
                scores.append(score)
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(
                    f"{path} must be the predictions of the eval.json beside it, with "
                    f"a column {column!r}; got {error}; evaluate the run again"
                ) from error
    return found


def read_lead(run: pathlib.Path) -> Json | None:
    """Reads what a search for the lead found; None without one.

    The newest of RUN/lead_time*/lead_time.json. What it does not say is left out.

    Returns:
      `verdict`, `indicator`, `estimate_s`, `interval_s`, `trained_lead_s`; `curves`, by
      indicator `name`, `lead_s`, `value` and `wrong_pairings` (the two values between
      which the values of wrong pairings are, or None); `recordings`, each with
      `name`, `estimate_s` and `interval_s`; `notes`.
    """
    searches = sorted(
        run.glob("lead_time*/lead_time.json"), key=lambda file: file.stat().st_mtime
    )
    found = read_json(searches[-1]) if searches else None
    if found is None:
        return None
    lead_s = found.get("lead_s") or []
    curves = {
        name: own
        for name, own in (found.get("indicators") or {}).items()
        if own and lead_s and len(own.get("curve") or []) == len(lead_s)
    }
    taken = ("verdict", "indicator", "estimate_s", "interval_s", "trained_lead_s")
    return {name: found.get(name) for name in taken} | {
        "curves": [
            {
                "name": name,
                "lead_s": lead_s,
                "value": own["curve"],
                "wrong_pairings": own.get("wrong_pairings"),
            }
            for name, own in curves.items()
        ],
        "recordings": [
            {
                "name": name,
                "estimate_s": own.get("estimate_s"),
                "interval_s": own.get("interval_s"),
            }
            for name, own in (found.get("per_recording") or {}).items()
            if own
        ],
        "notes": found.get("notes") or [],
    }
