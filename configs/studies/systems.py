"""Study: whole systems under one protocol, on unseen simulated furnaces.

Command   python scripts/study.py configs/studies/systems.py \\
              --out docs/results/systems.json
          python scripts/write_systems.py docs/results/systems.json \\
              --out docs/results/systems.md

Data      As configs/studies/furnaces.py: 22 recordings of 50 min of as many furnaces,
  10 train, 2 validate, 10 test; profiles `default` and `hard`, and the control
  `no_precursor`.

Purpose   Which way to align the modalities carries over best. Data, windows, encoders,
  augmentation, batch and number of steps are the same for all; docs/systems.md says
  what each system is. No label reaches any of them in training. The controls
  `..._shuffled_pairs` are trained on wrong pairs: what they reach across modalities,
  the protocol gives away. `clip_at_lead_0` reads the current at the moment of the
  video, when its precursor is over.

Expected time   On two idle CPU cores 2 to 4 min a run with its evaluations. The
  references of `recipe` take hours there, because FmFormer is among them: leave them
  out with --no-references, or run it on a GPU.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax.config import Change, load_file, setting, unchanged
from fmalign_jax.systems.system import make_system

CONFIGS = pathlib.Path(__file__).parents[1]
FURNACES = load_file(CONFIGS / "studies" / "furnaces.py")
SYSTEMS = load_file(CONFIGS / "systems.py")
WITH_LABELS = load_file(CONFIGS / "evaluate.py")
DATA = FURNACES.DATA
FOLDS = ("default", "no_precursor", "hard")
SEEDS = (0, 1, 2, 3, 4)
EPOCHS = 4.0  # 320 steps, 10 240 windows


WRONG_PAIRS = ("data.shuffle_partners", True)


def but(change: Change, key: str, value: Any) -> Change:
    """Returns the same change, but for one setting."""

    def changed(config: ConfigDict) -> None:
        change(config)
        setting(key, value)(config)

    return changed


COMPARED: dict[str, Change] = {"recipe": unchanged, **SYSTEMS.SYSTEMS}

VARIANTS: dict[str, Change] = {
    **COMPARED,
    **{f"{name}_shuffled_pairs": but(c, *WRONG_PAIRS) for name, c in COMPARED.items()},
    "clip_at_lead_0": but(SYSTEMS.SYSTEMS["clip"], "data.lead_s", 0.0),
}


def train_config(fold: str, data: str) -> ConfigDict:
    """Returns the recipe for a profile, with the common number of steps."""
    config = FURNACES.train_config(fold, data)
    config.epochs = EPOCHS
    return config


def evaluate_config(fold: str, data: str) -> ConfigDict:
    """Returns the evaluation of a run, on its own splits, with retrieval.

    With the references of `recipe` also what learns with labels.
    """
    config = WITH_LABELS.get_config("fmformer")
    config.retrieval = True
    return config


def evaluate_variant(settings: ConfigDict, variant: str) -> None:
    """Asks where spells begin and end, of systems with features of every tick."""
    config = train_config(FOLDS[0], DATA)
    VARIANTS[variant](config)
    settings.localisation = make_system(config).slots_are_ticks


def evaluate_fused(settings: ConfigDict) -> None:
    """Evaluates the features of both modalities at once, which have no partner."""
    settings.source = settings.target = "fused"
    settings.retrieval = False
