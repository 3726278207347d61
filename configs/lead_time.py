"""Search for the lead: how far the current is ahead of the video, without labels.

Command   python -m fmalign_jax.lead_time --config configs/lead_time.py \\
              --config.checkpoint=RUN

Purpose   One answer in seconds, with an interval, or "no lead found". RUN is the folder
  of a run, such as runs/pretrain-1a2b3c4d. Without further keys the recordings of the
  run that it was not trained on are searched; others, or another range, are given by
      --config.recordings='recordings/*.npz'
      --config.least_lead_s=-60 --config.most_lead_s=600

Expected time   On a run of configs/pretrain.py, two recordings of 50 min that it was
  not trained on: 63 s of CPU time, half of it encoding; 220 s on two CPU cores under a
  load of 20.

Result   On that run (step 320): 262 s [229, 296]; by the simulator the two recordings
  have leads of 241 and 246 s. More cases: docs/results/lead.md.
"""

from ml_collections import ConfigDict

from fmalign_jax.config import lead_config


def get_config() -> ConfigDict:
    return lead_config()
