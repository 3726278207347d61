"""The shared level of a run: fitted to its own encoders, saved, read, reported."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny
from changed_run import change_settings

from fmalign_jax import evaluate, train
from fmalign_jax.config import evaluation_config, shared_level
from fmalign_jax.evaluation import files
from fmalign_jax.run import checkpoint_files, restore
from fmalign_jax.run.restore import open_run
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import setup, sharding
from fmalign_jax.training.shared_level import SharedLevelFit
from fmalign_jax.training.state import make_trainer

pytestmark = pytest.mark.usefixtures("one_device")

SCORE = "shared_correlation/current-video"
SEGMENTS, CODES, SKIPPED = 2, 3, 2


def _config(folder, **changes):
    config = tiny.tiny_config(folder)
    config.update_from_flattened_dict(tiny.LIGHT)
    config.data.split.validation_recordings = ("furnace_1",)
    config.codebook.shared = shared_level(
        teacher="video",
        codes=CODES,
        directions=2,
        segments=SEGMENTS,
        skip_ticks=SKIPPED,
    )
    config.score = SCORE
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def run(folder):
    """A tiny run with a shared level: its folder, last state and summary."""
    state, summary = train.train(_config(folder), folder / "run")
    return folder / "run", jax.device_get(state), summary


@pytest.fixture(scope="module")
def evaluated(run):
    config = evaluation_config()
    config.checkpoint = str(run[0])
    config.oracle_epochs, config.random_encoders, config.bootstrap_draws = 0, 5, 20
    return evaluate.evaluate(config)


def _fit_again(config, state, **changes):
    """Returns the state fitted anew, as a run with a changed config would."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    data = setup.load_data(config)
    trainer = make_trainer(config, steps_per_epoch=1, steps=1)
    empty = make_system(config).empty_model_state()
    state = dataclasses.replace(state, model_state=empty)
    fit = SharedLevelFit(trainer, data.store, sharding.make_mesh())
    return fit(state, data.training).model_state["shared"]


def test_what_is_saved_is_fitted_to_the_encoders_that_are_saved(run, folder):
    kept, _ = checkpoint_files.saved_steps(run[0] / "checkpoints")
    assert len(kept) > 1
    different = []
    for step in kept:
        frozen = restore.restore(open_run(run[0], step), sharding.make_mesh())
        state = dataclasses.replace(
            run[1], params={"model": frozen.params}, statistics=dict(frozen.statistics)
        )
        again = _fit_again(_config(folder), state)
        found = frozen.model_state["shared"]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, again
        )
        different.append(np.asarray(found.directions["video"]))
    assert np.abs(different[0] - different[-1]).max() > 1e-3


def test_it_changes_nothing_of_what_is_learnt(run, folder):
    without = _config(folder)
    without.codebook.shared = None
    without.score = "equal_share"
    state, _ = train.train(without, folder / "without")
    assert "shared" not in state.model_state
    for part in ("params", "opt_state", "critic_params"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(state, part), getattr(run[1], part)
        )


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"codebook.shared.codes": 4}, lambda a, b: a.codes.shape != b.codes.shape),
        (
            {"codebook.shared.directions": 1},
            lambda a, b: a.correlations.shape != b.correlations.shape,
        ),
        (
            {"codebook.shared.segments": 1},
            lambda a, b: (
                np.abs(a.directions["video"] - b.directions["video"]).max() > 1e-4
            ),
        ),
        (
            {"codebook.shared.skip_ticks": 4},
            lambda a, b: (
                np.abs(a.directions["video"] - b.directions["video"]).max() > 1e-4
            ),
        ),
        (
            {"codebook.shared.ridge": 0.5},
            lambda a, b: (
                np.abs(a.directions["video"] - b.directions["video"]).max() > 1e-4
            ),
        ),
        (
            {"codebook.shared.teacher": "current"},
            lambda a, b: np.abs(a.codes - b.codes).max() > 1e-4,
        ),
        (
            {"codebook.shared.student_weight": 0.5},
            lambda a, b: (
                not hasattr(a, "readers")
                and hasattr(b, "readers")
                and b.readers["current"].shape == (3, 3)
            ),
        ),
    ],
)
def test_every_setting_has_its_effect(run, folder, changes, differs):
    found = _fit_again(_config(folder), run[1])
    other = _fit_again(_config(folder), run[1], **changes)
    assert differs(found, other)


