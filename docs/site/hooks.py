"""Gives the headings of a Chinese page the anchors of its English page.

The two have the same headings in the same order (tests/test_docs.py), so that a link
with an anchor leads to the same place in either language.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

from markdown.extensions.toc import slugify, unique

_HEADING = re.compile(r"^(#{1,6}) (.*?)[ \t]*$", re.MULTILINE)
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_MARKS = re.compile(r"[`*]|\]\([^)]*\)|\[")


def headings(text: str) -> list[re.Match[str]]:
    """Returns the headings of a page, without what looks like one in code."""
    code = [(found.start(), found.end()) for found in _CODE.finditer(text)]
    return [
        found
        for found in _HEADING.finditer(text)
        if not any(start <= found.start() < end for start, end in code)
    ]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Adds the anchors."""
    path = pathlib.Path(page.file.abs_src_path)
    if not path.name.endswith(".zh.md"):
        return markdown
    english = path.with_name(path.name.replace(".zh.md", ".md"))
    used: set[str] = set()
    anchors = [
        unique(slugify(_MARKS.sub("", found[2]), "-"), used)
        for found in headings(english.read_text(encoding="utf-8"))
    ]
    own = headings(markdown)
    if len(own) != len(anchors):
        raise ValueError(
            f"{path}: must have the headings of {english.name}, {len(anchors)}; got "
            f"{len(own)}; translate the others"
        )
    parts, end = [], 0
    for found, anchor in zip(own, anchors, strict=True):
        parts += [markdown[end : found.end()], f" {{#{anchor}}}"]
        end = found.end()
    return "".join([*parts, markdown[end:]])
