"""Estimate, interval and null of a curve over leads, on planted leads."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from ml_collections import ConfigDict

from fmalign_jax.config.commands import lead_config
from fmalign_jax.lead import (
    curves,
    indicators,
    layout as lead_layout,
    search,
    statistics,
)
from fmalign_jax.lead.indicators import INDICATORS
from fmalign_jax.lead.tick_features import Clip, TickFeatures

LEAD_S = np.arange(0.0, 40.0, 2.0)


@given(st.floats(8, 30), st.floats(0.1, 5))
@settings(deadline=None, max_examples=30)
def test_a_parabola_gives_its_vertex(vertex_s, bend):
    curve = 3 - bend * (LEAD_S - vertex_s) ** 2
    found = statistics.peaks(curve[None], LEAD_S, half_width=2)
    assert found[0] == pytest.approx(vertex_s, abs=1e-6)


def test_at_the_edge_or_without_values_the_highest_point_counts():
    rising = LEAD_S**2
    gaps = np.where(np.arange(20) % 2, np.nan, 0.0)
    gaps[10] = 5.0
    found = statistics.peaks(np.stack([rising, gaps]), LEAD_S, half_width=2)
    np.testing.assert_allclose(found, [38.0, 20.0])
    single = statistics.peaks(rising[None, :3], LEAD_S[:3], half_width=2)
    assert single[0] == 4.0


def test_recordings_are_drawn_first_and_then_their_units():
    recording = np.repeat([0, 1, 2], [4, 6, 2])
    weights = statistics.bootstrap_weights(recording, draws=4000, seed=0)
    sizes = np.array([4, 6, 2])
    by_recording = np.stack([weights[:, recording == r].sum(axis=1) for r in range(3)])
    times = by_recording / sizes[:, None]
    np.testing.assert_array_equal(times, np.round(times))
    np.testing.assert_array_equal(times.sum(axis=0), 3)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.1)


def test_chance_is_small_beyond_what_wrong_pairings_reach():
    wrong = np.random.default_rng(0).gumbel(1.0, 0.1, 200)
    chance = functools.partial(statistics.chance, distinct=200.0)
    assert chance(3.0, wrong) < 1e-6
    assert 0.3 < chance(float(np.median(wrong)), wrong) < 0.7
    assert chance(3.0, wrong[:1]) is None


def test_chance_does_not_trust_a_few_pairings_that_were_drawn_often():
    rng = np.random.default_rng(1)
    sure, careful = [], []
    for _ in range(2000):
        few = rng.normal(size=5)
        drawn = rng.choice(few, 100) + 1e-3 * rng.normal(size=100)
        found = rng.normal()
        sure.append(statistics.chance(found, drawn, distinct=100.0))
        careful.append(statistics.chance(found, drawn, distinct=5.0))
    # One in twenty at most, of values that are like the wrong ones.
    assert np.mean(np.array(sure) < 0.05) > 0.08
    assert np.mean(np.array(careful) < 0.05) < 0.06


def test_pairings_are_counted_that_have_nothing_in_common():
    layout, _ = _search([planted_clip(0, seed) for seed in range(2)])
    length = np.array([clip.leading.known.sum() for clip in layout.clips])
    reach = layout.leads[-1] - layout.leads[0] + 5
    found = statistics.distinct_pairings(layout, guard_ticks=5)
    expected = [
        (max(length[0] - 2 * reach, 0) + length[1]) / reach,
        (max(length[1] - 2 * reach, 0) + length[0]) / reach,
    ]
    np.testing.assert_allclose(found, expected)


DATA = {
    "tick_s": 2.0,
    "window_ticks": 5,
    "draw_lead": False,
    "reference_stream": "video",
    "leading_stream": "current",
}
"""What the search reads of a run's settings of data."""


