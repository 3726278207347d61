"""From the metrics of single steps to the values a run reports."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fmalign_jax.metrics import CodeStatistics

Metrics = Mapping[str, Any]


class Meter:
    """Collects the metrics of train steps on the device and reports them together.

    Nothing is fetched between two reports, so the host never waits for a single step.
    """

    def __init__(self, *, first_step: int, batch_size: int) -> None:
        self._next_step = first_step
        self._batch_size = batch_size
        self._start_over()

    def _start_over(self) -> None:
        self._pending: list[Metrics] = []
        self._waited_s = 0.0
        self._started_s = time.perf_counter()

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """Draws the next batch and notes how long that took."""
        started_s = time.perf_counter()
        batch = next(batches)
        self._waited_s += time.perf_counter() - started_s
        return batch

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of steps in a row; the first axis counts the steps."""
        self._pending.append(metrics)

    def report(self) -> dict[str, float]:
        """Returns the means since the last report, codebook health and speed.

        Raises:
          FloatingPointError: when a value of a step was not finite.
        """
        fetched = jax.device_get(self._pending)
        steps = [metrics for several in fetched for metrics in _unstacked(several)]
        elapsed_s = time.perf_counter() - self._started_s
        values = summarise_steps(
            [metrics["scalars"] for metrics in steps],
            merged([metrics["codes"] for metrics in steps]),
            first_step=self._next_step,
        )
        values["windows_per_s"] = self._batch_size * len(steps) / elapsed_s
        values["waiting_share"] = self._waited_s / elapsed_s
        self._next_step += len(steps)
        self._start_over()
        return values

    def restart_clock(self) -> None:
        """Leaves time spent on evaluation and saving out of the speed."""
        self._started_s = time.perf_counter()


def summarise_steps(
    scalars: Sequence[Mapping[str, Any]], codes: CodeStatistics, *, first_step: int
) -> dict[str, float]:
    """Returns the means over train steps, and codebook health.

    Args:
      scalars: of each step, fetched.
      codes: of all of them, merged.
      first_step: number of the first, for errors.

    Raises:
      FloatingPointError: when a value of a step was not finite.
    """
    for offset, values in enumerate(scalars):
        check_finite(values, step=first_step + offset)
    means = {n: float(np.mean([values[n] for values in scalars])) for n in scalars[0]}
    return means | _codebook_health(codes) | _cross_modal_accuracy(means)


def summarise(batches: Iterable[Metrics]) -> dict[str, float]:
    """Returns the values of an evaluation, each window counted once."""
    metrics = merge_batches(batches)
    scalars = {name: float(m.compute()) for name, m in metrics["scalars"].items()}
    return scalars | _codebook_health(metrics["codes"]) | _cross_modal_accuracy(scalars)


def merge_batches(batches: Iterable[Metrics]) -> Metrics:
    """Returns the metrics of all batches of an evaluation as those of one."""
    fetched = [jax.device_get(metrics) for metrics in batches]
    scalars = {
        name: merged([metrics["scalars"][name] for metrics in fetched])
        for name in fetched[0]["scalars"]
    }
    codes = merged([metrics["codes"] for metrics in fetched])
    return {"scalars": scalars, "codes": codes}


def _unstacked(metrics: Metrics) -> list[Metrics]:
    """Returns the metrics of each step, from arrays whose first axis counts them."""
    leaves, structure = jax.tree.flatten(metrics)
    return [
        jax.tree.unflatten(structure, values) for values in zip(*leaves, strict=True)
    ]


def _codebook_health(codes: CodeStatistics) -> dict[str, float]:
    return {name: float(value) for name, value in codes.compute().items()}


def _cross_modal_accuracy(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the CPC accuracy, mean over the pairs of different modalities."""
    prefix = "cpc_accuracy/"
    pairs = {
        tuple(name.removeprefix(prefix).split("->")): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
    cross = [value for (context, target), value in pairs.items() if context != target]
    return {"cpc_accuracy": float(np.mean(cross))} if cross else {}


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


def table(rows: Mapping[str, str]) -> str:
    """Returns a two-column table."""
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())
