"""Makes docs/results.md from the results of the studies.

    python scripts/write_results.py docs/results/*.json --out docs/results.md

Tables and the picture come from the files alone; the text around them is in
docs/results/introduction.md and, for each file, in docs/results/<study>.md beside it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from scipy.stats import spearmanr

mpl.use("agg")

import matplotlib.pyplot as plt

from fmalign_jax.data.files import write_text
from fmalign_jax.evaluation.population import over_recordings_and_seeds

Run = dict[str, Any]

FORTH, BACK = "video->current", "current->video"
DIRECTIONS = (FORTH, BACK, "video->video", "current->current")
TOKENS, CHANCE, COSINE = (
    f"{name}/current-video"
    for name in (
        "token_agreement",
        "chance_agreement",
        "code_cosine",
    )
)
TEST, VALIDATION = ["test"], ["validation"]
BOTH = [*VALIDATION, *TEST]
MIN_RUNS = 5  # for a rank correlation
PERPLEXITIES = ("perplexity/video", "perplexity/current")


def score(run: Run, evaluation: str, direction: str, split: str = "test") -> float:
    """Returns a balanced accuracy."""
    found = run["evaluations"][evaluation]["zero_shot"][direction][split]
    return float(found["balanced_accuracy"])


def transfers(runs: Sequence[Run], splits: Sequence[str]) -> np.ndarray:
    """Returns the transfer by codes of each run, its mean over splits."""
    scores = [[score(run, "codes", FORTH, split) for split in splits] for run in runs]
    return np.array(scores).mean(axis=1)


def difference(values: np.ndarray, others: np.ndarray) -> str:
    """Returns how far two means are apart, and the standard error of that."""
    apart = f"{values.mean() - others.mean():+.3f}"
    if min(len(values), len(others)) < 2:
        return apart
    variances = [own.var(ddof=1) / len(own) for own in (values, others)]
    return f"{apart} ± {np.sqrt(sum(variances)):.3f}"


def spread(values: Iterable[float]) -> str:
    """Returns mean and standard deviation; of one value the value, of none nothing."""
    found = np.array(list(values), dtype=float)
    if not len(found):
        return ""
    if len(found) < 2:
        return f"{found.mean():.3f}"
    return f"{found.mean():.3f} ± {found.std(ddof=1):.3f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def grouped(runs: Sequence[Run], key: str) -> dict[str, list[Run]]:
    """Returns runs by the value of a key, in the order of first appearance."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run[key], []).append(run)
    return found


def headline(runs: Sequence[Run]) -> str:
    """Returns the recipe by fold, with its references."""
    rows = []
    for fold, own in grouped(runs, "fold").items():
        codes = [run["evaluations"]["codes"] for run in own]
        with_references = [c for c in codes if c["oracle"]]
        rows.append(
            [
                fold,
                str(len(own)),
                *(spread(score(r, "codes", d) for r in own) for d in DIRECTIONS),
                spread(score(r, "codes_by_recording", FORTH) for r in own),
                spread(score(r, "semantic", FORTH) for r in own),
                spread(reference(c["oracle"]) for c in with_references),
                spread(reference(c["random_encoders"][FORTH]) for c in with_references),
                f"{codes[0]['chance']:.3f}",
            ]
        )
    columns = ["fold", "runs", *DIRECTIONS, f"{FORTH}, by recording"]
    columns += [f"{FORTH}, continuous", "oracle", "random encoders", "chance"]
    return table(columns, rows)


def reference(scores: dict[str, Any]) -> float:
    """Returns a reference's balanced accuracy on the test split."""
    return float(scores["test"]["balanced_accuracy"])


def by_variant(runs: Sequence[Run]) -> list[tuple[str, str, list[Run]]]:
    """Returns the runs of every variant and fold, with their names.

    Fold by fold, what transfers best on both splits first.
    """
    return [
        (variant, fold, own)
        for fold, of_fold in grouped(runs, "fold").items()
        for variant, own in sorted(
            grouped(of_fold, "variant").items(),
            key=lambda item: -transfers(item[1], BOTH).mean(),
        )
    ]


