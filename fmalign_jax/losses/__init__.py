"""The losses as pure functions: arrays in, one fp32 value per window out.

Nothing here knows modalities, configs or parameters; ``fmalign_jax.objectives`` uses
these functions. B windows, T ticks, D code width, M codes, S summary width.
"""

from fmalign_jax.losses.alignment import (
    global_alignment,
    local_alignment,
    log_weights,
    units_near,
)
from fmalign_jax.losses.assignment import balanced_assignments, cross_entropy
from fmalign_jax.losses.club import (
    club_full,
    club_sampled,
    gaussian_log_likelihood,
    random_cycle,
)
from fmalign_jax.losses.contrastive import (
    SCALE_START,
    code_matching,
    code_prediction,
    cosine_logits,
    cwcl,
    cwcl_weights,
    info_nce,
    label_contrast,
    largest_cosine,
    learned_scale,
    log_code_distribution,
    nearest_other,
    normalise,
    own_is_nearest,
    smoothed_info_nce,
    symmetric_info_nce,
    triplet,
)
from fmalign_jax.losses.correlation import decorrelation
from fmalign_jax.losses.elementary import (
    commitment,
    gradient_scale,
    masked_mean,
    squared_error,
)

__all__ = [
    "SCALE_START",
    "balanced_assignments",
    "club_full",
    "club_sampled",
    "code_matching",
    "code_prediction",
    "commitment",
    "cosine_logits",
    "cross_entropy",
    "cwcl",
    "cwcl_weights",
    "decorrelation",
    "gaussian_log_likelihood",
    "global_alignment",
    "gradient_scale",
    "info_nce",
    "label_contrast",
    "largest_cosine",
    "learned_scale",
    "local_alignment",
    "log_code_distribution",
    "log_weights",
    "masked_mean",
    "nearest_other",
    "normalise",
    "own_is_nearest",
    "random_cycle",
    "smoothed_info_nce",
    "squared_error",
    "symmetric_info_nce",
    "triplet",
    "units_near",
]
