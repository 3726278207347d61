"""The stored data set: written once, whole or not at all, and read back exactly."""

import dataclasses
import grp
import pathlib
import pwd
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_source import FakeSource, stream
from hypothesis import given, settings, strategies as st

from fmalign_jax.data.store import RecordingStore, builder
from fmalign_jax.structs import Recording


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored") / "set"
    source = FakeSource()
    builder.prepare(source, directory, chunk_samples=16, progress=False)
    return source, directory


def shard(directory, config, number=0):
    folder = builder.config_directory(directory, config)
    return sorted(folder.glob("*array_record*"))[number]


@pytest.mark.parametrize("memory_bytes", [0, 1 << 30], ids=["records", "whole"])
def test_every_sample_reads_back_as_recorded(prepared, memory_bytes):
    source, directory = prepared
    store = RecordingStore(directory, memory_bytes=memory_bytes)
    assert list(store.names) == source.names()
    for number, name in enumerate(store.names):
        recording = source.read(name)
        for stream_name, expected in recording.streams.items():
            everything = np.arange(len(expected.time_s))
            values = store.gather(stream_name, number, everything)
            assert values.dtype == expected.values.dtype
            np.testing.assert_array_equal(values, expected.values)


def test_clocks_labels_and_descriptions_read_back(prepared):
    source, directory = prepared
    store = RecordingStore(directory)
    for number, timeline in enumerate(store.timelines()):
        recording = source.read(timeline.name)
        assert timeline.number == number
        assert timeline.partition == recording.partition
        for name, expected in recording.streams.items():
            for field in ("time_s", "clip", "label"):
                read = getattr(timeline.streams[name], field)
                np.testing.assert_array_equal(read, getattr(expected, field))
                assert read.dtype == getattr(expected, field).dtype
    assert store.label_names == ("normal", "abnormal")
    assert store.streams["current"].channel_names == ("ia", "ib", "ic")
    assert store.streams["current"].unit == "A"
    assert store.streams["video"].value_shape == (4, 4, 3)
    assert store.streams["text"].value_shape == ()
    assert store.streams["text"].dtype == np.int32


