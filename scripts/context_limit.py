"""Measures what a longer stretch of current could add at best; prints a table.

    python scripts/context_limit.py --spread 0 60

Furnaces are simulated without frames. From a current, or from what only the simulator
knows of it, classifiers that are given the labels say whether a window of the video is
abnormal: from the one window a lead earlier, and from all windows of a range of leads
around it. Their difference is what `data.lead_range_s` could add.

    state        whether the current shows the abnormal state: without noise
    volatility   the logarithm of the true noise of the arcs
    change       the logarithm of the current's mean change from row to row

`--spread` is how far the lead of an episode may differ from 240 s, either way.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from fmalign_jax.cli import print_table
from fmalign_jax.data.simulator import PROFILES
from fmalign_jax.data.simulator.circuit import simulate_current, simulate_volatility
from fmalign_jax.data.simulator.operation import Operation, operate

LEAD_S = 240.0
TICK_S = 2.0
WINDOW = 30  # ticks
RANGE = 90  # ticks from the least to the most lead
BIN = 5  # ticks whose mean is one feature
DURATION_S = 3000.0
STRIDE = 15  # ticks
FITTED_SHARE = 0.6
SEED = 5000

Rows = dict[str, Float[np.ndarray, "N _"]]


def of_ticks(values: Float[np.ndarray, " M"], ticks: int) -> Float[np.ndarray, " n"]:
    """Returns the mean of each tick."""
    return values[: len(values) // ticks * ticks].reshape(ticks, -1).mean(axis=1)


def signals(operation: Operation) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns what the current says of every tick, and what it cannot say."""
    ticks = round(operation.duration_s / TICK_S)
    time_s, amperes = simulate_current(operation)
    change = np.abs(np.diff(amperes, axis=0, prepend=amperes[:1])).mean(axis=1)
    return {
        "state": of_ticks(operation.state(time_s).astype(float), ticks),
        "volatility": of_ticks(np.log(simulate_volatility(operation)), ticks),
        "change": of_ticks(np.log(change + 1.0), ticks),
    }


def windows(
    operation: Operation,
) -> Iterator[tuple[dict[str, Float[np.ndarray, " C"]], bool]]:
    """Yields the range of current that belongs to each window, and its label."""
    found = signals(operation)
    ticks = len(found["state"])
    visible = operation.visible((np.arange(ticks) + 0.5) * TICK_S)
    lead = round(LEAD_S / TICK_S)
    for begin in range(lead + RANGE // 2, ticks - WINDOW, STRIDE):
        first = begin - lead - RANGE // 2
        label = bool(visible[begin : begin + WINDOW].mean() >= 0.5)
        yield (
            {k: v[first : first + RANGE + WINDOW] for k, v in found.items()},
            label,
        )


def score(
    features: Float[np.ndarray, "N _"],
    label: Int[np.ndarray, " N"],
    fitted: np.ndarray,
) -> float:
    """Returns the better classifier's balanced accuracy on the other furnaces."""
    return max(
        balanced_accuracy_score(
            label[~fitted],
            model.fit(features[fitted], label[fitted]).predict(features[~fitted]),
        )
        for model in (
            LogisticRegression(max_iter=500, class_weight="balanced"),
            HistGradientBoostingClassifier(
                max_iter=100,
                learning_rate=0.05,
                class_weight="balanced",
                random_state=0,
            ),
        )
    )


def measure(spread_s: float, furnaces: int) -> Iterator[list[str]]:
    """Yields a row for each signal: one lead, the range, and the difference."""
    profile = dataclasses.replace(PROFILES["default"], lead_spread_s=spread_s)
    found, number = [], []
    for furnace in range(SEED, SEED + furnaces):
        operation = operate(
            profile, duration_s=DURATION_S, seed=furnace, furnace=furnace
        )
        own = list(windows(operation))
        found += own
        number += [furnace - SEED] * len(own)
    fitted = np.array(number) < FITTED_SHARE * furnaces
    label = np.array([own for _, own in found], int)
    for name in found[0][0]:
        bins = np.stack([of_ticks(s[name], (RANGE + WINDOW) // BIN) for s, _ in found])
        middle = slice(RANGE // 2 // BIN, (RANGE // 2 + WINDOW) // BIN)
        alone = score(bins[:, middle], label, fitted)
        whole = score(bins, label, fitted)
        yield [
            f"{spread_s:g}",
            name,
            f"{alone:.3f}",
            f"{whole:.3f}",
            f"{whole - alone:+.3f}",
        ]


def main() -> None:
    """Measures the spreads of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--spread", type=float, nargs="+", default=[0.0, 60.0])
    parser.add_argument("--furnaces", type=int, default=160)
    arguments = parser.parse_args()
    rows = [["spread, s", "signal", "one lead", "range", "difference"]]
    for spread_s in arguments.spread:
        rows += measure(spread_s, arguments.furnaces)
    print_table(rows)


if __name__ == "__main__":
    main()
