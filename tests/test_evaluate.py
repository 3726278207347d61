"""Whole evaluations of one tiny run, through the function behind the command."""

import csv
import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import labelled_recordings
import numpy as np
import pytest
import tiny
from changed_run import change_settings
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fmalign_jax import cli, evaluate as command, train
from fmalign_jax.config import default_config
from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.data import pipeline
from fmalign_jax.evaluation import (
    calibration,
    few_shot,
    files,
    prototype_heads,
    report as evaluation_report,
    supervised,
    transfer,
)
from fmalign_jax.evaluation.classification_metrics import METRICS
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.retrieval import galleries, measures, nearness, similarity
from fmalign_jax.evaluation.splits import load_splits
from fmalign_jax.evaluation.transfer import kinds_of_features
from fmalign_jax.run import integrity, outputs, restore
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.systems.cmg import Cmg
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import sharding
from fmalign_jax.training.preprocess import normalise
from fmalign_jax.training.state import make_trainer

pytestmark = pytest.mark.usefixtures("one_device")


class LabelledCmg(Cmg):
    """CMG that says it was trained with labels."""

    uses_labels = True


DIRECTIONS = ["video->current", "video->video", "current->current", "current->video"]


@pytest.fixture(scope="module")
def run(folder):
    """A tiny run with a validation and a test split."""
    workdir = folder / "run"
    tiny.write_recordings(folder / "raw", seed=86)  # each has windows of both classes
    config = tiny.tiny_config(folder)
    config.data.split.validation_recordings = ("furnace_1",)
    config.data.split.test_recordings = ("furnace_2",)
    state, _ = train.train(config, workdir)
    return workdir, jax.device_get(state)


def _config(run, **changes):
    config = evaluation_config()
    config.checkpoint = str(run[0])
    config.oracle_epochs = 0
    config.random_encoders = 0
    config.bootstrap_draws = 50
    config.head.steps = 40
    for key, value in changes.items():
        config[key] = value
    return config


@pytest.fixture(scope="module")
def whole(run):
    """An evaluation with all references, and what lay in the checkpoints before."""
    before = _snapshot(run[0] / "checkpoints")
    config = _config(run, oracle_epochs=2, random_encoders=2)
    report, target = command.evaluate(config)
    return config, report, target, before


@pytest.fixture(scope="module")
def oracle(run):
    """What an evaluation reports of an oracle that says abnormal of every third."""

    def train_none(*args, **options):
        return supervised.Oracle(_every_third, [0.9, 0.4, 0.6])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervised, "train", train_none)
        config = _config(run, oracle_epochs=3)
        opened = restore.open_run(run[0], "best")
        splits = load_splits(config, opened.config)
        frozen = restore.restore(opened, sharding.make_mesh())
        found = command.supervised_reference(
            opened.config, frozen, splits, HeadSpec(), config
        )
    return found, splits


def _every_third(split):
    abnormal = np.arange(len(split)) % 3 == 0
    return np.stack([~abnormal, abnormal], axis=1).astype(np.float64)


@pytest.fixture(scope="module")
def states(folder):
    """Labelled recordings of three classes, for head and test."""
    head = labelled_recordings.write(folder / "states_head", seed=1)
    test = labelled_recordings.write(folder / "states_test", seed=2, clips=True)
    return {"head_data": f"{head}/*.npz", "test_data": f"{test}/*.npz"}


