"""The labels of a video recording, in a CSV file beside it: <stem>.labels.csv.

A label holds from the time in its row to that in the next, for all streams; before the
first row, and after one without a label, the class is unknown.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int32

from fmalign_jax.data import clocks, files, tables
from fmalign_jax.data.clocks import TIMES
from fmalign_jax.structs import UNLABELLED

_LABELS = ("label", "\u6807\u7b7e")
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
    called = [[i for i, x in enumerate(names) if x in of] for of in (TIMES, _LABELS)]
    if all(called):
        return called[0][0], called[1][0]
    if len(names) != 2:
        raise ValueError(
            f"{table.path}: labels need two columns, time and label; got "
            f"{list(table.columns)}; name two of them so or leave the others out, and "
            "end a label by a row without one"
        )
    time = table.time_position()
    return time, 1 - time


def texts(path: pathlib.Path) -> list[str]:
    """Reads the labels as they are written.

    Raises:
      ValueError: one is missing or holds a quote, which is of a cell not closed.
    """
    table = tables.read_table(path)
    _, label = columns(table)
    found = table.texts(label)
    for row, text in enumerate(found):
        if '"' in text:
            raise ValueError(
                f"{path}: a label may not hold quotes; got {text[:40]!r} in line "
                f"{table.line(row)}; remove them"
            )
    return found


def numbers(path: pathlib.Path, names: Sequence[str]) -> list[int]:
    """Reads the labels as classes, by number or by one of the names.

    Raises:
      ValueError: a label is neither.
    """
    found = []
    for row, text in enumerate(texts(path)):
        number = _number(text, names)
        if number is None:
            raise ValueError(
                f"{path}: labels must be class numbers from 0 (to 2^31 - 1) or one of "
                f"{list(names)}; got {text[:40]!r} in line "
                f"{tables.read_table(path).line(row)}; correct it or name that class"
            )
        found.append(number)
    return found


def starts_s(table: tables.Table) -> Float[np.ndarray, "rows"]:
    """Reads when each label begins, seconds on the clock of the file.

    Of rows of one time the last counts: the others end what was before. Where most rows
    are alike, they are labels of single samples, and their times as those of samples.

    Raises:
      ValueError: a time is none or goes back; one time for all, or for most.
    """
    time, _ = columns(table)
    found = table.seconds(time)
    table.check_rising(time, found)
    if len(found) > 1 and (np.diff(found) == 0).mean() > 0.5:
        return clocks.sample_times(found, table.path)
    return found


def check_within(
    path: pathlib.Path,
    start_s: Float[np.ndarray, "rows"],
    first_s: float,
    last_s: float,
) -> None:
    """Refuses labels of another time than the recording, and says which begin after it.

    Args:
      path: the file, named in errors.
      start_s: when each label begins.
      first_s: the first sample of the recording, on the same clock.
      last_s: the last one.

    Raises:
      ValueError: all labels begin after the recording, or before it. One label may
        begin before.
    """
    after = int((start_s > last_s).sum())
    before = len(start_s) > 1 and start_s[-1] < first_s
    if after == len(start_s) or before:
        raise ValueError(
            f"{path}: labels must begin within the recording; got them from "
            f"{start_s[0]:.6g} to {start_s[-1]:.6g} s, and the recording from "
            f"{first_s:.6g} to {last_s:.6g} s after the first frame; correct the "
            "offset between the clocks, and give times in seconds"
        )
    if after:
        logging.getLogger(__name__).warning(
            "%s: labels should begin within the recording; got %d of %d after its last "
            "sample, which hold nowhere; check their times",
            path,
            after,
            len(start_s),
        )


def held(
    start_s: Float[np.ndarray, "rows"],
    number: Sequence[int],
    time_s: Float[np.ndarray, "N"],
) -> Int32[np.ndarray, "N"]:
    """Returns the class that holds at each time.

    Args:
      start_s: when each label begins, never decreasing.
      number: the class of each.
      time_s: the times asked for, on the same clock.
    """
    held = np.array([UNLABELLED, *number], np.int32)
    return held[np.searchsorted(start_s, time_s, side="right")]


def _number(text: str, names: Sequence[str]) -> int | None:
    """Returns the class of a label; None if there is no such class."""
    if text in names:
        return names.index(text)
    if text == "":
        return UNLABELLED
    if clocks.is_number(text) and float(text).is_integer():
        number = int(float(text))
        if UNLABELLED <= number < MOST_CLASSES:
            return number
    return None
