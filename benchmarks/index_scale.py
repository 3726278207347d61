"""Measures time and memory of the window index as the number of windows grows.

    python benchmarks/index_scale.py --out benchmarks/results/index_scale.json

Clocks are made up, values are zeros and nothing is read from a disk; the windows are
found by the real `build_index`, and the first batch comes from the real
`training_batches`. Each size has a process of its own, so that the peak of its memory
is its own. A size whose memory would exceed the limit is not begun.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import numpy as np

from fmalign_jax.data import pipeline
from fmalign_jax.data.files import write_text
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.store.reader import StreamInfo
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline
from fmalign_jax.data.windows.index import SplitSpec, WindowSpec, build_index
from fmalign_jax.structs import UNLABELLED

RECORDING_S = 36_000
"""Length of a recording: ten hours, as many ticks."""

WINDOW_TICKS = 50
RATES_HZ = {"video": 1, "current": 2}
SHAPES = {"video": ((64, 64, 3), np.uint8), "current": ((3,), np.float32)}
BATCH = 32
CLOCKS = 8
"""Different clocks; recordings take them in turn, so that a small machine holds all."""

_LOST = 1e-3  # of the samples
_COLUMNS = ("index_cpu_s", "first_batch_cpu_s", "peak_bytes")


class MadeUpStore(RecordingStore):
    """Recordings that have clocks, and zeros for values."""

    def __init__(self, timelines: list[Timeline]) -> None:
        """Takes the clocks."""
        self._timelines = timelines
        self.names = tuple(timeline.name for timeline in timelines)
        self.fingerprint = "made up"
        self.streams = {
            name: StreamInfo(shape, np.dtype(dtype), "", (), 1, 0)
            for name, (shape, dtype) in SHAPES.items()
        }

    def gather(self, stream: str, recording: int, samples: np.ndarray) -> np.ndarray:
        """Returns zeros of the right shape."""
        info = self.streams[stream]
        return np.zeros((*samples.shape, *info.value_shape), info.dtype)


def make_clocks(recordings: int, seconds: int) -> list[Timeline]:
    """Returns recordings whose clocks jitter and lose samples."""
    rng = np.random.default_rng(0)
    different = [
        {name: _clock(rng, seconds, rate_hz) for name, rate_hz in RATES_HZ.items()}
        for _ in range(min(CLOCKS, recordings))
    ]
    return [
        Timeline(f"recording {number:06}", number, different[number % len(different)])
        for number in range(recordings)
    ]


def _clock(rng: np.random.Generator, seconds: int, rate_hz: int) -> StreamTimeline:
    n = seconds * rate_hz
    time_s = (np.arange(n) + rng.uniform(-0.2, 0.2, n)) / rate_hz
    kept = rng.random(n) >= _LOST
    kept[[0, -1]] = True
    n = int(kept.sum())
    return StreamTimeline(
        time_s[kept],
        np.broadcast_to(np.int32(0), n),
        np.broadcast_to(np.int32(UNLABELLED), n),
    )


def measure_size(windows: int, *, recording_s: int = RECORDING_S) -> dict[str, Any]:
    """Returns time and memory for at least so many windows, all splits together."""
    recordings = max(3, math.ceil(windows / (recording_s - WINDOW_TICKS)))
    timelines = make_clocks(recordings, recording_s)
    spec = WindowSpec(samples_per_tick=RATES_HZ, window_ticks=WINDOW_TICKS)
    before = _memory_bytes()
    timer = _Timer()
    indexes = build_index(timelines, spec, SplitSpec(by="recording"))
    index_times = timer.passed("index")
    index_peak = _peak_bytes()
    gc.collect()
    held = _memory_bytes() - before
    found: dict[str, Any] = {
        "windows": sum(map(len, indexes.values())),
        "recordings": recordings,
        "ticks": len(indexes["train"].ticks),
        "before_bytes": before,
        "held_bytes": held,
        **index_times,
        "index_peak_bytes": index_peak,
    }
    store = MadeUpStore(timelines)
    for batch_from, name in (("all", "first_batch"), ("recording", "by_recording")):
        timer = _Timer()
        with closing(
            pipeline.training_batches(
                store,
                indexes["train"],
                batch_size=BATCH,
                seed=0,
                batch_from=batch_from,
            )
        ) as batches:
            next(batches)
            found |= timer.passed(name)
            found[f"{name}_crc32"] = batches.get_state()["windows_crc32"]
        found[f"{name}_peak_bytes"] = _peak_bytes()
    found["peak_bytes"] = found["first_batch_peak_bytes"]
    found["bytes_per_window"] = held / found["windows"]
    return found


class _Timer:
    """Time that passed, and what the processor spent of it on this process.

    On a machine that others use as well, the second says what the first would be.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def passed(self, name: str) -> dict[str, float]:
        passed_s = time.perf_counter() - self._started[0]
        return {
            f"{name}_s": passed_s,
            f"{name}_cpu_s": time.process_time() - self._started[1],
        }


