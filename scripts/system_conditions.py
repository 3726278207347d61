"""Whether each system meets its own condition: that its parts do what they are for.

scripts/write_systems.py makes a table of it, from the systems side by side
(configs/studies/systems.py) and from each without what it is made of
(configs/studies/system_conditions.py), profile `default`. Means over seeds, furnaces
that were never seen, video -> current, unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from lead_study import Case, share
from system_leads import MOST_S, OWN, SHARE, within
from write_results import FORTH, Run, grouped, score, spread, table

Runs = dict[str, list[Run]]

BACK = "current->video"
NEAR = 0.02
"""How far below CLIP counts as no worse."""
PAIRS_TOLD = 0.60
"""Cross-entropy of pair or not, validation, nats. By frequency alone it is 0.637."""
ALWAYS_NO = 2 / 3
"""Of a pair and two wrong ones, how many are wrong."""
OF_FREQUENCIES = 0.9
"""Loss of predicting units, as a share of that of their frequencies."""
UNITS_NEAR = 3
"""Ticks around one whose units it is to predict; the loss is their sum."""
OF_ORACLE = 0.03
"""How far below the oracle counts as reached."""


FMFORMER = "FmFormer of the current"
ORDER = (
    "clip",
    "micu",
    "hdcid",
    "fcid",
    "qformer",
    "alignvsr",
    "clmlf",
    "onellm",
    FMFORMER,
)
"""Systems as the table has them."""


class Condition(NamedTuple):
    """A system's condition, what was found, and whether it is met."""

    system: str
    rule: str
    found: str
    met: bool


def conditions(
    runs: Sequence[Run],
    beside: Sequence[Run],
    *,
    parameters: Mapping[str, int],
    answers: Mapping[str, Sequence[Case]],
) -> str:
    """Returns the table of all conditions whose runs there are.

    Args:
      runs: of the systems side by side, `default` among their folds.
      beside: of each system without what it is made of.
      parameters: by system, how many encode both modalities.
      answers: by system, of scripts/lead_study.py.
    """
    known = grouped([run for run in runs if run["fold"] == "default"], "variant")
    without = grouped(beside, "variant")
    told = [
        condition
        for systems, others, find in (
            (("recipe", "clip"), (), _clip),
            (("clip", "micu"), ("micu_no_fine",), _micu),
            (("recipe", "hdcid"), (), _hdcid),
            (("recipe", "fcid"), ("fcid_tick",), _fcid),
            (("qformer",), ("qformer_one_query",), _qformer),
            (("alignvsr",), (), _alignvsr),
            ((), ("clmlf", "clmlf_no_label_contrast", "clmlf_dropout"), _clmlf),
            (("clip", "onellm"), ("onellm_constant", "onellm_sparse"), _onellm),
            ((), ("recipe",), _fmformer),
        )
        if known.keys() >= set(systems) and without.keys() >= set(others)
        for condition in find(known, without)
    ]
    if parameters.keys() >= {"clip", "onellm"}:
        told.append(_smaller(parameters, "onellm", "clip"))
    if "alignvsr" in answers:
        told.append(_lead_by_own(answers["alignvsr"]))
    told.sort(key=lambda condition: ORDER.index(condition.system))
    rows = [(c.system, c.rule, c.found, "yes" if c.met else "**no**") for c in told]
    return table(["system", "works if", "found", "met"], rows)


def _forth(runs: Iterable[Run]) -> list[float]:
    return [score(run, "codes", FORTH) for run in runs]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _found_first(runs: Sequence[Run], key: str) -> tuple[list[float], float]:
    """Returns recall@k of both directions by seed, and of who knows the state alone."""
    found = [run["evaluations"]["codes"]["retrieval"]["test"] for run in runs]
    ours = [
        own["features"]["semantic"][direction][key]
        for own in found
        for direction in (FORTH, BACK)
    ]
    state = found[0]["references"].get("label", {}).get(key, math.nan)
    return ours, state


