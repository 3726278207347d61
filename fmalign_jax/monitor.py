"""Watches a live current and warns of what the camera will see later.

    python -m fmalign_jax.monitor --checkpoint RUN --input current.csv
    plant-logger | python -m fmalign_jax.monitor --alarm alarm.fmalign --input -
    python -m fmalign_jax.monitor --alarm alarm.fmalign --input mqtt://10.0.0.5:1883/i

Runs an exported alarm: neither the training code nor recordings are needed. Given a
run, it exports the run's alarm first. docs/monitor.md is the manual for operators.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fmalign_jax.alarm import alarm_file, follow, mqtt_in, page_server, signature
from fmalign_jax.alarm.follow import Event
from fmalign_jax.alarm.live import Monitor, Reading
from fmalign_jax.alarm.live_page import LivePage
from fmalign_jax.alarm.mqtt_out import MqttOut
from fmalign_jax.alarm.readings_out import (
    STATES,
    ReadingsOut,
    ScreenGone,
    last_logged,
    last_rows,
    seconds_of,
    written,
)
from fmalign_jax.alarm.watchdog import NORMAL, Watchdog
from fmalign_jax.arguments import LIVE_SECONDS, SILENT, add_monitor, host_and_port

_PACKED_RUN = ".fmrun"  # as in `run.packed`, which is not there without training
_HEADER = ("time", "probability", "code", "alarm", "visible from", "visible", "to")


def _cells(reading: Reading, as_dates: bool) -> list[str]:
    visible = reading.visible_s or ()
    return [
        written(reading.time_s, as_dates),
        f"{reading.probability:.6f}",
        "" if reading.code is None else str(reading.code),
        STATES[reading.active],
        *(written(seconds, as_dates) for seconds in visible),
    ]


def _announce(reading: Reading, abnormal: str, as_dates: bool) -> None:
    at = written(reading.time_s, as_dates)
    if reading.visible_s is None:
        logging.warning("%s: alarm cleared", at)
        return
    low, middle, high = (written(s, as_dates) for s in reading.visible_s)
    logging.warning(
        "%s: ALARM, %s expected to be seen at %s (%s to %s)",
        *(at, abnormal, middle, low, high),
    )


def watch(
    monitor: Monitor,
    lines: Iterable[str | Event],
    write: Callable[[Sequence[str], bool], None],
    *,
    abnormal: str,
    watchdog: Watchdog | None = None,
    heartbeat_s: float = math.inf,
    give_up_after_s: float = math.inf,
    known_until: str | None = None,
) -> bool:
    """Runs a monitor over lines until they end, and shows its readings.

    Args:
      monitor: before its first line.
      lines: of the input, and what happens to it.
      write: called with the cells of every reading and of every state of the input,
        and whether it is news.
      abnormal: name of what is warned of.
      watchdog: of a live input.
      heartbeat_s: between two lines that say that the monitor is alive.
      give_up_after_s: without a usable row, until it ends.
      known_until: time of the last reading that an earlier monitor wrote. Readings and
        states of what the input holds at the start are not told again up to it.

    Returns:
      Whether the lines ended; False if it gave up.
    """
    beaten_s = time.monotonic()
    known_s = None if known_until is None else seconds_of(known_until)
    active = False

    def is_logged(at: str) -> bool:
        return bool(known_s is not None and at and seconds_of(at) <= known_s)

    def go_on() -> None:
        nonlocal known_s
        if known_s is not None:
            known_s = None
            state = STATES[active]
            logging.warning("going on after %s, state %s", known_until, state)

    def tell(readings: list[Reading]) -> None:
        nonlocal active
        for reading in readings:
            if is_logged(written(reading.time_s, monitor.written_times)):
                active = reading.active
                continue
            go_on()
            if reading.changed:
                _announce(reading, abnormal, monitor.written_times)
            write(_cells(reading, monitor.written_times), reading.changed)

    def last_at() -> str:
        last = monitor.last_row
        return "" if last is None else written(last.time_s, monitor.written_times)

    for line in lines:
        if line is Event.NEW_FILE:
            monitor.begin_file()
        elif isinstance(line, str):
            tell(monitor.feed(line))
        else:
            go_on()  # all that was there is read
        if watchdog is None:
            continue
        state = watchdog.look(caught_up=line is Event.IDLE)
        if state is not None and not is_logged(at := last_at()):
            logging.warning("%s: %s", at or "at the start", watchdog.said)
            write([at, "", "", state], True)
        if time.monotonic() - beaten_s >= heartbeat_s:
            beaten_s = time.monotonic()
            logging.warning(
                "alive: %d ticks, last row %s, %s",
                monitor.ticks,
                last_at(),
                "input good" if watchdog.state == NORMAL else watchdog.said,
            )
        if watchdog.silent_s > give_up_after_s:
            return False
    tell(monitor.flush())
    return True


def _looked_at(
    lines: Iterable[str | Event],
    monitor: Monitor,
    watchdog: Watchdog,
    viewers: Sequence[LivePage | MqttOut],
) -> Iterator[str | Event]:
    """Yields the lines; after each, when it is worked off, the viewers look."""
    for line in lines:
        yield line
        for viewer in viewers:
            viewer.look(monitor, watchdog)


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


def _alarm_of(
    checkpoint: pathlib.Path, trust_code: list[str], *, signed: bool
) -> pathlib.Path:
    """Returns the alarm of a run, which is made first if there is none.

    Raises:
      ValueError: it would have to be signed too.
    """
    if checkpoint.suffix == alarm_file.SUFFIX:
        return checkpoint
    # A packed run is a file; what is made of it lies in a folder of its name.
    run = checkpoint.with_suffix("") if checkpoint.is_file() else checkpoint
    path = run / "early_warning" / f"alarm{alarm_file.SUFFIX}"
    if not path.is_file():
        if signed and not signature.path_of(path).is_file():
            raise ValueError(
                f"{path}: a signature is required of an alarm that is there; got none "
                "to check, and one made now has none; make it by "
                "fmalign_jax.early_warning with --config.signing_key=KEY"
            )
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
    add_monitor(parser)
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


def _load(arguments: argparse.Namespace) -> alarm_file.ExportedAlarm:
    """Returns the alarm that was asked for, at the level that was."""
    key_path = arguments.require_signature
    if arguments.alarm is not None and arguments.alarm.suffix == _PACKED_RUN:
        raise ValueError(
            f"--alarm must be an exported alarm, *{alarm_file.SUFFIX}; got the packed "
            f"run {arguments.alarm}; give it as --checkpoint {arguments.alarm}, which "
            "makes its alarm first"
        )
    signed = key_path is not None
    path = arguments.alarm or _alarm_of(
        arguments.checkpoint, arguments.trust_code, signed=signed
    )
    content = signature.verify(path, key_path) if signed else None
    alarm = alarm_file.load(path, content)
    if arguments.raise_at is not None:
        alarm.settings = alarm_file.with_level(alarm.settings, arguments.raise_at)
    return alarm


def _lines(
    arguments: argparse.Namespace,
    channels: tuple[str, ...],
    stack: contextlib.ExitStack,
) -> Iterable[str | Event]:
    """Returns the lines of the input, which the stack closes."""
    if arguments.input.startswith(mqtt_in.SCHEME):
        broker = mqtt_in.MqttIn(arguments.input, channels)
        return stack.enter_context(broker).lines()
    if arguments.input == "-":
        return follow.piped(sys.stdin.buffer)
    if arguments.follow:
        return _followed(arguments.input)
    with _readable(arguments.input):
        return follow.whole(stack.enter_context(open(arguments.input, "rb")))


def _followed(path: str) -> Iterator[str | Event]:
    """Yields the lines of a growing file.

    Raises:
      ValueError: it is not there at first, or may not be read.
    """
    with _readable(path):
        yield from follow.followed(pathlib.Path(path))


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Says of an input that cannot be read what it may be."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            "--input must be a file that can be read, - for standard input, or "
            f"{mqtt_in.SCHEME}HOST:PORT/TOPIC; got {path} ({error.strerror}); correct "
            "the path, or who may read it"
        ) from None


def _run(arguments: argparse.Namespace) -> None:
    sent = arguments.input == "-" or arguments.input.startswith(mqtt_in.SCHEME)
    live = sent or arguments.follow
    if not live and (arguments.serve is not None or arguments.mqtt is not None):
        raise ValueError(
            "--serve and --mqtt tell of a live input; got a file to be replayed; add "
            "--follow, or give --input -"
        )
    alarm = _load(arguments)
    after_s = {name: getattr(arguments, name) or math.inf for name in LIVE_SECONDS}
    ended = True
    with contextlib.ExitStack() as stack:
        page = server = None
        viewers: list[LivePage | MqttOut] = []
        if arguments.serve is not None:
            where = host_and_port("--serve", arguments.serve)
            page = LivePage(alarm.settings)
            token = page_server.read_token(arguments.token_file)
            server = stack.enter_context(
                page_server.PageServer(*where, token, page.text)
            )
            viewers.append(page)
        if arguments.mqtt is not None:
            where = host_and_port("--mqtt", arguments.mqtt)
            broker = MqttOut(*where, arguments.mqtt_topic)
            viewers.append(stack.enter_context(broker))
        alarm.warm_up()
        started_s = time.perf_counter()
        monitor = Monitor(alarm, live=live, on_row=page.take_row if page else None)
        lines = _lines(arguments, alarm.settings.channels, stack)
        out = stack.enter_context(ReadingsOut(arguments.log, _HEADER, flush=live))

        def write(cells: Sequence[str], news: bool) -> None:
            for viewer in viewers:
                viewer.write(cells)
            out.write(cells, shown=news or not arguments.changes)

        known_until = watchdog = None
        if live:
            watchdog = Watchdog(
                monitor,
                no_data_after_s=after_s["no_data_after"],
                frozen_after_s=after_s["frozen_after"],
                out_of_range_after_s=after_s["out_of_range_after"],
                stale_clock_after_s=after_s["stale_clock_after"],
            )
        if arguments.follow and arguments.log is not None:
            known_until = last_logged(arguments.log, STATES)
        if watchdog is not None:
            lines = _looked_at(lines, monitor, watchdog, viewers)
        if page is not None and known_until is not None:
            page.remember(last_rows(arguments.log))
        if server is not None:
            server.start()
            logging.warning("the page is at %s", server.url)

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        with contextlib.suppress(KeyboardInterrupt, ScreenGone):
            ended = watch(
                monitor,
                lines,
                write,
                abnormal=alarm.settings.abnormal,
                watchdog=watchdog,
                heartbeat_s=after_s["heartbeat"],
                give_up_after_s=after_s["give_up_after"],
                known_until=known_until,
            )
        lost = f"; readings not logged: {out.not_logged}" if out.not_logged else ""
        print(summary(monitor, time.perf_counter() - started_s) + lost, file=sys.stderr)
    if not ended:
        print(
            f"error: no usable row for {arguments.give_up_after:g} s", file=sys.stderr
        )
        sys.exit(SILENT)


if __name__ == "__main__":
    main()
