"""What depends on the recordings, setting by setting, and why it is so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from fmalign_jax.data import dataset, pipeline
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.first_config.frames import fit_frames
from fmalign_jax.first_config.recipes import (
    CLIPS,
    FAST,
    SHORT_TICKS,
    SLOW,
    Recipe,
    two_digits,
)
from fmalign_jax.first_config.survey import REFERENCE, Survey
from fmalign_jax.first_config.words import counted, listed, plain, rounded, seconds

DATA, DEFAULT, OPEN = "DATA", "DEFAULT", "OPEN"
"""Where a value comes from: the recordings; the package; nobody knows it yet."""

VIDEO_START = "data.options.video_start"

LEAST_BATCH = 8
"""Windows that are contrasted with one another; of fewer there is little to learn."""

_MOST_SAMPLES = 64  # of the sensor in a tick; more make the model slow
_FRAMES_A_TICK = 2  # that are kept; a tick reads one
_STEPS = 500  # of a first training; the shipped results were reached in 400 to 760
_VALIDATIONS = 6


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of the config.

    Attributes:
      key: its dotted name.
      value: plain Python.
      origin: `DATA`, `DEFAULT` or `OPEN`.
      why: where the value comes from; of an open one, what to do.
      notes: of a value that is a dict, what is said beside its entries.
    """

    key: str
    value: Any
    origin: str
    why: str
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def before_windows(
    survey: Survey, recipe: Recipe, config: ConfigDict
) -> Iterator[Setting]:
    """Yields what decides how windows are laid, and what the frames decide.

    Args:
      survey: the recordings.
      recipe: how windows shall be laid.
      config: the shipped config of the recipe.

    Raises:
      ValueError: frames do not fit the encoders, or files cannot be named.
    """
    yield from _sources(survey)
    yield from _options(survey, recipe)
    yield from _ticks(survey, recipe)
    yield from _given(survey)
    yield from _frames(survey, config)


def after_windows(
    survey: Survey,
    recipe: Recipe,
    config: ConfigDict,
    training: WindowIndex,
    *,
    any_lead: bool,
) -> Iterator[Setting]:
    """Yields the lead, and what the number of windows decides.

    Args:
      survey: the recordings.
      recipe: how windows are laid.
      config: as it is so far.
      training: the training windows.
      any_lead: whether the variant `any_lead` can be trained.
    """
    yield _lead(survey, recipe, any_lead)
    if training.by in _APART:
        yield Setting(
            "data.split.by",
            "auto",
            DEFAULT,
            f"With these recordings: {_APART[training.by]}.",
        )
    yield from _length(training, config)


def _sources(survey: Survey) -> Iterator[Setting]:
    count = len(survey.seen)
    unread = [item for item in survey.left_out if item.is_recording]
    yield Setting("data.source", survey.source, DATA, "What reads this kind of files.")
    if not unread:
        yield Setting(
            "data.path",
            str(survey.folder),
            DATA,
            "Every recording in this folder. A folder that moved: write where it is.",
        )
        return
    files = [str(survey.folder / seen.file) for seen in survey.seen]
    if len(files) > 1 and (odd := [file for file in files if "," in file]):
        raise ValueError(
            "in a list of files, commas divide them, and a list is needed where some "
            f"files are left out; got {plain(odd[0])!r}; rename it, or move "
            f"{plain(unread[0].what)} elsewhere"
        )
    yield Setting(
        "data.path",
        ",".join(files),
        DATA,
        f"The {count} of {count + len(unread)} files that can be used. Left out: "
        + " ".join(
            f"({n}) {item.what}: {item.why}." for n, item in enumerate(unread, 1)
        ),
    )