@given(
    st.sampled_from(["video", "current", "text"]),
    st.lists(st.integers(0, 14), min_size=0, max_size=12),
    st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_gather_takes_any_positions_in_any_order(prepared, name, samples, whole):
    source, directory = prepared
    store = RecordingStore(directory, memory_bytes=(1 << 30) * whole)
    samples = np.array(samples, np.int64).reshape(-1, 1)
    values = source.read("furnace-01").streams[name].values
    np.testing.assert_array_equal(store.gather(name, 1, samples), values[samples])


def test_a_stream_longer_than_a_record_is_cut_into_chunks(tmp_path):
    # 64 KiB hold 5.3 frames of 12 KiB, so 16 samples a record win.
    source = FakeSource((40, 7), frame_shape=(64, 64, 3))
    builder.prepare(source, tmp_path / "set", chunk_samples=16, progress=False)
    read = tfds.builder_from_directory(
        builder.config_directory(tmp_path / "set", "video")
    )
    assert str(read.version) == "1.0.0"
    assert "1.0.0" in read.release_notes
    records = list(read.as_data_source(builder.SPLIT))
    assert [(r["recording"], r["start"]) for r in records] == [
        (0, 0),
        (0, 16),
        (0, 32),
        (1, 0),
    ]
    assert [len(r["values"]) for r in records] == [16, 16, 8, 7]
    store = RecordingStore(tmp_path / "set", memory_bytes=0)
    frames = source.read("furnace-00").streams["video"].values
    crossing = np.array([[35, 14], [15, 16]])
    np.testing.assert_array_equal(store.gather("video", 0, crossing), frames[crossing])


def test_small_samples_share_larger_records(prepared):
    _, directory = prepared
    store = RecordingStore(directory)
    assert store.streams["current"].samples_per_record == (64 << 10) // 12
    assert store.streams["video"].samples_per_record == (64 << 10) // 48


def test_files_may_belong_to_a_user_and_a_group_without_names(tmp_path, monkeypatch):
    """As in a container that runs as `--user 1234:1234`."""

    def nameless(number):
        raise KeyError(f"not found: {number}")

    for module, lookup in ((pwd, "getpwuid"), (grp, "getgrgid")):
        monkeypatch.setattr(module, lookup, nameless)
    builder.prepare(FakeSource((20,)), tmp_path / "set", progress=False)
    assert RecordingStore(tmp_path / "set").streams
    assert pwd.getpwuid is nameless
    assert grp.getgrgid is nameless


def test_each_recording_is_read_once_and_a_complete_set_not_at_all(tmp_path):
    source = FakeSource((20, 25))
    builder.prepare(source, tmp_path / "set", progress=False)
    assert sorted(source.reads) == source.names()
    source.reads.clear()
    builder.prepare(source, tmp_path / "set", progress=False)
    assert source.reads == []


def test_a_complete_set_needs_no_lock_and_so_no_right_to_write(tmp_path, monkeypatch):
    source = FakeSource((20,))
    builder.prepare(source, tmp_path / "set", progress=False)

    def no_lock(path):
        raise PermissionError(f"cannot write {path}")

    monkeypatch.setattr(builder, "FileLock", no_lock)
    builder.prepare(source, tmp_path / "set", progress=False)
    with pytest.raises(PermissionError):
        builder.prepare(source, tmp_path / "other", progress=False)


def test_sources_that_do_not_fit_in_memory_are_read_once_per_stream(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(builder, "_KEPT_BYTES", 0)
    source = FakeSource((20, 25))
    builder.prepare(source, tmp_path / "set", progress=False)
    assert source.reads.count("furnace-01") == 3
    store = RecordingStore(tmp_path / "set")
    current = source.read("furnace-01").streams["current"].values
    np.testing.assert_array_equal(store.gather("current", 1, np.arange(50)), current)


def test_one_process_prepares_several_sources(tmp_path):
    for name, source in (
        ("one", FakeSource((20,))),
        ("two", FakeSource((30, 31), tokens=False)),
    ):
        builder.prepare(source, tmp_path / name, progress=False)
    assert RecordingStore(tmp_path / "two").stream_names == ("video", "current")


class Failing(FakeSource):
    """Breaks at the second recording."""

    error: type[BaseException] = RuntimeError

    def read(self, name):
        if name == "furnace-01":
            raise self.error("the disk went away")
        return super().read(name)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_build_leaves_nothing(tmp_path, error):
    source = Failing()
    source.error = error
    with pytest.raises(error, match="the disk went away"):
        builder.prepare(source, tmp_path / "set", progress=False)
    assert not builder.is_complete(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == [".set.lock"]
    builder.prepare(FakeSource(), tmp_path / "set", progress=False)
    assert RecordingStore(tmp_path / "set").names == tuple(FakeSource().names())


def test_what_a_killed_build_left_is_swept_away(tmp_path):
    left = tmp_path / ".set.incomplete" / "recordings" / "video"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    builder.prepare(FakeSource((20,)), tmp_path / "set", progress=False)
    assert not (tmp_path / ".set.incomplete").exists()
    assert builder.is_complete(tmp_path / "set")


def test_two_that_prepare_at_once_build_one_set(tmp_path):
    sources = [FakeSource((20, 25)) for _ in range(2)]
    threads = [
        threading.Thread(
            target=builder.prepare,
            args=(source, tmp_path / "set"),
            kwargs={"progress": False},
        )
        for source in sources
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bool(source.reads) for source in sources) == [False, True]
    assert RecordingStore(tmp_path / "set").names == ("furnace-00", "furnace-01")


def test_a_set_of_other_raw_data_is_refused(prepared):
    _, directory = prepared
    with pytest.raises(ValueError, match=r"fingerprint.*delete the folder"):
        builder.prepare(FakeSource((20,)), directory, progress=False)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="folder of its own"):
        builder.prepare(FakeSource((20,)), tmp_path, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


class Changed(FakeSource):
    """Gives a second recording that does not fit the first."""

    def __init__(self, change):
        super().__init__((20, 25))
        self.change = change

    def read(self, name):
        recording = super().read(name)
        return self.change(recording) if name == "furnace-01" else recording


def without_text(recording: Recording) -> Recording:
    streams = {k: v for k, v in recording.streams.items() if k != "text"}
    return dataclasses.replace(recording, streams=streams)


def with_two_phases(recording: Recording) -> Recording:
    current = stream(np.zeros((50, 2), np.float32), 2.0)
    return dataclasses.replace(
        recording, streams={**recording.streams, "current": current}
    )


def with_other_classes(recording: Recording) -> Recording:
    return dataclasses.replace(recording, label_names=("cold", "hot"))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (without_text, "same streams"),
        (with_two_phases, "same shapes"),
        (with_other_classes, "same classes"),
    ],
)
def test_recordings_that_do_not_fit_together_are_refused(tmp_path, change, rule):
    with pytest.raises(ValueError, match=f"{rule}.*furnace-01"):
        builder.prepare(Changed(change), tmp_path / "set", progress=False)
    assert not (tmp_path / "set").exists()


def test_files_that_do_not_fit_together_are_named(tmp_path):
    def from_file(recording):
        return dataclasses.replace(with_two_phases(recording), file="raw/odd.npz")

    with pytest.raises(ValueError, match=r"raw/odd\.npz against .*'furnace-00'"):
        builder.prepare(Changed(from_file), tmp_path / "set", progress=False)


def test_a_missing_set_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*prepare it first"):
        RecordingStore(tmp_path / "nowhere")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_shard_gives_one_clear_error(tmp_path, harm, whole):
    directory = tmp_path / "set"
    builder.prepare(FakeSource(), directory, progress=False)
    path = shard(directory, "video", 1)
    content = bytearray(path.read_bytes())
    within = 2000  # bytes: among the values; the file is padded after 4 kB
    if harm == "flip":
        content[within] ^= 0xFF
        path.write_bytes(content)
    elif harm == "cut":
        path.write_bytes(content[:within])
    else:
        path.unlink()
    store = RecordingStore(directory, memory_bytes=(1 << 30) * whole)
    with pytest.raises(ValueError, match=r"delete that folder and prepare") as caught:
        store.gather("video", 1, np.arange(3))
    assert str(directory) in str(caught.value)


def test_a_damaged_description_gives_one_clear_error(tmp_path):
    directory = tmp_path / "set"
    builder.prepare(FakeSource((20,)), directory, progress=False)
    folder = builder.config_directory(directory, builder.TIMELINE)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=r"delete that folder and prepare"):
        RecordingStore(directory)