def test_validation_says_how_far_codes_are_shared(run):
    lines = (run[0] / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    judged = [line for line in lines if line["split"] == "validation"]
    for line in judged:
        for name in ("agreement", "kappa", "nats", "correlation"):
            assert np.isfinite(line[f"shared_{name}/current-video"])
        for name in tiny.STATISTICS:
            assert 1 <= line[f"shared_perplexity/{name}"] <= CODES + 1e-6
        assert 0 <= line["shared_equal_share"] <= 1
    assert run[2]["best_score"] == max(line[SCORE] for line in judged)


def test_the_last_validation_is_that_of_the_codes_of_the_run(run, folder):
    """Read back through the encoders of a user, and counted here."""
    opened = open_run(run[0], "latest")
    found = opened.encoder(["video", "current"])(*opened.split("validation"))
    codes = found.shared_codes
    assert codes["video"].shape[1] == SEGMENTS
    assert found.variates["video"].shape[1] == 8 - SKIPPED
    last = run[2]["validation"]
    agreement = (codes["video"] == codes["current"]).mean()
    assert last["shared_agreement/current-video"] == pytest.approx(agreement)
    along = [found.variates[m].mean(axis=1) for m in ("video", "current")]
    correlations = [np.corrcoef(along[0][:, i], along[1][:, i])[0, 1] for i in (0, 1)]
    assert last[SCORE] == pytest.approx(np.mean(correlations), abs=1e-4)
    # A segment has the code that is nearest to the mean of its variates.
    ticks = found.variates["video"]
    means = ticks.reshape(len(ticks), SEGMENTS, -1, ticks.shape[-1]).mean(axis=2)
    distance = ((means[:, :, None] - found.shared_vectors) ** 2).sum(axis=-1)
    chosen = np.take_along_axis(distance, codes["video"][..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, distance.min(axis=-1), atol=1e-5)


def test_an_evaluation_reports_it(evaluated, capsys):
    report, folder = evaluated
    assert report["features"] == "shared"
    found = report["code_sharing"]
    assert (found["level"], found["codes"]) == ("shared", CODES)
    with (folder / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "validation"]
    codes = {
        m: np.array([[int(c) for c in row[f"{m} codes"].split()] for row in rows])
        for m in ("video", "current")
    }
    ticks = np.array([row["video tick codes"].split() for row in rows])
    assert codes["video"].shape == (len(rows), SEGMENTS)
    assert ticks.shape[1] == 8
    assert found["agreement"] == pytest.approx(
        (codes["video"] == codes["current"]).mean()
    )
    shares = [np.bincount(c.ravel(), minlength=CODES) / c.size for c in codes.values()]
    assert found["chance_marginals"] == pytest.approx(shares[0] @ shares[1])
    kappa = (found["agreement"] - found["chance_marginals"]) / (
        1 - found["chance_marginals"]
    )
    assert found["kappa"]["marginals"] == pytest.approx(kappa)
    for direction, scores in found["by_code"].items():
        assert set(scores) >= {"balanced_accuracy", "auroc", "coverage", "intervals"}
        assert 0 <= scores["coverage"] <= 1, direction
    for name in (
        "chance_shift",
        "shared_nats",
        "entropy_nats",
        "perplexity",
        "equal_share",
        "equal_num",
        "code_information",
        "mixing",
        "ceiling",
    ):
        assert found[name] is not None, name
    assert found["by_size"]["2"]["agreement"] >= 0
    files.print_report(report, folder)
    printed = capsys.readouterr().out
    assert f"{CODES} codes, validation split" in printed
    assert f"{found['agreement']:.3f} (chance: marginals" in printed
    assert "5 draws" in printed


def test_a_head_reads_the_features_of_the_config(run, evaluated):
    config = evaluation_config()
    config.checkpoint, config.features = str(run[0]), "codes"
    config.oracle_epochs, config.random_encoders, config.bootstrap_draws = 0, 0, 0
    report, _ = evaluate.evaluate(config)
    assert report["features"] == "codes"
    assert report["head"]["video"] == {"l2": 0.2}
    assert evaluated[0]["head"]["video"] == {"l2": 0.005}
    scores = [
        one["zero_shot"]["video->current"]["auroc"] for one in (report, evaluated[0])
    ]
    assert scores[0] != scores[1]
    # What is said of the codes is of the shared level, whatever a head reads.
    assert report["code_sharing"]["level"] == "shared"


def test_a_config_that_was_changed_since_is_named(run, folder):
    copy = folder / "changed"
    shutil.copytree(run[0], copy)
    shared = {"student_weight": 0.5}
    change_settings(
        copy, lambda settings: settings["codebook"]["shared"].update(shared)
    )
    with pytest.raises(ValueError, match=r"config.json describes; got another .*2 arr"):
        restore.restore(open_run(copy, "latest"), sharding.make_mesh())


def test_random_encoders_are_the_mean_of_their_draws(evaluated):
    found = evaluated[0]["references"]["random_encoders"]["video->current"]
    assert found["draws"] == 5
    assert found["deviations"]["auroc"] > 0
    assert found["splits"]["validation"]["draws"] == 5


def test_a_run_with_a_shared_level_resumes(run, folder):
    config = _config(folder, max_steps=12)
    state, summary = train.train(config, run[0].with_name("longer"))
    stopped = _config(folder, max_steps=8)
    train.train(stopped, folder / "stopped")
    again, _ = train.train(config, folder / "stopped")
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(again.model_state),
        jax.device_get(state.model_state),
    )
    assert summary["step"] == 12


def test_segments_must_divide_a_window(folder):
    config = _config(folder, **{"codebook.shared.segments": 4})
    with pytest.raises(
        ValueError, match=r"segments must be a divisor of data\.window_ticks"
    ):
        train.train(config, folder / "odd")
