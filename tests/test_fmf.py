"""FMF-Benchmark directories, most of them written by hand here, quirks included."""

import json
import logging
import pathlib

import h5py
import numpy as np
import pytest

from fmalign_jax.data import fmf
from fmalign_jax.data.fmf import video as fmf_video

NAME = "SaveToAvi-4-19-21_40_52-6002"
START = np.datetime64("2021-04-19T21:40:52", "s")


def seconds(count):
    return np.asarray(count).astype("timedelta64[s]")


# Frames of each second, and rows of current: one second lost, one of each odd count.
FRAMES = {3: 25, 4: 24, 5: 26, 7: 25, 8: 25}
ROWS = {0: 2, 1: 2, 2: 1, 3: 3, 4: 2, 6: 4, 7: 2, 8: 2, 9: 2}
HEIGHT, WIDTH = 6, 4


def _stamps(counts: dict[int, int]) -> list[str]:
    moments = [str(START + seconds(second)).replace("T", " ") for second in counts]
    return [
        moment
        for moment, n in zip(moments, counts.values(), strict=True)
        for _ in range(n)
    ]


def _spread(counts: dict[int, int]) -> np.ndarray:
    return np.array([s + i / n for s, n in counts.items() for i in range(n)])


def _write(root: pathlib.Path, name: str = NAME) -> dict[str, np.ndarray]:
    """One recording by h5py and text, independent of the writer under test."""
    rng = np.random.default_rng(len(name))
    count = sum(FRAMES.values())
    arrays = {
        "data": rng.integers(0, 256, (count, 3, WIDTH, HEIGHT)).astype(np.uint8),
        "label": np.zeros((count, WIDTH, HEIGHT), np.uint8),
        "current": rng.uniform(1e3, 1.6e4, (sum(ROWS.values()), 3)).round(2),
    }
    arrays["label"][40:70, 1, 2] = 255
    arrays["label"][99, 3, 5] = 1
    folder = root / "pixel-level"
    for kind in ("videos", "currents", "timestamps"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "videos" / f"{name}.mat", "w") as file:
        file["data"], file["label"] = arrays["data"], arrays["label"]
    rows = zip(_stamps(ROWS), arrays["current"].tolist(), strict=True)
    lines = [f"{stamp},{a},{b},{c}" for stamp, (a, b, c) in rows]
    _write_csv(folder / "currents" / f"{name}.csv", ["Time,Ia,Ib,Ic", *lines])
    _write_csv(folder / "timestamps" / f"{name}.csv", ["time", *_stamps(FRAMES)])
    return arrays


