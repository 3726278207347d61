"""Clocks: from written times to seconds, and samples by their times."""

from __future__ import annotations

import datetime
import logging
import pathlib
import re

import numpy as np
from jaxtyping import Bool, Float, Int

_MOST_SECONDS = 2.0  # between written seconds; further apart they are rounded times
_MOST_OF_A_SECOND = 4  # times the usual number of rows
HOUR_S = 3600.0
TIMES = ("time", "\u65f6\u95f4")
"""What a column of times is called, in small letters."""

_LOOSE_DATE = re.compile(
    r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})[ T]+(\d{1,2})(:\d\d(?::\d\d(?:\.\d+)?)?)",
    re.ASCII,
)

LATEST_S = 253_402_300_800.0
"""The year 10 000, of a clock that began in 1970."""


def sample_times(
    time_s: Float[np.ndarray, "N"], path: pathlib.Path
) -> Float[np.ndarray, "N"]:
    """Returns times of samples of which several may have been written alike.

    Rows of one written second are spread evenly within it, as `spread_within_seconds`
    does; times with parts of a second stay.

    Args:
      time_s: as written, of a sensor.
      path: of the file, named in errors.

    Raises:
      ValueError: most rows share a time, and not that of one second.
    """
    steps = np.diff(time_s)
    alike = steps == 0
    if not alike.any() or (steps < 0).any():
        return time_s
    if not steps.any():
        raise ValueError(
            f"{path}: every sample needs a time of its own; got one for all "
            f"{len(time_s)} rows; export the table with all digits of its times"
        )
    whole = bool((time_s == np.floor(time_s)).all())
    usual = np.quantile(steps[~alike], 0.5, method="lower")
    if whole and usual <= _MOST_SECONDS:
        _warn_of_standing(time_s, path)
        return spread_within_seconds(time_s.astype(np.int64))
    if alike.mean() > 0.5:
        raise ValueError(
            f"{path}: samples must have times of their own; got {alike.mean():.0%} of "
            "the rows with the time of the row before; export the table with all "
            "digits of its times"
        )
    return time_s


def _warn_of_standing(time_s: Float[np.ndarray, "N"], path: pathlib.Path) -> None:
    """Says where one written second holds many more rows than the others."""
    second, count = np.unique(time_s, return_counts=True)
    most, usual = int(np.argmax(count)), float(np.median(count))
    if count[most] > _MOST_OF_A_SECOND * usual:
        logging.getLogger(__name__).warning(
            "%s: rows of one second should be about as many in each; got %d at %.12g "
            "s, where %g are usual; if the clock stood there, cut those rows out",
            path,
            count[most],
            second[most],
            usual,
        )


def clock_changes(time_s: Float[np.ndarray, "N"]) -> Int[np.ndarray, "n"]:
    """Returns the rows before which a regular clock leaps by an hour, and no more.

    That is what daylight saving time does to local times without an offset.
    """
    steps = np.diff(time_s)
    forward = steps[steps > 0]
    usual = float(np.median(forward)) if len(forward) else 0.0
    if not 0 < usual < HOUR_S / 10:
        return np.zeros(0, np.int64)
    leaps = np.abs(steps - usual - HOUR_S) <= usual
    return np.flatnonzero(leaps) + 1


def is_number(cell: str) -> bool:
    """Whether a cell reads as a number."""
    try:
        number(cell)
    except ValueError:
        return False
    return True


def number(cell: str) -> float:
    """Reads a number; Python's own form 1_000 is none.

    Raises:
      ValueError: the cell is something else.
    """
    if "_" in cell:
        raise ValueError(cell)
    return float(cell)


def is_time(cell: str) -> bool:
    """Whether a cell is a time in seconds or a date and time."""
    return is_number(cell) or is_instant(cell)


def is_instant(cell: str) -> bool:
    """Whether a cell reads as a date and time."""
    try:
        instant(cell)
    except ValueError:
        return False
    return True


def instant(text: str) -> float:
    """Seconds since 1970 of a date and time; UTC unless an offset is written.

    Raises:
      ValueError: the text is something else.
    """
    moment = _moment(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def has_offset(date: str) -> bool:
    """Whether a date and time is written with its offset from UTC."""
    return _moment(date).tzinfo is not None


def _moment(text: str) -> datetime.datetime:
    """Reads a date and time, ISO or with single digits and slashes, the year first.

    A table calculator writes 2024/3/5 8:30:00 of its own accord.
    """
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        parts = _LOOSE_DATE.fullmatch(text.strip())
        if parts is None:
            raise
        year, month, day, hour, rest = parts.groups()
        date = f"{year}-{month:0>2}-{day:0>2}"
        return datetime.datetime.fromisoformat(f"{date}T{hour:0>2}{rest}")


def spread_within_seconds(second: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Times of rows of which only the whole second was written down.

    The n rows of one second, however many, lie 1/n s apart from its beginning on.

    Args:
      second: int [N], never decreasing.

    Returns:
      float64 [N], in the same unit and from the same origin.
    """
    _, start, count = np.unique(second, return_index=True, return_counts=True)
    rank = np.arange(len(second)) - np.repeat(start, count)
    return second + rank / np.repeat(count, count)


def slot(
    time_s: Float[np.ndarray, "..."] | float, *, rate_hz: float
) -> Float[np.ndarray, "..."] | float:
    """Number of the interval of 1 / rate_hz seconds that a time lies in."""
    # The small shift keeps a time such as 0.3 s * 10 Hz = 2.999... in slot 3.
    return np.floor(time_s * rate_hz + 1e-6)


def check_rate(max_frame_rate_hz: float | None) -> None:
    """Refuses a rate at which no frame would be kept.

    Raises:
      ValueError: the rate is 0 or less.
    """
    if max_frame_rate_hz is not None and not max_frame_rate_hz > 0:
        raise ValueError(
            f"max_frame_rate_hz must be positive; got {max_frame_rate_hz}; leave "
            "it out to keep all frames"
        )


def thin(
    time_s: Float[np.ndarray, "N"], *, max_rate_hz: float | None
) -> Bool[np.ndarray, "N"]:
    """Which samples to keep: the first in each interval of 1 / max_rate_hz.

    Args:
      time_s: float64 [N], never decreasing within a clip.
      max_rate_hz: None keeps everything.

    Returns:
      bool [N].
    """
    if max_rate_hz is None:
        return np.ones(len(time_s), bool)
    return np.diff(slot(time_s, rate_hz=max_rate_hz), prepend=-np.inf) != 0
