"""Runs the monitor over a million bad lines, and a thousand validations in one process.

    python scripts/soak.py monitor --lines 1000000 --out docs/results/soak.json
    python scripts/soak.py validations --number 1000 --out docs/results/soak.json

`monitor`: one line in a hundred is garbage, and the followed file is rotated every ten
thousand lines in three ways by turns; whoever rotates waits until the file is read.
The log must hold what a replay of the good lines alone, in one file, says. Needs
/proc. `validations`: of one state, whose values must stay the same. Both report memory,
threads and open files on the way. The file keeps the results of the other. Exits 1
when a reading was lost or different, a rate was missed, or anything grew.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import tiny_alarm
from process_use import Use, cpu_s

from fmalign_jax.data.files import write_json

ROOT = pathlib.Path(__file__).resolve().parents[1]
A_FILE = 10_000
"""Lines, until the file is rotated."""
GARBAGE_SHARE = 0.01
TICKS_PER_S = 1000
"""The rate that is asked for."""
GROWTH_MIB = 16.0
"""More memory at the end than after a tenth of the work is growth."""

ROTATIONS = ("renamed", "cut", "deleted")
_WAIT_S = 60.0


def grown(start: Use, end: Use) -> list[str]:
    """Returns what is more at the end than at the start."""
    found = []
    if end.memory_mib > start.memory_mib + GROWTH_MIB:
        found.append(f"memory grew from {start.memory_mib} to {end.memory_mib} MiB")
    for name in ("threads", "files"):
        before, after = getattr(start, name), getattr(end, name)
        if after > before:
            found.append(f"{name} grew from {before} to {after}")
    return found


def garbage(row: str, before: str, draw: random.Random) -> str:
    """Returns a line that is no row, or the row before once more.

    Args:
      row: the good line that comes next.
      before: the good line that came last.
      draw: chooses the kind.
    """
    time_s, *values = row.split(",")
    kinds = (
        "\n",
        "### the logger was started ###\n",
        row[: draw.randrange(1, row.rindex(","))] + "\n",
        "\0" * draw.randrange(1, 40) + "\n",
        f"{time_s},1e300,{','.join(values[1:])}",
        f"{time_s},0.0,{','.join(values)}",
        f"{before.split(',')[0]},{','.join(values)}",
    )
    return draw.choice(kinds)


def with_garbage(rows: list[str], seed: int = 0) -> Iterator[tuple[str, bool]]:
    """Yields lines and whether each is good; garbage comes between two rows."""
    draw = random.Random(seed)
    for number, row in enumerate(rows):
        if number and draw.random() < GARBAGE_SHARE:
            yield garbage(row, rows[number - 1], draw), False
        yield row, True


class Rotated:
    """A file that a process follows, and that is rotated when it has been read."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.turns: collections.Counter[str] = collections.Counter()
        path.touch()

    def append(self, text: str) -> None:
        """Adds to the file."""
        with self.path.open("a", newline="") as file:
            file.write(text)

    def rotate(self, process: int) -> None:
        """Rotates in the next of the ways, as soon as the process has read all."""
        self.wait_until_read(process)
        how = ROTATIONS[self.turns.total() % len(ROTATIONS)]
        self.turns[how] += 1
        if how == "cut":  # copied elsewhere before, by copytruncate
            os.truncate(self.path, 0)
            # Were it as long as before when it is looked at, none could see the cut.
            self.wait_until_read(process)
            return
        if how == "renamed":
            self.path.rename(self.path.with_suffix(".old"))
        else:
            self.path.unlink()
            time.sleep(0.3)  # the process looks five times a second
        self.path.touch()

    def wait_until_read(self, process: int) -> None:
        """Waits until the process stands at the end of the file.

        Raises:
          TimeoutError: it does not, or does not follow it.
        """
        end_s = time.monotonic() + _WAIT_S
        while self._position(process) != self.path.stat().st_size:
            if time.monotonic() > end_s:
                raise TimeoutError(f"{self.path} is not read by process {process}")
            time.sleep(0.01)

    def _position(self, process: int) -> int | None:
        """Returns where the process reads in the file, None where it is not open."""
        about = pathlib.Path(f"/proc/{process}")
        with contextlib.suppress(OSError):
            for link in (about / "fd").iterdir():
                if os.readlink(link) == str(self.path):
                    text = (about / "fdinfo" / link.name).read_text()
                    return int(text.split("pos:")[1].split()[0])
        return None


def compared(found: str, expected: str) -> dict[str, int]:
    """Returns how many readings of a log are lost, doubled or different.

    Args:
      found: the text of a log.
      expected: of one that holds all readings.
    """

    def by_time(text: str) -> dict[str, list[str]]:
        rows: dict[str, list[str]] = {}
        for line in text.splitlines()[1:]:
            rows.setdefault(line.split(",", 1)[0], []).append(line)
        return rows

    own, whole = by_time(found), by_time(expected)
    return {
        "readings": sum(map(len, whole.values())),
        "lost": sum(time_s not in own for time_s in whole),
        "doubled": sum(len(rows) - 1 for rows in own.values()),
        "different": sum(
            rows[0] != whole[time_s][0]
            for time_s, rows in own.items()
            if time_s in whole
        )
        + len(own.keys() - whole.keys()),
    }


