"""A finished run as one file: what encodes, its config and its model card.

The file is a ZIP archive: `run.json` (which run, which checkpoint, the digests),
`config.json`, `MODEL_CARD.md`, and one .npy file an array under `params/`, `state/` and
`statistics/`, so that `numpy.load` opens it too. It holds no state of the optimiser, no
critics and no position in the data: it is for reading, not for training on.

A file that somebody sent is data: arrays are no pickles, entries are read up to a
limit, and the config may name what the config of a run folder may name (`run.trust`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Shaped
from numpy import ndarray

import fmalign_jax
from fmalign_jax.data import archives
from fmalign_jax.data.files import json_text
from fmalign_jax.run.frozen_encoder import EncoderState

SUFFIX = ".fmrun"
FORMAT = 1

_RUN, _CONFIG, _CARD = "run.json", "config.json", "MODEL_CARD.md"
_ABOUT = {"name": str, "step": int, "chosen": str, "windows_crc32": int, "version": str}
_TREES = ("params", "state", "statistics")
_ARRAY = ".npy"
_MOST_TEXT = 16 << 20
_MOST_ARRAY = 16 << 30
_MOST_ENTRIES = 100_000
_MOST_JSON_INT = 2**53

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedRun:
    """What a file holds, checked against its digests.

    Attributes:
      name: of the run.
      step: of the checkpoint.
      chosen: why it: "best", "latest" or "given".
      windows_crc32: of the windows that the run was trained on.
      version: of the package that wrote the file.
      settings: the run's config.
      arrays: by path, such as "params/stems_video/Conv_0/kernel".
      card: the model card; empty before it is written.
    """

    name: str
    step: int
    chosen: str
    windows_crc32: int
    version: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, Shaped[ndarray, "..."]]
    card: str = ""

    @property
    def digest(self) -> str:
        """Returns a SHA-256 of all but the card, which may name it."""
        return _digest(self._about(), self._entries())

    def _about(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "step": self.step,
            "chosen": self.chosen,
            "windows_crc32": self.windows_crc32,
            "version": self.version,
        }

    def _entries(self) -> dict[str, bytes]:
        """Returns config and arrays as the file holds them."""
        return {_CONFIG: json_text(self.settings, allow_nan=True).encode()} | {
            f"{path}{_ARRAY}": archives.array_bytes(array)
            for path, array in sorted(self.arrays.items())
        }

    def save(self, path: pathlib.Path) -> None:
        """Writes the file, whole or not at all; the same run gives the same bytes.

        Raises:
          ValueError: the name does not end in SUFFIX.
        """
        if path.suffix != SUFFIX:
            raise ValueError(
                f"a packed run must be a file *{SUFFIX}; got {path.name!r}; give "
                f"{path.with_suffix(SUFFIX)}"
            )
        entries, card = self._entries(), self.card.encode()
        about = self._about()
        about["digest"] = _digest(about, entries)
        about["card"] = hashlib.sha256(card).hexdigest()
        written = {_RUN: json_text(about).encode(), _CARD: card, **entries}
        archives.write(path, written, packed=False)

    def state(self, model_state: PyTree) -> EncoderState:
        """Returns what encodes, on the host.

        Args:
          model_state: shapes of what the system of the config keeps beside its
            parameters.

        Raises:
          ValueError: the arrays are not those of such a system.
        """
        trees = {name: self._tree(name) for name in ("params", "statistics")}
        wanted = dict(_leaves("state", model_state))
        found = {p: a for p, a in self.arrays.items() if p.startswith("state/")}
        wrong = sorted(
            p
            for p in wanted.keys() | found.keys()
            if _form(wanted, p) != _form(found, p)
        )
        if wrong:
            raise ValueError(
                f"a packed run must hold the arrays of its system; {len(wrong)} differ,"
                f" the first is {wrong[0]}: {_form(found, wrong[0])} there, "
                f"{_form(wanted, wrong[0])} here; use fmalign_jax {self.version}"
            )
        structure = jax.tree.structure(model_state)
        kept = jax.tree.unflatten(structure, [found[p] for p in wanted])
        return EncoderState(trees["params"], kept, trees["statistics"])

    def _tree(self, name: str) -> dict[str, Any]:
        """Returns nested dicts of the arrays under a name."""
        flat = {
            tuple(map(unquote, path.split("/")[1:])): array
            for path, array in self.arrays.items()
            if path.startswith(f"{name}/")
        }
        return dict(traverse_util.unflatten_dict(flat))


def pack(
    state: EncoderState,
    settings: Mapping[str, Any],
    *,
    name: str,
    step: int,
    chosen: str,
    windows_crc32: int,
) -> PackedRun:
    """Takes what encodes to the host, for `PackedRun.save`; the card is added later.

    Args:
      state: as restored.
      settings: the run's config.
      name: of the run.
      step: of the checkpoint.
      chosen: why it: "best", "latest" or "given".
      windows_crc32: of the windows that the run was trained on.
    """
    trees = (state.params, state.model_state, state.statistics)
    return PackedRun(
        name=name,
        step=step,
        chosen=chosen,
        windows_crc32=windows_crc32,
        version=fmalign_jax.__version__,
        settings=settings,
        arrays={
            path: np.asarray(jax.device_get(leaf))
            for root, tree in zip(_TREES, trees, strict=True)
            for path, leaf in _leaves(root, tree)
        },
    )


def load(path: pathlib.Path) -> PackedRun:
    """Reads a file and checks it against its digests; imports nothing it names.

    Raises:
      ValueError: another kind of file, one of a later version, a damaged one, or one
        too large.
    """
    remedy = f"give the *{SUFFIX} that Run.export has written, or copy it again"
    if path.suffix != SUFFIX:
        raise ValueError(
            f"a run must be a folder or a file *{SUFFIX}; got the file {path}; {remedy}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) > min(len(set(names)), _MOST_ENTRIES):
                raise ValueError(f"{len(names)} entries, some of one name")
            about = json.loads(archives.read(archive, _RUN, most_bytes=_MOST_TEXT))
            if not isinstance(about, dict):
                raise ValueError(f"{_RUN} holds no settings")
            _check_format(path, about.pop("format", None))
            entries = {
                name: archives.read(
                    archive,
                    name,
                    most_bytes=_MOST_ARRAY if name.endswith(_ARRAY) else _MOST_TEXT,
                )
                for name in names
                if name != _RUN
            }
        card = entries.pop(_CARD)
        own = {"format": FORMAT, **about}
        digests = {"digest": own.pop("digest"), "card": own.pop("card")}
        if digests != {
            "digest": _digest(own, entries),
            "card": hashlib.sha256(card).hexdigest(),
        }:
            raise ValueError("what it holds has another digest than when it was packed")
        settings = json.loads(entries.pop(_CONFIG))
        arrays = {
            name.removesuffix(_ARRAY): archives.read_array(content)
            for name, content in entries.items()
        }
        del own["format"]
        _check(own, settings, arrays)
        text = card.decode()
    except _VersionError:
        raise
    except archives.DAMAGED as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{path}: must be a packed run, as it was written; got another or a "
            f"damaged file ({said[0][:200]}); {remedy}"
        ) from error
    return PackedRun(settings=settings, arrays=arrays, card=text, **own)


class _VersionError(ValueError):
    """A file that another version of the package has written."""


def _check_format(path: pathlib.Path, found: Any) -> None:
    if found == FORMAT:
        return
    if type(found) is int and found > FORMAT:
        raise _VersionError(
            f"{path}: this version, {fmalign_jax.__version__}, reads packed runs of "
            f"format {FORMAT}; got {found}; install a later fmalign_jax"
        )
    raise ValueError(f"its format is {found!r}, which never was")


def _check(
    about: Mapping[str, Any],
    settings: object,
    arrays: Mapping[str, Shaped[ndarray, "..."]],
) -> None:
    """Refuses what has the right digest and is still no packed run.

    Raises:
      ValueError: naming it.
    """
    if {name: type(value) for name, value in about.items()} != _ABOUT:
        raise ValueError(f"{_RUN} must hold {', '.join(_ABOUT)}; got {about}"[:300])
    for name in ("step", "windows_crc32"):
        if not 0 <= about[name] < _MOST_JSON_INT:
            raise ValueError(f"{name} is {str(about[name])[:40]}")
    if not isinstance(settings, dict):
        raise ValueError(f"{_CONFIG} holds no settings")
    for path, array in arrays.items():
        root, *above = itertools.accumulate(path.split("/"), "{}/{}".format)
        if root not in _TREES or not above or arrays.keys() & set(above[:-1]):
            raise ValueError(f"{path} is no array of a run")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{path} holds {array.dtype}, not numbers")


def _leaves(root: str, tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Yields every leaf with its path; names in it never become parts of the path."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        yield "/".join([root, *(quote(name, safe="") for name in names)]), leaf


def _form(arrays: Mapping[str, Any], path: str) -> str:
    if path not in arrays:
        return "absent"
    return f"{np.dtype(arrays[path].dtype)}{tuple(arrays[path].shape)}"


def _digest(about: Mapping[str, Any], entries: Mapping[str, bytes]) -> str:
    """Returns a SHA-256 of the names and the content of everything."""
    parts = {name: hashlib.sha256(own).hexdigest() for name, own in entries.items()}
    return hashlib.sha256(json_text({**about, "parts": parts}).encode()).hexdigest()
