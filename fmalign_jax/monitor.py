"""Watches a live current and warns of what the camera will see later.

    python -m fmalign_jax.monitor --checkpoint RUN --input current.csv
    plant-logger | python -m fmalign_jax.monitor --alarm alarm.fmalign --input -

Runs an exported alarm: neither the training code nor recordings are needed beside it.
Given a run, it exports the run's alarm first. docs/monitor.md is for who runs it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import datetime
import importlib
import logging
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fmalign_jax import alarms, exported
from fmalign_jax.exported import ExportedAlarm
from fmalign_jax.stream import Row, RowReader, Tick, TickAssembler, Warnings, Windows

_LATENCIES = 10_000  # of the latest ticks, for the summary
_POLL_S = 0.2  # between two looks at a followed file
_LONGEST_LINE = 10_000  # characters; what is longer is no row
_HEADER = ("time", "probability", "code", "alarm", "visible from", "visible", "to")


class Reading(NamedTuple):
    """What is known after one tick; times in seconds on the clock of the input.

    Attributes:
      time_s: end of the tick.
      probability: of the abnormal class, from the window that ends now.
      code: of the last tick.
      active: whether the alarm is on.
      changed: whether it was raised or cleared just now.
      visible_s: while it is on, when the condition is expected to be seen: at the
        earliest, in the middle, at the latest.
    """

    time_s: float
    probability: float
    code: int
    active: bool
    changed: bool
    visible_s: tuple[float, float, float] | None


class Monitor:
    """Lines in, readings out; keeps the last window and the state of the alarm.

    A replay scores B ticks in one call of the compiled program, a live monitor one. A
    tick takes the same row of the program either way, so that the readings are the
    same bits.
    """

    def __init__(
        self, alarm: ExportedAlarm, *, live: bool, origin_s: float | None = None
    ) -> None:
        """Starts before the first line.

        Args:
          alarm: as loaded.
          live: score every tick when it is complete.
          origin_s: where a tick begins; by default as `TickAssembler` has it.
        """
        own = alarm.settings
        self.warnings = Warnings()
        self.latencies_s: collections.deque[float] = collections.deque(
            maxlen=_LATENCIES
        )
        self.ticks = 0
        self._alarm, self._live = alarm, live
        self._reader = RowReader(
            own.channels,
            self.warnings,
            rows_a_second=max(1, round(1 / own.sample_period_s)),
        )
        self._assembler = TickAssembler(
            tick_s=own.tick_s,
            samples_per_tick=own.samples_per_tick,
            period_s=own.sample_period_s,
            max_gap_s=own.max_gap_s,
            warnings=self.warnings,
            origin_s=origin_s,
        )
        self._windows = Windows(own.window_ticks)
        self._state = alarms.start(own.rule)
        self._raised_s = math.nan
        self._waiting: list[tuple[Tick, Float[ndarray, "T R C"], float]] = []

    @property
    def written_times(self) -> bool:
        """Says whether the input writes dates and times, not seconds."""
        return self._reader.written_times

    def feed(self, line: str) -> list[Reading]:
        """Returns the readings that this line completes, oldest first.

        Raises:
          ValueError: the input is of another kind; see `RowReader.feed`.
        """
        return self._take(self._reader.feed(line))

    def flush(self) -> list[Reading]:
        """Returns what is left when no more lines will come."""
        return self._take(self._reader.flush()) + self._score()

    def _take(self, rows: list[Row]) -> list[Reading]:
        readings: list[Reading] = []
        for row in rows:
            for tick in self._assembler.feed(row):
                window = self._windows.feed(tick)
                if window is None:
                    continue
                self._waiting.append((tick, window, time.perf_counter()))
                first = self.ticks % self._alarm.settings.rows
                full = first + len(self._waiting) == self._alarm.settings.rows
                if self._live or full:
                    readings += self._score()
        return readings

    def _score(self) -> list[Reading]:
        """Scores the windows that wait, in the rows that are theirs."""
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, []
        windows = np.stack([window for _, window, _ in waiting])
        probability, code = self._alarm(windows, self.ticks % self._alarm.settings.rows)
        self.ticks += len(waiting)
        readings = [
            self._reading(tick, float(p), int(c))
            for (tick, _, _), p, c in zip(waiting, probability, code, strict=True)
        ]
        now = time.perf_counter()
        self.latencies_s.extend(now - since for _, _, since in waiting)
        return readings

    def _reading(self, tick: Tick, probability: float, code: int) -> Reading:
        own = self._alarm.settings
        before = bool(self._state.active)
        self._state = alarms.step(own.rule, self._state, tick.number, probability)
        active = bool(self._state.active)
        if active and not before:
            self._raised_s = tick.end_s
        low, middle, high = (self._raised_s + after for after in own.until_visible_s)
        visible_s = (low, middle, high) if active else None
        return Reading(
            tick.end_s, probability, code, active, active != before, visible_s
        )


def _lines(source: Any, follow: bool) -> Iterator[str]:
    """Yields lines of an open text file; with `follow` it waits for more.

    What is longer than any row comes in pieces.
    """
    rest = ""
    while True:
        piece = source.readline(_LONGEST_LINE)
        if piece.endswith("\n") or len(piece) == _LONGEST_LINE:
            yield rest + piece
            rest = ""
        elif piece:
            rest += piece  # a line that is being written
        elif follow:
            time.sleep(_POLL_S)
        else:
            break
    if rest:
        yield rest


def _written(seconds: float, as_dates: bool) -> str:
    if not as_dates:
        return f"{seconds:.1f}"
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _cells(reading: Reading, as_dates: bool) -> list[str]:
    visible = reading.visible_s or ()
    return [
        _written(reading.time_s, as_dates),
        f"{reading.probability:.6f}",
        str(reading.code),
        "ALARM" if reading.active else "normal",
        *(_written(seconds, as_dates) for seconds in visible),
    ]


def _announce(reading: Reading, abnormal: str, as_dates: bool) -> None:
    at = _written(reading.time_s, as_dates)
    if reading.visible_s is None:
        logging.warning("%s: alarm cleared", at)
        return
    low, middle, high = (_written(s, as_dates) for s in reading.visible_s)
    logging.warning(
        "%s: ALARM, %s expected to be seen at %s (%s to %s)",
        *(at, abnormal, middle, low, high),
    )


def watch(
    monitor: Monitor,
    lines: Iterator[str],
    show: Callable[[list[str]], None],
    *,
    abnormal: str,
    changes_only: bool = False,
) -> None:
    """Runs a monitor over lines until they end, and shows its readings."""

    def tell(readings: list[Reading]) -> None:
        for reading in readings:
            if reading.changed:
                _announce(reading, abnormal, monitor.written_times)
            if reading.changed or not changes_only:
                show(_cells(reading, monitor.written_times))

    for line in lines:
        tell(monitor.feed(line))
    tell(monitor.flush())


def summary(monitor: Monitor, took_s: float) -> str:
    """Returns in one line what came, what was left out, and how long a tick took."""
    parts = [f"{monitor.ticks} ticks scored in {took_s:.1f} s"]
    if monitor.latencies_s:
        median, high = np.quantile(monitor.latencies_s, [0.5, 0.99])
        parts.append(
            f"a tick's score {median * 1e3:.1f} ms after it was complete (99 %: "
            f"{high * 1e3:.1f} ms)"
        )
    parts += [f"{kind}: {n}" for kind, n in sorted(monitor.warnings.counts.items())]
    return "; ".join(parts)


def _alarm_of(checkpoint: pathlib.Path) -> pathlib.Path:
    """Returns the alarm of a run, which is made first if there is none."""
    if checkpoint.suffix == exported.SUFFIX:
        return checkpoint
    path = checkpoint / "early_warning" / f"alarm{exported.SUFFIX}"
    if not path.is_file():
        logging.warning("%s has no alarm yet: making it", checkpoint)
        # Only here is the training code needed.
        default_config = importlib.import_module("fmalign_jax.default_config")
        early_warning: Any = importlib.import_module("fmalign_jax.early_warning")
        config = default_config.early_warning_config()
        config.checkpoint = str(checkpoint)
        _, folder = early_warning.early_warning(config)
        path = folder / path.name
    return path


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fmalign_jax.monitor",
        description="Watches a current and warns early.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        help="folder of a run; its alarm is made first if there is none",
    )
    which.add_argument("--alarm", type=pathlib.Path, help="an exported alarm")
    parser.add_argument(
        "--input", required=True, help="a CSV file, or - for standard input"
    )
    parser.add_argument(
        "--follow", action="store_true", help="wait for lines that are added to it"
    )
    parser.add_argument(
        "--log", type=pathlib.Path, help="a CSV file to which readings are added"
    )
    parser.add_argument(
        "--changes", action="store_true", help="show only raised and cleared alarms"
    )
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Runs the monitor of the command line."""
    arguments = _arguments(given)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        _run(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split(chr(10)))}", file=sys.stderr)
        sys.exit(2)


