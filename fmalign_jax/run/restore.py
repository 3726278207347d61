"""A run read from its folder or its file, unchanged: config, checkpoint, encoders."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fmalign_jax.config import saved
from fmalign_jax.data import dataset, pipeline
from fmalign_jax.data.files import read_json
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.run import checkpoint_files, integrity, packed, trust
from fmalign_jax.run.frozen_encoder import EncoderState, FrozenEncoder, RunEncoder
from fmalign_jax.run.packed import PackedRun
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """The folder of a run and which of its checkpoints, or a packed run.

    Attributes:
      path: the folder or the file.
      config: the run's own.
      step: of the checkpoint.
      chosen: why it: "best", "latest" or "given".
      note: what the user should know about the choice, or None.
      packed: what the file holds; None for a folder.
    """

    path: pathlib.Path
    config: ConfigDict
    step: int
    chosen: str
    note: str | None = None
    packed: PackedRun | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    @property
    def folder(self) -> pathlib.Path:
        """Returns where commands write: the folder, or one of the file's name."""
        return self.path if self.packed is None else self.path.with_suffix("")

    @property
    def digest(self) -> str:
        """Returns what tells it from runs of other configs, seeds among them."""
        return saved.digest(self.config)

    @property
    def checkpoints(self) -> pathlib.Path:
        """Returns the folder of checkpoints."""
        return self.path / "checkpoints"

    def split(self, name: str) -> tuple[RecordingStore, WindowIndex]:
        """Returns the run's recordings, and its windows of a split.

        Args:
          name: "train", "validation" or "test".

        Raises:
          ValueError: no such split, an empty one, or the recordings are not there.
        """
        store = dataset.open_dataset(self.config)
        windows = dataset.make_windows(store, self.config)
        if name not in windows:
            raise ValueError(
                f"a run has the splits {', '.join(windows)}; got {name!r}; use one of "
                "them"
            )
        if not len(windows[name]):
            raise ValueError(
                f"the split {name!r} of {self.path} must hold windows; got none; use "
                f"one of {', '.join(n for n, index in windows.items() if len(index))}"
            )
        return store, windows[name]

    def encoder(self, views: Sequence[str], mesh: Mesh | None = None) -> RunEncoder:
        """Restores the frozen encoders of some views.

        Args:
          views: which, such as ["video", "current"].
          mesh: devices that share each batch; by default all.

        Raises:
          ValueError: the run has no such view, or the checkpoint is damaged.
        """
        mesh = sharding.make_mesh() if mesh is None else mesh
        return RunEncoder(FrozenEncoder(self.config, views, mesh), restore(self, mesh))


def open_run(
    path: pathlib.Path | str,
    step: str | int = "best",
    *,
    trust_code: Sequence[str] = (),
) -> OpenedRun:
    """Reads the config of a run and chooses a checkpoint; changes nothing.

    A run may come from somebody else: its config may name classes of this package
    only, unless you trust the code of others (`run.trust`).

    Args:
      path: the folder of the run, or a file of it (`run.packed`).
      step: "best" (the latest, if none has a validation score), "latest" or a number.
      trust_code: further packages or modules whose classes the config may name.

    Raises:
      ValueError: the folder is not that of a run, has no such checkpoint, was changed
        since it was trained, or names code that is not trusted; or the file is another
        or damaged.
    """
    path, step = pathlib.Path(path), str(step)
    if path.is_file():
        return _open_file(path, step, trust_code)
    directory = path / "checkpoints"
    settings = read_json(path / "config.json")
    if settings is None or not directory.is_dir():
        why = "" if path.exists() else ", which is not there"
        raise ValueError(
            "a run must be its folder, with config.json and checkpoints, or a file "
            f"*{packed.SUFFIX}; got {path}{why}; give the folder that training named, "
            "such as runs/pretrain-1a2b3c4d"
        )
    trust.check_names(settings, path / "config.json", trust_code=trust_code)
    config = saved.from_json(settings)
    steps, best = checkpoint_files.saved_steps(directory)
    if not steps:
        raise ValueError(
            f"{directory}: must hold a checkpoint; got none; train until the first one "
            "is saved (checkpoint_every_steps)"
        )
    if step == "best" and best is not None:
        run = OpenedRun(path, config, best, "best")
    elif step == "best":
        note = "no checkpoint has a validation score: the latest is taken for the best"
        run = OpenedRun(path, config, steps[-1], "latest", note)
    elif step == "latest":
        run = OpenedRun(path, config, steps[-1], "latest")
    elif step.isdigit() and int(step) in steps:
        run = OpenedRun(path, config, int(step), "given")
    else:
        raise ValueError(
            "step must be 'best', 'latest' or the number of a checkpoint; got "
            f"{step!r}; {path} has {', '.join(map(str, steps))}"
        )
    _check_config(run, settings)
    return run


