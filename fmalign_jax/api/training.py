"""Training from Python: what the command does, and the run that comes of it."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from fmalign_jax import cli
from fmalign_jax.api.runs import Run, load
from fmalign_jax.config import (
    find_config,
    import_beside,
    override,
    read_config,
    run_name,
    saved,
)
from fmalign_jax.run import trust
from fmalign_jax.run.directory import default_path
from fmalign_jax.train import train as train_in


def train(
    config: str | os.PathLike[str] | ConfigDict,
    workdir: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> Run:
    """Trains and returns the run: what `fmalign train` does.

        run = fm.train("pretrain:smoke")
        run = fm.train("recordings", data={"path": "recordings/*.npz"}, epochs=8.0)
        run = fm.train("recordings", **{"data.path": "recordings/*.npz"})

    The same call goes on with a run that was interrupted, and opens one that is
    finished. Ctrl-C and SIGTERM save first.

    Args:
      config: the name of a shipped config, as `fmalign train` takes it, or the path of
        a config file, each with `:VARIANT` where it has variants; or a config, which
        stays as it is.
      workdir: the folder of the run; by default as the command, runs/CONFIG-DIGEST
        (runs/train-DIGEST of a config that has no name).
      **overrides: settings of the config that differ: values, or mappings of the
        settings below them.

    Returns:
      The run, as `load` of its folder opens it.

    Raises:
      ValueError: no such config or setting, faulty data, or a folder of another run.
      FloatingPointError: a loss stopped being finite; names the step and the term.
      KeyboardInterrupt: it was asked to stop, and is saved.
    """
    if isinstance(config, ConfigDict):
        chosen, name = config.copy_and_resolve_references(), "train"
    else:
        path = find_config(os.fspath(config))
        import_beside(path)
        chosen, name = read_config(path), run_name(path)
    override(chosen, overrides)
    folder = default_path(name, chosen) if workdir is None else pathlib.Path(workdir)
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cli.keep_compiled_programs()
    _, summary = train_in(chosen, folder)
    if not summary["finished"]:
        raise KeyboardInterrupt(
            f"asked to stop: step {summary['step']} of {summary['steps']} is saved in "
            f"{folder}; the same call goes on from there"
        )
    # What the caller's own config names has just been imported and run.
    own = [name for _, name in trust.names(saved.to_json(chosen))]
    return load(folder, trust_code=own)
