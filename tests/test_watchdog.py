"""Inputs that come, and cannot be believed: far from training, or of another time."""

import dataclasses
import datetime
import os
import subprocess
import sys
import threading
import time

import pytest
from test_monitor import SETTINGS, _table, alarm_file as alarm_file, exported

from fmalign_jax.alarm import follow
from fmalign_jax.alarm.follow import Event
from fmalign_jax.alarm.live import Monitor
from fmalign_jax.alarm.watchdog import (
    FROZEN,
    NO_DATA,
    NORMAL,
    OUT_OF_RANGE,
    STALE_CLOCK,
    Watchdog,
)

RANGE = ((0.0, 10.0), (100.0, 100.0), (-4.0, 4.0))
"""Widened to -5 to 15, to 100, and to -8 to 8."""

START = datetime.datetime(2024, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def ranged_file(alarm_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("ranged") / "alarm.fmalign"
    with exported.zipfile.ZipFile(alarm_file) as archive:
        program = archive.read("score.stablehlo")
    exported.save(path, dataclasses.replace(SETTINGS, value_range=RANGE), program)
    return path


@pytest.fixture(scope="module")
def ranged(ranged_file):
    return exported.load(ranged_file)


class Scene:
    """A monitor and its watchdog, with the clocks in hand."""

    def __init__(self, alarm, **after_s):
        self.now_s, self.clock_s = 0.0, START.timestamp()
        self.monitor = Monitor(alarm, live=True)
        self.dog = Watchdog(
            self.monitor,
            **{f"{name}_after_s": seconds for name, seconds in after_s.items()},
            now=lambda: self.now_s,
            clock=lambda: self.clock_s,
        )

    def feed(self, time_s, *values):
        self.monitor.feed(",".join(map(str, (time_s, *values))))
        return self.dog.look()

    def states(self, rows):
        """What is said while rows come twice a second, with the time of it."""
        told = [(row / 2, self.feed(row / 2 + 0.25, *v)) for row, v in enumerate(rows)]
        return [(at, state) for at, state in told if state]


def _rows(n, first=5.0):
    return [(first, 100.0, i % 3) for i in range(n)]


def test_values_beyond_training_for_long_are_out_of_range(ranged):
    scene = Scene(ranged, out_of_range=5.0)
    rows = _rows(10) + _rows(30, first=16.0) + _rows(10)
    # A row is used when the next has come: the last of 5.5 s, at 11 s.
    assert scene.states(rows) == [(11.0, OUT_OF_RANGE), (20.5, NORMAL)]
    assert scene.dog.said == NORMAL


def test_it_is_said_which_values_are_out_of_range(ranged):
    scene = Scene(ranged, out_of_range=5.0)
    scene.states([(16.0, 100.0, -9.5)] * 20)
    assert scene.dog.said == "OUT OF RANGE of training: a 16, c -9.5"


def test_one_row_within_the_range_starts_again(ranged):
    rows = _rows(10, first=16.0) + _rows(1) + _rows(10, first=16.0)
    assert Scene(ranged, out_of_range=5.0).states(rows) == []
    assert Scene(ranged, out_of_range=3.0).states(rows) != []


@pytest.mark.parametrize(
    ("values", "outside"),
    [
        ((-5.0, 100.0, 8.0), {}),  # half its width on either side
        ((15.0, 100.0000001, -8.0), {}),  # float32 rounds
        ((-5.1, 100.0, 0.0), {"a": -5.1}),
        ((5.0, 101.0, 0.0), {"b": 101.0}),
        ((15.1, 99.0, 8.1), {"a": 15.1, "b": 99.0, "c": 8.1}),
    ],
)
def test_the_range_is_widened_on_each_side(ranged, values, outside):
    scene = Scene(ranged)
    scene.feed(0.25, *values)
    scene.feed(0.75, *values)
    assert scene.monitor.outside() == outside


def test_an_alarm_that_knows_no_range_says_nothing_of_it(alarm_file):
    scene = Scene(exported.load(alarm_file), out_of_range=1.0)
    assert scene.states(_rows(40, first=1e9)) == []


def test_of_several_states_the_gravest_is_said(ranged):
    scene = Scene(ranged, no_data=10.0, frozen=5.0, out_of_range=2.0)
    rows = [(99.0, 1.0, min(i, 10)) for i in range(30)]
    assert scene.states(rows) == [(3.0, OUT_OF_RANGE), (11.0, FROZEN)]
    scene.now_s = 11.0
    assert scene.dog.look() == NO_DATA
    scene.feed(15.25, 99.0, 1.0, 0.0)
    assert scene.feed(15.75, 99.0, 1.0, 1.0) == OUT_OF_RANGE
    scene.feed(16.25, 5.0, 100.0, 1.0)
    assert scene.feed(16.75, 5.0, 100.0, 2.0) == NORMAL


@pytest.mark.parametrize(("values", "state"), [(1.0, FROZEN), (99.0, OUT_OF_RANGE)])
def test_a_clock_that_is_set_back_does_not_end_a_state(ranged, values, state):
    frozen = state == FROZEN
    scene = Scene(ranged, **{"frozen" if frozen else "out_of_range": 5.0})
    row = (values, 100.0, 0.0)
    assert scene.states([row] * 20) == [(6.0, state)]
    told = [scene.feed(i / 2 - 3600.0, *row) for i in range(60)]
    assert scene.monitor.last_row.time_s < 0
    assert set(told) == {None}


def _dated(scene, seconds, offset=""):
    moment = START.replace(tzinfo=None) + datetime.timedelta(seconds=seconds)
    scene.feed(f"{moment:%Y-%m-%d %H:%M:%S}{offset}", 5.0, 100.0, seconds % 3)


def _live(scene, behind_s, offset="", first_s=0, rows=10):
    """Rows come live, behind this machine's clock; returns what is said."""
    told = []
    for second in range(first_s, first_s + rows):
        scene.now_s, scene.clock_s = (
            float(second),
            START.timestamp() + second + behind_s,
        )
        _dated(scene, second, offset)
        told.append(scene.dog.look(caught_up=True))
    return [state for state in told if state]


def test_a_clock_far_behind_or_ahead_is_said_and_by_how_much(ranged):
    scene = Scene(ranged, stale_clock=300.0)
    assert _live(scene, 299.0) == []
    assert _live(scene, 400.0, first_s=10) == [STALE_CLOCK]
    assert scene.dog.said == "STALE CLOCK: the input is 401 s behind this machine"
    assert _live(scene, 0.0, first_s=20) == [NORMAL]
    assert _live(scene, -500.0, first_s=30) == [STALE_CLOCK]
    assert scene.dog.said == "STALE CLOCK: the input is 499 s ahead of this machine"


def test_clocks_are_not_compared_where_that_says_nothing(ranged):
    scene = Scene(ranged)  # never
    assert _live(scene, 1e6) == []
    scene = Scene(ranged, stale_clock=300.0)
    for row in range(40):  # seconds since anything
        scene.feed(row / 2 + 0.25, 5.0, 100.0, row % 3)
        assert scene.dog.look(caught_up=True) is None
    scene = Scene(ranged, stale_clock=300.0)
    for second in range(1000):  # what was there at first, of another day
        scene.clock_s = START.timestamp() + 86400
        _dated(scene, second)
    assert scene.dog.look(caught_up=True) is None
    assert scene.dog.look(caught_up=True) is None  # nothing has come since
    assert _live(scene, 86400.0, first_s=1000) == [STALE_CLOCK]
    scene = Scene(ranged, stale_clock=300.0)
    _live(scene, 0.0)
    scene.clock_s += 3000
    for second in range(10, 3010):  # all that came late: only the last is of now
        _dated(scene, second)
        assert scene.dog.look() is None
    assert scene.dog.look(caught_up=True) is None


@pytest.fixture
def eight_hours_east(monkeypatch):
    monkeypatch.setenv("TZ", "CST-8")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("eight_hours_east")
@pytest.mark.parametrize(
    ("behind_s", "offset", "expected"),
    [
        (0.0, "", []),  # written in UTC
        (-28800.0, "", []),  # written in local time
        (-28800.0, "+08:00", []),
        (-28800.0 + 400, "", [STALE_CLOCK]),
        (400.0, "", [STALE_CLOCK]),
        (3600.0, "", [STALE_CLOCK]),
    ],
)
def test_dates_may_be_local_or_utc(ranged, behind_s, offset, expected):
    assert _live(Scene(ranged, stale_clock=300.0), behind_s, offset) == expected


def test_a_dense_pipe_says_now_and_then_that_all_is_read():
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "w", buffering=1) as target:
            for _ in range(60):
                target.write("1\n")
                time.sleep(follow.POLL_S / 20)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as source:
        found = list(follow.piped(source))
        writer.join()
    assert found.count("1") == 60
    assert 2 <= found.count(Event.IDLE) <= 20


def _dates(first, n, values="{x},100,{y}"):
    moments = [first + datetime.timedelta(seconds=i / 2) for i in range(n)]
    rows = [values.format(x=3 + i % 5, y=i % 3) for i in range(n)]
    pairs = zip(moments, rows, strict=True)
    return "".join(f"{moment:%Y-%m-%d %H:%M:%S},{row}\n" for moment, row in pairs)


def _states(log):
    return [row[3] for row in _table(log)[1:] if row[3] not in ("normal", "ALARM")]


def test_the_command_says_states_once_and_not_again_after_a_restart(
    ranged_file, tmp_path
):
    path, log = tmp_path / "live.csv", tmp_path / "log.csv"
    old = START - datetime.timedelta(days=400)
    first, far = _dates(old, 80), _dates(old.replace(hour=13), 80, "900{x},100,{y}")
    # An old file alone is a replay: its clock is no news.
    path.write_text("time,a,b,c\n" + first + far)
    command = [sys.executable, "-m", "fmalign_jax.monitor", "--follow"]
    command += ["--alarm", ranged_file, "--input", path, "--log", log]
    command += ["--out_of_range_after", "20", "--stale_clock_after", "100"]

    def start():
        return subprocess.Popen(
            [*command, "--heartbeat", "0.2", "--give_up_after", "2"],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def read_until(process, text):
        lines = []
        for line in process.stderr:
            lines.append(line)
            if text in line:
                break
        return "".join(lines)

    process = start()
    errors = read_until(process, ", OUT OF RANGE of training: a 900")  # a heartbeat
    process.terminate()
    shown, rest = process.communicate(timeout=60)
    assert ", OUT OF RANGE of training: a 900" in errors
    assert ": OUT OF RANGE of training: a 900" in errors + rest
    assert _states(log) == [OUT_OF_RANGE]
    assert f"  {OUT_OF_RANGE}\n" in shown
    readings = len(_table(log))
    # Again: what is in the log is not told; rows that come now are of another year.
    process = start()
    assert "going on after" in read_until(process, "going on after")
    with path.open("a") as file:
        file.write(_dates(old.replace(hour=14), 80))
    _, errors = process.communicate(timeout=60)
    assert _states(log) == [OUT_OF_RANGE, NORMAL, STALE_CLOCK]
    assert len(_table(log)) > readings + 20
    assert "s behind this machine" in errors
    assert errors.count(": OUT OF RANGE") == 0
