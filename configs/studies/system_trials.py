"""Study: six trials of each system, before it is compared.

Command   python scripts/study.py configs/studies/system_trials.py \\
              --out docs/results/system_trials.json --no-references
          python scripts/write_systems.py docs/results/systems.json \\
              --trials docs/results/system_trials.json --out docs/results/systems.md

Data      The furnaces of configs/studies/systems.py, profile `default`, seed 0.

Purpose   Which learning rate, and which of two values of one setting of its own, suits
  a system; for AlignVSR, which met its condition with neither, a second setting. Judged
  without labels and without the tested furnaces: by the mean normalised rank in
  retrieval, both directions, on the two furnaces that validate. `clmlf`, which learns
  with labels, is judged by its cross-entropy there. The recipe has no trials: its
  settings were chosen on such furnaces, on many more. Those of FmFormer are in
  configs/studies/system_conditions.py, beside the oracle.

Expected time   2 to 4 min a run on two idle CPU cores, 6 runs a system.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax.config import Change, load_file

STUDY = load_file(pathlib.Path(__file__).parent / "systems.py")
DATA, train_config, evaluate_config = (
    STUDY.DATA,
    STUDY.train_config,
    STUDY.evaluate_config,
)
SYSTEMS = STUDY.SYSTEMS.SYSTEMS | STUDY.SYSTEMS.SUPERVISED
FOLDS, SEEDS = ("default",), (0,)
EVALUATED = ("codes",)

LEARNING_RATES = (3e-4, 1e-3, 3e-3)

KNOBS: Sequence[tuple[str, str, Sequence[Any]]] = (
    ("alignvsr", "codebook.codes", (64, 16)),
    ("alignvsr", "objectives.local_alignment.weight", (8.0,)),  # as published
    ("clip", "objectives.clip.temperature", (None, 0.1)),
    ("clmlf", "objectives.label_contrast.temperature", (0.07, 0.5)),
    ("clmlf_pairs", "objectives.clip.temperature", (0.07, None)),
    ("distilled", "objectives.self_contrast.temperature", (0.1, 0.5)),
    ("fcid", "model.coarse", ("window", "tick")),
    ("indexed", "objectives.code_matching.weight", (0.5, 5.0)),
    ("micu", "objectives.code_jigsaw.weight", (1.0, 0.0)),
    ("onellm", "model.encoder.dropout", (0.1, 0.0)),
    ("qformer", "model.dropout", (0.1, 0.0)),
    ("temporal", "objectives.temporal_alignment.temperature", (0.1, None)),
)
"""A system, a setting of its own, and the values of it that are tried."""

SHARES = (0.3, 1.0)
"""Of the weights, at the lower level of `hdcid`."""


CHOICES: Mapping[tuple[str, str], Change] = {
    (system, f"{path.rpartition('.')[2]}={value}"): STUDY.but(
        SYSTEMS[system], path, value
    )
    for system, path, values in KNOBS
    for value in values
} | {
    ("hdcid", f"share={share}"): functools.partial(SYSTEMS["hdcid"], share=share)
    for share in SHARES
}


VARIANTS: dict[str, Change] = {
    f"{system}+{rate:g}+{choice}": STUDY.but(change, "optimizer.learning_rate", rate)
    for (system, choice), change in CHOICES.items()
    for rate in LEARNING_RATES
}


def evaluate_variant(settings: ConfigDict, variant: str) -> None:
    """Reads both modalities at once where a system does."""
    if variant.startswith("clmlf+"):
        STUDY.evaluate_fused(settings)
