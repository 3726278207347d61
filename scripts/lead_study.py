"""Measures how well the lead is found where it is known; writes a table.

    python scripts/lead_study.py furnaces --run RUN --folder WORK --out FILE.json
    python scripts/lead_study.py table docs/results/lead/*.json \\
        --out docs/results/lead.md

`furnaces` simulates pools of furnaces, each recording with a lead of its own of 60 to
300 s, at three levels of noise, and furnaces whose current shows nothing. One run, made
at one lead, serves all cases: its encoders see windows, not leads. A run that drew its
leads (`data.draw_lead`) goes into a file of its own, and its answers to the same cases
are in a table with those of the other. Cases are

    single      one recording of 50 min, at its own lead
    group       three recordings; their clocks are shifted so that their leads are
                those of the case, 60, 120, 180, 240 or 300 s, spread evenly over 0, 20
                or 40 s
    unrelated   currents that show nothing, or the video of one furnace beside the
                current of another, alone and in threes

Recordings take part in one single case and in several groups: groups of one level are
not independent of each other. As in `lead_time`, the delay of the video's encoder,
measured on labelled recordings of the training, is taken off. What was done already is
not done again. `table` puts the text of introduction.md, in the folder of the answers,
before the tables. Leads planted in real recordings are in `tests/test_motion.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from sklearn.metrics import roc_auc_score
from write_results import table

from fmalign_jax.cli import keep_compiled_programs
from fmalign_jax.config.commands import lead_config
from fmalign_jax.data.files import write_text
from fmalign_jax.data.simulator import SimulatedFurnaces
from fmalign_jax.lead import labels, recordings as lead_recordings, search
from fmalign_jax.lead.labels import Response
from fmalign_jax.lead.tick_features import Clip
from fmalign_jax.run import restore
from fmalign_jax.run.restore import OpenedRun

LEVELS = ("default", "easy", "hard")
NOTHING = "no_precursor"
LEADS_S = (60.0, 120.0, 180.0, 240.0, 300.0)
SPREADS_S = (0.0, 20.0, 40.0)
OWN_LEADS_S = (60.0, 300.0)
DURATION_S = 3000.0
FRAME_RATE_HZ = 0.5  # a frame a tick
SEED = 7
SIGNIFICANCE = lead_config().significance
INDICATORS = (
    "canonical",
    "association",
    "centred_cosine",
    "code_agreement",
    "plain",
    "motion",
)
CHANCE_OF = ("canonical", "association", "plain", "motion")
ANSWERED = ("estimate_s", "interval_s")
ESTIMATE, EVIDENCE = "canonical", "association"
BOUND = "info_nce"  # also searched with a run that drew its leads
DRAWN = "drawn"
GROUP = 3

Case = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Pool:
    """Encoded recordings of one level, and their leads by the simulator."""

    clips: Sequence[Clip]
    lead_s: Sequence[float]


def search_config(run: pathlib.Path, **changes: Any) -> ConfigDict:
    """Returns a search as the study does it."""
    config = lead_config()
    config.checkpoint = str(run)
    config.step = "latest"
    config.indicators = INDICATORS
    config.chance_of = CHANCE_OF
    config.bootstrap_draws = 300
    config.null_draws = 30
    config.stride_ticks = 10
    config.update(changes)
    return config


def load_pool(
    run: OpenedRun, level: str, recordings: int, folder: pathlib.Path
) -> Pool:
    """Simulates and encodes the recordings of a level, as far as not done."""
    source = SimulatedFurnaces(
        str(folder / "furnaces"),
        profile=level,
        changes={"lead_s": OWN_LEADS_S},
        recordings=recordings,
        test_recordings=0,
        duration_s=DURATION_S,
        frame_rate_hz=FRAME_RATE_HZ,
        seed=SEED,
    )
    config = search_config(run.path, recordings=str(source.directory))
    material = lead_recordings.choose_recordings(config, run)
    clips = lead_recordings.encode(config, run, material, folder)
    truth = source.directory / "truth"
    lead_s = [float(np.load(truth / f"{c.recording}.npz")["lead_s"]) for c in clips]
    return Pool(clips, lead_s)


def measured_response(run: OpenedRun, folder: pathlib.Path) -> Response | None:
    """Measures the delay of the video's encoder on recordings of the training."""
    if lead_recordings.training_data(run) is None:
        raise ValueError(
            f"{run.path}: the run's own data are needed to measure its encoder's "
            f"delay; got none at {run.config.data.path}; put them there"
        )
    return labels.response_in_training(search_config(run.path), run, folder)


