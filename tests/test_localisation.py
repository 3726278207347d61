"""Localisation: what is measured of spells, by hand; plain rules; what is refused."""

import pathlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from made_up_windows import segments_of
from ml_collections import ConfigDict

from fmalign_jax.config import default_config, load_file
from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.ticks import Ticks
from fmalign_jax.evaluation import localisation
from fmalign_jax.evaluation.files import localisation_rows
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import EvaluationSplits

SYSTEMS = pathlib.Path(__file__).parents[1] / "configs" / "systems.py"
TICK_S = 2.0
WIDTH = 4


def _track(label, name="one"):
    """Labels of ticks; None for one that is not covered, -1 for one without a label."""
    covered = np.array([own is not None for own in label])
    label = np.array([-1 if own is None else own for own in label])
    place = np.arange(len(label))
    return localisation.Track(
        recording=name,
        ticks=place,
        row=np.where(covered, place, -1),
        position=0 * place,
        known=covered & (label >= 0),
        abnormal=label == 1,
        begin_s=TICK_S * place,
        end_s=TICK_S * (place + 1),
    )


def _on(n, *spans):
    on = np.zeros(n, bool)
    for begin, end in spans:
        on[begin:end] = True
    return on


def test_a_recording_by_hand():
    truth = _on(100, (20, 40), (60, 80))
    track = _track(truth.astype(int).tolist())
    # The first is found 3 ticks late; the second in two parts, 8 s apart; and one more.
    said = _on(100, (23, 40), (60, 68), (72, 80), (85, 88))
    found = localisation.measures([track], [said])
    assert found["balanced_accuracy"] == pytest.approx((33 / 40 + 57 / 60) / 2)
    assert found["f1"] == pytest.approx(2 * 33 / (2 * 33 + 3 + 7))
    # 85 - 88 is 10 s after and so one with the second spell: IoU 20 / 28.
    assert (found["spells"], found["said"]) == (2, 2)
    assert [found[f"event_f1@{at}"] for at in (0.3, 0.5, 0.7)] == [1, 1, 1]
    assert found["onset_error_s"] == 3  # of 6 and 0
    assert found["onset_within_10_s"] == 1
    late = localisation.measures([track], [_on(100, (32, 50), (60, 80))])
    assert late["said"] == 1  # 20 s apart: one
    late = localisation.measures([track], [_on(100, (30, 45), (70, 84))])
    assert late["onset_within_10_s"] == 0
    assert late["event_f1@0.5"] == 0
    assert late["event_f1@0.3"] == 1


def test_one_long_alarm_over_two_spells_finds_none():
    track = _track(_on(100, (20, 40), (60, 80)).astype(int).tolist())
    found = localisation.measures([track], [_on(100, (20, 80))])
    assert found["event_f1@0.5"] == 0
    assert found["f1"] > 0.7


def test_only_what_is_covered_and_labelled_is_judged():
    label = [None] * 10 + [1] * 20 + [0] * 30 + [-1] * 40
    found = localisation.measures([_track(label)], [_on(100, (0, 32), (70, 90))])
    assert (found["spells"], found["said"]) == (1, 1)
    assert found["balanced_accuracy"] == pytest.approx((1 + 28 / 30) / 2)
    assert found["event_f1@0.7"] == 1
    assert found["onset_error_s"] is None  # it was on before anything was seen
    still = localisation.measures([_track([0] * 50)], [np.zeros(50, bool)])
    undefined = {name for name, value in still.items() if value is None}
    assert undefined == set(still) - {"spells", "said"}


