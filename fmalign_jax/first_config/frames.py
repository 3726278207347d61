"""What the size of the frames decides of the encoder and the decoder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def fit_frames(
    height: int, width: int, *, strides: Sequence[int], unpadded: int, target: int
) -> tuple[int, int] | None:
    """Returns a first stride and a target size that fit square frames.

    Of all that fit, those nearest to the ones given.

    Args:
      height: of a frame, pixels.
      width: the same.
      strides: of `FrameStem`; the first, the side of a patch, is replaced.
      unpadded: 3x3 layers of `ConvSpecific`, each of which takes 2 off a side.
      target: `target_size` of `FrameDecoder`.

    Returns:
      None where frames are not square, or nothing fits.
    """
    if height != width:
        return None
    divisors = [n for n in range(1, height + 1) if height % n == 0]
    fitting = []
    for patch, size in itertools.product(divisors, divisors):
        side = height // patch
        for stride in strides[1:]:
            side = math.ceil(side / stride)
        side -= 2 * unpadded
        if side > 0 and size % side == 0:
            far = abs(math.log(patch / strides[0])) + abs(math.log(size / target))
            fitting.append((far, patch, size))
    return min(fitting)[1:] if fitting else None