def _snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def _rows(target):
    with (target / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _test_scores(target):
    rows = [row for row in _rows(target) if row["split"] == "test"]
    return {
        direction: np.array([float(row[f"{direction} score"]) for row in rows])
        for direction in DIRECTIONS
    }


def test_an_evaluation_writes_what_it_promises(run, whole):
    _, report, target, before = whole
    assert target == run[0] / "evaluation"
    written = json.loads((target / "eval.json").read_text())
    assert written == report
    assert list(report["zero_shot"]) == DIRECTIONS
    for scores in report["zero_shot"].values():
        for name in METRICS:
            value, interval = scores[name], scores["intervals"][name]
            assert value is None or isinstance(value, float)
            assert interval is None or interval[0] <= interval[1]
        assert scores["resampled"] == {"unit": "block", "units": 10}
        assert set(scores["splits"]) == {"validation", "test"}
        for name in METRICS:
            assert scores[name] == scores["splits"]["test"][name]
        assert "clips" not in scores
    for name in ("roc", "precision_recall", "confusion", "over_time_furnace_2"):
        assert (target / f"{name}.png").stat().st_size > 1000
    assert _snapshot(run[0] / "checkpoints") == before


def test_references_stand_beside_the_numbers(run, whole):
    _, report, _, _ = whole
    references = report["references"]
    assert references["chance"] == 0.5
    sizes = references["sizes"]
    assert set(sizes) == {"head", "validation", "test"}
    for split in sizes.values():
        assert split["recordings"] == 1
        assert sum(split["classes"].values()) == split["labelled"] == split["windows"]
    frequent = max(("normal", "abnormal"), key=sizes["head"]["classes"].get)
    majority = references["majority"]
    assert majority["class"] == frequent
    expected = sizes["test"]["classes"][frequent] / sizes["test"]["labelled"]
    assert majority["accuracy"] == expected
    assert majority["balanced_accuracy"] == 0.5
    assert list(references["random_encoders"]) == DIRECTIONS
    assert references["random_encoders"] != report["zero_shot"]
    reference = references["oracle"]
    losses = reference["held_out_loss"]
    assert reference["modality"] == "current"
    assert len(losses) == 2
    assert losses[reference["epoch"] - 1] == min(losses)
    for split in ("validation", "test"):
        described = report["splits"][split]
        assert described["setting"] == "inductive"
        assert described["seen_in_pretraining"] is False
    assert report["splits"]["head"]["seen_in_pretraining"] is True


def test_the_oracle_is_scored_on_the_splits_by_what_it_predicts(oracle):
    found, splits = oracle
    assert found["epoch"] == 2
    for name in ("validation", "test"):
        own = splits.by_name[name]
        predicted = _every_third(own).argmax(axis=1)
        expected = np.mean(predicted == own.label)
        assert 0 < expected < 1
        assert found["splits"][name]["accuracy"] == pytest.approx(expected)


def test_predictions_are_those_that_were_scored(whole):
    _, report, target, _ = whole
    rows = _rows(target)
    sizes = report["references"]["sizes"]
    assert len(rows) == sizes["validation"]["windows"] + sizes["test"]["windows"]
    test = [row for row in rows if row["split"] == "test"]
    assert {row["recording"] for row in test} == {"furnace_2"}
    times_s = [float(row["time_s"]) for row in test]
    assert times_s[0] == 4.0  # the middle of the first window of 8 s
    assert set(np.diff(times_s)) == {8.0}
    label = np.array([row["label"] for row in test])
    for direction in DIRECTIONS:
        predicted = np.array([row[f"{direction} prediction"] for row in test])
        score = np.array([float(row[f"{direction} score"]) for row in test])
        scores = report["zero_shot"][direction]
        assert scores["accuracy"] == pytest.approx((predicted == label).mean())
        assert scores["auroc"] == pytest.approx(
            roc_auc_score(label == "abnormal", score), abs=1e-6
        )
        assert ((score > 0.5) == (predicted == "abnormal")).all()
        assert scores["by_recording"]["furnace_2"] == {
            name: scores[name] for name in ("accuracy", "balanced_accuracy", "auroc")
        } | {"windows": len(test)}
    codes = [int(code) for row in rows for code in row["current codes"].split()]
    assert len(codes) == 8 * len(rows)
    assert 0 <= min(codes) <= max(codes) < 16


def test_target_scores_are_calibrated_by_the_source_where_asked_for(run, whole, capsys):
    report, target = command.evaluate(_config(run, calibrate="paired"))
    plain = whole[1]
    assert plain["calibration"] is None
    found = report["calibration"]
    across = plain["zero_shot"]["video->current"]
    assert found["uncalibrated"]["auroc"] == across["auroc"]
    before, after = (_test_scores(folder) for folder in (whole[2], target))
    for direction in DIRECTIONS[1:]:
        np.testing.assert_array_equal(before[direction], after[direction])
    video, current = (
        np.stack([1 - before[d], before[d]], axis=1)
        for d in ("video->video", "video->current")
    )
    expected = calibration.by_recording(current, video, np.zeros(len(video), int))
    np.testing.assert_allclose(after["video->current"], expected[:, 1], atol=1e-4)
    assert np.abs(after["video->current"] - before["video->current"]).max() > 1e-3
    gained = (
        report["zero_shot"]["video->current"]["balanced_accuracy"]
        - across["balanced_accuracy"]
    )
    assert found["gain"]["balanced_accuracy"] == pytest.approx(gained)
    files.print_report(report, target)
    printed = capsys.readouterr().out
    assert "not calibrated" in printed
    assert "calibrated by its own source" in printed


def test_the_same_numbers_twice_and_on_eight_devices(run, whole, tmp_path):
    config, _, target, _ = whole
    with tiny.visible_devices(8):
        _, again = command.evaluate(config, tmp_path / "again")
    for name in ("eval.json", "predictions.csv"):
        assert (again / name).read_bytes() == (target / name).read_bytes()
    here, there = (
        json.loads((at / "settings.json").read_text()) for at in (target, again)
    )
    opened = restore.open_run(run[0], "best")
    assert there == here | {"run": opened.digest}  # as outside the run's own folder


def test_encoders_are_those_of_the_run_without_dropout(run):
    workdir, state = run
    opened = restore.open_run(workdir, "latest")
    assert opened.step == int(state.step) == 8
    mesh = sharding.make_mesh()
    frozen = restore.restore(opened, mesh)
    trainer = make_trainer(tiny.tiny_config(), steps_per_epoch=1, steps=1)
    splits = load_splits(_config(run), opened.config)
    test = splits.by_name["test"]
    encoder = FrozenEncoder(opened.config, ("video", "current"), mesh)
    found = encoder(frozen, test.store, test.windows, keep_semantic=True)
    batch = pipeline.assemble(test.store, test.windows, np.arange(len(test)))
    features = trainer.model.apply(
        {"params": state.params["model"]},
        normalise(
            jax.tree.map(jnp.asarray, batch["streams"]),
            jax.tree.map(jnp.asarray, state.statistics),
        ),
        jax.tree.map(jnp.asarray, state.model_state),
        jnp.asarray(batch["mask"]),
        train=False,
    )
    for name in ("video", "current"):
        # One unit in the last place of the frames moves these vectors by up to 1e-4.
        np.testing.assert_allclose(
            found.semantic[name], features.semantic[name], rtol=1e-3, atol=1e-3
        )
        np.testing.assert_array_equal(found.codes[name], features.codes[name])
    codes_alone = encoder(frozen, test.store, test.windows, keep_semantic=False)
    np.testing.assert_array_equal(
        codes_alone.features("video", "codes"),
        np.asarray(features.code_vectors["video"]),
    )


def test_other_recordings_of_three_classes_in_clips(run, states, capsys):
    config = _config(run, **states, features="semantic", standardise="head")
    report, target = command.evaluate(config)
    assert re.fullmatch(r"evaluation-[0-9a-f]{8}", target.name)
    assert report["classes"] == ["cold", "warm", "hot"]
    assert report["references"]["chance"] == pytest.approx(1 / 3)
    assert report["references"]["oracle"] is None
    assert report["references"]["random_encoders"] is None
    scores = report["zero_shot"]["video->video"]
    assert scores["accuracy"] > 0.8  # the pattern of bright columns is the class
    assert scores["resampled"] == {"unit": "recording", "units": 2}
    clips = scores["clips"]
    assert clips["windows"] == 20
    assert clips == scores["splits"]["test"]["clips"]
    rows = _rows(target)
    assert {row["clip"] for row in rows} == {f"take {i}" for i in range(10)}
    shares = [float(rows[0][f"video->current score {c}"]) for c in report["classes"]]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert not list(target.glob("over_time*"))
    files.print_report(report, target)
    printed = capsys.readouterr().out
    assert "test: 20 labelled windows of 20, 2 recordings of" in printed
    assert "inductive" in printed
    assert re.search(r"video->current +test +0\.\d{3} \[", printed)
    assert str(target) in printed


@pytest.mark.parametrize("way", ["recording", "none"])
def test_features_are_standardised_as_asked_for(run, states, way):
    opened = restore.open_run(run[0], "best")
    config = _config(run, **states, standardise=way)
    config = transfer.with_features(config, opened.config)
    splits = load_splits(config, opened.config)
    mesh = sharding.make_mesh()
    encoder = FrozenEncoder(opened.config, ("video", "current"), mesh)
    encoded = transfer.encode(encoder, restore.restore(opened, mesh), splits, config)
    found = transfer.features_of(encoded, splits, config)
    for name, split in splits.by_name.items():
        for modality, values in found[name].items():
            plain = encoded[name].features(modality, config.features)
            if way == "none":
                np.testing.assert_array_equal(values, plain)
                continue
            for number in np.unique(split.windows.recording):
                rows = split.windows.recording == number
                own = plain[rows].astype(np.float64)
                expected = (own - own.mean((0, 1))) / (own.std((0, 1)) + 1e-6)
                np.testing.assert_allclose(values[rows], expected, atol=1e-3)


def test_shuffled_labels_give_chance(run, states):
    opened = restore.open_run(run[0], "best")
    config = _config(run, **states, features="semantic")
    config = transfer.with_features(config, opened.config)
    splits = load_splits(config, opened.config)
    mesh = sharding.make_mesh()
    encoder = FrozenEncoder(opened.config, ("video", "current"), mesh)
    encoded = transfer.encode(encoder, restore.restore(opened, mesh), splits, config)
    spec = HeadSpec(kind="neighbours", pooling="mean")

    def learnt(labels):
        head = dataclasses.replace(splits.head, label=labels)
        changed = dataclasses.replace(splits, by_name={**splits.by_name, "head": head})
        found, _ = transfer.transfer(encoded, changed, spec, config)
        scores = command.score_all(found, changed, config)
        return np.mean([scores[f"{m}->{m}"]["accuracy"] for m in ("video", "current")])

    rng = np.random.default_rng(0)
    shuffled = [learnt(rng.permutation(splits.head.label)) for _ in range(20)]
    assert np.mean(shuffled) == pytest.approx(1 / 3, abs=0.1)
    assert learnt(splits.head.label) > max(shuffled)


def test_recordings_without_labels_get_predictions_and_no_scores(
    run, states, folder, tmp_path
):
    silent = labelled_recordings.write(folder / "silent", seed=5, labelled=False)
    config = _config(run, head_data=states["head_data"], test_data=str(silent))
    config.head.kind = "prototypes"
    report, target = command.evaluate(config, tmp_path / "out")
    assert all(report["zero_shot"]["video->current"][name] is None for name in METRICS)
    assert any("no window has a label" in note for note in report["notes"])
    rows = _rows(target)
    assert len(rows) == 30
    assert {row["label"] for row in rows} == {""}
    assert {row["video->current prediction"] for row in rows} <= {"cold", "warm", "hot"}
    assert not (target / "roc.png").exists()
    assert (target / "over_time_seed5_0.png").exists()


def test_seen_recordings_are_reported_as_transductive(run, folder, tmp_path):
    test = folder / "seen"
    test.mkdir()
    with np.load(folder / "raw" / "furnace_0.npz") as file:
        np.savez(test / "another_name.npz", **file)
    head = labelled_recordings.write(
        folder / "plain", classes=("normal", "abnormal"), seed=4
    )
    config = _config(run, head_data=str(head), test_data=str(test))
    config.head.kind = "prototypes"
    report, _ = command.evaluate(config, tmp_path / "out")
    described = report["splits"]["test"]
    assert described["setting"] == "transductive"
    assert described["seen_recordings"] == {"another_name": "content"}
    assert any("pre-training saw another_name" in note for note in report["notes"])


# Steps and folders


def test_the_best_checkpoint_is_the_default(run, whole):
    _, report, _, _ = whole
    steps, best = restore.checkpoint_files.saved_steps(run[0] / "checkpoints")
    assert report["checkpoint"] == {"step": best, "chosen": "best"}
    assert restore.open_run(run[0], "latest").step == steps[-1]
    assert restore.open_run(run[0], str(steps[0])).step == steps[0]


def test_without_a_best_one_the_latest_is_taken_and_said(run, monkeypatch):
    monkeypatch.setattr(
        restore.checkpoint_files, "saved_steps", lambda directory: ([4, 8], None)
    )
    opened = restore.open_run(run[0], "best")
    assert (opened.step, opened.chosen) == (8, "latest")
    assert "no checkpoint has a validation score" in opened.note


def test_an_evaluation_never_takes_the_place_of_another(tmp_path):
    def choose(settings, workdir=None, run="run"):
        folder, known_by = outputs.choose_folder(
            tmp_path / run, workdir, settings, run_digest=run
        )
        assert known_by == settings | ({"run": run} if workdir == apart else {})
        return folder

    apart = tmp_path / "apart"

    one, two, three = ({"step": step} for step in (1, 2, 3))
    first = choose(one)
    assert first == tmp_path / "run" / "evaluation"
    _write(first, one)
    assert choose(one) == first
    second = choose(two)
    assert second != first
    _write(second, two)
    assert choose(two) == second
    assert choose(three) not in (first, second)
    assert choose(one, first) == first
    for taken in (first, tmp_path / "run"):
        with pytest.raises(ValueError, match="holds something else"):
            choose(three, taken)
    assert choose(one, apart) == apart
    _write(apart, one | {"run": "run"})
    assert choose(one, apart) == apart
    with pytest.raises(ValueError, match="holds something else"):
        choose(one, apart, "another")


def _write(folder, settings, content="{}"):
    with outputs.whole(folder, settings) as place:
        (place / "eval.json").write_text(content)


def _write_half(folder, settings):
    there = folder.exists()
    with outputs.whole(folder, settings) as place:
        (place / "eval.json").write_text("half")
        assert folder.exists() == there
        raise KeyboardInterrupt


def test_outputs_appear_whole_or_not_at_all(tmp_path):
    """One that was never finished would be taken for an evaluation, or an alarm."""
    folder, settings = tmp_path / "run" / "evaluation", {"step": 1}
    for before in (None, "old"):
        if before is not None:
            _write(folder, settings, before)
        with pytest.raises(KeyboardInterrupt):
            _write_half(folder, settings)
        found = {path.name for path in folder.parent.iterdir()}
        assert found == ({"evaluation"} if before else set())
    assert (folder / "eval.json").read_text() == "old"
    _write(folder, settings, "new")
    assert (folder / "eval.json").read_text() == "new"
    assert sorted(path.name for path in folder.iterdir()) == [
        "eval.json",
        "settings.json",
    ]


# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ""}, "needs a run; got none; give .* evaluate RUN"),
        (
            {"checkpoint": "nowhere"},
            "a run must be its folder.*nowhere, which is not there;",
        ),
        ({"step": "newest"}, "'best', 'latest' or the number.*'newest'; .* has"),
        ({"step": "5000"}, "got '5000'"),
        ({"target": "video"}, "two modalities; got 'video' for both"),
        ({"target": "sound"}, "sound"),
        ({"features": "raw"}, "empty, shared, codes, semantic; got 'raw'"),
        ({"calibrate": "few"}, "calibrate must be one of none, paired; got 'few'"),
        ({"random_encoders": -1}, "random_encoders must be 0 .none. or more; got -1"),
        ({"bootstrap_draws": -5}, "bootstrap_draws must be 0 .none. or more; got -5"),
        ({"standardise": "clip"}, "head, recording, none; got 'clip'"),
        ({"head_data": "here/*.npz"}, "neither test_data nor validation_data"),
        ({"test_data": "nowhere/*.npz"}, r"nowhere/\*\.npz"),
    ],
)
def test_mistakes_are_named(run, changes, message):
    with pytest.raises(ValueError, match=message):
        command.evaluate(_config(run, **changes))


