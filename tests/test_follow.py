"""A live input that is rotated, silent or frozen, and outputs that go away."""

import codecs
import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time

import pytest
from test_monitor import _lines, _table, alarm_file as alarm_file, exported

from fmalign_jax import monitor
from fmalign_jax.alarm import follow, readings_out, watchdog
from fmalign_jax.alarm.follow import Event
from fmalign_jax.alarm.live import Monitor


def _next_line(lines):
    """The next line, and how many times a new file began before it."""
    fresh = 0
    for line in itertools.islice(lines, 200):
        if isinstance(line, str):
            return line, fresh
        fresh += line is Event.NEW_FILE
    raise AssertionError("nothing came")


def test_a_followed_file_is_read_as_it_grows(tmp_path):
    path = tmp_path / "growing.csv"
    path.write_text("1\n2")
    lines = follow.followed(path)
    assert _next_line(lines) == ("1", 0)

    def write():
        time.sleep(0.1)
        with path.open("a") as file:
            file.write("3\n4\n")

    writer = threading.Thread(target=write)
    writer.start()
    assert [_next_line(lines)[0] for _ in range(2)] == ["23", "4"]
    writer.join()


@pytest.mark.parametrize("how", ["renamed", "replaced", "cut", "deleted", "gone long"])
def test_a_rotated_file_is_followed_and_nothing_is_lost(tmp_path, how):
    path = tmp_path / "live.csv"
    path.write_text("header\n1\n2\n")
    lines = follow.followed(path)
    assert [_next_line(lines)[0] for _ in range(3)] == ["header", "1", "2"]
    assert next(lines) is Event.IDLE
    with path.open("a") as file:
        file.write("3\n")
    if how == "renamed":
        path.rename(tmp_path / "live.csv.1")
        path.write_text("header\n4\n")
    elif how == "replaced":
        (tmp_path / "new").write_text("header\n4\n")
        (tmp_path / "new").replace(path)
    else:
        assert _next_line(lines) == ("3", 0)
        assert next(lines) is Event.IDLE
        if how == "cut":
            path.write_text("h\n4\n")
        else:
            path.unlink()
            for _ in range(3 if how == "gone long" else 0):
                assert next(lines) is Event.IDLE
            path.write_text("header\n4\n")
    if how in ("renamed", "replaced"):
        assert _next_line(lines) == ("3", 0)
    header, fresh = _next_line(lines)
    assert header.startswith("h")
    assert fresh == 1
    assert _next_line(lines) == ("4", 0)


HEADER = "时间,电流A,电流B"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("gbk", "read as GB18030 (GBK)"),
        ("utf-16", "read as UTF-16"),
        ("utf-16-be", "read as UTF-16"),
    ],
)
@pytest.mark.parametrize("cut", [1, 3, 1000], ids=lambda n: f"{n} bytes at a time")
def test_bytes_become_lines_wherever_they_are_cut(encoding, said, cut, caplog):
    text = f"{HEADER}\n1,2,3\r\n\n4,5,6\n7,8,9"
    data = text.encode(encoding)
    if encoding == "utf-16-be":
        data = codecs.BOM_UTF16_BE + data
    lines = follow.Lines()
    pieces = [data[i : i + cut] for i in range(0, len(data), cut)]
    found = [line for piece in pieces for line in lines.feed(piece)]
    assert found == [HEADER, "1,2,3", "4,5,6"]
    assert list(lines.end()) == ["7,8,9"]
    assert list(lines.end()) == []
    assert (said in caplog.text) if said else not caplog.text
    assert len(caplog.records) == bool(said)  # once


def test_a_damaged_line_becomes_no_number():
    lines = follow.Lines()
    found = list(lines.feed(b"1,2\n\xff3,4\n\x815,6\n\x81\x417,8\n9,10\n"))
    assert [found[0], found[-1]] == ["1,2", "9,10"]
    for line in found[1:-1]:
        with pytest.raises(ValueError, match="float"):
            float(line.split(",")[0])


def test_a_line_without_an_end_comes_in_pieces():
    lines = follow.Lines()
    found = list(lines.feed(b"9" * 25_000))
    assert list(map(len, found)) == [follow.LONGEST_LINE] * 2
    assert list(lines.feed(b"\n1\n")) == ["9" * 5_000, "1"]


