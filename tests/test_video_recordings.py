"""Video files with a CSV beside them, written here, whole and spoiled."""

import fractions
import pathlib
import struct

import av
import numpy as np
import pytest

from fmalign_jax.data.recordings import RecordingFiles

RATE_HZ = 10


def _colour(frame: int) -> np.ndarray:
    """Red grows and blue falls with time; green stays: swapped axes would show."""
    return np.array([40 + 5 * frame, 60, 200 - 4 * frame])


def _write_video(path: pathlib.Path, frames: int = 30) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.bit_rate = 4_000_000
        for number in range(frames):
            picture = np.zeros((64, 96, 3), np.uint8)
            picture[:32] = _colour(number)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_pair(folder: pathlib.Path, suffix: str = ".mp4", *, text: str) -> None:
    _write_video(folder / f"run{suffix}")
    (folder / "run.csv").write_text(text)


SECONDS = "t,ia,note,ib\n-0.5,1,x,2\n0,3,x,4\n0.5,5,y,6\n2.5,7,y,8\n"


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_video_and_csv_share_a_clock(tmp_path, suffix):
    _write_pair(tmp_path, suffix, text=SECONDS)
    files = RecordingFiles(str(tmp_path / f"*{suffix}"), frame_size=(8, 6), unit="A")
    assert files.names() == ["run"]
    recording = files.read("run")
    video, current = recording.streams["video"], recording.streams["current"]
    assert video.values.shape == (30, 8, 6, 3)
    np.testing.assert_allclose(video.time_s, 0.5 + np.arange(30) / RATE_HZ, atol=2e-3)
    expected = np.stack([_colour(number) for number in range(30)])
    assert abs(video.values[:, 1, 3] - expected).max() < 16
    assert video.values[:, 6].max() < 16
    np.testing.assert_array_equal(current.values, [[1, 2], [3, 4], [5, 6], [7, 8]])
    np.testing.assert_allclose(current.time_s, [0, 0.5, 1, 3])
    assert (current.channel_names, current.unit) == (("ia", "ib"), "A")
    assert set(current.label) == set(video.label) == {-1}


@pytest.mark.parametrize("start", [10.0, "10", {"run": 10.0}, {"run": "10.0"}])
def test_video_start_in_seconds_and_columns_by_name(tmp_path, start):
    _write_pair(tmp_path, text="ib,s,ia\n1,10,2\n3,11,4\n")
    files = RecordingFiles(
        str(tmp_path), time_column="s", channels=["ia"], video_start=start
    )
    current = files.read("run").streams["current"]
    np.testing.assert_array_equal(current.values, [[2], [4]])
    np.testing.assert_allclose(current.time_s, [0, 1])
    assert current.channel_names == ("ia",)


def test_dates_with_a_start_and_labels(tmp_path):
    _write_pair(
        tmp_path, text="time,ia\n2024-05-01 10:00:00,1\n2024-05-01 10:00:02.5,2\n"
    )
    (tmp_path / "run.labels.csv").write_text(
        "time,label\n2024-05-01 10:00:01.25,wild\n2024-05-01 10:00:02,calm\n"
        "2024-05-01 10:00:02.45,\n"
    )
    files = RecordingFiles(str(tmp_path), video_start="2024-05-01T10:00:00.500")
    recording = files.read("run")
    assert recording.label_names == ("calm", "wild")
    video, current = recording.streams["video"], recording.streams["current"]
    np.testing.assert_allclose(current.time_s, [0, 2.5])
    # Frame i is shown 0.5 + i / 10 s after the first row of the table.
    expected = [-1] * 8 + [1] * 7 + [0] * 5 + [-1] * 10
    assert video.label.tolist() == expected
    assert current.label.tolist() == [-1, -1]


@pytest.mark.parametrize(
    "names", [("normal", "abnormal"), ("\u6b63\u5e38", "\u5f02\u5e38"), ("OK", "NG")]
)
def test_of_classes_without_an_order_the_normal_one_is_the_first(tmp_path, names):
    """Class 1 counts as abnormal: sorted, "abnormal" would be class 0."""
    _write_pair(tmp_path, text=SECONDS)
    rows = "".join(f"{i},{name}\n" for i, name in enumerate(names))
    (tmp_path / "run.labels.csv").write_text(f"time,label\n{rows}", encoding="utf-8")
    assert RecordingFiles(str(tmp_path)).label_names == names


