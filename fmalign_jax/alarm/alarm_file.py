"""An alarm as one file: the compiled way from raw current to score, and its settings.

The file is a ZIP archive of two entries: `score.stablehlo`, a function that
`jax.export` has serialised with all parameters in it (normalisation, the current's
encoder, the codebook, the head), and `alarm.json`, the settings, with a digest of both.
Reading it needs JAX and NumPy, but no training code and no recordings.

A file that somebody sent is data: it is read up to a limit, every setting is checked,
and a program that calls anything but XLA's own operations is refused before it is
compiled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import export
from jaxtyping import Float, Int
from numpy import ndarray

from fmalign_jax.alarm.rule import AlarmRule
from fmalign_jax.data import archives

SUFFIX = ".fmalign"
FORMAT = 2

NO_CODE = -1
"""What a program answers for the code of a tick where its system has no codes."""

_PROGRAM, _SETTINGS = "score.stablehlo", "alarm.json"
_MOST_BYTES = {_PROGRAM: 512 << 20, _SETTINGS: 1 << 20}
_MOST_VALUES = 1 << 28  # of the windows that a program takes at once
_MOST = 1e300  # what is computed with numbers up to it is finite
_FOREIGN_CALL = re.compile(
    r"custom_call\s*@([\w.$-]+)|call_target_name\s*=\s*\"([^\"]*)"
)
_KNOWN_CALLS = frozenset({"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"})


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
      value_range: by channel, the least and the greatest value in the recordings that
        the alarm was made from; empty in alarms made before it was kept.
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
    value_range: tuple[tuple[float, float], ...] = ()

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
        """Takes what `load` has read.

        Raises:
          ValueError: the program is none, does not fit the settings, or calls what is
            not XLA's own.
        """
        self.settings = settings
        self._device = jax.devices("cpu")[0]
        self._score = jax.jit(_checked(program, settings).call)

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
    _check_settings(settings)
    written = {"format": FORMAT, **dataclasses.asdict(settings)}
    written["digest"] = _digest(written, program)
    entries = {
        _SETTINGS: json.dumps(written, indent=2).encode(),
        _PROGRAM: bytes(program),
    }
    archives.write(path, entries)


def load(path: pathlib.Path, content: bytes | None = None) -> ExportedAlarm:
    """Reads an alarm.

    Args:
      path: of the file; errors name it.
      content: of it, where it was read before: the file is not opened again.

    Raises:
      ValueError: no such file, another kind of file, one of another version, or one
        that is damaged, too large or not to be trusted.
    """
    remedy = f"give the alarm{SUFFIX} that fmalign_jax.early_warning has written"
    try:
        source = path if content is None else io.BytesIO(content)
        with zipfile.ZipFile(source) as archive:
            text, program = (
                archives.read(archive, name, most_bytes=_MOST_BYTES[name])
                for name in (_SETTINGS, _PROGRAM)
            )
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError(f"{_SETTINGS} holds no settings")
    except FileNotFoundError:
        raise ValueError(
            f"a monitor needs an alarm; got {path}, which is not there; {remedy}"
        ) from None
    except archives.DAMAGED as error:
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
    digest = found.pop("digest", None)
    if digest != _digest({"format": version, **found}, program):
        raise ValueError(
            f"{path}: settings and program must be as they were exported; got others; "
            "copy the file again, or export it again"
        )
    try:
        for name in ("channels", "until_visible_s"):
            found[name] = tuple(found[name])
        found["value_range"] = tuple(map(tuple, found.get("value_range", ())))
        settings = AlarmSettings(**found)
        _check_settings(settings)
        return ExportedAlarm(settings, bytearray(program))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}; {remedy}") from error


def with_level(settings: AlarmSettings, raise_at: float) -> AlarmSettings:
    """Returns the settings with another level, and the hysteresis as it was.

    Raises:
      ValueError: the level is no probability.
    """
    clear_at = max(0.0, raise_at - (settings.raise_at - settings.clear_at))
    changed = dataclasses.replace(settings, raise_at=raise_at, clear_at=clear_at)
    _check_settings(changed)
    return changed


def _digest(settings: Mapping[str, Any], program: bytes | bytearray) -> str:
    """Returns a SHA-256 of settings and program."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(hashlib.sha256(text).digest() + bytes(program)).hexdigest()


