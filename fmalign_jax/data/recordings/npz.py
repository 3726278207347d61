"""The neutral form of a recording: one .npz file of plain arrays.

    frames   uint8 [N, H, W, 3] (or 1), or precomputed feature maps float [N, h, w, C]
    frame_t  float [N], seconds
    sensor   float [M, C]; sensor_t float [M]; channel_names [C]
    meta     where it came from, one string

Optional: `frame_label`, `sensor_label` int, -1 unknown; `label_names`; `frame_clip`,
`sensor_clip` int and `clip_names` in a file of several clips; `frame_unit`,
`sensor_unit`; `partition`, a JSON string as Recording.partition. Either of frames and
sensor may be left out. More streams: `streams` [names], and for each name n the
arrays `n` and `n_t`, optionally `n_label`, `n_clip`, `n_unit`, `n_channel_names`. Any
other key is ignored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import lzma
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Shaped

from fmalign_jax.data import archives, taken
from fmalign_jax.data.files import replacing
from fmalign_jax.data.validation import check_recording
from fmalign_jax.structs import UNLABELLED, Recording, Stream

_MOST = 2**31 - 1
_MOST_RATIO = 250  # of what an array unpacks to; deflate reaches 1000
_NEARLY = 0.85  # likeness of two keys, by difflib
_FEW_BYTES = 256 << 20  # so much may be of any ratio
SENSOR = "current"
"""What the stream of the key `sensor` is called, if nobody calls it otherwise."""

_KEYS = {"video": ("frames", "frame"), SENSOR: ("sensor", "sensor")}


def read_npz(
    path: pathlib.Path,
    *,
    label_names: tuple[str, ...] = (),
    sensor_name: str = SENSOR,
) -> Recording:
    """Reads and checks one recording; its name is the stem of the file.

    Args:
      path: the file.
      label_names: the classes, by default those that the file names.
      sensor_name: what to call the stream of the key `sensor`.

    Raises:
      ValueError: the file is damaged, lacks a key, or a key holds pickled objects or
        does not fit the others.
    """
    with _opened(path) as arrays:
        names = [name for name, (key, _) in _KEYS.items() if key in arrays]
        names += _strings(arrays, "streams")
        if not names:
            raise ValueError(
                f"{path}: must hold 'frames', 'sensor' or both; got {sorted(arrays)}; "
                "rename the arrays"
            )
        _check_spelling(arrays, names, path)
        called = {n: sensor_name if n == SENSOR else n for n in names}
        if len(set(called.values())) < len(names):
            raise ValueError(
                f"{path}: streams must have different names; got {sensor_name!r} in "
                "the key streams and as the option sensor_name; choose another"
            )
        recording = Recording(
            name=path.stem,
            streams={called[n]: _stream(arrays, n, path) for n in names},
            label_names=label_names or tuple(_strings(arrays, "label_names")),
            clip_names=tuple(_strings(arrays, "clip_names")),
            partition=_partition(arrays, path),
            provenance="".join(_strings(arrays, "meta")),
            file=str(path),
        )
        recording = dataclasses.replace(
            recording, taken={str(path): _taken(arrays, names, recording)}
        )
    sources = {called[n]: f"{path}, key {_keys(n)[0]!r}" for n in names}
    check_recording(recording, path, sources=sources)
    return recording


def read_label_names(path: pathlib.Path) -> tuple[str, ...]:
    """The classes one file names, without reading its frames; empty if none."""
    with _opened(path) as arrays:
        return tuple(_strings(arrays, "label_names"))


def write_npz(path: pathlib.Path, recording: Recording, *, packed: bool = True) -> None:
    """Writes a recording in the neutral form, whole or not at all.

    Args:
      path: the file to write; its stem should be the recording's name.
      recording: is checked first.
      packed: compress; slow and of little use for noisy floats.

    Raises:
      ValueError: the recording does not pass the checks, or the path does not end in
        .npz.
    """
    if path.suffix != ".npz":
        raise ValueError(
            f"{path}: the name must end in .npz; got {path.suffix!r}; change it"
        )
    check_recording(recording, path)
    arrays: dict[str, object] = {
        "meta": recording.provenance,
        "partition": json.dumps(recording.partition),
    }
    for key in ("label_names", "clip_names"):
        if getattr(recording, key):
            arrays[key] = np.array(getattr(recording, key))
    for name, stream in recording.streams.items():
        values, prefix = _keys(name)
        arrays[values] = stream.values
        arrays[f"{prefix}_t"] = stream.time_s
        arrays[f"{prefix}_clip"] = stream.clip
        arrays[f"{prefix}_label"] = stream.label
        arrays[f"{prefix}_unit"] = stream.unit
        if stream.channel_names:
            arrays[_channel_key(name)] = np.array(stream.channel_names)
    extra = [name for name in recording.streams if name not in _KEYS]
    if extra:
        arrays["streams"] = np.array(extra)
    save = np.savez_compressed if packed else np.savez
    with replacing(path) as temporary:
        save(temporary, **arrays)  # type: ignore[arg-type]


# RuntimeError: an entry that says it is encrypted, or packed in an unknown way.
_DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class _Arrays:
    """The arrays of a file, each read when asked for: other keys do not matter.

    No Mapping, of which a checker of types may read an item at every call.
    """

    def __init__(self, path: pathlib.Path, file: np.lib.npyio.NpzFile) -> None:
        self._path = path
        self._file = file

    def __contains__(self, key: object) -> bool:
        return key in self._file.files

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.files)

    def __getitem__(self, key: str) -> np.ndarray:
        try:
            return self._file[key]
        except (ValueError, tokenize.TokenError) as error:
            # NumPy's own words say how to run what the file brings.
            found = str(error)
            if "pickle" in found:
                found = "Python objects, which could run code"
            raise ValueError(
                f"{self._path}, key {key!r}: must be plain numbers or strings; got "
                f"{found}; convert it and save it again"
            ) from None


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[_Arrays]:
    if not path.is_file() or not zipfile.is_zipfile(path):
        found = "another kind, or one cut short" if path.is_file() else "no such file"
        raise ValueError(
            f"{path}: must be a whole .npz file; got {found}; copy or save it again"
        )
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            yield _Arrays(path, file)
    except _DAMAGED as error:
        raise ValueError(
            f"{path}: must be a whole .npz file; got a damaged one ({error}); copy or "
            "save it again"
        ) from None


def _check_sizes(path: pathlib.Path) -> None:
    """Refuses what would fill the memory, before anything of it is read.

    An array's header says how much to allocate, and a few kilobytes unpack to
    gigabytes: zeros shrink to a thousandth, but recordings never do.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            packed = max(entry.compress_size, 1)
            if entry.file_size > max(_FEW_BYTES, _MOST_RATIO * packed):
                raise ValueError(
                    f"{path}, key {entry.filename.removesuffix('.npy')!r}: may unpack "
                    f"to {_MOST_RATIO} times its size; got {entry.file_size} bytes in "
                    f"{packed}; save it again without compression if it is right"
                )
            with archive.open(entry) as member:
                needed = archives.declared_bytes(member)
            if needed is not None and needed > entry.file_size:
                raise ValueError(
                    f"{path}, key {entry.filename.removesuffix('.npy')!r}: must hold "
                    f"what its header says, {needed} bytes; got {entry.file_size}; "
                    "save it again"
                )


