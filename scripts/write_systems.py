"""Makes the tables of systems side by side from what scripts/study.py found.

    python scripts/write_systems.py docs/results/systems.json \\
        --study configs/studies/systems.py --out docs/results/systems.md

Every number is of recordings that neither pre-training nor the head has seen (`test`),
at the last step. Means over seeds with their standard deviation; differences from CLIP
are paired by recording, with the error of recordings and seeds, and adjusted for the
number of comparisons (Holm); a picture shows them recording by recording. --study adds
how many parameters each system has, --across its transfer to furnaces of another
profile, --conditions whether it does what it is made for, --trials the six trials of
each, --leads how well the lead is found, --utd the transfer to people that were never
seen. The text of introduction.md, in the folder of the table, comes first. What was not
run is an empty cell.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray
from scipy.stats import permutation_test
from system_conditions import BACK, conditions
from system_leads import leads
from write_results import DIRECTIONS, FORTH, grouped, provenance, score, spread, table

from fmalign_jax.config import load_file
from fmalign_jax.data.files import write_text
from fmalign_jax.evaluation.population import (
    Population,
    difference,
    holm,
    over_recordings_and_seeds,
)
from fmalign_jax.training.state import fresh_state, make_trainer

Run = Mapping[str, Any]

BASE = "clip"
CONTROLS = {"_shuffled_pairs": "wrong pairs", "_at_lead_0": "lead 0"}
"""How variants end that are no systems to compare, and what they are."""
LONGER = "_longer"
"""How variants end that have more steps than all."""
OTHERWISE = ("alignvsr_longer",)
"""Those of them that have other settings too: they are conditions alone."""

DEFAULT, CONTROL, HARD = "default", "no_precursor", "hard"
CROSS = FORTH, BACK
MODALITIES = ("video", "current")
RETRIEVAL = ("recall@1", "recall@5", "recall@10", "median_rank", "normalised_rank")


def by_recording(runs: Sequence[Run]) -> tuple[list[str], ndarray]:
    """Returns the transfer of each recording and run [R, S]; those of one class out."""
    found = [
        run["evaluations"]["codes"]["zero_shot"][FORTH]["test"]["by_recording"]
        for run in runs
    ]
    names = [name for name, value in found[0].items() if value is not None]
    return names, np.array([[own[name] for own in found] for name in names])


def _control(run: Run) -> tuple[str, str] | None:
    """Returns which control a run is, and of which system; None of one to compare."""
    if run["fold"] == CONTROL:
        return "no precursor", run["variant"]
    for ending, control in CONTROLS.items():
        if run["variant"].endswith(ending):
            return control, run["variant"].removesuffix(ending)
    return None


def check_windows(runs: Sequence[Run]) -> None:
    """Checks that all systems learnt from the same windows, as far as that is known.

    Controls may not: one reads the current at another lead.

    Raises:
      ValueError: runs of one fold and of different windows.
    """
    for fold, own in grouped(runs, "fold").items():
        digests = {
            run["windows_crc32"]: run["variant"]
            for run in own
            if "windows_crc32" in run and not run["variant"].endswith(tuple(CONTROLS))
        }
        if len(digests) > 1:
            raise ValueError(
                f"a table compares systems on the same windows; those of {fold} were "
                f"trained on different ones, as {' and '.join(digests.values())}; make "
                "these runs again"
            )


def zero_shot(runs: Sequence[Run], across: Sequence[Run]) -> str:
    """Returns the transfer of every system, compared with CLIP.

    Args:
      runs: of the systems.
      across: the same systems with their heads, tested on furnaces of another profile.
    """
    by_fold = grouped(runs, "fold")
    folds = {fold: grouped(own, "variant") for fold, own in by_fold.items()}
    systems = folds[DEFAULT]
    beside = folds.get(HARD, {}), grouped(across, "variant")
    apart = _differences(systems)
    oracle = [
        run["evaluations"]["codes"]["oracle"]["test"]["balanced_accuracy"]
        for own in systems.values()
        for run in own
        if run["evaluations"]["codes"]["oracle"]
    ]
    rows = []
    for name, own in systems.items():
        forth = [score(run, "codes", FORTH) for run in own]
        share = f"{np.mean(forth) / np.mean(oracle):.3f}" if oracle else ""
        rows.append(
            [
                name,
                f"{own[0]['steps']}, {np.mean([r['train_s'] for r in own]):.0f} s",
                str(len(own)),
                *(spread(score(run, "codes", d) for run in own) for d in DIRECTIONS),
                spread(score(run, "codes_by_recording", FORTH) for run in own),
                spread(_auroc(run) for run in own),
                share,
                *(
                    spread(score(run, "codes", FORTH) for run in others.get(name, []))
                    for others in beside
                ),
                apart.get(name, ""),
            ]
        )
    header = ["system", "steps, training", "seeds", *DIRECTIONS]
    header += [f"{FORTH}, by recording", f"{FORTH}, AUROC", "of the oracle"]
    header += [f"{FORTH}, {fold}" for fold in (HARD, f"{DEFAULT} -> {HARD}")]
    return table([*header, f"less {BASE}"], rows)


def controls(runs: Sequence[Run]) -> str:
    """Returns what systems reach where there is nothing to align, with intervals.

    Intervals are of the mean over recordings and seeds; the rank is that of both
    directions. Codes and ticks as far as a system has them.
    """
    by_row: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if row := _control(run):
            by_row.setdefault(row, []).append(run)
    rows = []
    for row, own in sorted(by_row.items()):
        codes = [run["evaluations"]["codes"] for run in own]
        transfer = over_recordings_and_seeds(by_recording(own)[1])
        rank = over_recordings_and_seeds(_ranks(own))
        shared = [c["code_sharing"] for c in codes if c.get("code_sharing")]
        ticks = [c["localisation"] for c in codes if c.get("localisation")]
        rows.append(
            [
                *row,
                str(len(own)),
                spread(score(run, "codes", FORTH) for run in own),
                _interval(transfer),
                f"{rank.mean:.3f}",
                _interval(rank),
                spread(c["kappa"]["shift"] for c in shared),
                spread(c["directions"][FORTH]["balanced_accuracy"] for c in ticks),
            ]
        )
    header = ["control", "system", "seeds", FORTH, "95 %", "normalised rank", "95 %"]
    return table([*header, "kappa of codes", f"{FORTH}, ticks"], rows)


def _ranks(runs: Sequence[Run]) -> ndarray:
    """Returns the normalised rank of each recording and run [R, S], both directions."""
    return np.array(
        [
            [
                np.mean([own["by_recording"][name]["normalised_rank"] for own in both])
                for both in ([*_retrieved(run, "test").values()] for run in runs)
            ]
            for name in next(iter(_retrieved(runs[0], "test").values()))["by_recording"]
        ]
    )


def _interval(found: Population) -> str:
    """Returns the interval in brackets; nothing for one recording, which has none."""
    own = found.interval
    return f"[{own[0]:.3f}, {own[1]:.3f}]" if own else ""


def _auroc(run: Run) -> float:
    found = run["evaluations"]["codes"]["zero_shot"][FORTH]["test"]["auroc"]
    return float("nan") if found is None else float(found)


def _beside_base(
    systems: Mapping[str, Sequence[Run]],
) -> tuple[list[str], dict[str, tuple[ndarray, ndarray]]]:
    """Returns recordings, and by system its transfer [R, S] and CLIP's [R, s]."""
    if BASE not in systems:
        return [], {}
    names, base = by_recording(systems[BASE])
    found = {}
    for system, runs in systems.items():
        own_names, values = by_recording(runs)
        if system != BASE and own_names == names:
            found[system] = values, base
    return names, found


