"""CSV tables: a column of times, and columns that are read when asked for."""

from __future__ import annotations

import csv
import dataclasses
import functools
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from fmalign_jax.data.clocks import instant, is_instant, is_number, is_time

_OTHER_NUMBER = re.compile(
    r"[+-]?(0x[0-9a-f]+|\d[\d\s'\u2019.,_]*)\s*"
    r"(%|\u00b0C|\u03a9|Ohm|[kmM]?[AVW]|k?Hz|m?s|K)?",
    re.IGNORECASE,
)
_COMPACT_DATE = re.compile(
    r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])([01]\d|2[0-3])[0-5]\d([0-5]\d)?"
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV file of which columns are read when asked for.

    Attributes:
      path: the file, named in every error.
      columns: names of the columns; "column 0" and so on where no header came.
      first_row: cells of the first row of data.
      has_header: whether the first line holds names.
    """

    path: pathlib.Path
    columns: tuple[str, ...]
    first_row: tuple[str, ...]
    has_header: bool

    def position(self, column: str | int) -> int:
        """Position of a column given by name or number.

        Raises:
          ValueError: no such column.
        """
        if isinstance(column, int) and 0 <= column < len(self.columns):
            return column
        if isinstance(column, str) and self.columns.count(column) > 1:
            raise ValueError(
                f"{self.path}: columns must have different names; got several called "
                f"{column!r}; rename them"
            )
        if isinstance(column, str) and column in self.columns:
            return self.columns.index(column)
        raise ValueError(
            f"{self.path}: a column is missing; got columns {list(self.columns)} but "
            f"no {column!r}; add it to the file or name another column"
        )

    def time_position(self) -> int:
        """Position of the column called "time", in any case, or else the first.

        Raises:
          ValueError: that column has no name while others have.
        """
        named = [i for i, name in enumerate(self.columns) if name.lower() == "time"]
        if not named and _is_nameless(self.columns[0]):
            raise ValueError(
                f"{self.path}: the time column needs a name; got none for the first of "
                f"{list(self.columns)}, which may count rows; call the time column "
                "'time', or name it by the option time_column"
            )
        return named[0] if named else 0

    def channels(self, time: int) -> tuple[str, ...]:
        """Names of the columns of numbers, beside that of time and nameless ones.

        Raises:
          ValueError: there is none, or the first cell of one is not a number.
        """
        found = []
        for position, name in enumerate(self.columns):
            if position == time or _is_nameless(name):
                continue
            if is_number(self.first_row[position]):
                found.append(name)
            else:
                self._check_text(position)
        if not found:
            raise ValueError(
                f"{self.path}: a column of numbers is needed beside "
                f"{self.columns[time]!r}; got columns {list(self.columns)}; add one"
            )
        return tuple(found)

    def _check_text(self, position: int) -> None:
        """Refuses a column of numbers: from its second row on, or in other forms."""
        cells = self.texts(position).tolist()
        if sum(map(_is_other_number, cells)) > len(cells) / 2:
            raise ValueError(
                f"{self.path}: a channel must be written in plain numbers; got "
                f"{self.first_row[position]!r} for {self.columns[position]!r} in line "
                f"{self.line(0)}; write points in decimals, nothing between thousands "
                "and no units, or name the columns to take in the option channels"
            )
        cells = cells[1:]
        if sum(map(is_number, cells)) > len(cells) / 2:
            raise ValueError(
                f"{self.path}: every cell of a channel must be a number; got "
                f"{self.first_row[position]!r} for {self.columns[position]!r} in line "
                f"{self.line(0)}; correct that cell, or name the columns to take in "
                "the option channels"
            )

    def texts(self, column: str | int) -> Shaped[np.ndarray, "N"]:
        """One column as text, without surrounding blanks."""
        return np.strings.strip(self._load([column], str)[:, 0])

    def numbers(self, *columns: str | int) -> Float[np.ndarray, "N C"]:
        """Columns as float64 [N, C].

        Raises:
          ValueError: a column is missing, or a cell is missing or not a number.
        """
        return self._load(columns, float)

    def seconds(self, column: str | int) -> Float[np.ndarray, "N"]:
        """A column of seconds, or of ISO dates and times as seconds since 1970.

        Raises:
          ValueError: a cell is neither.
        """
        first = self.first_row[self.position(column)]
        if is_number(first):
            if _COMPACT_DATE.fullmatch(first):
                raise ValueError(
                    f"{self.path}: times must be seconds, or dates written YYYY-MM-DD "
                    f"HH:MM:SS; got {first} in line {self.line(0)}, which is a date "
                    "without them; write it so"
                )
            return self.numbers(column)[:, 0]
        texts = self.texts(column)
        try:
            return np.array([instant(text) for text in texts.tolist()])
        except ValueError:
            row = next(i for i, text in enumerate(texts) if not is_instant(text))
            raise ValueError(
                f"{self.path}: times must be written YYYY-MM-DD HH:MM:SS; got "
                f"{str(texts[row])!r} in line {self.line(row)}; correct that line, or "
                "copy the file again if it was cut short"
            ) from None

    def line(self, row: int) -> int:
        """Line of the file that a row of data stands in, counted from 1."""
        return row + 1 + self.has_header

    @functools.cached_property
    def _checked(self) -> pathlib.Path:
        """The path, once no row has more cells than there are columns.

        A comma in a decimal or a time moves every cell behind it into the next column.
        """
        most = len(self.columns)
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, skipinitialspace=True)
            for cells in rows:
                while len(cells) > most and not cells[-1].strip():
                    cells.pop()
                if len(cells) > most and not any(map(is_number, cells)):
                    raise _not_the_names(
                        self.path, ",".join(self.columns), rows.line_num
                    )
                if len(cells) > most:
                    raise ValueError(
                        f"{self.path}: a row may have a cell for each of the {most} "
                        f"columns; got {len(cells)} in line {rows.line_num}: "
                        f"{','.join(cells)[:80]!r}; write points in decimals, and put "
                        "cells with commas into quotes"
                    )
        return self.path

    def _load(
        self, columns: Sequence[str | int], kind: type[str] | type[float]
    ) -> Shaped[np.ndarray, "N C"]:
        try:
            with self._checked.open(encoding="utf-8-sig") as file:
                lines = (line for line in file if line.strip())
                return np.loadtxt(
                    lines,
                    dtype=kind,
                    delimiter=",",
                    quotechar='"',
                    comments=None,
                    skiprows=int(self.has_header),
                    usecols=[self.position(column) for column in columns],
                    ndmin=2,
                )
        except (UnicodeDecodeError, csv.Error) as error:
            raise _not_text(self.path, error) from None
        except ValueError as error:
            if str(error).startswith(str(self.path)):
                raise
            raise ValueError(
                f"{self.path}: every row must have a value in each column used; got: "
                f"{error} (rows after the header, from 0); correct that row, or copy "
                "the file again if it was cut short"
            ) from None


def _is_other_number(cell: str) -> bool:
    """Whether a cell is a number to a reader, in a form that does not parse."""
    return bool(_OTHER_NUMBER.fullmatch(cell)) and not is_number(cell)


def _is_nameless(column: str) -> bool:
    """Whether a column has no name, or the one that pandas gives to such."""
    return not column or column.startswith("Unnamed:")


def read_table(path: pathlib.Path) -> Table:
    """Looks at a CSV file, with or without a header line.

    The first line is a header when its first cell is neither a number nor a time.

    Raises:
      ValueError: no such file, no rows of data, or not text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = (line for line in file if line.strip())
            rows = csv.reader(lines, skipinitialspace=True)
            first, second = (
                tuple(cell.strip() for cell in next(rows, ())) for _ in range(2)
            )
    except FileNotFoundError:
        raise ValueError(
            f"{path}: this CSV file is needed; got no such file; put it there"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _not_text(path, error) from None
    if first and first[0].lower().startswith("sep="):  # a spreadsheet's own line
        raise _not_the_names(path, ",".join(first), 2)
    has_header = not any(map(is_time, first[:1]))
    body = second if has_header else first
    if not body:
        raise ValueError(
            f"{path}: at least one row of data is needed; got none; export it again"
        )
    if len(body) < len(first):
        raise ValueError(
            f"{path}: every row must have a value for each of the columns "
            f"{list(first)}; got {list(body)}; correct it or export the table again"
        )
    _check_commas(path, first, second)
    columns = first if has_header else tuple(f"column {i}" for i in range(len(first)))
    return Table(path, columns, body, has_header)


def _not_the_names(path: pathlib.Path, first: str, line: int) -> ValueError:
    return ValueError(
        f"{path}: the first line must hold the names of the columns; got "
        f"{first[:80]!r}, and what may be the names in line {line}; remove what stands "
        "above the names"
    )


def _not_text(path: pathlib.Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: must be a CSV file in UTF-8; got another kind ({error}); save the "
        "table as UTF-8"
    )


def _check_commas(path: pathlib.Path, *rows: Sequence[str]) -> None:
    """Refuses rows that semicolons or tabs divide, equally many in each."""
    for separator in (";", "\t"):
        counts = {sum(cell.count(separator) for cell in row) for row in rows}
        if len(counts) == 1 and counts != {0}:
            raise ValueError(
                f"{path}: commas must divide the cells; got {separator!r}; save the "
                "table with commas between cells and points in decimals"
            )