def _features(values, seed, start_s=0.0):
    n = len(values)
    noise = np.random.default_rng(seed).normal(size=(n, 6))
    mix = np.random.default_rng(0).normal(size=6)
    semantic = (values[:, None] * mix + 0.5 * noise).astype(np.float32)
    return TickFeatures(
        start_s=start_s,
        known=np.ones(n, bool),
        semantic=semantic,
        code=(values > 0).astype(np.int32),
        plain=semantic[:, :2],
        motion=semantic[:, :3],
    )


def planted_clip(lead_ticks, seed, *, n=400, offset_s=0.0, related=True):
    """Makes a clip of ticks of 2 s in which the leading modality is ahead."""
    rng = np.random.default_rng(seed)
    slow = np.convolve(rng.normal(size=n + 200), np.ones(12) / 3, mode="same")
    other = np.convolve(rng.normal(size=n + 200), np.ones(12) / 3, mode="same")
    # What the leading modality shows at tick j, the reference shows at j + lead_ticks.
    reference = slow[100 : 100 + n]
    leading = (slow if related else other)[100 + lead_ticks : 100 + lead_ticks + n]
    return Clip(
        f"heat_{seed}",
        0,
        _features(reference, [seed, 1], offset_s),
        _features(leading, [seed, 2]),
    )


def _search(clips, least_s=-60.0, most_s=60.0):
    layout = lead_layout.layout(
        clips, tick_s=2.0, least_s=least_s, most_s=most_s, unit_ticks=50
    )
    rows = indicators.make_rows(layout, list(INDICATORS), window_ticks=5, dimensions=3)
    return layout, rows


@pytest.mark.parametrize(
    ("lead_ticks", "offset_s"), [(12, 0.0), (-9, 0.7), (20, -31.0)]
)
def test_a_planted_lead_is_found_by_every_indicator(lead_ticks, offset_s):
    clips = [planted_clip(lead_ticks, seed, offset_s=offset_s) for seed in range(3)]
    layout, rows = _search(clips)
    found = curves.lead_sums(
        rows, INDICATORS, layout.leads, unit_ticks=layout.unit_ticks
    )
    for name, own in found.items():
        curve = own.curve()[None]
        lead_s = statistics.peaks(curve, layout.lead_s, half_width=3)[0]
        assert lead_s == pytest.approx(2 * lead_ticks + offset_s, abs=1.5), name


@pytest.mark.parametrize("clips", [1, 4])
@pytest.mark.parametrize("related", [True, False])
def test_wrong_pairings_tell_a_lead_from_chance(clips, related):
    clips = [planted_clip(8, seed, related=related) for seed in range(clips)]
    layout, rows = _search(clips)
    kinds = {"association": INDICATORS["association"]}

    def rise(rows):
        own = curves.lead_sums(rows, kinds, layout.leads, unit_ticks=layout.unit_ticks)[
            "association"
        ]
        return statistics.rise(own.curve()[None])[0]

    wrong = [
        rise(curves.rearranged(rows, *pairing))
        for pairing in statistics.wrong_pairings(
            layout, draws=30, guard_ticks=5, seed=0
        )
    ]
    distinct = statistics.distinct_pairings(layout, guard_ticks=5).sum()
    chance = statistics.chance(rise(rows), np.array(wrong), distinct=distinct)
    assert chance < 1e-3 if related else chance > 0.05


def test_no_wrong_pairing_meets_its_own_lead():
    layout, _ = _search([planted_clip(0, 0)])
    reach = layout.leads[-1] - layout.leads[0] + 5
    for pairing in statistics.wrong_pairings(layout, draws=50, guard_ticks=5, seed=1):
        moved = np.arange(layout.ticks) - pairing.position[0]
        moved = moved[pairing.known[0]] % pairing.known[0].sum()
        assert len(np.unique(moved)) == 1
        assert reach <= moved[0] <= pairing.known[0].sum() - reach


def test_one_recording_without_room_has_no_wrong_pairings():
    layout, _ = _search([planted_clip(0, 0, n=60)])
    assert not list(statistics.wrong_pairings(layout, draws=5, guard_ticks=5, seed=0))


