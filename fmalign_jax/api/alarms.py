"""An alarm on the current alone: applied to currents in memory, drawn, judged."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from numpy import ndarray

from fmalign_jax.alarm import alarm_file, follow, signature
from fmalign_jax.alarm.alarm_file import AlarmSettings, ExportedAlarm
from fmalign_jax.alarm.live import Monitor, Reading
from fmalign_jax.api.frames import frame

__all__ = ["Alarm", "Readings", "load_alarm"]


def load_alarm(
    path: str | os.PathLike[str],
    *,
    require_signature: str | os.PathLike[str] | None = None,
) -> Alarm:
    """Opens an exported alarm, `alarm.fmalign`; no code of others runs.

    Args:
      path: the file.
      require_signature: public Ed25519 key (PEM) of whom must have signed it.

    Raises:
      ValueError: the file is none, or its signature is missing or wrong.
    """
    path, content = pathlib.Path(path), None
    if require_signature is not None:  # the bytes verified are the bytes loaded
        content = signature.verify(path, pathlib.Path(require_signature))
    return Alarm(path, {}, alarm_file.load(path, content))


@dataclasses.dataclass(frozen=True)
class Alarm:
    """An alarm, and how it was judged.

    Attributes:
      path: the exported file, which `fmalign monitor` runs.
      report: what early_warning.json holds (docs/early_warning.md); empty of an alarm
        that was opened as a file.
      exported: what the file holds, compiled when it is first used.
    """

    path: pathlib.Path
    report: Mapping[str, Any]
    exported: ExportedAlarm = dataclasses.field(repr=False, compare=False)

    def __repr__(self) -> str:
        """Returns the file, what it warns of, and what it detects, where known."""
        settings = self.settings
        said = f"{settings.abnormal!r} by {', '.join(settings.channels)}"
        if self.report:
            split = self.report["headline_split"]
            own = self._methods()[self.report["alarm"]]["splits"][split]
            said += f", {own['detected']} of {own['spells']} detected on {split}"
        return f"<Alarm {self.path}, {said}>"

    @property
    def settings(self) -> AlarmSettings:
        """Returns channels, ticks, levels and expected warning of the alarm."""
        return self.exported.settings

    def watch(
        self,
        current: Float[ndarray, "N C"] | str | os.PathLike[str],
        time_s: Float[ndarray, " N"] | None = None,
    ) -> Readings:
        """Runs the alarm over a current, as the monitor runs it over a file.

        Args:
          current: values, in the order of the channels of `settings`; or a CSV file,
            as the monitor reads it.
          time_s: their times in seconds, increasing; of a file they stand in it.

        Raises:
          ValueError: the shapes do not fit, times do not increase, or the file is no
            table of the channels.
          OSError: the file cannot be read.
        """
        monitor = Monitor(self.exported, live=False)
        readings: list[Reading] = []
        for line in self._lines(current, time_s):
            readings += monitor.feed(line)
        return Readings(tuple(readings + monitor.flush()))

    def _lines(self, current: Any, time_s: Any) -> Iterator[str]:
        """Yields the lines that a monitor reads, their names first."""
        if isinstance(current, str | os.PathLike):
            if time_s is not None:
                raise ValueError(
                    f"the times of a file stand in it; got {os.fspath(current)!r} and "
                    "time_s; leave time_s out"
                )
            with open(current, "rb") as file:
                yield from follow.whole(file)
            return
        if time_s is None:
            raise ValueError(
                "a current that is an array needs its times; got none; give "
                "watch(current, time_s)"
            )
        current, time_s = np.asarray(current), np.asarray(time_s, np.float64)
        channels = self.settings.channels
        if current.shape != (*time_s.shape, len(channels)) or time_s.ndim != 1:
            raise ValueError(
                f"a current must be [N, {len(channels)}] ({', '.join(channels)}) with "
                f"times [N]; got {current.shape} and {time_s.shape}; correct them"
            )
        if not (np.diff(time_s) > 0).all():
            place = int(np.argmin(np.diff(time_s) > 0))
            raise ValueError(
                f"times must increase; got {time_s[place + 1]} after {time_s[place]} "
                f"at row {place + 1}; sort the rows"
            )
        yield ",".join(["time", *channels])
        for moment, row in zip(time_s.tolist(), current.tolist(), strict=True):
            yield ",".join(map(repr, [moment, *row]))

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings of the alarm, and what it was judged to be."""
        return {**dataclasses.asdict(self.settings), "report": dict(self.report)}

    def to_frame(self) -> Any:
        """Returns a pandas.DataFrame: a row a score and split, how good its alarm is.

        Raises:
          ValueError: the alarm was opened as a file, which does not hold this.
        """
        rows = [
            {
                "score": name,
                "split": split,
                **{key: v for key, v in own.items() if np.ndim(v) == 0},
            }
            for name, method in self._methods().items()
            for split, own in method["splits"].items()
        ]
        return frame({key: [row.get(key) for row in rows] for key in rows[0]})

    def plot(self) -> Figure:
        """Draws detected share over false alarms an hour, by score.

        Raises:
          ValueError: the alarm was opened as a file, which does not hold this.
        """
        methods, split = self._methods(), self.report["headline_split"]
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots()
        for name, method in methods.items():
            found = method["splits"][split]
            axes.plot(
                found["false_alarms_per_hour"], found["detection_rate"], "o", label=name
            )
        axes.set(
            xlabel=f"false alarms an hour, {split} split",
            ylabel="share of spells that were warned of",
            ylim=(-0.02, 1.02),
        )
        axes.set_xlim(left=0)
        axes.legend()
        return figure

    def _methods(self) -> Mapping[str, Any]:
        if not self.report:
            raise ValueError(
                "how an alarm was judged stands in its run; got one opened as a file; "
                "make it with load(RUN).alarm()"
            )
        methods: Mapping[str, Any] = self.report["methods"]
        return methods


