"""Recordings whose frames and sensor both tell the class, for tests of evaluation."""

import pathlib

import numpy as np

COLUMNS = np.arange(16)
PATTERNS = np.stack([COLUMNS < 3, COLUMNS >= 8, COLUMNS % 2 == 1]).astype(float)
"""By class, which columns are bright: encoders may take the mean of a frame away."""


def write(
    folder: pathlib.Path,
    *,
    classes=("cold", "warm", "hot"),
    recordings: int = 2,
    seconds: int = 120,
    seed: int = 0,
    stretch_s: int = 12,
    clips: bool = False,
    channels: int = 3,
    labelled: bool = True,
) -> pathlib.Path:
    """Writes .npz files; every stretch has a class of its own, and may be a clip."""
    folder.mkdir(parents=True)
    for index in range(recordings):
        rng = np.random.default_rng([seed, index])
        stretch = np.arange(seconds) // stretch_s
        label = rng.permutation(stretch.max() + 1)[stretch] % len(classes)
        noise = rng.normal(0, 8, (seconds, 16, 16, 3))
        frames = 60 + 120 * PATTERNS[label][:, None, :, None] + noise
        amplitude = (1 + 2 * label.repeat(2))[:, None]
        sensor = amplitude * rng.normal(size=(seconds * 2, channels))
        arrays = {
            "frames": np.clip(frames, 0, 255).astype(np.uint8),
            "frame_t": np.arange(seconds) + 0.5,
            "sensor": sensor.astype(np.float32),
            "sensor_t": np.arange(seconds * 2) / 2 + 0.25,
            "channel_names": np.array(list("abcdef")[:channels]),
            "label_names": np.array(classes),
        }
        if labelled:
            arrays["frame_label"] = label.astype(np.int16)
        if clips:
            arrays["frame_clip"] = stretch.astype(np.int32)
            arrays["sensor_clip"] = stretch.repeat(2).astype(np.int32)
            arrays["clip_names"] = np.array([f"take {i}" for i in np.unique(stretch)])
        np.savez(folder / f"seed{seed}_{index}.npz", **arrays)
    return folder
