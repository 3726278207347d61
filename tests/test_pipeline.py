"""Batches: the right windows, the same order always, resumed exactly, shared evenly."""

import dataclasses
import json
import subprocess
import sys
from contextlib import closing
from unittest import mock

import numpy as np
import pytest
from fake_source import FakeSource
from hypothesis import assume, given, settings, strategies as st
from made_up_windows import segments_of

from fmalign_jax.data import pipeline
from fmalign_jax.data.pipeline import evaluation_batches, training_batches
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.data.store import RecordingStore, builder
from fmalign_jax.data.windows.index import (
    SplitSpec,
    WindowIndex,
    WindowSpec,
    build_index,
)
from fmalign_jax.data.windows.statistics import channel_statistics
from fmalign_jax.data.windows.ticks import Ticks

WINDOW = WindowSpec(
    samples_per_tick={"video": 1, "current": 2, "text": 1},
    window_ticks=5,
    lead_s=10.0,
)


@pytest.fixture(scope="module")
def source():
    return FakeSource((60, 75, 90))


@pytest.fixture(scope="module")
def store(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored") / "set"
    builder.prepare(source, directory, progress=False)
    return RecordingStore(directory, memory_bytes=2000)  # the tokens whole, no more


@pytest.fixture(scope="module")
def indexes(store):
    split = SplitSpec(by="recording", validation=0.3)
    return build_index(store.timelines(), WINDOW, split)


def train(store, indexes, **options):
    options = {"batch_size": 8, "seed": 1, "threads": 0, "prefetch": 0, **options}
    return closing(training_batches(store, indexes["train"], **options))


def take(batches, n):
    return [next(batches) for _ in range(n)]


def keys(batches):
    """Which windows batches hold: (recording, centre)."""
    return [
        list(zip(b["recording"].tolist(), b["time_s"].tolist(), strict=True))
        for b in batches
    ]


def flat(lists):
    return [item for items in lists for item in items]


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key in left.keys() - {"streams"}:
            np.testing.assert_array_equal(left[key], right[key])
        for name in left["streams"].keys() | right["streams"].keys():
            np.testing.assert_array_equal(left["streams"][name], right["streams"][name])


def test_a_batch_holds_what_was_recorded(source, store, indexes):
    with train(store, indexes) as batches:
        batch = next(batches)
    assert {k: (v.shape, v.dtype) for k, v in batch["streams"].items()} == {
        "video": ((8, 5, 1, 4, 4, 3), np.uint8),
        "current": ((8, 5, 2, 3), np.float32),
        "text": ((8, 5, 1), np.int32),
    }
    assert batch["mask"].all()
    assert (batch["label"].shape, batch["label"].dtype) == ((8, 5), np.int32)
    assert (batch["recording"].dtype, batch["time_s"].dtype) == (np.int32, np.float64)
    for row in range(8):
        recording = source.read(store.names[batch["recording"][row]])
        # Tick i of 1 fps frames is centred on frame i; the window on its third tick.
        frames = int(batch["time_s"][row]) + np.arange(-2, 3)
        video = recording.streams["video"]
        np.testing.assert_array_equal(
            batch["streams"]["video"][row, :, 0], video.values[frames]
        )
        np.testing.assert_array_equal(batch["label"][row], video.label[frames])
        # Wanted at -10.25 s and -9.75 s from the frame, 2 Hz: the earlier of two.
        current = recording.streams["current"].values
        earlier = np.maximum(2 * (frames[:, None] - 10) + [-1, 0], 0)
        np.testing.assert_array_equal(
            batch["streams"]["current"][row], current[earlier]
        )
        text = np.round((frames - 1e-3) / 4).astype(int)
        np.testing.assert_array_equal(batch["streams"]["text"][row, :, 0], text)


def test_every_epoch_is_another_order_of_all_windows(store, indexes):
    n = len(indexes["train"])
    with train(store, indexes, batch_size=4) as batches:
        steps = batches.steps_per_epoch
        epochs = [flat(keys(take(batches, steps))) for _ in range(3)]
    assert steps == n // 4
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == steps * 4
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(set(epochs[0]) & set(epochs[1])) >= n - 2 * 3


def test_batches_from_one_recording_each_in_another_order_every_epoch(store, indexes):
    index = indexes["train"]
    counts = np.bincount(index.recording)
    with train(store, indexes, batch_size=4, batch_from="recording") as batches:
        steps = batches.steps_per_epoch
        assert steps == (counts // 4).sum()
        epochs = [take(batches, steps) for _ in range(2)]
        state = batches.get_state()
        following = take(batches, 3)
    for epoch in epochs:
        seen = flat(keys(epoch))
        assert len(set(seen)) == len(seen) == steps * 4
        assert all(len(set(batch["recording"].tolist())) == 1 for batch in epoch)
    assert keys(epochs[0]) != keys(epochs[1])
    with train(store, indexes, batch_size=4, batch_from="recording") as batches:
        batches.set_state(state)
        assert keys(take(batches, 3)) == keys(following)
    with (
        train(store, indexes, batch_size=4) as batches,
        pytest.raises(ValueError, match="continues only the order"),
    ):
        batches.set_state(state)


def test_what_batches_may_be_drawn_from(store, indexes):
    with pytest.raises(ValueError, match="batch_from must be 'all' or 'recording'"):
        train(store, indexes, batch_from="furnace")
    size = len(indexes["train"]) + 1
    with pytest.raises(ValueError, match="a batch takes"):
        train(store, indexes, batch_from="recording", batch_size=size)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 20),
    st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_no_recording_is_lost_for_having_fewer_windows_than_a_batch(
    counts, size, epoch
):
    recording = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    index = FakeIndex(recording)
    assume(len(index) >= size)
    steps = pipeline.batches_per_epoch(index, size, "recording")
    drawn = pipeline._RecordingBatches(index.by_recording(), size, steps, seed=0)
    batches = np.array([drawn[epoch * steps + step] for step in range(steps)])
    assert batches.shape == (steps, size)
    short = {n for n, count in enumerate(counts) if count < size}
    for batch in batches:
        assert len(set(batch.tolist())) == size
        recordings = set(index.recording[batch].tolist())
        assert len(recordings) == 1 or recordings & short
    seen = np.bincount(index.recording[batches.ravel()], minlength=len(counts))
    if sum(counts[n] for n in short) < size:
        # All their windows in the one batch that they share.
        assert all(seen[n] >= counts[n] for n in short)
    for n in set(range(len(counts))) - short:
        assert seen[n] >= counts[n] // size * size


def test_over_some_epochs_every_window_of_a_short_recording_is_seen(store, indexes):
    index = indexes["train"]
    size = int(np.bincount(index.recording).max()) + 1
    short = pipeline.short_recordings(index, size, "recording")
    assert len(short) == len(np.unique(index.recording))
    with train(store, indexes, batch_size=size, batch_from="recording") as batches:
        assert batches.steps_per_epoch == len(index) // size
        seen = flat(keys(take(batches, 20 * batches.steps_per_epoch)))
    assert len(set(seen)) == len(index)


def test_a_run_that_left_short_recordings_out_does_not_go_on_with_them(store, indexes):
    size = int(np.bincount(indexes["train"].recording).max()) + 1
    with train(store, indexes, batch_size=size, batch_from="recording") as batches:
        state = batches.get_state()
        assert state.pop("recordings_sharing_batches") > 0
        with pytest.raises(ValueError, match="continues only the order"):
            batches.set_state(state)


class FakeIndex(WindowIndex):
    """As much of an index as the order of batches needs."""

    def __init__(self, recording: np.ndarray) -> None:
        segments = segments_of(recording, np.arange(len(recording)))
        ticks = mock.Mock(spec=Ticks, segments=segments)
        self.__dict__.update(start=np.arange(len(recording)), ticks=ticks)


def test_the_order_follows_from_the_seed(store, indexes):
    runs = []
    for seed in (1, 1, 2):
        with train(store, indexes, seed=seed) as batches:
            runs.append(keys(take(batches, 5)))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(store, indexes, threads):
    with (
        train(store, indexes) as alone,
        train(store, indexes, threads=threads, prefetch=3) as together,
    ):
        assert_same(take(alone, 40), take(together, 40))


@pytest.mark.parametrize("drawn", [0, 1, 7, 33])
def test_resuming_continues_bit_for_bit(store, indexes, drawn):
    with train(store, indexes, threads=2, prefetch=4) as batches:
        take(batches, drawn)
        state = json.loads(json.dumps(batches.get_state()))
        expected = take(batches, 6)
    with train(store, indexes) as resumed:
        take(resumed, 3)  # whatever was drawn before does not matter
        resumed.set_state(state)
        assert_same(expected, take(resumed, 6))
        assert resumed.get_state()["next_batch"] == drawn + 6


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.integers(0, 40))
@settings(deadline=None, max_examples=15)
def test_processes_share_batches_and_may_change_in_number(
    store, indexes, before, after, drawn
):
    with train(store, indexes) as alone:
        take(alone, drawn)
        expected = next(alone)
    with train(store, indexes, process_index=before - 1, process_count=before) as one:
        take(one, drawn)
        state = one.get_state()
    parts = []
    for process in range(after):
        options = {"process_index": process, "process_count": after}
        with train(store, indexes, **options) as share:
            share.set_state(state)
            parts.append(next(share))
    # The rows of process 0, then those of process 1, ...: as a mesh lays them out.
    joined = {
        key: np.concatenate([part[key] for part in parts])
        for key in expected.keys() - {"streams"}
    }
    joined["streams"] = {
        name: np.concatenate([part["streams"][name] for part in parts])
        for name in expected["streams"]
    }
    assert_same([expected], [joined])


