"""Labels may choose the checkpoint, when asked to; they never change what is learnt."""

import json

import jax
import labelled_recordings
import numpy as np
import pytest
import tiny

from fmalign_jax import train
from fmalign_jax.evaluation import labelled_windows
from fmalign_jax.evaluation.probe import LabelledValidation
from fmalign_jax.run.frozen_encoder import EncoderState, FrozenEncoder
from fmalign_jax.structs import UNLABELLED
from fmalign_jax.training import setup

pytestmark = pytest.mark.usefixtures("one_device")

PAIRS = {f"zero_shot/{a}->{b}" for a in tiny.STATISTICS for b in tiny.STATISTICS}


def _config(folder, **changes):
    config = tiny.tiny_config(folder)
    config.max_steps = 4
    config.labelled_validation = True
    config.score = "zero_shot/video->current"
    with config.unlocked():
        config.update(changes)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    labelled_recordings.write(folder / "raw", recordings=3)
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    state, summary = train.train(_config(folder), folder / "run")
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return state, summary, [line for line in found if line["split"] == "validation"]


def test_every_direction_is_reported_and_the_best_is_kept(finished):
    _, summary, lines = finished
    assert lines
    for line in lines:
        assert line.keys() >= PAIRS
        assert all(0 <= line[name] <= 1 for name in PAIRS)
    assert summary["best_score"] == max(x["zero_shot/video->current"] for x in lines)


def test_the_score_is_that_of_the_nearest_class_mean(finished, folder):
    state, _, lines = finished
    config = _config(folder)
    data = setup.load_data(config)
    encoder = FrozenEncoder(config, ["current", "video"], train.sharding.make_mesh())
    frozen = EncoderState(state.params["model"], state.model_state, state.statistics)

    def mean_vectors(split, modality):
        windows = data.windows[split]
        found = encoder(frozen, data.store, windows, keep_semantic=False)
        ticks = windows.label(np.arange(len(windows)))
        return found.features(modality, "codes").mean(
            axis=1
        ), labelled_windows.window_labels(ticks, 3)

    train_x, train_y = mean_vectors("train", "video")
    x, y = mean_vectors("validation", "current")
    assert (train_y != UNLABELLED).all()
    centres = np.stack([train_x[train_y == c].mean(axis=0) for c in range(3)])
    nearest = np.linalg.norm(x[:, None] - centres, axis=-1).argmin(axis=1)
    expected = np.mean([(nearest[y == c] == c).mean() for c in np.unique(y)])
    assert lines[-1]["zero_shot/video->current"] == pytest.approx(expected)


def test_labels_do_not_change_what_is_learnt(finished, folder):
    config = _config(folder, labelled_validation=False, score="cpc_accuracy")
    state, _ = train.train(config, folder / "without")
    jax.tree.map(np.testing.assert_array_equal, state, finished[0])


def test_the_score_wants_labelled_validation(folder):
    config = _config(folder, labelled_validation=False)
    with pytest.raises(ValueError, match="score must name a validation metric"):
        train.train(config, folder / "refused")


def _relabelled(source, target, label):
    target.mkdir()
    for path in sorted(source.glob("*.npz")):
        arrays = dict(np.load(path))
        arrays["frame_label"] = np.full_like(arrays["frame_label"], label)
        np.savez(target / path.name, **arrays)
    return str(target / "*.npz")


@pytest.mark.parametrize(
    ("label", "message"),
    [(UNLABELLED, "needs labels; got none"), (1, "two classes or more; got .* of 1")],
)
def test_recordings_without_two_classes_are_refused(
    finished, folder, tmp_path, label, message
):
    config = _config(folder)
    config.data.path = _relabelled(folder / "raw", tmp_path / "raw", label)
    config.data.prepared_dir = str(tmp_path / "prepared")
    with pytest.raises(ValueError, match=message):
        train.train(config, tmp_path / "run")


def test_several_processes_are_refused(finished, folder, monkeypatch):
    config = _config(folder)
    data = setup.load_data(config)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="one process; got 2"):
        LabelledValidation(config, data.store, data.windows, train.sharding.make_mesh())
