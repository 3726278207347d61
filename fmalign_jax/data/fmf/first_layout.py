"""FMF-Benchmark, layout V1: .mat files, the current stretched to the rate of frames.

    video              uint8 [H, W, 3, T]
    current            [T, phases], a row for every frame
    label              [T], one of two classes, or [H, W, T], pixel masks
    train_test_index   [T], one of two numbers

Axes are MATLAB's; HDF5 (v7.3) shows them reversed, and files from Python may have
[T, H, W, 3]. No clock is stored: frames are taken to lie 1 / frame_rate_hz apart.
"""

from __future__ import annotations

import functools
import glob
import json
import logging
import os
import pathlib
import struct
import zlib

import h5py
import numpy as np
import scipy.io
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from fmalign_jax.data import clocks
from fmalign_jax.data.files import fingerprint
from fmalign_jax.data.fmf import split as fmf_split
from fmalign_jax.data.validation import check_recording
from fmalign_jax.structs import UNLABELLED, Recording, Stream

KEYS = ("video", "current", "label", "train_test_index")
LABEL_NAMES = ("normal", "abnormal")

_MOST_CHANGES = 0.5
"""Share of frames with another current than the frame before, where it was repeated."""

_MOST_PHASES = 16
_MOST_RATIO, _FEW_BYTES = 250, 256 << 20  # as of .npz files
_DAMAGED = (  # what h5py and scipy raise for damaged files
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError, OverflowError),
    *(AttributeError, NotImplementedError, MemoryError, struct.error, zlib.error),
    scipy.io.matlab.MatReadError,
)

logger = logging.getLogger(__name__)


