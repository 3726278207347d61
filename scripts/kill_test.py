"""Kills every command (-9) at random moments; is what it gives always the same?

    python scripts/kill_test.py --kills 1000 --out docs/results/kills.json

Of each command an undisturbed run comes first. Then, in a fresh folder, the same
command is started, killed and started again until it ends by itself, and its outputs
are compared with the undisturbed ones: a round. After every kill, what lies in the
folder must not be half written. A moment is uniform over the processor time that a
start may still take, its start-up included, and a tenth more: so a busy machine changes
nothing. After some kills a start is left alone. Needs /proc.

`--kills` are shared equally by the commands. The file is written after each round: the
same call goes on from there. With `--folder` the undisturbed runs are kept too. Prints
a table; exits 1 when anything was different.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

import kill_commands as own
from kill_commands import COMMANDS, UNDISTURBED, Command, Outputs
from process_use import cpu_s

from fmalign_jax.data.files import write_json

ROOT = pathlib.Path(__file__).resolve().parents[1]
KILLS_A_ROUND = 6
MOMENTS = ("before", "within", "after")
"""Of a kill: before the work began, while it was done, when its result was there."""

_POLL_S = 0.01
_MOST_TOLD = 20  # differences of a command


@dataclasses.dataclass
class Tally:
    """What was found of one command; a row of the table.

    Attributes:
      rounds: that ended by themselves and were compared.
      before, within, after: kills, see `MOMENTS`.
      compared: files, arrays and values that were compared in each round.
      differences: what was not as in the undisturbed run, a line each.
      leftovers: hidden files that killed starts left.
      undisturbed_cpu_s: processor time of an undisturbed run.
    """

    rounds: int = 0
    before: int = 0
    within: int = 0
    after: int = 0
    compared: int = 0
    differences: list[str] = dataclasses.field(default_factory=list)
    leftovers: int = 0
    undisturbed_cpu_s: float = 0.0

    @property
    def kills(self) -> int:
        """Returns the kills in all."""
        return self.before + self.within + self.after


class Killer:
    """Starts and kills one command in folders below WORK."""

    def __init__(self, name: str, work: pathlib.Path, seed: int) -> None:
        self.name = name
        self.command: Command = COMMANDS[name]
        self._work, self._seed = work, seed
        self._expected: Outputs = {}
        self._lasts_s = self._took_s = 0.0

    def calm(self) -> tuple[Outputs, float]:
        """Returns the undisturbed outputs and their processor time, made when absent.

        The first run compiles; the second is the one that counts.
        """
        folder = self._work / self.name / UNDISTURBED
        seconds = folder.with_name("seconds.json")
        if not seconds.exists():
            for one in (folder.with_name("warm-up"), folder):
                self._remove(one)
                fault, _ = self._start(one, math.inf)
                if fault:
                    raise RuntimeError(f"{self.name} without any kill: {fault}")
            write_json(seconds, {"undisturbed_cpu_s": round(self._took_s, 1)})
        self._lasts_s = json.loads(seconds.read_text())["undisturbed_cpu_s"]
        self._expected = own.outputs(folder)
        return self._expected, self._lasts_s

    def round(self, number: int, kills: int, tally: Tally) -> None:
        """Kills a command at most so many times, compares, and adds to the tally."""
        moments = random.Random(f"{self._seed} {self.name} {number}")
        folder = self._work / self.name / f"round-{number}"
        self._remove(folder)  # of a call that was stopped in this round
        faults: list[str] = []
        for kill in range(kills + 1):
            saved = own.saved_step(folder)
            # Start-up and compiled programs take about half of a whole training.
            left = 1 - 0.5 * saved / self.command.steps if self.command.steps else 1.0
            moment_s = moments.uniform(0, 1.1 * left * self._lasts_s)
            fault, when = self._start(folder, moment_s if kill < kills else math.inf)
            faults += fault
            if when is None:
                break
            setattr(tally, when, getattr(tally, when) + 1)
            halves = self.command.after_kill(folder, self._expected)
            faults += [f"after a kill {when} the work: {name}" for name in halves]
        if not faults:
            faults = own.differences(own.outputs(folder), self._expected)
        tally.rounds += 1
        tally.differences += [f"round {number}: {fault}" for fault in faults]
        tally.differences = tally.differences[:_MOST_TOLD]
        tally.leftovers += len(own.leftovers(folder))
        if not faults:  # else it stays, to be looked at
            self._remove(folder)

    def _start(
        self, folder: pathlib.Path, kill_after_s: float
    ) -> tuple[list[str], str | None]:
        """Starts once; returns what was wrong, and when the start was killed.

        Args:
          folder: of the outputs.
          kill_after_s: in seconds of processor time; infinite for never.
        """
        saved, said = own.saved_step(folder), own.said(folder)
        said.parent.mkdir(parents=True, exist_ok=True)
        with said.open("ab") as file:
            begin = file.tell()
            name, *arguments = self.command.arguments(self._work, folder)
            process = subprocess.Popen(
                [sys.executable, "-m", f"fmalign_jax.{name}", *arguments],
                cwd=ROOT,
                env=os.environ | {"XDG_CACHE_HOME": str(self._work / "cache")},
                stdout=file,
                stderr=file,
            )
            killed = False
            while process.poll() is None:
                self._took_s = cpu_s(process.pid)
                if self._took_s >= kill_after_s:
                    process.kill()
                    killed = process.wait() == -signal.SIGKILL
                time.sleep(_POLL_S)
        told = said.read_bytes()[begin:].decode(errors="replace")
        faults = []
        resumed = re.search(r"(?:starting|resuming) at step (\d+)", told)
        if resumed and int(resumed[1]) < saved:
            faults.append(f"went on at step {resumed[1]}, and step {saved} was saved")
        if killed:
            return faults, self._when(folder, told)
        if process.returncode != self.command.status:
            faults.append(f"ended with status {process.returncode}: {told[-500:]}")
        return faults, None

    def _when(self, folder: pathlib.Path, told: str) -> str:
        if self._is_done(folder):
            return "after"
        return "within" if re.search(self.command.begun, told) else "before"

    def _is_done(self, folder: pathlib.Path) -> bool:
        if self.name == "monitor":  # it waits for more
            log = folder / own.LOG
            return log.exists() and log.read_bytes() == self._expected[own.LOG]
        return any(folder.glob(self.command.result))

    def _remove(self, folder: pathlib.Path) -> None:
        beside = folder.parent.glob(f".{folder.name}*")
        for path in (folder, *beside, *folder.parent.glob(f"{folder.name}.*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def table(tallies: Mapping[str, Tally]) -> str:
    """Returns the table in Markdown, with a last row of sums."""
    rows = [
        ["command", "kills", *MOMENTS, "rounds", "differences", "left over", "compared"]
    ]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    for name, one in tallies.items():
        counts = [one.kills, one.before, one.within, one.after, one.rounds]
        counts += [len(one.differences), one.leftovers, one.compared]
        rows.append([f"`{name}`", *map(str, counts)])
    sums = [sum(int(row[i]) for row in rows[2:]) for i in range(1, len(rows[0]) - 1)]
    rows.append(["all", *map(str, sums), ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def read(path: pathlib.Path) -> dict[str, Tally]:
    """Returns what an earlier call found, by command; nothing without a file."""
    if not path.exists():
        return {}
    return {
        name: Tally(**found) for name, found in json.loads(path.read_text()).items()
    }


def main() -> int:
    """Runs the test and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=7 * KILLS_A_ROUND)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument("--out", type=pathlib.Path, help="JSON file of what was found")
    parser.add_argument(
        "--folder", type=pathlib.Path, help="WORK, kept for other calls"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = (arguments.folder or pathlib.Path(name)).resolve()
        out = arguments.out or work / "kills.json"
        tallies = read(out)
        share = -(-arguments.kills // len(arguments.commands))
        for name in arguments.commands:
            for needed in COMMANDS[name].needs:
                Killer(needed, work, arguments.seed).calm()
            killer = Killer(name, work, arguments.seed)
            expected, lasts_s = killer.calm()
            tally = tallies.setdefault(name, Tally())
            tally.compared, tally.undisturbed_cpu_s = len(expected), lasts_s
            while (left := share - tally.kills) > 0:
                killer.round(tally.rounds + 1, min(left, KILLS_A_ROUND), tally)
                write_json(out, {n: dataclasses.asdict(t) for n, t in tallies.items()})
                print(f"{name}: {tally.kills} of {share} kills", flush=True)
    print(table(tallies))
    found = [f"{name}: {one}" for name, t in tallies.items() for one in t.differences]
    print("\n".join(found) or "no difference")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
