"""The values of a run reach every logger that its config names, and stay on this disk.

W&B and MLflow are tested where they are installed; the rest by a logger made here.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import struct
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
from ml_collections import ConfigDict

from fmalign_jax.config import component, default_config
from fmalign_jax.config.saved import digest, from_json, to_json
from fmalign_jax.run import trust
from fmalign_jax.run.directory import RunDirectory

ROOT = pathlib.Path(__file__).parents[1]

OWN = f"{__name__}.Kept"


@dataclasses.dataclass
class Kept:
    """A logger as a user writes one: it keeps what it is given."""

    folder: pathlib.Path
    settings: dict
    fails_at: int = -1

    made: ClassVar[list] = []

    def __post_init__(self):
        self.calls = []
        self.made.append(self)

    def start(self, step):
        self.calls.append(("start", step))
        if step == self.fails_at:
            raise ConnectionError("nobody answers")

    def write(self, step, values):
        if step == self.fails_at:
            raise ConnectionError("nobody answers")
        self.calls.append(("write", step, dict(values)))

    def close(self, *, failed):
        self.calls.append(("close", failed))


@dataclasses.dataclass
class KeptWithHistograms(Kept):
    def write_histogram(self, step, name, values):
        self.calls.append(("histogram", step, name, values.tolist()))


@pytest.fixture
def made(monkeypatch):
    """Returns the loggers of this file that are made in a test."""
    monkeypatch.setattr(Kept, "made", [])
    return Kept.made


def _config(*names):
    return ConfigDict({"seed": 3, "data": {"tick_s": 1.0}, "loggers": names})


def _lines(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _expected(folder, *, arrow="_to_"):
    """The points of metrics.jsonl: by curve and step, its value."""
    return {
        (f"{line['split']}/{name}".replace("->", arrow), line["step"]): value
        for line in _lines(folder)
        for name, value in line.items()
        if name not in ("step", "split")
    }


def _write(folder, config, *, start, steps, last_step=60):
    with RunDirectory(folder, config, write=True) as run:
        run.start(start, last_step=last_step)
        for step in steps:
            rng = np.random.default_rng(step)
            for split in ("train", "validation"):
                names = ("loss", "cpc_accuracy/video->current", "perplexity/video")
                values = rng.normal(size=3).tolist()
                run.log(step, split, dict(zip(names, values, strict=True)))
            run.log_histogram(step, "codebook/count", np.arange(4.0))


def test_a_logger_of_ones_own_gets_what_metrics_jsonl_gets(tmp_path, made):
    folder = tmp_path / "run"
    _write(folder, _config(component(OWN)), start=0, steps=(10, 20))
    assert len(made) == 1
    (logger,) = made
    assert logger.folder == folder
    assert logger.settings["data"] == {"tick_s": 1.0}
    assert logger.calls[0] == ("start", 0)
    assert logger.calls[-1] == ("close", False)
    written = {
        (name, step): value
        for _, step, values in logger.calls[1:-1]
        for name, value in values.items()
    }
    assert len(written) == 2 * 2 * 3
    assert written == _expected(folder)
    assert ("train/cpc_accuracy/video_to_current", 10) in written
    assert not (folder / "tensorboard").exists()


def test_several_loggers_stand_side_by_side_and_those_that_can_take_histograms(
    tmp_path, made
):
    names = (OWN, f"{__name__}.KeptWithHistograms", "tensorboard")
    _write(tmp_path / "run", _config(*names), start=0, steps=(10,))
    plain, histograms = made
    assert [call[0] for call in plain.calls] == ["start", "write", "write", "close"]
    taken = [call for call in histograms.calls if call[0] == "histogram"]
    assert taken == [("histogram", 10, "codebook/count", [0.0, 1.0, 2.0, 3.0])]
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_no_logger_at_all_leaves_the_metrics(tmp_path):
    _write(tmp_path / "run", _config(), start=0, steps=(10,))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json",
        "metrics.jsonl",
    }
    assert len(_lines(tmp_path / "run")) == 2


def test_a_run_goes_on_with_other_loggers(tmp_path, made):
    folder = tmp_path / "run"
    _write(folder, _config("tensorboard"), start=0, steps=(10, 20))
    _write(folder, _config(OWN), start=20, steps=(30,))
    assert made[0].calls[0] == ("start", 20)
    assert json.loads((folder / "config.json").read_text())["loggers"] == [OWN]
    assert [line["step"] for line in _lines(folder)] == [10, 10, 20, 20, 30, 30]


def test_loggers_do_not_tell_runs_apart_and_an_old_run_has_tensorboard(tmp_path):
    config = default_config()
    assert config.loggers == ("tensorboard",)
    other, before = default_config(), default_config()
    other.loggers = ("wandb", component(OWN, fails_at=3))
    del before.loggers
    assert digest(config) == digest(other) == digest(before)
    assert from_json(to_json(before)).loggers == ("tensorboard",)
    with RunDirectory(tmp_path, before, write=True) as run:
        run.start(0, last_step=1)
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_logger_that_fails_in_training_is_left_out_and_the_run_goes_on(
    tmp_path, made, caplog
):
    failing = component(OWN, fails_at=20)
    _write(tmp_path, _config(failing, OWN), start=0, steps=(10, 20, 30))
    assert [call[:2] for call in made[0].calls] == [
        ("start", 0),
        ("write", 10),
        ("write", 10),
    ]
    assert [call[1] for call in made[1].calls[1:-1]] == [10, 10, 20, 20, 30, 30]
    assert len(_lines(tmp_path)) == 6
    said = [record.message for record in caplog.records]
    assert said == [
        f"logger 0: {OWN} is left out from now on (ConnectionError: nobody answers); "
        "metrics.jsonl has every value"
    ]


def test_a_logger_that_does_not_open_stops_the_run_before_it_trains(tmp_path, made):
    config = _config(OWN, component(OWN, fails_at=0))
    with (
        pytest.raises(ValueError, match=r"must open .* ConnectionError of logger 1: "),
        RunDirectory(tmp_path / "run", config, write=True) as run,
    ):
        run.start(0, last_step=1)
    assert made[0].calls == [("start", 0), ("close", True)]
    # The folder stays free for another config.
    other = _config(OWN)
    other.seed = 4
    RunDirectory(tmp_path / "run", other, write=True)


def test_an_error_of_the_run_is_told_to_its_loggers(tmp_path, made):
    def diverge():
        with RunDirectory(tmp_path, _config(OWN), write=True) as run:
            run.start(0, last_step=1)
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        diverge()
    assert made[0].calls == [("start", 0), ("close", True)]


def test_processes_that_stay_silent_make_no_logger(tmp_path, made):
    with RunDirectory(tmp_path / "run", _config(OWN), write=False) as run:
        run.start(0, last_step=1)
        run.log(1, "train", {"loss": 1.0})
        run.log_histogram(1, "codebook/count", np.arange(4.0))
    assert not made
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("tensorbord",), r"must be one of tensorboard, wandb, mlflow, or .*'tensorb"),
        ((7,), r"must be one of .*; got 7"),
        (({"mode": "x"},), r"must be one of .*; got None"),
        (("no_such_package.Logger",), "must be importable; got 'no_such_package.L"),
        (("json.JSONDecoder",), r"loggers\.0 must name a class whose fields .*JSONDec"),
        ((component(OWN, colour=1),), r"loggers\.0 may give only .* colour; allowed: "),
    ],
)
def test_what_is_no_logger_is_refused_before_anything_is_written(
    tmp_path, given, message
):
    with pytest.raises(ValueError, match=message):
        RunDirectory(tmp_path / "run", _config(*given), write=True)
    assert not (tmp_path / "run").exists()


def test_loggers_are_a_tuple(tmp_path):
    config = ConfigDict({"seed": 3, "loggers": "wandb"})
    with pytest.raises(ValueError, match=r"must be a tuple; got 'wandb'; write"):
        RunDirectory(tmp_path / "run", config, write=True)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_one_line_before_training(
    tmp_path, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ValueError, match="must be installed") as refusal:
        RunDirectory(tmp_path / "run", _config("tensorboard", name), write=True)
    said = str(refusal.value)
    rule = f"a logger's package must be installed; got 'loggers' with {name!r}, and "
    assert said.startswith(rule)
    remedy = f"; pip install 'fmalign_jax[{name}]', or leave it out of loggers"
    assert said.endswith(remedy)
    assert not (tmp_path / "run").exists()


def test_a_saved_run_may_name_any_logger_as_nothing_but_training_makes_one():
    settings = to_json(default_config())
    settings["loggers"] = [{"name": "somebody.else.Logger"}]
    trust.check_names(settings, "config.json")
    settings["objectives"]["club"]["name"] = "somebody.else.Club"
    with pytest.raises(ValueError, match=r"objectives\.club\.name must name"):
        trust.check_names(settings, "config.json")


# The packages themselves, where they are installed


@pytest.fixture
def plain(monkeypatch, tmp_path):
    """An environment that says nothing of W&B and MLflow, in a folder of its own."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list(pathlib.Path().iterdir())  # nothing outside the run's folder