def test_labels_may_be_numbers_of_named_classes(tmp_path):
    _write_pair(tmp_path, text=SECONDS)
    (tmp_path / "run.labels.csv").write_text("0,1\n1,0\n2,1\n")
    for names in ((), ("calm", "wild")):
        recording = RecordingFiles(str(tmp_path), label_names=names).read("run")
        assert recording.label_names == names
        video = recording.streams["video"]
        assert video.label.tolist() == [1] * 10 + [0] * 10 + [1] * 10
        assert recording.streams["current"].label.tolist() == [-1, 1, 1, 1]


def test_video_files_can_be_thinned(tmp_path):
    _write_pair(tmp_path, text=SECONDS)
    files = RecordingFiles(str(tmp_path), max_frame_rate_hz=2.0)
    video = files.read("run").streams["video"]
    np.testing.assert_allclose(video.time_s - 0.5, np.arange(6) / 2, atol=2e-3)
    red = video.values[:, 10, 10, 0].astype(int)
    assert abs(red - [_colour(5 * number)[0] for number in range(6)]).max() < 16


def _cut_video(path: pathlib.Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def _sound_only(path: pathlib.Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


LABELS = "run.labels.csv"
SPOILED_VIDEO = {
    "mp4 cut short": (
        lambda f: _cut_video(f / "run.mp4"),
        {},
        "run.mp4",
        "whole video",
    ),
    "not a video": (
        lambda f: (f / "run.mp4").write_bytes(b"x" * 999),
        {},
        "run.mp4",
        "cannot be decoded",
    ),
    "empty video": (lambda f: (f / "run.mp4").write_bytes(b""), {}, "run.mp4", "whole"),
    "sound only": (lambda f: _sound_only(f / "run.mp4"), {}, "run.mp4", "hold a video"),
    "no table": (lambda f: (f / "run.csv").unlink(), {}, "run.csv", "no such file"),
    "no rows": (
        lambda f: (f / "run.csv").write_text("t,a\n"),
        {},
        "run.csv",
        "got none",
    ),
    "no numbers": (
        lambda f: (f / "run.csv").write_text("t,a\n0,x\n"),
        {},
        "run.csv",
        "column of numbers is needed",
    ),
    "no time column": (None, {"time_column": "s"}, "run.csv", "no 's'"),
    "no channel": (None, {"channels": ["ia", "ic"]}, "run.csv", "no 'ic'"),
    "channel of texts": (None, {"channels": ["note"]}, "run.csv", "got 'x' in line 2"),
    "not a number": (
        lambda f: (f / "run.csv").write_text("t,a\n0,1\n1,nan\n"),
        {},
        "run.csv",
        "'a' must hold finite numbers.*got 'nan' in line 3",
    ),
    "time goes back": (
        lambda f: (f / "run.csv").write_text("t,a\n0,1\n2,1\n1,1\n"),
        {},
        "run.csv",
        "got a step of -1 s in line 4",
    ),
    "dates without start": (
        lambda f: (f / "run.csv").write_text("t,a\n2024-05-01 10:00:00,1\n"),
        {},
        "run.csv",
        "both be dates; got '2024-05-01 10:00:00' and None",
    ),
    "seconds with a date": (
        None,
        {"video_start": "2024-05-01 10:00:00"},
        "run.csv",
        "both be seconds",
    ),
    "start of no date": (
        lambda f: (f / "run.csv").write_text("t,a\n2024-05-01 10:00:00,1\n"),
        {"video_start": "ten"},
        "run.csv",
        "and 'ten'",
    ),
    "disjoint clocks": (None, {"video_start": 60.0}, "run.mp4", "share one clock"),
    "label unknown": (
        lambda f: (f / LABELS).write_text("0,calm\n1,odd\n"),
        {"label_names": ("calm",)},
        LABELS,
        r"one of \['calm'\]; got 'odd'",
    ),
    "label without name": (
        lambda f: (f / LABELS).write_text("0,0\n1,7\n"),
        {"label_names": ("calm",)},
        "run.mp4",
        "must be 0 to 0, or -1 for unknown; got 7",
    ),
    "label times go back": (
        lambda f: (f / LABELS).write_text("t,l\n0,0\n2,1\n1,0\n"),
        {},
        LABELS,
        "a step of -1 s in line 4",
    ),
    "labels missing": (
        lambda f: (f / LABELS).write_text("t\n0\n"),
        {},
        LABELS,
        r"need two columns, time and label; got \['t'\]",
    ),
    "labels with an end": (
        lambda f: (f / LABELS).write_text("start,end,label\n0,1,calm\n"),
        {},
        LABELS,
        r"got \['start', 'end', 'label'\].*end a label by a row without one",
    ),
    "label number too large": (
        lambda f: (f / LABELS).write_text("0,0\n1,20240419214052\n"),
        {},
        LABELS,
        "class numbers from 0 .* got '20240419214052'",
    ),
    "milliseconds": (
        lambda f: (f / "run.csv").write_text(
            "t,a\n" + "".join(f"{500 * i},{i}\n" for i in range(7))
        ),
        {},
        "run.mp4",
        "'video' and 'current' with 3 s in common.*all times in seconds",
    ),
    "table cut short": (
        lambda f: (f / "run.csv").write_text("t,a\n0,1\n0.1,1\n"),
        {},
        "run.mp4",
        "with 0.2 s in common, where the longer has 3 s.*cut short",
    ),
    "a channel starts empty": (
        lambda f: (f / "run.csv").write_text("t,a,b\n0,1,\n1,2,3\n2,3,4\n"),
        {},
        "run.csv",
        "got '' for 'b' in line 2",
    ),
    "two channels of one name": (
        lambda f: (f / "run.csv").write_text("t,a,a\n0,1,2\n3,2,3\n"),
        {},
        "run.csv",
        "several called 'a'",
    ),
    "no name for the first column": (
        lambda f: (f / "run.csv").write_text(",t,a\n0,0,2\n1,3,3\n"),
        {},
        "run.csv",
        "time column needs a name",
    ),
}


@pytest.mark.parametrize("case", SPOILED_VIDEO)
def test_spoiled_video_recordings_are_refused_by_name(tmp_path, case):
    spoil, options, file, message = SPOILED_VIDEO[case]
    _write_pair(tmp_path, text=SECONDS)
    if spoil:
        spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        RecordingFiles(str(tmp_path / "*.mp4"), **options).read("run")
    assert str(tmp_path / file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".avi", "must hold the 30 frames"), (".mkv", "must last the 3 s")],
)
def test_a_file_whose_header_promises_more_is_refused(tmp_path, suffix, message):
    _write_pair(tmp_path, suffix, text=SECONDS)
    # The header of so short a file is half of it, or more where one core encodes it.
    _cut_video(tmp_path / f"run{suffix}", keep=0.6)
    with pytest.raises(ValueError, match=rf"run\{suffix}: {message}.*cut short"):
        RecordingFiles(str(tmp_path)).read("run")