def later(clip: Clip, seconds: float) -> Clip:
    """Returns a clip whose leading clock says so much less: its lead is longer."""
    start_s = clip.leading.start_s - seconds
    leading = dataclasses.replace(clip.leading, start_s=start_s)
    return dataclasses.replace(clip, leading=leading)


def furnace_cases(
    level: str, pool: Pool, rng: np.random.Generator
) -> Iterator[tuple[Case, list[Clip]]]:
    """Yields what is known of each case of a level, and its clips."""
    for clip, lead_s in zip(pool.clips, pool.lead_s, strict=True):
        about = {"kind": "single", "spread_s": 0.0, "lead_s": lead_s}
        yield about | {"name": f"{level} {clip.recording}"}, [clip]
    for lead_s in LEADS_S:
        for spread_s in SPREADS_S:
            rows = rng.choice(len(pool.clips), GROUP, replace=False)
            wanted = lead_s + spread_s * np.linspace(-0.5, 0.5, GROUP)
            clips = [
                later(pool.clips[row], own - pool.lead_s[row])
                for row, own in zip(rows.tolist(), wanted.tolist(), strict=True)
            ]
            about = {"kind": "group", "spread_s": spread_s, "lead_s": lead_s}
            yield about | {"name": f"{level} {lead_s:g} {spread_s:g}"}, clips


def unrelated_cases(
    level: str, clips: Sequence[Clip], *, mismatched: bool
) -> Iterator[tuple[Case, list[Clip]]]:
    """Yields cases without a lead: alone and in threes."""
    if mismatched:
        others = [*clips[1:], clips[0]]
        clips = [
            dataclasses.replace(
                one,
                leading=dataclasses.replace(other.leading, start_s=one.leading.start_s),
            )
            for one, other in zip(clips, others, strict=True)
        ]
    what = "mismatched" if mismatched else "nothing"
    groups = [[clip] for clip in clips]
    groups += [list(clips[i : i + GROUP]) for i in range(0, len(clips) - 2, GROUP)]
    for number, group in enumerate(groups):
        kind = "unrelated single" if len(group) == 1 else "unrelated group"
        name = f"{level} {what} {number}"
        yield {"kind": kind, "spread_s": 0.0, "lead_s": None, "name": name}, group


def answer(
    about: Case,
    clips: Sequence[Clip],
    config: ConfigDict,
    data: ConfigDict,
    response: Response | None = None,
) -> Case:
    """Searches in a case and keeps what tables show."""
    found = search.find_lead(clips, config, data, response=response)
    lead_s = np.array(found["lead_s"])
    recordings = len({clip.recording for clip in clips})
    indicators = {}
    for name, own in found["indicators"].items():
        if response is not None and name not in search.MODEL_FREE:
            own |= search.corrected(own, response, lead_s, recordings=recordings)
        indicators[name] = {key: own[key] for key in (*ANSWERED, "chance")}
    return about | {
        **{key: found[key] for key in ("verdict", "indicator", *ANSWERED)},
        "tick_s": data.tick_s,
        "indicators": indicators,
    }


