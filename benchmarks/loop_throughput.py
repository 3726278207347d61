"""Measures the training loop: windows streamed or resident, one or more steps a call.

    python benchmarks/loop_throughput.py --config configs/pretrain.py:smoke

The loop of a run (batches, placing, steps, metrics, reports) without evaluation and
saving, for `data.resident` and `steps_per_dispatch` each on and off; in turns, so that
a busy moment of the machine meets all of them. The data set of the config is prepared
first, if it is not there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import time
from contextlib import ExitStack, closing
from typing import Any

import cases
import jax
import jax.numpy as jnp
import measure
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fmalign_jax.cli import set_up_jax
from fmalign_jax.data.files import write_text
from fmalign_jax.training import (
    logged_values,
    resident,
    setup,
    sharding,
    step as train_step,
)
from fmalign_jax.training.state import Trainer, TrainState, make_trainer


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE or FILE:VARIANT")
    parser.add_argument("--data", help="path of the recordings, by default config's")
    parser.add_argument("--together", type=int, default=10, help="steps of a dispatch")
    parser.add_argument("--steps", type=int, default=100, help="of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    arguments = parser.parse_args()
    if arguments.steps % arguments.together:
        parser.error(
            f"--steps must be a multiple of --together; got {arguments.steps} and "
            f"{arguments.together}"
        )
    config = cases.load_config(arguments.config)
    if arguments.data:
        config.data.path = arguments.data
    found = {
        "config": arguments.config,
        "made_with": measure.provenance(),
        "batch": config.batch_size,
        "steps": arguments.steps,
        "ways": measure_ways(
            config, arguments.together, arguments.steps, arguments.turns
        ),
    }
    print_table(found)
    if arguments.out:
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")


class Loop:
    """The loop of a run, whose program is compiled, and how long its turns took."""

    def __init__(
        self, data: setup.Data, trainer: Trainer, state: TrainState, mesh: Mesh
    ) -> None:
        """Compiles.

        Args:
          data: of the run.
          trainer: with the run's config.
          state: before the first step; it stays the caller's.
          mesh: the devices.
        """
        self._config = config = trainer.config
        self._mesh = mesh
        self._state = jax.tree.map(jnp.copy, state)
        self._steps = train_step.make_train_steps(trainer, mesh)
        self._windows = None
        if config.data.resident:
            self._windows = resident.place(data.store, data.training, mesh)
        self._batches = setup.training_batches(
            data, config, seed=0, indices_only=config.data.resident
        )
        self._step_s: list[float] = []
        self._waiting: list[float] = []
        started_s = time.perf_counter()
        self._train(config.steps_per_dispatch)
        self._compile_s = time.perf_counter() - started_s

    def close(self) -> None:
        """Stops reading ahead."""
        self._batches.close()

    def turn(self, steps: int) -> None:
        """Makes some steps and notes how long they took."""
        started_s = time.perf_counter()
        values = self._train(steps)
        self._step_s.append((time.perf_counter() - started_s) / steps)
        self._waiting.append(values["waiting_share"])

    def found(self) -> dict[str, Any]:
        """Returns what was measured; the first turn, in which caches fill, is out."""
        return {
            "resident": self._config.data.resident,
            "steps_per_dispatch": self._config.steps_per_dispatch,
            "compile_s": round(self._compile_s, 1),
            "step": measure.spread(self._step_s[1:]),
            "waiting_share": float(np.mean(self._waiting[1:])),
        }

    def _train(self, steps: int) -> dict[str, float]:
        """Returns the values that training would report of so many more steps."""
        config = self._config
        meter = logged_values.Meter(first_step=1, batch_size=config.batch_size)
        for step in range(0, steps, config.steps_per_dispatch):
            drawn = [
                sharding.place_batch(meter.next_batch(self._batches), self._mesh)
                for _ in range(config.steps_per_dispatch)
            ]
            self._state, metrics = self._steps(self._state, drawn, self._windows)
            meter.add(metrics)
            done = step + config.steps_per_dispatch
            if done % config.log_every_steps == 0 and done < steps:
                meter.report()
        return meter.report()


def measure_ways(
    config: ConfigDict, together: int, steps: int, turns: int
) -> list[dict[str, Any]]:
    """Returns the time of a step and the share spent waiting, for each way."""
    data, mesh = setup.load_data(config), sharding.make_mesh()
    lengths = {"steps_per_epoch": data.steps_per_epoch, "steps": data.planned_steps}
    state = setup.first_state(make_trainer(config, **lengths), data, mesh)
    with ExitStack() as stack:
        loops = []
        for on_device, number in itertools.product((False, True), (1, together)):
            own = config.copy_and_resolve_references()
            own.data.resident, own.steps_per_dispatch = on_device, number
            loop = Loop(data, make_trainer(own, **lengths), state, mesh)
            loops.append(stack.enter_context(closing(loop)))
        for _ in range(1 + turns):
            for loop in loops:
                loop.turn(steps)
        return [loop.found() for loop in loops]


def print_table(found: dict[str, Any]) -> None:
    """Prints what was measured."""
    print(
        f"\n{found['config']} on {found['made_with']['device']}, batch "
        f"{found['batch']}, {found['steps']} steps a turn\n\n"
        "| windows | steps a dispatch | step ms (quartiles) | waiting | compile s |\n"
        "|---|---|---|---|---|"
    )
    for way in found["ways"]:
        print(
            f"| {'on the device' if way['resident'] else 'streamed'} | "
            f"{way['steps_per_dispatch']} | {measure.shown(way['step'], 2)} | "
            f"{way['waiting_share']:.3f} | {way['compile_s']} |"
        )


if __name__ == "__main__":
    set_up_jax()
    main()
