"""Timing, the machine's limits, and what a result was measured with."""

from __future__ import annotations

import importlib.metadata
import math
import os
import pathlib
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core as jax_core
import jax.numpy as jnp
import numpy as np

VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "grain", "torch")


def seconds(
    call: Callable[[], Any],
    *,
    calls: int = 1,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> float:
    """Returns how long a call takes on the average of some in a row.

    They are awaited together, as a training loop does it: while the device computes
    one, the host prepares the next.

    Args:
      call: what is measured.
      calls: how many in a row.
      wait: called with the last result; returns when the device is done.
    """
    started_s = time.perf_counter()
    for _ in range(calls):
        found = call()
    wait(found)
    return (time.perf_counter() - started_s) / calls


def calls_in_a_row(
    call: Callable[[], Any],
    *,
    wait: Callable[[Any], Any] = jax.block_until_ready,
    total_s: float = 0.3,
) -> int:
    """Returns how many warm calls, at most 20, take about so long together."""
    alone_s = min(seconds(call, wait=wait) for _ in range(3))
    return max(1, min(20, int(total_s / alone_s)))


def spread(times_s: list[float]) -> dict[str, float]:
    """Returns median and quartiles of times, ms, and how many there were."""
    low, median, high = np.quantile(times_s, (0.25, 0.5, 0.75)) * 1e3
    return {
        "median_ms": round(float(median), 3),
        "quartiles_ms": [round(float(low), 3), round(float(high), 3)],
        "calls": len(times_s),
    }


def shown(found: Mapping[str, Any], digits: int = 1) -> str:
    """Returns a spread as tables show it: median (quartiles)."""
    low, high = found["quartiles_ms"]
    return f"{found['median_ms']:.{digits}f} ({low:.{digits}f}, {high:.{digits}f})"


def repeated(
    call: Callable[[], Any], *, budget_s: float, calls: int = 1
) -> list[float]:
    """Returns the times of a warm call, as often as fits, and at least five times.

    Args:
      call: what is measured.
      budget_s: for all of it.
      calls: how many are awaited together, see `seconds`.
    """
    times_s = [seconds(call, calls=calls)]
    while len(times_s) < 5 or sum(times_s) * calls < budget_s:
        times_s.append(seconds(call, calls=calls))
    return times_s


def beside(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    wait: Callable[[Any], Any],
    budget_s: float,
) -> dict[str, Any]:
    """Measures two warm calls in turn, and how many times as long theirs takes.

    Args:
      ours: awaited as JAX is.
      theirs: the other.
      wait: called with the last result of theirs; returns when the device is done.
      budget_s: for all of it; each is measured five times at least.

    Returns:
      Spreads `ours` and `torch`, and `ratio`, theirs / ours: median and quartiles.
    """
    calls = calls_in_a_row(ours)
    their_calls = calls_in_a_row(theirs, wait=wait)
    ours_s, theirs_s = [], []
    until_s = time.perf_counter() + budget_s
    while len(ours_s) < 5 or time.perf_counter() < until_s:
        ours_s.append(seconds(ours, calls=calls))
        theirs_s.append(seconds(theirs, calls=their_calls, wait=wait))
    ratios = np.array(theirs_s) / np.array(ours_s)
    return {
        "ours": spread(ours_s),
        "torch": spread(theirs_s),
        "ratio": {
            "median": float(np.median(ratios)),
            "quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
        },
    }


def matrix_ceiling(dtype: Any = jnp.float32, *, side: int = 0) -> float:
    """Returns the FLOP/s of square matrix products, the best of several rows."""
    side = side or (2048 if jax.default_backend() == "cpu" else 8192)
    x = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(x))
    return 2 * side**3 / _best_s(lambda: product(x))


def memory_bandwidth(*, megabytes: int = 0) -> float:
    """Returns the bytes/s of scaled copies, read and written, the best of several."""
    megabytes = megabytes or (256 if jax.default_backend() == "cpu" else 2048)
    x = jnp.ones(megabytes * 2**20 // 4, jnp.float32)
    scale = jax.jit(lambda a: a * 1.5)
    jax.block_until_ready(scale(x))
    return 2 * x.nbytes / _best_s(lambda: scale(x))


def _best_s(call: Callable[[], Any]) -> float:
    calls = calls_in_a_row(call)
    return min(seconds(call, calls=calls) for _ in range(7))


def matrix_flops(jaxpr: Any) -> int:
    """Returns the FLOPs of all matrix products and convolutions of a program.

    XLA's own cost analysis counts the body of a loop once, however often it runs: it
    misses most of an LSTM, of the critics' steps and of work done in portions.

    Args:
      jaxpr: of `jax.make_jaxpr`.
    """
    total = 0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval if equation.outvars else None
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * out.size * math.prod(shape[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            features = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2 * out.size * kernel.size // kernel.shape[features]
        times = equation.params.get("length", 1)
        for inner in jax_core.jaxprs_in_params(equation.params):
            total += times * matrix_flops(inner)
    return total


def kernels(
    call: Callable[[], Any], *, calls: int = 5, planes: str = "/device:GPU"
) -> dict[str, float] | None:
    """Counts, by a profile, what a warm call starts on a GPU, and how long it runs.

    With command buffers, `--xla_enable_command_buffers_during_profiling=true` in
    XLA_FLAGS: without it a profile switches them off.

    Args:
      call: what is profiled.
      calls: how many in a row.
      planes: how the names of the devices' planes begin.

    Returns:
      ``kernels`` and ``kernel_ms`` of one call; None where there is no such plane.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            seconds(call, calls=calls)
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    own = [plane for plane in profile.planes if plane.name.startswith(planes)]
    if not own:
        return None
    streams = [line for line in own[0].lines if "Stream" in line.name] or own[0].lines
    lasted_ns = [event.duration_ns for line in streams for event in line.events]
    return {
        "kernels": len(lasted_ns) / calls,
        "kernel_ms": sum(lasted_ns) / calls / 1e6,
    }


def provenance() -> dict[str, Any]:
    """Returns hardware, versions and commit."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "cpu": _processor(),
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _commit(),
    }


def _processor() -> str:
    about = pathlib.Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def _commit() -> str:
    root = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
