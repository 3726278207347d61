"""Whole runs on tiny recordings: what they write, how they stop and go on."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing

import h5py
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from fmalign_jax import train
from fmalign_jax.run.checkpoints import Checkpoints
from fmalign_jax.training import setup, validation
from fmalign_jax.training.state import make_trainer

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = pathlib.Path(__file__).parents[1]

EVERY_RUN = {
    "loss",
    *(
        f"loss/{term}"
        for term in (
            "reconstruction",
            "commitment",
            "code_matching",
            "cross_cpc",
            "window_contrast",
            "club",
        )
    ),
    *(f"perplexity/{name}" for name in ("video", "current")),
    *(f"used_codes/{name}" for name in ("video", "current", "all")),
    "equal_num",
    "equal_share",
    "token_agreement/current-video",
    "code_cosine/current-video",
    "cpc_accuracy/video->current",
    "cpc_accuracy/current->video",
    "cpc_accuracy",
}
TRAIN_ONLY = {
    "learning_rate",
    "norm/gradient",
    "norm/parameter",
    "norm/update",
    "revived_codes",
    "windows_per_s",
    "waiting_share",
}


@pytest.fixture(scope="module")
def finished(folder):
    """An undisturbed run of eight steps."""
    workdir = folder / "finished"
    state, summary = train.train(tiny.tiny_config(folder), workdir)
    return workdir, jax.device_get(state), summary


def _lines(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _learnt(line):
    """What a run learnt, without how fast it was."""
    return {
        k: v for k, v in line.items() if k not in ("windows_per_s", "waiting_share")
    }


def _assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), expected)


def _saved_steps(workdir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.steps()


def test_a_run_writes_what_it_promises(finished, folder):
    workdir, state, summary = finished
    assert int(state.step) == 8
    config = json.loads((workdir / "config.json").read_text())
    assert config == json.loads(tiny.tiny_config(folder).to_json())
    assert list((workdir / "tensorboard").glob("events*"))
    assert _saved_steps(workdir)[-1] == 8
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert summary["finished"]
    assert summary["step"] == summary["steps"] == 8
    assert summary["labels"] == "L0"
    assert pathlib.Path(summary["latest_checkpoint"]).is_dir()
    assert pathlib.Path(summary["best_checkpoint"]).is_dir()


def test_both_splits_report_every_metric(finished):
    lines = _lines(finished[0])
    assert {line["split"] for line in lines} == {"train", "validation"}
    for line in lines:
        expected = EVERY_RUN | (TRAIN_ONLY if line["split"] == "train" else set())
        assert expected <= line.keys(), expected - line.keys()
        assert np.isfinite([v for k, v in line.items() if k != "split"]).all()


def test_a_run_logs_and_validates_at_the_steps_of_its_config(finished):
    at = {"train": [], "validation": []}
    for line in _lines(finished[0]):
        at[line["split"]].append(line["step"])
    # Every two steps, at the end of the only whole epoch, and at the last step.
    assert at == {"train": [2, 4, 6, 7, 8], "validation": [7, 8]}


def test_a_run_is_saved_as_often_as_its_config_says(folder):
    config = tiny.tiny_config(folder)
    config.checkpoint_every_steps = 3
    cadence = setup.Cadence.of(setup.load_data(config), config)
    # With every validation, too, after the seven steps of the epoch and at the end.
    assert [step for step in range(1, 9) if cadence.saves(step)] == [3, 6, 7, 8]


def test_a_validation_counts_every_window_once(finished, folder):
    config = tiny.tiny_config(folder)
    config.batch_size = 7  # does not divide the windows
    data = setup.load_data(config)
    mesh = train.sharding.make_mesh()
    trainer = make_trainer(config, steps_per_epoch=1, steps=1)
    found = validation.Validation(trainer, data.store, data.windows["validation"], mesh)
    rows = np.concatenate([batch["mask"] for batch in found._batches()])
    assert len(rows) > rows.sum() == finished[2]["windows"]["validation"] > 7


@pytest.fixture(scope="module")
def scored(folder):
    """A run validated every two steps, of which the highest loss is the best."""
    config = tiny.tiny_config(folder)
    config.update_from_flattened_dict(tiny.LIGHT)
    config.eval_every_epochs = 0.3  # of seven steps
    config.score = "loss"  # it falls, so that neither the last nor the latest is best
    train.train(config, folder / "scored")
    lines = _lines(folder / "scored")
    summary = json.loads((folder / "scored" / "summary.json").read_text())
    return summary, {
        split: {line["step"]: line["loss"] for line in lines if line["split"] == split}
        for split in ("train", "validation")
    }


def test_the_best_checkpoint_has_the_best_score_of_all_validations(scored):
    summary, losses = scored
    validated = losses["validation"]
    assert list(validated) == [2, 4, 6, 8]
    best = max(validated, key=validated.get)
    assert best < 8
    assert summary["best_step"] == best
    assert summary["best_score"] == validated[best]
    assert pathlib.Path(summary["best_checkpoint"]).name == str(best)
    # No value of the training batches could be taken for it.
    assert validated[best] not in losses["train"].values()


def test_the_statistics_are_those_of_the_training_recordings(finished, folder):
    data = setup.load_data(tiny.tiny_config(folder))
    used = {
        split: {data.store.names[n] for n in data.windows[split].recording}
        for split in ("train", "validation")
    }
    assert used["train"].isdisjoint(used["validation"])

    def of_files(names):
        files = [np.load(folder / "raw" / f"{name}.npz") for name in sorted(names)]
        current = np.concatenate([file["sensor"] for file in files])
        frames = np.concatenate([file["frames"] for file in files])
        return current.std(axis=0), frames.mean(axis=(0, 1, 2))

    statistics = finished[1].statistics
    found = statistics["current"]["std"], statistics["video"]["mean"]
    # Ticks at the very ends of a recording are in no window.
    np.testing.assert_allclose(found, of_files(used["train"]), rtol=0.01)
    other = of_files(used["validation"])
    assert np.abs(np.subtract(found, other) / other).min() > 0.02


def test_batches_come_from_where_the_config_says(folder):
    config = tiny.tiny_config(folder)
    recordings = {}
    for source in ("all", "recording"):
        config.data.batch_from = source
        with closing(
            setup.training_batches(setup.load_data(config), config, seed=0)
        ) as (batches):
            recordings[source] = [set(next(batches)["recording"]) for _ in range(4)]
    assert {len(found) for found in recordings["recording"]} == {1}
    assert max(len(found) for found in recordings["all"]) > 1


def test_a_finished_run_stays_as_it_is(finished, folder):
    workdir, state, _ = finished
    before = _lines(workdir)
    again, summary = train.train(tiny.tiny_config(folder), workdir)
    _assert_equal(again, state)
    assert _lines(workdir) == before
    assert summary == finished[2]
    assert json.loads((workdir / "summary.json").read_text()) == summary


def test_a_run_past_its_last_step_is_finished(finished, folder, tmp_path):
    config = tiny.tiny_config(folder)
    config.max_steps = 4
    state, summary = train.train(config, _copied(finished[0], tmp_path / "run"))
    assert int(state.step) == summary["step"] == 8
    assert summary["finished"]
    assert summary["seconds"] == finished[2]["seconds"]


def _stop_after(monkeypatch, steps):
    """Asks the run to stop after so many steps, as SIGTERM would."""
    asked = iter([False] * (steps - 1) + [True])
    monkeypatch.setattr(
        train.Interruption, "requested", lambda self, agree_after: next(asked)
    )


@pytest.fixture(scope="module")
def stopped(folder, finished):
    """A run stopped after five of its eight steps; copy it before going on."""
    workdir = folder / "stopped"
    with pytest.MonkeyPatch.context() as monkeypatch:
        _stop_after(monkeypatch, 5)
        state, summary = train.train(tiny.tiny_config(folder), workdir)
    assert int(state.step) == 5
    assert not summary["finished"]
    return workdir


def _copied(workdir, target):
    shutil.copytree(workdir, target)
    return target


def test_a_stopped_run_goes_on_bit_for_bit(stopped, finished, folder, tmp_path):
    workdir = _copied(stopped, tmp_path / "run")
    state, summary = train.train(tiny.tiny_config(folder), workdir)
    assert summary["finished"]
    _assert_equal(state, finished[1])
    straight, resumed = (
        [_learnt(line) for line in _lines(path) if line["step"] > 6]
        for path in (finished[0], workdir)
    )
    assert straight == resumed
    assert len(straight) >= 2


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    stopped, finished, folder, tmp_path, caplog
):
    workdir = _copied(stopped, tmp_path / "run")
    assert _saved_steps(workdir) == [4, 5]
    arrays = list((workdir / "checkpoints" / "5" / "optim").rglob("d/*"))
    largest = max(arrays, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with caplog.at_level("INFO"):
        state, _ = train.train(tiny.tiny_config(folder), workdir)
    assert "checkpoint 5 is damaged" in caplog.text
    assert "resuming at step 4 of 8" in caplog.text
    _assert_equal(state, finished[1])
    steps = [line["step"] for line in _lines(workdir) if line["split"] == "train"]
    assert steps == sorted(set(steps))


def _poison(batch):
    """Makes one stream of a batch NaN."""
    current = batch["streams"]["current"] * np.float32(np.nan)
    return batch | {"streams": batch["streams"] | {"current": current}}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize(
    ("log_every_steps", "bad_step"),
    [(2, 7), (1000, 6)],
    ids=["found when logging", "found when saving"],
)
def test_a_loss_that_is_not_finite_stops_the_run(
    stopped, folder, tmp_path, monkeypatch, log_every_steps, bad_step
):
    workdir = _copied(stopped, tmp_path / "run")
    make_train_steps = train.train_step.make_train_steps

    def poisoned(trainer, mesh):
        steps = make_train_steps(trainer, mesh)

        def run(state, batches, windows):
            if int(state.step) == bad_step - 1:
                batches = [_poison(batch) for batch in batches]
            return steps(state, batches, windows)

        return run

    monkeypatch.setattr(train.train_step, "make_train_steps", poisoned)
    config = tiny.tiny_config(folder)
    config.log_every_steps = log_every_steps
    with pytest.raises(
        FloatingPointError, match=f"every train value .* at step {bad_step} loss/"
    ):
        train.train(config, workdir)
    assert _saved_steps(workdir) == [4, 5]
    _assert_saved_is_finite(workdir)
    assert max(line["step"] for line in _lines(workdir)) < bad_step


def _assert_saved_is_finite(workdir):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for step in _saved_steps(workdir):
            for item in ("model", "optim"):
                folder = workdir / "checkpoints" / str(step) / item
                tree = checkpointer.restore(folder)
                for leaf in jax.tree.leaves(tree):
                    assert np.isfinite(np.asarray(leaf)).all()


def test_a_validation_that_is_not_finite_keeps_the_checkpoints_before(
    stopped, folder, tmp_path, monkeypatch
):
    workdir = _copied(stopped, tmp_path / "run")
    make_eval_step = train.train_step.make_eval_step

    def poisoned(trainer, mesh):
        evaluate = make_eval_step(trainer, mesh)
        return lambda state, batch, windows: evaluate(state, _poison(batch), windows)

    monkeypatch.setattr(train.train_step, "make_eval_step", poisoned)
    with pytest.raises(
        FloatingPointError, match=r"every validation value .* at step 7 loss/"
    ):
        train.train(tiny.tiny_config(folder), workdir)
    assert _saved_steps(workdir) == [4, 5]


@pytest.mark.parametrize("score", ["cpc_acuracy", "windows_per_s"])
def test_a_score_that_validation_does_not_measure_is_refused_at_once(
    folder, tmp_path, monkeypatch, score
):
    config = tiny.tiny_config(folder)
    config.score = score
    monkeypatch.setattr(train.logged_values.Meter, "next_batch", None)  # no step
    with pytest.raises(ValueError, match=rf"got '{score}'; use one of .*cpc_accuracy,"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    # The same folder serves the corrected command.
    config.score = "cpc_accuracy"
    train.RunDirectory(tmp_path / "run", config, write=True)


def test_a_minus_sign_lets_the_lowest_win():
    values = {"loss": 3.0, "cpc_accuracy": 0.5}
    assert validation.score_of(values, "-loss") == -3.0
    assert validation.score_of(values, "cpc_accuracy") == 0.5


def test_what_cannot_work_is_refused_before_anything_is_read(tmp_path):
    config = tiny.tiny_config()
    config.data.source = "fmalign_jax.data.recordings.RecordingFiles"
    config.data.path = str(tmp_path / "nowhere" / "*.npz")
    config.checkpoint_every_steps = 0
    with pytest.raises(ValueError, match="checkpoint_every_steps must be above 0"):
        train.train(config, tmp_path / "run")
    config.checkpoint_every_steps = 4
    config.data.prepared_dir = str(tmp_path / "prepared")
    with pytest.raises(ValueError, match="nowhere"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_epochs_that_make_no_step_are_refused(folder):
    config = tiny.tiny_config(folder)
    config.epochs = 0.01
    with pytest.raises(ValueError, match=r"at least one step; got 0.01 epochs of \d+"):
        setup.load_data(config)


def test_another_config_is_refused_and_nothing_changes(finished, folder):
    workdir = finished[0]
    config = tiny.tiny_config(folder)
    config.optimizer.learning_rate = 0.5
    with pytest.raises(ValueError, match=r"differs in optimizer\.learning_rate"):
        train.train(config, workdir)
    assert _saved_steps(workdir)[-1] == 8
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["optimizer"]["learning_rate"] == 1e-3


def test_another_lead_needs_no_new_preparation(finished, folder):
    def snapshot():
        files = (folder / "prepared").rglob("*.array_record*")
        return {path: path.stat().st_mtime_ns for path in files}

    before = snapshot()
    assert before
    config = tiny.tiny_config(folder)
    straight = setup.load_data(config)
    config.data.lead_s = 5.0
    leading = setup.load_data(config)
    assert snapshot() == before
    first, second = (
        next(iter(setup.training_batches(d, config, seed=0)))
        for d in (straight, leading)
    )
    assert not np.array_equal(first["streams"]["current"], second["streams"]["current"])


# Layout V2, by hand

START = np.datetime64("2021-04-19T21:40:52", "s")


def _stamps(seconds):
    moments = START + np.asarray(seconds).astype("timedelta64[s]")
    return [str(moment).replace("T", " ") for moment in moments]


def _write_layout_v2(root):
    """Two recordings of 300 s with every quirk, written without the package."""
    folder = root / "pixel-level"
    for kind in ("videos", "currents", "timestamps"):
        (folder / kind).mkdir(parents=True)
    parts = {"train": {}, "test": {}}
    for number, name in enumerate(("SaveToAvi-b-2", "SaveToAvi-a-1")):
        rng = np.random.default_rng(number)
        frame_second = np.repeat(np.arange(2, 300), 3)  # three frames a second
        frame_second = frame_second[frame_second != 40]  # a second without frames
        frame_second = np.sort(np.append(frame_second, [50, 50]))  # and a crowded one
        count = len(frame_second)
        rows = np.full(300, 2)
        rows[[10, 30]] = 1
        rows[[11, 60]] = 3
        rows[45] = 4  # a second written twice
        rows[70] = 0  # and one that is missing
        row_second = np.repeat(np.arange(300), rows)
        bright = (frame_second // 15) % 2
        frames = (
            rng.integers(0, 60, (count, 3, 16, 16)) + 120 * bright[:, None, None, None]
        )
        masks = np.zeros((count, 16, 16), np.uint8)
        masks[bright == 1, 3, 4] = 255
        with h5py.File(folder / "videos" / f"{name}.mat", "w") as file:
            file["data"] = frames.astype(np.uint8)
            file["label"] = masks
        current = rng.uniform(1e3, 1.6e4, (len(row_second), 3)).round(2).tolist()
        lines = [
            f"{stamp},{a},{b},{c}"
            for stamp, (a, b, c) in zip(_stamps(row_second), current, strict=True)
        ]
        (folder / "currents" / f"{name}.csv").write_text(
            "\n".join(["Time,Ia,Ib,Ic", *lines]) + "\n"
        )
        (folder / "timestamps" / f"{name}.csv").write_text(
            "\n".join(["time", *_stamps(frame_second)]) + "\n"
        )
        split = int(0.6 * count)
        parts["train"][f"{name}.mat"] = list(range(split))
        parts["test"][f"{name}.mat"] = list(range(split + 60, count))
    for part, frames in parts.items():
        (folder / f"{part}.json").write_text(json.dumps(frames))


@pytest.mark.slow
def test_a_benchmark_directory_written_by_hand_trains(tmp_path):
    _write_layout_v2(tmp_path / "FMF")
    config = tiny.tiny_config()
    config.data.source = "fmalign_jax.data.fmf.BenchmarkDirectory"
    config.data.path = str(tmp_path / "FMF")
    config.data.options = {"max_frame_rate_hz": 2.0}
    config.data.prepared_dir = str(tmp_path / "prepared")
    config.data.split.by = "given"
    config.data.stride_ticks = 2
    config.data.lead_s = 2.0
    config.max_steps = 2
    state, summary = train.train(config, tmp_path / "run")
    assert int(state.step) == 2
    assert summary["windows"]["train"] >= config.batch_size
    assert summary["windows"]["test"] > 0
    # Means over brightness 0..60 and 120..180; amperes between 1e3 and 1.6e4.
    assert np.all(np.abs(np.asarray(state.statistics["video"]["mean"]) - 90) < 20)
    assert np.all(np.abs(np.asarray(state.statistics["current"]["mean"]) - 8500) < 900)


# Other settings


@pytest.mark.slow
def test_bfloat16_goes_on_bit_for_bit_too(folder, tmp_path, monkeypatch):
    config = tiny.tiny_config(folder)
    config.compute_dtype = "bfloat16"
    config.max_steps = 4
    straight, _ = train.train(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        _stop_after(patch, 2)
        train.train(config, tmp_path / "run")
    assert _saved_steps(tmp_path / "run") == [2]
    resumed, summary = train.train(config, tmp_path / "run")
    assert summary["finished"]
    _assert_equal(resumed, jax.device_get(straight))


@pytest.mark.slow
def test_three_modalities_train_from_raw_files(tmp_path):
    tiny.write_recordings(tmp_path / "raw", text=True)
    config = tiny.with_text(tiny.tiny_config(tmp_path))
    config.max_steps = 2
    state, summary = train.train(config, tmp_path / "run")
    assert int(state.step) == 2
    assert sorted(state.model_state["codebook"].idle) == ["current", "text", "video"]
    assert sorted(state.statistics) == ["current", "video"]  # tokens have none
    values = summary["validation"]
    assert values["used_codes/text"] >= 1
    assert 0 < values["reconstruction_error/text"] < np.inf


# Signals

ENDLESS = ("--config.max_steps=100000", "--config.epochs=100000", *tiny.LIGHT_FLAGS)


def _start(folder, workdir, *flags):
    """Starts a tiny run in a process of its own; its errors go to a file beside it."""
    with workdir.with_suffix(".stderr").open("a") as stderr:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "fmalign_jax.train"),
                *("--config", f"{tiny.__file__}:{folder}", *flags),
                *("--workdir", str(workdir)),
            ],
            cwd=ROOT,
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


def _wait_until(condition, process, timeout_s=200):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and process.poll() is None:
        if condition():
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_sigterm_saves_and_leaves_in_peace(tmp_path):
    tiny.tiny_config(tmp_path)
    workdir = tmp_path / "run"
    process = _start(tmp_path, workdir, *ENDLESS)
    try:
        _wait_until((workdir / "metrics.jsonl").exists, process)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
    finally:
        process.kill()
    log = workdir.with_suffix(".stderr").read_text()
    assert code == 0, log[-2000:]
    summary = json.loads((workdir / "summary.json").read_text())
    assert not summary["finished"]
    assert 0 < summary["step"] < 100000
    assert f"saved step {summary['step']}" in log
    assert _saved_steps(workdir)[-1] == summary["step"]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(finished, folder, tmp_path):
    workdir = tmp_path / "run"
    process = _start(folder, workdir, *ENDLESS)
    try:
        _wait_until(lambda: any(workdir.glob("checkpoints/[0-9]*[0-9]")), process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    finally:
        process.kill()
    assert not (workdir / "summary.json").exists()
    last = max(_saved_steps(workdir)) + 2
    straight = tmp_path / "straight"
    for path in (workdir, straight):  # in a process of their own, as the killed one
        flags = (*ENDLESS, f"--config.max_steps={last}")
        assert _start(folder, path, *flags).wait(timeout=400) == 0, path
    assert _digests(workdir, last) == _digests(straight, last)
    assert f"resuming at step {last - 2} of {last}" in (
        workdir.with_suffix(".stderr").read_text()
    )
    steps = [line["step"] for line in _lines(workdir) if line["split"] == "train"]
    assert steps == sorted(set(steps))


def _digests(workdir, step):
    """What tells every array of a checkpoint, bit for bit, from any other."""
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        folder = workdir / "checkpoints" / str(step) / "digest"
        return checkpointer.restore(folder, args=ocp.args.JsonRestore())