def _chance(clips):
    """Returns how likely the association of wrong pairings rises as far."""
    name = "association"
    layout = lead_layout.layout(
        clips, tick_s=1.0, least_s=0.0, most_s=60.0, unit_ticks=50
    )
    rows = indicators.make_rows(layout, [name], window_ticks=10, dimensions=3)

    def rise(rows):
        found = curves.lead_sums(
            rows, {name: INDICATORS[name]}, layout.leads, unit_ticks=layout.unit_ticks
        )
        return statistics.rise(found[name].curve()[None])[0]

    wrong = [
        rise(curves.rearranged(rows, *pairing))
        for pairing in statistics.wrong_pairings(
            layout, draws=25, guard_ticks=10, seed=0
        )
    ]
    distinct = statistics.distinct_pairings(layout, guard_ticks=10).sum()
    return statistics.chance(rise(rows), np.array(wrong), distinct=distinct)


def _unrelated(lengths, seed, slope=0.0):
    """Makes clips whose modalities swing and drift, each by itself."""
    rng = np.random.default_rng(seed)
    kept = np.exp(-np.arange(60) / 10.0)
    kept /= np.linalg.norm(kept)

    def features(n):
        swings = [np.convolve(rng.normal(size=n + 59), kept, "valid") for _ in "xyz"]
        semantic = np.stack(swings, axis=1)
        semantic[:, 0] += slope * rng.normal() * np.linspace(-1.7, 1.7, n)
        semantic = semantic.astype(np.float32)
        return TickFeatures(0.0, np.ones(n, bool), semantic, None, semantic, semantic)

    return [
        Clip(f"heat_{i}", 0, features(n), features(n)) for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("slope", [0.0, 5.0])
def test_signals_that_have_nothing_to_do_with_each_other_have_no_lead(slope):
    """Whatever trend each has, such as a lens that fouls or a shell that warms up."""
    chances = [_chance(_unrelated((600,) * 4, seed, slope)) for seed in range(12)]
    # 0.5 are expected; it was 6 with a slope, down to 3e-5, while trends were kept.
    assert np.sum(np.array(chances) < 0.04) <= 2
    assert min(chances) > 1e-4


@given(
    lengths=st.lists(st.integers(1, 1000), min_size=2, max_size=9),
    room=st.integers(1, 1000),
)
def test_rows_are_exchanged_with_rows_of_about_their_length(lengths, room):
    length = np.array(lengths)
    alone = length >= room
    groups = statistics._alike(length, alone=alone)
    assert sorted(np.concatenate(groups)) == list(range(len(length)))
    for group in groups:
        # Who has no room to be turned by itself needs another, of whatever length.
        alike = length[group].max() <= 2 * length[group].min()
        assert alike or not alone[group].all()
        assert len(group) > 1 or alone[group[0]]
    rng = np.random.default_rng(0)
    drawn = statistics._shuffled(rng, groups, fixed=alone)
    assert sorted(drawn) == list(range(len(length)))
    assert not (drawn == np.arange(len(length)))[~alone].any()
    for group in groups:
        assert set(drawn[group]) == set(group)


def test_a_range_beyond_every_recording_is_refused():
    with pytest.raises(ValueError, match="longer than itself"):
        _search([planted_clip(0, 0, n=60)], least_s=500.0, most_s=600.0)


def _answers(*, model_s, model, evidence, free_s, free, wide_s=0.5, **changes):
    """What `conclude` makes of three indicators with these estimates and chances."""
    config = lead_config()
    whole = {
        "canonical": {"estimate_s": model_s, "chance": model, "interval_s": [0.0, 1.0]},
        "association": {"estimate_s": model_s, "chance": evidence},
        "motion": {"estimate_s": free_s, "chance": free, "interval_s": [2, 2 + wide_s]},
    }
    how = {"window_s": 2.0, "memorised": False, "units": 20} | changes
    units = how.pop("units")
    found = search.conclude(whole, units, config, **how)
    return found["verdict"], found["indicator"], found["estimate_s"]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # The model alone; where it was trained, it may say what it memorised.
        ({}, ("lead found", "canonical", 0.0)),
        ({"memorised": True}, ("cannot tell", "canonical", None)),
        ({"evidence": 0.2}, ("no lead found", "canonical", None)),
        ({"evidence": None, "free": None}, ("too short to tell", "canonical", None)),
        ({"units": 3}, ("too short to tell", "canonical", None)),
        # What moves agrees, or corrects the model by less than a window ...
        ({"free": 1e-3}, ("lead found", "motion", 0.4)),
        # ... unless it knows less closely than the model does ...
        ({"free": 1e-3, "wide_s": 1.5}, ("lead found", "canonical", 0.0)),
        ({"free": 1e-3, "wide_s": 9, "evidence": 0.2}, ("lead found", "motion", 0.4)),
        # ... but is something else when it is farther away ...
        ({"free": 1e-3, "free_s": 2.5}, ("lead found", "canonical", 0.0)),
        # ... unless the model knows nothing, or nothing that counts.
        ({"free": 1e-3, "free_s": 2.5, "evidence": 0.2}, ("lead found", "motion", 2.5)),
        (
            {"free": 1e-3, "free_s": 2.5, "memorised": True},
            ("lead found", "motion", 2.5),
        ),
        ({"free": 1e-3, "units": 3}, ("too short to tell", "motion", None)),
        ({"free": 0.02}, ("lead found", "canonical", 0.0)),
    ],
)
def test_which_answer_counts(case, expected):
    usual = {"model_s": 0.0, "model": 1e-3, "evidence": 1e-3, "free_s": 0.4}
    assert _answers(**(usual | {"free": 0.5} | case)) == expected


