"""Optional validation with labels: zero-shot transfer during training.

At every validation class means of what the modalities share (of the code vectors or the
continuous features, where a system has no such level) are fitted on labelled training
windows, one modality at a time, and tested on the validation windows of all modalities.
Training is not affected; but a run whose `score` is one of these values has
chosen its best checkpoint with labels of the target modality's validation windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from sklearn.metrics import recall_score

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.evaluation import heads, splits as evaluation_splits, transfer
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.report import scores_key
from fmalign_jax.objectives.total import label_level
from fmalign_jax.run.frozen_encoder import EncoderState, FrozenEncoder
from fmalign_jax.systems.system import make_system
from fmalign_jax.training.state import TrainState

_MOST_WINDOWS = 512  # of the training split; more take long and change little


class LabelledValidation:
    """Scores a state by class means fitted on one modality and tested on another."""

    def __init__(
        self,
        config: ConfigDict,
        store: RecordingStore,
        windows: Mapping[str, WindowIndex],
        mesh: Mesh,
    ) -> None:
        """Labels the windows.

        Args:
          config: of the run.
          store: its recordings.
          windows: of its splits "train" and "validation".
          mesh: devices that share each batch.

        Raises:
          ValueError: several processes, or windows without labels of two classes.
        """
        if jax.process_count() > 1:
            raise ValueError(
                "labelled_validation works in one process; got "
                f"{jax.process_count()}; set it to False, and evaluate afterwards"
            )
        splits = evaluation_splits.label_run(store, windows)
        self._classes = len(splits.classes)
        self._head, self._judged = (
            _labelled_rows(splits.by_name[name])
            for name in (evaluation_splits.HEAD, evaluation_splits.VALIDATION)
        )
        self._seed = config.seed
        self._prefix = scores_key(label_level(config))
        self._views = make_system(config).views
        self._encoder = FrozenEncoder(config, self._views, mesh)

    @property
    def names(self) -> list[str]:
        """Returns the names of the scores."""
        pairs = itertools.product(self._views, repeat=2)
        return [self._name(source, target) for source, target in pairs]

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns ``zero_shot/<fitted on>-><tested on>``, balanced accuracies.

        Under ``supervised_representation/`` where an objective learns from labels.
        """
        frozen = EncoderState(
            state.params["model"], state.model_state, state.statistics
        )
        kind = transfer.kinds_of_features(self._encoder.system)[0]
        continuous = kind == "semantic"
        fitted, tried = (
            self._encoder(frozen, split.store, split.windows, keep_semantic=continuous)
            for split in (self._head, self._judged)
        )
        spec = heads.HeadSpec(kind="prototypes", pooling="mean")
        true = self._judged.label
        scores = {}
        for source in self._views:
            head = heads.fit(
                spec,
                fitted.features(source, kind),
                self._head.label,
                classes=self._classes,
                groups=self._head.windows.recording,
                seed=self._seed,
            )
            for target in self._views:
                predicted = head.predict(tried.features(target, kind)).argmax(axis=1)
                scores[self._name(source, target)] = float(
                    recall_score(
                        true, predicted, labels=np.unique(true), average="macro"
                    )
                )
        return scores

    def _name(self, source: str, target: str) -> str:
        return f"{self._prefix}/{source}->{target}"


def _labelled_rows(split: LabelledWindows) -> LabelledWindows:
    """Returns labelled windows, spread evenly, at most so many of the training split.

    Raises:
      ValueError: fewer than two classes.
    """
    rows = np.flatnonzero(split.known)
    if len(np.unique(split.label[rows])) < 2:
        raise ValueError(
            "labelled_validation needs training and validation windows of two classes "
            f"or more; got {len(rows)} labelled windows of "
            f"{len(np.unique(split.label[rows]))} for {split.name}; label the "
            "recordings, or set it to False"
        )
    if split.name == evaluation_splits.HEAD and len(rows) > _MOST_WINDOWS:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST_WINDOWS).astype(int)]
    return split.chosen(rows)
