"""Clips in rows, and the views of the indicators."""

import dataclasses

import numpy as np
import pytest
from scipy.special import logsumexp

from fmalign_jax.lead import indicators, layout as lead_layout
from fmalign_jax.lead.indicators import INDICATORS
from fmalign_jax.lead.tick_features import Clip, TickFeatures


def _features(n, seed, start_s=0.0, code=None):
    rng = np.random.default_rng(seed)
    known = np.ones(n, bool)
    known[0] = False
    semantic = rng.normal(size=(n, 5)).astype(np.float32) * known[:, None]
    return TickFeatures(
        start_s=start_s,
        known=known,
        semantic=semantic,
        code=rng.integers(0, 30, n).astype(np.int32) if code is None else code,
        plain=np.abs(semantic[:, :2]),
        motion=np.abs(semantic[:, :3]),
    )


def _clips():
    return [
        Clip("heat_0", 0, _features(30, 0), _features(45, 1, start_s=-9.75)),
        Clip("heat_1", 0, _features(20, 2, start_s=7.0), _features(30, 3, -2.9)),
        Clip("heat_1", 1, _features(25, 4, start_s=90.0), _features(25, 5, 90.2)),
    ]


def _lay(clips, least_s=-6.0, most_s=10.0, unit_ticks=8):
    return lead_layout.layout(
        clips, tick_s=1.0, least_s=least_s, most_s=most_s, unit_ticks=unit_ticks
    )


def test_positions_tell_leads_to_the_clocks_of_both():
    layout = _lay(_clips())
    assert layout.ticks % layout.unit_ticks == 0
    assert layout.names == ["heat_0", "heat_1"]
    np.testing.assert_array_equal(layout.recording, [0, 1, 1])
    assert layout.lead_s.min() >= -6 - 1e-6
    assert layout.lead_s.max() <= 10 + 1e-6
    for row, clip in enumerate(layout.clips):
        for lead, lead_s in zip(layout.leads, layout.lead_s, strict=True):
            # Reference tick i and leading tick j meet at this lead ...
            i = 12
            j = i + layout.reference_at[row] - lead - layout.leading_at[row]
            true_s = clip.reference.start_s + i - (clip.leading.start_s + j)
            # ... up to what the clips' clocks differ from their mean in.
            assert true_s == pytest.approx(lead_s, abs=0.5)


def test_one_clip_has_exact_leads():
    layout = _lay(_clips()[:1])
    j = 12 + layout.reference_at[0] - layout.leads - layout.leading_at[0]
    np.testing.assert_allclose(12 - (-9.75 + j), layout.lead_s)


def test_what_no_lead_of_the_range_can_meet_is_left_out():
    far = dataclasses.replace(
        _clips()[0], recording="far", leading=_features(30, 9, start_s=5000.0)
    )
    layout = _lay([*_clips(), far])
    assert layout.names == ["heat_0", "heat_1"]
    assert layout.ticks < 60
    with pytest.raises(ValueError, match="longer than itself"):
        _lay([far])


def test_rows_hold_every_clip_at_its_place():
    layout = _lay(_clips())
    rows = indicators.make_rows(layout, list(INDICATORS), window_ticks=5, dimensions=2)
    for row, clip in enumerate(layout.clips):
        for role, at in (
            ("reference", layout.reference_at),
            ("leading", layout.leading_at),
        ):
            part = getattr(clip, role)
            known = np.zeros(layout.ticks, bool)
            codes = np.zeros(layout.ticks, int)
            for tick in np.flatnonzero(part.known):
                if 0 <= at[row] + tick < layout.ticks:
                    known[at[row] + tick] = True
                    codes[at[row] + tick] = part.code[tick]
            side = getattr(rows, role)
            np.testing.assert_array_equal(getattr(rows, f"{role}_known")[row], known)
            np.testing.assert_array_equal(
                side["code_agreement"][row] * known, codes * known
            )
            np.testing.assert_allclose(
                np.linalg.norm(side["cosine"][row], axis=1), known, atol=1e-6
            )


def test_whitened_views_are_white_and_without_trend_in_each_recording():
    layout = _lay(_clips())
    parts = [clip.reference for clip in layout.clips]
    found = indicators._semantic(parts, layout, 5, 3)
    known = [own[part.known] for own, part in zip(found, parts, strict=True)]
    time_s = [
        part.start_s + layout.tick_s * np.flatnonzero(part.known) for part in parts
    ]
    # The clips of a recording are on one clock, with a gap between them.
    for rows in ([0], [1, 2]):
        own = np.concatenate([known[row] for row in rows])
        clock_s = np.concatenate([time_s[row] for row in rows])
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-6)
        slope = (clock_s - clock_s.mean()) @ own / np.ptp(clock_s) ** 2
        np.testing.assert_allclose(slope, 0, atol=1e-6)
    everything = np.concatenate(known)
    np.testing.assert_allclose(
        everything.T @ everything / len(everything), np.eye(3), atol=1e-5
    )


def test_a_collapsed_code_gives_nothing_to_associate():
    code = np.full(30, 7, np.int32)
    part = _features(30, 0, code=code)
    layout = _lay([Clip("heat_0", 0, part, part)])
    found = indicators._one_hot_whitened([part], layout, 5, 3)
    np.testing.assert_array_equal(found[0], np.zeros((30, 1)))


def test_rare_codes_share_one_place():
    code = np.repeat(np.arange(20), np.arange(20, 0, -1)).astype(np.int32)
    part = _features(len(code), 0, code=code)
    table = indicators._one_hot([part])[0]
    assert table.shape == (len(code), 16)
    np.testing.assert_array_equal(table.sum(axis=1), 1)
    np.testing.assert_array_equal(table.argmax(axis=1), np.minimum(code, 15))


def test_info_nce_factors_are_the_bound_of_each_pair():
    rng = np.random.default_rng(0)
    x, y, c = (rng.normal(size=(1, 6, 4)).astype(np.float32) / 3 for _ in range(3))
    left, right = indicators.info_nce_factors(x, y, c[0])
    for t, s in ((0, 0), (2, 5)):
        logits = c[0] @ y[0, s] / 0.1
        expected = np.log(6) + x[0, t] @ y[0, s] / 0.1 - logsumexp(logits)
        assert left[0, t] @ right[0, s] == pytest.approx(expected, abs=1e-5)