@dataclasses.dataclass(frozen=True)
class Readings:
    """What an alarm said of a current, tick by tick.

    Attributes:
      readings: one a tick, from the first full window on; see
        `fmalign_jax.alarm.live.Reading`.
    """

    readings: tuple[Reading, ...]

    def __repr__(self) -> str:
        """Returns how many ticks there are, when, and in how many the alarm is on."""
        if not self.readings:
            return "<Readings none>"
        first, last = self.readings[0].time_s, self.readings[-1].time_s
        return (
            f"<Readings {len(self.readings)} ticks, {first:.10g} to {last:.10g} s, "
            f"alarm on in {self.active.sum()}>"
        )

    @property
    def time_s(self) -> Float[ndarray, " n"]:
        """Returns the end of each tick, seconds."""
        return np.array([own.time_s for own in self.readings])

    @property
    def probability(self) -> Float[ndarray, " n"]:
        """Returns the probability of the abnormal class."""
        return np.array([own.probability for own in self.readings])

    @property
    def active(self) -> Bool[ndarray, " n"]:
        """Returns whether the alarm is on."""
        return np.array([own.active for own in self.readings], bool)

    def to_dict(self) -> dict[str, Any]:
        """Returns the columns by name."""
        return {
            "time_s": self.time_s,
            "probability": self.probability,
            "active": self.active,
            "code": [own.code for own in self.readings],
        }

    def to_frame(self) -> Any:
        """Returns a pandas.DataFrame: one row a tick."""
        return frame(self.to_dict())

    def plot(self) -> Figure:
        """Draws the probability over time, and where the alarm is on."""
        figure = Figure(figsize=(10, 3), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(
            self.time_s, 0, 1, where=self.active, color="C3", alpha=0.3, label="alarm"
        )
        axes.plot(self.time_s, self.probability, color="C0", label="probability")
        axes.set(xlabel="time, s", ylabel="probability", ylim=(-0.02, 1.02))
        axes.legend()
        return figure
