"""Reads damaged files, thousands of each kind, and reports what was not refused well.

    python scripts/fuzz.py --seconds 60              # all kinds, so long together
    python scripts/fuzz.py --kinds npz --seconds 3600 --keep found/

A small valid file of each kind is changed at random: bits flipped, parts removed,
copied or inserted, lines exchanged, numbers replaced by awkward ones. It must be read,
or refused by a ValueError or OSError of one line. Anything else is a failure: another
exception, more than ten seconds, more than a gigabyte, the end of the process. With
--keep the files that failed are kept. The exit status is 1 if any did.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import logging
import multiprocessing
import pathlib
import random
import re
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import av
import h5py
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import scipy.io
import tiny_alarm
from PIL import Image

from fmalign_jax.alarm import alarm_file
from fmalign_jax.alarm.live import Monitor
from fmalign_jax.cli import print_table
from fmalign_jax.config import default_config
from fmalign_jax.config.saved import to_json
from fmalign_jax.data.fmf import (
    BenchmarkDirectory,
    BenchmarkV1,
    write_recording,
    write_split,
)
from fmalign_jax.data.recordings import RecordingFiles
from fmalign_jax.run import packed
from fmalign_jax.run.packed import PackedRun

MOST_S = 10
MOST_BYTES = 1 << 30
READ, REFUSED = "read", "refused"

_AWKWARD = (
    *(b"nan", b"inf", b"-1", b"0", b"1e300", b"-1e29", b"99999999999", b"1,5", b""),
    *(b"1e", b"0x1F", b"=1+1", b"\x00", b"\xff\xfe", "\u0661\u00b2".encode(), b'"'),
)
_NUMBER = re.compile(rb"\d+(\.\d+)?")
_SECONDS = 40


def _write_rows(path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(9000, 500, (2 * _SECONDS, 3))
    rows = [f"{i / 2},{a:.1f},{b:.1f},{c:.1f}" for i, (a, b, c) in enumerate(values)]
    path.write_text("\n".join(["time,a,b,c", *rows]) + "\n")


def _frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (_SECONDS, 32, 32, 3), np.uint8)


def make_npz(folder: pathlib.Path) -> None:
    """Writes a recording as .npz."""
    np.savez(
        folder / "a.npz",
        frames=_frames()[:, :8, :8],
        frame_t=np.arange(_SECONDS) + 0.5,
        frame_label=np.arange(_SECONDS, dtype=np.int16) % 2,
        label_names=np.array(["normal", "abnormal"]),
        sensor=np.zeros((2 * _SECONDS, 3), np.float32),
        sensor_t=np.arange(2 * _SECONDS) / 2,
        channel_names=np.array(["a", "b", "c"]),
        meta=np.array(json.dumps({"source": "fuzz"})),
    )


def read_npz(folder: pathlib.Path) -> None:
    """Reads it."""
    RecordingFiles(str(folder / "*.npz")).read("a")


def make_table(folder: pathlib.Path) -> None:
    """Writes a video with a table of a sensor and one of labels beside it."""
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 32
        for frame in _frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    _write_rows(folder / "a.csv")
    labels = "time,label\n0,normal\n10,abnormal\n25,normal\n"
    (folder / "a.labels.csv").write_text(labels)


def read_table(folder: pathlib.Path) -> None:
    """Reads all three as one recording."""
    RecordingFiles(str(folder / "*.mp4")).read("a")


def make_images(folder: pathlib.Path) -> None:
    """Writes a folder of images in all formats, their times, and a table."""
    images = folder / "a"
    images.mkdir()
    rows = ["file,time"]
    for second, frame in enumerate(_frames()[:8]):
        suffix = ("png", "jpg", "bmp", "tif")[second % 4]
        Image.fromarray(frame).save(images / f"{second}.{suffix}")
        rows.append(f"{second}.{suffix},{5 * second}")
    (folder / "a.frames.csv").write_text("\n".join([*rows, ""]))
    _write_rows(folder / "a.csv")


def read_images(folder: pathlib.Path) -> None:
    """Reads all as one recording."""
    RecordingFiles(folder / "a", frame_size=8).read("a")


def make_parquet(folder: pathlib.Path) -> None:
    """Writes images with a table as Parquet beside them."""
    make_images(folder)
    written = pyarrow.csv.read_csv(folder / "a.csv")
    pyarrow.parquet.write_table(written, folder / "a.parquet")
    (folder / "a.csv").unlink()


def make_gbk(folder: pathlib.Path) -> None:
    """Writes images with a table in GBK beside them."""
    make_images(folder)
    text = (folder / "a.csv").read_text().replace("time,a", "\u65f6\u95f4,A\u76f8")
    (folder / "a.csv").write_bytes(text.encode("gbk"))


def make_fmf(folder: pathlib.Path) -> None:
    """Writes a recording in layout V2."""
    second = np.datetime64("2018-03-10T02:00:00", "s") + np.arange(_SECONDS)
    masks = np.zeros((_SECONDS, 32, 32), np.uint8)
    name = "SaveToAvi-3-10-02_00_00-1234"
    write_recording(
        folder,
        name,
        frames=_frames(),
        masks=masks,
        frame_second=second,
        current=np.full((2 * _SECONDS, 3), 9000.0),
        current_second=np.repeat(second, 2),
    )
    index = np.arange(_SECONDS)
    write_split(folder, {"train": {name: index[:20]}, "test": {name: index[25:]}})


def read_fmf(folder: pathlib.Path) -> None:
    """Reads it."""
    source = BenchmarkDirectory(str(folder))
    for name in source.names():
        source.read(name)


def make_fmf_v1(folder: pathlib.Path) -> None:
    """Writes a recording in layout V1, in both kinds of .mat."""
    half = np.arange(_SECONDS) >= _SECONDS // 2
    arrays = {
        "video": _frames()[:, :8, :8].transpose(1, 2, 3, 0),
        "current": np.repeat(np.arange(_SECONDS / 4)[:, None], 4, axis=0) + np.ones(3),
        "label": half.astype(float),
        "train_test_index": 1 + half.astype(int),
    }
    scipy.io.savemat(folder / "a.mat", arrays, do_compression=True)
    with h5py.File(folder / "b.mat", "w") as file:
        for key, value in arrays.items():
            file[key] = value.T


def read_fmf_v1(folder: pathlib.Path) -> None:
    """Reads both; either may be damaged."""
    source = BenchmarkV1(folder)
    for name in source.names():
        source.read(name)


def make_alarm(folder: pathlib.Path) -> None:
    """Writes an alarm that was not trained, with all that one may have."""
    known = {"value_range": ((7000.0, 11000.0),) * 3}
    known["origin"] = {"run": "fuzz", "step": 1, "validation": {}}
    own = dataclasses.replace(tiny_alarm.SETTINGS, **known)
    tiny_alarm.write_alarm(folder / "a.fmalign", own)


def read_alarm(folder: pathlib.Path) -> None:
    """Loads it and scores a window."""
    alarm = alarm_file.load(folder / "a.fmalign")
    alarm(np.zeros((1, *alarm.settings.window_shape), np.float32))


def make_packed(folder: pathlib.Path) -> None:
    """Writes a run as one file."""
    PackedRun(
        name="fuzz",
        step=1,
        chosen="best",
        windows_crc32=0,
        version="0.1.0",
        settings=to_json(default_config()),
        arrays={"params/kernel": np.arange(60, dtype=np.float32).reshape(3, 20)},
        card="# fuzz\n",
    ).save(folder / "a.fmrun")


def read_packed(folder: pathlib.Path) -> None:
    """Reads it; what is read must be what was written."""
    found = packed.load(folder / "a.fmrun").arrays["params/kernel"]
    if found.tolist() != np.arange(60.0).reshape(3, 20).tolist():
        raise AssertionError("other values were read than were written")


def make_lines(folder: pathlib.Path) -> None:
    """Writes an alarm and lines for it."""
    make_alarm(folder)
    _write_rows(folder / "a.csv")


_loaded: list[alarm_file.ExportedAlarm] = []


def read_lines(folder: pathlib.Path) -> None:
    """Gives the lines to a monitor."""
    if not _loaded:
        _loaded.append(alarm_file.load(folder / "a.fmalign"))
    monitor = Monitor(_loaded[0], live=False)
    text = (folder / "a.csv").read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        monitor.feed(line)
    monitor.flush()


Step = Callable[[pathlib.Path], None]
KINDS: dict[str, tuple[Step, Step, Sequence[str]]] = {
    "npz": (make_npz, read_npz, ("*.npz",)),
    "table": (make_table, read_table, ("a.csv", "a.labels.csv")),
    "video": (make_table, read_table, ("*.mp4",)),
    "images": (make_images, read_images, ("a/*", "a.frames.csv")),
    "parquet": (make_parquet, read_images, ("a.parquet",)),
    "gbk": (make_gbk, read_images, ("a.csv",)),
    "fmf": (
        make_fmf,
        read_fmf,
        ("**/currents/*", "**/timestamps/*", "**/*.json"),
    ),
    "fmf_v1": (make_fmf_v1, read_fmf_v1, ("*.mat",)),
    "alarm": (make_alarm, read_alarm, ("*.fmalign",)),
    "packed": (make_packed, read_packed, ("*.fmrun",)),
    "lines": (make_lines, read_lines, ("a.csv",)),
}
"""By name: what writes a valid folder, what reads it, and which files are changed."""


def changed(data: bytes, rng: random.Random) -> bytes:
    """Returns a file with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 2, 8, 64, 512))
        way = rng.randrange(7)
        if way == 0 and data:
            at = min(at, len(data) - 1)
            data = (
                data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            )
        elif way == 1:
            data = data[:at] + data[at + length :]
        elif way == 2:
            data = data[:at] + data[at : at + length] + data[at:]
        elif way == 3:
            data = data[:at] + rng.choice(_AWKWARD) + data[at:]
        elif way == 4:
            data = data[:at]
        elif way == 5:
            numbers = list(_NUMBER.finditer(data))
            if numbers:
                found = rng.choice(numbers)
                awkward = rng.choice(_AWKWARD)
                data = data[: found.start()] + awkward + data[found.end() :]
        else:
            lines = data.split(b"\n")
            one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[one], lines[other] = lines[other], lines[one]
            data = b"\n".join(lines)
    return data


