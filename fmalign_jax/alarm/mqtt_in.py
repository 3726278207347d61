"""The lines of a live input that come from a topic of an MQTT broker.

A message is a CSV line, several, or a JSON object, and becomes lines as a pipe would
give them, so that all checks are those of any input. The session outlives a broken
connection: what is sent with QoS 1 meanwhile comes when it is back.
"""

from __future__ import annotations

import csv
import io
import json
import queue
import secrets
from collections.abc import Iterator
from typing import Any

from fmalign_jax.alarm.broker import PASSWORD, USER, Broker, check_topic
from fmalign_jax.alarm.follow import LONGEST_LINE, QUEUED, Event, queued
from fmalign_jax.arguments import host_and_port
from fmalign_jax.data import encodings
from fmalign_jax.data.clocks import TIMES

SCHEME = "mqtt://"
FLAG = "--input"

_KEPT_S = 300  # how long the broker keeps the session of a broken connection
_LARGEST = 1 << 20  # bytes of a message; the broker keeps larger ones to itself
_TIME_KEYS = ("time_s", *TIMES)


class MqttIn:
    """Takes the messages of a topic, while it is entered, in a thread of its own."""

    def __init__(self, address: str, channels: tuple[str, ...]) -> None:
        """Starts with nothing read.

        Args:
          address: mqtt://HOST:PORT/TOPIC; the broker need not be there yet.
          channels: names of the current's channels, in the order of the values.

        Raises:
          ValueError: the address is none; `paho-mqtt` is not installed.
        """
        where, _, self._topic = address.removeprefix(SCHEME).partition("/")
        if "@" in where:  # not shown: a password may be in it
            raise ValueError(
                f"{FLAG} {SCHEME} must be HOST:PORT/TOPIC; got a user before it; name "
                f"the user in {USER} and {PASSWORD}"
            )
        host, port = host_and_port(f"{FLAG} {SCHEME}", where)
        check_topic(f"{FLAG} {SCHEME}HOST:PORT/TOPIC", self._topic)
        self._channels = channels
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUED)
        self._full = self._read = False
        self._broker = Broker(
            FLAG,
            host,
            port,
            connected=self._subscribe,
            gone=self._lose,
            client_id=f"fmalign-{secrets.token_hex(8)}",
            kept_s=_KEPT_S,
            largest=_LARGEST,
        )
        self._client = self._broker.client
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = lambda _, __, message: self.take(
            bytes(message.payload)
        )

    def __enter__(self) -> MqttIn:
        self._broker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._broker.stop()

    def lines(self) -> Iterator[str | Event]:
        """Yields a header and then the lines that come, for ever."""
        # Without it the first message might be taken for a header of other columns.
        yield _written(["time", *self._channels])
        yield from queued(self._lines)

    def take(self, payload: bytes) -> None:
        """Takes a message; of a full queue the oldest line makes room."""
        for line in lines_of(payload, self._channels):
            while True:
                try:
                    self._lines.put_nowait(line)
                    break
                except queue.Full:
                    self._tell_full()
                    try:
                        self._lines.get_nowait()
                    except queue.Empty:  # read in between
                        continue

    def _tell_full(self) -> None:
        if not self._full:
            self._full = True
            self._broker.say(
                f"sends faster than lines are read: beyond {QUEUED} the oldest are "
                "left out"
            )

    def _subscribe(self) -> None:
        self._client.subscribe(self._topic, qos=1)

    def _on_subscribe(self, _: Any, __: Any, ___: Any, reasons: Any, ____: Any) -> None:
        refused = [reason for reason in reasons if reason.is_failure]
        self._read = not refused
        if refused:
            self._broker.say(f"refuses the topic {self._topic}: {refused[0]}")
        else:
            self._broker.say(f"is read, topic {self._topic}")

    def _lose(self) -> None:
        was, self._read = self._read, False
        if was:
            self._broker.say("is gone; it is read on when it is back")


def lines_of(payload: bytes, channels: tuple[str, ...]) -> list[str]:
    """Returns the CSV lines of a message; what is no row stays none.

    Args:
      payload: CSV lines, or a JSON object of a time and the values, such as
        {"time_s": 12.5, "values": [1, 2, 3]} or {"time": 12.5, "a": 1, "b": 2, "c": 3}.
      channels: names of the channels, in the order of the values.
    """
    text = encodings.text_of(payload)[0].strip()
    if not text.startswith(("{", "[")):
        return [line[:LONGEST_LINE] for line in text.splitlines()]
    try:
        cells = _cells(json.loads(text), channels)
    except (ValueError, RecursionError):
        cells = None
    if cells is None:  # without commas it is no row, and is counted as any such line
        return [text[:LONGEST_LINE].replace(",", ";").replace("\n", " ")]
    return [_written(cells)]


def _cells(found: Any, channels: tuple[str, ...]) -> list[str] | None:
    if not isinstance(found, dict):
        return None
    by_name = {name.lower(): value for name, value in found.items()}
    times = [by_name[key] for key in _TIME_KEYS if key in by_name]
    if "values" in by_name:
        values = by_name["values"]
    else:
        values = [by_name.get(name.lower()) for name in channels]
    if not times or not isinstance(values, list):
        return None
    cells = [times[0], *values]
    plain = all(type(cell) in (str, int, float) for cell in cells)
    return [str(cell) for cell in cells] if plain else None


def _written(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
