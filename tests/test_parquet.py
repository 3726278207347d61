"""Tables as Parquet in place of CSV: the same values, checks and errors."""

import datetime
import importlib

import av
import numpy as np
import pytest

from fmalign_jax.data import parquet, tables
from fmalign_jax.data.recordings import RecordingFiles

arrow = pytest.importorskip("pyarrow")
writer = importlib.import_module("pyarrow.parquet")

START = datetime.datetime(2018, 4, 19, 21, 40, 52)


def _write(path, **columns):
    writer.write_table(arrow.table(columns), path)
    return path


def _moments(*seconds, unit="us", zone=None):
    dates = [START + datetime.timedelta(seconds=s) for s in seconds]
    return arrow.array(dates, arrow.timestamp("us")).cast(arrow.timestamp(unit, zone))


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_dates_are_the_time_wherever_they_stand(tmp_path, unit):
    path = _write(
        tmp_path / "run.parquet",
        a=[1.5, 2.5, 3.5],
        b=arrow.array([1, 2, 3], arrow.int16()),
        remark=["x", None, "y"],
        when=_moments(0, 0.5, 1, unit=unit),
    )
    table = tables.read_table(path)
    time = table.time_position()
    assert table.columns[time] == "when"
    assert table.channels(time) == ("a", "b")
    zero = START.replace(tzinfo=datetime.UTC).timestamp()
    np.testing.assert_allclose(table.seconds(time) - zero, [0, 0.5, 1], atol=1e-6)
    np.testing.assert_array_equal(
        table.numbers("a", "b"), [[1.5, 1], [2.5, 2], [3.5, 3]]
    )
    assert table.texts("remark") == ["x", "", "y"]


def test_offsets_and_durations_are_read(tmp_path):
    path = _write(tmp_path / "a.parquet", time=_moments(0, 2, zone="+08:00"), a=[1, 2])
    zero = START.replace(tzinfo=datetime.UTC).timestamp()
    np.testing.assert_allclose(
        tables.read_table(path).seconds("time"), [zero, zero + 2]
    )
    lasted = arrow.array([0, 1_500_000_000], arrow.duration("ns"))
    path = _write(tmp_path / "b.parquet", time=lasted, a=[1, 2])
    np.testing.assert_array_equal(tables.read_table(path).seconds("time"), [0, 1.5])


def test_an_index_of_pandas_is_the_time(tmp_path):
    pandas = pytest.importorskip("pandas")
    index = pandas.date_range("2018-04-19 21:40:52", periods=3, freq="500ms")
    path = tmp_path / "run.parquet"
    pandas.DataFrame({"a": [1.0, 2, 3]}, index=index).to_parquet(path)
    table = tables.read_table(path)
    time = table.time_position()
    assert table.channels(time) == ("a",)
    np.testing.assert_allclose(np.diff(table.seconds(time)), 0.5)


def _write_video(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 16
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_it_stands_in_place_of_a_csv(tmp_path):
    _write_video(tmp_path / "run.mp4")
    path = _write(
        tmp_path / "run.parquet", time=[0.0, 1, 2, 3], a=np.float32([1, 2, 3.3, 4])
    )
    files = RecordingFiles(tmp_path, frame_size=8)
    current = files.read("run").streams["current"]
    np.testing.assert_array_equal(current.values[:, 0], np.float32([1, 2, 3.3, 4]))
    np.testing.assert_array_equal(current.time_s, [0, 1, 2, 3])
    assert files.files("run") == (tmp_path / "run.mp4", path)
    assert files.first_time("run") == "0.0"
    before = files.fingerprint()
    _write(path, time=[0.0, 1, 2, 3], a=[1.0, 2, 3, 4], b=[1.0, 2, 3, 4])
    assert files.fingerprint() != before
    (tmp_path / "run.csv").write_text("time,a\n0,1\n")
    with pytest.raises(ValueError, match=r"needs one table beside it; got run\.csv"):
        files.read("run")


def _read(path):
    table = tables.read_table(path)
    time = table.time_position()
    table.check_rising(time, table.seconds(time))
    table.numbers(*table.channels(time))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time": [0.0, 1], "a": [1.0, float("nan")]}, "got 'nan' in row 2"),
        ({"time": [0.0, 1], "a": [1.0, None]}, "got '' in row 2"),
        ({"time": [0.0, None], "a": [1.0, 2]}, "times must be .* got '' in row 2"),
        ({"time": [0.0, -1], "a": [1.0, 2]}, "time must not go back;.* in row 2"),
        ({"time": [0.0], "a": ["1,5"]}, "must be written in plain numbers"),
        ({"index": [0, 1], "a": [1.0, 2]}, "the time column needs a name"),
        ({"time": arrow.array([], arrow.float64())}, "at least one row of data"),
    ],
)
def test_checks_are_those_of_a_csv(tmp_path, columns, message):
    path = _write(tmp_path / "run.parquet", **columns)
    with pytest.raises(ValueError, match=message) as caught:
        _read(path)
    assert str(caught.value).startswith(str(path))


def test_damaged_files_and_a_missing_package_are_one_line(tmp_path, monkeypatch):
    path = _write(tmp_path / "run.parquet", time=[0.0, 1], a=[1.0, 2])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="must be a whole Parquet file") as caught:
        tables.read_table(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="got no such file"):
        tables.read_table(tmp_path / "absent.parquet")

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(parquet.importlib, "import_module", absent)
    with pytest.raises(ValueError, match=r"pip install 'fmalign_jax\[parquet\]'"):
        tables.read_table(path)
