"""Trains one config on different numbers of devices and compares what they report.

    python benchmarks/devices.py --config configs/pretrain.py:smoke --devices 1,2,8 \\
        --steps 100 --out devices.json --picture devices.png

Each run is the train command in a process of its own, with the same global batch, so
that the differences are those that a user would see. On a CPU the devices are virtual.
Training amplifies rounding: `--control` adds the reference once more, compiled with
less optimisation, which rounds otherwise. What the devices do beyond that is wrong.
`--double` runs all of them in double precision, where rounding stays small.
Flags after `--` go to every run, such as `-- --config.optimizer.epsilon=1e-3`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import measure
import numpy as np

from fmalign_jax.data.files import write_text

NOT_NUMBERS = ("step", "split", "windows_per_s", "waiting_share")
"""What a line of metrics.jsonl holds beside the values that should be the same."""

CONTROL = "the first, compiled otherwise"
"""Name of the run that differs from the reference by rounding alone."""

SINGLE = ("-m", "fmalign_jax.train")
DOUBLE = (str(pathlib.Path(__file__).with_name("double_precision.py")),)
"""What Python runs for each precision."""

SHOWN_STEPS = (1, 3, 10, 30, 100, 300, 1000)


def main() -> None:
    """Runs what the command line asks for, prints a table and writes the values."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE or FILE:VARIANT")
    parser.add_argument("--devices", default="1,2,8", help="the first is the reference")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--control", action="store_true", help="once more, see above")
    parser.add_argument("--double", action="store_true", help="in double precision")
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    parser.add_argument("--picture", type=pathlib.Path, help="a .png file of the loss")
    parser.add_argument("flags", nargs="*", help="of every run, after --")
    arguments = parser.parse_args()
    counts = {name: int(name) for name in arguments.devices.split(",")}
    reference, *others = counts
    if arguments.control:
        others.append(CONTROL)
    with tempfile.TemporaryDirectory() as folder:
        curves = {
            name: train(
                arguments.config,
                counts.get(name, counts[reference]),
                [f"--config.max_steps={arguments.steps}", *arguments.flags],
                pathlib.Path(folder) / str(number),
                program=DOUBLE if arguments.double else SINGLE,
                optimised=name != CONTROL,
            )
            for number, name in enumerate([reference, *others])
        }
    found = {
        "config": arguments.config,
        "flags": arguments.flags,
        "precision": "float64" if arguments.double else "float32",
        "made_with": measure.provenance(),
        "loss": {name: [row["loss"] for row in rows] for name, rows in curves.items()},
        "differences": {
            name: differences(curves[reference], curves[name]) for name in others
        },
    }
    print_table(found)
    if arguments.out:
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")
    if arguments.picture:
        draw(found, arguments.picture)


def train(
    config: str,
    devices: int,
    flags: Sequence[str],
    workdir: pathlib.Path,
    *,
    program: Sequence[str] = SINGLE,
    optimised: bool = True,
) -> list[dict[str, Any]]:
    """Returns what a run on so many devices reports, one entry a step."""
    command = [sys.executable, *program, "--config", config]
    command += ["--workdir", str(workdir), "--config.log_every_steps=1", *flags]
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(devices))),
    }
    if not optimised:
        xla = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{xla} --xla_backend_optimization_level=0"
    subprocess.run(command, check=True, env=environment)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == "train"]


def differences(
    expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns, step by step, the value that differs most and by how much.

    Differences are relative to the expected value, or absolute where it is below 1.
    """
    rows = []
    for ours, theirs in zip(expected, found, strict=True):
        apart = {
            name: abs(theirs[name] - value) / max(1.0, abs(value))
            for name, value in ours.items()
            if name not in NOT_NUMBERS
        }
        worst = max(apart, key=lambda name: apart[name])
        row = {"step": ours["step"], "loss": apart["loss"]}
        rows.append(row | {"largest": apart[worst], "of": worst})
    return rows


def print_table(found: Mapping[str, Any]) -> None:
    """Prints the differences at some of the steps."""
    print(f"\n{found['config']} {' '.join(found['flags'])}\n")
    print("| devices | steps | largest difference of the loss | of any value | which |")
    print("|" + "---|" * 5)
    for name, rows in found["differences"].items():
        for last in (step for step in SHOWN_STEPS if step <= len(rows)):
            worst = max(rows[:last], key=lambda row: row["largest"])
            loss = max(row["loss"] for row in rows[:last])
            print(
                f"| {name} | 1 to {last} | {loss:.1e} | {worst['largest']:.1e} | "
                f"`{worst['of']}` |"
            )


def draw(found: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws the loss, and how far the runs are from the first."""
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 6))
    for name, values in found["loss"].items():
        steps = np.arange(1, len(values) + 1)
        above.plot(steps, values, label=name, alpha=0.7)
    for name, rows in found["differences"].items():
        # A difference of zero has no place on a logarithmic axis.
        apart = [row["loss"] or np.nan for row in rows]
        below.semilogy([row["step"] for row in rows], apart, label=name)
    above.set_ylabel("loss")
    below.set(ylabel="relative difference of the loss", xlabel="step")
    above.legend(title="devices")
    below.legend(title="devices")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
