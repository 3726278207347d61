"""How much moves in each tick of a modality, without any model.

Speeds are taken from the tick before to the tick after, so that they belong to the tick
between; nothing was trained, so that no lead of a training can be in them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy import ndarray

_LARGEST = 64  # pixels of a side; larger frames are averaged down
_ANGLES, _RADII = 90, 12  # of the polar grid for rotations; an angle is 4 degrees
_FLOOR = 1e-6  # share of the largest magnitude, below which a phase is noise


def motion(before: ndarray, own: ndarray, after: ndarray) -> Float32[ndarray, "n P"]:
    """Returns how fast each tick's values change.

    Args:
      before: [n, R, ...], the samples of the tick before, as recorded; at the start of
        a clip the tick's own.
      own: [n, R, ...], its own samples.
      after: the samples of the tick after, as `before`.

    Returns:
      Of frames [n, R, H, W, C] the logarithm of the mean change of the grey levels, and
      the sizes of the shift along both axes and of the rotation, by phase correlation
      (Kuglin and Hines 1975). Of sensors [n, R, C] the size of the change of each
      channel's mean, and with R > 1 its mean change from sample to sample.
    """
    if own.ndim > 3:
        first, last = _grey(before), _grey(after)
        change = np.log1p(np.abs(last - first).mean(axis=(1, 2)))
        down, right = _shift(first, last)
        columns = [change, np.abs(down), np.abs(right), np.abs(_rotation(first, last))]
        return np.stack(columns, axis=1).astype(np.float32)
    first, middle, last = (
        x.astype(np.float64).reshape(*x.shape[:2], -1) for x in (before, own, after)
    )
    columns = [np.abs(last.mean(axis=1) - first.mean(axis=1))]
    if own.shape[1] > 1:
        columns.append(np.abs(np.diff(middle, axis=1)).mean(axis=1))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _grey(frames: ndarray) -> Float[ndarray, "n h w"]:
    """Returns mean grey frames of ticks, none of whose sides is over 64 pixels."""
    n, _, height, width = frames.shape[:4]
    grey = frames.reshape(*frames.shape[:4], -1).mean(axis=(1, 4), dtype=np.float32)
    side = -(-max(height, width) // _LARGEST)
    if side == 1 or min(height, width) < side:
        return grey
    whole = grey[:, : height // side * side, : width // side * side]
    cells = whole.reshape(n, height // side, side, width // side, side)
    return cells.mean(axis=(2, 4))


def _shift(
    first: Float[ndarray, "n h w"], last: Float[ndarray, "n h w"]
) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """Returns by how many pixels the frames moved, down and to the right."""
    product = _cross_spectrum(first, last, axes=(1, 2))
    peaks = np.fft.irfft2(_whitened(product), s=first.shape[1:])
    n, _, width = peaks.shape
    down, right = np.divmod(peaks.reshape(n, -1).argmax(axis=1), width)
    row = np.arange(n)
    return (
        _circular_peak(peaks[row, :, right], down),
        _circular_peak(peaks[row, down], right),
    )


def _rotation(
    first: Float[ndarray, "n h w"], last: Float[ndarray, "n h w"]
) -> Float[ndarray, " n"]:
    """Returns by how many degrees the frames turned about their middle."""
    height, width = first.shape[1:]
    angle = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    radius = np.linspace(0.25, 1, _RADII)[:, None] * (min(height, width) / 2 - 0.5)
    down = np.round((height - 1) / 2 + radius * np.sin(angle)).astype(int)
    right = np.round((width - 1) / 2 + radius * np.cos(angle)).astype(int)
    one, other = (frames[:, down, right] for frames in (first, last))
    product = _cross_spectrum(one, other, axes=(2,)).sum(axis=1)
    peaks = np.fft.irfft(_whitened(product), n=_ANGLES)
    return _circular_peak(peaks, peaks.argmax(axis=1)) * 360 / _ANGLES


def _cross_spectrum(first: ndarray, last: ndarray, axes: tuple[int, ...]) -> ndarray:
    spectra = [
        np.fft.rfftn(x - x.mean(axis=axes, keepdims=True), axes=axes)
        for x in (first, last)
    ]
    return spectra[1] * np.conj(spectra[0])


def _whitened(product: ndarray) -> ndarray:
    """Leaves the phases; what is next to nothing stays so."""
    size = np.abs(product)
    largest = size.max(axis=tuple(range(1, size.ndim)), keepdims=True)
    return product / np.maximum(size, np.maximum(_FLOOR * largest, 1e-12))


def _circular_peak(
    values: Float[ndarray, "n m"], best: Int[ndarray, " n"]
) -> Float[ndarray, " n"]:
    """Returns where rows peak, by a parabola; beyond the middle it is negative."""
    m, row = values.shape[1], np.arange(len(values))
    left, middle, right = (values[row, (best + i) % m] for i in (-1, 0, 1))
    bend = left - 2 * middle + right
    safe = np.where(bend < 0, bend, -1.0)
    offset = np.where(bend < 0, 0.5 * (left - right) / safe, 0.0)
    return (best + offset + m / 2) % m - m / 2
