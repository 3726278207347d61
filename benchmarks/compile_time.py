"""Measures what passes before the second step: tracing, lowering, compiling, apart.

    python benchmarks/compile_time.py --config configs/pretrain.py

Five starts, each in a process of its own, one after the other, with one cache of
compiled programs that is empty at first:

* first: nothing is in the cache;
* XLA's own level: the same, compiled as XLA does if it is not told otherwise (on a CPU
  steps are compiled one level lower), with an empty cache of its own;
* again: the same config;
* other numbers: another seed, learning rate and weights;
* other batch: half the batch, so that every shape is another.

Each start makes the first state, validates it once, and takes two steps as the training
loop does. Seconds are those of the clock; of a program whose compiling the cache saves,
"compile" is the reading of it.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import cases
import jax
import measure
from ml_collections import ConfigDict

from fmalign_jax.cli import set_up_jax
from fmalign_jax.data.files import write_text
from fmalign_jax.training import step as train_step

XLA_LEVEL = "XLA's own level"

STARTS = ("first", XLA_LEVEL, "again", "other numbers", "other batch")

PARTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}

PROGRAMS = ("init", "evaluate", "train_on_batches")
"""What a run compiles, by the names that they have there; all else is small."""

SMALL = "all others"


def main() -> None:
    """Measures every start and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE or FILE:VARIANT")
    parser.add_argument("--batch", type=int, help="windows, by default the config's")
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    parser.add_argument("--start", choices=STARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:  # one of the processes
        config = changed(cases.load_config(arguments.config), arguments)
        print(json.dumps(measure_start(config)))
        return
    found = {
        "config": arguments.config,
        "starts": measure_starts(sys.argv[1:]),
        "made_with": measure.provenance(),
    }
    print_table(found)
    if arguments.out:
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")


def changed(config: ConfigDict, arguments: argparse.Namespace) -> ConfigDict:
    """Returns the config of a start."""
    if arguments.batch:
        config.batch_size = arguments.batch
    if arguments.start == "other batch":
        config.batch_size //= 2
    if arguments.start == "other numbers":
        config.seed += 1
        config.optimizer.learning_rate /= 2
        for term in config.objectives.values():
            term.weight *= 0.5  # those that are left out stay so
    return config


def measure_starts(options: list[str]) -> dict[str, Any]:
    """Starts one process after the other; returns what each found, by name."""
    with tempfile.TemporaryDirectory() as cache:
        return {start: _in_a_process(options, start, cache) for start in STARTS}


def _in_a_process(options: list[str], start: str, cache: str) -> dict[str, Any]:
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    if start == XLA_LEVEL:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=3"
        environment |= {"XDG_CACHE_HOME": f"{cache}/other", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, __file__, *options, "--start", start],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_start(config: ConfigDict) -> dict[str, Any]:
    """Starts a run as far as its second step.

    Returns:
      ``before_second_step_s``, by the clock, and ``cpu_s``, of all cores; and by
      program the seconds of each part.
    """
    parts: dict[str, dict[str, float]] = collections.defaultdict(
        lambda: dict.fromkeys(PARTS.values(), 0.0)
    )

    def note(event: str, duration_s: float, **about: Any) -> None:
        if event not in PARTS:
            return
        said = str(about.get("fun_name")).rstrip(")")  # jit(init), or init alone
        name = next((p for p in PROGRAMS if said.endswith(p)), "")
        # Small programs are traced within larger ones too, whose time that is.
        if name or PARTS[event] != "trace":
            parts[name or SMALL][PARTS[event]] += duration_s

    jax.monitoring.register_event_duration_secs_listener(note)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    case = cases.make_case(config)
    evaluate = train_step.make_eval_step(case.trainer, case.mesh)
    jax.block_until_ready(evaluate(case.state, case.batch))
    steps, state = train_step.make_train_steps(case.trainer, case.mesh), case.state
    for _ in range(2):
        state, metrics = steps(state, [case.batch])
    jax.block_until_ready((state, metrics))
    found = {
        "before_second_step_s": time.perf_counter() - started_s,
        "cpu_s": time.process_time() - started_cpu_s,
        "programs": {name: dict(own) for name, own in parts.items()},
    }
    jax.monitoring.unregister_event_duration_listener(note)
    return found


def compiling_s(start: Mapping[str, Any]) -> float:
    """Returns the seconds that the compiler, or the cache in its place, took."""
    return sum(own["compile"] for own in start["programs"].values())


def print_table(found: Mapping[str, Any]) -> None:
    """Prints seconds by start and program, and each start's share of the first."""
    first = found["starts"]["first"]
    print(
        f"\n{found['config']} on {found['made_with']['device']}\n\n"
        "| start | program | trace s | lower s | compile s |\n|---|---|---|---|---|"
    )
    for name, start in found["starts"].items():
        for program in (*PROGRAMS, SMALL):
            own = start["programs"].get(program)
            if own:
                shown = " | ".join(f"{own[part]:.1f}" for part in PARTS.values())
                print(f"| {name} | {program} | {shown} |")
    print("\n| start | before the second step s | compile s | of the first |")
    print("|---|---|---|---|")
    for name, start in found["starts"].items():
        own_s = compiling_s(start)
        print(
            f"| {name} | {start['before_second_step_s']:.1f} | {own_s:.1f} | "
            f"{own_s / compiling_s(first):.2f} |"
        )


if __name__ == "__main__":
    set_up_jax()
    main()
