"""Prepares a data set: raw recordings -> a tensorflow-datasets folder -> windows.

    python -m fmalign_jax.prepare --config configs/pretrain.py

Training does the same by itself when the prepared set is absent.
"""

from __future__ import annotations

import logging

from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.config import default_config
from fmalign_jax.data.dataset import make_windows, open_dataset


def main(config: ConfigDict) -> None:
    """Prepares the data set and says what it holds."""
    store = open_dataset(config)
    for split, index in make_windows(store, config).items():
        logging.info("%s: %d windows", split, len(index))


if __name__ == "__main__":
    cli.run(main, default_config)