def test_a_column_called_time_needs_no_option_and_an_index_is_no_channel(tmp_path):
    _write_pair(tmp_path, text=",ia,Time\n0,5,0\n1,6,1.5\n2,7,3\n")
    (tmp_path / LABELS).write_text(",time,label\n0,0,calm\n1,2,wild\n")
    recording = RecordingFiles(str(tmp_path)).read("run")
    current = recording.streams["current"]
    assert current.time_s.tolist() == [0, 1.5, 3]
    assert (current.values.tolist(), current.channel_names) == (
        [[5], [6], [7]],
        ("ia",),
    )
    assert [recording.label_names[i] for i in current.label] == ["calm"] * 2 + ["wild"]


def test_a_square_frame_size_may_be_one_number(tmp_path):
    _write_pair(tmp_path, text=SECONDS)
    video = RecordingFiles(str(tmp_path), frame_size=8).read("run").streams["video"]
    assert video.values.shape == (30, 8, 8, 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"frame_size": (64,)}, r"height and width in pixels; got \(64,\)"),
        ({"frame_size": (0, 64)}, r"got \(0, 64\); use such as \(64, 64\)"),
        ({"channels": ()}, r"at least one column; got \(\)"),
        ({"channels": "abc"}, r"got 'abc'; use such as \('a', 'b'\)"),
        ({"max_frame_rate_hz": 0.0}, r"must be positive; got 0.0"),
    ],
)
def test_options_are_checked_before_a_file_is_read(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        RecordingFiles(str(tmp_path), **option)


def _read_csv(folder, text, **options):
    """The sensor of a recording whose CSV this is, beside a video of 3 s."""
    _write_pair(folder, text=text)
    return RecordingFiles(str(folder / "run.mp4"), **options).read("run")


EXTRA_CELLS = {
    "a decimal comma": ("t,a,b\n0,5,1,5\n1,6,2,5\n", "4 in line 2: '0,5,1,5'"),
    "one row": ("t,a,b\n0,5,1\n1,6,2,9\n2,5,1\n", "4 in line 3: '1,6,2,9'"),
    "a time with a comma": (
        "t,a,b\n2024-05-01 10:00:00,000,5,1\n2024-05-01 10:00:01,500,6,2\n",
        "4 in line 2",
    ),
}


@pytest.mark.parametrize("case", EXTRA_CELLS)
def test_a_row_with_more_cells_than_columns_is_refused(tmp_path, case):
    text, message = EXTRA_CELLS[case]
    start = "2024-05-01 10:00:00" if "time" in case else None
    with pytest.raises(ValueError, match=r"run\.csv: a row must have a cell") as caught:
        _read_csv(tmp_path, text, video_start=start)
    assert message in str(caught.value)


def test_an_empty_last_cell_is_no_cell(tmp_path):
    recording = _read_csv(tmp_path, "t,a,b\n0,5,1,\n1,6,2,\n2,7,3\n")
    current = recording.streams["current"]
    np.testing.assert_array_equal(current.values, [[5, 1], [6, 2], [7, 3]])


@pytest.mark.parametrize(
    "form",
    ['"6,{:03d}.50"', "6 {:03d}.5", '"6{:03d},5"', "6{:03d}.5 A", "{}%", "0x{:x}"],
)
def test_a_channel_in_other_forms_of_numbers_is_not_lost(tmp_path, form):
    rows = "".join(f"{i / 4},{i},{form.format(i)},on\n" for i in range(12))
    with pytest.raises(ValueError, match="must be written in plain numbers") as caught:
        _read_csv(tmp_path, f"time,a,b,remark\n{rows}")
    assert "'b' in line 2" in str(caught.value)
    recording = _read_csv(tmp_path, f"time,a,b,remark\n{rows}", channels=["a"])
    assert recording.streams["current"].channel_names == ("a",)


def test_a_counter_that_pandas_wrote_is_no_channel(tmp_path):
    text = "Unnamed: 0,time,a\n" + "".join(f"{i},{i / 4},{i}\n" for i in range(12))
    recording = _read_csv(tmp_path, text)
    assert recording.streams["current"].channel_names == ("a",)
    with pytest.raises(ValueError, match="the time column needs a name"):
        _read_csv(tmp_path, text.replace("time", "moment"))


def test_days_of_a_spreadsheet_are_recognised(tmp_path):
    rows = "".join(f"{45356.35 + i / 86400:.6f},{i}\n" for i in range(4))
    _write_pair(tmp_path, text=f"time,ia\n{rows}")
    with pytest.raises(ValueError, match="are days, as a spreadsheet counts them"):
        RecordingFiles(str(tmp_path)).read("run")
    _write_pair(tmp_path, text="time,ia\n500,1\n501,2\n")
    with pytest.raises(ValueError, match=r"give times in seconds$"):
        RecordingFiles(str(tmp_path)).read("run")


def test_dates_as_a_spreadsheet_writes_them_are_read(tmp_path):
    _write_pair(tmp_path, text="时间,ia\n2024/3/5 8:30:00,1\n2024/3/5 8:30:02,2\n")
    files = RecordingFiles(str(tmp_path), video_start="2024/3/5 8:30:00")
    current = files.read("run").streams["current"]
    np.testing.assert_allclose(current.time_s, [0, 2])


def test_dates_written_as_one_number_are_refused(tmp_path):
    text = "time,a\n" + "".join(f"202305102133{i:02d},{i}\n" for i in range(12))
    with pytest.raises(ValueError, match="got 20230510213300 in line 2, which is a"):
        _read_csv(tmp_path, text, video_start=20230510213300.0)


def test_rows_of_one_written_second_are_spread_within_it(tmp_path):
    text = "time,a\n" + "".join(f"{i // 4},{i}\n" for i in range(12))
    found = _read_csv(tmp_path, text).streams["current"].time_s
    np.testing.assert_allclose(found, np.arange(12) / 4)
    dated = "".join(f"2024-05-01 10:00:0{i // 4},{i}\n" for i in range(12))
    recording = _read_csv(
        tmp_path, f"time,a\n{dated}", video_start="2024-05-01 10:00:00"
    )
    found = recording.streams["current"].time_s
    np.testing.assert_allclose(found, np.arange(12) / 4)
    parts = [0.0, 0.0, 0.5, 1.0, 1.5, 2.0]
    text = "".join(f"{time_s},{i}\n" for i, time_s in enumerate(parts))
    found = _read_csv(tmp_path, f"time,a\n{text}").streams["current"].time_s
    np.testing.assert_allclose(found, parts)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["1.71457E+09"] * 12, "got one for all 12 rows"),
        (
            [str(1714569984 + i // 6 * 128) for i in range(24)],
            "have times of their own",
        ),
    ],
)
def test_times_that_lost_their_digits_are_refused(tmp_path, times, message):
    text = "time,a\n" + "".join(f"{time},{i}\n" for i, time in enumerate(times))
    with pytest.raises(ValueError, match=rf"run\.csv: .*{message}"):
        _read_csv(tmp_path, text, video_start=float(times[0]))


