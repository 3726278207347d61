"""Windows with labels.

The label of a window is the class that most of its labelled ticks have, of equally
frequent ones the highest: with classes 0 normal and 1 abnormal, a window is
abnormal if at least half of its labelled ticks are. A window without a labelled tick
has no label, and is not scored.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray

from fmalign_jax.config.digest import short_digest
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex, spread
from fmalign_jax.structs import UNLABELLED

_DIGESTED_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class LabelledWindows:
    """One split.

    Attributes:
      name: "head", "validation" or "test".
      origin: the glob or folder it came from, or "the run".
      store: its recordings.
      windows: in order of recording, clip and time.
      label: [N], class of each window in the numbering of the evaluation, -1 unknown.
    """

    name: str
    origin: str
    store: RecordingStore
    windows: WindowIndex
    label: Int[ndarray, " N"]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def known(self) -> Bool[ndarray, " N"]:
        """Returns which windows have a label."""
        return self.label != UNLABELLED

    @functools.cached_property
    def recordings(self) -> list[str]:
        """Returns the names of the recordings that have windows, sorted."""
        return [self.store.names[n] for n in np.unique(self.windows.recording)]

    @property
    def continuous(self) -> bool:
        """Says whether every recording is one piece, not clips."""
        pairs = np.stack([self.windows.recording, self.windows.clip], axis=1)
        return len(np.unique(pairs, axis=0)) == len(self.recordings)

    def clip_names(self) -> list[str]:
        """Returns the clip of each window, by name where the clips have names."""
        timelines = self.store.timelines()
        names = []
        pairs = zip(
            self.windows.recording.tolist(), self.windows.clip.tolist(), strict=True
        )
        for recording, clip in pairs:
            known = timelines[recording].clip_names
            names.append(known[clip] if clip < len(known) else str(clip))
        return names

    def chosen(self, rows: Bool[ndarray, " N"] | Int[ndarray, " n"]) -> LabelledWindows:
        """Returns some of the windows, by mask or by number."""
        windows = dataclasses.replace(self.windows, start=self.windows.start[rows])
        return dataclasses.replace(self, windows=windows, label=self.label[rows])

    def spread(self, most: int) -> LabelledWindows:
        """Returns at most so many of the windows, evenly spread over all."""
        return self.chosen(spread(len(self), most))

    def samples(
        self, stream: str, ticks: Int[ndarray, " n"], slots: int
    ) -> Shaped[ndarray, "n R ..."]:
        """Reads the samples of ticks of one recording.

        Args:
          stream: whose.
          ticks: by number, all of one recording.
          slots: samples R a tick at one lead; of a range of leads those at the least
            are read.
        """
        recording = int(self.windows.ticks.recording[ticks[0]])
        rows = self.windows.ticks.samples[stream][ticks, -slots:]
        return self.store.gather(stream, recording, rows)

    def digests(self, streams: Sequence[str]) -> dict[str, str]:
        """Returns a digest of each recording's content, by its name.

        Of clocks and a few samples of each stream: the same whatever files the
        recording was prepared with, and under another name.
        """
        numbers = np.unique(self.windows.recording).tolist()
        return {
            self.store.names[number]: _digest(self.store, number, streams)
            for number in numbers
        }


def window_labels(ticks: Int[ndarray, "N T"], classes: int) -> Int[ndarray, " N"]:
    """Returns the class of each window from those of its ticks, -1 where unknown.

    The most frequent of the known ones; of equally frequent ones the highest.
    """
    counts = np.stack([(ticks == c).sum(axis=1) for c in range(classes)], axis=1)
    highest = classes - 1 - counts[:, ::-1].argmax(axis=1)
    return np.where(counts.any(axis=1), highest, UNLABELLED).astype(np.int64)


def tick_labels(split: LabelledWindows, classes: tuple[str, ...]) -> Int[ndarray, " n"]:
    """Returns the class of every tick of a split, in the head's numbering."""
    return renumbered(
        split.windows.ticks.label, split.store.label_names or classes, classes
    )


def renumbered(
    labels: Int[ndarray, "*n"], names: Sequence[str], classes: tuple[str, ...]
) -> Int[ndarray, "*n"]:
    """Returns labels in the numbering of `classes`, -1 for what is not among them.

    Args:
      labels: in the numbering of `names`.
      names: of the classes, where the labels come from.
      classes: the names in the order wanted.
    """
    table = np.array([classes.index(n) if n in classes else -1 for n in names] + [-1])
    renumbered: Int[ndarray, "*n"] = table[labels]
    return renumbered


def _digest(store: RecordingStore, number: int, streams: Sequence[str]) -> str:
    timeline = store.timelines()[number]
    parts = []
    for stream in sorted(set(streams) & set(timeline.streams)):
        time_s = timeline.streams[stream].time_s
        samples = np.linspace(0, len(time_s) - 1, _DIGESTED_SAMPLES).astype(np.int64)
        parts += [stream.encode(), time_s.tobytes()]
        parts.append(store.gather(stream, number, samples).tobytes())
    return short_digest(b"".join(parts), size=8)
