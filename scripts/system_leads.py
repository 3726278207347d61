"""How well the lead is found with each system, where it is known.

scripts/write_systems.py makes a table of it, from the answers of scripts/lead_study.py
to the same recordings with a run of each system, a file a system:

    python scripts/lead_study.py furnaces --run RUN --folder WORK \\
        --levels default no_precursor --indicators canonical association plain \\
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
MOST_S, SHARE = 30.0, 0.9
"""What is asked of groups: an error of at most so much, in so many of them."""


def leads(systems: Mapping[str, Sequence[Case]]) -> str:
    """Returns a row for each system, of groups of three recordings and of single ones.

    Args:
      systems: by name, the answers with a run of it.
    """
    header = [
        "system",
        "recordings",
        "error, s: median, 90 %",
        f"within {MOST_S:g} s",
        "interval holds it",
        "lead found",
        f"none found, `{NOTHING}`",
        "none found, strangers",
    ]
    rows = [
        [system, KINDS[kind], *_answers(cases, kind)]
        for kind in KINDS
        for system, cases in systems.items()
    ]
    return table(header, rows)


def _answers(cases: Sequence[Case], kind: str) -> list[str]:
    known = [case for case in cases if case["kind"] == kind]
    apart = [case for case in cases if case["kind"] == f"unrelated {kind}"]
    strangers = [case for case in apart if "mismatched" in case["name"]]
    nothing = [case for case in apart if case not in strangers]
    estimates = [case["indicators"][ESTIMATE] for case in known]
    pairs = list(zip(known, estimates, strict=True))
    error_s = [abs(own["estimate_s"] - case["lead_s"]) for case, own in pairs]
    held = [
        own["interval_s"][0] <= case["lead_s"] <= own["interval_s"][1]
        for case, own in pairs
    ]
    return [
        f"{np.median(error_s):.1f}, {np.quantile(error_s, SHARE):.1f}",
        share([error <= MOST_S for error in error_s]),
        share(held),
        share([case["verdict"] != NOT_FOUND for case in known]),
        *(
            share([case["verdict"] == NOT_FOUND for case in own])
            for own in (nothing, strangers)
        ),
    ]
