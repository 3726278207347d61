"""Kills a training run (-9) at random moments; does it always come back the same?

    python scripts/kill_test.py --kills 20

An undisturbed run comes first. Then the same run is started, killed and started again
until it ends by itself; whenever it ends before all kills are spent, another begins in
a fresh folder. Each must end with a checkpoint equal bit for bit to the undisturbed
one's. A moment is uniform over what a start may still last, its start-up included.
Prints a table and a verdict; exits 1 when any run ended differently.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETTINGS = (
    "--config.max_steps=150",
    "--config.checkpoint_every_steps=5",
    "--config.data.stride_ticks=2",
    "--config.model.width=16",
    "--config.model.transformer.ffn=32",
    "--config.model.transformer.layers=1",
    "--config.model.modalities.video.stem.features=(8, 8)",
    "--config.model.modalities.video.stem.strides=(8, 2)",
    "--config.model.modalities.video.specific.features=(8,)",
    "--config.model.modalities.current.stem.features=(16, 16)",
    "--config.objectives.cross_cpc.width=16",
)
"""What makes the smoke config still smaller."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One start of the run: where it took up, when and whether it was killed."""

    round: int
    resumed_step: int | None  # None: killed before it said so
    lasted_s: float
    killed: bool
    saved_step: int


def start(folder: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen[str]:
    """Starts or resumes the run."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "fmalign_jax.train"),
            *("--config", "configs/pretrain.py:smoke", "--workdir", str(workdir)),
            f"--config.data.path={folder / 'simulated'}",
            f"--config.data.prepared_dir={folder / 'prepared'}",
            *SETTINGS,
        ],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def attempt(
    folder: pathlib.Path, workdir: pathlib.Path, *, round: int, kill_after_s: float
) -> Attempt:
    """Starts the run and kills it after so long, unless it ended before.

    Raises:
      RuntimeError: when the run fails by itself.
    """
    started_s = time.perf_counter()
    process = start(folder, workdir)
    try:
        _, output = process.communicate(timeout=kill_after_s)
        killed = False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        _, output = process.communicate()
        killed = True
    if not killed and process.returncode:
        raise RuntimeError(f"the run failed by itself:\n{output[-3000:]}")
    found = re.search(r"(starting|resuming) at step (\d+) of", output)
    return Attempt(
        round=round,
        resumed_step=int(found[2]) if found else None,
        lasted_s=time.perf_counter() - started_s,
        killed=killed,
        saved_step=last_step(workdir),
    )


def last_step(workdir: pathlib.Path) -> int:
    """Returns the step of the last checkpoint, 0 without any."""
    folders = (workdir / "checkpoints").glob("[0-9]*")
    return max((int(path.name) for path in folders if path.name.isdigit()), default=0)


def content(workdir: pathlib.Path) -> dict[str, np.ndarray | str]:
    """Returns every array of the last checkpoint, its data position and the curves."""
    folder = workdir / "checkpoints" / str(last_step(workdir))
    found: dict[str, np.ndarray | str] = {"step": str(last_step(workdir))}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for item in ("model", "optim"):
            tree = checkpointer.restore(folder / item)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        position = checkpointer.restore(folder / "data", args=ocp.args.JsonRestore())
        found["data"] = json.dumps(position, sort_keys=True)
    return found


def differences(
    found: dict[str, np.ndarray | str], expected: dict[str, np.ndarray | str]
) -> list[str]:
    """Returns the names of what is not the same, bit for bit."""

    def same(a: np.ndarray | str | None, b: np.ndarray | str | None) -> bool:
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return a.dtype == b.dtype and a.tobytes() == b.tobytes()
        return type(a) is type(b) and a == b

    names = found.keys() | expected.keys()
    return sorted(n for n in names if not same(found.get(n), expected.get(n)))


def disturb(
    folder: pathlib.Path, *, kills: int, whole_s: float, steps: int, seed: int
) -> list[Attempt]:
    """Runs, kills and resumes until all kills are spent and the last run has ended."""
    moments = random.Random(seed)
    attempts: list[Attempt] = []
    spent, number = 0, 1
    while True:
        workdir = folder / f"run-{number}"
        # A start lasts its start-up, about half of the whole, and the steps to go.
        left = 1 - last_step(workdir) / steps
        moment_s = moments.uniform(0, whole_s * (0.5 + 0.5 * left))
        last = attempt(
            folder,
            workdir,
            round=number,
            kill_after_s=moment_s if spent < kills else 60 * whole_s,
        )
        attempts.append(last)
        print(row(last), flush=True)
        spent += last.killed
        if not last.killed:
            if spent >= kills:
                return attempts
            number += 1


def row(attempt: Attempt) -> str:
    """Returns one line of the table."""
    resumed = "-" if attempt.resumed_step is None else str(attempt.resumed_step)
    end = "killed" if attempt.killed else "finished"
    return (
        f"{attempt.round:>5}  {resumed:>12}  {attempt.lasted_s:>8.1f}  {end:<8}  "
        f"{attempt.saved_step:>10}"
    )


def main() -> int:
    """Runs the test and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        # The first prepares data and compiles; the second is what a start lasts.
        for workdir in ("warm-up", "undisturbed"):
            calm = attempt(folder, folder / workdir, round=0, kill_after_s=3600)
        print(f"undisturbed: {calm.saved_step} steps in {calm.lasted_s:.1f} s")
        print("  run  resumed from   after, s  end       last saved", flush=True)
        attempts = disturb(
            folder,
            kills=arguments.kills,
            whole_s=calm.lasted_s,
            steps=calm.saved_step,
            seed=arguments.seed,
        )
        expected = content(folder / "undisturbed")
        rounds = sorted({attempt.round for attempt in attempts})
        wrong = {
            number: differences(content(folder / f"run-{number}"), expected)
            for number in rounds
        }
    for number, names in wrong.items():
        verdict = f"DIFFERENT in {len(names)}: {names[:3]}" if names else "bit-equal"
        print(f"run {number}: {verdict}")
    failed = sum(bool(names) for names in wrong.values())
    print(
        f"{sum(a.killed for a in attempts)} kills, {len(rounds)} runs, "
        f"{len(expected)} arrays and values compared: "
        f"{'FAILED' if failed else 'all bit-equal to the undisturbed run'}"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
