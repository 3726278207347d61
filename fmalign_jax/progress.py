"""Progress: one line that fits the terminal; elsewhere a new line now and then."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm
from tqdm.utils import disp_len

EVERY_S = 30.0
"""Seconds between two lines where there is no terminal, such as in the log of a job."""

_LEAST_BAR = 8  # columns; a shorter one says nothing


class Bar(tqdm):
    """Counts what is done; all progress of the package is shown by it.

    In a terminal it is one line, drawn over and over, and never longer than the
    terminal is wide: of the values beside it those stay for which there is room.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        description: str | None = None,
        *,
        total: int | None = None,
        initial: int = 0,
        shown: bool = True,
        file: io.TextIOBase | None = None,
    ) -> None:
        """Begins to count.

        Args:
          iterable: what is gone through, None where `update` counts.
          description: what is being done.
          total: how many there are, by default as many as `iterable` has.
          initial: how many are done already.
          shown: whether anything is shown.
          file: where, by default the standard error output.
        """
        self._values: tuple[str, ...] = ()
        where: Any = sys.stderr if file is None else file
        self._terminal = where.isatty()
        if self._terminal:
            how: dict[str, Any] = {"file": where, "dynamic_ncols": True}
        else:
            # With `miniters` fixed, no thread of tqdm's draws in between.
            how = {"file": _Lines(where), "mininterval": EVERY_S, "miniters": 1}
        super().__init__(
            iterable, description, total, initial=initial, disable=not shown, **how
        )

    def show(self, values: Sequence[str]) -> None:
        """Sets what stands beside the count from its next update on.

        Args:
          values: in words, the most important first.
        """
        self._values = tuple(values)

    def __str__(self) -> str:
        """Returns the line as it is drawn."""
        about = self.format_dict
        line = "{desc}: {n_fmt}/{total_fmt}"
        if about["total"] and about["n"] >= about["total"]:
            line += " in {elapsed}"
        elif about["n"] > about["initial"]:
            line += ", {remaining} left"
        room = None
        if self._terminal:
            # One column less: some terminals begin a new line after the last one.
            room = (about["ncols"] or shutil.get_terminal_size().columns) - 1

        def drawn(values: Sequence[str], form: str = line) -> str:
            text = ", ".join(values)
            given = about | {"bar_format": form, "postfix": text, "ncols": room}
            return str(self.format_meter(**given))

        if room is None:
            return drawn(self._values, line + "{postfix}")
        kept: list[str] = []
        used = disp_len(drawn([]))
        for value in self._values:
            if used + len(", ") + disp_len(value) <= room:
                kept.append(value)
                used += len(", ") + disp_len(value)
        bar = "  {bar}" if room - used >= _LEAST_BAR else ""
        return drawn(kept, line + "{postfix}" + bar)


class _Lines:
    """A file in which every status is a line of its own, instead of drawn over."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> None:
        if text := text.strip():
            self._file.write(f"{text}\n")

    def flush(self) -> None:
        self._file.flush()