@pytest.mark.parametrize(("random", "said"), [(1.0, True), (0.0, False)])
def test_it_says_where_untrained_encoders_are_as_good(run, whole, random, said):
    opened = restore.open_run(run[0], "best")
    splits = load_splits(_config(run), opened.config)
    report = json.loads(json.dumps(whole[1]))
    across = report["references"]["random_encoders"]["video->current"]
    across["balanced_accuracy"] = random
    found = evaluation_report.notes(report, opened, splits)
    assert said == any("that were not trained reach 1.000" in note for note in found)


@pytest.mark.parametrize(
    ("validation", "test", "said"),
    [
        ("others", "others", "(validation) again as 'furnace_0' of .*(test); leave"),
        ("others", "copies", "'furnace_0' .*(validation) again as 'copy' .*(test);"),
        ("raw", "others", "'furnace_0' of the run (head) again as .* (validation);"),
    ],
)
def test_no_recording_is_in_two_splits(run, folder, validation, test, said):
    """What chooses the level of an alarm, such as validation, is not tested on."""
    if not (folder / "others").exists():
        tiny.write_recordings(folder / "others", seed=5)
        (folder / "copies").mkdir()
        shutil.copy(folder / "others/furnace_0.npz", folder / "copies/copy.npz")
    config = _config(
        run,
        validation_data=str(folder / validation / "*.npz"),
        test_data=str(folder / test / "*.npz"),
    )
    pattern = said.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=pattern):
        load_splits(config, restore.open_run(run[0], "best").config)


