"""Zero-shot evaluation of a run: a head learnt on one modality, tried on the other.

Command   python -m fmalign_jax.evaluate --config configs/evaluate.py \\
              --config.checkpoint=RUN

Purpose   What the aligned codes are worth. RUN is the folder of a run, such as
  runs/pretrain-1a2b3c4d. Without further keys the run's own splits are used; other
  recordings are given by
      --config.head_data='labelled/*.npz' --config.test_data='unseen/*.npz'

Expected time   On a run of configs/pretrain.py (2167 head windows, 92 validation
  windows): 50 to 72 s on two CPU cores that several other jobs shared, 21 s on idle
  ones, random encoders and oracle included.

Result   Measured only on a run stopped after 10 steps, to see that it works and how
  long it takes. Its codes are not aligned; the numbers say nothing of the method:
      balanced accuracy    video -> current 0.34, current -> current 0.74,
                           random encoders, video -> current 0.45, oracle 0.73
"""

from ml_collections import ConfigDict

from fmalign_jax.default_config import evaluation_config


def get_config() -> ConfigDict:
    return evaluation_config()
