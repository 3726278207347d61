"""Makes the weights that the project gives away: the default furnace run, in one file.

    python scripts/default_weights.py --out docs/weights/default.fmrun

Trains configs/pretrain.py, measures the run (evaluation, lead, alarm) and packs it with
its model card. A quarter of an hour on two cores; what was interrupted goes on in the
folder of the run. docs/sharing.md names the digest of the file that is given away.
"""

from __future__ import annotations

import argparse
import pathlib

import fmalign_jax as fm

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Five seeds of the same config, on ten furnaces that were in nothing.
STUDY = (ROOT / "docs" / "results" / "shared_codes.json", "recipe")


def main(given: list[str] | None = None) -> None:
    """Makes the file of the command line, and prints its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="the file to write, *.fmrun")
    parser.add_argument("--config", default="pretrain", help="what is trained")
    parser.add_argument(
        "--workdir", default="runs/default_weights", help="the folder of the run"
    )
    asked = parser.parse_args(given)
    run = fm.train(asked.config, workdir=asked.workdir)
    run.evaluate()
    run.lead()
    run.alarm()
    studies = [STUDY] if asked.config == parser.get_default("config") else []
    packed = fm.load(run.export(asked.out, studies=studies, licence="Apache-2.0"))
    print(packed.card)
    print(f"{packed.path}: digest {packed.digest}")


if __name__ == "__main__":
    main()
