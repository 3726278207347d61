"""Looks at a folder of recordings and writes a first config for it.

    python -m fmalign_jax.init mydata/ [--out FILE]

Says what it found and what it could not read, in one table. The config says of every
value whether it came from the recordings; what they do not say is marked OPEN. Nothing
is written into the folder of the recordings, and no file is written over.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import re
import shlex

from fmalign_jax import cli
from fmalign_jax.arguments import add_init
from fmalign_jax.data.files import check_new, write_new
from fmalign_jax.first_config import choices, page, reading, told


def init(folder: pathlib.Path, out: pathlib.Path | None = None) -> pathlib.Path:
    """Prints what a folder holds and writes a config for it.

    Args:
      folder: of recordings.
      out: the file to write, or a folder for it; by default FOLDER.py in the folder
        that one stands in.

    Returns:
      The file.

    Raises:
      ValueError: there are no recordings to train on, or they do not go together; the
        file is there already, or would lie among the recordings.
    """
    target = _target(folder, out)
    seen = reading.look(folder)
    cli.print_table(told.table(seen))
    choice = choices.decide(seen)
    write_new(target, page.text(choice, str(target)))
    counts = {name: len(index) for name, index in choice.windows.items()}
    print(
        f"\nwritten to {target}: from {choice.base}, windows "
        + ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    )
    print("not decided (OPEN in the file):")
    cli.print_table(told.open_rows(choice))
    first = "fill in data.options.video_start, then " if choice.needs_start else ""
    file = shlex.quote(str(target))
    print(f"next: {first}fmalign prepare {file}, then fmalign train {file}")
    return target


def _target(folder: pathlib.Path, out: pathlib.Path | None) -> pathlib.Path:
    """Returns the file to write, which is new and lies elsewhere.

    Raises:
      ValueError: it is there, lies among the recordings, or is no Python file.
    """
    name = re.sub(r"[^\w-]+", "_", folder.resolve().name) or "recordings"
    if out is None:
        target = pathlib.Path(f"{name}.py")
    elif out.is_dir():
        target = out / f"{name}.py"
    else:
        target = out
    if target.suffix != ".py":
        raise ValueError(
            f"--out must be a file that ends in .py, or a folder that is there; got "
            f"{out}; use such as --out {name}.py"
        )
    check_new(target)
    if folder.is_dir() and target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"nothing is written among the recordings; got {target}, which would lie "
            f"in {folder}; give a place elsewhere, such as --out ../{name}.py"
        )
    return target


def main(arguments: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    # The table says it all; ways to lay windows that were only tried are no news.
    logging.getLogger().setLevel(logging.WARNING)
    init(arguments.folder, arguments.out)


if __name__ == "__main__":
    arguments = cli.Arguments(
        prog="python -m fmalign_jax.init", description=__doc__.splitlines()[0]
    )
    add_init(arguments)
    arguments.run(main)