@pytest.mark.parametrize("offset", ["", "+01:00"])
def test_a_leap_of_an_hour_in_local_times_is_named(tmp_path, offset, caplog):
    minutes = [f"01:59:{i:02d}{offset}" for i in range(58, 60)]
    hour = "02" if offset else "03"  # with an offset there is no leap
    minutes += [f"{hour}:00:{i:02d}{offset}" for i in range(2)]
    text = "".join(f"2024-03-31 {at},{i}\n" for i, at in enumerate(minutes))
    _write_pair(tmp_path, text=f"time,a\n{text}")
    files = RecordingFiles(
        str(tmp_path / "run.mp4"), video_start=f"2024-03-31 01:59:58{offset}"
    )
    if offset:
        files.read("run")
        assert not caplog.records
        return
    with pytest.raises(ValueError, match="streams must cover the same time"):
        files.read("run")
    assert "leaps by an hour in line 4" in caplog.text
    assert "write times with their offset" in caplog.text


def _picture(number: int) -> np.ndarray:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32] = _colour(number)
    return picture


def _packets(stream, frames: int) -> list:
    packets = []
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(_picture(number), format="rgb24")
        frame.pts, frame.time_base = number, fractions.Fraction(1, RATE_HZ)
        packets += stream.encode(frame)
    return packets + stream.encode()


