"""The splits of an evaluation: head, validation and test.

They are the run's own splits, or other recordings cut with the run's own window
settings. A recording in two of them is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from fmalign_jax.data import dataset
from fmalign_jax.data.dataset import open_recordings
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows import index
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.evaluation.labelled_windows import (
    LabelledWindows,
    renumbered,
    window_labels,
)
from fmalign_jax.structs import UNLABELLED
from fmalign_jax.systems.system import inputs_of

HEAD, VALIDATION, TEST = "head", "validation", "test"
_RUN = "the run"  # where splits come from that are not given
RUN_SPLITS = {HEAD: "train", VALIDATION: "validation", TEST: "test"}
"""Which of the run's splits each split of an evaluation is by default."""


@dataclasses.dataclass(frozen=True)
class EvaluationSplits:
    """All splits of an evaluation, and the classes that they share.

    Attributes:
      classes: names, in the order of the numbers.
      by_name: "head", and "validation" and "test" where there are some.
      pretraining: the windows the run was trained on, None if its data are not there.
    """

    classes: tuple[str, ...]
    by_name: Mapping[str, LabelledWindows]
    pretraining: LabelledWindows | None

    @property
    def head(self) -> LabelledWindows:
        """Returns what the head is trained on."""
        return self.by_name[HEAD]

    def with_head(self, head: LabelledWindows) -> EvaluationSplits:
        """Returns the same splits with other windows to train the head on."""
        return dataclasses.replace(self, by_name={**self.by_name, HEAD: head})

    @property
    def reported(self) -> dict[str, LabelledWindows]:
        """Returns what is reported on, by name."""
        return {name: split for name, split in self.by_name.items() if name != HEAD}

    @property
    def headline(self) -> str:
        """Returns the split whose numbers are reported first."""
        return TEST if TEST in self.by_name else VALIDATION


@dataclasses.dataclass(frozen=True)
class _Raw:
    """A split before its classes are matched."""

    origin: str
    store: RecordingStore
    windows: WindowIndex


def streams_of(config: ConfigDict, run_config: ConfigDict) -> tuple[str, ...]:
    """Returns the modalities that an evaluation of a run reads."""
    return inputs_of((config.source, config.target), run_config.model.modalities)


def load_splits(config: ConfigDict, run_config: ConfigDict) -> EvaluationSplits:
    """Opens the recordings of an evaluation and labels their windows.

    Args:
      config: of the evaluation, as from `evaluation_config`.
      run_config: of the run.

    Raises:
      ValueError: nothing to report on, classes that do not match, or a recording in
        two splits.
    """
    given = {name: config[f"{name}_data"] for name in RUN_SPLITS}
    if given[HEAD] and not (given[VALIDATION] or given[TEST]):
        raise ValueError(
            "a head trained on head_data is tested on other recordings given with "
            "it; got neither test_data nor validation_data; add "
            "--config.test_data=GLOB"
        )
    streams = streams_of(config, run_config)
    own = _run_splits(run_config, needed=not given[HEAD])
    found = (
        {} if given[HEAD] else {n: raw for n, raw in own.items() if len(raw.windows)}
    )
    found |= {
        name: _override(name, path, run_config, streams)
        for name, path in given.items()
        if path
    }
    if set(found) == {HEAD}:
        raise ValueError(
            "an evaluation reports on a validation or a test split; got a run that "
            "has neither; give recordings with --config.test_data=GLOB"
        )
    classes = _class_names(found[HEAD])
    splits = {
        name: _labelled(name, found[name], classes)
        for name in RUN_SPLITS
        if name in found
    }
    _check_apart(splits, streams)
    pretraining = None
    if own:
        raw = own[HEAD]
        unlabelled = np.full(len(raw.windows), UNLABELLED)
        pretraining = LabelledWindows(
            "train", raw.origin, raw.store, raw.windows, unlabelled
        )
    return EvaluationSplits(classes, splits, pretraining)


def label_run(
    store: RecordingStore, windows: Mapping[str, WindowIndex]
) -> EvaluationSplits:
    """Labels the windows of a run, as far as they have labels.

    Args:
      store: the recordings of the run.
      windows: by the run's names of its splits.

    Raises:
      ValueError: no window of the training split has a label.
    """
    raws = {
        name: _Raw(_RUN, store, windows[split])
        for name, split in RUN_SPLITS.items()
        if split in windows
    }
    classes = _class_names(raws[HEAD])
    named = {name: _labelled(name, raw, classes) for name, raw in raws.items()}
    return EvaluationSplits(classes, named, pretraining=None)


