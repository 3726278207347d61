"""Parquet files as rows of text, so that tables of either kind have the same checks."""

from __future__ import annotations

import importlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

SUFFIX = ".parquet"

_ROWS = 1 << 14  # that are in memory


def rows(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the names of the columns as row 0, and every row with its number, from 1.

    Columns of dates come first, so that one of them is the time where none is called
    so. Times of day are written with six digits of a second, durations in seconds, and
    what is missing as nothing.

    Raises:
      ValueError: no such file, a damaged one, or the package pyarrow is missing.
    """
    arrow, reader = _pyarrow(path)
    try:
        with reader.ParquetFile(path) as file:
            schema = file.schema_arrow
            order = sorted(
                range(len(schema)),
                key=lambda i: not arrow.types.is_timestamp(schema.field(i).type),
            )
            yield 0, [schema.field(i).name.strip() for i in order]
            number = itertools.count(1)
            for batch in file.iter_batches(batch_size=_ROWS):
                columns = [_texts(arrow, batch.column(i)) for i in order]
                for cells in zip(*columns, strict=True):
                    yield next(number), list(cells)
    except FileNotFoundError:
        raise ValueError(
            f"{path}: this Parquet file is needed; got no such file; put it there"
        ) from None
    except (arrow.ArrowException, OSError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: must be a whole Parquet file; got one that cannot be read "
            f"({said}); write it again"
        ) from None


def _texts(arrow: Any, column: Any) -> list[str]:
    kind = column.type
    if arrow.types.is_timestamp(kind):
        # Finer times have no form in Python; an offset is written as that of UTC.
        utc = arrow.timestamp("us", "UTC" if kind.tz else None)
        column = column.cast(utc, safe=False)
    elif arrow.types.is_duration(kind):
        microseconds = column.cast(arrow.duration("us"), safe=False)
        column = microseconds.cast(arrow.int64()).cast(arrow.float64())
        return [_text(us / 1e6 if us is not None else us) for us in column.to_pylist()]
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat(" ") if hasattr(value, "timestamp") else str(value)


def _pyarrow(path: pathlib.Path) -> tuple[Any, Any]:
    try:
        return (
            importlib.import_module("pyarrow"),
            importlib.import_module("pyarrow.parquet"),
        )
    except ImportError:
        raise ValueError(
            f"{path}: Parquet needs the package pyarrow; got an environment without "
            "it; pip install 'fmalign_jax[parquet]', or write the table as CSV"
        ) from None