def _installed(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


def _of_mlflow(mlflow, folder):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "fmalign_jax"]
    return client, client.search_runs([experiment.experiment_id])


def _points(client, run):
    return {
        (name, value.step): value.value
        for name in run.data.metrics
        for value in client.get_metric_history(run.info.run_id, name)
    }


@pytest.mark.filterwarnings("default")
def test_mlflow_holds_what_metrics_jsonl_holds_after_a_resume_too(tmp_path, plain):
    mlflow = _installed("mlflow")
    folder, config = tmp_path / "run", _config("mlflow")
    _write(folder, config, start=0, steps=(10, 20, 30))
    client, (run,) = _of_mlflow(mlflow, folder)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params == {
        "data.tick_s": "1.0",
        "loggers": "['mlflow']",
        "seed": "3",
    }
    assert len(_points(client, run)) == 3 * 2 * 3
    assert _points(client, run) == _expected(folder)

    with (
        contextlib.suppress(KeyboardInterrupt),
        RunDirectory(folder, config, write=True) as again,
    ):
        again.start(20, last_step=60)
        raise KeyboardInterrupt
    # From step 20 on, and so step 30 a second time.
    _write(folder, config, start=20, steps=(30, 40))
    client, (run,) = _of_mlflow(mlflow, folder)
    assert run.info.status == "FINISHED"
    assert _points(client, run) == _expected(folder)
    for name in run.data.metrics:
        steps = [v.step for v in client.get_metric_history(run.info.run_id, name)]
        assert sorted(steps) == [10, 20, 30, 40], name


