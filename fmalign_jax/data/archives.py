"""ZIP archives of a few entries that somebody may have sent: read up to a limit."""

from __future__ import annotations

import io
import lzma
import math
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from fmalign_jax.data.files import replacing

DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,  # encrypted or packed in an unknown way, or JSON without an end
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    KeyError,
    ValueError,
)
"""What a foreign or damaged archive makes its readers raise."""

_MOST_RATIO = 100  # of what an entry unpacks to; programs and weights hardly shrink
_FEW_BYTES = 4 << 20  # so much may be of any ratio
_DATE = (1980, 1, 1, 0, 0, 0)  # the same entries give the same bytes


def write(
    path: pathlib.Path, entries: Mapping[str, bytes], *, packed: bool = True
) -> None:
    """Writes an archive whole or not at all, the same for the same entries.

    Args:
      path: the file.
      entries: content by name.
      packed: compress; of little use for noisy floats.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name, _DATE)
            if packed:
                entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def read(archive: zipfile.ZipFile, name: str, *, most_bytes: int) -> bytes:
    """Reads an entry up to its limits, whatever it says of itself.

    Raises:
      ValueError: it unpacks to more than `most_bytes`, or to more than 100 times its
        size; or one of `DAMAGED`.
    """
    entry = archive.getinfo(name)
    shrunk = _MOST_RATIO * max(entry.compress_size, 1)
    most = min(most_bytes, max(_FEW_BYTES, shrunk))
    with archive.open(entry) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{name} unpacks to more than {most} bytes")
    return content


def array_bytes(array: Shaped[ndarray, "..."]) -> bytes:
    """Returns an array as a .npy file.

    Raises:
      ValueError: it holds Python objects.
    """
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def read_array(content: bytes) -> Shaped[ndarray, "..."]:
    """Returns the array of a .npy file; nothing is allocated that it does not hold.

    Raises:
      ValueError: it is no such file, holds Python objects, or not what it says.
    """
    file = io.BytesIO(content)
    needed = declared_bytes(file)
    if needed is None or needed != len(content) - file.tell():
        raise ValueError(
            f"an array of {len(content)} bytes says it has {needed} behind its header"
        )
    file.seek(0)
    array: ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def declared_bytes(file: Any) -> int | None:
    """Returns how much a .npy file says it holds; None if that is not to be read.

    Args:
      file: of bytes, open at its beginning; afterwards behind the header.
    """
    try:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = header(file)
    except (ValueError, KeyError, tokenize.TokenError):
        return None  # NumPy says what is wrong when it is read
    return 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize
