"""What a broker of MQTT is told, by a mosquitto that is started and killed."""

import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest
from test_follow import _start
from test_monitor import _lines, _table, alarm_file as alarm_file, exported

from fmalign_jax import monitor
from fmalign_jax.alarm import watchdog
from fmalign_jax.alarm.broker import PASSWORD, USER
from fmalign_jax.alarm.live import Monitor
from fmalign_jax.alarm.mqtt_out import MqttOut

PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # of no user's path


def _until(true, seconds=30.0):
    end_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


class Broker:
    """A mosquitto that can be killed and started again, and all that it was told."""

    def __init__(self, program, folder, *settings):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config, self.program = folder / "mosquitto.conf", program
        listener = f"listener {self.port} 127.0.0.1"
        # It otherwise becomes a user who may not read the folder of a test.
        lines = ("user root", listener, *(settings or ("allow_anonymous true",)))
        self.config.write_text("\n".join(lines))
        self.told = []
        self._ended = contextlib.ExitStack()

    def start(self):
        self.process = subprocess.Popen(
            [self.program, "-c", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def answers():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True

        _until(answers)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def listen(self, user=None):
        from paho.mqtt import client, enums

        ready = threading.Event()
        own = client.Client(enums.CallbackAPIVersion.VERSION2)
        if user is not None:
            own.username_pw_set(*user)
        own.reconnect_delay_set(1, 1)
        own.on_connect = lambda *_: own.subscribe("#")
        own.on_subscribe = lambda *_: ready.set()
        own.on_message = lambda _, __, message: self.told.append(
            (message.topic, message.payload.decode())
        )
        own.connect("127.0.0.1", self.port)
        own.loop_start()
        self._ended.callback(own.loop_stop)
        self._ended.callback(own.disconnect)
        assert ready.wait(30)

    def stop(self):
        self._ended.close()
        self.kill()

    def of(self, topic):
        return [text for name, text in self.told if name == topic]


@pytest.fixture
def make_broker(tmp_path):
    pytest.importorskip("paho.mqtt.client")
    program = shutil.which("mosquitto") or next(
        filter(None, (shutil.which("mosquitto", path=place) for place in PLACES)), None
    )
    if program is None:
        pytest.skip("no mosquitto is installed")
    made = []

    def make(*settings):
        made.append(Broker(program, tmp_path, *settings))
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


def test_a_broker_is_told_each_change_and_how_the_monitor_ended(
    alarm_file, make_broker, tmp_path
):
    broker = make_broker()
    broker.start()
    broker.listen()
    path, log = tmp_path / "live.csv", tmp_path / "log.csv"
    path.write_text("".join(f"{line}\n" for line in _lines()))
    where = ("--mqtt", f"127.0.0.1:{broker.port}", "--mqtt_topic", "plant/furnace2")
    given = ("--input", path, "--follow", "--log", log, *where, "--no_data_after", 1)
    process = _start(alarm_file, *given)
    _until(lambda: len(broker.of("plant/furnace2/data")) == 2)
    process.kill()  # no word of its own: the will is told
    process.communicate()
    _until(lambda: broker.of("plant/furnace2/status") == ["online", "offline"])
    rows = [row for row in _table(log)[1:] if row[3] in ("normal", "ALARM")]
    changes = [
        rows[0],
        *(b for a, b in itertools.pairwise(rows) if a[3] != b[3]),
    ]
    assert [row[3] for row in changes] == ["normal", "ALARM", "normal"]
    assert [json.loads(text) for text in broker.of("plant/furnace2/alarm")] == [
        {
            "time": row[0],
            "alarm": row[3],
            "probability": float(row[1]),
            "code": int(row[2]) if row[2] else None,
            "visible": [cell for cell in row[4:7] if cell],
        }
        for row in changes
    ]
    data = [json.loads(text) for text in broker.of("plant/furnace2/data")]
    assert [one["state"] for one in data] == ["good", "NO DATA"]
    process = _start(alarm_file, *given)
    _until(lambda: broker.of("plant/furnace2/status")[2:] == ["online"])
    process.terminate()
    process.communicate(timeout=60)
    _until(lambda: broker.of("plant/furnace2/status")[3:] == ["offline"])
    before = len(broker.told)
    broker.listen()  # whoever comes later is told the state as it is
    _until(lambda: len(broker.told) == before + 3)
    assert dict(broker.told[before:])["plant/furnace2/status"] == "offline"
    assert (
        dict(broker.told[before:])["plant/furnace2/alarm"]
        == (broker.of("plant/furnace2/alarm")[2])
    )


def _cells(tick, state):
    return [f"{tick:.1f}", "0.500000", "", state]


def test_a_broker_that_was_away_is_told_the_state_as_it_is(
    alarm_file, make_broker, caplog
):
    broker = make_broker()
    own = Monitor(exported.load(alarm_file), live=True)
    with MqttOut("127.0.0.1", broker.port, "f") as out:
        began_s = time.monotonic()
        out.write(_cells(1, "normal"))
        out.write(_cells(2, "ALARM"))
        out.write(["2.5", "", "", "FROZEN"])  # the watchdog tells that
        out.look(own, watchdog.Watchdog(own))
        assert time.monotonic() - began_s < 1  # nothing waits for a broker
        _until(lambda: "does not answer" in caplog.text)
        broker.start()
        broker.listen()
        _until(lambda: len(broker.told) == 3)
        assert broker.of("f/status") == ["online"]
        (alarm,) = broker.of("f/alarm")
        assert json.loads(alarm)["alarm"] == "ALARM"
        out.write(_cells(3, "ALARM"))  # no change
        broker.kill()
        _until(lambda: "is gone" in caplog.text)
        out.write(_cells(4, "normal"))
        broker.start()
        _until(lambda: len(broker.of("f/alarm")) > 1)
        assert [json.loads(text)["time"] for text in broker.of("f/alarm")] == [
            "2.0",
            "4.0",
        ]
    _until(lambda: broker.of("f/status")[-1] == "offline")
    assert caplog.text.count("does not answer") <= 2  # said once each time


def test_a_broker_may_ask_who_it_is(make_broker, tmp_path, monkeypatch, caplog):
    hasher = shutil.which("mosquitto_passwd")
    if hasher is None:
        pytest.skip("no mosquitto_passwd is installed")
    users = tmp_path / "users"
    subprocess.run([hasher, "-b", "-c", users, "furnace", "secret"], check=True)
    broker = make_broker("allow_anonymous false", f"password_file {users}")
    broker.start()
    with MqttOut("127.0.0.1", broker.port, "f"):
        _until(lambda: "refuses the monitor: Not authorized" in caplog.text)
    monkeypatch.setenv(USER, "furnace")
    monkeypatch.setenv(PASSWORD, "secret")
    with MqttOut("127.0.0.1", broker.port, "f"):
        broker.listen(("furnace", "secret"))
        _until(lambda: broker.of("f/status") == ["online"])
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--mqtt", "broker"], "--mqtt must be HOST:PORT; got 'broker'"),
        (["--mqtt", "127.0.0.1:0"], "got 0; use 1883"),
        (["--mqtt", "127.0.0.1:1883", "--mqtt_topic", "a/#"], "without + and #"),
        (["--mqtt", "127.0.0.1:1883", "--mqtt_topic", "/"], "without + and #"),
    ],
)
def test_what_cannot_be_told_is_one_line(alarm_file, capsys, given, message):
    with pytest.raises(SystemExit) as ended:
        monitor.main(["--alarm", str(alarm_file), "--input", "-", *given])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho", None)
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(
        ValueError, match=r"got none; pip install 'fmalign_jax\[mqtt\]'"
    ):
        MqttOut("127.0.0.1", 1883, "f")
