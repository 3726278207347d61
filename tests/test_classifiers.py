"""Classifiers that an evaluation names: trained with labels, reported by themselves."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fmalign_jax.config import component, evaluation_config, load_file
from fmalign_jax.data import dataset
from fmalign_jax.evaluation import supervised
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.models.fmformer import FmFormer

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


class Level(nn.Module):
    """Logits of the mean level of what it is given; the names are those it was."""

    classes: int

    @nn.compact
    def __call__(self, inputs, *, train):
        means = [x.mean(axis=tuple(range(1, x.ndim))) for x in inputs.values()]
        return nn.Dense(self.classes)(jnp.stack(means, axis=1))


def _entry(modalities, **training):
    settings = {"epochs": 2, "learning_rate": 0.05, "weight_decay": 0.0} | training
    return component(f"{__name__}.Level", modalities=modalities, training=settings)


@pytest.fixture(scope="module")
def labelled(folder):
    """Windows whose label is whether their current is high."""
    config = tiny.tiny_config(folder)
    config.update_from_flattened_dict(tiny.LIGHT)
    store = dataset.open_dataset(config)
    windows = dataset.make_windows(store, config)["train"]
    split = LabelledWindows(
        "head", "the run", store, windows, np.zeros(len(windows), int)
    )
    streams = supervised._streams(split, ["current"], np.arange(len(windows)))
    level = streams["current"].reshape(len(windows), -1).mean(axis=1)
    split.label[:] = level > np.median(level)
    return config, split


def _train(labelled, entry, **options):
    config, split = labelled
    return supervised.train_classifier(
        split,
        np.arange(len(split)) % 5,
        config,
        entry.to_dict(),
        jax.tree.map(jnp.asarray, tiny.STATISTICS),
        classes=2,
        balanced=False,
        seed=0,
        **options,
    )


def test_a_classifier_learns_from_what_it_is_given(labelled):
    seeing = _train(labelled, _entry(("current",), epochs=8))
    assert seeing.parameters == 1 * 2 + 2
    split = labelled[1]
    right = seeing.predict(split).argmax(axis=1) == split.label
    assert right.mean() > 0.9
    assert seeing.losses[-1] < seeing.losses[0]
    both = _train(labelled, _entry(("video", "current")))
    assert both.parameters == 2 * 2 + 2


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 1}, {"learning_rate": 0.0}, {"batch_size": 4}, {"weight_decay": 5.0}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_of_the_training_counts(labelled, changes):
    usual = _train(labelled, _entry(("current",)))
    other = _train(labelled, _entry(("current",), **changes))
    split = labelled[1]
    assert np.abs(usual.predict(split) - other.predict(split)).max() > 1e-5


def test_what_the_run_does_not_have_is_refused(labelled):
    with pytest.raises(ValueError, match="reads modalities of the run, current, video"):
        _train(labelled, _entry(("sound",)))
    wrong = component(
        f"{__name__}.Level", modalities=("video",), training={"epochs": 1}, depth=3
    )
    with pytest.raises(ValueError, match="a classifier may give only what"):
        _train(labelled, wrong)


def test_the_shipped_variant_names_three_fmformers():
    module = load_file(CONFIGS / "evaluate.py")
    usual = evaluation_config()
    assert module.get_config().to_json() == usual.to_json()
    named = module.get_config("fmformer").classifiers
    assert set(named) == {"fmformer", "fmformer_video", "fmformer_current"}
    for entry in named.values():
        options = entry.to_dict()
        modalities = options.pop("modalities")
        supervised.Training(**options.pop("training"))
        options.pop("name")
        model = FmFormer(2, **options)
        assert [m for m in (model.video, model.current) if m] == list(modalities)
    with pytest.raises(ValueError, match="has the variants default, fmformer"):
        module.get_config("other")
