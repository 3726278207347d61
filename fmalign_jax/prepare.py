"""Prepares a data set: raw recordings -> a tensorflow-datasets folder -> windows.

    python -m fmalign_jax.prepare --config configs/pretrain.py

Prints a report of the clocks, which is `clocks.csv` in the folder of the data set, and
writes `croissant.json` beside it, by which others know what the set holds.
Training prepares by itself when the prepared set is absent.
"""

from __future__ import annotations

import logging

from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.config import default_config
from fmalign_jax.data import clock_report, croissant, files
from fmalign_jax.data.dataset import make_windows, measured_clocks, open_dataset


def main(config: ConfigDict) -> None:
    """Prepares the data set and says what it holds."""
    store = open_dataset(config)
    clocks = measured_clocks(store, config.data)
    cli.print_table(clock_report.table(clocks))
    path = store.directory / "clocks.csv"
    try:
        files.write_text(path, clock_report.csv_text(clocks))
    except OSError as error:  # a complete set may lie where one cannot write
        logging.warning("%s: the clocks are not written (%s)", path, error)
    windows = make_windows(store, config)
    for split, index in windows.items():
        logging.info("%s: %d windows", split, len(index))
    about = config.data.about.to_dict()
    try:
        described = croissant.prepared(store, clocks, windows, about)
        croissant.write(store.directory, described)
    except OSError as error:
        where = store.directory / croissant.FILE
        logging.warning("%s: the description is not written (%s)", where, error)


if __name__ == "__main__":
    cli.run(main, default_config, own_modules=True)
