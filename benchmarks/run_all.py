"""Runs every benchmark, keeps what was found, and prints all tables.

    python benchmarks/run_all.py --out benchmarks/results/NAME.json

The most telling come first: on a GPU the first ten minutes bring the furnace step, its
parts and kernels, the loop, the paper's model and CUDA graphs. What is in the file
already is not measured again, so that it may be stopped at any time and continues with
the same command; every entry names the card, the versions and the commit. On a CPU the
sizes are those that two cores can do. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from fmalign_jax.config import load_file
from fmalign_jax.data.files import write_text

HERE = pathlib.Path(__file__).parent
PAPER, FURNACE = "configs/cmg_paper.py", "configs/pretrain.py"
SYSTEMS = "configs/systems.py"
STEP, INPUT, COMPILE = "step_throughput.py", "input_pipeline.py", "compile_time.py"
SWEEP, LOOP = "sweep_throughput.py", "loop_throughput.py"


GRAPHS = {
    "off": ["--xla_gpu_enable_command_buffer="],
    "loops": ["--xla_gpu_enable_command_buffer=+WHILE"],
    "loops unrolled": [
        "--xla_gpu_enable_command_buffer=+WHILE",
        "--xla_gpu_command_buffer_unroll_loops=true",
    ],
    "regions": ["--xla_gpu_command_buffer_scheduling_mode=CONCURRENT_REGIONS"],
    "updates": ["--xla_gpu_command_buffer_update_mode=SKIP_TEMP"],
    "small": ["--xla_gpu_graph_min_graph_size=1"],
}
"""XLA's flags for CUDA graphs, one idea at a time, beside its default. (+COLLECTIVES is
not among them: it has hung runs.) A flag that a version does not know ends its
benchmark, which is then not measured."""

_PROFILED = "--xla_enable_command_buffers_during_profiling=true"


def jobs(platform: str, devices: int) -> dict[str, list[str]]:
    """Returns the commands by name, the most telling first.

    A command may begin with VARIABLE=VALUE, as in a shell.
    """
    return _on_a_cpu() if platform == "cpu" else _on_an_accelerator(devices)


def _growth(counts: Sequence[int]) -> dict[str, list[str]]:
    growth = [STEP, "--config", FURNACE, "--budget-s", "5"]
    ticks, codes = "16,32,64,128,256", "50,100,200,400,800"
    planned = {
        "growth in batch": [*growth, "--batch", "4,8,16,32,64"],
        "growth in ticks": [*growth, "--batch", "4", "--ticks", ticks],
        "growth in codes": [*growth, "--batch", "8", "--codes", codes],
    }
    scaling = ["--devices", ",".join(map(str, counts))]
    planned["strong scaling"] = [*growth, "--batch", "32", *scaling]
    planned["weak scaling"] = [*growth, "--batch", "4", "--weak", *scaling]
    return planned


def _on_a_cpu() -> dict[str, list[str]]:
    """Returns the commands in sizes that two cores can do."""
    against = ["--parts", "--compare", "torch", "--torch-forms", "eager fp32"]
    furnace = ["--config", FURNACE, "--ticks", "50", "--batch", "8"]
    return {
        "furnace": [STEP, *furnace, *against],
        "paper": [STEP, "--config", PAPER, "--batch", "8", *against],
        "default": [STEP, "--config", FURNACE, *against],
        "compile time": [COMPILE, "--config", FURNACE],
        **_growth((1, 2, 4, 8)),
        "input": [INPUT, "--config", FURNACE],
        "runs together": [SWEEP, "--config", f"{FURNACE}:smoke", "--alone", "3"],
        "loop": [LOOP, "--config", f"{FURNACE}:smoke"],
    }


def _on_an_accelerator(devices: int) -> dict[str, list[str]]:
    step = [STEP, "--config", FURNACE, "--ticks", "50"]
    furnace = [*step, "--precision", "bf16"]
    paper = [STEP, "--config", PAPER, "--precision", "bf16"]
    torch = ["--compare", "torch", "--torch-forms"]
    short = ["--budget-s", "5"]
    large = [*furnace, *short, "--batch", "256"]
    # Some ten minutes: the step that people train, its parts, graphs, the whole loop.
    planned = {
        "furnace bf16": [f"XLA_FLAGS={_PROFILED}", *large, "--parts"],
        "loop": [LOOP, "--config", FURNACE],
        "paper bf16": [*paper, *short, "--batch", "80,160,320"],
    }
    for name, flags in GRAPHS.items():
        variable = f"XLA_FLAGS={' '.join([_PROFILED, *flags])}"
        planned[f"furnace bf16, graphs: {name}"] = [variable, *large]
    planned["input full"] = [INPUT, "--config", f"{FURNACE}:full", "--threads", "8"]
    planned["compile time"] = [COMPILE, "--config", FURNACE]
    for batch in ("64", "256"):
        beside = ["--batch", batch, *torch, "compiled bf16", "eager fp32"]
        planned[f"furnace, batch {batch}, bf16 beside PyTorch"] = [*furnace, *beside]
    for name in load_file(HERE.parent / SYSTEMS).SYSTEMS:
        system = ["--config", f"{SYSTEMS}:{name}", "--precision", "bf16"]
        planned[f"system {name}"] = [STEP, *system, "--batch", "256", *short]
    sweep = [SWEEP, "--config", f"{FURNACE}:smoke", "--alone", "3"]
    for members in ("8", "32"):
        planned[f"{members} runs together"] = [*sweep, "--members", members]
    planned |= _growth([n for n in (1, 2, 4, 8) if n <= devices])
    published = [*paper, "--batch", "80", *torch]
    planned["paper bf16 beside PyTorch"] = [*published, "compiled bf16"]
    planned["paper bf16 beside fp64"] = [*published, "eager fp64"]
    fp32 = ["--parts", *torch, "eager fp32"]
    planned["furnace"] = [*step, "--batch", "256", *fp32]
    planned["paper"] = [STEP, "--config", PAPER, "--batch", "80", *fp32]
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
    asked = command
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "found.json"
        environment = dict(os.environ)
        while "=" in command[0]:
            variable, _, value = command[0].partition("=")
            value = f"{environment.get(variable, '')} {value}".strip()
            environment, command = environment | {variable: value}, command[1:]
        if "--devices" in command:  # virtual ones, where there is only a CPU
            environment["JAX_NUM_CPU_DEVICES"] = "8"
        script, *options = command
        subprocess.run(
            [sys.executable, str(HERE / script), *options, "--out", str(out)],
            check=True,
            env=environment,
        )
        found: dict[str, object] = json.loads(out.read_text())
    return {"command": shlex.join(asked), **found}


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
        print(f"== {name}: {shlex.join(command)}", flush=True)
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
