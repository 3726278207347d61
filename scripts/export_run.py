"""Packs a finished run into one file with a model card, to be given to others.

    python scripts/export_run.py runs/pretrain-1a2b3c4d --out furnace_7.fmrun
    python scripts/export_run.py RUN --out default.fmrun \\
        --study docs/results/shared_codes.json recipe --licence 'CC BY 4.0'

The same as fm.load(RUN).export(FILE); `fm.load` opens the file. The card has what was
measured of the checkpoint: evaluations, alarms and searches for the lead in the folder
of the run, and the means over seeds of studies that trained the same config.
"""

from __future__ import annotations

import argparse

import fmalign_jax as fm


def main(given: list[str] | None = None) -> None:
    """Packs the run of the command line, and prints what the card says."""
    parser = argparse.ArgumentParser(description="Packs a finished run into one file.")
    parser.add_argument("run", help="the folder of the run")
    parser.add_argument("--out", required=True, help="the file to write, *.fmrun")
    parser.add_argument(
        "--step", default="best", help="best, latest, or the number of a checkpoint"
    )
    parser.add_argument(
        "--study",
        nargs=2,
        action="append",
        default=[],
        metavar=("FILE", "VARIANT"),
        help="results of scripts/study.py, and the variant that is this config",
    )
    parser.add_argument("--licence", default="", help="of the weights, in words")
    parser.add_argument(
        "--trust_code",
        action="append",
        default=[],
        help="a package of yours whose classes the config may name",
    )
    asked = parser.parse_args(given)
    try:
        run = fm.load(asked.run, asked.step, trust_code=asked.trust_code)
        path = run.export(asked.out, studies=asked.study, licence=asked.licence)
        packed = fm.load(path, trust_code=asked.trust_code)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(packed.card)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, digest {packed.digest}")


if __name__ == "__main__":
    main()
