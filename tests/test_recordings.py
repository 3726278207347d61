"""Neutral .npz files, real ones and spoiled ones."""

import dataclasses
import json
import pathlib
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.data.recordings import RecordingFiles, write_npz
from fmalign_jax.data.validation import check_recording
from fmalign_jax.structs import Recording, Stream

FEW = settings(deadline=None, max_examples=25)


def _stream(samples: int = 6, **changes: object) -> Stream:
    rng = np.random.default_rng(samples)
    stream = Stream(
        values=rng.normal(size=(samples, 2)).astype(np.float32),
        time_s=np.arange(samples) / 2,
        clip=np.zeros(samples, np.int32),
        label=np.full(samples, -1, np.int32),
    )
    return dataclasses.replace(stream, **changes)


def _recording(samples: int = 6, **changes: object) -> Recording:
    rng = np.random.default_rng(samples)
    frames = rng.integers(0, 256, (samples, 4, 5, 3)).astype(np.uint8)
    streams = {"video": _stream(samples, values=frames), "current": _stream(samples)}
    return dataclasses.replace(Recording("one", streams), **changes)


def _same(one: Recording, other: Recording) -> None:
    assert one.streams.keys() == other.streams.keys()
    for name, stream in one.streams.items():
        for field in dataclasses.fields(Stream):
            ours = getattr(stream, field.name)
            theirs = getattr(other.streams[name], field.name)
            np.testing.assert_array_equal(ours, theirs)
            if isinstance(ours, np.ndarray):
                assert ours.dtype == theirs.dtype
    for key in ("name", "label_names", "clip_names", "provenance"):
        assert getattr(one, key) == getattr(other, key)
    assert dict(one.partition) == dict(other.partition)


@FEW
@given(st.data())
def test_what_is_written_as_npz_is_read_back(tmp_path_factory, data):
    samples = data.draw(st.integers(1, 12))
    clips = data.draw(st.integers(1, samples))
    clip = np.sort(np.arange(samples) % clips).astype(np.int32)
    label = np.array(
        data.draw(st.lists(st.integers(-1, 2), min_size=samples, max_size=samples)),
        np.int32,
    )
    parts = {"clip": clip, "label": label, "unit": "A"}
    frames = np.random.default_rng(0).random((samples, 2, 2, 7), np.float32)
    words = np.arange(samples, dtype=np.int32)
    recording = Recording(
        name="x",
        streams={
            "video": _stream(samples, values=frames, **parts),
            "current": _stream(samples, channel_names=("a", "b"), **parts),
            "text": _stream(samples, values=words, **parts),
        },
        label_names=("calm", "wild", "odd"),
        clip_names=tuple(f"clip {number}" for number in range(clips)),
        partition={"train": ((0.0, 1.5), (2.0, 2.5)), "test": ((3.0, 4.0),)},
        provenance='{"source": "made up"}',
    )
    folder = tmp_path_factory.mktemp("npz")
    write_npz(folder / "x.npz", recording, packed=data.draw(st.booleans()))
    assert [path.name for path in folder.iterdir()] == ["x.npz"]
    _same(RecordingFiles(str(folder)).read("x"), recording)


def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch):
    write_npz(tmp_path / "x.npz", _recording())
    before = (tmp_path / "x.npz").read_bytes()

    def full_disk(file: pathlib.Path, **arrays: np.ndarray) -> None:
        file.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_npz(tmp_path / "x.npz", _recording(9))
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
    assert (tmp_path / "x.npz").read_bytes() == before


def test_a_file_that_numpy_would_rename_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"x\.dat: the name must end in \.npz"):
        write_npz(tmp_path / "x.dat", _recording())
    assert list(tmp_path.iterdir()) == []


def _arrays(**changes: object) -> dict[str, object]:
    """The neutral form as somebody else would write it, without the optional keys."""
    rng = np.random.default_rng(0)
    arrays = {
        "frames": rng.integers(0, 256, (5, 4, 4, 3)).astype(np.uint8),
        "frame_t": np.arange(5) / 2,
        "sensor": rng.normal(size=(20, 2)),
        "sensor_t": np.arange(20) / 8,
        "channel_names": np.array(["a", "b"]),
    }
    arrays |= changes
    return {key: array for key, array in arrays.items() if array is not None}


def _save(path: pathlib.Path, **changes: object) -> pathlib.Path:
    np.savez(path, **_arrays(**changes))
    return path


