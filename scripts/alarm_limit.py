"""Measures what an alarm could reach at best on simulated furnaces; prints a table.

    python scripts/alarm_limit.py --run RUN --validation FOLDER --test FOLDER

FOLDERs hold simulated furnaces (`data/simulated/default-...`), whose truth is known.
The rules of `early_warning` are chosen and judged, with its settings, on scores that no
alarm can have:

    learned      boosted trees on the figures of `alarm.taught`, fitted to the true
                 state of other furnaces, simulated without frames
    volatility   minus the logarithm of the true noise of the arcs, its mean over the
                 last seconds; an alarm only sees the currents that this noise made
    state        whether the furnace is in the abnormal state, as the current shows it

What `state` misses comes from the definitions and the budget: episodes that the
current does not show, and false alarms for those that the shell does not. What
`volatility` misses besides is due to calm currents of normal furnaces and loud ones of
abnormal furnaces. RUN gives the lead and the ticks; its encoders are not used.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped
from sklearn.ensemble import HistGradientBoostingClassifier

from fmalign_jax.alarm import comparison, episodes, report
from fmalign_jax.alarm.comparison import Candidate, Scored
from fmalign_jax.alarm.make import abnormal_class, with_a_window_a_tick
from fmalign_jax.alarm.taught import figures
from fmalign_jax.alarm.thresholds import Series
from fmalign_jax.cli import print_table
from fmalign_jax.config import early_warning_config
from fmalign_jax.data import dataset
from fmalign_jax.data.simulator import PROFILES
from fmalign_jax.data.simulator.circuit import simulate_current
from fmalign_jax.data.simulator.operation import operate
from fmalign_jax.data.windows.spec import WindowSpec
from fmalign_jax.evaluation import splits as evaluation_splits, transfer
from fmalign_jax.run import restore

LENGTHS_S = (2.0, 10.0, 30.0, 60.0)
"""Over which the true noise is averaged; chosen on validation."""


FURNACES = 160
"""Whose true state the learned score is fitted to."""

_SEED = 7000
_DURATION_S = 3000.0
_AT_ONCE = 2048  # windows
_figures = jax.jit(figures)


def read_truth(folder: pathlib.Path, name: str) -> Mapping[str, np.ndarray]:
    """Returns what is known of a simulated recording.

    Raises:
      ValueError: the folder is not simulated, or by a version without `volatility`.
    """
    path = folder / "truth" / f"{name}.npz"
    found = dict(np.load(path)) if path.is_file() else {}
    if "volatility" not in found:
        raise ValueError(
            f"the limit needs furnaces whose noise is known; got {path} without it; "
            "simulate the furnaces again"
        )
    return found


def past_means(
    values: Float[np.ndarray, " M"], ends: np.ndarray, length: int
) -> Float[np.ndarray, " N"]:
    """Returns the mean of the last `length` values before each end, or of fewer."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.clip(ends, 1, len(values))
    begins = np.clip(ends - length, 0, None)
    return (sums[ends] - sums[begins]) / (ends - begins)


def score(
    folder: pathlib.Path, series: Series, what: str, length_s: float
) -> Float[np.ndarray, " N"]:
    """Returns the score at the end of each tick of a series."""
    truth = read_truth(folder, series.name)
    rate_hz = 1 / np.diff(truth["time_s"]).mean()
    # The clock of the current is late by the offset: at its second t it is t - offset.
    seconds = series.at_s - truth["clock_offset_s"]
    ends = np.floor(seconds * rate_hz + 1e-6).astype(int)
    if what == "state":
        return past_means(truth["state"].astype(float), ends, 1)
    return past_means(-np.log(truth["volatility"]), ends, round(length_s * rate_hz))


def known_scores(
    scored: Mapping[str, Scored],
    folders: Mapping[str, pathlib.Path],
    what: str,
    lengths_s: Sequence[float],
) -> list[Candidate]:
    """Returns what is known of the recordings, for each length of its mean."""
    return [
        (
            {"length_s": length_s},
            {
                name: [score(folders[name], s, what, length_s) for s in own.series]
                for name, own in scored.items()
            },
        )
        for length_s in lengths_s
    ]


