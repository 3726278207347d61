"""Checkpoints by Orbax: what is saved, how damage is found, how it is restored.

A checkpoint of step N holds five items: `model` (parameters, input statistics and what
the system keeps beside them: all that evaluation needs), `optim` (the rest of the train
state), `data` (position of the data iterator), `config`, and `digest` (of every array,
of `data` and of `config`). Orbax writes to a temporary folder and renames it, so a
killed save leaves the checkpoint before it intact; a flipped byte it does not notice,
hence the digests.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from fmalign_jax.run import integrity
from fmalign_jax.run.checkpoint_files import SCORE, restore_args
from fmalign_jax.run.integrity import DamagedCheckpointError
from fmalign_jax.training import joined
from fmalign_jax.training.state import TrainState

PyTree = Any

_OPTIMISERS = {"opt_state": "params", "critic_opt_state": "critic_params"}
"""What an optimiser remembers, and of what."""

_BESIDE_ARRAYS = 4 << 20
"""Bytes that a checkpoint takes at most beside its arrays: index, digests, config."""


class Checkpoints:
    """The checkpoints of one run: the latest two, the best and given ones are kept."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep_latest: int = 2,
        keep_steps: Sequence[int] = (),
    ) -> None:
        """Opens (and creates) a folder of checkpoints.

        Args:
          directory: folder of numbered checkpoints.
          keep_latest: how many of the latest checkpoints to keep beside the best.
          keep_steps: which to keep besides, if they are saved.
        """
        self._directory = directory.absolute()
        if jax.process_index() == 0:
            for file, score in integrity.scores(self._directory, SCORE).items():
                if score is None:
                    logging.warning("%s is damaged: removed; its score is lost", file)
                    file.unlink()
        multihost_utils.sync_global_devices("scores checked")
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep_latest),
                checkpoint_managers.CustomSteps(keep_steps),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[SCORE],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=lambda metrics: metrics[SCORE],
                cleanup_tmp_directories=True,
            ),
            item_handlers={
                "model": ocp.PyTreeCheckpointHandler(),
                "optim": ocp.PyTreeCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
                "digest": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> Checkpoints:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for the last save and releases the folder."""
        self._manager.close()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the step with the highest validation score, None without scores."""
        step: int | None = self._manager.best_step()
        return step

    def score(self, step: int | None) -> float | None:
        """Returns the validation score of a checkpoint, None if it was not measured."""
        metrics = None if step is None else self._manager.metrics(step)
        return None if metrics is None else float(metrics[SCORE])

    def path(self, step: int) -> pathlib.Path:
        """Returns the folder of one checkpoint."""
        return self._directory / str(step)

    def save(
        self,
        state: TrainState,
        *,
        data: dict[str, Any],
        config: dict[str, Any],
        score: float | None = None,
    ) -> None:
        """Saves a state; returns once it is safe to go on training.

        Args:
          state: after `state.step` updates.
          data: state of the data iterator BEFORE the next batch is drawn.
          config: the run's config, for evaluation.
          score: validation score of this state, if one was just measured.

        Raises:
          ValueError: when there is already a checkpoint of this or a later step, or the
            score is not finite.
          OSError: there is no room for it.
        """
        if score is not None and not math.isfinite(score):
            raise ValueError(
                "a score must be finite, or the best checkpoint could not be told; got "
                f"{score}; validate again or save without one"
            )
        step = int(state.step)
        items = _items(state)
        self._check_room(items)
        digest = {name: integrity.digests(tree) for name, tree in items.items()}
        values: dict[str, Any] = {"data": data, "config": config}
        if score is not None:
            values[SCORE] = score = float(score)
        for name, value in values.items():
            digest[name] = {"": integrity.json_digest(value)}
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.PyTreeSave(items["model"]),
                optim=ocp.args.PyTreeSave(items["optim"]),
                data=ocp.args.JsonSave(data),
                config=ocp.args.JsonSave(config),
                digest=ocp.args.JsonSave(integrity.sealed(digest)),
            ),
            metrics=None if score is None else {SCORE: score},
        )
        if not saved:
            raise ValueError(
                "checkpoints are saved in the order of their steps, each once; got "
                f"step {step} in {self._directory}, which holds {self.steps()}; choose "
                "another --workdir"
            )

    def _check_room(self, items: PyTree) -> None:
        """Checks that a checkpoint has room on the disk.

        Where the disk becomes full, Orbax prints a traceback for every array.

        Raises:
          OSError: it has not.
        """
        self.wait()  # what is still being written takes its room first
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(items)) + _BESIDE_ARRAYS
        free = multihost_utils.broadcast_one_to_all(
            np.float32(shutil.disk_usage(self._directory).free)
        )
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: a checkpoint takes "
                f"{needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
                str(self._directory),
            )

    def restore_latest(
        self, abstract_state: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest undamaged checkpoint.

        Damaged ones on the way are reported and, once an older one is restored, moved
        aside, so that the run can write those steps again.

        Args:
          abstract_state: shapes, dtypes and shardings (jax.ShapeDtypeStruct) of the
            state; the number of devices may differ from when it was saved.

        Returns:
          The state and the state of the data iterator; None without a checkpoint.

        Raises:
          DamagedCheckpointError: when there are checkpoints but all are damaged.
          MismatchedCheckpointError: when the newest whole one is of another model.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                restored = self._restore(step, abstract_state)
            except Exception as error:  # Orbax raises bare ones on unreadable arrays
                if not integrity.is_damage(error):
                    raise
                logging.warning(
                    "checkpoint %d is damaged: %s", step, integrity.reason(error)
                )
                damaged.append(step)
            else:
                self._set_aside(damaged)
                return restored
        if damaged:
            raise DamagedCheckpointError(
                f"a run resumes from an undamaged checkpoint; of {self._directory} all "
                f"({', '.join(map(str, reversed(damaged)))}) are damaged; they were "
                "left in place: restore a copy, or start again with another --workdir"
            )
        return None

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        self._manager.wait_until_finished()

    def _restore(
        self, step: int, abstract_state: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        items = _items(abstract_state)
        saved = integrity.unsealed(self._restore_json(step, "digest")["digest"])
        was_joined = any(joined.VECTOR in path for path in saved["optim"])
        if not was_joined:  # saved by a version that kept every array apart
            items["optim"] = _apart(items["optim"], abstract_state)
        for name, target in items.items():
            integrity.check_fits(name, target, saved[name])
            integrity.check_readable(self.path(step) / name)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=restore_args(items["model"]),
                optim=restore_args(items["optim"]),
            ),
        )
        for name in items:
            integrity.compare(name, integrity.digests(restored[name]), saved[name])
        values = self._restore_json(step, "data", "config")
        for name, value in values.items():
            integrity.compare(name, {"": integrity.json_digest(value)}, saved[name])
        model, optim = restored["model"], restored["optim"]
        if not was_joined:
            for name in _OPTIMISERS:
                like = getattr(abstract_state, name)
                optim[name] = joined.joined_state(optim[name], like)
        state = dataclasses.replace(
            abstract_state,
            params={"model": model["params"], "objectives": optim.pop("objectives")},
            model_state={name: model[name] for name in abstract_state.model_state},
            statistics=model["statistics"],
            **optim,
        )
        return state, values["data"]

    def _restore_json(self, step: int, *names: str) -> dict[str, Any]:
        args = {name: ocp.args.JsonRestore() for name in names}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {name: restored[name] for name in names}

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            target = self._directory.with_name("damaged_checkpoints")
            target.mkdir(exist_ok=True)
            for step in steps:
                count = len(list(target.iterdir()))
                self.path(step).rename(target / f"{step}-{count}")
        multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()


def _items(state: TrainState) -> dict[str, dict[str, PyTree]]:
    return {
        "model": {
            "params": state.params["model"],
            "statistics": state.statistics,
            **state.model_state,
        },
        "optim": {
            "step": state.step,
            "objectives": state.params["objectives"],
            "opt_state": state.opt_state,
            "critic_params": state.critic_params,
            "critic_opt_state": state.critic_opt_state,
        },
    }


def _apart(optim: dict[str, PyTree], state: TrainState) -> dict[str, PyTree]:
    """Returns the item as it was before the optimisers' arrays were joined."""
    shapes = {
        name: joined.apart(optim[name], getattr(state, of))
        for name, of in _OPTIMISERS.items()
    }
    return optim | shapes
