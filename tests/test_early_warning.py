"""A whole alarm from one tiny run: made, judged, exported, and run by the monitor."""

import csv
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from fmalign_jax import early_warning as command, evaluate, monitor, train
from fmalign_jax.alarm import (
    alarm_file,
    comparison,
    episodes,
    make,
    onnx_file,
    report as alarm_report,
    signature,
)
from fmalign_jax.alarm.model import AlarmModel
from fmalign_jax.alarm.rule import AlarmRule
from fmalign_jax.alarm.taught import TaughtScore
from fmalign_jax.config.commands import early_warning_config, evaluation_config
from fmalign_jax.data import pipeline
from fmalign_jax.data.dataset import window_spec
from fmalign_jax.evaluation import calibration, transfer
from fmalign_jax.evaluation.splits import load_splits
from fmalign_jax.run import restore
from fmalign_jax.training import sharding

pytestmark = pytest.mark.usefixtures("one_device")

LEAD_S = 4.0
NOTHING_FOUND = comparison.Method(
    {},
    {},
    AlarmRule(0.5, 0.4, 1, 1),
    {"validation": [episodes.Tally(0, (), (0,) * (episodes.UNJUDGED + 1), 1.0)]},
    {},
)
METHODS = {"model", "taught", "chance", "rolling_sd", "rolling_change", "cusum"}


@pytest.fixture(scope="module")
def run(folder):
    """A tiny run with a validation and a test split, the current read earlier."""
    tiny.write_recordings(folder / "raw", seed=86)
    config = tiny.tiny_config(folder)
    config.data.lead_s = LEAD_S
    config.data.split.validation_recordings = ("furnace_1",)
    config.data.split.test_recordings = ("furnace_2",)
    train.train(config, folder / "run")
    return folder / "run"


def _config(run, **changes):
    config = early_warning_config()
    config.checkpoint = str(run)
    config.oracle_epochs = 0
    config.bootstrap_draws = 20
    config.spread_s = LEAD_S
    config.min_spell_s = 2.0
    config.merge_gap_s = 1.0
    config.clear_after_s = 1.0
    config.raise_after_s = (0.0, 1.0)
    config.baseline_lengths_s = (8.0,)
    config.recent_s = (60.0,)  # cut to the window
    config.alarm = "model"
    config.rows = 8
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def whole(run):
    report, target = command.early_warning(_config(run, false_alarms_per_hour=100.0))
    return report, target, alarm_file.load(target / command.ALARM)


def test_it_writes_what_it_promises(run, whole):
    report, target, alarm = whole
    assert target == run / "early_warning"
    assert json.loads((target / "early_warning.json").read_text()) == report
    assert (target / "early_warning.png").stat().st_size > 10_000
    assert set(report["methods"]) == METHODS
    for name, method in report["methods"].items():
        for split, own in method["splits"].items():
            assert split in ("validation", "test")
            assert 0 <= own["detected"] <= own["spells"]
            assert 0 < own["vus_pr"] <= 1
            assert own["hours"] == pytest.approx(len(_test_rows(run)) / 3600, rel=0.1)
        if name != "chance":
            assert len(method["curve"]["test"]) == 50
    assert report["definition"]["lead_s"] == LEAD_S
    assert alarm.settings.channels == ("a", "b", "c")
    assert alarm.settings.sample_period_s == 0.5
    assert alarm.settings.window_shape == (8, 2, 3)
    low, middle, high = alarm.settings.until_visible_s
    assert low <= middle <= high
    assert alarm.settings.raise_at == report["methods"]["model"]["rule"]["raise_at"]


def _test_rows(run):
    config = _config(run)
    run_config = restore.open_run(run, "best").config
    run_config.data.eval_stride_ticks = 1
    return load_splits(config, run_config).by_name["test"]


def test_a_run_that_labels_shaped_says_so(run, monkeypatch):
    opened = restore.open_run(run, "best")
    config = transfer.with_features(_config(run), opened.config)
    splits = load_splits(config, make.with_a_window_a_tick(opened.config))

    def notes():
        return " ".join(alarm_report.notes(opened, splits, NOTHING_FOUND, config))

    assert "oracle" not in notes()
    monkeypatch.setattr(alarm_report, "label_level", lambda _: "L2")
    assert "(L2): compare this alarm with those of the oracle" in notes()
    assert "without labels" not in notes()


