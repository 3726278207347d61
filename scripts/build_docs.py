"""Builds the documentation as a site, in English and Chinese, and packs it.

    pip install -e '.[docs]'
    python scripts/build_docs.py --out build/docs [--zip build/docs.zip]

The site needs no server and no internet: unpack the file anywhere and open index.html.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def main() -> None:
    """Builds; any warning is an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "docs")
    parser.add_argument("--zip", type=pathlib.Path, help="the file to pack it into")
    arguments = parser.parse_args()
    build(arguments.out)
    if arguments.zip is not None:
        if arguments.zip.suffix != ".zip":
            parser.error(f"--zip must end in .zip; got {arguments.zip}; rename it")
        shutil.make_archive(str(arguments.zip.with_suffix("")), "zip", arguments.out)


def build(out: pathlib.Path) -> None:
    """Builds the site into a folder, which is emptied before."""
    config = ROOT / "docs" / "site" / "mkdocs.yml"
    command = ["mkdocs", "build", "--strict", "--clean", "--config-file", str(config)]
    subprocess.run(
        [sys.executable, "-m", *command, "--site-dir", str(out.resolve())], check=True
    )


if __name__ == "__main__":
    main()
