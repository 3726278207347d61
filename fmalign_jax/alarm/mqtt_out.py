"""Tells an MQTT broker each change of the alarm and of the state of the input.

The messages are retained, and all of them are sent again after each connection: who
subscribes later, or a broker that was away, has the state as it is. So none waits for a
broker that is away, and QoS 0 is enough: what a connection loses comes with the next.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

from fmalign_jax.alarm.broker import Broker, check_topic
from fmalign_jax.alarm.live import Monitor
from fmalign_jax.alarm.readings_out import STATES, written
from fmalign_jax.alarm.watchdog import NORMAL, Watchdog

_GOOD = "good"
_LEAVE_S = 2.0  # for the last word


class MqttOut:
    """Sends what it is given from a thread of its own, while it is entered."""

    def __init__(self, host: str, port: int, topic: str) -> None:
        """Starts with nothing to tell.

        Args:
          host: of the broker; it need not be there yet.
          port: of it.
          topic: below which the messages are: TOPIC/status, TOPIC/alarm, TOPIC/data.

        Raises:
          ValueError: no topic to publish to; `paho-mqtt` is not installed.
        """
        check_topic("--mqtt_topic", topic)
        self._topic = topic.rstrip("/")
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}
        self._alarm = self._data = ""
        self._connected = False
        self._broker = Broker(
            "--mqtt", host, port, connected=self._tell_all, gone=self._lose
        )
        self._client = self._broker.client
        self._client.will_set(f"{self._topic}/status", "offline", retain=True)

    def __enter__(self) -> MqttOut:
        self._broker.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            connected, self._connected = self._connected, False
        if connected:  # the will is for those who leave without a word
            said = self._client.publish(f"{self._topic}/status", "offline", retain=True)
            said.wait_for_publish(_LEAVE_S)
        self._broker.stop()

    def write(self, cells: Sequence[str]) -> None:
        """Takes a row of cells that is logged; tells it if the alarm has changed.

        Args:
          cells: as `ReadingsOut.write` has them.
        """
        time, probability, code, state, *visible = cells
        if state not in STATES or state == self._alarm:
            return
        self._alarm = state
        message = {
            "time": time,
            "alarm": state,
            "probability": float(probability),
            "code": int(code) if code else None,
            "visible": visible,
        }
        self._tell("alarm", message)

    def look(self, monitor: Monitor, watchdog: Watchdog) -> None:
        """Tells the state of the input if it has changed, by the monitor's thread."""
        state = _GOOD if watchdog.state == NORMAL else watchdog.state
        if state == self._data:
            return
        self._data = state
        row = monitor.last_row
        message = {
            "time": row and written(row.time_s, monitor.written_times),
            "state": state,
            "said": "" if state == _GOOD else watchdog.said,
        }
        self._tell("data", message)

    def _tell(self, name: str, message: dict[str, Any]) -> None:
        text = json.dumps(message)
        with self._lock:
            self._last[name] = text
            if self._connected:
                self._publish(name, text)

    def _publish(self, name: str, text: str) -> None:
        self._client.publish(f"{self._topic}/{name}", text, retain=True)

    def _tell_all(self) -> None:
        self._broker.say("is told")
        with self._lock:
            self._connected = True
            for name, text in {"status": "online", **self._last}.items():
                self._publish(name, text)

    def _lose(self) -> None:
        with self._lock:
            was, self._connected = self._connected, False
        if was:
            self._broker.say("is gone; it is told all when it is back")
