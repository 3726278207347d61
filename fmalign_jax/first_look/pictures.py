"""The pictures of the page, as SVG inside it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fmalign_jax.data.clock_report import GAP_PERIODS
from fmalign_jax.data.store.timelines import StreamTimeline
from fmalign_jax.evaluation.fonts import readable
from fmalign_jax.first_config.survey import REFERENCE, Survey
from fmalign_jax.first_look.association import FOUND, Association
from fmalign_jax.lead.statistics import LEVEL

_BLUE, _ORANGE = "tab:blue", "tab:orange"
_MOST = 20  # recordings drawn one by one
_WIDTH = 9.0


def spans(survey: Survey) -> str:
    """Draws when each stream of each recording runs, and where samples are missing."""
    shown = survey.seen[:_MOST]
    figure = Figure(figsize=(_WIDTH, 0.8 + 0.35 * len(shown)), layout="constrained")
    axes = figure.subplots()
    with readable(seen.name for seen in shown) as names:
        for row, seen in enumerate(shown):
            for name, shift, colour in (
                (REFERENCE, -0.18, _BLUE),
                (survey.leading, 0.18, _ORANGE),
            ):
                for start_s, end_s in _pieces(seen.timeline.streams[name]):
                    axes.barh(
                        row + shift,
                        end_s - start_s,
                        left=start_s,
                        height=0.3,
                        color=colour,
                    )
        axes.set_yticks(range(len(shown)), [names[seen.name] for seen in shown])
        axes.invert_yaxis()
        axes.set_xlabel(
            f"seconds on the recording's clock (video blue, {survey.leading} orange)"
        )
        return _svg(figure)


def _pieces(stream: StreamTimeline) -> Iterator[tuple[float, float]]:
    """Yields start and end of what lies between clips and gaps."""
    steps = np.diff(stream.time_s)
    inside = np.diff(stream.clip) == 0
    positive = steps[inside & (steps > 0)]
    usual_s = float(np.median(positive)) if len(positive) else 0.0
    cut = np.flatnonzero(~inside | (steps > GAP_PERIODS * usual_s))
    # Where every other interval is a gap, pieces would be too many to draw.
    cut = cut if len(cut) <= 500 else np.flatnonzero(~inside)
    first = np.append(0, cut + 1)
    last = np.append(cut, len(stream.time_s) - 1)
    yield from zip(
        stream.time_s[first].tolist(), stream.time_s[last].tolist(), strict=True
    )


def curves(found: Association, leading: str) -> str:
    """Draws each view over the leads, beside wrong pairings, floor and ceiling."""
    figure = Figure(
        figsize=(_WIDTH, 1.0 + 1.7 * len(found.views)), layout="constrained"
    )
    panels = figure.subplots(len(found.views), 1, sharex=True, squeeze=False)[:, 0]
    for axes, view in zip(panels, found.views.values(), strict=True):
        counts = view is found.best and found.verdict == FOUND
        if len(view.wrong):
            low, high = np.nanpercentile(view.wrong, LEVEL, axis=0)
            axes.fill_between(found.lead_s, low, high, color="0.88")
        axes.plot(found.lead_s, view.curve, color="C0" if counts else "0.4")
        for value, style, name in (
            (view.floor, ":", "floor"),
            (view.ceiling, "--", "ceiling"),
        ):
            if value is not None:
                axes.axhline(value, color="0.5", linestyle=style, linewidth=1)
                place = (found.lead_s[0], value)
                axes.annotate(name, place, fontsize="small", color="0.4", va="top")
        axes.axvline(view.estimate_s, color="C3" if counts else "0.7", linewidth=1)
        if counts:
            axes.axvspan(*view.interval_s, color="C3", alpha=0.15)
        axes.set_ylabel(view.name)
    panels[-1].set_xlabel(f"lead, s (above 0: the {leading} is ahead)")
    return _svg(figure)


def alone(found: Association) -> str:
    """Draws the lead of each recording alone, with its interval."""
    shown = found.alone[:_MOST]
    figure = Figure(figsize=(_WIDTH, 0.8 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    with readable(own.recording for own in shown) as names:
        for row, own in enumerate(shown):
            axes.plot(own.interval_s, (row, row), color="0.6")
            clear = own.chance is not None and own.chance < 0.05
            axes.plot(own.estimate_s, row, "o" if clear else "x", color="C0")
        if found.verdict == FOUND:
            axes.axvspan(*found.best.interval_s, color="C3", alpha=0.15)
        axes.set_yticks(range(len(shown)), [names[own.recording] for own in shown])
        axes.set_xlim(found.lead_s[0], found.lead_s[-1])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("lead, s (a dot: chance below 0.05; a cross: not)")
        return _svg(figure)


def streams(found: Association, leading: str) -> str:
    """Draws both streams of one clip, the sensor later by the best lead."""
    shown = found.shown
    figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
    axes = figure.subplots()
    with readable([shown.recording]) as names:
        for values, name, colour in (
            (shown.reference, REFERENCE, _BLUE),
            (shown.leading, leading, _ORANGE),
        ):
            axes.plot(shown.time_s, values, color=colour, label=name, linewidth=1)
        axes.legend(loc="upper right", fontsize="small")
        axes.set_title(names[shown.recording], fontsize="medium", parse_math=False)
        axes.set_xlabel("seconds on the recording's clock")
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """Returns a figure as an element of a page, the same for the same figure."""
    for axes in figure.axes:
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_parse_math(False)  # names may hold dollars
    file = io.StringIO()
    about: dict[str, None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": "fmalign_jax"}):
        figure.savefig(file, format="svg", metadata=about)
    text = file.getvalue()
    return re.sub(
        r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S
    )
