"""From a config to windows, in the words of the config."""

import numpy as np
import pytest
import tiny

from fmalign_jax.data import dataset
from fmalign_jax.data.windows.index import assert_no_leak


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.tiny_config(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("by", ["recording", "block"])
def test_windows_of_both_strides_share_no_sample(config, by):
    config = config.copy_and_resolve_references()
    config.data.split.by = by
    config.data.stride_ticks, config.data.eval_stride_ticks = 3, 7
    config.data.lead_s = 5.0
    indexes = dataset.make_windows(dataset.open_dataset(config), config)
    assert_no_leak(indexes)
    for name, stride_ticks in (("train", 3), ("validation", 7)):
        start, recording = indexes[name].start, indexes[name].recording
        steps = np.diff(start)[np.diff(recording) == 0]
        assert steps.min() == stride_ticks


def test_a_stream_that_no_recording_has_is_named_with_the_path(config):
    config = config.copy_and_resolve_references()
    config.data.samples_per_tick.text = 4
    store = dataset.open_dataset(config)
    with pytest.raises(ValueError, match=r"raw/\*\.npz: .*\['text'\]; add them"):
        dataset.make_windows(store, config)


def test_recordings_without_masks_are_refused(config):
    with pytest.raises(ValueError, match=r"data\.source: masks .*RecordingFiles"):
        dataset.open_masks(config.data)
