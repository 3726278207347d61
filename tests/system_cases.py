"""Systems at their first state, for the tests that hold for every one of them."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from ml_collections import ConfigDict

from fmalign_jax.config import load_file
from fmalign_jax.training import sharding, step as train_step

CONFIGS = load_file(pathlib.Path(__file__).parents[1] / "configs" / "systems.py")


def cmg(config: ConfigDict) -> None:
    """CMG is what the tiny config describes."""
    config.objectives.reconstruction.weight = 0.0  # compiles long, changes nothing


SYSTEMS = {
    "cmg": cmg,
    **CONFIGS.SYSTEMS,
    **CONFIGS.SUPERVISED,
    **CONFIGS.CONTROLS,
}
_SUMMARY = "['model']['specifics_video']['Dense_"
IDLE = {"micu": _SUMMARY, "indexed": _SUMMARY}
"""Parameters that a system has and does not learn: the summary that CLUB reads."""


LEVELS = {"hdcid": 2}
"""How many levels stand side by side in what a system encodes; else one."""


def make_config(name: str) -> ConfigDict:
    config = tiny.tiny_config()
    config.optimizer.epsilon = 1e-3  # see test_step: gradients that are but rounding
    config.optimizer.warmup_steps = 0
    # One unit alone may have a ReLU that lets nothing through.
    config.model.modalities.video.pool.reduction = 1
    SYSTEMS[name](config)
    for term in config.objectives.values():
        if "from_epoch" in term:
            term.from_epoch = 0.0  # all that a system has learns from the first step
    return config


@dataclasses.dataclass
class Case:
    """A system at its first state, with one batch."""

    name: str
    config: ConfigDict
    trainer: object
    mesh: object
    state: object
    batch: dict
    inputs: dict
    step: object
    evaluate: object


def make_case(name: str, devices: int = 1) -> Case:
    config = make_config(name)
    trainer, mesh, state = tiny.first_state(config, devices)
    batch = sharding.place_batch(tiny.random_batch(config), mesh)
    inputs = {
        "video": jnp.asarray(batch["streams"]["video"], jnp.float32) / 74.0,
        "current": jnp.asarray(batch["streams"]["current"]),
    }
    step = train_step.make_train_step(trainer, mesh)
    evaluate = train_step.make_eval_step(trainer, mesh)
    return Case(name, config, trainer, mesh, state, batch, inputs, step, evaluate)


def leaves(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), np.asarray(leaf)


def check_equal(found, expected):
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(found), jax.device_get(expected)
    )
