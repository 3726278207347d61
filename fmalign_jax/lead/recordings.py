"""The recordings of a search for the lead, and their encoded clips."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt64
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.config.saved import to_json
from fmalign_jax.data import dataset
from fmalign_jax.data.files import file_name
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.lead import tick_features
from fmalign_jax.lead.tick_features import Clip
from fmalign_jax.progress import Bar
from fmalign_jax.run import outputs, restore
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import sharding

_EDGE_TICKS = 3  # of a window, where a stem lacks neighbours of a tick
_PHRASE = 8  # samples in a row
_SEEN_SHARE = 0.1  # of a recording that training knows; then it was trained on it


@dataclasses.dataclass(frozen=True)
class SearchData:
    """The recordings of a search.

    Attributes:
      store: all recordings there.
      numbers: those to search in.
      origin: "the run", or where they were taken from.
      trained_on: whether the run was trained on any of them; None if its own data are
        no longer there.
    """

    store: RecordingStore
    numbers: tuple[int, ...]
    origin: str
    trained_on: bool | None


def choose_recordings(config: ConfigDict, run: OpenedRun) -> SearchData:
    """Opens the recordings to search in: given ones, or what the run has not seen.

    Raises:
      ValueError: there are none, or they are faulty.
    """
    if config.recordings:
        data = ConfigDict(run.config.data.to_dict())
        store = dataset.open_recordings(config.recordings, data)
        numbers = tuple(range(len(store.names)))
        trained_on = _trained_on(store, run)
        return SearchData(store, numbers, config.recordings, trained_on)
    store = dataset.open_dataset(run.config)
    seen = _trained_numbers(store, run)
    unseen = tuple(n for n in range(len(store.names)) if n not in seen)
    numbers = unseen or tuple(range(len(store.names)))
    return SearchData(store, numbers, "the run", trained_on=not unseen)


def training_data(run: OpenedRun) -> SearchData | None:
    """Returns the recordings that a run was trained on; None if they are gone."""
    try:
        store = dataset.open_dataset(run.config)
    except ValueError:
        return None
    return SearchData(store, _trained_numbers(store, run), "the run", trained_on=True)


def _trained_numbers(store: RecordingStore, run: OpenedRun) -> tuple[int, ...]:
    windows = dataset.make_windows(store, run.config)
    return tuple(np.unique(windows["train"].recording).tolist())


def _trained_on(store: RecordingStore, run: OpenedRun) -> bool | None:
    """Returns whether the leading modality is, in any recording, that of training.

    By what the sensor says, whatever the files are called and their clocks show.
    """
    stream = run.config.data.leading_stream
    trained = training_data(run)
    if trained is None:
        return None
    if stream not in store.streams or not trained.numbers:
        return False
    known = np.concatenate(
        [_phrases(trained.store, stream, number) for number in trained.numbers]
    )
    for number in range(len(store.names)):
        phrases = _phrases(store, stream, number)
        if len(phrases) and np.isin(phrases, known).mean() > _SEEN_SHARE:
            return True
    return False


def _phrases(store: RecordingStore, stream: str, number: int) -> UInt64[ndarray, " n"]:
    """Returns a hash of every few samples in a row in which anything changes."""
    samples = np.arange(len(store.timelines()[number].streams[stream].time_s))
    values = np.ascontiguousarray(store.gather(stream, number, samples))
    rows = values.reshape(len(values), -1).view(np.uint8).astype(np.uint64)
    if len(rows) < _PHRASE:
        return np.zeros(0, np.uint64)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 2**63, rows.shape[1] + _PHRASE, dtype=np.uint64)
    odd = drawn * np.uint64(2) + np.uint64(1)
    row = rows @ odd[_PHRASE:]  # modulo 2^64
    around = np.lib.stride_tricks.sliding_window_view(row, _PHRASE)
    changing = (around != around[:, :1]).any(axis=1)
    found: ndarray = around[changing] @ odd[:_PHRASE]
    return found


def settings_of(
    config: ConfigDict, run: OpenedRun, material: SearchData
) -> dict[str, Any]:
    """Returns all that decides the outcome, whatever folders are called."""
    settings = to_json(config)
    del settings["checkpoint"], settings["recordings"]
    names = [material.store.names[number] for number in material.numbers]
    fingerprint = material.store.fingerprint
    return settings | {"step": run.step, "recordings": [fingerprint, *names]}


def encode(
    config: ConfigDict, run: OpenedRun, material: SearchData, keep_in: pathlib.Path
) -> list[Clip]:
    """Encodes every recording once; what was encoded before is read instead.

    Args:
      config: of the search.
      run: whose encoders.
      material: the recordings.
      keep_in: features are kept in its folder `ticks`, so that a search that was
        stopped, or another one over the same recordings, continues from there.
    """
    data, store = run.config.data, material.store
    # No tick is to be taken from the edge of a window, where its stem sees less.
    inner_ticks = max(1, data.window_ticks - 2 * _EDGE_TICKS)
    stride_ticks = min(config.stride_ticks, inner_ticks)
    key = {
        "step": run.step,
        "stride_ticks": stride_ticks,
        "recordings": store.fingerprint,
        # Features of before these were so are others.
        "context": False,
        "positions": False,
    }
    if hasattr(make_system(run.config), "similarity"):
        key["own"] = True  # features of before it was so lack it
    key = outputs.owned(key, keep_in, run.folder, run.digest)
    folder = keep_in / "ticks" / outputs.settings_digest(key)
    modalities = (data.reference_stream, data.leading_stream)
    files = {n: folder / f"{file_name(store.names[n])}.npz" for n in material.numbers}
    missing = [n for n, file in files.items() if not file.exists()]
    if missing:
        mesh = sharding.make_mesh()
        frozen = restore.restore(run, mesh)
        encoders = {m: FrozenEncoder(run.config, (m,), mesh) for m in modalities}
        windows = {
            m: tick_features.lay_windows(store, data, m, stride_ticks=stride_ticks)
            for m in modalities
        }
    for number in Bar(missing, "encoding recordings"):
        clips = tick_features.encode_recording(
            store,
            number,
            windows,
            encoders,
            frozen,
            reference=modalities[0],
            leading=modalities[1],
        )
        tick_features.save(files[number], clips)
    return [
        clip
        for number, file in files.items()
        for clip in tick_features.load(file, store.names[number])
    ]