@pytest.mark.filterwarnings("default")
def test_an_mlflow_run_of_the_environment_and_one_that_is_gone(
    tmp_path, plain, monkeypatch
):
    mlflow = _installed("mlflow")
    store = f"sqlite:///{tmp_path}/theirs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "furnaces")
    client = mlflow.MlflowClient(tracking_uri=store)
    client.create_experiment("furnaces", (tmp_path / "artifacts").as_uri())
    folder, config = tmp_path / "run", _config("mlflow")
    _write(folder, config, start=0, steps=(10,))
    experiment = client.get_experiment_by_name("furnaces")
    (run,) = client.search_runs([experiment.experiment_id])
    assert _points(client, run) == _expected(folder)
    assert not (folder / "mlflow" / "mlflow.db").exists()
    client.delete_run(run.info.run_id)
    (folder / "mlflow" / "run_id").write_text("0" * 32)
    with pytest.raises(ValueError, match=r"must open .* of logger 0: mlflow: .*0000"):
        _write(folder, config, start=10, steps=(20,))


_BLOCK, _HEAD, _FULL, _LAST = 32768, 7, 1, 4


def _records(file):
    """Yields what a file of W&B holds: a log in the form of LevelDB."""
    raw, at, parts = file.read_bytes(), _HEAD, b""
    assert raw.startswith(b":W&B")
    while at + _HEAD <= len(raw):
        if _BLOCK - at % _BLOCK < _HEAD:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, at)
        parts += raw[at + _HEAD : at + _HEAD + length]
        at += _HEAD + length
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""


def _finished(file):
    """Returns the records of a W&B run that has ended; the last may come later."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(300):
        records = [Record.FromString(data) for data in _records(file)]
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def _of_wandb(folder):
    """Reads what W&B would send: each point by curve and step, and the ids of runs."""
    points, ids = [], set()
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for record in _finished(file):
            if record.HasField("run"):
                ids.add(record.run.run_id)
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            points += [
                ((name, items["_step"]), value)
                for name, value in items.items()
                if name.startswith(("train/", "validation/"))
            ]
    return points, ids


@pytest.mark.filterwarnings("default")
def test_wandb_keeps_what_metrics_jsonl_holds_under_one_id(tmp_path, plain):
    _installed("wandb")
    folder, config = tmp_path / "run", _config("wandb")
    _write(folder, config, start=0, steps=(10, 20))
    points, ids = _of_wandb(folder)
    assert len(points) == 2 * 2 * 3
    assert dict(points) == _expected(folder)
    _write(folder, config, start=20, steps=(30,))
    points, again = _of_wandb(folder)
    assert len(points) == 3 * 2 * 3
    assert dict(points) == _expected(folder)
    assert again == ids == {(folder / "wandb" / "run_id").read_text()}


@pytest.mark.filterwarnings("default")
def test_a_run_that_begins_anew_has_a_wandb_run_of_its_own(tmp_path, plain):
    _installed("wandb")
    folder, config = tmp_path / "run", _config("wandb")
    for _ in range(2):  # killed before its first checkpoint
        _write(folder, config, start=0, steps=(10,))
    assert len(_of_wandb(folder)[1]) == 2


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_runs_side_by_side_as_in_a_sweep_stay_apart(tmp_path, plain, name):
    package = _installed(name)
    folders = [tmp_path / "first", tmp_path / "second"]
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(RunDirectory(folder, _config(name), write=True))
            for folder in folders
        ]
        for run in runs:
            run.start(0, last_step=20)
        for step in (10, 20):
            for number, run in enumerate(runs):
                run.log(step, "train", {"loss": float(step + number)})
    for folder in folders:
        if name == "wandb":
            points, ids = _of_wandb(folder)
            assert len(ids) == 1
        else:
            client, (run,) = _of_mlflow(package, folder)
            points = _points(client, run)
        assert dict(points) == _expected(folder)
        assert len(points) == 2


def test_the_folder_of_a_run_imports_no_logger_that_is_not_asked_for():
    code = (
        "import sys, fmalign_jax.run.directory; "
        "assert not {'wandb', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
