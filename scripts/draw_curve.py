"""Draws how validation went along a run: transfer, if labelled, and agreement.

    python scripts/draw_curve.py runs/NAME --out curve.png

The run needs `labelled_validation` for the upper picture. The step that its score chose
is marked.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

LABEL_FREE = ("cpc_accuracy", "equal_share")
PAIRWISE = ("token_agreement/", "chance_agreement/")


def validations(run: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the validation lines of a run, in order.

    Raises:
      SystemExit: the run has not been validated.
    """
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found = [line for line in map(json.loads, lines) if line["split"] == "validation"]
    if not found:
        raise SystemExit(f"a curve needs validations; got none in {run}")
    return found


def draw(lines: Sequence[dict[str, Any]], best: int | None, path: pathlib.Path) -> None:
    """Draws transfer above and label-free values below."""
    steps = [line["step"] for line in lines]
    labelled = sorted(name for name in lines[0] if name.startswith("zero_shot/"))
    label_free = [n for n in lines[0] if n in LABEL_FREE or n.startswith(PAIRWISE)]
    groups = [names for names in (labelled, label_free) if names]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(7, 3.2 * len(groups)), sharex=True, squeeze=False
    )
    for axis, names in zip(axes[:, 0], groups, strict=True):
        for name in names:
            short = name.removeprefix("zero_shot/")
            axis.plot(steps, [line[name] for line in lines], marker=".", label=short)
        if best is not None:
            axis.axvline(best, color="grey", linestyle=":", label="best by score")
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("balanced accuracy" if labelled else "validation")
    axes[-1, 0].set(xlabel="step", ylabel="validation, without labels")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Draws the curve of one run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    summary = arguments.run / "summary.json"
    best = json.loads(summary.read_text())["best_step"] if summary.exists() else None
    draw(validations(arguments.run), best, arguments.out)


if __name__ == "__main__":
    main()
