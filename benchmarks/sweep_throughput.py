"""Measures runs trained together against the same runs one after the other.

    python benchmarks/sweep_throughput.py --config configs/pretrain.py:smoke

Whole runs, as a user starts them, in one process: reading, compiling, training,
validating, saving. Both begin with an empty cache of compiled programs, and runs that
come one after the other may use what those before them compiled. Beside it the step
alone, warm, on batches that are there already. The data set of the config is prepared
first, if it is not there.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
from contextlib import closing
from typing import Any

import cases
import jax
import measure
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from fmalign_jax import sweep, train
from fmalign_jax.data.files import write_text
from fmalign_jax.sweeps import data as sweep_data
from fmalign_jax.sweeps.members import Member, member_configs
from fmalign_jax.sweeps.vmapped import VmappedRuns
from fmalign_jax.training import setup, sharding, step as train_step
from fmalign_jax.training.state import make_trainer

LONGEST_LEAD_S = 420.0
CACHE_LIMITS = {  # as `command.keep_compiled_programs` has them
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_min_compile_time_secs": 0.5,
}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE or FILE:VARIANT")
    parser.add_argument("--data", help="path of the recordings, by default config's")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--by", choices=("lead", "seed"), default="lead")
    parser.add_argument(
        "--alone",
        type=int,
        help="runs one after the other, by default all members; the rest are taken to "
        "be as long as those after the first, which compiles",
    )
    parser.add_argument("--steps", type=int, default=0, help="of a run, at most")
    parser.add_argument("--budget-s", type=float, default=10.0, help="for warm steps")
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    arguments = parser.parse_args()
    config = cases.load_config(arguments.config)
    config.max_steps = arguments.steps or config.max_steps
    if arguments.data:
        config.data.path = arguments.data
    members = make_members(arguments.members, arguments.by)
    found = {
        "config": arguments.config,
        "made_with": measure.provenance(),
        "members": len(members),
        "by": arguments.by,
        **measure_steps(config, members, budget_s=arguments.budget_s),
        **measure_runs(config, members, alone=arguments.alone or len(members)),
    }
    print_table(found)
    if arguments.out:
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")


def make_members(number: int, by: str) -> list[Member]:
    """Returns members that differ in their leads or in their seeds."""
    if by == "seed":
        return [Member(f"seed={seed}", {"seed": seed}) for seed in range(number)]
    leads_s = np.round(np.linspace(0.0, LONGEST_LEAD_S, number)).tolist()
    return [Member(f"lead_s={lead:g}", {"data.lead_s": lead}) for lead in leads_s]


def measure_steps(
    config: ConfigDict, members: list[Member], *, budget_s: float
) -> dict[str, Any]:
    """Returns the time of a warm step of all members, and of one alone."""
    configs = member_configs(config, members)
    mesh = sharding.one_device_mesh()
    data = sweep_data.load_data(configs)
    lengths = {
        "steps_per_epoch": data.run.steps_per_epoch,
        "steps": data.run.planned_steps,
    }
    statistics = sweep_data.statistics(data, configs[0])
    programs = VmappedRuns(configs, statistics, **lengths, mesh=mesh)
    states = sweep.first_states(programs, data, configs[0], mesh)
    with closing(sweep_data.SweepBatches(data, configs[0], programs.seeds)) as batches:
        batch = sharding.place_batch(next(batches), mesh)

    def all_members() -> Any:
        nonlocal states
        states, metrics = programs.train_step(states, batch)
        return metrics

    trainer = make_trainer(configs[0], **lengths)
    state = setup.first_state(trainer, data.run, mesh)
    step = train_step.make_train_step(trainer, mesh)
    with closing(setup.training_batches(data.run, configs[0], seed=0)) as batches:
        own = sharding.place_batch(next(batches), mesh)

    def one() -> Any:
        nonlocal state
        state, metrics = step(state, own)
        return metrics

    found: dict[str, Any] = {}
    for name, call in (("together", all_members), ("alone", one)):
        found[f"compile_{name}_s"] = measure.seconds(call)
        times_s = measure.repeated(call, budget_s=budget_s)
        found[f"step_{name}"] = measure.spread(times_s)
    alone, together = (
        found[f"step_{name}"]["median_ms"] for name in ("alone", "together")
    )
    return found | {"step_ratio": len(members) * alone / together}


def measure_runs(
    config: ConfigDict, members: list[Member], *, alone: int
) -> dict[str, Any]:
    """Returns the runs an hour, whole runs together and one after the other."""
    configs = member_configs(config, members)
    with tempfile.TemporaryDirectory() as folder:
        runs = pathlib.Path(folder)
        with_empty_cache(runs / "compiled_together")
        started_s = time.perf_counter()
        sweep.train_together(config, members, runs / "sweep")
        together_s = time.perf_counter() - started_s
        with_empty_cache(runs / "compiled_alone")
        alone_s = []
        for number, own in enumerate(configs[:alone]):
            started_s = time.perf_counter()
            train.train(own, runs / f"alone_{number}")
            alone_s.append(time.perf_counter() - started_s)
    together_rate = 3600 * len(members) / together_s
    left = len(members) - len(alone_s)
    all_alone_s = sum(alone_s) + left * float(np.mean(alone_s[1:] or alone_s))
    alone_rate = 3600 * len(members) / all_alone_s
    return {
        "together_s": together_s,
        "alone_s": alone_s,
        "runs_per_hour_together": together_rate,
        "runs_per_hour_alone": alone_rate,
        "ratio": together_rate / alone_rate,
    }


def with_empty_cache(folder: pathlib.Path) -> None:
    """Forgets what is compiled, and keeps programs in a new folder from here on."""
    forget_programs()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, limit in CACHE_LIMITS.items():
        jax.config.update(name, limit)


def forget_programs() -> None:
    """Forgets what is compiled; what lies in a folder is not looked at any more."""
    jax.clear_caches()
    compilation_cache.reset_cache()


def print_table(found: dict[str, Any]) -> None:
    """Prints what was measured."""
    print(
        f"\n{found['config']} on {found['made_with']['device']}: {found['members']} "
        f"members by {found['by']}\n\n"
        "| | together | one after the other | ratio |\n|---|---|---|---|\n"
        f"| runs an hour | {found['runs_per_hour_together']:.1f} | "
        f"{found['runs_per_hour_alone']:.1f} | {found['ratio']:.2f} |\n"
        "| a step of all members, warm, ms | "
        f"{found['step_together']['median_ms']:.1f} | "
        f"{found['members'] * found['step_alone']['median_ms']:.1f} | "
        f"{found['step_ratio']:.2f} |"
    )


if __name__ == "__main__":
    main()
