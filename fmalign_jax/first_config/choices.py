"""What the first config of a folder says.

A shipped config gives the model and its losses; what depends on the recordings is
chosen here. Windows are laid over the clocks before anything is written, so that a
config that is written can be trained.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from fmalign_jax.config import rename_modality, shipped_config
from fmalign_jax.config.check import check_config
from fmalign_jax.data import clocks, dataset
from fmalign_jax.data.store.timelines import StreamTimeline, Timeline
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.first_config import alike, recipes
from fmalign_jax.first_config.recipes import SLOW, Recipe
from fmalign_jax.first_config.settings import (
    LEAST_BATCH,
    OPEN,
    VIDEO_START,
    Setting,
    after_windows,
    before_windows,
)
from fmalign_jax.first_config.survey import LEADING, REFERENCE, Survey
from fmalign_jax.first_config.words import counted, listed, rounded

_LARGE_BATCH = 1 << 30  # bytes of frames


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a first config says.

    Attributes:
      base: the shipped config it starts from.
      why: of the base.
      settings: what differs from the base, in order.
      remarks: what else is open, a sentence or two each.
      sensor: name of the sensor's stream in the recordings.
      any_lead: whether the recordings are long enough for the variant `any_lead`.
      windows: by split.
      config: the base with all settings.
    """

    base: str
    why: str
    settings: tuple[Setting, ...]
    remarks: tuple[str, ...]
    sensor: str
    any_lead: bool
    windows: Mapping[str, WindowIndex]
    config: ConfigDict

    @property
    def needs_start(self) -> bool:
        """Says whether training refuses the config until `video_start` is filled in."""
        return any(setting.key == VIDEO_START for setting in self.settings)

    @property
    def open(self) -> list[tuple[str, str]]:
        """Returns what is not decided: the key, or nothing, and what to do."""
        keys = [(s.key, s.why) for s in self.settings if s.origin == OPEN]
        return keys + [("", remark) for remark in self.remarks]


def decide(survey: Survey) -> Choice:
    """Chooses the settings for the recordings of a folder.

    Raises:
      ValueError: no recording can be trained on, recordings do not go together, frames
        do not fit the encoders, or no windows fit.
    """
    alike.check(survey)
    refused = None
    for recipe in recipes.recipes(survey):
        try:
            return _choice(survey, recipe)
        except ValueError as error:
            refused = error
    assert refused is not None
    raise refused


def _choice(survey: Survey, recipe: Recipe) -> Choice:
    """Chooses every setting for one way to lay windows.

    Raises:
      ValueError: frames do not fit the encoders, or no windows fit.
    """
    config = _based_on(recipe.base, survey)
    settings = [*before_windows(survey, recipe, config)]
    _set(config, settings)
    config.data.lead_s = 0.0  # that of another furnace is no lead of these recordings
    timelines = _as_read(survey, config)
    windows = dataset.lay_windows(timelines, config.data)
    any_lead = recipe.base == SLOW and _reads_any_lead(survey, timelines, settings)
    training = windows["train"]
    _check_enough(training)
    settings += after_windows(survey, recipe, config, training, any_lead=any_lead)
    _set(config, settings)
    check_config(config)
    return Choice(
        base=recipe.base,
        why=recipes.why_base(survey, recipe),
        settings=tuple(settings),
        remarks=tuple(_remarks(survey, recipe, windows, config)),
        sensor=survey.leading,
        any_lead=any_lead,
        windows=windows,
        config=config,
    )


def _based_on(name: str, survey: Survey) -> ConfigDict:
    """Returns a shipped config that calls the sensor as the recordings do."""
    config = shipped_config(name)
    if survey.leading != LEADING:
        rename_modality(config, LEADING, survey.leading)
    return config


def _check_enough(training: WindowIndex) -> None:
    if len(training) < LEAST_BATCH:
        raise ValueError(
            f"a first training contrasts at least {LEAST_BATCH} windows; got "
            f"{len(training)} training windows of {training.window_ticks} ticks; give "
            "more or longer recordings"
        )


