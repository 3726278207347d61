"""Draws docs/architecture.png: the data flow through the package.

    python scripts/draw_architecture.py [--output docs/architecture.png]

A few seconds.
"""

from __future__ import annotations

import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

INK = "#1f2933"
LINE_HEIGHT = 2.15
HEIGHT = 11.0

Point = tuple[float, float]


class Box:
    """A rounded box; its sides are where arrows start and end."""

    def __init__(
        self,
        axes: Axes,
        centre: Point,
        width: float,
        title: str,
        lines: str,
        module: str,
        colour: str,
        *,
        height: float = HEIGHT,
    ) -> None:
        (x, y), half = centre, height / 2
        self.left, self.right = (x - width / 2, y), (x + width / 2, y)
        self.top, self.bottom = (x, y + half), (x, y - half)
        axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, y - half),
                width,
                height,
                boxstyle="round,pad=0,rounding_size=0.8",
                facecolor="white",
                edgecolor=colour,
                linewidth=1.6,
                zorder=3,
            )
        )
        top = y + half - (1.9 if lines else 1.4)
        style = {"ha": "center", "va": "center", "zorder": 4}
        axes.text(x, top, title, fontsize=10.5, weight="bold", color=INK, **style)
        for row, line in enumerate(lines.splitlines(), start=1):
            place = top - 0.35 - row * LINE_HEIGHT
            axes.text(x, place, line, fontsize=8.8, color=INK, **style)
        axes.text(
            x,
            y - half + (1.35 if lines else 1.0),
            module,
            fontsize=7.8,
            family="monospace",
            color=colour,
            **style,
        )


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="docs/architecture.png", type=pathlib.Path)
    output = parser.parse_args().output
    figure, axes = plt.subplots(figsize=(15, 11.2), layout="constrained")
    axes.set(xlim=(0, 150), ylim=(0, 112.5))
    axes.axis("off")
    stored = draw_raw(axes)
    batch = draw_windows(axes, stored)
    parameters, codebook = draw_step(axes, batch)
    draw_run(axes, parameters, codebook)
    figure.savefig(output, dpi=110, metadata={"Software": None})


def draw_raw(axes: Axes) -> Box:
    """Raw files to stored recordings; returns the last box."""
    colour = "#8d5524"
    lane(axes, (86, 112), "On disk, once: raw data become recordings", colour)
    kinds = (
        ("simulated furnaces", "data.simulator.SimulatedFurnaces"),
        ("FMF benchmark, layout V2", "data.fmf.BenchmarkDirectory"),
        (".npz files; video + CSV", "data.recordings.RecordingFiles"),
        ("your own class", "names(), read(), fingerprint()"),
    )
    sources = []
    for row, (title, module) in enumerate(kinds):
        y = 105.6 - row * 5.3
        sources.append(Box(axes, (23, y), 40, title, "", module, colour, height=4.7))
    recording = Box(
        axes,
        (71, 97.5),
        32,
        "Recording",
        "streams at native rates, one clock\n"
        "clips, labels, unit, partition\nchecked: one clear error",
        "structs, data.validation",
        colour,
        height=13,
    )
    stored = Box(
        axes,
        (122, 97.5),
        48,
        "Stored data set",
        "tensorflow-datasets, array_record\n"
        "chunks of each stream + one timeline\nbuilt aside, then renamed",
        "data.store.builder, data.store.records",
        colour,
        height=13,
    )
    for source in sources:
        arrow(axes, source.right, recording.left, colour)
    arrow(axes, recording.right, stored.left, colour)
    return stored


def draw_windows(axes: Axes, stored: Box) -> Box:
    """Clocks to batches; returns the last box."""
    colour = "#2f6f4f"
    lane(axes, (62.5, 84), "On the host: NumPy and Grain, no JAX", colour)
    y = 71.5
    ticks = Box(
        axes,
        (128, y),
        37,
        "Ticks",
        "nearest samples to each tick\n"
        "current read lead_s EARLIER\n(at read time, nothing stored)",
        "data.store, data.windows.align",
        colour,
        height=13,
    )
    index = Box(
        axes,
        (80.5, y),
        41,
        "Splits and window index",
        "by recording, clip, block or given\n"
        "T ticks, one clip, one split\na leak is refused",
        "data.windows.splits, data.windows.index",
        colour,
        height=13,
    )
    batch = Box(
        axes,
        (26, y),
        46,
        "Batches",
        "whole GLOBAL batches are shuffled,\n"
        "each process assembles its own rows;\nframes stay uint8",
        "data.pipeline",
        colour,
        height=13,
    )
    arrow(axes, stored.bottom, (stored.bottom[0], y + 6.5), colour)
    arrow(axes, ticks.left, index.right, colour)
    arrow(axes, index.left, batch.right, colour)
    return batch


