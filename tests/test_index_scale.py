"""The compact index is the plain one: same windows, samples, batches and digests."""

import json
import math
import pathlib
import sys
import zlib
from contextlib import closing

import numpy as np
import pytest

from fmalign_jax.data import pipeline
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline
from fmalign_jax.data.windows.index import SplitSpec, WindowSpec, build_index
from fmalign_jax.structs import UNLABELLED

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import index_scale  # noqa: E402

SEEDS = range(12)


def _timelines(rng, *, labelled):
    """Recordings of a few clips, uneven clocks and lost samples; names out of order."""
    clips = int(rng.integers(1, 4))

    def stream():
        period_s = rng.choice([0.5, 1.0, 1.7])
        times, clip = [], []
        for number in range(clips):
            n = int(rng.integers(20, 70))
            time_s = (np.arange(n) + rng.uniform(-0.2, 0.2, n)) * period_s
            kept = rng.random(n) < 0.9
            kept[:2] = True
            times.append(time_s[kept] + 200 * number)
            clip.append(np.full(kept.sum(), number, np.int32))
        clip = np.concatenate(clip)
        label = rng.integers(0, 3, len(clip)) if labelled else clip * 0 + UNLABELLED
        return StreamTimeline(np.concatenate(times), clip, label.astype(np.int32))

    names = rng.permutation(5)
    return [
        Timeline(f"r{names[i]}", i, {"video": stream(), "current": stream()})
        for i in range(5)
    ]


def _indexes(seed):
    rng = np.random.default_rng(seed)
    timelines = _timelines(rng, labelled=seed % 2 == 0)
    spec = WindowSpec(
        samples_per_tick={"video": 1, "current": int(rng.integers(1, 4))},
        window_ticks=int(rng.integers(1, 6)),
        stride_ticks=int(rng.integers(1, 9)),
        lead_s=float(rng.choice([0.0, 3.0])),
        max_gap_s=[None, 0.6][seed % 2],
    )
    by = ("recording", "clip", "block")[seed % 3]
    split = SplitSpec(by=by, seed=seed)
    return timelines, spec, build_index(timelines, spec, split)


