"""The video files of FMF-Benchmark: HDF5 with MATLAB's axes, reversed.

`data` is uint8 [T, C, W, H] and `label` uint8 [T, W, H], which MATLAB shows as
[H, W, C, T] and [H, W, T].
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import h5py
import numpy as np
from jaxtyping import Bool, Int, UInt8

_SLAB_FRAMES = 1024


def write_video(
    path: pathlib.Path,
    frames: UInt8[np.ndarray, "N H W 3"],
    masks: UInt8[np.ndarray, "N H W"],
) -> None:
    """Writes frames and pixel masks, packed."""
    with h5py.File(path, "w") as file:
        _write_reversed(file, "data", frames)
        _write_reversed(file, "label", masks)


def _write_reversed(
    file: h5py.File, key: str, values: UInt8[np.ndarray, "..."]
) -> None:
    shape = (len(values), *values.shape[:0:-1])
    chunks = (min(32, len(values)), *shape[1:])
    stored = file.create_dataset(
        key, shape, np.uint8, chunks=chunks, compression="gzip", compression_opts=1
    )
    axes = (0, *range(values.ndim - 1, 0, -1))
    for start in range(0, len(values), _SLAB_FRAMES):
        stop = start + _SLAB_FRAMES
        stored[start:stop] = values[start:stop].transpose(axes)


@contextlib.contextmanager
def opened_video(
    path: pathlib.Path,
) -> Iterator[tuple[h5py.Dataset, h5py.Dataset]]:
    """Opens a file and yields its arrays `data` and `label`, not yet read.

    Raises:
      ValueError: damaged (also when that shows only while reading), or of another form.
    """
    try:
        with h5py.File(path, "r") as file:
            yield _arrays(file, path)
    except OSError as error:
        raise ValueError(
            f"{path}: must be a whole HDF5 file; got one that cannot be read "
            f"({error}); copy it again, or save it in MATLAB with -v7.3"
        ) from None


def _arrays(file: h5py.File, path: pathlib.Path) -> tuple[h5py.Dataset, h5py.Dataset]:
    for key in ("data", "label"):
        if not isinstance(file.get(key), h5py.Dataset):
            raise ValueError(
                f"{path}: must hold arrays 'data' and 'label'; got {sorted(file)}; "
                f"save {key!r} too"
            )
    data, label = file["data"], file["label"]
    if data.ndim != 4 or data.shape[1] != 3 or data.dtype != np.uint8:
        raise ValueError(
            f"{path}: 'data' must be uint8 with axes [T, C, W, H] and C = 3 (MATLAB's "
            f"[H, W, C, T]); got {data.dtype} {data.shape}; reverse or convert it"
        )
    if label.shape != (data.shape[0], *data.shape[2:]):
        raise ValueError(
            f"{path}: 'label' must have axes [T, W, H] like 'data' {data.shape}; got "
            f"{label.shape}; save one mask a frame"
        )
    return data, label


def read_frames(
    data: h5py.Dataset, masks: h5py.Dataset, keep: Bool[np.ndarray, "N"]
) -> tuple[UInt8[np.ndarray, "kept H W 3"], Bool[np.ndarray, "kept"]]:
    """Reads slab by slab into one array, so that memory holds the frames once.

    Args:
      data: uint8 [T, C, W, H].
      masks: [T, W, H].
      keep: which of the first N <= T frames to keep.

    Returns:
      the kept frames as [N, H, W, C], and whether any pixel of each is marked.
    """
    _, channels, width, height = data.shape
    kept = int(keep.sum())
    frames = np.empty((kept, height, width, channels), np.uint8)
    abnormal = np.empty(kept, bool)
    # Whole chunks at a time: a chunk read in two parts is unpacked twice.
    chunk = data.chunks[0] if data.chunks else 1
    step = max(1, _SLAB_FRAMES // chunk) * chunk
    done = 0
    for start in range(0, len(keep), step):
        chosen = keep[start : start + step]
        rows = slice(start, start + len(chosen))
        target = slice(done, done + int(chosen.sum()))
        frames[target] = data[rows][chosen].transpose(0, 3, 2, 1)
        abnormal[target] = (masks[rows][chosen] > 0).any(axis=(1, 2))
        done = target.stop
    return frames, abnormal


def read_masks(
    masks: h5py.Dataset, frame: Int[np.ndarray, "n"]
) -> Bool[np.ndarray, "n H W"]:
    """Reads the masks of some frames, given in any order.

    Args:
      masks: [T, W, H].
      frame: positions in the file.
    """
    read, place = np.unique(frame, return_inverse=True)
    found = np.empty((len(read), *masks.shape[:0:-1]), bool)
    for start in range(0, len(masks), _SLAB_FRAMES):
        rows = slice(*np.searchsorted(read, (start, start + _SLAB_FRAMES)))
        if rows.start < rows.stop:
            slab = masks[start : start + _SLAB_FRAMES]
            found[rows] = (slab[read[rows] - start] > 0).transpose(0, 2, 1)
    return found[place]
