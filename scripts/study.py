"""Trains and evaluates every variant of a study, and keeps what was found.

    python scripts/study.py configs/studies/utd_mhad.py --out docs/results/utd_mhad.json

A study file (configs/studies/) has FOLDS, SEEDS and DATA; VARIANTS, by name a function
that changes a config; train_config(fold, data) and evaluate_config(fold, data); if not
every variant is evaluated alike, evaluate_variant(settings, variant); and if not all of
EVALUATIONS are wanted, EVALUATED, their names. Every combination of variant, fold and
seed is one run of `fmalign_jax.train`, evaluated at its last step. What was done
already is not done again, so that a study may be stopped at any time and grow later; a
run that was interrupted continues. scripts/write_results.py makes tables of what was
found.

With --together the seeds of a variant are trained in one program (docs/sweep.md), which
for small models a GPU does in the time of one (docs/performance.md).
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax

from fmalign_jax.cli import keep_compiled_programs
from fmalign_jax.config.overrides import load_file
from fmalign_jax.data.files import write_text
from fmalign_jax.evaluate import evaluate
from fmalign_jax.evaluation.report import scores_key, scores_of
from fmalign_jax.run import restore
from fmalign_jax.sweep import train_together
from fmalign_jax.sweeps.members import combinations
from fmalign_jax.train import train

RECIPE = "recipe"
"""The variant that changes nothing; it is evaluated with its references, the oracle
and encoders that were not trained, which take longest."""

# Spells are located by the first alone; retrieval asks no head, and is the same in all.
_ONCE = {"localisation": False, "retrieval": False}
EVALUATIONS: dict[str, dict[str, Any]] = {
    "codes": {"features": ""},
    "semantic": {"features": "semantic", **_ONCE},
    "codes_by_recording": {"standardise": "recording", **_ONCE},
}
"""How a run is evaluated, by name: what differs from the study's own settings."""

KEPT = ("accuracy", "balanced_accuracy", "auroc")
ALARMS = ("f1", "fdr", "mdr")
"""Of two classes alone."""


def train_seeds(
    study: ModuleType,
    variant: str,
    fold: str,
    seeds: Sequence[int],
    data: str,
    workdir: pathlib.Path,
) -> dict[int, tuple[pathlib.Path, Mapping[str, Any]]]:
    """Trains one seed of a variant, or several together, as far as it is not done.

    Returns:
      By seed the folder of its run, and the summary.
    """
    config = study.train_config(fold, data)
    study.VARIANTS[variant](config)
    if len(seeds) == 1:
        config.seed = seeds[0]
        _, summary = train(config, workdir)
        trained = {seeds[0]: (workdir, summary)}
    else:
        _, summary = train_together(config, combinations({"seed": seeds}), workdir)
        own_s = round(summary["seconds"] / len(seeds), 1)
        trained = {}
        for seed, row in zip(seeds, summary["members"], strict=True):
            if row["diverged"] is not None:
                raise FloatingPointError(f"{row['run']}: {row['diverged']}")
            trained[seed] = pathlib.Path(row["run"]), row | {"seconds": own_s}
    if not summary["finished"]:
        raise SystemExit(f"asked to stop; the same command continues {workdir}")
    return trained