def _memory_bytes() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def slopes(runs: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Returns by which power time and memory grow from each size to the next.

    1 is linear. Memory is counted above that of the empty program.
    """
    found = []
    for one, other in itertools.pairwise(runs):
        times = math.log(other["windows"] / one["windows"])
        found.append(
            {
                "from": one["windows"],
                "to": other["windows"],
                **{
                    key: math.log(_above(other, key) / _above(one, key)) / times
                    for key in _COLUMNS
                },
            }
        )
    return found


def _above(run: dict[str, Any], key: str) -> float:
    return float(run[key] - run["before_bytes"] * key.endswith("bytes"))


def would_take(runs: list[dict[str, Any]], windows: int) -> float:
    """Returns the memory of a next size, if it grows as the windows do."""
    if not runs:
        return 0.0
    last = runs[-1]
    peak = max(last["peak_bytes"], last["by_recording_peak_bytes"])
    empty = last["before_bytes"]
    return float(empty + (peak - empty) * windows / last["windows"])


def print_table(found: dict[str, Any]) -> None:
    """Prints sizes, and how they grow."""
    print(
        "| windows | index, s (CPU) | first batch, s (CPU) | of one recording, s (CPU) "
        "| held, bytes a window | peak, GB |\n|---|---|---|---|---|---|"
    )
    for run in found["runs"]:
        print(row(run))
    for slope in found["slopes"]:
        grown = ", ".join(f"{key} {slope[key]:.2f}" for key in _COLUMNS)
        print(f"from {slope['from']:.2g} to {slope['to']:.2g} windows, powers: {grown}")
    if found["stopped"]:
        print(found["stopped"])


def row(run: dict[str, Any]) -> str:
    """Returns one size as a row of the table of docs/scale.md."""
    times = " | ".join(
        f"{run[f'{name}_s']:.1f} ({run[f'{name}_cpu_s']:.1f})"
        for name in ("index", "first_batch", "by_recording")
    )
    return (
        f"| {run['windows']:,} | {times} | {run['bytes_per_window']:.1f} | "
        f"{run['peak_bytes'] / 1e9:.2f} |"
    ).replace(",", " ")


def main() -> None:
    """Measures every size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="1e5,1e6,1e7,1e8", help="windows")
    parser.add_argument("--limit-gb", type=float, default=6.0, help="memory, at most")
    parser.add_argument("--one", type=float, help="measure this size here, as JSON")
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_size(int(arguments.one))))
        return
    runs: list[dict[str, Any]] = []
    stopped = None
    for size in map(float, arguments.sizes.split(",")):
        needed = would_take(runs, int(size))
        if needed > arguments.limit_gb * 1e9:
            stopped = (
                f"{size:.0e} windows were not measured: by the size before they would "
                f"take {needed / 1e9:.1f} GB, and the limit is {arguments.limit_gb:g}"
            )
            break
        command = [sys.executable, __file__, "--one", str(size)]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(child.stdout.splitlines()[-1]))
        print(row(runs[-1]), flush=True)
    import measure  # JAX is not part of what is measured

    found = {
        "command": f"index_scale.py --sizes {arguments.sizes}",
        "made_with": measure.provenance(),
        "window_ticks": WINDOW_TICKS,
        "batch": BATCH,
        "limit_bytes": arguments.limit_gb * 1e9,
        "runs": runs,
        "slopes": slopes(runs),
        "stopped": stopped,
    }
    print_table(found)
    if arguments.out:
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
