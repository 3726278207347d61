"""Checks the simulated furnaces against every acceptance limit, and prints them.

    python scripts/check_simulator.py            # all limits, about 8 minutes, 2 cores
    python scripts/check_simulator.py --quick    # small and noisy, 2 minutes

Furnaces used for testing are never used for training. The exit status is 1 when a limit
is not met; the quick version only prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time

import numpy as np
from jaxtyping import Bool, Float
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from spot_detector import video_accuracy

from fmalign_jax.data.clocks import spread_within_seconds
from fmalign_jax.data.simulator import PROFILES, FurnaceProfile, simulate
from fmalign_jax.data.simulator.circuit import (
    ADC_CEILING_A,
    clock_offset_s,
    log_rows,
    simulate_current,
)
from fmalign_jax.data.simulator.operation import Operation, operate

WINDOW_ROWS = 120
"""60 s at two rows a second, for the models."""
SWEEP_ROWS = 60
"""30 s, for the sweep over leads."""
STRIDE_S = 5
LEADS_S = np.arange(-120, 481, 2)
MODELS = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "boosted trees": lambda: HistGradientBoostingClassifier(
        max_iter=100, max_leaf_nodes=15, random_state=0
    ),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is simulated for the check."""

    sets: int = 6
    recordings: int = 10
    duration_s: float = 3000.0
    sweeps: int = 20
    video_recordings: int = 48
    video_duration_s: float = 600.0
    epochs: int = 11


QUICK = Size(sets=1, sweeps=4, video_recordings=12, video_duration_s=600.0, epochs=4)


class Table:
    """Prints one line for each quantity and remembers whether all limits were met."""

    def __init__(self) -> None:
        self.passed = True
        print("| quantity | limit | measured | |\n|---|---|---|---|", flush=True)

    def row(
        self,
        quantity: str,
        value: float,
        *,
        low: float = -np.inf,
        high: float = np.inf,
        remark: str = "",
    ) -> None:
        """Adds a quantity; without limits it is for information."""
        limited = np.isfinite(low) or np.isfinite(high)
        good = low <= value <= high
        self.passed &= good
        verdict = ("pass" if good else "FAIL") if limited else ""
        bounds = f"{_bound(low)} to {_bound(high)}" if limited else "none"
        measured = f"{value:.3g} {remark}".strip()
        print(f"| {quantity} | {bounds} | {measured} | {verdict} |", flush=True)


def _bound(value: float) -> str:
    return f"{value:g}" if np.isfinite(value) else "any"


