"""Signals in memory: as a recording, or as windows that are cut already."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from fmalign_jax.data.validation import check_recording
from fmalign_jax.structs import UNLABELLED, Recording, Stream


class InMemory:
    """One recording in memory, as a source of recordings."""

    def __init__(self, signals: Mapping[str, Any]) -> None:
        """Takes values and times by modality.

        Raises:
          ValueError: they are not, or not those of a recording.
        """
        streams = {name: _stream(name, signal) for name, signal in signals.items()}
        self._recording = Recording("signals", streams)
        check_recording(
            self._recording,
            pathlib.Path("signals"),
            sources={name: f"the argument {name!r}" for name in streams},
        )

    def names(self) -> list[str]:
        """Returns the one name."""
        return [self._recording.name]

    def read(self, name: str) -> Recording:
        """Returns the recording."""
        del name
        return self._recording

    def fingerprint(self) -> str:
        """Returns the same digest for all: nothing is kept."""
        return "memory"


def _stream(name: str, signal: Any) -> Stream:
    try:
        values, time_s = signal
    except (TypeError, ValueError):
        raise ValueError(
            f"the argument {name!r} must be a pair of values and their times in "
            f"seconds; got {type(signal).__name__}; give ({name}, time_s)"
        ) from None
    values, time_s = np.asarray(values), np.asarray(time_s, np.float64)
    if time_s.shape != values.shape[:1]:
        raise ValueError(
            f"the argument {name!r} must have one time for each of its values; got "
            f"values {values.shape} and times {time_s.shape}; correct one of them"
        )
    if values.dtype.kind in "fiu" and values.dtype != np.uint8:
        values = values.astype(np.float32)
    n = len(time_s)
    return Stream(
        values, time_s, np.zeros(n, np.int32), np.full(n, UNLABELLED, np.int32)
    )


def as_windows(
    windows: Shaped[ndarray, "N *_"],
    modality: str,
    *,
    ticks: int,
    samples: int,
    channels: int | None,
) -> Shaped[ndarray, "N T R *_"]:
    """Returns windows by tick; flattened ones get their channels back.

    Args:
      windows: [N, T * R, ...] or [N, T * R * C].
      modality: whose, for errors.
      ticks: T.
      samples: R.
      channels: C; None of tokens, which have none.

    Raises:
      ValueError: they have another shape.
    """
    got, wanted = windows.shape, ticks * samples
    if channels is not None and windows.ndim == 2 and windows.size:
        whole = windows.shape[1] == wanted * channels
        windows = windows.reshape(len(windows), -1, channels) if whole else windows
    fits = windows.ndim >= (2 if channels is None else 3) and len(windows)
    if (
        not fits
        or windows.shape[1] != wanted
        or (channels is not None and windows.shape[-1] != channels)
    ):
        told = "tokens" if channels is None else f"{channels} channels"
        raise ValueError(
            f"windows of {modality!r} must be [N, {wanted}, ...] of {told} "
            f"({ticks} ticks of {samples} samples), at least one; got {got}; cut them "
            "so"
        )
    kinds = np.int32 if channels is None else np.float32
    if windows.dtype != np.uint8:
        windows = windows.astype(kinds)
    return windows.reshape(len(windows), ticks, samples, *windows.shape[2:])
