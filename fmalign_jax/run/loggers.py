"""Where the values of a run go besides metrics.jsonl: TensorBoard, W&B, MLflow.

A config names them in `loggers`: by a word, or a class of one's own by its dotted path.
Nothing leaves this machine unless the user's environment says so.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import pathlib
import secrets
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax.traverse_util import flatten_dict
from tensorboardX import SummaryWriter

from fmalign_jax.config.build import build
from fmalign_jax.data.files import write_text

NAMES: Mapping[str, str] = {
    "tensorboard": f"{__name__}.TensorBoard",
    "wandb": f"{__name__}.WeightsAndBiases",
    "mlflow": f"{__name__}.MLflow",
}
"""Words for the loggers of this package."""

PROJECT = "fmalign_jax"
"""The W&B project and the MLflow experiment, unless the environment names others."""


class Logger(Protocol):
    """What `config.loggers` names: a dataclass with these methods.

    Its fields are its options; `folder`, the path of the run, and `settings`, the run's
    config as JSON values, are given to a class that has fields of these names. It is
    made before anything is read, and used by one process alone.
    """

    def start(self, step: int) -> None:
        """Opens what it writes to.

        Args:
          step: the step from which the run goes on; 0: it begins.
        """

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes values at a step, by names such as ``validation/loss``.

        The names have no ``>``: ``cpc_accuracy/video->current`` is
        ``cpc_accuracy/video_to_current``.
        """

    def close(self, *, failed: bool) -> None:
        """Closes it; `failed`: the run ended by an error."""


@runtime_checkable
class TakesHistograms(Protocol):
    """What a logger may have besides."""

    def write_histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Takes values at a step of which the distribution is to be shown."""


class Loggers:
    """All loggers of a run.

    One that fails before training stops the run. One that fails later is left out from
    then on, with a warning, as metrics.jsonl has every value.
    """

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
        """Makes them, and writes nothing yet.

        Args:
          folder: of the run.
          settings: its config, as JSON values.

        Raises:
          ValueError: there is no such logger, its package is not installed, or it does
            not take its options.
        """
        given = settings["loggers"]
        if not isinstance(given, list):
            raise ValueError(
                f"loggers must be a tuple; got {given!r}; write ('tensorboard',) for "
                "one, () for none"
            )
        self._made: dict[str, Any] = {
            f"{number}: {_name_of(entry)}": build(
                _entry(entry),
                f"loggers.{number}",
                folder=folder.absolute(),
                settings=settings,
            )
            for number, entry in enumerate(given)
        }
        self._open: dict[str, Any] = {}

    def start(self, step: int) -> None:
        """Opens all.

        Raises:
          ValueError: one cannot be opened; says why.
        """
        for name, logger in self._made.items():
            try:
                logger.start(step)
                self._open[name] = logger
            except Exception as error:
                raise ValueError(
                    "every logger must open before training begins; got "
                    f"{type(error).__name__} of logger {name}: {error}; correct its "
                    "settings, or leave it out of loggers"
                ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Gives values to all that are open."""
        # Neither TensorBoard nor MLflow allows ">" in a name.
        values = {name.replace("->", "_to_"): value for name, value in values.items()}
        self._each(lambda logger: logger.write(step, values))

    def write_histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Gives values to all that take histograms."""
        self._each(
            lambda logger: logger.write_histogram(step, name, values),
            of=TakesHistograms,
        )

    def close(self, *, failed: bool) -> None:
        """Closes all that are open."""
        self._each(lambda logger: logger.close(failed=failed))
        self._open = {}

    def _each(self, call: Any, of: type = object) -> None:
        for name, logger in list(self._open.items()):
            if not isinstance(logger, of):
                continue
            try:
                call(logger)
            except Exception as error:
                del self._open[name]
                logging.warning(
                    "logger %s is left out from now on (%s: %s); metrics.jsonl has "
                    "every value",
                    name,
                    type(error).__name__,
                    error,
                )


def _name_of(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, Mapping) else entry


def _entry(entry: Any) -> dict[str, Any]:
    """Returns the config entry of a logger, its class by its dotted path."""
    options = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    name = options.get("name")
    if not isinstance(name, str) or not (name in NAMES or "." in name):
        raise ValueError(
            f"a logger must be one of {', '.join(NAMES)}, or a class by its dotted "
            f"path; got {name!r}; correct loggers"
        )
    return options | {"name": NAMES.get(name, name)}


@dataclasses.dataclass
class TensorBoard:
    """Curves and histograms in RUN/tensorboard."""

    folder: pathlib.Path

    def start(self, step: int) -> None:
        """Hides what an interrupted run wrote after the step."""
        path = str(self.folder / "tensorboard")
        self._writer = SummaryWriter(path, purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def write_histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds a histogram."""
        self._writer.add_histogram(name, values, step)

    def close(self, *, failed: bool) -> None:
        """Closes the event file."""
        self._writer.close()