@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_a_rotated_file_may_change_its_encoding(tmp_path, encoding):
    path = tmp_path / "live.csv"
    start = f"{HEADER}\n1,2,3\n".encode(encoding)
    path.write_bytes(start[:11])  # within a character
    lines = follow.followed(path)
    assert next(lines) is Event.IDLE
    with path.open("ab") as file:
        file.write(start[11:])
    assert _next_line(lines) == (HEADER, 0)
    assert _next_line(lines) == ("1,2,3", 0)
    path.rename(tmp_path / "live.csv.1")
    path.write_bytes(start)
    assert _next_line(lines) == (HEADER, 1)
    assert _next_line(lines) == ("1,2,3", 0)
    path.write_text("4,5,6\n")  # cut, and in ASCII
    assert _next_line(lines) == ("4,5,6", 1)


def test_a_pipe_says_when_nothing_comes():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "w") as target:
        lines = follow.piped(source)
        assert next(lines) is Event.IDLE
        target.write("1\n2\n")
        target.flush()
        assert [_next_line(lines)[0] for _ in range(2)] == ["1", "2"]
        target.close()
        assert [line for line in lines if isinstance(line, str)] == []


def _watched(alarm_file, no_data_after_s=10.0, frozen_after_s=5.0):
    now = [0.0]
    own = Monitor(exported.load(alarm_file), live=True)
    dog = watchdog.Watchdog(
        own,
        no_data_after_s=no_data_after_s,
        frozen_after_s=frozen_after_s,
        now=lambda: now[0],
    )
    return own, dog, now


def test_silence_is_noticed_and_so_is_its_end(alarm_file):
    own, dog, now = _watched(alarm_file)
    own.feed("0.25,1,2,3")
    own.feed("0.75,1,2,4")
    assert dog.look() is None
    now[0] = 11.0
    assert dog.look() == watchdog.NO_DATA
    assert dog.look() is None
    own.feed("no row")  # lines alone are no data
    now[0] = 12.0
    assert dog.state == watchdog.NO_DATA
    assert dog.look() is None
    own.feed("1.25,1,2,5")
    own.feed("1.75,1,2,6")
    assert dog.look() == watchdog.NORMAL


def test_a_clock_that_stands_still_is_silence(alarm_file):
    own, dog, now = _watched(alarm_file)
    for second in range(30):
        now[0] = float(second)
        own.feed(f"0.25,1,2,{second}")
        dog.look()
    assert dog.state == watchdog.NO_DATA


@pytest.mark.parametrize(("after_s", "expected"), [(5.0, "FROZEN"), (1e9, None)])
def test_the_same_values_for_long_are_frozen(alarm_file, after_s, expected):
    own, dog, _ = _watched(alarm_file, frozen_after_s=after_s)
    states = []
    for half in range(40):
        own.feed(f"{half / 2 + 0.25},1,2,{min(half, 10)}")
        states.append(dog.look())
    assert [state for state in states if state] == ([expected] if expected else [])
    own.feed("20.25,9,9,9")
    own.feed("20.75,9,9,8")
    assert dog.look() == (watchdog.NORMAL if expected else None)


