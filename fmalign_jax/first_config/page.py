"""The text of a first config: a file for its reader, and for training.

Names in it come from files of whoever made them. They stand in comments, in one line,
and as literals of strings, so that the config runs nothing but what is written here.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from fmalign_jax.first_config.choices import Choice
from fmalign_jax.first_config.settings import DATA, DEFAULT, OPEN, Setting
from fmalign_jax.first_config.survey import LEADING
from fmalign_jax.first_config.words import plain

_WIDTH = 88
_INDENT = "    "

_HEAD = '''"""Pre-training on the recordings of one folder; written by fmalign init.

Command   fmalign prepare {file}    reads and checks the recordings, and counts windows
          fmalign train {file}      the same, and trains
          fmalign train {file} --max_steps=4    a quick look; the run goes on without it
          (or python -m fmalign_jax.train --config {file})
{variant}
What a comment begins with says where a value comes from:
  {data}      the recordings, as the comment says; look whether it is what you meant
  {default}   the package; change it as you like
  {open}      the recordings do not say it; the comment says what to do

Every other setting is that of the shipped config below: fmalign train {file} --help
lists them all, docs/configuration.md explains them.
"""

from ml_collections import ConfigDict

from fmalign_jax.config import {imported}


'''

_VARIANT = """
Variant   any_lead, as {file}:any_lead: every window at a lead drawn from 0 to 420 s, to
          search for the lead where none is known (docs/lead.md)
"""

_GROUPS = (
    ("The recordings", ("data.source", "data.path", "data.options")),
    ("From recordings to windows", ("data",)),
    ("The frames", ("model", "objectives.reconstruction", "augment")),
    ("The length of the training", ("",)),
)
"""Headings, and how the keys under them begin; a key stands under the first."""


def text(choice: Choice, file: str) -> str:
    """Returns the content of a config file.

    Args:
      choice: what it says.
      file: its name, for the commands in it.
    """
    named = file if re.fullmatch(r"[\w./-]+", file) else "FILE"
    head = _HEAD.format(
        file=named,
        data=DATA,
        default=DEFAULT,
        open=OPEN,
        imported="shipped_config"
        if choice.sensor == LEADING
        else "rename_modality, shipped_config",
        variant=_VARIANT.format(file=named) if choice.any_lead else "",
    )
    return head + "\n".join(_function(choice)) + "\n"


def _function(choice: Choice) -> Iterator[str]:
    if choice.any_lead:
        yield 'def get_config(variant: str = "") -> ConfigDict:'
        yield from _comment(f"{DATA}: {choice.why}")
        yield f'{_INDENT}base = "{choice.base}"'
        yield f'{_INDENT}name = f"{{base}}+{{variant}}" if variant else base'
        yield f"{_INDENT}config = shipped_config(name)"
    else:
        yield "def get_config() -> ConfigDict:"
        yield from _comment(f"{DATA}: {choice.why}")
        yield f'{_INDENT}config = shipped_config("{choice.base}")'
    if choice.sensor != LEADING:
        yield from _comment(
            f"{DATA}: What the stream of the sensor is called in the recordings."
        )
        yield f'{_INDENT}rename_modality(config, "{LEADING}", "{choice.sensor}")'
    for heading, settings in itertools.groupby(
        sorted(choice.settings, key=_group), key=_group
    ):
        yield ""
        yield from _comment(_GROUPS[heading][0].upper())
        for setting in settings:
            yield from _setting(setting)
    yield ""
    yield from _comment("WHAT ELSE IS OPEN")
    for remark in choice.remarks:
        yield from _comment(f"{OPEN}: {remark}")
    yield f"{_INDENT}return config"


def _group(setting: Setting) -> int:
    return next(
        number
        for number, (_, beginnings) in enumerate(_GROUPS)
        if any(setting.key.startswith(beginning) for beginning in beginnings)
    )


def _setting(setting: Setting) -> Iterator[str]:
    yield from _comment(f"{setting.origin}: {setting.why}")
    left = f"{_INDENT}config.{setting.key} ="
    value = setting.value
    if isinstance(value, dict):
        yield f"{left} {{"
        for key, entry in value.items():
            note = plain(setting.notes.get(key, ""))
            line = f"{_INDENT * 2}{_literal(key)}: {_literal(entry)},"
            yield f"{line}  # {note}" if note else line
        yield f"{_INDENT}}}"
        return
    if isinstance(value, str) and len(left) + len(value) > _WIDTH - 3 and "," in value:
        yield f"{left} ("
        parts = value.split(",")
        for number, part in enumerate(parts, 1):
            end = "," if number < len(parts) else ""
            yield f"{_INDENT * 2}{_literal(part + end)}"
        yield f"{_INDENT})"
        return
    yield f"{left} {_literal(value)}"


def _literal(value: Any) -> str:
    """Returns Python that is a value, strings between double quotes if they can be."""
    if isinstance(value, tuple):
        inside = ", ".join(map(_literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    written = repr(value)
    if isinstance(value, str) and written[0] == "'" and '"' not in value:
        return f'"{written[1:-1]}"'
    return written


def _comment(remark: str) -> list[str]:
    return textwrap.wrap(
        plain(remark),
        _WIDTH,
        initial_indent=f"{_INDENT}# ",
        subsequent_indent=f"{_INDENT}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
