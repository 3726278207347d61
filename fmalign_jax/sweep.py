"""Trains many small runs together on one device: seeds, leads, learning rates, weights.

    python -m fmalign_jax.sweep --config configs/sweep.py

One compiled step moves all members. Each ends as the folder of an ordinary run, with
the state that it would have when trained alone. Running the same command again resumes
an interrupted sweep where it stopped.
"""

from __future__ import annotations

import json
import logging
import pathlib
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.config import default_config, saved, sweep_config
from fmalign_jax.data.files import write_json
from fmalign_jax.evaluation.shared_validation import SharedValidation
from fmalign_jax.run import directory
from fmalign_jax.run.checkpoint_files import abstract
from fmalign_jax.run.checkpoints import Checkpoints
from fmalign_jax.sweeps import data as sweep_data
from fmalign_jax.sweeps.data import SweepBatches, SweepData
from fmalign_jax.sweeps.files import MemberFolder, print_members
from fmalign_jax.sweeps.loop import Sweep
from fmalign_jax.sweeps.members import Member, combinations, member_configs
from fmalign_jax.sweeps.vmapped import VmappedRuns
from fmalign_jax.training import setup, sharding
from fmalign_jax.training.shared_level import SharedLevelFit
from fmalign_jax.training.state import TrainState, make_trainer


def train_together(
    config: ConfigDict, members: Sequence[Member], workdir: pathlib.Path
) -> tuple[list[TrainState], dict[str, Any]]:
    """Trains all members of a sweep in a folder, resuming what the folder holds.

    Args:
      config: of a run, as from `default_config`.
      members: what each has of its own. Members at different leads read the same video
        windows, those that every lead can read.
      workdir: folder of the sweep.

    Returns:
      The last state of each member, and the table that was also written to sweep.json.
      ``table["members"][i]`` has the name, changes and run folder of a member, and its
      last ``train`` and ``validation`` values; in the latter ``perplexity/<modality>``,
      ``equal_share`` (equal_num / windows), ``cpc_accuracy``, ``cpc_bound`` (nats), and
      of a shared level ``shared_equal_share``, ``shared_kappa/<pair>``.

    Raises:
      ValueError: on faulty data or settings, settings that members cannot have of
        their own, several processes, or a folder of something else.
      FloatingPointError: when no member has finite values any more.
    """
    started_s = time.perf_counter()
    _check_can_be_together(config)
    configs = member_configs(config, members)
    settings = saved.to_json(config)
    settings["members"] = {member.name: dict(member.changes) for member in members}
    directory.check_same_run(workdir, settings)
    mesh = sharding.one_device_mesh()
    with ExitStack() as stack:
        data = sweep_data.load_data(configs)
        programs = VmappedRuns(
            configs,
            sweep_data.statistics(data, configs[0]),
            steps_per_epoch=data.run.steps_per_epoch,
            steps=data.run.planned_steps,
            mesh=mesh,
        )
        batches = SweepBatches(
            data, configs[0], programs.seeds, indices_only=config.data.resident
        )
        stack.enter_context(closing(batches))
        states = first_states(programs, data, configs[0], mesh)
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints"))
        restored = checkpoints.restore_latest(
            abstract(states, sharding.replicated(mesh))
        )
        write_json(workdir / "config.json", settings, allow_nan=True)
        folders = [
            stack.enter_context(
                MemberFolder(
                    workdir / "members" / one.name,
                    one,
                    own,
                    middle_step=setup.middle_step(data.run, own),
                )
            )
            for one, own in zip(members, configs, strict=True)
        ]
        if restored is not None:
            states, position = restored
            batches.set_state(position["orders"])
            for folder in folders:
                folder.diverged = position["diverged"][folder.member.name]
        sweep = Sweep(
            configs,
            settings,
            data,
            programs,
            mesh,
            batches,
            checkpoints,
            folders,
            SharedLevels(configs, data, mesh),
        )
        start, last = int(states.step), data.run.steps
        logging.info(
            "%s: %d members %s at step %d of %d",
            workdir,
            len(members),
            "starting" if restored is None else "resuming",
            start,
            last,
        )
        earlier_s = _seconds_of_earlier(workdir) if start >= last else None
        for folder in folders:
            folder.start(start, last_step=last)
        states = sweep.run_steps(states)
        table = sweep.table(states)
        seconds = round(time.perf_counter() - started_s, 1)
        table["seconds"] = seconds if earlier_s is None else earlier_s
        write_json(workdir / "sweep.json", table, allow_nan=True)
    finished = [
        sweep.finish.fit(i, programs.member(states, i)) for i in range(len(members))
    ]
    return finished, table


