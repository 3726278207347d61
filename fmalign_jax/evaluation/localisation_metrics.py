"""How well a region of a frame is found: by pixels, and by cells of a feature map."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage, stats

BETA2 = 0.3
"""Of F: precision counts more than recall, as in work on saliency."""
HIDDEN_LEVELS = 6.0
RING_PX = 3

_AROUND = np.ones((1, 3, 3), bool)  # a pixel and its neighbours, frame by frame


def confusion(
    masks: Bool[ndarray, "N H W"], said: Bool[ndarray, "N H W"]
) -> Int[ndarray, "N 4"]:
    """Returns of each frame its true and false positives, false negatives, the rest."""
    kinds = (masks & said, ~masks & said, masks & ~said, ~masks & ~said)
    return np.stack([kind.sum(axis=(1, 2)) for kind in kinds], axis=1)


def iou(counts: Int[ndarray, "N 4"]) -> float:
    """Returns TP / (TP + FP + FN) over all pixels; NaN where there are none."""
    tp, fp, fn, _ = counts.sum(axis=0)
    return _ratio(tp, tp + fp + fn)


def f_measure(counts: Int[ndarray, "N 4"]) -> float:
    """Returns F of precision and recall over all pixels, with beta^2 = `BETA2`."""
    tp, fp, fn, _ = counts.sum(axis=0)
    return _ratio((1 + BETA2) * tp, (1 + BETA2) * tp + BETA2 * fn + fp)


def both_classes_iou(counts: Int[ndarray, "N 4"]) -> float:
    """Returns the mean IoU of glow and background, from one confusion matrix.

    As published for FMF-Benchmark. Saying nothing already gives half of the share of
    background pixels, 0.497 where the glow covers 0.6 %.
    """
    return (iou(counts) + iou(counts[:, ::-1])) / 2


def false_mask_share(counts: Int[ndarray, "N 4"]) -> float:
    """Returns the share of the frames without a glow in which some pixel is marked."""
    dark = counts[counts[:, [0, 2]].sum(axis=1) == 0]
    return _ratio((dark[:, 1] > 0).sum(), len(dark))


def hidden(
    frames: UInt8[ndarray, "N H W C"], masks: Bool[ndarray, "N H W"]
) -> Bool[ndarray, " N"]:
    """Returns which frames have a glow that is no brighter than what is around it.

    The mean grey level inside the mask is within `HIDDEN_LEVELS` of that of the
    `RING_PX` pixels around it.
    """
    ring = ndimage.binary_dilation(masks, _AROUND, iterations=RING_PX) & ~masks
    found = np.zeros(len(masks), bool)
    for row in np.flatnonzero(masks.any(axis=(1, 2))):
        inside, around = (frames[row][part[row]].mean() for part in (masks, ring))
        found[row] = abs(inside - around) <= HIDDEN_LEVELS
    return found


def cells(masks: Bool[ndarray, "N H W"], side: int) -> Bool[ndarray, "N h w"]:
    """Returns which cells of side x side pixels the masks touch."""
    n, h, w = masks.shape
    blocks = masks.reshape(n, h // side, side, w // side, side)
    touched: Any = blocks.any(axis=(2, 4))
    return touched


def pointing_game(
    maps: Float[ndarray, "N h w"], touched: Bool[ndarray, "N h w"]
) -> Float[ndarray, " N"]:
    """Returns whether the highest cell lies on a touched one or beside it.

    Of several that are equally high, the share of those that do.
    """
    highest = maps == maps.max(axis=(1, 2), keepdims=True)
    hit = highest & _widened(touched)
    return hit.sum(axis=(1, 2)) / highest.sum(axis=(1, 2))


def pointing_chance(touched: Bool[ndarray, "N h w"]) -> Float[ndarray, " N"]:
    """Returns the hits of a cell that is drawn at random."""
    return _widened(touched).mean(axis=(1, 2))


def cell_auroc(
    maps: Float[ndarray, "N h w"], touched: Bool[ndarray, "N h w"]
) -> Float[ndarray, " N"]:
    """Returns of each frame the AUROC of its cells; NaN if all are of one kind."""
    flat = touched.reshape(len(touched), -1)
    rank = stats.rankdata(maps.reshape(flat.shape), axis=1)
    on = flat.sum(axis=1)
    above = (rank * flat).sum(axis=1) - on * (on + 1) / 2
    pairs = on * (flat.shape[1] - on)
    return np.divide(above, pairs, out=np.full(len(flat), np.nan), where=pairs > 0)


def _widened(touched: Bool[ndarray, "N h w"]) -> Bool[ndarray, "N h w"]:
    return ndimage.binary_dilation(touched, _AROUND)


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else float("nan")
