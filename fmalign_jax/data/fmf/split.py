"""The split of FMF-Benchmark: train.json and test.json, frame indices by video."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

PARTS = ("train", "test")

logger = logging.getLogger(__name__)

Spans = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Split:
    """The content of the files of a split.

    Attributes:
      folder: where the files lie.
      entries: by part and name of the video file, a list of frame indices.
    """

    folder: pathlib.Path
    entries: Mapping[str, Mapping[str, Any]]

    def spans(
        self, video: str, time_s: Float[np.ndarray, "N"], *, frames: int
    ) -> dict[str, Spans]:
        """Turns the frame indices of one video into spans of seconds.

        Args:
          video: name of the video file.
          time_s: times of its frames, perhaps without a few at the end.
          frames: how many it has.

        Returns:
          the spans of each part that has any.

        Raises:
          ValueError: an entry is not a list of frames of the video.
        """
        spans = {
            part: frame_spans(time_s, self._indices(part, video, frames))
            for part in PARTS
        }
        return {part: span for part, span in spans.items() if span}

    def _indices(self, part: str, video: str, frames: int) -> Int[np.ndarray, "n"]:
        path = self.folder / f"{part}.json"
        try:
            index = np.asarray(self.entries[part].get(video, []))
        except ValueError:  # lists of lists
            index = np.zeros((0, 0))
        if index.shape == (0,):
            return np.zeros(0, int)
        if index.ndim != 1 or index.dtype.kind != "i" or index.min() < 0:
            raise ValueError(
                f"{path}: {video} must have a list of frame indices from 0 on; got "
                f"{index.dtype} of shape {index.shape}; correct that entry"
            )
        if index.max() >= frames:
            raise ValueError(
                f"{path}: indices of {video} must be below its {frames} frames; got "
                f"{index.max()}; the video may be cut short: copy it again"
            )
        return np.unique(index)


def read_split(folder: pathlib.Path, names: Sequence[str]) -> Split:
    """Reads the files that are there, and warns of entries without a video.

    Args:
      folder: holds train.json and test.json.
      names: the recordings whose videos are there.

    Raises:
      ValueError: a file does not read as JSON of the right form.
    """
    entries = {part: _read_part(folder / f"{part}.json") for part in PARTS}
    for part, indices in entries.items():
        strange = sorted(set(indices) - {f"{name}.mat" for name in names})
        if strange:
            logger.warning(
                "%s: every entry must be the name of a file in videos, .mat included; "
                "got %s without such a file; correct the name or copy that recording",
                folder / f"{part}.json",
                ", ".join(map(repr, strange)),
            )
    return Split(folder, entries)


def _read_part(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()).items())
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f'{path}: must hold {{"<name>.mat": [frame indices]}}; got a file that '
            f"does not read so ({error}); copy it again or remove it"
        ) from None


def frame_spans(
    time_s: Float[np.ndarray, "N"], index: Int[np.ndarray, "n"]
) -> tuple[tuple[float, float], ...]:
    """Runs of consecutive frames, each from its first frame to the end of its last."""
    index = index[index < len(time_s)]
    if not index.size:
        return ()
    breaks = np.flatnonzero(np.diff(index) > 1)
    first = index[np.append(0, breaks + 1)]
    last = index[np.append(breaks, -1)]
    period_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 1.0
    # A frame ends where the next begins, unless frames are missing between them.
    following = np.append(time_s[1:], np.inf)[last]
    missing = following - time_s[last] > 1.5 * period_s
    stop = np.where(missing, time_s[last] + period_s, following)
    return tuple(zip(time_s[first].tolist(), stop.tolist(), strict=True))
