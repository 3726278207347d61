"""Random but structured feature maps, to try the paper's architecture without data.

They replace the features that pretrained networks give of real clips; no result on them
says anything about real data. Real features need no code: write the neutral form (see
fmalign_jax.data.recordings.npz), one file for some tens of clips, and read it with
fmalign_jax.data.recordings.RecordingFiles:

    frames       float32 [N, 7, 7, 512]  last feature map of an image network, one a
                                         second
    sensor       float32 [N, 128]        audio features, one a second
    frame_t, sensor_t          float [N] seconds
    frame_clip, sensor_clip    int [N]   the clip of each second; 10 seconds a clip
    frame_label, sensor_label  int [N]   optional, class or -1
    label_names                [classes] optional
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

from fmalign_jax.data.files import source_digest
from fmalign_jax.data.recordings import RecordingFiles, write_npz
from fmalign_jax.progress import Bar
from fmalign_jax.structs import Recording, Stream

CLIPS_PER_RECORDING = 32

_VERSION = 1  # Raise when the generated numbers change: cached data is made again.
_SHARED_WIDTH = 16
_SPECIFIC_WIDTH = 8
_GAP_S = 10


@dataclasses.dataclass(frozen=True)
class _Form:
    clips: int
    ticks: int
    classes: int
    seed: int
    video_shape: tuple[int, int, int]
    audio_width: int

    def digest(self) -> str:
        return source_digest(repr((self, _VERSION)), digits=16)


class StructuredFeatures:
    """Clips of a video map and an audio vector a second that share their meaning.

    Each clip has a class and a trajectory around the class's prototype, seen by both
    modalities through fixed random matrices (what they share). The video adds a place
    where it is seen and a background, the audio a room, each its own for a clip, and
    both add noise (what is specific). Each tick is labelled with the clip's class.
    """

    def __init__(
        self,
        path: str,
        *,
        clips: int,
        ticks: int = 10,
        classes: int = 28,
        seed: int = 0,
        video_shape: Sequence[int] = (7, 7, 512),
        audio_width: int = 128,
    ) -> None:
        """Generates the files at first use.

        Args:
          path: folder; each set of parameters gets a folder of its own in it.
          clips: number of clips, in recordings of at most CLIPS_PER_RECORDING.
          ticks: seconds in a clip, one sample of each modality a second.
          classes: number of classes.
          seed: equal seeds give equal features.
          video_shape: height, width and channels of a feature map.
          audio_width: width of the audio features.

        Raises:
          ValueError: a number is not positive.
        """
        height, width, channels = video_shape
        form = _Form(
            clips, ticks, classes, seed, (height, width, channels), audio_width
        )
        sizes = (clips, ticks, classes, *video_shape, audio_width)
        if min(sizes) < 1:
            raise ValueError(
                f"{path}: clips, ticks, classes and all widths must be 1 or more; got "
                f"{form}; correct the one that is not"
            )
        self._digest = form.digest()
        folder = pathlib.Path(path).expanduser() / f"structured_features_{self._digest}"
        if not folder.is_dir():
            _generate(form, folder)
        self._files = RecordingFiles(str(folder))

    def names(self) -> list[str]:
        """Names of the recordings, sorted."""
        return self._files.names()

    def read(self, name: str) -> Recording:
        """Reads one recording.

        Returns:
          streams "video", float32 [N, h, w, C], and "current", the audio features,
          float32 [N, width].
        """
        return self._files.read(name)

    def fingerprint(self) -> str:
        """Digest of the parameters; the same wherever the features are generated."""
        return self._digest


def _generate(form: _Form, folder: pathlib.Path) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        starts = range(0, form.clips, CLIPS_PER_RECORDING)
        for start in Bar(starts, "structured features"):
            name = f"clips_{start:06d}"
            clips = np.arange(start, min(start + CLIPS_PER_RECORDING, form.clips))
            write_npz(
                temporary / f"{name}.npz", _recording(form, name, clips), packed=False
            )
        temporary.replace(folder)
    except OSError:
        # Another process may have been quicker; its files are the same.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _recording(form: _Form, name: str, clips: Int[np.ndarray, "n"]) -> Recording:
    # One generator for what all recordings have in common, one for this recording.
    common = np.random.default_rng(form.seed)
    own = np.random.default_rng([form.seed, int(clips[0])])
    prototypes = _normal(common, form.classes, _SHARED_WIDTH)
    label = own.integers(form.classes, size=len(clips))
    wander = _normal(own, len(clips), form.ticks, _SHARED_WIDTH).cumsum(axis=1)
    meaning = prototypes[label][:, None] + 0.2 * wander
    values = {
        "video": _video(form, meaning, common=common, own=own),
        "current": _audio(form, meaning, common=common, own=own),
    }
    clip = np.repeat(np.arange(len(clips), dtype=np.int32), form.ticks)
    tick = np.tile(np.arange(form.ticks), len(clips))
    streams = {
        stream: Stream(
            values=array.reshape(-1, *array.shape[2:]),
            time_s=clip * float(form.ticks + _GAP_S) + tick,
            clip=clip,
            label=np.repeat(label, form.ticks).astype(np.int32),
        )
        for stream, array in values.items()
    }
    return Recording(
        name=name,
        streams=streams,
        label_names=tuple(f"class_{number}" for number in range(form.classes)),
        clip_names=tuple(f"clip_{number}" for number in clips),
        provenance=f"random structured features, {form}",
    )


def _video(
    form: _Form,
    meaning: Float32[np.ndarray, "n T S"],
    *,
    common: np.random.Generator,
    own: np.random.Generator,
) -> Float32[np.ndarray, "n T h w C"]:
    height, width, channels = form.video_shape
    clips, ticks, _ = meaning.shape
    shown = meaning @ _mixing(common, _SHARED_WIDTH, channels)
    background = _normal(own, clips, height, width, _SPECIFIC_WIDTH)
    background = background @ _mixing(common, _SPECIFIC_WIDTH, channels)
    rows, columns = np.mgrid[:height, :width]
    row = own.uniform(0, height - 1, (clips, 1, 1))
    column = own.uniform(0, width - 1, (clips, 1, 1))
    distance = (rows - row) ** 2 + (columns - column) ** 2
    place = np.exp(-distance / (2 * (height / 4) ** 2)).astype(np.float32)
    noise = 0.3 * _normal(own, clips, ticks, height, width, channels)
    seen = place[:, None, :, :, None] * shown[:, :, None, None, :]
    # Feature maps of image networks come out of a rectifier.
    return np.maximum(seen + 0.5 * background[:, None] + noise, 0)


def _audio(
    form: _Form,
    meaning: Float32[np.ndarray, "n T S"],
    *,
    common: np.random.Generator,
    own: np.random.Generator,
) -> Float32[np.ndarray, "n T C"]:
    clips, ticks, _ = meaning.shape
    heard = meaning @ _mixing(common, _SHARED_WIDTH, form.audio_width)
    room = _normal(own, clips, 1, _SPECIFIC_WIDTH)
    room = room @ _mixing(common, _SPECIFIC_WIDTH, form.audio_width)
    return heard + 0.5 * room + 0.3 * _normal(own, clips, ticks, form.audio_width)


def _mixing(
    generator: np.random.Generator, inputs: int, outputs: int
) -> Float32[np.ndarray, "inputs outputs"]:
    return _normal(generator, inputs, outputs) / np.float32(np.sqrt(inputs))


def _normal(generator: np.random.Generator, *shape: int) -> Float32[np.ndarray, "..."]:
    return generator.standard_normal(shape, dtype=np.float32)
