"""The model card of a packed run: Markdown, from what was measured and nothing else.

What stands in it comes from the config, from summary.json and from the files that
evaluations, searches for the lead and alarms have written in the folder of the run, for
the checkpoint that is packed; from studies, means over seeds. What was not measured is
said to be so.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import pathlib
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fmalign_jax.data.files import read_json
from fmalign_jax.evaluation.report import scores_of
from fmalign_jax.run.packed import PackedRun
from fmalign_jax.run_report.files import Json, flat

_SIMULATED = "fmalign_jax.data.simulator."
_METRICS = ("balanced_accuracy", "auroc", "f1")
_REPORTS = {
    "evaluation": "eval.json",
    "early_warning": "early_warning.json",
    "lead_time": "lead_time.json",
}
"""What commands write, by the beginning of their folders' names."""

_UNREAD = (KeyError, TypeError, AttributeError, IndexError)


def model_card(
    run: PackedRun,
    folder: pathlib.Path,
    *,
    studies: Iterable[tuple[pathlib.Path, str]] = (),
    licence: str = "",
) -> str:
    """Returns the card of a run.

    Args:
      run: what is packed.
      folder: of the run; what was measured is read there.
      studies: files that scripts/study.py has written, each with the variant in them
        that is this run's config.
      licence: of the weights, in words.

    Raises:
      ValueError: a file holds something else than its command writes, or a study has
        no such variant.
    """
    summary = read_json(folder / "summary.json") or {}
    measured = _measured(run, folder)
    for path, variant in studies:
        measured += _study(path, variant)
    data, name = run.settings["data"], run.name
    lines = [
        f"# {name}",
        "",
        "A finished run of fmalign_jax: encoders of "
        f"{' and '.join(run.settings['model']['modalities'])} and what they share, for "
        "reading.",
        "",
        "    import fmalign_jax as fm",
        "",
        f'    run = fm.load("{name}.fmrun")',
        '    encoded = run.encode("recordings/*.npz")',
        "",
        *_table(("", ""), _facts(run, summary)),
        "## Data",
        "",
        *_table(("", ""), _data(run, summary)),
        "## What was measured",
        "",
        *(
            measured
            or ["Nothing: this checkpoint has no evaluation in its folder.", ""]
        ),
        "## Limits",
        "",
        *(f"- {limit}" for limit in _limits(run, folder, data)),
        "",
        "## Licence",
        "",
        f"Code: fmalign_jax, {_code_licence()}. "
        + (f"Weights: {licence}." if licence else "Weights: none is stated here."),
    ]
    return "\n".join(lines) + "\n"


def _facts(run: PackedRun, summary: Json) -> list[tuple[Any, ...]]:
    score = run.settings.get("score")
    chosen = {"best": f"the best by `{score}`"}.get(run.chosen, run.chosen)
    values = sum(array.size for array in run.arrays.values())
    trained, seconds = summary.get("versions") or {}, summary.get("seconds")
    return [
        ("digest of config and arrays (SHA-256)", f"`{run.digest}`"),
        ("written by", f"fmalign_jax {run.version}"),
        ("system", f"`{run.settings['model']['name']}`"),
        ("checkpoint", f"step {run.step} of {summary.get('steps', '?')}, {chosen}"),
        ("seed", run.settings["seed"]),
        ("arrays", f"{len(run.arrays)}, of {values} numbers in all"),
        ("labels used in training", summary.get("labels", "not said")),
        ("trained on", ", ".join(summary.get("devices") or ["not said"])),
        ("training took", f"{seconds:.0f} s" if seconds else "not said"),
        ("with", ", ".join(f"{n} {v}" for n, v in trained.items()) or "not said"),
    ]


def _data(run: PackedRun, summary: Json) -> list[tuple[Any, ...]]:
    data = run.settings["data"]
    rows = [
        ("source", f"`{data['source']}`"),
        *((f"`{key}`", json.dumps(value)) for key, value in flat(data["options"])),
        ("window", f"{data['window_ticks']} ticks of {data['tick_s']:g} s"),
        ("reference stream", data["reference_stream"]),
        ("leading stream", f"{data['leading_stream']}, read {_lead(data)} earlier"),
    ]
    for modality, samples in data["samples_per_tick"].items():
        mean = run.arrays.get(f"statistics/{modality}/mean")
        channels = "tokens" if mean is None else f"{mean.size} channels"
        rows.append((modality, f"{samples} samples a tick, {channels}"))
    if data.get("shuffle_partners"):
        rows.append(("pairs", "shuffled in training: a control"))
    windows = summary.get("windows") or {}
    rows += [(f"windows, {split}", number) for split, number in windows.items()]
    return rows


