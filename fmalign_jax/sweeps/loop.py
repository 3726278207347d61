"""A sweep under way: steps of all members, their reports, validations and saves."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fmalign_jax.data import pipeline
from fmalign_jax.progress import Bar
from fmalign_jax.run.checkpoints import Checkpoints
from fmalign_jax.sweeps.data import SweepBatches, SweepData
from fmalign_jax.sweeps.files import MemberFolder, curves_over_leads
from fmalign_jax.sweeps.vmapped import VmappedRuns
from fmalign_jax.training import logged_values, resident, setup, sharding
from fmalign_jax.training.interruption import Interruption
from fmalign_jax.training.state import TrainState
from fmalign_jax.training.validation import score_of


@runtime_checkable
class Finish(Protocol):
    """What is done with a member's state before it is judged or saved."""

    @property
    def names(self) -> list[str]:
        """Returns the names of what `measure` measures."""

    def fit(self, number: int, state: TrainState) -> TrainState:
        """Returns the state of a member with what is fitted in closed form."""

    def measure(self, number: int, state: TrainState) -> dict[str, float]:
        """Returns what validation measures besides losses and the use of codes."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One sweep under way: what `train.train` has for one run, for all members."""

    configs: Sequence[ConfigDict]
    settings: dict[str, Any]
    data: SweepData
    programs: VmappedRuns
    mesh: Mesh
    batches: SweepBatches
    checkpoints: Checkpoints
    folders: Sequence[MemberFolder]
    finish: Finish

    def run_steps(self, states: TrainState) -> TrainState:
        """Trains to the last step, or until asked to stop; saves on the way."""
        config, last_step = self.configs[0], self.data.run.steps
        cadence = setup.Cadence.of(self.data.run, config)
        if cadence.evaluate_every is not None:
            self._check_score(states)
        windows = self._place_windows("train")
        start = int(states.step)
        pending: list[Any] = []
        clock = logged_values.Clock()
        bar = Bar(total=last_step, initial=start)
        with Interruption() as interruption, bar:
            for step in range(start + 1, last_step + 1):
                batch = sharding.place_batch(clock.next_batch(self.batches), self.mesh)
                states, metrics = self.programs.train_step(states, batch, windows)
                pending.append(metrics)
                bar.update()

                log = step % config.log_every_steps == 0
                stop = interruption.requested(agree_after=None)
                evaluate, save = cadence.evaluates(step), stop or cadence.saves(step)
                if log or save:
                    self._report(step, pending, clock)
                    pending = []
                scores: dict[str, float] = {}
                if evaluate or step in (cadence.middle, last_step):
                    members = self._finished(states)
                    if evaluate:
                        scores = self._validate(step, states, members)
                        bar.write(f"step {step}: {config.score} {_range(scores)}")
                    self._save_members(members, scores)
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
        members = [
            folder.finish(step, steps=steps, finished=step >= steps)
            for folder in self.folders
        ]
        return {
            "members": members,
            "leads": curves_over_leads(members),
            "step": step,
            "steps": steps,
            "finished": step >= steps,
            "windows": {name: len(own) for name, own in self.data.windows.items()},
            "devices": [str(device) for device in self.mesh.devices.flat],
            "versions": {"jax": jax.__version__},
        }

    def _report(
        self, step: int, pending: list[Any], clock: logged_values.Clock
    ) -> None:
        """Logs the training values of each member since the last report."""
        steps = jax.device_get(pending)
        speed = clock.speed(len(steps) * self.configs[0].batch_size)
        clock.restart()
        statistics = logged_values.merged([metrics["statistics"] for metrics in steps])
        for number, folder in self._going():
            try:
                values = logged_values.summarise_steps(
                    [_row(metrics["scalars"], number) for metrics in steps],
                    _row(statistics, number),
                    first_step=step - len(steps) + 1,
                )
            except FloatingPointError as error:
                self._give_up(folder, error)
            else:
                folder.log(step, "train", values | speed)

    def _finished(self, states: TrainState) -> dict[int, TrainState]:
        """Returns the states of the members that go on, ready to be judged."""
        return {
            number: self.finish.fit(number, self.programs.member(states, number))
            for number, _ in self._going()
        }

    def _validate(
        self, step: int, states: TrainState, members: Mapping[int, TrainState]
    ) -> dict[str, float]:
        """Logs the validation of each member; returns their scores by name."""
        windows = self._validation_windows
        merged = logged_values.merge_batches(
            self.programs.evaluate(states, self._place_one(batch), windows)
            for batch in self._validation_batches()
        )
        scores = {}
        for number, folder in self._going():
            values = logged_values.summarise([_row(merged, number)])
            values |= self.finish.measure(number, members[number])
            try:
                logged_values.check_finite(values, step=step, split="validation")
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
        windows = self._validation_windows
        shapes = jax.eval_shape(self.programs.evaluate, states, batch, windows)
        values = logged_values.summarise([_row(logged_values.blank(shapes), 0)])
        names = self.finish.names
        score_of(values | dict.fromkeys(names, math.nan), self.configs[0].score)

    def _save_members(
        self, members: Mapping[int, TrainState], scores: dict[str, float]
    ) -> None:
        orders = self.batches.get_state()
        for number, folder in self._going():
            config = self.configs[number]
            windows = self.data.by_lead[config.data.lead_s]["train"]
            digest = pipeline.windows_digest(
                self.data.run.store, windows, config.data.batch_from
            )
            order = orders[self.programs.seeds.index(config.seed)]
            folder.save(
                members[number],
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
            indices_only=self.configs[0].data.resident,
        )

    def _place_windows(self, split: str) -> dict[str, Any] | None:
        """Puts the windows of a split onto the device, if the config asks for that."""
        if not self.configs[0].data.resident:
            return None
        return resident.place(self.data.run.store, self.data.windows[split], self.mesh)

    @functools.cached_property
    def _validation_windows(self) -> dict[str, Any] | None:
        return self._place_windows("validation")

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


def _row(tree: Any, number: int) -> Any:
    """Returns one member's part of fetched metrics."""
    return jax.tree.map(lambda x: x[number], tree)


def _range(scores: dict[str, float]) -> str:
    return f"{min(scores.values()):.4f} to {max(scores.values()):.4f}"
