"""Times: written seconds spread out, thinning, and CSV tables."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.data import clocks, tables

FEW = settings(deadline=None, max_examples=25)


@pytest.mark.parametrize(
    ("written", "iso"),
    [
        ("2024/3/5 8:30:00", "2024-03-05T08:30:00"),
        ("2024-3-5 8:30", "2024-03-05T08:30:00"),
        ("2024.03.05 18:30:00.25", "2024-03-05T18:30:00.25"),
        ("2024/12/31  23:59:59", "2024-12-31T23:59:59"),
    ],
)
def test_dates_as_a_spreadsheet_writes_them(written, iso):
    assert clocks.is_instant(written)
    assert clocks.instant(written) == clocks.instant(iso)
    assert not clocks.has_offset(written)


@pytest.mark.parametrize(
    "written",
    [
        *("5/3/2024 8:30:00", "3/5/24 8:30", "2024/13/5 8:30:00", "2024/3/5 25:00:00"),
        *("2024/3/5", "2024/3/5 8:30:0", "\u0662024/3/5 8:30:00", "2024/3/5 8:30 AM"),
    ],
)
def test_other_dates_are_refused(written):
    assert not clocks.is_instant(written)


def test_spread_by_hand():
    second = np.array([5, 5, 6, 8, 8, 8, 9, 9, 9, 9])
    expected = [5, 5.5, 6, 8, 8 + 1 / 3, 8 + 2 / 3, 9, 9.25, 9.5, 9.75]
    np.testing.assert_allclose(clocks.spread_within_seconds(second), expected)


@FEW
@given(st.lists(st.integers(0, 30), min_size=1, max_size=200))
def test_spread_keeps_each_row_in_its_second_and_in_order(seconds):
    second = np.sort(np.array(seconds))
    time_s = clocks.spread_within_seconds(second)
    assert (np.floor(time_s) == second).all()
    assert (np.diff(time_s) > 0).all()
    for value in np.unique(second):
        here = time_s[second == value]
        expected = value + np.arange(len(here)) / len(here)
        np.testing.assert_allclose(here, expected, atol=1e-12)


@FEW
@given(
    st.lists(st.floats(0.001, 0.3), min_size=1, max_size=200),
    st.floats(0.5, 50),
)
def test_thinning_keeps_the_first_of_each_interval(steps, rate_hz):
    time_s = np.cumsum(steps)
    keep = clocks.thin(time_s, max_rate_hz=rate_hz)
    slots = np.floor(time_s * rate_hz + 1e-6)
    assert keep[0]
    assert len(np.unique(slots[keep])) == keep.sum() == len(np.unique(slots))


def test_thinning_regular_frames_is_regular():
    time_s = np.arange(2500) / 25
    kept = time_s[clocks.thin(time_s, max_rate_hz=5.0)]
    np.testing.assert_allclose(np.diff(kept), 0.2)
    assert clocks.thin(time_s, max_rate_hz=None).all()


def test_a_header_is_optional(tmp_path):
    for text in ("time,a\n2023-05-10 21:33:27,4\n", "2023-05-10 21:33:27,4\n"):
        path = tmp_path / "x.csv"
        path.write_text(text)
        table = tables.read_table(path)
        assert table.numbers(1).tolist() == [[4.0]]
        moment = np.datetime64("2023-05-10T21:33:27", "s").astype(int)
        assert table.seconds(0).tolist() == [moment]


def test_times_of_several_forms_agree():
    texts = ("2023-05-10 21:33:27.5", "2023-05-10T21:33:27.5Z")
    assert len({clocks.instant(text) for text in texts}) == 1
    ahead = clocks.instant("2023-05-10T23:33:27.5+02:00")
    assert ahead == clocks.instant(texts[0])


def test_byte_order_mark_blank_lines_and_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbf"time", "a b"\r\n\r\n0.5,"4"\r\n\r\n1, 5\r\n')
    table = tables.read_table(path)
    assert table.columns == ("time", "a b")
    assert table.numbers("time", "a b").tolist() == [[0.5, 4], [1, 5]]


def test_blank_lines_anywhere_are_passed_over(tmp_path, recwarn):
    path = tmp_path / "x.csv"
    path.write_text("\n  \ntime,a\n\n0,1\n   \n1,2\n\n \n")
    table = tables.read_table(path)
    assert table.numbers(0, 1).tolist() == [[0, 1], [1, 2]]
    assert not recwarn


def _table(folder, header, row="0,1,2,3"):
    path = folder / "x.csv"
    path.write_text(f"{header}\n{row}\n1,4,5,6\n2,7,8,9\n")
    return tables.read_table(path)


@pytest.mark.parametrize(
    ("header", "time", "channels"),
    [
        ("t,a,b,c", 0, ("a", "b", "c")),
        ("a,b,Time,c", 2, ("a", "b", "c")),
        (",time,a,b", 1, ("a", "b")),
        ("time,a,,b", 0, ("a", "b")),
    ],
)
def test_the_time_column_is_the_one_called_time_or_else_the_first(
    tmp_path, header, time, channels
):
    table = _table(tmp_path, header)
    assert table.time_position() == time
    assert table.channels(time) == channels


def test_a_first_column_named_like_a_time_is_the_time_beside_dates(tmp_path):
    row = "0,2024-05-01 10:00:00,2,3"
    assert _table(tmp_path, "t,stamp,a,b", row).time_position() == 0
    with pytest.raises(ValueError, match=r"needs a name.*got 'x' as the first"):
        _table(tmp_path, "x,stamp,a,b", row).time_position()


def test_a_first_column_without_name_is_not_taken_for_time(tmp_path):
    with pytest.raises(ValueError, match=r"time column needs a name.*\['', 't', "):
        _table(tmp_path, ",t,a,b").time_position()


def test_columns_of_one_name_are_refused_when_taken_by_name(tmp_path):
    table = _table(tmp_path, "time,a,a,b")
    assert table.numbers(1, 3).shape == (3, 2)
    with pytest.raises(ValueError, match=r"several called 'a'; rename them"):
        table.numbers(*table.channels(0))


@pytest.mark.parametrize("row", ["0,1,,3", "0,1,-,3", "0,1,N/A,3"])
def test_a_channel_does_not_vanish_with_its_first_cell(tmp_path, row):
    with pytest.raises(ValueError, match=r"for 'b' in line 2; correct that cell"):
        _table(tmp_path, "time,a,b,c", row).channels(0)


def test_a_column_of_remarks_is_no_channel(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("time,a,note\n0,1,\n1,2,off\n2,3,7\n3,4,\n")
    assert tables.read_table(path).channels(0) == ("a",)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan")])
def test_rates_that_keep_no_frame_are_refused(rate_hz):
    with pytest.raises(ValueError, match="max_frame_rate_hz must be positive; got"):
        clocks.check_rate(rate_hz)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one row of data"),
        (b"time,a\n", "at least one row of data"),
        (b"time,a\n1,2\n2,x\n", r"'a' must hold finite numbers.*got 'x' in line 3"),
        (b"time,a\n1,2\n2,\n", r"'a' must hold finite numbers.*got '' in line 3"),
        (
            b"time,a\n1,2\n2\n",
            r"each of the 2 columns; got 1 in line 3: '2'.*cut short",
        ),
        (b"time,a\n1\n2,3\n", r"every row must have.*got \['1'\]"),
        (b"time,b\n1,2\n", r"columns \['time', 'b'\] but no 'a'"),
        (b"time,a\n\xff\xfe\x00\n", "must be a CSV file in UTF-8.* in line 2;"),
        ("时间,电流\n0,1\n".encode("gbk"), r"columns \['时间', '电流'\] but no 'time'"),
        (b"time,a\n" + b"0,1\n" * 9999 + b"1,\xb5\n", "in line 10001; save the"),
        (b"time;a\n0;1\n", "commas must divide the cells; got ';'"),
        (b"time;a\n0,0;1,5\n", "commas must divide the cells; got ';'"),
        (b"time\ta\n0\t1\n", r"got '\\t'; save the table with commas"),
    ],
)
def test_bad_tables_are_named(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        tables.read_table(path).numbers("time", "a")
    assert str(path) in str(caught.value)


def test_bad_times_name_the_line(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("time\n2023-05-10 21:33:27\n10/05/2023 21:33\n")
    with pytest.raises(ValueError, match=r"'10/05/2023 21:33' in line 3"):
        tables.read_table(path).seconds(0)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"x\.csv: .*no such file"):
        tables.read_table(tmp_path / "x.csv")