def _lead(data: Mapping[str, Any]) -> str:
    if data.get("lead_range_s"):
        return "over leads of {:g} to {:g} s".format(*data["lead_range_s"])
    drawn = ", drawn anew for every window," if data.get("draw_lead") else ""
    return f"{data['lead_s']:g} s{drawn}"


def _reports(
    run: PackedRun, folder: pathlib.Path, command: str
) -> Iterator[tuple[pathlib.Path, Json]]:
    """Yields what a command has written about the checkpoint that is packed."""
    for file in sorted(folder.glob(f"{command}*/{_REPORTS[command]}")):
        report = read_json(file) or {}
        with _as_written(file):
            is_of_it = report["checkpoint"]["step"] == run.step
        if is_of_it:
            yield file, report


@contextlib.contextmanager
def _as_written(file: pathlib.Path) -> Iterator[None]:
    """Says which file lacks what is asked of it."""
    try:
        yield
    except _UNREAD as error:
        raise ValueError(
            f"{file}: must be as its command wrote it; got another "
            f"({type(error).__name__}: {error}); write it again, or move it away"
        ) from error


def _measured(run: PackedRun, folder: pathlib.Path) -> list[str]:
    lines: list[str] = []
    for command, described in (
        ("evaluation", _evaluation),
        ("early_warning", _alarm),
        ("lead_time", _found_lead),
    ):
        for file, report in _reports(run, folder, command):
            with _as_written(file):
                lines += described(file, report)
    return lines


def _evaluation(file: pathlib.Path, report: Json) -> list[str]:
    headline = report["headline_split"]
    split = report["splits"][headline]
    references, target = report["references"], report["target"]
    direction = f"{report['source']}->{target}"
    rows = list(scores_of(report).items())
    rows.append((f"always {references['majority']['class']}", references["majority"]))
    if references["random_encoders"]:
        random = references["random_encoders"][direction]
        rows.append((f"random encoders, {direction}", random))
    if references["oracle"]:
        rows.append((f"oracle, {target}", references["oracle"]))
    seen = "seen in training" if split["seen_in_pretraining"] else "in no training"
    found = report["code_sharing"]
    shared = []
    if found is not None:
        kappa = found["kappa"]["shift"]
        shared = [
            f"Codes: {found['verdict']}; agreement {_number(found['agreement'])} "
            f"(shifts in time {_number(found['chance_shift'])}), kappa "
            f"{_number(kappa)}, {_number(found['shared_nats'])} nats shared, of "
            f"{found['codes']} codes.",
            "",
        ]
    return [
        f"### {file.parent.name}: a head on {report['features']} features, "
        f"{headline} split",
        "",
        f"Classes: {', '.join(report['classes'])}. {split['windows']} windows of "
        f"{len(split['recordings'])} recordings ({seen}); 95 % intervals by "
        "resampling recordings.",
        "",
        *_table(
            ("head of -> applied to", *_METRICS),
            [(name, *(_scored(own, m) for m in _METRICS)) for name, own in rows],
        ),
        *shared,
    ]


def _alarm(file: pathlib.Path, report: Json) -> list[str]:
    split = report["headline_split"]
    metrics = ("detection_rate", "false_alarms_per_hour", "median_warning_s")
    rows = [(name, own["splits"][split]) for name, own in report["methods"].items()]
    return [
        f"### {file.parent.name}: a warning of {report['abnormal']}, {split} split",
        "",
        *_table(
            ("alarm by", *metrics, "spells", "hours"),
            [
                (
                    name,
                    *(_scored(own, metric) for metric in metrics),
                    own["spells"],
                    f"{own['hours']:.2f}",
                )
                for name, own in rows
            ],
        ),
    ]


