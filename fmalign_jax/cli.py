"""What all commands share: the flags, logging, and errors in one clean line."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import pathlib
import re
import shlex
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import absl.logging
import jax
from absl import app, flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from fmalign_jax.arguments import Parser, add_trust_code
from fmalign_jax.config import import_beside, run_name
from fmalign_jax.config.refused_flags import named_config, refusal
from fmalign_jax.flags import define_flags

TRUST_CODE = "FMALIGN_JAX_TRUST_CODE"
"""Environment variable: packages or modules of the user's own, separated by commas,
whose classes the config of a saved run may name."""

_ABSENT = "(none)"

_JAX_WARNS_OF_DEVICES = "jax._src.xla_bridge"
_FULL = ("No space left on device", "Disk quota exceeded")
_OUT_OF_MEMORY = "Out of memory"
_DAMAGED_PROGRAM = re.compile(
    r"Error reading persistent compilation cache entry for '(?P<name>[\w.-]+)'"
)

Main = Callable[[ConfigDict], Any]


def _forget_missing_backend() -> None:
    """Drops a MPLBACKEND that is not installed: matplotlib fails to import with one.

    A shell that was started from a notebook has the notebook's. Pictures are drawn to
    files, for which no backend is asked.
    """
    _, _, module = os.environ.get("MPLBACKEND", "").partition("module://")
    if module and importlib.util.find_spec(module.partition(".")[0]) is None:
        del os.environ["MPLBACKEND"]


_forget_missing_backend()  # before a command imports matplotlib


def run(
    main: Main, default: Callable[[], ConfigDict], *, own_modules: bool = False
) -> None:
    """Parses the command line, then calls `main(config)`; never returns.

    Flags are defined here and nowhere else, so that a script of a user's own may import
    any module and have a --config of its own.

    Args:
      main: the command.
      default: gives the config that --show_config compares with.
      own_modules: whether the config may name modules that lie beside its file. Never
        of a command that opens the folder of a run.
    """
    define_flags()
    if own_modules and (path := named_config(sys.argv)):
        import_beside(path)

    def chosen(config: Any) -> None:
        if flags.FLAGS["show_config"].value:
            print_config(config, default())
        else:
            main(config)

    app.run(
        lambda _: _guarded(lambda: _with_processes(chosen)), flags_parser=_parse_flags
    )


class Arguments(Parser):
    """Arguments of a command that takes no config."""

    def run(self, main: Callable[[argparse.Namespace], Any]) -> None:
        """Parses the command line, then calls `main(arguments)`."""
        add_trust_code(self)
        arguments = self.parse_args()
        trust(arguments.trust_code)
        flags.FLAGS.mark_as_parsed()  # absl's log warns where its own flags are not
        _guarded(lambda: main(arguments))


def config_name() -> str:
    """Returns the name of the config: "pretrain-smoke" for pretrain.py:smoke."""
    flag: Any = flags.FLAGS["config"]
    return run_name(flag.config_filename)


def workdir() -> pathlib.Path | None:
    """Returns the folder given with --workdir."""
    given = flags.FLAGS["workdir"].value
    return None if given is None else pathlib.Path(given)


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    try:
        remaining: list[str] = flags.FLAGS(list(arguments))
        if flags.FLAGS["config"].value is None:
            raise ValueError(
                "a command needs --config; got none; try --config configs/pretrain.py"
            )
        found = flags.FLAGS["config"].value
        if getattr(found, "to_dict", None) is None:  # raises where no file was loaded
            raise ValueError(
                "get_config of a config file must return a ConfigDict; got "
                f"{type(found).__name__}; return the config"
            )
    except Exception as error:
        if place := _place_in_config_file(error):
            _fail(
                f"a config file must run; got {type(error).__name__}: "
                f"{getattr(error, 'msg', error)} in {place}; correct it"
            )
        if isinstance(
            error,
            flags.Error | AttributeError | KeyError | TypeError | ValueError | OSError,
        ):
            own = flags.FLAGS.get_flags_for_module(define_flags.__module__)
            defaults = {flag.name: flag.default for flag in own}
            _fail(refusal(error, arguments, defaults))
        raise
    return remaining


def _place_in_config_file(error: Exception) -> str | None:
    """Returns where in a config file an error arose; None for one raised on purpose."""
    if isinstance(error, ValueError | OSError | flags.Error):
        return None
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.name in ("get_config", "<module>"):
            return f"{frame.filename}, line {frame.lineno}"
    return None


def trust(packages: Sequence[str]) -> None:
    """Lets saved configs name classes of further packages, in this process."""
    known = os.environ.get(TRUST_CODE, "")
    os.environ[TRUST_CODE] = ",".join(filter(None, [known, *packages]))


def _with_processes(main: Main) -> None:
    trust(flags.FLAGS["trust_code"].value or [])
    if flags.FLAGS["coordinator"].value is not None:
        _join_processes()
    main(flags.FLAGS["config"].value)


class _Lines(logging.Formatter):
    """Lines of the log as people read them: when, and what; of a warning, that too."""

    def format(self, record: logging.LogRecord) -> str:
        when = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        kind = f"{record.levelname.lower()}: " * (record.levelno > logging.INFO)
        return f"{when} {kind}{super().format(record)}"


def _guarded(call: Callable[[], Any]) -> None:
    set_up_jax()
    absl.logging.use_absl_handler()
    absl.logging.get_absl_handler().setFormatter(_Lines())
    logging.getLogger().setLevel(logging.INFO)
    for chatty in ("absl", "jax", "orbax"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    # That a GPU is there and cannot be used must be read.
    logging.getLogger(_JAX_WARNS_OF_DEVICES).setLevel(logging.WARNING)
    try:
        call()
    except KeyboardInterrupt:
        print(
            "interrupted: what is saved stays; the same command goes on",
            file=sys.stderr,
        )
        sys.exit(130)  # as of a shell's command that Ctrl-C ended
    except Exception as error:
        logging.debug("the error's origin", exc_info=True)
        _fail(_in_one_line(error))


def _in_one_line(error: Exception) -> str:
    """Returns what went wrong and what to do; of a surprise, where its traceback is."""
    message = " ".join(str(error).split())
    if any(sign in message for sign in _FULL):
        return f"no space is left on the disk: {message}; make room, and run it again"
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY in message:
        return (
            f"there is not enough memory: {message or 'MemoryError'}; use a smaller "
            "batch_size, or fewer or shorter recordings at a time"
        )
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return message
    with tempfile.NamedTemporaryFile(
        "w", prefix="fmalign_jax-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exception(error, file=file)
    return (
        f"{type(error).__name__}: {message}; this should not happen: please report it "
        f"with its traceback, in {file.name}"
    )


def set_up_jax() -> None:
    """What a process does before JAX finds its devices."""
    keep_compiled_programs()
    if jax.config.jax_num_cpu_devices > 1:  # type: ignore[attr-defined]
        order_collectives()


def order_collectives() -> None:
    """Lets CPU devices meet in one order; to be called before JAX finds its devices.

    A scheduler that runs independent operations at once lets two devices wait for each
    other in different ones: eight virtual devices stood still that way, and processes
    aborted, whose messages Gloo pairs by their order.
    """
    flag = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def _join_processes() -> None:
    order_collectives()
    coordinator, processes, process, wait_s = (
        _flag(name) for name in ("coordinator", "processes", "process", "wait_s")
    )
    if process:
        _wait_for(coordinator, wait_s)
    jax.distributed.initialize(
        coordinator, processes, process, initialization_timeout=wait_s
    )


def _flag(name: str) -> Any:
    return flags.FLAGS[name].value


def _wait_for(coordinator: str, wait_s: int) -> None:
    """Waits until process 0 answers; JAX itself would abort without a word.

    Raises:
      ValueError: HOST:PORT is none, or nobody answers there in time.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"--coordinator must be HOST:PORT of process 0; got {coordinator!r}; use "
            "such as 10.0.0.1:1234"
        )
    end_s = time.monotonic() + wait_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end_s:
                raise ValueError(
                    f"process 0 must answer at {coordinator} within {wait_s} s; got "
                    f"{error}; start it, check host and port, or wait longer with "
                    "--wait_s"
                ) from None
            time.sleep(0.5)


