"""A live input that comes from an MQTT broker, by a mosquitto that is killed too."""

import contextlib
import itertools
import json
import socket
import sys
import threading

import pytest
from test_follow import _start
from test_monitor import _lines, _table, alarm_file as alarm_file, exported
from test_mqtt_out import _until, make_broker as make_broker

from fmalign_jax import monitor
from fmalign_jax.alarm import csv_stream, follow, mqtt_in
from fmalign_jax.alarm.live import Monitor
from fmalign_jax.alarm.mqtt_in import MqttIn, lines_of

CHANNELS = ("a", "b", "c")
HEADER = "time,a,b,c"


@pytest.mark.parametrize(
    ("payload", "lines"),
    [
        (b"12.5,1,2,3\n", ["12.5,1,2,3"]),
        (b"1,1,2,3\r\n2,4,5,6", ["1,1,2,3", "2,4,5,6"]),
        (b"", []),
        (b'{"time_s": 12.5, "values": [1, 2.5, 3]}', ["12.5,1,2.5,3"]),
        (
            b'{"time": "2018-03-10 02:13:09", "C": 3, "a": 1, "b": "2", "x": null}',
            ["2018-03-10 02:13:09,1,2,3"],
        ),
        (b'{"values": [1, 2, 3]}', ['{"values": [1; 2; 3]}']),
        (
            b'{"time_s": 1, "a": 1, "b": true, "c": 3}',
            ['{"time_s": 1; "a": 1; "b": true; "c": 3}'],
        ),
        (b'{"time_s": 1, "a": 1, "c": 3}', ['{"time_s": 1; "a": 1; "c": 3}']),
        (b'{"time_s": 1, "values": 7}', ['{"time_s": 1; "values": 7}']),
        (b"[1, 2, 3, 4]", ["[1; 2; 3; 4]"]),
        (b'{"time_s": 1,\n', ['{"time_s": 1;']),
        (b"[" * 5000, ["[" * 5000]),
        (b"\xff\xfe,1", ["\ufffd\ufffd,1"]),
        (b"9" * 20_000, ["9" * follow.LONGEST_LINE]),
    ],
)
def test_a_message_becomes_lines(payload, lines):
    assert lines_of(payload, CHANNELS) == lines


def _reader():
    warnings = csv_stream.Warnings()
    return csv_stream.RowReader(CHANNELS, warnings, rows_a_second=1), warnings.counts


def test_what_is_no_row_is_counted_and_never_a_header():
    reader, counts = _reader()
    reader.feed(HEADER)
    wrong = [
        b'{"foo": "bar", "x": "y"}',  # would be a header if it came first
        b"hello,world,to,you",
        b"\x00\x01",
        b'{"time_s": NaN, "values": [1, 2, 3]}',
        b'{"time_s": 1, "values": [1, 2, 1e999]}',
        b'{"time_s": 1, "values": [1, 2]}',
        b'{"time_s": [1], "values": [1, 2, 3]}',
    ]
    for payload in wrong:
        for line in lines_of(payload, CHANNELS):
            assert reader.feed(line) == []
    assert counts == {csv_stream.GARBAGE: len(wrong)}
    reader.feed(*lines_of(b'{"time_s": 1, "values": [1, 2, 3]}', CHANNELS))
    (row,) = reader.feed(*lines_of(b"2.5,4,5,6", CHANNELS))
    assert row == (1.0, (1.0, 2.0, 3.0))


def test_of_a_full_queue_the_oldest_lines_are_left_out(monkeypatch, caplog):
    pytest.importorskip("paho.mqtt.client")
    monkeypatch.setattr(mqtt_in, "QUEUED", 3)
    broker = MqttIn("mqtt://127.0.0.1:1883/f", CHANNELS)  # not entered
    for i in range(6):
        broker.take(f"{i},1,2,3".encode())
    found = itertools.islice(broker.lines(), 4)
    assert list(found) == [HEADER, "3,1,2,3", "4,1,2,3", "5,1,2,3"]
    assert caplog.text.count("beyond 3 the oldest are left out") == 1


class _Publisher:
    """Sends with QoS 1 from a session of its own, and waits until it is taken."""

    def __init__(self, port):
        from paho.mqtt import client, enums

        self.client = client.Client(enums.CallbackAPIVersion.VERSION2)
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def send(self, topic, payload):
        sent = self.client.publish(topic, payload, qos=1)
        _until(sent.is_published)

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


