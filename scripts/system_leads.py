"""How well the lead is found with each system, where it is known.

scripts/write_systems.py makes a table of it, from the answers of scripts/lead_study.py
to the same recordings with a run of each system, a file a system:

    python scripts/lead_study.py furnaces --run RUN --folder WORK \\
        --levels default no_precursor --indicators canonical association plain own \\
        --out docs/results/system_leads/SYSTEM.json

Each run was made at a lead of 240 s; the leads here are 60 to 300 s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from lead_study import ESTIMATE, NOTHING, Case, share
from write_results import table

from fmalign_jax.lead.search import NOT_FOUND

KINDS = {"single": "one", "group": "three"}
OWN = "own"
"""The indicator by what the system itself compares."""
MOST_S, SHARE = 30.0, 0.9
"""What is asked of groups: an error of at most so much, in so many of them."""


def leads(systems: Mapping[str, Sequence[Case]]) -> str:
    """Returns a row for each system, of single recordings and of groups of three.

    Args:
      systems: by name, the answers with a run of it.
    """
    header = ["system", "recordings"]
    for name in (ESTIMATE, OWN):
        header += [
            f"by `{name}`, error, s: median, 90 %",
            f"within {MOST_S:g} s",
            "interval holds it",
        ]
    header += ["lead found", f"none found, `{NOTHING}`", "none found, strangers"]
    rows = [
        [system, KINDS[kind], *_answers(cases, kind)]
        for kind in KINDS
        for system, cases in systems.items()
    ]
    return table(header, rows)


def within(cases: Sequence[Case], kind: str, indicator: str) -> list[bool]:
    """Returns of each case of a known lead whether the estimate is near enough."""
    known = [case for case in cases if case["kind"] == kind]
    return [error_s <= MOST_S for error_s in _errors_s(known, indicator)]


def _errors_s(known: Sequence[Case], indicator: str) -> list[float]:
    return [
        abs(case["indicators"][indicator]["estimate_s"] - case["lead_s"])
        for case in known
    ]


def _answers(cases: Sequence[Case], kind: str) -> list[str]:
    known = [case for case in cases if case["kind"] == kind]
    apart = [case for case in cases if case["kind"] == f"unrelated {kind}"]
    strangers = [case for case in apart if "mismatched" in case["name"]]
    nothing = [case for case in apart if case not in strangers]
    told = []
    for name in (ESTIMATE, OWN):
        error_s = _errors_s(known, name)
        intervals = [case["indicators"][name]["interval_s"] for case in known]
        held = [
            low <= case["lead_s"] <= high
            for case, (low, high) in zip(known, intervals, strict=True)
        ]
        told += [
            f"{np.median(error_s):.1f}, {np.quantile(error_s, SHARE):.1f}",
            share(within(cases, kind, name)),
            share(held),
        ]
    return [
        *told,
        share([case["verdict"] != NOT_FOUND for case in known]),
        *(
            share([case["verdict"] == NOT_FOUND for case in own])
            for own in (nothing, strangers)
        ),
    ]