def shown(variant: str) -> str:
    """Returns a variant's name in a table, in which the recipe is bold."""
    return f"**{variant}**" if variant == "recipe" else variant.replace("_", " ")


def ablations(runs: Sequence[Run]) -> str:
    """Returns the transfer of every variant by fold, compared with the recipe."""
    recipes = grouped([run for run in runs if run["variant"] == "recipe"], "fold")
    rows = []
    for variant, fold, own in by_variant(runs):
        compared = variant != "recipe" and fold in recipes
        rows.append(
            [
                shown(variant),
                fold,
                str(len(own)),
                *(
                    spread(transfers(own, splits))
                    for splits in (TEST, VALIDATION, BOTH)
                ),
                *(
                    difference(transfers(own, splits), transfers(recipes[fold], splits))
                    if compared
                    else ""
                    for splits in (TEST, BOTH)
                ),
                spread(score(r, "semantic", FORTH) for r in own),
                spread(score(r, "codes", BACK) for r in own),
            ]
        )
    columns = ["variant", "fold", "runs", FORTH, "on validation", "mean of both"]
    columns += ["against the recipe", "mean of both, against the recipe"]
    return table([*columns, f"{FORTH}, continuous", BACK], rows)


def shared_codes(runs: Sequence[Run]) -> str:
    """Returns how far codes are shared, counted as codes, by variant and fold.

    Nothing of studies made before it was measured.
    """
    rows = []
    for variant, fold, own in by_variant(runs):
        found = [run["evaluations"]["codes"].get("code_sharing") for run in own]
        if not all(found):
            continue
        tables = [one["by_code"][FORTH] for one in found]
        at_four = [(one["by_size"] or {}).get("4") for one in found]
        rows.append(
            [
                shown(variant),
                fold,
                str(len(own)),
                str(found[0]["codes"]),
                spread(one["balanced_accuracy"] for one in tables),
                population([one["by_recording"] for one in tables]),
                spread(one["coverage"] for one in tables),
                spread(score(run, "codes", FORTH) for run in own),
                spread(one["agreement"] for one in found),
                spread(one["kappa"]["shift"] for one in found),
                spread(one["shared_nats"] for one in found),
                spread(one["equal_share"] for one in found),
                spread(one["mixing"] for one in found),
                spread(one["kappa"]["shift"] for one in at_four if one),
                spread(one["shared_nats"] for one in at_four if one),
            ]
        )
    columns = ["variant", "fold", "runs", "codes", "table by code", "by recording"]
    columns += ["coverage", "head", "agreement", "kappa", "shared nats", "equal share"]
    columns += ["mixing", "kappa, 4 codes", "shared nats, 4 codes"]
    return table(columns, rows) if rows else ""


def population(runs: Sequence[dict[str, float | None]]) -> str:
    """Returns the mean of recordings, with its interval over recordings and seeds.

    Recordings that do not define the value, such as those of one class, are left out.
    """
    defined = [
        name for name in runs[0] if all(run.get(name) is not None for run in runs)
    ]
    if not defined:
        return ""
    found = over_recordings_and_seeds(
        np.array([[run[name] for run in runs] for name in defined])
    )
    if found.interval is None:
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"


def code_use(runs: Sequence[Run]) -> str:
    """Returns how video and current use the codes, by variant and fold."""
    rows = []
    for variant, fold, own in by_variant(runs):
        seen = {
            name: np.mean([run["validation"][name] for run in own])
            for name in (TOKENS, CHANCE, "equal_share", *PERPLEXITIES)
        }
        rows.append(
            [
                shown(variant),
                fold,
                f"{seen[TOKENS]:.3f} ({seen[CHANCE]:.3f})",
                f"{seen['equal_share']:.3f}",
                " / ".join(f"{seen[name]:.0f}" for name in PERPLEXITIES),
            ]
        )
    columns = ["variant", "fold", "token agreement (chance)"]
    return table([*columns, "equal share", "perplexity v / c"], rows)