class BenchmarkV1:
    """The recordings in .mat files of layout V1, one a file."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        frame_rate_hz: float = 25.0,
        max_frame_rate_hz: float | None = None,
        test_value: int | None = None,
    ) -> None:
        """Notes what to read; files are found by `names`.

        Args:
          path: a file, a folder, or a glob.
          frame_rate_hz: frames a second, which the files do not say.
          max_frame_rate_hz: keep at most so many frames a second, None keeps all.
          test_value: what train_test_index says of frames for the test; by default
            that of its two numbers that fewer frames have.

        Raises:
          ValueError: a rate is not positive.
        """
        clocks.check_rate(max_frame_rate_hz)
        if not frame_rate_hz > 0:
            raise ValueError(
                f"frame_rate_hz must be positive; got {frame_rate_hz}; the benchmark "
                "has 25.0"
            )
        self._path = pathlib.Path(path).expanduser()
        self._frame_rate_hz = frame_rate_hz
        self._max_frame_rate_hz = max_frame_rate_hz
        self._test_value = test_value

    def names(self) -> list[str]:
        """Names of the recordings: the stems of their files, sorted.

        Raises:
          ValueError: there is none, or two files have the same stem.
        """
        return sorted(self._files)

    def read(self, name: str) -> Recording:
        """Reads and checks one recording.

        Returns:
          streams "video", uint8 [N, H, W, 3] with labels 0 normal and 1 abnormal, and
          "current", float32 [M, phases] without labels: the samples that were repeated,
          each at its first frame, or a row a frame where no repetition is seen.

        Raises:
          ValueError: no such recording, or its file is damaged or of another form.
        """
        if name not in self._files:
            raise ValueError(
                f"{self._path}: the name must be one of {self.names()}; got {name!r}; "
                "choose one of them"
            )
        path = self._files[name]
        arrays = _read(path)
        frames = _frames(arrays["video"], path)
        time_s = np.arange(len(frames)) / self._frame_rate_hz
        rows = _current(arrays["current"], len(frames), path)
        first = sample_starts(rows)
        if len(first) == len(rows):
            logger.warning(
                "%s: the current is stretched to the frames, and no repeated rows show "
                "where its samples were: it was interpolated, which cannot be undone; "
                "its rows are read as samples at the rate of the frames",
                path,
            )
        keep = clocks.thin(time_s, max_rate_hz=self._max_frame_rate_hz)
        label = _labels(arrays["label"], frames.shape[:3], path)
        stretched = "as they are" if len(first) == len(rows) else "repeats undone"
        recording = Recording(
            name=name,
            streams={
                "video": Stream(
                    values=frames[keep],
                    time_s=time_s[keep],
                    clip=np.zeros(int(keep.sum()), np.int32),
                    label=label[keep].astype(np.int32),
                    unit="grey level",
                    channel_names=("red", "green", "blue"),
                ),
                "current": Stream(
                    values=rows[first],
                    time_s=time_s[first],
                    clip=np.zeros(len(first), np.int32),
                    label=np.full(len(first), UNLABELLED, np.int32),
                    unit="A",
                ),
            },
            label_names=LABEL_NAMES,
            partition=self._partition(arrays["train_test_index"], time_s, path),
            file=str(path),
            taken={str(path): f"{', '.join(KEYS)}; rows of the current {stretched}"},
            provenance=json.dumps({"layout": "FMF-Benchmark V1"}),
        )
        sources = {key: f"{path}, key {key!r}" for key in recording.streams}
        check_recording(recording, path, sources=sources)
        return recording

    def fingerprint(self) -> str:
        """Digest of names, sizes and times of all files, and of the options."""
        options = (self._frame_rate_hz, self._max_frame_rate_hz, self._test_value)
        return fingerprint(self._files.values(), options=options)

    @functools.cached_property
    def _files(self) -> dict[str, pathlib.Path]:
        if self._path.is_file():
            return {self._path.stem: self._path}
        pattern = str(self._path)
        if self._path.is_dir():
            pattern = os.path.join(glob.escape(pattern), "*")
        files: dict[str, pathlib.Path] = {}
        for path in map(pathlib.Path, sorted(glob.glob(pattern, recursive=True))):
            if path.suffix.lower() != ".mat":
                continue
            if path.stem in files:
                raise ValueError(
                    f"{path}: two recordings must not have one name; got "
                    f"{files[path.stem]} too; rename one of the files"
                )
            files[path.stem] = path
        if not files:
            raise ValueError(
                f"{self._path}: must match at least one .mat file; got none; check the "
                "folder and the pattern"
            )
        return files

    def _partition(
        self,
        index: Shaped[np.ndarray, "..."],
        time_s: Float[np.ndarray, "T"],
        path: pathlib.Path,
    ) -> dict[str, fmf_split.Spans]:
        values = index.ravel()
        numbers, counts = np.unique(values, return_counts=True)
        test = self._test_value
        if test is None and len(numbers) == 2:
            test = numbers[np.argmin(counts)]
        if len(values) != len(time_s) or test is None or len(numbers) > 2:
            raise ValueError(
                f"{path}, key 'train_test_index': must hold one of two numbers for "
                f"each of the {len(time_s)} frames; got shape {index.shape} with "
                f"{len(numbers)} numbers; correct it, or give test_value"
            )
        parts = {"train": values != test, "test": values == test}
        spans = {
            part: fmf_split.frame_spans(time_s, np.flatnonzero(chosen))
            for part, chosen in parts.items()
        }
        return {part: span for part, span in spans.items() if span}


def sample_starts(rows: Float[np.ndarray, "T P"]) -> Int[np.ndarray, "M"]:
    """Finds the samples that were repeated to give every frame a row.

    A run much longer than the usual one is of several samples that were alike.

    Args:
      rows: float32 [T, P], a row a frame.

    Returns:
      the first row of each sample; all rows where none were repeated.
    """
    changes = (np.diff(rows, axis=0) != 0).any(axis=1)
    runs = np.append(0, np.flatnonzero(changes) + 1)
    if changes.mean() > _MOST_CHANGES or len(runs) < 3:
        return np.arange(len(rows))
    lengths = np.diff(np.append(runs, len(rows)))
    usual = float(np.quantile(lengths, 0.5, method="lower"))
    samples = np.maximum(np.round(lengths / usual), 1).astype(int)
    return np.concatenate(
        [
            start + (np.arange(n) * length) // n
            for start, length, n in zip(runs, lengths, samples, strict=True)
        ]
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file with MATLAB's axes."""
    try:
        found = _from_hdf5(path) if h5py.is_hdf5(path) else _from_mat(path)
    except _DAMAGED as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: must be a whole .mat file, which does not unpack to "
            f"{_MOST_RATIO} times its size; got one that cannot be read ({said}); copy "
            "it again, or save it in MATLAB with -v7.3"
        ) from None
    for key in KEYS:
        if key not in found:
            raise ValueError(
                f"{path}: must hold {', '.join(KEYS)}; got no {key!r}; save it too, or "
                "read another layout by fmalign_jax.data.fmf.BenchmarkDirectory"
            )
        if found[key].dtype.kind not in "biuf" or not found[key].size:
            raise ValueError(
                f"{path}, key {key!r}: must hold plain numbers; got {found[key].dtype} "
                f"{found[key].shape}; convert it"
            )
    return found