def _stream(container, codec: str = "mpeg4", **options: str):
    stream = container.add_stream(codec, rate=RATE_HZ, options=options)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    return stream


def _read_frames(path: pathlib.Path):
    (path.parent / "run.csv").write_text(SECONDS)
    return RecordingFiles(str(path), frame_size=(16, 16)).read("run").streams["video"]


@pytest.mark.parametrize(
    ("degrees", "matrix", "bright"),
    [
        (90, (0, 1, -1, 0), (slice(None), slice(9, None))),
        (180, (-1, 0, 0, -1), (slice(9, None), slice(None))),
        (270, (0, -1, 1, 0), (slice(None), slice(None, 7))),
    ],
)
def test_a_turned_video_is_read_as_a_player_shows_it(tmp_path, degrees, matrix, bright):
    """The upper half is bright; clockwise by 90 degrees it is the right one."""
    _write_video(tmp_path / "run.mp4")
    _set_matrix(tmp_path / "run.mp4", matrix)
    first = _read_frames(tmp_path / "run.mp4").values[0].mean(axis=-1)
    assert first[bright].min() > 60
    assert first.mean() == pytest.approx(first[bright].mean() / 2, rel=0.15)


@pytest.mark.parametrize(
    ("matrix", "what"),
    [
        ((-1, 0, 0, 1), "a mirrored picture"),
        ((0.7071, 0.7071, -0.7071, 0.7071), "-45 degrees"),
    ],
)
def test_a_mirrored_or_tilted_video_is_refused(tmp_path, matrix, what):
    _write_video(tmp_path / "run.mp4")
    _set_matrix(tmp_path / "run.mp4", matrix)
    with pytest.raises(ValueError, match=f"got .*{what}; encode it anew"):
        _read_frames(tmp_path / "run.mp4")