def test_the_program_scores_as_evaluate_does(run, whole):
    _, _, alarm = whole
    config = evaluation_config()
    config.checkpoint = str(run)
    config.oracle_epochs = 0
    config.random_encoders = 0
    config.bootstrap_draws = 0
    _, folder = evaluate.evaluate(config)
    with (folder / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    expected = np.array([float(row["video->current score"]) for row in rows])
    codes = [int(row["current codes"].split()[-1]) for row in rows]
    test = load_splits(config, restore.open_run(run, "best").config).by_name["test"]
    values = pipeline.assemble(test.store, test.windows, np.arange(len(test)))
    windows = values["streams"]["current"]
    found = [alarm(windows[i : i + 8]) for i in range(0, len(windows), 8)]
    score, code = (np.concatenate(parts) for parts in zip(*found, strict=True))
    np.testing.assert_allclose(score, expected, atol=1e-5)
    np.testing.assert_array_equal(code, codes)


def test_the_head_may_be_shown_the_end_of_the_window_alone(run, folder):
    config = _config(run, recent_s=(2.0, 60.0), baselines=False)
    config.head.pooling = "last"  # then it makes no difference, and the first is taken
    whole, _ = command.early_warning(config, folder / "last_whole")
    config.head.pooling = "mean"
    config.recent_s = (2.0,)
    report, target = command.early_warning(config, folder / "recent")
    assert whole["methods"]["model"]["settings"] == {"recent_s": 2.0}
    assert report["methods"]["model"]["settings"] == {"recent_s": 2.0}
    opened = restore.open_run(run, "best")
    config = transfer.with_features(config, opened.config)
    model = AlarmModel.fit(
        config,
        opened,
        restore.restore(opened, sharding.make_mesh()),
        load_splits(config, opened.config),
    )
    test = _test_rows(run)
    short, long = model.probabilities(test, [2, 8])
    assert np.abs(short - long).max() > 1e-3
    values = pipeline.assemble(test.store, test.windows, np.arange(8))
    score, _ = alarm_file.load(target / command.ALARM)(values["streams"]["current"])
    np.testing.assert_allclose(score, short[:8, 1], atol=1e-5)


def test_scores_are_calibrated_by_the_video_that_is_known(run, whole, folder):
    config = _config(
        run, calibrate="paired", baselines=False, false_alarms_per_hour=100.0
    )
    report, target = command.early_warning(config, folder / "calibrated")
    methods = report["methods"]
    assert set(methods) == {"model", "calibrated", "taught", "chance"}
    # What is exported is not calibrated.
    assert methods["model"]["rule"] == whole[0]["methods"]["model"]["rule"]
    alarm = alarm_file.load(target / command.ALARM)
    assert alarm.settings.raise_at == methods["model"]["rule"]["raise_at"]
    assert methods["calibrated"]["settings"]["calibrate"] == "paired"

    opened = restore.open_run(run, "best")
    config = transfer.with_features(config, opened.config)
    frozen = restore.restore(opened, sharding.make_mesh())
    splits = load_splits(config, make.with_a_window_a_tick(opened.config))
    model = AlarmModel.fit(config, opened, frozen, splits)
    test, spec = splits.by_name["test"], window_spec(opened.config.data, stride_ticks=1)
    scored = {
        name: comparison.scored(split, config, spec, splits.classes, 1)
        for name, split in splits.reported.items()
    }
    plain = make.model_scores(config, model, splits, scored, spec, 1)
    found = make.calibrated_scores(config, model, splits, scored, plain, LEAD_S, 1)
    ((_, before),), ((_, after),) = plain, found
    video, series = model.reference(test)[:, 1], scored["test"].series[0]
    expected = calibration.causal(
        np.stack([1 - before["test"][0], before["test"][0]], axis=1),
        np.stack([1 - video, video], axis=1),
        series.at_s,
        known_after_s=LEAD_S,
        stride=8,
    )
    np.testing.assert_allclose(after["test"][0], expected[:, 1], atol=1e-9)
    # The reference is what `evaluate` says of the video.
    evaluation = evaluation_config()
    evaluation.checkpoint = str(run)
    evaluation.oracle_epochs = evaluation.random_encoders = 0
    _, written = evaluate.evaluate(evaluation)
    with (written / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    score = {float(r["time_s"]): float(r["video->video score"]) for r in rows}
    at = np.isin(test.windows.time_s, list(score))
    said = [score[t] for t in test.windows.time_s[at].tolist()]
    np.testing.assert_allclose(video[at], said, atol=1e-4)


def test_the_monitor_says_what_the_windows_say(run, whole, folder):
    _, _, alarm = whole
    found = tiny.replayed(alarm, folder / "raw" / "furnace_2.npz")
    test = _test_rows(run)
    values = pipeline.assemble(test.store, test.windows, np.arange(len(test)))
    windows = values["streams"]["current"]
    # The centre of the video's window, half a window on, as the current was read.
    at_s = test.windows.time_s + 4.0 - LEAD_S
    scores = np.concatenate(
        [alarm(windows[i : i + 8])[0] for i in range(0, len(windows), 8)]
    )
    # Offline the first window may begin a little before the first sample.
    known = np.isin(at_s, list(found))
    assert known[1:].all()
    expected = [found[t] for t in at_s[known].tolist()]
    np.testing.assert_allclose(expected, scores[known], atol=1e-6)


def test_the_alarm_may_be_the_head_that_the_video_taught(run, whole, folder):
    config = _config(run, alarm="", baselines=False, false_alarms_per_hour=100.0)
    report, target = command.early_warning(config, folder / "taught")
    alarm = alarm_file.load(target / command.ALARM)
    assert report["alarm"] == "taught"
    rule = report["methods"]["taught"]["rule"]
    assert alarm.settings.raise_at == rule["raise_at"]
    assert rule == whole[0]["methods"]["taught"]["rule"]
    # What is exported says what was judged, and not what the model says.
    opened = restore.open_run(run, "best")
    config = transfer.with_features(config, opened.config)
    frozen = restore.restore(opened, sharding.make_mesh())
    splits = load_splits(config, make.with_a_window_a_tick(opened.config))
    model = AlarmModel.fit(config, opened, frozen, splits)
    spec = window_spec(opened.config.data, stride_ticks=1)
    taught = TaughtScore.learn(config, model, splits.head, spec, 1)
    test = splits.by_name["test"]
    values = pipeline.assemble(test.store, test.windows, np.arange(8))
    score, code = alarm(values["streams"]["current"])
    np.testing.assert_allclose(score, taught.probabilities(test)[:8], atol=1e-5)
    assert (code == alarm_file.NO_CODE).all()
    assert np.abs(score - whole[2](values["streams"]["current"])[0]).max() > 1e-3


def test_the_video_teaches_and_no_label_of_a_current(run, monkeypatch):
    opened = restore.open_run(run, "best")
    config = transfer.with_features(_config(run), opened.config)
    frozen = restore.restore(opened, sharding.make_mesh())
    splits = load_splits(config, make.with_a_window_a_tick(opened.config))
    model = AlarmModel.fit(config, opened, frozen, splits)
    spec = window_spec(opened.config.data, stride_ticks=1)
    # Labels do not reach it once the model is fitted.
    unlabelled = dataclasses.replace(
        splits.head, label=np.full_like(splits.head.label, -1)
    )
    plain = TaughtScore.learn(config, model, unlabelled, spec, 1)
    test = splits.by_name["test"]
    said = plain.probabilities(test)
    # It says the opposite when the video does.
    np.testing.assert_allclose(model.head_says, model.reference(splits.head), atol=1e-6)
    otherwise = dataclasses.replace(model, head_says=1 - model.head_says)
    opposite = TaughtScore.learn(config, otherwise, unlabelled, spec, 1)
    np.testing.assert_allclose(opposite.probabilities(test), 1 - said, atol=0.02)
    # Of a video that never changes nothing is learnt, and that is said.
    still = dataclasses.replace(model, head_says=0 * model.head_says)
    assert TaughtScore.learn(config, still, splits.head, spec, 1) is None
    monkeypatch.setattr(AlarmModel, "fit", lambda *_: still)
    taught = _config(run, alarm="taught", baselines=False)
    with pytest.raises(ValueError, match="the head finds one class in the video"):
        command.early_warning(taught)
    plain, _ = command.early_warning(_config(run, alarm="", baselines=False))
    assert plain["alarm"] == "model"


def test_the_alarm_knows_between_which_values_the_current_was(run, whole):
    splits = load_splits(
        _config(run), make.with_a_window_a_tick(restore.open_run(run, "best").config)
    )
    found = {}
    for name, split in splits.by_name.items():
        values = pipeline.assemble(split.store, split.windows, np.arange(len(split)))
        current = values["streams"]["current"].reshape(-1, 3)
        found[name] = np.stack([current.min(axis=0), current.max(axis=0)])
    low = np.minimum(found["head"][0], found["validation"][0])
    high = np.maximum(found["head"][1], found["validation"][1])
    # Each of the two splits says something, and the test split nothing.
    assert (low < found["head"][0]).any() or (high > found["head"][1]).any()
    assert (low > found["test"][0]).any() or (high < found["test"][1]).any()
    expected = tuple(zip(low.tolist(), high.tolist(), strict=True))
    assert whole[2].settings.value_range == expected


def _keys(folder):
    """Returns a private and the public key, as PEM files."""
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "plant.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            pem, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def test_the_alarm_is_signed_where_a_key_is_given(run, whole, tmp_path):
    private, public = _keys(tmp_path)
    _, target, alarm = whole
    path = target / command.ALARM
    beside = signature.path_of(path)
    assert not beside.exists()
    signed = _config(run, false_alarms_per_hour=100.0, signing_key=str(private))
    assert command.early_warning(signed)[1] == target
    assert beside.stat().st_size == 64
    content = signature.verify(path, public)
    assert alarm_file.load(path, content).settings == alarm.settings
    assert "signing_key" not in (target / "settings.json").read_text()
    # Made again without a key, it has no signature that is another's.
    plain = _config(run, false_alarms_per_hour=100.0)
    assert command.early_warning(plain)[1] == target
    assert not beside.exists()


@pytest.mark.parametrize("kind", ["model", "taught"])
def test_the_alarm_is_written_as_onnx_where_asked(
    run, folder, tmp_path, monkeypatch, kind
):
    scores = []

    def save(path, settings, score):  # what is converted; how: tests/test_onnx.py
        scores.append(score)
        path.write_text(settings.abnormal)

    monkeypatch.setattr(onnx_file, "converter", lambda: None)
    monkeypatch.setattr(onnx_file, "save", save)
    private, public = _keys(tmp_path)
    asked = {"alarm": kind, "baselines": False, "false_alarms_per_hour": 100.0}
    config = _config(run, **asked, onnx=True, signing_key=str(private))
    _, target = command.early_warning(config, folder / f"onnx_{kind}")
    path = target / command.ONNX
    assert signature.verify(path, public) == b"abnormal"
    windows = np.random.default_rng(0).normal(size=(8, 8, 2, 3)).astype(np.float32)
    expected = alarm_file.load(target / command.ALARM)(windows)
    for own, of_program in zip(scores[0](jnp.asarray(windows)), expected, strict=True):
        np.testing.assert_allclose(own, of_program, atol=1e-5)
    assert "onnx" not in json.loads((target / "settings.json").read_text())
    # Made again without, there is none that is another's.
    command.early_warning(_config(run, **asked), target)
    assert not path.exists()
    assert not signature.path_of(path).exists()


def test_a_run_is_exported_first(run, whole, folder, capsys):
    source = folder / "current.csv"
    with np.load(folder / "raw" / "furnace_2.npz") as raw:
        rows = np.column_stack([raw["sensor_t"], raw["sensor"]])
    np.savetxt(source, rows, delimiter=",", header="time,a,b,c", comments="")
    monitor.main(["--checkpoint", str(run), "--input", str(source)])
    assert len(capsys.readouterr().out.splitlines()) > 100


def test_a_tight_budget_holds_on_validation(run, folder):
    report, _ = command.early_warning(
        _config(run, false_alarms_per_hour=0.0, baselines=False), folder / "tight"
    )
    assert report["methods"]["model"]["splits"]["validation"]["false_alarms"] == 0
    assert any("no false alarm" in note for note in report["notes"])


@pytest.mark.parametrize("features", ["semantic"])
def test_other_features_are_exported_too(run, folder, features):
    config = _config(run, baselines=False, features=features, standardise="none")
    config.head.kind = "linear"
    config.head.steps = 20
    report, target = command.early_warning(config, folder / features)
    assert report["head"] == {"weight_decay": 1e-3}
    assert alarm_file.load(target / command.ALARM).settings.rows == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"standardise": "recording"}, "cannot wait"),
        ({"head.kind": "neighbours"}, "cannot be exported"),
        ({"abnormal": "purple"}, "must be one of the classes, normal, abnormal"),
        ({"alarm": "oracle"}, "alarm must be 'model' or 'taught'; got 'oracle'"),
        ({"source": "current", "target": "video"}, "an alarm watches a sensor; got"),
        ({"hysteresis": 1.0}, "hysteresis must lie in"),
        ({"levels": 1}, "levels must be at least 2"),
        ({"recent_s": (0.0, 30.0)}, "recent_s must hold one time or more"),
        ({"checkpoint": ""}, "needs a run"),
        ({"signing_key": "none.pem"}, "none.pem: must be the PEM file of an Ed25519"),
    ],
)
def test_what_cannot_work_is_refused(run, changes, message):
    config = _config(run)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        command.early_warning(config)


