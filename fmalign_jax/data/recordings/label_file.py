"""The labels of a video recording, in a CSV file beside it: <stem>.labels.csv.

A label holds from the time in its row to that in the next, for all streams; before the
first row, and after one without a label, the class is unknown.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int32

from fmalign_jax.data import clocks, files, tables
from fmalign_jax.structs import UNLABELLED

MOST_CLASSES = 1 << 31


def beside(video: pathlib.Path) -> pathlib.Path:
    """Returns where the labels of a video lie, if it has any."""
    return files.beside(video, ".labels.csv")


def columns(table: tables.Table) -> tuple[int, int]:
    """Returns the positions of time and label.

    Raises:
      ValueError: there are not two columns, nor two called "time" and "label".
    """
    names = [name.lower() for name in table.columns]
    if {"time", "label"} <= set(names):
        return names.index("time"), names.index("label")
    if len(names) != 2:
        raise ValueError(
            f"{table.path}: labels need two columns, time and label; got "
            f"{list(table.columns)}; name two of them so or leave the others out, and "
            "end a label by a row without one"
        )
    return 0, 1


def texts(path: pathlib.Path) -> list[str]:
    """Reads the labels as they are written."""
    table = tables.read_table(path)
    _, label = columns(table)
    return table.texts(label).tolist()


def numbers(path: pathlib.Path, names: Sequence[str]) -> list[int]:
    """Reads the labels as classes, by number or by one of the names.

    Raises:
      ValueError: a label is neither.
    """
    return [_number(text, path, names) for text in texts(path)]


def held(
    path: pathlib.Path,
    start_s: Float[np.ndarray, "rows"],
    number: Sequence[int],
    time_s: Float[np.ndarray, "N"],
) -> Int32[np.ndarray, "N"]:
    """Returns the class that holds at each time.

    Args:
      path: the file, named in errors.
      start_s: when each label begins.
      number: the class of each.
      time_s: the times asked for, on the same clock.

    Raises:
      ValueError: time goes back.
    """
    back = np.diff(start_s) < 0
    if back.any():
        line = tables.read_table(path).line(int(np.argmax(back)) + 1)
        raise ValueError(
            f"{path}: time must not go back; got a step back in line {line}; sort the "
            "rows by time"
        )
    held = np.array([UNLABELLED, *number], np.int32)
    return held[np.searchsorted(start_s, time_s, side="right")]


def _number(text: str, path: pathlib.Path, names: Sequence[str]) -> int:
    if text in names:
        return names.index(text)
    if text == "":
        return UNLABELLED
    if clocks.is_number(text) and float(text).is_integer():
        number = int(float(text))
        if UNLABELLED <= number < MOST_CLASSES:
            return number
    raise ValueError(
        f"{path}: labels must be class numbers from 0 (to 2^31 - 1) or one of "
        f"{list(names)}; got {text!r}; correct it or name that class"
    )
