"""Early warning from the current alone: an alarm, its evaluation, and its file.

Command   python -m fmalign_jax.early_warning --config configs/early_warning.py \\
              --config.checkpoint=RUN

Purpose   From a run and labelled recordings an alarm that needs no camera: its level
  is chosen on validation for a budget of false alarms, and it is evaluated
  on test: episodes detected, seconds of warning and false alarms per hour, compared
  with simple rules that need no model. Recordings are given as to `evaluate`:
      --config.head_data=... --config.validation_data=... --config.test_data=...
  RUN/early_warning/alarm.fmalign is what `python -m fmalign_jax.monitor` runs.
"""

from ml_collections import ConfigDict

from fmalign_jax.config import early_warning_config


def get_config() -> ConfigDict:
    return early_warning_config()
