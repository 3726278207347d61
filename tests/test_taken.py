"""What was taken as what is said, in one line a kind of file."""

import logging
import os

import numpy as np
import pytest
import tiny
from fake_source import FakeSource
from test_fmf import NAME, _write
from test_video_recordings import SECONDS, _write_pair

from fmalign_jax.data import dataset, fmf, taken
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.data.store import RecordingStore, builder


def _prepared(source, folder) -> tuple[str, ...]:
    builder.prepare(source, folder / "set", progress=False)
    return RecordingStore(folder / "set").taken


def test_tables_of_one_kind_are_said_once(tmp_path):
    for name in ("sun", "bun", "run"):
        _write_pair(tmp_path, text=SECONDS)
        if name == "sun":
            (tmp_path / "run.labels.csv").write_text("time,label\n0,calm\n1,wild\n")
        for path in tmp_path.glob("run.*"):
            path.rename(tmp_path / path.name.replace("run", name))
    assert list(_prepared(RecordingFiles(str(tmp_path)), tmp_path)) == [
        f"{tmp_path}/bun.csv and 2 more: time 't' (seconds), channels 'ia', 'ib'; "
        "left out: 'note'",
        f"{tmp_path}/sun.labels.csv: time 'time' (seconds), label 'label'; "
        "classes 'calm', 'wild'",
    ]


def test_tables_that_differ_are_said_apart_with_columns_left_out(tmp_path):
    dated = ",ia,ib,time\n0,1,2,2024-05-01 10:00:00\n1,1,2,2024-05-01 10:00:02\n"
    _write_pair(tmp_path, text=dated)
    for path in [*tmp_path.iterdir()]:
        path.rename(tmp_path / f"old{path.suffix}")
    _write_pair(tmp_path, text=SECONDS)
    start = {"old": "2024-05-01 10:00:00"}
    said = _prepared(RecordingFiles(str(tmp_path), video_start=start), tmp_path)
    assert said[0] == (
        f"{tmp_path}/old.csv: time 'time' (dates), channels 'ia', 'ib'; left out: one "
        "without a name"
    )
    assert said[1].startswith(f"{tmp_path}/run.csv: time 't' (seconds)")


def test_arrays_of_npz_files_are_said(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.savez(
            tmp_path / f"{name}.npz",
            frames=rng.integers(0, 256, (5, 4, 4, 3)).astype(np.uint8),
            frame_t=np.arange(5) / 2,
            frame_label=np.zeros(5, int),
            sensor=rng.normal(size=(20, 2)),
            sensor_t=np.arange(20) / 8,
            channel_names=np.array(["ia", "ib"]),
            diary=np.ones(3),
        )
    assert _prepared(RecordingFiles(str(tmp_path)), tmp_path) == (
        f"{tmp_path}/a.npz and 1 more: streams 'video' uint8 [4, 4, 3]; 'current' "
        "float32 [2] 'ia', 'ib'; labels 'frame_label'; left out: 'diary'",
    )


def test_files_of_the_benchmark_are_said(tmp_path):
    _write(tmp_path)
    said = _prepared(fmf.BenchmarkDirectory(str(tmp_path)), tmp_path)
    folder = tmp_path / "pixel-level"
    assert said[1:] == (
        f"{folder}/currents/{NAME}.csv: time 'Time' (dates), channels 'Ia', 'Ib', 'Ic'",
        f"{folder}/timestamps/{NAME}.csv: time 'time' (dates)",
    )
    assert said[0].startswith(f"{folder}/videos/{NAME}.mat: 'data' and 'label'")


def test_of_another_source_its_streams_are_said(tmp_path):
    (said,) = _prepared(FakeSource((20, 25)), tmp_path)
    assert said.startswith("furnace-00 and 1 more: streams 'video' uint8 [4, 4, 3]")


def test_a_file_whose_name_is_no_text_is_refused_in_one_line(tmp_path):
    named = os.fsencode(tmp_path) + "/电流.npz".encode("gbk")
    with open(named, "wb") as file:
        np.savez(file, sensor=np.ones((9, 2)), sensor_t=np.arange(9.0))
    with pytest.raises(ValueError, match=r"must be written in UTF-8; got .*rename"):
        _prepared(RecordingFiles(str(tmp_path)), tmp_path)
    folder = os.fsencode(tmp_path) + "/数据".encode("gbk")
    os.mkdir(folder)
    os.rename(named, folder + b"/one.npz")
    (said,) = _prepared(RecordingFiles(os.fsdecode(folder)), tmp_path)
    assert said.endswith("/one.npz: streams 'current' float32 [2]")


def test_many_names_are_cut():
    assert taken.names([*"abcdefghijklmno"]).endswith("'l' and 3 more")


@pytest.mark.parametrize("names", [(), ("calm", "wild")])
def test_opening_says_what_was_taken_and_which_classes(tmp_path, caplog, names):
    config = tiny.tiny_config(tmp_path)
    for path in sorted((tmp_path / "raw").glob("*.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        arrays["frame_label"] = np.arange(len(arrays["frames"])) % 4 // 3
        arrays["label_names"] = np.array(names)
        np.savez(path, **(arrays if names else arrays | {"label_names": []}))
    for _ in range(2):  # what was prepared before is said too
        caplog.clear()
        with caplog.at_level(logging.INFO):
            dataset.open_dataset(config)
        assert "npz and 2 more: streams 'video'" in caplog.text
        first = repr(names[0]) if names else "class 0"
        assert f"classes of 'video', by share of its samples: {first} 7" in caplog.text
