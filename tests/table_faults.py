"""Tables with faults of every kind, and what is expected of each reader."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from fmalign_jax.data import fmf
from fmalign_jax.data.recordings import RecordingFiles

READ = "read as it was meant"
START = np.datetime64("2024-05-01T10:00:00", "s")
VIDEO_S = 30
Lines = list[list[str]]


def date(time_s: float) -> str:
    moment = START + np.timedelta64(round(time_s * 1000), "ms")
    return str(moment).replace("T", " ").removesuffix(".000")


def seconds(time_s: float) -> str:
    return f"{time_s:g}"


def _phases(row: int) -> list[str]:
    return [f"{100 + row}.5", f"{200 + row}.25", f"{300 + row}.75"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of table: where it lies, its lines, and what is read of it."""

    file: str
    lines: Lines
    read: Callable[[pathlib.Path], list[np.ndarray]]


def read_pair(folder: pathlib.Path, start: str | None) -> list[np.ndarray]:
    files = RecordingFiles(str(folder / "*.mp4"), frame_size=8, video_start=start)
    streams = files.read("run").streams
    return [streams["current"].time_s, streams["current"].values] + [
        stream.label for stream in streams.values()
    ]


def _read_benchmark(folder: pathlib.Path) -> list[np.ndarray]:
    streams = fmf.BenchmarkDirectory(str(folder)).read("run").streams
    return [streams[s].time_s for s in streams] + [streams["current"].values]


def sensor(when: Callable[[float], str]) -> Lines:
    rows = [[when(i / 2), *_phases(i)] for i in range(2 * VIDEO_S)]
    return [["time", "a", "b", "c"], *rows]


def labels(when: Callable[[float], str]) -> Lines:
    classes = ("calm", "wild", "calm", "", "wild", "calm", "wild", "calm")
    rows = [[when(4.0 * i), name] for i, name in enumerate(classes) if 4 * i < VIDEO_S]
    return [["time", "label"], *rows]


def _dated(folder: pathlib.Path) -> list[np.ndarray]:
    return read_pair(folder, date(0))


def _plain(folder: pathlib.Path) -> list[np.ndarray]:
    return read_pair(folder, None)