def _start(alarm_file, *given, **how):
    command = [sys.executable, "-m", "fmalign_jax.monitor", "--alarm", str(alarm_file)]
    return subprocess.Popen(
        [*command, *map(str, given)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )


def test_the_command_follows_a_rotation_says_states_and_gives_up(alarm_file, tmp_path):
    path, log = tmp_path / "live.csv", tmp_path / "log.csv"
    lines = _lines()
    path.write_text("time,a,b,c\n" + "\n".join(lines[:60]) + "\n")
    given = ("--input", path, "--follow", "--log", log, "--no_data_after", 1)
    process = _start(alarm_file, *given, "--give_up_after", 4, "--heartbeat", 1)
    while not log.exists() or len(_table(log)) < 20:
        time.sleep(0.1)
    path.rename(tmp_path / "live.csv.1")
    path.write_text("time,a,b,c\n" + "\n".join(lines[60:]) + "\n")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == monitor.SILENT
    rows = [row for row in _table(log)[1:] if row[3] in ("normal", "ALARM")]
    times = [float(row[0]) for row in rows]
    # Every tick but the last, which no row has followed.
    assert times == [4.0 + tick for tick in range(len(times))]
    assert len(times) >= 55
    assert [row[3] for row in _table(log)].count("NO DATA") >= 1
    assert "reading on in a new file" in errors
    assert "alive: " in errors
    assert "no usable row for 4 s" in errors


@pytest.mark.parametrize("stop_after", [10, 30])
def test_a_monitor_that_was_killed_goes_on_where_its_log_ends(
    alarm_file, tmp_path, stop_after
):
    """Before the alarm or within it: nothing is lost, repeated or rung again."""
    path, log = tmp_path / "live.csv", tmp_path / "log.csv"
    lines = _lines()
    path.write_text("time,a,b,c\n" + "\n".join(lines[: 2 * stop_after + 8]) + "\n")
    given = ("--input", path, "--follow", "--log", log)
    process = _start(alarm_file, *given)
    while not log.exists() or len(_table(log)) < stop_after:
        time.sleep(0.1)
    process.kill()
    errors = process.communicate()[1]
    before = _table(log)
    with log.open("a") as file:
        file.write("99.0,0.5")  # it was stopped within a row
    with path.open("a") as file:
        file.write("\n".join(lines[2 * stop_after + 8 :]) + "\n")
    process = _start(alarm_file, *given, "--give_up_after", 3)
    errors += process.communicate(timeout=60)[1]
    after = _table(log)
    assert after[: len(before)] == before
    assert after[len(before)] == ["99.0", "0.5"]
    del after[len(before)]
    rows = [row for row in after[1:] if row[3] in ("normal", "ALARM")]
    assert [float(row[0]) for row in rows] == [4.0 + tick for tick in range(len(rows))]
    assert len(rows) >= 55
    changes = sum(one[3] != other[3] for one, other in itertools.pairwise(rows))
    assert changes >= 2
    assert errors.count(": ALARM, ") + errors.count("alarm cleared") == changes
    assert f"going on after {before[-1][0]}, state {before[-1][3]}" in errors


def test_the_last_reading_of_a_log_is_the_last_whole_one(tmp_path):
    log = tmp_path / "log.csv"
    states = ("normal", "ALARM")
    assert readings_out.last_logged(log, states) is None
    for text, expected in (
        ("", None),
        ("time,probability,code,alarm\n", None),
        ("time,probability,code,alarm\n4.0,0.1,1,normal\n", "4.0"),
        ("4.0,0.1,1,normal\n6.0,0.1,1,ALARM\n8.0,,,NO DATA\n", "6.0"),
        ("4.0,0.1,1,normal\n6.0,0.1,1,ALARM", "4.0"),
        ("4.0,0.1,1,normal\n6.0x,0.1,1,ALARM\n", "4.0"),
        ("2018-03-10 02:14:08,0.1,1,normal\n", "2018-03-10 02:14:08"),
        ("4.0,0.1,1,normal\n" * 9000 + "5.0,0.1,1,normal\n", "5.0"),
    ):
        log.write_text(text)
        assert readings_out.last_logged(log, states) == expected, text[-80:]


def test_a_closed_screen_ends_quietly_or_leaves_the_log(alarm_file, tmp_path):
    source, log = tmp_path / "current.csv", tmp_path / "log.csv"
    source.write_text("\n".join(_lines(ticks=3000)))
    for given, rows in (((), None), (("--log", log), 2997)):
        process = _start(alarm_file, "--input", source, *given)
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=60) == 0, errors
        assert "Traceback" not in errors
        assert "Broken" not in errors
        if rows:
            assert len(_table(log)) == 1 + rows
            assert "readings go to" in errors


def test_a_log_that_cannot_be_written_is_counted_and_tried_again(
    tmp_path, monkeypatch, capsys, caplog
):
    log = tmp_path / "folder" / "log.csv"
    log.parent.mkdir()
    monkeypatch.setattr(readings_out, "RETRY_S", 0.0)
    with readings_out.ReadingsOut(log, ("time",), flush=True) as out:
        out.write(["1"], shown=True)

        class Full:
            def write(self, text):
                raise OSError(28, "No space left on device")

            def close(self):
                raise OSError(28, "No space left on device")

        out._file.close()
        out._file = Full()
        out.write(["2"], shown=True)
        out.write(["3"], shown=False)
        assert out.not_logged == 1
    assert [row[0] for row in _table(log)] == ["time", "1", "3"]
    with readings_out.ReadingsOut(log, ("time",), flush=True) as out:
        out.write(["4"], shown=False)  # added to, with one header
    assert [row[0] for row in _table(log)] == ["time", "1", "3", "4"]
    assert capsys.readouterr().out.split() == ["1", "2"]
    assert str(log) in caplog.text
    assert "No space left" in caplog.text
    with contextlib.suppress(OSError):
        readings_out.ReadingsOut(tmp_path / "nowhere" / "x", (), flush=True)
        raise AssertionError("a log that cannot be opened at first must be refused")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_log_on_a_full_disk_does_not_stop_the_monitor(alarm_file, tmp_path, capsys):
    source = tmp_path / "current.csv"
    source.write_text("\n".join(_lines()))
    given = ["--alarm", str(alarm_file), "--input", str(source), "--log", "/dev/full"]
    monitor.main(given)
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 57
    assert "readings not logged: 57" in shown.err
