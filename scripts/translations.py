"""Which Chinese pages of the documentation are behind their English pages?

    python scripts/translations.py              lists them; status 1 if any
    python scripts/translations.py docs/lead.md says that this one is up to date

A Chinese page ends with a digest of the English page that it was translated from. After
translating a change, run the second line.
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PARTS = ("results/introduction", "results/furnaces", "results/utd_mhad")
"""Pages that scripts put into others, and that nobody reads alone."""

_MARK = re.compile(r"\n*<!-- translated from (\w+) -->\s*\Z")


def pages() -> list[pathlib.Path]:
    """Returns the English pages."""
    return [
        page
        for page in sorted(DOCS.rglob("*.md"))
        if not page.name.endswith(".zh.md")
        and str(page.relative_to(DOCS).with_suffix("")) not in PARTS
        and page.name != "introduction.md"
    ]


def chinese(page: pathlib.Path) -> pathlib.Path:
    """Returns where the Chinese of an English page lies."""
    return page.with_suffix(".zh.md")


def digest(page: pathlib.Path) -> str:
    """Returns what tells two versions of an English page apart."""
    return hashlib.sha256(page.read_bytes()).hexdigest()[:12]


def is_behind(page: pathlib.Path) -> bool:
    """Says whether the English changed after its Chinese, or has none."""
    other = chinese(page)
    if not other.is_file():
        return True
    mark = _MARK.search(other.read_text(encoding="utf-8"))
    return mark is None or mark[1] != digest(page)


def mark(page: pathlib.Path) -> None:
    """Notes that the Chinese of a page is up to date."""
    other = chinese(page)
    text = _MARK.sub("", other.read_text(encoding="utf-8")).rstrip()
    other.write_text(
        f"{text}\n\n<!-- translated from {digest(page)} -->\n", encoding="utf-8"
    )


def main() -> None:
    """Lists pages, or marks those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=pathlib.Path)
    given = parser.parse_args().pages
    for page in given:
        if page.resolve() not in pages() or not chinese(page).is_file():
            parser.error(
                f"a page must be an English one with a Chinese beside it; got {page}"
            )
    for page in given:
        mark(page)
    behind = [] if given else [page for page in pages() if is_behind(page)]
    for page in behind:
        print(f"{page.relative_to(DOCS.parent)} changed after its Chinese")
    sys.exit(bool(behind))


if __name__ == "__main__":
    main()
