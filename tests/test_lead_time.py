"""The search for the lead, from a tiny run to lead_time.json."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny
from changed_run import change_settings

from fmalign_jax import lead_time, train
from fmalign_jax.config.commands import lead_config
from fmalign_jax.lead import files, labels, recordings, search, tick_features
from fmalign_jax.run import restore

pytestmark = pytest.mark.usefixtures("one_device")

SHIFT_S = 7.0


@pytest.fixture(scope="module")
def run(folder):
    """A tiny run; one of its three recordings is held out."""
    config = tiny.tiny_config(folder)
    config.data.split.validation_recordings = ("furnace_1",)
    train.train(config, folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def shifted(folder):
    """Recordings whose brightness follows the loudness of the sensor by SHIFT_S."""
    for number in range(3):
        rng = np.random.default_rng(number)
        rhythm = np.convolve(rng.normal(size=600), np.ones(10) / 3, mode="same")
        grey = 100 + 40 * rhythm[::2] + rng.normal(0, 2, 300)
        frames = np.tile(grey[:, None, None, None], (1, 16, 16, 3))
        sensor = np.exp(rhythm)[:, None] * rng.normal(size=(600, 3))
        (folder / "shifted").mkdir(exist_ok=True)
        np.savez(
            folder / "shifted" / f"furnace_{number}.npz",
            # What is labelled is 3 s before what is seen.
            frame_label=np.roll(rhythm[::2] > 0, -3).astype(np.int16),
            label_names=np.array(["calm", "loud"]),
            frames=np.clip(frames, 0, 255).astype(np.uint8),
            frame_t=np.arange(300) + 0.5,
            sensor=sensor.astype(np.float32),
            sensor_t=np.arange(600) / 2 + 0.25 - SHIFT_S,
            channel_names=np.array(["a", "b", "c"]),
        )
    return str(folder / "shifted" / "*.npz")


def _config(run, **changes):
    config = lead_config()
    config.checkpoint = str(run)
    config.step = "latest"
    config.least_lead_s, config.most_lead_s = -20.0, 20.0
    config.bootstrap_draws, config.null_draws = 50, 20
    config.stride_ticks = 2
    config.update(changes)
    return config


def test_a_shifted_clock_is_found_and_written(run, shifted, folder):
    config = _config(run, recordings=shifted, indicator="plain", evidence="plain")
    report, where = lead_time.search(config, folder / "search")
    assert report == json.loads((where / files.REPORT).read_text())
    assert report["verdict"] == search.FOUND
    assert report["estimate_s"] == pytest.approx(SHIFT_S, abs=1.0)
    low, high = report["interval_s"]
    assert low <= SHIFT_S <= high
    statistical = report["indicators"]["plain"]["statistical_interval_s"]
    assert low == pytest.approx(statistical[0] - 0.25 * report["window_s"])
    assert list(report["per_recording"]) == ["furnace_0", "furnace_1", "furnace_2"]
    assert set(report["indicators"]) == set(lead_config().indicators)
    for own in report["indicators"].values():
        assert len(own["curve"]) == len(report["lead_s"])
    assert (where / files.PICTURE).stat().st_size > 10_000
    assert not report["trained_on"]
    assert report["window_leads"]["paired"]["windows"] > 0


def test_what_was_encoded_is_read_again(run, shifted, folder, monkeypatch, capsys):
    workdir = folder / "again"
    config = _config(run, recordings=shifted, indicators=("canonical", "association"))
    config.correct_response = False  # for which recordings of the training are encoded
    encode = tick_features.encode_recording
    done = []

    def stopping(store, number, *args, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return encode(store, number, *args, **kwargs)

    monkeypatch.setattr(tick_features, "encode_recording", stopping)
    with pytest.raises(KeyboardInterrupt):
        lead_time.search(config, workdir)
    done.clear()
    first, _ = lead_time.search(config, workdir)
    assert done == [2]
    done.clear()
    second, where = lead_time.search(config, workdir)
    assert not done
    assert first == second
    files.show(second, where)
    printed = capsys.readouterr().out
    assert "current ahead of video: " in printed
    assert "furnace_2" in printed


def test_a_search_that_is_stopped_leaves_no_half_picture(
    run, shifted, folder, monkeypatch
):
    def half(path, *_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    own = ("canonical", "association")
    config = _config(run, recordings=shifted, indicators=own, correct_response=False)
    with monkeypatch.context() as patch:
        patch.setattr(files, "draw_lead", half)
        with pytest.raises(KeyboardInterrupt):
            lead_time.search(config, folder / "stopped")
    there = {path.name for path in (folder / "stopped").iterdir()}
    assert there == {"settings.json", "ticks"}
    lead_time.search(config, folder / "stopped")
    there = {path.name for path in (folder / "stopped").iterdir()}
    assert there == {"settings.json", "ticks", files.REPORT, files.PICTURE}


def test_by_default_what_the_run_has_not_seen_is_searched(run):
    config = _config(run, indicators=("canonical", "association"), most_lead_s=10.0)
    report, where = lead_time.search(config)
    assert where == run / "lead_time"
    assert list(report["per_recording"]) == ["furnace_1"]
    assert not report["trained_on"]
    assert any("say little" in note for note in report["notes"])
    other, elsewhere = lead_time.search(
        _config(run, indicators=("canonical", "association"))
    )
    assert elsewhere.name.startswith("lead_time-")
    assert len(other["lead_s"]) == 41


def test_recordings_that_the_run_may_have_memorised_are_named(run, folder):
    copy = folder / "by_block"
    shutil.copytree(run, copy)
    by_block = {"by": "block", "validation_recordings": []}
    change_settings(copy, lambda text: text["data"]["split"].update(by_block))
    report, _ = lead_time.search(_config(copy, indicators=("canonical", "association")))
    assert report["trained_on"]
    assert any("memorised" in note for note in report["notes"])


def test_the_lead_to_labels_and_the_delay_of_an_encoder(run, shifted, folder):
    config = _config(run, recordings=shifted, labels=True)
    report, _ = lead_time.search(config, folder / "labels")
    assert report["to_labels"]
    assert set(report["indicators"]) == {"canonical", "association"}
    # Of 7 s to what is seen, 3 s are from the label to that.
    assert report["indicators"]["canonical"]["estimate_s"] == pytest.approx(
        SHIFT_S - 3.0, abs=1.5
    )
    assert report["response"] is None
    (folder / "no_labels").mkdir()
    with np.load(shifted.replace("*", "furnace_0"), allow_pickle=False) as file:
        arrays = {k: file[k] for k in file if "label" not in k}
    np.savez(folder / "no_labels" / "furnace_0.npz", **arrays)
    config.recordings = str(folder / "no_labels" / "*.npz")
    with pytest.raises(ValueError, match="labels change"):
        lead_time.search(config, folder / "search_no_labels")


def test_the_delay_of_the_encoder_is_taken_off(run, shifted, folder, monkeypatch):
    late = labels.Response(
        delay_s=2.0, interval_s=(1.0, 2.5), recordings=5, spread_s=0.5
    )
    monkeypatch.setattr(labels, "response", lambda *args: late)
    config = _config(run, recordings=shifted, model_free="", unit_s=8.0)
    config.significance = 1.1
    report, _ = lead_time.search(config, folder / "late")
    raw = report["indicators"]["canonical"]
    assert report["estimate_s"] == pytest.approx(raw["estimate_s"] - 2.0)
    low, high = raw["statistical_interval_s"]
    # Student's t of five recordings; here three more.
    error = 2.776 * 0.5 * np.sqrt(1 / 5 + 1 / 3)
    assert late.error_s(3) == pytest.approx(error, rel=1e-3)
    assert report["interval_s"] == pytest.approx(
        [
            max(report["estimate_s"] - np.hypot(raw["estimate_s"] - low, error), -22),
            min(report["estimate_s"] + np.hypot(high - raw["estimate_s"], error), 18),
        ],
        abs=1e-2,
    )
    assert report["response"]["delay_s"] == 2.0
    assert any("later than the labels" in note for note in report["notes"])
    monkeypatch.undo()
    config.correct_response = False
    report, _ = lead_time.search(config, folder / "not_corrected")
    assert report["response"] is None
    assert report["estimate_s"] == raw["estimate_s"]


def test_recordings_of_the_training_are_known_by_what_they_hold(run, folder):
    """Another name and another clock do not make them unseen; other noise does."""
    source = next((folder / "raw").glob("furnace_0.npz"))
    arrays = dict(np.load(source, allow_pickle=False))
    arrays["sensor_t"] = arrays["sensor_t"] - 3.0
    unseen = {**arrays, "sensor": arrays["sensor"] + 1.0}
    for name, own in (("same", arrays), ("other", unseen)):
        (folder / name).mkdir()
        np.savez(folder / name / "renamed.npz", **own)
        config = _config(run, recordings=str(folder / name / "*.npz"))
        config.indicators = config.chance_of = ("canonical", "association")
        config.unit_s, config.significance = 8.0, 1.1  # whatever is found counts
        report, _ = lead_time.search(config, folder / f"search_{name}")
        assert report["trained_on"] == (name == "same")
        expected = search.CANNOT_TELL if name == "same" else search.FOUND
        assert report["verdict"] == expected


def test_a_run_whose_data_are_gone_is_not_said_to_be_new_to_them(run, shifted, folder):
    text = json.loads((run / "config.json").read_text())
    text["data"] |= {"path": str(folder / "gone.npz"), "prepared_dir": str(folder)}
    copy = folder / "data_gone"
    copy.mkdir()
    (copy / "checkpoints").symlink_to(run / "checkpoints")
    (copy / "config.json").write_text(json.dumps(text))
    config = _config(copy, recordings=shifted, indicators=("canonical", "association"))
    report, _ = lead_time.search(config, folder / "search_gone")
    assert report["trained_on"] is None
    assert any("no longer there" in note for note in report["notes"])


def test_ticks_are_encoded_without_what_is_around_them(run, shifted, folder):
    """No window of context can have taken up the lead of the training."""
    config = _config(run, recordings=shifted, indicators=("canonical", "association"))
    opened = restore.open_run(run, "latest")
    material = recordings.choose_recordings(config, opened)
    before = recordings.encode(config, opened, material, folder / "before")[0]
    with np.load(shifted.replace("*", "furnace_0"), allow_pickle=False) as file:
        arrays = dict(file)
    far = arrays["sensor_t"] > 100.0
    arrays["sensor"] = np.where(far[:, None], 9.0, arrays["sensor"]).astype(np.float32)
    (folder / "far").mkdir()
    np.savez(folder / "far" / "furnace_0.npz", **arrays)
    config.recordings = str(folder / "far" / "*.npz")
    material = recordings.choose_recordings(config, opened)
    after = recordings.encode(config, opened, material, folder / "after")[0]
    time_s = before.leading.start_s + np.arange(len(before.leading))
    near = time_s < 100.0 - 3.0
    one, other = before.leading.semantic, after.leading.semantic
    np.testing.assert_allclose(one[near], other[near], atol=1e-5)
    assert np.abs(one[~near] - other[~near]).max() > 0.1


def test_no_tick_is_taken_from_the_edge_of_a_window(run, shifted, folder, monkeypatch):
    asked = []
    lay = tick_features.lay_windows

    def laid(*args, stride_ticks):
        asked.append(stride_ticks)
        return lay(*args, stride_ticks=stride_ticks)

    monkeypatch.setattr(tick_features, "lay_windows", laid)
    opened = restore.open_run(run, "latest")
    window_ticks = opened.config.data.window_ticks
    for stride in (1, window_ticks):
        config = _config(run, recordings=shifted, stride_ticks=stride)
        material = recordings.choose_recordings(config, opened)
        recordings.encode(config, opened, material, folder / f"stride {stride}")
    # Both modalities; three ticks on either side see less than inner ones.
    most = max(1, window_ticks - 6)
    assert asked == [1, 1, most, most]
    assert most < window_ticks


def test_a_folder_of_several_runs_keeps_the_features_of_each(run, shifted, folder):
    config = _config(run, recordings=shifted, indicators=("canonical", "association"))
    opened = restore.open_run(run, "latest")
    material = recordings.choose_recordings(config, opened)
    other = opened.config.copy_and_resolve_references()
    other.seed += 1
    shared = folder / "shared"

    def encoded(config_of_run):
        another = dataclasses.replace(opened, config=config_of_run)
        recordings.encode(config, another, material, shared)
        return len(list((shared / "ticks").iterdir()))

    assert encoded(opened.config) == 1
    assert encoded(other) == 2
    assert encoded(opened.config) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ""}, "needs a run"),
        ({"model_free": "canonical"}, "model_free must be one of plain, motion"),
        ({"least_lead_s": 30.0}, "must be below"),
        ({"indicators": ("canonical", "charm")}, "must be among"),
        ({"evidence": "plain", "indicators": ("canonical",)}, "among them"),
        (
            {"indicator": "plain", "indicators": ("canonical", "association")},
            "among them",
        ),
        ({"null_draws": 0}, "null_draws must be at least 1"),
        ({"least_lead_s": 900.0, "most_lead_s": 950.0}, "longer than itself"),
    ],
)
def test_what_cannot_work_is_refused(run, changes, message):
    with pytest.raises(ValueError, match=message):
        lead_time.search(_config(run, **changes))


def test_a_run_of_whole_clips_has_no_lead(run, folder):
    copy = folder / "clips"
    shutil.copytree(run, copy)
    change_settings(copy, lambda text: text["data"].update(windows="clip"))
    with pytest.raises(ValueError, match="sliding windows"):
        lead_time.search(_config(copy))


def test_without_room_chance_is_unknown(run, shifted, folder):
    config = _config(
        run,
        recordings=shifted.replace("*", "furnace_0"),
        indicators=("canonical", "association"),
        least_lead_s=-150.0,
        most_lead_s=150.0,
    )
    report, _ = lead_time.search(config, folder / "short")
    assert report["verdict"] == search.TOO_SHORT
    assert report["estimate_s"] is None
    assert np.isfinite(report["indicators"]["canonical"]["estimate_s"])
    assert any("too short" in note for note in report["notes"])
