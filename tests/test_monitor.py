"""The monitor: the same readings live and replayed, whatever the input does."""

import csv
import dataclasses
import importlib.metadata
import io
import json
import pathlib
import subprocess
import sys
import tomllib
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import export
from packaging.requirements import Requirement

from fmalign_jax import monitor
from fmalign_jax.alarm import alarm_file as exported, csv_stream
from fmalign_jax.alarm.live import Monitor
from fmalign_jax.config import load_file

T, R, C, ROWS = 4, 2, 3, 8
TINY = load_file(pathlib.Path(__file__).parents[1] / "scripts" / "tiny_alarm.py")
SETTINGS = TINY.SETTINGS
assert (SETTINGS.rows, *SETTINGS.window_shape) == (ROWS, T, R, C)


def _score(windows):
    """Calm windows score high; the code is the last sample of the first phase."""
    deviation = windows.std(axis=(1, 2)).mean(axis=-1)
    return jax.nn.sigmoid(2.0 - deviation), windows[:, -1, -1, 0].astype(jnp.int32)


@pytest.fixture(scope="module")
def alarm_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("alarm") / "alarm.fmalign"
    shape = jax.ShapeDtypeStruct((ROWS, T, R, C), jnp.float32)
    program = export.export(jax.jit(_score), platforms=("cpu",))(shape).serialize()
    exported.save(path, SETTINGS, program)
    return path


@pytest.fixture(scope="module")
def alarm(alarm_file):
    return exported.load(alarm_file)


