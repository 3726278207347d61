"""One word for all commands: ``fmalign COMMAND``, or ``python -m fmalign_jax COMMAND``.

    fmalign train pretrain:smoke
    fmalign evaluate runs/pretrain-1a2b3c4d --features=semantic

Each is the command of the same module with the same flags. Three things are shorter
here: a shipped config is found by its name, wherever one stands; a run is an argument
of its own; and ``config.`` may be left out before the name of a setting. --help needs
neither JAX nor a data set library, so that it answers at once.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import pathlib
import runpy
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict

from fmalign_jax import arguments
from fmalign_jax.config import import_beside, overrides, shipped_configs
from fmalign_jax.flags import define_flags

_WIDTH = 88
_HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of ``fmalign``.

    Attributes:
      module: which is run.
      config: name of the shipped config that it takes by default; None if it takes
        arguments without a config.
      of_run: whether its argument is the folder of a run, otherwise it is a config.
      examples: what follows the name of the command.
      add: without a config, what adds its arguments.
    """

    module: str
    config: str | None
    of_run: bool
    examples: tuple[str, ...]
    add: Callable[[argparse.ArgumentParser], None] | None = None


COMMANDS: Mapping[str, Command] = {
    "init": Command(
        "init",
        None,
        False,
        ("mydata/", "mydata/ --out configs/furnace_7.py"),
        arguments.add_init,
    ),
    "check": Command(
        "check",
        None,
        False,
        ("mydata/", "'mydata/*.npz' --most_lead_s 600 --out furnace_7.html"),
        arguments.add_check,
    ),
    "prepare": Command(
        "prepare",
        "pretrain",
        False,
        ("pretrain:smoke", "recordings --data.path='furnace/*.npz'"),
    ),
    "train": Command(
        "train",
        "pretrain",
        False,
        ("pretrain:smoke", "recordings --data.path='furnace/*.npz' --epochs=8"),
    ),
    "evaluate": Command(
        "evaluate",
        "evaluate",
        True,
        ("runs/pretrain-1a2b3c4d", "runs/pretrain-1a2b3c4d --features=semantic"),
    ),
    "lead": Command(
        "lead_time",
        "lead_time",
        True,
        ("runs/pretrain-1a2b3c4d", "runs/pretrain-1a2b3c4d --most_lead_s=600"),
    ),
    "warn": Command(
        "early_warning",
        "early_warning",
        True,
        (
            "runs/pretrain-1a2b3c4d",
            "runs/pretrain-1a2b3c4d --false_alarms_per_hour=0.1",
        ),
    ),
    "monitor": Command(
        "monitor",
        None,
        True,
        (
            "--alarm alarm.fmalign --input current.csv",
            "--alarm alarm.fmalign --input current.csv --follow --log readings.csv",
        ),
        arguments.add_monitor,
    ),
    "report": Command(
        "report",
        None,
        True,
        ("runs/pretrain-1a2b3c4d", "runs/pretrain-1a2b3c4d --out report.html"),
        arguments.add_report,
    ),
    "sweep": Command(
        "sweep", "sweep", False, ("sweep:smoke", "sweep --vary.seed='(0, 1, 2)'")
    ),
}
_HELP = ("-h", "--help", "--helpfull", "--helpshort")


def main(given: Sequence[str] | None = None) -> None:
    """Runs the command of the command line."""
    words = list(sys.argv[1:] if given is None else given)
    if not words or words[0] in _HELP:
        _print_overview()
        return
    name, *rest = words
    if name == "--version":
        _print_version()
        return
    if name not in COMMANDS:
        _fail(f"a command must be one of {', '.join(COMMANDS)}; got {name!r}; try one")
    command = COMMANDS[name]
    if any(word in _HELP for word in rest):
        _print_help(name, command, [word for word in rest if word not in _HELP])
        return
    sys.argv = [f"fmalign {name}", *_rewritten(name, command, rest)]
    runpy.run_module(f"fmalign_jax.{command.module}", run_name="__main__")


def find_config(name: str, command: Command) -> str:
    """Returns the path of a config; what is none ends the program in one line."""
    try:
        return overrides.find_config(name, _fitting(command))
    except ValueError as error:
        _fail(str(error))


def _fitting(command: Command) -> list[str]:
    """Returns the shipped configs that a command may take."""
    if command.of_run:
        return [str(command.config)]
    others = {own.config for own in COMMANDS.values()} - {command.config}
    return [name for name in shipped_configs() if name not in others]