def _set(config: ConfigDict, settings: Sequence[Setting]) -> None:
    for setting in settings:
        *sections, name = setting.key.split(".")
        entry = config
        for section in sections:
            entry = entry[section]
        entry[name] = setting.value


def _as_read(survey: Survey, config: ConfigDict) -> list[Timeline]:
    """Returns the clocks as training reads them: with fewer frames, where it does."""
    rate_hz = config.data.options.get("max_frame_rate_hz")
    thinned = []
    for timeline in survey.timelines:
        video = timeline.streams[REFERENCE]
        keep = clocks.thin(video.time_s, max_rate_hz=rate_hz)
        kept = StreamTimeline(video.time_s[keep], video.clip[keep], video.label[keep])
        streams = {**timeline.streams, REFERENCE: kept}
        thinned.append(dataclasses.replace(timeline, streams=streams))
    return thinned


def _reads_any_lead(
    survey: Survey, timelines: Sequence[Timeline], settings: Sequence[Setting]
) -> bool:
    """Says whether windows can be read at every lead of the variant `any_lead`."""
    config = _based_on(f"{SLOW}+any_lead", survey)
    _set(config, settings)
    try:
        with warnings.catch_warnings(action="ignore"):  # this is but tried
            windows = dataset.lay_windows(timelines, config.data)
    except ValueError:
        return False
    return len(windows["train"]) >= config.batch_size


def _remarks(
    survey: Survey,
    recipe: Recipe,
    windows: Mapping[str, WindowIndex],
    config: ConfigDict,
) -> Iterator[str]:
    """Yields what is open beside the settings, and what to do."""
    training = windows["train"]
    teacher, student = (
        (REFERENCE, survey.leading)
        if recipe.base == SLOW
        else (survey.leading, REFERENCE)
    )
    yield (
        f"Who learns from whom: {student!r} from {teacher!r}, as in the shipped "
        "config. The teacher should be the stream that looks alike in recordings that "
        "were not trained on; to exchange them add set_teacher(config, "
        f'teacher="{student}", student="{teacher}"), of fmalign_jax.config.'
    )
    if not survey.class_seconds():
        yield (
            "No labels: training needs none, but fmalign evaluate and fmalign warn do. "
            "Label some recordings (docs/recordings.md), those of the test at least."
        )
    if not len(windows["test"]):
        yield (
            "No recording is kept for a last test: keep some in another folder, for "
            "fmalign evaluate --test_data, or name them in data.split.test_recordings."
        )
    if training.by in ("clip", "block"):
        yield (
            f"{counted(len(survey.seen), 'recording')}: training and validation see "
            "the same ones, so that validation says little of others. From 3 on, whole "
            "recordings are held out."
        )
    usual = shipped_config(recipe.base).batch_size
    if len(training) < 4 * usual:
        yield (
            f"{len(training)} training windows are few: record more before judging "
            "what was learned."
        )
    pixels = survey.seen[0].kinds[REFERENCE].shape
    batch_bytes = config.batch_size * config.data.window_ticks * math.prod(pixels)
    if batch_bytes > _LARGE_BATCH:
        yield (
            f"A batch holds {rounded(batch_bytes / _LARGE_BATCH)} GiB of frames: scale "
            "them to 64 x 64 pixels, or make batch_size smaller."
        )
    more = sorted(set(survey.seen[0].kinds) - {REFERENCE, survey.leading})
    if more:
        yield (
            f"Further streams are not used: {listed(more)}. docs/recordings.md (More "
            "streams) says what to add for them."
        )
    units = {seen.units[survey.leading] for seen in survey.seen if seen.is_npz}
    if survey.source == dataset.FILES and "" in units:
        yield (
            "The unit of the sensor is not in the .npz files; sensor_unit would say it."
        )
