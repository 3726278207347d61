"""Clocks to ticks to windows to splits, against slow and simple re-derivations."""

import collections
import itertools
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline
from fmalign_jax.data.windows.align import align
from fmalign_jax.data.windows.index import (
    SplitSpec,
    WindowSpec,
    assert_no_leak,
    build_index,
    whole_ticks,
)

NO_SPLIT = SplitSpec(by="recording", validation=0.0)


def clock(time_s, clip=None, label=None):
    time_s = np.asarray(time_s, np.float64)
    n = len(time_s)
    return StreamTimeline(
        time_s,
        np.zeros(n, np.int32) if clip is None else np.asarray(clip, np.int32),
        np.full(n, -1, np.int32) if label is None else np.asarray(label, np.int32),
    )


def regular(seconds=100, number=0, *, current_hz=2, label=None, **about):
    """Frames at 1 fps and a current at 2 Hz that start together."""
    streams = {
        "video": clock(np.arange(seconds), label=label),
        "current": clock(np.arange(seconds * current_hz) / current_hz),
    }
    return Timeline(f"r{number:02}", number, streams, **about)


def spec(window_ticks=5, current=2, **about):
    return WindowSpec(
        samples_per_tick={"video": 1, "current": current},
        window_ticks=window_ticks,
        **about,
    )


