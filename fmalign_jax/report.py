"""Writes one HTML file that shows a run: what it learned, and how good it is.

    python -m fmalign_jax.report RUN_DIR [--evaluation DIR] [--out FILE]

The file needs no network: plotly.js, pictures and data are inside,
and its content security policy forbids it to load anything. docs/report.md says how to
read each picture.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.resources
import json
import logging
import pathlib
import string
from typing import Any

from plotly.offline import get_plotlyjs

from fmalign_jax import cli
from fmalign_jax.arguments import add_report
from fmalign_jax.data.files import check_replaceable, write_text
from fmalign_jax.run_report.data import collect

_PAGE = importlib.resources.files("fmalign_jax.run_report") / "report_page"
_SCRIPTS = ("page.js", "timeline.js", "charts.js", "main.js")
_MARK = '<meta name="generator" content="fmalign_jax.report">'


def report(
    run: pathlib.Path,
    evaluation: pathlib.Path | None = None,
    out: pathlib.Path | None = None,
) -> pathlib.Path:
    """Writes the report of a run.

    Args:
      run: the folder of the run.
      evaluation: the folder of its evaluation; by default RUN/evaluation, if there.
      out: the file; by default RUN/report.html. An earlier report is replaced.

    Returns:
      The file.

    Raises:
      ValueError: the folder is not that of a run, a file in it is damaged, or `out` is
        something other than a report.
    """
    if run.is_file():
        raise ValueError(
            f"a report needs the folder of a run, which has curves, summary and all "
            f"checkpoints; got the file {run}; give the folder that it was packed "
            "from. What a packed run says of itself is its model card: "
            f"fm.load({str(run)!r}).card"
        )
    target = run / "report.html" if out is None else out
    check_replaceable(target, _MARK, "report")
    data = collect(run, evaluation)
    write_text(target, page(data, made=datetime.date.today().isoformat()))
    return target


def page(data: dict[str, Any], *, made: str) -> str:
    """Returns the page of some data, as from `run_report.data.collect`.

    Args:
      data: JSON values.
      made: the day, shown at the end.
    """
    return string.Template(_part("page.html")).substitute(
        mark=_MARK,
        style=_part("page.css"),
        plotly=get_plotlyjs(),
        script="\n".join(map(_part, _SCRIPTS)),
        words=_embedded(json.loads(_part("words.json"))),
        data=_embedded(data | {"made": made}),
    )


def _part(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """Returns JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")


def main(arguments: argparse.Namespace) -> None:
    """Writes the report of the command line and says where it is."""
    path = report(arguments.run, arguments.evaluation, arguments.out)
    logging.info("%.1f MB", path.stat().st_size / 1e6)
    print(f"written to {path}")


if __name__ == "__main__":
    arguments = cli.Arguments(
        prog="python -m fmalign_jax.report", description=__doc__.splitlines()[0]
    )
    add_report(arguments)
    arguments.run(main)
