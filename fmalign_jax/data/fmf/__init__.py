"""FMF-Benchmark in layout V2, read and written."""

from fmalign_jax.data.fmf.benchmark import (
    BenchmarkDirectory,
    write_recording,
    write_split,
)

__all__ = [
    "BenchmarkDirectory",
    "write_recording",
    "write_split",
]