def _rewritten(name: str, command: Command, words: Sequence[str]) -> list[str]:
    """Returns the flags of the command's module."""
    if command.config is None:
        return list(words)
    named, words = _split(name, command, words)
    config = _given_config(words) or (None if command.of_run else named)
    words = [word for word in words if not word.startswith("--config=")]
    path = find_config(config or command.config, command)
    if not command.of_run:
        import_beside(path)
    known = _read(path)
    found = ["--config", path]
    if command.of_run and named is not None:
        found.append(f"--config.checkpoint={named}")
    return [*found, *(_as_override(word, known) for word in words)]


def _split(
    name: str, command: Command, words: Sequence[str]
) -> tuple[str | None, list[str]]:
    """Returns the argument that is no flag, and the flags with their values."""
    define_flags()
    plain, rest = [], []
    following = iter(words)
    for word in following:
        if not word.startswith("-"):
            plain.append(word)
            continue
        flag = word.lstrip("-")
        if "=" not in word and not _is_switch(flag):
            value = next(following, None)
            word = word if value is None else f"{word}={value}"
        rest.append(word)
    if len(plain) > 1:
        what = "the folder of a run" if command.of_run else "a config"
        _fail(
            f"fmalign {name} takes {what} and flags; got {' '.join(plain)}; give one, "
            "and settings as --NAME=VALUE"
        )
    return (plain[0] if plain else None), rest


def _is_switch(flag: str) -> bool:
    """Says whether a flag stands without a value."""
    name = flag.removeprefix("no") if flag.startswith("no") else flag
    return any(own in flags.FLAGS and flags.FLAGS[own].boolean for own in (flag, name))


def _given_config(words: Sequence[str]) -> str | None:
    for word in words:
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return None


def _read(path: str) -> ConfigDict:
    """Returns the config of a path with its variant."""
    try:
        return overrides.read_config(path)
    except ImportError as error:
        _fail(
            f"a config file must run; got {error} in {path}; put the module beside "
            "that file, or install its package"
        )
    except (TypeError, ValueError) as error:
        _fail(" ".join(str(error).split()))


def _as_override(word: str, config: ConfigDict) -> str:
    """Returns a flag; one that names a setting with ``config.`` before it."""
    name = word.lstrip("-").partition("=")[0]
    if name in flags.FLAGS or name.partition(".")[0] not in config:
        return word
    return f"--config.{word.lstrip('-')}"


def _print_overview() -> None:
    print("usage: fmalign COMMAND ...\n")
    for name, command in COMMANDS.items():
        print(f"  {name:10}{_purpose(command)}")
    print("\nfmalign COMMAND --help says what a command takes.")


def _print_version() -> None:
    import fmalign_jax

    print(f"fmalign_jax {fmalign_jax.__version__}")


def _purpose(command: Command) -> str:
    """Returns the first line of what a module says of itself, without importing it."""
    source = (_HERE / f"{command.module}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


def _print_help(name: str, command: Command, words: Sequence[str]) -> None:
    examples = "examples\n" + "\n".join(
        f"  fmalign {name} {example}" for example in command.examples
    )
    if command.add is not None:
        parser = arguments.Parser(
            prog=f"fmalign {name}",
            description=_purpose(command),
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add(parser)
        parser.print_help()
        return
    named, rest = _split(name, command, words)
    chosen = _given_config(rest) or (None if command.of_run else named)
    path = find_config(chosen or str(command.config), command)
    if not command.of_run:
        import_beside(path)
    own = "RUN_DIR" if command.of_run else "[CONFIG]"
    print(f"usage: fmalign {name} {own} [--SETTING=VALUE ...] [--FLAG=VALUE ...]\n")
    print(f"{_purpose(command)}\n")
    if command.of_run:
        print("  RUN_DIR   the folder of a run, or a packed run, *.fmrun\n")
    else:
        fitting = ", ".join(_fitting(command))
        print(f"  CONFIG    a file, or one of {fitting}; :VARIANT may follow.")
        print(f"            By default {command.config}\n")
    print(f"{examples}\n\nflags")
    for flag in flags.FLAGS.get_flags_for_module("fmalign_jax.flags"):
        _print_entry(f"--{flag.name}", str(flag.help))
    print(f"\nsettings, as {path} has them")
    for key, value in overrides.settings_of(_read(path)):
        _print_entry(f"--{key}={value!r}", "")


def _print_entry(flag: str, text: str) -> None:
    indent = " " * 18
    lines = textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
    first = lines[0].lstrip() if lines and len(flag) < 15 else ""
    print(f"  {flag:16}{first}".rstrip())
    for line in lines[1 if first else 0 :]:
        print(line)


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