class SharedLevels:
    """The shared level of each member of a sweep: fitted, and how far it is shared.

    One program encodes for all members; each has its own states and its own lead.
    """

    def __init__(
        self, configs: Sequence[ConfigDict], data: SweepData, mesh: Mesh
    ) -> None:
        """Prepares the fit; compiles nothing yet."""
        self._windows = [data.by_lead[config.data.lead_s] for config in configs]
        trainer = make_trainer(
            configs[0],
            steps_per_epoch=data.run.steps_per_epoch,
            steps=data.run.planned_steps,
        )
        self._fit = SharedLevelFit(trainer, data.run.store, mesh)
        self._measures = []
        if trainer.model.has_shared_level:
            self._measures = [
                SharedValidation(trainer, self._fit, windows["validation"])
                for windows in self._windows
            ]

    @property
    def names(self) -> list[str]:
        """Returns the names of the values of `measure`."""
        return self._measures[0].names if self._measures else []

    def fit(self, number: int, state: TrainState) -> TrainState:
        """Returns the state of a member with its shared level fitted."""
        return self._fit(state, self._windows[number]["train"])

    def measure(self, number: int, state: TrainState) -> dict[str, float]:
        """Returns how far the shared codes of a member are shared."""
        return self._measures[number](state) if self._measures else {}


def first_states(
    programs: VmappedRuns, data: SweepData, config: ConfigDict, mesh: Mesh
) -> TrainState:
    """Returns the states before the first step, as single runs draw them."""
    seeds = [seed + 1 for seed in programs.seeds]
    with closing(SweepBatches(data, setup.from_all(config), seeds)) as batches:
        batch = sharding.place_batch(next(batches), mesh)
    return programs.first_states(batch)


def _seconds_of_earlier(workdir: pathlib.Path) -> float | None:
    file = workdir / "sweep.json"
    return json.loads(file.read_text())["seconds"] if file.exists() else None


def _check_can_be_together(config: ConfigDict) -> None:
    """Refuses what a single run can do and a sweep cannot."""
    if jax.process_count() > 1:
        raise ValueError(
            f"a sweep trains on one device of one process; got {jax.process_count()} "
            "processes; start it once, without --processes"
        )
    if config.steps_per_dispatch > 1:
        raise ValueError(
            "a sweep makes one step of all members in a call; got steps_per_dispatch="
            f"{config.steps_per_dispatch}; set it to 1"
        )
    if config.data.draw_lead:
        raise ValueError(
            "each member of a sweep has one lead; got data.draw_lead=True; set it to "
            "False, or train that run alone"
        )
    if config.labelled_validation:
        raise ValueError(
            "a sweep validates without labels; got labelled_validation=True; set it to "
            "False, and evaluate the members afterwards"
        )


def main(config: ConfigDict) -> None:
    """Trains the sweep of the command line and prints its table."""
    named = ConfigDict({**config.run, "vary": config.vary})
    workdir = cli.workdir() or directory.default_path(cli.config_name(), named)
    _, table = train_together(config.run, combinations(config.vary.to_dict()), workdir)
    print_members(table)
    print(f"written to {workdir}; each member is a run in {workdir / 'members'}")


if __name__ == "__main__":
    cli.run(main, lambda: sweep_config(default_config()), own_modules=True)