def _run_splits(run_config: ConfigDict, *, needed: bool) -> dict[str, _Raw]:
    """Returns the run's own splits; none if they are not needed and not there."""
    try:
        store = dataset.open_dataset(run_config)
        windows = dataset.make_windows(store, run_config)
    except (ValueError, OSError) as error:
        if needed:
            raise
        logging.warning("the recordings of the run are not available: %s", error)
        return {}
    return {
        name: _Raw(_RUN, store, windows[split]) for name, split in RUN_SPLITS.items()
    }


def _override(
    name: str, path: str, run_config: ConfigDict, streams: Sequence[str]
) -> _Raw:
    """Opens other recordings, cut as the run's windows are.

    Head windows overlap as the run's training windows do.
    """
    data = ConfigDict(run_config.data.to_dict())
    needed = {*streams, data.reference_stream}
    if data.lead_s or data.lead_range_s:
        needed |= {data.leading_stream}
    data.samples_per_tick = ConfigDict(
        {k: n for k, n in data.samples_per_tick.to_dict().items() if k in needed}
    )
    store = open_recordings(path, data)
    stride = data.stride_ticks if name == HEAD else data.eval_stride_ticks
    windows = dataset.whole_windows(
        store, data, stride_ticks=stride, where=f"{name}_data={path}"
    )
    return _Raw(path, store, windows)


def _class_names(head: _Raw) -> tuple[str, ...]:
    """Returns the names of the classes; their numbers where they have no names."""
    labels = head.windows.label(np.arange(len(head.windows)))
    if (labels == UNLABELLED).all():
        raise ValueError(
            f"the head split needs labels; got none in {head.origin}; label its "
            "recordings, or evaluate with --config.head_data=GLOB"
        )
    return head.store.label_names or tuple(map(str, range(int(labels.max()) + 1)))


def _labelled(name: str, raw: _Raw, classes: tuple[str, ...]) -> LabelledWindows:
    """Labels the windows of a split, in the head's numbering of the classes."""
    ticks = raw.windows.label(np.arange(len(raw.windows)))
    highest = int(ticks.max(initial=UNLABELLED))
    names = raw.store.label_names or tuple(map(str, range(highest + 1)))
    occurring = {names[number] for number in np.unique(ticks[ticks != UNLABELLED])}
    unknown = sorted(occurring - set(classes))
    if unknown:
        raise ValueError(
            "classes are matched by name, and every class of a test must be one of "
            f"the head's, {', '.join(classes)}; got {', '.join(unknown)} in "
            f"{raw.origin}; use the same class names in all files"
        )
    label = window_labels(renumbered(ticks, names, classes), len(classes))
    return LabelledWindows(name, raw.origin, raw.store, raw.windows, label)


def _check_apart(splits: Mapping[str, LabelledWindows], streams: Sequence[str]) -> None:
    """Refuses a recording in two splits: it would be tested on what chose or trained.

    Raises:
      ValueError: two splits share samples, or a recording under whatever name.
    """
    digests = functools.cache(lambda name: splits[name].digests(streams))
    for (one, first), (other, second) in itertools.combinations(splits.items(), 2):
        if first.origin == second.origin == _RUN:  # may be parts of one recording
            index.assert_no_leak({one: first.windows, other: second.windows})
            continue
        there = {digest: name for name, digest in digests(one).items()}
        for recording, digest in digests(other).items():
            if digest in there:
                raise ValueError(
                    "what trains, what chooses and what is tested are different "
                    f"recordings; got {there[digest]!r} of {first.origin} ({one}) "
                    f"again as {recording!r} of {second.origin} ({other}); leave it "
                    "out of one of them"
                )
        namesakes = sorted(set(first.recordings) & set(second.recordings))
        if namesakes:
            logging.warning(
                "%s and %s split both have a recording %s; their contents differ, so "
                "they are taken for two",
                one,
                other,
                ", ".join(namesakes),
            )


def seen_in_pretraining(
    split: LabelledWindows, pretraining: LabelledWindows, streams: Sequence[str]
) -> dict[str, str]:
    """Returns which recordings of a split pre-training has seen, and how that is known.

    By name, or by content under another name. In doubt a recording counts as seen: two
    that share a name are taken for one.
    """
    trained = pretraining.digests(streams)
    known = set(trained.values())
    return {
        name: "name" if name in trained else "content"
        for name, digest in split.digests(streams).items()
        if name in trained or digest in known
    }