def test_recordings_of_another_kind_are_refused(run, states, folder, tmp_path):
    wide = labelled_recordings.write(folder / "wide", seed=6, channels=4)
    config = _config(run, head_data=states["head_data"], test_data=str(wide))
    with pytest.raises(ValueError, match=r"channels of 'current' .*trained on, 3; got"):
        command.evaluate(config, tmp_path / "out")


def test_retrieval_is_said_of_every_kind_of_features_if_asked_for(run, whole, capsys):
    assert whole[1]["retrieval"] is None
    assert "retrieval" not in json.loads((whole[2] / "settings.json").read_text())
    report, folder = command.evaluate(_config(run, retrieval=True, features="codes"))
    found = report["retrieval"]
    opened = restore.open_run(run[0], "best")
    split = load_splits(_config(run), opened.config).by_name[report["headline_split"]]
    rows = dict(galleries(split.windows))
    assert found["recordings"] == len(rows) > 0
    assert list(found["features"]) == kinds_of_features(make_system(opened.config))
    # Asked for codes, the continuous features must have been encoded besides.
    encodings = opened.encoder(("video", "current"))(split.store, split.windows)
    z = encodings.semantic
    scores = [
        measures(similarity(z["current"][own], z["video"][own]))["normalised_rank"]
        for own in rows.values()
    ]
    back = found["features"]["semantic"]["current->video"]
    assert back["normalised_rank"] == pytest.approx(np.mean(scores), abs=1e-6)
    files.print_report(report, folder)
    assert "retrieval, " in capsys.readouterr().out


