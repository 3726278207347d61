"""Structured features: what is shared is shared, what is specific is not."""

import numpy as np
import pytest

from fmalign_jax.data import features as module
from fmalign_jax.data.features import CLIPS_PER_RECORDING, StructuredFeatures

FORM = {"ticks": 4, "classes": 3, "video_shape": (3, 2, 16), "audio_width": 24}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return StructuredFeatures(str(folder), clips=3 * CLIPS_PER_RECORDING - 5, **FORM)


def test_shapes_clips_and_labels(features):
    names = features.names()
    assert len(names) == 3
    clips = 0
    for name in names:
        recording = features.read(name)
        video, audio = recording.streams["video"], recording.streams["current"]
        here = len(recording.clip_names)
        assert video.values.shape == (4 * here, 3, 2, 16)
        assert audio.values.shape == (4 * here, 24)
        assert video.values.dtype == audio.values.dtype == np.float32
        np.testing.assert_array_equal(video.clip, np.repeat(np.arange(here), 4))
        np.testing.assert_array_equal(video.label, audio.label)
        assert (np.ptp(video.label.reshape(here, 4), axis=1) == 0).all()
        steps = np.diff(video.time_s.reshape(here, 4))
        assert (steps == 1).all()
        assert recording.label_names == ("class_0", "class_1", "class_2")
        assert (video.values >= 0).all()
        clips += here
    assert clips == 3 * CLIPS_PER_RECORDING - 5


def _pooled(features, name):
    streams = features.read(name).streams
    video = streams["video"].values.mean(axis=(1, 2))
    return video, streams["current"].values, streams["video"].label


def _explained(inputs, outputs, new_inputs, new_outputs):
    """Share of variance that least squares with a small ridge predicts on new rows."""
    means = inputs.mean(0), outputs.mean(0)
    x, y = inputs - means[0], outputs - means[1]
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ y)
    error = (new_inputs - means[0]) @ weights + means[1] - new_outputs
    return 1 - (error**2).sum() / ((new_outputs - new_outputs.mean(0)) ** 2).sum()


def test_each_modality_tells_of_the_other_on_unseen_clips(features):
    seen, unseen, _ = features.names()
    video, audio, _ = _pooled(features, seen)
    new_video, new_audio, _ = _pooled(features, unseen)
    assert _explained(video, audio, new_video, new_audio) > 0.2
    assert _explained(audio, video, new_audio, new_video) > 0.2
    # Shuffled partners tell nothing, and neither modality tells everything.
    partner = np.random.default_rng(0).permutation(len(audio))
    assert _explained(video, audio[partner], new_video, new_audio) < 0.05
    assert _explained(video, audio, new_video, new_audio) < 0.9


def test_the_class_can_be_read_from_either_modality(features):
    seen, unseen, _ = features.names()
    *pairs, label = zip(_pooled(features, seen), _pooled(features, unseen), strict=True)
    for train, test in pairs:
        centres = np.stack([train[label[0] == c].mean(0) for c in range(3)])
        distance = ((test[:, None] - centres) ** 2).sum(-1)
        assert (distance.argmin(1) == label[1]).mean() > 0.6


def test_equal_parameters_give_equal_features_and_are_generated_once(tmp_path):
    def make(folder, **changes):
        return StructuredFeatures(str(tmp_path / folder), clips=2, **FORM | changes)

    one = make("a", seed=5)
    values = one.read(one.names()[0]).streams["video"].values
    (folder,) = (tmp_path / "a").iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    again, elsewhere, other = make("a", seed=5), make("b", seed=5), make("a", seed=6)
    after = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert before == after
    for same in (again, elsewhere):
        assert same.fingerprint() == one.fingerprint()
        read = same.read(same.names()[0]).streams["video"].values
        np.testing.assert_array_equal(read, values)
    assert other.fingerprint() != one.fingerprint()
    assert (other.read(other.names()[0]).streams["video"].values != values).any()
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", fail)
        with pytest.raises(KeyboardInterrupt):
            StructuredFeatures(str(tmp_path), clips=2, **FORM)
    assert list(tmp_path.iterdir()) == []
    assert len(StructuredFeatures(str(tmp_path), clips=2, **FORM).names()) == 1


def test_two_processes_may_generate_at_once(tmp_path):
    one = StructuredFeatures(str(tmp_path), clips=2, **FORM)
    (folder,) = tmp_path.iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    # The slower process finds the folder there when it is done.
    module._generate(module._Form(2, 4, 3, 0, (3, 2, 16), 24), folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert before == {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert one.names() == ["clips_000000"]


@pytest.mark.parametrize("changes", [{"ticks": 0}, {"video_shape": (3, 0, 16)}])
def test_sizes_must_be_positive(tmp_path, changes):
    with pytest.raises(ValueError, match="must be 1 or more"):
        StructuredFeatures(str(tmp_path), clips=2, **FORM | changes)
    assert list(tmp_path.iterdir()) == []
