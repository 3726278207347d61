"""Makes the sample recordings that come with the package.

    python scripts/make_sample.py --out fmalign_jax/data/sample_recordings

Three simulated furnaces of the default profile, 20 minutes each, a frame every 2 s and
the current twice a second, as a video beside two CSV files; and `croissant.json`.
Another version of the video encoder may give other bytes:
fmalign_jax/data/sample_recordings is what counts.
"""

from __future__ import annotations

import argparse
import csv
import fractions
import pathlib

import av
import numpy as np
from jaxtyping import Int, UInt8

from fmalign_jax.data import croissant
from fmalign_jax.data.clocks import spread_within_seconds
from fmalign_jax.data.simulator import PROFILES, simulate
from fmalign_jax.data.simulator.furnaces import SimulatedFurnace

SEEDS = (1, 2, 3)
DURATION_S = 1200.0
FRAME_RATE_HZ = 0.5
LABELS = ("normal", "semi-molten")  # in this order, sorted too
_QUALITY = "28"  # constant rate factor of H.264: 64 x 64 pixels in about 170 kB


def main() -> None:
    """Writes the recordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS, start=1):
        found = simulate(
            PROFILES["default"],
            duration_s=DURATION_S,
            seed=seed,
            frame_rate_hz=FRAME_RATE_HZ,
        )
        write(out / f"furnace_{number}.mp4", found)
        print(f"furnace_{number}: seed {seed}, lead {found.truth.lead_s:.1f} s")
    croissant.write(out, described(out))


def described(folder: pathlib.Path) -> croissant.Json:
    """Returns what the recordings in a folder are, under the licence of the package."""
    said = "Three simulated furnaces, not real ones, of 20 minutes each."
    about = {"license": "https://spdx.org/licenses/Apache-2.0"}
    return croissant.videos_and_tables(folder, said, about)


def write(path: pathlib.Path, found: SimulatedFurnace) -> None:
    """Writes a recording: the video, its current and its labels."""
    start = found.frame_second.min()
    frame_s = (found.frame_second - start).astype(np.int64)
    _write_video(path, found.frames, frame_s)
    current_s = (found.current_second - start).astype(np.int64)
    rows = zip(
        spread_within_seconds(current_s).tolist(),
        np.rint(found.current).astype(int).tolist(),
        strict=True,
    )
    _write_csv(
        path.with_suffix(".csv"),
        ["time", "a", "b", "c"],
        [[f"{moment:g}", *row] for moment, row in rows],
    )
    state = found.masks.any(axis=(1, 2)).astype(int)
    first = np.flatnonzero(np.diff(state, prepend=-1))
    _write_csv(
        path.with_suffix(".labels.csv"),
        ["time", "label"],
        [[int(frame_s[i]), LABELS[state[i]]] for i in first],
    )


def _write_video(
    path: pathlib.Path,
    frames: UInt8[np.ndarray, "N H W 3"],
    second: Int[np.ndarray, "N"],
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": _QUALITY, "preset": "veryslow"}
        stream.time_base = fractions.Fraction(1, 1)
        for pixels, moment in zip(frames, second.tolist(), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = moment, fractions.Fraction(1, 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_csv(path: pathlib.Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