def _options(survey: Survey, recipe: Recipe) -> Iterator[Setting]:
    """Yields the options of the source."""
    rate_hz = survey.rate_hz(REFERENCE)
    if recipe.base != CLIPS and rate_hz * recipe.tick_s > 2 * _FRAMES_A_TICK:
        kept_hz = two_digits(_FRAMES_A_TICK / recipe.tick_s)
        yield Setting(
            "data.options.max_frame_rate_hz",
            kept_hz,
            DATA,
            f"The video has {rounded(rate_hz)} frames a second, and a tick reads one: "
            f"{_FRAMES_A_TICK} a tick are kept, the others are not stored.",
        )
    if survey.source != dataset.FILES:
        return
    videos = [seen for seen in survey.seen if not seen.is_npz]
    if videos:
        kind = videos[0].kinds[survey.leading]
        yield Setting(
            "data.options.frame_size",
            videos[0].kinds[REFERENCE].shape[:2],
            DEFAULT,
            "Video files are scaled to this height and width, pixels.",
        )
        yield Setting(
            "data.options.channels",
            kind.channel_names,
            DATA,
            "The columns of numbers in the CSV files. Take those out that are no "
            "measurement of the process.",
        )
        yield Setting(
            "data.options.unit",
            "",
            OPEN,
            'The unit of these columns, such as "A"; pictures show it. CSV files do '
            "not say it.",
        )
    if unmet := [seen for seen in videos if seen.first_time]:
        yield Setting(
            VIDEO_START,
            {seen.name: "" for seen in unmet},
            OPEN,
            "When the first frame of each video was taken, on the clock of its CSV and "
            "written as there. Training refuses these recordings until it is given: a "
            "guess would pair the wrong moments.",
            {
                seen.name: f"its CSV begins at {plain(seen.first_time)}"
                for seen in unmet
            },
        )


def _ticks(survey: Survey, recipe: Recipe) -> Iterator[Setting]:
    ticks = recipe.window_ticks
    if recipe.base == CLIPS:
        stretch_s = survey.common_s()
        yield Setting(
            "data.window_ticks",
            ticks,
            DEFAULT,
            f"Each clip, {seconds(stretch_s.min())} to {seconds(stretch_s.max())} "
            f"long, is cut into so many equal ticks: usually {seconds(recipe.tick_s)}.",
        )
    else:
        yield Setting(
            "data.tick_s",
            recipe.tick_s,
            DATA,
            f"Length of a tick, seconds: {recipe.why}.",
        )
        usual_s = float(np.median(survey.common_s()))
        yield Setting(
            "data.window_ticks",
            ticks,
            DEFAULT if ticks != SHORT_TICKS else DATA,
            f"A window of {seconds(ticks * recipe.tick_s)}; both streams usually run "
            f"{seconds(usual_s)} without interruption.",
        )
    if ticks == SHORT_TICKS:
        yield Setting(
            "data.eval_stride_ticks", ticks, DATA, "As long as the short window."
        )
        why = "As far as the short window reaches."
        yield Setting("objectives.cross_cpc.steps", 3, DATA, why)
        yield Setting("objectives.cross_cpc.stride", 1, DATA, why)
    yield _samples(survey, recipe)


def _samples(survey: Survey, recipe: Recipe) -> Setting:
    """Returns how many samples a tick takes of the sensor."""
    rate_hz = survey.rate_hz(survey.leading)
    held = max(1, round(rate_hz * recipe.tick_s))
    kind = survey.seen[0].kinds[survey.leading]
    what = counted(kind.shape[-1], "channel")
    if kind.channel_names:
        what += f" ({listed(kind.channel_names)})"
    key = f"data.samples_per_tick.{survey.leading}"
    about = f"{rounded(rate_hz)} Hz x {seconds(recipe.tick_s)}, of {what}"
    if held <= _MOST_SAMPLES:
        return Setting(key, held, DATA, f"{about}.")
    return Setting(
        key,
        _MOST_SAMPLES,
        OPEN,
        f"A tick holds {held} samples: {about}. So many of them are taken, evenly "
        "spaced, and what is faster is seen wrongly. Better save the sensor at a lower "
        "rate (its mean, or the effective value of an alternating current, over short "
        "intervals), and run fmalign init again.",
    )