def _set_matrix(path: pathlib.Path, matrix) -> None:
    """Writes the display matrix of the track (tkhd), as phones do."""
    a, b, c, d = (round(value * 65536) for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_frames_of_an_avi_that_were_stored_in_another_order_are_in_order(tmp_path):
    with av.open(str(tmp_path / "run.avi"), "w") as container:
        stream = _stream(container, "libx264", bf="3")
        container.mux(_packets(stream, 30))
    video = _read_frames(tmp_path / "run.avi")
    from_first_s = video.time_s - video.time_s[0]
    np.testing.assert_allclose(from_first_s, np.arange(30) / RATE_HZ, atol=1e-3)
    red = video.values[:, 3, 3, 0].astype(int)
    assert np.abs(red - [_colour(number)[0] for number in range(30)]).max() < 16


def test_a_cover_is_not_the_video(tmp_path):
    with av.open(str(tmp_path / "run.mkv"), "w") as container:
        cover, stream = _stream(container, "mjpeg"), _stream(container)
        cover.pix_fmt = "yuvj420p"
        container.mux(_packets(cover, 1))
        container.mux(_packets(stream, 30))
    assert len(_read_frames(tmp_path / "run.mkv").time_s) == 30


def test_a_last_frame_that_stays_is_no_damage(tmp_path):
    with av.open(str(tmp_path / "run.mp4"), "w") as container:
        packets = _packets(_stream(container), 30)
        packets[-1].duration = 20 * RATE_HZ
        container.mux(packets)
    assert len(_read_frames(tmp_path / "run.mp4").time_s) == 30


def test_frames_before_the_cut_of_an_edit_list_are_no_damage(tmp_path):
    """As phones cut: packets from the key frame on stay, a list hides the first."""
    _write_video(tmp_path / "whole.mp4", frames=50)
    with (
        av.open(str(tmp_path / "whole.mp4")) as whole,
        av.open(str(tmp_path / "run.mp4"), "w") as cut,
    ):
        source = whole.streams.video[0]
        stream = cut.add_stream_from_template(source)
        for packet in whole.demux(source):
            if packet.dts is None:
                continue
            packet.pts -= int(2 / source.time_base)
            packet.dts -= int(2 / source.time_base)
            packet.stream = stream
            cut.mux(packet)
    video = _read_frames(tmp_path / "run.mp4")
    from_first_s = video.time_s - video.time_s[0]
    np.testing.assert_allclose(from_first_s, np.arange(30) / RATE_HZ, atol=1e-3)
    assert abs(int(video.values[0, 3, 3, 0]) - _colour(20)[0]) < 16


@pytest.mark.parametrize(
    ("every", "message"),
    [(300, "1 of 300 frames are damaged"), (30, "may be damaged; got 10 of 300")],
)
def test_frames_that_the_decoder_made_up_are_counted(tmp_path, caplog, every, message):
    with av.open(str(tmp_path / "run.mkv"), "w") as container:
        packets = _packets(_stream(container), 300)
        for number, packet in enumerate(packets):
            container.mux(_damaged(packet) if number % every == 5 else packet)
    (tmp_path / "run.csv").write_text("t,a\n" + "".join(f"{i},1\n" for i in range(31)))
    files = RecordingFiles(str(tmp_path / "run.mkv"), frame_size=8)
    if every > 100:
        files.read("run")
        assert message in caplog.text
    else:
        with pytest.raises(ValueError, match=message):
            files.read("run")


def _damaged(packet):
    broken = bytearray(bytes(packet))
    broken[len(broken) // 2 :] = b"\x55" * (len(broken) - len(broken) // 2)
    made = av.Packet(bytes(broken))
    made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
    made.stream = packet.stream
    return made


def test_files_beside_a_video_may_have_capital_suffixes(tmp_path):
    _write_pair(tmp_path, text=SECONDS)
    (tmp_path / "run.labels.csv").write_text("0,calm\n1,wild\n")
    for name, capital in (
        ("run.mp4", "run.MP4"),
        ("run.csv", "run.CSV"),
        ("run.labels.csv", "run.Labels.CSV"),
    ):
        (tmp_path / name).rename(tmp_path / capital)
    recording = RecordingFiles(str(tmp_path)).read("run")
    assert recording.label_names == ("calm", "wild")
    assert len(recording.streams["video"].time_s) == 30


@pytest.mark.parametrize(
    ("above", "line"),
    [
        ("sep=,\n", 2),
        ("sep=;\n", 2),
        ("# exported by the logger\n", 2),
        ("Plant 7\nFurnace 2\n\n", 4),
    ],
)
def test_what_stands_above_the_names_is_refused_as_such(tmp_path, above, line):
    message = f"first line must hold the names.*names in line {line}; remove"
    with pytest.raises(ValueError, match=message):
        _read_csv(tmp_path, above + "time,a,b\n0,1,2\n3,2,3\n")
