"""Measures whether the input pipeline limits the device.

    python benchmarks/input_pipeline.py --config configs/pretrain.py

The windows a second that the pipeline gives by itself, those that the step takes by
itself, and the share of a training loop spent waiting for the next batch; all in one
run. The data set of the config is prepared first, if it is not there.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from contextlib import closing
from typing import Any

import cases
import jax
import measure
from ml_collections import ConfigDict

from fmalign_jax.cli import keep_compiled_programs
from fmalign_jax.data.files import write_text
from fmalign_jax.training import setup, sharding, step as train_step
from fmalign_jax.training.state import make_trainer


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE or FILE:VARIANT")
    parser.add_argument(
        "--data", help="path of the recordings, by default the config's"
    )
    parser.add_argument("--threads", type=int, help="data.read_threads")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    arguments = parser.parse_args()
    config = cases.load_config(arguments.config)
    if arguments.data:
        config.data.path = arguments.data
    if arguments.threads is not None:
        config.data.read_threads = arguments.threads
    found = {
        "config": arguments.config,
        "made_with": measure.provenance(),
        **measure_input(config, arguments.steps),
    }
    print(
        f"\n{arguments.config} on {found['made_with']['device']}, batch "
        f"{config.batch_size}, {config.data.read_threads} threads\n\n"
        "| pipeline alone, windows/s | step alone, windows/s | ratio | "
        "share of the loop spent waiting |\n|---|---|---|---|\n"
        f"| {found['pipeline_windows_per_s']:.0f} | {found['step_windows_per_s']:.0f} |"
        f" {found['ratio']:.1f} | {found['waiting_share']:.3f} |"
    )
    if arguments.out:
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")


def measure_input(config: ConfigDict, steps: int) -> dict[str, Any]:
    """Returns the pipeline's rate, the step's, and the share of time spent waiting."""
    mesh = sharding.make_mesh()
    data = setup.load_data(config)
    trainer = make_trainer(
        config, steps_per_epoch=data.steps_per_epoch, steps=data.planned_steps
    )
    state = setup.first_state(trainer, data, mesh)
    step = train_step.make_train_step(trainer, mesh)
    with closing(setup.training_batches(data, config, seed=0)) as batches:
        for _ in range(3):  # threads start, caches fill
            batch = sharding.place_batch(next(batches), mesh)
        started_s = time.perf_counter()
        for _ in range(steps):
            batch = sharding.place_batch(next(batches), mesh)
        jax.block_until_ready(batch)
        alone_s = time.perf_counter() - started_s

        state, _ = step(state, batch)  # compiles
        times_s = []
        for _ in range(max(5, steps // 4)):
            started_s = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            times_s.append(time.perf_counter() - started_s)

        waited_s, loop_started_s = 0.0, time.perf_counter()
        for _ in range(steps):
            started_s = time.perf_counter()
            rows = next(batches)
            waited_s += time.perf_counter() - started_s
            state, metrics = step(state, sharding.place_batch(rows, mesh))
        jax.block_until_ready(metrics)
        loop_s = time.perf_counter() - loop_started_s
    spread = measure.spread(times_s)
    pipeline = steps * config.batch_size / alone_s
    needed = config.batch_size / (spread["median_ms"] / 1e3)
    return {
        "batch": config.batch_size,
        "threads": config.data.read_threads,
        "steps": steps,
        "pipeline_windows_per_s": pipeline,
        "step_windows_per_s": needed,
        "step": spread,
        "ratio": pipeline / needed,
        "loop_s": loop_s,
        "waiting_share": waited_s / loop_s,
    }


if __name__ == "__main__":
    keep_compiled_programs()
    main()
