"""Zero-shot evaluation of a run: a head trained on one modality, tested on the other.

Command   python -m fmalign_jax.evaluate --config configs/evaluate.py \\
              --config.checkpoint=RUN

Purpose   How useful the aligned codes are. RUN is the folder of a run, such as
  runs/pretrain-1a2b3c4d. Without further keys the run's own splits are used; other
  recordings are given by
      --config.head_data='labelled/*.npz' --config.test_data='unseen/*.npz'

Expected time   On a run of configs/pretrain.py (2167 head windows, 92 validation
  windows): 74 s on two CPU cores that other runs shared, random encoders and oracle
  included.

Result   Those of a run stand with the run's config: furnaces in configs/pretrain.py,
  whole clips in configs/recordings.py.
"""

from ml_collections import ConfigDict

from fmalign_jax.config import evaluation_config


def get_config() -> ConfigDict:
    return evaluation_config()
