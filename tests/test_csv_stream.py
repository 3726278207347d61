"""Lines of a live current: whatever comes, the right ticks and everything counted."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.alarm import csv_stream
from fmalign_jax.alarm.csv_stream import RowReader, TickAssembler, Warnings, Windows
from fmalign_jax.data import clocks
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline
from fmalign_jax.data.windows.align import align
from fmalign_jax.data.windows.spec import WindowSpec


def _reader(rows_a_second=2, channels=("a", "b")):
    warnings = Warnings()
    return RowReader(channels, warnings, rows_a_second=rows_a_second), warnings


def _read(lines, **options):
    reader, warnings = _reader(**options)
    rows = [row for line in lines for row in reader.feed(line)] + reader.flush()
    return rows, dict(warnings.counts)


def test_seconds_with_and_without_a_header():
    lines = ["0.25,1,2", "0.75,3,4", "1.25,5,6"]
    expected = [(0.25, (1, 2)), (0.75, (3, 4)), (1.25, (5, 6))]
    assert _read(lines) == (expected, {})
    assert _read(["time,a,b", *lines]) == (expected, {})
    assert _read(["TIME,A,B", *lines]) == (expected, {})
    unnamed = ("channel 0", "channel 1")
    assert _read(["anything,x,y", *lines], channels=unnamed) == (expected, {})


def test_a_header_finds_the_channels_among_others():
    lines = ["row,b,time,note,a", "1,2,0.25,on,1", "2,4,0.75,off,3"]
    assert _read(lines) == ([(0.25, (1, 2)), (0.75, (3, 4))], {})


@pytest.mark.parametrize(
    "header",
    ["time,u,v,w", "time,u,v", "time,a,b2", "time,a (A),b (A)", "时间,A相,B相"],
)
def test_a_header_of_other_channels_is_refused(header):
    with pytest.raises(ValueError, match=r"channels of the alarm, a, b; got"):
        _read([header])


def test_rows_with_more_or_fewer_cells_than_the_header_are_left_out():
    lines = ["time,a,b,note", "0.25,1,2,x", "0.75,1,3,4,x", "1.25,1,2", "1.75,5,6,"]
    rows, counts = _read(lines)
    assert [row.values for row in rows] == [(1, 2), (5, 6)]
    assert counts == {csv_stream.GARBAGE: 2}
    _, counts = _read(["0.25,1,2", "0.75,7,1,2"])  # a counter before the channels
    assert counts == {csv_stream.GARBAGE: 1}
    with pytest.raises(
        ValueError, match=r"lines of a time \(seconds, .*\) and a number"
    ):
        _read(["time,a,b", *(f"{i},7,1,2" for i in range(100))])


@pytest.mark.parametrize("time", ["1e300", "-1e300", "1e15", "nan"])
def test_a_number_that_is_no_time_ends_and_hangs_nothing(time):
    reader, warnings = _reader()
    assembler = TickAssembler(
        tick_s=2.0,
        samples_per_tick=2,
        period_s=0.5,
        max_gap_s=1.5,
        warnings=warnings,
    )
    for line in ("0.25,1,2", f"{time},1,2", f"{time},1,2", "0.75,1,2", "1.25,1,2"):
        for row in reader.feed(line):
            assembler.feed(row)
    assert warnings.counts[csv_stream.GARBAGE] == 2


def test_the_header_of_another_file_is_read_again():
    reader, warnings = _reader()
    rows = reader.feed("time,a,b") + reader.feed("0.25,1,2")
    reader.begin_file()
    rows += reader.feed("b,a,time") + reader.feed("4,3,0.75")
    reader.begin_file()  # without a header the columns stay
    rows += reader.feed("6,5,1.25") + reader.flush()
    assert [row.values for row in rows] == [(1, 2), (3, 4), (5, 6)]
    assert not warnings.counts
    reader.begin_file()
    with pytest.raises(ValueError, match="channels of the alarm"):
        reader.feed("time,u,v")


def test_written_times_are_read_as_recordings_are():
    lines = [
        f"2018-04-19 21:40:{second},1,{i}" for i, second in enumerate([52, 52, 54])
    ]
    rows, counts = _read(lines)
    start = clocks.instant("2018-04-19 21:40:52")
    assert [row.time_s - start for row in rows] == [0, 0.5, 2]
    assert not counts


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_rows_of_a_second_are_spread_as_in_the_benchmark(steps):
    seconds = np.cumsum(steps)
    rows, _ = _read([f"{s},{i},0" for i, s in enumerate(seconds)])
    expected = clocks.spread_within_seconds(seconds)
    np.testing.assert_allclose([row.time_s for row in rows], expected)
    assert [row.values[0] for row in rows] == list(range(len(seconds)))


def test_what_cannot_be_used_is_left_out_and_counted():
    lines = [
        "0.25,1,2",
        "0.25,1,2",  # twice
        "",
        "0.7",  # cut short
        "0.7,nan,2",
        "0.7,1,1e39",
        "inf,1,2",
        "\x00\xff",
        "0.75,3,4",
        "0.5,9,9",  # late
        "1.25,5,6",
        "9e9,1,1",  # a clock gone mad for one row
        "1.75,7,8",
    ]
    rows, counts = _read(lines)
    assert [row.time_s for row in rows] == [0.25, 0.75, 1.25, 1.75]
    assert counts == {
        csv_stream.DUPLICATES: 1,
        csv_stream.GARBAGE: 5,
        csv_stream.OUT_OF_ORDER: 1,
        csv_stream.JUMPS: 1,
    }


def test_a_long_pause_is_believed_when_a_second_row_confirms_it():
    rows, counts = _read(["1,1,1", "90001,2,2", "90002,3,3"])
    assert [row.time_s for row in rows] == [1, 90001, 90002]
    assert not counts


def test_a_clock_that_was_set_back_is_followed_after_a_while():
    lines = [f"{t},1,1" for t in [5000, 5001, *range(100, 140)]]
    rows, counts = _read(lines)
    assert [row.time_s for row in rows] == [5000, 5001, *range(119, 140)]
    assert counts == {csv_stream.OUT_OF_ORDER: 19, csv_stream.RESTARTS: 1}


def test_another_kind_of_file_is_refused():
    with pytest.raises(ValueError, match=r"docs/monitor\.md"):
        _read(["1;2;3"] * 200)


def test_a_file_without_one_usable_row_is_refused_at_its_end():
    few = ["time,a,b", "5/3/2024 8:30,1,2", "5/3/2024 8:31,1,2"]
    with pytest.raises(ValueError, match=r"got 2 of another kind, the last '5/3/"):
        _read(few)
    assert _read([*few, "1.0,1,2"])[0] == [(1.0, (1, 2))]
    assert _read(few[:1]) == ([], {})


def test_warnings_are_few(caplog):
    warnings = Warnings()
    for _ in range(1234):
        warnings.add(csv_stream.GARBAGE, "x")
    assert len(caplog.records) == 4  # the 1st, 10th, 100th, 1000th


def _assembler(warnings=None, **changes):
    options = {"tick_s": 1.0, "samples_per_tick": 2, "period_s": 0.5, "max_gap_s": 0.75}
    return TickAssembler(warnings=warnings or Warnings(), **(options | changes))


def _ticks(assembler, times_s):
    rows = [csv_stream.Row(float(t), (float(i),)) for i, t in enumerate(times_s)]
    return [tick for row in rows for tick in assembler.feed(row)]


def test_ticks_by_hand():
    ticks = _ticks(_assembler(), [0.25, 0.75, 1.25, 1.75])
    assert [tick.end_s for tick in ticks] == [1.0, 2.0]
    assert [tick.samples[:, 0].tolist() for tick in ticks] == [[0, 1], [2, 3]]


def test_gaps_are_counted_and_numbers_go_on():
    warnings = Warnings()
    ticks = _ticks(_assembler(warnings), [0.25, 0.75, 6.25, 6.75])
    assert [tick.number for tick in ticks] == [0, 6]
    assert warnings.counts[csv_stream.LOST] == 5


def test_a_gap_of_days_is_skipped_at_once():
    warnings = Warnings()
    ticks = _ticks(_assembler(warnings), [0.25, 0.75, 9e8 + 0.25, 9e8 + 0.75])
    assert [tick.number for tick in ticks] == [0, 900_000_000]
    assert warnings.counts[csv_stream.LOST] == 900_000_000 - 1


def test_ticks_start_again_when_the_clock_was_set_back():
    ticks = _ticks(_assembler(), [100.25, 100.75, 0.4, 0.9, 1.4, 1.9])
    assert [round(tick.end_s, 6) for tick in ticks] == [101.0, 1.15, 2.15]
    assert ticks[1].number > ticks[0].number + 1


@settings(deadline=None)
@given(
    st.lists(st.floats(0.05, 1.5), min_size=4, max_size=60),
    st.integers(1, 4),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_ticks_are_those_of_the_training_data(steps, slots, tick_s):
    time_s = np.cumsum(steps)
    period_s = float(np.median(np.diff(time_s)))
    spec = WindowSpec(
        samples_per_tick={"current": slots},
        window_ticks=1,
        tick_s=tick_s,
        reference_stream="current",
    )
    zero = np.zeros(len(time_s), np.int32)
    timeline = Timeline("r", 0, {"current": StreamTimeline(time_s, zero, zero - 1)})
    expected = align([timeline], spec)
    assembler = _assembler(
        tick_s=tick_s,
        samples_per_tick=slots,
        period_s=period_s,
        max_gap_s=max(tick_s / slots, 3 * period_s),
    )
    found = {tick.number: tick for tick in _ticks(assembler, time_s)}
    usable = np.flatnonzero(expected.usable)
    # Offline a tick may end after the last sample, live it must not.
    missing = sorted(set(usable.tolist()) - set(found))
    assert all(expected.end_s[number] > time_s[-1] - tick_s for number in missing)
    assert len(missing) <= 2
    for number, tick in found.items():
        if number < len(expected):
            assert expected.usable[number]
            chosen = tick.samples[:, 0].astype(int)
            np.testing.assert_array_equal(chosen, expected.samples["current"][number])
            assert tick.end_s == pytest.approx(expected.end_s[number])


def test_windows_have_no_holes():
    windows = Windows(2)
    ticks = [
        csv_stream.Tick(n, 0.0, np.full((1, 1), float(n))) for n in (0, 1, 2, 4, 5)
    ]
    found = [windows.feed(tick) for tick in ticks]
    ends = [None if window is None else window[:, 0, 0].tolist() for window in found]
    assert ends == [None, [0, 1], [1, 2], None, [4, 5]]
