"""The few-shot curve: which windows heads are given, and what is said of the draws."""

import numpy as np
import pytest
from made_up_windows import evaluation_splits
from sklearn.metrics import balanced_accuracy_score

from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.evaluation import few_shot, heads, prototype_heads
from fmalign_jax.evaluation.files import few_shot_rows
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.splits import HEAD
from fmalign_jax.run.frozen_encoder import Encodings


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(few_shot, "DRAWS", 3)
    monkeypatch.setattr(prototype_heads, "EPISODES", 5)
    prototype_heads._taught.clear_cache()


def _world(seed=0, windows=60):
    """Continuous features in which video and current show the class alike."""
    rng = np.random.default_rng(seed)
    labels = {name: rng.integers(0, 2, windows) for name in (HEAD, "test")}
    labels[HEAD][:8] = -1
    encoded = {}
    for name, label in labels.items():
        z = {m: rng.normal(size=(windows, 4, 5)) for m in ("video", "current")}
        for values in z.values():
            values[:, :, 0] += 2 * label[:, None]
        encoded[name] = Encodings({}, None, z, {}, {}, None)
    return encoded, evaluation_splits(labels, recordings=2)


def _config(**changes):
    config = evaluation_config()
    config.update({"features": "semantic", "standardise": "none", "few_shot": True})
    config.update(changes)
    return config


def test_it_is_said_only_if_asked_for():
    assert few_shot.describe(*_world(), HeadSpec(), _config(few_shot=False)) is None


def test_windows_are_drawn_of_every_class_and_the_same_for_all_heads():
    label = _world()[1].head.label
    drawn = few_shot._drawn(label, 7, seed=0)
    assert len(drawn) == 3
    for rows in drawn:
        assert len(set(rows)) == 14
        np.testing.assert_array_equal(np.bincount(label[rows]), [7, 7])
    assert len({tuple(rows) for rows in drawn}) == 3
    again = few_shot._drawn(label, 7, seed=0)
    np.testing.assert_array_equal(drawn, again)
    assert not np.array_equal(drawn, few_shot._drawn(label, 7, seed=1))


def test_the_curve_is_that_of_heads_on_the_windows_drawn():
    encoded, splits = _world()
    spec = HeadSpec(l2=(0.5, 1.0))
    found = few_shot.describe(encoded, splits, spec, _config())
    least = np.bincount(splits.head.label[splits.head.known]).min()
    assert found["labelled"] == [n for n in (1, 2, 5, 10, 25, 50) if n <= least]
    test = splits.by_name["test"]
    for fitted in ("video", "current"):
        for name, one in (
            ("prototypes", HeadSpec(kind="prototypes")),
            ("logistic", HeadSpec(l2=(0.5,))),
        ):
            curve = found["heads"][name][f"{fitted}->current"]
            assert len(curve) == len(found["labelled"])
            scores = []
            for rows in few_shot._drawn(splits.head.label, 5, seed=0):
                head = heads.fit(
                    one,
                    encoded[HEAD].semantic[fitted][rows],
                    splits.head.label[rows],
                    classes=2,
                    groups=splits.head.windows.recording[rows],
                    seed=0,
                )
                said = head.predict(encoded["test"].semantic["current"]).argmax(axis=1)
                scores.append(
                    [balanced_accuracy_score(test.label, said)]
                    + [
                        balanced_accuracy_score(test.label[own], said[own])
                        for own in (slice(0, 30), slice(30, None))
                    ]
                )
            own = curve[found["labelled"].index(5)]
            mean = np.mean(scores, axis=0)
            assert own["balanced_accuracy"] == pytest.approx(mean[0])
            assert own["deviation"] == pytest.approx(np.std(scores, axis=0, ddof=1)[0])
            assert list(own["by_recording"].values()) == pytest.approx(mean[1:])
            assert own["draws"] == 3
    better = [
        own["balanced_accuracy"]
        for own in found["heads"]["prototypes"]["video->current"]
    ]
    assert better[-1] > better[0]


def test_heads_that_need_more_windows_say_so():
    encoded, splits = _world()
    found = few_shot.describe(encoded, splits, HeadSpec(), _config())
    # One window a class: never two recordings of both.
    first, *others = found["heads"]["episodic"]["video->current"]
    assert first == {
        **{"balanced_accuracy": None, "deviation": None, "by_recording": None},
        "draws": 0,
    }
    assert others[-1]["draws"] == 3
    # Five windows of a recording come in draws of ten; before, both forms are one.
    plain, apart = (
        [own["balanced_accuracy"] for own in found["heads"][name]["video->current"]]
        for name in ("prototypes", "per_recording")
    )
    assert plain[:2] == apart[:2]
    assert plain[-1] != apart[-1]
    printed = few_shot_rows(found)
    assert printed[0] == ["labelled windows a class", *map(str, found["labelled"])]
    assert {len(row) for row in printed} == {1 + len(found["labelled"])}
    assert next(row for row in printed if "episodic" in row[0])[1] == "-"


def test_a_recording_of_one_class_has_no_balanced_accuracy():
    encoded, splits = _world()
    splits.by_name["test"].label[:30] = 1
    found = few_shot.describe(encoded, splits, HeadSpec(), _config())
    own = found["heads"]["prototypes"]["video->current"][0]["by_recording"]
    assert own["test_0"] is None
    assert own["test_1"] is not None
