"""Two processes on this machine train as one does."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from fmalign_jax.data import pipeline
from fmalign_jax.training import setup

ROOT = pathlib.Path(__file__).parents[1]
LIMIT_S = 240


def _free_port():
    with contextlib.closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _start(folder, workdir, *flags, devices):
    """Starts one training process; its output goes to a file beside the run."""
    log = workdir.with_name(f"{workdir.name}-{len(list(folder.glob('*.log')))}.log")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "fmalign_jax.train"]
    command += ["--config", f"{tiny.__file__}:{folder}", "--workdir", str(workdir)]
    with log.open("w") as output:
        return log, subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _finish(started):
    try:
        for log, process in started:
            assert process.wait(timeout=LIMIT_S) == 0, log.read_text()[-3000:]
    finally:
        for _, process in started:
            process.kill()
            process.wait()


def _together(folder, workdir, *flags):
    address = f"--coordinator=127.0.0.1:{_free_port()}"
    _finish(
        [
            _start(
                folder,
                workdir,
                *(address, "--processes=2", f"--process={index}", *flags),
                devices=1,
            )
            for index in range(2)
        ]
    )


def _saved(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        for item in ("model", "optim"):
            metadata = checkpointer.metadata(folder / item).item_metadata.tree
            restore_args = jax.tree.map(
                lambda _: ocp.ArrayRestoreArgs(sharding=sharding), metadata
            )
            tree = checkpointer.restore(
                folder / item,
                args=ocp.args.PyTreeRestore(restore_args=restore_args),
            )
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                yield item + jax.tree_util.keystr(path), np.asarray(leaf)


@pytest.mark.slow
@pytest.mark.timeout(4 * LIMIT_S)
def test_two_processes_train_save_and_resume_as_one(tmp_path):
    tiny.tiny_config(tmp_path)
    # Wide enough for arrays worth sharing; and rounding is not amplified where a
    # gradient is zero (docs/architecture.md).
    flags = (
        *tiny.LIGHT_FLAGS,
        "--config.objectives.cross_cpc.width=128",
        "--config.optimizer.epsilon=1e-3",
    )
    alone = tmp_path / "alone"
    _finish([_start(tmp_path, alone, *flags, devices=2)])
    both = tmp_path / "both"
    _together(tmp_path, both, *flags, "--config.max_steps=4")
    _together(tmp_path, both, *flags, "--config.optimizer.shard_state=True")
    assert "resuming at step 4" in "".join(
        path.read_text() for path in tmp_path.glob("both-*.log")
    )
    expected, found = dict(_saved(alone, 8)), dict(_saved(both, 8))
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        # A step that used local rows alone would differ by a rate a step, 8e-3 in all.
        # Rounding decides on which side of its kink a unit of a critic lies. What Adam
        # remembers of that unit may then be anything, so that all of it is compared:
        # of half the rows the gradients are others altogether.
        if path.startswith("optim['critic_opt_state']"):
            change = np.linalg.norm(np.float64(found[path]) - value)
            assert change <= 0.1 * np.linalg.norm(value), path
            continue
        atol = 1e-3 if "critic" in path else 1e-4
        np.testing.assert_allclose(
            found[path], value, rtol=1e-4, atol=atol, err_msg=path
        )


RESIDENT = """
import sys
import jax, numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from fmalign_jax.training import resident, sharding
mesh = sharding.make_mesh()
own = slice(2 * jax.process_index(), 2 * jax.process_index() + 2)
tables = {
    "values": {"video": np.arange(60, dtype=np.uint8).reshape(20, 3)},
    "samples": {"video": np.arange(20, dtype=np.int32)[::-1, None]},
    "label": np.arange(20, dtype=np.int32),
    "start": np.array([3, 0, 9, 16], np.int32),
    "recording": np.arange(4, dtype=np.int32),
    "time_s": 1.7e9 + np.arange(4) / 8,
}
placed = sharding.place_replicated(tables, mesh)
window = np.array([2, 1, 3, 0], np.int32)
numbers = sharding.place_batch({"window": window[own]}, mesh)["window"]
batch = jax.jit(resident.gather, static_argnums=2)(placed, numbers, 4)
ticks = tables["start"][window[own], None] + np.arange(4)
expected = tables["values"]["video"][tables["samples"]["video"][ticks]]
(part,) = batch["streams"]["video"].addressable_shards
np.testing.assert_array_equal(part.data, expected)
(part,) = batch["time_s"].addressable_shards
found = np.asarray(part.data, np.float64).sum(axis=-1)
np.testing.assert_array_equal(found, tables["time_s"][window[own]])
"""


def test_two_processes_read_their_rows_of_resident_windows(tmp_path):
    address = f"127.0.0.1:{_free_port()}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    started = []
    for index in range(2):
        log = tmp_path / f"{index}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", RESIDENT, address, str(index)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append((log, process))
    _finish(started)


def test_the_rows_of_two_processes_make_up_the_batch(tmp_path):
    config = tiny.tiny_config(tmp_path)
    data = setup.load_data(config)

    def batch(process, count):
        batches = pipeline.training_batches(
            data.store,
            data.windows["train"],
            batch_size=config.batch_size,
            seed=0,
            process_index=process,
            process_count=count,
        )
        with contextlib.closing(batches):
            return next(batches)

    whole, first, second = batch(0, 1), batch(0, 2), batch(1, 2)
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)
    jax.tree.map(np.testing.assert_array_equal, both, whole)
    windows = [
        set(zip(part["recording"].tolist(), part["time_s"].tolist(), strict=True))
        for part in (first, second)
    ]
    assert not windows[0] & windows[1]
