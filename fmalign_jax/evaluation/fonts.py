"""Names in pictures: in a font that has their characters, or as numbers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping

import matplotlib
from matplotlib import font_manager, ft2font

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def readable(names: Iterable[str]) -> Iterator[Mapping[str, str]]:
    """Draws names, such as Chinese ones, in a font of this machine that has them.

    Yields:
      By name, what to draw: the name itself, or where no font has its characters a
      number, whose meaning is logged. Valid for figures made and saved within.
    """
    names = list(dict.fromkeys(names))
    families = list(matplotlib.rcParams["font.family"])
    usual = _characters(
        font_manager.findfont(font_manager.FontProperties(family=families))
    )
    lacking = {c for name in names for c in name if not c.isspace()} - usual
    found = _family_with(lacking) if lacking else None
    shown = {name: name for name in names}
    if lacking and not found:
        hidden = [name for name in names if lacking & set(name)]
        shown |= {name: f"({number})" for number, name in enumerate(hidden)}
        _log.warning(
            "no font of this machine has the characters of %s: the pictures say %s; "
            "install one that has them, such as Noto Sans CJK",
            ", ".join(hidden),
            ", ".join(shown[name] for name in hidden),
        )
    if found:
        families.append(found)
    with matplotlib.rc_context({"font.family": families}):
        yield shown


def _family_with(characters: set[str]) -> str | None:
    """Returns a family of this machine that has all of some characters."""
    for path in sorted(font_manager.findSystemFonts()):
        try:
            if characters <= _characters(path):
                font_manager.fontManager.addfont(path)
                return font_manager.get_font(path).family_name
        except (OSError, RuntimeError, ValueError):  # not a font that can be read
            continue
    return None


def _characters(path: str) -> set[str]:
    return set(map(chr, ft2font.FT2Font(path).get_charmap()))
