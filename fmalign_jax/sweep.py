"""Trains many small runs together on one device: seeds, leads, learning rates, weights.

    python -m fmalign_jax.sweep --config configs/sweep.py

One compiled step moves all members. Each ends as the folder of an ordinary run, with
the state that it would have when trained alone. Running the same command again resumes
an interrupted sweep where it stopped.
"""

from __future__ import annotations

import dataclasses
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
from tqdm import tqdm

from fmalign_jax import command, reporting, run_directory, sharding, sweep_data
from fmalign_jax.checkpoint import Checkpoints, abstract
from fmalign_jax.data import pipeline
from fmalign_jax.interruption import Interruption
from fmalign_jax.members import Member, combinations, member_configs
from fmalign_jax.sweep_data import SweepBatches, SweepData
from fmalign_jax.sweep_files import MemberFolder, print_table, write_json
from fmalign_jax.together import Together
from fmalign_jax.train_state import TrainState
from fmalign_jax.validation import score_of


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
      ``equal_share`` (equal_num / windows), ``cpc_accuracy``, ``cpc_bound`` (nats).

    Raises:
      ValueError: on faulty data or settings, settings that members cannot have of
        their own, several processes, or a folder of something else.
      FloatingPointError: when no member has finite values any more.
    """
    started_s = time.perf_counter()
    _check_can_be_together(config)
    configs = member_configs(config, members)
    settings = run_directory.to_json(config)
    settings["members"] = {member.name: dict(member.changes) for member in members}
    run_directory.check_same_run(workdir, settings)
    mesh = sharding.one_device_mesh()
    with ExitStack() as stack:
        data = sweep_data.load_data(configs)
        programs = Together(
            configs,
            sweep_data.statistics(data, configs[0]),
            steps_per_epoch=data.run.steps_per_epoch,
            steps=data.run.planned_steps,
            mesh=mesh,
        )
        batches = SweepBatches(data, configs[0], programs.seeds)
        stack.enter_context(closing(batches))
        states = first_states(programs, data, configs[0], mesh)
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints"))
        restored = checkpoints.restore_latest(
            abstract(states, sharding.replicated(mesh))
        )
        write_json(workdir / "config.json", settings)
        folders = [
            stack.enter_context(MemberFolder(workdir / "members" / one.name, one, own))
            for one, own in zip(members, configs, strict=True)
        ]
        if restored is not None:
            states, position = restored
            batches.set_state(position["orders"])
            for folder in folders:
                folder.diverged = position["diverged"][folder.member.name]
        sweep = Sweep(
            configs, settings, data, programs, mesh, batches, checkpoints, folders
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
        write_json(workdir / "sweep.json", table)
    return [programs.member(states, i) for i in range(len(members))], table


def first_states(
    programs: Together, data: SweepData, config: ConfigDict, mesh: Mesh
) -> TrainState:
    """Returns the states before the first step, as single runs draw them."""
    seeds = [seed + 1 for seed in programs.seeds]
    with closing(SweepBatches(data, config, seeds)) as batches:
        batch = sharding.place_batch(next(batches), mesh)
    return programs.first_states(batch)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One sweep under way: what `train.train` has for one run, for all members."""

    configs: Sequence[ConfigDict]
    settings: dict[str, Any]
    data: SweepData
    programs: Together
    mesh: Mesh
    batches: SweepBatches
    checkpoints: Checkpoints
    folders: Sequence[MemberFolder]

    def run_steps(self, states: TrainState) -> TrainState:
        """Trains to the last step, or until asked to stop; saves on the way."""
        config, last_step = self.configs[0], self.data.run.steps
        has_validation = len(self.data.windows["validation"]) > 0
        if has_validation:
            self._check_score(states)
        per_epoch = self.data.run.steps_per_epoch
        eval_every = max(1, round(config.eval_every_epochs * per_epoch))
        start = int(states.step)
        pending: list[Any] = []
        clock = _Clock()
        bar = tqdm(total=last_step, initial=start, unit="step")
        with Interruption() as interruption, bar:
            for step in range(start + 1, last_step + 1):
                batch = sharding.place_batch(clock.next_batch(self.batches), self.mesh)
                states, metrics = self.programs.train_step(states, batch)
                pending.append(metrics)
                bar.update()

                log = step % config.log_every_steps == 0
                stop = interruption.requested(agree_after=None)
                last = stop or step == last_step
                evaluate = has_validation and (
                    step % eval_every == 0 or step == last_step
                )
                save = last or evaluate or step % config.checkpoint_every_steps == 0
                if log or save:
                    self._report(step, pending, clock)
                    pending = []
                scores: dict[str, float] = {}
                if evaluate:
                    scores = self._validate(step, states)
                    bar.write(f"step {step}: {config.score} {_range(scores)}")
                if evaluate or step == last_step:
                    self._save_members(states, scores)
                if save:
                    # Before the next batch is drawn, so that data and states agree.
                    self.checkpoints.save(
                        states, data=self._position(), config=self.settings
                    )
                    clock.restart()
                if stop:
                    logging.warning("asked to stop: saved step %d", step)
                    break
        self.checkpoints.wait()
        return states

    def table(self, states: TrainState) -> dict[str, Any]:
        """Returns what a sweep ends with: a row for each member."""
        step, steps = int(states.step), self.data.run.steps
        return {
            "members": [
                folder.finish(step, steps=steps, finished=step >= steps)
                for folder in self.folders
            ],
            "step": step,
            "steps": steps,
            "finished": step >= steps,
            "windows": {name: len(own) for name, own in self.data.windows.items()},
            "devices": [str(device) for device in self.mesh.devices.flat],
            "versions": {"jax": jax.__version__},
        }

    def _report(self, step: int, pending: list[Any], clock: _Clock) -> None:
        """Logs the training values of each member since the last report."""
        steps = jax.device_get(pending)
        speed = clock.report(len(steps) * self.configs[0].batch_size)
        codes = reporting.merged([metrics["codes"] for metrics in steps])
        for number, folder in self._going():
            try:
                values = reporting.summarise_steps(
                    [_row(metrics["scalars"], number) for metrics in steps],
                    _row(codes, number),
                    first_step=step - len(steps) + 1,
                )
            except FloatingPointError as error:
                self._give_up(folder, error)
            else:
                folder.log(step, "train", values | speed)

    def _validate(self, step: int, states: TrainState) -> dict[str, float]:
        """Logs the validation of each member; returns their scores by name."""
        merged = reporting.merge_batches(
            self.programs.evaluate(states, self._place_one(batch))
            for batch in self._validation_batches()
        )
        scores = {}
        for number, folder in self._going():
            values = reporting.summarise([_row(merged, number)])
            try:
                reporting.check_finite(values, step=step, split="validation")
            except FloatingPointError as error:
                self._give_up(folder, error)
            else:
                folder.log(step, "validation", values)
                score = self.configs[number].score
                scores[folder.member.name] = score_of(values, score)
        return scores

    def _check_score(self, states: TrainState) -> None:
        """Checks that the config's score will be measured, without computing it."""
        batch = self._place_one(self._validation_batches()[0])
        shapes = jax.eval_shape(self.programs.evaluate, states, batch)
        values = reporting.summarise([_row(reporting.blank(shapes), 0)])
        score_of(values, self.configs[0].score)

    def _save_members(self, states: TrainState, scores: dict[str, float]) -> None:
        orders = self.batches.get_state()
        for number, folder in self._going():
            config = self.configs[number]
            windows = self.data.by_lead[config.data.lead_s]["train"]
            digest = pipeline.windows_digest(
                self.data.run.store, windows, config.data.batch_from
            )
            order = orders[self.programs.seeds.index(config.seed)]
            folder.save(
                self.programs.member(states, number),
                data=order | {"windows_crc32": digest},
                score=scores.get(folder.member.name),
            )

    def _position(self) -> dict[str, Any]:
        return {
            "orders": self.batches.get_state(),
            "diverged": {one.member.name: one.diverged for one in self.folders},
        }

    def _validation_batches(self) -> pipeline.EvaluationBatches:
        return pipeline.evaluation_batches(
            self.data.run.store,
            self.data.windows["validation"],
            batch_size=self.configs[0].batch_size,
        )

    def _place_one(self, batch: Any) -> dict[str, Any]:
        """Places an evaluation batch: one order of windows for all."""
        return sharding.place_batch(jax.tree.map(lambda x: x[None], batch), self.mesh)

    def _going(self) -> list[tuple[int, MemberFolder]]:
        """Returns the members whose values are finite; the others step on unseen."""
        return [
            (number, folder)
            for number, folder in enumerate(self.folders)
            if folder.diverged is None
        ]

    def _give_up(self, folder: MemberFolder, error: FloatingPointError) -> None:
        folder.diverged = str(error)
        logging.warning("%s is given up: %s", folder.member.name, error)
        if not self._going():
            raise FloatingPointError(f"no member is left: {error}") from error