def test_the_second_class_is_warned_of_unless_it_is_called_normal(run, whole):
    config, opened = _config(run), restore.open_run(run, "best")
    splits = load_splits(config, make.with_a_window_a_tick(opened.config))
    assert splits.classes == ("normal", "abnormal")
    assert make.abnormal_class(config, splits) == 1
    assert not [note for note in whole[0]["notes"] if "warned of" in note]

    unsaid = dataclasses.replace(splits, classes=("molten", "semi-molten"))
    assert make.abnormal_class(config, unsaid) == 1
    (note,) = [
        note
        for note in alarm_report.notes(opened, unsaid, NOTHING_FOUND, config)
        if "warned of" in note
    ]
    assert note.startswith("warned of is 'semi-molten', the second of the classes")

    for wrong in (("abnormal", "normal"), ("\u5f02\u5e38", "\u6b63\u5e38")):
        turned = dataclasses.replace(splits, classes=wrong)
        with pytest.raises(ValueError, match=f"give --config.abnormal={wrong[0]}"):
            make.abnormal_class(config, turned)
        config.abnormal = wrong[0]
        assert make.abnormal_class(config, turned) == 0
        config.abnormal = ""


def test_an_oracle_stands_beside(run, folder):
    report, _ = command.early_warning(
        _config(run, oracle_epochs=1, baselines=False), folder / "oracle"
    )
    assert set(report["methods"]) == {"model", "taught", "chance", "oracle"}


def test_the_command_says_what_the_alarm_is_for(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "early warning"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.cli, "workdir", lambda: None)
    monkeypatch.setattr(command, "early_warning", lambda *_: ({}, folder))
    monkeypatch.setattr(command.alarm_report, "print_report", lambda *_: None)
    for checkpoint, page in ((tmp_path, True), (tmp_path / "a.fmrun", False)):
        command.main(_config(checkpoint))
        first, *rows = capsys.readouterr().out.splitlines()
        assert first == "What next"
        assert rows[0].split("  ")[1] == (
            "fmalign monitor --alarm 'early warning/alarm.fmalign' --input current.csv"
        )
        assert [row.split()[:2] for row in rows[1:]] == [["fmalign", "report"]] * page