def draw_step(axes: Axes, batch: Box) -> tuple[Box, Box]:
    """The compiled step; returns the two boxes that make the new state."""
    colour = "#1f5f99"
    lane(
        axes,
        (20.5, 59),
        "On the devices: one compiled step, (state, batch) → (state, metrics)",
        colour,
        title_x=22,
    )
    y = 46.5
    inputs = Box(
        axes,
        (18, y),
        30,
        "Inputs",
        "rows placed on the mesh\nnormalise, augment",
        "training.sharding, training.preprocess",
        colour,
    )
    encoders = Box(
        axes,
        (56, y),
        34,
        "Encoders, per modality",
        "stem → pool → semantic z\nstem → specific s",
        "systems.cmg, models.encoders",
        colour,
    )
    codes = Box(
        axes,
        (94, y),
        30,
        "Shared codebook",
        "nearest code c, vector e\nstraight-through",
        "systems.cmg, models.quantizer",
        colour,
    )
    losses = Box(
        axes,
        (130, y),
        32,
        "Objectives",
        "one value per window and term\nweighted sum → gradients",
        "objectives, losses",
        colour,
    )
    Box(
        axes,
        (34, 28.5),
        38,
        "Critics (CLUB)",
        "a few likelihood steps, own Adam\non detached z and s, before the losses",
        "training.step, models.critics",
        colour,
    )
    ema = Box(
        axes,
        (84, 28.5),
        38,
        "Codebook update",
        "one joint directed EMA\nidle codes are revived",
        "systems.cmg, models.quantizer",
        colour,
    )
    adam = Box(
        axes,
        (130, 28.5),
        32,
        "Parameter update",
        "clip by norm, Adam, schedule\nencoders, decoders, CPC",
        "training.step, training.state",
        colour,
    )
    arrow(axes, (18, batch.bottom[1]), inputs.top, colour)
    for one, other in ((inputs, encoders), (encoders, codes), (codes, losses)):
        arrow(axes, one.right, other.left, colour)
    arrow(axes, (45, 41), (40, 34), colour)
    arrow(axes, (94, 41), (90, 34), colour)
    arrow(axes, losses.bottom, adam.top, colour)
    return adam, ema


def draw_run(axes: Axes, parameters: Box, codebook: Box) -> None:
    """What a run writes."""
    colour = "#6b3fa0"
    lane(axes, (0.5, 17), "The run's folder", colour)
    y = 7.2
    reports = Box(
        axes,
        (34, y),
        46,
        "Reports",
        "metrics.jsonl, TensorBoard\nconfig.json, summary.json",
        "training.logged_values, run.directory",
        colour,
    )
    checkpoint = Box(
        axes,
        (107, y),
        78,
        "checkpoints/STEP",
        "model (encoders, codebook, statistics) · optim · data position\n"
        "config · a digest of every array",
        "run.checkpoints",
        colour,
    )
    for box in (parameters, codebook):
        x = box.bottom[0]
        arrow(axes, box.bottom, (x, checkpoint.top[1]), colour)
        axes.text(x + 1, 18.6, "state", fontsize=9, color=colour, va="center")
    arrow(axes, (34, 20.5), reports.top, colour)
    axes.text(35, 18.6, "metrics", fontsize=9, color=colour, va="center")


def lane(
    axes: Axes, span: Point, title: str, colour: str, *, title_x: float = 2
) -> None:
    """A coloured band with its title in the upper left."""
    bottom, top = span
    axes.add_patch(
        FancyBboxPatch(
            (0.5, bottom),
            149,
            top - bottom,
            boxstyle="round,pad=0,rounding_size=1.2",
            facecolor=colour,
            edgecolor="none",
            alpha=0.09,
            zorder=0,
        )
    )
    style = {"fontsize": 11, "weight": "bold", "color": colour}
    axes.text(title_x, top - 2, title, va="center", **style)


def arrow(axes: Axes, start: Point, end: Point, colour: str) -> None:
    """An arrow between two points."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 0}
    axes.annotate("", end, start, arrowprops=style | {"shrinkB": 0}, zorder=2)


if __name__ == "__main__":
    main()
