"""Small made-up recordings for the tests of the stored data set and the pipeline."""

import numpy as np

from fmalign_jax.structs import UNLABELLED, Recording, Stream


def stream(values, rate_hz, clip=None, label=None, **about):
    """Makes a stream on a regular clock that starts at 0."""
    n = len(values)
    return Stream(
        values=values,
        time_s=np.arange(n) / rate_hz,
        clip=np.zeros(n, np.int32) if clip is None else clip,
        label=np.full(n, UNLABELLED, np.int32) if label is None else label,
        **about,
    )


class FakeSource:
    """Recordings of frames at 1 fps, currents at 2 Hz and tokens every 4 s.

    Values tell where they come from: pixel 0 of frame i is i % 256, phase 0 of current
    sample i is 1000 * recording + i.
    """

    def __init__(self, seconds=(60, 75, 90), *, frame_shape=(4, 4, 3), tokens=True):
        self.seconds = seconds
        self.frame_shape = frame_shape
        self.tokens = tokens
        self.reads = []

    def names(self):
        return [f"furnace-{i:02}" for i in range(len(self.seconds))]

    def fingerprint(self):
        return f"fake{hash((tuple(self.seconds), self.tokens)) & 0xFFFF:04x}"

    def read(self, name):
        self.reads.append(name)
        number = self.names().index(name)
        n = self.seconds[number]
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 256, (n, *self.frame_shape), dtype=np.uint8)
        frames[:, 0, 0, 0] = np.arange(n) % 256
        current = rng.normal(50, 3, (2 * n, 3)).astype(np.float32)
        current[:, 0] = 1000 * number + np.arange(2 * n)
        label = (np.arange(n) // 10 % 2).astype(np.int32)
        streams = {
            "video": stream(frames, 1.0, label=label, unit="grey level"),
            "current": stream(current, 2.0, unit="A", channel_names=("ia", "ib", "ic")),
        }
        if self.tokens:
            streams["text"] = stream(np.arange(n // 4 + 1, dtype=np.int32), 0.25)
        return Recording(
            name,
            streams,
            label_names=("normal", "abnormal"),
            partition={"train": ((0.0, 40.0),), "test": ((45.0, float(n)),)},
            provenance="made up",
        )
