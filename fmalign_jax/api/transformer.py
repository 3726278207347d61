"""Features of a run's encoders, in the form of scikit-learn."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fmalign_jax.api.runs import Run, load

KINDS = ("semantic", "codes", "shared")


class CodeFeatures(TransformerMixin, BaseEstimator):
    """Pools what a run makes of each window to one row; a scikit-learn transformer.

        make_pipeline(CodeFeatures("runs/pretrain-1a2b3c4d"), LogisticRegression())

    X holds windows of raw samples at the rate that the run was trained on: [N, S, C]
    with S = window_ticks x samples_per_tick, or flattened, [N, S * C]. The encoders
    are frozen: `fit` learns nothing, whatever it is given.
    """

    def __init__(
        self,
        run: Run | str | os.PathLike[str],
        modality: str = "current",
        kind: str = "semantic",
    ) -> None:
        """Notes what to make; as scikit-learn asks, nothing is checked here.

        Args:
          run: a run, or its folder.
          modality: which of its modalities.
          kind: "semantic", the mean of the continuous features [D]; "codes", the share
            of ticks with each code [M]; "shared", the mean of the variates [r].
        """
        self.run = run
        self.modality = modality
        self.kind = kind

    def fit(self, X: Any, y: Any = None) -> CodeFeatures:
        """Opens the run; learns nothing.

        Raises:
          ValueError: no such run, modality or kind.
        """
        del X, y
        self.run_ = self.run if isinstance(self.run, Run) else load(self.run)
        if self.modality not in self.run_.modalities:
            raise ValueError(
                f"modality must be one of {', '.join(self.run_.modalities)}; got "
                f"{self.modality!r}; correct it"
            )
        if self.kind not in KINDS:
            raise ValueError(
                f"kind must be one of {', '.join(KINDS)}; got {self.kind!r}; correct it"
            )
        return self

    def transform(self, X: Any) -> Float[ndarray, "N F"]:
        """Returns one row a window.

        Raises:
          ValueError: X does not hold such windows, or the run lacks what `kind` asks.
        """
        check_is_fitted(self, "run_")
        found = self.run_.encode_windows(self.modality, np.asarray(X))
        if self.kind == "semantic":
            return np.asarray(found.semantic[self.modality].mean(axis=1))
        if self.kind == "shared":
            if self.modality not in found.variates:
                raise ValueError(
                    "kind 'shared' needs a run with a shared level; got one without; "
                    "use 'codes' or 'semantic'"
                )
            return np.asarray(found.variates[self.modality].mean(axis=1))
        if found.vectors is None:
            raise ValueError(
                "kind 'codes' needs a system with codes; got one without; use "
                "'semantic'"
            )
        codes = found.codes[self.modality]
        return np.eye(len(found.vectors))[codes].mean(axis=1)