def window_figures(
    samples: Shaped[np.ndarray, "n R C"], ends: np.ndarray, spec: WindowSpec
) -> Float[np.ndarray, "N F"]:
    """Returns the figures of the windows that end with given ticks."""
    windows = np.lib.stride_tricks.sliding_window_view(
        samples.astype(np.float32) / 1000.0, spec.window_ticks, axis=0
    )
    chosen = windows[ends - spec.window_ticks + 1].transpose(0, 3, 1, 2)
    parts = [
        np.asarray(_figures(jnp.asarray(chosen[i : i + _AT_ONCE])))
        for i in range(0, len(chosen), _AT_ONCE)
    ]
    return np.concatenate(parts)


def learned(spec: WindowSpec, slots: int) -> HistGradientBoostingClassifier:
    """Fits a classifier of the last tick's true state, on furnaces of its own."""
    found, states = [], []
    slot = (np.arange(slots) + 0.5) / slots
    for seed in range(_SEED, _SEED + FURNACES):
        operation = operate(
            PROFILES["default"], duration_s=_DURATION_S, seed=seed, furnace=seed
        )
        time_s, amperes = simulate_current(operation)
        tick = np.arange(int(_DURATION_S // spec.tick_s))
        wanted_s = (tick[:, None] + slot) * spec.tick_s
        rows = np.clip(np.searchsorted(time_s, wanted_s) - 1, 0, len(time_s) - 1)
        ends = tick[spec.window_ticks - 1 :]
        found.append(window_figures(amperes[rows], ends, spec))
        states.append(operation.state((ends + 1.0) * spec.tick_s))
    classifier = HistGradientBoostingClassifier(
        max_iter=300, learning_rate=0.06, l2_regularization=1.0, random_state=0
    )
    return classifier.fit(np.concatenate(found), np.concatenate(states))


def learned_scores(
    scored: Mapping[str, Scored], spec: WindowSpec, slots: int
) -> list[Candidate]:
    """Returns the scores of the classifier on the recordings that are judged."""
    classifier = learned(spec, slots)
    return [
        (
            {"length_s": spec.window_ticks * spec.tick_s},
            {
                name: [
                    classifier.predict_proba(window_figures(samples, ends, spec))[:, 1]
                    for samples, ends in zip(own.samples, own.places, strict=True)
                ]
                for name, own in scored.items()
            },
        )
    ]


def main() -> None:
    """Prints detections, warnings and false alarms of the three scores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True, help="folder of the run")
    parser.add_argument("--validation", required=True, type=pathlib.Path)
    parser.add_argument("--test", required=True, type=pathlib.Path)
    args = parser.parse_args()
    config = early_warning_config()
    config.checkpoint = args.run
    config.validation_data, config.test_data = str(args.validation), str(args.test)
    run = restore.open_run(pathlib.Path(args.run), "latest")
    config = transfer.with_features(config, run.config)
    splits = evaluation_splits.load_splits(config, with_a_window_a_tick(run.config))
    abnormal = abnormal_class(config, splits)
    spec = dataset.window_spec(run.config.data, stride_ticks=1)
    definition, scored = comparison.judged(splits, config, spec, abnormal)
    folders = {"validation": args.validation, "test": args.test}
    tried = {
        "learned": learned_scores(scored, spec, spec.samples_per_tick[config.target]),
        "volatility": known_scores(scored, folders, "volatility", LENGTHS_S),
        "state": known_scores(scored, folders, "state", (0.0,)),
    }
    rows = []
    for what, candidates in tried.items():
        method = comparison.choose(config, scored, candidates, definition, spec.tick_s)
        for name, outcomes in method.outcomes.items():
            found = report.counts(episodes.total(outcomes))
            low, high = found["quartiles_warning_s"]
            rows.append(
                (
                    f"{what}, {name}",
                    f"detected {found['detection_rate']:.3f} of {found['spells']}, "
                    f"{found['median_warning_s']:.0f} s ahead ({low:.0f} - {high:.0f})"
                    f", {found['false_alarms_per_hour']:.2f} false alarms an hour, "
                    f"of the last {method.settings['length_s']:g} s",
                )
            )
    print_table(rows)


if __name__ == "__main__":
    main()
