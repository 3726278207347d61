"""A run whose current is read over a range of leads: trained, judged, run live."""

import numpy as np
import pytest
import tiny

from fmalign_jax import early_warning, evaluate, lead_time, train
from fmalign_jax.alarm import alarm_file
from fmalign_jax.config import (
    early_warning_config,
    evaluation_config,
    lead_config,
    read_lead_range,
)
from fmalign_jax.data import pipeline
from fmalign_jax.evaluation import files
from fmalign_jax.evaluation.splits import load_splits
from fmalign_jax.run import restore

pytestmark = pytest.mark.usefixtures("one_device")

LEAST_S, MOST_S = 2.0, 18.0  # two windows of 8 s wide: three stretches
LEADS = 3


@pytest.fixture(scope="module")
def run(folder):
    """A tiny run that reads the current 2 to 18 s earlier than the video."""
    tiny.write_recordings(folder / "raw", seed=86)
    config = tiny.tiny_config(folder)
    config.update_from_flattened_dict(tiny.LIGHT)
    read_lead_range(config, LEAST_S, MOST_S)
    config.data.split.validation_recordings = ("furnace_1",)
    config.data.split.test_recordings = ("furnace_2",)
    train.train(config, folder / "run")
    return folder / "run"


def _evaluation(run, config, **changes):
    config.checkpoint = str(run)
    config.oracle_epochs = 0
    config.bootstrap_draws = 20
    config.update(changes)
    return config


def test_it_says_at_which_leads_the_current_was_read(run, capsys):
    report, target = evaluate.evaluate(
        _evaluation(run, evaluation_config(), random_encoders=0)
    )
    lags = report["lag_weights"]
    assert lags is not None
    assert lags["lead_s"] == [float(s) for s in range(18, 1, -1)]
    weights = np.array(lags["weight"])
    assert weights.shape == (17,)
    assert weights.sum() == pytest.approx(1)
    assert lags["mean_s"] == pytest.approx(weights @ lags["lead_s"])
    files.print_report(report, target)
    assert "of 2 to 18 s" in capsys.readouterr().out


@pytest.mark.parametrize("score", ["model", "taught"])
def test_the_alarm_of_a_range_runs_live(run, folder, score):
    config = _evaluation(
        run,
        early_warning_config(),
        spread_s=8.0,
        min_spell_s=2.0,
        merge_gap_s=1.0,
        clear_after_s=1.0,
        raise_after_s=(0.0,),
        baseline_lengths_s=(8.0,),
        recent_s=(60.0,),
        false_alarms_per_hour=100.0,
        rows=8,
        alarm=score,
    )
    report, target = early_warning.early_warning(config)
    assert report["definition"]["lead_s"] == (LEAST_S + MOST_S) / 2
    alarm = alarm_file.load(target / early_warning.ALARM)
    assert alarm.settings.window_shape == (8 * LEADS, 2, 3)
    found = tiny.replayed(alarm, folder / "raw" / "furnace_2.npz")

    # What evaluation says of the same windows.
    run_config = restore.open_run(run, "best").config
    run_config.data.eval_stride_ticks = 1
    test = load_splits(config, run_config).by_name["test"]
    values = pipeline.assemble(test.store, test.windows, np.arange(len(test)))
    side_by_side = values["streams"]["current"]
    n = len(side_by_side)
    assert side_by_side.shape == (n, 8, LEADS * 2, 3)
    ordered = np.concatenate(
        [side_by_side[:, :, 2 * lead : 2 * lead + 2] for lead in range(LEADS)], axis=1
    )
    scores = np.concatenate([alarm(ordered[i : i + 8])[0] for i in range(0, n, 8)])
    # A window's last sample is the least lead before the end of its video.
    at_s = test.windows.time_s + 4.0 - LEAST_S
    known = np.isin(at_s, list(found))
    assert known[1:].all()
    expected = [found[t] for t in at_s[known].tolist()]
    np.testing.assert_allclose(expected, scores[known], atol=1e-6)


def test_the_search_for_the_lead_reads_single_ticks(run, folder):
    config = lead_config()
    config.checkpoint = str(run)
    config.most_lead_s = 20.0
    config.bootstrap_draws = config.null_draws = 5
    report, _ = lead_time.search(config, folder / "lead")
    assert report["trained_lead_s"] == (LEAST_S + MOST_S) / 2