def _run(arguments: argparse.Namespace) -> None:
    alarm = exported.load(arguments.alarm or _alarm_of(arguments.checkpoint))
    piped = arguments.input == "-"
    live = piped or arguments.follow
    alarm.warm_up()
    with contextlib.ExitStack() as stack:
        source: Any = sys.stdin
        if piped:
            source.reconfigure(errors="replace")
        else:
            source = stack.enter_context(
                open(arguments.input, encoding="utf-8-sig", errors="replace")
            )
        writer = None
        if arguments.log:
            fresh = not arguments.log.is_file() or not arguments.log.stat().st_size
            log = stack.enter_context(
                arguments.log.open("a", newline="", encoding="utf-8", buffering=1)
            )
            writer = csv.writer(log)
            if fresh:
                writer.writerow(_HEADER)

        def show(cells: list[str]) -> None:
            print("  ".join(cells), flush=live)
            if writer is not None:
                writer.writerow(cells)

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        monitor, started_s = Monitor(alarm, live=live), time.perf_counter()
        with contextlib.suppress(KeyboardInterrupt):
            watch(
                monitor,
                _lines(source, arguments.follow),
                show,
                abnormal=alarm.settings.abnormal,
                changes_only=arguments.changes,
            )
        print(summary(monitor, time.perf_counter() - started_s), file=sys.stderr)


if __name__ == "__main__":
    main()
