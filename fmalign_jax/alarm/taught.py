"""A second score of an alarm: how the current fluctuates, taught by the video.

The head is not on codes of the current but on plain figures of how it fluctuates over
the last seconds. It learns from what the head on the video's codes says of the video a
lead later, on the paired recordings of the head split: no label of a current is used.
Its figures are of the last tick alone to all that is read, so that it may weigh what is
new against what was, and it learns the state at the window's end, not in its middle.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.alarm.alarm_file import NO_CODE
from fmalign_jax.alarm.export import Score
from fmalign_jax.alarm.model import AlarmModel
from fmalign_jax.data import pipeline
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.spec import WindowSpec
from fmalign_jax.evaluation import heads, transfer
from fmalign_jax.evaluation.heads import Head, HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.models.layers import in_time_order

L2 = 0.1
"""Of the head; chosen on validation furnaces of two runs from 0.02, 0.1 and 0.3."""

_SHARES = (1 / 30, 1 / 10, 1 / 6, 1 / 4, 1 / 2, 1)
"""Of what is read: the stretches, each up to its end, over which figures are averaged,
beside the last tick alone."""

_FLOOR = 0.002  # of the scale; a current that stands still has a logarithm
_AT_ONCE = 512  # windows


def figures(inputs: Float[Array, "B T R C"]) -> Float[Array, "B F"]:
    """Returns logarithms of how the ends of windows fluctuate.

    Of every tick: the mean change from sample to sample; the deviation of its samples;
    and, of several channels, how far their means, and their samples, lie apart. Each is
    averaged over the last ticks, of several numbers. To these comes the deviation of
    the level over the last ticks.

    Args:
      inputs: in order of time, in one unit for all channels. (If each were divided by
        its own deviation, what is common to all would set them apart.)
    """
    b, ticks, r, channels = inputs.shape
    samples = inputs.reshape(b, ticks * r, channels)
    change = jnp.abs(jnp.diff(samples, axis=1, prepend=samples[:, :1]))
    of_ticks = [change.reshape(inputs.shape).mean(axis=(2, 3))]
    if r > 1:
        of_ticks.append(inputs.std(axis=2).mean(axis=-1))
    if channels > 1:
        of_ticks.append(inputs.mean(axis=2).std(axis=-1))
        of_ticks.append(inputs.std(axis=-1).mean(axis=-1))
    spans = sorted({1, *(max(1, round(share * ticks)) for share in _SHARES)})
    logs = [jnp.log(values + _FLOOR) for values in of_ticks]
    found = [log[:, -n:].mean(axis=1) for log in logs for n in spans]
    level = inputs.mean(axis=(2, 3))
    found += [jnp.log(level[:, -n:].std(axis=1) + _FLOOR) for n in spans if n > 3]
    return jnp.stack(found, axis=1)


@dataclasses.dataclass(frozen=True)
class TaughtScore:
    """The head and what its figures are made with.

    Attributes:
      head: of two classes, fitted to standardised figures.
      mean: of the figures over the head split.
      deviation: of them.
      target: the modality.
      samples_per_tick: R of it, at one lead.
      scale: what its samples are divided by: their deviation in training, the mean of
        all channels.
    """

    head: Head
    mean: Float[ndarray, " F"]
    deviation: Float[ndarray, " F"]
    target: str
    samples_per_tick: int
    scale: float

    @classmethod
    def learn(
        cls,
        config: ConfigDict,
        model: AlarmModel,
        split: LabelledWindows,
        spec: WindowSpec,
        abnormal: int,
    ) -> TaughtScore | None:
        """Fits the head to what the model says of the source.

        Args:
          config: as from `early_warning_config`.
          model: its head on the source's codes is the teacher.
          split: the head split.
          spec: how its windows are laid.
          abnormal: the class to be warned of.

        Returns:
          None where the teacher finds one class only, or where the target is tokens.
        """
        target = config.target
        if target not in model.frozen.statistics:  # tokens
            return None
        scale = float(np.mean(model.frozen.statistics[target]["std"]))
        slots = spec.samples_per_tick[target]
        found = _figures_of(split, target, slots, scale)
        said, known = _at_the_end(
            model.head_says[:, abnormal], split.windows, spec, target
        )
        label = (said[known] >= 0.5).astype(np.int64)
        if len(np.unique(label)) < 2:
            return None
        mean, deviation = transfer.scale_of(found[:, None])
        standardised = (found[known] - mean) / deviation
        head = heads.fit(
            HeadSpec(kind="logistic", pooling="mean", l2=(L2,)),
            standardised[:, None],
            label,
            classes=2,
            groups=transfer.groups(split.chosen(known)),
            seed=config.seed,
        )
        return cls(head, mean, deviation, target, slots, scale)

    def probabilities(self, split: LabelledWindows) -> Float[ndarray, " N"]:
        """Returns the score of each window of the target, of its end."""
        found = _figures_of(split, self.target, self.samples_per_tick, self.scale)
        return self.head.predict(((found - self.mean) / self.deviation)[:, None])[:, 1]

    def score(self) -> Score:
        """Returns the same as one function of raw windows; no codes."""
        assert self.head.traced is not None
        traced = self.head.traced

        def score(
            windows: Float[Array, "B T R C"],
        ) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
            found = figures(windows / self.scale)
            standardised = (found - self.mean) / self.deviation
            probability = traced(standardised[:, None])[:, 1]
            return probability, jnp.full(len(windows), NO_CODE, jnp.int32)

        return score


def _figures_of(
    split: LabelledWindows, target: str, slots: int, scale: float
) -> Float[ndarray, "N F"]:
    """Returns the figures of all windows, read in portions."""
    windows = split.windows.reading(target)
    read = functools.partial(pipeline.assemble, split.store, windows)

    @jax.jit
    def of(values: Array) -> Array:
        return figures(in_time_order(values, slots).astype(jnp.float32) / scale)

    parts = [
        # Past the last window it reads the last one again.
        np.asarray(of(read(begin + np.arange(_AT_ONCE))["streams"][target]))
        for begin in range(0, len(windows), _AT_ONCE)
    ]
    return np.concatenate(parts)[: len(windows)]


def _at_the_end(
    said: Float[ndarray, " N"], windows: WindowIndex, spec: WindowSpec, target: str
) -> tuple[Float[ndarray, " N"], ndarray]:
    """Returns what is said of the source a lead after each window's end, if known.

    What is said of a window is said of its centre; between centres it is interpolated.
    """
    ticks = windows.ticks
    last = windows.start + windows.window_ticks - 1
    end_s = (ticks.start_s[last] + ticks.end_s[last]) / 2
    # A range of leads ends at the least of them.
    end_s = end_s + spec.last_shift_s(target) - spec.shift_s(target)
    found, known = np.zeros(len(windows)), np.zeros(len(windows), bool)
    segment = ticks.segment[windows.start]
    for number in np.unique(segment):
        rows = np.flatnonzero(segment == number)
        centre_s = windows.time_s[rows]
        if len(rows) < 2:
            continue
        found[rows] = np.interp(end_s[rows], centre_s, said[rows])
        after = np.clip(np.searchsorted(centre_s, end_s[rows]), 0, len(rows) - 1)
        apart_s = centre_s[after] - centre_s[np.maximum(after - 1, 0)]
        known[rows] = (
            (centre_s[0] <= end_s[rows])
            & (end_s[rows] <= centre_s[-1])
            & (apart_s <= 1.5 * np.median(np.diff(centre_s)))  # no hole between them
        )
    return found, known
