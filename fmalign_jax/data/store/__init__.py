"""The prepared data set: written by `builder`, read by `reader`."""

from fmalign_jax.data.store.reader import RecordingStore

__all__ = [
    "RecordingStore",
]
