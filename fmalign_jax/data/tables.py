"""Tables in CSV or Parquet: a column of times, and columns read when asked for."""

from __future__ import annotations

import array
import csv
import dataclasses
import logging
import math
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from fmalign_jax.data import clocks, encodings, parquet
from fmalign_jax.data.clocks import (
    TIMES,
    has_offset,
    instant,
    is_instant,
    is_number,
    is_time,
    number,
)
from fmalign_jax.structs import LARGEST

_OTHER_NUMBER = re.compile(
    r"[+-]?(0x[0-9a-f]+|\d[\d\s'\u2019.,_]*)\s*"
    r"(%|\u00b0C|\u03a9|Ohm|[kmM]?[AVW]|k?Hz|m?s|K)?",
    re.IGNORECASE,
)
_COMPACT_DATE = re.compile(
    r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])([01]\d|2[0-3])[0-5]\d"
    r"([0-5]\d\d{0,6}(\.\d*)?)?"
)
_TIME_NAME = re.compile(r"t|s|.*(time|sec|zeit|\u65f6).*", re.IGNORECASE)
_COUNTER = re.compile(
    r"#|n[or]?\.?|i|id|ind(ex|ices)|idx|rows?|lines?|counter|count|samples?|frames?"
    r"|(frame|sample|row|line)[ _]?(no\.?|number|index|id)|\u5e8f\u53f7|\u7f16\u53f7"
    r"|\u884c\u53f7|\u5e27\u53f7",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A CSV or Parquet file of which columns are read when asked for.

    Attributes:
      path: the file, named in every error.
      columns: names of the columns; "column 0" and so on where no header came.
      first_row: cells of the first row of data, with empty ones behind the columns.
      has_header: whether the first line holds names.
      encoding: of the text, as `open` takes it; empty for Parquet.
    """

    path: pathlib.Path
    columns: tuple[str, ...]
    first_row: tuple[str, ...]
    has_header: bool
    encoding: str = encodings.UTF8

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
        """Position of the column called "time" or "时间", or else the first.

        Raises:
          ValueError: the first may count rows: it has no name or that of a counter, or
            another column holds dates.
        """
        named = [i for i, name in enumerate(self.columns) if name.lower() in TIMES]
        if named:
            return named[0]
        dated = [_is_date(cell) for cell in self.first_row[: len(self.columns)]]
        first = self.columns[0]
        if not (dated[0] or _TIME_NAME.fullmatch(first)) and (
            is_nameless(first) or _COUNTER.fullmatch(first) or any(dated)
        ):
            raise ValueError(
                f"{self.path}: the time column needs a name that says so; got "
                f"{first!r} as the first of {list(self.columns)}, which may count "
                "rows; call the time column 'time', or name it by the option "
                "time_column"
            )
        return 0

    def channels(self, time: int) -> tuple[str, ...]:
        """Names of the columns of numbers, beside that of time.

        Nameless ones, and those that by name and content count the rows, are none.

        Raises:
          ValueError: there is none, or the first cell of one is not a number.
        """
        found = []
        for position, name in enumerate(self.columns):
            if position == time or is_nameless(name):
                continue
            if is_number(self.first_row[position]):
                if not self._counts_rows(position):
                    found.append(name)
            else:
                self._check_text(position)
        if not found:
            for _ in self._rows():  # what stands above the names shows in wider rows
                pass
            raise ValueError(
                f"{self.path}: a column of numbers is needed beside "
                f"{self.columns[time]!r}; got columns {list(self.columns)}; add one"
            )
        return tuple(found)

    def _counts_rows(self, position: int) -> bool:
        if not _COUNTER.fullmatch(self.columns[position]):
            return False
        values = self.numbers(position)[:, 0]
        return len(values) > 2 and bool((np.diff(values) == 1).all())

    def _check_text(self, position: int) -> None:
        """Refuses a column of numbers: from its second row on, or in other forms."""
        cells = [
            cells[position].strip() if position < len(cells) else ""
            for _, cells in self._rows()
        ]
        if sum(map(_is_other_number, cells)) > len(cells) / 2:
            raise ValueError(
                f"{self.path}: a channel must be written in plain numbers; got "
                f"{self.first_row[position]!r} for {self.columns[position]!r} in "
                f"{self.place(0)}; write points in decimals, nothing between thousands "
                "and no units, or name the columns to take in the option channels"
            )
        cells = cells[1:]
        if sum(map(is_number, cells)) > len(cells) / 2:
            raise ValueError(
                f"{self.path}: every cell of a channel must be a number; got "
                f"{self.first_row[position]!r} for {self.columns[position]!r} in "
                f"{self.place(0)}; correct that cell, or name the columns to take in "
                "the option channels"
            )

    def texts(self, column: str | int) -> list[str]:
        """One column as text, without surrounding blanks.

        Raises:
          ValueError: the column is missing, or a cell of it.
        """
        position = self.position(column)
        return [cells[position].strip() for _, cells in self._rows(position)]

    def numbers(self, *columns: str | int) -> Float[np.ndarray, "N C"]:
        """Columns as float64 [N, C].

        Raises:
          ValueError: a column is missing, or a cell is missing or no finite number.
        """
        positions = [self.position(column) for column in columns]
        values = array.array("d")
        for line, cells in self._rows(*positions):
            for position in positions:
                cell = cells[position].strip()
                try:
                    value = number(cell)
                except ValueError:
                    value = math.nan
                if not abs(value) <= LARGEST:
                    raise ValueError(
                        f"{self.path}: {self.columns[position]!r} must hold finite "
                        f"numbers (up to {LARGEST:g}), with a point in decimals and "
                        f"nothing else; got "
                        f"{cell[:40]!r} in {self._word} {line}; correct that cell, cut "
                        "out that row, or copy the file again if it was cut short"
                    )
                values.append(value)
        return np.array(values).reshape(-1, len(positions))

    def is_dated(self, column: str | int) -> bool:
        """Whether a column holds dates, and no seconds, by its first row."""
        return _is_date(self.first_row[self.position(column)])

    def seconds(self, column: str | int) -> Float[np.ndarray, "N"]:
        """A column of seconds, or of ISO dates and times as seconds since 1970.

        Raises:
          ValueError: a cell is neither, or beyond the year 9999; only some dates have
            an offset.
        """
        position = self.position(column)
        first = self.first_row[position]
        if _COMPACT_DATE.fullmatch(first):
            raise ValueError(
                f"{self.path}: times must be seconds, or dates written YYYY-MM-DD "
                f"HH:MM:SS; got {first} in {self.place(0)}, which is a date "
                "without them; write it so"
            )
        read = instant if self.is_dated(column) else number
        form = "dates written YYYY-MM-DD HH:MM:SS"
        if read is number:
            form = f"seconds, at most those of the year 9999, or {form}"
        values = array.array("d")
        rows = self._rows(position)
        for line, cells in rows:
            cell = cells[position].strip()
            try:
                value = read(cell)
            except ValueError:
                value = math.nan
            if not abs(value) <= clocks.LATEST_S:
                for _ in rows:  # what stands above the names shows in wider rows
                    pass
                raise ValueError(
                    f"{self.path}: times must be {form}; got {cell[:40]!r} in "
                    f"{self._word} {line}; convert or correct it, remove that line if "
                    "it holds no data, such as units, or copy the file again if it was "
                    "cut short"
                )
            if read is instant and has_offset(cell) != has_offset(first):
                raise ValueError(
                    f"{self.path}: all times must be written with their offset, or "
                    f"none; got {cell!r} in {self._word} {line} after {first!r}; "
                    "write all alike"
                )
            values.append(value)
        return np.array(values)

    def check_rising(self, column: str | int, time_s: Float[np.ndarray, "N"]) -> None:
        """Refuses times that go back, and says where a leap of an hour is strange.

        Args:
          column: where the times were read.
          time_s: the time of each row, seconds.

        Raises:
          ValueError: a time is less than that of the row before.
        """
        first = self.first_row[self.position(column)]
        local = self.is_dated(column) and not has_offset(first)
        steps = np.diff(time_s)
        if (steps < 0).any():
            row = int(np.argmax(steps < 0))
            remedy = "sort the rows by time"
            if local and abs(steps[row] + clocks.HOUR_S) < clocks.HOUR_S / 10:
                remedy = (
                    "if daylight saving time ended there, write times with their "
                    "offset, such as 2024-10-27 02:00:00+01:00"
                )
            raise ValueError(
                f"{self.path}: time must not go back; got a step of {steps[row]:.6g} s "
                f"in {self.place(row + 1)}; {remedy}"
            )
        for row in clocks.clock_changes(time_s).tolist() if local else ():
            logging.getLogger(__name__).warning(
                "%s: the time leaps by an hour in %s; if that is daylight saving "
                "time, all rows behind it are an hour late: write times with their "
                "offset, such as 2024-03-31 03:00:00+02:00",
                self.path,
                self.place(row),
            )

    def line(self, row: int) -> int:
        """Line of the file that a row of data stands in, counted from 1."""
        lines = (line for line, _ in _parsed(self.path, self.encoding))
        return next(x for i, x in enumerate(lines) if i == row + self.has_header)

    def place(self, row: int) -> str:
        """Where a row of data stands, in words: "line 3", in Parquet "row 2"."""
        return f"{self._word} {self.line(row)}"

    @property
    def _word(self) -> str:
        return "line" if self.encoding else "row"

    def _rows(self, *needed: int) -> Iterator[tuple[int, list[str]]]:
        """Every row of data with its line.

        A comma too many or too few moves every cell behind it into another column, so
        that rows must have as many cells as there are columns. Only empty cells at the
        end may be more, as in the first row, and cells of remarks at the end fewer.

        Args:
          *needed: positions that every row must have.
        """
        most = len(self.columns)
        numeric = [i for i, cell in enumerate(self.first_row[:most]) if is_number(cell)]
        least = 1 + max([0, *numeric, *needed])
        last = 0
        rows = _parsed(self.path, self.encoding)
        if self.has_header:
            last, _ = next(rows)
        for line, cells in rows:
            if len(cells) == len(self.first_row) and not "".join(cells[most:]).strip():
                cells = cells[:most]
            if len(cells) > most and not any(map(is_time, cells)):
                raise _not_the_names(self.path, ",".join(self.columns), line)
            if not least <= len(cells) <= most:
                raise ValueError(
                    f"{self.path}: a row must have a cell for each of the {most} "
                    f"columns; got {len(cells)} in {self._word} {line}: "
                    f"{','.join(cells)[:80]!r}; write points in decimals, put cells "
                    "with commas into quotes, or copy the file again if it was cut "
                    "short"
                )
            if most == 1 and last and line > last + 1:
                raise ValueError(
                    f"{self.path}: every row must have a cell; got an empty line "
                    f"{last + 1} between two rows; fill it in or remove it"
                )
            last = line
            yield line, cells


def read_table(path: pathlib.Path) -> Table:
    """Looks at a Parquet file, or a CSV file, with or without a header line.

    The first line is a header when its first cell is neither a number nor a time.

    Raises:
      ValueError: no such file, no rows of data, not text, or damaged.
    """
    encoding = "" if is_parquet(path) else _encoding(path)
    parsed = _parsed(path, encoding)
    rows = (tuple(cell.strip() for cell in cells) for _, cells in parsed)
    first: tuple[str, ...] = next(rows, ())
    if first and first[0].lower().startswith("sep="):  # a spreadsheet's own line
        raise _not_the_names(path, ",".join(first), 2)
    second: tuple[str, ...] = next(rows, ())
    has_header = not encoding or not any(map(is_time, first[:1]))
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
    if encoding:
        _check_commas(path, first, second)
    columns = first if has_header else tuple(f"column {i}" for i in range(len(first)))
    return Table(path, columns, body, has_header, encoding)


def is_nameless(column: str) -> bool:
    """Whether a column has no name, or one that pandas gives to such."""
    return not column or column.startswith(("Unnamed:", "__index_level_"))


def is_parquet(path: pathlib.Path) -> bool:
    """Whether a table is a Parquet file, by its name."""
    return path.suffix.lower() == parquet.SUFFIX


def _encoding(path: pathlib.Path) -> str:
    try:
        return encodings.encoding_of(path)
    except FileNotFoundError:
        raise ValueError(
            f"{path}: this CSV file is needed; got no such file; put it there"
        ) from None


def _parsed(path: pathlib.Path, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Every row that is not blank, with its line; of Parquet every row.

    A quote that is not closed would swallow rows, up to the next one: a cell may not
    reach beyond its line.
    """
    if not encoding:
        yield from parquet.rows(path)
        return
    line = 0
    try:
        with path.open(newline="", encoding=encoding) as file:
            rows = csv.reader(file, skipinitialspace=True, strict=True)
            for cells in rows:
                if rows.line_num > line + 1:
                    raise csv.Error
                line += 1
                if len(cells) > 1 or any(cell.strip() for cell in cells):
                    yield line, cells
    except csv.Error:
        raise ValueError(
            f"{path}: quotes must be closed in the line that opens them, behind the "
            f"cell; got others in line {line + 1}; correct that line"
        ) from None


def _is_other_number(cell: str) -> bool:
    """Whether a cell is a number to a reader, in a form that does not parse."""
    return bool(_OTHER_NUMBER.fullmatch(cell)) and not is_number(cell)


def _is_date(cell: str) -> bool:
    return is_instant(cell) and not is_number(cell)


def _not_the_names(path: pathlib.Path, first: str, line: int) -> ValueError:
    return ValueError(
        f"{path}: the first line must hold the names of the columns; got "
        f"{first[:80]!r}, and what may be the names in line {line}; remove what stands "
        "above the names"
    )


def _check_commas(path: pathlib.Path, *rows: Sequence[str]) -> None:
    """Refuses rows that other signs divide, equally many in each."""
    for separator in (";", "\t", "\uff0c", "\uff1b"):
        counts = {sum(cell.count(separator) for cell in row) for row in rows}
        if len(counts) == 1 and counts != {0}:
            raise ValueError(
                f"{path}: commas must divide the cells; got {separator!r}; save the "
                "table with commas between cells and points in decimals"
            )