@pytest.mark.parametrize("samples", [[-1], [60]])
@pytest.mark.parametrize("memory_bytes", [0, 1 << 30])
def test_positions_outside_the_recording_are_refused(prepared, samples, memory_bytes):
    store = RecordingStore(prepared[1], memory_bytes=memory_bytes)
    with pytest.raises(IndexError, match=r"\[0, 60\)"):
        store.gather("video", 0, np.array(samples))


def test_threads_read_the_same(prepared):
    source, directory = prepared
    store = RecordingStore(directory, memory_bytes=0, cache_bytes=1)
    frames = source.read("furnace-02").streams["video"].values
    wrong = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(30):
            samples = rng.integers(0, 90, 5)
            if not (store.gather("video", 2, samples) == frames[samples]).all():
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_opening_reads_the_timeline_alone(tmp_path):
    directory = tmp_path / "set"
    builder.prepare(FakeSource((20,)), directory, progress=False)
    shard(directory, "video").unlink()
    store = RecordingStore(directory)
    assert len(store.timelines()[0].streams["video"].time_s) == 20
    assert repr(store) == f"RecordingStore(fingerprint={store.fingerprint!r})"


def test_neither_tensorflow_nor_jax_is_imported(tmp_path):
    code = (
        "import sys\n"
        "from fake_source import FakeSource\n"
        "from fmalign_jax.data.store import RecordingStore, builder\n"
        "from fmalign_jax.data.windows import index\n"
        "builder.prepare(FakeSource((20,)), sys.argv[1], progress=False)\n"
        "RecordingStore(sys.argv[1])\n"
        "loaded = {'jax', 'tensorflow'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    here = pathlib.Path(__file__).parent
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "set")],
        check=True,
        env={"PYTHONPATH": f"{here}:{here.parent}"},
    )
