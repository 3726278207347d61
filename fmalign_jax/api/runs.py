"""A finished run: encode recordings with it, evaluate it, find the lead, warn early."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax import early_warning, evaluate, lead_time
from fmalign_jax.alarm import alarm_file
from fmalign_jax.api.alarms import Alarm
from fmalign_jax.api.results import Encoded, Evaluation, Lead
from fmalign_jax.api.signals import InMemory, as_windows
from fmalign_jax.config import (
    early_warning_config,
    evaluation_config,
    lead_config,
    override,
)
from fmalign_jax.data import dataset
from fmalign_jax.data.store import RecordingStore, builder
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.run import open_run, restore
from fmalign_jax.run.frozen_encoder import Encodings, RunEncoder
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.run_report.model_card import model_card
from fmalign_jax.training import sharding


def load(
    path: str | os.PathLike[str],
    step: str | int = "best",
    *,
    trust_code: Sequence[str] = (),
) -> Run:
    """Opens the folder of a run, or a packed run; changes nothing in it.

    Args:
      path: the folder that training named, or the file that `Run.export` has written.
      step: "best" (by the validation score; the latest if none has one), "latest", or
        the number of a checkpoint.
      trust_code: packages of your own whose classes the run's config may name.

    Raises:
      ValueError: the folder is not that of a run, has no such checkpoint, was changed
        since it was trained, or names code that is not trusted; or the file is
        damaged, another, or of a later version.
    """
    return Run(open_run(pathlib.Path(path), step, trust_code=trust_code))


class Run:
    """A finished run, as `load` opens it.

    Attributes:
      path: its folder or its file.
      step: the checkpoint that is used.
    """

    def __init__(self, opened: OpenedRun) -> None:
        """Takes what `fmalign_jax.run.open_run` has opened."""
        self._opened = opened
        self._encoders: dict[tuple[str, ...], RunEncoder] = {}
        self.path = opened.path
        self.step = opened.step

    def __repr__(self) -> str:
        """Returns the folder, the checkpoint and the system."""
        name = self._opened.config.model.name
        return f"<Run {self.path}, step {self.step}, {name}>"

    @property
    def config(self) -> ConfigDict:
        """Returns a copy of the run's config."""
        return self._opened.config.copy_and_resolve_references()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Returns the modalities that can be encoded."""
        return tuple(self._opened.config.model.modalities)

    @property
    def card(self) -> str | None:
        """Returns the model card of a packed run, Markdown; None of a folder."""
        packed = self._opened.packed
        return None if packed is None else packed.card

    @property
    def digest(self) -> str | None:
        """Returns the SHA-256 of a packed run's config and arrays; None of a folder."""
        packed = self._opened.packed
        return None if packed is None else packed.digest

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        studies: Sequence[tuple[str | os.PathLike[str], str]] = (),
        licence: str = "",
    ) -> pathlib.Path:
        """Packs the checkpoint that is used into one file, with a model card.

            fm.load("runs/pretrain-1a2b3c4d").export("furnace_7.fmrun")

        Args:
          path: the file to write, *.fmrun.
          studies: files that scripts/study.py has written, each with the variant in
            them that is this run's config: means over seeds for the card.
          licence: of the weights, in words, for the card.

        Returns:
          The file.

        Raises:
          ValueError: the run is packed already, or a file that the card is made from
            holds something else.
        """
        if self._opened.packed is not None:
            raise ValueError(
                f"a run is packed from its folder; got {self.path}, which is packed; "
                "copy the file"
            )
        path = pathlib.Path(path)
        found = restore.pack(self._opened, sharding.make_mesh())
        card = model_card(
            found,
            self.path,
            studies=[(pathlib.Path(study), variant) for study, variant in studies],
            licence=licence,
        )
        dataclasses.replace(found, card=card).save(path)
        return path

    def encode(
        self,
        recordings: str | os.PathLike[str] | None = None,
        *,
        split: str | None = None,
        stride_ticks: int | None = None,
        **signals: Any,
    ) -> Encoded:
        """Encodes windows of recordings, each once, without dropout or augmentation.

            run.encode("recordings/*.npz")
            run.encode(split="test")
            run.encode(video=(frames, frame_t), current=(amperes, current_t))
            run.encode(current=(amperes, current_t))

        With several modalities, the windows lie on the clock of the reference stream,
        and the leading stream is read `lead_s` earlier, as in training. One modality
        alone lies on its own clock, and no lead is applied.

        Args:
          recordings: a glob, a folder in layout V2, or a prepared data set.
          split: "train", "validation" or "test" of the run's own recordings.
          stride_ticks: between windows; by default the run's `data.eval_stride_ticks`.
            Not for a split, whose windows are those of the run.
          **signals: by modality a pair of values and their times [N] in seconds, of one
            recording in memory: frames uint8 [N, H, W, 3], a sensor [N, C].

        Raises:
          ValueError: none or several of these are given, or they do not fit the run.
        """
        given = [recordings is not None, split is not None, bool(signals)]
        if sum(given) != 1:
            raise ValueError(
                "encode takes recordings, a split of the run, or signals by modality; "
                f"got {sum(given)} of them; give one, such as split='validation'"
            )
        if split is not None:
            if stride_ticks is not None:
                raise ValueError(
                    "stride_ticks is for other recordings than the run's own; got it "
                    f"with split={split!r}; leave one of them out"
                )
            store, windows = self._opened.split(split)
            return self._encoded(self.modalities, store, windows)
        if recordings is not None:
            data = self.config.data
            store = dataset.open_recordings(os.fspath(recordings), data)
            there = [m for m in self.modalities if m in store.streams]
            windows = self._windows(there, store, data, stride_ticks, str(recordings))
            return self._encoded(there, store, windows)
        unknown = sorted(set(signals) - set(self.modalities))
        if unknown:
            raise ValueError(
                f"the run has the modalities {', '.join(self.modalities)}; got "
                f"{', '.join(unknown)}; rename the argument"
            )
        with tempfile.TemporaryDirectory() as place:
            directory = pathlib.Path(place) / "recordings"
            builder.prepare(InMemory(signals), directory, progress=False)
            store = RecordingStore(directory)
            there = [m for m in self.modalities if m in signals]
            windows = self._windows(
                there, store, self.config.data, stride_ticks, "the signals"
            )
            return self._encoded(there, store, windows)

    def encode_windows(
        self, modality: str, windows: Shaped[ndarray, "N *_"]
    ) -> Encodings:
        """Encodes windows of one modality that you have cut yourself.

        Args:
          modality: whose.
          windows: samples at the rate of training, [N, S, ...] with S = window_ticks x
            samples_per_tick, or flattened, [N, S * C].

        Raises:
          ValueError: the run has no such modality, or the windows do not fit it.
        """
        if modality not in self.modalities:
            raise ValueError(
                f"the run has the modalities {', '.join(self.modalities)}; got "
                f"{modality!r}; use one of them"
            )
        data = self._opened.config.data
        if data.lead_range_s and modality == data.leading_stream:
            raise ValueError(
                f"windows of {modality!r} are cut at one lead; got a run of a range of "
                "leads; use encode with the recordings"
            )
        encoder = self._encoder((modality,))
        statistics = encoder.state.statistics.get(modality)
        shaped = as_windows(
            np.asarray(windows),
            modality,
            ticks=data.window_ticks,
            samples=data.samples_per_tick[modality],
            channels=None if statistics is None else statistics["mean"].size,
        )
        return encoder.of_arrays({modality: shaped})

    def evaluate(
        self, workdir: str | os.PathLike[str] | None = None, **settings: Any
    ) -> Evaluation:
        """Evaluates the run with labels: what `fmalign evaluate` does.

            run.evaluate(features="semantic", head={"kind": "linear"})

        Args:
          workdir: where to write; by default as the command, beside the run.
          **settings: those of configs/evaluate.py that differ from their defaults.

        Raises:
          ValueError: an unknown setting, or as `fmalign_jax.evaluate.evaluate`.
        """
        return Evaluation(
            *self._command(evaluate.evaluate, evaluation_config(), workdir, settings)
        )

    def lead(
        self, workdir: str | os.PathLike[str] | None = None, **settings: Any
    ) -> Lead:
        """Finds how far the current is ahead, without labels: as `fmalign lead` does.

            run.lead(recordings="recordings/*.npz", most_lead_s=600.0)

        Args:
          workdir: where to write; by default as the command, beside the run.
          **settings: those of configs/lead_time.py that differ from their defaults.

        Raises:
          ValueError: an unknown setting, or as `fmalign_jax.lead_time.search`.
        """
        return Lead(*self._command(lead_time.search, lead_config(), workdir, settings))

    def alarm(
        self, workdir: str | os.PathLike[str] | None = None, **settings: Any
    ) -> Alarm:
        """Makes an alarm on the current alone and judges it: as `fmalign warn` does.

            run.alarm(false_alarms_per_hour=0.1)

        Args:
          workdir: where to write; by default as the command, beside the run.
          **settings: those of configs/early_warning.py that differ from their defaults.

        Raises:
          ValueError: an unknown setting, or as
            `fmalign_jax.early_warning.early_warning`.
        """
        report, folder = self._command(
            early_warning.early_warning, early_warning_config(), workdir, settings
        )
        path = folder / early_warning.ALARM
        return Alarm(path, report, alarm_file.load(path))

    def _command(
        self,
        command: Callable[[ConfigDict, pathlib.Path | None], Any],
        config: ConfigDict,
        workdir: str | os.PathLike[str] | None,
        settings: Mapping[str, Any],
    ) -> tuple[dict[str, Any], pathlib.Path]:
        own = {"checkpoint", "step"} & set(settings)
        if own:
            raise ValueError(
                f"{' and '.join(sorted(own))} are chosen when a run is loaded; got "
                f"{settings}; give them to load()"
            )
        override(config, settings)
        config.checkpoint, config.step = str(self.path), str(self.step)
        found: tuple[dict[str, Any], pathlib.Path] = command(
            config, None if workdir is None else pathlib.Path(workdir)
        )
        return found

    def _windows(
        self,
        there: Sequence[str],
        store: RecordingStore,
        data: ConfigDict,
        stride_ticks: int | None,
        where: str,
    ) -> WindowIndex:
        """Returns all windows of some modalities.

        Raises:
          ValueError: there are none.
        """
        if not there:
            raise ValueError(
                f"{where}: must have one of the run's modalities, "
                f"{', '.join(self.modalities)}; got {', '.join(store.streams)}; rename "
                "the streams"
            )
        rates = data.samples_per_tick.to_dict()
        data.samples_per_tick = ConfigDict({m: rates[m] for m in there})
        if not {data.reference_stream, data.leading_stream} <= set(there):
            if data.lead_range_s and data.leading_stream in there:
                raise ValueError(
                    f"a run of a range of leads reads {data.leading_stream!r} before "
                    f"windows of {data.reference_stream!r}; got it alone; give both"
                )
            data.lead_s, data.other_leads_s, data.lead_range_s = 0.0, (), ()
        if data.reference_stream not in there:
            data.reference_stream = there[0]
        stride = data.eval_stride_ticks if stride_ticks is None else stride_ticks
        return dataset.whole_windows(store, data, stride_ticks=stride, where=where)

    def _encoded(
        self, modalities: Sequence[str], store: RecordingStore, windows: WindowIndex
    ) -> Encoded:
        encoder = self._encoder(tuple(modalities))
        found = encoder(store, windows)
        return Encoded(
            features=found.semantic,
            codes=found.codes,
            code_vectors=found.vectors,
            shared_codes=found.shared_codes,
            variates=found.variates,
            time_s=windows.time_s,
            recording=tuple(store.names[number] for number in windows.recording),
            label=windows.label(np.arange(len(windows))),
            label_names=store.label_names,
        )

    def _encoder(self, modalities: tuple[str, ...]) -> RunEncoder:
        """Returns the compiled encoders of some modalities, made once."""
        if modalities not in self._encoders:
            self._encoders[modalities] = self._opened.encoder(modalities)
        return self._encoders[modalities]