class _Clock:
    """The speed of all members, and the share of time spent waiting for batches."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._waited_s = 0.0
        self._started_s = time.perf_counter()

    def next_batch(self, batches: SweepBatches) -> dict[str, Any]:
        started_s = time.perf_counter()
        batch = next(batches)
        self._waited_s += time.perf_counter() - started_s
        return batch

    def report(self, windows: int) -> dict[str, float]:
        elapsed_s = time.perf_counter() - self._started_s
        speed = {
            "windows_per_s": windows / elapsed_s,
            "waiting_share": self._waited_s / elapsed_s,
        }
        self.restart()
        return speed


def _row(tree: Any, number: int) -> Any:
    """Returns one member's part of fetched metrics."""
    return jax.tree.map(lambda x: x[number], tree)


def _range(scores: dict[str, float]) -> str:
    return f"{min(scores.values()):.4f} to {max(scores.values()):.4f}"


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
    if config.labelled_validation:
        raise ValueError(
            "a sweep validates without labels; got labelled_validation=True; set it to "
            "False, and evaluate the members afterwards"
        )


def main(config: ConfigDict) -> None:
    """Trains the sweep of the command line and prints its table."""
    named = ConfigDict({**config.run, "vary": config.vary})
    workdir = command.workdir() or run_directory.default_path(
        command.config_name(), named
    )
    _, table = train_together(config.run, combinations(config.vary.to_dict()), workdir)
    print_table(table)
    print(f"written to {workdir}; each member is a run in {workdir / 'members'}")


if __name__ == "__main__":
    command.run(main)