def _random(known: Runs) -> float:
    """Returns the transfer of the recipe's encoders before training.

    Their shared level is fitted to true pairs: the best that is random here.
    """
    return _mean(
        run["evaluations"]["codes"]["random_encoders"][FORTH]["test"][
            "balanced_accuracy"
        ]
        for run in known["recipe"]
        if run["evaluations"]["codes"]["random_encoders"]
    )


def _no_worse(known: Runs, system: str, base: str, by: float) -> Condition:
    own, other = _forth(known[system]), _forth(known[base])
    return Condition(
        system,
        f"no more than {by:g} below `{base}`",
        f"{spread(own)}, `{base}` {spread(other)}",
        _mean(own) >= _mean(other) - by,
    )


def _beside(own: Condition, without: Runs, names: Mapping[str, str]) -> Condition:
    """Returns a condition beside the transfer of what was run of these, by name."""
    told = [
        f"{what} {spread(_forth(without[name]))}"
        for name, what in names.items()
        if name in without
    ]
    return own._replace(found=f"{own.found}; {', '.join(told)}") if told else own


def _above_random(known: Runs, system: str) -> Condition:
    own, random = _forth(known[system]), _random(known)
    return Condition(
        system,
        "above random encoders",
        f"{spread(own)} against {random:.3f}",
        _mean(own) > random,
    )


def _clip(known: Runs, without: Runs) -> list[Condition]:
    found, state = _found_first(known["clip"], "recall@5")
    return [
        _above_random(known, "clip"),
        Condition(
            "clip",
            "partner among the first five more often than by the state alone",
            f"{spread(found)} against {state:.3f}",
            _mean(found) > state,
        ),
    ]


def _micu(known: Runs, without: Runs) -> list[Condition]:
    terms = ("fine", "coarse", "jigsaw")
    others = {f"micu_no_{term}": f"without {term}" for term in terms}
    return [_beside(_no_worse(known, "micu", "clip", NEAR), without, others)]


def _hdcid(known: Runs, without: Runs) -> list[Condition]:
    first = _beside(
        _no_worse(known, "hdcid", "recipe", 0.01),
        without,
        {
            "hdcid_share_0": "with nothing of level 2",
            "hdcid_share_0.1": "with 0.1 of it",
            "hdcid_from_start": "with 0.3 from the start",
        },
    )
    if "hdcid_lower" not in without:
        return [first]
    alone, random = _forth(without["hdcid_lower"]), _random(known)
    told = f"{spread(alone)} against {random:.3f}"
    if "hdcid_lower_from_start" in without:
        told += (
            "; with full weights from the start "
            f"{spread(_forth(without['hdcid_lower_from_start']))}"
        )
    rule = "level 2 alone above random encoders"
    return [first, Condition("hdcid", rule, told, _mean(alone) > random)]


def _fcid(known: Runs, without: Runs) -> list[Condition]:
    window, tick = _forth(known["fcid"]), _forth(without["fcid_tick"])
    return [
        _above_random(known, "fcid"),
        Condition(
            "fcid",
            "trained on ticks no worse than on windows",
            f"ticks {spread(tick)}, windows {spread(window)}",
            _mean(tick) >= _mean(window),
        ),
    ]


def _qformer(known: Runs, without: Runs) -> list[Condition]:
    several, _ = _found_first(known["qformer"], "recall@1")
    one, _ = _found_first(without["qformer_one_query"], "recall@1")
    pairs, right = (
        [run["validation"][key] for run in known["qformer"]]
        for key in ("query_match", "match_accuracy")
    )
    return [
        Condition(
            "qformer",
            "partner found first no less often than with one query",
            f"{spread(several)} against {spread(one)}",
            _mean(several) >= _mean(one),
        ),
        Condition(
            "qformer",
            f"pair or not: below {PAIRS_TOLD:.2f} nats on validation",
            f"{spread(pairs)}; right of {spread(right)}, "
            f"who always says no of {ALWAYS_NO:.3f}",
            _mean(pairs) < PAIRS_TOLD,
        ),
    ]


