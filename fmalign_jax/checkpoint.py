"""Checkpoints by Orbax: what is saved, how damage is found, how it is restored.

A checkpoint of step N holds five items: `model` (encoders, codebook and input
statistics: all that evaluation needs), `optim` (the rest of the train state), `data`
(position of the data iterator), `config`, and `digest` (a hash per array and of
`data`). Orbax writes to a temporary folder and renames it, so a killed save leaves the
checkpoint before it intact; a flipped byte it does not notice, hence the digests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint import checkpoint_managers

from fmalign_jax.train_state import TrainState

SCORE = "score"
"""Name of the validation score (higher is better) by which the best is chosen."""

PyTree = Any


class DamagedCheckpointError(ValueError):
    """A checkpoint whose content is not what was saved."""


class Checkpoints:
    """The checkpoints of one run: the latest two and the best one are kept."""

    def __init__(self, directory: pathlib.Path, *, keep_latest: int = 2) -> None:
        """Opens (and creates) a folder of checkpoints.

        Args:
          directory: folder of numbered checkpoints.
          keep_latest: how many of the latest checkpoints to keep beside the best.
        """
        self._directory = directory.absolute()
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep_latest),
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
        """
        items = _items(state)
        digest = {name: _digests(tree) for name, tree in items.items()}
        digest["data"] = {"": _json_digest(data)}
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                model=ocp.args.PyTreeSave(items["model"]),
                optim=ocp.args.PyTreeSave(items["optim"]),
                data=ocp.args.JsonSave(data),
                config=ocp.args.JsonSave(config),
                digest=ocp.args.JsonSave(digest),
            ),
            metrics=None if score is None else {SCORE: score},
        )

    def restore_latest(
        self, abstract_state: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest undamaged checkpoint.

        Damaged ones on the way are reported and moved aside, so that the run can
        write those steps again.

        Args:
          abstract_state: shapes, dtypes and shardings (jax.ShapeDtypeStruct) of the
            state; the number of devices may differ from when it was saved.

        Returns:
          The state and the state of the data iterator; None without a checkpoint.

        Raises:
          DamagedCheckpointError: when there are checkpoints but all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._restore(step, abstract_state)
            except Exception as error:  # Orbax raises bare ones on unreadable arrays
                reason = str(error).strip().splitlines()[0][:200]
                logging.warning("checkpoint %d is damaged: %s", step, reason)
                self._set_aside(step)
        if steps:
            raise DamagedCheckpointError(
                f"a run resumes from an undamaged checkpoint; of {self._directory} all "
                f"({', '.join(map(str, steps))}) are damaged and were moved to "
                f"{self._damaged_directory()}; start again with another --workdir"
            )
        return None

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        self._manager.wait_until_finished()

    def _restore(
        self, step: int, abstract_state: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        items = _items(abstract_state)
        for name in items:
            _check_readable(self.path(step) / name)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=_restore_args(items["model"]),
                optim=_restore_args(items["optim"]),
                data=ocp.args.JsonRestore(),
                digest=ocp.args.JsonRestore(),
            ),
        )
        saved = restored["digest"]
        for name in items:
            _compare(name, _digests(restored[name]), saved[name])
        _compare("data", {"": _json_digest(restored["data"])}, saved["data"])
        model, optim = restored["model"], restored["optim"]
        state = dataclasses.replace(
            abstract_state,
            params={"model": model["params"], "objectives": optim.pop("objectives")},
            codebook=model["codebook"],
            statistics=model["statistics"],
            **optim,
        )
        return state, restored["data"]

    def _damaged_directory(self) -> pathlib.Path:
        return self._directory.with_name("damaged_checkpoints")

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            target = self._damaged_directory()
            target.mkdir(exist_ok=True)
            count = len(list(target.iterdir()))
            self.path(step).rename(target / f"{step}-{count}")
        self._manager.reload()


def restore_model(directory: pathlib.Path, step: int, abstract_model: PyTree) -> PyTree:
    """Restores encoders, codebook and statistics alone, without optimiser state.

    Args:
      directory: a run's folder of checkpoints.
      step: which checkpoint.
      abstract_model: shapes, dtypes and shardings of {"params", "codebook",
        "statistics"}; any number of devices.

    Raises:
      DamagedCheckpointError: when the arrays are not those that were saved.
    """
    folder = directory.absolute() / str(step)
    _check_readable(folder / "model")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        args = _restore_args(abstract_model)
        model = checkpointer.restore(folder / "model", args=args)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        saved = checkpointer.restore(folder / "digest", args=ocp.args.JsonRestore())
    _compare("model", _digests(model), saved["model"])
    return model


def abstract(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
    """Returns the shapes and dtypes of a tree, to be restored onto a sharding."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def _check_readable(item: pathlib.Path) -> None:
    """Reads every array once, one after another, so that damage raises here.

    Orbax asks for all arrays at once. When one fails it stops listening, and each of
    the others then prints an error of its own from a background thread.
    """
    base = {"driver": "ocdbt", "base": f"file://{item}/"}
    for key in tensorstore.KvStore.open(base).result().list().result():
        path, _, file = key.decode().rpartition("/")
        if file == ".zarray":
            store = {"driver": "zarr", "kvstore": {**base, "path": f"{path}/"}}
            tensorstore.open(store).result().read().result()


def _items(state: TrainState) -> dict[str, dict[str, PyTree]]:
    return {
        "model": {
            "params": state.params["model"],
            "codebook": state.codebook,
            "statistics": state.statistics,
        },
        "optim": {
            "step": state.step,
            "objectives": state.params["objectives"],
            "opt_state": state.opt_state,
            "critic_params": state.critic_params,
            "critic_opt_state": state.critic_opt_state,
        },
    }


def _restore_args(item: PyTree) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        item, restore_args=ocp.checkpoint_utils.construct_restore_args(item)
    )


def _digests(tree: PyTree) -> dict[str, str]:
    """Returns a hash of every array, by its path in the tree."""
    leaves: Iterable[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _array_digest(leaf) for path, leaf in leaves}


def _array_digest(array: jax.Array) -> str:
    host = np.ascontiguousarray(np.asarray(array.addressable_data(0)))
    header = f"{host.dtype}{array.shape}".encode()
    return hashlib.blake2b(header + host.tobytes(), digest_size=8).hexdigest()


def _json_digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _compare(item: str, found: dict[str, str], saved: dict[str, str]) -> None:
    wrong = sorted(
        key for key in found.keys() | saved.keys() if found.get(key) != saved.get(key)
    )
    if wrong:
        raise DamagedCheckpointError(
            "restored arrays must have the digest they were saved with; "
            f"{len(wrong)} of item {item!r} differ, the first at {item}{wrong[0]}"
        )