@given(st.integers(0, 1000), st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_scores_are_means_over_five_known_ticks(seed, n):
    rng = np.random.default_rng(seed)
    score, known = rng.uniform(size=n), rng.uniform(size=n) < 0.7
    found = localisation.smoothed(score, known)
    for tick in np.flatnonzero(known):
        around = np.arange(max(0, tick - 2), min(n, tick + 3))
        expected = score[around[known[around]]].mean()
        assert found[tick] == pytest.approx(expected)


def _split(name, label, samples):
    """Windows two ticks apart over recordings; the current has two samples a tick."""
    label = np.asarray(label, np.int32)
    recordings, n = label.shape
    number = np.arange(recordings).repeat(n).astype(np.int32)
    place = np.tile(np.arange(n), recordings)
    ticks = Ticks(
        samples={"current": 2 * place[:, None] + np.arange(2)},
        usable=np.ones(label.size, bool),
        label=label.ravel(),
        segments=segments_of(number, TICK_S * place, TICK_S),
    )
    start = np.concatenate(
        [r * n + np.arange(4, n - WIDTH + 1, 2) for r in range(recordings)]
    )
    store = mock.Mock(spec=RecordingStore)
    store.names = tuple(f"{name} {r}" for r in range(recordings))
    store.label_names = ("normal", "abnormal")
    store.streams = {"current": mock.Mock(value_shape=(3,))}
    store.gather = lambda stream, r, rows: samples[r].reshape(-1, 3)[rows]
    windows = WindowIndex(ticks, start, WIDTH, "recording")
    return LabelledWindows(name, "the run", store, windows, label.ravel()[start])


def _spells(rng, recordings=2, n=240):
    label = np.zeros((recordings, n), int)
    for own in label:
        for begin in (40, 140):
            own[begin + rng.integers(5) : begin + 50 + rng.integers(10)] = 1
    samples = (
        rng.normal(size=(recordings, n, 2, 3)) * (4 - 3.8 * label)[..., None, None]
    )
    return label, samples


def test_plain_rules_find_a_calm_current_and_see_no_label_of_the_test():
    rng = np.random.default_rng(0)
    head = _split("head", *_spells(rng))
    label, samples = _spells(rng)
    split = _split("test", label, samples)
    splits = EvaluationSplits(("normal", "abnormal"), {"head": head}, None)
    config = ConfigDict({"target": "current", "bootstrap_draws": 20, "seed": 0})
    run_config = ConfigDict(
        {"data": {"samples_per_tick": {"current": 2}, "tick_s": TICK_S}}
    )
    laid = localisation.tracks(split, splits.classes, WIDTH)
    assert [track.recording for track in laid] == ["test 0", "test 1"]
    np.testing.assert_array_equal(laid[1].known, np.arange(240) >= 4)
    np.testing.assert_array_equal(laid[1].abnormal, label[1] == 1)
    said, chosen = localisation._plain(head, split, laid, splits, config, run_config)
    assert set(said) == {"rolling_sd", "rolling_change", "cusum"}
    assert chosen["rolling_sd"]["length_s"] == 30  # the shortest reacts the soonest
    scored = localisation._scored(laid, said["rolling_change"], config)
    assert scored["balanced_accuracy"] > 0.75
    assert set(scored["by_recording"]) == {"test 0", "test 1"}
    # With other labels of the test the same is said.
    other = localisation.tracks(_split("test", 1 - label, samples), ("a", "b"), WIDTH)
    again, _ = localisation._plain(head, split, other, splits, config, run_config)
    np.testing.assert_array_equal(said["cusum"][0], again["cusum"][0])
    head.store.streams["current"].value_shape = (64, 64, 3)  # no sensor
    none = localisation._plain(head, split, laid, splits, config, run_config)
    assert none == ({}, {})


def test_of_a_window_so_many_last_ticks_have_features():
    split = _split("test", *_spells(np.random.default_rng(0)))
    whole = localisation.tracks(split, ("normal", "abnormal"), WIDTH)[0]
    later = localisation.tracks(split, ("normal", "abnormal"), WIDTH - 1)[0]
    assert later.known.sum() == whole.known.sum() - 1
    assert not later.known[4]
    covered = later.row >= 0
    tick = split.windows.start[later.row] + 1 + later.position
    np.testing.assert_array_equal(tick[covered], later.ticks[covered])


def test_what_has_no_ticks_or_no_spells_is_refused():
    config, run_config = evaluation_config(), default_config()
    two = EvaluationSplits(("normal", "abnormal"), {}, None)
    many = EvaluationSplits(("cold", "warm", "hot"), {}, None)
    localisation.check(config, run_config, many)  # not asked for
    config.localisation = True
    localisation.check(config, run_config, two)
    with pytest.raises(ValueError, match=r"two classes.*; got 3: cold, warm, hot; "):
        localisation.check(config, run_config, many)
    slots = load_file(SYSTEMS).get_config("onellm")
    with pytest.raises(ValueError, match=r'OneLlm, whose .*model\.keep="ticks"'):
        localisation.check(config, slots, two)
    slots.model.keep = "ticks"
    localisation.check(config, slots, two)


def test_the_row_of_the_target_itself_is_called_the_tick_oracle():
    value = dict.fromkeys(
        ["balanced_accuracy", "f1", "onset_error_s", "onset_within_10_s"], 0.5
    )
    value |= {f"event_f1@{at}": None for at in (0.3, 0.5, 0.7)}
    directions = {"video->current": value, "current->current": value}
    found = {"directions": directions, "references": {"always_abnormal": value}}
    rows = localisation_rows({"target": "current", "localisation": found})
    assert [row[0] for row in rows[1:]] == [
        "video->current",
        "current->current, tick oracle",
        "always abnormal",
    ]
    assert rows[1][1:4] == ["0.500", "0.500", "-"]
