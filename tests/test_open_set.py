"""Open set: rejections by hand, a head without a signal, classes that are held out."""

from unittest import mock

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.evaluation import open_set
from fmalign_jax.evaluation.files import open_set_rows
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.run.frozen_encoder import Encodings

CLASSES = tuple("abcdef")


def test_a_rejection_of_a_known_window_is_wrong():
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(4), 500)
    label, known = rng.integers(0, 4, 500), rng.uniform(size=500) < 0.6
    level = 0.45
    found = open_set.measures(label, probability, known, level)
    right = rejected = 0
    for own, row, is_known in zip(label, probability, known, strict=True):
        if is_known:
            right += max(row) >= level and max(row) == row[own]
        else:
            rejected += max(row) < level
    a_k, a_u = right / known.sum(), rejected / (~known).sum()
    assert found["known_accuracy"] == pytest.approx(a_k)
    assert found["unknown_rejected"] == pytest.approx(a_u)
    assert found["harmonic_mean"] == pytest.approx(2 * a_k * a_u / (a_k + a_u))
    nothing = open_set.measures(label, 0 * probability, known, 0.0)
    assert nothing["harmonic_mean"] == 0
    alone = open_set.measures(label, probability, known | True, level)
    assert alone["unknown_rejected"] is None
    assert alone["harmonic_mean"] is None


def _split(name, label):
    """Twelve windows a recording."""
    store = mock.Mock(spec=RecordingStore)
    windows = mock.Mock(spec=WindowIndex)
    windows.recording = np.arange(len(label)) // 12
    windows.clip = 0 * windows.recording
    split = LabelledWindows(name, "the run", store, windows, label)

    def chosen(rows):
        few = _split(name, label[rows])
        few.windows.recording = windows.recording[rows]
        return few

    object.__setattr__(split, "chosen", chosen)
    return split


@pytest.fixture
def asked():
    config = evaluation_config()
    config.update({"features": "semantic", "bootstrap_draws": 50})
    config.open_set.known = 4
    return config


def _made(signal, n):
    """Windows whose classes lie at `signal` times a place of their own."""
    rng = np.random.default_rng(1)
    splits = {name: _split(name, rng.integers(0, 6, n)) for name in ("head", "test")}
    places = signal * np.eye(6)

    def features(label):
        return places[label][:, None] + rng.normal(size=(n, 1, 6))

    encoded = {
        name: Encodings(
            codes={},
            vectors=None,
            semantic={m: features(own.label) for m in ("video", "current")},
            variates={},
            shared_codes={},
            shared_vectors=None,
        )
        for name, own in splits.items()
    }
    return encoded, EvaluationSplits(CLASSES, splits, None)


def _found(config, signal):
    encoded, splits = _made(signal, 1200)
    open_set.check(config, splits)
    return open_set.describe(encoded, splits, HeadSpec(l2=(0.01,)), config)


def test_without_a_signal_known_and_unknown_are_not_told_apart(asked):
    found = _found(asked, 0.0)
    assert len(found["known"]) == 4
    for own in found["directions"].values():
        assert own["auroc"] == pytest.approx(0.5, abs=0.05)
        # As many known as unknown windows are rejected: about one in twenty.
        assert own["unknown_rejected"] == pytest.approx(0.05, abs=0.04)
        assert own["harmonic_mean"] < 0.15
    assert list(found["directions"]) == [
        "video->current",
        "video->video",
        "current->current",
        "current->video",
    ]


def test_with_a_signal_they_are(asked):
    found = _found(asked, 6.0)
    own = found["directions"]["video->current"]
    assert own["auroc"] > 0.9
    assert own["interval"][0] < own["auroc"] < own["interval"][1]
    assert own["resampled"] == {"unit": "recording", "units": 100}
    assert own["known_accuracy"] == pytest.approx(0.95, abs=0.03)
    assert own["unknown_rejected"] > 0.5
    rows = open_set_rows(found)
    assert rows[0][0] == "4 known classes"
    assert rows[1][:2] == ["video->current", f"{own['auroc']:.3f}"]
    again = asked.copy_and_resolve_references()
    again.seed = 1
    assert _found(again, 6.0)["known"] != found["known"]  # drawn by the seed
    again.open_set.known = 0
    assert _found(again, 6.0) is None


def test_the_level_is_that_of_held_out_folds_of_the_known_classes(asked):
    encoded, splits = _made(1.0, 300)
    found = open_set.describe(encoded, splits, HeadSpec(l2=(0.01,)), asked)
    head = splits.head
    rows = np.isin(head.label, [CLASSES.index(name) for name in found["known"]])
    x = encoded["head"].semantic["video"]
    x = ((x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-6))[rows]
    label, group = head.label[rows], head.windows.recording[rows]
    held = []
    for own, out in GroupKFold(3).split(x, label, group):
        model = LogisticRegression(C=1 / (0.01 * len(own)), max_iter=2000)
        model.fit(x[own, 0], label[own])
        held += model.predict_proba(x[out, 0]).max(axis=1).tolist()
    for direction in ("video->current", "video->video"):
        level = found["directions"][direction]["level"]
        assert level == pytest.approx(np.quantile(held, 0.05), abs=1e-6)


@pytest.mark.parametrize("known", [1, 6, 7, -2])
def test_a_number_of_known_classes_that_leaves_nothing_is_refused(asked, known):
    asked.open_set.known = known
    with pytest.raises(ValueError, match=rf"head split, 6; got {known}; correct it"):
        _found(asked, 1.0)