def _lines(ticks=60, seed=0):
    """Loud, then calm from tick 20 to 40, at two rows a second."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(2 * ticks) / 2 + 0.25
    loud = np.where((time_s > 20) & (time_s < 40), 0.3, 5.0)
    values = loud[:, None] * rng.normal(size=(len(time_s), C))
    rows = zip(time_s, values, strict=True)
    return [f"{t},{a:.4f},{b:.4f},{c:.4f}" for t, (a, b, c) in rows]


def _readings(alarm, lines, *, live):
    own = Monitor(alarm, live=live)
    return [r for line in lines for r in own.feed(line)] + own.flush(), own


def test_readings_by_hand(alarm):
    lines = _lines()
    readings, own = _readings(alarm, lines, live=True)
    assert [r.time_s for r in readings] == list(np.arange(4.0, 61.0))
    values = np.array([[float(x) for x in line.split(",")[1:]] for line in lines])
    for tick, reading in enumerate(readings):
        window = values[R * tick : R * (tick + T)]
        expected = 1 / (1 + np.exp(window.std(axis=0).mean() - 2.0))
        assert reading.probability == pytest.approx(expected, abs=1e-5)
        code = int(window[-1, 0])
        assert reading.code == (None if code == exported.NO_CODE else code)
    changes = [r for r in readings if r.changed]
    assert [r.active for r in changes] == [True, False]
    up, down = changes
    assert 20 < up.time_s < 26
    assert up.visible_s == (up.time_s + 200, up.time_s + 230, up.time_s + 250)
    assert down.visible_s is None
    assert 40 < down.time_s < 46
    on = [r for r in readings if r.active]
    assert {r.visible_s for r in on} == {up.visible_s}
    assert own.ticks == len(readings)
    assert not own.warnings.counts


def test_a_replay_says_bit_for_bit_what_a_live_monitor_says(alarm):
    live, _ = _readings(alarm, _lines(), live=True)
    replayed, _ = _readings(alarm, _lines(), live=False)
    assert live == replayed


NOISE = st.sampled_from(
    ["", "garbage", "7", "1,2", "nan,1,1,1", "3.25,x,1,1", "-5,1,1,1", "time,a,b,c"]
)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 59), NOISE), max_size=12), st.booleans())
def test_what_is_no_row_changes_nothing(alarm, noise, doubled):
    clean = _lines(ticks=30)
    expected, _ = _readings(alarm, clean, live=False)
    lines = [[line, line] if doubled else [line] for line in clean]
    for place, text in noise:
        lines[place].insert(0, text)
    found, own = _readings(alarm, [x for group in lines for x in group], live=False)
    assert found == expected
    wrong = sum(bool(text) for _, text in noise)
    counts = own.warnings.counts
    assert counts[csv_stream.GARBAGE] + counts[csv_stream.OUT_OF_ORDER] == wrong
    assert counts[csv_stream.DUPLICATES] == (60 if doubled else 0)


def test_after_a_gap_scores_come_when_the_window_is_full_again(alarm):
    lines = _lines()
    del lines[50:70]  # from 25 to 35 s, in the alarm
    readings, own = _readings(alarm, lines, live=True)
    times_s = [r.time_s for r in readings]
    before, after = max(t for t in times_s if t < 30), min(t for t in times_s if t > 30)
    assert after - before >= 10
    lost = own.warnings.counts[csv_stream.LOST]
    assert after == before + lost + T
    during = [r.active for r in readings if 26 < r.time_s < 40]
    assert all(during)  # the alarm outlives the gap


def test_another_rate_than_in_training_is_said_once(alarm, caplog):
    _readings(alarm, [f"{i},1,{i % 3},1" for i in range(200)], live=False)
    assert [r.message for r in caplog.records if "every 1 s" in r.message]
    assert len([r for r in caplog.records if "rate of training" in r.message]) == 1
    caplog.clear()
    _readings(alarm, _lines(), live=False)
    assert not caplog.records


def _own_bytes():
    """Bytes that the package holds; threads of other tests may hold some too."""
    package = pathlib.Path(exported.__file__).parents[1]
    own = tracemalloc.Filter(True, f"{package}/*", all_frames=True)
    traces = tracemalloc.take_snapshot().filter_traces([own]).traces
    return sum(trace.size for trace in traces)


def test_memory_stays_flat(alarm):
    class Free(exported.ExportedAlarm):
        def __init__(self):
            self.settings = SETTINGS

        def __call__(self, windows, first=0):
            return np.zeros(len(windows)), np.zeros(len(windows), int)

    own = Monitor(Free(), live=False)

    def run(first, last):
        for i in range(first, last):
            own.feed(f"{i / 2 + 0.25},1.0,{i % 7},3.0")
            if i % 5 == 0:
                own.feed("garbage")

    run(0, 200)
    own.latencies_s.extend(np.arange(own.latencies_s.maxlen, dtype=float).tolist())
    tracemalloc.start(10)
    try:
        run(200, 600)
        first = _own_bytes()
        run(600, 1400)
        second = _own_bytes()
    finally:
        tracemalloc.stop()
    assert second - first < 10_000
    assert own.ticks > 690


def _table(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_the_command_replays_a_file_and_logs(alarm_file, tmp_path, capsys):
    source, log = tmp_path / "current.csv", tmp_path / "log.csv"
    source.write_text("time,a,b,c\n" + "\n".join(_lines()) + "\nlast line is garbage\n")
    given = ["--alarm", str(alarm_file), "--input", str(source), "--log", str(log)]
    monitor.main(given)
    shown = capsys.readouterr()
    rows = _table(log)
    assert rows[0][:4] == ["time", "probability", "code", "alarm"]
    assert len(rows) == 1 + 57
    assert [row[3] for row in rows[1:]].count("ALARM") > 15
    assert shown.out.splitlines()[0].split()[0] == "4.0"
    assert "57 ticks scored" in shown.err
    assert f"{csv_stream.GARBAGE}: 1" in shown.err
    monitor.main([*given, "--changes"])  # a log is added to, never overwritten
    assert len(_table(log)) == 1 + 57 + 57
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_another_level_is_used_and_keeps_its_hysteresis(alarm_file, tmp_path, capsys):
    source = tmp_path / "current.csv"
    source.write_text("\n".join(_lines()))
    given = ["--alarm", str(alarm_file), "--input", str(source)]
    monitor.main([*given, "--raise_at", "1.0"])
    assert "ALARM" not in capsys.readouterr().out
    monitor.main([*given, "--raise_at", "0.0"])
    assert "normal" not in capsys.readouterr().out.splitlines()[5]
    changed = exported.with_level(SETTINGS, 0.9)
    assert changed.raise_at == 0.9
    kept = SETTINGS.raise_at - SETTINGS.clear_at
    assert changed.clear_at == pytest.approx(0.9 - kept)
    with pytest.raises(SystemExit):
        monitor.main([*given, "--raise_at", "1.5"])
    assert "raise_at of an alarm must lie in" in capsys.readouterr().err


def test_dates_stay_dates(alarm_file, tmp_path, capsys):
    lines = [f"2018-04-19 21:40:{i // 2:02d},1.0,2.0,{i % 3}" for i in range(20)]
    source = tmp_path / "current.csv"
    source.write_text("time,a,b,c\n" + "\n".join(lines))
    monitor.main(["--alarm", str(alarm_file), "--input", str(source)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("2018-04-19 21:40:03  ")
    assert "2018-04-19 21:44" in shown[2]  # when it will be seen


def test_standard_input_is_read_line_by_line(alarm_file, monkeypatch, capsys):
    text = io.TextIOWrapper(io.BytesIO("\n".join(_lines()).encode() + b"\n\xff\n"))
    monkeypatch.setattr(sys, "stdin", text)
    monitor.main(["--alarm", str(alarm_file), "--input", "-"])
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 57
    assert f"{csv_stream.GARBAGE}: 1" in shown.err


@pytest.mark.parametrize("how", ["a file", "a pipe"])
@pytest.mark.parametrize("encoding", ["gbk", "utf-16"])
def test_a_meter_that_writes_no_utf8_is_read(
    how, encoding, tmp_path, monkeypatch, capsys
):
    channels = ("电流A", "电流B", "电流C")
    alarm = tmp_path / "alarm.fmalign"
    shape = jax.ShapeDtypeStruct((ROWS, T, R, C), jnp.float32)
    program = export.export(jax.jit(_score), platforms=("cpu",))(shape).serialize()
    named = dataclasses.replace(SETTINGS, channels=channels)
    exported.save(alarm, named, program)
    # In another order than that of training, so that only a header that is read helps.
    rows = [line.split(",") for line in _lines()]
    swapped = [",".join([a, b, d, c]) for a, b, c, d in rows]
    text = "\n".join(["时间,电流A,电流C,电流B", *swapped])
    source = tmp_path / "current.csv"
    source.write_bytes(text.encode(encoding))
    given = str(source)
    if how == "a pipe":
        given = "-"
        piped = io.TextIOWrapper(io.BytesIO(source.read_bytes()), encoding="ascii")
        monkeypatch.setattr(sys, "stdin", piped)
    monitor.main(["--alarm", str(alarm), "--input", given])
    shown = capsys.readouterr().out
    source.write_text("\n".join(_lines()))
    monitor.main(["--alarm", str(alarm), "--input", str(source)])
    assert shown == capsys.readouterr().out
    assert len(shown.splitlines()) == 57


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--alarm", "nowhere.fmalign", "--input", "-"], "not there"),
        (["--alarm", str(pathlib.Path(__file__)), "--input", "-"], "damaged file"),
    ],
)
def test_errors_are_one_line(given, message, capsys):
    with pytest.raises(SystemExit) as ended:
        monitor.main(given)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(error.splitlines()) == 1
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize("follow", [(), ("--follow",)])
@pytest.mark.parametrize(
    ("name", "why"), [("nowhere.csv", "No such file"), (".", "Is a directory")]
)
def test_an_input_that_cannot_be_read_says_what_it_may_be(
    alarm_file, tmp_path, capsys, follow, name, why
):
    path = tmp_path / name
    with pytest.raises(SystemExit) as ended:
        monitor.main(["--alarm", str(alarm_file), "--input", str(path), *follow])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: --input must be a file that can be read, - for standard input, or "
        f"mqtt://HOST:PORT/TOPIC; got {path} ({why}"
    )
    assert error.endswith("; correct the path, or who may read it\n")


def test_an_alarm_of_another_format_is_refused(alarm_file, tmp_path):
    path = tmp_path / "new.fmalign"
    with zipfile.ZipFile(alarm_file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".json"):
                content = json.dumps(json.loads(content) | {"format": 99}).encode()
            new.writestr(name, content)
    with pytest.raises(ValueError, match="export it again"):
        exported.load(path)


def test_settings_survive_the_file_and_the_same_alarm_has_the_same_bytes(
    alarm, alarm_file, tmp_path
):
    assert alarm.settings == SETTINGS
    with zipfile.ZipFile(alarm_file) as archive:
        program = archive.read("score.stablehlo")
    exported.save(tmp_path / "again.fmalign", SETTINGS, program)
    assert (tmp_path / "again.fmalign").read_bytes() == alarm_file.read_bytes()


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
from fmalign_jax import monitor
monitor.main(sys.argv[1:])
"""
ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = PROJECT["dependency-groups"]["monitor"]


