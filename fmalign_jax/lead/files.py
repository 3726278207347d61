"""What the search for the lead writes: lead_time.json, a picture, a printed table."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fmalign_jax.cli import print_table
from fmalign_jax.data.files import csv_cell, replacing, write_json
from fmalign_jax.lead import spells

REPORT = "lead_time.json"
PICTURE = "lead_time.png"
SPELLS = "lead_spells.csv"


def write(folder: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Writes the report, and the picture of its curves."""
    draw_lead(folder / PICTURE, answer(report), report)
    if report["spells"] is not None:
        rows = spells.table(report["spells"]["pairs"])
        with (
            replacing(folder / SPELLS) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file).writerows(map(csv_cell, row) for row in rows)
    write_json(folder / REPORT, report)


def show(report: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Prints the answer, the indicators, the recordings, and where the files are."""
    print(f"checkpoint: step {report['checkpoint']['step']} of {report['run']}")
    print(answer(report))
    rows = [["indicator", "lead, s", "95 % interval", "chance"]]
    rows += [_cells(name, found) for name, found in report["indicators"].items()]
    print_table(rows)
    rows = [["recording", "lead, s", "95 % interval", "chance"]]
    rows += [_cells(name, found) for name, found in report["per_recording"].items()]
    print_table(rows)
    if report["spells"] is not None:
        print(of_spells(report["spells"]))
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"written to {folder}")


def of_spells(found: Mapping[str, Any]) -> str:
    """Returns in one line how many spells were paired, and their leads."""
    alone = " and ".join(f"{n} of the {role}" for role, n in found["unpaired"].items())
    said = f"spells: {len(found['pairs'])} paired; without a partner {alone}"
    if found["median_s"] is not None:
        low, high = found["quartiles_s"]
        said += f"; lead {found['median_s']:.4g} s (quartiles {low:.4g} to {high:.4g})"
    if found["drift_s_per_hour"] is not None:
        slope, low, high = found["drift_s_per_hour"]
        said += f"; drift {slope:.3g} s an hour [{low:.3g}, {high:.3g}]"
    return said


def answer(report: Mapping[str, Any]) -> str:
    """Returns the answer: "current ahead of video: 240.1 s [232, 247]"."""
    found = report["verdict"]
    if report["estimate_s"] is not None:
        low, high = report["interval_s"]
        found = f"{report['estimate_s']:.4g} s [{low:.4g}, {high:.4g}]"
    return f"{report['leading']} ahead of {report['reference']}: {found}"


def _cells(name: str, found: Mapping[str, Any]) -> list[str]:
    low, high = found["interval_s"]
    chance = "-" if found["chance"] is None else f"{found['chance']:.2g}"
    return [name, f"{found['estimate_s']:.4g}", f"[{low:.4g}, {high:.4g}]", chance]


def draw_lead(path: pathlib.Path, title: str, report: Mapping[str, Any]) -> None:
    """Draws `lead_figure` to a file."""
    lead_figure(title, report).savefig(path, dpi=110)


def lead_figure(title: str, report: Mapping[str, Any]) -> Figure:
    """Draws each indicator over the lead, the one that counts in colour.

    Args:
      title: the answer.
      report: as the search for the lead writes it.
    """
    found = report["indicators"]
    lead_s = np.array(report["lead_s"])
    figure = Figure(figsize=(9, 1.2 + 1.2 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, own) in zip(panels, found.items(), strict=True):
        curve = np.array([np.nan if v is None else v for v in own["curve"]])
        counts = name == report["indicator"]
        axes.plot(lead_s, curve, color="C0" if counts else "0.4")
        if own["wrong_pairings"] is not None:
            low, high = (np.array(v) for v in own["wrong_pairings"])
            axes.axhspan(low, high, color="0.92", label="wrong pairings")
        axes.axvspan(*own["interval_s"], color="C1", alpha=0.25)
        axes.axvline(own["estimate_s"], color="C1")
        axes.set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center")
    panels[0].set_title(title)
    panels[-1].set_xlabel("lead between window centres, s (positive: read earlier)")
    return figure
