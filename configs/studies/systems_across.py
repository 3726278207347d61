"""Study: systems of one profile of furnaces, on furnaces of another.

Command   python scripts/study.py configs/studies/systems_across.py \\
              --out docs/results/systems_across.json
          python scripts/write_systems.py docs/results/systems.json \\
              --across docs/results/systems_across.json --out docs/results/systems.md

Data      Trained, and the head too, on the furnaces of configs/studies/systems.py,
  profile `default`. Tested on ten others of profile `hard`, which are written to DATA
  on first use.

Purpose   What is left of the transfer on furnaces of another kind, whose episodes are
  nearly as noisy as calm smelting: neither encoders nor head are trained again.

Expected time   As configs/studies/systems.py. Runs of that study serve here too: give
  their folder with --runs.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax.config import load_file
from fmalign_jax.data.simulator import SimulatedFurnaces

STUDY = load_file(pathlib.Path(__file__).parent / "systems.py")
DATA, train_config = STUDY.DATA, STUDY.train_config
FOLDS, SEEDS = ("default",), (0, 1, 2)
EVALUATED = ("codes",)
VARIANTS = STUDY.COMPARED

TESTED: dict[str, Any] = {
    "profile": "hard",
    "recordings": 10,
    "test_recordings": 0,
    "seed": 1,  # those of training are of seed 0
}
"""What is tested, where it differs from what is trained on."""


def evaluate_config(fold: str, data: str) -> ConfigDict:
    """Returns the evaluation of a run on furnaces of another profile."""
    config = STUDY.evaluate_config(fold, data)
    options = train_config(fold, data).data.options.to_dict()
    config.test_data = str(SimulatedFurnaces(data, **options | TESTED).directory)
    return config