@pytest.mark.parametrize("change", [{"seed": 2}, {"batch_size": 4}])
def test_a_state_of_another_order_is_refused(store, indexes, change):
    with train(store, indexes) as batches:
        state = batches.get_state()
    with (
        train(store, indexes, **change) as other,
        pytest.raises(ValueError, match=r"continues only the order"),
    ):
        other.set_state(state)
    shifted = build_index(
        store.timelines(),
        WindowSpec(
            samples_per_tick=WINDOW.samples_per_tick, window_ticks=5, lead_s=9.0
        ),
        SplitSpec(by="recording", validation=0.3),
    )
    with (
        train(store, shifted) as other,
        pytest.raises(ValueError, match=r"same data, windows, seed"),
    ):
        other.set_state(state)


def test_new_dates_of_raw_files_are_told_and_do_not_stop_a_run(
    store, indexes, monkeypatch, caplog
):
    with train(store, indexes) as batches:
        next(batches)
        state = batches.get_state()
        expected = next(batches)
    monkeypatch.setattr(store, "fingerprint", "of newer files")
    with train(store, indexes) as later:
        later.set_state(state)
        assert_same([expected], [next(later)])
    assert "other dates or sizes" in caplog.text


def test_another_clock_of_a_recording_is_another_order(store, indexes, monkeypatch):
    with train(store, indexes) as batches:
        state = batches.get_state()
    timelines = store.timelines()
    clock = timelines[1].streams["current"]
    later = dataclasses.replace(clock, time_s=clock.time_s + 0.01)
    timelines[1] = dataclasses.replace(
        timelines[1], streams={**timelines[1].streams, "current": later}
    )
    monkeypatch.setattr(store, "timelines", lambda: timelines)
    with (
        train(store, indexes) as other,
        pytest.raises(ValueError, match=r"continues only the order"),
    ):
        other.set_state(state)


