"""An alarm as one file: the compiled way from raw current to score, and its settings.

The file is a ZIP archive of two entries: `score.stablehlo`, a function that
`jax.export` has serialised with all parameters in it (normalisation, the current's
encoder, the codebook, the head), and `alarm.json`, the settings. Reading it needs
JAX and NumPy, but no training code and no recordings.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from typing import Any

import jax
import numpy as np
from jax import export
from jaxtyping import Float, Int
from numpy import ndarray

from fmalign_jax.alarm.rule import AlarmRule
from fmalign_jax.data.files import replacing

SUFFIX = ".fmalign"
FORMAT = 1

NO_CODE = -1
"""What a program answers for the code of a tick where its system has no codes."""

_PROGRAM, _SETTINGS = "score.stablehlo", "alarm.json"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same settings give the same bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlarmSettings:
    """All that a monitor needs in addition to the program; times in seconds.

    Attributes:
      channels: names of the current's channels, in the order of the program's input.
      unit: of their values.
      tick_s: length of a tick.
      window_ticks: T, ticks in a window.
      samples_per_tick: R.
      sample_period_s: between the samples that the model was trained on.
      max_gap_s: how far a sample may lie from where it is wanted.
      rows: B, windows that the program takes at once.
      abnormal: the class whose probability is the score.
      raise_at: see `alarms.AlarmRule`; so the next three.
      clear_at: ...
      raise_ticks: ...
      clear_ticks: ...
      lead_s: how far the current is ahead, between centres of windows.
      until_visible_s: from the raising of an alarm to the visible onset: the least
        that is expected, the middle and the most.
      until_visible_from: where that is known from, in words.
      origin: which run and checkpoint, and what was found in validation.
    """

    channels: tuple[str, ...]
    unit: str
    tick_s: float
    window_ticks: int
    samples_per_tick: int
    sample_period_s: float
    max_gap_s: float
    rows: int
    abnormal: str
    raise_at: float
    clear_at: float
    raise_ticks: int
    clear_ticks: int
    lead_s: float
    until_visible_s: tuple[float, float, float]
    until_visible_from: str
    origin: dict[str, Any]

    @property
    def rule(self) -> AlarmRule:
        """Returns when the alarm is raised and cleared."""
        return AlarmRule(
            self.raise_at, self.clear_at, self.raise_ticks, self.clear_ticks
        )

    @property
    def window_shape(self) -> tuple[int, int, int]:
        """Returns (T, R, C)."""
        return self.window_ticks, self.samples_per_tick, len(self.channels)


class ExportedAlarm:
    """A loaded alarm; calling it scores windows."""

    def __init__(self, settings: AlarmSettings, program: bytearray) -> None:
        """Takes what `load` has read."""
        self.settings = settings
        self._device = jax.devices("cpu")[0]
        self._score = jax.jit(export.deserialize(program).call)

    def warm_up(self) -> None:
        """Compiles the program, so that the first tick need not wait for it."""
        self(np.zeros((1, *self.settings.window_shape), np.float32))

    def __call__(
        self, windows: Float[ndarray, "n T R C"], first: int = 0
    ) -> tuple[Float[ndarray, " n"], Int[ndarray, " n"]]:
        """Scores up to B windows by the one compiled program.

        Args:
          windows: raw, in the unit of the recording.
          first: row of the program that the first window takes; the others follow, so
            that `first + n` is at most B. A window at the same row always gets the
            same bits, whatever stands in the others.

        Returns:
          The probability of the abnormal class, and the code of the last tick, or
          NO_CODE.
        """
        shape = (self.settings.rows, *self.settings.window_shape)
        rows = np.zeros(shape, np.float32)
        taken = slice(first, first + len(windows))
        rows[taken] = windows
        score, code = self._score(jax.device_put(rows, self._device))
        return np.asarray(score)[taken], np.asarray(code)[taken]


def save(
    path: pathlib.Path, settings: AlarmSettings, program: bytes | bytearray
) -> None:
    """Writes an alarm, whole or not at all."""
    entries = {
        _SETTINGS: json.dumps(
            {"format": FORMAT, **dataclasses.asdict(settings)}, indent=2
        ).encode(),
        _PROGRAM: bytes(program),
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def load(path: pathlib.Path) -> ExportedAlarm:
    """Reads an alarm.

    Raises:
      ValueError: no such file, another kind of file, or one of a later version.
    """
    remedy = f"give the alarm{SUFFIX} that fmalign_jax.early_warning has written"
    try:
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read(_SETTINGS))
            program = bytearray(archive.read(_PROGRAM))
    except FileNotFoundError:
        raise ValueError(
            f"a monitor needs an alarm; got {path}, which is not there; {remedy}"
        ) from None
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: must be an exported alarm; got another or a damaged file "
            f"({error}); {remedy}"
        ) from error
    version = found.pop("format", None)
    if version != FORMAT:
        raise ValueError(
            f"{path}: this version reads alarms of format {FORMAT}; got {version}; "
            "export it again"
        )
    for name in ("channels", "until_visible_s"):
        found[name] = tuple(found[name])
    return ExportedAlarm(AlarmSettings(**found), program)
