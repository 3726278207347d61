"""The supervised reference: what judges its epochs, and which of them it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold

from fmalign_jax.data import dataset
from fmalign_jax.evaluation import supervised
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows

GROUPS = 5
EPOCHS = 2


@pytest.fixture(scope="module")
def contrary(folder):
    """An oracle whose held-out windows have the class that no fitted one has.

    The better it fits, the worse it is judged: the first epoch is the best.
    """
    config = tiny.tiny_config(folder)
    config.update_from_flattened_dict(tiny.LIGHT)
    store = dataset.open_dataset(config)
    windows = dataset.make_windows(store, config)["train"]
    groups = np.arange(len(windows)) * GROUPS // len(windows)
    fitted, held = next(GroupKFold(GROUPS).split(groups, groups=groups))
    label = np.zeros(len(windows), np.int64)
    label[held] = 1
    split = LabelledWindows("head", "the run", store, windows, label)
    trained = supervised.train(
        split,
        groups,
        config,
        "current",
        jax.tree.map(jnp.asarray, tiny.STATISTICS),
        HeadSpec(),
        classes=2,
        epochs=EPOCHS,
        seed=0,
    )
    return trained, split.chosen(fitted), split.chosen(held)


def _loss(trained, split):
    return log_loss(split.label, trained.predict(split), labels=[0, 1])


def test_epochs_are_judged_by_windows_that_are_not_fitted(contrary):
    trained, fitted, held = contrary
    assert len(trained.losses) == EPOCHS
    assert trained.losses[0] < trained.losses[-1]
    assert _loss(trained, fitted) < 0.5 < min(trained.losses)
    assert trained.losses[trained.best_epoch - 1] == pytest.approx(
        _loss(trained, held), rel=1e-5
    )


def test_the_parameters_of_the_best_epoch_are_kept(contrary):
    trained, _, held = contrary
    assert trained.best_epoch == 1 < len(trained.losses)
    assert _loss(trained, held) == pytest.approx(min(trained.losses), rel=1e-5)