def keep_compiled_programs() -> None:
    """Lets the next run of the same config skip compiling; mends damaged programs."""
    try:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    except RuntimeError:  # a user without a home, as in some containers
        return  # a folder that others may write to would hold programs of theirs
    folder = cache / "fmalign_jax" / "jax"
    _mend_programs(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # Which kernel of a GPU is fastest, too: a changed config measures only what is new.
    jax.config.update(
        "jax_persistent_cache_enable_xla_caches",
        "xla_gpu_per_fusion_autotune_cache_dir",
    )


def _mend_programs(folder: pathlib.Path) -> None:
    """Removes programs that JAX warns it cannot read; it never writes over them."""
    shown = warnings.showwarning

    def show(message: Warning | str, *about: Any, **more: Any) -> None:
        damaged = _DAMAGED_PROGRAM.match(str(message))
        if damaged is None:
            shown(message, *about, **more)
            return
        for entry in folder.glob(f"{damaged['name']}-*"):
            entry.unlink(missing_ok=True)
        logging.warning(
            "%s: a compiled program (%s) is damaged; it is removed and compiled again",
            folder,
            damaged["name"],
        )

    warnings.showwarning = show


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def print_config(config: ConfigDict, default: ConfigDict) -> None:
    """Prints every setting; a star marks those that differ from the default's."""
    given, usual = (
        flatten_dict(settings.to_dict(), sep=".") for settings in (config, default)
    )
    rows = []
    for key in sorted(given.keys() | usual.keys()):
        value, other = (
            str(settings[key]) if key in settings else _ABSENT
            for settings in (given, usual)
        )
        differs = value != other
        rows.append(
            ["*" if differs else "", key, value, f"default {other}" if differs else ""]
        )
    print_table(rows)
    print(f"{sum(bool(row[0]) for row in rows)} of {len(rows)} settings differ (*)")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of cells in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(padded).rstrip())


def print_next(commands: Sequence[Sequence[str]]) -> None:
    """Prints what may be done next: rows of a command and what it is for."""
    print("What next")
    print_table(commands)


def short(path: pathlib.Path | str) -> str:
    """Returns a path from the current folder on, if it lies below; else as it is."""
    path, here = pathlib.Path(path), pathlib.Path.cwd()
    inside = path.is_absolute() and path.is_relative_to(here)
    return str(path.relative_to(here) if inside else path)


def quoted(path: pathlib.Path | str) -> str:
    """Returns a path as `short` gives it, as a shell takes it."""
    return shlex.quote(short(path))
