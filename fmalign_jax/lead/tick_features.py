"""The features of every tick of a recording by frozen encoders, each modality alone.

Windows of the trained length are placed on each modality alone, a few ticks apart, and
each tick keeps the features it has in the window whose centre is nearest. Its features
are those of the tick by itself: an encoder that sees a whole window learns to answer
for another time than the tick's, by as much as the lead of the training was wrong. A
tick therefore represents its own time, and two modalities may be compared at any lead
without encoding anything again.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.data import dataset
from fmalign_jax.data.files import replacing
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex, nearest_windows
from fmalign_jax.lead.motion import motion
from fmalign_jax.run.frozen_encoder import EncoderState, FrozenEncoder

_TICKS_AT_ONCE = 512  # of raw values in memory


@dataclasses.dataclass(frozen=True)
class TickFeatures:
    """One modality of one clip, tick after tick.

    Attributes:
      start_s: start of the first tick on the recording's clock.
      known: [n], whether the tick is in a window; the rest below is 0 where not.
      semantic: [n, D], continuous features.
      code: [n], the shared code of the tick's segment, or the nearest code where there
        is no shared level; None for a system without codes.
      plain: [n, P], what one can see without a model, see `plain_features`.
      motion: [n, Q], how much moves, without a model, see `motion.motion`.
      own: [n, s, K], what the run's system compares, see `Encoding.compared`; None for
        a system that compares features.
    """

    start_s: float
    known: Bool[ndarray, " n"]
    semantic: Float32[ndarray, "n D"]
    code: Int32[ndarray, " n"] | None
    plain: Float32[ndarray, "n P"]
    motion: Float32[ndarray, "n Q"]
    own: Float32[ndarray, "n s K"] | None = None

    def __len__(self) -> int:
        return len(self.known)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A continuous stretch of a recording: the reference and the leading modality.

    Attributes:
      recording: name of the recording.
      number: of the clip within it.
      reference: the modality that follows, the video.
      leading: the modality that may be ahead, the current.
    """

    recording: str
    number: int
    reference: TickFeatures
    leading: TickFeatures


def lay_windows(
    store: RecordingStore, data: ConfigDict, modality: str, *, stride_ticks: int
) -> WindowIndex:
    """Lays windows of the run over one modality of all recordings, by its own clock.

    Args:
      store: the recordings.
      data: the run's settings of data.
      modality: whose clock and samples; no other stream is looked at.
      stride_ticks: ticks from one window to the next.

    Raises:
      ValueError: no window fits, or a recording lacks the modality.
    """
    alone = ConfigDict(data.to_dict())
    alone.samples_per_tick = ConfigDict({modality: data.samples_per_tick[modality]})
    alone.update({"reference_stream": modality, "lead_s": 0.0})
    alone.update({"other_leads_s": (), "lead_range_s": ()})
    return dataset.whole_windows(store, alone, stride_ticks=stride_ticks)


def encode_recording(
    store: RecordingStore,
    number: int,
    windows: Mapping[str, WindowIndex],
    encoders: Mapping[str, FrozenEncoder],
    frozen: EncoderState,
    *,
    reference: str,
    leading: str,
) -> list[Clip]:
    """Encodes both modalities of a recording; clips that lack either are left out.

    Args:
      store: the recordings.
      number: which of them.
      windows: by modality, as from `lay_windows`.
      encoders: by modality, of that modality alone.
      frozen: parameters and codes.
      reference: the modality that follows.
      leading: the modality that may be ahead.
    """
    found = {
        modality: _encode(store, number, windows[modality], encoder, frozen, modality)
        for modality, encoder in encoders.items()
    }
    return [
        Clip(store.names[number], clip, found[reference][clip], found[leading][clip])
        for clip in sorted(set(found[reference]) & set(found[leading]))
    ]


def _encode(
    store: RecordingStore,
    number: int,
    windows: WindowIndex,
    encoder: FrozenEncoder,
    frozen: EncoderState,
    modality: str,
) -> dict[int, TickFeatures]:
    """Returns the ticks of one modality of a recording by clip."""
    own = dataclasses.replace(windows, start=windows.start[windows.recording == number])
    if not len(own):
        return {}
    encoded = encoder(frozen, store, own, keep_semantic=True, context=False)
    ticks = windows.ticks
    mine = np.flatnonzero(ticks.recording == number)
    row, position = nearest_windows(own.start - mine[0], own.window_ticks, len(mine))
    known = row >= 0
    semantic = encoded.semantic[modality][row, position] * known[:, None]
    code = None
    codes = encoded.tick_codes()
    if modality in codes:
        code = np.where(known, codes[modality][row, position], 0)
    own_values = None
    if modality in encoded.compared:
        own_values = encoded.compared[modality][row, position] * known[:, None, None]
    clips = ticks.clip[mine]
    plain, moves = without_model(
        functools.partial(store.gather, modality, number),
        ticks.samples[modality][mine],
        clips,
    )
    return {
        int(clip): TickFeatures(
            start_s=float(ticks.start_s[mine][clips == clip][0]),
            known=known[clips == clip],
            semantic=semantic[clips == clip].astype(np.float32),
            code=None if code is None else code[clips == clip].astype(np.int32),
            plain=plain[clips == clip],
            motion=moves[clips == clip],
            own=None if own_values is None else own_values[clips == clip],
        )
        for clip in np.unique(clips[known])
    }


