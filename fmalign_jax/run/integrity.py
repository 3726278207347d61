"""Whether a checkpoint is what was saved: damaged, of another model, or whole.

A digest of an array is its dtype and shape and a hash of its bytes, so that a model of
other shapes is told apart from damage.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorstore
from jax.experimental import multihost_utils

from fmalign_jax.config.digest import short_digest

PyTree = Any

_SEAL = "digest"

_NOT_DAMAGE = (
    "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED",
    "Permission denied",
    "Cannot allocate memory",
    "Too many open files",
    "module '",  # ... has no attribute: another version of a library
)
"""What messages say when the machine, not the checkpoint, is at fault."""


class DamagedCheckpointError(ValueError):
    """A checkpoint whose content is not what was saved."""


class MismatchedCheckpointError(ValueError):
    """A whole checkpoint of another model than the one it is to be restored into."""


def is_damage(error: BaseException) -> bool:
    """Whether an error on restoring may mean that the checkpoint is damaged.

    Not if it came of a lack of memory, permission or file handles, of a mismatch, or of
    a library that lacks what is called: then every checkpoint would fail, the good ones
    too.
    """
    cause: BaseException | None = error
    while cause is not None:
        other = (MemoryError, PermissionError, ImportError, MismatchedCheckpointError)
        if isinstance(cause, other) or any(word in str(cause) for word in _NOT_DAMAGE):
            return False
        cause = cause.__cause__ or cause.__context__
    return True


def reason(error: BaseException) -> str:
    """Returns the first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def check_readable(item: pathlib.Path) -> None:
    """Reads every array once, one after another, so that damage raises here.

    Orbax asks for all arrays at once. When one fails it stops listening, and each of
    the others then prints an error of its own from a background thread.
    """
    # As a path, not as a URL: there # ? % would not stand for themselves.
    files = {"driver": "file", "path": f"{item}/"}
    base = {"driver": "ocdbt", "base": files}
    for key in tensorstore.KvStore.open(base).result().list().result():
        path, _, file = key.decode().rpartition("/")
        if file == ".zarray":
            store = {"driver": "zarr", "kvstore": {**base, "path": f"{path}/"}}
            tensorstore.open(store).result().read().result()


def scores(directory: pathlib.Path, name: str) -> dict[pathlib.Path, float | None]:
    """Returns the score of every checkpoint that has one, by its file; None if damaged.

    A value that is not finite would keep all checkpoints from being opened; another
    than the digests say would make the wrong one the best.
    """
    files = sorted(directory.glob("[0-9]*/metrics/metrics"))
    return {file: _whole_score(file, name) for file in files}


def _whole_score(file: pathlib.Path, name: str) -> float | None:
    checkpoint = file.parents[1]
    try:
        score = float(json.loads(file.read_text())[name])
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None
    try:
        digest = json.loads((checkpoint / "digest/metadata").read_text())
        unsealed(digest)
        expected = digest.get(name, {"": json_digest(score)})
    except (OSError, ValueError, TypeError, AttributeError):
        # The digests say nothing; whoever restores will find them damaged.
        return score if math.isfinite(score) else None
    same = math.isfinite(score) and expected == {"": json_digest(score)}
    return score if same else None


def digests(tree: PyTree) -> dict[str, str]:
    """Returns the digest of every array, by its path in the tree."""
    return {path: _array_digest(leaf) for path, leaf in _leaves(tree)}


def json_digest(value: Any) -> str:
    """Returns a hash of a JSON value."""
    text = json.dumps(value, sort_keys=True)
    return short_digest(text, size=8)


def sealed(digest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the digests of a checkpoint with one of themselves."""
    return {**digest, _SEAL: {"": json_digest(digest)}}


def unsealed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the digests of a checkpoint, after a look at their own.

    Those of earlier versions have none.

    Raises:
      DamagedCheckpointError: they are not those that were saved.
    """
    digest = {name: own for name, own in saved.items() if name != _SEAL}
    if _SEAL in saved:
        compare(_SEAL, {"": json_digest(digest)}, saved[_SEAL])
    return digest


def check_fits(item: str, target: PyTree, saved: Mapping[str, str]) -> None:
    """Checks that the saved arrays are those of a target, by path, dtype and shape.

    Args:
      item: name of the item, for the message.
      target: arrays or their shapes.
      saved: the digests that were saved.

    Raises:
      MismatchedCheckpointError: naming the first array that differs.
    """
    here = {path: _form(leaf) for path, leaf in _leaves(target)}
    there = {path: digest.rpartition(" ")[0] for path, digest in saved.items()}
    if different := _differing(here, there):
        first = different[0]
        raise MismatchedCheckpointError(
            "a checkpoint restores only into the model it was saved from; "
            f"{len(different)} arrays differ, the first is {item}{first}: "
            f"{there.get(first, 'absent')} there, {here.get(first, 'absent')} here; "
            "use the version of fmalign_jax that saved it, or another --workdir"
        )


def compare(item: str, found: Mapping[str, str], saved: Mapping[str, str]) -> None:
    """Checks what was restored against the digests that were saved with it.

    Raises:
      DamagedCheckpointError: naming the first that differs.
    """
    if wrong := _differing(found, saved):
        raise DamagedCheckpointError(
            "restored arrays must have the digest they were saved with; "
            f"{len(wrong)} of item {item!r} differ, the first at {item}{wrong[0]}"
        )


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _form(array: Any) -> str:
    return f"{np.dtype(array.dtype)}{tuple(array.shape)}"


def _array_digest(array: jax.Array) -> str:
    if array.is_fully_replicated:
        whole = array.addressable_data(0)
    else:
        whole = multihost_utils.process_allgather(array, tiled=True)
    host = np.ascontiguousarray(np.asarray(whole))
    content = short_digest(host.tobytes(), size=8)
    return f"{_form(array)} {content}"


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    keys = first.keys() | second.keys()
    return sorted(key for key in keys if first.get(key) != second.get(key))