def _differences(systems: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Returns by system how far it is from CLIP, with interval and adjusted p."""
    _, beside = _beside_base(systems)
    found = {system: difference(*both) for system, both in beside.items()}
    told = {name: own for name, own in found.items() if own is not None}
    adjusted = holm([own.p for own in told.values()])
    return {
        name: f"{own.mean:+.3f} [{own.interval[0]:+.3f}, {own.interval[1]:+.3f}], "
        f"p {p:.2g}; these models {_of_these_models(*beside[name]):.2g}"
        for (name, own), p in zip(told.items(), adjusted, strict=True)
    }


def _of_these_models(values: ndarray, base: ndarray) -> float:
    """Returns the exact p of no difference between the models that were trained.

    Over recordings alone, each difference with either sign: it knows nothing of seeds.
    """
    apart = values.mean(axis=1) - base.mean(axis=1)
    found = permutation_test(
        (apart,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    return float(found.pvalue)


def draw_differences(runs: Sequence[Run], path: pathlib.Path) -> bool:
    """Draws how far each system is from CLIP, by recording; says whether it could."""
    own = [run for run in runs if run["fold"] == DEFAULT]
    names, beside = _beside_base(grouped(own, "variant"))
    if not beside:
        return False
    figure = Figure(figsize=(9, 1.2 + 0.45 * len(beside)), layout="constrained")
    axes = figure.add_subplot()
    for row, (values, base) in enumerate(beside.values()):
        apart = values.mean(axis=1) - base.mean(axis=1)
        axes.plot(apart, np.full(len(names), row), "o", color="tab:blue", alpha=0.5)
        axes.plot(apart.mean(), row, "|", color="black", markersize=16)
    axes.axvline(0.0, color="0.6", linestyle=":")
    axes.set_yticks(range(len(beside)), list(beside))
    axes.invert_yaxis()
    axes.set_xlabel(f"balanced accuracy, {FORTH}, less {BASE}: each point a recording")
    figure.savefig(path, dpi=110)
    return True


def trials(tried: Sequence[Mapping[str, Any]], header: Sequence[str]) -> str:
    """Returns the trials of each system; what is judged by is bold where it is best."""
    if not tried:
        return ""
    rows = []
    for system, own in grouped(tried, "system").items():
        best = min(own, key=lambda trial: trial["judged"])
        rows += [
            [
                system,
                trial["setting"],
                f"**{trial['judged']:.3f}**"
                if trial is best
                else f"{trial['judged']:.3f}",
                f"{trial['reached']:.3f}",
            ]
            for trial in own
        ]
    return table(["system", "learning rate, own setting", *header], rows)


def _trial(name: str, judged: float, reached: float) -> dict[str, Any]:
    """Returns a trial: what it is judged by, the less the better, what it reaches."""
    system, *setting = name.split("+")
    return {
        "system": system,
        "setting": ", ".join(setting) or "as shipped",
        "judged": judged,
        "reached": reached,
    }


def by_retrieval(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the trials that no label has judged."""
    return [
        _trial(
            run["variant"],
            float(np.mean([own["normalised_rank"] for own in found.values()])),
            score(run, "codes", FORTH, "validation"),
        )
        for run in runs
        if (found := _retrieved(run, "validation"))
    ]


def by_cross_entropy(
    runs: Sequence[Run], beside: Sequence[Run]
) -> list[dict[str, Any]]:
    """Returns the trials of what learns with labels.

    Args:
      runs: trials, those judged by retrieval among them.
      beside: of the systems' conditions; those of the recipe hold FmFormer's trials.
    """
    tried = []
    for run in runs:
        if not _retrieved(run, "validation"):
            found = run["evaluations"]["codes"]["supervised_representation"]
            reached = found["fused->fused"]["validation"]["balanced_accuracy"]
            loss = float(run["validation"]["loss/classification"])
            tried.append(_trial(run["variant"], loss, reached))
    for run in beside:
        for name, own in run["supervised"].items():
            if name != "oracle":
                reached = own["validation"]["balanced_accuracy"]
                tried.append(_trial(name, min(own["held_out_loss"]), reached))
    return tried


def retrieval(runs: Sequence[Run]) -> str:
    """Returns how well a system finds the partner of a window, by continuous features.

    The references are of the first run, whose labels are those of all.
    """
    rows = []
    for fold, own in grouped(runs, "fold").items():
        for name, seeds in grouped(own, "variant").items():
            found = [_retrieved(run, "test") for run in seeds]
            rows += [
                [
                    *(fold, name, direction),
                    *(spread(f[direction][key] for f in found) for key in RETRIEVAL),
                ]
                for direction in found[0]
            ]
        rows += [
            [fold, "", f"by {name}", *(f"{values[key]:.3f}" for key in RETRIEVAL)]
            for name, values in own[0]["evaluations"]["codes"]["retrieval"]["test"][
                "references"
            ].items()
        ]
    return table(["furnaces", "system", "", *RETRIEVAL], rows)


def _retrieved(run: Run, split: str) -> Mapping[str, Any]:
    """Returns a run's retrieval by direction; of the fused view there is none."""
    found = run["evaluations"]["codes"]["retrieval"]
    own: Mapping[str, Any] = found[split]["features"]["semantic"] if found else {}
    return own


def shared_codes(runs: Sequence[Run]) -> str:
    """Returns whether codes mean the same in both modalities; empty if none has codes.

    Kappa is over codes that are as frequent and as slow (a shift in time); the head
    knows a code and no vector, and coverage is the share of ticks whose code it met in
    training.
    """
    rows = []
    for fold, of_fold in grouped(runs, "fold").items():
        for name, own in grouped(of_fold, "variant").items():
            codes = [run["evaluations"]["codes"] for run in own]
            found = [c["code_sharing"] for c in codes if c.get("code_sharing")]
            if not found:
                continue
            by_code = [
                [one["by_code"][direction] for one in found] for direction in CROSS
            ]
            shared = sum(one["verdict"] == "shared" for one in found)
            rows.append(
                [
                    *(fold, name, f"{shared} of {len(found)}"),
                    spread(one["kappa"]["shift"] for one in found),
                    *(
                        spread(one["perplexity"][m] for one in found)
                        for m in MODALITIES
                    ),
                    *(
                        spread(one[key] for one in scores)
                        for scores in by_code
                        for key in ("balanced_accuracy", "coverage")
                    ),
                ]
            )
    header = ["furnaces", "system", "shared", "kappa"]
    header += [f"perplexity, {modality}" for modality in MODALITIES]
    for direction in CROSS:
        header += [f"{direction}, by code", "coverage"]
    return table(header, rows) if rows else ""


def people(runs: Sequence[Run]) -> str:
    """Returns the transfer to people, or to clips, that were in nothing before.

    A column is a fold of configs/studies/systems_utd.py. Other directions are means
    over the folds that a system was tried on.
    """
    folds = list(grouped(runs, "fold"))
    others = [direction for direction in DIRECTIONS if direction != FORTH]
    rows = []
    for name, own in grouped(runs, "variant").items():
        by_fold = grouped(own, "fold")
        rows.append(
            [
                name,
                str(len(own)),
                *(
                    spread(score(run, "codes", FORTH) for run in by_fold.get(fold, []))
                    for fold in folds
                ),
                *(
                    spread(score(run, "codes", direction) for run in own)
                    for direction in others
                ),
            ]
        )
    header = ["system", "runs", *(f"{FORTH}, {fold}" for fold in folds), *others]
    chance = runs[0]["evaluations"]["codes"]["chance"]
    return f"{table(header, rows)}\n\nChance is {chance:.3f}."


LOCATED = {
    "balanced_accuracy": "balanced accuracy of ticks",
    "f1": "F1 of ticks",
    "event_f1@0.3": "F1 of spells, IoU 0.3",
    "event_f1@0.5": "IoU 0.5",
    "event_f1@0.7": "IoU 0.7",
    "onset_error_s": "onset error, s",
    "onset_within_10_s": "within 10 s",
}
ORACLE = "current->current"


def localisation(runs: Sequence[Run]) -> str:
    """Returns where spells begin and end; empty if no run has it.

    The references are of the first run that has it; they ask no system.
    """
    rows = []
    for fold, own in grouped(runs, "fold").items():
        located: list[Mapping[str, Any]] = []
        for name, seeds in grouped(own, "variant").items():
            found = [
                run["evaluations"]["codes"]["localisation"]
                for run in seeds
                if run["evaluations"]["codes"].get("localisation")
            ]
            located += found
            for direction in found[0]["directions"] if found else ():
                beside = ", tick oracle" if direction == ORACLE else ""
                values = [one["directions"][direction] for one in found]
                seen = str(len(found))
                rows.append([fold, name, seen, direction + beside, *_located(values)])
        if located:
            rows += [
                [fold, "", "", name.replace("_", " "), *_located([values])]
                for name, values in located[0]["references"].items()
            ]
    header = ["furnaces", "system", "seeds", "", *LOCATED.values()]
    return table(header, rows) if rows else ""


def _located(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the cells of a row; seeds that do not define a value are left out."""
    known = ([own[key] for own in values if own[key] is not None] for key in LOCATED)
    return [spread(own) for own in known]


def longer(runs: Sequence[Run], beside: Sequence[Run]) -> str:
    """Returns the transfer with more steps than all have, beside the same seeds' own.

    Empty if no system was run so; those with another setting too are left out.
    """
    known = grouped([run for run in runs if run["fold"] == DEFAULT], "variant")
    rows = []
    for name, own in grouped(beside, "variant").items():
        if not name.endswith(LONGER) or name in OTHERWISE:
            continue
        system = name.removesuffix(LONGER)
        seeds = {run["seed"] for run in own}
        less = [run for run in known.get(system, []) if run["seed"] in seeds]
        steps = (str(of[0]["steps"]) if of else "" for of in (less, own))
        told = (spread(score(r, "codes", FORTH) for r in of) for of in (less, own))
        rows.append([system, str(len(own)), *steps, *told])
    header = ["system", "seeds", "steps", "and more", FORTH, "with more"]
    return table(header, rows) if rows else ""


def references(runs: Sequence[Run]) -> str:
    """Returns what stands beside the systems, by fold: oracle and random encoders."""
    rows = []
    for fold, own in grouped(runs, "fold").items():
        found = [run["evaluations"]["codes"] for run in own]
        beside = [codes for codes in found if codes["oracle"]]
        rows.append(
            [
                fold,
                spread(c["oracle"]["test"]["balanced_accuracy"] for c in beside),
                spread(
                    c["random_encoders"][FORTH]["test"]["balanced_accuracy"]
                    for c in beside
                ),
                f"{found[0]['chance']:.3f}",
            ]
        )
    return table(["furnaces", "oracle, current", "random encoders", "chance"], rows)


SUPERVISED = ("accuracy", "balanced_accuracy", "f1", "fdr", "mdr", "auroc")


def supervised(
    runs: Sequence[Run], beside: Sequence[Run], encode: Mapping[str, int]
) -> str:
    """Returns what learned with labels, and below it the best system that did not.

    Args:
      runs: of the systems, the recipe's with its references.
      beside: of the systems' conditions, among them those that learn with labels.
      encode: by system, how many parameters encode both modalities.
    """
    known = [run for run in runs if run["fold"] == DEFAULT]
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    sizes: dict[tuple[str, str], str] = {}
    for run in [*known, *beside]:
        for name, own in run.get("supervised", {}).items():
            if "+" not in name:  # no trial
                row = name, "+".join(own["inputs"])
                found.setdefault(row, []).append(own["test"])
                sizes[row] = f"{own['parameters'] / 1e6:.2f} M"
        codes = run["evaluations"]["codes"]
        for direction, own in codes.get("supervised_representation", {}).items():
            source, target = direction.split("->")
            inputs = target.replace("fused", "video+current")
            if source != target:
                inputs += f", head of the {source}"
            found.setdefault((run["variant"], inputs), []).append(own["test"])
    if not found:
        return ""
    best, own = max(
        grouped(known, "variant").items(),
        key=lambda pair: np.mean([score(run, "codes", FORTH) for run in pair[1]]),
    )
    last = f"without labels of the current: {best}", "current"
    found[last] = [
        run["evaluations"]["codes"]["zero_shot"][FORTH]["test"] for run in own
    ]
    if best in encode:
        sizes[last] = f"{encode[best] / 1e6:.2f} M"
    rows = [
        [
            *row,
            str(len(own)),
            *(
                spread(scores[key] for scores in own if key in scores)
                for key in SUPERVISED
            ),
            sizes.get(row, ""),
        ]
        for row, own in found.items()
    ]
    header = ["classifier", "inputs at test", "seeds", *SUPERVISED, "parameters"]
    return table([name.replace("_", " ") for name in header], rows)


SAMPLES = {"video": ((64, 64, 3), jnp.uint8), "current": ((3,), jnp.float32)}
"""Shape and dtype of one sample of a furnace's streams."""


def counted(study: ModuleType, systems: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Returns each system's number of parameters, that encode and in training."""
    return {
        name: _parameters(study, name) for name in systems if name in study.VARIANTS
    }


def sizes(parameters: Mapping[str, tuple[int, int]]) -> str:
    """Returns how many parameters each system has, counted without running any."""
    rows = [
        [name, *(f"{count / 1e6:.2f} M" for count in own)]
        for name, own in parameters.items()
    ]
    header = ["system", "parameters that encode both modalities", "in training"]
    return table(header, rows)


def _parameters(study: ModuleType, name: str) -> tuple[int, int]:
    """Returns the number of parameters that `encode` needs, and of all in training."""
    config = study.train_config(DEFAULT, study.DATA)
    study.VARIANTS[name](config)
    trainer = make_trainer(config, steps_per_epoch=80, steps=320)
    rows, ticks = config.batch_size, config.data.window_ticks

    def array(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    streams = {
        m: array((rows, ticks, config.data.samples_per_tick[m], *shape), dtype)
        for m, (shape, dtype) in SAMPLES.items()
    }
    floats = {m: array(x.shape) for m, x in streams.items()}
    channels = {m: array(shape[-1:]) for m, (shape, _) in SAMPLES.items()}
    batch = {
        "streams": streams,
        "mask": array((rows,), bool),
        "recording": array((rows,), jnp.int32),
        "time_s": array((rows, 2)),
    }
    statistics = {m: {"mean": x, "std": x} for m, x in channels.items()}
    state = jax.eval_shape(functools.partial(fresh_state, trainer), batch, statistics)
    encoders = jax.eval_shape(
        functools.partial(trainer.model.init, train=False, method="semantic"),
        jax.random.key(0),
        floats,
    )
    counts = [
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for tree in (encoders["params"], (state.params, state.critic_params))
    ]
    return counts[0], counts[1]


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=pathlib.Path, help="a .json file of study.py")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .md file")
    parser.add_argument("--trials", type=pathlib.Path, help="those of system_trials.py")
    parser.add_argument(
        "--across", type=pathlib.Path, help="those of systems_across.py"
    )
    parser.add_argument(
        "--leads",
        type=pathlib.Path,
        nargs="*",
        default=(),
        help="of lead_study.py, a file a system",
    )
    parser.add_argument("--utd", type=pathlib.Path, help="those of systems_utd.py")
    parser.add_argument(
        "--conditions", type=pathlib.Path, help="those of system_conditions.py"
    )
    parser.add_argument("--study", type=pathlib.Path, help="its file, to count sizes")
    arguments = parser.parse_args()
    runs = json.loads(arguments.results.read_text())
    beside, tried, across, seen = (
        json.loads(path.read_text()) if path else []
        for path in (
            arguments.conditions,
            arguments.trials,
            arguments.across,
            arguments.utd,
        )
    )
    check_windows([*runs, *across])
    nothing = [run for run in runs if _control(run)]
    runs = [run for run in runs if not _control(run)]
    folder = arguments.out.with_suffix("")
    drawn = draw_differences(runs, folder / "differences.png")
    located = localisation(runs)
    study = arguments.study and load_file(arguments.study)
    names = list(grouped(runs, "variant"))
    parameters = counted(study, names) if study else {}
    answers = {path.stem: json.loads(path.read_text()) for path in arguments.leads}
    parts = [
        "# Systems side by side",
        (folder / "introduction.md").read_text(),
        "## Zero-shot transfer",
        zero_shot(runs, across),
        f"![By recording]({folder.name}/differences.png)" if drawn else "",
        references(runs),
        "## Retrieval within a recording",
        retrieval(runs),
    ]
    held_out = ["cross-entropy, held out", "balanced accuracy, validation"]
    validated = ["normalised rank, validation", f"{FORTH}, validation"]
    encode = {name: count for name, (count, _) in parameters.items()}
    for title, part in (
        ("Codes, counted", shared_codes(runs)),
        ("With more steps", longer(runs, beside)),
        ("Controls, where there is nothing to align", nothing and controls(nothing)),
        ("Localisation of spells", located),
        ("Lead", answers and leads(answers)),
        (
            "With labels, never to be compared with transfer",
            supervised(runs, beside, encode),
        ),
        ("UTD-MHAD, 27 actions", seen and people(seen)),
        (
            "What each system is made of",
            beside and conditions(runs, beside, parameters=encode, answers=answers),
        ),
        (
            "Trials, one seed, judged without labels",
            trials(by_retrieval(tried), validated),
        ),
        (
            "Trials of what learns with labels",
            trials(by_cross_entropy(tried, beside), held_out),
        ),
        ("Sizes", parameters and sizes(parameters)),
    ):
        if part:
            parts += [f"## {title}", part]
    parts.append(provenance([*runs, *nothing]))
    write_text(arguments.out, "\n\n".join(p.strip() for p in parts if p) + "\n")


if __name__ == "__main__":
    main()
