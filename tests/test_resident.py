"""Windows that lie on the device are those that stream, bit for bit."""

import re
import types
from contextlib import closing

import jax
import numpy as np
import pytest
from fake_source import FakeSource, stream

from fmalign_jax.data.pipeline import evaluation_batches, training_batches
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.data.store import RecordingStore, builder
from fmalign_jax.data.windows.index import SplitSpec, WindowSpec, build_index
from fmalign_jax.data.windows.tables import tables_bytes, window_tables
from fmalign_jax.structs import Recording
from fmalign_jax.training import resident, sharding

SAMPLES = {"video": 1, "current": 2, "text": 1}
LAID = {
    "leading, overlapping": WindowSpec(
        samples_per_tick=SAMPLES, window_ticks=5, lead_s=10.0
    ),
    "apart, fewer samples than recorded": WindowSpec(
        samples_per_tick=SAMPLES, window_ticks=4, stride_ticks=7, tick_s=3.0
    ),
    "more samples than recorded": WindowSpec(
        samples_per_tick={"video": 2, "current": 5}, window_ticks=3, lead_s=-4.0
    ),
    "whole clips": WindowSpec(
        samples_per_tick=SAMPLES, window_ticks=6, mode="clip", max_gap_s=20.0
    ),
}


class Gaps(FakeSource):
    """Recordings that pause after a third, in clips that do not."""

    def read(self, name):
        recording = super().read(name)
        streams = {}
        for key, whole in recording.streams.items():
            n = len(whole.values)
            clip = np.arange(n) * 5 // n  # five of equal length
            rate_hz = 1 / np.diff(whole.time_s).min()
            paused = stream(
                whole.values, rate_hz, clip=clip.astype(np.int32), label=whole.label
            )
            paused.time_s[n // 3 :] += 25.0
            streams[key] = paused
        return Recording(name, streams, label_names=recording.label_names)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored") / "set"
    builder.prepare(Gaps((100, 120, 140)), directory, progress=False)
    return RecordingStore(directory, memory_bytes=2000)  # the tokens whole, no more


def _windows(store, laid):
    split = SplitSpec(by="recording", validation=0.3)
    return build_index(store.timelines(), LAID[laid], split)["train"]


@pytest.fixture(scope="module", params=LAID, ids=str)
def index(request, store):
    return _windows(store, request.param)


@pytest.fixture(scope="module")
def overlapping(store):
    return _windows(store, "leading, overlapping")


def _mesh(devices):
    return sharding.make_mesh(jax.devices()[:devices])


def _read(placed, batch, mesh, ticks):
    numbers = sharding.place_batch(batch, mesh)["window"]
    read = jax.jit(resident.gather, static_argnums=2)
    return read(placed, numbers, ticks)


def _assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("batch_from", ["all", "recording"])
def test_an_epoch_and_more_of_training_batches(store, index, batch_from):
    _assert_same_epoch(store, index, batch_size=4, devices=1, batch_from=batch_from)


def test_eight_devices_read_the_same(store, overlapping):
    _assert_same_epoch(store, overlapping, batch_size=16, devices=8, batch_from="all")


def _assert_same_epoch(store, index, *, batch_size, devices, batch_from):
    mesh, ticks = _mesh(devices), index.window_ticks
    placed = resident.place(store, index, mesh)
    options = {"seed": 3, "threads": 0, "batch_size": batch_size}
    options["batch_from"] = batch_from
    with (
        closing(training_batches(store, index, **options)) as streaming,
        closing(
            training_batches(store, index, indices_only=True, **options)
        ) as numbers,
    ):
        for _ in range(streaming.steps_per_epoch + 1):
            _assert_same_bits(
                _read(placed, next(numbers), mesh, ticks),
                sharding.place_batch(next(streaming), mesh),
            )
        assert numbers.get_state() == streaming.get_state()


def test_evaluation_batches_and_their_padding(store, index):
    mesh = _mesh(1)
    placed = resident.place(store, index, mesh)
    size = len(index) - 1  # a second batch of one window
    streaming = evaluation_batches(store, index, batch_size=size)
    numbers = evaluation_batches(store, index, batch_size=size, indices_only=True)
    assert len(numbers) == len(streaming) == 2
    for one, other in zip(numbers, streaming, strict=True):
        assert other["mask"].sum() in (size, 1)
        _assert_same_bits(
            _read(placed, one, mesh, index.window_ticks),
            sharding.place_batch(other, mesh),
        )


def test_each_way_continues_the_state_of_the_other(store, overlapping):
    mesh = _mesh(1)
    placed = resident.place(store, overlapping, mesh)
    for first, then in ((False, True), (True, False)):
        options = {"batch_size": 8, "seed": 5}
        with closing(
            training_batches(store, overlapping, indices_only=first, **options)
        ) as batches:
            for _ in range(3):
                next(batches)
            state = batches.get_state()
            expected = next(batches)
        with closing(
            training_batches(store, overlapping, indices_only=then, **options)
        ) as batches:
            batches.set_state(state)
            found = next(batches)
        numbers, streamed = (expected, found) if first else (found, expected)
        _assert_same_bits(
            _read(placed, numbers, mesh, overlapping.window_ticks),
            sharding.place_batch(streamed, mesh),
        )


def test_processes_share_the_numbers_as_they_share_the_windows(store, overlapping):

    def first(process, count):
        with closing(
            training_batches(
                store,
                overlapping,
                batch_size=8,
                seed=0,
                indices_only=True,
                process_index=process,
                process_count=count,
            )
        ) as batches:
            return next(batches)["window"]

    both = np.concatenate([first(0, 2), first(1, 2)])
    np.testing.assert_array_equal(both, first(0, 1))


def test_each_sample_is_kept_once_as_it_was_stored(store, index):
    tables = window_tables(store, index)
    for name, values in tables["values"].items():
        info = store.streams[name]
        assert values.dtype == info.dtype
        assert values.shape == (len(index.read_keys(name)), *info.value_shape)
        assert set(np.unique(tables["samples"][name])) == set(range(len(values)))
    taken = [tables["values"], tables["samples"]]
    assert tables_bytes(store, index) == sum(x.nbytes for x in jax.tree.leaves(taken))


def test_a_device_reads_its_rows_without_asking_another(store, overlapping):
    mesh = _mesh(8)
    placed = resident.place(store, overlapping, mesh)
    numbers = sharding.place_batch({"window": np.arange(16, dtype=np.int32)}, mesh)
    read = jax.jit(resident.gather, static_argnums=2)
    compiled = read.lower(placed, numbers["window"], overlapping.window_ticks).compile()
    for part in jax.tree.leaves(compiled.output_shardings):
        assert part.is_equivalent_to(sharding.batch_sharded(mesh), 1)
    exchanged = re.findall(
        r"all-gather|all-reduce|all-to-all|collective", compiled.as_text()
    )
    assert not exchanged


def test_what_does_not_fit_is_refused_before_anything_is_read(
    store, overlapping, monkeypatch
):
    needed = tables_bytes(store, overlapping)
    free = 2 * needed
    monkeypatch.setattr(sharding, "free_bytes", lambda devices: free)
    resident.place(store, overlapping, _mesh(1))
    free -= 1
    monkeypatch.setattr(store, "gather", None)
    with pytest.raises(
        ValueError, match=r"half of its free memory; got .* MB .*data\.resident=False"
    ):
        resident.place(store, overlapping, _mesh(1))


def test_free_memory_is_that_of_the_fullest_device():
    def device(limit, used):
        stats = {"bytes_limit": limit, "bytes_in_use": used}
        return types.SimpleNamespace(memory_stats=lambda: stats)

    devices = [device(100, 30), device(90, 60)]
    assert sharding.free_bytes(devices) == 30
    silent = types.SimpleNamespace(memory_stats=lambda: None)
    assert sharding.free_bytes([*devices, silent]) is None


def test_real_clips(shared_data, tmp_path):
    source = RecordingFiles(str(shared_data / "g1_humanoid.npz"))
    builder.prepare(source, tmp_path / "set", progress=False)
    store = RecordingStore(tmp_path / "set", memory_bytes=1 << 20)
    windows = WindowSpec(
        samples_per_tick={"video": 1, "current": 3}, window_ticks=20, tick_s=0.1
    )
    index = build_index(store.timelines(), windows, SplitSpec(validation=0.2))["train"]
    mesh = _mesh(1)
    placed = resident.place(store, index, mesh)
    with (
        closing(training_batches(store, index, batch_size=16, seed=0)) as streaming,
        closing(
            training_batches(store, index, batch_size=16, seed=0, indices_only=True)
        ) as numbers,
    ):
        for _ in range(5):
            _assert_same_bits(
                _read(placed, next(numbers), mesh, 20),
                sharding.place_batch(next(streaming), mesh),
            )