def test_plain_npz(tmp_path):
    _save(tmp_path / "x.npz", sensor_label=np.arange(20), meta='{"by": "hand"}')
    recording = RecordingFiles(str(tmp_path / "*.npz")).read("x")
    video, current = recording.streams["video"], recording.streams["current"]
    assert (video.values == _arrays()["frames"]).all()
    np.testing.assert_allclose(current.values, _arrays()["sensor"], rtol=1e-6)
    assert (current.values.dtype, current.time_s.dtype) == (np.float32, np.float64)
    assert current.channel_names == ("a", "b")
    assert current.label.tolist() == list(range(20))
    assert set(video.label) == {-1}
    assert set(video.clip) == set(current.clip) == {0}
    assert recording.provenance == '{"by": "hand"}'


def test_half_precision_maps_and_tokens(tmp_path):
    maps = np.random.default_rng(0).random((5, 2, 2, 8)).astype(np.float16)
    _save(
        tmp_path / "x.npz",
        frames=maps,
        streams=np.array(["text"]),
        text=np.array([3, 1, 2]),
        text_t=np.array([0.0, 1.0, 2.0]),
    )
    streams = RecordingFiles(str(tmp_path)).read("x").streams
    assert list(streams) == ["video", "current", "text"]
    assert (streams["video"].values == maps.astype(np.float32)).all()
    assert streams["video"].values.dtype == np.float32
    assert streams["text"].values.dtype == np.int32
    assert streams["text"].values.tolist() == [3, 1, 2]


def test_grey_frames_other_keys_and_names_in_bytes(tmp_path):
    frames = _arrays()["frames"][..., :1]
    odd = np.array([{"a": 1}, None], object)
    _save(
        tmp_path / "x.npz",
        frames=frames,
        diary=odd,
        frame_label=np.ones(5, int),
        label_names=np.array([b"calm", "grün".encode()]),
        channel_names=np.array([b"a", b"b"]),
    )
    recording = RecordingFiles(str(tmp_path)).read("x")
    assert (recording.streams["video"].values == frames).all()
    assert recording.label_names == ("calm", "grün")
    assert recording.streams["current"].channel_names == ("a", "b")


def test_streams_may_end_apart_and_clips_are_judged_together(tmp_path):
    # 2 s of video, of which the sensor has 1.25 s: more than half.
    _save(tmp_path / "x.npz", sensor_t=np.arange(20) / 16)
    assert RecordingFiles(str(tmp_path)).read("x").streams.keys() == {
        "video",
        "current",
    }
    # In the short second clip the sensor began late: 0.1 s of 0.4 s in common.
    frame_t = np.append(np.arange(15), np.arange(5)) / 10
    _save(
        tmp_path / "x.npz",
        frames=np.zeros((20, 2, 2, 3), np.uint8),
        frame_t=frame_t,
        frame_clip=np.repeat([0, 1], [15, 5]),
        sensor_t=np.where(np.arange(20) < 15, frame_t, frame_t + 0.3),
        sensor_clip=np.repeat([0, 1], [15, 5]),
    )
    assert len(RecordingFiles(str(tmp_path)).read("x").streams) == 2


def test_frames_of_npz_can_be_thinned(tmp_path):
    clip = np.repeat([0, 1], 20)
    time_s = np.tile(np.arange(20) / 10, 2)
    _save(
        tmp_path / "x.npz",
        frames=np.zeros((40, 2, 2, 3), np.uint8),
        frame_t=time_s,
        frame_clip=clip,
        frame_label=np.arange(40),
        sensor_clip=np.repeat([0, 1], 10),
        sensor_t=np.tile(np.arange(10) / 5, 2),
    )
    files = RecordingFiles(str(tmp_path), max_frame_rate_hz=2.0)
    video = files.read("x").streams["video"]
    assert video.label.tolist() == [0, 5, 10, 15, 20, 25, 30, 35]
    assert video.clip.tolist() == [0] * 4 + [1] * 4
    assert len(video.values) == 8
    assert files.fingerprint() != RecordingFiles(str(tmp_path)).fingerprint()