def monitor(folder: pathlib.Path, lines: int) -> tuple[dict[str, Any], list[str]]:
    """Soaks a monitor; returns what was found and what is wrong."""
    alarm, whole = folder / "alarm.fmalign", folder / "whole.csv"
    tiny_alarm.write_alarm(alarm)
    rows = tiny_alarm.lines(lines)
    whole.write_text("".join(rows[:-1]))  # the last row is what lets the others go
    command = [sys.executable, "-m", "fmalign_jax.monitor", "--alarm", str(alarm)]
    offline, log = folder / "offline.csv", folder / "log.csv"
    subprocess.run(
        [*command, "--input", str(whole), "--log", str(offline)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    followed = Rotated(folder / "live.csv")
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [*command, "--input", str(followed.path), "--follow", "--log", str(log)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            found, uses = _follow(process.pid, followed, rows)
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(_WAIT_S)
    found |= compared(log.read_text(), offline.read_text()) | {"status": status}
    found["summary"] = (folder / "said.txt").read_text().splitlines()[-1]
    wrong = [f"{found[n]} {n}" for n in ("lost", "doubled", "different") if found[n]]
    if found["ticks_per_s"] < TICKS_PER_S:
        wrong.append(f"{found['ticks_per_s']} ticks a second")
    if status:
        wrong.append(f"ended with status {status}")
    return found, wrong + grown(*uses)


def _follow(
    process: int, followed: Rotated, rows: list[str]
) -> tuple[dict[str, Any], tuple[Use, Use]]:
    """Writes all lines, rotating; returns what was done, and the use on the way."""
    followed.wait_until_read(process)  # it has started
    started_s, begun_s = time.perf_counter(), cpu_s(process)
    bad, written, start = 0, 0, None
    waiting: list[str] = []
    for number, (line, good) in enumerate(with_garbage(rows), start=1):
        waiting.append(line)
        bad += not good
        written = number
        if number % A_FILE == 0:
            followed.append("".join(waiting))
            waiting = []
            followed.rotate(process)
            if start is None and number >= len(rows) / 10:
                start = Use.of(process)
    followed.append("".join(waiting))
    followed.wait_until_read(process)
    took_s = time.perf_counter() - started_s
    # It has read all when it looks again; the last lines may still be on their way.
    time.sleep(1.0)
    end, worked_s = Use.of(process), cpu_s(process) - begun_s
    start = start or end
    ticks = len(rows) / tiny_alarm.SETTINGS.samples_per_tick
    found = {
        "lines": written,
        "garbage": bad,
        "rotations": dict(followed.turns),
        "seconds": round(took_s, 1),
        "cpu_s": round(worked_s, 1),
        "ticks_per_s": round(ticks / took_s),
        "ticks_per_cpu_s": round(ticks / worked_s),
        "start": start._asdict(),
        "end": end._asdict(),
    }
    return found, (start, end)


def validations(folder: pathlib.Path, number: int) -> tuple[dict[str, Any], list[str]]:
    """Validates one state so many times; returns what was found and what is wrong."""
    import jax

    from fmalign_jax.config import load_file
    from fmalign_jax.evaluation.shared_validation import SharedValidation
    from fmalign_jax.training import setup, sharding
    from fmalign_jax.training.shared_level import SharedLevelFit
    from fmalign_jax.training.state import make_trainer
    from fmalign_jax.training.validation import Validation

    config = load_file(ROOT / "configs" / "pretrain.py").get_config("smoke")
    config.data.path = str(folder / "raw")
    config.data.prepared_dir = str(folder / "prepared")
    data, mesh = setup.load_data(config), sharding.make_mesh()
    trainer = make_trainer(
        config, steps_per_epoch=data.steps_per_epoch, steps=data.planned_steps
    )
    fit = SharedLevelFit(trainer, data.store, mesh)
    state = fit(setup.first_state(trainer, data, mesh), data.training)
    windows = data.windows["validation"]
    validate = Validation(
        trainer, data.store, windows, mesh, [SharedValidation(trainer, fit, windows)]
    )
    first, process, different = validate(state), os.getpid(), 0
    start, started_s = None, time.perf_counter()
    for done in range(1, number + 1):
        values = validate(state)
        different += values != first
        if start is None and done >= number / 10:
            start = Use.of(process)
    end = Use.of(process)
    assert start is not None
    found = {
        "validations": number,
        "windows": len(windows),
        "seconds": round(time.perf_counter() - started_s, 1),
        "different": different,
        "start": start._asdict(),
        "end": end._asdict(),
        "arrays": len(jax.live_arrays()),
    }
    wrong = [f"{different} validations gave other values"] if different else []
    return found, wrong + grown(start, end)


def main() -> int:
    """Runs one of the two and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("monitor", "validations"))
    parser.add_argument("--lines", type=int, default=1_000_000, help="of the monitor")
    parser.add_argument("--number", type=int, default=1000, help="of validations")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file of what was found")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if arguments.what == "monitor":
            found, wrong = monitor(folder, arguments.lines)
        else:
            found, wrong = validations(folder, arguments.number)
    if arguments.out is not None:
        earlier = (
            json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        )
        write_json(arguments.out, earlier | {arguments.what: found})
    print(json.dumps(found, indent=2))
    print("\n".join(wrong) or "nothing lost, nothing different, nothing grew")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
