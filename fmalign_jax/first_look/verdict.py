"""The verdict in one sentence, and what to do next."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from fmalign_jax.first_config import recipes
from fmalign_jax.first_config.survey import LEADING
from fmalign_jax.first_config.words import rounded
from fmalign_jax.first_look.association import Association
from fmalign_jax.first_look.ticks import Plan
from fmalign_jax.lead.search import FOUND, TOO_SHORT

_SMALL = 1e-9  # what a fit to so few wrong pairings can say at most


FOLDER, GLOB, CONFIG = "folder", "glob", "config"


@dataclasses.dataclass(frozen=True)
class Given:
    """What was checked.

    Attributes:
      words: as a command takes it.
      what: FOLDER, GLOB or CONFIG.
    """

    words: str
    what: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the check says.

    Attributes:
      sentence: in one sentence.
      steps: what to do next, in order.
    """

    sentence: str
    steps: tuple[str, ...]


def judge(found: Association, plan: Plan, *, given: Given) -> Verdict:
    """Says what was found, and what to do.

    Args:
      found: what the streams have in common.
      plan: how they were looked at.
      given: what was checked.
    """
    if found.verdict == FOUND:
        return Verdict(_of_found(found, plan), tuple(_after_found(found, plan, given)))
    span = f"{rounded(plan.least_s)} and {rounded(plan.most_s)} s"
    if found.verdict == TOO_SHORT:
        why = (
            f"{found.stretches} stretches of {rounded(found.stretch_s)} s have pairs"
            if found.chance is not None
            else "the recordings allow no wrong pairings"
        )
        return Verdict(
            f"Too short to tell whether the streams have anything in common at leads "
            f"between {span}: {why}.",
            (
                "Give more recordings, or longer ones: the table of minutes says how "
                "much.",
                "A smaller range of leads needs less: --least_lead_s and "
                "--most_lead_s.",
            ),
        )
    return Verdict(
        f"Nothing found: at no lead between {span} do the streams go together more "
        f"than wrong pairings of them (chance {chance_text(found.chance)}).",
        tuple(_after_nothing(plan)),
    )


def chance_text(chance: float | None) -> str:
    """Returns a chance as a table shows it."""
    if chance is None:
        return "not known"
    return f"{chance:.2g}" if chance >= _SMALL else f"below {_SMALL:.0e}"


def interval_text(ends_s: tuple[float, float]) -> str:
    """Returns the ends of an interval, "214 to 275 s"."""
    return f"{rounded(ends_s[0])} to {rounded(ends_s[1])} s"


def _of_found(found: Association, plan: Plan) -> str:
    best = found.best
    low_s, high_s = best.interval_s
    who = f"The {plan.leading} is ahead of the video"
    if low_s <= 0 <= high_s:
        name = plan.leading[0].upper() + plan.leading[1:]
        who = f"{name} and video go together at about the same time"
    elif best.estimate_s < 0:
        who = f"The {plan.leading} follows the video"
    return (
        f"{who}: proposed leads {interval_text(best.interval_s)}, best "
        f"{rounded(best.estimate_s)} s, at which the streams go together and wrong "
        f"pairings of them do not (chance {chance_text(found.chance)}, by "
        f"{best.name!r})."
    )


def _after_found(found: Association, plan: Plan, given: Given) -> Iterator[str]:
    best = found.best
    if best.at_edge:
        yield (
            "The best lead is at the edge of those that were looked at: check again "
            "with a wider range, --least_lead_s and --most_lead_s."
        )
    lead_s = rounded(round(best.estimate_s / plan.tick_s) * plan.tick_s)
    if given.what == FOLDER:
        yield (
            f"Write a config: fmalign init {given.words}; in it set data.lead_s = "
            f"{lead_s}, and train: fmalign train FILE"
        )
    elif given.what == GLOB and plan.leading != LEADING:
        yield (
            "Write a config for their folder: fmalign init FOLDER; in it set "
            f"data.lead_s = {lead_s}, and train: fmalign train FILE"
        )
    else:
        config = given.words
        if given.what == GLOB:
            base = recipes.SLOW if plan.slow else recipes.FAST
            config = f"{base} --data.path={given.words}"
        yield f"Train at that lead: fmalign train {config} --data.lead_s={lead_s}"
    low_s, high_s = best.interval_s
    if (
        plan.slow
        and max(best.estimate_s - low_s, high_s - best.estimate_s) > plan.window_s
    ):
        yield (
            f"The range is wider than a window of {rounded(plan.window_s)} s on either "
            "side: rather train with every lead, the variant any_lead "
            "(docs/lead.md#no-idea-of-the-lead)."
        )
    yield (
        "Then let the model answer, over the same leads, for a lead is a peak among "
        f"others: fmalign lead RUN --least_lead_s={rounded(plan.least_s)} "
        f"--most_lead_s={rounded(plan.most_s)}"
    )


def _after_nothing(plan: Plan) -> Iterator[str]:
    yield (
        "That is no proof that there is nothing: without a model only what moves, what "
        "stands out and how bright it is were seen (docs/check.md says how often a "
        "lead that is there is missed)."
    )
    yield (
        "Check that both streams are of the same process and on one clock, and that "
        "the lead may not lie outside: --least_lead_s and --most_lead_s."
    )
    if plan.slow:
        yield (
            "With more recordings a faint association shows. If there are no more: "
            "train with every lead and let the model search "
            "(docs/lead.md#no-idea-of-the-lead)."
        )