def _from_hdf5(path: pathlib.Path) -> dict[str, np.ndarray]:
    most = max(_FEW_BYTES, _MOST_RATIO * path.stat().st_size)
    with h5py.File(path, "r") as file:
        there = {key: file.get(key) for key in KEYS}
        arrays = {k: v for k, v in there.items() if isinstance(v, h5py.Dataset)}
        for key, array in arrays.items():
            if array.size * array.dtype.itemsize > most:
                raise ValueError(f"{key} of shape {array.shape}")
        return {key: np.asarray(array[()]).T for key, array in arrays.items()}


def _from_mat(path: pathlib.Path) -> dict[str, np.ndarray]:
    return {
        key: np.asarray(value)
        for key, value in scipy.io.loadmat(path, variable_names=KEYS).items()
        if key in KEYS
    }


def _frames(
    video: Shaped[np.ndarray, "..."], path: pathlib.Path
) -> UInt8[np.ndarray, "T H W 3"]:
    if video.ndim == 4 and video.dtype == np.uint8:
        if video.shape[2] == 3:
            return np.ascontiguousarray(video.transpose(3, 0, 1, 2))
        if 3 in (video.shape[3], video.shape[0]):  # from Python, as it is or reversed
            return video if video.shape[3] == 3 else np.ascontiguousarray(video.T)
    raise ValueError(
        f"{path}, key 'video': must be uint8 [H, W, 3, T]; got {video.dtype} "
        f"{video.shape}; convert it"
    )


def _current(
    current: Shaped[np.ndarray, "..."], frames: int, path: pathlib.Path
) -> Float[np.ndarray, "T P"]:
    rows = current.reshape(-1, 1) if current.size == frames else current
    if rows.ndim == 2 and len(rows) != frames:
        rows = rows.T
    if rows.ndim != 2 or len(rows) != frames or rows.shape[1] > _MOST_PHASES:
        raise ValueError(
            f"{path}, key 'current': must have a row of phases for each of the "
            f"{frames} frames; got shape {current.shape}; stretch it to the frames, or "
            "write the recording as .npz"
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused by its place
        return rows.astype(np.float32)


def _labels(
    label: Shaped[np.ndarray, "..."], shape: tuple[int, ...], path: pathlib.Path
) -> Bool[np.ndarray, "T"]:
    """Whether each frame is abnormal: the larger of two numbers, or any pixel marked.

    Args:
      label: as it was read.
      shape: of the frames, T, H, W.
      path: of the file.
    """
    frames, height, width = shape
    if label.size == frames:
        values = label.ravel()
        numbers = np.unique(values)
        if len(numbers) <= 2:
            return values > (numbers[0] if len(numbers) == 2 else 0)
    for axes in ((2, 0, 1), (0, 1, 2), (2, 1, 0)):
        if label.ndim == 3 and label.transpose(axes).shape == (frames, height, width):
            return np.any(label.transpose(axes) > 0, axis=(1, 2))
    raise ValueError(
        f"{path}, key 'label': must hold one of two classes for each of the {frames} "
        f"frames, or masks [{height}, {width}, {frames}]; got shape {label.shape}; "
        "convert it"
    )