def test_batches_must_fit_the_windows_and_the_processes(store, indexes):
    n = len(indexes["train"])
    with pytest.raises(ValueError, match=rf"takes {n + 1} windows; got {n}"):
        train(store, indexes, batch_size=n + 1)
    with pytest.raises(ValueError, match="multiple of 3"):
        train(store, indexes, process_count=3)
    with pytest.raises(ValueError, match=r"process_index must lie in \[0, 2\)"):
        train(store, indexes, process_index=2, process_count=2)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 12, 200])
def test_evaluation_counts_every_window_once(store, indexes, processes, batch_size):
    index = indexes["validation"]
    counted, lengths = [], set()
    for process in range(processes):
        batches = evaluation_batches(
            store,
            index,
            batch_size=batch_size,
            process_index=process,
            process_count=processes,
        )
        drawn = list(batches)
        lengths.add(len(drawn))
        assert len(drawn) == len(batches)
        for batch in drawn:
            assert len(batch["mask"]) == batch_size // processes
            assert (batch["label"][~batch["mask"]] == -1).all()
            counted += batch["time_s"][batch["mask"]].tolist()
    assert lengths == {-(-len(index) // batch_size)}
    assert sorted(counted) == sorted(index.time_s.tolist())


def test_evaluation_repeats_and_keeps_order(store, indexes):
    batches = evaluation_batches(store, indexes["validation"], batch_size=8)
    first, second = list(batches), list(batches)
    assert_same(first, second)
    assert_same([batches[1]], [first[1]])
    times = np.concatenate([b["time_s"][b["mask"]] for b in first])
    np.testing.assert_array_equal(times, indexes["validation"].time_s)
    empty = evaluation_batches(store, indexes["test"], batch_size=8)
    assert len(empty) == 0
    assert list(empty) == []
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_evaluation_may_be_left_early(store, indexes):
    batches = evaluation_batches(store, indexes["validation"], batch_size=4)
    for _ in batches:
        break
    assert len(list(batches)) == len(batches)


def test_statistics_are_of_the_samples_that_training_reads(source, store, indexes):
    index = indexes["train"]
    result = channel_statistics(store, index, ["video", "current", "text"])
    assert result.keys() == {"video", "current"}
    for name in result:
        read = {
            (int(index.recording[i]), sample)
            for i in range(len(index))
            for sample in index.samples(i)[name].ravel().tolist()
        }
        values = np.stack(
            [
                source.read(store.names[recording]).streams[name].values[sample]
                for recording, sample in sorted(read)
            ]
        ).astype(np.float64)
        axes = tuple(range(values.ndim - 1))
        for key, expected in (
            ("mean", values.mean(axes)),
            ("std", values.std(axes)),
        ):
            assert result[name][key].dtype == np.float32
            np.testing.assert_allclose(result[name][key], expected, rtol=1e-6)


def test_statistics_of_a_subsample_are_near_and_repeat(store, indexes):
    every = channel_statistics(store, indexes["train"], ["current"])["current"]
    some = channel_statistics(store, indexes["train"], ["current"], max_samples=60)[
        "current"
    ]
    again = channel_statistics(store, indexes["train"], ["current"], max_samples=60)[
        "current"
    ]
    np.testing.assert_array_equal(some["mean"], again["mean"])
    np.testing.assert_allclose(some["mean"][1:], every["mean"][1:], atol=1.5)
    np.testing.assert_allclose(some["mean"][0], every["mean"][0], rtol=0.05)


class OddValues(FakeSource):
    """Phase b never changes; phase c sits far from 0 and moves a little."""

    def read(self, name):
        recording = super().read(name)
        current = recording.streams["current"].values
        current[:, 1] = 7e4
        current[:, 2] = 1e4 + np.arange(len(current)) % 2
        return recording


def test_constant_channels_get_deviation_one(tmp_path):
    builder.prepare(OddValues((60, 70, 80)), tmp_path / "set", progress=False)
    store = RecordingStore(tmp_path / "set")
    index = build_index(store.timelines(), WINDOW, SplitSpec())["train"]
    current = channel_statistics(store, index, ["current"])["current"]
    np.testing.assert_allclose(current["mean"][1:], [7e4, 1e4 + 0.5], rtol=1e-4)
    assert current["std"][1] == 1.0
    assert current["std"][2] == pytest.approx(0.5, rel=1e-3)


def test_a_shard_damaged_later_surfaces_in_training(tmp_path):
    builder.prepare(FakeSource(), tmp_path / "set", progress=False)
    store = RecordingStore(tmp_path / "set", memory_bytes=0)
    index = build_index(store.timelines(), WINDOW, SplitSpec())["train"]
    for path in builder.config_directory(tmp_path / "set", "video").glob("*record*"):
        path.write_bytes(path.read_bytes()[:2000])
    options = {"batch_size": 4, "seed": 0, "threads": 2}
    with (
        closing(training_batches(store, index, **options)) as batches,
        pytest.raises(ValueError, match="delete that folder and prepare"),
    ):
        next(batches)


def test_real_clips_reach_the_batch(shared_data, tmp_path):
    source = RecordingFiles(str(shared_data / "g1_humanoid.npz"))
    builder.prepare(source, tmp_path / "set", progress=False)
    store = RecordingStore(tmp_path / "set", memory_bytes=1 << 20)
    window = WindowSpec(
        samples_per_tick={"video": 1, "current": 3}, window_ticks=20, tick_s=0.1
    )
    indexes = build_index(store.timelines(), window, SplitSpec(validation=0.2))
    assert indexes["train"].by == "clip"
    recorded = source.read("g1_humanoid")
    index: WindowIndex = indexes["validation"]
    assert len(set(index.clip.tolist())) == 2
    counted = 0
    for batch in evaluation_batches(store, index, batch_size=16):
        for row in np.flatnonzero(batch["mask"]):
            samples = index.samples(counted)
            for name, stream in recorded.streams.items():
                assert len(set(stream.clip[samples[name]].ravel().tolist())) == 1
                np.testing.assert_array_equal(
                    batch["streams"][name][row], stream.values[samples[name]]
                )
            middle_s = recorded.streams["video"].time_s[samples["video"][:, 0]].mean()
            assert abs(batch["time_s"][row] - middle_s) < 0.05
            counted += 1
    assert counted == len(index)


def test_nothing_is_printed_at_exit(store):
    code = (
        "import sys\n"
        "from fmalign_jax.data.windows.index import SplitSpec, WindowSpec\n"
        "from fmalign_jax.data.windows.index import build_index\n"
        "from fmalign_jax.data.pipeline import training_batches\n"
        "from fmalign_jax.data.store import RecordingStore\n"
        "store = RecordingStore(sys.argv[1])\n"
        "window = WindowSpec(samples_per_tick={'video': 1}, window_ticks=5)\n"
        "index = build_index(store.timelines(), window, SplitSpec())['train']\n"
        "batches = training_batches(store, index, batch_size=4, seed=0)\n"
        "next(batches)\n"
        "batches.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.directory)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
