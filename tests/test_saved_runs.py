"""What was saved before the modules moved goes on as if they never had.

`data/run_before_the_move.tar.xz` is a tiny run of three steps, saved by the version
before; its `expected.json` holds what that version went on to measure.
"""

import inspect
import json
import pathlib
import re
import shutil
import tarfile

import jax
import labelled_recordings
import numpy as np
import pytest
from ml_collections import ConfigDict

from fmalign_jax import default_config as before, evaluate, train
from fmalign_jax.config import default_config, evaluation_config, load_file, set_teacher
from fmalign_jax.config.build import load
from fmalign_jax.run import open_run
from fmalign_jax.run.checkpoint_files import abstract
from fmalign_jax.run.checkpoints import Checkpoints
from fmalign_jax.run.directory import default_path
from fmalign_jax.training import setup, sharding
from fmalign_jax.training.state import make_trainer

pytestmark = pytest.mark.usefixtures("one_device")

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parent / "configs"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with the run and its recordings, as they were saved."""
    folder = tmp_path_factory.mktemp("saved")
    labelled_recordings.write(
        folder / "raw", recordings=3, classes=("normal", "abnormal")
    )
    with tarfile.open(HERE / "data" / "run_before_the_move.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the run names its recordings by a relative path
        yield folder


@pytest.fixture(scope="module")
def expected(place):
    return json.loads((place / "run" / "expected.json").read_text())


def _copy(place, name):
    shutil.copytree(place / "run", place / name)
    (place / name / "expected.json").unlink()
    return place / name


def test_it_evaluates_to_the_same_numbers(place, expected):
    config = evaluation_config()
    config.checkpoint, config.step = str(_copy(place, "evaluated")), "latest"
    config.oracle_epochs, config.bootstrap_draws, config.random_encoders = 0, 20, 0
    report, folder = evaluate.evaluate(config)
    assert report["features"] == "codes"  # it has no shared level
    for direction, scores in report["zero_shot"].items():
        wanted = expected["zero_shot"][direction]
        assert {name: scores[name] for name in wanted} == pytest.approx(
            wanted, abs=1e-6
        ), direction
    assert report["code_sharing"]["level"] == "ticks"
    lines = (folder / "predictions.csv").read_text().splitlines()
    header, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    columns = [header.index(f"{m} codes") for m in ("video", "current")]
    assert [[row[c] for c in columns] for row in rows] == expected["codes"]


def test_it_goes_on_with_the_same_numbers(place, expected):
    """On one machine every bit is the same; rounding differs from one to another."""
    run = _copy(place, "resumed")
    config = open_run(run, "latest").config
    config.max_steps = 6
    state, summary = train.train(config, run)
    assert int(state.step) == 6
    found = summary["validation"]
    wanted = expected["validation_at_6"]
    wanted.pop("merged_agreement/current-video")  # said nothing else; taken away since
    assert found.keys() - {"split"} == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_its_arrays_are_those_of_a_state_of_today(place):
    """Key by key: each has its digest of then, or restoring would refuse it."""
    run = open_run(_copy(place, "restored"), "latest")
    data = setup.load_data(run.config)
    trainer = make_trainer(
        run.config, steps_per_epoch=data.steps_per_epoch, steps=data.planned_steps
    )
    fresh = setup.first_state(trainer, data, sharding.make_mesh())
    with Checkpoints(run.checkpoints) as checkpoints:
        state, _ = checkpoints.restore_latest(abstract(fresh))
    assert int(state.step) == 3
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    assert set(state.model_state) == {"codebook"}


def test_the_public_way_to_a_run(place, caplog):
    """The first block of docs/reading_a_run.md, word for word but for the path."""
    page = (HERE.parent / "docs" / "reading_a_run.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page, flags=re.M)
    code = "\n".join(line[4:] for line in blocks[0].splitlines())
    path = "runs/pretrain-1a2b3c4d"
    assert path in code
    names: dict = {}
    exec(code.replace(path, str(_copy(place, "read"))), names)
    encodings = names["encodings"]
    windows = len(names["windows"])
    assert encodings.semantic["current"].shape == (windows, 8, 16)
    assert encodings.codes["video"].shape == (windows, 8)
    assert np.isfinite(encodings.semantic["video"]).all()
    # A user's script has no flags that quieten Orbax, and nothing is wrong.
    assert not [record for record in caplog.records if record.name == "absl"]


def test_a_config_that_was_changed_since_the_training_is_refused(place):
    run = _copy(place, "changed")
    config = run / "config.json"
    settings = json.loads(config.read_text())
    # The recordings may lie elsewhere by now.
    settings["data"]["path"] = "moved/*.npz"
    config.write_text(json.dumps(settings))
    assert open_run(run, "latest").config.data.path == "moved/*.npz"
    settings["data"]["lead_s"] += 60.0
    config.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"another than in checkpoint 3: data\.lead_s"):
        open_run(run, "latest")


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_config_is_told_in_a_line(place, content, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    (run / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json must hold .* restore a copy"):
        open_run(run, "latest")


def test_an_unknown_split_is_refused(place):
    with pytest.raises(ValueError, match="splits train, validation, test; got 'tset'"):
        open_run(_copy(place, "split"), "latest").split("tset")


def test_an_empty_split_is_refused(place):
    run = open_run(_copy(place, "empty"), "latest")
    run.config.data.split.update({"test_recordings": (), "test": 0.0})
    with pytest.raises(
        ValueError, match=r"'test' of .* got none; use one of train, va"
    ):
        run.split("test")


def test_every_shipped_config_finds_its_run_again():
    """The folder of a run is named by a digest of its config."""
    expected = json.loads((HERE / "data" / "default_paths.json").read_text())
    found = {}
    for path in sorted(CONFIGS.glob("*.py")):
        get_config = load_file(path).get_config
        for name in expected:
            stem, _, variant = name.partition("-")
            if stem != path.stem:
                continue
            takes = inspect.signature(get_config).parameters
            config = get_config(variant) if takes and variant else get_config()
            if "run" in config:  # a sweep is named by all that its members share
                config = ConfigDict({**config.run, "vary": config.vary})
            found[name] = default_path(name, config).name
    assert found == expected


def test_configs_written_for_the_version_before_still_work():
    old, new = before.default_config(), default_config()
    before.let_teach(old, teacher="current", learner="video", back=0.2, pull=1.0)
    set_teacher(new, teacher="current", student="video", back=0.2, pull=1.0)
    assert old.to_json() == new.to_json()
    before.let_teach(old, teacher="video", learner="current")
    set_teacher(new, teacher="video", student="current")
    assert old.to_json() == new.to_json()
    for name in (
        "fmalign_jax.data.recordings.RecordingFiles",
        "fmalign_jax.data.simulator.SimulatedFurnaces",
        "fmalign_jax.data.fmf.BenchmarkDirectory",
        "fmalign_jax.data.files.fingerprint",
        "fmalign_jax.data.validation.check_recording",
        "fmalign_jax.models.encoders.SemanticEncoder",
        "fmalign_jax.models.decoders.TokenDecoder",
        "fmalign_jax.objectives.cross_cpc.CrossCpc",
    ):
        assert load(name)