def _check_settings(settings: AlarmSettings) -> None:
    """Refuses settings of which no alarm can be made; names the first.

    Raises:
      ValueError: the setting, what came, and the rule.
    """
    own = dataclasses.asdict(settings)
    above_all = float(np.nextafter(1.0, 2.0))  # an alarm that is never raised
    for name, least, most in (
        ("tick_s", 1e-6, 1e6),
        ("sample_period_s", 0.0, 1e6),
        ("max_gap_s", 0.0, 1e9),
        ("raise_at", 0.0, above_all),
        ("clear_at", 0.0, above_all),
        ("lead_s", -1e9, 1e9),
    ):
        value = own[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and least <= value <= most):
            raise ValueError(
                f"{name} of an alarm must lie in {least:g} to {most:g}; got {value!r}"
            )
    for name, most in (
        ("window_ticks", 100_000),
        ("samples_per_tick", 1_000_000),
        ("rows", 100_000),
        ("raise_ticks", 10**9),
        ("clear_ticks", 10**9),
    ):
        value = own[name]
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(
                f"{name} of an alarm must be a whole number from 1 to {most}; got "
                f"{value!r}"
            )
    if settings.clear_at > settings.raise_at:
        raise ValueError(
            "clear_at of an alarm must be at most raise_at; got "
            f"{settings.clear_at} and {settings.raise_at}"
        )
    names = (*settings.channels, settings.unit, settings.abnormal)
    names = (*names, settings.until_visible_from)
    if not settings.channels or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "channels, unit, abnormal and until_visible_from of an alarm must be text, "
            f"and a channel there must be; got {names}"
        )
    until = settings.until_visible_s
    if len(until) != 3 or not _rising(until):
        raise ValueError(
            "until_visible_s of an alarm must be three times, the least first; got "
            f"{until}"
        )
    ranges = settings.value_range
    if len(ranges) not in (0, len(settings.channels)) or not all(
        len(pair) == 2 and _rising(pair) for pair in ranges
    ):
        raise ValueError(
            "value_range of an alarm must be the least and the greatest value of each "
            f"of its {len(settings.channels)} channels; got {ranges}"
        )
    if math.prod((settings.rows, *settings.window_shape)) > _MOST_VALUES:
        raise ValueError(
            f"the windows of an alarm may hold {_MOST_VALUES} values in all; got "
            f"{(settings.rows, *settings.window_shape)}"
        )


def _rising(values: Sequence[Any]) -> bool:
    """Says whether all are finite numbers, none less than the one before."""
    # No other comparison is safe with a whole number of a thousand digits.
    numbers = [x for x in values if type(x) in (int, float) and -_MOST <= x <= _MOST]
    return len(numbers) == len(values) and sorted(numbers) == list(values)


def _checked(program: bytearray, settings: AlarmSettings) -> export.Exported:
    """Returns the program of an alarm, if it is one and calls nothing foreign."""
    try:
        exported = export.deserialize(program)
        text = exported.mlir_module()
        taken = [(x.shape, str(x.dtype)) for x in exported.in_avals]
        given = [(x.shape, str(x.dtype)) for x in exported.out_avals]
    except Exception as error:  # whatever a damaged program makes JAX raise
        raise ValueError(f"its program cannot be read ({error})"[:300]) from None
    rows = (settings.rows,)
    if taken != [((*rows, *settings.window_shape), "float32")] or given != [
        (rows, "float32"),
        (rows, "int32"),
    ]:
        raise ValueError(
            "its program must take the windows of its settings, "
            f"{(*rows, *settings.window_shape)}, and give a score and a code for each; "
            f"got {taken} and {given}"
        )
    calls = {first or second for first, second in _FOREIGN_CALL.findall(text)}
    foreign = sorted(calls - _KNOWN_CALLS)
    if foreign or (text.count("custom_call") and not calls):
        raise ValueError(
            "its program may use XLA's own operations alone; got calls of "
            f"{', '.join(foreign)[:200] or 'something unnamed'}"
        )
    return exported
