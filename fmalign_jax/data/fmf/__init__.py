"""FMF-Benchmark in layout V2, read and written, and in V1, read."""

from fmalign_jax.data.fmf.benchmark import (
    BenchmarkDirectory,
    write_recording,
    write_split,
)
from fmalign_jax.data.fmf.first_layout import BenchmarkV1

__all__ = [
    "BenchmarkDirectory",
    "BenchmarkV1",
    "write_recording",
    "write_split",
]
