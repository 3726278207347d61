"""Names, numbers and lengths of time as a table and a comment show them."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 4  # names in a sentence


def plain(text: object) -> str:
    """Returns a text in one line of printable characters.

    Names come from files of whoever made them: in a comment of a config, or on a
    screen, they must stay names.
    """
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def listed(names: Sequence[str]) -> str:
    """Returns the first few names."""
    shown, more = ", ".join(map(plain, names[:_NAMED])), len(names) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def counted(number: int, what: str, plural: str = "") -> str:
    """Returns a number of things: "1 clip", "3 clips"."""
    return f"{number} {what if number == 1 else plural or what + 's'}"


def seconds(length_s: float) -> str:
    """Returns a length of time in words: "2.5 s", "12 min"."""
    if length_s < 120:
        return f"{rounded(length_s)} s"
    return f"{rounded(length_s / 60)} min"


def rounded(value: float, digits: int = 3) -> str:
    """Returns a number with so many digits, and without an exponent."""
    return f"{float(f'{value:.{digits}g}'):.12g}"