@contextlib.contextmanager
def _read(broker, topic, channels):
    """Reads a topic in a thread, as the monitor does; gives the lines so far."""
    found, ended = [], threading.Event()
    with MqttIn(f"mqtt://127.0.0.1:{broker.port}/{topic}", channels) as source:

        def read():
            for line in source.lines():
                if isinstance(line, str):
                    found.append(line)
                if ended.is_set():
                    return

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield found, source
        finally:
            ended.set()
            thread.join()


def test_rows_come_from_a_broker_that_is_late_and_that_goes(
    alarm_file, make_broker, caplog
):
    own = Monitor(exported.load(alarm_file), live=True)
    expected = Monitor(exported.load(alarm_file), live=True)
    rows = _lines()
    half = len(rows) // 2
    broker = make_broker()
    with _read(broker, "plant/current", CHANNELS) as (found, _):
        _until(lambda: "does not answer" in caplog.text)
        broker.start()
        _until(lambda: "is read, topic plant/current" in caplog.text)
        publisher = _Publisher(broker.port)
        publisher.send("plant/other", "1,2,3,4")
        publisher.send("plant/current", "\n".join(rows[:half]))
        publisher.send("plant/current", rows[half - 1])  # twice
        publisher.send("plant/current", '{"no": "row"}')
        _until(lambda: len(found) == 1 + half + 2)
        broker.kill()
        _until(lambda: "is gone; it is read on" in caplog.text)
        broker.start()
        _until(lambda: caplog.text.count("is read, topic") == 2)
        for row in rows[half : half + 3]:
            time, *values = row.split(",")
            message = {"time_s": float(time), "values": list(map(float, values))}
            publisher.send("plant/current", json.dumps(message))
        publisher.send("plant/current", "\n".join(rows[half + 3 :]))
        _until(lambda: len(found) == 1 + len(rows) + 2)
        publisher.stop()
    readings = [reading for line in found for reading in own.feed(line)]
    lines = [HEADER, *rows[:half], rows[half - 1], "no row", *rows[half:]]
    assert readings == [reading for line in lines for reading in expected.feed(line)]
    assert readings
    assert own.warnings.counts == expected.warnings.counts
    assert own.warnings.counts[csv_stream.GARBAGE] == 1


def test_what_is_sent_while_the_connection_is_broken_comes_later(make_broker, caplog):
    broker = make_broker()
    broker.start()
    with _read(broker, "f", CHANNELS) as (found, source):
        source._client.reconnect_delay_set(2, 2)
        _until(lambda: "is read, topic f" in caplog.text)
        publisher = _Publisher(broker.port)
        publisher.send("f", "1,1,2,3")
        _until(lambda: len(found) == 2)
        source._client.socket().shutdown(socket.SHUT_RDWR)
        _until(lambda: "is gone" in caplog.text)
        publisher.send("f", "2,1,2,3")
        _until(lambda: len(found) == 3)
        publisher.stop()
    assert found == [HEADER, "1,1,2,3", "2,1,2,3"]


def test_the_command_reads_a_topic_and_logs(alarm_file, make_broker, tmp_path):
    broker, log = make_broker(), tmp_path / "log.csv"
    broker.start()
    address = f"mqtt://127.0.0.1:{broker.port}/current"
    process = _start(alarm_file, "--input", address, "--log", log)
    assert "is read, topic current" in process.stderr.readline()
    publisher = _Publisher(broker.port)
    for row in _lines():
        publisher.send("current", row)
    publisher.stop()
    own = Monitor(exported.load(alarm_file), live=True)
    expected = [reading for row in _lines() for reading in own.feed(row)]
    _until(lambda: log.exists() and len(_table(log)) == 1 + len(expected))
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [row[0] for row in _table(log)[1:]] == [f"{r.time_s:.1f}" for r in expected]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mqtt://broker/t", "--input mqtt:// must be HOST:PORT; got 'broker'"),
        ("mqtt://me:secret@broker:1883/t", "got a user before it; name the user in"),
        ("mqtt://127.0.0.1:0/t", "--input must name a broker's port; got 0"),
        ("mqtt://127.0.0.1:1883", "must be a topic without + and #; got ''"),
        ("mqtt://127.0.0.1:1883/a/#", "must be a topic without + and #; got 'a/#'"),
    ],
)
def test_an_address_that_is_none_is_one_line(alarm_file, capsys, address, message):
    with pytest.raises(SystemExit) as ended:
        monitor.main(["--alarm", str(alarm_file), "--input", address])
    error = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert error.startswith("error: ")
    assert message in error
    assert "secret" not in error


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho", None)
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(ValueError, match=r"--input needs .*'fmalign_jax\[mqtt\]'"):
        MqttIn("mqtt://127.0.0.1:1883/f", CHANNELS)
