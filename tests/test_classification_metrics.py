"""Scores against their definitions, written out window by window."""

import numpy as np
import pytest
from sklearn import metrics as sk

from fmalign_jax.evaluation import classification_metrics
from fmalign_jax.evaluation.classification_metrics import METRICS, Predictions


def _predictions(label, probability, recording=None, clip=None):
    n = len(label)
    return Predictions(
        label=np.asarray(label, np.int64),
        probability=np.asarray(probability, np.float64),
        recording=np.zeros(n, int) if recording is None else np.asarray(recording),
        clip=np.zeros(n, int) if clip is None else np.asarray(clip),
    )


def _binary(label, score, **where):
    score = np.asarray(score, np.float64)
    return _predictions(label, np.stack([1 - score, score], axis=1), **where)


def _random(classes, n=60, seed=0, recordings=6):
    """Predictions of little skill, with many equal probabilities."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    votes = rng.integers(0, 4, (n, classes)) + 1.0
    votes[np.arange(n), label] += rng.integers(0, 3, n)
    recording = np.sort(rng.integers(0, recordings, n))
    return _predictions(
        label, votes / votes.sum(axis=1, keepdims=True), recording=recording
    )


def _area_by_pairs(positive, score):
    """AUROC as the share of (positive, negative) pairs in the right order."""
    above = score[positive][:, None] - score[~positive][None]
    return ((above > 0) + 0.5 * (above == 0)).mean()


def _average_precision(positive, score):
    """Sum over thresholds of precision times the gain in recall."""
    total, before = 0.0, 0.0
    for threshold in np.unique(score)[::-1]:
        called = score >= threshold
        recall = positive[called].sum() / positive.sum()
        total += positive[called].mean() * (recall - before)
        before = recall
    return total


def test_two_classes_by_the_definitions():
    label = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    score = np.array([0.9, 0.8, 0.7, 0.2, 0.95, 0.6, 0.3, 0.3, 0.2, 0.1])
    tp, fn, fp, tn = 3, 1, 2, 4
    found = classification_metrics.point_metrics(_binary(label, score))
    expected = {
        "accuracy": 7 / 10,
        "balanced_accuracy": (tp / 4 + tn / 6) / 2,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "auroc": _area_by_pairs(label == 1, score),
        "auprc": _average_precision(label == 1, score),
        "fdr": fp / (fp + tn),
        "mdr": fn / (fn + tp),
    }
    assert list(found) == list(METRICS)
    assert found == pytest.approx(expected, rel=1e-12)


def test_several_classes_are_averaged_over_those_that_occur():
    found = _random(5, seed=3)
    # Class 4 occurs in no label: predictions of it are errors, but it is no class.
    label = np.where(found.label == 4, 0, found.label)
    found = _predictions(label, found.probability)
    predicted = found.predicted
    assert (predicted == 4).any()
    names = ("f1", "precision", "recall", "auroc", "auprc", "fdr", "mdr")
    rows = {name: [] for name in names}
    for c in range(4):
        true, called = label == c, predicted == c
        tp, fp = (true & called).sum(), (~true & called).sum()
        fn, tn = (true & ~called).sum(), (~true & ~called).sum()
        rows["precision"].append(tp / (tp + fp))
        rows["recall"].append(tp / (tp + fn))
        rows["f1"].append(2 * tp / (2 * tp + fp + fn))
        rows["fdr"].append(fp / (fp + tn))
        rows["mdr"].append(fn / (fn + tp))
        rows["auroc"].append(_area_by_pairs(true, found.probability[:, c]))
        rows["auprc"].append(_average_precision(true, found.probability[:, c]))
    expected = {name: np.mean(values) for name, values in rows.items()}
    expected["accuracy"] = (predicted == label).mean()
    expected["balanced_accuracy"] = expected["recall"]
    assert classification_metrics.point_metrics(found) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_counted_metrics_are_those_of_scikit_learn(classes):
    found = _random(classes, seed=1)
    values = classification_metrics.point_metrics(found)
    averaged = {"average": "binary" if classes == 2 else "macro"}
    label, predicted = found.label, found.predicted
    assert values["f1"] == pytest.approx(sk.f1_score(label, predicted, **averaged))
    assert values["precision"] == pytest.approx(
        sk.precision_score(label, predicted, **averaged)
    )
    assert values["recall"] == pytest.approx(
        sk.recall_score(label, predicted, **averaged)
    )
    assert values["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(label, predicted)
    )


def test_nothing_called_positive_has_precision_zero():
    values = classification_metrics.point_metrics(_binary([1, 1, 0], [0.1, 0.2, 0.1]))
    assert (values["precision"], values["f1"], values["recall"]) == (0, 0, 0)
    assert values["auroc"] == pytest.approx(0.75)


def test_one_class_leaves_undefined_what_needs_two():
    normal = classification_metrics.score(
        _binary([0, 0, 0, 0], [0.9, 0.1, 0.2, 0.3]), draws=5, seed=0
    )
    assert normal["accuracy"] == 0.75
    assert normal["fdr"] == 0.25  # false alarms of a furnace that is always normal
    undefined = ("balanced_accuracy", "f1", "precision", "auroc", "auprc", "mdr")
    assert all(normal[name] is None for name in (*undefined, "recall"))
    assert all(normal["intervals"][name] is None for name in undefined)
    assert "only one class" in normal["note"]
    abnormal = classification_metrics.point_metrics(_binary([1, 1], [0.9, 0.1]))
    assert abnormal["mdr"] == abnormal["recall"] == 0.5
    assert abnormal["fdr"] is None


def test_no_label_at_all_measures_nothing():
    empty = classification_metrics.score(
        _predictions([], np.zeros((0, 2))), draws=5, seed=0
    )
    assert all(empty[name] is None for name in METRICS)
    assert "no window has a label" in empty["note"]


@pytest.mark.parametrize("classes", [2, 3])
def test_resampled_sets_are_scored_as_if_written_out(classes):
    found = _random(classes, n=40, seed=2)
    rng = np.random.default_rng(5)
    weight = rng.integers(0, 3, (30, len(found)))
    weight[0] = np.where(found.label == 0, weight[0], 0)  # one class only
    together = classification_metrics.resampled_metrics(found, weight)
    for draw, times in enumerate(weight):
        rows = np.repeat(np.arange(len(found)), times)
        alone = classification_metrics.point_metrics(
            _predictions(found.label[rows], found.probability[rows])
        )
        for name in METRICS:
            expected = np.nan if alone[name] is None else alone[name]
            np.testing.assert_allclose(together[name][draw], expected, rtol=1e-12)


def test_intervals_come_from_whole_recordings():
    # One recording all right, one all wrong: a draw has two, one or none of each.
    label = np.tile([0, 1], 20)
    right = np.repeat([True, False], 20)
    score = np.where(right == (label == 1), 0.9, 0.1)
    found = _binary(label, score, recording=np.repeat([3, 7], 20))
    values = classification_metrics.score(found, draws=400, seed=0)
    assert values["accuracy"] == 0.5
    assert values["intervals"]["accuracy"] == [0.0, 1.0]
    assert values["resampled"] == {"unit": "recording", "units": 2}
    assert "only 2 recordings" in values["note"]


def test_an_interval_is_the_middle_of_the_resampled_values():
    found = _random(2, n=200, seed=4, recordings=20)
    values = classification_metrics.score(found, draws=300, seed=9)
    rng = np.random.default_rng(9)
    units = np.unique(found.recording)
    drawn = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=300)
    accuracies = []
    for times in drawn:
        rows = np.concatenate(
            [
                np.flatnonzero(found.recording == unit)
                for unit, n in zip(units, times, strict=True)
                for _ in range(n)
            ]
        )
        accuracies.append((found.predicted[rows] == found.label[rows]).mean())
    np.testing.assert_allclose(
        values["intervals"]["accuracy"], np.percentile(accuracies, [2.5, 97.5])
    )
    low, high = values["intervals"]["accuracy"]
    assert low < values["accuracy"] < high
    assert values == classification_metrics.score(found, draws=300, seed=9)
    assert (
        values["intervals"]
        != classification_metrics.score(found, draws=300, seed=8)["intervals"]
    )


def test_each_recording_is_scored_by_its_own_windows():
    found = classification_metrics.by_recording(
        _binary([0, 1, 1, 0, 0, 0], [0.1, 0.9, 0.4, 0.2, 0.3, 0.8],
                recording=[0, 0, 0, 4, 4, 4])
    )  # fmt: skip
    assert found == {
        0: {"accuracy": 2 / 3, "balanced_accuracy": 0.75, "auroc": 1.0, "windows": 3},
        4: {"accuracy": 2 / 3, "balanced_accuracy": None, "auroc": None, "windows": 3},
    }


def test_units_are_recordings_else_clips_else_blocks():
    ones = np.zeros(6, int)
    clips = np.array([4, 4, 5, 5, 9, 9])
    name, unit = classification_metrics.resampling_units(clips, ones)
    assert (name, unit.tolist()) == ("recording", [0, 0, 1, 1, 2, 2])
    name, unit = classification_metrics.resampling_units(ones, clips)
    assert (name, unit.tolist()) == ("clip", [0, 0, 1, 1, 2, 2])
    name, unit = classification_metrics.resampling_units(
        np.zeros(25, int), np.zeros(25, int)
    )
    assert name == "block"
    assert (np.diff(unit) >= 0).all()
    assert np.bincount(unit).tolist() == [3, 2, 3, 2, 3, 2, 3, 2, 3, 2]
    assert classification_metrics.resampling_units(ones, ones)[1].tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]


def test_clips_pool_their_windows():
    found = _binary(
        [0, 0, 1, 1, 1, 0],
        [0.2, 0.4, 0.9, 0.6, 0.8, 0.1],
        recording=[0, 0, 0, 1, 1, 1],
        clip=[0, 0, 1, 0, 0, 0],
    )
    pooled = classification_metrics.by_clip(found)
    np.testing.assert_allclose(pooled.probability[:, 1], [0.3, 0.9, 0.5])
    assert pooled.label.tolist() == [0, 1, 1]
    assert pooled.recording.tolist() == [0, 0, 1]
    assert pooled.clip.tolist() == [0, 1, 0]