def _write_csv(path: pathlib.Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def written(tmp_path):
    return tmp_path, _write(tmp_path)


def test_hand_written_recording_is_read_as_it_lies(written):
    root, arrays = written
    recording = fmf.BenchmarkDirectory(str(root)).read(NAME)
    video, current = recording.streams["video"], recording.streams["current"]
    assert video.values.shape == (125, HEIGHT, WIDTH, 3)
    for frame, row, column, channel in ((0, 0, 3, 1), (77, 5, 0, 2), (124, 2, 1, 0)):
        expected = arrays["data"][frame, channel, column, row]
        assert video.values[frame, row, column, channel] == expected
    np.testing.assert_allclose(video.time_s, _spread(FRAMES))
    np.testing.assert_allclose(current.time_s, _spread(ROWS))
    np.testing.assert_allclose(current.values, arrays["current"], rtol=1e-6)
    abnormal = [*range(40, 70), 99]
    assert np.flatnonzero(video.label).tolist() == abnormal
    assert set(video.label) == {0, 1}
    assert set(current.label) == {-1}
    assert current.channel_names == ("Ia", "Ib", "Ic")
    assert current.unit == "A"
    assert recording.label_names == ("normal", "abnormal")
    assert json.loads(recording.provenance)["clock_zero"] == str(START)
    assert recording.partition == {}


def test_the_clock_starts_with_the_earlier_stream(tmp_path):
    _write(tmp_path)
    late = [f"{stamp},1,2,3" for stamp in _stamps({5: 2, 6: 2, 12: 2})]
    _write_csv(tmp_path / f"pixel-level/currents/{NAME}.csv", ["t,a,b,c", *late])
    streams = fmf.BenchmarkDirectory(str(tmp_path)).read(NAME).streams
    assert streams["video"].time_s[0] == 0
    expected = [2, 2.5, 3, 3.5, 9, 9.5]
    np.testing.assert_allclose(streams["current"].time_s, expected)


def test_the_folder_may_be_given_itself_and_order_does_not_matter(
    tmp_path, monkeypatch
):
    names = ["b-2", "a-10", "a-9", "c"]
    for name in names:
        _write(tmp_path, name)
    (tmp_path / "pixel-level" / "videos" / "._c.mat").write_bytes(b"left by a Mac")
    outer = fmf.BenchmarkDirectory(str(tmp_path))
    inner = fmf.BenchmarkDirectory(str(tmp_path / "pixel-level"))
    expected = (outer.names(), outer.fingerprint())
    assert outer.names() == ["a-10", "a-9", "b-2", "c"]
    glob = pathlib.Path.glob
    monkeypatch.setattr(
        pathlib.Path, "glob", lambda self, pattern: list(glob(self, pattern))[::-1]
    )
    assert (outer.names(), outer.fingerprint()) == expected
    assert (inner.names(), inner.fingerprint()) == expected


def test_split_becomes_spans_of_seconds(written):
    root, _ = written
    indices = {"train": [*range(30), 40], "test": list(range(124, 99, -1))}
    for part, frames in indices.items():
        path = root / "pixel-level" / f"{part}.json"
        path.write_text(json.dumps({f"{NAME}.mat": frames, "other.mat": [1]}))
    partition = fmf.BenchmarkDirectory(str(root)).read(NAME).partition
    time_s = _spread(FRAMES)
    period = np.median(np.diff(time_s))
    train = [(time_s[0], time_s[30]), (time_s[40], time_s[41])]
    test = [(time_s[100], time_s[124] + period)]
    np.testing.assert_allclose(partition["train"], train)
    np.testing.assert_allclose(partition["test"], test)


@pytest.mark.parametrize("entry", [NAME, "SaveToAvi-gone.mat"])
def test_entries_of_a_split_that_match_no_video_are_said(written, caplog, entry):
    root, _ = written
    path = root / "pixel-level" / "test.json"
    path.write_text(json.dumps({f"{NAME}.mat": [7], entry: [1]}))
    with caplog.at_level(logging.WARNING):
        fmf.BenchmarkDirectory(str(root)).read(NAME)
    assert f"{path}: every entry" in caplog.text
    assert f"got {entry!r} without such a file" in caplog.text


def _write_long(root: pathlib.Path, *, frame_s: int, current_s: int) -> None:
    frames = np.zeros((frame_s, 2, 2, 3), np.uint8)
    fmf.write_recording(
        root,
        NAME,
        frames=frames,
        masks=frames[..., 0],
        frame_second=START + seconds(np.arange(frame_s)),
        current=np.ones((2 * current_s, 3)),
        current_second=START + seconds(np.arange(2 * current_s) // 2),
    )


@pytest.mark.parametrize(
    ("frame_s", "current_s", "file"),
    [
        (200, 150, "currents"),
        (200, 50, "currents"),
        (150, 200, "videos"),
        (1200, 1070, "currents"),
    ],
)
def test_a_stream_that_ends_well_before_the_other_is_refused(
    tmp_path, frame_s, current_s, file
):
    _write_long(tmp_path, frame_s=frame_s, current_s=current_s)
    with pytest.raises(ValueError, match=rf"{file}/{NAME}.*if the file was cut short"):
        fmf.BenchmarkDirectory(str(tmp_path)).read(NAME)


def test_streams_that_end_a_little_apart_are_taken(tmp_path):
    _write_long(tmp_path, frame_s=1273, current_s=1298)
    streams = fmf.BenchmarkDirectory(str(tmp_path)).read(NAME).streams
    assert [len(stream.values) for stream in streams.values()] == [1273, 2596]


def test_a_rate_that_keeps_no_frame_is_refused(written):
    root, _ = written
    with pytest.raises(ValueError, match="max_frame_rate_hz must be positive; got 0"):
        fmf.BenchmarkDirectory(str(root), max_frame_rate_hz=0.0)


def test_a_span_does_not_reach_over_a_missing_second(written):
    root, _ = written
    path = root / "pixel-level" / "train.json"
    path.write_text(json.dumps({f"{NAME}.mat": list(range(75))}))
    spans = fmf.BenchmarkDirectory(str(root)).read(NAME).partition["train"]
    assert spans == ((3.0, pytest.approx(6.0, abs=0.01)),)


@pytest.mark.parametrize("rate_hz", [1.0, 5.0, 10.0])
def test_thinned_frames_are_a_choice_of_the_frames(written, rate_hz):
    root, _ = written
    path = root / "pixel-level" / "train.json"
    path.write_text(json.dumps({f"{NAME}.mat": list(range(30))}))
    whole = fmf.BenchmarkDirectory(str(root)).read(NAME)
    directory = fmf.BenchmarkDirectory(str(root), max_frame_rate_hz=rate_hz)
    thin = directory.read(NAME)
    assert thin.partition == whole.partition
    video = thin.streams["video"]
    assert len(video.values) == int(rate_hz) * len(FRAMES)
    index = np.searchsorted(whole.streams["video"].time_s, video.time_s)
    for key in ("values", "time_s", "label"):
        expected = getattr(whole.streams["video"], key)[index]
        np.testing.assert_array_equal(getattr(video, key), expected)


@pytest.mark.parametrize("rate_hz", [None, 10.0, 0.3])
def test_masks_are_those_of_the_frames_of_the_stream(written, monkeypatch, rate_hz):
    root, arrays = written
    monkeypatch.setattr(fmf_video, "_SLAB_FRAMES", 10)
    whole = fmf.BenchmarkDirectory(str(root)).read(NAME).streams["video"]
    directory = fmf.BenchmarkDirectory(str(root), max_frame_rate_hz=rate_hz)
    video = directory.read(NAME).streams["video"]
    index = np.searchsorted(whole.time_s, video.time_s)
    position = np.random.default_rng(0).permutation(len(index))
    expected = (arrays["label"] > 0).transpose(0, 2, 1)[index][position]
    found = directory.masks(NAME, position)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found.any(axis=(1, 2)), video.label[position])
    with pytest.raises(ValueError, match=rf"\[0, {len(index)}\); got 0 to"):
        directory.masks(NAME, np.array([0, len(index)]))
    with pytest.raises(ValueError, match="the name must be one of"):
        directory.masks("another", position)


@pytest.mark.parametrize("chunk", [None, 1, 7, 32, 125])
def test_slabs_of_any_size_give_the_same(written, monkeypatch, chunk):
    root, arrays = written
    whole = fmf.BenchmarkDirectory(str(root)).read(NAME).streams["video"]
    path = root / "pixel-level" / "videos" / f"{NAME}.mat"
    with h5py.File(path, "w") as file:
        for key in ("data", "label"):
            shape = arrays[key].shape
            chunks = chunk and (chunk, *shape[1:])
            file.create_dataset(key, data=arrays[key], chunks=chunks)
    monkeypatch.setattr(fmf_video, "_SLAB_FRAMES", 10)
    video = fmf.BenchmarkDirectory(str(root)).read(NAME).streams["video"]
    np.testing.assert_array_equal(video.values, whole.values)
    np.testing.assert_array_equal(video.label, whole.label)


@pytest.mark.parametrize("surplus", [-3, 3])
def test_a_few_frames_more_or_less_are_left_out_and_said(written, caplog, surplus):
    root, _ = written
    stamps = _stamps(FRAMES)
    stamps = stamps[:surplus] if surplus < 0 else [*stamps, *stamps[-surplus:]]
    _write_csv(root / "pixel-level" / "timestamps" / f"{NAME}.csv", stamps)
    with caplog.at_level(logging.WARNING):
        video = fmf.BenchmarkDirectory(str(root)).read(NAME).streams["video"]
    assert len(video.values) == len(video.time_s) == min(125, 125 + surplus)
    assert f"125 frames but {125 + surplus} timestamps" in caplog.text


def test_written_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (70, HEIGHT, WIDTH, 3)).astype(np.uint8)
    masks = (rng.random((70, HEIGHT, WIDTH)) < 0.02).astype(np.uint8) * 255
    current = rng.uniform(1e3, 1e4, (8, 3))
    fmf.write_recording(
        tmp_path,
        "one",
        frames=frames,
        masks=masks,
        frame_second=START + seconds(np.arange(70) // 25),
        current=current,
        current_second=START + seconds(np.arange(8) // 2),
    )
    fmf.write_split(tmp_path, {"train": {"one": np.arange(50)}, "test": {"one": [60]}})
    with h5py.File(tmp_path / "pixel-level" / "videos" / "one.mat") as file:
        stored, labels = file["data"][:], file["label"][:]
    assert stored[7, 2, 3, 5] == frames[7, 5, 3, 2]
    np.testing.assert_array_equal(labels, np.moveaxis(masks, (1, 2), (2, 1)))
    recording = fmf.BenchmarkDirectory(str(tmp_path)).read("one")
    video, read = recording.streams["video"], recording.streams["current"]
    np.testing.assert_array_equal(video.values, frames)
    np.testing.assert_array_equal(video.label, masks.reshape(70, -1).max(1) > 0)
    np.testing.assert_allclose(read.values, current, rtol=5e-6)
    np.testing.assert_allclose(read.time_s, np.arange(8) / 2)
    assert recording.partition["train"] == ((0.0, 2.0),)
    assert recording.partition["test"][0][0] == pytest.approx(2 + 10 / 20)


def test_fingerprint_follows_files_and_options(written):
    root, _ = written
    before = fmf.BenchmarkDirectory(str(root)).fingerprint()
    assert fmf.BenchmarkDirectory(str(root)).fingerprint() == before
    thinner = fmf.BenchmarkDirectory(str(root), max_frame_rate_hz=5.0)
    assert thinner.fingerprint() != before
    fmf.write_split(root, {})
    assert fmf.BenchmarkDirectory(str(root)).fingerprint() != before


def _change(folder: pathlib.Path, key: str, array: np.ndarray | None) -> None:
    with h5py.File(folder / "videos" / f"{NAME}.mat", "a") as file:
        del file[key]
        if array is not None:
            file[key] = array


def _cut(path: pathlib.Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _edit(path: pathlib.Path, line: int, text: str | None) -> None:
    lines = path.read_text().splitlines()
    lines[line : line + 1] = [] if text is None else [text]
    _write_csv(path, lines)


def _move_clock(path: pathlib.Path) -> None:
    path.write_text(path.read_text().replace("2021-04-19", "2021-04-20"))


MAT, CURRENT, STAMPS = (
    f"videos/{NAME}.mat",
    f"currents/{NAME}.csv",
    f"timestamps/{NAME}.csv",
)
SPOILED = {
    "video cut short": (lambda f: _cut(f / MAT, 0.5), MAT, "whole HDF5 file"),
    "video of MATLAB before 7.3": (
        lambda f: (f / MAT).write_bytes(b"MATLAB 5.0 MAT-file" * 99),
        MAT,
        "-v7.3",
    ),
    "no data": (lambda f: _change(f, "data", None), MAT, r"got \['label'\]"),
    "no label": (lambda f: _change(f, "label", None), MAT, r"got \['data'\]"),
    "axes not reversed": (
        lambda f: _change(f, "data", np.zeros((125, HEIGHT, WIDTH, 3), np.uint8)),
        MAT,
        r"axes \[T, C, W, H\].*got uint8 \(125, 6, 4, 3\)",
    ),
    "floats": (
        lambda f: _change(f, "data", np.zeros((125, 3, WIDTH, HEIGHT), np.float32)),
        MAT,
        "got float32",
    ),
    "masks of another size": (
        lambda f: _change(f, "label", np.zeros((125, HEIGHT, WIDTH), np.uint8)),
        MAT,
        r"axes \[T, W, H\]",
    ),
    "one label a frame": (
        lambda f: _change(f, "label", np.zeros(125, np.uint8)),
        MAT,
        "one mask a frame",
    ),
    "no current": (lambda f: (f / CURRENT).unlink(), CURRENT, "no such file"),
    "no timestamps": (lambda f: (f / STAMPS).unlink(), STAMPS, "no such file"),
    "a phase missing": (
        lambda f: _write_csv(f / CURRENT, ["t,a,b", f"{_stamps({3: 1})[0]},1,2"]),
        CURRENT,
        r"columns \['t', 'a', 'b'\]",
    ),
    "current cut short": (lambda f: _cut(f / CURRENT, 0.61), CURRENT, "cut short"),
    "not a number": (
        lambda f: _edit(f / CURRENT, 5, f"{_stamps(ROWS)[4]},1,nan,3"),
        CURRENT,
        "'Ib' must hold finite numbers.*got 'nan' in line 6",
    ),
    "infinite": (
        lambda f: _edit(f / CURRENT, 5, f"{_stamps(ROWS)[4]},1,2,inf"),
        CURRENT,
        "'Ic' must hold finite numbers.*got 'inf' in line 6",
    ),
    "no number": (
        lambda f: _edit(f / CURRENT, 5, f"{_stamps(ROWS)[4]},1,-,3"),
        CURRENT,
        "'Ib' must hold finite numbers.*got '-' in line 6",
    ),
    "time goes back": (
        lambda f: _edit(f / CURRENT, 12, f"{_stamps(ROWS)[0]},1,2,3"),
        CURRENT,
        "step of -6 s in line 13",
    ),
    "frame time goes back": (
        lambda f: _edit(f / STAMPS, 30, _stamps(FRAMES)[0]),
        STAMPS,
        "step of -1 s in line 31",
    ),
    "time of another form": (
        lambda f: _edit(f / STAMPS, 3, "19/04/2021 21:40"),
        STAMPS,
        r"YYYY-MM-DD HH:MM:SS; got '19/04/2021 21:40' in line 4",
    ),
    "disjoint clocks": (
        lambda f: _move_clock(f / CURRENT),
        NAME,
        r"share one clock.*'current' from 86397 to",
    ),
    "many timestamps lost": (
        lambda f: _write_csv(f / STAMPS, _stamps(FRAMES)[:90]),
        MAT,
        "125 frames and 90 timestamps",
    ),
    "split beyond the video": (
        lambda f: fmf.write_split(f.parent, {"test": {NAME: [3, 125]}}),
        "test.json",
        "below its 125 frames; got 125",
    ),
    "split with negative index": (
        lambda f: fmf.write_split(f.parent, {"test": {NAME: [-1]}}),
        "test.json",
        "frame indices from 0 on",
    ),
    "split of fractions": (
        lambda f: (f / "train.json").write_text(f'{{"{NAME}.mat": [0.5]}}'),
        "train.json",
        "frame indices from 0 on",
    ),
    "split of lists": (
        lambda f: (f / "train.json").write_text(f'{{"{NAME}.mat": [[1, 2], [3]]}}'),
        "train.json",
        "must have a list of frame indices from 0 on",
    ),
    "split cut short": (
        lambda f: (f / "train.json").write_text('{"a'),
        "train.json",
        "does not read so",
    ),
    "split with a list at its head": (
        lambda f: (f / "train.json").write_text("[1]"),
        "train.json",
        "does not read so",
    ),
    "parts overlap": (
        lambda f: fmf.write_split(
            f.parent, {"train": {NAME: range(9)}, "test": {NAME: [8, 9]}}
        ),
        NAME,
        "must not overlap",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_files_are_refused_by_name(written, case):
    root, _ = written
    spoil, file, message = SPOILED[case]
    spoil(root / "pixel-level")
    with pytest.raises(ValueError, match=message) as caught:
        fmf.BenchmarkDirectory(str(root)).read(NAME)
    assert file in str(caught.value)


def test_damage_inside_a_packed_video_is_found(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype(np.uint8)
    second = START + seconds(np.arange(64) // 25)
    fmf.write_recording(
        tmp_path,
        "one",
        frames=frames,
        masks=frames[..., 0],
        frame_second=second,
        current=np.ones((3, 3)),
        current_second=second[::25],
    )
    path = tmp_path / "pixel-level" / "videos" / "one.mat"
    with h5py.File(path) as file:
        offset = file["data"].id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 100 : offset + 140] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"one\.mat: must be a whole HDF5 file"):
        fmf.BenchmarkDirectory(str(tmp_path)).read("one")


def test_empty_and_absent_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no videos folder"):
        fmf.BenchmarkDirectory(str(tmp_path / "absent"))
    (tmp_path / "pixel-level" / "videos").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"videos: at least one <name>\.mat"):
        fmf.BenchmarkDirectory(str(tmp_path)).names()


def test_an_unknown_name_is_refused(written):
    root, _ = written
    with pytest.raises(ValueError, match=r"must be one of \['SaveToAvi.*got 'x'"):
        fmf.BenchmarkDirectory(str(root)).read("x")
