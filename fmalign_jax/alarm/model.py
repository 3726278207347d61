"""The model of an alarm: the head that `evaluate` fits, on the target's codes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.alarm import export
from fmalign_jax.evaluation import heads, transfer
from fmalign_jax.evaluation.heads import Head, HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.run.frozen_encoder import EncoderState, Encodings, FrozenEncoder
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class AlarmModel:
    """The head that `evaluate` fits on the source, before the target's encoder.

    Attributes:
      config: as from `early_warning_config`.
      encoder: of the target alone.
      both: of source and target.
      frozen: its parameters, the codes and the input statistics.
      head: fitted on the source's features.
      mean: of the target's features over the head split; 0 if not standardised.
      deviation: what they are divided by; 1 if not standardised.
      source_mean: as `mean`, of the source's.
      source_deviation: as `deviation`.
      head_says: what the head says of the source on the head split.
    """

    config: ConfigDict
    encoder: FrozenEncoder
    both: FrozenEncoder
    frozen: EncoderState
    head: Head
    mean: Float[ndarray, " D"]
    deviation: Float[ndarray, " D"]
    source_mean: Float[ndarray, " D"]
    source_deviation: Float[ndarray, " D"]
    head_says: Float[ndarray, "N K"]

    @classmethod
    def fit(
        cls,
        config: ConfigDict,
        run: OpenedRun,
        frozen: EncoderState,
        splits: EvaluationSplits,
    ) -> AlarmModel:
        """Fits the head on the source and takes the scale of the target."""
        mesh = sharding.make_mesh()
        split, known = splits.head, splits.head.known
        both = FrozenEncoder(run.config, (config.source, config.target), mesh)
        encoded = _encoded(both, frozen, split, config)
        scales, features = {}, {}
        for modality in (config.source, config.target):
            features[modality] = encoded.features(modality, config.features)
            mean, deviation = transfer.scale_of(features[modality])
            if config.standardise == "none":
                mean, deviation = np.zeros_like(mean), np.ones_like(deviation)
            scales[modality] = mean, deviation
        mean, deviation = scales[config.source]
        of_source = (features[config.source] - mean) / deviation
        head = heads.fit(
            HeadSpec(**config.head.to_dict()),
            of_source[known],
            split.label[known],
            classes=len(splits.classes),
            groups=transfer.groups(split.chosen(known)),
            seed=config.seed,
        )
        encoder = FrozenEncoder(run.config, (config.target,), mesh)
        own = scales[config.target]
        says = head.predict(of_source)
        return cls(config, encoder, both, frozen, head, *own, mean, deviation, says)

    def reference(self, split: LabelledWindows) -> Float[ndarray, "N K"]:
        """Returns what the head says of the source, of the same windows."""
        encoded = _encoded(self.both, self.frozen, split, self.config)
        features = encoded.features(self.config.source, self.config.features)
        return self.head.predict((features - self.source_mean) / self.source_deviation)

    def probabilities(
        self, split: LabelledWindows, recent_ticks: Sequence[int]
    ) -> list[Float[ndarray, "N K"]]:
        """Returns what the head says of the last ticks of each of the target's windows.

        The encoder sees the whole window. With fewer ticks for the head, the answer
        comes sooner and is less certain. See `shown`.

        Args:
          split: the windows.
          recent_ticks: how many ticks, for each answer.
        """
        windows = split.windows.reading(self.config.target)
        split = dataclasses.replace(split, windows=windows)
        encoded = _encoded(self.encoder, self.frozen, split, self.config)
        features = encoded.features(self.config.target, self.config.features)
        return [
            self.head.predict((features[:, self.shown(n)] - self.mean) / self.deviation)
            for n in recent_ticks
        ]

    def shown(self, recent_ticks: int) -> slice:
        """Returns which vectors of a window the head is shown: of the last ticks.

        All of them, where they belong to the window as a whole.
        """
        if not self.encoder.system.slots_are_ticks:
            return slice(None)
        return slice(-recent_ticks, None)

    def score(self, abnormal: int, recent_ticks: int, leads: int) -> export.Score:
        """Returns the same as one function of raw windows of L leads."""
        assert self.head.traced is not None
        return export.score_of(
            self.encoder,
            self.frozen,
            self.config.target,
            self.head.traced,
            mean=self.mean,
            deviation=self.deviation,
            features=self.config.features,
            abnormal=abnormal,
            shown=self.shown(recent_ticks),
            leads=leads,
        )


def _encoded(
    encoder: FrozenEncoder,
    frozen: EncoderState,
    split: LabelledWindows,
    config: ConfigDict,
) -> Encodings:
    semantic = config.features == "semantic"
    return encoder(frozen, split.store, split.windows, keep_semantic=semantic)
