"""The end of training: values in groups, what they mean, and what may be done next."""

from __future__ import annotations

import pathlib
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.evaluation.code_sharing import verdict

GROUPS: Mapping[str, str] = {
    "Losses": r"loss(/.*)?",
    "Codebook": r"(perplexity|used_codes|token_agreement|shared_\w+)/.*|equal_share"
    r"|shared_\w+",
    "Transfer": r"\w*accuracy(/.*)?|zero_shot/.*|supervised_representation/.*",
}
"""Headings, and the names of the values that stand under them."""

COLLAPSED_BELOW = 2.0
"""A modality with a smaller perplexity has stopped to use the codebook."""

FEW_WINDOWS = 50
"""Of fewer windows of validation a lucky agreement is nothing rare."""

_WIDTH = 80  # columns of a sentence
_OF_BATCH = ("cpc_accuracy", "clip_accuracy")  # its chance is 1 / batch size
_OWN = re.compile(r".*/(\w+)->\1")  # of a modality with itself


def print_summary(
    summary: Mapping[str, Any], workdir: pathlib.Path, config: ConfigDict
) -> None:
    """Prints the summary of a run.

    Args:
      summary: as from `train.train`.
      workdir: the folder of the run.
      config: of the run.
    """
    for heading, rows in tables(summary, workdir, config.score).items():
        if rows:
            print(heading)
            cli.print_table(rows)
    print("What it means")
    for sentence in meaning(summary, config):
        print(
            textwrap.fill(
                sentence,
                _WIDTH,
                initial_indent="  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
        )
    cli.print_next(next_commands(summary, workdir, config))


def tables(
    summary: Mapping[str, Any], workdir: pathlib.Path, score: str
) -> dict[str, list[list[str]]]:
    """Returns rows of names and values by heading.

    The values are the last of validation; those of training where there is none.
    """
    train = summary["train"] or {}
    values = summary["validation"] or train
    split = "validation" if summary["validation"] else "training"
    found = {
        f"{heading} ({split})": [
            [name, f"{value:.4g}"]
            for name, value in values.items()
            if re.fullmatch(names, name) and not _OWN.fullmatch(name)
        ]
        for heading, names in GROUPS.items()
    }
    speed = {
        "steps": f"{summary['step']} of {summary['steps']}, {summary['seconds']:.0f} s",
        **{
            name: f"{train[name]:.3g}"
            for name in ("windows_per_s", "waiting_share")
            if name in train
        },
    }
    best, checkpoint = summary["best_score"], summary["best_checkpoint"]
    files = {
        "best checkpoint": "None" if checkpoint is None else cli.short(checkpoint),
        "chosen by": score if best is None else f"{score}, at best {best:.4g}",
        "latest checkpoint": cli.short(summary["latest_checkpoint"]),
        "metrics": cli.short(workdir / "metrics.jsonl"),
        "summary": cli.short(workdir / "summary.json"),
    }
    if (workdir / "tensorboard").is_dir():
        files["curves"] = f"tensorboard --logdir {cli.quoted(workdir / 'tensorboard')}"
    for heading, rows in (("Speed", speed), ("Files", files)):
        found[heading] = [[name, value] for name, value in rows.items()]
    return found


def meaning(summary: Mapping[str, Any], config: ConfigDict) -> list[str]:
    """Returns in sentences what the last validation says.

    Whether codes are shared is decided as in an evaluation (`code_sharing.verdict`),
    by the shared level; a run without one is told what its ticks agree.
    """
    values = summary["validation"]
    if values is None:
        return ["nothing was validated yet, so that nothing can be said"]
    codes = config.get("codebook", {}).get("codes")
    found = [
        f"collapsed: perplexity {value:.1f}{f' of {codes}' if codes else ''} "
        f"({name.removeprefix('perplexity/')}); what to try: docs/outputs.md"
        for name, value in values.items()
        if name.startswith("perplexity/") and value < COLLAPSED_BELOW
    ]
    shared = _of_pairs(values, "shared_kappa")
    for pair, kappa in shared.items():
        nats = values[f"shared_nats/{pair}"]
        whose = f" of {pair}" if len(shared) > 1 else ""
        said = verdict(kappa, nats)
        hint = "; what to try: docs/outputs.md" if said == "not shared" else ""
        found.append(
            f"codes{whose} are {said}: kappa {kappa:.2f} (chance 0), {nats:.2f} nats "
            f"beyond chance{hint}"
        )
    if not shared and not found:
        found = [
            f"{pair}: the same code in {agreement:.3f} of the ticks (chance "
            f"{values[f'chance_agreement/{pair}']:.3f}); an evaluation says whether "
            "codes are shared"
            for pair, agreement in _of_pairs(values, "token_agreement").items()
        ]
    found = found or [_of_score(values, config)]
    windows = summary["windows"]["validation"]
    if windows < FEW_WINDOWS:
        found.append(
            f"judged by {windows} windows of validation, and fewer than {FEW_WINDOWS} "
            "say little"
        )
    return found


def _of_pairs(values: Mapping[str, float], name: str) -> dict[str, float]:
    """Returns a value by pair of modalities."""
    own = {n: v for n, v in values.items() if n.startswith(f"{name}/")}
    return {n.removeprefix(f"{name}/"): value for n, value in own.items()}


def _of_score(values: Mapping[str, float], config: ConfigDict) -> str:
    name = config.score.removeprefix("-")
    chance = f" (chance {1 / config.batch_size:.3f})" if name in _OF_BATCH else ""
    return f"{name} is {values[name]:.3f}{chance}; the run has no codes to be shared"


def next_commands(
    summary: Mapping[str, Any], workdir: pathlib.Path, config: ConfigDict
) -> list[list[str]]:
    """Returns what may be done next: commands, and what they are for."""
    run = cli.quoted(workdir)
    rows = []
    if not summary["finished"]:
        rows.append(["the same command", f"goes on from step {summary['step']}"])
    rows += [
        [f"fmalign evaluate {run}", "what the features are worth, with labels"],
        [f"fmalign report {run}", "one HTML page about the run"],
    ]
    if config.data.windows == "sliding":
        rows.append([f"fmalign lead {run}", "how far the current is ahead"])
    return rows