def test_heads_read_the_channels_that_are_kept(run, whole, capsys):
    assert whole[1]["channels"] is None
    assert "channels" not in json.loads((whole[2] / "settings.json").read_text())
    changes = {"features": "codes", "random_encoders": 1, "retrieval": True}
    config = _config(run, **changes)
    plain, _ = command.evaluate(config)
    config.channels.update({"kind": "toc", "keep": (3,)})
    report, folder = command.evaluate(config)
    found = report["channels"]

    opened = restore.open_run(run[0], "best")
    head = load_splits(_config(run), opened.config).head
    encodings = opened.encoder(("video", "current"))(head.store, head.windows)
    used = np.unique([encodings.codes["video"], encodings.codes["current"]])
    vectors = encodings.vectors[used].astype(np.float64)
    mean, variance = vectors.mean(axis=0), vectors.var(axis=0, ddof=1)
    useful = -0.7 * mean**2 + (0.3 + 0.7 / len(used)) * variance
    assert found["kept"] == sorted(np.argsort(useful)[-3:])
    assert (found["channels"], found["used_codes"]) == (16, len(used))
    assert set(found["rows"]) == {"all", "toc", "random", "variance", "worst", "pca"}
    for direction in DIRECTIONS:
        toc, every = (found["rows"][kind][direction] for kind in ("toc", "all"))
        assert toc["auroc"] == report["zero_shot"][direction]["auroc"]
        assert every["auroc"] == plain["zero_shot"][direction]["auroc"]
        assert toc["auroc"] != every["auroc"]
    for name in ("zero_shot", "retrieval"):
        assert report[name] != plain[name]
    drawn = (r["references"]["random_encoders"] for r in (report, plain))
    assert next(drawn) != next(drawn)
    assert report["code_sharing"] == plain["code_sharing"]
    files.print_report(report, folder)
    assert "3 of 16 channels" in capsys.readouterr().out