@pytest.mark.parametrize(
    ("name", "streams", "classes", "clips"),
    [
        *((f"utd_mhad_s{i}", "video current", 27, (107, 108)) for i in range(1, 7)),
        ("g1_humanoid", "video current", 2, (12, 12)),
        ("gopro_karma", "video current", 0, (1, 1)),
        ("itsc_three_phase_ts_only", "current", 13, (65, 65)),
        ("weld_runs_ts_only", "current", 2, (11, 11)),
    ],
)
def test_real_files(shared_data, name, streams, classes, clips):
    recording = RecordingFiles(str(shared_data / f"{name}.npz")).read(name)
    assert list(recording.streams) == streams.split()
    assert len(recording.label_names) == classes
    with np.load(shared_data / f"{name}.npz") as file:
        for stream, key in (("video", "frames"), ("current", "sensor")):
            if stream in recording.streams:
                read = recording.streams[stream]
                assert np.array_equal(read.values, file[key])
                prefix = key.removesuffix("s")
                np.testing.assert_array_equal(read.time_s, file[f"{prefix}_t"])
                assert clips[0] <= len(np.unique(read.clip)) <= clips[1]
        assert recording.provenance == str(file["meta"])


def test_names_are_sorted_and_all_real_files_found(shared_data):
    globs = f"{shared_data}/utd*_s[3-4].npz, {shared_data}/utd*_s[1-3].npz"
    names = RecordingFiles(globs).names()
    assert names == [f"utd_mhad_s{i}" for i in range(1, 5)]
    assert len(RecordingFiles(str(shared_data)).names()) >= 10


# Refusals.


def _object_arrays(path: pathlib.Path) -> None:
    np.savez(path, **_arrays(meta=np.array({"a": 1}, object)), allow_pickle=True)


def _cut(path: pathlib.Path) -> None:
    _save(path)
    path.write_bytes(path.read_bytes()[:-300])


