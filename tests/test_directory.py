import json
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from fmalign_jax.config import saved
from fmalign_jax.run import directory, loggers
from fmalign_jax.run.directory import RunDirectory, default_path


def _config(**changes):
    return ConfigDict({"seed": 0, "max_steps": 0, "data": {"tick_s": 1.0}} | changes)


def test_a_run_writes_its_config_metrics_events_and_summary(tmp_path):
    with RunDirectory(tmp_path / "run", _config(), write=True) as run:
        run.start(0, last_step=20)
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
        run.start(0, last_step=40)
        for step in (10, 20, 30):
            run.log(step, "train", {"loss": 1.0})
    with run.metrics.open("a") as file:
        file.write('{"step": 4')
    with RunDirectory(tmp_path, _config(), write=True) as run:
        run.start(20, last_step=40)
        run.log(25, "train", {"loss": 1.0})
    steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert steps == [10, 20, 25]


def _begin(path, config):
    with RunDirectory(path, config, write=True) as run:
        run.start(0, last_step=2)
        run.log(1, "train", {"loss": 1.0})
    return run


def test_another_configs_run_is_never_overwritten(tmp_path):
    _begin(tmp_path, _config())
    with pytest.raises(ValueError, match=r"differs in data.tick_s \(1.0 .* 2.0"):
        RunDirectory(tmp_path, _config(data={"tick_s": 2.0}), write=True)
    with RunDirectory(tmp_path, _config(max_steps=7), write=True):
        pass


def test_a_run_from_before_a_key_goes_on_where_the_key_changes_nothing(tmp_path):
    _begin(tmp_path, _config(data={"tick_s": 1.0}))
    same = _config(data={"tick_s": 1.0, "draw_lead": False, "other_leads_s": ()})
    with RunDirectory(tmp_path, same, write=True):
        pass
    assert default_path("pretrain", same) == default_path("pretrain", _config())
    drawn = _config(data={"tick_s": 1.0, "draw_lead": True})
    with pytest.raises(ValueError, match=r"differs in data\.draw_lead"):
        RunDirectory(tmp_path, drawn, write=True)
    assert default_path("pretrain", drawn) != default_path("pretrain", same)


def test_a_run_from_before_a_key_is_read_with_what_its_absence_means():
    settings = {"data": {"tick_s": 1.0, "draw_lead": True}, "model": {"width": 8}}
    config = saved.from_json(settings)
    assert config.data.to_dict() == {
        "tick_s": 1.0,
        "draw_lead": True,
        "lead_range_s": (),
        "other_leads_s": (),
        "shuffle_partners": False,
    }
    assert config.model.name == "fmalign_jax.systems.cmg.Cmg"


def test_what_changes_no_result_may_change(tmp_path):
    _begin(tmp_path, _config(data={"read_threads": 1, "prepared_dir": "a"}))
    other = _config(data={"read_threads": 8, "prepared_dir": "b"})
    with RunDirectory(tmp_path, other, write=True):
        pass
    with pytest.raises(ValueError, match=r"differs in data.tick_s \(None there"):
        RunDirectory(tmp_path, _config(data={"tick_s": 2.0}), write=True)


def test_a_run_that_could_not_start_leaves_its_folder_free(tmp_path):
    with RunDirectory(tmp_path / "run", _config(seed=1), write=True):
        pass
    assert not (tmp_path / "run").exists()
    with RunDirectory(tmp_path / "run", _config(seed=1), write=True) as run:
        run.start(0, last_step=2)  # and fails before it reports or saves anything
        run.checkpoints.mkdir()
    with RunDirectory(tmp_path / "run", _config(seed=2), write=True) as run:
        run.start(0, last_step=2)
    assert json.loads((run.path / "config.json").read_text())["seed"] == 2
    (run.checkpoints / "4").mkdir()
    with pytest.raises(ValueError, match="differs in seed"):
        RunDirectory(tmp_path / "run", _config(seed=3), write=True)


def test_a_summary_lasts_until_there_are_steps_to_do(tmp_path):
    run = _begin(tmp_path, _config())
    assert run.summary() is None
    run.finish({"step": 2})
    with RunDirectory(tmp_path, _config(), write=True) as run:
        run.start(2, last_step=2)
        assert run.summary() == {"step": 2}
    with RunDirectory(tmp_path, _config(), write=True) as run:
        run.start(2, last_step=4)
        assert run.summary() is None


def test_events_of_an_attempt_that_failed_are_purged(tmp_path, monkeypatch):
    given = []
    writer = loggers.SummaryWriter
    monkeypatch.setattr(
        loggers,
        "SummaryWriter",
        lambda path, purge_step: given.append(purge_step) or writer(path),
    )
    for step in (0, 20):
        with RunDirectory(tmp_path, _config(), write=True) as run:
            run.start(step, last_step=40)
    assert given == [1, 21]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"no config\.json"):
        RunDirectory(tmp_path, _config(), write=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "config.json").write_text('{"model_type": "another program\'s"}')
    with pytest.raises(ValueError, match=r"goes on only with the config"):
        RunDirectory(tmp_path, _config(), write=True)


def test_other_processes_stay_silent(tmp_path):
    with RunDirectory(tmp_path / "run", _config(), write=False) as run:
        run.start(0, last_step=1)
        run.log(1, "train", {"loss": 1.0})
        run.finish({})
    assert not (tmp_path / "run").exists()


def test_the_default_folder_follows_the_config():
    path = default_path("pretrain", _config())
    assert path == default_path("pretrain", _config(max_steps=5))
    assert path == default_path(
        "pretrain", _config(data={"tick_s": 1.0, "read_threads": 8})
    )
    assert path != default_path("pretrain", _config(seed=1))
    assert str(path).startswith("runs/pretrain-")


_HOLDING = """
import sys, time
from ml_collections import ConfigDict
from fmalign_jax.run.directory import RunDirectory
import pathlib, json
config = ConfigDict(json.loads(sys.argv[2]))
with RunDirectory(pathlib.Path(sys.argv[1]), config, write=True) as run:
    run.start(0, last_step=2)
    run.log(1, "train", {"loss": 1.0})
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_process_at_a_time_writes_and_a_killed_one_leaves_the_folder(tmp_path):
    path, config = tmp_path / "run", _config()
    command = [sys.executable, "-c", _HOLDING, str(path), config.to_json()]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        said = f"process {holder.pid} on .* does; wait for it"
        with (
            pytest.raises(ValueError, match=said),
            RunDirectory(path, config, write=True),
        ):
            raise AssertionError("two may write")
        with RunDirectory(path, config, write=False):
            pass  # who only reads need not wait
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with RunDirectory(path, config, write=True) as run:
        run.start(1, last_step=2)
    assert run.last("train")["step"] == 1


def test_a_file_system_without_locks_is_said_and_does_not_stop_a_run(
    tmp_path, monkeypatch, caplog
):
    def refuse(self, *args, **kwargs):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(directory.FileLock, "acquire", refuse)
    with RunDirectory(tmp_path / "run", _config(), write=True) as run:
        run.start(0, last_step=1)
    assert "cannot be locked" in caplog.text