_PIXELS = "pixel-level"
KINDS = {
    "sensor": Kind("run.csv", sensor(seconds), _plain),
    "dated sensor": Kind("run.csv", sensor(date), _dated),
    "labels": Kind("run.labels.csv", labels(seconds), _plain),
    "dated labels": Kind("run.labels.csv", labels(date), _dated),
    "currents": Kind(
        f"{_PIXELS}/currents/run.csv",
        [
            ["time", "a", "b", "c"],
            *[[date(i // 2), *_phases(i)] for i in range(2 * VIDEO_S)],
        ],
        _read_benchmark,
    ),
    "timestamps": Kind(
        f"{_PIXELS}/timestamps/run.csv",
        [["time"], *[[date(i)] for i in range(VIDEO_S)]],
        _read_benchmark,
    ),
}
SENSORS = ("sensor", "dated sensor", "currents")
LABELS = ("labels", "dated labels")
BENCHMARK = ("currents", "timestamps")
WITH_DATES = ("dated sensor", "dated labels", *BENCHMARK)


def join(lines: Lines) -> str:
    return "".join(",".join(cells) + "\n" for cells in lines)


def _text(change: Callable[[Lines], Lines]) -> Callable[[Lines], str]:
    return lambda lines: join(change([list(cells) for cells in lines]))


def _row(change: Callable[[list[str]], list[str]], row: int = 4) -> Callable:
    """A change of one row; its line is the row + 1, for the line of names."""

    def changed(lines: Lines) -> Lines:
        lines[row] = change(lines[row])
        return lines

    return _text(changed)


def _rows(change: Callable[[list[str]], list[str]]) -> Callable:
    return _text(lambda lines: [lines[0], *map(change, lines[1:])])


def times(written: Callable[[int, str, int], str]) -> Callable:
    """A change of all times: of the row's number, its time and the number of rows."""

    def changed(lines: Lines) -> Lines:
        count = len(lines) - 1
        return [lines[0]] + [
            [written(i, cells[0], count), *cells[1:]]
            for i, cells in enumerate(lines[1:])
        ]

    return _text(changed)


def _column(name: str, *, at: int = 0, rename: str = "time") -> Callable:
    """One column more, which counts the rows."""

    def changed(lines: Lines) -> Lines:
        lines[0] = [rename if cell == "time" else cell for cell in lines[0]]
        new = [name, *map(str, range(len(lines) - 1))]
        for cells, cell in zip(lines, new, strict=True):
            cells.insert(at if at >= 0 else len(cells), cell)
        return lines

    return _text(changed)


def _in_form(written: str, cell: str) -> str:
    """A time in the form of another."""
    return written if "-" not in cell else date(float(written))


NOT_A_TIME = r"times must be .*; got '{}' in line {}; "
NOT_CLOSED = r"quotes must be closed in the line that opens them.*in line 5;"
CELLS = r"a row must have a cell for each of the \d columns; got {} in line 5"
NUMBER = r"'[ac]' must hold finite numbers .*; got '{}' in line 5"
TIME_NAME = "the time column needs a name that says so"

Expected = str | Mapping[str, str]
# By fault: the change, what is expected of all kinds, or of each; others are left out.
FAULTS: dict[str, tuple[Callable[[Lines], str | bytes], Expected]] = {
    "nothing": (join, READ),
    "a cell too many": (
        _row(lambda cells: [*cells, "9"]),
        r"got \d in line 5: '[^']*,9'",
    ),
    "cells too few": (
        _row(lambda cells: cells[:1]),
        dict.fromkeys((*SENSORS, *LABELS), CELLS.format(1)),
    ),
    "a cell lost within": (
        _row(lambda cells: [cells[0], *cells[2:]]),
        dict.fromkeys(SENSORS, CELLS.format(3)),
    ),
    "an empty time": (
        _row(lambda cells: ["", *cells[1:]]),
        dict.fromkeys((*SENSORS, *LABELS), NOT_A_TIME.format("", 5))
        | {"timestamps": "got an empty line 5 between two rows"},
    ),
    "an empty first time": (
        _row(lambda cells: ["", *cells[1:]], 1),
        dict.fromkeys((*SENSORS, *LABELS), NOT_A_TIME.format("", 2))
        | {"timestamps": "got an empty line 2 between two rows"},
    ),
    "an empty channel": (
        _row(lambda cells: [*cells[:-1], ""]),
        dict.fromkeys(SENSORS, NUMBER.format("")),
    ),
    "a quote that opens": (
        _row(lambda cells: [*cells[:-1], f'"{cells[-1]}']),
        NOT_CLOSED,
    ),
    "a quote before the time": (
        _row(lambda cells: [f'"{cells[0]}', *cells[1:]]),
        NOT_CLOSED,
    ),
    "a quote that closes": (
        _row(lambda cells: [*cells[:-1], f'{cells[-1]}x"']),
        dict.fromkeys(LABELS, "a label may not hold quotes; got 'x\"' in line 5")
        | dict.fromkeys(SENSORS, NUMBER.format('[0-9.]*x"'))
        | {"timestamps": NOT_A_TIME.format('.*x"', 5)},
    ),
    "quotes rows apart": (
        _text(
            lambda lines: [
                [
                    *cells[:-1],
                    {4: f'"{cells[-1]}', 6: f'{cells[-1]}"'}.get(i, cells[-1]),
                ]
                for i, cells in enumerate(lines)
            ]
        ),
        NOT_CLOSED,
    ),
    "text behind quotes": (
        _row(lambda cells: [*cells[:-1], f'"{cells[-1]}"x']),
        NOT_CLOSED,
    ),
    "a line break in a cell": (
        _row(lambda cells: [*cells[:-1], f'"{cells[-1]}\n"']),
        NOT_CLOSED,
    ),
    "a line break in a name": (
        _row(lambda cells: [*cells[:-1], f'"{cells[-1]}\n(A)"'], 0),
        "in the line that opens them.*in line 1;",
    ),
    "quotes and blanks everywhere": (
        lambda lines: "".join(
            ", ".join(f'"{cell}"' for cell in cells) + "\n" for cells in lines
        ),
        READ,
    ),
    "a decimal comma in a row": (
        _row(lambda cells: [*cells[:-1], "1,5"]),
        {"sensor": CELLS.format(5), "currents": CELLS.format(5)},
    ),
    "decimal commas": (
        _rows(lambda cells: [cell.replace(".", ",") for cell in cells]),
        dict.fromkeys(SENSORS, "each of the 4 columns; got [78] in line [23]"),
    ),
    "decimal commas without names": (
        lambda lines: join(lines[1:]).replace(".", ","),
        {
            "currents": "currents must have a time and three phases",
            "sensor": "each of the 7 columns; got 8 in line 2",
        },
    ),
    "decimal commas in quotes": (
        _rows(
            lambda cells: [cells[0], *(f'"{c.replace(".", ",")}"' for c in cells[1:])]
        ),
        dict.fromkeys(SENSORS, r"got '100,5'.* in line 2"),
    ),
    "times with decimal commas": (
        _row(lambda cells: [f"{cells[0]},5", *cells[1:]]),
        r"columns; got \d in line 5",
    ),
    "thousands": (
        _rows(lambda cells: [*cells[:-1], f'"1,{cells[-1]}"']),
        dict.fromkeys(SENSORS, r"got '1,300\.75'.* in line 2"),
    ),
    "underscores": (
        _rows(lambda cells: [*cells[:-1], f"1_{cells[-1]}"]),
        dict.fromkeys(SENSORS, r"got '1_300\.75'.* in line 2"),
    ),
    "a unit in a cell": (
        _row(lambda cells: [*cells[:-1], f"{cells[-1]} A"]),
        dict.fromkeys(SENSORS, NUMBER.format(r"303\.75 A")),
    ),
    "units in cells": (
        _rows(lambda cells: [*cells[:-1], f"{cells[-1]} A"]),
        dict.fromkeys(SENSORS, r"got '300\.75 A'.* in line 2"),
    ),
    "units behind times": (
        _rows(lambda cells: [f"{cells[0]}s", *cells[1:]]),
        dict.fromkeys((*SENSORS, *LABELS), NOT_A_TIME.format(".*s", 2)),
    ),
    "a row of units": (
        _text(
            lambda lines: [lines[0], ["s", *("A" for _ in lines[0][1:])], *lines[1:]]
        ),
        NOT_A_TIME.format("s", 2)
        + ".*remove that line if it holds no data, such as units",
    ),
    "a counter without a name": (_column(""), READ),
    "a counter of pandas": (_column("Unnamed: 0"), READ),
    "a counter with a name": (_column("index"), READ),
    "a counter at the end": (_column("No.", at=-1), READ),
    "a counter before times without a name": (
        _column("n", rename="moment"),
        dict.fromkeys((*SENSORS, "timestamps"), TIME_NAME)
        | dict.fromkeys(LABELS, "labels need two columns"),
    ),
    "a counter instead of times": (
        _text(
            lambda lines: (
                [["frame", *lines[0][1:]]]
                + [[str(i), *cells[1:]] for i, cells in enumerate(lines[1:])]
            )
        ),
        TIME_NAME,
    ),
    "a counter and no names": (
        _text(lambda lines: [[str(i), *cells] for i, cells in enumerate(lines[1:])]),
        {"dated sensor": TIME_NAME, "currents": TIME_NAME, "timestamps": TIME_NAME}
        | dict.fromkeys(LABELS, "labels need two columns"),
    ),
    "no names": (lambda lines: join(lines[1:]), READ),
    "sep=;": (lambda lines: "sep=;\n" + join(lines), "first line must hold the names"),
    "lines above the names": (
        lambda lines: "Logger X7\nFirmware 1\n\n" + join(lines),
        dict.fromkeys(SENSORS, "first line must hold the names.*in line 4")
        | dict.fromkeys(LABELS, "labels need two columns")
        | {"timestamps": r"in line [23]|an empty line 3"},
    ),
    "a wide line above the names": (
        lambda lines: "# device, type, serial, a, b, c, d\n" + join(lines),
        "every row must have a value for each of the columns",
    ),
    "names twice": (
        _text(lambda lines: [*lines[:4], lines[0], *lines[4:]]),
        NOT_A_TIME.format("time", 5),
    ),
    "a line of sums": (
        _text(lambda lines: [*lines, ["sum", *("1" for _ in lines[0][1:])]]),
        NOT_A_TIME.format("sum", r"\d+"),
    ),
    "semicolons": (
        lambda lines: join(lines).replace(",", ";"),
        dict.fromkeys((*SENSORS, *LABELS), "commas must divide the cells; got ';'"),
    ),
    "commas of full width": (
        lambda lines: join(lines).replace(",", "\uff0c"),
        dict.fromkeys((*SENSORS, *LABELS), "commas must divide the cells"),
    ),
    "dates in one number": (
        times(lambda i, _, n: f"202405011000{i * VIDEO_S // n:02d}"),
        "which is a date without them",
    ),
    "dates in one number with milliseconds": (
        times(lambda i, _, n: f"202405011000{i * VIDEO_S * 1000 // n:05d}"),
        "which is a date without them",
    ),
    "one date in one number": (
        _row(lambda cells: ["20240501100002", *cells[1:]]),
        NOT_A_TIME.format("20240501100002", 5),
    ),
    "dates of ISO's basic form": (
        times(
            lambda i, cell, n: cell.replace("-", "").replace(":", "").replace(" ", "T")
        ),
        dict.fromkeys(WITH_DATES, READ),
    ),
    "several rows in a second": (
        times(lambda i, cell, n: cell.split(".")[0]),
        READ,
    ),
    "times that were rounded to one": (
        times(lambda i, _, n: str(int(np.float32(1714557600 + i * VIDEO_S / n)))),
        dict.fromkeys(("sensor", "labels", *BENCHMARK), "got one for all"),
    ),
    "times of single precision": (
        times(lambda i, _, n: str(1714569984 + i // 6 * 128)),
        dict.fromkeys(
            ("sensor", "labels", *BENCHMARK), "samples must have times of their own"
        ),
    ),
    "milliseconds since 1970": (
        times(lambda i, _, n: str(1714557600000 + i * VIDEO_S * 1000 // n)),
        dict.fromkeys(("sensor", "labels", *BENCHMARK), NOT_A_TIME.format(r"\d+", 2)),
    ),
    "days of a spreadsheet": (
        times(lambda i, _, n: f"{45413.4 + i * VIDEO_S / n / 86400:.9f}"),
        {"sensor": "must share one clock", "labels": "labels must begin within"}
        | dict.fromkeys(BENCHMARK, "every sample needs a time of its own"),
    ),
    "a clock that stands": (
        times(lambda i, cell, n: _in_form("3", cell)),
        "every sample needs a time of its own",
    ),
    "dates without times": (
        times(lambda i, cell, n: cell[:10]),
        dict.fromkeys(WITH_DATES, "every sample needs a time of its own"),
    ),
    "times without dates": (
        times(lambda i, cell, n: f"10:00:{i * VIDEO_S // n:02d}"),
        NOT_A_TIME.format("10:00:00", 2),
    ),
    "the end of daylight saving time": (
        times(lambda i, _, n: date(i * VIDEO_S // n - 3600 * (i >= n // 2))),
        dict.fromkeys(
            WITH_DATES,
            r"time must not go back; got a step of -3\d+ s in line \d+; if daylight "
            "saving time ended there, write times with their offset",
        ),
    ),
    "times that go back": (
        _text(lambda lines: [*lines[:5], lines[2], *lines[5:]]),
        r"time must not go back; got a step of -[\d.]+ s in line 6; sort the rows",
    ),
    "a time that goes back behind blank lines": (
        lambda lines: "\n\n" + join([*lines[:5], lines[2], *lines[5:]]),
        r"time must not go back; got a step of -[\d.]+ s in line 8; sort the rows",
    ),
    "offsets in some rows": (
        times(lambda i, cell, n: cell + "+02:00" * (i > 3)),
        dict.fromkeys(WITH_DATES, "with their offset, or none; got .* in line 6 after"),
    ),
    **{
        f"a time of {cell}, {where}": (
            _row(lambda cells, cell=cell: [cell, *cells[1:]], row),
            NOT_A_TIME.format(re.escape(cell), r"\d+"),
        )
        for cell in ("1e29", "nan", "inf")
        for where, row in (("within", 4), ("last", -1))
    },
    **{
        f"a value of {cell}": (
            _row(lambda cells, cell=cell: [*cells[:-1], cell]),
            dict.fromkeys(SENSORS, NUMBER.format(re.escape(cell)))
            | dict.fromkeys(LABELS, "labels must be class numbers .* in line 5"),
        )
        for cell in ("1e29", "9.9e37", "1e39", "nan", "-inf")
    },
    "GBK": (
        lambda lines: join([*lines[:3], ["正常", *lines[3][1:]], *lines[4:]]).encode(
            "gbk"
        ),
        NOT_A_TIME.format("正常", 4),
    ),
    "GBK in the names": (
        lambda lines: ("时间" + join(lines)).encode("gbk"),
        READ,
    ),
    "GBK cut within a letter": (
        lambda lines: ("时间" + join(lines)).encode("gbk").replace(b"\n", b"\xb5\n", 1),
        "bytes of none of them in line 1;",
    ),
    "UTF-16": (
        lambda lines: join(lines).encode("utf-16"),
        READ,
    ),
    "zeros at the end": (
        lambda lines: join(lines) + "\0" * 64,
        r"in line \d+",
    ),
    "a mark of bytes, and lines of Windows": (
        lambda lines: ("\ufeff" + join(lines).replace("\n", "\r\n")).encode(),
        READ,
    ),
    "lines of an old Mac": (lambda lines: join(lines).replace("\n", "\r"), READ),
    "an empty cell at the end of each row": (
        _rows(lambda cells: [*cells, ""]),
        READ,
    ),
    "a column without a name at the end": (
        _text(lambda lines: [[*cells, ""] for cells in lines]),
        READ,
    ),
}


def cases():
    for fault, (_, expected) in FAULTS.items():
        for kind in KINDS:
            outcome = expected if isinstance(expected, str) else expected.get(kind)
            if outcome is not None:
                yield pytest.param(kind, fault, outcome, id=f"{kind}-{fault}")