def _frames(survey: Survey, config: ConfigDict) -> Iterator[Setting]:
    """Yields what the size of the frames decides."""
    height, width, channels = survey.seen[0].kinds[REFERENCE].shape
    video = config.model.modalities[REFERENCE]
    decoder = config.objectives.reconstruction.decoders[REFERENCE]
    strides = tuple(video.stem.strides)
    fit = fit_frames(
        height,
        width,
        strides=strides,
        unpadded=len(video.specific.features),
        target=decoder.target_size,
    )
    if fit is None:
        raise ValueError(
            "frames must be square, with a side that divides into patches, such as 48, "
            f"64, 96, 128 or 160 pixels; got {height} x {width} in "
            f"{plain(survey.seen[0].file)}; crop or scale them, or save a video file, "
            "which is scaled when it is read"
        )
    patch, target = fit
    about = f"Frames are {height} x {width} pixels x {channels}"
    yield Setting(
        f"model.modalities.{REFERENCE}.stem.strides",
        (patch, *strides[1:]),
        DATA,
        f"{about}, read in patches of {patch} x {patch}.",
    )
    yield Setting(
        f"objectives.reconstruction.decoders.{REFERENCE}.target_size",
        target,
        DATA,
        f"{about}, reconstructed at {target} x {target}.",
    )
    crop = max(1, height // 16)
    if crop != config.augment[REFERENCE].crop:
        yield Setting(
            f"augment.{REFERENCE}.crop", crop, DATA, f"{about}, shifted by up to this."
        )


def _lead(survey: Survey, recipe: Recipe, any_lead: bool) -> Setting:
    """Returns the lead, which no file says."""
    key = "data.lead_s"
    if recipe.base == CLIPS:
        why = (
            "Both streams of a clip are read at the same time, as whole clips must be. "
            f'Should one be ahead, start from "{FAST}" and search with fmalign lead.'
        )
        return Setting(key, 0.0, DEFAULT, why)
    why = (
        "How many seconds the sensor is ahead of the video: no file says it. 0 reads "
        "both at the same time. "
    )
    if recipe.base == SLOW:
        why += "The current of a furnace is 180 to 300 s ahead. "
    why += "To search for it, "
    if any_lead:
        why += (
            "train this file with :any_lead behind its name, then fmalign lead RUN_DIR "
            "--step=latest"
        )
    else:
        limit = rounded(float(np.median(survey.common_s())) / 4, 1)
        why += (
            "train as it is, then fmalign lead RUN_DIR "
            f"--least_lead_s=-{limit} --most_lead_s={limit}"
        )
    return Setting(key, 0.0, OPEN, f"{why}; write the answer here.")


def _given(survey: Survey) -> Iterator[Setting]:
    """Yields that the recordings came with a split of their own, if they all did."""
    if all(timeline.partition for timeline in survey.timelines):
        parts = sorted({part for t in survey.timelines for part in t.partition})
        yield Setting(
            "data.split.by",
            "given",
            DATA,
            f"The recordings came with a split of their own: {listed(parts)}.",
        )


_APART = {
    "recording": "whole recordings are for validation",
    "clip": "whole clips are for validation",
    "block": "of each recording some stretches are for validation, a gap apart",
}


def _length(training: WindowIndex, config: ConfigDict) -> Iterator[Setting]:
    """Yields batch and epochs: about as many steps as the shipped results took."""
    batch = config.batch_size
    while batch > len(training):
        batch //= 2
    about = f"{len(training)} training windows"
    yield Setting("batch_size", batch, DATA, f"{about}; contrasts want large batches.")
    steps = pipeline.batches_per_epoch(training, batch, config.data.batch_from)
    epochs = max(2, round(_STEPS / steps))
    yield Setting(
        "epochs",
        float(epochs),
        DATA,
        f"{about} make {counted(steps, 'step')} an epoch: {epochs * steps} in all.",
    )
    yield Setting(
        "eval_every_epochs",
        float(max(1, round(epochs / _VALIDATIONS))),
        DATA,
        f"About {_VALIDATIONS} validations.",
    )
