"""Keeps an alarm with what it says, so that later releases are held to the same.

    python scripts/keep_alarm.py RUN/early_warning/alarm.fmalign NAME

writes tests/data/alarms/VERSION-NAME.fmalign and, beside it, VERSION-NAME.npz: windows
and the score and code of each. At every release an alarm of each kind is kept;
tests/test_kept_alarms.py says that all of them are read and score as they did. What is
kept is never made again: it would say what the code of today says.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import pathlib
import shutil

import numpy as np

from fmalign_jax.alarm import alarm_file

KEPT = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data" / "alarms"
MOST_BYTES = 200_000


def windows_for(settings: alarm_file.AlarmSettings) -> np.ndarray:
    """Returns as many windows as the program takes, each of another loudness."""
    rng = np.random.default_rng(0)
    shape = (settings.rows, *settings.window_shape)
    low, high = np.transpose(settings.value_range)
    loud = np.exp(rng.normal(size=(settings.rows, 1, 1, 1)))
    values = (low + high) / 2 + (high - low) / 6 * loud * rng.normal(size=shape)
    return values.astype(np.float32)


def keep(path: pathlib.Path, name: str, folder: pathlib.Path = KEPT) -> pathlib.Path:
    """Keeps an alarm and returns where.

    Raises:
      ValueError: it is no alarm, is too large, or one of this name is kept already.
    """
    alarm = alarm_file.load(path)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"a kept alarm has at most {MOST_BYTES} bytes; got {path.stat().st_size}; "
            "make one of a tiny run"
        )
    version = importlib.metadata.version("fmalign_jax")
    kept = folder / f"{version}-{name}{alarm_file.SUFFIX}"
    if kept.exists():
        raise ValueError(f"{kept} is kept already; give another name")
    windows = windows_for(alarm.settings)
    score, code = alarm(windows)
    np.savez_compressed(
        kept.with_suffix(".npz"), windows=windows, score=score, code=code
    )
    shutil.copyfile(path, kept)
    return kept


def main() -> None:
    """Keeps the alarm of the command line."""
    parser = argparse.ArgumentParser(description="Keeps an alarm for later releases.")
    parser.add_argument("alarm", type=pathlib.Path)
    parser.add_argument("name")
    given = parser.parse_args()
    try:
        print(keep(given.alarm, given.name))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
