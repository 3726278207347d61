"""The encoding of a text file: by its mark, else UTF-8, else GB18030."""

from __future__ import annotations

import codecs
import pathlib

UTF8, UTF16, GB18030 = "utf-8-sig", "utf-16", "gb18030"

_TESTED = ("utf-8", GB18030)
_FIRST_OF_THREE_BYTES = "\u0800"


def encoding_of(path: pathlib.Path) -> str:
    """Returns the encoding of a table, as `open` takes it.

    A file that begins with the mark of UTF-16 is that. Any other is UTF-8 if all its
    bytes are, and else GB18030, of which GBK and GB2312 are parts.

    Raises:
      ValueError: some bytes are of none of them; the message says in which line.
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if begins_utf16(file.read(2)):
            _check_utf16(path)
            return UTF16
        file.seek(0)
        wrong: dict[str, int] = {}
        is_utf8 = False
        # No character of more than a byte holds that of a new line, in either.
        for number, line in enumerate(file, 1):
            if line.isascii():
                continue
            for name in _TESTED:
                if name not in wrong and not _decodes(line, name):
                    wrong[name] = number
            # Hardly any other text reads as UTF-8 of three bytes a character.
            is_utf8 |= "utf-8" not in wrong and max(line.decode()) >= (
                _FIRST_OF_THREE_BYTES
            )
    if "utf-8" not in wrong:
        return UTF8
    if GB18030 not in wrong and not is_utf8:
        return GB18030
    raise _wrong(path, wrong["utf-8"] if is_utf8 else max(wrong.values()))


def begins_utf16(data: bytes) -> bool:
    """Says whether a file that begins so is in UTF-16."""
    return data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def text_of(line: bytes) -> tuple[str, str]:
    """Returns a line of a live input as text, and its encoding.

    The rule is that of a file, line by line, since what will come is not known: UTF-8
    if the line is, else GB18030. Bytes of neither become the replacement character of
    UTF-8, which is part of no number.
    """
    for name in (UTF8, GB18030):
        try:
            return line.decode(name), name
        except UnicodeDecodeError:
            continue
    return line.decode(UTF8, errors="replace"), UTF8


def said(encoding: str) -> str:
    """Returns what is said of a file's encoding; nothing of UTF-8."""
    names = {UTF16: "UTF-16", GB18030: "GB18030 (GBK)"}
    return f"; read as {names[encoding]}" if encoding in names else ""


def _decodes(line: bytes, name: str) -> bool:
    try:
        line.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def _check_utf16(path: pathlib.Path) -> None:
    data = path.read_bytes()
    try:
        data.decode(UTF16)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(UTF16, errors="ignore")
        raise _wrong(path, before.count("\n") + 1) from None


def _wrong(path: pathlib.Path, line: int) -> ValueError:
    return ValueError(
        f"{path}: must be a CSV file in UTF-8, GB18030 (GBK), or UTF-16 with its mark; "
        f"got bytes of none of them in line {line}; save the table as UTF-8"
    )
