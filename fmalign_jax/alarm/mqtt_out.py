"""Tells an MQTT broker each change of the alarm and of the state of the input.

The messages are retained, and all of them are sent again after each connection: who
subscribes later, or a broker that was away, has the state as it is. So none waits for a
broker that is away, and QoS 0 is enough: what a connection loses comes with the next.
`paho-mqtt` is imported only where a broker is given.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

from fmalign_jax.alarm.live import Monitor
from fmalign_jax.alarm.readings_out import STATES, written
from fmalign_jax.alarm.watchdog import NORMAL, Watchdog

USER, PASSWORD = "FMALIGN_MQTT_USER", "FMALIGN_MQTT_PASSWORD"
"""Environment variables: who the monitor is to the broker, where that asks for it."""

ALIVE_S = 30
"""Between two signs of life; after 1.5 of it the broker tells the will."""

_GOOD = "good"
_MOST_WAIT_S = 30  # between two attempts to connect
_LEAVE_S = 2.0  # for the last word


def check_topic(flag: str, topic: str) -> None:
    """Refuses what is no single topic.

    Raises:
      ValueError: it is none, or stands for several.
    """
    if not topic.strip("/") or set(topic) & set("+#\0"):
        raise ValueError(
            f"{flag} must be a topic without + and #; got {topic!r}; use such as "
            "furnace2"
        )


def new_client(
    flag: str, port: int, *, client_id: str = "", kept_s: int = 0
) -> tuple[Any, Any]:
    """Returns a client that connects again by itself, after 1 s to 30 s.

    Args:
      flag: that asks for the broker, named in errors.
      port: of the broker.
      client_id: of a session that outlives a broken connection (MQTT 5).
      kept_s: how long the broker keeps that session.

    Returns:
      The client, and the properties to connect with; None without such a session.

    Raises:
      ValueError: the port is 0; `paho-mqtt` is not installed.
    """
    if not port:
        raise ValueError(f"{flag} must name a broker's port; got 0; use 1883")
    try:
        from paho.mqtt import client, enums, packettypes, properties
    except ImportError:
        raise ValueError(
            f"{flag} needs the package paho-mqtt; got none; pip install "
            "'fmalign_jax[mqtt]'"
        ) from None
    version = enums.MQTTProtocolVersion.MQTTv5 if kept_s else client.MQTTv311
    found = client.Client(
        enums.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version
    )
    found.reconnect_delay_set(1, _MOST_WAIT_S)
    if user := os.environ.get(USER):
        found.username_pw_set(user, os.environ.get(PASSWORD))
    if not kept_s:
        return found, None
    session = properties.Properties(packettypes.PacketTypes.CONNECT)
    session.SessionExpiryInterval = kept_s
    return found, session


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
        self._alarm = self._data = self._said = ""
        self._connected = False
        self._client, _ = new_client("--mqtt", port)
        self._client.will_set(f"{self._topic}/status", "offline", retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_connect_fail = lambda *_: self._say("does not answer")
        self._where = f"{host}:{port}"
        self._client.connect_async(host, port, ALIVE_S)

    def __enter__(self) -> MqttOut:
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            connected, self._connected = self._connected, False
        if connected:  # the will is for those who leave without a word
            said = self._client.publish(f"{self._topic}/status", "offline", retain=True)
            said.wait_for_publish(_LEAVE_S)
        self._client.disconnect()
        self._client.loop_stop()

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

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if reason.is_failure:
            self._say(f"refuses the monitor: {reason}")
            return
        self._say("is told")
        with self._lock:
            self._connected = True
            for name, text in {"status": "online", **self._last}.items():
                self._publish(name, text)

    def _on_disconnect(self, *_: Any) -> None:
        with self._lock:
            was, self._connected = self._connected, False
        if was:
            self._say("is gone; it is told all when it is back")

    def _say(self, what: str) -> None:
        """Logs what has become of the broker, once."""
        if what != self._said:
            self._said = what
            logging.warning("broker %s %s", self._where, what)
