"""Windows as training sees them: another light, another mounting, another speed.

Runs inside the compiled step, on raw windows, and depends on (seed, step, row of the
global batch) alone, so that it is the same after a resume and on any number of devices.
What moves samples (time, flip, crop) comes before the normalising: as uint8 a frame has
a quarter of the size. The random numbers are drawn for the batch; what is done with
them is written for one window.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from fmalign_jax.models.layers import in_time_order, side_by_side
from fmalign_jax.training.preprocess import Statistics, Streams, normalise

Settings = Mapping[str, Mapping[str, float | int]]

_FEW_CHANNELS = 8
"""Up to so many, channels are mixed by a sum; on a CPU always by a product."""

_BLOCK = 8
"""Samples whose channels a CPU mixes in one product: of 3 x 3 alone it is six times as
slow."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One way to change a window at random.

    Attributes:
      draw: (key, shape [B, T, R, ...], strength) -> random numbers, a row a window.
      apply: (window [T, R, ...], its numbers, strength) -> the window.
      of_frames: it moves pixels of raw frames [T, R, H, W, C]; the others change
        normalised windows of any kind.
    """

    draw: Callable[[Key[Array, ""], tuple[int, ...], float], Array]
    apply: Callable[[Array, Array, float], Array]
    of_frames: bool = False


def random_view(
    key: Key[Array, ""],
    streams: Streams,
    statistics: Statistics,
    *,
    time_warp: Mapping[str, float],
    settings: Settings,
    samples_per_tick: Mapping[str, int],
) -> dict[str, Array]:
    """Returns the windows as training sees them once: warped in time, then augmented.

    All modalities of a window are warped alike, so that they stay aligned.

    Args:
      key: random key of this view.
      streams: raw windows [B, T, R, ...] by modality; one that is read over a range of
        leads [B, T, L * R, ...], as in `in_time_order`.
      statistics: as `normalise` takes them.
      time_warp: `stretch`, the largest change of the speed, as a share of it, and
        `shift`, the largest shift, as a share of the window.
      settings: by modality, the strength of each augmentation by its name in
        AUGMENTATIONS; a strength of 0 switches it off.
      samples_per_tick: R of one lead, by modality.

    Returns:
      The same shapes, normalised.

    Raises:
      ValueError: when a setting names an unknown modality or augmentation, or one for
        frames where there are none.
    """
    _check(settings, streams)
    key, warp_key = jax.random.split(key)
    windows = len(next(iter(streams.values())))
    warp = _draw_warp(warp_key, windows, **time_warp)
    keys = {n: jax.random.fold_in(key, i) for i, n in enumerate(sorted(settings))}
    viewed: dict[str, Array] = {}
    for name, values in streams.items():
        strengths = {k: float(s) for k, s in settings.get(name, {}).items() if s}
        draws = {
            operation: augmentation.draw(
                jax.random.fold_in(keys[name], index),
                values.shape,
                strengths[operation],
            )
            for index, (operation, augmentation) in enumerate(AUGMENTATIONS.items())
            if operation in strengths
        }
        view = functools.partial(
            _view_of_one,
            name=name,
            statistics=statistics,
            strengths=strengths,
            samples_per_tick=samples_per_tick[name],
        )
        if warp is None and not draws:
            viewed |= normalise({name: values}, statistics)
        else:
            viewed[name] = _each_window(view, (values, warp, draws))
    return viewed


def _each_window(view: Callable[[Any], Array], rows: Any) -> Array:
    """A CPU takes one window after the other, which its cache can hold.

    Not where several devices share a batch: a loop over rows would collect them all.
    """
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        one_by_one: Array = jax.lax.map(view, rows)
        return one_by_one
    return jax.vmap(view)(rows)


def _view_of_one(
    row: Any,
    *,
    name: str,
    statistics: Statistics,
    strengths: Mapping[str, float],
    samples_per_tick: int,
) -> Array:
    """Returns one window [T, R, ...], warped, augmented and normalised."""
    window, warp, draws = row
    if warp is not None:
        speed, shift = warp
        window = _warp_time(window, speed, shift, samples_per_tick)

    def apply(window: Array, of_frames: bool) -> Array:
        for operation, augmentation in AUGMENTATIONS.items():
            if operation in draws and augmentation.of_frames == of_frames:
                window = augmentation.apply(
                    window, draws[operation], strengths[operation]
                )
        return window

    window = apply(window, of_frames=True)
    window = normalise({name: window}, statistics)[name]
    return apply(window, of_frames=False)


def _check(settings: Settings, streams: Streams) -> None:
    for name, strengths in settings.items():
        unknown = sorted(set(strengths) - set(AUGMENTATIONS))
        if name not in streams or unknown:
            raise ValueError(
                f"augment.<modality>.<name> must name a modality of {sorted(streams)} "
                f"and an augmentation of {sorted(AUGMENTATIONS)}; got {name!r} with "
                f"{unknown}; correct the config"
            )
        for operation, strength in strengths.items():
            of_frames = AUGMENTATIONS[operation].of_frames
            if strength and of_frames and streams[name].ndim != 6:
                raise ValueError(
                    f"{operation} is for frames [B, T, R, H, W, C]; got {name!r} with "
                    f"{streams[name].shape}; take augment.{name}.{operation} out of "
                    "the config"
                )


# Time


def _draw_warp(
    key: Key[Array, ""], windows: int, *, stretch: float, shift: float
) -> tuple[Float[Array, " B"], Float[Array, " B"]] | None:
    """Returns speeds around 1 and shifts in windows; None if nothing is to move."""
    if not (stretch or shift):
        return None
    draws = jax.random.uniform(key, (2, windows), minval=-1.0)
    return 1 + stretch * draws[0], shift * draws[1]


def _warp_time(
    window: Shaped[Array, "T LR ..."],
    speed: Float[Array, ""],
    shift: Float[Array, ""],
    samples_per_tick: int,
) -> Shaped[Array, "T LR ..."]:
    """Plays a window faster or slower and a little earlier or later."""
    ordered = in_time_order(window[None], samples_per_tick)
    leads = ordered.shape[1] // len(window)
    moved = _resample(ordered[0], speed, shift / leads)
    return side_by_side(moved[None], leads)[0]


def _resample(
    window: Shaped[Array, "T R ..."], speed: Float[Array, ""], shift: Float[Array, ""]
) -> Shaped[Array, "T R ..."]:
    """Reads the nearest sample at warped times; what lies beyond is mirrored.

    Between two samples a fluctuating signal would lose the fluctuation: white noise
    keeps two thirds of its mean change from sample to sample. An edge that is repeated
    does not change at all, hence the mirror.
    """
    samples = window.reshape(-1, *window.shape[2:])
    number = len(samples)
    places = (jnp.arange(number) + 0.5) / number - 0.5
    wanted = places * speed + shift + 0.5
    index = jnp.floor(wanted * number).astype(jnp.int32)
    last = number - 1
    index = jnp.where(index < 0, -1 - index, index)
    index = jnp.where(index > last, 2 * last + 1 - index, index)
    return samples[jnp.clip(index, 0, last)].reshape(window.shape)


# Pixels


def _draw_flip(
    key: Key[Array, ""], shape: tuple[int, ...], share: float
) -> Shaped[Array, " B"]:
    return jax.random.bernoulli(key, share, shape[:1])


def _flip(
    window: Shaped[Array, "T R H W C"], chosen: Shaped[Array, ""], _: float
) -> Shaped[Array, "T R H W C"]:
    """Mirrors left and right in this share of the windows."""
    return jnp.where(chosen, jnp.flip(window, axis=-2), window)


def _draw_crop(
    key: Key[Array, ""], shape: tuple[int, ...], pixels: float
) -> Shaped[Array, "B 2"]:
    return jax.random.randint(key, (shape[0], 2), 0, 2 * int(pixels) + 1)


def _crop(
    window: Shaped[Array, "T R H W C"], start: Shaped[Array, "2"], pixels: float
) -> Shaped[Array, "T R H W C"]:
    """Shifts a whole window by up to so many pixels, repeating its edge."""
    pad = (int(pixels), int(pixels))
    padded = jnp.pad(window, [(0, 0), (0, 0), pad, pad, (0, 0)], mode="edge")
    return jax.lax.dynamic_slice(padded, (0, 0, *start, 0), window.shape)


# Values


def _draw_normal(
    key: Key[Array, ""], shape: tuple[int, ...], deviation: float
) -> Float[Array, " B"]:
    return deviation * jax.random.normal(key, shape[:1])


def _brightness(window: Array, offset: Float[Array, ""], _: float) -> Array:
    """Adds one normal offset to a window, in standard deviations of the data."""
    return window + offset


def _scale(window: Array, change: Float[Array, ""], _: float) -> Array:
    """Multiplies a window by one factor drawn around 1."""
    return window * (1 + change)


def _draw_mix(
    key: Key[Array, ""], shape: tuple[int, ...], deviation: float
) -> Float[Array, "B C C"]:
    noise = jax.random.normal(key, (shape[0], shape[-1], shape[-1]))
    return jnp.eye(shape[-1]) + deviation * noise


def _mix(
    window: Float[Array, "*n C"], shares: Float[Array, "C C"], _: float
) -> Float[Array, "*n C"]:
    """Adds a little of every channel to every other: other mounting, other light."""
    channels = len(shares)
    if channels > _FEW_CHANNELS:
        return window @ shares
    if jax.default_backend() == "cpu":
        block = math.gcd(window.size // channels, _BLOCK)
        mixed = window.reshape(-1, block * channels) @ jnp.kron(jnp.eye(block), shares)
        return mixed.reshape(window.shape)
    # A product so narrow starves a GPU; as a sum it joins what comes before and after.
    parts = [window[..., c, None] * shares[c] for c in range(channels)]
    return functools.reduce(jnp.add, parts)


def _draw_offset(
    key: Key[Array, ""], shape: tuple[int, ...], deviation: float
) -> Float[Array, "B C"]:
    return deviation * jax.random.normal(key, (shape[0], shape[-1]))


def _offset(
    window: Float[Array, "*n C"], offset: Float[Array, " C"], _: float
) -> Float[Array, "*n C"]:
    """Adds one normal offset to each channel of a window."""
    return window + offset


def _draw_jitter(
    key: Key[Array, ""], shape: tuple[int, ...], deviation: float
) -> Float[Array, "B ..."]:
    return deviation * jax.random.normal(key, shape)


def _jitter(window: Array, noise: Array, _: float) -> Array:
    """Adds independent normal noise to every sample."""
    return window + noise


def _draw_mask(
    key: Key[Array, ""], shape: tuple[int, ...], share: float
) -> Shaped[Array, "B T"]:
    return jax.random.bernoulli(key, 1 - share, shape[:2])


def _mask(window: Array, keep: Shaped[Array, " T"], _: float) -> Array:
    """Sets this share of the ticks to the mean of the data (zero)."""
    return window * keep.reshape(-1, *(1,) * (window.ndim - 1))


AUGMENTATIONS = {
    "flip": Augmentation(_draw_flip, _flip, of_frames=True),
    "crop": Augmentation(_draw_crop, _crop, of_frames=True),
    "brightness": Augmentation(_draw_normal, _brightness),
    "scale": Augmentation(_draw_normal, _scale),
    "mix": Augmentation(_draw_mix, _mix),
    "offset": Augmentation(_draw_offset, _offset),
    "jitter": Augmentation(_draw_jitter, _jitter),
    "mask": Augmentation(_draw_mask, _mask),
}
"""Augmentations by their name in a config, in the order in which they are applied."""
