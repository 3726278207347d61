"""How regular clocks are, by hand; and what is said when one is strange."""

import csv
import math
import pathlib
import re

import numpy as np
import pytest
import tiny

from fmalign_jax import prepare
from fmalign_jax.data import clock_report, dataset
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline


def _timeline(name="one", clips=None, **time_s) -> Timeline:
    streams = {}
    for stream, times in time_s.items():
        times = np.asarray(times, np.float64)
        clip = np.asarray((clips or {}).get(stream, np.zeros(len(times))), np.int32)
        streams[stream] = StreamTimeline(times, clip, np.full(len(times), -1, np.int32))
    return Timeline(name=name, number=0, streams=streams)


def _measure(*timelines) -> list[clock_report.StreamClock]:
    return clock_report.measure(timelines, reference="video")


def test_a_clock_by_hand():
    video = [0, 1, 2, 3, 4, 5]
    current = [1.0, 1.5, 2.0, 2.0, 2.5, 3.1, 3.5, 7.5, 8.0]
    frames, sensor = _measure(_timeline(video=video, current=current))
    assert (frames.samples, frames.rate_hz, frames.jitter_s) == (6, 1, 0)
    assert (frames.gaps, frames.duplicates) == (0, 0)
    assert math.isnan(frames.longest_gap_s)
    assert math.isnan(frames.starts_after_s)
    assert sensor.rate_hz == pytest.approx(2)
    far = np.abs(np.array([0.5, 0.5, 0.5, 0.6, 0.4, 4.0, 0.5]) - 0.5)
    assert sensor.jitter_s == pytest.approx(np.quantile(far, 0.95))
    assert (sensor.gaps, sensor.longest_gap_s, sensor.longest_gap_at_s) == (1, 4, 3.5)
    assert sensor.duplicates == 1
    assert (sensor.start_s, sensor.end_s) == (1, 8)
    assert (sensor.starts_after_s, sensor.ends_after_s) == (1, 3)


def test_what_lies_between_clips_is_no_interval_and_offsets_are_of_one_clip():
    clips = {"video": [0, 0, 0, 4, 4, 4], "current": [4, 4, 4, 0, 0, 0]}
    video, current = _measure(
        _timeline(
            video=[0, 1, 2, 10, 11, 12],
            current=[7.0, 8.0, 12.5, 0.5, 1.5, 2.5],
            clips=clips,
        )
    )
    assert (video.clips, video.gaps, video.rate_hz) == (2, 0, 1)
    assert (current.starts_after_s, current.ends_after_s) == (-3, 0.5)


def test_one_sample_has_no_rate():
    (clock,) = _measure(_timeline(current=[3.0]))
    assert math.isnan(clock.rate_hz)
    assert clock_report.warnings([clock]) == []
    assert "-" in clock_report.table([clock])[1]


REGULAR = np.arange(400) / 2


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.arange(80) * 2.5, "should have one rate.*0.4 Hz, and 2 Hz in a; check"),
        (np.sort([*REGULAR, *REGULAR[:6]]), "sample before; got 1.5%; export their"),
        (REGULAR + 61, "start within 60 s; got one 61 s later than the reference"),
        (REGULAR - 61, "start within 60 s; got one 61 s earlier than the reference"),
    ],
)
def test_a_strange_clock_is_named_in_one_line(times, message):
    names = ("a", "b", "c")
    ordinary = [_timeline(n, video=REGULAR[::2], current=REGULAR) for n in names]
    assert clock_report.warnings(_measure(*ordinary)) == []
    odd = _timeline("odd", video=REGULAR[::2], current=times)
    (said,) = clock_report.warnings(_measure(*ordinary, odd))
    assert said.startswith("odd, stream 'current': ")
    assert len(said.splitlines()) == 1
    assert re.search(message, said)


def test_of_several_the_worst_is_named():
    found = [
        _timeline(f"r{k}", current=np.sort([*REGULAR, *REGULAR[: 5 * k]]))
        for k in range(4)
    ]
    (said,) = clock_report.warnings(_measure(*found))
    assert said.startswith("r3, stream 'current' (and 2 more recordings): at most 1%")


def test_of_many_recordings_the_summary_and_the_worst_are_printed():
    video, current = REGULAR[::2], REGULAR[:-1]
    many = [_timeline(f"r{k:02d}", video=video, current=current) for k in range(20)]
    assert len(clock_report.table(_measure(*many))) == 1 + 40
    gap = _timeline("gap", video=video, current=[*current[:9], *current[40:]])
    rows = clock_report.table(_measure(*many, gap))
    assert [(row[0], row[1]) for row in rows[1:]] == [
        *[(f"{name} of 21", "video") for name in ("least", "median", "most")],
        *[(f"{name} of 21", "current") for name in ("least", "median", "most")],
        ("gap", "current"),
    ]
    assert len({len(row) for row in rows}) == 1


def test_prepare_prints_and_writes_the_clocks(tmp_path, capsys):
    config = tiny.tiny_config(tmp_path)
    prepare.main(config)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:4] == ["recording", "stream", "samples", "rate"]
    assert printed[2].split()[:4] == ["furnace_0", "current", "240", "2"]
    (path,) = pathlib.Path(config.data.prepared_dir).glob("*/clocks.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[1]["rate_hz"] == "2"
    assert (rows[0]["starts_after_s"], rows[1]["starts_after_s"]) == ("", "-0.25")
    # The data set is what it was, and is opened again.
    assert RecordingStore(path.parent).names == ("furnace_0", "furnace_1", "furnace_2")
    assert dataset.open_dataset(config).directory == path.parent


def test_a_set_that_lies_where_one_cannot_write_is_prepared_all_the_same(
    tmp_path, monkeypatch, caplog
):
    config = tiny.tiny_config(tmp_path)

    def read_only(path, text):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(prepare.files, "write_text", read_only)
    prepare.main(config)
    assert "clocks.csv: the clocks are not written" in caplog.text


def test_opening_warns_of_a_strange_clock(tmp_path, caplog):
    config = tiny.tiny_config(tmp_path)
    path = tmp_path / "raw" / "furnace_1.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["sensor_t"][4:8] = arrays["sensor_t"][4]
    np.savez(path, **arrays)
    for _ in range(2):
        caplog.clear()
        dataset.open_dataset(config)
        (said,) = [r for r in caplog.records if r.levelname == "WARNING"]
        assert said.getMessage().startswith("furnace_1, stream 'current': at most 1%")
