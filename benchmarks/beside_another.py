"""Measures the train step of this checkout beside that of another one, in turns.

    git worktree add ../before HEAD~20
    python benchmarks/beside_another.py --other ../before --config configs/pretrain.py

Each checkout runs in a process of its own, with the `Stepper` of its own
benchmarks/step_throughput.py; the two take turns, so that a busy moment of the machine
meets both. What is quoted is the ratio of each turn: above 1, this checkout is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).resolve().parents[1]

WORKER = """
import json, sys
root, config, batch, ticks, calls = sys.argv[1:6]
sys.path[:0] = [root, f"{root}/benchmarks"]
import cases, measure, step_throughput
config = cases.load_config(config)
config.batch_size = int(batch) or config.batch_size
config.data.window_ticks = int(ticks) or config.data.window_ticks
stepper = step_throughput.Stepper(config)
about = {"compile_s": stepper.compile_s, "made_with": measure.provenance()}
about["batch"], about["ticks"] = config.batch_size, config.data.window_ticks
print(json.dumps(about), flush=True)
for _ in sys.stdin:
    print(json.dumps(measure.seconds(stepper, calls=int(calls))), flush=True)
"""


class Checkout:
    """A process that times steps of one checkout when it is asked to."""

    def __init__(self, root: pathlib.Path, arguments: argparse.Namespace) -> None:
        options = (arguments.batch, arguments.ticks, arguments.calls)
        # Two processes share one device.
        own = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": str(root)}
        paths = [str(root), os.environ.get("PYTHONPATH", "")]
        own["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, root, arguments.config, *map(str, options)],
            cwd=root,
            env=os.environ | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about: Any = self._answer()

    def seconds(self) -> float:
        """Returns how long a step takes now, the mean of some in a row."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a checkout's process ended; its messages stand above")
        return json.loads(line)


def main() -> None:
    """Measures and prints one line; writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--other", type=pathlib.Path, required=True)
    parser.add_argument("--config", default="configs/pretrain.py")
    parser.add_argument("--batch", type=int, default=0, help="0: the config's")
    parser.add_argument("--ticks", type=int, default=0, help="0: the config's")
    parser.add_argument("--calls", type=int, default=10, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    arguments = parser.parse_args()
    this, other = (
        Checkout(root, arguments) for root in (HERE, arguments.other.resolve())
    )
    times = [(this.seconds(), other.seconds()) for _ in range(arguments.turns + 1)]
    this.close()
    other.close()
    this_s, other_s = np.array(times[1:]).T  # the first turn warms up
    ratio = np.quantile(this_s / other_s, (0.25, 0.5, 0.75))
    found = {
        "config": arguments.config,
        "this": this.about | {"step_ms": np.median(this_s) * 1e3},
        "other": other.about | {"step_ms": np.median(other_s) * 1e3},
        "ratio": {"median": ratio[1], "quartiles": [ratio[0], ratio[2]]},
        "turns": arguments.turns,
        "steps_a_turn": arguments.calls,
    }
    print(
        f"{arguments.config}: this {found['this']['step_ms']:.2f} ms, other "
        f"{found['other']['step_ms']:.2f} ms; ratio {ratio[1]:.3f} "
        f"({ratio[0]:.3f}, {ratio[2]:.3f}) of {arguments.turns} turns"
    )
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
