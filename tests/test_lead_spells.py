"""The lead of each spell, on planted spells of leads of their own."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_lead_statistics import _features, _found

from fmalign_jax.lead import files, spells
from fmalign_jax.lead.tick_features import Clip

TICK_S = 2.0
N = 1500


def _state(begins, length=60):
    place = np.arange(N)[:, None]
    return ((place >= begins) & (place < np.asarray(begins) + length)).any(axis=1)


def _clips(leads, seed=0, first=120, every=200):
    """One recording; spell i begins `leads[i]` ticks later in the reference."""
    ahead = first + every * np.arange(len(leads))
    behind = ahead + np.asarray(leads)
    values = {"reference": _state(behind), "leading": _state(ahead)}
    parts = {
        role: _features(4.0 * state, [seed, number])
        for number, (role, state) in enumerate(values.items())
    }
    return (
        [Clip(f"heat_{seed}", 0, parts["reference"], parts["leading"])],
        ahead,
        behind,
    )


def _search(clips, **changes):
    return _found(clips, least_lead_s=0.0, most_lead_s=300.0, **changes)


def test_every_spell_has_its_own_lead():
    leads = [30, 36, 25, 33, 40, 28]
    clips, ahead, behind = _clips(leads)
    # Windows so long that leads 10 ticks off the common one are still pairs.
    found = _search(clips, response_windows=0.0)["spells"]
    assert found["unpaired"]["leading"] + len(found["pairs"]) == len(leads)
    by_onset = {
        round(pair["leading_onset_s"] / TICK_S): pair for pair in found["pairs"]
    }
    seen = 0
    for begin, end, lead in zip(ahead, behind, leads, strict=True):
        near = [place for place in by_onset if abs(place - begin) <= 2]
        if not near:
            continue
        seen += 1
        pair = by_onset[near[0]]
        assert pair["lead_s"] == pytest.approx(lead * TICK_S, abs=3.0)
        assert pair["reference_onset_s"] == pytest.approx(end * TICK_S, abs=3.0)
        low, high = pair["interval_s"]
        assert low - 1e-6 <= pair["lead_s"] <= high + 1e-6
    assert seen == len(found["pairs"]) >= 4
    leads_s = [pair["lead_s"] for pair in found["pairs"]]
    assert found["median_s"] == pytest.approx(np.median(leads_s))


def test_a_lead_that_drifts_is_said_to(tmp_path):
    clips, _, _ = _clips([30, 31, 32, 33, 34, 35])
    report = _search(clips)
    slope, low, high = report["spells"]["drift_s_per_hour"]
    # A tick more every 200 ticks: 2 s in 400 s.
    assert slope == pytest.approx(18.0, abs=4.0)
    assert low <= slope <= high
    assert "drift 1" in files.of_spells(report["spells"])
    files.write(tmp_path, report)
    rows = list(csv.reader((tmp_path / files.SPELLS).read_text().splitlines()))
    assert len(rows) == 1 + len(report["spells"]["pairs"])
    assert rows[0][:2] == ["recording", "clip"]
    assert float(rows[1][4]) == pytest.approx(60.0, abs=4.0)


def test_a_spell_that_one_modality_alone_shows_has_no_partner():
    clips, ahead, _ = _clips([30] * 5)
    alone = _features(4.0 * _state([*ahead, 1300]), [5, 1])
    clips = [Clip("heat_0", 0, clips[0].reference, alone)]
    found = _search(clips)["spells"]
    assert len(found["pairs"]) == 5
    assert found["unpaired"] == {"reference": 0, "leading": 1}


def test_where_no_lead_is_found_there_are_no_spells():
    report = _search(_clips([30] * 5)[0], significance=0.0)
    assert report["spells"] is None


@given(
    st.lists(st.floats(0, 5000), max_size=12, unique=True),
    st.lists(st.floats(0, 5000), max_size=12, unique=True),
    st.floats(0, 300),
)
@settings(deadline=None)
def test_no_onset_has_two_partners_and_all_lie_a_lead_apart(ours, theirs, lead_s):
    reference, leading = np.array(sorted(ours)), np.array(sorted(theirs))
    found = spells.paired(reference, leading, lead_s, within_s=60.0)
    for side in zip(*found, strict=True):
        assert len(set(side)) == len(side)
    for i, j in found:
        assert abs(reference[i] - leading[j] - lead_s) <= 60.0
