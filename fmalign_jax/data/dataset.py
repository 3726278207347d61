"""From a config to recordings and windows: the one place that opens a data set."""

from __future__ import annotations

import inspect
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from fmalign_jax.config import build
from fmalign_jax.data import clock_report, taken
from fmalign_jax.data.store import RecordingStore, builder
from fmalign_jax.data.store.timelines import Timeline
from fmalign_jax.data.windows import index
from fmalign_jax.structs import UNLABELLED

FILES = "fmalign_jax.data.recordings.RecordingFiles"
BENCHMARK = "fmalign_jax.data.fmf.BenchmarkDirectory"

Masks = Callable[[str, Int[np.ndarray, "n"]], Bool[np.ndarray, "n H W"]]


def open_dataset(config: ConfigDict) -> RecordingStore:
    """Opens the prepared data set of a config, building it when it is absent.

    Says what the files were taken as, which classes they have, and what is strange
    about their clocks.

    Raises:
      ValueError: when the raw data are missing or faulty; the message names the file.
    """
    data = config.data
    source = make_source(data)
    name = data.source.rpartition(".")[2].lower()
    directory = pathlib.Path(data.prepared_dir) / f"{name}-{source.fingerprint()}"
    builder.prepare(source, directory)
    return _opened(directory, data)


def _opened(directory: pathlib.Path, data: ConfigDict) -> RecordingStore:
    store = RecordingStore(directory)
    for line in store.taken:
        logging.info("%s", line)
    for stream in store.streams:
        label = np.concatenate([t.streams[stream].label for t in store.timelines()])
        if (label != UNLABELLED).any():
            logging.info("%s", taken.labels(stream, label, store.label_names))
            break  # those of other streams are of the same classes
    for line in clock_report.warnings(measured_clocks(store, data)):
        logging.warning("%s", line)
    return store


def measured_clocks(
    store: RecordingStore, data: ConfigDict
) -> list[clock_report.StreamClock]:
    """Measures the clocks of recordings, against that of the reference stream."""
    return clock_report.measure(store.timelines(), reference=data.reference_stream)


def make_source(data: ConfigDict) -> builder.Source:
    """Returns what reads the recordings of a config.

    Raises:
      ValueError: `data.options` are no arguments of the source, or it refuses them.
    """
    kind = build.load(data.source)
    try:
        inspect.signature(kind).bind(data.path, **data.options.to_dict())
    except TypeError as error:
        raise ValueError(
            f"data.options must be arguments of {data.source}; {error}; it takes "
            f"{', '.join(list(inspect.signature(kind).parameters)[1:])}"
        ) from error
    source: builder.Source = kind(data.path, **data.options.to_dict())
    return source


def source_of(path: pathlib.Path) -> str:
    """Returns what reads a path: layout V2 by its folders, anything else as files."""
    layout = (path / "pixel-level").is_dir() or (path / "videos").is_dir()
    return BENCHMARK if layout else FILES


def open_masks(data: ConfigDict) -> Masks:
    """Opens the masks of the frames of a data set, for what is measured afterwards.

    Returns:
      A function of the name of a recording and positions [n] in its stream "video",
      to bool [n, H, W], True where the condition is abnormal.

    Raises:
      ValueError: the raw data are missing, or give no masks.
    """
    masks: Masks | None = getattr(make_source(data), "masks", None)
    if masks is None:
        raise ValueError(
            f"data.source: masks of frames are needed; got {data.source}, which has "
            "none; use simulated furnaces or a folder in layout V2"
        )
    return masks


def window_spec(
    data: ConfigDict, *, stride_ticks: int, read_all_leads: bool = False
) -> index.WindowSpec:
    """Returns how the config cuts recordings into windows."""
    return index.WindowSpec(
        tick_s=data.tick_s,
        window_ticks=data.window_ticks,
        stride_ticks=stride_ticks,
        lead_s=data.lead_s,
        other_leads_s=tuple(data.other_leads_s),
        read_all_leads=read_all_leads,
        lead_range_s=tuple(data.lead_range_s),
        leading_stream=data.leading_stream,
        reference_stream=data.reference_stream,
        samples_per_tick=data.samples_per_tick.to_dict(),
        mode=data.windows,
        max_gap_s=data.max_gap_s or None,
    )


