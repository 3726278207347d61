"""A run's checkpoints as they lie on disk: read from anywhere, nothing is changed.

`checkpoints` writes them and says what they hold.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from fmalign_jax.run import integrity

SCORE = "score"
"""Name of the validation score (higher is better) by which the best is chosen."""

PyTree = Any


def saved_steps(directory: pathlib.Path) -> tuple[list[int], int | None]:
    """Returns the steps of a folder of checkpoints, and the best; changes nothing.

    A run may still be writing there: what it has not finished is not seen.
    """
    options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0
    )
    with (
        _without_expected_warnings(),
        ocp.CheckpointManager(directory.absolute(), options=options) as manager,
    ):
        steps = sorted(manager.all_steps())
    scored = []
    for file, score in integrity.scores(directory, SCORE).items():
        name = file.parents[1].name
        if score is None:
            logging.warning("%s is damaged: its score does not count", file)
        elif name in map(str, steps):
            scored.append((score, int(name)))
    # Of equal ones the latest, as in training.
    return steps, max(scored)[1] if scored else None


def saved_model(
    directory: pathlib.Path,
    step: int,
    sharding: jax.sharding.Sharding,
    model_state: PyTree,
) -> PyTree:
    """Returns the shapes of what `restore_model` restores.

    Args:
      directory: a run's folder of checkpoints.
      step: which checkpoint.
      sharding: where everything is to be.
      model_state: shapes of what the system keeps beside its parameters; the other
        shapes are read from the checkpoint.
    """
    with (
        _without_expected_warnings(),
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    ):
        metadata = checkpointer.metadata(directory.absolute() / str(step) / "model")
    saved = abstract(metadata.item_metadata.tree, sharding)
    return saved | abstract(model_state, sharding)


def saved_data_state(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns the state of the data iterator in a checkpoint."""
    return _read_json(directory.absolute() / str(step) / "data")


def saved_config(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns the config in a checkpoint.

    Raises:
      DamagedCheckpointError: it is not what was saved.
    """
    folder = directory.absolute() / str(step)
    config = _read_json(folder / "config")
    digest = integrity.unsealed(_read_json(folder / "digest"))
    integrity.compare("config", {"": integrity.json_digest(config)}, digest["config"])
    return config


def restore_model(directory: pathlib.Path, step: int, abstract_model: PyTree) -> PyTree:
    """Restores parameters, model state and statistics, without optimiser state.

    Args:
      directory: a run's folder of checkpoints.
      step: which checkpoint.
      abstract_model: shapes, dtypes and shardings of {"params", "statistics", and the
        names of the model state}; any number of devices.

    Raises:
      DamagedCheckpointError: when the arrays are not those that were saved.
      MismatchedCheckpointError: when they are those of another model.
    """
    folder = directory.absolute() / str(step)
    saved = integrity.unsealed(_read_json(folder / "digest"))
    integrity.check_fits("model", abstract_model, saved["model"])
    integrity.check_readable(folder / "model")
    with (
        _without_expected_warnings(),
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    ):
        args = restore_args(abstract_model)
        model = checkpointer.restore(folder / "model", args=args)
    integrity.compare("model", integrity.digests(model), saved["model"])
    return model


def abstract(tree: PyTree, sharding: jax.sharding.Sharding | None = None) -> PyTree:
    """Returns shapes and dtypes of a tree, to be restored onto a sharding.

    By default onto that which each array has.
    """

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding)

    return jax.tree.map(shape, tree)


def restore_args(item: PyTree) -> ocp.args.PyTreeRestore:
    """Returns how Orbax is to restore a tree of shapes, dtypes and shardings."""
    return ocp.args.PyTreeRestore(
        item, restore_args=ocp.checkpoint_utils.construct_restore_args(item)
    )


def _read_json(item: pathlib.Path) -> dict[str, Any]:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        found: dict[str, Any] = checkpointer.restore(item, ocp.args.JsonRestore())
    return found


@contextlib.contextmanager
def _without_expected_warnings() -> Iterator[None]:
    """Keeps Orbax from warning of what is meant, to a user who would read damage.

    The folder is opened read-only on purpose, and single items carry no metadata.
    """

    def unexpected(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(
            ("Given directory is read only", "Metadata file does not exist")
        )

    logger = logging.getLogger("absl")
    logger.addFilter(unexpected)
    try:
        yield
    finally:
        logger.removeFilter(unexpected)
