"""Each kind of table with each fault: read as it was meant, or refused in one line."""

import logging
import pathlib
import re
import shutil

import av
import numpy as np
import pytest
from table_faults import (
    BENCHMARK,
    FAULTS,
    KINDS,
    LABELS,
    READ,
    START,
    VIDEO_S,
    WITH_DATES,
    Kind,
    cases,
    date,
    join,
    labels,
    read_pair,
    seconds,
    sensor,
    times,
)

from fmalign_jax.data import fmf


def _write_video(path: pathlib.Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 32
        for _ in range(VIDEO_S):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    _write_video(folder / "run.mp4")
    frames = np.zeros((VIDEO_S, 4, 4, 3), np.uint8)
    fmf.write_recording(
        folder,
        "run",
        frames=frames,
        masks=frames[..., 0],
        frame_second=START + np.arange(VIDEO_S),
        current=np.ones((2 * VIDEO_S, 3)),
        current_second=START + np.arange(2 * VIDEO_S) // 2,
    )
    return folder


def _put(originals, folder: pathlib.Path, kind: str, content: str | bytes) -> Kind:
    shutil.copytree(originals, folder, dirs_exist_ok=True)
    beside = "dated sensor" if "dated" in kind else "sensor"
    (folder / "run.csv").write_text(join(KINDS[beside].lines))
    data = content if isinstance(content, bytes) else content.encode()
    (folder / KINDS[kind].file).write_bytes(data)
    return KINDS[kind]


@pytest.mark.parametrize(("kind", "fault", "outcome"), [*cases()])
def test_a_table_is_read_as_it_was_meant_or_refused(
    originals, tmp_path, kind, fault, outcome
):
    change, _ = FAULTS[fault]
    table = _put(originals, tmp_path, kind, change(KINDS[kind].lines))
    if outcome == READ:
        found = table.read(tmp_path)
        _put(originals, tmp_path, kind, join(table.lines))
        for ours, meant in zip(found, table.read(tmp_path), strict=True):
            np.testing.assert_array_equal(ours, meant)
        return
    with pytest.raises(ValueError, match=outcome) as caught:
        table.read(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    about_two = "must share one clock|must cover the same time"  # which names a stream
    if not re.search(about_two, outcome):
        assert str(caught.value).startswith(f"{tmp_path / table.file}: ")


@pytest.mark.parametrize("kind", WITH_DATES)
def test_a_leap_of_an_hour_is_named_whatever_the_table(
    originals, tmp_path, kind, caplog
):
    change = times(lambda i, _, n: date(i * VIDEO_S // n + 3600 * (i >= n // 2)))
    table = _put(originals, tmp_path, kind, change(KINDS[kind].lines))
    if kind in LABELS:
        table.read(tmp_path)
        assert "labels should begin within the recording; got 4 of 8" in caplog.text
    else:
        with pytest.raises(ValueError, match="must cover the same time"):
            table.read(tmp_path)
    assert re.search(r"run\S*csv: the time leaps by an hour in line \d+", caplog.text)


@pytest.mark.parametrize("kind", ["dated sensor", *BENCHMARK])
def test_a_second_with_many_rows_is_said(originals, tmp_path, kind, caplog):
    def written(i, cell, n):
        return date(10 if n // 3 <= i < 2 * n // 3 else i * VIDEO_S // n)

    table = _put(originals, tmp_path, kind, times(written)(KINDS[kind].lines))
    with caplog.at_level(logging.WARNING):
        table.read(tmp_path)
    assert f"{table.file}: rows of one second should be about as many" in caplog.text


def test_rows_of_one_second_are_spread_whatever_moment_the_video_began(
    originals, tmp_path
):
    lines = sensor(lambda time_s: date(time_s // 1))
    _put(originals, tmp_path, "dated sensor", join(lines))
    found, *_ = read_pair(tmp_path, date(0.25))
    np.testing.assert_allclose(np.diff(found), 0.5)


@pytest.mark.parametrize("late_s", [-100.0, 100.0])
def test_labels_of_another_time_are_refused(originals, tmp_path, late_s):
    lines = labels(lambda time_s: seconds(time_s + late_s))
    table = _put(originals, tmp_path, "labels", join(lines))
    with pytest.raises(ValueError, match=r"run\.labels\.csv: labels must begin within"):
        table.read(tmp_path)


def test_one_label_may_begin_before_the_recording(originals, tmp_path):
    table = _put(originals, tmp_path, "labels", "time,label\n-100,calm\n")
    assert set(table.read(tmp_path)[-1]) == {0}


def test_labels_of_every_sample_written_to_the_second_are_spread(originals, tmp_path):
    rows = [[str(i // 2), "wild" if i % 2 else "calm"] for i in range(2 * VIDEO_S)]
    rows.insert(0, ["0", "calm"])  # three in the first second
    table = _put(originals, tmp_path, "labels", join([["time", "label"], *rows]))
    current = table.read(tmp_path)[-1]
    assert current.tolist()[2:] == [0, 1] * (VIDEO_S - 1)


def test_a_remark_may_be_missing_at_the_end_of_a_row(originals, tmp_path):
    """As spreadsheets write them, which leave out empty cells there."""
    lines = [[*cells, "on"] for cells in KINDS["sensor"].lines]
    lines[0][-1] = "remark"
    lines[5].pop()
    table = _put(originals, tmp_path, "sensor", join(lines))
    found = table.read(tmp_path)
    _put(originals, tmp_path, "sensor", join(KINDS["sensor"].lines))
    np.testing.assert_array_equal(found[1], table.read(tmp_path)[1])


def test_a_channel_named_like_a_counter_that_measures_is_taken(originals, tmp_path):
    lines = [[cells[0], cells[1]] for cells in KINDS["sensor"].lines]
    lines[0][1] = "n"
    lines[3][1] = "7"
    table = _put(originals, tmp_path, "sensor", join(lines))
    assert table.read(tmp_path)[1].shape == (2 * VIDEO_S, 1)
