"""Random processes on a regular time grid, exact for any step.

Every process has mean 0 and variance 1 and starts in its stationary state. The
recurrences run in `scipy.signal.lfilter`, all channels at once.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from jaxtyping import Float
from scipy import signal

from fmalign_jax.data.simulator.profiles import Interval


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """An independent stream of random numbers for each purpose.

    Turning one confounder off therefore leaves the draws of all others as they were.
    """
    words = [p if isinstance(p, int) else zlib.crc32(p.encode()) for p in purpose]
    return np.random.default_rng([seed, *words])


def white(
    rng: np.random.Generator,
    steps: int,
    channels: int,
    *,
    degrees_of_freedom: float | None = None,
) -> Float[np.ndarray, "N C"]:
    """Independent innovations of variance 1: normal, or Student's t for heavy tails."""
    if degrees_of_freedom is None:
        return rng.standard_normal((steps, channels))
    scale = math.sqrt((degrees_of_freedom - 2) / degrees_of_freedom)
    return scale * rng.standard_t(degrees_of_freedom, (steps, channels))


def ornstein_uhlenbeck(
    innovations: Float[np.ndarray, "N C"], *, tau_s: float, step_s: float
) -> Float[np.ndarray, "N C"]:
    """Ornstein-Uhlenbeck process: autocorrelation exp(-|lag| / tau_s).

    Args:
      innovations: [N, C] of variance 1; the first row is the starting state.
      tau_s: correlation time, seconds.
      step_s: time between rows, seconds; may exceed tau_s.
    """
    decay = math.exp(-step_s / tau_s)
    drive = innovations * math.sqrt(-math.expm1(-2 * step_s / tau_s))
    drive[0] = innovations[0]
    return signal.lfilter([1.0], [1.0, -decay], drive, axis=0)


def resonance(
    innovations: Float[np.ndarray, "N C"],
    *,
    period_s: float,
    quality: float,
    step_s: float,
) -> Float[np.ndarray, "N C"]:
    """AR(2) with poles r exp(+-i theta): a noisy oscillation of the given period.

    theta = 2 pi step/period, and r = exp(-pi step / (quality period)), by which the
    amplitude falls to 1/e in quality/pi periods. The oscillation builds up within
    the first few periods: cut those off.
    """
    angle = 2 * math.pi * step_s / period_s
    radius = math.exp(-math.pi * step_s / (quality * period_s))
    first, second = 2 * radius * math.cos(angle), -(radius**2)
    variance = (1 - second) / ((1 + second) * ((1 - second) ** 2 - first**2))
    drive = innovations / math.sqrt(variance)
    return signal.lfilter([1.0], [1.0, -first, -second], drive, axis=0)


def smooth_steps(
    values: Float[np.ndarray, "N"], *, tau_s: float, step_s: float
) -> Float[np.ndarray, "N"]:
    """First-order low pass; a step is half done after tau_s ln 2."""
    decay = math.exp(-step_s / tau_s)
    state = np.array([decay * values[0]])
    return signal.lfilter([1 - decay], [1.0, -decay], values, zi=state)[0]


def poisson_spans(
    rng: np.random.Generator,
    *,
    begin_s: float,
    end_s: float,
    interval_s: float,
    length_s: Interval,
) -> Float[np.ndarray, "n 2"]:
    """Begin and end of events that come at random, `interval_s` apart on average."""
    count = rng.poisson((end_s - begin_s) / interval_s)
    begin = np.sort(rng.uniform(begin_s, end_s, count))
    return np.stack([begin, begin + rng.uniform(*length_s, count)], axis=1)


def pulses(
    time_s: Float[np.ndarray, "N"],
    spans: Float[np.ndarray, "n 2"],
    height: Float[np.ndarray, "n"] | float = 1.0,
) -> Float[np.ndarray, "N"]:
    """Sum over events of their height while they last, begin <= time < end."""
    change = np.zeros(len(time_s) + 1)
    heights = np.broadcast_to(height, len(spans))
    np.add.at(change, np.searchsorted(time_s, spans[:, 0]), heights)
    np.add.at(change, np.searchsorted(time_s, spans[:, 1]), -heights)
    return np.cumsum(change)[:-1]
