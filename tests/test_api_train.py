"""Training from Python: what the command does, and what comes back."""

import itertools
import json
import os
import signal
import sys
import threading

import pytest
import tiny

import fmalign_jax as fm
from fmalign_jax import train as command
from fmalign_jax.config import component, default_config, shipped_config
from fmalign_jax.run.directory import default_path
from fmalign_jax.training import logged_values

pytestmark = pytest.mark.usefixtures("one_device")

STEPS = 2


@pytest.fixture(scope="module")
def config(folder):
    found = tiny.tiny_config(folder)
    found.update_from_flattened_dict(tiny.LIGHT)
    return found


@pytest.fixture(scope="module")
def run(config, folder):
    return fm.train(config, folder / "run", max_steps=STEPS, **{"data.tick_s": 2.0})


def test_it_trains_with_the_overrides_and_returns_the_run(run, config, folder):
    assert isinstance(run, fm.Run)
    assert (run.path, run.step) == (folder / "run", STEPS)
    assert (run.config.max_steps, run.config.data.tick_s) == (STEPS, 2.0)
    assert (config.max_steps, config.data.tick_s) == (8, 1.0)  # the caller's own
    assert repr(run) == repr(fm.load(folder / "run"))
    assert len(run.encode(split="train"))


def test_the_same_call_opens_what_is_finished(run, config, folder):
    before = (run.path / "metrics.jsonl").read_text()
    again = fm.train(config, run.path, max_steps=STEPS, data={"tick_s": 2.0})
    assert again.step == run.step
    assert (run.path / "metrics.jsonl").read_text() == before
    with pytest.raises(ValueError, match=r"differs\s+in data.tick_s"):
        fm.train(config, run.path, max_steps=STEPS)


def _interrupted(monkeypatch, number, at_step):
    """Sends a signal to this process when so many batches are drawn."""
    drawn, draw = itertools.count(1), logged_values.Meter.next_batch

    def next_batch(self, batches):
        if next(drawn) == at_step:
            os.kill(os.getpid(), number)
        return draw(self, batches)

    monkeypatch.setattr(logged_values.Meter, "next_batch", next_batch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_asks_it_to_stop_finds_it_saved_and_may_go_on(
    number, config, tmp_path, monkeypatch
):
    _interrupted(monkeypatch, number, 3)
    with pytest.raises(KeyboardInterrupt, match=r"step 3 of 8 is saved in .*run; the"):
        fm.train(config, tmp_path / "run")
    assert fm.load(tmp_path / "run", "latest").step == 3
    assert fm.train(config, tmp_path / "run").step == 8
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["finished"]


def _without_training(monkeypatch):
    """Returns what would be trained: configs and folders."""
    asked = []

    def noted(config, workdir):
        asked.append((config, workdir))
        raise InterruptedError

    monkeypatch.setattr("fmalign_jax.api.training.train_in", noted)
    return asked


@pytest.mark.parametrize(
    ("given", "named"),
    [("pretrain:smoke", "pretrain-smoke"), ("recordings", "recordings")],
)
def test_a_shipped_config_by_its_name_is_the_run_of_the_command(
    given, named, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    asked = _without_training(monkeypatch)
    with pytest.raises(InterruptedError):
        fm.train(given, epochs=3)
    expected = shipped_config(given)
    expected.epochs = 3.0
    ((config, workdir),) = asked
    assert config.to_dict() == expected.to_dict()
    assert workdir == default_path(named, expected)


def test_a_file_and_what_lies_beside_it(monkeypatch, tmp_path):
    (tmp_path / "parts_beside_api.py").write_text("EPOCHS = 7.0\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "import parts_beside_api\n"
        "from fmalign_jax.config import default_config\n"
        "def get_config(variant='a'):\n"
        "    config = default_config()\n"
        "    config.epochs = parts_beside_api.EPOCHS\n"
        "    config.seed = len(variant)\n"
        "    return config\n"
    )
    asked = _without_training(monkeypatch)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(InterruptedError):
        fm.train(f"{file}:four")
    ((config, workdir),) = asked
    assert (config.epochs, config.seed) == (7.0, 4)
    assert workdir == default_path("mine-four", config)
    assert sys.path[-1] == str(tmp_path)  # an installed module comes first


@pytest.mark.slow
def test_a_part_of_ones_own_is_trusted_as_it_was_just_trained(
    config, tmp_path, monkeypatch
):
    (tmp_path / "pool_of_mine.py").write_text(
        "import flax.linen as nn\n"
        "class MeanPool(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, features):\n"
        "        return features.mean(axis=(2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = config.copy_and_resolve_references()
    own.model.modalities.video.pool = component("pool_of_mine.MeanPool")
    found = fm.train(own, tmp_path / "run", max_steps=STEPS)
    assert len(found.encode(split="train"))
    with pytest.raises(ValueError, match="must name a class of fmalign_jax"):
        fm.load(tmp_path / "run")


def test_a_config_without_a_name_has_a_folder_too(monkeypatch):
    asked = _without_training(monkeypatch)
    with pytest.raises(InterruptedError):
        fm.train(default_config())
    assert asked[0][1] == default_path("train", default_config())


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda c: fm.train("no_such"), "a file or one of cmg_paper"),
        (lambda c: fm.train("pretrain:none"), "has the variants"),
        (lambda c: fm.train("evaluate"), "got one without data and model"),
        (lambda c: fm.train(c, epoch=3), "settings must be those.*epoch"),
        (lambda c: fm.train(c, **{"data.tick": 3}), "settings must be those.*tick"),
        (lambda c: fm.train(c, epochs="many"), "settings must be those.*many"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(ask, told, config):
    with pytest.raises(ValueError, match=told):
        ask(config)


def test_the_module_of_the_command_does_not_hide_it():
    assert command.train is not fm.train
    with pytest.raises(ValueError, match="a file or one of"):
        command("no_such")


def test_in_another_thread_nobody_catches_signals(config, run):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(
            fm.train(config, run.path, max_steps=STEPS, data={"tick_s": 2.0})
        )
    )
    thread.start()
    thread.join()
    assert found[0].step == STEPS