def _taken(arrays: _Arrays, names: list[str], recording: Recording) -> str:
    """Says which streams and labels a file holds, and which arrays are neither."""
    keys = [f"{_keys(name)[1]}_label" for name in names]
    labels = [key for key in keys if key in arrays]
    rest = sorted(set(arrays) - _known(names))
    said = taken.streams(recording)
    if labels:
        said += f"; labels {taken.names(labels)}"
    return said + taken.left_out(rest)


def _known(names: Iterable[str]) -> set[str]:
    """Returns the keys that a recording of these streams may have."""
    known = {"streams", "label_names", "clip_names", "meta", "partition"}
    for name in names:
        values, prefix = _keys(name)
        known |= {values, _channel_key(name)}
        known |= {f"{prefix}_{part}" for part in ("t", "clip", "label", "unit")}
    return known


def _check_spelling(arrays: _Arrays, names: list[str], path: pathlib.Path) -> None:
    """Refuses a key that is nearly a known one: as another key it would be ignored."""
    known = _known(names)
    for key in arrays:
        near = difflib.get_close_matches(key, known - set(arrays), 1, _NEARLY)
        if key not in known and near:
            raise ValueError(
                f"{path}, key {key!r}: is not a key of a recording; got it without "
                f"{near[0]!r}, which it may be meant for; rename it, or call it "
                "something else entirely"
            )


def _keys(name: str) -> tuple[str, str]:
    return _KEYS.get(name, (name, name))


def _channel_key(name: str) -> str:
    return "channel_names" if name == SENSOR else f"{_keys(name)[1]}_channel_names"


def _strings(arrays: _Arrays, key: str) -> list[str]:
    texts = np.atleast_1d(arrays[key]).tolist() if key in arrays else []
    return [
        t.decode(errors="replace") if isinstance(t, bytes) else str(t) for t in texts
    ]