def without_model(
    gather: Callable[[Int[ndarray, "..."]], ndarray],
    samples: Int[ndarray, "n R"],
    clip: Int32[ndarray, " n"],
) -> tuple[Float32[ndarray, "n P"], Float32[ndarray, "n Q"]]:
    """Returns `plain_features` and `motion` of every tick of one stream.

    Args:
      gather: gives the values at positions in the stream.
      samples: positions of the samples of each tick.
      clip: of each tick.
    """
    plain, moves = [], []
    for begin in range(0, len(samples), _TICKS_AT_ONCE):
        tick = np.arange(begin, min(begin + _TICKS_AT_ONCE, len(samples)))
        around = np.clip(np.arange(begin - 1, tick[-1] + 2), 0, len(samples) - 1)
        values = gather(samples[around])
        place = np.arange(1, len(tick) + 1)
        before = np.where(clip[around[place - 1]] == clip[tick], place - 1, place)
        after = np.where(clip[around[place + 1]] == clip[tick], place + 1, place)
        plain.append(plain_features(values[place]))
        moves.append(motion(values[before], values[place], values[after]))
    return np.concatenate(plain), np.concatenate(moves)


def plain_features(values: ndarray) -> Float32[ndarray, "n P"]:
    """Returns what one can see in each tick without a model.

    Args:
      values: [n, R, ...], the samples of each tick, as recorded.

    Returns:
      Of frames [n, R, H, W, C] the mean, the deviation and the brightest hundredth of
      the grey levels; of sensors [n, R, C] each channel's mean and, with R > 1, the
      root of its mean change from sample to sample.
    """
    flat = values.astype(np.float32).reshape(*values.shape[:2], -1)
    if values.ndim > 3:
        pixels = flat.reshape(len(flat), -1)
        bright = np.quantile(pixels, 0.99, axis=1)
        columns = [pixels.mean(axis=1), pixels.std(axis=1), bright]
        return np.stack(columns, axis=1).astype(np.float32)
    parts = [flat.mean(axis=1)]
    if flat.shape[1] > 1:
        parts.append(np.sqrt(np.abs(np.diff(flat, axis=1)).mean(axis=1)))
    return np.concatenate(parts, axis=1).astype(np.float32)


def save(path: pathlib.Path, clips: Sequence[Clip]) -> None:
    """Writes the clips of a recording, whole or not at all."""
    arrays: dict[str, Any] = {"number": np.array([clip.number for clip in clips])}
    for i, clip in enumerate(clips):
        for role in ("reference", "leading"):
            for field in dataclasses.fields(TickFeatures):
                value = getattr(getattr(clip, role), field.name)
                if value is not None:
                    arrays[f"{i}.{role}.{field.name}"] = value
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: pathlib.Path, recording: str) -> list[Clip]:
    """Reads what `save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:

        def features(i: int, role: str) -> TickFeatures:
            names = [field.name for field in dataclasses.fields(TickFeatures)]
            values: dict[str, Any] = dict.fromkeys(names)
            for name in names:
                if f"{i}.{role}.{name}" in arrays:
                    values[name] = arrays[f"{i}.{role}.{name}"]
            return TickFeatures(**{**values, "start_s": float(values["start_s"])})

        return [
            Clip(recording, int(n), features(i, "reference"), features(i, "leading"))
            for i, n in enumerate(arrays["number"])
        ]


def centred_mean(
    values: Float[ndarray, "n D"], known: Bool[ndarray, " n"], width: int
) -> Float[ndarray, "n D"]:
    """Returns means over the known ticks of the `width` around each tick."""
    half = width // 2
    weighted = np.pad(values * known[:, None], ((half + 1, half), (0, 0)))
    counted = np.pad(known.astype(float), (half + 1, half))
    sums = np.cumsum(weighted, axis=0, dtype=np.float64)
    counts = np.cumsum(counted)
    span = 2 * half + 1
    return (sums[span:] - sums[:-span]) / np.maximum(counts[span:] - counts[:-span], 1)[
        :, None
    ]