@dataclasses.dataclass
class WeightsAndBiases:
    """A W&B run in RUN/wandb, sent nowhere unless WANDB_MODE=online is set."""

    folder: pathlib.Path
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        # Its own reports of errors, too, are sent only if they are asked for.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb: Any = _package("wandb")

    def start(self, step: int) -> None:
        """Goes on with the W&B run that the folder knows, or begins one."""
        mode = os.environ.get("WANDB_MODE", "offline")
        file = self.folder / "wandb" / "run_id"
        run_id = _known_id(file, step) or secrets.token_hex(4)
        write_text(file, run_id)
        self._run = self._wandb.init(
            dir=str(self.folder),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", self.folder.name),
            id=run_id,
            config=dict(self.settings),
            mode=mode,
            # Offline there is none to ask; `wandb sync` joins what has one id.
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # a sweep has several at once
            settings=self._wandb.Settings(console="off", silent=True),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        self._run.log(dict(values), step=step)

    def write_histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds a histogram."""
        self._run.log({name: self._wandb.Histogram(values)}, step=step)

    def close(self, *, failed: bool) -> None:
        """Ends this part of the W&B run."""
        self._run.finish(exit_code=int(failed))


_PARAMETERS = 100  # the most that MLflow takes at once
_LENGTH = 6000  # characters that it takes of each


@dataclasses.dataclass
class MLflow:
    """An MLflow run in RUN/mlflow/mlflow.db, unless MLFLOW_TRACKING_URI is set."""

    folder: pathlib.Path
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        # It would report its use to its makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._mlflow: Any = _package("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")

    def start(self, step: int) -> None:
        """Goes on with the MLflow run that the folder knows, or begins one."""
        own = self.folder / "mlflow"
        file = own / "run_id"
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        own.mkdir(parents=True, exist_ok=True)
        self._client = self._mlflow.MlflowClient(
            tracking_uri=uri or f"sqlite:///{own / 'mlflow.db'}"
        )
        self._written: set[tuple[str, int]] = set()
        self._id = _known_id(file, step)
        if self._id is None:
            artifacts = None if uri else (own / "artifacts").as_uri()
            self._id = self._begin(artifacts)
            write_text(file, self._id)
            return
        self._written = self._later_than(step)
        self._client.update_run(self._id, status="RUNNING")

    def _begin(self, artifacts: str | None) -> str:
        """Returns the id of a new MLflow run, which has the config as parameters."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = (
            self._client.create_experiment(name, artifact_location=artifacts)
            if experiment is None
            else experiment.experiment_id
        )
        run = self._client.create_run(number, run_name=self.folder.name)
        run_id: str = run.info.run_id
        given = flatten_dict(dict(self.settings), sep=".")
        parameters = [
            self._entities.Param(name, str(value)[:_LENGTH])
            for name, value in given.items()
        ]
        for first in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(
                run_id, params=parameters[first : first + _PARAMETERS]
            )
        return run_id

    def _later_than(self, step: int) -> set[tuple[str, int]]:
        """Returns what an interrupted run wrote after a step: its name and step."""
        names = self._client.get_run(self._id).data.metrics
        return {
            (name, value.step)
            for name in names
            for value in self._client.get_metric_history(self._id, name)
            if value.step > step
        }

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve.

        MLflow forgets nothing, so that the steps which an interrupted run makes again,
        with the same results, are not added twice.
        """
        now_ms = round(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now_ms, step)
            for name, value in values.items()
            if (name, step) not in self._written
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        """Marks the MLflow run as ended."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


def _package(name: str) -> ModuleType:
    """Returns a package that an extra of this one installs.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"a logger's package must be installed; got 'loggers' with {name!r}, and "
            f"{error}; pip install 'fmalign_jax[{name}]', or leave it out of loggers"
        ) from error


def _known_id(file: pathlib.Path, step: int) -> str | None:
    """Returns the id of the run that goes on; None for one that begins."""
    if step == 0 or not file.exists():
        return None
    return file.read_text(encoding="utf-8").strip()
