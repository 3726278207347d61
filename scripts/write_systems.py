"""Makes the tables of systems side by side from what scripts/study.py found.

    python scripts/write_systems.py docs/results/systems.json \\
        --out docs/results/systems.md

Every number is of recordings that neither pre-training nor the head has seen (`test`),
at the last step. Means over seeds with their standard deviation; differences from CLIP
are paired by recording, with the error of recordings and seeds, and adjusted for the
number of comparisons (Holm). The text of introduction.md, in the folder of the table,
comes first. What was not run is an empty cell.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray
from write_results import DIRECTIONS, FORTH, grouped, provenance, score, spread, table

from fmalign_jax.data.files import write_text
from fmalign_jax.evaluation.population import difference, holm

Run = Mapping[str, Any]

BASE = "clip"
DEFAULT, CONTROL, HARD = "default", "no_precursor", "hard"
RETRIEVAL = ("recall@1", "recall@5", "recall@10", "median_rank", "normalised_rank")


def by_recording(runs: Sequence[Run]) -> tuple[list[str], ndarray]:
    """Returns the transfer of each recording and run [R, S]; those of one class out."""
    found = [
        run["evaluations"]["codes"]["zero_shot"][FORTH]["test"]["by_recording"]
        for run in runs
    ]
    names = [name for name, value in found[0].items() if value is not None]
    return names, np.array([[own[name] for own in found] for name in names])


def zero_shot(runs: Sequence[Run]) -> str:
    """Returns the transfer of every system, compared with CLIP."""
    by_fold = grouped(runs, "fold")
    folds = {fold: grouped(own, "variant") for fold, own in by_fold.items()}
    systems = folds[DEFAULT]
    apart = _differences(systems)
    oracle = [
        run["evaluations"]["codes"]["oracle"]["test"]["balanced_accuracy"]
        for own in systems.values()
        for run in own
        if run["evaluations"]["codes"]["oracle"]
    ]
    rows = []
    for name, own in systems.items():
        forth = [score(run, "codes", FORTH) for run in own]
        share = f"{np.mean(forth) / np.mean(oracle):.3f}" if oracle else ""
        rows.append(
            [
                name,
                f"{own[0]['steps']}, {np.mean([r['train_s'] for r in own]):.0f} s",
                str(len(own)),
                *(spread(score(run, "codes", d) for run in own) for d in DIRECTIONS),
                spread(score(run, "codes_by_recording", FORTH) for run in own),
                share,
                *(
                    spread(
                        score(run, "codes", FORTH)
                        for run in folds.get(fold, {}).get(name, [])
                    )
                    for fold in (HARD, CONTROL)
                ),
                apart.get(name, ""),
            ]
        )
    header = ["system", "steps, training", "seeds", *DIRECTIONS]
    header += [f"{FORTH}, by recording", "of the oracle", f"{FORTH}, {HARD}"]
    return table([*header, f"{FORTH}, {CONTROL}", f"less {BASE}"], rows)


def _differences(systems: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Returns by system how far it is from CLIP, with interval and adjusted p."""
    if BASE not in systems:
        return {}
    names, base = by_recording(systems[BASE])
    found = {}
    for system, runs in systems.items():
        own_names, values = by_recording(runs)
        if system != BASE and own_names == names:
            found[system] = difference(values, base)
    compared = {name: own for name, own in found.items() if own is not None}
    adjusted = holm([own.p for own in compared.values()])
    return {
        name: f"{own.mean:+.3f} [{own.interval[0]:+.3f}, {own.interval[1]:+.3f}], "
        f"p {p:.2g}"
        for (name, own), p in zip(compared.items(), adjusted, strict=True)
    }


def retrieval(runs: Sequence[Run]) -> str:
    """Returns how well a system finds the partner of a window, by continuous features.

    The references are of the first run, whose labels are those of all.
    """
    rows = []
    for fold, own in grouped(runs, "fold").items():
        for name, seeds in grouped(own, "variant").items():
            found = [_retrieved(run)["features"]["semantic"] for run in seeds]
            rows += [
                [
                    *(fold, name, direction),
                    *(spread(f[direction][key] for f in found) for key in RETRIEVAL),
                ]
                for direction in found[0]
            ]
        rows += [
            [fold, "", f"by {name}", *(f"{values[key]:.3f}" for key in RETRIEVAL)]
            for name, values in _retrieved(own[0])["references"].items()
        ]
    return table(["furnaces", "system", "", *RETRIEVAL], rows)


def _retrieved(run: Run) -> Mapping[str, Any]:
    found: Mapping[str, Any] = run["evaluations"]["codes"]["retrieval"]["test"]
    return found


def references(runs: Sequence[Run]) -> str:
    """Returns what stands beside the systems, by fold: oracle and random encoders."""
    rows = []
    for fold, own in grouped(runs, "fold").items():
        found = [run["evaluations"]["codes"] for run in own]
        beside = [codes for codes in found if codes["oracle"]]
        rows.append(
            [
                fold,
                spread(c["oracle"]["test"]["balanced_accuracy"] for c in beside),
                spread(
                    c["random_encoders"][FORTH]["test"]["balanced_accuracy"]
                    for c in beside
                ),
                f"{found[0]['chance']:.3f}",
            ]
        )
    return table(["furnaces", "oracle, current", "random encoders", "chance"], rows)


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=pathlib.Path, help="a .json file of study.py")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .md file")
    arguments = parser.parse_args()
    runs = json.loads(arguments.results.read_text())
    folder = arguments.out.with_suffix("")
    parts = [
        "# Systems side by side",
        (folder / "introduction.md").read_text(),
        "## Zero-shot transfer",
        zero_shot(runs),
        references(runs),
        "## Retrieval within a recording",
        retrieval(runs),
        provenance(runs),
    ]
    write_text(arguments.out, "\n\n".join(part.strip() for part in parts) + "\n")


if __name__ == "__main__":
    main()