def _found(clips, **changes):
    config = lead_config()
    config.update(
        {
            "least_lead_s": -60.0,
            "most_lead_s": 60.0,
            "indicators": ("canonical", "association"),
            "chance_of": (),
            "bootstrap_draws": 100,
            "null_draws": 20,
        }
        | changes
    )
    return search.find_lead(clips, config, ConfigDict(DATA))


def test_an_interval_is_wider_for_few_units():
    drawn = np.linspace(-1.0, 1.0, 401)
    for units, factor in ((5, 2.776 / 1.96 * np.sqrt(5 / 4)), (2000, 1.0)):
        low, high = statistics.interval(drawn, 0.2, units=units)
        assert low == pytest.approx(0.2 - factor * 1.15, rel=2e-3)
        assert high == pytest.approx(0.2 + factor * 0.75, rel=2e-3)


def test_an_interval_ends_where_the_search_does():
    clips = [planted_clip(12, seed) for seed in range(3)]
    found = _found(clips, most_lead_s=26.0, response_windows=3.0)
    low, high = found["interval_s"]
    statistical = found["indicators"]["canonical"]["statistical_interval_s"]
    assert low == pytest.approx(statistical[0] - 30.0)
    assert high == found["lead_s"][-1] < statistical[1] + 30.0


def test_leads_are_looked_at_that_recordings_are_long_enough_for():
    found = _found([planted_clip(12, 0, n=100)], least_lead_s=0.0, most_lead_s=9000.0)
    # 100 ticks of 2 s: at 198 s the first meets the last.
    assert found["lead_s"][-1] == 198.0
    # A tenth of the most pairs, 100 at lead 0, must be left.
    curve = found["indicators"]["canonical"]["curve"]
    assert [value is None for value in curve] == [
        pairs < 10 for pairs in range(100, 0, -1)
    ]


def test_sums_that_would_not_fit_are_kept_in_longer_units(monkeypatch):
    clips = [planted_clip(12, seed) for seed in range(3)]
    whole = _found(clips)
    monkeypatch.setattr(search, "_MOST_BYTES", 61 * 3 * 10 * 2 * 16**2 * 12.0)
    bounded = _found(clips)
    assert whole["unit_s"] == 50.0
    assert bounded["unit_s"] == 100.0
    assert bounded["indicators"]["canonical"]["curve"] == pytest.approx(
        whole["indicators"]["canonical"]["curve"], abs=1e-5
    )