def _plain_starts(segment, good, n, stride):
    """The starts by one number a tick: the offset of each within its run."""
    fresh = np.diff(segment, prepend=-1) != 0
    begins = good & (fresh | ~np.append(False, good)[:-1])
    tick = np.flatnonzero(good)
    _, first, run, length = np.unique(
        np.cumsum(begins)[tick],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    offset = np.arange(len(tick)) - first[run]
    return tick[(offset % stride == 0) & (offset + n <= length[run])]


def _plain_epoch(recording, size, seed, epoch):
    """The batches of one recording each, with all windows of an epoch in int64."""
    rng = np.random.default_rng([seed, epoch])
    batches, short, others = [], [], []
    for number in np.unique(recording):
        windows = rng.permutation(np.flatnonzero(recording == number))
        if len(windows) < size:
            short.append(windows)
            continue
        batches.append(windows[: len(windows) // size * size].reshape(-1, size))
        others.append(windows)
    if short:
        mixed = rng.permutation(np.concatenate(short))
        full = max(len(mixed) // size, 1) * size
        if len(mixed) < full:
            mixed = np.append(mixed, rng.permutation(np.concatenate(others)))
        batches.append(mixed[:full].reshape(-1, size))
    return rng.permutation(np.concatenate(batches))


@pytest.mark.parametrize("seed", SEEDS)
def test_windows_start_where_one_number_a_tick_says(seed):
    _, spec, indexes = _indexes(seed)
    ticks = indexes["train"].ticks
    for index in indexes.values():
        covered = np.zeros(len(ticks), bool)
        covered[index.rows(np.arange(len(index)))] = True
        assert index.read_ticks().tolist() == np.flatnonzero(covered).tolist()
    if indexes["train"].by == "block":
        return
    unit = ticks.recording if indexes["train"].by == "recording" else ticks.segment
    for index in indexes.values():
        own = ticks.usable & np.isin(unit, unit[index.start])
        args = (spec.window_ticks, spec.stride_ticks)
        assert index.start.tolist() == _plain_starts(ticks.segment, own, *args).tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_that_are_read_are_those_of_all_windows(seed):
    for index in _indexes(seed)[2].values():
        windows = np.arange(len(index))
        for stream, samples in index.samples(windows).items():
            recording = np.broadcast_to(
                index.recording[:, None, None], samples.shape
            ).ravel()
            pairs = sorted(
                set(zip(recording.tolist(), samples.ravel().tolist(), strict=True))
            )
            numbers, positions = index.reads(stream)
            found = zip(numbers.tolist(), positions.tolist(), strict=True)
            assert list(found) == pairs


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [2, 7, 40])
def test_batches_of_one_recording_are_drawn_as_before(seed, size):
    timelines, _, indexes = _indexes(seed)
    index = indexes["train"]
    if len(index) < size:
        size = len(index)
    recording = index.ticks.recording[index.start]
    expected = np.concatenate(
        [_plain_epoch(recording, size, seed, epoch) for epoch in range(2)]
    )
    with closing(
        pipeline.training_batches(
            index_scale.MadeUpStore(timelines),
            index,
            batch_size=size,
            seed=seed,
            batch_from="recording",
            indices_only=True,
            threads=0,
        )
    ) as batches:
        assert 2 * batches.steps_per_epoch == len(expected)
        drawn = [next(batches)["window"] for _ in expected]
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_digest_is_that_of_64_bits_a_number(seed, monkeypatch):
    monkeypatch.setattr(pipeline, "_DIGESTED", 7)
    timelines, _, indexes = _indexes(seed)
    index = indexes["train"]
    text = b"all" + index.start.astype(np.int64).tobytes()
    for stream in ("current", "video"):
        text += index.ticks.samples[stream].astype(np.int64).tobytes()
    for timeline in timelines:
        text += timeline.name.encode()
        for stream in ("current", "video"):
            clock = timeline.streams[stream]
            text += stream.encode() + clock.time_s.tobytes() + clock.clip.tobytes()
    store = index_scale.MadeUpStore(timelines)
    assert pipeline.windows_digest(store, index, "all") == zlib.crc32(text)


def test_a_window_of_three_samples_a_tick_takes_seventeen_bytes():
    timelines = index_scale.make_clocks(3, 300)
    spec = WindowSpec(samples_per_tick=index_scale.RATES_HZ, window_ticks=5)
    indexes = build_index(timelines, spec, SplitSpec(by="recording"))
    ticks = indexes["train"].ticks
    tables = [*ticks.samples.values(), ticks.usable]
    assert sum(table.nbytes for table in tables) == len(ticks) * (3 * 4 + 1)
    assert ticks.label.strides == (0,)  # nothing is labelled
    assert {index.start.itemsize for index in indexes.values()} == {4}
    # Nothing of one number a tick beside them.
    assert set(vars(ticks)) == {"samples", "usable", "label", "segments"}


def test_a_size_is_measured():
    found = index_scale.measure_size(900, recording_s=400)
    assert found["recordings"] == 3
    assert found["windows"] == found["ticks"] - 3 * (index_scale.WINDOW_TICKS - 1)
    assert found["peak_bytes"] >= found["index_peak_bytes"] > found["before_bytes"] / 2
    assert found["first_batch_crc32"] != found["by_recording_crc32"]
    assert all(found[f"{name}_s"] > 0 for name in ("index", "first_batch"))


def test_linear_growth_has_power_one_and_tells_the_next_size():
    def run(windows, power):
        grown = windows**power
        return {
            "windows": windows,
            "before_bytes": 1000,
            "peak_bytes": 1000 + grown,
            "by_recording_peak_bytes": 1000 + 2 * grown,
            "index_cpu_s": 3 * grown,
            "first_batch_cpu_s": grown,
        }

    linear, square = (
        index_scale.slopes([run(100, power), run(1000, power)])[0] for power in (1, 2)
    )
    keys = ("index_cpu_s", "first_batch_cpu_s", "peak_bytes")
    assert [linear[key] for key in keys] == pytest.approx([1, 1, 1])
    assert [square[key] for key in keys] == pytest.approx([2, 2, 2])
    assert index_scale.would_take([run(100, 1)], 1000) == 1000 + 2 * 1000
    assert index_scale.would_take([], 1000) == 0


@pytest.mark.parametrize("page", ["scale.md", "scale.zh.md"])
def test_the_page_shows_what_was_measured(page):
    results = ROOT / "benchmarks" / "results" / "index_scale.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert found["runs"]
    for run in found["runs"]:
        assert index_scale.row(run) in text
    largest = found["runs"][-1]
    assert math.isclose(
        largest["bytes_per_window"], largest["held_bytes"] / largest["windows"]
    )
