"""Retrieval within a recording: ranks with ties, galleries, references."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from made_up_windows import segments_of
from ml_collections import ConfigDict

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.ticks import Ticks
from fmalign_jax.evaluation import retrieval
from fmalign_jax.evaluation.files import retrieval_rows
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.population import over_recordings
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.run.frozen_encoder import Encodings


def test_ranks_are_those_of_their_definition():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 4, (9, 9)).astype(float)  # many ties
    ranks, hits = [], {k: [] for k in retrieval.AT}
    for i, row in enumerate(score):
        better = sum(row[j] > row[i] for j in range(9))
        equal = sum(row[j] == row[i] for j in range(9) if j != i)
        ranks.append(1 + better + equal / 2)
        for k, found in hits.items():
            # The partner's place among the equal ones is drawn: count the good draws.
            found.append(np.mean([better + place < k for place in range(equal + 1)]))
    found = retrieval.measures(score)
    assert found["median_rank"] == np.median(ranks)
    assert found["normalised_rank"] == pytest.approx((np.mean(ranks) - 1) / 8)
    for k, expected in hits.items():
        assert found[f"recall@{k}"] == pytest.approx(np.mean(expected))


def test_features_that_are_all_alike_give_chance():
    alike = np.ones((46, 3, 4))
    found = retrieval.measures(retrieval.similarity(alike, alike))
    assert found["recall@1"] == pytest.approx(1 / 46)
    assert found["recall@10"] == pytest.approx(10 / 46)
    assert found["median_rank"] == 23.5
    assert found["normalised_rank"] == 0.5


def test_a_cosine_knows_no_length_and_nearness_does():
    rng = np.random.default_rng(1)
    first = rng.normal(size=(6, 5, 3))
    mean = first.mean(axis=1)
    cosine = mean @ mean.T / np.outer(*[np.linalg.norm(mean, axis=1)] * 2)
    np.testing.assert_allclose(retrieval.similarity(first, 7 * first), cosine)
    assert retrieval.measures(retrieval.similarity(first, 7 * first))["recall@1"] == 1
    distance = np.square(mean[:, None] - 7 * mean[None]).sum(axis=-1)
    np.testing.assert_allclose(retrieval.nearness(first, 7 * first), -distance)


def _windows(recording, start, length, label=None):
    """Windows over ticks, each of which is of a recording."""
    n = len(recording)
    number = np.asarray(recording, np.int32)
    label = np.zeros(n, np.int32) if label is None else np.asarray(label, np.int32)
    ticks = Ticks(
        samples={},
        usable=np.ones(n, bool),
        label=label,
        segments=segments_of(number, np.arange(n)),
    )
    return WindowIndex(ticks, np.asarray(start, np.int64), length, "recording")


def test_windows_of_a_gallery_share_no_tick():
    windows = _windows(
        [0] * 15 + [1] * 15 + [2] * 15, [0, 2, 4, 7, 8, 20, 22, 23, 40], 4
    )
    found = dict(retrieval.galleries(windows))
    np.testing.assert_array_equal(found[0], [0, 2, 4])
    # The second recording has one window without overlap, the third one window.
    assert set(found) == {0}


def _split(labels):
    """One recording, windows of ten ticks."""
    labels = np.asarray(labels)
    n = len(labels)
    store = mock.Mock(spec=RecordingStore)
    store.names, store.label_names = ("one",), ("a", "b")
    windows = _windows([0] * labels.size, 10 * np.arange(n), 10, labels.ravel())
    label = (labels.mean(axis=1) >= 0.5).astype(np.int64)
    return LabelledWindows("test", "the run", store, windows, label)


def _given(**semantic):
    """Encodings of given features."""
    return Encodings({}, None, semantic, {}, {}, None)


def test_references_know_the_labels_alone():
    """Two states, half of the windows each: 2k/N, and a quarter of the way down."""
    split = _split(np.repeat(np.arange(8) % 2, 10).reshape(8, 10))
    config = ConfigDict(
        {
            **{"retrieval": True, "source": "video", "target": "current"},
            **{"bootstrap_draws": 20, "seed": 0},
        }
    )
    splits = EvaluationSplits(("a", "b"), {"head": split, "test": split}, None)
    rng = np.random.default_rng(0)
    video = rng.normal(size=(8, 10, 3))
    given = {"test": _given(video=video, current=video[::-1])}
    found = retrieval.describe(given, ["semantic"], splits, config)
    label = found["references"]["label"]
    assert label["recall@1"] == pytest.approx(2 / 8)
    assert label["normalised_rank"] == pytest.approx(1.5 / 7)
    assert found["references"]["chance"]["recall@1"] == pytest.approx(1 / 8)
    assert found["references"]["label_share"]["recall@1"] == pytest.approx(2 / 8)
    assert found["windows"] == 8
    # The current is in the wrong order: partners are not found.
    assert found["features"]["semantic"]["video->current"]["recall@1"] < 0.5
    right = {"test": _given(video=video, current=2 * video)}
    found = retrieval.describe(right, ["semantic"], splits, config)
    assert found["features"]["semantic"]["current->video"]["recall@1"] == 1
    assert found["splits"]["test"]["features"] == found["features"]
    printed = retrieval_rows(found)
    assert [row[0] for row in printed[1:3]] == [
        "video->current, by semantic",
        "current->video, by semantic",
    ]
    assert printed[1][1] == "1"
    config.retrieval = False
    assert retrieval.describe(right, ["semantic"], splits, config) is None


def test_a_system_that_compares_other_than_features_is_asked_by_those():
    split = _split(np.repeat(np.arange(8) % 2, 10).reshape(8, 10))
    config = ConfigDict(
        {
            **{"retrieval": True, "source": "video", "target": "current"},
            **{"bootstrap_draws": 0, "seed": 0},
        }
    )
    splits = EvaluationSplits(("a", "b"), {"head": split, "test": split}, None)
    rng = np.random.default_rng(0)
    video, other, compared = (rng.normal(size=(8, 10, n)) for n in (3, 3, 2))
    given = dataclasses.replace(
        _given(video=video, current=other),
        compared=dict.fromkeys(("video", "current"), compared[:, :, None]),
    )
    seen = []

    def own(first, second):
        seen.append((first.shape, second.shape))
        return retrieval.nearness(first[:, :, 0], second[:, :, 0])

    found = retrieval.describe({"test": given}, ["semantic"], splits, config, own)
    assert found["features"]["semantic"]["video->current"]["recall@1"] == 1
    assert set(seen) == {((8, 10, 1, 2), (8, 10, 1, 2))}


def test_shares_of_ticks_find_more_than_labels():
    shares = np.arange(8)
    labels = np.arange(10) < shares[:, None]
    split = _split(labels.astype(int))
    found = retrieval._by_label(
        split,
        ("a", "b"),
        list(retrieval.galleries(split.windows)),
        lambda scores: over_recordings(
            ["one"], [retrieval.measures(own) for own in scores], draws=0, seed=0
        ),
    )
    assert found["label_share"]["recall@1"] == 1
    assert found["label"]["recall@1"] < 0.5
