"""A run with labels and a view of all modalities, from training to its evaluation."""

import json

import numpy as np
import pytest
import tiny
from system_cases import CONFIGS

from fmalign_jax import evaluate as command, train
from fmalign_jax.config import early_warning_config, evaluation_config
from fmalign_jax.early_warning import early_warning
from fmalign_jax.evaluation import files
from fmalign_jax.evaluation.probe import LabelledValidation
from fmalign_jax.run import open_run
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.training import setup, sharding

pytestmark = pytest.mark.usefixtures("one_device")


def _run_config(folder):
    config = tiny.tiny_config(folder)
    CONFIGS.clmlf_dropout(config)
    config.objectives.data_contrast.weight = 0.0  # takes long to compile
    config.model.layers = 1
    config.max_steps = 4
    config.data.split.validation_recordings = ("furnace_1",)
    config.data.split.test_recordings = ("furnace_2",)
    return config


@pytest.fixture(scope="module")
def run(folder):
    tiny.write_recordings(folder / "raw", seed=86)  # each has windows of both classes
    _, summary = train.train(_run_config(folder), folder / "run")
    return folder / "run", summary


def _config(run, **changes):
    config = evaluation_config()
    config.checkpoint = str(run[0])
    config.update({"oracle_epochs": 0, "random_encoders": 0, "bootstrap_draws": 0})
    config.head.steps = 40
    config.update(changes)
    return config


FUSED = {"source": "fused", "target": "fused"}


@pytest.fixture(scope="module")
def fused(run):
    return command.evaluate(_config(run, **FUSED, random_encoders=1, oracle_epochs=1))


def test_a_run_with_labels_says_so(run):
    path, summary = run
    assert summary["labels"] == "L2"
    assert json.loads((path / "summary.json").read_text())["labels"] == "L2"


def test_a_view_of_all_modalities_is_evaluated_as_itself_alone(fused, capsys):
    report, folder = fused
    assert list(report["supervised_representation"]) == ["fused->fused"]
    assert "zero_shot" not in report
    assert report["labels"] == "L2"
    assert list(report["references"]["random_encoders"]) == ["fused->fused"]
    assert report["references"]["oracle"] is None
    assert report["splits"]["test"]["seen_in_pretraining"] is False
    assert report["splits"]["test"]["setting"] == "inductive"
    files.print_report(report, folder)
    printed = capsys.readouterr().out
    assert "not zero-shot, labels L2" in printed
    assert "fused->fused" in printed
    header = (folder / "predictions.csv").read_text().partition("\n")[0]
    assert "fused->fused prediction" in header


def test_of_one_run_each_modality_alone_is_evaluated_too(run, fused):
    report, folder = command.evaluate(_config(run))
    assert len(report["supervised_representation"]) == 4
    assert folder != fused[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "fused"}, "must be two modalities, or both 'fused'"),
        ({**FUSED, "retrieval": True}, "compare two modalities; got 'fused' alone"),
        ({**FUSED, "calibrate": "paired"}, "compare two modalities; got 'fused'"),
    ],
)
def test_it_has_no_other_to_go_to(run, changes, message):
    with pytest.raises(ValueError, match=message):
        command.evaluate(_config(run, **changes))


def test_no_alarm_watches_it(run):
    config = early_warning_config()
    config.checkpoint = str(run[0])
    config.update(FUSED)
    with pytest.raises(ValueError, match="watches one modality alone: got target='fu"):
        early_warning(config)


def test_the_encoder_gives_the_views_that_it_is_asked_for(run):
    opened = open_run(run[0])
    store, windows = opened.split("test")
    every = opened.encoder(["video", "fused"])(store, windows).semantic
    alone = opened.encoder(["fused"])(store, windows).semantic
    assert set(every) == {"video", "fused"}
    np.testing.assert_allclose(every["fused"], alone["fused"], atol=1e-5)
    opened.config.model.form = "fused"
    with pytest.raises(ValueError, match="must be views of the run, fused; got video"):
        FrozenEncoder(opened.config, ["video"], sharding.make_mesh())


def test_validation_with_labels_takes_every_view(folder, run):
    config = _run_config(folder)
    data = setup.load_data(config)
    probe = LabelledValidation(
        config, data.store, data.windows, sharding.one_device_mesh()
    )
    assert "supervised_representation/fused->fused" in probe.names
    assert len(probe.names) == 9


def test_a_class_more_than_the_classifier_has_is_refused(folder, run):
    config = _run_config(folder)
    config.objectives.classification.classes = 1
    with pytest.raises(
        ValueError, match=r"classification\.classes must count .* got 1, and a label 1"
    ):
        setup.load_data(config)
