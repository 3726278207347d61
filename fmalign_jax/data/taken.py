"""What was taken as what when recordings were read, in one line a kind of file."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int32

from fmalign_jax.data import clocks, encodings, tables
from fmalign_jax.structs import UNLABELLED, Recording

_MOST_NAMES = 12  # in a line


def table(
    columns: tables.Table, time: int, taken: Mapping[str, Sequence[str | int]]
) -> str:
    """Says which columns of a table were taken, which left out, and its encoding.

    Args:
      columns: the table.
      time: position of the column of times.
      taken: by what they were taken as, such as "channels": names or positions.

    Returns:
      such as "time 'time' (seconds), channels 'a', 'b'; left out: 'remark'"; of other
      text than UTF-8 also how it was read.
    """
    form = "seconds" if clocks.is_number(columns.first_row[time]) else "dates"
    positions = {
        kind: [columns.position(column) for column in chosen]
        for kind, chosen in taken.items()
    }
    used = {time}.union(*positions.values())
    rest = [name for i, name in enumerate(columns.columns) if i not in used]
    parts = [f"time {columns.columns[time]!r} ({form})"]
    parts += [
        f"{kind} {names([columns.columns[i] for i in chosen])}"
        for kind, chosen in positions.items()
    ]
    return ", ".join(parts) + left_out(rest) + encodings.said(columns.encoding)


def streams(recording: Recording) -> str:
    """Says which streams a recording holds, with shapes and channels."""
    parts = []
    for name, stream in recording.streams.items():
        shape = list(stream.values.shape[1:])
        channels = f" {names(stream.channel_names)}" if stream.channel_names else ""
        parts.append(f"{name!r} {stream.values.dtype} {shape}{channels}")
    return "streams " + "; ".join(parts)


def labels(
    stream: str, label: Int32[np.ndarray, "N"], label_names: Sequence[str]
) -> str:
    """Says which classes the samples of a stream have, and how often.

    Args:
      stream: its name.
      label: class of each sample of all recordings, -1 unknown.
      label_names: names of the classes, or empty.
    """
    numbers, counts = np.unique(label, return_counts=True)
    shares = [
        f"{_class(number, label_names)} {count / len(label):.1%}"
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    ]
    return f"classes of {stream!r}, by share of its samples: {_listed(shares)}"


def lines(taken: Iterable[Mapping[str, str]]) -> list[str]:
    """Returns a line for each kind of file: the first of it, and how many are alike.

    Args:
      taken: of each recording, what each of its files was taken as.
    """
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for by_file in taken:
        for file, what in by_file.items():
            alike[what].append(file)
    return [f"{_first(files)}: {what}" for what, files in alike.items()]


def left_out(rest: Sequence[str]) -> str:
    """Returns the end of a line about a file of which not everything was taken."""
    return f"; left out: {names(rest)}" if rest else ""


def names(called: Sequence[str]) -> str:
    """Returns names in quotes, of very many only the first."""
    return _listed([repr(name) if name else "one without a name" for name in called])


def _listed(items: Sequence[str]) -> str:
    shown, more = items[:_MOST_NAMES], len(items) - _MOST_NAMES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _first(files: Sequence[str]) -> str:
    return files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _class(number: int, label_names: Sequence[str]) -> str:
    if number == UNLABELLED:
        return "unknown"
    return repr(label_names[number]) if label_names else f"class {number}"
