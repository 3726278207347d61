"""Watches a live current and warns of what the camera will see later.

    python -m fmalign_jax.monitor --checkpoint RUN --input current.csv
    plant-logger | python -m fmalign_jax.monitor --alarm alarm.fmalign --input -

Runs an exported alarm: neither the training code nor recordings are needed. Given a
run, it exports the run's alarm first. docs/monitor.md is the manual for operators.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import importlib
import logging
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fmalign_jax.alarm import alarm_file
from fmalign_jax.alarm.live import Monitor, Reading
from fmalign_jax.data.files import csv_cell

_POLL_S = 0.2  # between two looks at a followed file
_LONGEST_LINE = 10_000  # characters; what is longer is no row
_HEADER = ("time", "probability", "code", "alarm", "visible from", "visible", "to")


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
        "" if reading.code is None else str(reading.code),
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
    show: Callable[[Reading, list[str]], None],
    *,
    abnormal: str,
) -> None:
    """Runs a monitor over lines until they end, and shows its readings.

    Args:
      monitor: before its first line.
      lines: of the input.
      show: called with every reading, and with its cells as text.
      abnormal: name of what is warned of.
    """

    def tell(readings: list[Reading]) -> None:
        for reading in readings:
            if reading.changed:
                _announce(reading, abnormal, monitor.written_times)
            show(reading, _cells(reading, monitor.written_times))

    for line in lines:
        tell(monitor.feed(line))
    tell(monitor.flush())


def summary(monitor: Monitor, took_s: float) -> str:
    """Returns in one line what came, what was left out, and how long a tick took."""
    rate = monitor.ticks / max(took_s, 1e-9)
    parts = [f"{monitor.ticks} ticks scored in {took_s:.1f} s ({rate:.0f} a second)"]
    if monitor.latencies_s:
        median, high = np.quantile(monitor.latencies_s, [0.5, 0.99])
        parts.append(
            f"a tick's score {median * 1e3:.1f} ms after it was complete (99 %: "
            f"{high * 1e3:.1f} ms)"
        )
    parts += [f"{kind}: {n}" for kind, n in sorted(monitor.warnings.counts.items())]
    return "; ".join(parts)


def _alarm_of(checkpoint: pathlib.Path, trust_code: list[str]) -> pathlib.Path:
    """Returns the alarm of a run, which is made first if there is none."""
    if checkpoint.suffix == alarm_file.SUFFIX:
        return checkpoint
    path = checkpoint / "early_warning" / f"alarm{alarm_file.SUFFIX}"
    if not path.is_file():
        logging.warning("%s has no alarm yet: making it", checkpoint)
        # Only here is the training code needed.
        command_config = importlib.import_module("fmalign_jax.config.commands")
        early_warning: Any = importlib.import_module("fmalign_jax.early_warning")
        importlib.import_module("fmalign_jax.cli").trust(trust_code)
        config = command_config.early_warning_config()
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
    parser.add_argument(
        "--trust_code",
        type=lambda text: text.split(","),
        default=[],
        metavar="PACKAGES",
        help="packages of your own whose classes the config of a saved run may name",
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
    alarm = alarm_file.load(
        arguments.alarm or _alarm_of(arguments.checkpoint, arguments.trust_code)
    )
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

        def show(reading: Reading, cells: list[str]) -> None:
            if reading.changed or not arguments.changes:
                print("  ".join(cells), flush=live)
            if writer is not None:
                writer.writerow(map(csv_cell, cells))

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
            )
        print(summary(monitor, time.perf_counter() - started_s), file=sys.stderr)


if __name__ == "__main__":
    main()
