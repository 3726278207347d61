"""Measures how often `fmalign check` is right where the lead is known.

    python scripts/check_study.py --folder WORK --out FILE.jsonl

Furnaces are simulated in pools of twelve, 50 minutes each with a frame every two
seconds: of profile `default` (lead 240 s), of `no_precursor` (the current shows
nothing), and, for streams that do not belong together, the video of each furnace of a
default pool beside the current of the next one. Each is checked alone, in threes, and
all twelve together. One line of JSON a case; what the file holds already is not done
again. At the end a table is printed, the one of docs/check.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from fmalign_jax.cli import keep_compiled_programs, print_table
from fmalign_jax.data.simulator import SimulatedFurnaces
from fmalign_jax.first_config import reading
from fmalign_jax.first_look import association, ticks
from fmalign_jax.lead.search import FOUND

POOL = 12
SIZES = (1, 3, POOL)
DEFAULT_SEEDS, NOTHING_SEEDS = (1001, 1002, 1003), (1101,)
RELATED, EXCHANGED, NOTHING = "default", "exchanged", "no_precursor"


def cases(folder: pathlib.Path, profile: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yields what is found in a pool, case by case; of `default` also exchanged."""
    source = SimulatedFurnaces(
        str(folder),
        profile=profile,
        recordings=POOL,
        test_recordings=0,
        duration_s=3000.0,
        frame_rate_hz=0.5,
        seed=seed,
    )
    readers = dict.fromkeys(source.names(), source)
    seen = reading.look_with(readers, str(folder), "simulated", progress=False)
    plan = ticks.plan(seen)
    looked = ticks.look(seen, readers, plan, progress=False)
    leads = [_lead_s(source, clip.recording) for clip in looked.clips]
    kinds = {profile: 0} if profile == NOTHING else {profile: 0, EXCHANGED: 1}
    for kind, shift in kinds.items():
        for size in SIZES:
            for begin in range(0, POOL, size):
                numbers = range(begin, begin + size)
                part = _exchanged(looked, numbers, shift)
                found = association.associate(part, plan, seed=0, progress=False)
                yield {
                    "kind": kind,
                    "seed": seed,
                    "size": size,
                    "begin": begin,
                    "truth_s": float(np.mean([leads[n] for n in numbers])),
                    "verdict": found.verdict,
                    "chance": found.chance,
                    "best": found.best.name,
                    "estimate_s": found.best.estimate_s,
                    "interval_s": found.best.interval_s,
                    "chances": {n: v.chance for n, v in found.views.items()},
                }


def _lead_s(source: SimulatedFurnaces, name: str) -> float:
    with np.load(source.directory / "truth" / f"{name}.npz") as truth:
        return float(truth["lead_s"])


def _exchanged(looked: ticks.Looked, numbers: range, shift: int) -> ticks.Looked:
    """Returns some clips, each with the current of one `shift` further on."""
    clips = []
    for number in numbers:
        own = looked.clips[number]
        other = looked.clips[(number + shift) % len(looked.clips)].leading
        leading = dataclasses.replace(other, start_s=own.leading.start_s)
        clips.append(dataclasses.replace(own, leading=leading))
    places = tuple(looked.places[number] for number in numbers)
    return ticks.Looked(tuple(clips), places)


def table(done: list[dict[str, Any]]) -> list[list[str]]:
    """Returns rows: what was checked, how many, found, and how well."""
    rows = [["streams", "recordings", "cases", "found", "interval holds", "error, s"]]
    for kind in (RELATED, EXCHANGED, NOTHING):
        for size in SIZES:
            own = [c for c in done if c["kind"] == kind and c["size"] == size]
            found = [c for c in own if c["verdict"] == FOUND]
            row = [kind, str(size), str(len(own)), f"{len(found)} / {len(own)}"]
            if kind != RELATED or not found:
                rows.append([*row, "-", "-"])
                continue
            holds = sum(
                c["interval_s"][0] <= c["truth_s"] <= c["interval_s"][1] for c in found
            )
            error_s = np.array([c["estimate_s"] - c["truth_s"] for c in found])
            low, middle, high = np.quantile(error_s, [0, 0.5, 1])
            row += [
                f"{holds} / {len(found)}",
                f"{middle:+.0f} ({low:+.0f} to {high:+.0f})",
            ]
            rows.append(row)
    return rows


def main() -> None:
    """Checks every pool that is not in the file yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args()
    keep_compiled_programs()
    done = []
    if given.out.exists():
        done = [json.loads(line) for line in given.out.read_text().splitlines()]
    known = {(c["kind"], c["seed"], c["size"], c["begin"]) for c in done}
    pools = [(RELATED, seed) for seed in DEFAULT_SEEDS]
    pools += [(NOTHING, seed) for seed in NOTHING_SEEDS]
    for profile, seed in pools:
        if (profile, seed, POOL, 0) in known and (
            profile == NOTHING or (EXCHANGED, seed, POOL, 0) in known
        ):
            continue
        for case in cases(given.folder, profile, seed):
            if (case["kind"], seed, case["size"], case["begin"]) in known:
                continue
            done.append(case)
            with given.out.open("a") as file:
                file.write(json.dumps(case) + "\n")
    print_table(table(done))


if __name__ == "__main__":
    main()