def _brought_by(requirements):
    """Returns the names of distributions that requirements install, without extras."""
    found, left = set(), list(requirements)
    while left:
        requirement = Requirement(left.pop())
        marker = requirement.marker
        if requirement.name not in found and (
            marker is None or marker.evaluate({"extra": ""})
        ):
            found.add(requirement.name)
            left += importlib.metadata.requires(requirement.name) or []
    return {name.lower().replace("-", "_") for name in found}


def test_the_packages_of_the_monitor_are_enough(alarm_file, tmp_path):
    needed = _brought_by(NEEDED)
    owners = importlib.metadata.packages_distributions()
    others = {
        module
        for module, names in owners.items()
        if not {name.lower().replace("-", "_") for name in names} & needed
    } - {"fmalign_jax"}
    assert {"flax", "optax", "sklearn", "grain", "matplotlib", "absl"} <= others
    source = tmp_path / "current.csv"
    source.write_text("\n".join(_lines()))
    script = BLOCKED.format(names=others)
    done = subprocess.run(
        [sys.executable, "-c", script, "--alarm", alarm_file, "--input", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 57


def test_the_packages_of_the_monitor_are_said_once():
    assert set(NEEDED) <= set(PROJECT["project"]["dependencies"])
    line = "pip install " + " ".join(f'"{needed}"' for needed in NEEDED)
    for page in ("monitor.md", "monitor.zh.md"):
        assert line in (ROOT / "docs" / page).read_text(encoding="utf-8")
