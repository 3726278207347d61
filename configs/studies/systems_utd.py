"""Study: whole systems under one protocol on UTD-MHAD, unseen people or unseen clips.

Command   python scripts/study.py configs/studies/systems_utd.py \\
              --out docs/results/systems_utd.json --data FOLDER

Data      UTD-MHAD as in configs/studies/utd_mhad.py: depth video and motion sensor, one
  file a person, six people. Three folds test a person who was in nothing before. The
  fold `clips` takes 20 % of all clips at random for the test, as C3T did (arXiv
  2407.16803), and trains on the other 80 %: every person tested was seen in training,
  other clips of the same action by the same person among them.

Purpose   Labels on the video only, test on the sensor: 27 actions, chance 0.037. Data,
  windows, encoders, augmentation, batch, learning rate and number of steps are the same
  for all; docs/systems.md says what each system is. No label reaches any of them in
  training. Learning rates found on furnaces are not used here, since they do not carry
  over: `clip_furnace_rate` shows what happens.
  C3T's published accuracies, 0.625 and 0.705, stand beside the fold `clips` as
  neighbours, not as equals: they are of RGB video, eight people, another network and
  a head that learns with the rest.

Expected time   6 to 13 min a run with its evaluations, on one CPU core (402 steps);
  `fcid` half an hour and more.

Result   One seed of persons s6 and s1, and two systems on the fold `clips`: the table
  of people in docs/results/systems.md. Balanced accuracy video -> current of the
  features a system shares most: recipe 0.769 and 0.833, qformer 0.833 and 0.735, hdcid
  0.778 and 0.731; clip 0.630 and 0.648, at the learning rate of furnaces 0.398 and
  0.352. One seed does not rank what is less than about 0.1 apart. The fold `clips` has
  517 clips to train on and 129 to test.
"""

import pathlib

from ml_collections import ConfigDict

from fmalign_jax.config import Change, evaluation_config, load_file, unchanged

CONFIGS = pathlib.Path(__file__).parents[1]
UTD = load_file(CONFIGS / "studies" / "utd_mhad.py")
SYSTEMS = load_file(CONFIGS / "systems.py")
DATA = UTD.DATA
CLIPS = "clips"
FOLDS = ("s6", "s1", "s3", CLIPS)
SEEDS = (0, 1, 2)


def at_common_rate(change: Change) -> Change:
    """Returns the same change, but for the learning rate, which is the recipe's."""

    def changed(config: ConfigDict) -> None:
        rate = config.optimizer.learning_rate
        change(config)
        config.optimizer.learning_rate = rate

    return changed


VARIANTS: dict[str, Change] = {
    "recipe": unchanged,
    **{name: at_common_rate(change) for name, change in SYSTEMS.SYSTEMS.items()},
    "clip_furnace_rate": SYSTEMS.SYSTEMS["clip"],
}


def train_config(fold: str, data: str) -> ConfigDict:
    """Returns the recipe for a fold."""
    if fold != CLIPS:
        config: ConfigDict = UTD.train_config(fold, data)
        return config
    config = UTD.train_config(FOLDS[0], data)
    config.data.path = UTD.files(data, list(UTD.PEOPLE))
    split = config.data.split
    split.by = "clip"
    split.validation_recordings = ()
    split.validation, split.test = 0.0, 0.2
    config.epochs = 50.0  # about as many steps as of four people
    return config


def evaluate_config(fold: str, data: str) -> ConfigDict:
    """Returns the evaluation of a run; of clips on its own splits."""
    if fold != CLIPS:
        config: ConfigDict = UTD.evaluate_config(fold, data)
        return config
    config = evaluation_config()
    config.oracle_epochs = 20
    return config
