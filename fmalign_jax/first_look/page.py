"""One page about recordings that nothing was trained on yet."""

from __future__ import annotations

import html
import string
from collections.abc import Iterable, Sequence

from fmalign_jax.data import clock_report
from fmalign_jax.first_config.survey import Survey
from fmalign_jax.first_config.words import plain
from fmalign_jax.first_look import pictures, told
from fmalign_jax.first_look.association import Association
from fmalign_jax.first_look.needs import Need
from fmalign_jax.first_look.ticks import Plan
from fmalign_jax.first_look.verdict import Verdict
from fmalign_jax.lead.search import FOUND

MARK = '<meta name="generator" content="fmalign_jax.check">'
"""By which a page is known again."""

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
$mark
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
 padding: 0 1rem; color: #222; }
h2 { margin: 2rem 0 .4rem; font-size: 1.15rem; }
table { border-collapse: collapse; font-size: 13px; }
.wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem;
 border-bottom: 1px solid #ddd; }
.verdict { border-left: 6px solid $colour; background: #f6f6f6; padding: .6rem 1rem;
 font-size: 1.05rem; }
figure { margin: 1rem 0; } figcaption, .small { color: #555; font-size: 13px; }
.wide td:first-child { min-width: 12rem; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="verdict">$sentence</p>
<ol>$steps</ol>
<h2>1. What the recordings are</h2>
$recordings
<h2>2. Clocks</h2>
<div class="wide">$clocks</div>
$details
<ul>$limits</ul>
<figure>$spans<figcaption>When each stream runs; white is a gap.</figcaption></figure>
<h2>3. What the streams have in common, without a model</h2>
<p>$looked</p>
<div class="wide">$views</div>
<p class="small">Values are correlations along the directions that correlate best;
they are scaled over whole recordings, so that one may pass 1 where few ticks are left.
Chance: how likely the association of wrong pairings (the $leading of another recording,
or of another time) rises as far; of all views together $chance. Floor: the highest
value of wrong pairings between recordings, on average. Ceiling: what noise within each
stream leaves, by its even ticks beside its odd ones.</p>
<figure>$curves<figcaption>Each view at every lead. Grey: 95 % of the wrong pairings at
that lead. Red, where a lead was found: the proposed leads of the view that
counts.</figcaption></figure>
<figure>$streams<figcaption>The clip with the most ticks, along the best directions of
'$best', the $leading drawn later by $lead s.</figcaption></figure>
<figure>$alone<figcaption>Each recording alone, by '$best', with 95 %
intervals.</figcaption></figure>
<h2>4. Minutes of data</h2>
$needs
</body>
</html>
""")


def text(
    survey: Survey,
    plan: Plan,
    found: Association,
    needs: Sequence[Need],
    verdict: Verdict,
) -> str:
    """Returns the page, which asks nothing of a network."""
    short = told.clock_table(survey)
    whole = clock_report.table(survey.clocks, few=len(survey.seen))
    return _PAGE.substitute(
        mark=MARK,
        title=_safe(f"First look at {survey.folder.name or survey.folder}"),
        colour="#2a7" if found.verdict == FOUND else "#b73",
        sentence=_safe(verdict.sentence),
        steps=_items(verdict.steps),
        recordings=_table(told.what_there_is(survey)),
        clocks=_table(short),
        details="" if short == whole else _details("every recording", _table(whole)),
        limits=_items(
            f"{what}: {about}" for what, about in told.clock_limits(survey, found)
        ),
        spans=pictures.spans(survey),
        looked=_safe(told.looked_at(plan)),
        views=_table(told.view_rows(found)),
        chance=_safe(told.chance_text(found.chance)),
        curves=pictures.curves(found, plan.leading),
        streams=pictures.streams(found, plan.leading),
        alone=pictures.alone(found),
        leading=_safe(plan.leading),
        best=_safe(found.best.name),
        lead=f"{found.best.estimate_s:.4g}",
        needs=_table(told.need_rows(needs)),
    )


def _safe(words: object) -> str:
    return html.escape(plain(words))


def _details(summary: str, element: str) -> str:
    """Returns an element that is folded away."""
    return (
        f'<details><summary>{_safe(summary)}</summary><div class="wide">{element}</div>'
        "</details>"
    )


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{_safe(line)}</li>" for line in lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table whose first row is its header."""
    cells = [
        "".join(f"<{kind}>{_safe(cell)}</{kind}>" for cell in row)
        for row, kind in zip(rows, ["th"] + ["td"] * len(rows), strict=False)
    ]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
