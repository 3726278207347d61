"""A config found by its name or file, and changes to it: settings, or with a name."""

from __future__ import annotations

import difflib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

Change = Callable[[ConfigDict], None]
"""Changes a config in place."""

_PACKAGE = pathlib.Path(__file__).parents[1]


def load_file(path: pathlib.Path) -> ModuleType:
    """Imports a Python file that lies in no package, such as a config.

    Raises:
      ValueError: there is no such file.
    """
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(
            f"a config or study must be a Python file; got {path}, which is none; "
            "correct the path"
        )
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shipped_configs() -> dict[str, pathlib.Path]:
    """Returns the config files that come with the package, by name."""
    # In a wheel they lie in the package, in a checkout beside it.
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    found = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(found.glob("*.py"))}


def find_config(name: str, fitting: Collection[str] = ()) -> str:
    """Returns the path of a config, with its variant.

    Args:
      name: a path, or the name of a shipped config; ``:VARIANT`` may follow.
      fitting: the shipped configs to name where there is no such; by default all.

    Raises:
      ValueError: it is neither.
    """
    path, colon, variant = name.partition(":")
    shipped = shipped_configs()
    if pathlib.Path(path).is_file():
        return name
    if path in shipped:
        return f"{shipped[path]}{colon}{variant}"
    known = list(fitting or shipped)
    one_of = f"one of {', '.join(known)}" if len(known) > 1 else known[0]
    why, what = "", "correct the name"
    if pathlib.Path(path).suffix:  # meant as a file
        why, what = ", and there is no such file", "correct the path"
    raise ValueError(f"a config must be a file or {one_of}; got {path!r}{why}; {what}")


def read_config(path: str) -> ConfigDict:
    """Returns the config of a path with its variant, as `find_config` gives it.

    Raises:
      ValueError: there is no such file or variant, or it gives no config.
    """
    file, _, variant = path.partition(":")
    module: Any = load_file(pathlib.Path(file))
    config = module.get_config(*filter(None, [variant]))
    if not isinstance(config, ConfigDict):
        raise ValueError(
            "get_config of a config file must return a ConfigDict; got "
            f"{type(config).__name__}; return the config"
        )
    return config


def run_name(path: str) -> str:
    """Returns what a run of a config is called: "pretrain-smoke" of pretrain.py:smoke.

    Args:
      path: of the config, with its variant.
    """
    file, _, variant = path.partition(":")
    return "-".join(filter(None, (pathlib.Path(file).stem, variant)))


def import_beside(path: str) -> None:
    """Lets a config that the user names import, and name, the modules beside its file.

    For a config that is about to be trained alone, never for the folder of a run, which
    may be of somebody else. The folder is searched last: no file in it can stand in for
    an installed module.

    Args:
      path: of the config, with its variant.
    """
    file = pathlib.Path(path.partition(":")[0]).resolve()
    folder = str(file.parent)
    if file not in shipped_configs().values() and folder not in sys.path:
        sys.path.append(folder)


def settings_of(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every setting of a config by its dotted name, with its value."""
    for key in sorted(config.keys()):
        value = config[key]
        if isinstance(value, ConfigDict) and len(value):
            yield from settings_of(value, f"{prefix}{key}.")
        elif not isinstance(value, ConfigDict):
            yield f"{prefix}{key}", value


def has_setting(config: ConfigDict, name: str) -> bool:
    """Says whether a config has a setting, or a group of them, of a dotted name."""
    found: Any = config
    for key in name.split("."):
        if not isinstance(found, ConfigDict) or key not in found:
            return False
        found = found[key]
    return True


def nearest(name: str, known: Collection[str]) -> str | None:
    """Returns the name that a mistyped one was meant to be, or None.

    Args:
      name: of a setting, dotted.
      known: the names that there are: one that looks alike, or else one that ends so.
    """
    last = name.rpartition(".")[2]
    ends_so = [own for own in known if own.rpartition(".")[2] == last]
    near = difflib.get_close_matches(name, known, 1)
    return next(iter(near or difflib.get_close_matches(name, ends_so, 1, 0.0)), None)


def override(config: ConfigDict, settings: Mapping[str, Any]) -> None:
    """Changes settings of a config in place, and locks it.

    Args:
      config: of a run or a command.
      settings: by name: a value, or a mapping of the settings below it. Names may be
        dotted: ``{"data": {"lead_s": 240.0}}`` is ``{"data.lead_s": 240.0}``.

    Raises:
      ValueError: there is no such setting, or its value is of another type.
    """
    config.lock()
    for key, value in settings.items():
        name, *below = key.split(".")
        for inner in reversed(below):
            value = {inner: value}
        try:
            config.update({name: value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(_refused(config, key, settings[key], error)) from error


def _refused(config: ConfigDict, key: str, value: Any, error: Exception) -> str:
    """Returns why a setting is refused: the rule; what came; what to do."""
    rule = "settings must be those of the config, with values of their types; got "
    for name in _names(key, value):
        if not has_setting(config, name):
            near = nearest(name, [own for own, _ in settings_of(config)])
            what = "print the config to see all" if near is None else f"try {near}"
            return f"{rule}{name}; {what}"
    said = " ".join(str(error.args[0] if error.args else error).split())
    return f"{rule}{key}={value!r}: {said}"


def _names(key: str, value: Any) -> Iterator[str]:
    """Yields the dotted name of every setting that a value sets."""
    if not isinstance(value, Mapping | ConfigDict) or not value:
        yield key
        return
    for below, inner in value.items():
        yield from _names(f"{key}.{below}", inner)


def shipped_config(name: str) -> ConfigDict:
    """Returns a config that comes with the package, for one of your own to start from.

    Args:
      name: such as "recordings", or with a variant "pretrain:recordings+any_lead".

    Raises:
      ValueError: there is no such config or variant.
    """
    stem, _, variant = name.partition(":")
    shipped = shipped_configs()
    if stem not in shipped:
        raise ValueError(
            f"a shipped config must be one of {', '.join(shipped)}; got {stem!r}; "
            "correct the name"
        )
    module: Any = load_file(shipped[stem])
    config: ConfigDict = module.get_config(*filter(None, [variant]))
    return config


def unchanged(config: ConfigDict) -> None:
    """Leaves a config as it is."""


def without(*terms: str) -> Change:
    """Returns a change that leaves objectives out."""

    def change(config: ConfigDict) -> None:
        for term in terms:
            config.objectives[term].weight = 0.0

    return change


def setting(key: str, value: Any) -> Change:
    """Returns a change of one key, by its dotted name."""

    def change(config: ConfigDict) -> None:
        config.update_from_flattened_dict({key: value})

    return change
