"""Trains and evaluates every variant of a study, and keeps what was found.

    python scripts/study.py configs/studies/utd_mhad.py --out docs/results/utd_mhad.json

A study file says what is varied (configs/studies/). Every combination of variant, fold
and seed is one run of `fmalign_jax.train` and its evaluations. What was done already is
not done again, so that a study may be stopped at any time and grow later.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import logging
import os
import pathlib
import platform
import time
from types import ModuleType
from typing import Any

import jax

from fmalign_jax.command import keep_compiled_programs
from fmalign_jax.evaluate import evaluate
from fmalign_jax.evaluation_files import write_text
from fmalign_jax.train import train

CODEBOOK = (
    "cpc_accuracy",
    "token_agreement",
    "merged_agreement",
    "chance_agreement",
    "equal_num",
    "equal_share",
    "code_cosine",
    "perplexity",
    "used_codes",
    "loss/cross_cpc",
)
"""Which validation values of the last step are kept, by the start of their names."""


def load_study(path: pathlib.Path) -> ModuleType:
    """Imports a study file: FOLDS, SEEDS, VARIANTS, EVALUATIONS and two functions."""
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_one(
    study: ModuleType, variant: str, fold: str, seed: int, workdir: pathlib.Path
) -> dict[str, Any]:
    """Trains one run, unless its folder holds it, and evaluates it."""
    config = study.train_config(fold)
    config.seed = seed
    study.VARIANTS[variant](config)
    _, summary = train(config, workdir)
    started_s = time.perf_counter()
    evaluations = {}
    for name, settings in study.EVALUATIONS.items():
        if study.FULL_ONLY.get(name, variant) != variant:
            continue
        evaluation = study.evaluation_config(fold)
        evaluation.checkpoint = str(workdir)
        evaluation.seed = seed
        evaluation.update(settings)
        report, _ = evaluate(evaluation)
        evaluations[name] = {
            "scores": brief(report["zero_shot"]),
            "random_encoders": brief(report["references"]["random_encoders"] or {}),
            "oracle": brief({"": report["references"]["oracle"] or {"splits": {}}})[""],
            "chance": report["references"]["chance"],
            "step": report["checkpoint"]["step"],
        }
    return {
        "variant": variant,
        "fold": fold,
        "seed": seed,
        "steps": summary["step"],
        "train_s": summary["seconds"],
        "evaluate_s": round(time.perf_counter() - started_s, 1),
        "validation": {
            name: value
            for name, value in (summary["validation"] or {}).items()
            if name.startswith(CODEBOOK)
        },
        "evaluations": evaluations,
    }


def brief(scores: dict[str, Any]) -> dict[str, Any]:
    """Returns accuracy and balanced accuracy by direction and split."""
    kept = ("accuracy", "balanced_accuracy", "auroc")
    return {
        direction: {
            split: {name: own[name] for name in kept}
            for split, own in found["splits"].items()
        }
        for direction, found in scores.items()
    }


def main() -> None:
    """Runs what of the study is asked for and not yet done."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=pathlib.Path, help="a file of configs/studies/")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .json file")
    parser.add_argument("--runs", type=pathlib.Path, help="by default runs/STUDY")
    parser.add_argument("--variants", nargs="*", help="by default all")
    parser.add_argument("--folds", nargs="*", help="by default all")
    parser.add_argument("--seeds", nargs="*", type=int, help="by default all")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    keep_compiled_programs()
    study = load_study(arguments.study)
    runs = arguments.runs or pathlib.Path("runs") / arguments.study.stem
    found = {"study": str(arguments.study), "runs": []}
    if arguments.out.exists():
        found = json.loads(arguments.out.read_text())
    done = {(r["variant"], r["fold"], r["seed"]) for r in found["runs"]}
    for seed, variant, fold in itertools.product(
        arguments.seeds or study.SEEDS,
        arguments.variants or study.VARIANTS,
        arguments.folds or study.FOLDS,
    ):
        if (variant, fold, seed) in done:
            continue
        result = run_one(study, variant, fold, seed, runs / f"{variant}-{fold}-{seed}")
        found["runs"].append(result)
        found["machine"] = {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "devices": [str(device) for device in jax.devices()],
            "cpus": os.cpu_count(),
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(arguments.out, json.dumps(found, indent=1) + "\n")
        jax.clear_caches()
        print(variant, fold, seed, json.dumps(result["evaluations"]), flush=True)


if __name__ == "__main__":
    main()