def _flip(path: pathlib.Path) -> None:
    np.savez_compressed(path, **_arrays())
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("sensor.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 120 : start + 160] = bytes(40)
    path.write_bytes(content)


NAN = np.arange(20) / 8
NAN[7] = np.nan
BACK = np.arange(20) / 8
BACK[11] = 0.5
SENSOR = np.ones((20, 2))
SENSOR[13, 1] = np.inf
SPOILED = {
    "cut short": (_cut, "whole .npz file; got another kind, or one cut short"),
    "flipped bytes": (_flip, "got a damaged one"),
    "pickled": (
        _object_arrays,
        "key 'meta': must be plain numbers or strings; got Python objects",
    ),
    "a pickle": (lambda p: p.write_bytes(b"\x80\x04N."), "got another kind"),
    "empty": (lambda p: p.write_bytes(b""), "got another kind"),
    "nothing known": (
        lambda p: np.savez(p, video=np.ones(3)),
        r"'frames', 'sensor' or both; got \['video'\]",
    ),
    "labels misspelt": (
        {"frame_labels": np.zeros(5, int)},
        "key 'frame_labels': is not a key of a recording.*'frame_label'",
    ),
    "sensor clips misspelt": (
        {"sensor_clips": np.zeros(20, int)},
        "key 'sensor_clips': is not a key of a recording.*'sensor_clip'",
    ),
    "tokens beyond 32 bits": (
        {
            "streams": np.array(["text"]),
            "text": np.array([0, 2**40]),
            "text_t": np.array([0.0, 1.0]),
        },
        "key 'text': whole numbers must fit into 32 bits; got one of 1099511627776",
    ),
    "a clock that stands": (
        {"sensor_t": np.repeat([0.0, 2.0], 10)},
        "samples must have times of their own; got 18 of 20.*as float64",
    ),
    "times of single precision": (
        {
            "frame_t": 1.7e9 + np.arange(5) / 2,
            "sensor_t": (1.7e9 + np.arange(20) / 8).astype(np.float32),
        },
        "samples must have times of their own; got 19 of 20.*as float64",
    ),
    "times beyond any clock": (
        {"sensor_t": np.append(np.arange(19) / 8, 1e29)},
        r"at most those of the year 9999; got 1e\+29 at index 19",
    ),
    "no times": ({"frame_t": None}, "add 'frame_t'"),
    "no extra stream": ({"streams": np.array(["text"])}, "add 'text'"),
    "channels first": (
        {"frames": np.zeros((5, 3, 4), np.uint8)},
        r"key 'frames': must be frames uint8.*got uint8 \(5, 3, 4\)",
    ),
    "colours before rows": (
        {"frames": np.zeros((5, 3, 4, 4), np.uint8)},
        r"key 'frames': frames uint8 must be \[N, H, W, 3\].*\(5, 3, 4, 4\)",
    ),
    "frames with transparency": (
        {"frames": np.zeros((5, 4, 4, 4), np.uint8)},
        r"key 'frames': frames uint8 must be .* drop others",
    ),
    "frames of 16 bits": (
        {"frames": np.zeros((5, 4, 4, 3), np.uint16)},
        r"got uint16 \(5, 4, 4, 3\)",
    ),
    "one channel, flat": ({"sensor": np.zeros(20)}, r"got float64 \(20,\)"),
    "sensor of texts": (
        {"sensor": np.full((20, 2), "1 A")},
        "key 'sensor': must hold numbers; got text, such as '1 A'; convert it to",
    ),
    "times of texts": (
        {"frame_t": np.full(5, b"12:00")},
        "key 'frame_t': must hold numbers; got text, such as b'12:00'; convert",
    ),
    "no samples": (
        {"sensor": np.zeros((0, 2)), "sensor_t": np.zeros(0)},
        "key 'sensor': a stream needs samples",
    ),
    "times too few": (
        {"sensor_t": np.arange(19)},
        "key 'sensor_t': must have one entry for each of the 20 samples in 'sensor'; "
        "got 19; write one for each, unless it is that of another stream",
    ),
    "times of another stream": (
        {"frame_t": np.arange(20.0)},
        "key 'frame_t': must have .* the 5 samples in 'frames'; got 20;",
    ),
    "labels too few": (
        {"sensor_label": np.arange(19)},
        "key 'sensor_label': must have one entry .*got 19",
    ),
    "clips too many": (
        {"frame_clip": np.zeros(6, int)},
        "key 'frame_clip': must have one entry .*got 6",
    ),
    "labels not whole": ({"sensor_label": np.ones(20)}, "whole number.*float64"),
    "labels below -1": ({"sensor_label": np.full(20, -2)}, "got -2 at index 0"),
    "label without name": (
        {"sensor_label": np.arange(20), "label_names": np.array(["a", "b"])},
        "must be 0 to 1, or -1 for unknown; got 2 at index 2",
    ),
    "label of many digits": (
        {"sensor_label": np.full(20, 20240419214052)},
        "key 'sensor_label': numbers must fit into 32 bits; got 20240419214052 at inde",
    ),
    "clip of many digits": (
        {"frame_clip": np.full(5, 2**32 + 1, np.uint64)},
        "key 'frame_clip': numbers must fit into 32 bits; got 4294967297 at index 0",
    ),
    "channel without name": ({"channel_names": np.array(["a"])}, "2 channels needs"),
    "infinite": ({"sensor": SENSOR}, r"got inf at index \[13, 1\] \(1.625 s\)"),
    "a meter that was overloaded": (
        {"sensor": np.where(np.arange(40) == 13, 9.9e37, 1.0).reshape(20, 2)},
        r"at most 1e\+18; got 9.9\d*e\+37 at index \[6, 1\]",
    ),
    "beyond single precision": (
        {"sensor": np.where(np.arange(40) == 13, 1e39, 1.0).reshape(20, 2)},
        r"got inf at index \[6, 1\]",
    ),
    "time not a number": (
        {"sensor_t": NAN},
        "times must be finite; got nan at index 7",
    ),
    "time goes back": ({"sensor_t": BACK}, "got 0.5 s after 1.25 s at index 11"),
    "disjoint clocks": (
        {"sensor_t": np.arange(20) + 60.0},
        "'video' from 0 to 2 s and 'current' from 60 to 79 s in clip 0",
    ),
    "sensor times in milliseconds": (
        {"sensor_t": np.arange(20) * 125},
        "with 2.*s in common, where the longer has 2500 s; give all times in seconds",
    ),
    "clip in one stream": (
        {"frame_clip": np.array([0, 0, 0, 0, 3])},
        "every clip must be in every stream; got clip 3 in only one",
    ),
    "clips mixed": (
        {"sensor_clip": np.arange(20) % 2, "sensor_t": np.arange(20)},
        "samples of a clip must lie together; got clip 0 again at index 2",
    ),
    "clip below 0": ({"sensor_clip": np.full(20, -1)}, "clip numbers must be 0"),
    "clip without name": (
        {"frame_clip": np.ones(5, int), "clip_names": np.array(["a"])},
        "below the 1 clip names; got 1 to 1",
    ),
    "split unreadable": ({"partition": "[1"}, "key 'partition': must be JSON"),
    "split without length": (
        {"partition": json.dumps({"train": [[1, 1]]})},
        "must begin before it ends",
    ),
    "splits overlap": (
        {"partition": json.dumps({"train": [[0, 2]], "test": [[1, 3]]})},
        "'train' until 2 s and 'test' from 1 s",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_npz_is_refused_by_name(tmp_path, case):
    spoil, message = SPOILED[case]
    path = tmp_path / "bad.npz"
    if callable(spoil):
        spoil(path)
    else:
        _save(path, **spoil)
    with pytest.raises(ValueError, match=message) as caught:
        RecordingFiles(str(tmp_path)).read("bad")
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_recording_without_streams_or_of_doubles_is_refused():
    with pytest.raises(ValueError, match=r"made up: a recording needs a stream"):
        check_recording(Recording("x", {}), "made up")
    doubles = _stream(values=np.zeros((6, 2)))
    with pytest.raises(ValueError, match=r"'current': values must be one of.*float64"):
        check_recording(Recording("x", {"current": doubles}), "made up")


def test_a_late_nan_in_large_maps_is_found():
    values = np.zeros((5000, 1, 1, 2), np.float32)
    values[4500, 0, 0, 1] = np.nan
    recording = Recording("x", {"video": _stream(5000, values=values)})
    with pytest.raises(ValueError, match=r"index \[4500, 0, 0, 1\]"):
        check_recording(recording, "here")


def test_empty_folder_and_glob_without_match(tmp_path):
    (tmp_path / "notes.csv").write_text("a\n")
    for path in (str(tmp_path), str(tmp_path / "*.npz"), str(tmp_path / "absent")):
        with pytest.raises(ValueError, match="must match at least one file") as caught:
            RecordingFiles(path).names()
        assert path in str(caught.value)


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        _save(tmp_path / folder / "x.npz")
    with pytest.raises(ValueError, match=r"b/x.npz.*one name.*a/x.npz"):
        RecordingFiles(str(tmp_path / "*" / "*.npz")).names()


def test_files_are_found_whatever_their_names(tmp_path):
    folder = tmp_path / "heat[1], left"
    folder.mkdir()
    for name in ("a[2].npz", "B.NPZ"):
        with (folder / name).open("wb") as file:
            np.savez(file, **_arrays())
    for path in (folder, str(folder), f"{folder}/*", f"{folder}/*.[nN]*"):
        files = RecordingFiles(path)
        assert files.names() == ["B", "a[2]"]
        assert files.read("B").streams.keys() == {"video", "current"}
    assert RecordingFiles(folder / "a[2].npz").names() == ["a[2]"]
    other = folder.rename(tmp_path / "heat[1]")
    assert RecordingFiles(f"{tmp_path}/nothing, {other}").names() == ["B", "a[2]"]


def test_an_unknown_name_is_refused(tmp_path):
    _save(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"must be one of \['x'\]; got 'y'"):
        RecordingFiles(str(tmp_path)).read("y")


def test_classes_must_agree_over_files(tmp_path):
    _save(tmp_path / "a.npz", label_names=np.array(["calm", "wild"]))
    _save(tmp_path / "b.npz")
    files = RecordingFiles(str(tmp_path))
    assert files.read("b").label_names == files.read("a").label_names
    assert files.read("b").label_names == ("calm", "wild")
    _save(tmp_path / "b.npz", frame_label=np.full(5, 7))
    with pytest.raises(ValueError, match=r"b.npz, key 'frames', labels: .*got 7 at"):
        RecordingFiles(str(tmp_path)).read("b")
    _save(tmp_path / "c.npz", label_names=np.array(["wild", "calm"]))
    with pytest.raises(ValueError, match=r"c.npz: all files must name the same.*a.npz"):
        RecordingFiles(str(tmp_path)).read("a")


def test_fingerprint_follows_names_sizes_and_times(tmp_path):
    _save(tmp_path / "a.npz")
    first = RecordingFiles(str(tmp_path)).fingerprint()
    assert RecordingFiles(str(tmp_path / "*.npz")).fingerprint() == first
    _save(tmp_path / "b.npz")
    second = RecordingFiles(str(tmp_path)).fingerprint()
    (tmp_path / "b.npz").rename(tmp_path / "c.npz")
    third = RecordingFiles(str(tmp_path)).fingerprint()
    assert len({first, second, third}) == 3
