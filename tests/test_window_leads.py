"""What single windows say of the lead."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from fmalign_jax.config.commands import lead_config
from fmalign_jax.lead import layout as lead_layout, search, statistics, window_leads
from fmalign_jax.lead.tick_features import Clip, TickFeatures

LEAD, WINDOW, WIDE = 9, 10, 32


def _features(semantic):
    n = len(semantic)
    return TickFeatures(
        start_s=0.0,
        known=np.arange(n) > 2,
        semantic=semantic.astype(np.float32),
        code=None,
        plain=np.zeros((n, 1), np.float32),
        motion=np.zeros((n, 1), np.float32),
    )


def _clips(lead):
    """Three recordings; with a lead both modalities show one signal, that far apart."""
    rng = np.random.default_rng(0)
    clips = []
    for number in range(3):
        one, other = rng.normal(size=(2, 700, WIDE))
        video = other if lead is None else np.roll(one, lead, axis=0)
        clips.append(Clip(f"heat_{number}", 0, _features(video), _features(one)))
    return clips


def _found(lead):
    layout = lead_layout.layout(
        _clips(lead), tick_s=2.0, least_s=0.0, most_s=100.0, unit_ticks=50
    )
    wrong = next(statistics.wrong_pairings(layout, draws=1, guard_ticks=WINDOW, seed=0))
    return window_leads.describe(
        layout,
        wrong,
        window_ticks=WINDOW,
        tick_s=2.0,
        estimate_s=None if lead is None else 2.0 * lead,
    )


def test_windows_find_a_planted_lead():
    found = _found(LEAD)["paired"]
    assert found["windows"] > 150
    assert np.argmax(found["histogram"]) == LEAD
    assert sum(found["histogram"]) == found["windows"]
    for name in ("mean_curve", "answer"):
        own = found["shares"][name]
        assert own["lead_s"] == 2.0 * LEAD
        assert own["one_tick"] > 0.95
        assert own["one_tick"] <= own["30_s"]
        assert own["chance_one_tick"] == pytest.approx(3 / 51)
        assert own["chance_30_s"] == pytest.approx(25 / 51)  # 0 to 48 s


def test_unrelated_windows_find_one_too_each_another():
    found = _found(None)
    for pairing in (found["paired"], _found(LEAD)["wrong_pairing"]):
        assert max(pairing["histogram"]) < 0.1 * pairing["windows"]
        assert pairing["best_cosine"] > 0.3  # of 51 cosines in 32 dimensions
        assert abs(pairing["mean_cosine"]) < 0.01
        assert list(pairing["shares"]) in (["mean_curve"], ["mean_curve", "answer"])


def test_a_window_counts_that_is_known_at_every_lead():
    unit = np.ones((1, 40, 1))
    known_x, known_y = np.ones((2, 1, 40), bool)
    known_y[0, 20] = False
    leads = np.arange(4)
    found = window_leads.similarities(unit, unit, known_x, known_y, leads, 4)
    # Centres 2, 6, 10, ...; 2 lacks lead 3, and 22 meets what is unknown.
    assert found.shape == (10 - 2, 4)
    assert not len(window_leads.similarities(unit, unit, ~known_x, known_y, leads, 4))


def test_labels_and_features_have_no_cosine():
    clips = [
        dataclasses.replace(clip, reference=_features(clip.reference.semantic[:, :2]))
        for clip in _clips(LEAD)
    ]
    layout = lead_layout.layout(
        clips, tick_s=2.0, least_s=0.0, most_s=100.0, unit_ticks=50
    )
    settings = {"window_ticks": WINDOW, "tick_s": 2.0, "estimate_s": None}
    assert window_leads.describe(layout, None, **settings) is None


def test_a_search_reports_them():
    config = lead_config()
    config.most_lead_s, config.bootstrap_draws, config.null_draws = 100.0, 20, 20
    config.indicators = config.chance_of = ("canonical", "association")
    data = ConfigDict(
        {
            "tick_s": 2.0,
            "window_ticks": WINDOW,
            "draw_lead": False,
            "reference_stream": "video",
            "leading_stream": "current",
        }
    )
    found = search.find_lead(_clips(LEAD), config, data)
    assert np.argmax(found["window_leads"]["paired"]["histogram"]) == LEAD
    assert "answer" in found["window_leads"]["paired"]["shares"]
