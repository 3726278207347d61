"""Why a flag of a command line is refused: the rule; what came; what to do."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict

from fmalign_jax.config.overrides import has_setting, nearest, read_config, settings_of

_PREFIX = "config."
_VALUE_REFUSED = re.compile(
    r"(flag |Missing value for flag )(?P<came>--(?P<flag>[\w.]+).*)"
)


def named_config(arguments: Sequence[str]) -> str | None:
    """Returns the config of a command line that is not parsed yet."""
    for word, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name == "config":
            return value if equals else following
    return None


def refusal(
    error: Exception, arguments: Sequence[str], own: Mapping[str, object]
) -> str:
    """Returns what is wrong with a flag: the rule; what came; what to do.

    Args:
      error: of absl or ml_collections, which say only what came.
      arguments: of the command line.
      own: the command's own flags, by name their defaults.
    """
    path = named_config(arguments)
    if path is None:
        return str(error)
    try:
        config = read_config(path)
    except (TypeError, ValueError) as of_config:
        return " ".join(str(of_config).split())
    settings = dict(settings_of(config))
    # `fmalign` has put the prefix before every setting; nobody typed it there.
    is_word = arguments[0].startswith("fmalign ")
    prefix = "" if is_word else _PREFIX
    message = " ".join(str(error).replace(f"--{_PREFIX}", f"--{prefix}").split())

    def shown(name: str) -> str:
        return f"--{name}" if name in own else f"--{prefix}{name}"

    if refused := _VALUE_REFUSED.fullmatch(message):
        name = refused["flag"].removeprefix(_PREFIX)
        # A group of settings has no value; the first in it does.
        below = (key for key in settings if key.startswith(f"{name}."))
        name = name if name in settings or name in own else next(below, name)
        value = shlex.quote(str({**settings, **own}.get(name)))
        return (
            f"a flag needs a value of its own type; got "
            f"{refused['came'].rstrip('.')}; give one "
            f"such as {shown(name)}={value}"
        )
    mistyped = _mistyped(error, arguments, config)
    if mistyped is None:
        return message
    near = nearest(mistyped.removeprefix(_PREFIX), [*settings, *own])
    return (
        "a flag must be a setting, or one of the command's own; got "
        f"--{mistyped.removeprefix(_PREFIX) if is_word else mistyped}; "
        f"{'' if near is None else f'did you mean {shown(near)}? '}"
        f"{'--help' if is_word else '--show_config'} in its place lists all"
    )


def _mistyped(
    error: Exception, arguments: Sequence[str], config: ConfigDict
) -> str | None:
    """Returns the name of a flag that is none, as absl has it."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return str(error.flagname)
    for word in arguments:
        name = word.lstrip("-").partition("=")[0]
        setting = name.removeprefix(_PREFIX)
        if name != setting and not has_setting(config, setting):
            return name
    return None
