"""Draws docs/simulator.png: frames and currents of simulated furnaces.

    python scripts/draw_simulator.py [--output docs/simulator.png]

About ten seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from fmalign_jax.data.simulator.circuit import simulate_current
from fmalign_jax.data.simulator.operation import Operation, operate
from fmalign_jax.data.simulator.profiles import DEFAULT
from fmalign_jax.data.simulator.renderer import draw_weather, render
from fmalign_jax.data.simulator.shell import draw_shell

PANEL_S = 275.0
HOUR_S = 3600.0
CLEAR = dataclasses.replace(DEFAULT, puffs=False)
KINDS = ("deep", "wander", "weak")


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="docs/simulator.png", type=pathlib.Path)
    output = parser.parse_args().output
    figure = plt.figure(figsize=(14, 17.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.0, 1.2))
    draw_frames(top)
    draw_currents(bottom)
    figure.savefig(output, dpi=110)
    print(f"wrote {output}")


def draw_frames(figure: plt.Figure) -> None:
    """Three furnaces, one a row; six moments of each."""
    axes = figure.subplots(3, 6)
    for row, seed in zip(axes, (3, 11, 21), strict=True):
        for axis, (title, frame, mask) in zip(row, moments(seed), strict=True):
            axis.imshow(frame, interpolation="nearest")
            if mask.any():
                axis.contour(mask, levels=[0.5], colors="cyan", linewidths=1)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    figure.suptitle(
        "Simulated frames, 64 x 64 px; the mask's outline in cyan. "
        "One furnace in each row."
    )


def moments(seed: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Frames of one furnace at telling moments: title, frame and mask of each."""
    operation = operate(DEFAULT, duration_s=HOUR_S, seed=seed, furnace=seed)
    time_s = np.arange(HOUR_S)
    frames, masks = render(operation, time_s)
    clear, _ = render(
        operate(CLEAR, duration_s=HOUR_S, seed=seed, furnace=seed), time_s
    )
    visible = operation.visible(time_s)
    hidden = np.abs(frames.astype(int) - clear).mean((1, 2, 3))
    unhidden = hidden < 4
    brightness = np.median(frames, axis=(1, 2, 3))
    age_s = time_s - np.maximum.accumulate(np.where(visible, 0, time_s))
    dim = unhidden & (brightness < 150)
    veil = draw_weather(operation, draw_shell(DEFAULT, seed), time_s).veil
    chosen = {
        "normal": np.flatnonzero(~visible & dim)[200],
        "normal, in mist": np.argmax(np.where(visible | ~unhidden, 0, veil)),
        "glow, 12 s old": np.flatnonzero((age_s == 12) & unhidden)[0],
        "glow, full": np.flatnonzero((age_s > 90) & dim)[30],
        "glow under a puff": np.flatnonzero(visible & (hidden > 25) & (age_s > 60))[0],
        "white-out": np.argmax(np.where(unhidden, brightness, 0)),
    }
    return [
        (f"{title}\n{time_s[i]:.0f} s", frames[i], masks[i])
        for title, i in chosen.items()
    ]


def draw_currents(figure: plt.Figure) -> None:
    """Ten panels of 275 s: normal, the three kinds of episode, a trip."""
    axes = figure.subplots(5, 2, sharey=True)
    for column, first_seed in zip(axes.T, (100, 200), strict=True):
        draw_state(column[0], first_seed, abnormal=False)
        for axis, kind in zip(column[1:4], KINDS, strict=True):
            draw_spell(axis, first_seed, kind)
        draw_trip(column[4], first_seed)
    for axis in axes[:, 0]:
        axis.set_ylabel("current, kA")
    for axis in axes[-1]:
        axis.set_xlabel("time in the recording, s")
    axes[0, 0].legend(loc="lower left", ncols=5, fontsize=8)
    figure.suptitle(
        "Simulated currents of the three phases, two rows a second. Red: the state "
        "holds (current); black bar: it is visible (video), the lead later."
    )


def draw_state(axis: Axes, first_seed: int, *, abnormal: bool) -> None:
    """A panel in which the state never changes."""
    for seed in range(first_seed, first_seed + 50):
        operation = operate(DEFAULT, duration_s=HOUR_S, seed=seed, furnace=seed)
        for begin in np.arange(0, HOUR_S - PANEL_S, 25.0):
            state = operation.state(begin + np.arange(PANEL_S))
            if (state == abnormal).all():
                draw_panel(axis, operation, begin, "normal smelting")
                return


def draw_spell(axis: Axes, first_seed: int, kind: str) -> None:
    """A panel from 60 s before an episode of the given kind."""
    for seed in range(first_seed, first_seed + 50):
        operation = operate(DEFAULT, duration_s=HOUR_S, seed=seed, furnace=seed)
        spells = operation.spells
        for i in np.flatnonzero(spells.kind == KINDS.index(kind)):
            begin = spells.begin_s[i] - 60
            long = spells.end_s[i] - spells.begin_s[i] > 160
            if 0 < begin < HOUR_S - PANEL_S and long and spells.precursor[i]:
                title = f"semi-molten, {kind}: log-volatility falls by "
                title += f"{spells.drop[i]:.1f}, wander x {spells.wander[i]:.1f}"
                draw_panel(axis, operation, begin, title)
                return


def draw_trip(axis: Axes, first_seed: int) -> None:
    """A panel around a trip."""
    for seed in range(first_seed, first_seed + 50):
        operation = operate(DEFAULT, duration_s=HOUR_S, seed=seed, furnace=seed)
        for begin, end in operation.events["trips"]:
            if 100 < begin < HOUR_S - PANEL_S and end - begin > 40:
                draw_panel(axis, operation, begin - 90, "over-current and trip")
                return


def draw_panel(axis: Axes, operation: Operation, begin_s: float, title: str) -> None:
    """Currents from begin_s on, shaded where the state holds."""
    time_s, amperes = simulate_current(operation)
    panel = (time_s >= begin_s) & (time_s < begin_s + PANEL_S)
    time_s, amperes = time_s[panel], amperes[panel]
    for phase, colour in enumerate(("tab:orange", "tab:green", "tab:blue")):
        axis.plot(time_s, amperes[:, phase] / 1e3, colour, lw=0.8, label="abc"[phase])
    across = axis.get_xaxis_transform()
    axis.fill_between(
        time_s,
        0,
        1,
        where=operation.state(time_s),
        transform=across,
        color="tab:red",
        alpha=0.13,
        lw=0,
        label="state holds",
    )
    axis.fill_between(
        time_s,
        0.97,
        1,
        where=operation.visible(time_s),
        transform=across,
        color="black",
        lw=0,
        label="state visible",
    )
    axis.set(ylim=(0, 17), xlim=(time_s[0], time_s[-1]))
    axis.set_title(title, fontsize=9)


if __name__ == "__main__":
    main()