def test_the_few_shot_curve_is_said_if_asked_for(run, whole, capsys, monkeypatch):
    monkeypatch.setattr(few_shot, "DRAWS", 2)
    monkeypatch.setattr(few_shot, "NUMBERS", (1, 5))
    monkeypatch.setattr(prototype_heads, "EPISODES", 5)
    assert whole[1]["few_shot"] is None
    settings = json.loads((whole[2] / "settings.json").read_text())
    assert "few_shot" not in settings
    assert "per" not in settings["head"]
    config = _config(run, few_shot=True, features="codes")
    config.channels.update({"kind": "toc", "keep": (3,)})
    config.head.per = "recording"
    report, folder = command.evaluate(config)
    curves = report["few_shot"]["heads"]
    assert list(curves) == ["prototypes", "per_recording", "episodic", "logistic"]
    for own in curves.values():
        assert list(own) == ["video->current", "current->current"]
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["few_shot"]
    assert settings["head"]["per"] == "recording"
    files.print_report(report, folder)
    assert "labelled windows a class" in capsys.readouterr().out
    # Heads of few windows see the same channels as that of all.
    config.channels.kind = "all"
    every, _ = command.evaluate(config)
    assert every["few_shot"]["heads"]["logistic"] != curves["logistic"]


def test_spells_are_located_if_asked_for(run, whole, capsys):
    assert whole[1]["localisation"] is None
    settings = json.loads((whole[2] / "settings.json").read_text())
    assert "localisation" not in settings
    config = _config(run, localisation=True, features="codes")
    report, folder = command.evaluate(config)
    assert json.loads((folder / "settings.json").read_text())["localisation"]
    found = report["localisation"]
    assert list(found["directions"]) == DIRECTIONS
    rules = ["rolling_sd", "rolling_change", "cusum"]
    assert list(found["references"]) == ["always_abnormal", *rules]
    assert found["references"]["always_abnormal"]["balanced_accuracy"] == 0.5
    assert list(found["rules"]) == rules

    # By hand: windows as close as those of training, head windows that do not overlap.
    opened = restore.open_run(run[0], "best")
    closer = opened.config.copy_and_resolve_references()
    closer.data.eval_stride_ticks = 4
    split = load_splits(config, closer).by_name["test"]
    head = load_splits(config, opened.config).head
    encode = opened.encoder(("video", "current"))
    of_head, of_test = (encode(s.store, s.windows) for s in (head, split))
    x = of_head.features("video", "codes")
    apart = x[::2].reshape(-1, 16)
    label = head.windows.label(np.arange(0, len(head), 2)).ravel()
    model = LogisticRegression(C=1 / (0.2 * len(apart)), max_iter=2000)
    model.fit((apart - x.mean((0, 1))) / (x.std((0, 1)) + 1e-6), label)
    z, y = of_head.features("current", "codes"), of_test.features("current", "codes")
    values = (y - z.mean((0, 1))) / (z.std((0, 1)) + 1e-6)
    places = split.windows.rows(np.arange(len(split)))
    score = []
    for tick in np.unique(places):
        away = np.where(places == tick, np.abs(np.arange(8) - 3.5), np.inf)
        row, place = np.unravel_index(away.argmin(), away.shape)
        score.append(model.predict_proba(values[row, place][None])[0, 1])
    around = np.convolve(np.pad(score, 2), np.ones(5), "valid")
    around /= np.convolve(np.pad(np.ones(len(score)), 2), np.ones(5), "valid")
    said, true = around >= 0.5, split.windows.ticks.label[np.unique(places)] == 1
    expected = (said[true].mean() + (~said[~true]).mean()) / 2
    forth = found["directions"]["video->current"]
    assert forth["balanced_accuracy"] == pytest.approx(expected)
    files.print_report(report, folder)
    assert "current->current, tick oracle" in capsys.readouterr().out
    config.channels.update({"kind": "toc", "keep": (3,)})
    few, _ = command.evaluate(config)
    assert few["localisation"]["directions"] != found["directions"]