@st.composite
def clocks(draw):
    """A stream clock of a few clips, with missing, repeated and uneven times."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    period_s = draw(st.sampled_from([0.25, 0.5, 1.0, 1.7]))
    jitter = draw(st.sampled_from([0.0, 0.3]))
    keep = draw(st.sampled_from([1.0, 0.8]))
    repeat = draw(st.sampled_from([0.0, 0.2]))
    times, clips = [], []
    for clip in range(draw(st.integers(1, 3))):
        time_s = np.arange(rng.integers(4, 60)) * period_s
        time_s = time_s + jitter * period_s * rng.uniform(-0.5, 0.5, len(time_s))
        kept = rng.random(len(time_s)) < keep
        kept[:2] = True
        time_s = np.repeat(time_s[kept], 1 + (rng.random(kept.sum()) < repeat))
        times.append(np.round(np.sort(time_s) + 100 * clip, 3))
        clips.append(np.full(len(time_s), clip))
    clip = np.concatenate(clips)
    return np.concatenate(times), clip, rng.integers(-1, 3, len(clip))


# Plain arrays and arguments: the shape checks draw random numbers, which strategies
# must not.
recordings = st.lists(
    st.fixed_dictionaries({"video": clocks(), "current": clocks()}),
    min_size=1,
    max_size=4,
)
specs = st.fixed_dictionaries(
    {
        "window_ticks": st.integers(1, 6),
        "current": st.integers(1, 3),
        "stride_ticks": st.integers(1, 4),
        "tick_s": st.sampled_from([0.5, 1.0, 1.5]),
        "lead_s": st.sampled_from([-4.0, -1.25, 0.0, 0.5, 3.0, 6.0]),
        "max_gap_s": st.sampled_from([None, 0.6, 2.0]),
    }
)


def timelines_of(drawn):
    return [
        Timeline(f"r{i}", i, {name: clock(*arrays) for name, arrays in streams.items()})
        for i, streams in enumerate(drawn)
    ]


def period_s(stream):
    steps = [
        step
        for clip in set(stream.clip.tolist())
        for step in np.diff(stream.time_s[stream.clip == clip]).tolist()
        if step > 0
    ]
    return float(np.median(steps)) if steps else 0.0


def wanted_times(timeline, window, name, clip, tick):
    """Where the samples of one tick should lie, from the definition."""
    video = timeline.streams["video"]
    start_s = video.time_s[video.clip == clip].min() - period_s(video) / 2
    slots = window.samples_per_tick[name]
    lead_s = window.lead_s if name == "current" else 0.0
    return [
        start_s + (tick + (r + 0.5) / slots) * window.tick_s - lead_s
        for r in range(slots)
    ]


def tick_is_usable(timeline, window, clip, tick):
    for name, slots in window.samples_per_tick.items():
        stream = timeline.streams[name]
        time_s = stream.time_s[stream.clip == clip]
        limit_s = window.max_gap_s
        if limit_s is None:
            limit_s = max(window.tick_s / slots, 3 * period_s(stream))
        for target_s in wanted_times(timeline, window, name, clip, tick):
            if np.abs(time_s - target_s).min() > limit_s + 1e-9:
                return False
    return True


def expected_windows(timelines, window):
    """Every window by the definition: (recording, clip, first tick)."""
    for timeline in timelines:
        video, current = timeline.streams["video"], timeline.streams["current"]
        for clip in sorted(set(video.clip.tolist()) & set(current.clip.tolist())):
            time_s = video.time_s[video.clip == clip]
            span_s = time_s.max() - time_s.min() + period_s(video)
            n = int(np.floor(span_s / window.tick_s + 1e-6))
            usable = [tick_is_usable(timeline, window, clip, i) for i in range(n)]
            since = 0  # where this run of usable ticks began
            for first in range(n - window.window_ticks + 1):
                since = since if usable[first] else first + 1
                whole = all(usable[first : first + window.window_ticks])
                if whole and (first - since) % window.stride_ticks == 0:
                    yield timeline.number, clip, first


def try_index(timelines, window, split, **strides):
    try:
        return build_index(timelines, window, split, **strides)
    except ValueError as error:
        if not re.search("window|must not share samples", str(error)):
            raise
        return None


@given(recordings, specs)
@settings(deadline=None, max_examples=40)
def test_every_window_is_there_once_and_reads_the_nearest_samples(drawn, about):
    timelines, window = timelines_of(drawn), spec(**about)
    expected = list(expected_windows(timelines, window))
    indexes = try_index(timelines, window, NO_SPLIT)
    if indexes is None:
        assert not expected
        return
    index = indexes["train"]
    assert len(index) == len(expected)
    assert not len(indexes["validation"])
    for i, (number, clip, first) in enumerate(expected):
        timeline = timelines[number]
        assert (index.recording[i], index.clip[i]) == (number, clip)
        for name, samples in index.samples(i).items():
            stream = timeline.streams[name]
            assert (stream.clip[samples] == clip).all()
            time_s = stream.time_s[stream.clip == clip]
            for tick in range(window.window_ticks):
                targets_s = wanted_times(timeline, window, name, clip, first + tick)
                for sample, target_s in zip(samples[tick], targets_s, strict=True):
                    nearest_s = np.abs(time_s - target_s).min()
                    gap_s = abs(stream.time_s[sample] - target_s)
                    assert gap_s <= nearest_s + 2e-3 * period_s(stream) + 1e-9


@given(recordings, specs, st.integers(-3, 3))
@settings(deadline=None, max_examples=25)
def test_a_lead_of_whole_ticks_shifts_the_current_by_ticks(drawn, about, ticks):
    timelines, tick_s = timelines_of(drawn), about["tick_s"]
    near = align(timelines, spec(tick_s=tick_s, lead_s=0.0))
    late = align(timelines, spec(tick_s=tick_s, lead_s=ticks * tick_s))
    np.testing.assert_array_equal(near.samples["video"], late.samples["video"])
    np.testing.assert_array_equal(near.label, late.label)
    for segment in range(int(near.segment.max(initial=-1)) + 1):
        rows = np.flatnonzero(near.segment == segment)
        kept = rows[max(0, ticks) : max(0, len(rows) + min(0, ticks))]
        np.testing.assert_array_equal(
            late.samples["current"][kept], near.samples["current"][kept - ticks]
        )


@given(recordings, specs, st.randoms())
@settings(deadline=None, max_examples=20)
def test_the_order_of_recordings_does_not_matter(drawn, about, random):
    timelines, window = timelines_of(drawn), spec(**about)
    split = SplitSpec(by="auto", validation=0.3, test=0.2, seed=3)
    shuffled = list(timelines)
    random.shuffle(shuffled)
    one, other = (try_index(t, window, split) for t in (timelines, shuffled))
    assert (one is None) == (other is None)
    for name in one or {}:
        np.testing.assert_array_equal(one[name].start, other[name].start)
        np.testing.assert_array_equal(one[name].time_s, other[name].time_s)


@given(
    recordings,
    specs,
    st.sampled_from(["auto", "recording", "clip", "block"]),
    st.integers(1, 6),
)
@settings(deadline=None, max_examples=40)
def test_splits_share_no_sample(drawn, about, by, stride_ticks):
    timelines, window = timelines_of(drawn), spec(**about)
    split = SplitSpec(by=by, validation=0.3, test=0.2, seed=1)
    indexes = try_index(timelines, window, split, evaluation_stride_ticks=stride_ticks)
    if indexes is None:
        return
    read = {
        name: {
            (stream, int(index.recording[i]), sample)
            for i in range(len(index))
            for stream, samples in index.samples(i).items()
            for sample in samples.ravel().tolist()
        }
        for name, index in indexes.items()
    }
    for one, other in itertools.combinations(read.values(), 2):
        assert not one & other
    starts = np.concatenate([index.start for index in indexes.values()])
    assert len(set(starts.tolist())) == len(starts)


@given(recordings, st.sampled_from([0.5, 1.0, 2.0]))
@settings(deadline=None, max_examples=20)
def test_labels_are_the_majority_within_the_tick(drawn, tick_s):
    timelines = timelines_of(drawn)
    ticks = align(timelines, spec(tick_s=tick_s, lead_s=2.0))
    for row in range(len(ticks)):
        video = timelines[int(ticks.recording[row])].streams["video"]
        if (video.label == -1).all():
            continue
        inside = (
            (video.clip == ticks.clip[row])
            & (video.time_s >= ticks.start_s[row] - 1e-9)
            & (video.time_s < ticks.end_s[row] - 1e-9)
        )
        counts = collections.Counter(video.label[inside & (video.label >= 0)].tolist())
        if counts:
            most = max(counts.values())
            assert ticks.label[row] == min(k for k, n in counts.items() if n == most)


def test_regular_clocks_pair_each_frame_with_its_second():
    index = build_index([regular(20)], spec(4), NO_SPLIT)["train"]
    np.testing.assert_array_equal(index.samples(3)["video"][:, 0], [3, 4, 5, 6])
    # Wanted at 2.75, 3.25, ...: half-way between samples every 0.5 s, so the earlier.
    np.testing.assert_array_equal(
        index.samples(3)["current"], [[5, 6], [7, 8], [9, 10], [11, 12]]
    )
    assert index.time_s[3] == pytest.approx(4.5)


def test_a_positive_lead_reads_the_current_earlier():
    index = build_index([regular(100)], spec(4, lead_s=30.0), NO_SPLIT)["train"]
    # Samples exist from 0 s: 3 periods of 0.5 s before the first are near enough.
    assert index.time_s[0] == pytest.approx(30.5)
    i = int(np.flatnonzero(index.time_s == 50.5)[0])
    np.testing.assert_array_equal(index.samples(i)["video"][:, 0], [49, 50, 51, 52])
    np.testing.assert_array_equal(
        index.samples(i)["current"][:, 1] / 2, [19, 20, 21, 22]
    )


def test_ticks_without_near_samples_are_left_out():
    timeline = regular(40)
    current = timeline.streams["current"].time_s
    kept = clock(current[(current < 15) | (current > 25)])
    gapped = Timeline("r", 0, {**timeline.streams, "current": kept})
    index = build_index([gapped], spec(4, max_gap_s=0.5), NO_SPLIT)["train"]
    # Tick i wants i - 0.25 and i + 0.25; there are 14.5 and 25.5, so 14 and 26 are the
    # last and the first that have both within 0.5 s.
    starts_s = index.time_s - 1.5
    np.testing.assert_array_equal(starts_s, [*range(12), *range(26, 37)])


def test_labels_come_from_another_stream_where_the_reference_has_none():
    timeline = regular(20)
    label = (np.arange(40) >= 19).astype(np.int32)
    current = clock(timeline.streams["current"].time_s, label=label)
    labelled = Timeline("r", 0, {**timeline.streams, "current": current})
    index = build_index([labelled], spec(4, lead_s=5.0), NO_SPLIT)["train"]
    # The lead shifts values, never labels: they change at 9.5 s, where tick 10
    # begins.
    i = int(np.flatnonzero(index.time_s == 9.5)[0])
    np.testing.assert_array_equal(index.label(i), [0, 0, 1, 1])
    assert (build_index([regular(9)], spec(4), NO_SPLIT)["train"].label(0) == -1).all()


def test_class_numbers_may_be_large():
    label = np.where(np.arange(20) < 10, 2**31 - 1, 20240419)
    index = build_index([regular(20, label=label)], spec(4), NO_SPLIT)["train"]
    assert index.label(8).tolist() == [2**31 - 1] * 2 + [20240419] * 2


def test_a_clip_becomes_one_window_of_equal_segments():
    clip = np.repeat([0, 1], [30, 50])
    time_s = np.concatenate([np.arange(30) / 10, 20 + np.arange(50) / 10])
    sensor_clip = np.repeat([0, 1], [60, 40])
    sensor_s = np.concatenate([np.arange(60) / 20, 20 + np.arange(40) / 20])
    timeline = Timeline(
        "r", 0, {"video": clock(time_s, clip), "current": clock(sensor_s, sensor_clip)}
    )
    window = spec(5, mode="clip")
    index = build_index([timeline], window, NO_SPLIT)["train"]
    assert len(index) == 2
    np.testing.assert_array_equal(index.clip, [0, 1])
    # Clip 0 spans [-0.025, 2.95], clip 1 [19.975, 21.975]: the sensor ends first.
    for i, (start_s, end_s) in enumerate([(-0.025, 2.95), (19.975, 21.975)]):
        middle_s = start_s + (np.arange(5) + 0.5) * (end_s - start_s) / 5
        gap_s = np.abs(time_s[index.samples(i)["video"][:, 0]] - middle_s)
        assert gap_s.max() <= 0.05 + 1e-3
        assert index.time_s[i] == pytest.approx((start_s + end_s) / 2)


@pytest.mark.parametrize(
    ("recordings", "clips", "by"),
    [(3, 1, "recording"), (1, 6, "clip"), (2, 3, "clip"), (2, 1, "block")],
)
def test_auto_takes_recordings_then_clips_then_blocks(recordings, clips, by):
    timelines = [
        Timeline(
            f"r{i}",
            i,
            {
                name: clock(np.arange(clips * 60), np.repeat(np.arange(clips), 60))
                for name in ("video", "current")
            },
        )
        for i in range(recordings)
    ]
    indexes = build_index(timelines, spec(5), SplitSpec(validation=0.3))
    assert {index.by for index in indexes.values()} == {by}
    assert len(indexes["validation"])


def test_shares_pick_recordings_by_seed():
    timelines = [regular(60, i) for i in range(10)]

    def picked(seed):
        split = SplitSpec(by="recording", validation=0.3, test=0.1, seed=seed)
        indexes = build_index(timelines, spec(), split)
        return {k: set(v.recording.tolist()) for k, v in indexes.items()}

    first = picked(0)
    assert {k: len(v) for k, v in first.items()} == {
        "train": 6,
        "validation": 3,
        "test": 1,
    }
    assert set().union(*first.values()) == set(range(10))
    assert first == picked(0)
    assert any(first != picked(seed) for seed in range(1, 5))


def test_patterns_pick_recordings_and_clips():
    timelines = [regular(60, i) for i in range(4)]
    split = SplitSpec(validation_recordings=("r0[12]",), test_recordings=("*3",))
    indexes = build_index(timelines, spec(), split)
    assert set(indexes["validation"].recording.tolist()) == {1, 2}
    assert set(indexes["test"].recording.tolist()) == {3}
    assert set(indexes["train"].recording.tolist()) == {0}
    clips = np.repeat(np.arange(3), 20)
    named = Timeline(
        "r",
        0,
        {n: clock(np.arange(60), clips) for n in ("video", "current")},
        ("a", "b"),
    )
    split = SplitSpec(
        by="clip", validation_recordings=("r/b",), test_recordings=("r/2",)
    )
    indexes = build_index([named], spec(), split)
    assert set(indexes["validation"].clip.tolist()) == {1}
    assert set(indexes["test"].clip.tolist()) == {2}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lead_s", [-20.0, 0.0, 20.0])
def test_blocks_keep_a_window_and_the_lead_apart(seed, lead_s):
    split = SplitSpec(by="block", validation=0.2, test=0.2, seed=seed)
    indexes = build_index([regular(600)], spec(10, lead_s=lead_s), split)
    spans = {k: (v.time_s.min() - 5, v.time_s.max() + 5) for k, v in indexes.items()}
    for one, other in itertools.combinations(spans.values(), 2):
        (_, end_s), (start_s, _) = sorted([one, other])
        assert start_s - end_s >= 10 + abs(lead_s)
    assert 60 < len(indexes["validation"]) < 120
    wider = SplitSpec(by="block", validation=0.2, seed=seed, guard_s=100.0)
    train, validation, _ = build_index([regular(600)], spec(10), wider).values()
    apart_s = np.abs(train.time_s[:, None] - validation.time_s).min()
    assert apart_s == pytest.approx(110)


@given(recordings, specs, st.lists(st.integers(-4, 4), min_size=2, max_size=3))
@settings(deadline=None, max_examples=25)
def test_leads_that_are_read_together_have_the_same_windows(drawn, about, leads_s):
    timelines = timelines_of(drawn)
    about = {key: value for key, value in about.items() if key != "lead_s"}
    alone = [align(timelines, spec(**about, lead_s=float(own))) for own in leads_s]
    readable = np.logical_and.reduce([ticks.usable for ticks in alone])
    others = tuple(map(float, leads_s))
    for own, ticks in zip(leads_s, alone, strict=True):
        together = align(
            timelines, spec(**about, lead_s=float(own), other_leads_s=others)
        )
        np.testing.assert_array_equal(together.usable, readable)
        for name, samples in ticks.samples.items():
            np.testing.assert_array_equal(together.samples[name], samples)


@given(recordings, specs, st.lists(st.integers(-4, 4), min_size=2, max_size=3))
@settings(deadline=None, max_examples=25)
def test_several_leads_are_read_side_by_side(drawn, about, leads_s):
    timelines = timelines_of(drawn)
    first, *others = map(float, leads_s)
    leads = {"lead_s": first, "other_leads_s": tuple(others)}
    about = {key: value for key, value in about.items() if key != "lead_s"} | leads
    together = align(timelines, spec(**about, read_all_leads=True))
    at_first = align(timelines, spec(**about))
    np.testing.assert_array_equal(together.usable, at_first.usable)
    slots = at_first.samples["current"].shape[1]
    assert together.samples["current"].shape[1] == slots * len(leads_s)
    np.testing.assert_array_equal(together.samples["video"], at_first.samples["video"])
    parts = np.split(together.samples["current"], len(leads_s), axis=1)
    for own, part in zip(leads_s, parts, strict=True):
        alone = align(timelines, spec(**about | {"lead_s": float(own)}))
        np.testing.assert_array_equal(part, alone.samples["current"])


@given(recordings, specs, st.integers(-3, 3), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_a_range_of_leads_is_read_from_the_longest_to_the_least(
    drawn, about, least, wide
):
    timelines = timelines_of(drawn)
    about = {key: value for key, value in about.items() if key != "lead_s"}
    window_s = spec(**about).window_ticks * spec(**about).tick_s
    most = least + wide * window_s
    middle_s = (least + most) / 2
    ranged = spec(**about, lead_s=middle_s, lead_range_s=(float(least), most))
    found = align(timelines, ranged)
    leads_s = [most - n * window_s for n in range(wide + 1)]
    assert leads_s[-1] == pytest.approx(least)
    alone = [align(timelines, spec(**about, lead_s=lead_s)) for lead_s in leads_s]
    readable = np.logical_and.reduce([ticks.usable for ticks in alone])
    np.testing.assert_array_equal(found.usable, readable)
    expected = np.concatenate([ticks.samples["current"] for ticks in alone], axis=1)
    np.testing.assert_array_equal(found.samples["current"], expected)
    np.testing.assert_array_equal(found.samples["video"], alone[0].samples["video"])


def test_the_stretches_of_a_range_follow_one_another():
    # The current at 4 Hz: a window's stretches are one unbroken run of samples.
    video, current = clock(np.arange(0, 400)), clock(np.arange(0, 400, 0.25))
    timeline = Timeline("r", 0, {"video": video, "current": current})
    ranged = spec(10, lead_s=25.0, lead_range_s=(10.0, 40.0), current=4)
    index = build_index([timeline], ranged, SplitSpec(by="recording", validation=0.0))[
        "train"
    ]
    samples = index.samples(np.arange(len(index)))["current"]
    n, t, slots = samples.shape
    assert (t, slots) == (10, 16)
    ordered = samples.reshape(n, t, 4, 4).swapaxes(1, 2).reshape(n, -1)
    # (The first window reads the first sample for those just before it.)
    np.testing.assert_array_equal(np.diff(ordered[1:], axis=1), 1)
    # From 40 s before the window begins to 10 s before it ends.
    begin_s = index.time_s - 5.0
    first_s = current.time_s[ordered[:, 0]]
    last_s = current.time_s[ordered[:, -1]]
    np.testing.assert_allclose(first_s, begin_s - 40, atol=0.51)
    np.testing.assert_allclose(last_s, begin_s, atol=0.51)
    assert ranged.guard_ticks == 10 + 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lead_range_s": (10.0,)}, "the least and the most lead"),
        ({"lead_range_s": (10.0, float("nan"))}, "the least and the most lead"),
        ({"lead_range_s": (10.0, 35.0)}, r"2.5 windows .* use lead_range_s=\(10, 30\)"),
        ({"lead_range_s": (10.0, 10.0)}, r"0 windows .* use lead_range_s=\(10, 20\)"),
        ({"lead_range_s": (10.0, 30.0), "lead_s": 15.0}, r"=20, or .*\(5.0, 25.0\)"),
        (
            {"lead_range_s": (10.0, 30.0), "other_leads_s": (1.0,), "lead_s": 20.0},
            "other_leads_s be empty",
        ),
    ],
)
def test_a_range_of_leads_is_a_range(options, message):
    with pytest.raises(ValueError, match=message):
        spec(10, **options)


def test_blocks_keep_the_longest_of_several_leads_apart():
    split = SplitSpec(by="block", validation=0.2)
    window = spec(10, lead_s=5.0, other_leads_s=(-40.0, 0.0))
    train, validation, _ = build_index([regular(600)], window, split).values()
    apart_s = np.abs(train.time_s[:, None] - validation.time_s).min()
    assert apart_s >= 10 + 40


def clips_of(*seconds):
    """Clips of these lengths; the current is missing for the first 8 s of each."""
    clip = np.repeat(np.arange(len(seconds)), seconds)
    time_s = np.concatenate([np.arange(n) for n in seconds])
    late = time_s >= 8
    streams = {"video": clock(time_s, clip), "current": clock(time_s[late], clip[late])}
    return Timeline("r", 0, streams)


@pytest.mark.parametrize("by", ["clip", "auto"])
def test_the_stride_of_a_window_does_not_move_its_clip_to_another_split(by):
    timelines = [clips_of(*range(20, 50))]

    def picked(stride_ticks):
        window = spec(10, 1, stride_ticks=stride_ticks, max_gap_s=0.5)
        indexes = build_index(timelines, window, SplitSpec(by=by, validation=0.3))
        return {k: set(v.clip.tolist()) for k, v in indexes.items()}

    every = picked(1)
    assert (len(every["train"]), len(every["validation"])) == (21, 9)
    for stride_ticks in (3, 10, 30):
        assert picked(stride_ticks) == every


def test_training_and_validation_windows_may_have_strides_of_their_own():
    window = spec(10, 1, stride_ticks=2, max_gap_s=0.5)
    split = SplitSpec(by="clip", validation=0.3)
    indexes = build_index(
        [clips_of(*[40] * 10)], window, split, evaluation_stride_ticks=10
    )
    # 32 usable ticks a clip: windows start at 0, 2, ..., 22, and at 0, 10, 20.
    assert {k: len(v) for k, v in indexes.items()} == {
        "train": 7 * 12,
        "validation": 3 * 3,
        "test": 0,
    }
    with pytest.raises(ValueError, match="stride_ticks must be at least 1"):
        build_index([regular()], window, split, evaluation_stride_ticks=0)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_are_cut_from_ticks_that_every_stream_has(seed):
    # For the first 200 s of video there is no current that much earlier.
    window = spec(10, lead_s=200.0, stride_ticks=7)
    recording = regular(600)
    split = SplitSpec(by="block", validation=0.1, seed=seed)
    indexes = build_index([recording], window, split, evaluation_stride_ticks=30)
    # 401 ticks have both, 210 lie between the blocks: 0.1 * 191 = 19 for validation.
    assert len(indexes["validation"]) == 1
    assert indexes["validation"].time_s.min() > 200


def test_what_is_too_short_for_a_window_is_said(caplog):
    with caplog.at_level("WARNING"):
        build_index([clips_of(30, 12, 40, 9)], spec(20, 1), NO_SPLIT)
    assert "2 of 4 clips are shorter than a window of 20 ticks of 1 s" in caplog.text
    caplog.clear()
    build_index([clips_of(30, 40)], spec(20, 1), NO_SPLIT)
    assert not caplog.text


def given_timeline(gap_s=0.0, **partition):
    spans = {"train": ((0.0, 300.0),), "test": ((300.0 + gap_s, 400.0),), **partition}
    return regular(400, partition=spans)


def test_given_partitions_are_kept_and_a_short_guard_is_told():
    split = SplitSpec(by="given", validation=0.0)
    with pytest.warns(UserWarning, match="guard_s=30 drops"):
        indexes = build_index([given_timeline(20)], spec(10, lead_s=20.0), split)
    assert indexes["train"].time_s.max() == pytest.approx(294.5, abs=0.6)
    assert indexes["test"].time_s.min() == pytest.approx(325.5, abs=0.6)
    strict = SplitSpec(by="given", validation=0.0, guard_s=30.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        indexes = build_index([given_timeline(20)], spec(10, lead_s=20.0), strict)
    assert indexes["train"].time_s.max() == pytest.approx(284.5, abs=0.6)


def test_what_a_partition_does_not_name_is_cut_from_its_training_part():
    split = SplitSpec(by="given", validation=0.2)
    indexes = build_index([given_timeline(30)], spec(10), split)
    validation = indexes["validation"]
    assert len(validation)
    assert validation.time_s.max() < 300
    apart_s = np.abs(indexes["train"].time_s[:, None] - validation.time_s).min()
    assert apart_s >= 20


@pytest.mark.filterwarnings("ignore:in 'r00' training lies nearer")
def test_a_partition_that_leaks_is_refused():
    # One current sample in 10 s, and one on the border: both sides read it.
    timeline = given_timeline()
    slow = {**timeline.streams, "current": clock(np.arange(0, 400, 10))}
    leaking = Timeline("r00", 0, slow, partition=timeline.partition)
    with pytest.raises(ValueError, match=r"share samples.*'current'.*guard_s"):
        build_index([leaking], spec(10, 1), SplitSpec(by="given", validation=0.0))
    split = SplitSpec(by="given", validation=0.0, guard_s=10.0)
    assert build_index([leaking], spec(10, 1), split)["test"].by == "given"


def test_shared_samples_are_found_in_any_stream():
    index = build_index([regular(60)], spec(5), NO_SPLIT)["train"]
    early, late = (
        type(index)(index.ticks, index.start[part], index.window_ticks, "block")
        for part in (slice(0, 10), slice(14, 20))
    )
    # Windows 0-9 read frames 0-13 and samples up to 26, windows 14- from 14 and 27 on.
    assert_no_leak({"train": early, "validation": late})
    closer = type(index)(index.ticks, index.start[13:], index.window_ticks, "block")
    with pytest.raises(ValueError, match="must not share samples; got 1 samples"):
        assert_no_leak({"train": early, "validation": closer})


@pytest.mark.parametrize(
    ("window", "split", "message"),
    [
        (spec(101), NO_SPLIT, r"longest is 100 ticks = 100 s"),
        (spec(5, lead_s=500.0), NO_SPLIT, r"0 such ticks of 100 .*smaller lead_s"),
        (spec(80), SplitSpec(by="block"), r"validation split must have windows"),
        (spec(5), SplitSpec(by="recording"), r"train split must have windows"),
        (spec(5), SplitSpec(by="given"), r"came with a partition; got 'r00'"),
        (
            spec(5),
            SplitSpec(by="recording", validation_recordings=("x*",)),
            r"patterns must match .*'x\*'.*names are r00",
        ),
        (
            spec(5, mode="clip"),
            SplitSpec(by="block"),
            r"whole clips cannot be split by block",
        ),
        (
            WindowSpec(samples_per_tick={"video": 1, "text": 1}, window_ticks=5),
            NO_SPLIT,
            r"must have the streams.*'r00'.*\['text'\] out of data.samples_per_tick",
        ),
        (spec(5, tick_s=1e-9), NO_SPLIT, r"got 1e\+11 of tick_s=1e-09 in 100 s"),
    ],
)
def test_what_cannot_work_says_why_and_what_to_do(window, split, message):
    with pytest.raises(ValueError, match=message):
        build_index([regular(100)], window, split)


def test_unknown_parts_of_a_partition_are_refused():
    odd = given_timeline(holdout=((0.0, 1.0),))
    with pytest.raises(ValueError, match="holdout"):
        build_index([odd], spec(5), SplitSpec(by="given"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "whole"}, "mode must be one of"),
        ({"window_ticks": 0}, "window_ticks must be at least 1"),
        ({"current": 0}, "samples_per_tick"),
        ({"tick_s": 0.0}, "tick_s must be positive"),
        ({"lead_s": float("nan")}, "lead_s must be finite"),
        ({"lead_s": 1.0, "mode": "clip"}, "lead_s must be 0"),
        ({"other_leads_s": (1.0,), "mode": "clip"}, "lead_s must be 0; got 1.0"),
        ({"lead_s": 1.0, "leading_stream": "video"}, "name two"),
        ({"reference_stream": "audio"}, "reference_stream must be one of"),
    ],
)
def test_window_specs_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        spec(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "hour"}, "must be one of"),
        ({"validation": 0.6, "test": 0.4}, "leave some for training"),
        ({"validation": -0.1}, "must not be negative"),
        ({"guard_s": -1.0}, "guard_s"),
        ({"by": "block", "test_recordings": ("a",)}, "patterns pick"),
    ],
)
def test_split_specs_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        SplitSpec(**fields)


def test_lengths_must_be_whole_ticks():
    assert whole_ticks("window_s", 3.0, 0.1) == 30
    with pytest.raises(ValueError, match=r"window_s=0.48 or 0.52") as error:
        whole_ticks("window_s", 0.5, 0.04)
    assert "12.5" in str(error.value)
    with pytest.raises(ValueError, match="positive"):
        whole_ticks("window_s", 0.0, 1.0)


def test_real_clips_become_windows(shared_data):
    source = RecordingFiles(str(shared_data / "utd_mhad_s[12].npz"))
    timelines = []
    for number, name in enumerate(source.names()):
        recording = source.read(name)
        streams = {
            key: StreamTimeline(stream.time_s, stream.clip, stream.label)
            for key, stream in recording.streams.items()
        }
        timelines.append(Timeline(name, number, streams, recording.clip_names))
    window = spec(10, 6, mode="clip")
    indexes = build_index(timelines, window, SplitSpec(validation=0.2))
    assert indexes["train"].by == "clip"
    assert sum(map(len, indexes.values())) == 107 + 108
    for index in indexes.values():
        for i in range(len(index)):
            video = timelines[int(index.recording[i])].streams["video"]
            own = video.label[video.clip == index.clip[i]]
            assert set(index.label(i).tolist()) == set(own.tolist())
            assert (np.diff(index.samples(i)["video"][:, 0]) > 0).all()