class Late(BaseException):
    """Raised in a reader that takes too long; none takes it for an error of its own."""


def outcome(read: Step, folder: pathlib.Path) -> str:
    """Returns what became of one reading."""

    def late(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_S)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read(folder)
        found = READ
    except Late:
        found = f"took more than {MOST_S} s"
    except (ValueError, OSError) as error:
        one_line = "\n" not in str(error) and str(error)
        found = REFUSED if one_line else f"several lines or none: {error!r:.100}"
    except BaseException as error:
        found = f"{type(error).__name__}: {error!s:.100}"
    finally:
        signal.alarm(0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown * 1024 > MOST_BYTES:
        return f"took {grown >> 10} MB"
    return found


def work(
    kind: str,
    seed: int,
    seconds: float,
    place: str,
    keep: pathlib.Path | None,
    pipe: Connection,
) -> None:
    """Changes and reads files of one kind, and sends what became of each."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    make, read, patterns = KINDS[kind]
    folder, rng = pathlib.Path(place), random.Random(seed)
    make(folder)
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    whole = {file: file.read_bytes() for file in files}
    read(folder)  # the valid one is read
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        file = rng.choice(files)
        file.write_bytes(changed(whole[file], rng))
        found = outcome(read, folder)
        pipe.send(found)
        if keep is not None and found not in (READ, REFUSED):
            shutil.copytree(folder, keep / f"{kind}-{seed}-{time.monotonic_ns()}")
        file.write_bytes(whole[file])


def try_kind(
    kind: str, seed: int, seconds: float, keep: pathlib.Path | None
) -> collections.Counter[str]:
    """Runs a kind in a process of its own, again after each one that ends."""
    found: collections.Counter[str] = collections.Counter()
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        with tempfile.TemporaryDirectory() as place:
            mine, theirs = multiprocessing.Pipe(duplex=False)
            worker = multiprocessing.get_context("spawn").Process(
                target=work, args=(kind, seed, left_s, place, keep, theirs)
            )
            worker.start()
            theirs.close()
            try:
                while True:
                    found[mine.recv()] += 1
            except EOFError:
                worker.join()
            if worker.exitcode:
                found[f"the process ended with {worker.exitcode}"] += 1
                if keep is not None:  # the file that ended it lies there changed
                    shutil.copytree(place, keep / f"{kind}-{seed}-ended")
            seed += 1000
    return found


def main() -> int:
    """Tries the kinds of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path)
    arguments = parser.parse_args()
    rows, failed = [["kind", "inputs", READ, REFUSED, "failures"]], 0
    for kind in arguments.kinds:
        share_s = arguments.seconds / len(arguments.kinds)
        found = try_kind(kind, arguments.seed, share_s, arguments.keep)
        wrong = {k: n for k, n in found.items() if k not in (READ, REFUSED)}
        failed += sum(wrong.values())
        said = "; ".join(f"{n} x {k}" for k, n in wrong.items()) or "none"
        counts = (found.total(), found[READ], found[REFUSED])
        rows.append([kind, *map(str, counts), said])
    print_table(rows)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
