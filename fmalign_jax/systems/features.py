"""The output of every system for a batch, and all that the objectives see."""

from __future__ import annotations

from typing import no_type_check

import flax
from jaxtyping import Array, Bool, Float, Int


@no_type_check  # as a pytree it also carries shardings, shapes and digests
@flax.struct.dataclass(kw_only=True)
class Features:
    """The output of a system for a batch. A system that gives more inherits from it.

    Attributes:
      inputs: by modality [B, T, R, ...], normalised, as the encoders read them.
      semantic: by modality [B, T, D] fp32, continuous; what modalities share. By view,
        where a system has others than the modalities.
      mask: bool [B], False for rows that only pad a batch.
      recording: int32 [B], which recording each window is of.
      time_s: fp32 [B, 2], two numbers whose sum is the window's centre on its
        recording's clock. Both are None where the system alone is used.
      label: int32 [B, T], class of each tick, -1 unknown; None unless an objective asks
        for labels.
      second_view: by modality [B, T, D], semantic features of the same windows under
        another augmentation; of the views that an objective asks for, in training
        only.
    """

    inputs: dict[str, Array]
    semantic: dict[str, Float[Array, "B T D"]]
    mask: Bool[Array, " B"]
    recording: Int[Array, " B"] | None = None
    time_s: Float[Array, "B 2"] | None = None
    label: Int[Array, "B T"] | None = None
    second_view: dict[str, Float[Array, "B T D"]] = flax.struct.field(
        default_factory=dict
    )
