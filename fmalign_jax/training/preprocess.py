"""From the batch as it travelled (uint8, amperes) to what the encoders see.

Runs inside the compiled step, on the device: frames cross the bus as uint8, and
augmentation depends on (seed, step, row of the global batch) alone, so that it is the
same after a resume and on any number of devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from fmalign_jax.models.layers import in_time_order, side_by_side

Statistics = Mapping[str, Mapping[str, Array]]
Streams = Mapping[str, Shaped[Array, "B T R ..."]]
Augmentation = Callable[
    [Key[Array, ""], Float[Array, "B T R ..."], float], Float[Array, "B T R ..."]
]


_FEW_CHANNELS = 8
"""Up to so many, channels are mixed by a sum; on a CPU always by a product."""


def normalise(streams: Streams, statistics: Statistics) -> dict[str, Array]:
    """Standardises each channel with the statistics of the training split.

    Args:
      streams: raw windows [B, T, R, ...] by modality.
      statistics: mean and std [C] by modality; a modality without an entry is a
        token stream and passes through unchanged.

    Returns:
      The same shapes, float32 and dimensionless (tokens keep their integer dtype).
    """
    return {
        name: (values.astype(jnp.float32) - statistics[name]["mean"])
        / statistics[name]["std"]
        if name in statistics
        else values
        for name, values in streams.items()
    }


def at_lead(
    streams: Streams, lead: Int[Array, " B"], *, leading: str, samples_per_tick: int
) -> dict[str, Array]:
    """Takes the samples of one lead where windows hold those of several.

    Args:
      streams: raw windows by modality: the leading one [B, T, L * R, ...], the samples
        of L leads side by side in each tick; the others as they are.
      lead: number in [0, L) of each window's lead.
      leading: name of the leading stream.
      samples_per_tick: R of the leading stream.
    """
    values = streams[leading]
    b, t, slots = values.shape[:3]
    leads = slots // samples_per_tick
    values = values.reshape(b, t, leads, samples_per_tick, *values.shape[3:])
    return {**streams, leading: values[jnp.arange(b), :, lead]}


def random_view(
    key: Key[Array, ""],
    inputs: Mapping[str, Array],
    *,
    time_warp: Mapping[str, float],
    settings: Mapping[str, Mapping[str, float | int]],
    samples_per_tick: Mapping[str, int],
) -> dict[str, Array]:
    """Returns the windows as training sees them once: warped in time, then augmented.

    Args:
      key: random key of this view.
      inputs: normalised windows [B, T, R, ...] by modality.
      time_warp: stretch and shift of `warp_time`.
      settings: of `augment`.
      samples_per_tick: R of one lead, by modality.
    """
    key, warp_key = jax.random.split(key)
    warped = warp_time(warp_key, inputs, **time_warp, samples_per_tick=samples_per_tick)
    return augment(key, warped, settings=settings)


def augment(
    key: Key[Array, ""],
    inputs: Mapping[str, Array],
    *,
    settings: Mapping[str, Mapping[str, float | int]],
) -> dict[str, Array]:
    """Applies to every modality the augmentations that its settings name.

    Args:
      key: random key of this step.
      inputs: normalised windows [B, T, R, ...] by modality.
      settings: by modality, the strength of each augmentation by its name in
        AUGMENTATIONS; a strength of 0 switches it off.

    Raises:
      ValueError: when a setting names an unknown modality or augmentation, or one for
        frames where there are none.
    """
    for name, strengths in settings.items():
        unknown = sorted(set(strengths) - set(AUGMENTATIONS))
        if name not in inputs or unknown:
            raise ValueError(
                f"augment.<modality>.<name> must name a modality of {sorted(inputs)} "
                f"and an augmentation of {sorted(AUGMENTATIONS)}; got {name!r} with "
                f"{unknown}; correct the config"
            )
    augmented = dict(inputs)
    for modality_index, name in enumerate(sorted(settings)):
        modality_key = jax.random.fold_in(key, modality_index)
        for index, (operation, apply) in enumerate(AUGMENTATIONS.items()):
            strength = settings[name].get(operation, 0)
            if strength:
                _check_frames(operation, name, augmented[name])
                operation_key = jax.random.fold_in(modality_key, index)
                augmented[name] = apply(operation_key, augmented[name], float(strength))
    return augmented


def warp_time(
    key: Key[Array, ""],
    inputs: Mapping[str, Array],
    *,
    stretch: float,
    shift: float,
    samples_per_tick: Mapping[str, int],
) -> dict[str, Array]:
    """Plays each window faster or slower and a little earlier or later.

    All modalities of a window are warped alike, so that they stay aligned. What would
    lie beyond what is read is mirrored at its edge.

    Args:
      key: random key of this step.
      inputs: normalised windows [B, T, R, ...] by modality; one that is read over a
        range of leads [B, T, L * R, ...], as in `in_time_order`.
      stretch: largest change of the speed, as a share of it.
      shift: largest shift, as a share of the window.
      samples_per_tick: R by modality.
    """
    if not (stretch or shift):
        return dict(inputs)
    windows = len(next(iter(inputs.values())))
    draws = jax.random.uniform(key, (2, windows), minval=-1.0)
    speeds, shifts = 1 + stretch * draws[0], shift * draws[1]
    warped = {}
    for name, values in inputs.items():
        ordered = in_time_order(values, samples_per_tick[name])
        leads = ordered.shape[1] // values.shape[1]
        moved = _resample(ordered, speeds, shifts / leads)
        warped[name] = side_by_side(moved, leads)
    return warped


def _resample(
    values: Shaped[Array, "B T R ..."],
    speeds: Float[Array, " B"],
    shifts: Float[Array, " B"],
) -> Shaped[Array, "B T R ..."]:
    """Reads the nearest sample at warped times.

    Between two samples a fluctuating signal would lose the fluctuation: white noise
    keeps two thirds of its mean change from sample to sample. An edge that is repeated
    does not change at all, hence the mirror.
    """
    b, t, r = values.shape[:3]
    x = values.reshape(b, t * r, *values.shape[3:])
    places = (jnp.arange(t * r) + 0.5) / (t * r) - 0.5
    wanted = places * speeds[:, None] + shifts[:, None] + 0.5
    index = jnp.floor(wanted * (t * r)).astype(jnp.int32)
    last = t * r - 1
    index = jnp.where(index < 0, -1 - index, index)
    index = jnp.where(index > last, 2 * last + 1 - index, index)
    index = jnp.clip(index, 0, last).reshape(b, t * r, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1).reshape(values.shape)


def _check_frames(operation: str, modality: str, values: Array) -> None:
    if operation in FRAMES_ONLY and values.ndim != 6:
        raise ValueError(
            f"{operation} is for frames [B, T, R, H, W, C]; got {modality!r} with "
            f"{values.shape}; take augment.{modality}.{operation} out of the config"
        )


def _per_window(draws: Shaped[Array, " B"], like: Array) -> Array:
    return draws.reshape(-1, *(1,) * (like.ndim - 1))


def _flip(
    key: Key[Array, ""], frames: Float[Array, "B T R H W C"], share: float
) -> Float[Array, "B T R H W C"]:
    """Mirrors left and right in this share of the windows."""
    chosen = jax.random.bernoulli(key, share, frames.shape[:1])
    return jnp.where(_per_window(chosen, frames), jnp.flip(frames, axis=-2), frames)


def _crop(
    key: Key[Array, ""], frames: Float[Array, "B T R H W C"], pixels: float
) -> Float[Array, "B T R H W C"]:
    """Shifts a whole window by up to so many pixels, repeating its edge."""
    pad = int(pixels)
    shifts = jax.random.randint(key, (frames.shape[0], 2), 0, 2 * pad + 1)

    def shift_one(window: Array, shift: Array) -> Array:
        widths = [(0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0)]
        start = (0, 0, shift[0], shift[1], 0)
        return jax.lax.dynamic_slice(
            jnp.pad(window, widths, mode="edge"), start, window.shape
        )

    return jax.vmap(shift_one)(frames, shifts)


def _brightness(key: Key[Array, ""], values: Array, deviation: float) -> Array:
    """Adds one normal offset to a window, in standard deviations of the data."""
    offsets = deviation * jax.random.normal(key, values.shape[:1])
    return values + _per_window(offsets, values)


def _scale(key: Key[Array, ""], values: Array, deviation: float) -> Array:
    """Multiplies a window by one factor drawn around 1."""
    factors = 1 + deviation * jax.random.normal(key, values.shape[:1])
    return values * _per_window(factors, values)


def _mix(
    key: Key[Array, ""], values: Float[Array, "B *n C"], deviation: float
) -> Float[Array, "B *n C"]:
    """Adds a little of every channel to every other: other mounting, other light."""
    b, channels = values.shape[0], values.shape[-1]
    noise = deviation * jax.random.normal(key, (b, channels, channels))
    shares = jnp.eye(channels) + noise
    if channels > _FEW_CHANNELS or jax.default_backend() == "cpu":
        return jnp.einsum("b...c,bcd->b...d", values, shares)
    # A product so narrow starves a GPU; as a sum it joins what comes before and after.
    shares = shares.reshape(b, *(1,) * (values.ndim - 2), channels, channels)
    parts = [values[..., c, None] * shares[..., c, :] for c in range(channels)]
    return functools.reduce(jnp.add, parts)


def _offset(
    key: Key[Array, ""], values: Float[Array, "B *n C"], deviation: float
) -> Float[Array, "B *n C"]:
    """Adds one normal offset to each channel of a window."""
    shape = (values.shape[0], *(1,) * (values.ndim - 2), values.shape[-1])
    return values + deviation * jax.random.normal(key, shape)


def _jitter(key: Key[Array, ""], values: Array, deviation: float) -> Array:
    """Adds independent normal noise to every sample."""
    return values + deviation * jax.random.normal(key, values.shape)


def _mask(key: Key[Array, ""], values: Array, share: float) -> Array:
    """Sets this share of the ticks to the mean of the data (zero)."""
    keep = jax.random.bernoulli(key, 1 - share, values.shape[:2])
    return values * keep.reshape(*keep.shape, *(1,) * (values.ndim - 2))


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": _flip,
    "crop": _crop,
    "brightness": _brightness,
    "scale": _scale,
    "mix": _mix,
    "offset": _offset,
    "jitter": _jitter,
    "mask": _mask,
}
"""Augmentations by their name in a config, in the order in which they are applied."""

FRAMES_ONLY = ("flip", "crop")