def _found_lead(file: pathlib.Path, report: Json) -> list[str]:
    found = f"### {file.parent.name}: {report['verdict']}"
    if report["estimate_s"] is not None:
        low, high = report["interval_s"]
        found += f", {report['estimate_s']:.0f} s [{low:.0f}, {high:.0f}]"
    return [found, "", f"Recordings: {report['origin']}.", ""]


def _study(path: pathlib.Path, variant: str) -> list[str]:
    """Returns means over the seeds of a variant, by fold, kind and direction.

    Raises:
      ValueError: no such file, another kind of file, or no such variant in it.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        own = [row for row in rows if row["variant"] == variant]
        others = sorted({row["variant"] for row in rows})
        lines = [line for fold in _folds(own) for line in _fold(path, variant, fold)]
    except (OSError, ValueError, *_UNREAD) as error:
        raise ValueError(
            f"a study must be a file that scripts/study.py has written; got {path} "
            f"({type(error).__name__}: {error}); give another"
        ) from error
    if not own:
        raise ValueError(
            f"{path}: must hold the variant that this run is of; got none called "
            f"{variant!r}; choose one of {', '.join(others)}"
        )
    return lines


def _folds(rows: Sequence[Json]) -> list[list[Json]]:
    names = dict.fromkeys(row["fold"] for row in rows)
    return [[row for row in rows if row["fold"] == name] for name in names]


def _fold(path: pathlib.Path, variant: str, runs: Sequence[Json]) -> list[str]:
    scores: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for kind, evaluation in run["evaluations"].items():
            for direction, splits in evaluation["zero_shot"].items():
                if (found := splits["test"]["balanced_accuracy"]) is not None:
                    scores.setdefault((kind, direction), []).append(found)
    steps = sorted({run["steps"] for run in runs})
    return [
        f"### Study: {path.name}, {variant}, {runs[0]['fold']}",
        "",
        f"{' or '.join(map(str, steps))} steps with seeds "
        f"{', '.join(str(run['seed']) for run in runs)}, judged on recordings in no "
        "training; mean and standard deviation over seeds, not an interval of this "
        "run. That the variant is the config of this run says who packed it.",
        "",
        *_table(
            ("evaluation", "head of -> applied to", "balanced_accuracy", "trainings"),
            [
                (kind, direction, _spread(values), len(values))
                for (kind, direction), values in scores.items()
            ],
        ),
    ]


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _limits(run: PackedRun, folder: pathlib.Path, data: Mapping[str, Any]) -> list[str]:
    evaluations = [report for _, report in _reports(run, folder, "evaluation")]
    limits = []
    if data["source"].startswith(_SIMULATED):
        limits.append(
            "Trained on simulated furnaces. The numbers show that the code works, not "
            "how well it works on a real furnace."
        )
    if not evaluations:
        limits.append("Not evaluated with labels: what it is worth is not known.")
    notes = [note for report in evaluations for note in report.get("notes") or ()]
    limits += [f"{note}." for note in dict.fromkeys(notes)]
    if evaluations and not any(r["references"]["oracle"] for r in evaluations):
        limits.append("No classifier with all labels was trained to compare with.")
    return [
        *limits,
        "One training with one seed. Another seed gives other codes and other numbers.",
        f"Recordings must have the channels, the units and the frame size of the "
        f"training; {data['leading_stream']} read at another lead than {_lead(data)} "
        "was not measured.",
        "Numbers of codes have no meaning of their own and differ between runs.",
        "For reading: there is no state of the optimiser and no critic, so that "
        "training cannot go on from it.",
        "The digest finds damage. It does not say who made the file: whoever can write "
        "the file can write its digest.",
    ]


def _code_licence() -> str:
    found = importlib.metadata.metadata("fmalign_jax")["License-Expression"]
    return str(found or "see its LICENSE")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _scored(scores: Mapping[str, Any], metric: str) -> str:
    """Returns a value with its interval, where it has one."""
    value = scores.get(metric)
    interval = (scores.get("intervals") or {}).get(metric)
    if value is None or not interval:
        return _number(value)
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["|" + "|".join(f" {_cell(c)} " for c in line) + "|" for line in lines] + [
        ""
    ]


def _cell(value: Any) -> str:
    """Returns a value in one line, whatever a recording is called."""
    return " ".join(str(value).split()).replace("|", "\\|")
