"""What stands out in a frame: one place of it, beyond what it always looks like.

Light, mist and exposure change whole regions of a picture; something that appears
changes one place against its surroundings. Nothing was trained.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray
from scipy.ndimage import uniform_filter

_CELLS = 8  # along a side, or a few more where the side is no multiple
_DARK = 16.0  # grey levels, below which the logarithm follows noise


def contrasts(frames: ndarray) -> Float32[ndarray, "n h w"]:
    """Returns by how much each cell of a frame is brighter than its surroundings.

    Args:
      frames: [n, R, H, W, C], the samples of each tick, as recorded.

    Returns:
      The logarithm of the cell's mean grey level, less its mean over the cell and the
      eight around it. Cells are about an eighth of a side.
    """
    grey = frames.astype(np.float32).mean(axis=(1, 4))
    n, height, width = grey.shape
    down, right = max(1, height // _CELLS), max(1, width // _CELLS)
    rows, columns = height // down, width // right
    whole = grey[:, : rows * down, : columns * right]
    cells = whole.reshape(n, rows, down, columns, right).mean(axis=(2, 4))
    bright = np.log(cells + _DARK)
    around: Float32[ndarray, "n h w"] = uniform_filter(
        bright, size=(1, 3, 3), mode="nearest"
    )
    return bright - around


def standing_out(
    contrast: Float32[ndarray, "n h w"], known: Bool[ndarray, " n"]
) -> Float32[ndarray, "n 2"]:
    """Returns how far the brightest and the darkest place are from their usual look.

    Args:
      contrast: of all ticks of a recording, as from `contrasts`.
      known: the ticks that count for what is usual, the median.

    Returns:
      The largest and the smallest difference of a cell from its own median.
    """
    cells = contrast.reshape(len(contrast), -1)
    beyond = cells - np.median(cells[known], axis=0)
    return np.stack([beyond.max(axis=1), beyond.min(axis=1)], axis=1)
