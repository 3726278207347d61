"""Recordings of users: `.npz` files, or a video file beside a CSV."""

from fmalign_jax.data.recordings.files import RecordingFiles
from fmalign_jax.data.recordings.npz import write_npz

__all__ = [
    "RecordingFiles",
    "write_npz",
]
