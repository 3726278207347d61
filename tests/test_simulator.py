"""The simulated data set: recordings, the way they are written, and the truth."""

import dataclasses
import datetime
import json
import re

import numpy as np
import pytest
from scipy import ndimage

from fmalign_jax.data import simulator
from fmalign_jax.data.fmf import BenchmarkDirectory
from fmalign_jax.data.simulator import (
    PROFILES,
    SimulatedFurnaces,
    furnaces,
    shell,
    simulate,
)
from fmalign_jax.data.simulator.circuit import ADC_STEP_A
from fmalign_jax.data.simulator.profiles import DEFAULT, changed

SMALL = {"recordings": 3, "test_recordings": 1, "duration_s": 60.0}


def test_same_seed_same_recording():
    first, again = (simulate(DEFAULT, duration_s=40.0, seed=5) for _ in range(2))
    other = simulate(DEFAULT, duration_s=40.0, seed=6)
    for name in ("frames", "masks", "frame_second", "current", "current_second"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.name == again.name != other.name
    assert not np.array_equal(first.current, other.current)
    assert not np.array_equal(first.frames, other.frames)


def test_frame_rate_changes_the_frames_alone():
    slow = simulate(DEFAULT, duration_s=20.0, seed=5)
    fast = simulate(DEFAULT, duration_s=20.0, seed=5, frame_rate_hz=25.0)
    np.testing.assert_array_equal(slow.current, fast.current)
    assert slow.truth.lead_s == fast.truth.lead_s
    assert 0.95 * 500 < len(fast.frames) < 500
    per_second = np.unique(fast.frame_second, return_counts=True)[1]
    assert len(per_second) == 20
    assert per_second.max() == 25


def test_recordings_of_one_furnace_share_its_look_but_not_its_story():
    profile = dataclasses.replace(DEFAULT, light_changes=False, mist=False)
    profile = dataclasses.replace(profile, puffs=False, white_out=False)
    first, second = (
        simulate(profile, duration_s=400.0, seed=seed, furnace=3) for seed in (1, 2)
    )
    stranger = simulate(profile, duration_s=400.0, seed=2, furnace=4)

    def texture(recording):
        # Spots stay below row 16.
        grey = np.median(recording.frames[:, :16], axis=0).mean(axis=2)
        return (grey / grey.mean()).ravel()

    same = np.corrcoef(texture(first), texture(second))[0, 1]
    different = np.corrcoef(texture(stranger), texture(second))[0, 1]
    assert same > 0.9
    assert different < 0.8
    assert not np.array_equal(first.truth.state, second.truth.state)


def test_currents_are_what_the_logger_can_write():
    current = simulate(DEFAULT, duration_s=300.0, seed=1).current
    assert current.min() >= 0
    assert current.max() <= 14_000
    np.testing.assert_allclose(current / ADC_STEP_A, np.round(current / ADC_STEP_A))


def test_names_are_those_of_real_recordings_and_tell_the_start():
    for seed in range(20):
        recording = simulate(
            dataclasses.replace(DEFAULT, missing_frames=False),
            duration_s=2.0,
            seed=seed,
        )
        match = re.fullmatch(
            r"SaveToAvi-(\d{1,2})-(\d{1,2})-(\d\d)_(\d\d)_(\d\d)-\d{4}", recording.name
        )
        start = datetime.datetime(2018, *map(int, match.groups()))
        assert recording.frame_second[0] == np.datetime64(start)
        assert recording.frame_second.dtype == np.dtype("datetime64[s]")


def test_truth_tells_the_noise_that_the_currents_were_made_with():
    quiet = dataclasses.replace(DEFAULT, feeding=False, dips=False, trips=False)
    recording = simulate(quiet, duration_s=3000.0, seed=4)
    # The rows of the logger and those of the truth are the same but for lost seconds.
    rows = min(len(recording.current), len(recording.truth.volatility))
    change = np.abs(np.diff(recording.current[:rows], axis=0)).mean(axis=1)
    minutes = rows // 120
    seen, true = (
        np.log(values[: 120 * minutes].reshape(minutes, 120).mean(axis=1))
        for values in (np.append(change, change[-1]), recording.truth.volatility[:rows])
    )
    assert np.corrcoef(seen, true)[0, 1] > 0.9
    state = recording.truth.state
    assert np.median(recording.truth.volatility[state]) < 0.6 * np.median(
        recording.truth.volatility[~state]
    )


def test_truth_tells_the_lead_by_the_clocks_of_the_recording():
    profile = dataclasses.replace(DEFAULT, lead_jitter=False, lead_s=(200.0, 200.0))
    truth = simulate(profile, duration_s=10.0, seed=3).truth
    assert 0 < truth.clock_offset_s < 2
    assert truth.lead_s == pytest.approx(200 - truth.clock_offset_s)
    control = simulate(PROFILES["no_precursor"], duration_s=10.0, seed=3).truth
    assert np.isnan(control.lead_s)
    assert not control.state.any()


@pytest.mark.parametrize(
    "wrong", [{"frame_rate_hz": 0.0}, {"duration_s": 0.5}, {"seed": -1}]
)
def test_unusable_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        simulate(DEFAULT, **{"duration_s": 10.0, "seed": 0, **wrong})


def test_what_is_written_is_what_was_simulated(tmp_path):
    source = SimulatedFurnaces(str(tmp_path), seed=2, **SMALL)
    expected = [
        simulate(DEFAULT, duration_s=60.0, seed=2_000_000 + i) for i in range(3)
    ]
    assert source.names() == sorted(recording.name for recording in expected)
    for recording in expected:
        read = source.read(recording.name)
        video, current = read.streams["video"], read.streams["current"]
        np.testing.assert_array_equal(video.values, recording.frames)
        np.testing.assert_array_equal(
            video.label, recording.masks.any(axis=(1, 2)).astype(int)
        )
        np.testing.assert_allclose(current.values, recording.current, rtol=1e-5)
        # Rows are put back to within a second of when they were measured.
        assert current.unit == "A"
        assert len(current.time_s) == len(recording.current)


def test_masks_are_where_the_glow_was_drawn(tmp_path, monkeypatch):
    settings = {**SMALL, "duration_s": 900.0, "recordings": 2}
    source = SimulatedFurnaces(str(tmp_path), **settings)
    name = simulate(DEFAULT, duration_s=900.0, seed=0).name
    frames = source.read(name).streams["video"].values
    position = np.arange(len(frames))[::-3]
    masks = source.masks(name, position)
    again = SimulatedFurnaces(str(tmp_path / "again"), **settings)
    np.testing.assert_array_equal(again.masks(name, position), masks)

    drawn = shell.draw_spots
    monkeypatch.setattr(
        shell,
        "draw_spots",
        lambda *given: [spot for spot in drawn(*given) if not spot.labelled],
    )
    without = simulate(DEFAULT, duration_s=900.0, seed=0)
    assert not without.masks.any()
    difference = np.abs(frames.astype(int) - without.frames)[position].mean(axis=-1)
    far = ~ndimage.binary_dilation(masks, np.ones((1, 25, 25)))
    assert masks.any(axis=(1, 2)).mean() > 0.1
    assert difference[masks].mean() > 20
    assert difference[far].mean() < 0.1


def test_truth_lies_beside_without_pickles(tmp_path):
    source = SimulatedFurnaces(str(tmp_path), **SMALL)
    for position, name in enumerate(sorted(source.names())):
        with np.load(source.directory / "truth" / f"{name}.npz") as truth:
            assert 200 < truth["lead_s"] < 280, position
            assert truth["time_s"].shape == truth["state"].shape == (120,)
            assert truth["volatility"].shape == (120,)
            assert truth["spell_begin_s"].shape == truth["spell_seen"].shape
            assert truth["event_feeding"].shape[1] == 2


def test_last_recordings_are_for_testing(tmp_path):
    source = SimulatedFurnaces(str(tmp_path), **SMALL)
    split = {
        part: json.loads(
            (source.directory / "pixel-level" / f"{part}.json").read_text()
        )
        for part in ("train", "test")
    }
    last = simulate(DEFAULT, duration_s=60.0, seed=2)
    assert list(split["test"]) == [f"{last.name}.mat"]
    assert split["test"][f"{last.name}.mat"] == list(range(len(last.frames)))
    assert len(split["train"]) == 2
    assert source.read(last.name).partition["test"][0][0] == pytest.approx(0, abs=2)


def test_without_test_recordings_each_ends_in_a_test_block(tmp_path):
    source = SimulatedFurnaces(str(tmp_path), **{**SMALL, "test_recordings": 0})
    for name in source.names():
        partition = source.read(name).partition
        ((train_start, train_stop),) = partition["train"]
        ((test_start, test_stop),) = partition["test"]
        assert train_start < train_stop < test_start < test_stop
        assert (test_stop - test_start) / 60 == pytest.approx(0.28, abs=0.04)


def test_complete_set_is_used_again(tmp_path, monkeypatch):
    first = SimulatedFurnaces(str(tmp_path), **SMALL)
    monkeypatch.setattr(furnaces, "simulate", None)
    again = SimulatedFurnaces(str(tmp_path), **SMALL)
    assert again.names() == first.names()
    assert again.fingerprint() == first.fingerprint()


def test_sets_written_before_a_field_was_added_keep_their_name(tmp_path, monkeypatch):
    monkeypatch.setattr(SimulatedFurnaces, "_write", lambda self: None)
    monkeypatch.setattr(furnaces, "BenchmarkDirectory", lambda path: None)
    # As the set of configs/studies/furnaces.py was named before there was the field.
    source = SimulatedFurnaces(
        str(tmp_path), recordings=22, test_recordings=0, duration_s=3000.0
    )
    assert source.directory.name == "default-71a527a9b5c9"
    changed_lead = {"lead_spread_s": 60.0}
    other = SimulatedFurnaces(str(tmp_path), changes=changed_lead)
    assert other.fingerprint() != SimulatedFurnaces(str(tmp_path)).fingerprint()


def test_interrupted_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    real, calls = simulator.simulate, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(furnaces, "simulate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SimulatedFurnaces(str(tmp_path), **SMALL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(SimulatedFurnaces(str(tmp_path), **SMALL).names()) == 3


def test_what_killed_ones_left_is_removed(tmp_path, monkeypatch):
    write, left = SimulatedFurnaces._write_all, []

    def killed(self, root):
        write(self, root)
        left.append(root.with_name(f"{root.name}-killed"))
        root.rename(left[0])  # nothing of it is removed
        raise KeyboardInterrupt

    monkeypatch.setattr(SimulatedFurnaces, "_write_all", killed)
    with pytest.raises(KeyboardInterrupt):
        SimulatedFurnaces(str(tmp_path), **SMALL)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [left[0].name]
    source = SimulatedFurnaces(str(tmp_path), **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [source.directory.name]


def test_incomplete_folder_is_never_taken_for_complete(tmp_path):
    source = SimulatedFurnaces(str(tmp_path), **SMALL)
    (source.directory / "simulation.json").unlink()
    with pytest.raises(ValueError, match="remove that folder"):
        SimulatedFurnaces(str(tmp_path), **SMALL)


def test_set_finished_by_somebody_else_in_the_meantime_is_used(tmp_path, monkeypatch):
    write = SimulatedFurnaces._write_all

    def slow(self, root):
        write(self, root)
        if not self.directory.exists():
            monkeypatch.setattr(SimulatedFurnaces, "_write_all", write)
            SimulatedFurnaces(str(tmp_path), **SMALL)

    monkeypatch.setattr(SimulatedFurnaces, "_write_all", slow)
    source = SimulatedFurnaces(str(tmp_path), **SMALL)
    assert len(source.names()) == 3
    assert [path.name for path in tmp_path.iterdir()] == [source.directory.name]


def test_each_parameter_set_has_a_folder_of_its_own(tmp_path):
    changes = [
        {},
        {"seed": 1},
        {"duration_s": 50.0},
        {"frame_rate_hz": 0.5},
        {"profile": "hard"},
        {"changes": {"trips": False}},
        {"recordings_per_furnace": 2},
        {"recordings": 2},
    ]
    sources = [SimulatedFurnaces(str(tmp_path), **{**SMALL, **c}) for c in changes]
    assert len({source.fingerprint() for source in sources}) == len(changes)
    for source in sources:
        assert BenchmarkDirectory(str(source.directory)).names() == source.names()


def test_a_fixed_lead_is_one_number_and_hyphens_are_underscores(tmp_path):
    changes = ({"lead_s": 200}, {"lead_s": (200.0, 200.0)})
    one, same = (
        SimulatedFurnaces(str(tmp_path), **{**SMALL, "changes": change})
        for change in changes
    )
    assert one.directory == same.directory
    hyphens, underscores = (
        SimulatedFurnaces(str(tmp_path), **{**SMALL, "profile": name})
        for name in ("no-precursor", "no_precursor")
    )
    assert hyphens.directory == underscores.directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lead_s": (300.0, 180.0)}, r"least and most; got \(300.0, 180.0\); use such"),
        ({"lead_s": "240"}, "change of lead_s must be seconds.*got '240'"),
        ({"lead_s": (240.0,)}, r"got \(240.0,\)"),
        ({"trips": "no"}, "change of trips must be True or False; got 'no'"),
        ({"volatility": True}, "change of volatility must be a number from 0 on"),
        ({"deep": 0.3}, "change of deep must be a SpellKind; got 0.3"),
    ],
)
def test_changes_of_another_kind_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        changed("default", change)


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "no_such"},
        {"changes": {"no_such": 1}},
        {"recordings": 0},
        {"test_recordings": 3},
        {"recordings_per_furnace": 0},
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(tmp_path, wrong):
    with pytest.raises(ValueError, match="got"):
        SimulatedFurnaces(str(tmp_path), **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []
