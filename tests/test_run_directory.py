import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from fmalign_jax.run_directory import RunDirectory, default_path


def _config(**changes):
    return ConfigDict({"seed": 0, "max_steps": 0, "data": {"tick_s": 1.0}} | changes)


def test_a_run_writes_its_config_metrics_events_and_summary(tmp_path):
    with RunDirectory(tmp_path / "run", _config(), write=True) as run:
        run.start(0)
        run.log(10, "train", {"loss": 2.5})
        run.log_histogram(10, "codebook/count", np.arange(5.0))
        run.finish({"finished": True})
        assert run.last("train") == {"step": 10, "split": "train", "loss": 2.5}
        assert run.last("validation") is None
    assert json.loads((run.path / "config.json").read_text())["data"]["tick_s"] == 1.0
    assert json.loads((run.path / "summary.json").read_text()) == {"finished": True}
    assert list((run.path / "tensorboard").iterdir())


def test_resuming_forgets_what_came_after_and_a_line_cut_short(tmp_path):
    with RunDirectory(tmp_path, _config(), write=True) as run:
        run.start(0)
        for step in (10, 20, 30):
            run.log(step, "train", {"loss": 1.0})
    with run.metrics.open("a") as file:
        file.write('{"step": 4')
    with RunDirectory(tmp_path, _config(), write=True) as run:
        run.start(20)
        run.log(25, "train", {"loss": 1.0})
    steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert steps == [10, 20, 25]


def test_another_configs_run_is_never_overwritten(tmp_path):
    with RunDirectory(tmp_path, _config(), write=True):
        pass
    with pytest.raises(ValueError, match=r"differs in data.tick_s \(1.0 .* 2.0"):
        RunDirectory(tmp_path, _config(data={"tick_s": 2.0}), write=True)
    with RunDirectory(tmp_path, _config(max_steps=7), write=True):
        pass


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"no config\.json"):
        RunDirectory(tmp_path, _config(), write=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_other_processes_stay_silent(tmp_path):
    with RunDirectory(tmp_path / "run", _config(), write=False) as run:
        run.start(0)
        run.log(1, "train", {"loss": 1.0})
        run.finish({})
    assert not (tmp_path / "run").exists()


def test_the_default_folder_follows_the_config():
    path = default_path("pretrain", _config())
    assert path == default_path("pretrain", _config(max_steps=5))
    assert path != default_path("pretrain", _config(seed=1))
    assert str(path).startswith("runs/pretrain-")
