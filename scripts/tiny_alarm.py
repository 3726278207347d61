"""An alarm made by hand, and lines for it, to try the monitor without any training."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fmalign_jax.alarm import alarm_file
from fmalign_jax.alarm.alarm_file import AlarmSettings
from fmalign_jax.alarm.export import serialised

SETTINGS = AlarmSettings(
    channels=("a", "b", "c"),
    unit="A",
    tick_s=1.0,
    window_ticks=4,
    samples_per_tick=2,
    sample_period_s=0.5,
    max_gap_s=1.5,
    rows=8,
    abnormal="semi-molten",
    raise_at=0.5,
    clear_at=0.4,
    raise_ticks=2,
    clear_ticks=2,
    lead_s=240.0,
    until_visible_s=(200.0, 230.0, 250.0),
    until_visible_from="by hand",
    origin={"run": "by hand"},
)
CALM_EVERY_S = 200
"""Half of each such period is loud, the other half calm, which raises the alarm."""


def write_alarm(path: pathlib.Path, own: AlarmSettings = SETTINGS) -> None:
    """Writes the alarm: calm windows score high, the code is a sample of phase a."""

    def score(
        windows: Float[Array, "B T R C"],
    ) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
        deviation = windows.std(axis=(1, 2)).mean(axis=-1)
        return jax.nn.sigmoid(2.0 - deviation), windows[:, -1, -1, 0].astype(jnp.int32)

    shape = (own.rows, own.window_ticks, own.samples_per_tick, len(own.channels))
    alarm_file.save(path, own, serialised(score, shape))


def lines(number: int, *, seed: int = 0) -> list[str]:
    """Returns so many rows, two a second, each ended by a newline."""
    time_s = np.arange(number) * SETTINGS.sample_period_s + 0.25
    calm = time_s % CALM_EVERY_S > CALM_EVERY_S / 2
    noise = np.random.default_rng(seed).normal(size=(number, 3))
    values = np.where(calm, 0.3, 5.0)[:, None] * noise
    return [
        f"{t},{a:.4f},{b:.4f},{c:.4f}\n"
        for t, (a, b, c) in zip(time_s.tolist(), values.tolist(), strict=True)
    ]
