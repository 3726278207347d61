"""The folder of one run: its config, metrics, curves and summary."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout
from ml_collections import ConfigDict

from fmalign_jax.config.saved import ABSENT, differences, digest, to_json
from fmalign_jax.data.files import read_json, write_json, write_text
from fmalign_jax.run.loggers import Loggers

CONTENT = (
    "config.json",
    "metrics.jsonl",
    "tensorboard",
    "wandb",
    "mlflow",
    "checkpoints",
    "summary.json",
    "damaged_checkpoints",
)
"""What the folder of a run holds."""


class RunDirectory:
    """Writes what a run reports; on processes other than the first it is silent.

    Layout: config.json, metrics.jsonl (one object a line: step, split, and values),
    tensorboard/ and what other loggers write, checkpoints/, summary.json. Nothing is
    written before `start`, so that a run that could not start leaves its folder free.
    """

    def __init__(self, path: pathlib.Path, config: ConfigDict, *, write: bool) -> None:
        """Opens a new or an interrupted run.

        Args:
          path: folder of the run; created by `start` when absent.
          config: the run's config.
          write: False on processes that must stay silent.

        Raises:
          ValueError: when the folder holds a run of a different config, or something
            that is not a run; or a logger of the config cannot be made.
        """
        self.path = path
        self._write = write
        self._settings = to_json(config)
        self._loggers: Loggers | None = None
        self._lock: BaseFileLock | None = None
        if write:
            check_same_run(path, self._settings)
            absent = {"loggers": ABSENT["loggers"]}
            self._loggers = Loggers(path, absent | self._settings)

    def __enter__(self) -> RunDirectory:
        """Takes the folder for this process alone, and returns itself.

        Raises:
          ValueError: another process writes to it; says which.
        """
        if self._write:
            self._take()
        return self

    def _take(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}")
        lock, writer = (
            beside.with_name(f"{beside.name}{end}") for end in (".lock", ".writer")
        )
        # Of the operating system: it goes with the process, however that ends.
        held = FileLock(lock, timeout=0)
        try:
            held.acquire()
        except Timeout:
            raise ValueError(
                f"one process at a time trains in a folder; got {self.path}, in which "
                f"{_read_writer(writer)} does; wait for it, stop it, or choose another "
                "--workdir"
            ) from None
        except (OSError, NotImplementedError) as error:
            logging.warning(
                "%s cannot be locked (%s): no other process may train there",
                self.path,
                error,
            )
            return
        self._lock = held
        about = {"host": socket.gethostname(), "process": os.getpid()}
        write_json(writer, about)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the loggers, and leaves the folder to others."""
        if self._loggers is not None:
            self._loggers.close(failed=error is not None)
        if self._lock is not None:
            self._lock.release()

    @property
    def checkpoints(self) -> pathlib.Path:
        """Returns the folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> pathlib.Path:
        """Returns the file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def start(self, step: int, *, last_step: int) -> None:
        """Writes the config and forgets what an interrupted run reported too much.

        Args:
          step: the step it resumes from; later ones are forgotten.
          last_step: where it will stop; with steps to do, an old summary is forgotten.
        """
        if self._loggers is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", self._settings, allow_nan=True)
        if step < last_step:
            self._summary.unlink(missing_ok=True)
        if self.metrics.exists():
            lines = self.metrics.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(self.metrics, "".join(f"{line}\n" for line in kept))
        self._loggers.start(step)

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends the values of a split ("train", "validation") at a step."""
        if self._loggers is None:
            return
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self._loggers.write(step, {f"{split}/{n}": v for n, v in values.items()})

    def log_histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Shows the distribution of the values, where a logger can."""
        if self._loggers is not None:
            self._loggers.write_histogram(step, name, values)

    def last(self, split: str) -> dict[str, Any] | None:
        """Returns the values last reported for a split, None without any."""
        if not self.metrics.exists():
            return None
        lines = map(json.loads, self.metrics.read_text().splitlines())
        return next(
            (line for line in reversed(list(lines)) if line["split"] == split), None
        )

    def summary(self) -> dict[str, Any] | None:
        """Returns the summary of an earlier call, None without one."""
        if not self._summary.exists():
            return None
        summary: dict[str, Any] = json.loads(self._summary.read_text())
        return summary

    def finish(self, summary: Mapping[str, Any]) -> pathlib.Path:
        """Writes summary.json and returns its path."""
        if self._write:
            write_json(self._summary, summary, allow_nan=True)
        return self._summary

    @property
    def _summary(self) -> pathlib.Path:
        return self.path / "summary.json"


def _read_writer(path: pathlib.Path) -> str:
    """Returns who took a folder last, in words."""
    try:
        about = json.loads(path.read_text())
        return f"process {about['process']} on {about['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def default_path(name: str, config: ConfigDict) -> pathlib.Path:
    """Returns runs/NAME-DIGEST: the same command finds its run again."""
    return pathlib.Path("runs") / f"{name}-{digest(config)}"


def check_same_run(path: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Checks that a folder is free, or holds a run with these settings.

    Raises:
      ValueError: it holds a run of a different config, or something that is not a run.
    """
    if _is_free(path):
        return
    if path.is_file():
        raise ValueError(
            "training goes on in the folder of a run, which has the state of the "
            f"optimiser; got the file {path}; a packed run is for reading: give the "
            "folder that it was made of, or a new one"
        )
    saved = read_json(path / "config.json")
    if saved is None:
        raise ValueError(
            f"--workdir must be new, empty, or the folder of a run; got {path}, which "
            "holds no config.json; choose another folder"
        )
    different = differences(saved, settings)
    if different:
        raise ValueError(
            f"a run goes on only with the config it was started with; {path} differs "
            f"in {', '.join(different[:5])}; choose another --workdir"
        )


def _is_free(path: pathlib.Path) -> bool:
    """Whether a folder is new, or holds a run that neither reported nor saved."""
    if not path.is_dir():
        return not path.exists()
    foreign = {entry.name for entry in path.iterdir()} - set(CONTENT)
    reported = (path / "metrics.jsonl").exists()
    saved = any(path.glob("*checkpoints/[0-9]*"))
    return not (foreign or reported or saved)


def _step_of(line: str) -> float:
    try:
        step = float(json.loads(line)["step"])
    except (ValueError, KeyError):  # the line a kill cut short
        return float("inf")
    return step