def main() -> None:
    """Runs all checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small and noisy")
    quick = parser.parse_args().quick
    size = QUICK if quick else Size()
    start = time.perf_counter()
    table = Table()
    check_accuracy(table, size)
    check_sweeps(table, size)
    check_events(table, size)
    check_speed(table, size)
    check_video(table, size)
    minutes = (time.perf_counter() - start) / 60
    print(f"\nThe check took {minutes:.1f} min.")
    sys.exit(not (table.passed or quick))


def check_accuracy(table: Table, size: Size) -> None:
    """A supervised current-only model, at the right lead, at lead 0, on controls."""
    accuracy = functools.partial(current_accuracy, size=size)
    row = functools.partial(accuracy_row, table)
    row("at lead L", accuracy(PROFILES["default"], lead_s=240), low=0.85, high=0.93)
    row("at lead 0", accuracy(PROFILES["default"], lead_s=0), low=0.45, high=0.58)
    null = accuracy(PROFILES["no_precursor"], lead_s=240)
    row("at lead L, no precursor", null, low=0.47, high=0.53)
    for name in ("hard", "easy"):
        row(f"at lead L, {name}", accuracy(PROFILES[name], lead_s=240))


def accuracy_row(
    table: Table,
    what: str,
    scores: dict[str, list[float]],
    *,
    low: float = -np.inf,
    high: float = np.inf,
) -> None:
    """One line for each model."""
    for model, values in scores.items():
        remark = f"± {np.std(values):.2f} over {len(values)} sets"
        quantity = f"balanced accuracy {what}, {model}"
        table.row(quantity, float(np.mean(values)), low=low, high=high, remark=remark)


def current_accuracy(
    profile: FurnaceProfile, *, lead_s: float, size: Size
) -> dict[str, list[float]]:
    """Balanced accuracy on unseen furnaces, for each model and set."""
    scores: dict[str, list[float]] = {model: [] for model in MODELS}
    for first in range(size.sets):
        examples = [
            windows(operation, lead_s)
            for operation in operations(
                profile, 1000 * first, 2 * size.recordings, size.duration_s
            )
        ]
        (train_x, train_y), (test_x, test_y) = (
            (np.concatenate(features), np.concatenate(labels))
            for features, labels in (
                zip(*examples[: size.recordings], strict=True),
                zip(*examples[size.recordings :], strict=True),
            )
        )
        for name, make in MODELS.items():
            model: ClassifierMixin = make().fit(train_x, train_y)
            scores[name].append(balanced_accuracy_score(test_y, model.predict(test_x)))
    return scores


def operations(
    profile: FurnaceProfile, first: int, count: int, duration_s: float
) -> list[Operation]:
    """Recordings of as many furnaces."""
    return [
        operate(profile, duration_s=duration_s, seed=seed, furnace=seed)
        for seed in range(first, first + count)
    ]


def logged_current(operation: Operation) -> Float[np.ndarray, "M 3"]:
    """The current as logged, two rows a second from second 0 by its clock."""
    _, amperes = simulate_current(operation)
    row, stamp_s = log_rows(operation, len(amperes))
    time_s = spread_within_seconds(np.floor(stamp_s).astype(int))
    grid_s = np.arange(0, operation.duration_s, 0.5)
    latest = np.searchsorted(time_s, grid_s, side="right") - 1
    return amperes[row][np.maximum(latest, 0)]


def windows(
    operation: Operation, lead_s: float
) -> tuple[Float[np.ndarray, "n 10"], Bool[np.ndarray, "n"]]:
    """Ten features of the current around t - lead, and the label at t."""
    half_s = WINDOW_ROWS / 4
    centre_s = np.arange(max(lead_s, 0) + half_s, operation.duration_s, STRIDE_S)
    centre_s = centre_s[centre_s - lead_s < operation.duration_s - half_s]
    views = sliding_window_view(logged_current(operation), WINDOW_ROWS, axis=0)
    begin = np.round(2 * (centre_s - lead_s - half_s)).astype(int)
    return ten_features(views[begin]), operation.visible(centre_s)


def ten_features(amperes: Float[np.ndarray, "n 3 w"]) -> Float[np.ndarray, "n 10"]:
    """Size of the change from row to row, swings, and level; all per window."""
    change = np.diff(amperes, axis=2)
    step = np.abs(change) + 1.0
    flat = step.reshape(len(step), -1)
    mean_step = np.sort(step.mean(axis=2), axis=1)
    slow = amperes.reshape(len(amperes), 3, -1, 10).mean(axis=3)
    centred = change - change.mean(axis=2, keepdims=True)
    shared = centred.sum(axis=1).var(axis=1) / (centred.var(axis=2).sum(axis=1) + 1.0)
    level = np.median(amperes, axis=2)
    columns = [
        np.log(np.median(flat, axis=1)),
        np.log(flat).mean(axis=1),
        np.log(np.quantile(flat, 0.9, axis=1)),
        np.log(mean_step[:, 0]),
        np.log(mean_step[:, 2]),
        np.log(amperes.std(axis=2).mean(axis=1) + 1.0),
        np.log(slow.std(axis=2).mean(axis=1) + 1.0),
        shared,
        np.ptp(level, axis=1) / 1e3,
        level.mean(axis=1) / 1e3,
    ]
    return np.stack(columns, axis=1)


def check_sweeps(table: Table, size: Size) -> None:
    """Where the lead is found, on recordings of an hour."""
    for name in ("default", "lead_0"):
        error_s = np.array(
            [
                found_lead_s(operation) - true_lead_s(operation)
                for operation in operations(PROFILES[name], 500, size.sweeps, 3600.0)
            ]
        )
        pooled = f"sweep of an hour, {name}: found minus true lead, s"
        spread = f"± {error_s.std():.1f}"
        table.row(f"{pooled}, mean", error_s.mean(), low=-12, high=12, remark=spread)
        within = float((np.abs(error_s) <= 12).mean())
        table.row(f"{pooled}, share within 12 s", within, low=0.9)


def true_lead_s(operation: Operation) -> float:
    """By the clocks of the recording."""
    return operation.lead_s - clock_offset_s(operation)


def found_lead_s(operation: Operation) -> float:
    """The lead at which calm current goes best with a visible state.

    Correlation of the mean log change of the current over centred 30 s with y.
    """
    step = np.log(np.abs(np.diff(logged_current(operation), axis=0)) + 1.0).mean(axis=1)
    activity = np.convolve(step, np.ones(SWEEP_ROWS) / SWEEP_ROWS, mode="valid")
    # A mean over n changes between n + 1 rows is centred n / 2 rows after the first.
    centre_s = (np.arange(len(activity)) + SWEEP_ROWS / 2) / 2
    time_s = np.arange(0, operation.duration_s)
    label = operation.visible(time_s)
    scores = []
    for lead_s in LEADS_S:
        inside = (time_s - lead_s >= centre_s[0]) & (time_s - lead_s <= centre_s[-1])
        calm = -np.interp(time_s[inside] - lead_s, centre_s, activity)
        scores.append(np.corrcoef(calm, label[inside])[0, 1])
    return float(LEADS_S[np.argmax(scores)])


def check_events(table: Table, size: Size) -> None:
    """Ceilings, zeros, share of time visible; total deviation alone must fail."""
    drawn = operations(PROFILES["default"], 0, 10 * size.sets, size.duration_s)
    currents = np.concatenate([simulate_current(operation)[1] for operation in drawn])
    ceiling, zero = (currents >= ADC_CEILING_A).mean(), (currents == 0).mean()
    table.row("share of values at the ceiling", ceiling, low=1e-4, high=0.05)
    table.row("share of values at zero", zero, low=1e-4, high=0.05)
    seconds = np.arange(size.duration_s)
    visible = np.mean([operation.visible(seconds).mean() for operation in drawn])
    table.row("share of time visible", visible, low=0.45, high=0.55)
    check_deviation(table, drawn)


def check_deviation(table: Table, drawn: list[Operation]) -> None:
    """The change from row to row shows the state, the total deviation does not."""
    change, deviation, label = [], [], []
    for operation in drawn:
        centre_s = np.arange(300, operation.duration_s - 60, STRIDE_S)
        views = sliding_window_view(logged_current(operation), WINDOW_ROWS, axis=0)
        amperes = views[np.round(2 * (centre_s - 240 - 30)).astype(int)]
        change.append(np.abs(np.diff(amperes, axis=2)).mean(axis=(1, 2)))
        deviation.append(amperes.std(axis=(1, 2)))
        label.append(operation.visible(centre_s))
    normal = ~np.concatenate(label)
    for name, values, low, high in (
        ("change from row to row", change, 0.85, 1.0),
        ("total deviation", deviation, 0.5, 0.8),
    ):
        auroc = roc_auc_score(normal, np.concatenate(values))
        table.row(f"AUROC of the {name} alone, at lead L", auroc, low=low, high=high)


def check_speed(table: Table, size: Size) -> None:
    """An hour at one frame a second, frames included."""
    start = time.perf_counter()
    simulate(PROFILES["default"], duration_s=3600.0, seed=1)
    table.row("an hour at 1 fps, s", time.perf_counter() - start, high=15)


def check_video(table: Table, size: Size) -> None:
    """A small network on the video, and what the masks cover."""
    recordings = [
        simulate(PROFILES["default"], duration_s=size.video_duration_s, seed=seed)
        for seed in range(2000, 2000 + size.video_recordings)
    ]
    areas = np.concatenate([r.masks.mean(axis=(1, 2)) for r in recordings])
    low, median, high = np.quantile(areas[areas > 0] * 100, (0.05, 0.5, 0.95))
    remark = f"(5 % {low:.2f}, 95 % {high:.2f})"
    table.row(
        "mask area, median % of the frame", median, low=0.3, high=1.2, remark=remark
    )
    table.row(
        "balanced accuracy of a small network on the video, unseen furnaces",
        video_accuracy(recordings, epochs=size.epochs),
        low=0.94,
        high=0.99,
    )


if __name__ == "__main__":
    main()
