"""Which windows an evaluation uses, what their labels are, and what it refuses."""

import json
import shutil

import labelled_recordings
import numpy as np
import pytest
import tiny

from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.data import dataset
from fmalign_jax.evaluation import labelled_windows, splits as evaluation_splits


def test_a_window_has_the_class_of_most_of_its_labelled_ticks():
    ticks = np.array(
        [
            [0, 0, 0, 1],
            [0, 0, 1, 1],  # half of them: abnormal
            [0, 1, -1, -1],  # half of the labelled ones
            [0, -1, -1, -1],
            [-1, -1, -1, -1],
            [1, 1, 0, -1],
        ],
        np.int32,
    )
    assert labelled_windows.window_labels(ticks, 2).tolist() == [0, 1, 1, 0, -1, 1]
    several = np.array([[2, 0, 0, 1], [2, 0, 1, 3], [1, 1, 2, 2]], np.int32)
    assert labelled_windows.window_labels(several, 4).tolist() == [0, 3, 2]


@pytest.fixture
def run_config(tmp_path):
    return tiny.tiny_config(tmp_path)


def _load(run_config, **changes):
    config = evaluation_config()
    config.update(changes)
    return evaluation_splits.load_splits(config, run_config)


def test_the_runs_own_splits_are_used_as_they_are(run_config):
    splits = _load(run_config)
    own = dataset.make_windows(dataset.open_dataset(run_config), run_config)
    assert list(splits.by_name) == ["head", "validation"]
    assert splits.headline == "validation"
    assert splits.classes == ("normal", "abnormal")
    for name, split in (("head", "train"), ("validation", "validation")):
        np.testing.assert_array_equal(
            splits.by_name[name].windows.start, own[split].start
        )
    ticks = own["train"].label(np.arange(len(own["train"])))
    abnormal = 2 * (ticks == 1).sum(axis=1) >= (ticks >= 0).sum(axis=1)
    np.testing.assert_array_equal(splits.head.label, abnormal.astype(int))


def test_no_test_window_shares_a_sample_with_the_heads(run_config):
    run_config.data.split.by = "block"
    run_config.data.split.test = 0.2
    run_config.data.lead_s = 3.0
    splits = _load(run_config)
    assert splits.headline == "test"
    for split in splits.reported.values():
        assert len(split)
        for stream in ("video", "current"):
            shared = np.intersect1d(
                splits.head.windows.read_keys(stream), split.windows.read_keys(stream)
            )
            assert not shared.size
    # Other stretches, but of recordings that pre-training has seen.
    seen = evaluation_splits.seen_in_pretraining(
        splits.by_name["test"], splits.pretraining, ("video", "current")
    )
    assert seen == dict.fromkeys(splits.by_name["test"].recordings, "name")


def test_other_recordings_are_cut_with_the_runs_window_settings(run_config, tmp_path):
    head = labelled_recordings.write(tmp_path / "head", seed=1)
    test = labelled_recordings.write(tmp_path / "test", seed=2)
    run_config.data.lead_s = 4.0
    splits = _load(
        run_config, head_data=f"{head}/*.npz", test_data=str(test), source="video"
    )
    assert list(splits.by_name) == ["head", "test"]
    assert splits.classes == ("cold", "warm", "hot")
    assert splits.head.recordings == ["seed1_0", "seed1_1"]
    assert splits.by_name["test"].recordings == ["seed2_0", "seed2_1"]
    for split, stride in ((splits.head, 4), (splits.by_name["test"], 8)):
        windows = split.windows
        assert windows.window_ticks == 8
        assert {s: t.shape[1] for s, t in windows.ticks.samples.items()} == {
            "video": 1,
            "current": 2,
        }
        assert set(np.diff(windows.time_s[windows.recording == 0])) == {stride}
        # The current is read 4 s earlier: at 2 Hz, 8 samples. (The very first tick may
        # lie a little before the first sample, and takes that one.)
        samples = windows.samples(0)
        assert samples["current"][-1, 0] == 2 * samples["video"][-1, 0] - 8
    assert splits.head.known.all()


def test_prepared_data_and_the_benchmarks_layout_are_recognised(run_config, tmp_path):
    raw = labelled_recordings.write(tmp_path / "head", seed=1)
    run_config.data.path = f"{raw}/*.npz"
    prepared = dataset.open_dataset(run_config).directory
    run_config.data.path = str(tmp_path / "raw" / "*.npz")
    test = labelled_recordings.write(tmp_path / "test", seed=2)
    splits = _load(run_config, head_data=str(prepared), test_data=str(test))
    assert splits.head.recordings == ["seed1_0", "seed1_1"]
    (tmp_path / "benchmark" / "pixel-level" / "videos").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"at least one <name>\.mat is needed"):
        _load(run_config, test_data=str(tmp_path / "benchmark"))