def _alignvsr(known: Runs, without: Runs) -> list[Condition]:
    def of_frequencies(run: Run) -> float:
        loss = float(run["validation"]["loss/local_alignment"]) / UNITS_NEAR
        return loss / (loss + float(run["validation"]["unit_gain"]))

    shares = [of_frequencies(run) for run in known["alignvsr"]]
    told = spread(shares)
    if "alignvsr_longer" in without:
        longer = spread(of_frequencies(run) for run in without["alignvsr_longer"])
        told += f"; with 16 units and three times the steps {longer}"
    own = Condition(
        "alignvsr",
        f"loss of its units at most {OF_FREQUENCIES} of their frequencies', validation",
        told,
        _mean(shares) <= OF_FREQUENCIES,
    )
    others = {
        "alignvsr_no_local": "transfer without the local loss",
        "alignvsr_no_global": "without the global one",
    }
    return [_beside(own, without, others)]


def _clmlf(known: Runs, without: Runs) -> list[Condition]:
    def reached(name: str, modality: str) -> list[float]:
        found = [run["evaluations"]["codes"] for run in without[name]]
        direction = f"{modality}->{modality}"
        return [
            own["supervised_representation"][direction]["test"]["balanced_accuracy"]
            for own in found
        ]

    both = reached("clmlf", "fused")
    off = reached("clmlf_no_label_contrast", "fused")
    alone = {m: reached("clmlf_dropout", m) for m in ("video", "current")}
    best = max(_mean(own) for own in alone.values())
    told = ", ".join(f"{m} {spread(own)}" for m, own in alone.items())
    contrasts = f"{spread(both)}, without {spread(off)}"
    if "clmlf_no_data_contrast" in without:
        views_off = reached("clmlf_no_data_contrast", "fused")
        contrasts += f"; without contrast of views {spread(views_off)}"
    return [
        Condition(
            "clmlf",
            "both modalities no worse than the better one alone (`clmlf_dropout`)",
            f"{spread(both)}; {told}",
            _mean(both) >= best,
        ),
        Condition(
            "clmlf",
            "contrast by label no worse than none",
            contrasts,
            _mean(both) >= _mean(off),
        ),
    ]


def _onellm(known: Runs, without: Runs) -> list[Condition]:
    routers = {"onellm": "soft"} | {
        f"onellm_{router}": router.replace("_", " ")
        for router in ("sparse", "constant", "soft_input")
    }
    reached = {
        router: _forth(runs)
        for name, router in routers.items()
        if (runs := (known | without).get(name))
    }
    means = {router: _mean(own) for router, own in reached.items()}
    return [
        _no_worse(known, "onellm", "clip", NEAR),
        Condition(
            "onellm",
            "router soft above sparse above constant, as published",
            ", ".join(f"{router} {spread(own)}" for router, own in reached.items()),
            means["soft"] > means["sparse"] > means["constant"],
        ),
    ]


def _smaller(parameters: Mapping[str, int], system: str, base: str) -> Condition:
    own, other = (parameters[name] / 1e6 for name in (system, base))
    return Condition(
        system,
        f"with fewer parameters than `{base}`",
        f"{own:.2f} M, `{base}` {other:.2f} M",
        own < other,
    )


def _lead_by_own(cases: Sequence[Case]) -> Condition:
    near = within(cases, "group", OWN)
    return Condition(
        "alignvsr",
        f"lead by its own similarity within {MOST_S:g} s, in {SHARE:.0%} of groups of "
        "three recordings",
        share(near),
        sum(near) >= SHARE * len(near),
    )


def _fmformer(known: Runs, without: Runs) -> list[Condition]:
    found = [run["supervised"] for run in without["recipe"] if run["supervised"]]
    ours, oracle = (
        [own[name]["test"]["balanced_accuracy"] for own in found]
        for name in ("fmformer_current", "oracle")
    )
    return [
        Condition(
            FMFORMER,
            f"with labels, no more than {OF_ORACLE} below the oracle",
            f"{spread(ours)}, oracle {spread(oracle)}",
            _mean(ours) >= _mean(oracle) - OF_ORACLE,
        )
    ]