def _open_file(path: pathlib.Path, step: str, trust_code: Sequence[str]) -> OpenedRun:
    """Opens a packed run as `open_run` opens a folder."""
    found = packed.load(path)
    if step not in ("best", "latest", str(found.step)):
        raise ValueError(
            f"a packed run holds one checkpoint; got step {step!r}; {path} has "
            f"{found.step}; leave the step out, or open the folder of the run"
        )
    settings = dict(found.settings)
    trust.check_names(settings, f"{path}, config.json", trust_code=trust_code)
    config = saved.from_json(settings)
    return OpenedRun(path, config, found.step, found.chosen, packed=found)


def _check_config(run: OpenedRun, settings: Mapping[str, Any]) -> None:
    """Checks config.json against the copy in the checkpoint.

    The recordings may lie elsewhere by now.

    Raises:
      ValueError: they differ in more than that, or the copy is damaged.
    """
    try:
        copy = checkpoint_files.saved_config(run.checkpoints, run.step)
    except Exception as error:  # Orbax raises bare ones on unreadable items
        raise _unreadable(run, error) from error
    different = saved.differences(copy, settings, besides=("data.path",))
    if different:
        raise ValueError(
            f"{run.path / 'config.json'}: must be the config of the training; got "
            f"another than in checkpoint {run.step}: {', '.join(different[:5])}; "
            f"restore it as it was saved, as in checkpoints/{run.step}/config"
        )


def _unreadable(run: OpenedRun, error: BaseException) -> ValueError:
    remedy = "free memory or mend the permissions, then try again"
    if integrity.is_damage(error):
        remedy = "choose another one with --config.step"
    return ValueError(
        f"checkpoint {run.step} of {run.path} must read back as it was saved; got "
        f"{integrity.reason(error)}; {remedy}"
    )


def restore(run: OpenedRun, mesh: Mesh) -> EncoderState:
    """Restores what encodes on every device of a mesh.

    Raises:
      ValueError: the checkpoint is damaged, or memory or permissions are lacking.
    """
    everywhere = sharding.replicated(mesh)
    model_state = jax.eval_shape(make_system(run.config).empty_model_state)
    if run.packed is not None:
        try:
            placed: EncoderState = jax.device_put(
                run.packed.state(model_state), everywhere
            )
        except ValueError as error:
            raise ValueError(f"{run.path}: {error}") from error
        return placed
    try:
        model = checkpoint_files.restore_model(
            run.checkpoints,
            run.step,
            checkpoint_files.saved_model(
                run.checkpoints, run.step, everywhere, model_state
            ),
        )
    except integrity.MismatchedCheckpointError as error:
        found = str(error).rpartition("; ")[0]  # what to do is said here
        raise ValueError(
            f"checkpoint {run.step} must hold the model that "
            f"{run.path / 'config.json'} describes; got another "
            f"({found}); restore config.json as it was saved, or use the version "
            "of fmalign_jax that saved it"
        ) from error
    except Exception as error:  # Orbax raises bare ones on unreadable arrays
        raise _unreadable(run, error) from error
    kept = {name: model[name] for name in model_state}
    return EncoderState(model["params"], kept, model["statistics"])


def confirm_training_windows(
    run: OpenedRun, store: RecordingStore, windows: WindowIndex
) -> bool:
    """Says whether these are the training windows that the run was trained on.

    They are others when recordings were added, taken away or changed since; a recording
    may then have moved from one split to another.

    Args:
      run: the run.
      store: its recordings.
      windows: its training windows at the lead of its config.
    """
    windows = dataset.training_windows(store, run.config, {"train": windows})
    found = pipeline.windows_digest(store, windows, run.config.data.batch_from)
    same: bool = found == trained_windows(run)
    if not same:
        logging.warning(
            "the training windows are not those that %s was trained on: its raw files "
            "have changed",
            run.path,
        )
    return same


def pack(run: OpenedRun, mesh: Mesh) -> PackedRun:
    """Returns the folder of a run as it is written to one file, without a model card.

    Raises:
      ValueError: the checkpoint is damaged.
    """
    return packed.pack(
        restore(run, mesh),
        saved.to_json(run.config),
        name=run.path.resolve().name,
        step=run.step,
        chosen=run.chosen,
        windows_crc32=trained_windows(run),
    )


def trained_windows(run: OpenedRun) -> int:
    """Returns the digest of the windows that a run was trained on."""
    if run.packed is not None:
        return run.packed.windows_crc32
    state = checkpoint_files.saved_data_state(run.checkpoints, run.step)
    return int(state["windows_crc32"])
