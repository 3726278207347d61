"""What the search for the lead writes: lead_time.json, a picture, a printed table."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from fmalign_jax.cli import print_table
from fmalign_jax.data.files import write_json
from fmalign_jax.evaluation import plots

REPORT = "lead_time.json"
PICTURE = "lead_time.png"


def write(folder: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Writes the report, and the picture of its curves."""
    plots.draw_lead(folder / PICTURE, answer(report), report)
    write_json(folder / REPORT, report)


def show(report: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Prints the answer, the indicators, the recordings, and where everything lies."""
    print(f"checkpoint: step {report['checkpoint']['step']} of {report['run']}")
    print(answer(report))
    rows = [["indicator", "lead, s", "95 % interval", "chance"]]
    rows += [_cells(name, found) for name, found in report["indicators"].items()]
    print_table(rows)
    rows = [["recording", "lead, s", "95 % interval", "chance"]]
    rows += [_cells(name, found) for name, found in report["per_recording"].items()]
    print_table(rows)
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"written to {folder}")


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
