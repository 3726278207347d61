"""A connection to an MQTT broker, which is made again by itself whenever it breaks.

The broker need not be there when the monitor starts, and may go away: what has become
of it is said once each time. `paho-mqtt` is imported only where a broker is given.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

USER, PASSWORD = "FMALIGN_MQTT_USER", "FMALIGN_MQTT_PASSWORD"
"""Environment variables: who the monitor is to the broker, where that asks for it."""

_ALIVE_S = 30  # between two signs of life; after 1.5 of it the broker tells the will
_MOST_WAIT_S = 30  # between two attempts to connect


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


class Broker:
    """The connection: `client` is paho's, and calls back in a thread of its own."""

    def __init__(
        self,
        flag: str,
        host: str,
        port: int,
        *,
        connected: Callable[[], None],
        gone: Callable[[], None],
        client_id: str = "",
        kept_s: int = 0,
        largest: int = 0,
    ) -> None:
        """Connects to nothing yet.

        Args:
          flag: that asks for the broker, named in errors.
          host: of the broker.
          port: of it.
          connected: called after each connection.
          gone: called when a connection breaks.
          client_id: of a session that outlives a broken connection (MQTT 5).
          kept_s: how long the broker keeps that session.
          largest: bytes of a message; the broker of such a session keeps larger ones
            to itself.

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
        self._place, self._where, self._said = (host, port), f"{host}:{port}", ""
        self._connected = connected
        self._session: Any = None
        if kept_s:
            self._session = properties.Properties(packettypes.PacketTypes.CONNECT)
            self._session.SessionExpiryInterval = kept_s
            self._session.MaximumPacketSize = largest
        version = enums.MQTTProtocolVersion.MQTTv5 if kept_s else client.MQTTv311
        self.client = client.Client(
            enums.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version
        )
        self.client.reconnect_delay_set(1, _MOST_WAIT_S)
        if user := os.environ.get(USER):
            self.client.username_pw_set(user, os.environ.get(PASSWORD))
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = lambda *_: gone()
        self.client.on_connect_fail = lambda *_: self.say("does not answer")

    def start(self) -> None:
        """Connects, and again whenever that breaks, until `stop`."""
        self.client.connect_async(*self._place, _ALIVE_S, properties=self._session)
        self.client.loop_start()

    def stop(self) -> None:
        """Leaves; that is no broken connection."""
        self.client.on_disconnect = None
        self.client.disconnect()
        self.client.loop_stop()

    def say(self, what: str) -> None:
        """Logs what has become of the broker, once."""
        if what != self._said:
            self._said = what
            logging.warning("broker %s %s", self._where, what)

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if reason.is_failure:
            self.say(f"refuses the monitor: {reason}")
        else:
            self._connected()