def test_classes_may_be_unknown_to_the_head(run, whole, states, capsys):
    settings = json.loads((whole[2] / "settings.json").read_text())
    assert "open_set" not in settings
    config = _config(run, features="codes", **states)
    plain, _ = command.evaluate(config)
    assert plain["open_set"] is None
    config.open_set.known = 2
    report, folder = command.evaluate(config)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["open_set"] == {"known": 2}
    found = report["open_set"]
    assert set(found["known"]) < {"cold", "warm", "hot"}
    assert list(found["directions"]) == DIRECTIONS
    assert report["zero_shot"] == plain["zero_shot"]
    files.print_report(report, folder)
    assert "2 known classes" in capsys.readouterr().out
    config.channels.update({"kind": "toc", "keep": (3,)})
    few, _ = command.evaluate(config)
    assert few["open_set"]["directions"] != found["directions"]
    config.localisation = True
    with pytest.raises(ValueError, match=r"two classes.*; got 3: cold, warm, hot;"):
        command.evaluate(config)


def test_a_head_of_the_run_may_be_tested_on_other_furnaces(run, whole, folder):
    other = folder / "other"
    tiny.write_recordings(other, seed=7, recordings=2)
    for path in other.glob("*.npz"):
        path.rename(other / f"hard_{path.stem}.npz")
    config = _config(run, test_data=str(other))
    report, _ = command.evaluate(config)
    splits = report["splits"]
    assert splits["head"] == whole[1]["splits"]["head"]
    assert splits["head"]["origin"] == "the run"
    assert splits["test"]["recordings"] == ["hard_furnace_0", "hard_furnace_1"]
    assert splits["test"]["setting"] == "inductive"
    # Encoders and head are as they were: validation, of the run, has the same scores.
    for direction, own in whole[1]["zero_shot"].items():
        again = report["zero_shot"][direction]["splits"]
        assert again["validation"] == own["splits"]["validation"]
        assert again["test"] != own["splits"]["test"]


def test_channels_are_chosen_of_code_vectors_alone(run):
    config = _config(run, features="semantic")
    config.channels.kind = "toc"
    with pytest.raises(ValueError, match=r"got features=semantic; add --config\.feat"):
        command.evaluate(config)


def test_retrieval_asks_a_system_how_similar_windows_are(run, monkeypatch):
    monkeypatch.setattr(
        Cmg, "similarity", lambda _, first, second: nearness(first, second), False
    )
    report, _ = command.evaluate(_config(run, retrieval=True, seed=1))
    opened = restore.open_run(run[0], "best")
    split = load_splits(_config(run), opened.config).by_name[report["headline_split"]]
    z = opened.encoder(("video", "current"))(split.store, split.windows).semantic
    scores = [
        measures(nearness(z["video"][own], z["current"][own]))["normalised_rank"]
        for _, own in galleries(split.windows)
    ]
    found = report["retrieval"]["features"]["semantic"]["video->current"]
    assert found["normalised_rank"] == pytest.approx(np.mean(scores), abs=1e-6)


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run[0], copy, ignore=shutil.ignore_patterns("evaluation*"))
    opened = restore.open_run(copy, "latest")
    # As if an array had changed on disk: it no longer has the digest it was saved with.
    file = opened.checkpoints / str(opened.step) / "digest" / "metadata"
    digest = integrity.unsealed(json.loads(file.read_text()))
    name = next(key for key in digest["model"] if "kernel" in key)
    digest["model"][name] = digest["model"][name][:-8] + "0" * 8
    file.write_text(json.dumps(integrity.sealed(digest)))
    with pytest.raises(
        ValueError, match=r"checkpoint 8 of .*1 of item 'model'.*choose another"
    ):
        restore.restore(opened, sharding.make_mesh())