def evaluated(
    study: ModuleType,
    key: tuple[str, str, int],
    data: str,
    workdir: pathlib.Path,
    summary: Mapping[str, Any],
    *,
    references: bool,
) -> dict[str, Any]:
    """Evaluates a run at its last step; returns what the study keeps of it."""
    variant, fold, seed = key
    started_s = time.perf_counter()
    evaluations, with_labels = {}, {}
    for name in getattr(study, "EVALUATED", EVALUATIONS):
        settings = study.evaluate_config(fold, data)
        if hasattr(study, "evaluate_variant"):
            study.evaluate_variant(settings, variant)
        settings.update(EVALUATIONS[name])
        settings.checkpoint = str(workdir)
        settings.step = "latest"
        settings.seed = seed
        settings.bootstrap_draws = 200
        if not references or (variant, name) != (RECIPE, "codes"):
            settings.random_encoders = 0
            settings.oracle_epochs = 0
            settings.classifiers = {}
        report, _ = evaluate(settings)
        with_labels |= supervised_brief(report)
        beside = report["references"]
        evaluations[name] = {
            "step": report["checkpoint"]["step"],
            "chance": beside["chance"],
            scores_key(report["labels"]): {
                d: brief(s) for d, s in scores_of(report).items()
            },
            "code_sharing": report["code_sharing"] and sharing_brief(report),
            "retrieval": report["retrieval"] and retrieval_brief(report),
            "localisation": report["localisation"] and localisation_brief(report),
            "oracle": brief(beside["oracle"]),
            "random_encoders": {
                d: brief(s) for d, s in (beside["random_encoders"] or {}).items()
            },
        }
    return {
        "variant": variant,
        "fold": fold,
        "seed": seed,
        "steps": summary["step"],
        "windows_crc32": restore.trained_windows(restore.open_run(workdir, "latest")),
        "train_s": summary["seconds"],
        "evaluate_s": round(time.perf_counter() - started_s, 1),
        "validation": summary["validation"],
        "evaluations": evaluations,
        "supervised": with_labels,
        "commit": commit(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "devices": [device.device_kind for device in jax.devices()],
        "cpus": os.cpu_count(),
    }


SHARING_KEPT = (
    "level",
    "codes",
    "verdict",
    "agreement",
    "chance_marginals",
    "chance_shift",
    "kappa",
    "shared_nats",
    "perplexity",
    "equal_share",
    "code_information",
    "mixing",
    "ceiling",
    "agreement_by_recording",
    "by_size",
)


def sharing_brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tables show of how far codes are shared, on the headline split."""
    found = report["code_sharing"]
    return {name: found[name] for name in SHARING_KEPT} | {
        "by_code": {
            direction: {name: scores[name] for name in (*KEPT, "coverage")}
            | {"by_recording": of_recordings(scores)}
            for direction, scores in found["by_code"].items()
        }
    }


def retrieval_brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tables show of the retrieval: every split, without intervals."""

    def short(own: Mapping[str, Any]) -> dict[str, Any]:
        return {name: own[name] for name in own if name != "intervals"}

    return {
        split: {
            "windows": found["windows"],
            "features": {
                kind: {direction: short(own) for direction, own in directions.items()}
                for kind, directions in found["features"].items()
            },
            "references": {
                name: short(own) for name, own in found["references"].items() if own
            },
        }
        for split, found in report["retrieval"]["splits"].items()
    }


def localisation_brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tables show of the localisation, without intervals."""
    return {
        part: {
            name: {key: value for key, value in own.items() if key != "intervals"}
            for name, own in report["localisation"][part].items()
        }
        for part in ("directions", "references")
    }


def of_recordings(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns the balanced accuracy of each recording; means over draws have none."""
    return {
        recording: own["balanced_accuracy"]
        for recording, own in scores.get("by_recording", {}).items()
    }


def supervised_brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tables show of what learned with labels, the oracle included."""
    found = dict(report["supervised"])
    oracle = report["references"]["oracle"]
    if oracle is not None:
        found["oracle"] = oracle | {"inputs": [oracle["modality"]]}
    return {
        name: {key: own[key] for key in ("inputs", "parameters", "held_out_loss")}
        | {
            split: {metric: scores[metric] for metric in (*KEPT, *ALARMS)}
            for split, scores in own["splits"].items()
        }
        for name, own in found.items()
    }


def brief(scores: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns by split the metrics that tables show, and those of each recording."""
    if scores is None:
        return None
    return {
        split: {name: own[name] for name in (*KEPT, *ALARMS) if name in own}
        | {"by_recording": of_recordings(own)}
        for split, own in scores["splits"].items()
    }


def commit() -> str:
    """Returns the commit of the code, with a plus sign if files have changed since."""
    root = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def main() -> None:
    """Runs what of the study is asked for and not yet done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=pathlib.Path, help="a file of configs/studies/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .json file")
    parser.add_argument("--data", help="folder of the recordings, by default DATA")
    parser.add_argument("--runs", type=pathlib.Path, help="by default runs/STUDY")
    parser.add_argument("--variants", nargs="*", help="by default all")
    parser.add_argument("--folds", nargs="*", help="by default all")
    parser.add_argument("--seeds", nargs="*", type=int, help="by default all")
    parser.add_argument(
        "--together", action="store_true", help="train all seeds of a variant at once"
    )
    parser.add_argument("--no-references", action="store_true", help="of the recipe")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    keep_compiled_programs()

    study = load_file(arguments.study)
    data = arguments.data or study.DATA
    folder = arguments.runs or pathlib.Path("runs") / arguments.study.stem
    found = []
    if arguments.out.exists():
        found = json.loads(arguments.out.read_text())
    done = {(run["variant"], run["fold"], run["seed"]) for run in found}
    seeds, beside = arguments.seeds or study.SEEDS, not arguments.no_references
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    # One seed of everything before the next, unless all are trained together.
    rounds = [seeds] if arguments.together else [[seed] for seed in seeds]
    for own_seeds, variant, fold in itertools.product(
        rounds,
        arguments.variants or study.VARIANTS,
        arguments.folds or study.FOLDS,
    ):
        missing = [seed for seed in own_seeds if (variant, fold, seed) not in done]
        if not missing:
            continue
        workdir = folder / f"{variant}-{fold}-{'+'.join(map(str, own_seeds))}"
        trained = train_seeds(study, variant, fold, own_seeds, data, workdir)
        for seed in missing:
            key = (variant, fold, seed)
            found.append(evaluated(study, key, data, *trained[seed], references=beside))
            write_text(arguments.out, json.dumps(found, indent=1) + "\n")
            print(*key, "done", flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
