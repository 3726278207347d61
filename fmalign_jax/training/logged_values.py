"""From the metrics of single steps to the values a run reports."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Metrics = Mapping[str, Any]


class Clock:
    """The speed of training, and the share of time spent waiting for batches."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Leaves the time until now out, such as that of an evaluation."""
        self._waited_s = 0.0
        self._started_s = time.perf_counter()

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """Draws the next batch and notes how long that took."""
        started_s = time.perf_counter()
        batch = next(batches)
        self._waited_s += time.perf_counter() - started_s
        return batch

    def speed(self, windows: int) -> dict[str, float]:
        """Returns the speed at which so many windows were trained since the start."""
        elapsed_s = time.perf_counter() - self._started_s
        return {
            "windows_per_s": windows / elapsed_s,
            "waiting_share": self._waited_s / elapsed_s,
        }


class Meter:
    """Collects the metrics of train steps on the device and reports them together.

    Nothing is fetched between two reports, so the host never waits for a single step.
    """

    def __init__(self, *, first_step: int, batch_size: int) -> None:
        self._next_step = first_step
        self._batch_size = batch_size
        self._pending: list[Metrics] = []
        self._clock = Clock()

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """Draws the next batch and notes how long that took."""
        return self._clock.next_batch(batches)

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of steps in a row; the first axis counts the steps."""
        self._pending.append(metrics)

    def report(self) -> dict[str, float]:
        """Returns the means since the last report, the system's statistics and speed.

        Raises:
          FloatingPointError: when a value of a step was not finite.
        """
        fetched = jax.device_get(self._pending)
        steps = [metrics for several in fetched for metrics in _unstacked(several)]
        speed = self._clock.speed(self._batch_size * len(steps))
        values = summarise_steps(
            [metrics["scalars"] for metrics in steps],
            merged([metrics["statistics"] for metrics in steps]),
            first_step=self._next_step,
        )
        self._next_step += len(steps)
        self._pending = []
        self._clock.restart()
        return values | speed

    def restart_clock(self) -> None:
        """Leaves time spent on evaluation and saving out of the speed."""
        self._clock.restart()


def summarise_steps(
    scalars: Sequence[Mapping[str, Any]], statistics: Any, *, first_step: int
) -> dict[str, float]:
    """Returns the means over train steps, and the system's statistics.

    Args:
      scalars: of each step, fetched.
      statistics: of all of them, merged.
      first_step: number of the first, for errors.

    Raises:
      FloatingPointError: when a value of a step was not finite.
    """
    for offset, values in enumerate(scalars):
        check_finite(values, step=first_step + offset)
    means = {n: float(np.mean([values[n] for values in scalars])) for n in scalars[0]}
    return means | _values(statistics)


def summarise(batches: Iterable[Metrics]) -> dict[str, float]:
    """Returns the values of an evaluation, each window counted once."""
    metrics = merge_batches(batches)
    scalars = {name: float(m.compute()) for name, m in metrics["scalars"].items()}
    return scalars | _values(metrics["statistics"])


def merge_batches(batches: Iterable[Metrics]) -> Metrics:
    """Returns the metrics of all batches of an evaluation as those of one."""
    fetched = [jax.device_get(metrics) for metrics in batches]
    scalars = {
        name: merged([metrics["scalars"][name] for metrics in fetched])
        for name in fetched[0]["scalars"]
    }
    statistics = merged([metrics["statistics"] for metrics in fetched])
    return {"scalars": scalars, "statistics": statistics}


def _unstacked(metrics: Metrics) -> list[Metrics]:
    """Returns the metrics of each step, from arrays whose first axis counts them."""
    leaves, structure = jax.tree.flatten(metrics)
    return [
        jax.tree.unflatten(structure, values) for values in zip(*leaves, strict=True)
    ]


def _values(statistics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in statistics.compute().items()}


def merged(parts: list[Any]) -> Any:
    """Merges the sums and counts of several batches."""
    return functools.reduce(lambda a, b: a.merge(b), parts)


def blank(shapes: Metrics) -> Metrics:
    """Returns zeros of the shapes that an evaluation gives; their names are real."""
    zeros: Metrics = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return zeros


def check_finite(
    scalars: Mapping[str, Any], *, step: int, split: str = "train"
) -> None:
    """Raises FloatingPointError, naming step and term, if a value is not finite.

    Loss terms are named before what is derived from them.
    """
    bad = [name for name, value in scalars.items() if not math.isfinite(float(value))]
    if bad:
        bad.sort(key=lambda name: not name.startswith("loss/"))
        raise FloatingPointError(
            f"every {split} value must be finite; at step {step} {', '.join(bad[:4])} "
            f"{'was' if len(bad) == 1 else 'were'} not; the last checkpoint is intact: "
            "lower optimizer.learning_rate or that term's weight and start a new run"
        )
