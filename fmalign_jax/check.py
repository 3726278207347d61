"""Says before any training whether video and current have anything in common.

    python -m fmalign_jax.check RECORDINGS [--config FILE] [--out FILE]

RECORDINGS is a folder or a glob. Prints what the recordings are, how their clocks
stand, at which leads the two streams go together, how many minutes each further step
needs, and a verdict; the same with pictures is one HTML file. docs/check.md says how to
read it.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.arguments import add_check
from fmalign_jax.config import find_config, import_beside, read_config
from fmalign_jax.data import dataset
from fmalign_jax.data.files import check_replaceable, write_text
from fmalign_jax.data.store.builder import Source
from fmalign_jax.first_config import alike, reading
from fmalign_jax.first_config.survey import REFERENCE, Survey
from fmalign_jax.first_look import association, needs, page, ticks, told, verdict

_OUT = pathlib.Path("check.html")


def check(
    given: str,
    *,
    is_config: bool = False,
    out: pathlib.Path = _OUT,
    least_lead_s: float | None = None,
    most_lead_s: float | None = None,
    seed: int = 0,
) -> association.Association:
    """Looks at recordings, prints what was found and writes a page about it.

    Args:
      given: a folder or a glob of recordings, or a config.
      is_config: whether it is the file of a config or the name of a shipped one, with
        `:VARIANT`, whose recordings, ticks and windows are taken.
      out: the page; an earlier one is replaced, nothing else.
      least_lead_s: the smallest lead to look at, see `ticks.plan`.
      most_lead_s: the largest.
      seed: of wrong pairings and bootstrap.

    Returns:
      What the streams have in common.

    Raises:
      ValueError: there are no recordings of both streams, they are of several kinds or
        too short, or `out` is something else.
    """
    check_replaceable(out, page.MARK, "page of fmalign check")
    data = _data(given) if is_config else None
    seen, readers = _look(given) if data is None else _look_at(data)
    alike.check_streams(seen)
    plan = ticks.plan(seen, least_s=least_lead_s, most_s=most_lead_s, data=data)
    found = association.associate(ticks.look(seen, readers, plan), plan, seed=seed)
    needed = needs.needs(seen, plan, found)
    said = verdict.judge(found, plan, given=_given(given, is_config=is_config))
    write_text(out, page.text(seen, plan, found, needed, said))
    cli.print_table(told.table(seen, plan, found, needed))
    print("\nclocks, against that of the video:")
    cli.print_table(told.clock_table(seen))
    print(f"\n{textwrap.fill(said.sentence, 88)}\n")
    for number, step in enumerate(said.steps, 1):
        print(textwrap.fill(f"{number}. {step}", 88, subsequent_indent="   "))
    print(f"\nwritten to {out}")
    return found


def _given(words: str, *, is_config: bool) -> verdict.Given:
    what = verdict.CONFIG
    if not is_config:
        folder = pathlib.Path(words).expanduser().is_dir()
        what = verdict.FOLDER if folder else verdict.GLOB
    return verdict.Given(shlex.quote(words), what)


def _look(recordings: str) -> tuple[Survey, Mapping[str, Source]]:
    """Reads a folder or the files of a glob; one that is damaged is left out."""
    folder = pathlib.Path(recordings).expanduser()
    if folder.is_dir():
        seen = reading.look(folder)
        return seen, reading.readers(seen.folder, seen.source)
    readers = reading.files_of(recordings)
    return reading.look_with(readers, recordings, dataset.FILES), readers


def _look_at(data: ConfigDict) -> tuple[Survey, Mapping[str, Source]]:
    """Reads the recordings of a config."""
    if data.reference_stream != REFERENCE:
        raise ValueError(
            f"a check compares a sensor with {REFERENCE!r}; got a config whose "
            f"reference_stream is {data.reference_stream!r}; name that stream so in "
            "the recordings"
        )
    source: Any = dataset.make_source(data)
    readers = dict.fromkeys(source.names(), source)
    seen = reading.look_with(
        readers, data.path, data.source, leading=data.leading_stream
    )
    return seen, readers


def _data(config: str) -> ConfigDict:
    """Returns the settings of data of a config file, or of a shipped config."""
    path = find_config(config)
    import_beside(path)
    found = read_config(path)
    if "data" not in found or "source" not in found.data:
        raise ValueError(
            f"--config must be a config of recordings, for prepare or train; got "
            f"{config}; give such a one, or the folder of the recordings"
        )
    return found.data


def main(arguments: argparse.Namespace) -> None:
    """Does what the command line asks for."""
    if (arguments.recordings is None) == (arguments.config is None):
        raise ValueError(
            "a check needs recordings or --config, one of them; got "
            f"{'neither' if arguments.config is None else 'both'}; give a folder, such "
            "as: fmalign check mydata/"
        )
    logging.getLogger().setLevel(logging.WARNING)  # the table says it all
    check(
        arguments.recordings or arguments.config,
        is_config=arguments.config is not None,
        out=arguments.out,
        least_lead_s=arguments.least_lead_s,
        most_lead_s=arguments.most_lead_s,
        seed=arguments.seed,
    )


if __name__ == "__main__":
    arguments = cli.Arguments(
        prog="python -m fmalign_jax.check", description=__doc__.splitlines()[0]
    )
    add_check(arguments)
    arguments.run(main)
