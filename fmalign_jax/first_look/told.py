"""What the check found, as rows of cells: for a printed table and for the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fmalign_jax.data import clock_report
from fmalign_jax.data.clock_report import StreamClock
from fmalign_jax.first_config import told
from fmalign_jax.first_config.survey import Survey
from fmalign_jax.first_config.words import rounded, seconds
from fmalign_jax.first_look.association import MOTION, PLACES, PLAIN, Association, View
from fmalign_jax.first_look.needs import Need
from fmalign_jax.first_look.ticks import Plan
from fmalign_jax.first_look.verdict import chance_text, interval_text

_FEW_RECORDINGS = 3  # whose clocks are told one by one

ABOUT = {
    PLACES: "what stands out in one place of the video, beside level and fluctuation "
    "of the sensor",
    MOTION: "how much moves in the video, beside how much the sensor changes",
    PLAIN: "brightness of the whole frame, beside level and fluctuation of the sensor",
}
"""By view what is compared."""


def table(
    survey: Survey, plan: Plan, found: Association, needs: Sequence[Need]
) -> list[list[str]]:
    """Returns rows of three cells to print: what, of what, and what was found."""
    rows = what_there_is(survey)
    rows += [["clocks", what, text] for what, text in clock_limits(survey, found)]
    rows.append(["looked at", "ticks", looked_at(plan)])
    rows += [["together", view.name, _view(view)] for view in found.views.values()]
    rows.append(["together", "all views", f"chance {chance_text(found.chance)}"])
    rows += [
        [
            "minutes",
            need.step,
            f"{'enough' if need.enough else 'TOO LITTLE'}: needs {need.needed}; there "
            f"are {need.there} ({need.source})",
        ]
        for need in needs
    ]
    return [line for row in rows for line in told.wrapped(row)]


def looked_at(plan: Plan) -> str:
    """Returns in words how recordings were looked at."""
    return (
        f"ticks of {seconds(plan.tick_s)}, windows of {seconds(plan.window_s)}, leads "
        f"of {rounded(plan.least_s)} to {rounded(plan.most_s)} s; above 0 the "
        f"{plan.leading} is ahead of the video"
    )


def clock_limits(survey: Survey, found: Association) -> Iterator[tuple[str, str]]:
    """Yields what is known of offset and drift between the clocks, and what not."""
    yield (
        "offset",
        "times alone do not show it: a clock that is late by a constant and a lead "
        "look the same, so that every lead here is one by the recordings' clocks",
    )
    sensor = [c for c in survey.clocks if c.stream == survey.leading]
    most = max(sensor, key=lambda clock: abs(_apart_s(clock)))
    yield (
        "drift",
        "times alone do not show it; where both recorders were started and stopped "
        "together, it is how much more the sensor is apart at the end than at the "
        f"start: at most {rounded(_apart_s(most))} s, in {most.recording}",
    )
    if len(found.halves) == 2:
        (first_s, one), (last_s, other) = found.halves
        yield (
            "drift by content",
            f"lead in the first half of each recording {rounded(first_s)} s "
            f"[{interval_text(one)}], in the second {rounded(last_s)} s "
            f"[{interval_text(other)}]: "
            + (
                "no drift larger than that"
                if max(one[0], other[0]) <= min(one[1], other[1])
                else "they differ, by a drift or by a lead that changes"
            ),
        )


def _apart_s(clock: StreamClock) -> float:
    """Returns how much more a stream is apart at its end than at its start."""
    apart_s = clock.ends_after_s - clock.starts_after_s
    return 0.0 if math.isnan(apart_s) else apart_s


def _view(view: View) -> str:
    return (
        f"highest {view.peak:.2f} at {rounded(view.estimate_s)} s "
        f"[{interval_text(view.interval_s)}], chance {chance_text(view.chance)}; "
        f"floor {_value(view.floor)}, ceiling {_value(view.ceiling)}"
    )


def _value(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def view_rows(found: Association) -> list[list[str]]:
    """Returns a row a view, with a header."""
    rows = [["view", "highest", "at, s", "95 %", "chance", "floor", "ceiling"]]
    rows += [
        [
            f"{view.name}: {ABOUT[view.name]}",
            f"{view.peak:.2f}",
            rounded(view.estimate_s),
            interval_text(view.interval_s),
            chance_text(view.chance),
            _value(view.floor),
            _value(view.ceiling),
        ]
        for view in found.views.values()
    ]
    return rows


def need_rows(needs: Sequence[Need]) -> list[list[str]]:
    """Returns a row a step, with a header."""
    rows = [["for", "needs", "there are", "", "where the number comes from"]]
    for need in needs:
        enough = "enough" if need.enough else "too little"
        rows.append([need.step, need.needed, need.there, enough, need.source])
    return rows


def what_there_is(survey: Survey) -> list[list[str]]:
    """Returns what the recordings are, a row a thing.

    Clocks and gaps have a table of their own; of them only what was assumed is here.
    """
    joined: list[list[str]] = []
    for first, second, text in told.table(survey):
        if first or not joined:
            joined.append([first, second, text])
        else:
            joined[-1][2] += f" {text}"
    return [
        row
        for row in joined
        if row[0] not in ("clock", "clocks", "gaps") or "ASSUMED" in row[2]
    ]


def clock_table(survey: Survey) -> list[list[str]]:
    """Returns a row a stream and recording, or least to most of many."""
    return clock_report.table(survey.clocks, few=_FEW_RECORDINGS)