def _stream(arrays: _Arrays, name: str, path: pathlib.Path) -> Stream:
    key, prefix = _keys(name)
    for needed in (key, f"{prefix}_t"):
        if needed not in arrays:
            raise ValueError(
                f"{path}: stream {name!r} needs the arrays {key!r} and '{prefix}_t'; "
                f"got {sorted(arrays)}; add {needed!r}"
            )
    values = _values(arrays[key], name, f"{path}, key {key!r}")
    count = len(values)
    columns = {
        "t": _column(arrays, f"{prefix}_t", path),
        "clip": _column(arrays, f"{prefix}_clip", path, missing=[0] * count),
        "label": _column(arrays, f"{prefix}_label", path, missing=[UNLABELLED] * count),
    }
    for part, column in columns.items():
        if len(column) != count:
            raise ValueError(
                f"{path}, key '{prefix}_{part}': must have one entry for each of the "
                f"{count} samples in {key!r}; got {len(column)}; write one for each, "
                "unless it is that of another stream"
            )
    return Stream(
        values=values,
        time_s=columns["t"],
        clip=columns["clip"],
        label=columns["label"],
        unit="".join(_strings(arrays, f"{prefix}_unit")),
        channel_names=tuple(_strings(arrays, _channel_key(name))),
    )


def _values(
    values: Shaped[np.ndarray, "..."], name: str, source: str
) -> Shaped[np.ndarray, "..."]:
    """Values in one of the dtypes a stream may have."""
    _refuse_text(values, source)
    axes = {"video": 4, SENSOR: 2}.get(name, max(values.ndim, 1))
    numbers = values.dtype.kind in ("f" if name == "video" else "fiub")
    if values.ndim != axes or not (numbers or values.dtype == np.uint8):
        raise ValueError(
            f"{source}: must be frames uint8 [N, H, W, 3] or feature maps float "
            f"[N, h, w, C], sensors [N, C], tokens int [N]; got {values.dtype} "
            f"{values.shape}; reshape or convert it"
        )
    if values.dtype == np.uint8 and name != SENSOR:
        return values
    tokens = values.dtype.kind in "iub" and name != SENSOR
    if tokens and values.size:
        extreme = max(int(values.max()), -int(values.min()), key=abs)
        if abs(extreme) > _MOST:
            raise ValueError(
                f"{source}: whole numbers must fit into 32 bits; got one of "
                f"{extreme}; number from 0 on, or save them as floats"
            )
    with np.errstate(over="ignore"):  # what becomes infinite is refused by its place
        return values.astype(np.int32 if tokens else np.float32, copy=False)


def _refuse_text(values: Shaped[np.ndarray, "..."], source: str) -> None:
    if values.dtype.kind in "US" and values.size:
        first = values.flat[0].item()
        raise ValueError(
            f"{source}: must hold numbers; got text, such as {first!r}; convert it to "
            "numbers and save it again"
        )


def _column(
    arrays: _Arrays, key: str, path: pathlib.Path, *, missing: list[int] | None = None
) -> Shaped[np.ndarray, "N"]:
    """One entry a sample: times, or (where `missing` fills in) whole numbers."""
    column = arrays[key] if missing is None or key in arrays else np.array(missing, int)
    _refuse_text(column, f"{path}, key {key!r}")
    kinds = "fiu" if missing is None else "iu"
    if column.ndim != 1 or column.dtype.kind not in kinds:
        raise ValueError(
            f"{path}, key {key!r}: must hold one {'' if missing is None else 'whole '}"
            f"number a sample; got {column.dtype} {column.shape}; convert it"
        )
    if missing is None:
        return column.astype(np.float64)
    large = np.flatnonzero((column > _MOST) | (column < -_MOST))
    if large.size:
        raise ValueError(
            f"{path}, key {key!r}: numbers must fit into 32 bits; got "
            f"{column[large[0]]} at index {large[0]}; number from 0 on"
        )
    return column.astype(np.int32)


def _partition(
    arrays: _Arrays, path: pathlib.Path
) -> dict[str, tuple[tuple[float, float], ...]]:
    text = "".join(_strings(arrays, "partition")) or "{}"
    try:
        return {
            part: tuple((float(start), float(stop)) for start, stop in spans)
            for part, spans in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"{path}, key 'partition': must be JSON such as "
            f'{{"train": [[0.0, 400.0]]}}, spans in seconds; got {text[:80]!r}; '
            "correct it or leave it out"
        ) from None