@pytest.mark.parametrize("added", [False, True])
def test_changed_raw_files_are_noted_and_new_dates_are_not(
    run, folder, tmp_path, added
):
    copy = tmp_path / "raw"
    copy.mkdir()
    workdir = tmp_path / "run"
    shutil.copytree(run[0], workdir, ignore=shutil.ignore_patterns("evaluation*"))
    for file in (folder / "raw").glob("*.npz"):
        shutil.copyfile(file, copy / file.name)
    if added:
        shutil.copyfile(copy / "furnace_0.npz", copy / "furnace_9.npz")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["path"] = str(copy / "*.npz")
    (workdir / "config.json").write_text(json.dumps(config))
    changed = _config((workdir,))
    changed.head.kind = "prototypes"
    report, _ = command.evaluate(changed)
    found = any("have changed since it was trained" in n for n in report["notes"])
    assert found == added


def test_a_system_that_uses_labels_is_not_called_zero_shot(
    run, whole, folder, monkeypatch, capsys
):
    assert whole[1]["labels"] == "L0"
    assert not any("not zero-shot" in note for note in whole[1]["notes"])
    labelled = folder / "labelled"
    shutil.copytree(run[0], labelled, ignore=shutil.ignore_patterns("evaluation*"))
    name = f"{__name__}.LabelledCmg"
    change_settings(labelled, lambda settings: settings["model"].update(name=name))
    with pytest.raises(
        ValueError, match=r"model\.name must name a class of fmalign_jax"
    ):
        command.evaluate(_config((labelled,)))
    monkeypatch.setenv(cli.TRUST_CODE, __name__)
    report, place = command.evaluate(_config((labelled,)))
    assert any("its numbers are not zero-shot" in note for note in report["notes"])
    assert report["labels"] == "L2"
    assert "zero_shot" not in report
    assert list(report["supervised_representation"]) == DIRECTIONS
    files.print_report(report, place)
    assert "not zero-shot, labels L2" in capsys.readouterr().out


REPORT = {
    "source": "video",
    "target": "current",
    "classes": ["normal", "abnormal"],
    "splits": {"head": {}, "validation": {}},
}


def _next(tmp_path, evaluation="evaluation", name="", clips=False, **changes):
    config = default_config()
    config.data.windows = "clip" if clips else "sliding"
    run = restore.OpenedRun(tmp_path / name, config, 1, "best")
    rows = command.next_commands(REPORT | changes, tmp_path / evaluation, run)
    return [row[0].replace(str(tmp_path), "RUN") for row in rows]


def test_what_may_come_next_is_what_the_run_can_do(tmp_path):
    warn, page = "fmalign warn RUN", "fmalign report RUN"
    assert _next(tmp_path) == [warn, page]
    assert _next(tmp_path, target="wrist") == [f"{warn} --target=wrist", page]
    assert _next(tmp_path, evaluation="other") == [
        *(warn, f"{page} --evaluation RUN/other")
    ]
    assert _next(tmp_path, name="a.fmrun") == [f"{warn}/a.fmrun"]
    for changes in (
        {"clips": True},
        {"target": "video", "source": "current"},
        {"target": "fused", "source": "fused"},
        {"splits": {"head": {}, "test": {}}},
        {"classes": ["a", "b", "c"]},
    ):
        assert _next(tmp_path, **changes) == [page], changes


def test_only_the_command_says_what_comes_next(tmp_path, monkeypatch, capsys):
    opened = restore.OpenedRun(tmp_path, default_config(), 1, "best")
    monkeypatch.setattr(command.cli, "workdir", lambda: None)
    monkeypatch.setattr(command, "evaluate", lambda *_: (REPORT, tmp_path / "new"))
    monkeypatch.setattr(command.files, "print_report", lambda *_: print("a table"))
    monkeypatch.setattr(command.restore, "open_run", lambda *_: opened)
    command.main(evaluation_config())
    heads = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert heads[:2] == ["a table", "What next"]