def agreement(runs: Sequence[Run]) -> str:
    """Returns how agreement and zero-shot transfer go together over runs.

    Over all, and over those with as many codes as the recipe: fewer codes agree more
    often whatever they are worth.
    """
    alike = [run for run in runs if not run["variant"].startswith("codes_")]
    if len(alike) < MIN_RUNS:
        return f"Fewer than {MIN_RUNS} runs: not computed.\n"
    rows = []
    for name in ("equal_share", TOKENS, COSINE, "cpc_accuracy"):
        found = [rank_correlation(own, name) for own in (runs, alike)]
        if all(found):
            rows.append([f"`{name}`", *found[0], *found[1]])
    columns = ["runs", "rank correlation", "p"]
    alike_columns = [f"{name}, as many codes" for name in columns]
    return table(["validation metric", *columns, *alike_columns], rows)


def rank_correlation(runs: Sequence[Run], name: str) -> list[str]:
    """Returns the runs that have a metric, its rank correlation with transfer, and p.

    Nothing of too few runs, or of runs that all have the same value.
    """
    values = np.array([run["validation"].get(name, np.nan) for run in runs])
    known = np.isfinite(values)
    if known.sum() < MIN_RUNS or np.ptp(values[known]) == 0:
        return []
    rho, p = spearmanr(values[known], transfers(runs, VALIDATION)[known])
    return [str(known.sum()), f"{rho:+.2f}", f"{p:.2g}"]


def draw(studies: dict[str, list[Run]], path: pathlib.Path) -> None:
    """Draws zero-shot transfer over token agreement, a point a run."""
    figure, axes = plt.subplots(
        1, len(studies), figsize=(5 * len(studies), 4), squeeze=False, dpi=110
    )
    for axis, (name, runs) in zip(axes[0], studies.items(), strict=True):
        recipes = [run for run in runs if run["variant"] == "recipe"]
        others = [run for run in runs if run["variant"] != "recipe"]
        for own, label, style in (
            (recipes, "recipe", {"marker": "*", "s": 120, "c": "tab:red"}),
            (others, None, {"marker": "o", "s": 30, "c": "tab:blue"}),
        ):
            axis.scatter(
                [run["validation"][TOKENS] for run in own],
                [score(run, "codes", FORTH, "validation") for run in own],
                label=label,
                **style,
            )
        axis.set(
            title=name.replace("_", " "),
            xlabel="token agreement, validation",
            ylabel=f"{FORTH}, balanced accuracy, validation",
        )
        axis.legend(loc="best")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def provenance(runs: Sequence[Run]) -> str:
    """Returns with what the runs were made."""

    def every(key: str) -> str:
        return ", ".join(sorted({str(run[key]) for run in runs}))

    devices = ", ".join(sorted({" + ".join(run["devices"]) for run in runs}))
    seconds = np.median([run["train_s"] for run in runs])
    return (
        f"{len(runs)} runs; commits {every('commit')}; jax {every('jax')}, Python "
        f"{every('python')}; {devices}, {every('cpus')} CPU cores; {every('steps')} "
        f"steps; median training time {seconds:.0f} s."
    )


def main() -> None:
    """Writes the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("found", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    studies = {p.stem: json.loads(p.read_text()) for p in sorted(arguments.found)}
    picture = arguments.out.parent / "results" / "agreement.png"
    parts = ["# Results", "(Tables and picture by `scripts/write_results.py`.)"]
    introduction = arguments.found[0].parent / "introduction.md"
    if introduction.exists():
        parts.append(introduction.read_text())
    for path in sorted(arguments.found):
        runs = studies[path.stem]
        text = path.with_suffix(".md")
        parts += [
            f"## {path.stem.replace('_', ' ')}",
            text.read_text() if text.exists() else "",
            "### The recipe, fold by fold",
            headline([run for run in runs if run["variant"] == "recipe"]),
            "### What each part does",
            ablations(runs),
            "### Are the codes shared?",
            shared_codes(runs) or "Not measured in this study.",
            "### How the codes of ticks are used, on validation",
            code_use(runs),
            "### Does agreement rise with transfer?",
            agreement(runs),
            provenance(runs),
        ]
    parts += ["## Agreement and transfer", f"![{picture.stem}](results/{picture.name})"]
    draw(studies, picture)
    write_text(arguments.out, "\n\n".join(p.strip() for p in parts if p) + "\n")


if __name__ == "__main__":
    main()
