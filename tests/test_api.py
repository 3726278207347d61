"""The public interface: what it returns is what the commands return."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import sklearn.base
import tiny
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import fmalign_jax as fm
from fmalign_jax import __main__ as word, api, monitor, report, train
from fmalign_jax.alarm import signature
from fmalign_jax.alarm.live import Reading
from fmalign_jax.data import dataset, pipeline
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.evaluation import files as evaluation_files
from fmalign_jax.run import open_run, restore

pytestmark = pytest.mark.usefixtures("one_device")

LEAD_S = 4.0
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "api.md"


@pytest.fixture(scope="module")
def run(folder):
    """A tiny run with validation and test recordings, the current read earlier."""
    tiny.write_recordings(folder / "raw", seed=86)
    config = tiny.tiny_config(folder)
    config.update_from_flattened_dict(tiny.LIGHT)
    config.data.lead_s = LEAD_S
    config.data.split.validation_recordings = ("furnace_1",)
    config.data.split.test_recordings = ("furnace_2",)
    train.train(config, folder / "run")
    return fm.load(folder / "run")


@pytest.fixture(scope="module")
def raw(folder):
    with np.load(folder / "raw" / "furnace_2.npz") as arrays:
        return dict(arrays)


def _signals(raw):
    return {
        "video": (raw["frames"], raw["frame_t"]),
        "current": (raw["sensor"], raw["sensor_t"]),
    }


def test_importing_it_imports_nothing_of_weight():
    asked = (
        "import sys, fmalign_jax as fm; fm.__version__; dir(fm); print(*sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    )
    assert not {"jax", "flax", "numpy", "tensorflow_datasets"} & set(
        found.stdout.split()
    )


def test_every_public_name_is_there_and_documented():
    assert fm.__all__ == api.__all__
    text = PAGE.read_text(encoding="utf-8")
    for name in fm.__all__:
        if name != "train":  # the module of the command, which is called as it
            assert getattr(fm, name) is getattr(api, name)
        assert f"`fm.{name}" in text, name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fm.no_such_name


def test_a_split_is_encoded_as_from_the_run(run):
    found = run.encode(split="test")
    opened = open_run(run.path)
    store, windows = opened.split("test")
    expected = opened.encoder(["video", "current"])(store, windows)
    for modality in run.modalities:
        np.testing.assert_array_equal(
            found.features[modality], expected.semantic[modality]
        )
        np.testing.assert_array_equal(found.codes[modality], expected.codes[modality])
    assert found.recording == ("furnace_2",) * len(windows)
    np.testing.assert_array_equal(found.label, windows.label(np.arange(len(windows))))
    assert found.label_names == ("normal", "abnormal")
    assert len(found) == len(windows)


def test_files_and_arrays_give_the_same(run, folder, raw):
    of_files = run.encode(folder / "raw" / "furnace_2.npz")
    of_arrays = run.encode(**_signals(raw))
    of_split = run.encode(split="test")
    np.testing.assert_array_equal(of_files.time_s, of_split.time_s)
    np.testing.assert_array_equal(of_arrays.time_s, of_split.time_s)
    for modality in run.modalities:
        for found in (of_files, of_arrays):
            np.testing.assert_array_equal(
                found.features[modality], of_split.features[modality]
            )


def test_one_modality_alone_lies_on_its_own_clock(run, raw):
    current = (raw["sensor"], raw["sensor_t"])
    alone, every = (
        run.encode(current=current),
        run.encode(current=current, stride_ticks=1),
    )
    assert set(alone.features) == {"current"}
    np.testing.assert_array_equal(
        every.features["current"][::8], alone.features["current"]
    )
    both = run.encode(**_signals(raw))
    # The current of a window of both is read LEAD_S before its time.
    at = dict(zip(np.round(every.time_s, 3), range(len(every)), strict=True))
    moments = np.round(both.time_s - LEAD_S, 3)
    there = [moment in at for moment in moments]  # but one that begins before the rows
    assert np.sum(there) >= len(both) - 1
    np.testing.assert_array_equal(
        every.features["current"][[at[moment] for moment in moments[there]]],
        both.features["current"][there],
    )


def test_windows_cut_by_hand_are_encoded_as_those_of_the_recordings(run):
    opened = open_run(run.path)
    store, windows = opened.split("test")
    cut = pipeline.assemble(store, windows, np.arange(len(windows)))["streams"]
    whole = run.encode(split="test")
    for modality, values in cut.items():
        n, ticks, samples, *rest = values.shape
        by_hand = run.encode_windows(
            modality, values.reshape(n, ticks * samples, *rest)
        )
        np.testing.assert_array_equal(
            by_hand.semantic[modality], whole.features[modality]
        )
    flat = cut["current"].reshape(n, -1)
    np.testing.assert_array_equal(
        run.encode_windows("current", flat).semantic["current"],
        whole.features["current"],
    )


@pytest.fixture(scope="module")
def file(run, folder):
    """The run as one file."""
    return run.export(folder / "packed.fmrun", licence="CC0")


def test_a_packed_run_encodes_as_its_folder_bit_for_bit(run, file):
    found = fm.load(file)
    assert (found.path, found.step) == (file, run.step)
    assert found.config == run.config
    assert (run.card, run.digest) == (None, None)
    assert f"`{found.digest}`" in found.card
    assert "CC0" in found.card
    packed, whole = found.encode(split="test"), run.encode(split="test")
    for modality in run.modalities:
        for part in ("features", "codes"):
            np.testing.assert_array_equal(
                getattr(packed, part)[modality], getattr(whole, part)[modality]
            )
    np.testing.assert_array_equal(packed.code_vectors, whole.code_vectors)
    with pytest.raises(ValueError, match="which is packed; copy the file"):
        found.export(file.with_name("again.fmrun"))


def test_a_packed_run_knows_what_it_was_trained_on(file):
    opened = open_run(file)
    store, windows = opened.split("train")
    assert restore.confirm_training_windows(opened, store, windows)
    _, others = opened.split("test")
    assert not restore.confirm_training_windows(opened, store, others)
    assert opened.folder == file.with_suffix("")


SHORT = {"oracle_epochs": 0, "random_encoders": 0, "bootstrap_draws": 20}


def test_a_packed_run_is_evaluated_as_its_folder(run, file, tmp_path):
    packed = fm.load(file).evaluate(**SHORT)
    assert packed.folder == file.with_suffix("") / "evaluation"
    whole = run.evaluate(tmp_path / "evaluation", **SHORT)
    assert packed.report["zero_shot"] == whole.report["zero_shot"]


def test_the_lead_of_a_packed_run_is_that_of_its_folder(run, file, folder, tmp_path):
    settings = {
        **{"least_lead_s": -10.0, "most_lead_s": 10.0, "stride_ticks": 2},
        **{"bootstrap_draws": 20, "null_draws": 20},
        "recordings": str(folder / "raw" / "*.npz"),
    }
    packed = fm.load(file).lead(**settings)
    assert packed.folder == file.with_suffix("") / "lead_time"
    whole = run.lead(tmp_path / "lead", **settings)
    assert packed.report["indicators"] == whole.report["indicators"]


def test_the_monitor_makes_the_alarm_of_a_packed_run(file, raw, tmp_path, capsys):
    current = tmp_path / "current.csv"
    rows = np.column_stack([raw["sensor_t"], raw["sensor"]]).tolist()
    current.write_text("\n".join(",".join(map(repr, row)) for row in rows))
    monitor.main(["--checkpoint", str(file), "--input", str(current)])
    made = file.with_suffix("") / "early_warning" / "alarm.fmalign"
    assert len(fm.load_alarm(made).watch(current).readings) > 50
    assert "ticks scored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (
            lambda file: monitor.main(["--alarm", str(file), "--input", "-"]),
            "must be an exported alarm.* got the packed run .*--checkpoint ",
        ),
        (
            lambda file: word.main(["train", str(file)]),
            "a config or study must be a Python file; got .*packed.fmrun",
        ),
    ],
)
def test_a_packed_run_in_the_wrong_place_is_one_line(file, capsys, ask, told):
    with pytest.raises(SystemExit) as ended:
        ask(file)
    assert ended.value.code == 2
    assert re.match(f"error: .*{told}.*\n$", capsys.readouterr().err)


def test_the_report_of_a_packed_run_says_what_it_needs(file):
    with pytest.raises(ValueError, match=r"curves.* packed from\. .*packed.fmrun'\).c"):
        report.report(file)
    assert not list(file.parent.glob("**/report.html"))


def _cut(raw, rows=slice(None), channels=slice(None)):
    return raw["sensor"][rows, channels], raw["sensor_t"][rows]


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda run, raw: run.encode(), "got 0 of them"),
        (lambda run, raw: run.encode("x", split="test"), "got 2 of them"),
        (lambda run, raw: run.encode(split="holiday"), "'holiday'"),
        (lambda run, raw: run.encode(split="test", stride_ticks=1), "stride_ticks"),
        (lambda run, raw: run.encode("no/*.npz"), "no/"),
        (lambda run, raw: run.encode(sound=_cut(raw)), "sound"),
        (lambda run, raw: run.encode(current=raw["sensor"]), "pair of values"),
        (lambda run, raw: run.encode(current=(raw["sensor"], [0.0])), "one time"),
        (lambda run, raw: run.encode(current=_cut(raw, channels=[0, 1])), "channels"),
        (lambda run, raw: run.encode(current=_cut(raw, slice(9))), "window"),
        (lambda run, raw: run.encode(current=_cut(raw, slice(None, None, -1))), "time"),
        (lambda run, raw: run.encode_windows("sound", raw["sensor"]), "sound"),
        (lambda run, raw: run.encode_windows("current", raw["sensor"]), r"\[N, 16,"),
        (lambda run, raw: run.encode_windows("current", np.zeros((0, 16, 3))), "least"),
        (lambda run, raw: run.evaluate(head={"kinds": "linear"}), "kinds"),
        (lambda run, raw: run.evaluate(feature="semantic"), "feature"),
        (lambda run, raw: run.evaluate(checkpoint="other"), "load"),
        (lambda run, raw: run.lead(most_lead_s="far"), "far"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(run, raw, ask, told):
    with pytest.raises(ValueError, match=told):
        ask(run, raw)


def _encoded(**changes):
    parts = {
        "features": {"video": np.zeros((3, 2, 4)), "current": np.zeros((3, 2, 4))},
        "codes": {
            "video": np.array([[0, 1], [1, 1], [1, 0]]),
            "current": np.array([[0, 7], [7, 7], [0, 0]]),
        },
        "code_vectors": np.zeros((9, 4)),
        "shared_codes": {},
        "variates": {},
        "time_s": np.arange(3.0),
        "recording": ("a", "a", "b"),
        "label": np.zeros((3, 2), int),
        "label_names": (),
    }
    return fm.Encoded(**(parts | changes))


def test_what_a_notebook_shows_of_a_result_is_one_short_line(tmp_path):
    assert repr(_encoded()) == (
        "<Encoded 3 windows of 2 ticks, 2 recordings, video and current, "
        "3 of 9 codes used>"
    )
    assert repr(_encoded(codes={}, code_vectors=None)).endswith("current>")
    across = {"video->current": {"balanced_accuracy": 0.8125}}
    report = {"source": "video", "target": "current", "headline_split": "test"}
    report |= {"labels": "L0", "zero_shot": across}
    assert repr(fm.Evaluation(report, pathlib.Path("e"))) == (
        "<Evaluation e, video->current balanced accuracy 0.812 on test>"
    )
    across["video->current"]["balanced_accuracy"] = None
    assert "accuracy - on test" in repr(fm.Evaluation(report, tmp_path))
    found = {"estimate_s": 240.0, "interval_s": [201.25, 280.0], "verdict": "found"}
    assert repr(fm.Lead(found, pathlib.Path("l"))) == "<Lead l, 240 s [201.2, 280]>"
    found |= {"estimate_s": None, "verdict": "no lead was found"}
    assert repr(fm.Lead(found, pathlib.Path("l"))) == "<Lead l, no lead was found>"
    readings = tuple(
        Reading(float(2 * n), 0.5, None, n > 3, False, None) for n in range(6)
    )
    assert repr(fm.Readings(readings)) == "<Readings 6 ticks, 0 to 10 s, alarm on in 2>"
    assert repr(fm.Readings(())) == "<Readings none>"
    kept = pathlib.Path(__file__).parent / "data" / "alarms" / "0.1.0-model.fmalign"
    alarm = fm.load_alarm(kept)
    said = f"<Alarm {kept}, 'abnormal' by a, b, c"
    assert repr(alarm) == f"{said}>"
    own = {"splits": {"test": {"detected": 3, "spells": 4}}}
    judged = {"headline_split": "test", "alarm": "model", "methods": {"model": own}}
    judged = fm.Alarm(kept, judged, alarm.exported)
    assert repr(judged) == f"{said}, 3 of 4 detected on test>"


def test_a_table_and_a_picture_of_codes(run, tmp_path):
    found = run.encode(split="test")
    table = found.to_frame()
    assert list(table["recording"]) == list(found.recording)
    np.testing.assert_array_equal(table["time_s"], found.time_s)
    counts = [np.bincount(row[row >= 0], minlength=2) for row in found.label]
    expected = [found.label_names[int(n[1] >= n[0])] for n in counts]
    assert list(table["label"]) == expected
    np.testing.assert_array_equal(table["current_code_3"], found.codes["current"][:, 3])
    figure = found.plot("furnace_2")
    assert [axes.get_ylabel() for axes in figure.axes] == [
        *(f"{modality}\ncode" for modality in run.modalities),
        "label",
    ]
    drawn = np.concatenate([line.get_ydata() for line in figure.axes[0].lines])
    assert sorted(drawn) == sorted(found.codes["current"].ravel())
    figure.savefig(tmp_path / "codes.png")
    with pytest.raises(ValueError, match="furnace_9"):
        found.plot("furnace_9")
    assert set(found.to_dict()) >= {"features", "codes", "time_s", "recording"}


def test_an_evaluation_is_that_of_the_command(run, tmp_path, capsys):
    found = run.evaluate(
        tmp_path / "evaluation",
        oracle_epochs=0,
        random_encoders=0,
        bootstrap_draws=20,
        head={"kind": "linear", "steps": 20},
    )
    assert found.folder == tmp_path / "evaluation"
    assert f"balanced accuracy {found.transfer:.3f} on test" in repr(found)
    assert json.loads((found.folder / "eval.json").read_text()) == found.to_dict()
    assert "weight_decay" in found.to_dict()["head"]["video"]
    across = found.report["zero_shot"]["video->current"]
    assert found.transfer == across["balanced_accuracy"]
    table = found.to_frame()
    row = table[(table["what"] == "video->current") & (table["split"] == "test")]
    assert row["accuracy"].item() == across["accuracy"]
    assert set(table["what"]) >= {"chance", "majority", "current->video"}
    evaluation_files.print_report(found.report, found.folder)
    printed = capsys.readouterr().out
    for what, accuracy in zip(table["what"], table["accuracy"], strict=True):
        assert re.search(rf"{re.escape(what)} .* {accuracy:.3f} ", printed)
    bars = [bar.get_width() for bar in found.plot().axes[0].patches]
    assert found.transfer in bars


def test_a_lead_is_that_of_the_command(run, folder, tmp_path):
    found = run.lead(
        tmp_path / "lead",
        least_lead_s=-10.0,
        most_lead_s=10.0,
        bootstrap_draws=20,
        null_draws=20,
        stride_ticks=2,
        recordings=str(folder / "raw" / "*.npz"),
    )
    report = json.loads((found.folder / "lead_time.json").read_text())
    assert report == found.to_dict()
    assert found.verdict == report["verdict"]
    assert found.lead_s == report["estimate_s"]
    wanted = None if found.lead_s is None else tuple(report["interval_s"])
    assert found.interval_s == wanted
    table = found.to_frame()
    assert list(table["lead_s"]) == report["lead_s"]
    assert isinstance(found.plot(), Figure)


def test_an_alarm_watches_a_current_in_memory(run, raw, folder, tmp_path):
    alarm = run.alarm(
        tmp_path / "alarm",
        oracle_epochs=0,
        bootstrap_draws=20,
        spread_s=LEAD_S,
        min_spell_s=2.0,
        merge_gap_s=1.0,
        clear_after_s=1.0,
        raise_after_s=(0.0, 1.0),
        baseline_lengths_s=(8.0,),
        recent_s=(60.0,),
        alarm="model",
        rows=8,
        false_alarms_per_hour=100.0,
    )
    assert re.search(r"by a, b, c, \d+ of \d+ detected on test>$", repr(alarm))
    readings = alarm.watch(raw["sensor"], raw["sensor_t"])
    opened = fm.load_alarm(alarm.path)
    replayed = tiny.replayed(opened.exported, folder / "raw" / "furnace_2.npz")
    # float32 values written as their own float64 read back as the same float32.
    assert dict(zip(readings.time_s, readings.probability, strict=True)) == replayed
    rows = np.column_stack([raw["sensor_t"], raw["sensor"].astype(float)])
    lines = [",".join(map(repr, row)) for row in rows.tolist()]
    file = tmp_path / "current.csv"
    file.write_text("\n".join(["time,a,b,c", *lines, ""]), encoding="utf-8")
    assert alarm.watch(file) == readings
    table = readings.to_frame()
    np.testing.assert_array_equal(table["active"], readings.active)
    assert isinstance(readings.plot(), Figure)
    judged = alarm.to_frame()
    row = judged[(judged["score"] == "model") & (judged["split"] == "test")]
    own = alarm.report["methods"]["model"]["splits"]["test"]
    assert row["detected"].item() == own["detected"]
    assert isinstance(alarm.plot(), Figure)
    assert opened.settings == alarm.settings
    with pytest.raises(ValueError, match="opened as a file"):
        opened.plot()
    with pytest.raises(ValueError, match=r"\[N, 3\]"):
        opened.watch(raw["sensor"][:, :2], raw["sensor_t"])
    with pytest.raises(ValueError, match="increase"):
        opened.watch(raw["sensor"], raw["sensor_t"][::-1])
    with pytest.raises(ValueError, match="needs its times"):
        opened.watch(raw["sensor"])
    with pytest.raises(ValueError, match="leave time_s out"):
        opened.watch(file, raw["sensor_t"])


@pytest.mark.parametrize("kind", ["semantic", "codes"])
def test_features_in_a_pipeline_of_scikit_learn(run, kind):
    opened = open_run(run.path)
    store, windows = opened.split("test")
    rows = np.arange(len(windows))
    current = pipeline.assemble(store, windows, rows)["streams"]["current"]
    X = current.reshape(len(current), -1)
    y = run.encode(split="test").window_label
    features = fm.CodeFeatures(run, kind=kind)
    found = features.fit_transform(X, y)
    whole = run.encode(split="test")
    if kind == "semantic":
        expected = whole.features["current"].mean(axis=1)
    else:
        codes = whole.codes["current"]
        expected = np.stack([np.bincount(own, minlength=16) for own in codes]) / 8
    np.testing.assert_allclose(found, expected, atol=1e-6)
    classifier = make_pipeline(features, LogisticRegression()).fit(X, y)
    assert classifier.score(X, y) >= max(np.mean(y == 0), np.mean(y == 1)) - 0.2
    copy = sklearn.base.clone(fm.CodeFeatures(str(run.path), kind=kind))
    np.testing.assert_array_equal(copy.fit(X).transform(X), found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"modality": "sound"}, "sound"),
        ({"kind": "pixels"}, "pixels"),
        ({"kind": "shared"}, "shared level"),
    ],
)
def test_features_that_a_run_does_not_have(run, change, told):
    with pytest.raises(ValueError, match=told):
        fm.CodeFeatures(run, **change).fit(None).transform(np.zeros((2, 16, 3)))


def test_the_sample_is_small_and_reads_as_it_says():
    folder = fm.sample()
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 1_000_000
    files = RecordingFiles(folder)
    assert files.names() == ["furnace_1", "furnace_2", "furnace_3"]
    assert files.label_names == ("normal", "semi-molten")
    for name in files.names():
        streams = files.read(name).streams
        for stream in streams.values():
            assert np.ptp(stream.time_s) > 1190
            assert 0.2 < (stream.label == 1).mean() < 0.7
        assert streams["video"].values.shape[1:] == (64, 64, 3)
        assert streams["current"].channel_names == ("a", "b", "c")


def test_the_sample_gives_windows_at_its_lead(tmp_path):
    config = fm_config(tmp_path)
    store = dataset.open_dataset(config)
    windows = dataset.make_windows(store, config)
    assert len(windows["train"])
    assert len(windows["validation"])


def fm_config(tmp_path):
    """The furnace config on the sample, as the page says."""
    from fmalign_jax.config import shipped_config

    config = shipped_config("pretrain:recordings")
    config.data.path = str(fm.sample())
    config.data.lead_s = 240.0
    config.data.prepared_dir = str(tmp_path)
    return config


def test_an_alarm_is_opened_only_if_its_signature_is_right(tmp_path):
    kept = pathlib.Path(__file__).parent / "data" / "alarms" / "0.1.0-model.fmalign"
    path = tmp_path / "alarm.fmalign"
    path.write_bytes(kept.read_bytes())
    key = ed25519.Ed25519PrivateKey.generate()
    pem, raw = serialization.Encoding.PEM, serialization.NoEncryption()
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, raw))
    public.write_bytes(
        key.public_key().public_bytes(
            pem, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    with pytest.raises(ValueError, match="signature"):
        fm.load_alarm(path, require_signature=public)
    signature.sign(path, private)
    found = fm.load_alarm(path, require_signature=public)
    assert found.settings == fm.load_alarm(kept).settings
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="signature"):
        fm.load_alarm(path, require_signature=public)