def test_classes_are_matched_by_name(run_config, tmp_path):
    names = ("cold", "warm", "hot")
    head = labelled_recordings.write(tmp_path / "head", classes=names, seed=1)
    turned = labelled_recordings.write(
        tmp_path / "test", classes=names[::-1], seed=2, recordings=1
    )
    splits = _load(run_config, head_data=str(head), test_data=str(turned))
    test = splits.by_name["test"]
    ticks = test.windows.label(np.arange(len(test)))
    mapped = np.array([2, 1, 0])[ticks]  # "hot" is 0 there and 2 here
    np.testing.assert_array_equal(test.label, labelled_windows.window_labels(mapped, 3))


def test_a_class_that_the_head_does_not_know_is_refused(run_config, tmp_path):
    head = labelled_recordings.write(tmp_path / "head", seed=1)
    other = labelled_recordings.write(
        tmp_path / "test", classes=("cold", "glowing", "hot"), seed=2
    )
    with pytest.raises(ValueError, match=r"cold, warm, hot; got glowing in .*test"):
        _load(run_config, head_data=str(head), test_data=str(other))


def test_recordings_without_labels_can_be_tested_but_not_learnt(run_config, tmp_path):
    silent = labelled_recordings.write(tmp_path / "test", seed=2, labelled=False)
    head = labelled_recordings.write(tmp_path / "head", seed=1)
    splits = _load(run_config, head_data=str(head), test_data=str(silent))
    assert not splits.by_name["test"].known.any()
    with pytest.raises(ValueError, match="the head split needs labels; got none"):
        _load(run_config, head_data=str(silent), test_data=str(head))


def test_a_recording_of_the_head_is_not_tested_under_another_name(run_config, tmp_path):
    head = labelled_recordings.write(tmp_path / "head", seed=1)
    test = labelled_recordings.write(tmp_path / "test", seed=2)
    shutil.copy(head / "seed1_1.npz", test / "renamed.npz")
    with pytest.raises(ValueError, match=r"'seed1_1' of .* again as 'renamed'"):
        _load(run_config, head_data=str(head), test_data=str(test))
    with pytest.raises(ValueError, match=r"\(head\) again as 'seed1_\d' of .*\(test\)"):
        _load(run_config, head_data=str(head), test_data=str(head))


def test_what_pretraining_has_seen_is_known_by_name_or_content(run_config, tmp_path):
    own = _load(run_config)
    trained, untouched = own.head.recordings, own.by_name["validation"].recordings
    test = labelled_recordings.write(tmp_path / "test", seed=2, recordings=1)
    for name in (trained[0], untouched[0]):
        with np.load(tmp_path / "raw" / f"{name}.npz") as file:
            arrays = dict(file)
        arrays["label_names"] = np.array(["cold", "warm"])
        np.savez(test / f"copy_of_{name}.npz", **arrays)
    shutil.copy(test / "seed2_0.npz", test / f"{trained[1]}.npz")
    for file in test.glob("*.npz"):  # one order of classes in all of them
        with np.load(file) as content:
            arrays = dict(content)
        arrays["label_names"] = np.array(["normal", "abnormal", "hot"])
        np.savez(file, **arrays)
    head = labelled_recordings.write(
        tmp_path / "head", classes=("normal", "abnormal", "hot"), seed=1
    )
    splits = _load(run_config, head_data=str(head), test_data=str(test))
    streams = ("video", "current")
    assert evaluation_splits.seen_in_pretraining(
        splits.by_name["test"], splits.pretraining, streams
    ) == {f"copy_of_{trained[0]}": "content", trained[1]: "name"}
    assert not evaluation_splits.seen_in_pretraining(
        splits.head, splits.pretraining, streams
    )


def test_a_run_whose_recordings_are_gone_is_evaluated_on_others(run_config, tmp_path):
    head = labelled_recordings.write(tmp_path / "head", seed=1)
    test = labelled_recordings.write(tmp_path / "test", seed=2)
    run_config.data.path = str(tmp_path / "nowhere" / "*.npz")
    splits = _load(run_config, head_data=str(head), test_data=str(test))
    assert splits.pretraining is None
    with pytest.raises(ValueError, match="nowhere"):
        _load(run_config, test_data=str(test))


def test_head_data_need_something_to_be_tested_on(run_config, tmp_path):
    head = labelled_recordings.write(tmp_path / "head", seed=1)
    with pytest.raises(ValueError, match="neither test_data nor validation_data"):
        _load(run_config, head_data=str(head))
    run_config.data.split.validation = 0.0
    with pytest.raises(ValueError, match="a run that has neither"):
        _load(run_config)


def test_clips_have_their_names(run_config, tmp_path):
    head = labelled_recordings.write(tmp_path / "head", seed=1)
    test = labelled_recordings.write(tmp_path / "test", seed=2, clips=True)
    splits = _load(run_config, head_data=str(head), test_data=str(test))
    clipped = splits.by_name["test"]
    assert clipped.clip_names()[:2] == ["take 0", "take 1"]
    assert not clipped.continuous
    assert splits.head.continuous
    assert json.dumps(clipped.clip_names())
