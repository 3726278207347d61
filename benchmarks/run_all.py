"""Runs every benchmark, keeps what was found, and prints all tables.

    python benchmarks/run_all.py --out benchmarks/results/NAME.json

What is in the file already is not measured again, so that it may be stopped at any time
and continues with the same command. On a CPU the sizes are those that two cores can do.
Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from fmalign_jax.data.files import write_text

HERE = pathlib.Path(__file__).parent
PAPER, FURNACE = "configs/cmg_paper.py", "configs/pretrain.py"
STEP, INPUT = "step_throughput.py", "input_pipeline.py"
SWEEP, LOOP = "sweep_throughput.py", "loop_throughput.py"
ALL_TORCH = ("eager fp32", "eager fp64", "compiled bf16")


def jobs(platform: str, devices: int) -> dict[str, list[str]]:
    """Returns the commands by name, for an accelerator or for a CPU."""
    small = platform == "cpu"
    torch = ["--compare", "torch", "--torch-forms"]
    against = [*torch, *(ALL_TORCH[:1] if small else ALL_TORCH)]
    paper = ["--config", PAPER, "--batch", "8" if small else "80"]
    furnace = ["--config", FURNACE, "--ticks", "50"]
    furnace += ["--batch", "8" if small else "256"]
    counts = [n for n in (1, 2, 4, 8) if small or n <= devices]
    scaling = ["--devices", ",".join(map(str, counts))]
    growth = ["--config", FURNACE, "--budget-s", "5"]
    planned = {
        "paper": [STEP, *paper, "--parts", *against],
        "furnace": [STEP, *furnace, "--parts", *against],
        "default": [STEP, "--config", FURNACE, "--parts", *against],
        "growth in batch": [STEP, *growth, "--batch", "4,8,16,32,64"],
        "growth in ticks": [
            STEP,
            *growth,
            "--batch",
            "4",
            "--ticks",
            "16,32,64,128,256",
        ],
        "growth in codes": [
            STEP,
            *growth,
            "--batch",
            "8",
            "--codes",
            "50,100,200,400,800",
        ],
        "strong scaling": [STEP, *growth, "--batch", "32", *scaling],
        "weak scaling": [STEP, *growth, "--batch", "4", "--weak", *scaling],
        "input": [INPUT, "--config", FURNACE],
        "runs together": [SWEEP, "--config", f"{FURNACE}:smoke", "--alone", "3"],
        "loop": [LOOP, "--config", f"{FURNACE}:smoke"],
    }
    if not small:
        bf16 = ["--precision", "bf16"]
        planned["paper bf16"] = [STEP, *paper, *bf16, *torch, "compiled bf16"]
        large = ["--config", PAPER, "--batch", "160,320", "--budget-s", "5"]
        planned["paper bf16, larger batches"] = [STEP, *large, *bf16]
        planned["paper bf16 beside fp64"] = [STEP, *paper, *bf16, *torch, "eager fp64"]
        beside = [*torch, "eager fp32"]
        planned["furnace bf16 beside fp32"] = [STEP, *furnace, *bf16, *beside]
        planned["furnace bf16"] = [STEP, *furnace, *bf16, *torch, "compiled bf16"]
        planned["input full"] = [INPUT, "--config", f"{FURNACE}:full", "--threads", "8"]
    return planned


def machine() -> tuple[str, int]:
    """Returns the platform and how many devices it has.

    Asked in a process of its own: one that has seen a GPU keeps its memory.
    """
    ask = "import jax; print(jax.default_backend(), len(jax.devices()))"
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True
    )
    platform, devices = done.stdout.split()
    return platform, int(devices)


def run(command: Sequence[str]) -> dict[str, object]:
    """Runs one benchmark in a process of its own and returns what it found."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "found.json"
        environment = dict(os.environ)
        if "--devices" in command:  # virtual ones, where there is only a CPU
            environment["JAX_NUM_CPU_DEVICES"] = "8"
        script, *options = command
        subprocess.run(
            [sys.executable, str(HERE / script), *options, "--out", str(out)],
            check=True,
            env=environment,
        )
        found: dict[str, object] = json.loads(out.read_text())
    return {"command": " ".join(command), **found}


def main() -> None:
    """Measures what the file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .json file")
    parser.add_argument("--only", nargs="*", help="names of benchmarks")
    arguments = parser.parse_args()
    planned = jobs(*machine())
    if unknown := sorted(set(arguments.only or ()) - set(planned)):
        parser.error(f"--only knows {', '.join(planned)}; got {', '.join(unknown)}")
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    failed = []
    for name, command in planned.items():
        if name in found or (arguments.only and name not in arguments.only):
            continue
        print(f"== {name}: {' '.join(command)}", flush=True)
        try:
            found[name] = run(command)
        except subprocess.CalledProcessError as error:
            failed.append(f"{name} (exit status {error.returncode})")
            continue
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
