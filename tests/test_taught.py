"""How a current fluctuates, and what the video says at the end of a window."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from made_up_windows import segments_of

from fmalign_jax.alarm import taught
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.spec import WindowSpec
from fmalign_jax.data.windows.ticks import Ticks

TICKS, RATE, CHANNELS = 30, 4, 3
SPANS = (1, 3, 5, 8, 15, 30)
FLOOR = 0.002


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(5.0, 1.0, shape).astype(np.float32)


def by_hand(x: np.ndarray) -> np.ndarray:
    rows = []
    for window in x.astype(float):
        flat = window.reshape(-1, CHANNELS)
        change = np.abs(np.diff(flat, axis=0, prepend=flat[:1])).reshape(window.shape)
        of_ticks = (
            change.mean(axis=(1, 2)),
            window.std(axis=1).mean(axis=1),
            window.mean(axis=1).std(axis=1),
            window.std(axis=2).mean(axis=1),
        )
        row = [np.log(v + FLOOR)[-n:].mean() for v in of_ticks for n in SPANS]
        level = window.mean(axis=(1, 2))
        row += [np.log(level[-n:].std() + FLOOR) for n in SPANS if n > 3]
        rows.append(row)
    return np.array(rows)


def test_figures_are_logarithms_of_fluctuations() -> None:
    x = random(2, TICKS, RATE, CHANNELS)
    found = np.asarray(taught.figures(jnp.asarray(x)))
    np.testing.assert_allclose(found, by_hand(x), atol=1e-4)


@pytest.mark.parametrize(("rate", "channels", "kinds"), [(1, 3, 3), (4, 1, 2)])
def test_figures_that_do_not_exist_are_left_out(
    rate: int, channels: int, kinds: int
) -> None:
    found = np.asarray(taught.figures(jnp.asarray(random(2, TICKS, rate, channels))))
    assert found.shape == (2, kinds * len(SPANS) + 4)
    assert np.isfinite(found).all()


def test_a_current_that_stands_still_has_figures() -> None:
    found = np.asarray(taught.figures(jnp.full((1, TICKS, RATE, 3), 7.0)))
    np.testing.assert_allclose(found, np.log(FLOOR), rtol=1e-4)


@pytest.mark.parametrize("least_s", [None, 20.0])
def test_what_is_said_is_read_at_the_end_of_the_window(least_s: float | None) -> None:
    # Two recordings of 40 ticks of 2 s; windows of 4 ticks every 2.
    ticks, window = 40, 4
    start_s = np.tile(2.0 * np.arange(ticks), 2)
    start = np.concatenate([np.arange(0, 37, 2), ticks + np.arange(0, 37, 2)])
    segment = np.repeat([0, 1], ticks)
    laid = Ticks(
        samples={},
        usable=np.ones(2 * ticks, bool),
        label=np.zeros(2 * ticks, np.int32),
        segments=segments_of(segment, start_s, 2.0),
    )
    windows = WindowIndex(laid, start, window, "recording")
    spec = WindowSpec(
        samples_per_tick={"video": 1, "current": 2},
        window_ticks=window,
        tick_s=2.0,
        lead_s=24.0,
        lead_range_s=() if least_s is None else (least_s, least_s + 8.0),
    )
    # What is said is the time itself, so that one sees when it was read.
    said = windows.time_s + np.repeat([0.0, 1000.0], len(start) // 2)
    found, known = taught._at_the_end(said, windows, spec, "current")
    # The last tick's middle; with a range, the lead less the least of it later.
    later_s = 0.0 if least_s is None else 4.0
    wanted = start_s[start + window - 1] + 1.0 + later_s
    expected = wanted + np.repeat([0.0, 1000.0], len(start) // 2)
    assert known.sum() == len(start) - (2 if least_s is None else 4)
    np.testing.assert_allclose(found[known], expected[known])
    # Nothing is said beyond the last centre of a recording.
    assert not known[[18, 37]].any()