def make_windows(
    store: RecordingStore, config: ConfigDict, *, read_all_leads: bool = False
) -> dict[str, index.WindowIndex]:
    """Returns the windows of each split: "train", "validation" and "test".

    Training windows overlap (`stride_ticks`); evaluation windows have their own stride.

    Args:
      store: the recordings.
      config: of a run.
      read_all_leads: read the leading stream at `lead_s` and at `other_leads_s`, side
        by side in each tick: [n, L * R] samples. The windows are the same ones.

    Raises:
      ValueError: the recordings lack a stream, or no windows or splits can be made.
    """
    data = config.data
    missing = sorted(set(data.samples_per_tick) - set(store.stream_names))
    if missing:
        raise ValueError(
            f"{data.path}: the streams of data.samples_per_tick must be in the "
            f"files; got {list(store.stream_names)} without {missing}; add them to "
            "the files, or leave them out of data.samples_per_tick and of the model"
        )
    return lay_windows(store.timelines(), data, read_all_leads=read_all_leads)


def lay_windows(
    timelines: Sequence[Timeline], data: ConfigDict, *, read_all_leads: bool = False
) -> dict[str, index.WindowIndex]:
    """Returns what `make_windows` does, from the clocks of recordings alone.

    Args:
      timelines: the recordings.
      data: the settings of data.
      read_all_leads: as there.

    Raises:
      ValueError: no windows or splits can be made.
    """
    split = index.SplitSpec(
        **{**data.split.to_dict(), "guard_s": data.split.guard_s or None}
    )
    return index.build_index(
        timelines,
        window_spec(
            data, stride_ticks=data.stride_ticks, read_all_leads=read_all_leads
        ),
        split,
        evaluation_stride_ticks=data.eval_stride_ticks,
    )


def whole_windows(
    store: RecordingStore, data: ConfigDict, *, stride_ticks: int, where: str = ""
) -> index.WindowIndex:
    """Returns all windows of recordings, none of them held out.

    Args:
      store: the recordings.
      data: how they are cut.
      stride_ticks: between windows.
      where: where the recordings are from, for errors.

    Raises:
      ValueError: there are no windows; the message begins with `where`.
    """
    whole = index.SplitSpec(by="recording", validation=0.0, test=0.0)
    try:
        spec = window_spec(data, stride_ticks=stride_ticks)
        return index.build_index(store.timelines(), spec, whole)["train"]
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def training_windows(
    store: RecordingStore,
    config: ConfigDict,
    windows: Mapping[str, index.WindowIndex],
) -> index.WindowIndex:
    """Returns the training windows as training reads them.

    Those of `windows`, as from `make_windows`, or the same ones at all leads where the
    run draws its leads (`data.draw_lead`).
    """
    if not config.data.draw_lead:
        return windows["train"]
    return make_windows(store, config, read_all_leads=True)["train"]


def open_recordings(path: str, data: ConfigDict) -> RecordingStore:
    """Opens a prepared data set, or prepares the recordings there.

    Options of the run's source apply to other recordings of the same kind.

    Args:
      path: a glob, a folder in layout V2, or a prepared data set.
      data: the run's settings of data, changed in place to name what was opened.

    Raises:
      ValueError: there is nothing, or it is faulty.
    """
    folder = pathlib.Path(path).expanduser()
    if builder.is_complete(folder):
        return _opened(folder, data)
    source = source_of(folder)
    if source != data.source:
        data.source, data.options = source, ConfigDict()
    data.path = path
    return open_dataset(ConfigDict({"data": data}))