class Answers:
    """The answers so far, kept in a file after each."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._cases: list[Case] = json.loads(path.read_text()) if path.exists() else []

    def __contains__(self, name: str) -> bool:
        return any(case["name"] == name for case in self._cases)

    def add(self, case: Case) -> None:
        """Keeps one more."""
        self._cases.append(case)
        write_text(self._path, json.dumps(self._cases, indent=1) + "\n")
        print(case["name"], case["lead_s"], case["verdict"], flush=True)


def furnaces(arguments: argparse.Namespace) -> None:
    """Runs the cases of simulated furnaces."""
    run = restore.open_run(arguments.run, "latest")
    answers = Answers(arguments.out)
    config = search_config(run.path)
    config.indicators = tuple(arguments.indicators)
    config.chance_of = tuple(name for name in CHANCE_OF if name in config.indicators)
    response = measured_response(run, arguments.folder)
    trained = f"{run.config.data.lead_s:g} s"
    if run.config.data.draw_lead:
        trained = DRAWN
        config.indicators += (BOUND,)
    for level in arguments.levels:
        pool = load_pool(run, level, arguments.recordings, arguments.folder)
        rng = np.random.default_rng([SEED, len(level)])
        cases = (
            unrelated_cases(level, pool.clips, mismatched=False)
            if level == NOTHING
            else furnace_cases(level, pool, rng)
        )
        apart = unrelated_cases(level, pool.clips, mismatched=True)
        for about, clips in (*cases, *apart):
            about |= {"level": level, "trained": trained}
            if about["name"] not in answers:
                answers.add(answer(about, clips, config, run.config.data, response))


def covered(case: Case, name: str) -> bool:
    """Says whether a lead is recovered: to a tick, or inside the interval."""
    own = case["indicators"][name]
    low, high = own["interval_s"]
    near = abs(own["estimate_s"] - case["lead_s"]) <= case["tick_s"]
    return near or low <= case["lead_s"] <= high


def share(values: Sequence[bool]) -> str:
    """Returns "19 / 20 (0.95)"."""
    return f"{sum(values)} / {len(values)} ({np.mean(values):.2f})"


def summary(cases: Sequence[Case], name: str, evidence: str) -> list[str]:
    """Returns a row about one indicator over cases of a known lead.

    Args:
      cases: of a known lead.
      name: of the indicator whose estimates count.
      evidence: of the indicator whose chance counts.
    """
    error = np.array([c["indicators"][name]["estimate_s"] - c["lead_s"] for c in cases])
    chance = [c["indicators"][evidence]["chance"] for c in cases]
    found = [value < SIGNIFICANCE for value in chance if value is not None]
    return [
        str(len(cases)),
        f"{np.median(error):+.1f}",
        f"{np.median(np.abs(error)):.1f}",
        f"{np.abs(error).max():.0f}",
        share([covered(c, name) for c in cases]),
        share(found) if len(found) == len(cases) else "-",
    ]


KNOWN = [
    "cases",
    "median error, s",
    "median size, s",
    "largest, s",
    "recovered",
    "lead found",
]


def write_table(arguments: argparse.Namespace) -> None:
    """Makes the table of what was found."""
    read = [case for file in arguments.files for case in json.loads(file.read_text())]
    drawn = [case for case in read if case.get("trained") == DRAWN]
    cases = [case for case in read if case.get("trained") != DRAWN]
    introduction = (arguments.out.with_suffix("") / "introduction.md").read_text()
    parts = ["# How well the lead is found", introduction.strip()]
    names = list(cases[0]["indicators"])
    known = [c for c in cases if c["kind"] in ("single", "group")]
    if known:
        rows = [[name, *summary(known, name, name)] for name in names]
        parts += ["## Indicators, all simulated cases", table(["", *KNOWN], rows)]
        parts += ["## The answer", answers_table(known)]
        rows = [
            [kind, level, *summary(own, ESTIMATE, EVIDENCE)]
            for kind, level, own in by_level(known)
        ]
        parts += [
            f"## Estimate by `{ESTIMATE}`, verdict by `{EVIDENCE}`",
            table(["", "", *KNOWN], rows),
        ]
        groups = [c for c in known if c["kind"] == "group"]
        rows = []
        for key, values in (("lead_s", LEADS_S), ("spread_s", SPREADS_S)):
            for value in values:
                own = [c for c in groups if c[key] == value]
                rows += (
                    [[f"{key} {value:g}", *summary(own, ESTIMATE, EVIDENCE)]]
                    if own
                    else []
                )
        parts += [
            "## The same, groups by lead and by spread",
            table(["", *KNOWN], rows),
        ]
    if drawn:
        parts += [
            "## Trained at one lead, or at leads drawn from 0 to 420 s",
            beside(cases, drawn),
        ]
    apart = [c for c in cases if c["kind"].startswith("unrelated")]
    if apart:
        rows = []
        for kind in ("unrelated single", "unrelated group"):
            own = [c for c in apart if c["kind"] == kind]
            for name in names if own else ():
                chance = [c["indicators"][name]["chance"] for c in own]
                if None not in chance:
                    refused = [c >= SIGNIFICANCE for c in chance]
                    rows.append([kind, name, share(refused)])
            refused = [c["verdict"] == search.NOT_FOUND for c in own]
            rows.append([kind, "the answer", share(refused)])
        parts += [
            "## Unrelated signals",
            table(["", "indicator", 'answered "no lead found"'], rows),
        ]
    if apart and known:
        parts += ["## Related or not: AUROC of the chance", told_apart(known, apart)]
    write_text(arguments.out, "\n\n".join(part.strip() for part in parts) + "\n")


def by_level(cases: Sequence[Case]) -> Iterator[tuple[str, str, list[Case]]]:
    """Yields kind and level, and their cases."""
    for kind in ("single", "group"):
        for level in LEVELS:
            own = [c for c in cases if (c["kind"], c["level"]) == (kind, level)]
            if own:
                yield kind, level, own


def answers_table(cases: Sequence[Case]) -> str:
    """Returns how often a lead is found, and how well where it is."""
    rows = []
    for kind, level, own in by_level(cases):
        found = [c for c in own if c["estimate_s"] is not None]
        error = np.array([c["estimate_s"] - c["lead_s"] for c in found])
        holds = [c["interval_s"][0] <= c["lead_s"] <= c["interval_s"][1] for c in found]
        rows.append(
            [
                *(kind, level, share([c["estimate_s"] is not None for c in own])),
                f"{np.median(error):+.1f}",
                f"{np.median(np.abs(error)):.1f}",
                f"{np.abs(error).max():.0f}",
                share(holds),
            ]
        )
    header = ["", "", "lead found", "median error, s", "median size, s", "largest, s"]
    return table([*header, "interval holds"], rows)


def told_apart(known: Sequence[Case], apart: Sequence[Case]) -> str:
    """Returns how well the chance tells related recordings from unrelated ones."""
    rows = []
    for kind in ("single", "group"):
        related = [c for c in known if c["kind"] == kind]
        others = [c for c in apart if c["kind"] == f"unrelated {kind}"]
        for name in known[0]["indicators"]:
            chance = [c["indicators"][name]["chance"] for c in (*related, *others)]
            if None not in chance and others:
                is_related = [True] * len(related) + [False] * len(others)
                area = roc_auc_score(is_related, -np.array(chance))
                counts = f"{len(related)} and {len(others)}"
                rows.append([kind, name, counts, f"{area:.3f}"])
    return table(["", "indicator", "related and unrelated", "AUROC"], rows)


def beside(cases: Sequence[Case], drawn: Sequence[Case]) -> str:
    """Returns the answers of a run that drew its leads and of one that did not."""
    # Other furnaces of a level have groups of the same names; the first are the same.
    first = {case["name"]: case for case in reversed(cases)}
    runs = {"one lead": [first[case["name"]] for case in drawn], DRAWN: drawn}
    rows = []
    for kind in ("single", "group"):
        for trained, of_run in runs.items():
            own = [c for c in of_run if c["kind"] == kind]
            rows += [
                [kind, trained, name, *summary(own, name, EVIDENCE)]
                for name in (ESTIMATE, BOUND)
                if own and name in own[0]["indicators"]
            ]
    apart = [
        f"{trained} {share([c['verdict'] == search.NOT_FOUND for c in own])}"
        for trained, of_run in runs.items()
        if (own := [c for c in of_run if c["kind"].startswith("unrelated")])
    ]
    text = f'Unrelated signals answered "no lead found": {", ".join(apart)}.\n'
    return table(["", "trained at", "indicator", *KNOWN], rows) + "\n" + text


def main() -> None:
    """Runs a part of the study, or makes its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(required=True)
    own = parts.add_parser("furnaces")
    own.set_defaults(part=furnaces)
    own.add_argument("--run", type=pathlib.Path, required=True)
    own.add_argument("--folder", type=pathlib.Path, required=True)
    own.add_argument("--out", type=pathlib.Path, required=True)
    own.add_argument("--recordings", type=int, default=16, help="of each level")
    own.add_argument("--levels", nargs="+", default=(*LEVELS, NOTHING))
    own.add_argument("--indicators", nargs="+", default=INDICATORS)
    own = parts.add_parser("table")
    own.set_defaults(part=write_table)
    own.add_argument("files", type=pathlib.Path, nargs="+")
    own.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    keep_compiled_programs()
    arguments.part(arguments)


if __name__ == "__main__":
    main()
