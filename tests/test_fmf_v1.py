"""Layout V1 of the benchmark, in files written here: none of the real ones was at hand.

What is tested is what the reader says it takes, not what the authors wrote.
"""

import logging

import h5py
import numpy as np
import pytest
import scipy.io

from fmalign_jax.data import fmf
from fmalign_jax.data.fmf import first_layout

FRAMES, HEIGHT, WIDTH, RATE_HZ = 100, 4, 6, 25.0
# 2 rows a second: runs of 12 and 13 frames. Rows 2 and 3 are alike.
STARTS = np.ceil(np.arange(8) * 12.5).astype(int)


def _parts():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (HEIGHT, WIDTH, 3, FRAMES), np.uint8)
    samples = rng.uniform(8e3, 1e4, (8, 3)).astype(np.float32)
    samples[3] = samples[2]
    which = np.searchsorted(STARTS, np.arange(FRAMES), side="right") - 1
    label = np.zeros((1, FRAMES))
    label[0, 40:60] = 1
    index = np.ones((FRAMES, 1))
    index[70:90] = 2
    arrays = {
        "video": video,
        "current": samples[which],
        "label": label,
        "train_test_index": index,
    }
    return arrays, samples


def _write(path, arrays, form="v5"):
    if form == "v5":
        scipy.io.savemat(path, arrays, do_compression=True)
        return
    with h5py.File(path, "w") as file:  # MATLAB's axes, reversed
        for key, value in arrays.items():
            file[key] = value.T


@pytest.mark.parametrize("form", ["v5", "v7.3"])
@pytest.mark.parametrize("masks", [False, True])
def test_the_samples_come_back_at_their_times(tmp_path, form, masks, caplog):
    arrays, samples = _parts()
    if masks:
        label = np.zeros((HEIGHT, WIDTH, FRAMES), np.uint8)
        label[1, 2, 40:60] = 255
        arrays["label"] = label
    _write(tmp_path / "a.mat", arrays, form)
    source = fmf.BenchmarkV1(tmp_path)
    assert source.names() == ["a"]
    recording = source.read("a")
    video, current = recording.streams["video"], recording.streams["current"]
    np.testing.assert_array_equal(video.values, arrays["video"].transpose(3, 0, 1, 2))
    np.testing.assert_allclose(video.time_s, np.arange(FRAMES) / RATE_HZ)
    assert np.flatnonzero(video.label).tolist() == list(range(40, 60))
    np.testing.assert_array_equal(current.values, samples)
    np.testing.assert_allclose(current.time_s, STARTS / RATE_HZ, atol=1 / RATE_HZ)
    exact = np.arange(8) != 3  # where the run of 2 and 3 parts cannot be seen
    np.testing.assert_allclose(current.time_s[exact], (STARTS / RATE_HZ)[exact])
    assert recording.partition == {
        "train": ((0.0, 2.8), (3.6, 4.0)),
        "test": ((2.8, 3.6),),
    }
    assert "cannot be undone" not in caplog.text
    assert recording.taken[str(tmp_path / "a.mat")].endswith("current repeats undone")


def test_what_was_interpolated_stays_and_is_said(tmp_path, caplog):
    arrays, samples = _parts()
    frames = np.arange(FRAMES)
    arrays["current"] = np.stack(
        [np.interp(frames, STARTS, samples[:, i]) for i in range(3)]
    )  # [phases, T]
    arrays["current"] += 0.01 * np.sin(frames)
    _write(tmp_path / "a.mat", arrays)
    with caplog.at_level(logging.WARNING):
        recording = fmf.BenchmarkV1(tmp_path / "a.mat", max_frame_rate_hz=5.0).read("a")
    assert "it was interpolated, which cannot be undone" in caplog.text
    current = recording.streams["current"]
    np.testing.assert_allclose(current.values, arrays["current"].T, rtol=1e-6)
    np.testing.assert_allclose(current.time_s, frames / RATE_HZ)
    np.testing.assert_allclose(recording.streams["video"].time_s, frames[::5] / RATE_HZ)


def test_the_number_of_the_test_may_be_given(tmp_path):
    arrays, _ = _parts()
    _write(tmp_path / "a.mat", arrays)
    given = fmf.BenchmarkV1(tmp_path, test_value=1).read("a").partition
    assert given["train"] == ((2.8, 3.6),)
    first = fmf.BenchmarkV1(tmp_path)
    assert first.fingerprint() != fmf.BenchmarkV1(tmp_path, test_value=1).fingerprint()


def test_runs_of_equal_rows():
    rows = np.repeat([[1.0], [2], [3], [3], [4]], 4, axis=0).astype(np.float32)
    assert first_layout.sample_starts(rows).tolist() == [0, 4, 8, 12, 16]
    noise = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    assert first_layout.sample_starts(noise).tolist() == list(range(20))
    still = np.ones((20, 1), np.float32)
    assert first_layout.sample_starts(still).tolist() == list(range(20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("label"), "got no 'label'"),
        (lambda a: a.update(video=a["video"].astype(float)), "'video': must be uint8"),
        (lambda a: a.update(current=a["current"][1:]), "must have a row of phases"),
        (lambda a: a.update(label=np.arange(FRAMES)), "one of two classes"),
        (lambda a: a.update(train_test_index=np.ones(5)), "one of two numbers"),
        (lambda a: a.update(current=np.array(["x"])), "'current': must hold plain"),
    ],
)
def test_other_forms_are_refused_by_key(tmp_path, change, message):
    arrays, _ = _parts()
    change(arrays)
    path = tmp_path / "a.mat"
    _write(path, arrays)
    with pytest.raises(ValueError, match=message) as caught:
        fmf.BenchmarkV1(tmp_path).read("a")
    assert str(caught.value).startswith(str(path))


def test_damaged_files_and_none(tmp_path):
    with pytest.raises(ValueError, match="match at least one"):
        fmf.BenchmarkV1(tmp_path).names()
    arrays, _ = _parts()
    for form in ("v5", "v7.3"):
        path = tmp_path / "a.mat"
        _write(path, arrays, form)
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(ValueError, match="must be a whole") as caught:
            fmf.BenchmarkV1(tmp_path).read("a")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="frame_rate_hz must be positive"):
        fmf.BenchmarkV1(tmp_path, frame_rate_hz=0.0)
