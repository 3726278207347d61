"""The shipped config of every system trains in miniature."""

import numpy as np
import pytest
from system_cases import CONFIGS

from fmalign_jax import train


@pytest.fixture(scope="module")
def furnaces(tmp_path_factory):
    """Where the simulated furnaces of all systems lie."""
    return tmp_path_factory.mktemp("furnaces")


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    "name", {**CONFIGS.SYSTEMS, **CONFIGS.SUPERVISED, **CONFIGS.CONTROLS}
)
def test_the_shipped_config_trains_in_miniature(name, furnaces, tmp_path):
    config = CONFIGS.get_config(f"{name}+smoke")
    config.data.path = str(furnaces / "simulated")
    config.data.prepared_dir = str(furnaces / "prepared")
    config.max_steps = 8
    config.eval_every_epochs = 1.0
    state, summary = train.train(config, tmp_path / "run")
    assert int(state.step) == 8
    assert summary["best_step"] == 8
    assert np.isfinite(summary["best_score"])
